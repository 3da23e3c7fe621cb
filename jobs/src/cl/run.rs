//! A task on a worker: its items, one after the other; of those that fetch, several at a time.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::ids::FileRef;
use crate::kind::{
    self, Call, Calls, FileWriter, Heard, Host, Lasting, PlanError, Program, TaskError,
};
use crate::lines::Lines;
use crate::message::{FailureClass, Payload};
use crate::record::{self, Records};

use super::config::{Config, ITEM_FILE, Source};
use super::error;
use super::item::{Item, Items};
use super::output::{End, Ended, Given, Output, Ran};
use super::plan;
use super::scope::Link;

/// When a task has worked for this long it hands back the items that it has not begun.
const PATIENCE: Duration = Duration::from_secs(1);

/// Items of a task that fetch at a time: each waits for its host most of the time.
const PARALLEL: usize = 16;

/// Bytes that the items of a task give together before it hands back those that it has not begun: a quarter of what
/// is read of a task, for JSON may write them several times as long.
const TASK_BYTES: usize = 2 << 20;

/// Lines of an item's log that are kept.
const LOG_LINES: usize = 50;

/// Bytes that an item gives which are gathered before they are written.
const WRITE: usize = 128 << 10;

/// Runs these items, as many of them as there is time for.
pub(super) fn items(config: &Config, items: &Items, host: &dyn Host) -> Result<Payload, TaskError> {
    let all = items.read(host)?;
    let program = host.program(&config.run)?;
    let given = kind::Given { write: true, ..config.given() };
    let runner = Runner { program, given, inline: config.inline, host };
    // Who waits for a host can let another go on.
    let threads = if config.fetch.is_some() { PARALLEL.min(all.len()) } else { 1 };
    let per_host = config.fetch.as_ref().map(|rules| rules.concurrency);
    let turns = Turns::new(&all, per_host, host);
    thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(|| turns.work(&runner))));
        turns.work(&runner);
    });
    let mut ran = Ran { ended: turns.finish()?, archive: None };
    ran.ended.sort_by_key(|ended| ended.at);
    ran.archive = host.archive()?;
    Ok(Payload::Inline(Output::Ran(ran).encode()))
}

/// Whose turn it is among the items of a task.
struct Turns<'a> {
    items: &'a [Item],
    hosts: Vec<Option<String>>,
    /// The most items of one host under way; none, when hosts are not looked at.
    per_host: Option<u32>,
    host: &'a dyn Host,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The places of the items that were not begun, in order.
    waiting: VecDeque<usize>,
    /// Items under way, by their hosts.
    busy: BTreeMap<String, u32>,
    ended: Vec<Ended>,
    /// Bytes of what they gave, named and logged.
    bytes: usize,
    /// What ended the task, if not its items.
    failed: Option<TaskError>,
}

impl<'a> Turns<'a> {
    fn new(items: &'a [Item], per_host: Option<u32>, host: &'a dyn Host) -> Self {
        let hosts = match per_host {
            None => vec![None; items.len()],
            Some(_) => items.iter().map(|item| Link::of(&item.text).host).collect(),
        };
        let state = State { waiting: (0..items.len()).collect(), ..State::default() };
        Turns { items, hosts, per_host, host, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one item after the other, until there is none, or time is up.
    fn work(&self, runner: &Runner<'_>) {
        let mut hand = Hand { turns: self, runner, now: None };
        runner.program.each("run", &runner.given, &mut hand);
    }

    /// What came of the item at this place.
    fn ended(&self, at: usize, ended: Result<Ended, TaskError>) {
        let mut state = self.state();
        if let Some(host) = &self.hosts[at]
            && let Some(busy) = state.busy.get_mut(host)
        {
            *busy -= 1;
        }
        match ended {
            Ok(ended) => {
                state.bytes += ended.bytes();
                state.ended.push(ended);
            }
            Err(error) => drop(state.failed.get_or_insert(error)),
        }
    }

    /// The next item whose host has a turn free.
    fn next(&self) -> Option<usize> {
        let mut state = self.state();
        let has_begun = state.waiting.len() < self.items.len();
        let is_full = state.bytes >= TASK_BYTES || self.host.elapsed() >= PATIENCE;
        if state.failed.is_some() || has_begun && is_full {
            return None;
        }
        let is_free = |at: &usize| match (&self.hosts[*at], self.per_host) {
            (Some(host), Some(most)) => state.busy.get(host).is_none_or(|busy| *busy < most),
            _ => true,
        };
        let place = state.waiting.iter().position(is_free)?;
        let at = state.waiting.remove(place)?;
        if let Some(host) = &self.hosts[at] {
            *state.busy.entry(host.clone()).or_default() += 1;
        }
        self.host.progress(state.ended.len() as u64, self.items.len() as u64);
        Some(at)
    }

    /// Those that ended. When something else than an item failed and others ended, what they gave is good: who gets
    /// the rest finds out what is wrong with it.
    fn finish(self) -> Result<Vec<Ended>, TaskError> {
        let State { ended, failed, .. } =
            self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failed {
            Some(TaskError::Stopped) => Err(TaskError::Stopped),
            Some(error) if ended.is_empty() => Err(error),
            _ => Ok(ended),
        }
    }
}

/// What runs items.
struct Runner<'a> {
    program: Box<dyn Program>,
    /// What each may read, beside its own file.
    given: kind::Given,
    inline: u64,
    host: &'a dyn Host,
}

/// Who runs one item after the other.
struct Hand<'a> {
    turns: &'a Turns<'a>,
    runner: &'a Runner<'a>,
    now: Option<Now<'a>>,
}

