//! What tasks give, and the lines that who follows the job sees of it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ids::FileRef;
use crate::kind::{Gave, Lasting, Row, files_shown, is_path};

use super::config::Config;
use super::plan::Body;

/// Lines of a command's log that are kept with what it gave.
pub(super) const LOG_LINES: usize = 50;

/// What a task gave: the form of its output, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    /// How long its command ran, in milliseconds.
    #[serde(default)]
    pub(super) ms: u64,
    /// The last lines that it wrote.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub(super) log: VecDeque<String>,
    /// How it ended.
    pub(super) end: End,
}

/// The end of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// It left these files.
    Done {
        /// By the names that the job gives them.
        files: BTreeMap<String, FileRef>,
        /// Small pictures of frames, by the frames' numbers.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        thumbnails: BTreeMap<u32, FileRef>,
    },
    /// It was not run: these failed that it needs.
    Skipped {
        /// Which, for people.
        without: String,
    },
    /// It failed for good. No worker says so.
    Failed {
        /// The stable code, `IPDC-xxxx`.
        code: String,
        /// What happened.
        message: String,
    },
    /// It was withdrawn before it ended. No worker says so.
    Cancelled {},
}

impl Output {
    pub(super) fn of(end: End) -> Self {
        Output { ms: 0, log: VecDeque::new(), end }
    }

    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("numbers, texts and CIDs encode").into()
    }

    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Whether a worker can say so of a task with this body.
    pub(super) fn fits(&self, body: &Body) -> bool {
        match (&self.end, body) {
            (End::Done { files, thumbnails }, body) => {
                files.keys().all(|name| is_path(name))
                    && thumbnails.keys().all(|frame| body.frames().contains(frame))
            }
            (End::Skipped { .. }, Body::Compose { .. } | Body::Assemble {}) => true,
            _ => false,
        }
    }

    /// The files that it names; none, when it has not ended well: that is not to be remembered.
    pub(super) fn files(&self) -> Option<Vec<(FileRef, Lasting)>> {
        let End::Done { files, thumbnails } = &self.end else { return None };
        let all = files.values().chain(thumbnails.values());
        Some(all.map(|file| (*file, Lasting::Kept)).collect())
    }
}

/// What came of a frame, as the result has it: nothing of who made it, or when.
pub(super) fn frame_row(config: &Config, n: u64, frame: u32, end: &End) -> Row {
    let mut row = Map::from_iter([
        ("n".into(), n.into()),
        ("item".into(), frame.to_string().into()),
        ("status".into(), status(end).into()),
    ]);
    match end {
        End::Done { files, .. } => {
            let wanted = config.files_of(frame);
            let own = files.iter().filter(|(name, _)| wanted.contains(name));
            row.insert("files".into(), files_shown(own));
        }
        End::Skipped { .. } | End::Failed { .. } | End::Cancelled {} => row.extend(why(end)),
    }
    row
}

pub(super) fn status(end: &End) -> &'static str {
    match end {
        End::Done { .. } => "done",
        End::Skipped { .. } | End::Failed { .. } => "failed",
        End::Cancelled {} => "cancelled",
    }
}

/// Why something has not ended well.
pub(super) fn why(end: &End) -> Option<(String, Value)> {
    let error = match end {
        End::Done { .. } | End::Cancelled {} => return None,
        End::Skipped { without } => json!({ "message": format!("not made: {without}") }),
        End::Failed { code, message } => json!({ "code": code, "message": message }),
    };
    Some(("error".into(), error))
}

/// Who made it, and what it took.
pub(super) fn cost(gave: &Gave, output: &Output) -> Row {
    let ms = if gave.memoized { 0 } else { output.ms };
    let mut row = Map::from_iter([
        ("worker".into(), gave.worker.to_string().into()),
        ("ms".into(), ms.into()),
    ]);
    if gave.memoized {
        row.insert("memo".into(), true.into());
    }
    if !output.log.is_empty() {
        row.insert("log".into(), output.log.iter().cloned().collect());
    }
    row
}

/// The lines that who follows the job sees of what a task gave: one for each frame that is done with it.
pub(super) fn rows(config: &Config, gave: &Gave) -> Vec<Row> {
    let (body, output) = (Body::decode(&gave.body), Output::decode(&gave.output));
    let (Some(body), Some(output)) = (body, output) else { return Vec::new() };
    let numbers = config.frames.numbers();
    let row = |frame: &u32| {
        let n = numbers.binary_search(frame).ok()? as u64;
        let mut row = frame_row(config, n, *frame, &output.end);
        if let End::Done { thumbnails, .. } = &output.end
            && let Some(thumbnail) = thumbnails.get(frame)
        {
            row.insert("thumbnail".into(), thumbnail.cid.to_string().into());
        }
        row.extend(cost(gave, &output));
        Some(row)
    };
    body.frames().iter().filter_map(row).collect()
}
