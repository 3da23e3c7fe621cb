//! The result of a rendering: `frames/`, what was assembled of them beside it, and `results.jsonl`, a line of JSON for
//! each frame. Who made each, and how long that took, is in the report: `items.jsonl`; so are the thumbnails.

use std::collections::BTreeMap;

use crate::ids::TaskId;
use crate::kind::{Finished, Outputs, ResultFile, Row, TaskError};
use crate::lines::Lines;

use super::config::{Config, FRAMES};
use super::error;
use super::output::{self, End, Output};
use super::plan::Body;

/// What the outputs make.
pub(super) fn result(config: &Config, outputs: &dyn Outputs) -> Result<Finished, TaskError> {
    let numbers = config.frames.numbers();
    let mut finished = Finished::default();
    // A line of the result and one of the report for each frame.
    let mut lines: BTreeMap<u32, (Row, Row)> = BTreeMap::new();
    for index in 0..outputs.count() {
        let gave = outputs.read(index)?;
        let corrupt = || error::corrupt("what a task gave");
        let body = Body::decode(&gave.body).ok_or_else(corrupt)?;
        let made = Output::decode(&gave.output).ok_or_else(corrupt)?;
        let frames = body.frames();
        for frame in frames {
            let n = numbers.binary_search(frame).map_err(|_| corrupt())? as u64;
            let mut cost = output::cost(&gave, &made);
            cost.insert("n".into(), n.into());
            lines.insert(*frame, (output::frame_row(config, n, *frame, &made.end), cost));
        }
        match body {
            Body::Assemble {} => put_assembled(&mut finished, gave.task, &made.end),
            _ if !frames.is_empty() => put_frames(&mut finished, gave.task, made.end),
            // Tiles are in their frame.
            _ => {}
        }
    }
    let (mut result, mut report) = (Lines::new(outputs.create()?), Lines::new(outputs.create()?));
    let (mut failed, mut cancelled) = (0_u64, 0_u64);
    for (row, cost) in lines.into_values() {
        failed += u64::from(row["status"] == "failed");
        cancelled += u64::from(row["status"] == "cancelled");
        result.row(row)?;
        report.row(cost)?;
    }
    let (result, report) = (result.finish()?, report.finish()?);
    finished.files.push(ResultFile { task: None, name: "results.jsonl".into(), file: result });
    finished.report.push(ResultFile { task: None, name: "items.jsonl".into(), file: report });
    finished.remarks.insert("items".into(), (numbers.len() as u64).into());
    finished.remarks.insert("failed".into(), failed.into());
    if cancelled > 0 {
        finished.remarks.insert("cancelled".into(), cancelled.into());
    }
    Ok(finished)
}

fn put_frames(finished: &mut Finished, task: TaskId, end: End) {
    let End::Done { files, thumbnails } = end else { return };
    let task = Some(task);
    let frame = |(name, file)| ResultFile { task, name: format!("{FRAMES}/{name}"), file };
    finished.files.extend(files.into_iter().map(frame));
    let small = |(frame, file)| ResultFile { task, name: format!("thumbnails/{frame}.png"), file };
    finished.report.extend(thumbnails.into_iter().map(small));
}

fn put_assembled(finished: &mut Finished, task: TaskId, end: &End) {
    if let End::Done { files, .. } = end {
        for (name, file) in files {
            finished.files.push(ResultFile { task: Some(task), name: name.clone(), file: *file });
        }
    } else {
        let mut said = Row::from_iter([("status".into(), output::status(end).into())]);
        said.extend(output::why(end));
        finished.remarks.insert("assemble".into(), said.into());
    }
}