/// The item under way.
struct Now<'a> {
    at: usize,
    began: Duration,
    heard: Arc<Heard>,
    gives: Gives<'a>,
    files: BTreeMap<String, FileRef>,
}

impl<'a> Hand<'a> {
    fn now(&mut self) -> &mut Now<'a> {
        self.now.as_mut().expect("a call is under way")
    }
}

impl Calls for Hand<'_> {
    fn next(&mut self) -> Option<Call> {
        let at = self.turns.next()?;
        let item = &self.turns.items[at];
        let heard = Arc::new(Heard::of(item.n));
        let Runner { host, inline, .. } = *self.runner;
        let gives = Gives::new(host, inline);
        let (began, heard_too, files) = (host.elapsed(), Arc::clone(&heard), BTreeMap::new());
        self.now = Some(Now { at, began, heard: heard_too, gives, files });
        let file = item.file.map(|file| (ITEM_FILE, file));
        let input = Bytes::copy_from_slice(item.text.as_bytes());
        Some(Call { input, file, heard: Some(heard) })
    }

    fn emit(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        self.now().gives.add(frame)
    }

    fn file(&mut self, name: &str, bytes: &mut dyn io::Read) -> Result<(), TaskError> {
        let file = kind::keep(self.runner.host, name, bytes)?;
        self.now().files.insert(name.to_owned(), file);
        Ok(())
    }

    fn again(&mut self) {
        let Runner { host, inline, .. } = *self.runner;
        let now = self.now();
        now.gives = Gives::new(host, inline);
        now.files.clear();
        drop((now.heard.take_log(), now.heard.take_named()));
    }

    fn ended(&mut self, ended: Result<(), TaskError>) {
        let now = self.now.take().expect("a call is under way");
        let (turns, at) = (self.turns, now.at);
        turns.ended(at, now.end(ended, &turns.items[at], self.runner.host));
    }
}

impl Now<'_> {
    /// How the item ended. What the guest failed with is that.
    fn end(
        self,
        ended: Result<(), TaskError>,
        item: &Item,
        host: &dyn Host,
    ) -> Result<Ended, TaskError> {
        let end = match ended.and_then(|()| self.gives.finish()) {
            Ok(given) => End::Output(given),
            Err(TaskError::Failed { class: FailureClass::Guest, code, message }) => {
                End::Error { code: code.to_owned(), message }
            }
            Err(error) => return Err(error),
        };
        let is_good = matches!(end, End::Output(_));
        let ms = (host.elapsed() - self.began).as_millis();
        let log = self.heard.take_log().lines;
        Ok(Ended {
            at: self.at as u32,
            item: item.text.clone(),
            ms: u32::try_from(ms).unwrap_or(u32::MAX),
            log: log.iter().skip(log.len().saturating_sub(LOG_LINES)).cloned().collect(),
            named: self.heard.take_named(),
            files: if is_good { self.files } else { BTreeMap::new() },
            end,
        })
    }
}

/// What an item gives, record by record: lines `key<TAB>value`, or one of the two alone.
struct Gives<'a> {
    host: &'a dyn Host,
    /// The longest that is no file.
    inline: u64,
    text: Vec<u8>,
    /// Once it is too long to be in memory.
    file: Option<Box<dyn FileWriter>>,
}

impl<'a> Gives<'a> {
    fn new(host: &'a dyn Host, inline: u64) -> Self {
        Gives { host, inline, text: Vec::new(), file: None }
    }

    fn add(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        for record in Records::new(frame) {
            let (key, value) = record?;
            record::write_line(&mut self.text, key, value);
            if self.text.len() >= WRITE {
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), TaskError> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(self.host.create(Lasting::Kept)?),
        };
        file.write(&self.text)?;
        self.text.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Given, TaskError> {
        if self.file.is_none()
            && self.text.len() as u64 <= self.inline
            && let Ok(text) = std::str::from_utf8(&self.text)
        {
            return Ok(Given::Text(text.strip_suffix('\n').unwrap_or(text).to_owned()));
        }
        self.write()?;
        match self.file {
            Some(file) => Ok(Given::File(file.finish()?)),
            None => Ok(Given::Text(String::new())),
        }
    }
}

/// Runs the producer and makes a list of what it emits, each record a line.
pub(super) fn produce(config: &Config, host: &dyn Host) -> Result<Payload, TaskError> {
    let Source::Producer(code) = &config.items else { return Err(error::corrupt("the task")) };
    let mut lines = Lines::new(host.create(Lasting::Kept)?);
    let mut guest = host.guest(code, config.given())?;
    guest.call("producer", b"", &mut |frame| {
        for record in Records::new(frame) {
            let (key, value) = record?;
            lines.record(key, value)?;
        }
        Ok(())
    })?;
    let list = lines.finish()?;
    let wrong = |error| match error {
        PlanError::Read(error) => TaskError::of_read(&list, error),
        PlanError::Unfit(why) => error::no_item(&why),
    };
    let (mut groups, mut texts) = (Vec::new(), Vec::new());
    let mut made = host.open(&list, &[])?;
    if config.has_frontier() {
        texts = plan::texts(&mut *made, &list).map_err(wrong)?;
    } else {
        groups = plan::groups(&mut *made, &list).map_err(wrong)?;
    }
    Ok(Payload::Inline(Output::Produced { list, groups, texts }.encode()))
}
