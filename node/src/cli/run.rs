//! `ipdc run`: adds a job directory, submits it, follows it, fetches its result.

use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use ipdc_jobs::engine::Runtime;
use ipdc_jobs::ids::JobId;
use ipdc_jobs::kind::{self, Items, Kind};
use ipdc_jobs::spec::{self, JobSpec};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Session;
use super::error::{CliError, ItemList};
use super::inputs::{Input, Inputs};
use super::items;
use super::local::{Allow, LocalSwarm};
use super::output::{Answer, Output, span};
use super::progress::{Progress, step};
use super::{runtimes, transfer};
use crate::api::client::{Client, ClientError};
use crate::controller::SubmitError;
use crate::interrupt::Interrupts;
use crate::view::{Accepted, JobState, JobView, StepView, Submission};

/// How long a job is followed without its node answering. A node that was killed and is started
/// again takes a few seconds, and its jobs go on.
const RECONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How long to wait before a node that does not answer is asked again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// How long a job may wait in a local swarm of which no node can run it: they know each other when it begins.
const NOBODY_LIMIT: Duration = Duration::from_secs(10);

/// How long a cancelled job may take to say so.
const CANCEL_LIMIT: Duration = Duration::from_secs(20);

/// The pause between looks at a job that runs for longer than a second.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);

/// The most nodes that `--local` starts: what one machine's memory and ports bear.
const LOCAL_LIMIT: i64 = 64;

/// Characters of a job ID that name the directory of its result: enough that no two collide.
const SHORT_ID: usize = 10;

/// The file that makes a directory a job directory.
const JOB_FILE: &str = "job.toml";

/// Run a job, or the steps of a job directory one after the other, and wait for the result
#[derive(Debug, Args)]
#[command(override_usage = "ipdc run [OPTIONS] [KIND] JOBDIR")]
pub(super) struct Run {
    /// The job's kind, which job.toml says too; left out where that has steps
    #[arg(value_name = "KIND")]
    kind_or_dir: PathBuf,
    /// The job directory: job.toml, code, data
    #[arg(value_name = "JOBDIR")]
    dir: Option<PathBuf>,
    /// How many nodes should work for it; fewer do when there are fewer
    #[arg(long, value_name = "K")]
    workers: Option<NonZeroU32>,
    /// The input, of steps the first one's, in place of the one that job.toml names: a path, a pattern
    /// ('logs/*.gz'), or a CID; of several each, as it is or with a name for the job's code, NAME=PATH or
    /// NAME=CID
    #[arg(long = "input", value_name = "[NAME=]PATH|CID")]
    inputs: Vec<Input>,
    /// Run every task, also those whose outputs a node remembers
    #[arg(long)]
    no_memo: bool,
    /// Fetch the result to this directory, which must not be there or be empty
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Start N nodes on this machine for this one job; needs no set-up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=LOCAL_LIMIT))]
    local: Option<u32>,
    /// Print each item as it ends, as a line of JSON, in place of the result's CID
    #[arg(long)]
    follow: bool,
    /// What runs Python on these nodes: the module, or the wheel that `ipdc runtime add python` fetches
    #[arg(long, value_name = "FILE", requires = "local")]
    python: Option<PathBuf>,
    /// What these nodes let the job do beside computing; may be repeated
    #[arg(long, value_name = "WHAT", value_enum, requires = "local")]
    allow: Vec<Allow>,
    /// Print the job's ID as soon as it is accepted, and leave
    #[arg(long, conflicts_with_all = ["local", "out", "follow"])]
    detach: bool,
    /// Set one of the job's parameters; the value is read as JSON, else taken as text
    #[arg(long = "param", value_name = "KEY=VALUE")]
    params: Vec<Param>,
}

