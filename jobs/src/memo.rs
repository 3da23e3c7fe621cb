//! What names a task's output, or a job's result, before it is made.
//!
//! A [`MemoKey`] is the hash of all that determines an output: the sandbox's version, the kind and
//! its version, the limits, and what the kind says of configuration, body and inputs
//! ([`Kind::memo_input`]). A worker that made the output once finds it again by that name. The key
//! says nothing of the job, the node or the time, and nothing is decided by it but whether to run.
//! A [`ResultKey`] is the same of a whole job ([`Kind::memo_result`]).

use std::fmt;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ids::Cid;
use crate::kind::Kind;
use crate::manifest::Limits;
use crate::message::{Input, Payload};

/// The version of what the sandbox gives a guest. A change that can show in an output raises it.
pub const ABI: u32 = 2;

/// Names a task's output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoKey([u8; 32]);

impl MemoKey {
    /// The key of the task with this body and these inputs; none when its kind remembers nothing.
    #[must_use]
    pub fn of(
        kind: &dyn Kind,
        config: &Value,
        limits: &Limits,
        body: &[u8],
        inputs: &[Input],
    ) -> Option<Self> {
        let input = kind.memo_input(config, body, inputs)?;
        let mut hash = begin(b"ipdc/memo/1\n", kind, limits);
        hash.update(input);
        Some(MemoKey(hash.finalize().into()))
    }

    /// The 32 bytes, for storage.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for MemoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The hash of what every output depends on.
fn begin(context: &[u8], kind: &dyn Kind, limits: &Limits) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update(context);
    hash.update(ABI.to_be_bytes());
    hash.update((kind.name().len() as u64).to_be_bytes());
    hash.update(kind.name());
    for limit in [limits.memory, limits.time_ms, limits.output] {
        hash.update(limit.to_be_bytes());
    }
    hash
}

/// Names a job's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultKey([u8; 32]);

impl ResultKey {
    /// The key of the job so configured on this input; none when more determines what it gives.
    #[must_use]
    pub fn of(kind: &dyn Kind, config: &Value, limits: &Limits, input: &Cid) -> Option<Self> {
        let determined = kind.memo_result(config)?;
        let mut hash = begin(b"ipdc/result/1\n", kind, limits);
        if kind.reads_input(config) {
            let input = input.to_bytes();
            hash.update((input.len() as u64).to_be_bytes());
            hash.update(input);
        }
        hash.update(determined);
        Some(ResultKey(hash.finalize().into()))
    }

    /// The 32 bytes, for storage.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Names what a task gets from those it needs: the bytes, not who made or holds them.
#[must_use]
pub fn digest_of_inputs(inputs: &[Input]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for input in inputs {
        match &input.payload {
            Payload::Inline(bytes) => {
                hash.update([0]);
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
            Payload::File(file) => {
                let cid = file.cid.to_bytes();
                hash.update([1]);
                hash.update((cid.len() as u64).to_be_bytes());
                hash.update(cid);
            }
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cl::Items;
    use crate::ids::{CODEC_RAW, cid_of};
    use crate::mr::MapReduce;

    #[test]
    fn a_result_is_named_by_all_that_determines_it_and_by_nothing_else() {
        let (one, other) = (cid_of(CODEC_RAW, b"one"), cid_of(CODEC_RAW, b"other"));
        let (limits, config) = (Limits::default(), json!({ "map": "a" }));
        let key = ResultKey::of(&MapReduce, &config, &limits, &one);
        assert!(key.is_some());
        assert_eq!(key, ResultKey::of(&MapReduce, &config, &limits, &one));
        assert_ne!(key, ResultKey::of(&MapReduce, &config, &limits, &other));
        assert_ne!(key, ResultKey::of(&MapReduce, &json!({ "map": "b" }), &limits, &one));
        let small = Limits { memory: 1, ..limits };
        assert_ne!(key, ResultKey::of(&MapReduce, &config, &small, &one));
        assert_ne!(key, ResultKey::of(&Items, &config, &limits, &one));
    }

    #[test]
    fn a_job_that_reads_no_input_is_known_whatever_directory_it_lies_in() {
        let module = json!({ "cid": cid_of(CODEC_RAW, b"run").to_string(), "len": 3 });
        let job = |items| json!({ "run": module, "items": items, "retries": 0, "inline": 0, "params": {}, "files": {} });
        let key = |items, directory: &[u8]| {
            let input = cid_of(CODEC_RAW, directory);
            ResultKey::of(&Items, &job(items), &Limits::default(), &input).unwrap()
        };
        let range = || json!({ "range": { "from": 0, "to": 9 } });
        assert_eq!(key(range(), b"one"), key(range(), b"other"));
        assert_ne!(key(json!("input"), b"one"), key(json!("input"), b"other"));
    }

    #[test]
    fn what_comes_from_the_network_or_the_user_meanwhile_is_another_each_time() {
        let input = cid_of(CODEC_RAW, b"input");
        for more in [json!({ "fetch": {} }), json!({ "open": true })] {
            assert_eq!(ResultKey::of(&Items, &more, &Limits::default(), &input), None);
        }
    }
}
