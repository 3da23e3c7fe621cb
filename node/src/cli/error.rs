//! What can go wrong on the command line, and the exit code that says so.
//!
//! An error that came from the node keeps its own code and words; those here are the command
//! line's own.

use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ipdc_jobs::ids::{JobId, PeerId};
use miette::Diagnostic;

use super::wheel::WheelError;
use crate::api::client::ClientError;
use crate::config::ConfigError;
use crate::controller::SubmitError;
use crate::home::HomeError;
use crate::interrupt::Interrupted;
use crate::node::NodeError;
use crate::problem::{Detail, Reported};
use crate::swarm::SwarmError;
use crate::swarm::backup::BackupError;
use crate::swarm::identity::IdentityError;
use crate::swarm::join::JoinError;
use crate::swarm::membership::MembershipError;
use crate::view::{ContentPath, JobState};

/// How a command ended, for scripts. The numbers are a promise, listed in `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// It did what it was asked.
    Done,
    /// The job, or the request, failed.
    Failed,
    /// The command or what it was given is wrong.
    Usage,
    /// No node runs, or it cannot be reached.
    NoNode,
    /// There is no such job or content.
    NotFound,
    /// It is not allowed, or was not confirmed.
    Refused,
    /// The job is done, and some of its items failed.
    ItemsFailed,
    /// Ctrl-C.
    Interrupted,
    /// As the command in a container did.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NoNode => 3,
            Exit::NotFound => 4,
            Exit::Refused => 5,
            Exit::ItemsFailed => 6,
            Exit::Interrupted => 130,
            Exit::Command(code) => code,
        })
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(super) enum CliError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Node(#[from] ClientError),

    /// The error that ended a job, in the node's words.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Job(Reported),

    /// In clap's words.
    #[error("{what}")]
    #[diagnostic(code("IPDC-1610"), help("{more}"))]
    Usage { what: String, more: String },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Start(#[from] NodeError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Home(#[from] HomeError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Config(#[from] ConfigError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Identity(#[from] IdentityError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Join(#[from] JoinError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Membership(#[from] MembershipError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Swarm(#[from] SwarmError),

    /// What is wrong in a job directory, seen before anything was added.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Submit(#[from] Box<SubmitError>),

    #[error("cannot {did} {}", path.display())]
    #[diagnostic(code("IPDC-1611"), help("check that it exists and that this user may {did} it"))]
    File { did: &'static str, path: PathBuf, source: io::Error },

    #[error("{} is there already", path.display())]
    #[diagnostic(
        code("IPDC-1612"),
        help("name another place, or move it away: nothing is written over")
    )]
    Exists { path: PathBuf },

    #[error("the directory holds the name `{name}`, which no file here can have")]
    #[diagnostic(
        code("IPDC-1613"),
        help(
            "a name must not be empty, `.` or `..`, and have no `/`; read its parts with `ipdc ls` and `ipdc cat`"
        )
    )]
    Name { name: String },

    #[error("cannot add {}: {why}", path.display())]
    #[diagnostic(
        code("IPDC-1614"),
        help("files, directories of files, and `-` for stdin can be added")
    )]
    NotAddable { path: PathBuf, why: &'static str },

    #[error("{} is no job directory: {}", path.display(), why)]
    #[diagnostic(
        code("IPDC-1615"),
        help("a job directory holds a job.toml and the code that it names; see examples/")
    )]
    NotJobDir { path: PathBuf, why: &'static str },

    #[error("job {job} was cancelled")]
    #[diagnostic(
        code("IPDC-1616"),
        help("submit it again to have its result; what was done is remembered")
    )]
    Cancelled { job: JobId },

    #[error("job {job} has no result: it is {state}")]
    #[diagnostic(
        code("IPDC-1617"),
        help("`ipdc job show {job}` says how far it is or why it failed")
    )]
    NoResult { job: JobId, state: JobState },

    #[error("the task's input cannot be had: {message}")]
    #[diagnostic(
        code("IPDC-1629"),
        help(
            "nobody connected has it any more: run the job again, then debug the task in that one"
        )
    )]
    TaskInput { message: String },

    #[error("the node stopped while it started")]
    #[diagnostic(code("IPDC-1618"), help("the last lines of {} are below; `ipdc start` shows all of them", log.display()))]
    StartFailed {
        log: PathBuf,
        #[related]
        lines: Vec<Detail>,
    },

    #[error("the node is not ready after {} s", after.as_secs())]
    #[diagnostic(code("IPDC-1619"), help("it was ended; the last lines of {} are below", log.display()))]
    StartSlow {
        after: Duration,
        log: PathBuf,
        #[related]
        lines: Vec<Detail>,
    },

    #[error("the node (process {pid}) is still at work {} s after it was asked to stop", after.as_secs())]
    #[diagnostic(
        code("IPDC-1620"),
        help("it hands back what it runs; wait, or end it with `kill {pid}`: nothing is lost")
    )]
    StopSlow { pid: u32, after: Duration },

    #[error("not stopped: the node works for others")]
    #[diagnostic(
        code("IPDC-1621"),
        help(
            "stop it all the same with --yes: attempts are handed back and done elsewhere, containers by hand end"
        )
    )]
    WorksForOthers {
        #[related]
        jobs: Vec<Detail>,
    },

    #[error("the input `{input}` is no file or directory here, matches none, and is no CID")]
    #[diagnostic(
        code("IPDC-1622"),
        help(
            "--input takes a path, a pattern such as 'logs/*.gz' in quotes, or a CID (bafy…, bafk…), with or without a path below it"
        )
    )]
    Input { input: String },

    #[error("the input `{input}` {why}")]
    #[diagnostic(code("IPDC-1628"), help("give it a name of its own: --input NAME={input}"))]
    Inputs { input: String, why: String },

    #[error("after {} s, {ready} of {nodes} local nodes see all the others", after.as_secs())]
    #[diagnostic(
        code("IPDC-1623"),
        help("the machine may be too busy: try fewer nodes with --local N")
    )]
    LocalSwarm { after: Duration, ready: usize, nodes: usize },

    #[error("no node of the local swarm can run job {job}: {why}")]
    #[diagnostic(
        code("IPDC-1634"),
        help(
            "`--allow fetch` lets the job fetch, `--allow process` run native programs, which takes root; what they lack else, a swarm of your own may have"
        )
    )]
    NobodyHere { job: JobId, why: String },

    #[error("no invitation was given")]
    #[diagnostic(
        code("IPDC-1624"),
        help("`ipdc invite` on a node of the swarm prints one: `ipdc join TOKEN`, or on stdin")
    )]
    NoToken,

    #[error("the two passphrases differ")]
    #[diagnostic(code("IPDC-1631"), help("nothing was written; try again"))]
    Passphrases,

    #[error("{} has not the root's key", .0.display())]
    #[diagnostic(
        code("IPDC-1632"),
        help(
            "it is in the home where `ipdc init` ran; `ipdc peers --admission` shows which node that is"
        )
    )]
    NoRootKey(PathBuf),

    #[error("the backup is of root {found}, this node's swarm has root {swarm}")]
    #[diagnostic(
        code("IPDC-1633"),
        help("name the home of a node of that swarm with `--home DIR`")
    )]
    OtherRoot { found: Box<PeerId>, swarm: Box<PeerId> },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Backup(#[from] BackupError),

    #[error("{failed} of the {total} items of job {job} failed")]
    #[diagnostic(code("IPDC-1643"), help("{list}"))]
    Items { job: JobId, failed: u64, total: u64, list: ItemList },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Wheel(#[from] WheelError),

    #[error("interrupted")]
    #[diagnostic(code("IPDC-1625"))]
    Interrupted,

    #[error("cannot write to stdout")]
    #[diagnostic(code("IPDC-1626"), help("check the disk or the program that reads the output"))]
    Stdout(#[source] io::Error),

    #[error("{} holds more than {limit} files and directories", place)]
    #[diagnostic(code("IPDC-1627"), help("move it in parts"))]
    TooMany { place: String, limit: usize },

    #[error("`{name}` cannot be the name of a job")]
    #[diagnostic(
        code("IPDC-1630"),
        help(
            "a name has up to {limit} letters, digits, `-` and `_`, and begins with a letter or a digit"
        )
    )]
    JobName { name: String, limit: usize },

    #[error("a CAR is no text: it is not written to a terminal")]
    #[diagnostic(code("IPDC-1641"), help("write it to a file: `ipdc export {path} > x.car`"))]
    Terminal { path: ContentPath },

    #[error("the export broke off after {bytes} bytes: what was written is not whole")]
    #[diagnostic(
        code("IPDC-1642"),
        help(
            "the node's log says why, with the block that it could not have; then export it again"
        )
    )]
    BrokenOff { bytes: u64, source: ClientError },

    #[error("the container has ended: {why}")]
    #[diagnostic(code("IPDC-1644"), help("`ipdc container ls` shows those that run"))]
    ContainerEnded { why: String },

    #[error("there is no container of the group `{group}`")]
    #[diagnostic(code("IPDC-1645"), help("`ipdc container ls` shows groups"))]
    NoGroup { group: String },

    #[error("stdin is no terminal")]
    #[diagnostic(
        code("IPDC-1646"),
        help("leave out --terminal; with --interactive the command reads this stdin all the same")
    )]
    NoTerminal,

    #[error("the connection to the container broke")]
    #[diagnostic(
        code("IPDC-1647"),
        help(
            "`ipdc container ls` shows whether it still runs, `ipdc peers` whether its node is there"
        )
    )]
    Frames(#[source] io::Error),

    /// A command in a container failed, and has said itself what it had to say.
    #[error("the command ended with exit code {code}")]
    Command { code: u8 },

    /// Whoever reads our stdout has had enough. No error to the user.
    #[error("stdout was closed")]
    StdoutClosed,
}

