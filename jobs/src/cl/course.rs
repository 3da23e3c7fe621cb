//! What follows from what the tasks of a job gave.
//!
//! Items that a task left are given out again, as many to a task as take about a second; failed ones are tried again
//! after a pause, each by itself. What was given to the job while it runs becomes tasks.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::Value;

use crate::kind::{self, Course, Items as Tally, Step, TaskError, TaskSpec, Withdrawn};

use super::config::Config;
use super::error;
use super::frontier::{Frontier, Lane};
use super::item::{Body, ITEM_LIMIT, ITEMS_LIMIT, Items};
use super::output::{End, Ended, Output, Ran};
use super::plan;

/// What a task of items that a task left should take, in milliseconds: much longer than a message, and short
/// enough that none waits for another at the end.
const TASK_MS: u64 = 1000;

/// The pause before a failed item is tried again, in milliseconds; doubled each time.
const RETRY_MS: u64 = 1000;
/// The longest such pause.
const RETRY_MS_LIMIT: u64 = 60_000;

/// How many tasks are made of what is given at once, at least: as many slots may be free.
const GIVEN_TASKS: u32 = 64;

/// The progress of a job of items.
pub(super) struct Progress {
    retries: u32,
    is_open: bool,
    tally: Tally,
    ended: Bits,
    /// What was found and not begun, where items must be known by their texts.
    frontier: Option<Frontier>,
}

impl Progress {
    pub(super) fn new(config: &Config, tasks: &[TaskSpec]) -> Self {
        let body = |task: &TaskSpec| Body::decode(&task.body);
        let items: Vec<Items> = tasks
            .iter()
            .filter_map(|task| match body(task)? {
                Body::Run { items, .. } => Some(items),
                Body::Produce => None,
            })
            .collect();
        let total = items.iter().map(|items| u64::from(items.count())).sum();
        let frontier =
            config.has_frontier().then(|| Frontier::new(config.enqueue.as_ref(), &items));
        let tally = Tally { total, ..Tally::default() };
        let (retries, is_open) = (config.retries, config.open);
        Progress { retries, is_open, tally, ended: Bits::default(), frontier }
    }

    fn ran(&mut self, items: &Items, tries: u32, ran: &Ran) -> Vec<TaskSpec> {
        let mut more = Vec::new();
        for ended in &ran.ended {
            if ended.is_final(tries, self.retries) {
                self.note(items.number(ended.at), ended);
            } else {
                let delay_ms = (RETRY_MS << tries.min(10)).min(RETRY_MS_LIMIT);
                more.push(TaskSpec { delay_ms, ..plan::task(items.some(ended.at, 1), tries + 1) });
            }
        }
        // By what the task says itself: what is remembered leads to the same portions.
        let took: u64 = ran.ended.iter().map(|ended| u64::from(ended.ms)).sum();
        let each = took / (ran.ended.len() as u64).max(1);
        let size = (TASK_MS / each.max(1)).clamp(1, items.count().into()) as u32;
        for left in items.without(ran.ended.iter().map(|ended| ended.at)) {
            // Of hosts each has limits of its own: how long it took says nothing.
            let size = if Lane::of(items).is_of_hosts() { left.count() } else { size };
            more.extend(left.portions(size).map(|some| plan::task(some, tries)));
        }
        if let Some(frontier) = &mut self.frontier {
            let lane = Lane::of(items);
            frontier.closed(lane);
            more.iter().for_each(|_| frontier.opened(lane));
            let good = ran.ended.iter().filter(|ended| ended.is_good());
            for named in good.flat_map(|ended| &ended.named) {
                frontier.find(named, items.depth() + 1, &mut self.tally.total);
            }
            self.tally.left_out = frontier.left_out;
            more.extend(frontier.next().into_iter().map(|items| plan::task(items, 0)));
        }
        more
    }

    /// The tasks of items that were given or made, all of them new.
    fn begin(&mut self, texts: Vec<String>) -> Result<Vec<TaskSpec>, TaskError> {
        let count = texts.len() as u32;
        let first = self.add(count.into())?;
        let Some(frontier) = &mut self.frontier else {
            let all = Items::Texts { first, texts };
            let size = (count / GIVEN_TASKS).clamp(1, plan::GROUP_LIMIT);
            return Ok(all.portions(size).map(|some| plan::task(some, 0)).collect());
        };
        texts.iter().for_each(|text| frontier.know(text));
        let portions = plan::of_texts(first, texts);
        portions.iter().for_each(|items| frontier.opened(Lane::of(items)));
        Ok(portions.into_iter().map(|items| plan::task(items, 0)).collect())
    }

