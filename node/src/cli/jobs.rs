//! Jobs that were submitted: `jobs`, `job show`, `job logs`, `job debug`, `job cancel`, `job result`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use ipdc_jobs::engine::Refusal;
use ipdc_jobs::ids::{Cid, JobId, TaskId};
use ipdc_jobs::kind;
use serde::Serialize;

use super::Session;
use super::debug::Debug;
use super::error::{CliError, ItemList};
use super::items::{GiveItems, ShowItems};
use super::output::{Answer, harmless, put_table, size, span, table};
use super::progress::{Progress, speed, stages};
use super::run::end_of;
use super::transfer;
use crate::view::{Cancelled, JobLogs, JobState, JobView, LeftOut, StepView};

/// List the jobs that this node knows, newest first
#[derive(Debug, Args)]
pub(super) struct Jobs {}

impl Jobs {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let jobs = session.client()?.jobs().await?;
        session.output.put(&JobList(jobs))
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct JobList(Vec<JobView>);

impl Answer for JobList {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(&["JOB", "KIND", "STEP", "STATE", "TIME", "TASKS", "RESULT"]);
        for view in &self.0 {
            rows.add_row([
                view.job.to_string(),
                view.kind.clone(),
                view.step.as_ref().map(step_text).unwrap_or_default(),
                view.state.to_string(),
                time(view),
                stages(view),
                view.result.map(|cid| cid.to_string()).unwrap_or_default(),
            ]);
        }
        put_table(to, &rows)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|view| writeln!(to, "{}", view.job))
    }
}

/// Look at one job, or end it
#[derive(Debug, Subcommand)]
pub(super) enum Job {
    /// Show how far it is, who works for it, why it waits or failed
    Show(OneJob),
    /// Show what its code logged, and which attempts failed
    Logs(Logs),
    /// Show its items, each a line of JSON, as they end
    Items(ShowItems),
    /// Give it more items, while it is open
    Give(GiveItems),
    /// Run one of its tasks here, to see what its code does
    Debug(Debug),
    /// End it without a result, or end some of its items
    Cancel(Cancel),
    /// Show its result's CID, or fetch the result
    Result(JobResult),
}

impl Job {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        match self {
            Job::Show(OneJob { id }) => {
                let view = session.client()?.job(&id.0).await?;
                session.output.put(&view)
            }
            Job::Logs(Logs { id, task }) => {
                let logs = session.client()?.logs(&id.0, task.map(TaskId)).await?;
                session.output.put(&logs)
            }
            Job::Items(items) => items.run(session).await,
            Job::Give(items) => items.run(session).await,
            Job::Debug(debug) => debug.run(session).await,
            Job::Cancel(Cancel { id, items }) if items.is_empty() => {
                let view = session.client()?.cancel(&id.0).await?;
                session.output.put(&view)
            }
            Job::Cancel(Cancel { id, items }) => {
                let items = items.into_iter().collect();
                session.output.put(&session.client()?.cancel_items(&id.0, items).await?)
            }
            Job::Result(result) => result.run(session).await,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct OneJob {
    /// The job's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: JobPrefix,
}

#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The job's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: JobPrefix,
    /// Only this item, by its number; may be repeated. The job goes on
    #[arg(long = "item", value_name = "N")]
    items: Vec<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// The job's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: JobPrefix,
    /// Only of this task
    #[arg(long, value_name = "N")]
    task: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct JobResult {
    /// The job's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: JobPrefix,
    /// Fetch the result to this directory, which must not be there or be empty
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl JobResult {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        let view = client.job(&self.id.0).await?;
        let end = if view.state.is_end() {
            end_of(&view, ItemList::AtNode(view.job))
        } else {
            Err(CliError::NoResult { job: view.job, state: view.state })
        };
        // A job of which items failed has a result all the same.
        let Some(result) = view.result else { return end };
        if let Some(out) = &self.out {
            let progress = Progress::new(session.output);
            transfer::fetch(&client, &result.into(), out, &progress).await?;
        }
        session.output.put(&ResultOf {
            job: view.job,
            result: result.to_string(),
            report: view.report.map(|cid| cid.to_string()),
            out: self.out,
        })?;
        end
    }
}

impl Answer for Cancelled {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        match self.cancelled.len() {
            0 => writeln!(to, "none: they had ended, or are lines of a list that is a file"),
            _ => self.quiet(to),
        }
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.cancelled.iter().try_for_each(|item| writeln!(to, "{item}"))
    }
}

#[derive(Debug, Serialize)]
struct ResultOf {
    job: JobId,
    result: String,
    report: Option<String>,
    out: Option<PathBuf>,
}

impl Answer for ResultOf {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        match &self.out {
            Some(out) => writeln!(to, "{}", out.display()),
            None => writeln!(to, "{}", self.result),
        }
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.result)
    }
}

