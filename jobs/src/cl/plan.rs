//! The tasks that a job begins with: its items in groups.
//!
//! Where they are few each is a task of its own; where they are many a task is some of them, so that there are
//! about as many tasks as a swarm of a thousand slots can share out. The lines of a list are cut into groups by
//! their content: an item added or removed leaves the other groups as they are, and with them the peers that they
//! are drawn to, whose memos know them.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::ids::FileRef;
use crate::kind::{PlanError, ReadAt, TaskSpec, Tree};

use super::config::{Config, Source};
use super::frontier::{Lane, TASK_ITEMS};
use super::item::{self, Body, Found, ITEMS_LIMIT, Items, Lines, text_of};

/// The stages in order; a job without a producer has only the second.
pub(super) const STAGES: &[&str] = &["produce", "run"];
const PRODUCE: u16 = 0;
const RUN: u16 = 1;

/// Tasks that a long list makes at least.
const TASKS: u64 = 1024;

/// The most items of a task, on average: of those that take no time, some milliseconds' work.
pub(super) const GROUP_LIMIT: u32 = 256;

/// How many items a group of a job with so many has, on average: a power of two.
pub(super) fn group_size(items: u64) -> u32 {
    let even = (items / TASKS).clamp(1, GROUP_LIMIT.into()) as u32;
    1 << even.ilog2()
}

/// The job's first tasks.
pub(super) fn tasks(config: &Config, input: &dyn Tree) -> Result<Vec<TaskSpec>, PlanError> {
    match &config.items {
        Source::Input => {
            let files = input.files()?;
            match &files[..] {
                [(path, list)] if path.is_empty() && config.has_frontier() => {
                    let items = of_texts(0, texts(&mut *input.open(list)?, list)?);
                    Ok(items.into_iter().map(|items| task(items, 0)).collect())
                }
                [(path, list)] if path.is_empty() => {
                    let groups = groups(&mut *input.open(list)?, list)?;
                    Ok(groups.into_iter().map(|group| group.task(list)).collect())
                }
                _ => Ok(in_groups(&Items::Files { first: 0, files })),
            }
        }
        Source::Range { from, to } => {
            let all = Items::Range { first: 0, from: *from, count: (to - from) as u32 };
            Ok(in_groups(&all))
        }
        Source::Producer(_) => Ok(vec![TaskSpec {
            stage: PRODUCE,
            body: Body::Produce.encode(),
            weight: 1,
            ..TaskSpec::default()
        }]),
        Source::Given => Ok(Vec::new()),
    }
}

/// These items, numbered from `first` on, as tasks have them: those of one host go together.
pub(super) fn of_texts(first: u64, texts: Vec<String>) -> Vec<Items> {
    let mut lanes: BTreeMap<Lane, Vec<Found>> = BTreeMap::new();
    for (n, text) in (first..).zip(texts) {
        lanes.entry(Lane::of_text(&text)).or_default().push(Found { n, text });
    }
    let portions = lanes.into_iter().flat_map(|(lane, found)| {
        let of_any = group_size(found.len() as u64);
        let size = if lane.is_of_hosts() { TASK_ITEMS } else { of_any };
        Items::Found { depth: 0, found }.portions(size).collect::<Vec<_>>()
    });
    portions.collect()
}

/// A task for each of the groups of these items.
pub(super) fn in_groups(items: &Items) -> Vec<TaskSpec> {
    let size = group_size(items.count().into());
    items.portions(size).map(|some| task(some, 0)).collect()
}

/// A task that runs these items, each of which was tried so often before.
pub(super) fn task(items: Items, tries: u32) -> TaskSpec {
    let weight = u64::from(items.count());
    let lane = Lane::of(&items).affinity();
    let body = Body::Run { items, tries }.encode();
    let affinity = lane.or_else(|| (tries == 0).then(|| Sha256::digest(&body).into()));
    TaskSpec { stage: RUN, body, affinity, weight, stays: lane.is_some(), ..TaskSpec::default() }
}

/// Some lines of a list, as its producer or its reader cut it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Group {
    /// Where they begin, in bytes.
    pub(super) at: u64,
    /// Bytes.
    pub(super) len: u64,
    /// The number of the first item.
    pub(super) first: u64,
    /// How many items there are.
    pub(super) count: u32,
    /// Names what they say.
    #[serde(with = "item::as_hex")]
    pub(super) name: [u8; 32],
}

impl Group {
    /// The task that runs them.
    pub(super) fn task(&self, list: &FileRef) -> TaskSpec {
        let Group { at, len, first, count, name } = *self;
        let items = Items::Lines { file: *list, at, len, skip: 0, first, count, name };
        TaskSpec { affinity: Some(name), ..task(items, 0) }
    }
}

/// The lines of `list` themselves.
pub(super) fn texts(file: &mut dyn ReadAt, list: &FileRef) -> Result<Vec<String>, PlanError> {
    let mut texts = Vec::new();
    let mut lines = Lines::new(file, 0, list.len);
    while let Some((at, line)) = lines.next()? {
        texts.push(text_of(&line).ok_or_else(|| no_text(at))?);
        check_count(texts.len() as u64)?;
    }
    Ok(texts)
}

fn no_text(at: u64) -> PlanError {
    PlanError::Unfit(format!("the line at byte {at} of the items is not UTF-8 text"))
}

fn check_count(items: u64) -> Result<(), PlanError> {
    if items > ITEMS_LIMIT {
        return Err(PlanError::Unfit(format!("there are more than {ITEMS_LIMIT} items")));
    }
    Ok(())
}

/// The groups of the lines of `list`.
pub(super) fn groups(file: &mut dyn ReadAt, list: &FileRef) -> Result<Vec<Group>, PlanError> {
    let mut items = 0;
    let mut counted = Lines::new(file, 0, list.len);
    while let Some((at, line)) = counted.next()? {
        items += 1;
        text_of(&line).ok_or_else(|| no_text(at))?;
        check_count(items)?;
    }
    let mut cutter = Cutter::new(group_size(items));
    let mut lines = Lines::new(file, 0, list.len);
    while let Some((at, line)) = lines.next()? {
        cutter.add(at, &line);
    }
    Ok(cutter.finish())
}

/// Cuts lines into groups.
struct Cutter {
    size: u32,
    groups: Vec<Group>,
    hash: Sha256,
    begun: Option<Group>,
    items: u64,
}

impl Cutter {
    /// Groups of `size` lines on average, a power of two.
    fn new(size: u32) -> Self {
        Cutter { size, groups: Vec::new(), hash: Sha256::new(), begun: None, items: 0 }
    }

    /// The next line, which begins at this byte.
    fn add(&mut self, at: u64, line: &Bytes) {
        let (name, first) = ([0; 32], self.items);
        let new = || Group { at, len: 0, first, count: 0, name };
        let group = self.begun.get_or_insert_with(new);
        group.count += 1;
        group.len = at + line.len() as u64 - group.at;
        self.items += 1;
        self.hash.update((line.len() as u64).to_be_bytes());
        self.hash.update(line);
        let ends = group.count >= 2 * self.size
            || self.size == 1
            || u64::from(spread(line)) % u64::from(self.size) == 0;
        if ends {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(group) = self.begun.take() {
            let name = std::mem::take(&mut self.hash).finalize().into();
            self.groups.push(Group { name, ..group });
        }
    }

    /// All of them.
    fn finish(mut self) -> Vec<Group> {
        self.end();
        self.groups
    }
}

/// FNV-1a of a line: what ends a group need only be spread.
fn spread(line: &[u8]) -> u32 {
    line.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
