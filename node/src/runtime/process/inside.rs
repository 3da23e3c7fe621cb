//! What a launcher is: two processes of this program, and what they do.
//!
//! The outer one takes a user, leaves the machine's namespaces and starts the inner one in them, then waits for
//! its end. The inner one is the first process of its process namespace: it enters the control group, makes the
//! tree of files the whole of what it sees, gives up what no program may get from it, and runs the program as often
//! as it is told to. When it ends, for whatever reason, the kernel ends all that it or any program started, and takes
//! the namespaces away. It ends when the node does, for then the socket on its stdin closes.
//!
//! It is on the trusted side: it reads nothing that a program writes, but the names of files.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{DupFlags, Errno, FdFlags, dup2, dup3, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, kill_process_group, nice, pidfd_open,
    set_parent_process_death_signal, setrlimit, wait,
};
use rustix::thread::{
    CapabilitySet, UnshareFlags, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_no_new_privs, unshare_unsafe,
};
use serde::{Deserialize, Serialize};

use super::left::{self, Left};
use super::order::{self, Answer, End, Order};
use super::root;
use super::uid::Uid;
use crate::config::Uids;

/// The arguments that make a process of this program a launcher, outer and inner.
pub(super) const OUTER: &str = "launch-processes";
const INNER: &str = "launch-processes-inside";

/// The descriptor that a program has for what it asks.
const ASKS: i32 = 3;

/// How often the dead are looked for whose parents did not wait for them.
const REAP: Duration = Duration::from_millis(100);

/// Files that a program may have open at a time: what most systems give.
const OPEN_LIMIT: u64 = 1_024;

/// How much programs give way: the node answers others, and the machine's user works, before them. Where nothing else
/// wants the processors they have them all.
const NICE: i32 = 10;

/// How often a program is started again that somebody seems to write: a process of the node that was started at
/// the same moment holds the file open until it runs its own program, some milliseconds later.
const BUSY_RETRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Where a launcher works.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    /// The folder with `job` and `code`.
    pub(super) folder: PathBuf,
    /// Where it joins its group.
    pub(super) doors: Vec<PathBuf>,
    pub(super) uids: Uids,
}

/// Is a launcher of processes, if that is what this process was started for. To be called before there is
/// another thread.
#[must_use]
pub fn launch_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let role = arguments.next()?;
    let role = [OUTER, INNER].into_iter().find(|name| role == OsStr::new(name))?;
    let place = arguments.next().and_then(|text| serde_json::from_str(text.to_str()?).ok());
    let uid = arguments.next().and_then(|text| text.to_str()?.parse().ok());
    let ended = match (role, place, uid) {
        (OUTER, Some(place), _) => outer(&place),
        (INNER, Some(place), Some(uid)) if std::process::id() == 1 => inner(&place, uid),
        _ => Err("this is for `ipdc start` to run".to_owned()),
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // The node, if there is one, hears it; else nobody wants to.
            let _ = order::send(io::stdin(), &Answer::Failed(why), &[]);
            ExitCode::FAILURE
        }
    })
}

/// Says what could not be done.
fn cannot<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

fn outer(place: &Place) -> Result<(), String> {
    keep_open_files().map_err(cannot("what the node left open"))?;
    let uid = Uid::take(place.uids).map_err(cannot("no user for it"))?;
    let own = UnshareFlags::NEWPID
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    // SAFETY: the table of files, the one thing whose separation can be unsound, stays shared.
    #[allow(unsafe_code)]
    let left = unsafe { unshare_unsafe(own) };
    left.map_err(cannot("no namespaces of its own"))?;
    let text = serde_json::to_string(place).map_err(|error| error.to_string())?;
    let inner =
        Command::new("/proc/self/exe").args([INNER, &text, &uid.number.to_string()]).spawn();
    let ended = inner.and_then(|mut inner| inner.wait());
    ended.map(drop).map_err(cannot("its inner process did not start"))
}

