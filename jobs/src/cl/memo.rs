//! What determines what a task, or a whole job, gives, for the memo.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::item::{Body, Found, Items};

/// The version of what a task gives. A change that can show in it raises this.
const VERSION: u32 = 1;

/// The parts of the configuration that no item depends on.
const NOT_OF_ITEMS: &[&str] = &["items", "retries", "open", "enqueue"];

/// What determines what a task with this body gives, as bytes. The numbers of its items do not.
pub(super) fn input(config: &Value, body: &[u8]) -> Option<Vec<u8>> {
    let mut config = config.as_object()?.clone();
    if config.contains_key("fetch") {
        // What comes from the network is another each time.
        return None;
    }
    let mut hash = Sha256::new();
    match Body::decode(body)? {
        Body::Produce => hash.update([0]),
        Body::Run { items, .. } => {
            hash.update([1]);
            hash.update(name(items)?);
            config.retain(|key, _| !NOT_OF_ITEMS.contains(&key.as_str()));
        }
    }
    let mut text = [&VERSION.to_be_bytes()[..], &hash.finalize()].concat();
    // A map of serde_json is sorted by key: the same configuration gives the same bytes.
    serde_json::to_writer(&mut text, &config).ok()?;
    Some(text)
}

/// What determines the result of a job so configured, beside its input: not what comes from the network, or is given
/// to it while it runs.
pub(super) fn result(config: &Value) -> Option<Vec<u8>> {
    let config = config.as_object()?;
    if config.contains_key("fetch") || config.contains_key("open") {
        return None;
    }
    let mut text = VERSION.to_be_bytes().to_vec();
    serde_json::to_writer(&mut text, config).ok()?;
    Some(text)
}

/// The items without their numbers and where their list lies.
fn name(items: Items) -> Option<Vec<u8>> {
    let items = match items {
        Items::Lines { name, skip, count, .. } => {
            return serde_json::to_vec(&(name, skip, count)).ok();
        }
        Items::Range { from, count, .. } => Items::Range { first: 0, from, count },
        Items::Files { files, .. } => Items::Files { first: 0, files },
        Items::Texts { texts, .. } => Items::Texts { first: 0, texts },
        Items::Found { depth, found } => {
            let found = found.into_iter().map(|found| Found { n: 0, ..found });
            Items::Found { depth, found: found.collect() }
        }
    };
    serde_json::to_vec(&items).ok()
}