impl Run {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let jobs = check_job_dir(self.job()?.1)?;
        let inputs = Inputs::new(&self.inputs, &jobs[0])?;
        if let Some(out) = &self.out {
            transfer::check_goal(out)?;
        }
        let mut interrupts = Interrupts::listen();
        let Some(nodes) = self.local else {
            let place = Place::new(session.home()?)?;
            return self.on(place, &inputs, session.output, &mut interrupts).await;
        };
        let progress = Progress::new(session.output);
        progress.say(format!("starting {nodes} nodes"));
        let swarm = interrupts.unless(LocalSwarm::start(nodes, &self.allow)).await??;
        let place = Place { is_all: true, ..Place::new(swarm.home().to_owned())? };
        if let Some(file) = &self.python {
            let module = runtimes::read(file).await?;
            let adding = runtimes::add(&place.client, Runtime::Python.name(), module, &progress);
            interrupts.unless(adding).await??;
        }
        drop(progress);
        self.on(place, &inputs, session.output, &mut interrupts).await
    }

    /// Runs the job at a node that is there.
    async fn on(
        self,
        mut place: Place,
        inputs: &Inputs,
        output: Output,
        interrupts: &mut Interrupts,
    ) -> Result<(), CliError> {
        let progress = Progress::new(output);
        let submitting = self.submit(&place.client, inputs, &progress);
        let accepted = interrupts.unless(submitting).await??;
        accepted.notes.iter().for_each(|note| output.note(note));
        if self.detach {
            drop(progress);
            return output.put(&accepted);
        }
        // What a step before the last left to complain of.
        let mut complaint = Ok(());
        let mut view = self.follow(accepted.job, &mut place, &progress, interrupts, output).await?;
        while let Some(next) = view.next {
            output.note(summary(&view));
            complaint = complaint.and(end_of(&view, ItemList::AtNode(view.job)));
            view = self.follow(next, &mut place, &progress, interrupts, output).await?;
        }
        let out = self.out.or_else(|| self.local.map(|_| local_out(view.job)));
        if let (Some(result), Some(out)) = (view.result, &out) {
            let result = result.into();
            let fetching = transfer::fetch(&place.client, &result, out, &progress);
            interrupts.unless(fetching).await??;
        }
        drop(progress);
        // A local swarm's nodes cannot be asked any more.
        let list = match (self.local, &out) {
            (Some(_), Some(out)) => ItemList::In(out.clone()),
            _ => ItemList::AtNode(view.job),
        };
        let end = match &view.stopped {
            Some(problem) => Err(CliError::Job(problem.clone().into())),
            None => end_of(&view, list),
        };
        if end.is_ok() {
            output.note(summary(&view));
        }
        let out = out.filter(|_| view.result.is_some());
        match out {
            Some(out) if self.follow => output.note(format!("the result is in {}", out.display())),
            _ if self.follow => {}
            out => output.put(&Ran { view, out })?,
        }
        end.and(complaint)
    }

    /// Follows one job, with its items if that was asked for, to its end.
    async fn follow(
        &self,
        job: JobId,
        place: &mut Place,
        progress: &Progress,
        interrupts: &mut Interrupts,
        output: Output,
    ) -> Result<JobView, CliError> {
        let mut shows = place.clone();
        let showing = async {
            // Of several steps, those without items are passed over.
            if !self.follow || !has_items_or_is_alone(&shows.client.job(&job.to_string()).await?) {
                return Ok(());
            }
            items::show(&mut shows, &job.to_string(), false, progress).await
        };
        let (view, shown) = tokio::join!(place.follow(job, progress, interrupts, output), showing);
        let view = view?;
        shown?;
        Ok(view)
    }

    /// The kind, if one was given, and the job directory.
    fn job(&self) -> Result<(Option<&str>, &Path), CliError> {
        let Some(dir) = &self.dir else { return Ok((None, &self.kind_or_dir)) };
        match self.kind_or_dir.to_str().filter(|kind| kind::find(kind).is_some()) {
            Some(kind) => Ok((Some(kind), dir)),
            None => {
                let given = self.kind_or_dir.display().to_string();
                Err(Box::new(SubmitError::unknown_kind(given)).into())
            }
        }
    }

    async fn submit(
        &self,
        client: &Client,
        inputs: &Inputs,
        progress: &Progress,
    ) -> Result<Accepted, CliError> {
        let (input, inputs) = inputs.add(client, progress).await?;
        let (kind, dir) = self.job()?;
        let dir = transfer::send_job(client, dir, progress).await?;
        progress.say("checking the job; if it has a Dockerfile, building its image");
        let submission = Submission {
            kind: kind.map(str::to_owned),
            job: Some(dir.added.cid),
            files: None,
            input,
            inputs,
            workers: self.workers.map(NonZeroU32::get),
            memo: self.no_memo.then_some(false),
            params: self.params.iter().map(|p| (p.key.clone(), p.value.clone())).collect(),
            key: None,
        };
        Ok(client.submit(&submission).await?)
    }
}

