//! What the kernel says of processes, their time and memory; and what a command spends with all that
//! it starts.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use serde::{Deserialize, Serialize};

/// Ticks a second of the times in `/proc`; the kernel's ABI fixes it for user space.
const TICKS: u64 = 100;

/// How long what a command left running may take to end by itself: Ray's daemons need some seconds.
const LEFT: Duration = Duration::from_secs(20);

/// Between two looks at whether it did.
const LOOK: Duration = Duration::from_millis(20);

/// The fields of `/proc/PID/stat` from the third on: the second, a name in brackets, may hold spaces.
fn stat(pid: &str) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs, on Linux");
    let after_name = text.rsplit(')').next().expect("rsplit gives one part at least");
    // Field 3 is a letter and some others are negative; none of those is asked for.
    after_name.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect()
}

fn times(pid: &str, fields: std::ops::RangeInclusive<usize>) -> Duration {
    let ticks: u64 = stat(pid)[*fields.start() - 3..=*fields.end() - 3].iter().sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// User and system time of a process and of its children that ended.
pub(crate) fn cpu(pid: u32) -> Duration {
    times(&pid.to_string(), 14..=17)
}

/// User and system time of all children of ours that ended.
pub(crate) fn children_cpu() -> Duration {
    times("self", 16..=17)
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most resident memory that a process ever had, in bytes.
pub(crate) fn peak(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, name: &str) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs, on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a process has memory") * 1024
}

/// What a command spent with all that it started, also what outlived it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spent {
    /// Seconds from its start to its end.
    pub(crate) wall_s: f64,
    /// User and system seconds.
    pub(crate) cpu_s: f64,
}

/// Runs a command to its end, waits for what it left running, and prints the [`Spent`] as a last line.
/// In a process of its own: every process that comes to it is waited for.
///
/// # Errors
/// When it cannot be run.
pub(crate) fn spent(command: &[OsString]) -> io::Result<ExitCode> {
    let [program, args @ ..] = command else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command"));
    };
    // Orphans below come to us, and with them their time.
    set_child_subreaper(Some(getpid()))?;
    let start = Instant::now();
    let status = Command::new(program).args(args).spawn()?.wait()?;
    let wall = start.elapsed();
    let deadline = Instant::now() + LEFT;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => continue,
            Err(Errno::CHILD) => break,
            Err(error) => return Err(error.into()),
            Ok(None) if Instant::now() > deadline => kill_children()?,
            Ok(None) => {}
        }
        std::thread::sleep(LOOK);
    }
    let spent = Spent { wall_s: wall.as_secs_f64(), cpu_s: children_cpu().as_secs_f64() };
    println!("{}", serde_json::to_string(&spent)?);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Kills each child of this process.
fn kill_children() -> io::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let is_ours = fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.contains(&format!("\nPPid:\t{}\n", getpid())));
        if let Some(child) = Pid::from_raw(pid).filter(|_| is_ours) {
            // It may have ended.
            let _ = kill_process(child, Signal::KILL);
        }
    }
    Ok(())
}
