//! Items: which of them a task has, and what each is.

use std::io;

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::ids::FileRef;
use crate::kind::{Host, ReadAt, TaskError};

use super::error;

/// The longest item, in bytes: a URL, a path, a small JSON object. What is longer belongs in a file.
pub const ITEM_LIMIT: usize = 64 << 10;

/// The most items of a job. One bit and less is kept of each while the job runs, and its lines of the result are sorted
/// in memory at its end.
pub const ITEMS_LIMIT: u64 = 16 << 20;

/// The most items of a task: twice what its kind puts into one.
const TASK_LIMIT: u32 = 1024;

/// Bytes that are read of a list at a time.
const READ: usize = 1 << 20;

/// What a task is to do: the form of [`TaskSpec::body`](crate::kind::TaskSpec::body), in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Body {
    /// Run the producer: what it emits are the items.
    Produce,
    /// Run these items.
    Run {
        /// Which.
        #[serde(flatten)]
        items: Items,
        /// How often each was tried before.
        #[serde(default, skip_serializing_if = "is_zero")]
        tries: u32,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub(super) fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Body {
    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("numbers, texts and CIDs encode").into()
    }

    /// What [`Body::encode`] wrote; none for anything else.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        let body = serde_json::from_slice(text).ok()?;
        match &body {
            Body::Run { items, .. } if items.count() > TASK_LIMIT => None,
            _ => Some(body),
        }
    }
}

/// A hash in JSON: an array of numbers would be four times as long.
pub(super) mod as_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in super::super) fn serialize<S: Serializer>(
        hash: &[u8; 32],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(D::Error::custom("a hash has 64 hexadecimal digits"));
        }
        for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(D::Error::custom)?;
        }
        Ok(hash)
    }
}

/// Some items of a job. Each has a number, by which it is known in the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Items {
    /// Lines of a list.
    Lines {
        /// The list.
        file: FileRef,
        /// Where the lines begin, in bytes.
        at: u64,
        /// Bytes up to the end of the lines, these and more.
        len: u64,
        /// Items among those bytes before these.
        skip: u32,
        /// The number of the first of these.
        first: u64,
        /// How many these are.
        count: u32,
        /// Names what all items among those bytes say.
        #[serde(with = "as_hex")]
        name: [u8; 32],
    },
    /// Numbers, in decimal.
    Range {
        /// The item number of the first.
        first: u64,
        /// The first.
        from: u64,
        /// How many.
        count: u32,
    },
    /// Files, by their paths.
    Files {
        /// The number of the first.
        first: u64,
        /// Each path and its file.
        files: Vec<(String, FileRef)>,
    },
    /// Texts that were given to the job.
    Texts {
        /// The number of the first.
        first: u64,
        /// Each of them.
        texts: Vec<String>,
    },
    /// What other items named.
    Found {
        /// How many items there are on the way from one of the first to these.
        depth: u32,
        /// Each of them.
        found: Vec<Found>,
    },
}

/// An item that another named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// Its number.
    pub(super) n: u64,
    /// Itself.
    pub(super) text: String,
}

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) n: u64,
    pub(super) text: String,
    /// The file that it names, if it is one of a directory.
    pub(super) file: Option<FileRef>,
}

impl Items {
    /// The number of the one at this place, which there is.
    pub(super) fn number(&self, at: u32) -> u64 {
        match self {
            Items::Lines { first, .. }
            | Items::Range { first, .. }
            | Items::Files { first, .. }
            | Items::Texts { first, .. } => first.saturating_add(at.into()),
            Items::Found { found, .. } => found[at as usize].n,
        }
    }

    /// How many items there are on the way from one of the job's first to these.
    pub(super) fn depth(&self) -> u32 {
        match self {
            Items::Found { depth, .. } => *depth,
            _ => 0,
        }
    }

    /// The text of the one at this place, which there is; none, where it stands in a list.
    pub(super) fn text(&self, at: u32) -> Option<String> {
        match self {
            Items::Lines { .. } => None,
            Items::Range { from, .. } => Some((from + u64::from(at)).to_string()),
            Items::Files { files, .. } => Some(files[at as usize].0.clone()),
            Items::Texts { texts, .. } => Some(texts[at as usize].clone()),
            Items::Found { found, .. } => Some(found[at as usize].text.clone()),
        }
    }