fn has_items_or_is_alone(view: &JobView) -> bool {
    view.step.is_none() || kind::find(&view.kind).is_some_and(Kind::has_items)
}

/// Where a local swarm's result goes when nobody said where: its nodes will not be there to ask.
fn local_out(job: JobId) -> PathBuf {
    let mut name = job.to_string();
    name.truncate(SHORT_ID);
    PathBuf::from(format!("ipdc-{name}"))
}

/// The job, or the steps, that `job.toml` describes. What is wrong with a job directory is told before anything is added or
/// started; what its files hold the node checks.
fn check_job_dir(dir: &Path) -> Result<Vec<JobSpec>, CliError> {
    let wrong = |why| CliError::NotJobDir { path: dir.to_owned(), why };
    if !dir.is_dir() {
        return Err(wrong(if dir.exists() { "it is no directory" } else { "it does not exist" }));
    }
    let path = dir.join(JOB_FILE);
    if !path.is_file() {
        return Err(wrong("it holds no job.toml"));
    }
    let text = fs::read_to_string(&path).map_err(CliError::file("read", &path))?;
    Ok(spec::parse(&text, JOB_FILE).map_err(|wrong| Box::new(SubmitError::from(wrong)))?)
}

/// The node that a job is followed at. It may go and come back at another port.
#[derive(Clone)]
pub(super) struct Place {
    home: PathBuf,
    client: Client,
    /// Its swarm is all that there will be: a job that no node of it can run never will be.
    is_all: bool,
}

impl Place {
    pub(super) fn new(home: PathBuf) -> Result<Self, CliError> {
        Ok(Place { client: Client::of_home(&home)?, home, is_all: false })
    }

    /// Waits for the job's end. The first interrupt cancels the job, the second leaves at once.
    async fn follow(
        &mut self,
        job: JobId,
        progress: &Progress,
        interrupts: &mut Interrupts,
        output: Output,
    ) -> Result<JobView, CliError> {
        tokio::select! {
            view = self.follow_to_end(job, progress) => return view,
            () = interrupts.next() => {}
        }
        output.note(format!("cancelling job {job}; Ctrl-C again leaves at once"));
        progress.say("cancelling");
        let cancelling = async {
            self.client.cancel(&job.to_string()).await?;
            self.follow_to_end(job, progress).await
        };
        let view = interrupts.unless(timeout(CANCEL_LIMIT, cancelling)).await?;
        match view {
            // The end came first: it counts.
            Ok(Ok(view)) if view.state == JobState::Done => Ok(view),
            Ok(Ok(view)) => {
                output.note(format!("job {job} is {}", view.state));
                Err(CliError::Interrupted)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                output.note(format!("the node has not confirmed it; see `ipdc job show {job}`"));
                Err(CliError::Interrupted)
            }
        }
    }

    async fn follow_to_end(
        &mut self,
        job: JobId,
        progress: &Progress,
    ) -> Result<JobView, CliError> {
        let (mut since, mut nobody) = (None, None);
        loop {
            let looking = self.look(job, since);
            let view = match &nobody {
                None => looking.await?,
                Some((until, why)) => match timeout_at(*until, looking).await {
                    Ok(view) => view?,
                    Err(_) => {
                        let why = String::clone(why);
                        // Who waits for its items hears of the end.
                        let _ = self.client.cancel(&job.to_string()).await;
                        return Err(CliError::NobodyHere { job, why });
                    }
                },
            };
            progress.job(&view);
            if view.state.is_end() {
                return Ok(view);
            }
            let waiting = view.waiting.clone().filter(|_| view.state == JobState::Queued);
            nobody = waiting.filter(|_| self.is_all).map(|why| {
                (nobody.map_or_else(|| Instant::now() + NOBODY_LIMIT, |(until, _)| until), why)
            });
            since = Some(view.version);
            // Short jobs are answered at once; long ones need not be watched task by task.
            if view.seconds > 1.0 {
                sleep(FOLLOW_PAUSE).await;
            }
        }
    }

