//! A launcher, as the node has it: a process that starts one program at a time, confined, as often as it is asked.
//!
//! Owns its folder, its control group and the process; dropping it ends all three, and whatever runs there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{TaskError, is_path};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Trouble;
use super::group::{Events, Group};
use super::inside::{OUTER, Place};
use super::order::{self, Answer, Order};
use super::root::{CODE, JOB, PROGRAM};
use crate::config::Uids;
use crate::runtime::Listener;

/// How long a launcher may take to be ready: it is done in 20 ms, on a small board that is busy in a second.
const START: Duration = Duration::from_secs(20);

/// Bytes that are copied from blocks in one piece.
const PIECE: usize = 1 << 20;

pub(super) struct Launcher {
    process: Child,
    socket: OwnedFd,
    group: Group,
    folder: PathBuf,
    /// What lies in its folder, by path.
    files: BTreeMap<String, FileRef>,
    memory: u64,
    /// Which attempt it works for.
    tenant: u64,
}

impl Launcher {
    /// A new one, in a folder and a group of this name.
    pub(super) fn start(
        program: &Path,
        folder: PathBuf,
        group: Group,
        uids: Uids,
    ) -> Result<Launcher, Trouble> {
        let (socket, its) = order::pair().map_err(Trouble::of("a socket"))?;
        group.limit_tasks().map_err(Trouble::of("the limit of its processes"))?;
        for name in [JOB, CODE] {
            fs::create_dir_all(folder.join(name)).map_err(Trouble::of("its folder"))?;
        }
        let place = Place { folder: folder.clone(), doors: group.doors(), uids };
        let place = serde_json::to_string(&place).map_err(Trouble::of("its place"))?;
        let process = Command::new(program)
            .args([OUTER, &place])
            .env_clear()
            .stdin(its)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Trouble::of("its process"))?;
        let files = BTreeMap::new();
        let launcher = Launcher { process, socket, group, folder, files, memory: 0, tenant: 0 };
        match launcher.first_answer()? {
            Answer::Ready => Ok(launcher),
            Answer::Failed(why) => Err(Trouble(why)),
            other => Err(Trouble(format!("a launcher began with {other:?}"))),
        }
    }

    fn first_answer(&self) -> Result<Answer, Trouble> {
        let until = Instant::now() + START;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let pause = Timespec::try_from(left).expect("some seconds are one");
            let mut waiting = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut waiting, Some(&pause)) {
                Ok(0) => {
                    return Err(Trouble(format!("it was not ready within {} s", START.as_secs())));
                }
                Ok(_) => return Ok(self.answer()?.0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Trouble::of("its answer")(error)),
            }
        }
    }

    /// What it says, once there is something to be read from [`Launcher::socket`], and the files that come with it.
    pub(super) fn answer(&self) -> Result<(Answer, Vec<OwnedFd>), Trouble> {
        let received = order::receive(&self.socket).map_err(Trouble::of("its answer"))?;
        let ended = || (Answer::Failed("its launcher ended".to_owned()), Vec::new());
        Ok(received.unwrap_or_else(ended))
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn events(&self) -> Events {
        self.group.events()
    }

    /// Whether it worked for this attempt last.
    pub(super) fn is_of(&self, tenant: u64) -> bool {
        self.tenant == tenant
    }

    pub(super) fn lives(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Bytes of the files in its folder.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.len).sum()
    }

    /// Whether it has this program.
    pub(super) fn has(&self, program: &FileRef) -> bool {
        self.files.get(&path_of_program()) == Some(program)
    }

    /// Gives the next run so much memory.
    pub(super) fn limit_memory(&mut self, bytes: u64) -> Result<(), Trouble> {
        if self.memory != bytes {
            self.group.limit_memory(bytes).map_err(Trouble::of("its memory limit"))?;
            self.memory = bytes;
        }
        Ok(())
    }

    /// Lays these files, and no others, into its folder: the program, and the job's by their names. A name that is no
    /// path is left out.
    pub(super) fn lay(
        &mut self,
        program: &FileRef,
        named: &BTreeMap<String, FileRef>,
        listener: &mut dyn Listener,
    ) -> Result<(), TaskError> {
        let named = named.iter().filter(|(name, _)| is_path(name) && !name.contains('\0'));
        let named = named.map(|(name, file)| (format!("{JOB}/{name}"), *file));
        let wanted: BTreeMap<_, _> = named.chain([(path_of_program(), *program)]).collect();
        let gone: Vec<_> =
            self.files.extract_if(.., |path, file| wanted.get(path) != Some(file)).collect();
        for (path, _) in gone {
            fs::remove_file(self.folder.join(path)).map_err(no_file)?;
        }
        for (path, file) in wanted {
            if !self.files.contains_key(&path) {
                copy(&file, &self.folder.join(&path), listener)?;
                self.files.insert(path, file);
            }
        }
        Ok(())
    }

    /// Has it run what it has, for the attempt `tenant`.
    pub(super) fn run(
        &mut self,
        tenant: u64,
        order: &Order,
        pipes: &[BorrowedFd<'_>],
    ) -> Result<(), Trouble> {
        order::send(&self.socket, order, pipes).map_err(Trouble::of("an order"))?;
        self.tenant = tenant;
        Ok(())
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // The kernel ends the inner process with the outer one, and what runs there with the inner one.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Err(error) = self.group.remove() {
            tracing::error!(%error, "the control group of a program is still there");
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "the files of a program are still there");
        }
    }
}

fn path_of_program() -> String {
    format!("{CODE}/{PROGRAM}")
}

/// Writes the bytes of `file` to a new file at `to` that a program may read, and run.
fn copy(file: &FileRef, to: &Path, listener: &mut dyn Listener) -> Result<(), TaskError> {
    let mut reader = listener.open(file)?;
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(no_file)?;
    }
    let created = File::options().write(true).create_new(true).mode(0o555).open(to);
    let mut written = created.map_err(no_file)?;
    let mut at = 0;
    while at < file.len {
        let bytes = reader.read_at(at, PIECE).map_err(|error| TaskError::of_read(file, error))?;
        if bytes.is_empty() {
            return Err(TaskError::of_read(file, io::ErrorKind::InvalidData.into()));
        }
        written.write_all(&bytes).map_err(no_file)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

fn no_file(error: io::Error) -> TaskError {
    Trouble::of("its files")(error).into()
}
