//! Drives one job's engine: gives it events, carries out its actions in their order.
//!
//! One task per job owns the engine, so there are no locks. Effects that take time (the journal,
//! building the result) run beside it and come back as events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipdc_jobs::engine::{
    Action, CommitReport, End, EndState, Engine, Event, FailureReport, JobPlan, JobReport, Phase,
    Progress, Record, StageProgress, TaskReport,
};
use ipdc_jobs::ids::{JobId, PeerId, TaskId};
use ipdc_jobs::manifest::Manifest;
use ipdc_jobs::memo::MemoKey;
use ipdc_jobs::message::{ToWorker, WorkerOrder};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use super::pace::Pace;
use super::{Asked, Context, Controller, Names, assemble};
use crate::problem::Problem;
use crate::state;
use crate::swarm::conduct::Misdeed;
use crate::view::{AttemptFailure, JobLogs, JobState, JobView, StageView};

/// Events that wait for one engine. Messages beyond that are dropped, and come again.
pub(super) const EVENT_LIMIT: usize = 4_096;

/// How often a job's view follows its engine at most; its end shows at once. Ten times a second
/// looks smooth and costs nothing.
const VIEW_INTERVAL: Duration = Duration::from_millis(100);

/// The pause before a journal that failed (a full disk) is tried again.
const JOURNAL_RETRY: Duration = Duration::from_secs(1);

/// What reaches a job's task.
pub(super) struct Mail {
    /// For what the task's own effects say.
    pub(super) sender: mpsc::Sender<Event>,
    /// What happens.
    pub(super) events: mpsc::Receiver<Event>,
    /// What users ask.
    pub(super) asked: mpsc::Receiver<Asked>,
    /// For who follows the job: how many outputs were committed.
    pub(super) committed: watch::Sender<usize>,
}

/// One job under way.
pub(super) struct Drive {
    controller: Controller,
    context: Arc<Context>,
    job: JobId,
    manifest: Arc<Manifest>,
    engine: Engine,
    started: Instant,
    events: mpsc::Sender<Event>,
    journal: mpsc::UnboundedSender<(u64, Record)>,
    build: Option<JoinHandle<()>>,
    /// Who waits to hear that what was given is taken, by tickets.
    giving: BTreeMap<u64, oneshot::Sender<Result<u64, String>>>,
    /// And who waits to hear which items were cancelled.
    withdrawing: BTreeMap<u64, oneshot::Sender<Vec<u64>>>,
    tickets: u64,
    names: Names,
    view: watch::Sender<JobView>,
    committed: watch::Sender<usize>,
    shown: Instant,
    pace: Pace,
    /// Whether the engine went on since.
    stale: bool,
}

impl Drive {
    /// Brings the job of `plan` to its end. Returns when nothing is left to do for it.
    pub(super) async fn run(
        controller: Controller,
        plan: JobPlan,
        names: Names,
        recovered: Vec<Record>,
        view: watch::Sender<JobView>,
        mail: Mail,
    ) {
        let Mail { sender, mut events, mut asked, committed } = mail;
        let job = plan.job;
        let manifest = Arc::new(plan.manifest.clone());
        let context = Arc::clone(&controller.context);
        let started = Instant::now();
        let journal = keep_journal(Arc::clone(&context), job, sender.clone());
        // What follows from a long journal may be read from files.
        let begun = spawn_blocking(move || Engine::new(plan, Duration::ZERO, recovered));
        let (engine, actions) = begun.await.expect("a journal of this job's own is fine");
        let mut drive = Drive {
            controller,
            context,
            job,
            manifest,
            engine,
            started,
            events: sender,
            journal,
            build: None,
            giving: BTreeMap::new(),
            withdrawing: BTreeMap::new(),
            tickets: 0,
            names,
            view,
            committed,
            shown: started,
            pace: Pace::default(),
            stale: true,
        };
        let mut over = drive.carry_out(actions).await;
        while !over {
            let wake = drive.engine.next_wake().map(|at| started + at);
            let show = drive.shown + VIEW_INTERVAL;
            let event = tokio::select! {
                event = events.recv() => event.unwrap_or(Event::Tick),
                () = sleep_until(wake.unwrap_or(show)), if wake.is_some() => Event::Tick,
                Some(asked) = asked.recv() => match drive.answer(asked) {
                    Some(event) => event,
                    None => continue,
                },
                () = sleep_until(show), if drive.stale => {
                    drive.show();
                    continue;
                }
            };
            let actions = drive.engine.apply(started.elapsed(), event);
            over = drive.carry_out(actions).await;
            drive.committed.send_if_modified(|count| {
                let now = drive.engine.commits();
                std::mem::replace(count, now) != now
            });
            drive.stale = true;
            if drive.shown.elapsed() >= VIEW_INTERVAL {
                drive.show();
            }
        }
    }

