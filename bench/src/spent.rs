//! What a command spends with all that it starts, also what outlives it or is waited for by nobody.
//!
//! The kernel adds a child's time to its parent's only when the parent waits for it, and Ray's daemon
//! does not. So the processes are looked at while they run: of each, what it spent after the last look
//! is missed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use serde::{Deserialize, Serialize};

use crate::process::{Stat, TICKS};

/// Between two looks at the processes: little beside the seconds that they spend, and long beside
/// what a look costs.
const LOOK: Duration = Duration::from_millis(50);

/// How long what a command left running may take to end by itself: Ray's daemons need some seconds.
const LEFT: Duration = Duration::from_secs(20);

/// What a command spent.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spent {
    /// Seconds from its start to its end.
    pub(crate) wall_s: f64,
    /// User and system seconds of all its processes.
    pub(crate) cpu_s: f64,
}

/// Runs a command to its end, then waits for what it left running, and kills what does not end by
/// itself. Prints the [`Spent`] as a last line. For a process of its own: it takes all orphans.
///
/// # Errors
/// When the command cannot be run.
pub(crate) fn spent(command: &[OsString]) -> io::Result<ExitCode> {
    let [program, args @ ..] = command else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command"));
    };
    // Orphans become children of ours: nothing leaves the family.
    set_child_subreaper(Some(getpid()))?;
    let mut family = Family::default();
    let start = Instant::now();
    let mut child = Command::new(program).args(args).spawn()?;
    let status = loop {
        family.look();
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK);
    };
    let wall = start.elapsed();
    let deadline = Instant::now() + LEFT;
    loop {
        let alive = family.look();
        if alive.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            for pid in alive {
                // It may have ended.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        std::thread::sleep(LOOK);
    }
    let spent = Spent { wall_s: wall.as_secs_f64(), cpu_s: family.cpu().as_secs_f64() };
    println!("{}", serde_json::to_string(&spent)?);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All processes below this one that were ever seen.
#[derive(Default)]
struct Family {
    /// Ticks that each had spent when last seen, by its ID and start, as IDs come again.
    ticks: HashMap<(i32, u64), u64>,
}

impl Family {
    /// Looks at those that are there now, and gives them.
    fn look(&mut self) -> Vec<Pid> {
        let all = processes();
        let mut found = Vec::new();
        for (&pid, stat) in &all {
            if is_below_us(pid, &all) {
                self.ticks.insert((pid, stat.field(22)), stat.field(14) + stat.field(15));
                found.extend(Pid::from_raw(pid));
            }
        }
        found
    }

    fn cpu(&self) -> Duration {
        Duration::from_millis(self.ticks.values().sum::<u64>() * 1000 / TICKS)
    }
}

fn processes() -> HashMap<i32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, Stat::of(&pid.to_string())?))).collect()
}

fn is_below_us(pid: i32, all: &HashMap<i32, Stat>) -> bool {
    let us = getpid().as_raw_nonzero().get();
    let mut above = pid;
    // A process that ended between two reads can leave a gap, but no circle that is not cut here.
    for _ in 0..all.len() {
        let Some(stat) = all.get(&above) else { return false };
        above = stat.field(4) as i32;
        if above == us {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_nobody_waits_for_is_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("there is a sleep");
        let mut family = Family::default();
        let found = family.look();
        assert!(found.contains(&Pid::from_child(&child)), "{found:?}");
        child.kill().expect("it runs");
        child.wait().expect("it is a child");
        assert!(!family.look().contains(&Pid::from_child(&child)));
    }
}