/// Keeps from all that this process starts what was open when it began, but for the first three: who started the
/// node may have left it more, and no program is to have that.
fn keep_open_files() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if number > 2 {
            // SAFETY: it is open, for nothing here closes any while this runs.
            #[allow(unsafe_code)]
            let file = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(file, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

fn inner(place: &Place, uid: u32) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(cannot("it would outlive"))?;
    for door in &place.doors {
        std::fs::write(door, "0").map_err(cannot("its control group"))?;
    }
    root::build(&place.folder).map_err(cannot("its files"))?;
    give_up().map_err(cannot("its rights"))?;
    let node = io::stdin();
    let say = |answer: Answer, files: &[BorrowedFd<'_>]| {
        order::send(&node, &answer, files).map_err(cannot("the node is gone"))
    };
    say(Answer::Ready, &[])?;
    let (mut room, mut third) = (None, reserve(&node).map_err(cannot("its descriptors"))?);
    loop {
        let received = order::receive::<Order>(&node).map_err(cannot("the node's order"))?;
        let Some((order, pipes)) = received else { return Ok(()) };
        room = order.fresh.or(room);
        if let Some(room) = order.fresh {
            root::fresh_work(uid, room).map_err(cannot("its working directory"))?;
        }
        if order.out {
            left::make(uid).map_err(cannot("its directory for files"))?;
        }
        let ended = match start(&order, pipes, &mut third, uid) {
            Err(error) => Err(error.raw_os_error().unwrap_or_default()),
            Ok(program) => match attend(&program, &node).map_err(cannot("its end"))? {
                Some(end) => Ok(end),
                None => return Ok(()),
            },
        };
        let left = if order.out { left::take() } else { Ok(Left::nothing()) };
        let Left { paths: out, files } = left.map_err(cannot("its files"))?;
        let fresh = root::is_work_fresh().map_err(cannot("its working directory"))?;
        if let (Some(room), false) = (room, fresh) {
            root::fresh_work(uid, room).map_err(cannot("its working directory"))?;
        }
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        match ended {
            Err(number) => say(Answer::NotStarted(number), &[])?,
            Ok(end) => say(Answer::Ended { end, out }, &files)?,
        }
    }
}

/// Gives up, for all programs that it starts, what none may have. What root can do it keeps itself: a program gets
/// another user, and with that nothing of it.
fn give_up() -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // A kernel that is older than the capability.
            Err(Errno::INVAL) => {}
            removed => removed?,
        }
    }
    nice(NICE)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, OPEN_LIMIT)?;
    // The first that the kernel ends when the machine's memory is short.
    std::fs::write("/proc/self/oom_score_adj", "1000")
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Takes the descriptor 3, which programs have for what they ask.
fn reserve(any: impl AsFd) -> io::Result<OwnedFd> {
    let third = fcntl_dupfd_cloexec(any, ASKS)?;
    if third.as_raw_fd() == ASKS { Ok(third) } else { Err(io::ErrorKind::AddrInUse.into()) }
}

/// Starts the program. While it is started its socket is this process's `third`.
fn start(order: &Order, pipes: Vec<OwnedFd>, third: &mut OwnedFd, uid: u32) -> io::Result<Child> {
    let [stdin, stdout, stderr, asks] =
        <[OwnedFd; order::PIPES]>::try_from(pipes).map_err(|_| io::ErrorKind::InvalidInput)?;
    limit(Resource::Fsize, order.file_size)?;
    let path = Path::new("/").join(root::CODE).join(root::PROGRAM);
    let mut command = Command::new(path);
    command
        .args(&order.arguments)
        .env_clear()
        .envs(order.variables.iter().map(|(name, value)| (name, value)))
        .current_dir(root::WORK)
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr));
    dup2(asks, third)?;
    let mut left = BUSY_RETRIES;
    let started = loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && left > 0 => {
                left -= 1;
            }
            started => break started,
        }
        std::thread::sleep(BUSY_PAUSE);
    };
    dup3(io::stdin(), third, DupFlags::CLOEXEC)?;
    started
}

/// Waits until the program ends, then ends all that it left. None when the node went away before.
fn attend(program: &Child, node: impl AsFd) -> io::Result<Option<End>> {
    let pid = Pid::from_child(program);
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    let pause = Timespec::try_from(REAP).expect("a tenth of a second is one");
    let end = loop {
        if let Some(end) = reap(pid, WaitOptions::NOHANG)? {
            break end;
        }
        let mut waiting = [PollFd::new(&handle, PollFlags::IN), PollFd::new(&node, PollFlags::IN)];
        match poll(&mut waiting, Some(&pause)) {
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        // It says nothing while a program runs, so that this is its end.
        if !waiting[1].revents().is_empty() {
            return Ok(None);
        }
    };
    // All but this process, for it is the first one of its namespace.
    match kill_process_group(Pid::INIT, Signal::KILL) {
        Err(Errno::SRCH) => {}
        killed => killed?,
    }
    reap(pid, WaitOptions::empty())?;
    Ok(Some(end))
}

/// Takes note of the ends of children, until there is none left, or none that ended; the end of `program`, if it
/// was among them.
fn reap(program: Pid, how: WaitOptions) -> io::Result<Option<End>> {
    let mut end = None;
    loop {
        let (pid, status) = match wait(how) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(Errno::CHILD) => return Ok(end),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if pid == program {
            end = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(End::Code(code)),
                (None, signal) => signal.map(End::Signal),
            };
        }
    }
}
