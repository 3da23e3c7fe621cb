//! What a task gives: how each of the items that it ran ended.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::ids::FileRef;
use crate::kind::{self, Gave, Lasting, Row};

use super::item::{Body, ITEM_LIMIT, Items, is_zero};
use super::plan::Group;

/// What a task gave, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Output {
    /// How its items ended.
    Ran(Ran),
    /// A list of items that was made.
    Produced {
        /// The list.
        list: FileRef,
        /// Its lines in groups; none, where the job has to know the lines themselves.
        groups: Vec<Group>,
        /// Those.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        texts: Vec<String>,
    },
}

/// How items of a task ended. The others were not begun, or not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ran {
    /// Those that ended, in their order.
    pub(super) ended: Vec<Ended>,
    /// What was fetched for them: a WARC file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) archive: Option<FileRef>,
}

/// How an item ended. Its number follows from its place: the same items give the same, whatever their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// Its place in the task.
    pub(super) at: u32,
    /// Itself.
    pub(super) item: String,
    /// Milliseconds that it took.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) ms: u32,
    /// What its guest logged, the last lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) log: Vec<String>,
    /// The items that it named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) named: Vec<String>,
    /// The files that it wrote, by the paths that it gave them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) files: BTreeMap<String, FileRef>,
    /// How.
    #[serde(flatten)]
    pub(super) end: End,
}

/// The end of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// It gave this.
    Output(Given),
    /// It failed.
    Error {
        /// The stable code, `IPDC-xxxx`.
        code: String,
        /// What happened.
        message: String,
    },
    /// It was withdrawn before it ended. No worker says so.
    Cancelled {},
}

/// What an item gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Given {
    /// Lines, without the end of the last.
    Text(String),
    /// A file.
    File(FileRef),
}

impl Output {
    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("numbers, texts and CIDs encode").into()
    }

    /// What a task with this body gave; none, when it cannot be that.
    pub(super) fn of(body: &Body, text: &[u8]) -> Option<Output> {
        let output: Output = serde_json::from_slice(text).ok()?;
        let fits = match (body, &output) {
            (Body::Produce, Output::Produced { .. }) => true,
            (Body::Run { items, .. }, Output::Ran(Ran { ended, .. })) => {
                let in_order = ended.windows(2).all(|two| two[0].at < two[1].at);
                let is_there = ended.last().is_some_and(|last| last.at < items.count());
                in_order && is_there && ended.iter().all(Ended::is_plain)
            }
            _ => false,
        };
        fits.then_some(output)
    }

    /// Whether items of it were withdrawn: what their controller says.
    pub(super) fn has_cancelled(&self) -> bool {
        matches!(self, Output::Ran(ran) if ran.ended.iter().any(Ended::is_cancelled))
    }

    /// The files that it names, and what each was made for; none, when an item failed: that is not to be
    /// remembered.
    pub(super) fn files(&self) -> Option<Vec<(FileRef, Lasting)>> {
        match self {
            Output::Produced { list, .. } => Some(vec![(*list, Lasting::Kept)]),
            Output::Ran(Ran { ended, archive }) => {
                let file = |ended: &Ended| match ended.end {
                    End::Output(Given::File(file)) => Some(file),
                    _ => None,
                };
                let all_good = ended.iter().all(Ended::is_good);
                let written = ended.iter().flat_map(|ended| ended.files.values().copied());
                let files = ended.iter().filter_map(file).chain(written).chain(*archive);
                all_good.then(|| files.map(|file| (file, Lasting::Kept)).collect())
            }
        }
    }
}

impl Ran {
    /// What a task with this body gave, if it ran items; which, and how often each was tried.
    pub(super) fn of(body: &[u8], text: &[u8]) -> Option<(Items, u32, Ran)> {
        let body = Body::decode(body)?;
        match (Output::of(&body, text)?, body) {
            (Output::Ran(ran), Body::Run { items, tries }) => Some((items, tries, ran)),
            // A producer's, when it made nothing.
            _ => Some((Items::Texts { first: 0, texts: Vec::new() }, 0, Ran::default())),
        }
    }
}

