//! The tasks of a job: frames, some at a time, or tiles; what puts tiles together; what assembles all.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::kind::TaskSpec;

use super::config::Config;

/// The stages in order. A job of whole frames lacks the second, one that leaves them as they are the third.
pub(super) const STAGES: &[&str] = &["render", "compose", "assemble"];
const RENDER: u16 = 0;
const COMPOSE: u16 = 1;
pub(super) const ASSEMBLE: u16 = 2;

/// What a task is to do: the form of [`TaskSpec::body`], in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Body {
    /// Render frames.
    Render {
        /// Their numbers, rising.
        frames: Vec<u32>,
        /// Which tile of the one frame; none, when it is rendered whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tile: Option<u32>,
    },
    /// Put the tiles of a frame together.
    Compose {
        /// Its number.
        frame: u32,
    },
    /// Make one thing of all frames.
    Assemble {},
}

impl Body {
    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("numbers encode").into()
    }

    /// What [`Body::encode`] wrote; none for anything else.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        let body = serde_json::from_slice(text).ok()?;
        match &body {
            Body::Render { frames, .. } if frames.is_empty() => None,
            _ => Some(body),
        }
    }

    /// The frames that are done with it: a tile is none yet.
    pub(super) fn frames(&self) -> &[u32] {
        match self {
            Body::Render { frames, tile: None } => frames,
            Body::Compose { frame } => std::slice::from_ref(frame),
            Body::Render { .. } | Body::Assemble {} => &[],
        }
    }
}

/// The job's tasks.
pub(super) fn tasks(config: &Config) -> Vec<TaskSpec> {
    let numbers = config.frames.numbers();
    let mut tasks = Vec::new();
    let render = |frames: &[u32], tile| TaskSpec {
        stage: RENDER,
        // The same frame of the next version goes where this one was: to warm files and memo.
        affinity: Some(name(frames, tile)),
        weight: frames.len() as u64,
        body: Body::Render { frames: frames.to_vec(), tile }.encode(),
        ..TaskSpec::default()
    };
    match config.tiles.map(|tiles| tiles.count()) {
        None => tasks.extend(numbers.chunks(config.batch as usize).map(|some| render(some, None))),
        Some(count) => {
            for frame in &numbers {
                tasks.extend((0..count).map(|tile| render(&[*frame], Some(tile))));
            }
            for (n, frame) in (0..).zip(&numbers) {
                let body = Body::Compose { frame: *frame }.encode();
                let needs = n * count..(n + 1) * count;
                tasks.push(TaskSpec {
                    stage: COMPOSE,
                    weight: 1,
                    needs,
                    body,
                    ..TaskSpec::default()
                });
            }
        }
    }
    if config.assemble.is_some() {
        let end = tasks.len() as u32;
        let composed = if config.tiles.is_some() { numbers.len() as u32 } else { end };
        let body = Body::Assemble {}.encode();
        let needs = end - composed..end;
        tasks.push(TaskSpec { stage: ASSEMBLE, weight: 1, needs, body, ..TaskSpec::default() });
    }
    tasks
}

/// What draws the same frames to the same peer.
fn name(frames: &[u32], tile: Option<u32>) -> [u8; 32] {
    let mut hash = Sha256::new();
    frames.iter().chain(&tile).for_each(|number| hash.update(number.to_be_bytes()));
    hash.finalize().into()
}
