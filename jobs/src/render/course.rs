//! How far a job is, frame by frame; and that it goes on without those that fail.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::kind::{Course, Failure, Items, Step, TaskError, TaskSpec, Withdrawn};

use super::error;
use super::output::{End, LOG_LINES, Output};
use super::plan::Body;

/// The progress of a job of frames.
pub(super) struct Progress {
    /// The frames, each with its place among the job's, and what became of those that ended.
    frames: BTreeMap<u32, (u64, Option<Became>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Became {
    Done,
    Failed,
    Cancelled,
}

impl Progress {
    pub(super) fn new(tasks: &[TaskSpec]) -> Self {
        let bodies = tasks.iter().filter_map(|task| Body::decode(&task.body));
        let frames: BTreeSet<u32> = bodies.flat_map(|body| body.frames().to_vec()).collect();
        Progress { frames: (0..).zip(frames).map(|(n, frame)| (frame, (n, None))).collect() }
    }
}

impl Course for Progress {
    fn follow(&mut self, step: Step<'_>) -> Result<Vec<TaskSpec>, TaskError> {
        let Step::Output { task, output } = step else { return Ok(Vec::new()) };
        let corrupt = || error::corrupt("what a task gave");
        let body = Body::decode(&task.body).ok_or_else(corrupt)?;
        let became = match Output::decode(output).ok_or_else(corrupt)?.end {
            End::Done { .. } => Became::Done,
            End::Skipped { .. } | End::Failed { .. } => Became::Failed,
            End::Cancelled {} => Became::Cancelled,
        };
        for frame in body.frames() {
            // A task may be run again for what it gave.
            self.frames.entry(*frame).and_modify(|(_, known)| *known = Some(became));
        }
        Ok(Vec::new())
    }

    fn check(&self, _: &Bytes) -> Result<(), String> {
        Err("a rendering takes no frames while it runs".to_owned())
    }

    /// A task ends when nobody wants any of its frames; a tile goes with its frame.
    fn withdraw(&self, task: &TaskSpec, items: &BTreeSet<u64>) -> Option<Withdrawn> {
        let body = Body::decode(&task.body)?;
        let frames = match &body {
            Body::Render { frames, .. } => frames,
            Body::Compose { .. } | Body::Assemble {} => return None,
        };
        let numbers = frames.iter().filter_map(|frame| self.frames.get(frame).map(|(n, _)| *n));
        let numbers: Vec<u64> = numbers.filter(|n| items.contains(n)).collect();
        let output = Output::of(End::Cancelled {}).encode();
        (numbers.len() == frames.len()).then_some(Withdrawn { output, items: numbers })
    }

    fn give_up(&self, _: &TaskSpec, failure: &Failure) -> Option<Bytes> {
        let Failure { code, message, log } = failure.clone();
        let lines = log.lines.iter().skip(log.lines.len().saturating_sub(LOG_LINES));
        let end = End::Failed { code, message };
        Some(Output { log: lines.cloned().collect(), ..Output::of(end) }.encode())
    }

    fn is_open(&self) -> bool {
        false
    }

    fn items(&self) -> Items {
        let count = |which| {
            self.frames.values().filter(|(_, became)| *became == Some(which)).count() as u64
        };
        Items {
            total: self.frames.len() as u64,
            done: count(Became::Done),
            failed: count(Became::Failed),
            cancelled: count(Became::Cancelled),
            left_out: 0,
        }
    }
}
