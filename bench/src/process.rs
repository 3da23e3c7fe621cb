//! What the kernel says of processes: processor time and memory.

use std::fs;
use std::time::Duration;

/// Ticks a second of the times in `/proc`; the kernel's ABI fixes it for user space.
pub(crate) const TICKS: u64 = 100;

/// The fields of `/proc/PID/stat` from the third on: the second, a name in brackets, may hold spaces.
pub(crate) struct Stat(Vec<u64>);

impl Stat {
    /// That of a process; none when it is gone.
    pub(crate) fn of(pid: &str) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let after_name = text.rsplit(')').next()?;
        // Field 3 is a letter and some others are negative; none of those is asked for.
        Some(Stat(after_name.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect()))
    }

    /// The field of a number that proc(5) gives it.
    pub(crate) fn field(&self, number: usize) -> u64 {
        self.0[number - 3]
    }
}

fn times(pid: &str, fields: std::ops::RangeInclusive<usize>) -> Duration {
    let stat = Stat::of(pid).expect("the process runs, on Linux");
    Duration::from_millis(fields.map(|field| stat.field(field)).sum::<u64>() * 1000 / TICKS)
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
