//! A task on a worker: its items, one after the other.

use std::time::Duration;

use crate::kind::{self, FileWriter, Host, Lasting, PlanError, Program, TaskError};
use crate::message::{FailureClass, Payload};
use crate::record::{self, Records};

use super::config::{Config, ITEM_FILE, Source};
use super::error;
use super::item::{Item, Items};
use super::output::{End, Ended, Given, INLINE_LIMIT, Output, Ran};
use super::plan;

/// When a task has worked for this long it hands back the items that it has not begun.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines of an item's log that are kept.
const LOG_LINES: usize = 50;

/// Bytes of a list gathered before they are written.
const WRITE: usize = 64 << 10;

/// Runs these items, as many of them as there is time for.
pub(super) fn items(config: &Config, items: &Items, host: &dyn Host) -> Result<Payload, TaskError> {
    let all = items.read(host)?;
    let worker = Runner { program: host.program(&config.run)?, given: config.given(), host };
    let mut ran = Ran::default();
    for (index, item) in (0..).zip(&all) {
        if index > 0 && host.elapsed() >= PATIENCE {
            ran.left = items.count() - index;
            break;
        }
        host.progress(index.into(), items.count().into());
        match worker.run(item) {
            Ok(ended) => ran.ended.push(ended),
            // What the others gave is good; who gets the rest finds out what is wrong with it.
            Err(TaskError::Failed { .. } | TaskError::Missing { .. }) if index > 0 => {
                ran.left = items.count() - index;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Payload::Inline(Output::Ran(ran).encode()))
}

/// What runs items.
struct Runner<'a> {
    program: Box<dyn Program>,
    /// What each may read, beside its own file.
    given: kind::Given,
    host: &'a dyn Host,
}

impl Runner<'_> {
    /// Runs one item. What the guest fails with is how it ended.
    fn run(&self, item: &Item) -> Result<Ended, TaskError> {
        self.host.renew();
        let before = self.host.elapsed();
        let end = match self.call(item) {
            Ok(given) => End::Output(given),
            Err(TaskError::Failed { class: FailureClass::Guest, code, message }) => {
                End::Error { code: code.to_owned(), message }
            }
            Err(error) => return Err(error),
        };
        let ms = (self.host.elapsed() - before).as_millis();
        let log = self.host.take_log().lines;
        Ok(Ended {
            item: item.text.clone(),
            ms: u32::try_from(ms).unwrap_or(u32::MAX),
            log: log.iter().skip(log.len().saturating_sub(LOG_LINES)).cloned().collect(),
            end,
        })
    }

    fn call(&self, item: &Item) -> Result<Given, TaskError> {
        let mut given = self.given.clone();
        given.files.extend(item.file.map(|file| (ITEM_FILE.to_owned(), file)));
        let mut guest = self.program.guest(given)?;
        let mut lines = Lines { host: self.host, text: Vec::new(), file: None };
        guest.call("run", item.text.as_bytes(), &mut |frame| lines.add(frame))?;
        lines.finish()
    }
}

/// What an item gives, record by record: lines `key<TAB>value`, or one of the two alone.
struct Lines<'a> {
    host: &'a dyn Host,
    text: Vec<u8>,
    /// Once it is too long to be in memory.
    file: Option<Box<dyn FileWriter>>,
}

impl Lines<'_> {
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
            && self.text.len() <= INLINE_LIMIT
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
    let mut list = host.create(Lasting::Kept)?;
    let mut lines = Vec::new();
    let mut guest = host.guest(code, config.given())?;
    guest.call("producer", b"", &mut |frame| {
        for record in Records::new(frame) {
            let (key, value) = record?;
            record::write_line(&mut lines, key, value);
        }
        if lines.len() >= WRITE {
            list.write(&lines)?;
            lines.clear();
        }
        Ok(())
    })?;
    list.write(&lines)?;
    let list = list.finish()?;
    let groups = plan::groups(&mut *host.open(&list, &[])?, &list);
    let groups = groups.map_err(|error| match error {
        PlanError::Read(error) => TaskError::of_read(&list, error),
        PlanError::Unfit(why) => error::no_item(&why),
    })?;
    Ok(Payload::Inline(Output::Produced { list, groups }.encode()))
}