    /// Answers what a user asks, or tells the engine, whose answer it then is.
    fn answer(&mut self, asked: Asked) -> Option<Event> {
        match asked {
            // Who asked may have gone away.
            Asked::Logs(answer) => {
                let _ = answer.send(logs_of(&self.engine.report()));
                None
            }
            Asked::Give { key, payload, items, answer } => {
                self.tickets += 1;
                self.giving.insert(self.tickets, answer);
                Some(Event::Give { ticket: self.tickets, key, payload, items })
            }
            Asked::Withdraw { items, answer } => {
                self.tickets += 1;
                self.withdrawing.insert(self.tickets, answer);
                Some(Event::Withdraw { ticket: self.tickets, items })
            }
            Asked::Gave { from, most, answer } => {
                let _ = answer.send(self.engine.gave(from, most));
                None
            }
        }
    }

    /// Returns true when nothing is left to do.
    async fn carry_out(&mut self, actions: Vec<Action>) -> bool {
        let mut over = false;
        for action in actions {
            match action {
                Action::Send { to, message } => self.send(to, message).await,
                // The receiver lives as long as the engine does.
                Action::Append { seq, record } => drop(self.journal.send((seq, record))),
                Action::Build { outputs, report } => {
                    if let Some(before) = self.build.take() {
                        before.abort();
                    }
                    let (context, events) = (Arc::clone(&self.context), self.events.clone());
                    let (job, manifest) = (self.job, Arc::clone(&self.manifest));
                    self.build = Some(tokio::spawn(async move {
                        let event =
                            assemble::result(&context, job, &manifest, outputs, *report).await;
                        let _ = events.send(event).await;
                    }));
                }
                Action::Read { task, attempt, file, holders } => {
                    let (context, events) = (Arc::clone(&self.context), self.events.clone());
                    let job = self.job;
                    tokio::spawn(async move {
                        let output = assemble::keep(&context, job, &file, &holders).await;
                        let _ = events.send(Event::Read { task, attempt, output }).await;
                    });
                }
                Action::Given { ticket, first } => {
                    if let Some(answer) = self.giving.remove(&ticket) {
                        let _ = answer.send(first);
                    }
                }
                Action::Withdrawn { ticket, items } => {
                    if let Some(answer) = self.withdrawing.remove(&ticket) {
                        let _ = answer.send(items);
                    }
                }
                Action::Ended(end) => {
                    let report = self.engine.report();
                    // Before anybody hears of the end, and asks for the same again.
                    self.note_makers(&report).await;
                    // Whoever hears of the end hears of what follows.
                    let items = self.engine.progress().items;
                    let after = self.controller.go_on(self.job, &self.manifest, &end, items).await;
                    self.view.send_modify(|view| {
                        show_end(view, end);
                        after.show(view);
                    });
                    self.show();
                    let view = self.view.borrow().clone();
                    self.context.ended(&view, &logs_of(&report)).await;
                }
                Action::Over => over = true,
                Action::Blame { peer, what } => {
                    let misdeed = Misdeed::Note { job: self.job, what };
                    self.context.post.conduct().report(peer, misdeed);
                }
            }
        }
        over
    }

    /// Notes who gave which output: the same task finds a warm memo there next time.
    async fn note_makers(&self, report: &JobReport) {
        let maker = |(task, key): &(TaskId, MemoKey)| {
            let commit = report.tasks.get(task.0 as usize)?.commit.as_ref()?;
            Some((*key, commit.worker))
        };
        let makers = self.names.iter().filter_map(maker).collect();
        if let Err(error) = state::memo::note_makers(&self.context.memo, makers).await {
            tracing::warn!(job = %self.job, %error, "the memo cannot be written");
        }
    }

    async fn send(&self, to: PeerId, mut message: ToWorker) {
        if let WorkerOrder::Assign { assignments, .. } = &mut message.body {
            for assignment in assignments {
                if let Err(error) = assemble::shorten(&self.context, self.job, assignment).await {
                    tracing::warn!(job = %self.job, %error, "an assignment could not be stored; it is tried again");
                    return;
                }
            }
        }
        self.context.post.to_worker(to, message);
    }