/// Where the items of a job that is done are listed.
#[derive(Debug)]
pub(super) enum ItemList {
    /// At the node that the job was run at.
    AtNode(JobId),
    /// In its result, in this directory: its nodes are gone.
    In(PathBuf),
}

impl Display for ItemList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ItemList::AtNode(job) => {
                write!(f, "`ipdc job items {job} --failed` shows each with its error and its log")
            }
            ItemList::In(dir) => write!(
                f,
                "`{}` has each with its error, where `status` is `failed`; `--follow` shows its log too",
                dir.join("results.jsonl").display()
            ),
        }
    }
}

impl CliError {
    /// The code that a script sees.
    pub(super) fn exit(&self) -> Exit {
        match self {
            CliError::Node(error) => match error {
                ClientError::NoNode { .. }
                | ClientError::Unreachable { .. }
                | ClientError::Silent { .. } => Exit::NoNode,
                ClientError::Refused(reported) => exit_of_status(reported.status()),
                ClientError::Home { source, .. }
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Exit::Refused
                }
                ClientError::Home { .. } | ClientError::Answer { .. } => Exit::Failed,
            },
            CliError::Home(HomeError::NotInitialised(_)) => Exit::NoNode,
            CliError::Usage { .. }
            | CliError::Config(_)
            | CliError::Join(JoinError::Token(_))
            | CliError::Submit(_)
            | CliError::Home(
                HomeError::Initialised(_) | HomeError::Foreign(_) | HomeError::Nowhere,
            )
            | CliError::Exists { .. }
            | CliError::Terminal { .. }
            | CliError::NotAddable { .. }
            | CliError::NotJobDir { .. }
            | CliError::Input { .. }
            | CliError::JobName { .. }
            | CliError::Inputs { .. }
            | CliError::NoToken
            | CliError::Passphrases
            | CliError::OtherRoot { .. }
            | CliError::Backup(_) => Exit::Usage,
            CliError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Exit::Usage
            }
            CliError::Join(JoinError::Unreachable { .. }) => Exit::NoNode,
            CliError::WorksForOthers { .. }
            | CliError::NoRootKey(_)
            | CliError::Join(
                JoinError::Expired
                | JoinError::UsedUp
                | JoinError::Unknown { .. }
                | JoinError::Refused { .. },
            ) => Exit::Refused,
            CliError::TaskInput { .. } => Exit::NotFound,
            CliError::Interrupted => Exit::Interrupted,
            CliError::Command { code } => Exit::Command(*code),
            CliError::NoGroup { .. } => Exit::NotFound,
            CliError::NoTerminal => Exit::Usage,
            CliError::Items { .. } => Exit::ItemsFailed,
            CliError::StdoutClosed => Exit::Done,
            CliError::Job(_)
            | CliError::Wheel(_)
            | CliError::Start(_)
            | CliError::Home(_)
            | CliError::Identity(_)
            | CliError::Swarm(_)
            | CliError::Join(_)
            | CliError::Membership(_)
            | CliError::File { .. }
            | CliError::BrokenOff { .. }
            | CliError::ContainerEnded { .. }
            | CliError::Frames(_)
            | CliError::Name { .. }
            | CliError::Cancelled { .. }
            | CliError::NoResult { .. }
            | CliError::StartFailed { .. }
            | CliError::StartSlow { .. }
            | CliError::StopSlow { .. }
            | CliError::LocalSwarm { .. }
            | CliError::NobodyHere { .. }
            | CliError::Stdout(_)
            | CliError::TooMany { .. } => Exit::Failed,
        }
    }

    /// For `map_err`: what was `did` to the file at `path` that failed.
    pub(super) fn file(
        did: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> CliError {
        let path = path.into();
        move |source| CliError::File { did, path, source }
    }
}

impl From<Interrupted> for CliError {
    fn from(Interrupted: Interrupted) -> Self {
        CliError::Interrupted
    }
}

/// What the status of a node's answer means for a script.
fn exit_of_status(status: Option<u16>) -> Exit {
    match status {
        Some(404 | 410) => Exit::NotFound,
        Some(401 | 403 | 409 | 429) => Exit::Refused,
        Some(400 | 413 | 415 | 416 | 422) => Exit::Usage,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Problem;

    #[test]
    fn the_nodes_status_becomes_the_exit_code() {
        let problem = Problem {
            code: "IPDC-1610".into(),
            message: String::new(),
            causes: Vec::new(),
            help: None,
            details: Vec::new(),
        };
        let exit = |status| {
            let reported = Reported::with_status(problem.clone(), status);
            CliError::Node(ClientError::Refused(reported)).exit()
        };
        assert_eq!(exit(400), Exit::Usage);
        assert_eq!(exit(401), Exit::Refused);
        assert_eq!(exit(404), Exit::NotFound);
        assert_eq!(exit(409), Exit::Refused);
        assert_eq!(exit(500), Exit::Failed);
        assert_eq!(CliError::Interrupted.exit(), Exit::Interrupted);
    }
}