    /// Counts an item that ended for good, once: its task may be run again for what it gave.
    fn note(&mut self, n: u64, ended: &Ended) {
        if self.ended.insert(n) {
            *match ended.end {
                End::Output(_) => &mut self.tally.done,
                End::Error { .. } => &mut self.tally.failed,
                End::Cancelled {} => &mut self.tally.cancelled,
            } += 1;
        }
    }

    /// Numbers more items.
    fn add(&mut self, count: u64) -> Result<u64, TaskError> {
        let first = self.tally.total;
        self.tally.total = first.saturating_add(count);
        if self.tally.total > ITEMS_LIMIT { Err(error::too_many(ITEMS_LIMIT)) } else { Ok(first) }
    }
}

impl Course for Progress {
    fn follow(&mut self, step: Step<'_>) -> Result<Vec<TaskSpec>, TaskError> {
        match step {
            Step::Output { task, output } => {
                let corrupt = || error::corrupt("what a task gave");
                let body = Body::decode(&task.body).ok_or_else(corrupt)?;
                match (&body, Output::of(&body, output).ok_or_else(corrupt)?) {
                    (Body::Run { items, tries }, Output::Ran(ran)) => {
                        Ok(self.ran(items, *tries, &ran))
                    }
                    // Made again, it is the same list.
                    (_, Output::Produced { .. }) if self.tally.total > 0 => Ok(Vec::new()),
                    (_, Output::Produced { texts, .. }) if self.frontier.is_some() => {
                        self.begin(texts)
                    }
                    (_, Output::Produced { list, groups, .. }) => {
                        self.add(groups.iter().map(|group| u64::from(group.count)).sum())?;
                        Ok(groups.iter().map(|group| group.task(&list)).collect())
                    }
                    (Body::Produce, Output::Ran(_)) => Err(corrupt()),
                }
            }
            Step::Given(given) => {
                let texts = texts(given).map_err(|why| error::corrupt(&why))?;
                self.begin(texts)
            }
            Step::Closed => {
                self.is_open = false;
                Ok(Vec::new())
            }
        }
    }

    fn check(&self, given: &Bytes) -> Result<(), String> {
        let more = texts(given)?.len() as u64;
        if self.tally.total.saturating_add(more) > ITEMS_LIMIT {
            return Err(format!("a job has at most {ITEMS_LIMIT} items"));
        }
        Ok(())
    }

    fn withdraw(&self, task: &TaskSpec, items: &BTreeSet<u64>) -> Option<Withdrawn> {
        let Body::Run { items: mine, .. } = Body::decode(&task.body)? else { return None };
        let is_wanted_no_more = |at: &u32| {
            let n = mine.number(*at);
            items.contains(&n) && !self.ended.contains(n)
        };
        let cancelled = |at| Some(Ended::cancelled(at, mine.text(at)?));
        let ended: Vec<Ended> =
            (0..mine.count()).filter(is_wanted_no_more).filter_map(cancelled).collect();
        if ended.is_empty() {
            return None;
        }
        let items = ended.iter().map(|ended| mine.number(ended.at)).collect();
        let output = Output::Ran(Ran { ended, archive: None }).encode();
        Some(Withdrawn { output, items })
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn items(&self) -> kind::Items {
        self.tally
    }
}

/// Items that are given, as JSON: a list, of texts or of anything that is an item by its JSON.
pub(super) fn texts(given: &Bytes) -> Result<Vec<String>, String> {
    let list: Vec<Value> = serde_json::from_slice(given)
        .map_err(|error| format!("items are given as a list in JSON: {error}"))?;
    if list.is_empty() {
        return Err("the list of items is empty".to_owned());
    }
    let text = |item| match item {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let texts: Vec<String> = list.into_iter().map(text).collect();
    match texts.iter().find(|text| text.is_empty() || text.len() > ITEM_LIMIT) {
        Some(text) => Err(format!("an item has {} bytes; expected 1 to {ITEM_LIMIT}", text.len())),
        None => Ok(texts),
    }
}

/// A set of numbers, dense from 0 on.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn contains(&self, n: u64) -> bool {
        self.0.get((n / 64) as usize).is_some_and(|word| word & (1 << (n % 64)) != 0)
    }

    /// Whether it was not there.
    fn insert(&mut self, n: u64) -> bool {
        let (word, bit) = ((n / 64) as usize, 1 << (n % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let was = self.0[word] & bit != 0;
        self.0[word] |= bit;
        !was
    }
}