    /// The texts of those that are written out.
    pub(super) fn texts(&self) -> Vec<&str> {
        match self {
            Items::Texts { texts, .. } => texts.iter().map(String::as_str).collect(),
            Items::Found { found, .. } => found.iter().map(|found| found.text.as_str()).collect(),
            Items::Files { files, .. } => files.iter().map(|(path, _)| path.as_str()).collect(),
            Items::Lines { .. } | Items::Range { .. } => Vec::new(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        match self {
            Items::Lines { count, .. } | Items::Range { count, .. } => *count,
            Items::Files { files, .. } => files.len() as u32,
            Items::Texts { texts, .. } => texts.len() as u32,
            Items::Found { found, .. } => found.len() as u32,
        }
    }

    /// `count` of them from the `start`-th on, all of which there are.
    pub(super) fn some(&self, start: u32, count: u32) -> Items {
        let range = start as usize..(start + count) as usize;
        let first = if count == 0 { 0 } else { self.number(start) };
        match self {
            Items::Lines { file, at, len, skip, name, .. } => {
                let (file, at, len, skip, name) = (*file, *at, *len, skip + start, *name);
                Items::Lines { file, at, len, skip, first, count, name }
            }
            Items::Range { from, .. } => {
                Items::Range { first, from: from + u64::from(start), count }
            }
            Items::Files { files, .. } => Items::Files { first, files: files[range].to_vec() },
            Items::Texts { texts, .. } => Items::Texts { first, texts: texts[range].to_vec() },
            Items::Found { depth, found } => {
                Items::Found { depth: *depth, found: found[range].to_vec() }
            }
        }
    }

    /// Those that are not at these places, which rise: runs of them that follow each other.
    pub(super) fn without(&self, places: impl Iterator<Item = u32>) -> Vec<Items> {
        let mut runs = Vec::new();
        let mut next = 0;
        for place in places.chain([self.count()]) {
            if place > next {
                runs.push(self.some(next, place - next));
            }
            next = place + 1;
        }
        match self {
            // These need not follow each other.
            Items::Found { depth, .. } if runs.len() > 1 => {
                let each = runs.into_iter().flat_map(|run| match run {
                    Items::Found { found, .. } => found,
                    _ => Vec::new(),
                });
                vec![Items::Found { depth: *depth, found: each.collect() }]
            }
            _ => runs,
        }
    }

    /// In portions of at most `size`.
    pub(super) fn portions(&self, size: u32) -> impl Iterator<Item = Items> {
        let count = self.count();
        let starts = (0..count).step_by(size.max(1) as usize);
        starts.map(move |start| self.some(start, size.max(1).min(count - start)))
    }

    /// Each of them.
    pub(super) fn read(&self, host: &dyn Host) -> Result<Vec<Item>, TaskError> {
        let numbers = (0..self.count()).map(|at| self.number(at));
        let item = |(n, text)| Item { n, text, file: None };
        Ok(match self {
            Items::Lines { file, at, len, skip, count, .. } => {
                let mut list = host.open(file, &[])?;
                let mut lines = Lines::new(&mut *list, *at, at.saturating_add(*len));
                let mut texts = Vec::with_capacity(*count as usize);
                let (skip, end) = (*skip as usize, *skip as usize + *count as usize);
                let mut index = 0;
                while index < end {
                    let line = lines.next().map_err(|error| TaskError::of_read(file, error))?;
                    let (_, line) = line.ok_or_else(|| error::corrupt("the task"))?;
                    if index >= skip {
                        texts.push(text_of(&line).ok_or_else(|| error::corrupt("an item"))?);
                    }
                    index += 1;
                }
                numbers.zip(texts).map(item).collect()
            }
            Items::Range { from, count, .. } => {
                let values = *from..from.saturating_add((*count).into());
                numbers.zip(values.map(|value| value.to_string())).map(item).collect()
            }
            Items::Files { files, .. } => {
                let file = |(n, (text, file)): (u64, (String, FileRef))| Item {
                    n,
                    text,
                    file: Some(file),
                };
                numbers.zip(files.clone()).map(file).collect()
            }
            Items::Texts { texts, .. } => numbers.zip(texts.clone()).map(item).collect(),
            Items::Found { found, .. } => {
                found.iter().map(|Found { n, text }| item((*n, text.clone()))).collect()
            }
        })
    }
}

/// An item's text; none when the line is none.
pub(super) fn text_of(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line).ok()?;
    (text.len() <= ITEM_LIMIT).then(|| text.to_owned())
}

/// The lines of a file that are not empty, without their ends.
pub(super) struct Lines<'a> {
    file: &'a mut dyn ReadAt,
    /// Where the next read begins.
    at: u64,
    /// Where the lines end.
    end: u64,
    /// What was read and is no line yet.
    rest: BytesMut,
}

impl<'a> Lines<'a> {
    /// Those of `file` from `at` to `end`.
    pub(super) fn new(file: &'a mut dyn ReadAt, at: u64, end: u64) -> Self {
        let end = end.min(file.len());
        Lines { file, at, end, rest: BytesMut::new() }
    }

    /// Where the next line begins, an empty one among them.
    pub(super) fn place(&self) -> u64 {
        self.at - self.rest.len() as u64
    }

    /// The next line and where it begins; none after the last.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Bytes)>> {
        loop {
            let place = self.place();
            let mut line = match memchr(b'\n', &self.rest) {
                Some(end) => self.rest.split_to(end + 1).freeze().slice(..end),
                None if self.rest.len() <= ITEM_LIMIT && self.at < self.end => {
                    self.read()?;
                    continue;
                }
                None => self.rest.split().freeze(),
            };
            if line.len() > ITEM_LIMIT {
                let message = format!(
                    "the line at byte {place} is longer than {ITEM_LIMIT} bytes, which is what an item may have"
                );
                return Err(io::Error::other(message));
            }
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if !line.is_empty() {
                return Ok(Some((place, line)));
            }
            if self.rest.is_empty() && self.at == self.end {
                return Ok(None);
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let want = READ.min(usize::try_from(self.end - self.at).unwrap_or(READ));
        let read = self.file.read_at(self.at, want)?;
        if read.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read.len() as u64;
        self.rest.extend_from_slice(&read);
        Ok(())
    }
}