    /// The job after version `since`; asks again for a while when the node is away.
    async fn look(&mut self, job: JobId, since: Option<u64>) -> Result<JobView, ClientError> {
        let mut away = None;
        loop {
            match self.try_look(job, since).await {
                Ok(view) => return Ok(view),
                Err(error) => self.wait(&mut away, error).await?,
            }
        }
    }

    /// Waits for a moment before a node is asked again that is `away`; gives up when it was for too long.
    pub(super) async fn wait(
        &mut self,
        away: &mut Option<Instant>,
        error: ClientError,
    ) -> Result<(), ClientError> {
        let gone = matches!(error, ClientError::Unreachable { .. } | ClientError::NoNode { .. });
        let since_when = *away.get_or_insert_with(Instant::now);
        if !gone || since_when.elapsed() > RECONNECT_LIMIT {
            return Err(error);
        }
        sleep(RECONNECT_PAUSE).await;
        if let Ok(client) = Client::of_home(&self.home) {
            self.client = client;
        }
        Ok(())
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    async fn try_look(&self, job: JobId, since: Option<u64>) -> Result<JobView, ClientError> {
        match since {
            Some(since) => self.client.job_after(job, since).await,
            None => self.client.job(&job.to_string()).await,
        }
    }
}

/// What a job's end means for the command. `list` is where its items are found.
pub(super) fn end_of(view: &JobView, list: ItemList) -> Result<(), CliError> {
    let failed = view.items.filter(|items| items.failed > 0);
    match (view.state, &view.error) {
        (JobState::Done, _) => match failed {
            Some(Items { total, failed, .. }) => {
                Err(CliError::Items { job: view.job, failed, total, list })
            }
            None => Ok(()),
        },
        (JobState::Cancelled, _) => Err(CliError::Cancelled { job: view.job }),
        (_, Some(problem)) => {
            let mut problem = problem.clone();
            if let Some(StepView { name, .. }) = &view.step {
                problem.message = format!("step `{name}`: {}", problem.message);
            }
            Err(CliError::Job(problem.into()))
        }
        (state, None) => Err(CliError::NoResult { job: view.job, state }),
    }
}

fn summary(view: &JobView) -> String {
    let step = step(view).map(|step| format!("{step}: ")).unwrap_or_default();
    if let Some(before) = view.same_as {
        return format!("{step}nothing changed, the result of job {before} stands");
    }
    let time = span(Duration::from_secs_f64(view.seconds.max(0.0)));
    let remembered = match view.memoized {
        0 => String::new(),
        n => format!(", {n} of them remembered"),
    };
    let items = view.items.map(|items| format!("{} items in ", items.total)).unwrap_or_default();
    format!("{step}job {} done in {time}: {items}{} tasks{remembered}", view.job, view.tasks)
}

/// The answer of `run`: the job as it ended, and where its result was put.
#[derive(Debug, Serialize)]
struct Ran {
    #[serde(flatten)]
    view: JobView,
    out: Option<PathBuf>,
}

impl Answer for Ran {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        self.quiet(to)?;
        match &self.out {
            Some(out) => writeln!(to, "{}", out.display()),
            None => Ok(()),
        }
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        match &self.view.result {
            Some(result) => writeln!(to, "{result}"),
            None => Ok(()),
        }
    }
}

impl Answer for Accepted {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.job)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.text(to)
    }
}

/// One `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq)]
struct Param {
    key: String,
    value: Value,
}