    /// Lets the view follow the engine.
    fn show(&mut self) {
        self.stale = false;
        self.shown = Instant::now();
        let progress = self.engine.progress();
        let elapsed = self.started.elapsed();
        let sum = |bytes: fn(&StageProgress) -> u64| progress.stages.iter().map(bytes).sum::<u64>();
        let (done, total) = (sum(|stage| stage.bytes_done), sum(|stage| stage.bytes_total));
        self.pace.note(elapsed, done);
        let is_over = matches!(progress.phase, Phase::Ended(_));
        let speed = if is_over { 0 } else { self.pace.bytes_per_s() };
        let left = self.pace.time_for(total.saturating_sub(done)).filter(|_| !is_over);
        self.view.send_modify(|view| {
            follow(view, progress);
            view.version += 1;
            view.seconds = elapsed.as_secs_f64();
            view.bytes_per_s = speed;
            view.seconds_left = left.map(|left| left.as_secs_f64());
        });
        // Nobody may be listening.
        let _ = self.context.changes.send(self.view.borrow().clone());
    }
}

/// Writes a job's records in their order, all that wait in one transaction, and tells the engine.
fn keep_journal(
    context: Arc<Context>,
    job: JobId,
    events: mpsc::Sender<Event>,
) -> mpsc::UnboundedSender<(u64, Record)> {
    // The engine has at most one uncommitted record a task under way: bounded by its window.
    let (sender, mut records) = mpsc::unbounded_channel::<(u64, Record)>();
    tokio::spawn(async move {
        let mut batch = Vec::new();
        while records.recv_many(&mut batch, state::BATCH_LIMIT).await > 0 {
            let last = batch.last().map_or(0, |(seq, _)| *seq);
            let rows: Vec<_> =
                batch.drain(..).map(|(seq, record)| (seq, to_json(&record))).collect();
            while let Err(error) = state::jobs::append(&context.db, job, rows.clone()).await {
                tracing::error!(%job, %error, "the journal could not be written; trying again");
                sleep(JOURNAL_RETRY).await;
            }
            if events.send(Event::Appended { seq: last }).await.is_err() {
                return;
            }
        }
    });
    sender
}

pub(super) fn to_json(record: &Record) -> String {
    serde_json::to_string(record).expect("a record has string keys only")
}

/// Takes a job's end over into its view.
pub(super) fn show_end(view: &mut JobView, end: End) {
    view.state = ended_as(end.state);
    view.result = end.result;
    view.report = end.report;
    view.error = end.error.map(Problem::from);
    view.same_as = end.same_as;
    view.notes.extend(end.note.filter(|note| !view.notes.contains(note)));
}

fn ended_as(end: EndState) -> JobState {
    match end {
        EndState::Done => JobState::Done,
        EndState::Failed => JobState::Failed,
        EndState::Cancelled => JobState::Cancelled,
    }
}

fn follow(view: &mut JobView, progress: Progress) {
    view.state = match progress.phase {
        Phase::Queued => JobState::Queued,
        Phase::Running | Phase::Storing => JobState::Running,
        Phase::Ended(end) => ended_as(end),
    };
    view.tasks = progress.stages.iter().map(|stage| u64::from(stage.total)).sum();
    let stages = progress.stages.into_iter().map(|stage| StageView {
        name: stage.name,
        total: stage.total.into(),
        done: stage.done.into(),
        running: stage.running.into(),
        bytes_done: stage.bytes_done,
        bytes_total: stage.bytes_total,
    });
    view.stages = stages.collect();
    view.items = progress.items;
    view.running_items = progress.running_items;
    view.memoized = progress.memoized.into();
    view.counters = progress.counters;
    view.bytes_done = progress.bytes_done;
    view.bytes_total = progress.bytes_total;
    view.workers = view.workers.max(progress.workers);
    view.waiting = progress.why;
    view.refusals = progress.refusals;
}

fn logs_of(report: &JobReport) -> JobLogs {
    let mut logs = JobLogs::default();
    for TaskReport { task, commit, failures, .. } in &report.tasks {
        for failure in failures {
            let FailureReport { attempt, worker, code, message, log, .. } = failure;
            logs.add(*task, *attempt, *worker, log);
            logs.failures.push(AttemptFailure {
                task: *task,
                attempt: *attempt,
                worker: *worker,
                code: code.clone(),
                message: message.clone(),
            });
        }
        if let Some(CommitReport { attempt, worker, log, .. }) = commit {
            logs.add(*task, *attempt, *worker, log);
        }
    }
    logs
}