impl Answer for JobView {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let cid = |cid: &Option<Cid>| cid.map(|cid| cid.to_string());
        let workers = match self.workers_asked {
            Some(asked) => format!("{} of {asked} asked for", self.workers),
            None => self.workers.to_string(),
        };
        let memoized = match self.memoized {
            0 => String::new(),
            n => format!(", {n} remembered"),
        };
        // Of a job of items, its tasks count those.
        let bytes = match self.bytes_total {
            total if total > 0 && self.items.is_none() => {
                Some(format!("{} of {}", size(self.bytes_done), size(total)))
            }
            _ => None,
        };
        let items = self.items.map(|kind::Items { total, done, failed, cancelled, .. }| {
            let more = [(failed, "failed"), (cancelled, "cancelled")];
            let more = more.iter().filter(|(count, _)| *count > 0);
            let more: String = more.map(|(count, what)| format!(", {count} {what}")).collect();
            format!("{done} of {total}{more}")
        });
        let lines = [
            ("job", Some(self.job.to_string())),
            ("kind", Some(self.kind.clone())),
            ("step", self.step.as_ref().map(step_text)),
            ("state", Some(self.state.to_string())),
            ("waiting", self.waiting.clone()),
            ("time", Some(time(self))),
            ("tasks", Some(format!("{} ({}{memoized})", self.tasks, stages(self)))),
            ("items", items),
            ("input", bytes),
            ("speed", speed(self)),
            ("workers", Some(workers)),
            ("submitter", Some(self.submitter.to_string())),
            ("controller", Some(self.controller.to_string())),
            ("result", cid(&self.result)),
            ("report", cid(&self.report)),
            ("same as", self.same_as.map(|job| format!("job {job}: nothing had changed"))),
            ("next", self.next.map(|job| job.to_string())),
        ];
        for (name, value) in lines {
            if let Some(value) = value {
                writeln!(to, "{name:<11} {value}")?;
            }
        }
        for (name, count) in &self.counters {
            writeln!(to, "{:<11} {count} {}", "counter", name.escape_debug())?;
        }
        self.notes.iter().try_for_each(|note| writeln!(to, "{:<11} {note}", "note"))?;
        for Refusal { peer, reason } in &self.refusals {
            // The worker wrote it: what would steer a terminal is escaped.
            let reason = harmless(reason);
            writeln!(to, "{:<11} by {peer}: {reason}", "refused")?;
        }
        for (name, error) in [("error", &self.error), ("stopped", &self.stopped)] {
            let Some(error) = error else { continue };
            writeln!(to, "{name:<11} {}: {}", error.code, error.message)?;
            for line in error.causes.iter().chain(&error.details).chain(&error.help) {
                writeln!(to, "{:<11} {line}", "")?;
            }
        }
        Ok(())
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.state)
    }
}

impl Answer for JobLogs {
    /// The guest wrote these lines: what would steer a terminal is escaped.
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        for line in &self.lines {
            let text = harmless(&line.line);
            writeln!(to, "{} {} {text}", line.task, line.attempt)?;
        }
        for LeftOut { task, attempt, lines, .. } in &self.left_out {
            writeln!(to, "{task} {attempt} logged more: {lines} lines before were not kept")?;
        }
        for failure in &self.failures {
            let (task, attempt) = (failure.task, failure.attempt);
            let (code, worker) = (&failure.code, failure.worker);
            let message = harmless(&failure.message);
            writeln!(to, "{task} {attempt} failed on {worker}: {code}: {message}")?;
        }
        Ok(())
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.lines.iter().try_for_each(|line| writeln!(to, "{}", line.line))
    }
}

/// `2/3 index`.
fn step_text(StepView { name, place, of }: &StepView) -> String {
    format!("{place}/{of} {name}")
}

fn time(view: &JobView) -> String {
    match view.state {
        JobState::Queued => String::new(),
        _ => span(Duration::from_secs_f64(view.seconds.max(0.0))),
    }
}

/// A job's ID, or the beginning of one. Which job it means is the node's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobPrefix(pub(super) String);

/// A text that no job ID begins with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no job ID begins so: they have 1 to {} characters of a-z and 2-7; see `ipdc jobs`",
    JobId::TEXT_LEN
)]
pub(super) struct BadPrefix;

impl FromStr for JobPrefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let right_length = (1..=JobId::TEXT_LEN).contains(&text.len());
        let right_letters = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        if right_length && right_letters { Ok(JobPrefix(text.to_owned())) } else { Err(BadPrefix) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipdc_jobs::ids::{Attempt, Epoch};
    use ipdc_jobs::log::Log;

    use super::*;

    #[test]
    fn a_job_is_named_by_its_id_or_the_beginning_of_it() {
        let id = JobId::of_manifest(b"x").to_string();
        for good in ["a", "z27", &id[..5], &id] {
            assert_eq!(good.parse(), Ok(JobPrefix(good.into())));
        }
        let long = format!("{id}a");
        for wrong in ["", "A", "1", "a/b", "../x", "a b", &long] {
            assert_eq!(wrong.parse::<JobPrefix>(), Err(BadPrefix), "{wrong}");
        }
    }

    #[test]
    fn logs_name_task_and_attempt_and_cannot_steer_the_terminal() {
        let mut logs = JobLogs::default();
        let attempt = Attempt { epoch: Epoch(1), n: 2 };
        let worker = libp2p_identity::Keypair::generate_ed25519().public().to_peer_id();
        let log = Log { lines: ["\u{1b}[2Jred\tß".to_owned()].into(), left_out: 7 };
        logs.add(TaskId(3), attempt, worker, &log);
        logs.add(TaskId(4), attempt, worker, &Log::default());
        let text = |logs: &JobLogs| {
            let mut text = Vec::new();
            logs.text(&mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert_eq!(
            text(&logs),
            "3 1.2 \\u{1b}[2Jred\tß\n3 1.2 logged more: 7 lines before were not kept\n"
        );
        assert_eq!(logs.clone().of_task(TaskId(3)), logs);
        assert_eq!(logs.of_task(TaskId(4)), JobLogs::default());
    }

    #[test]
    fn logs_of_a_job_that_ended_under_an_older_version_are_read() {
        let kept = r#"{"lines": [], "failures": []}"#;
        assert_eq!(serde_json::from_str::<JobLogs>(kept).unwrap(), JobLogs::default());
    }
}
