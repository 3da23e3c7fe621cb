//! A task on a worker: a command in a container, and what it left.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::code::{Code, Container};
use crate::ids::{Cid, FileRef, TaskId};
use crate::kind::{self, Call, Calls, Given, Host, TaskError};
use crate::message::{Input, Payload};
use crate::record::{self, Records};

use super::config::{Config, FRAMES};
use super::error;
use super::fill::Values;
use super::output::{End, Output};
use super::picture::{self, Tile};
use super::plan::Body;

/// Runs a task.
pub(super) fn task(
    config: &Config,
    body: &Body,
    inputs: &[Input],
    host: &dyn Host,
) -> Result<Payload, TaskError> {
    let output = match body {
        Body::Render { frames, tile } => render(config, frames, *tile, host),
        Body::Compose { frame } => compose(config, *frame, inputs, host),
        Body::Assemble {} => assemble(config, inputs, host),
    }?;
    Ok(Payload::Inline(output.encode()))
}

fn render(
    config: &Config,
    frames: &[u32],
    tile: Option<u32>,
    host: &dyn Host,
) -> Result<Output, TaskError> {
    let values = config.values(frames, tile);
    let (container, outputs) = config.render.filled(&values);
    let named = |frame: &u32| config.files_of(*frame);
    let wanted = if frames.len() == 1 { outputs } else { frames.iter().flat_map(named).collect() };
    let (files, ms) = run(container, config.given([]), &wanted, host)?;
    let mut thumbnails = BTreeMap::new();
    if tile.is_none() {
        for frame in frames {
            let first =
                config.files_of(*frame).into_iter().find_map(|name| files.get(&name).copied());
            if let Some(thumbnail) =
                first.and_then(|file| picture::thumbnail(&file, host).transpose())
            {
                thumbnails.insert(*frame, thumbnail?);
            }
        }
    }
    Ok(Output { ms, ..Output::of(End::Done { files, thumbnails }) })
}

/// Puts the tiles of a frame together.
fn compose(
    config: &Config,
    frame: u32,
    inputs: &[Input],
    host: &dyn Host,
) -> Result<Output, TaskError> {
    let corrupt = || error::corrupt("the task");
    let tiles = config.tiles.ok_or_else(corrupt)?;
    let mut pieces = Vec::with_capacity(inputs.len());
    let mut makers = Makers::new();
    for (n, input) in (0..).zip(inputs) {
        match read(input, host)?.end {
            End::Done { files, .. } => {
                let (_, file) = files.first_key_value().ok_or_else(corrupt)?;
                makers.insert(file.cid, input.task);
                pieces.push(Tile { place: tiles.place(n), file: *file, holders: &input.holders });
            }
            _ => return Ok(Output::of(End::Skipped { without: format!("its tile {n} failed") })),
        }
    }
    let name = config.files_of(frame).into_iter().next().ok_or_else(corrupt)?;
    let began = host.elapsed();
    let file = picture::compose(&name, (tiles.width, tiles.height), &pieces, host);
    let file = file.map_err(|error| lost(error, &makers))?;
    let thumbnail = picture::thumbnail(&file, host)?;
    let thumbnails = thumbnail.map(|thumbnail| (frame, thumbnail)).into_iter().collect();
    let ms = millis(host.elapsed() - began);
    Ok(Output { ms, ..Output::of(End::Done { files: [(name, file)].into(), thumbnails }) })
}

