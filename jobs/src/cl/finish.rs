//! The result of a job of items: `results.jsonl`, a line of JSON for each item in the order of their numbers, and the
//! files that items gave, in `outputs/`, and wrote, in `files/`; of a job that fetches, what came in `archive/`, as WARC files. Who ran each
//! item, how often and how long is in the report: `items.jsonl`.

use crate::kind::{Finished, Gave, Outputs, ResultFile, TaskError};
use crate::lines::Lines;

use super::config::Config;
use super::error;
use super::item::Items;
use super::output::{End, Given, Ran};

/// The most files in one directory of the result.
const DIRECTORY: u64 = 1000;

/// Outputs of tasks that are held at a time: items that follow each other come from few.
const HELD: usize = 64;

/// An item's place: its number, the task and where in what that gave.
type Place = (u64, u32, u32);

/// What the outputs make.
pub(super) fn result(config: &Config, outputs: &dyn Outputs) -> Result<Finished, TaskError> {
    let mut finished = Finished::default();
    let mut places: Vec<Place> = Vec::new();
    let mut archives = 0_u32;
    for index in 0..outputs.count() {
        let Task { gave, items, tries, ran } = Task::of(outputs.read(index)?)?;
        let last = (0..).zip(&ran.ended);
        let last = last.filter(|(_, ended)| ended.is_final(tries, config.retries));
        places.extend(last.map(|(at, ended)| (items.number(ended.at), index as u32, at)));
        if let Some(file) = ran.archive {
            let (task, name) = (Some(gave.task), format!("archive/{:06}.warc", archives));
            archives += 1;
            finished.files.push(ResultFile { task, name, file });
        }
    }
    places.sort_unstable();
    // Of an item that was run again for what it gave, the first counts.
    places.dedup_by_key(|(n, ..)| *n);
    let (mut result, mut report) = (Lines::new(outputs.create()?), Lines::new(outputs.create()?));
    let mut tasks = Tasks { outputs, held: Vec::new() };
    let (mut failed, mut cancelled) = (0_u64, 0_u64);
    let is_nested = places.len() as u64 > DIRECTORY;
    for &(n, index, at) in &places {
        let task = tasks.get(index)?;
        let ended = &task.ran.ended[at as usize];
        cancelled += u64::from(ended.is_cancelled());
        failed += u64::from(!ended.is_good() && !ended.is_cancelled());
        result.row(ended.result(&task.items))?;
        let mut cost = ended.cost(task.tries, &task.gave);
        cost.insert("n".into(), n.into());
        report.row(cost)?;
        let task = Some(task.gave.task);
        if let End::Output(Given::File(file)) = ended.end {
            finished.files.push(ResultFile { task, name: place("outputs", n, is_nested), file });
        }
        let folder = place("files", n, is_nested);
        for (name, file) in &ended.files {
            let (name, file) = (format!("{folder}/{name}"), *file);
            finished.files.push(ResultFile { task, name, file });
        }
    }
    let task = None;
    let (file, name) = (result.finish()?, "results.jsonl".to_owned());
    finished.files.push(ResultFile { task, name, file });
    let (file, name) = (report.finish()?, "items.jsonl".to_owned());
    finished.report.push(ResultFile { task, name, file });
    finished.remarks.insert("items".into(), (places.len() as u64).into());
    finished.remarks.insert("failed".into(), failed.into());
    if cancelled > 0 {
        finished.remarks.insert("cancelled".into(), cancelled.into());
    }
    Ok(finished)
}

/// Where in `folder` lies what the `n`-th item gave.
fn place(folder: &str, n: u64, is_nested: bool) -> String {
    if is_nested { format!("{folder}/{}/{n}", n / DIRECTORY) } else { format!("{folder}/{n}") }
}

/// What a task gave, read.
struct Task {
    gave: Gave,
    items: Items,
    tries: u32,
    ran: Ran,
}

impl Task {
    fn of(gave: Gave) -> Result<Self, TaskError> {
        let ran = Ran::of(&gave.body, &gave.output);
        let (items, tries, ran) = ran.ok_or_else(|| error::corrupt("what a task gave"))?;
        Ok(Task { gave, items, tries, ran })
    }
}

/// What tasks gave, of those that were asked for last.
struct Tasks<'a> {
    outputs: &'a dyn Outputs,
    held: Vec<(u32, Task)>,
}

impl Tasks<'_> {
    fn get(&mut self, index: u32) -> Result<&Task, TaskError> {
        let at = match self.held.iter().position(|(held, _)| *held == index) {
            Some(at) => at,
            None => {
                if self.held.len() == HELD {
                    self.held.remove(0);
                }
                let task = Task::of(self.outputs.read(index as usize)?)?;
                self.held.push((index, task));
                self.held.len() - 1
            }
        };
        Ok(&self.held[at].1)
    }
}
