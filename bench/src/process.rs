//! What the kernel says of processes: processor time and memory.

use std::fs;
use std::time::Duration;

/// Ticks a second of the times in `/proc`; the kernel's ABI fixes it for user space.
const TICKS: u64 = 100;

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
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs, on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a process has resident memory") * 1024
}