/// Makes one thing of all frames.
fn assemble(config: &Config, inputs: &[Input], host: &dyn Host) -> Result<Output, TaskError> {
    let step = config.assemble.as_ref().ok_or_else(|| error::corrupt("the task"))?;
    let (mut frames, mut failed, mut makers) = (Vec::new(), 0, Makers::new());
    for input in inputs {
        match read(input, host)?.end {
            End::Done { files, .. } => {
                makers.extend(files.values().map(|file| (file.cid, input.task)));
                frames.extend(files);
            }
            _ => failed += 1,
        }
    }
    if failed > 0 {
        let without = format!("{failed} of {} parts failed", inputs.len());
        return Ok(Output::of(End::Skipped { without }));
    }
    let numbers = config.frames.numbers();
    let (first, last) = (numbers.first().copied(), numbers.last().copied());
    let values = Values::default()
        .with("first", first.unwrap_or(0))
        .with("last", last.unwrap_or(0))
        .with("count", numbers.len() as u32);
    let (container, outputs) = step.filled(&values);
    let frames = frames.into_iter().map(|(name, file)| (format!("{FRAMES}/{name}"), file));
    let ran = run(container, config.given(frames), &outputs, host);
    let (files, ms) = ran.map_err(|error| lost(error, &makers))?;
    Ok(Output { ms, ..Output::of(End::Done { files, thumbnails: BTreeMap::new() }) })
}

/// Which task made which file.
type Makers = BTreeMap<Cid, TaskId>;

/// Of a file that nobody has: which task is to make it again, if one did.
fn lost(error: TaskError, makers: &Makers) -> TaskError {
    match error {
        TaskError::Missing { file, message, .. } => {
            let task = makers.get(&file.cid).copied();
            TaskError::Missing { file, task, message }
        }
        other => other,
    }
}

/// What an earlier task gave.
fn read(input: &Input, host: &dyn Host) -> Result<Output, TaskError> {
    let text = match &input.payload {
        Payload::Inline(text) => text.clone(),
        Payload::File(file) => picture::bytes(file, &input.holders, host)
            .map_err(|error| lost(error, &[(file.cid, input.task)].into()))?,
    };
    Output::decode(&text).ok_or_else(|| error::corrupt("what a task gave"))
}

/// Runs a command; the files that it was to leave, and how long it took.
fn run(
    container: Container,
    given: Given,
    wanted: &[String],
    host: &dyn Host,
) -> Result<(BTreeMap<String, FileRef>, u64), TaskError> {
    let program = host.program(&Code::Container(container))?;
    let began = host.elapsed();
    let mut once = Once {
        host,
        wanted,
        is_made: false,
        left: Vec::new(),
        files: BTreeMap::new(),
        ended: None,
    };
    program.each("run", &given, &mut once);
    once.ended.unwrap_or(Err(TaskError::Stopped))?;
    if let Some(missing) = wanted.iter().find(|name| !once.files.contains_key(*name)) {
        let left: Vec<&str> = once.left.iter().map(String::as_str).collect();
        return Err(error::missing(missing, &left));
    }
    Ok((once.files, millis(host.elapsed() - began)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Files that an error names.
const NAMED: usize = 10;

/// One call, and what came of it.
struct Once<'a> {
    host: &'a dyn Host,
    wanted: &'a [String],
    is_made: bool,
    /// The names of files that it left beside.
    left: Vec<String>,
    files: BTreeMap<String, FileRef>,
    ended: Option<Result<(), TaskError>>,
}

impl Calls for Once<'_> {
    fn next(&mut self) -> Option<Call> {
        let is_first = !std::mem::replace(&mut self.is_made, true);
        is_first.then(|| Call { input: Bytes::new(), file: None, heard: None })
    }

    /// What it writes is for people.
    fn emit(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        for record in Records::new(frame) {
            let (key, value) = record?;
            let mut line = Vec::new();
            record::write_line(&mut line, key, value);
            self.host.log(String::from_utf8_lossy(&line).trim_end());
        }
        Ok(())
    }

    fn file(&mut self, name: &str, bytes: &mut dyn io::Read) -> Result<(), TaskError> {
        if !self.wanted.iter().any(|wanted| wanted == name) {
            if self.left.len() < NAMED {
                self.left.push(name.to_owned());
            }
            return Ok(());
        }
        let file = kind::keep(self.host, name, bytes)?;
        self.files.insert(name.to_owned(), file);
        Ok(())
    }

    fn again(&mut self) {
        self.left.clear();
        self.files.clear();
    }

    fn ended(&mut self, ended: Result<(), TaskError>) {
        self.ended = Some(ended);
    }
}
