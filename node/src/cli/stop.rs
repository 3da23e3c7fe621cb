//! `ipdc stop`: asks first when the node works for others.

use std::io::{self, BufRead as _, IsTerminal as _, Write};
use std::time::Duration;

use clap::Args;
use ipdc_jobs::ids::PeerId;
use serde::Serialize;

use super::Session;
use super::error::CliError;
use super::output::Answer;
use super::process::gone;
use super::progress::Progress;
use crate::api::client::{Client, ClientError};
use crate::problem::Detail;

/// How long a node may take to finish or hand back what it runs: twice what it gives itself.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The status of an answer that the node works for others.
const CONFLICT: u16 = 409;

/// Stop the node; it finishes or hands back what it runs for others
#[derive(Debug, Args)]
pub(super) struct Stop {
    /// Do not ask, although the node works for others
    #[arg(short, long)]
    yes: bool,
}

impl Stop {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        match client.stop(self.yes).await {
            Err(ClientError::Refused(reported)) if reported.status() == Some(CONFLICT) => {
                let jobs = work_for_others(&client).await?;
                if !confirmed(&jobs) {
                    return Err(CliError::WorksForOthers { jobs });
                }
                client.stop(true).await?;
            }
            answer => answer?,
        }
        let run = client.run_info();
        let progress = Progress::new(session.output);
        progress.say("waiting for the node to finish or hand back what it runs");
        if !gone(run.pid, STOP_LIMIT).await {
            return Err(CliError::StopSlow { pid: run.pid, after: STOP_LIMIT });
        }
        drop(progress);
        session.output.put(&Stopped { stopped: run.peer_id })
    }
}

async fn work_for_others(client: &Client) -> Result<Vec<Detail>, CliError> {
    let status = client.status().await?;
    let others = status.working_for.iter().filter(|work| work.submitter != status.peer_id);
    let line = |work: &crate::view::WorkingFor| {
        format!("{} attempts of job {}, submitted by {}", work.attempts, work.job, work.submitter)
    };
    let renters = status.containers.by_hand.iter();
    let renters = renters.filter(|by_hand| by_hand.renter != status.peer_id);
    let lines = others.map(line).chain(renters.map(ToString::to_string));
    Ok(lines.map(Detail).collect())
}

/// Asks on the terminal. Without one nobody can say yes.
fn confirmed(jobs: &[Detail]) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    let mut stderr = io::stderr().lock();
    let mut asked = jobs.iter().try_for_each(|job| writeln!(stderr, "{job}"));
    asked = asked.and_then(|()| write!(stderr, "The node works for others. Stop it? [y/N] "));
    asked = asked.and_then(|()| stderr.flush());
    let mut answer = String::new();
    asked.is_ok()
        && io::stdin().lock().read_line(&mut answer).is_ok()
        && matches!(answer.trim(), "y" | "Y" | "yes")
}

#[derive(Debug, Serialize)]
struct Stopped {
    stopped: PeerId,
}

impl Answer for Stopped {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "stopped {}", self.stopped)
    }
}