/// A text that is no parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected KEY=VALUE, with a KEY of letters, digits, `_` and `-`")]
struct BadParam;

impl FromStr for Param {
    type Err = BadParam;

    fn from_str(text: &str) -> Result<Self, BadParam> {
        let (key, value) = text.split_once('=').ok_or(BadParam)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if key.is_empty() || !key.chars().all(plain) {
            return Err(BadParam);
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        Ok(Param { key: key.to_owned(), value })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use crate::problem::Problem;

    use super::super::fake::FakeNode;
    use super::super::output::Form;
    use super::*;

    #[tokio::test]
    async fn a_job_is_followed_over_the_death_and_return_of_its_node() {
        let mut node = FakeNode::start().await;
        node.world()
            .views
            .extend([FakeNode::view(JobState::Queued, 1), FakeNode::view(JobState::Running, 2)]);
        let mut place = Place::new(node.home().to_owned()).unwrap();
        let job = place.look(JobId::of_manifest(b"job"), None).await.unwrap().job;
        node.kill().await;
        let progress = Progress::new(Output::new(Form::Quiet));
        let following = place.follow_to_end(job, &progress);
        let returning = async {
            sleep(RECONNECT_PAUSE).await;
            node.start_again().await;
            node.world().views.push_back(FakeNode::view(JobState::Done, 3));
        };
        let (view, ()) = tokio::join!(following, returning);
        assert_eq!(view.unwrap().state, JobState::Done);
    }

    #[test]
    fn each_end_of_a_job_is_told_apart() {
        let job = JobId::of_manifest(b"job");
        let end_of = |view: &JobView| end_of(view, ItemList::AtNode(job));
        assert!(end_of(&FakeNode::view(JobState::Done, 1)).is_ok());
        let cancelled = end_of(&FakeNode::view(JobState::Cancelled, 1));
        assert!(matches!(cancelled, Err(CliError::Cancelled { .. })));
        let problem = Problem {
            code: "IPDC-1610".into(),
            message: "the guest trapped".into(),
            causes: Vec::new(),
            help: None,
            details: Vec::new(),
        };
        let mut failed = FakeNode::view(JobState::Failed, 1);
        failed.error = Some(problem.clone());
        let error = end_of(&failed).unwrap_err();
        assert_eq!(Problem::of(&error), problem);
    }

    #[test]
    fn a_parameter_is_json_or_else_text() {
        let cases = [
            ("n=3", "n", json!(3)),
            ("n=-2.5", "n", json!(-2.5)),
            ("on=true", "on", json!(true)),
            ("word=true story", "word", json!("true story")),
            ("text=\"3\"", "text", json!("3")),
            ("list=[1,2]", "list", json!([1, 2])),
            ("url=http://x/?a=b", "url", json!("http://x/?a=b")),
            ("empty=", "empty", json!("")),
        ];
        for (text, key, value) in cases {
            assert_eq!(text.parse(), Ok(Param { key: key.into(), value }), "{text}");
        }
        for wrong in ["", "x", "=1", "a b=1", "a.b=1"] {
            assert_eq!(wrong.parse::<Param>(), Err(BadParam), "{wrong}");
        }
    }

    #[test]
    fn a_directory_without_job_toml_is_no_job_directory() {
        let dir = tempfile::tempdir().unwrap();
        let why = |path: &Path| check_job_dir(path).unwrap_err().to_string();
        assert!(why(dir.path()).ends_with("it holds no job.toml"));
        assert!(why(&dir.path().join("none")).ends_with("it does not exist"));
        let file = dir.path().join(JOB_FILE);
        fs::write(&file, "").unwrap();
        assert!(why(&file).ends_with("it is no directory"));
    }

    #[test]
    fn a_malformed_job_toml_is_told_with_its_line_before_anything_is_added() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(JOB_FILE), "kind = \"mr\"\nworkers = \"many\"\n").unwrap();
        let problem = Problem::of(&check_job_dir(dir.path()).unwrap_err());
        assert!(problem.details[0].starts_with("job.toml:2: "), "{problem:?}");
    }
}