impl Ended {
    /// One that was withdrawn.
    pub(super) fn cancelled(at: u32, item: String) -> Self {
        let (log, named) = Default::default();
        Ended { at, item, ms: 0, log, named, files: BTreeMap::new(), end: End::Cancelled {} }
    }

    /// Whether it is not tried again, when it was tried so often before.
    pub(super) fn is_final(&self, tries: u32, retries: u32) -> bool {
        self.is_good() || self.is_cancelled() || tries >= retries
    }

    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self.end, End::Cancelled {})
    }

    /// Whether it has the form that a worker gives it.
    fn is_plain(&self) -> bool {
        self.item.len() <= ITEM_LIMIT && self.files.keys().all(|name| kind::is_path(name))
    }

    pub(super) fn is_good(&self) -> bool {
        matches!(self.end, End::Output(_))
    }

    /// Bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        let end = match &self.end {
            End::Output(Given::Text(text)) => text.len(),
            End::Output(Given::File(_)) => 0,
            End::Error { message, .. } => message.len(),
            End::Cancelled {} => 0,
        };
        let lines = self.named.iter().chain(&self.log).chain(self.files.keys()).map(String::len);
        end + self.item.len() + lines.sum::<usize>()
    }

    /// What determines it, as the result has it: nothing of who ran it, when or how often.
    pub(super) fn result(&self, items: &Items) -> Row {
        let mut row = Map::from_iter([("n".into(), items.number(self.at).into())]);
        if let Items::Found { depth, .. } = items {
            row.insert("depth".into(), (*depth).into());
        }
        row.insert("item".into(), self.item.as_str().into());
        let status = match &self.end {
            End::Output(_) => "done",
            End::Error { .. } => "failed",
            End::Cancelled {} => "cancelled",
        };
        row.insert("status".into(), status.into());
        match &self.end {
            End::Cancelled {} => {}
            End::Output(Given::Text(text)) if text.is_empty() => {}
            End::Output(Given::Text(text)) => {
                drop(row.insert("output".into(), text.as_str().into()))
            }
            End::Output(Given::File(FileRef { cid, len })) => {
                row.insert("cid".into(), cid.to_string().into());
                row.insert("bytes".into(), (*len).into());
            }
            End::Error { code, message } => {
                row.insert("error".into(), json!({ "code": code, "message": message }));
            }
        }
        if !self.files.is_empty() {
            row.insert("files".into(), kind::files_shown(&self.files));
        }
        row
    }

    /// Who ran it, how often it was tried, what it took.
    pub(super) fn cost(&self, tries: u32, gave: &Gave) -> Row {
        let attempts = match self.end {
            _ if gave.memoized => 0,
            End::Cancelled {} => tries,
            End::Output(_) | End::Error { .. } => tries + 1,
        };
        let ms = if gave.memoized { 0 } else { self.ms };
        let mut row = Map::from_iter([
            ("attempts".into(), attempts.into()),
            ("worker".into(), gave.worker.to_string().into()),
            ("ms".into(), ms.into()),
        ]);
        if gave.memoized {
            row.insert("memo".into(), true.into());
        }
        if !self.log.is_empty() {
            row.insert("log".into(), self.log.clone().into());
        }
        row
    }
}

/// The lines that who follows the job sees of what a task gave.
pub(super) fn rows(retries: u32, gave: &Gave) -> Vec<Row> {
    let Some((items, tries, ran)) = Ran::of(&gave.body, &gave.output) else { return Vec::new() };
    let last = ran.ended.iter().filter(|ended| ended.is_final(tries, retries));
    let row = |ended: &Ended| {
        let mut row = ended.result(&items);
        row.extend(ended.cost(tries, gave));
        row
    };
    last.map(row).collect()
}
