//! What a node tells its peers about itself: enough to place work on it.
//!
//! The swarm only carries this; nothing here decides by it.

use serde::{Deserialize, Serialize};

use crate::machine::Gpu;

/// The longest facts that anybody keeps of a peer, in bytes of JSON: ten times what a node with every
/// runtime and a dozen labels tells.
pub(super) const FACTS_LIMIT: usize = 16 * 1024;

/// A node's facts. Fields that a newer version adds are ignored by an older one; those that an
/// older one does not tell have their defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerFacts {
    /// The version of ipdc it runs.
    pub version: String,
    /// The machine's name, for people.
    pub host: String,
    /// Processor cores that it can use.
    pub cpus: u32,
    /// The share of them in use, 0 to 1.
    pub cpu_use: f32,
    /// The share of them that programs other than the node use, 0 to 1.
    pub cpu_others: f32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of memory that are free for use.
    pub memory_free: u64,
    /// Bytes of the disk that holds the node's home.
    pub disk: u64,
    /// Free bytes of that disk.
    pub disk_free: u64,
    /// The runtimes it offers: `wasm`, `wasi`, …
    pub runtimes: Vec<String>,
    /// Its container engine, name and version, if it has one.
    pub engine: Option<String>,
    /// Its GPUs.
    pub gpus: Vec<Gpu>,
    /// Whether it lets containers of somebody have a network.
    pub network: bool,
    /// What its settings say about it: `attic`, `bench`.
    pub labels: Vec<String>,
    /// Whether it lets somebody fetch from the network.
    pub fetch: bool,
    /// Attempts that it can run at once.
    pub slots: u32,
    /// Attempts that it runs or has queued now.
    pub load: u32,
    /// Whether its user paused it: it takes no new attempts.
    pub paused: bool,
    /// The URL of its HTTP API, if others may see it.
    pub http: Option<String>,
}

impl PeerFacts {
    /// Their length in bytes, as they are told.
    pub(super) fn size(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |json| json.len())
    }

    /// What of them may be told: not the labels, when these are more than anybody hears.
    pub(super) fn to_tell(&self) -> PeerFacts {
        let mut told = self.clone();
        if told.size() > FACTS_LIMIT {
            tracing::error!("`labels` in ipdc.toml are too long to be told: nobody hears them");
            told.labels.clear();
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_nobody_would_hear_are_not_told_and_the_rest_is() {
        let facts = PeerFacts { cpus: 8, labels: vec!["attic".into()], ..PeerFacts::default() };
        assert_eq!(facts.to_tell(), facts);
        let labels = vec!["x".repeat(100); 1000];
        let told = PeerFacts { labels, ..facts }.to_tell();
        assert_eq!((told.cpus, told.labels.len()), (8, 0));
        assert!(told.size() <= FACTS_LIMIT);
    }
}
