//! Nodes as processes of their own: started from here, awaited, ended.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::error::CliError;
use crate::api::client::Client;
use crate::config;
use crate::home::Home;
use crate::problem::Detail;
use crate::view::RunInfo;

/// A log longer than this, in bytes, is put aside when its node starts: a month of a busy node.
const LOG_LIMIT: u64 = 16 << 20;

/// How much of a log's end is shown when its node dies: what fits a screen.
const LOG_TAIL: (u64, usize) = (8 << 10, 12);

/// How often a starting node is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// How long a killed process may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The flag that ties a node's life to its stdin.
pub(super) const WHILE_STDIN: &str = "--while-stdin";

/// Whether a node outlives us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    /// It is a daemon: in a session of its own.
    Own,
    /// It ends with us, whatever ends us: it reads a pipe that only we hold open. It has these settings.
    Ours { settings: Vec<(&'static str, String)> },
}

/// A node that was started from here.
#[derive(Debug)]
pub(super) struct NodeProcess {
    child: Child,
    life: Life,
    home: PathBuf,
    log: PathBuf,
    /// Where its own lines begin in the log.
    log_start: u64,
}

impl NodeProcess {
    /// Starts `ipdc start` with these arguments in `home`.
    pub(super) fn spawn(
        home: &Home,
        args: impl IntoIterator<Item = OsString>,
        life: Life,
    ) -> Result<Self, CliError> {
        let log = home.log();
        if fs::metadata(&log).is_ok_and(|log| log.len() > LOG_LIMIT) {
            let aside = log.with_extension("log.old");
            fs::rename(&log, &aside).map_err(CliError::file("write", &aside))?;
        }
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(CliError::file("write", &log))?;
        let log_start = file.metadata().map_err(CliError::file("read", &log))?.len();
        let second = file.try_clone().map_err(CliError::file("write", &log))?;
        let program = std::env::current_exe().map_err(CliError::file("find", "ipdc"))?;
        let mut command = Command::new(&program);
        command.arg("--home").arg(home.path()).arg("start").args(args);
        command.stdout(file).stderr(second);
        match &life {
            Life::Own => {
                command.stdin(Stdio::null());
                in_own_session(&mut command);
            }
            Life::Ours { settings: ours } => {
                command.arg(WHILE_STDIN).stdin(Stdio::piped()).kill_on_drop(true);
                // In a process group of its own: the terminal's Ctrl-C is for us alone.
                command.process_group(0);
                // The user's settings are for the user's node.
                let settings = std::env::vars_os().map(|(name, _)| name);
                settings.filter(|name| is_setting(name)).for_each(|name| {
                    command.env_remove(name);
                });
                command.envs(ours.iter().map(|(name, value)| (name, value)));
            }
        }
        let child = command.spawn().map_err(CliError::file("run", &program))?;
        Ok(NodeProcess { child, life, home: home.path().to_owned(), log, log_start })
    }

    /// Waits until the node says that it is ready. One that is not in time is ended.
    pub(super) async fn ready(&mut self, limit: Duration) -> Result<RunInfo, CliError> {
        let start = Instant::now();
        loop {
            if let Ok(client) = Client::of_home(&self.home)
                && Some(client.run_info().pid) == self.child.id()
            {
                return Ok(client.run_info().clone());
            }
            let ended = self.child.try_wait().map_err(CliError::file("wait for", "ipdc"))?;
            if ended.is_some() {
                return Err(CliError::StartFailed {
                    lines: self.last_lines(),
                    log: self.log.clone(),
                });
            }
            if start.elapsed() > limit {
                self.kill();
                let lines = self.last_lines();
                return Err(CliError::StartSlow { after: limit, lines, log: self.log.clone() });
            }
            sleep(GLANCE).await;
        }
    }

    /// Sends SIGKILL. To be sure that it is gone, [`NodeProcess::wait_killed`].
    pub(super) fn kill(&mut self) {
        // It fails only when the process is gone already.
        let _ = self.child.start_kill();
    }

    /// Waits, without the async runtime, until a killed node is gone.
    pub(super) fn wait_killed(&mut self) {
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < KILL_LIMIT {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The last lines of what the node itself logged.
    fn last_lines(&self) -> Vec<Detail> {
        tail(&self.log, self.log_start).unwrap_or_default().into_iter().map(Detail).collect()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if self.life != Life::Own {
            self.kill();
        }
    }
}

fn is_setting(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    name.starts_with("IPDC_") && !config::OTHER_VARIABLES.contains(&&*name)
}

/// Has the program start in a session of its own, so that no terminal's end reaches it.
#[allow(unsafe_code)]
fn in_own_session(command: &mut Command) {
    // SAFETY: setsid takes and gives plain numbers.
    let detach = || match unsafe { libc::setsid() } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; setsid is one, and
    // last_os_error reads errno without allocating.
    unsafe { command.pre_exec(detach) };
}

fn tail(log: &Path, start: u64) -> io::Result<Vec<String>> {
    let (bytes, lines) = LOG_TAIL;
    let mut file = fs::File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(bytes))))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(all[all.len().saturating_sub(lines)..].iter().map(|&line| line.to_owned()).collect())
}

/// Waits until stdin is closed: whoever started us is gone, or wants us to be.
pub(super) async fn stdin_closed() {
    let (closed, wait) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own, which the async runtime's end need not wait for.
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(closed);
    });
    let _ = wait.await;
}

/// Waits until process `pid` is gone; false when it is still there after `limit`.
pub(super) async fn gone(pid: u32, limit: Duration) -> bool {
    let start = Instant::now();
    while alive(pid) {
        if start.elapsed() > limit {
            return false;
        }
        sleep(GLANCE).await;
    }
    true
}

fn alive(pid: u32) -> bool {
    let pid = Pid::from_u32(pid);
    let mut system = System::new();
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        true,
        ProcessRefreshKind::nothing(),
    );
    // A zombie has ended; its parent has not looked yet.
    system.process(pid).is_some_and(|process| process.status() != ProcessStatus::Zombie)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_since_the_start_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let old = "of an earlier run\n";
        let new: String = (0..50).map(|n| format!("line {n}\n\n")).collect();
        fs::write(&log, format!("{old}{new}")).unwrap();
        let lines = tail(&log, old.len() as u64).unwrap();
        assert_eq!(lines.len(), LOG_TAIL.1);
        assert_eq!(lines.last().unwrap(), "line 49");

        fs::write(&log, format!("{old}one\n")).unwrap();
        assert_eq!(tail(&log, old.len() as u64).unwrap(), ["one"]);
    }

    #[tokio::test]
    async fn a_process_that_ended_is_gone_and_one_that_lives_is_not() {
        let mut child = std::process::Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(alive(child.id()));
        assert!(!gone(child.id(), Duration::from_millis(1)).await);
        child.kill().unwrap();
        assert!(gone(child.id(), KILL_LIMIT).await, "a zombie counts as gone");
        child.wait().unwrap();
        assert!(!alive(child.id()));
    }
}
