//! The command line.
//!
//! Every command is a client of the node's HTTP, but for those that make or start a node. One
//! file holds one group of commands; [`output`] alone decides how an answer looks, [`error`] what
//! can go wrong and which exit code says so. Nothing here knows a job kind by name.

mod audit;
mod car;
mod containers;
mod data;
mod debug;
mod error;
#[cfg(test)]
mod fake;
mod gather;
mod images;
mod inputs;
mod items;
mod jobs;
mod keys;
mod local;
mod new;
mod nodes;
mod output;
mod process;
mod progress;
mod run;
mod runtimes;
mod setup;
mod start;
mod stop;
mod terminal;
mod transfer;
mod wheel;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use self::error::{CliError, Exit};
use self::output::{Form, Output, write_stdout};
use crate::api::client::Client;
use crate::home::Home;

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the job or the request failed; 2 wrong usage or input; 3 no node is running \
or it cannot be reached; 4 not found; 5 refused; 130 interrupted.";

/// One private compute swarm out of any set of machines
#[derive(Debug, Parser)]
#[command(name = "ipdc", version, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Global {
    /// The node's home; else the XDG data directory
    #[arg(
        long,
        global = true,
        env = "IPDC_HOME",
        value_name = "DIR",
        help_heading = "Global options"
    )]
    home: Option<PathBuf>,
    /// Print one JSON value on stdout; errors are JSON on stderr
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Print only what a script would pick out
    #[arg(short, long, global = true, conflicts_with = "json", help_heading = "Global options")]
    quiet: bool,
    /// Log more on stderr; twice for all there is
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(nodes::Init),
    Start(start::Start),
    Stop(stop::Stop),
    Pause(nodes::Pause),
    Resume(nodes::Resume),
    Status(nodes::Status),
    Id(nodes::Id),
    Invite(nodes::Invite),
    Join(nodes::Join),
    Peers(nodes::Peers),
    Admit(nodes::Admit),
    Delegate(nodes::Delegate),
    Revoke(nodes::Revoke),
    Rekey(keys::Rekey),
    #[command(subcommand)]
    Root(keys::Root),
    Audit(audit::Audit),
    Add(data::Add),
    Get(data::Get),
    Cat(data::Cat),
    Ls(data::Ls),
    Export(car::Export),
    Import(car::Import),
    Pin(data::PinCommand),
    Unpin(data::Unpin),
    Gc(data::Gc),
    Du(data::Du),
    #[command(subcommand)]
    Runtime(runtimes::Runtime),
    New(new::New),
    Run(run::Run),
    Jobs(jobs::Jobs),
    #[command(subcommand)]
    Job(jobs::Job),
    #[command(subcommand)]
    Container(containers::Container),
    Images(images::Images),
    Completions(Completions),
}

/// Print a shell's completion script
#[derive(Debug, Args)]
struct Completions {
    /// The shell
    shell: Shell,
}

/// What a command works with.
struct Session {
    output: Output,
    home: Option<PathBuf>,
    verbose: u8,
}

impl Session {
    /// The node's home: the flag or `IPDC_HOME`, else the place for a user's data.
    fn home(&self) -> Result<PathBuf, CliError> {
        Ok(Home::locate(self.home.clone())?)
    }

    /// A client of the node that runs in the home.
    fn client(&self) -> Result<Client, CliError> {
        Ok(Client::of_home(&self.home()?)?)
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, args.iter().any(|arg| arg == "--json")).into(),
    };
    let form = match (cli.global.json, cli.global.quiet) {
        (true, _) => Form::Json,
        (_, true) => Form::Quiet,
        _ => Form::Text,
    };
    let output = Output::new(form);
    log_to_stderr(&cli.global);
    let session = Session { output, home: cli.global.home, verbose: cli.global.verbose };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(output, &CliError::file("start threads for", "ipdc")(error)).into();
        }
    };
    let ran = runtime.block_on(cli.command.run(&session));
    // A read of stdin that nobody waits for any more must not keep us.
    runtime.shutdown_background();
    match ran {
        Ok(()) => Exit::Done.into(),
        Err(error) => fail(output, &error).into(),
    }
}

fn fail(output: Output, error: &CliError) -> Exit {
    if !matches!(error, CliError::StdoutClosed | CliError::Command { .. }) {
        output.error(error);
    }
    error.exit()
}

/// Help and version go to stdout; a wrong command line is an error like any other.
fn explain(error: &clap::Error, json: bool) -> Exit {
    let text = error.render();
    if !error.use_stderr() {
        let text = if std::io::stdout().is_terminal() {
            text.ansi().to_string()
        } else {
            text.to_string()
        };
        return match write_stdout(text.as_bytes()) {
            Ok(()) | Err(CliError::StdoutClosed) => Exit::Done,
            Err(error) => error.exit(),
        };
    }
    let text = text.to_string();
    let text = text.trim().trim_start_matches("error: ");
    let (what, more) = text.split_once("\n\n").unwrap_or((text, "try `ipdc --help`"));
    let error = CliError::Usage { what: what.to_owned(), more: more.trim().to_owned() };
    fail(Output::new(if json { Form::Json } else { Form::Text }), &error)
}

/// What the node does goes to stderr, as much of it as was asked for. `IPDC_LOG` overrides it, in
/// the words of `tracing_subscriber::EnvFilter`.
fn log_to_stderr(global: &Global) {
    // connexa calls each dial that failed an error; to us an absent peer is an everyday thing.
    let default = match (global.quiet, global.verbose) {
        (true, _) => "error,connexa=off",
        (false, 0) => "warn,connexa=off,ipdc_node=info",
        (false, 1) => "info,ipdc_node=debug",
        (false, _) => "debug,ipdc_node=trace",
    };
    let filter = EnvFilter::try_from_env("IPDC_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

impl Command {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        match self {
            Command::Init(command) => command.run(session),
            Command::Start(command) => command.run(session).await,
            Command::Stop(command) => command.run(session).await,
            Command::Pause(command) => command.run(session).await,
            Command::Resume(command) => command.run(session).await,
            Command::Status(command) => command.run(session).await,
            Command::Id(command) => command.run(session),
            Command::Invite(command) => command.run(session).await,
            Command::Join(command) => command.run(session).await,
            Command::Peers(command) => command.run(session).await,
            Command::Admit(command) => command.run(session).await,
            Command::Delegate(command) => command.run(session).await,
            Command::Revoke(command) => command.run(session).await,
            Command::Rekey(command) => command.run(session).await,
            Command::Root(command) => command.run(session),
            Command::Audit(command) => command.run(session).await,
            Command::Add(command) => command.run(session).await,
            Command::Get(command) => command.run(session).await,
            Command::Cat(command) => command.run(session).await,
            Command::Ls(command) => command.run(session).await,
            Command::Export(command) => command.run(session).await,
            Command::Import(command) => command.run(session).await,
            Command::Pin(command) => command.run(session).await,
            Command::Unpin(command) => command.run(session).await,
            Command::Gc(command) => command.run(session).await,
            Command::Du(command) => command.run(session).await,
            Command::Runtime(command) => command.run(session).await,
            Command::New(command) => command.run(session),
            Command::Run(command) => command.run(session).await,
            Command::Jobs(command) => command.run(session).await,
            Command::Job(command) => command.run(session).await,
            Command::Container(command) => command.run(session).await,
            Command::Images(command) => command.run(session).await,
            Command::Completions(Completions { shell }) => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "ipdc", &mut script);
                write_stdout(&script)
            }
        }
    }
}

#[cfg(test)]
mod tests;
