//! Programs run to their end within a bound, or in the background, with what they printed.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};
use serde_json::Value;

use crate::SOON;

/// Between two looks at whether a program has ended.
const LOOK: Duration = Duration::from_millis(5);

/// A program about to be run.
pub struct Program {
    command: Command,
    stdin: Vec<u8>,
    bound: Duration,
}

impl Program {
    /// `program` with no arguments, in a process group of its own, within [`SOON`].
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.process_group(0).env("NO_COLOR", "1");
        // A developer's own node must not answer for the one under test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("IPDC_") {
                command.env_remove(name);
            }
        }
        Program { command, stdin: Vec::new(), bound: SOON }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Its working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads; otherwise nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may run.
    #[must_use]
    pub fn within(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started, or runs longer than it may.
    #[must_use]
    pub fn run(self) -> Ran {
        let bound = self.bound;
        self.start().wait(bound)
    }

    /// Starts it; it is killed, and with it its process group, when the handle is dropped.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut self) -> Running {
        let shown = Shown::of(&self.command);
        let streams =
            self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let mut stdin = child.stdin.take().expect("piped");
        let bytes = std::mem::take(&mut self.stdin);
        // It may end without reading it all.
        std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        let stdout = Stream::read(child.stdout.take().expect("piped"));
        let stderr = Stream::read(child.stderr.take().expect("piped"));
        Running { shown, child, stdout, stderr, since: Instant::now() }
    }
}

/// A program that runs.
pub struct Running {
    shown: Shown,
    child: Child,
    stdout: Stream,
    stderr: Stream,
    since: Instant,
}

impl Running {
    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// What it complained of so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Kills it and all it started, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When that takes longer than `bound`.
    #[must_use]
    pub fn wait(mut self, bound: Duration) -> Ran {
        let deadline = Instant::now() + bound;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                break status;
            }
            if Instant::now() > deadline {
                self.kill();
                panic!("{self}still running after {bound:?}");
            }
            std::thread::sleep(LOOK);
        };
        // A grandchild that holds the streams open must not hold us.
        let ended = Instant::now() + Duration::from_secs(5);
        while !(self.stdout.is_closed() && self.stderr.is_closed()) && Instant::now() < ended {
            std::thread::sleep(LOOK);
        }
        Ran {
            shown: self.shown.clone(),
            status,
            stdout: self.stdout.take(),
            stderr: self.stderr.so_far(),
            took: self.since.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n--- stdout\n{}\n--- stderr\n{}\n---\n",
            self.shown,
            self.stdout(),
            self.stderr()
        )
    }
}

/// A program that has ended.
pub struct Ran {
    shown: Shown,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained of.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Ran {
    /// Itself, if it succeeded.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    #[must_use]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self}expected success");
        self
    }

    /// Itself, if it failed with this exit code, and said all of `words` on stderr.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    #[must_use]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}expected exit code {code}");
        self.says(words)
    }

    /// Itself, if it failed, by itself and not by a signal or a panic, and said all of `words` on
    /// stderr, among them an error code.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    #[must_use]
    pub fn refused(self, words: &[&str]) -> Self {
        let code = self.status.code();
        assert!(
            code.is_some_and(|code| code != 0 && code != 101),
            "{self}expected a clean failure"
        );
        self.says(&["IPDC-"]).says(words)
    }

    /// Itself, if it said all of `words` on stderr, in any case, whatever the line breaks.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    #[must_use]
    pub fn says(self, words: &[&str]) -> Self {
        let said = plain(&self.stderr);
        for word in words {
            assert!(said.contains(&plain(word)), "{self}expected stderr to hold `{word}`");
        }
        self
    }

    /// What it printed, as text without the last line's end.
    ///
    /// # Panics
    /// When that is not UTF-8.
    #[track_caller]
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout)
            .unwrap_or_else(|_| panic!("{self}expected text"))
            .trim_end()
    }

    /// What it printed, as the one JSON value it must be.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{self}expected one JSON value: {error}"))
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Characters of standard output that a failure shows.
        const SHOWN: usize = 4_000;
        let stdout: String = String::from_utf8_lossy(&self.stdout).chars().take(SHOWN).collect();
        let Ran { shown, status, stderr, took, .. } = self;
        write!(
            f,
            "{shown}\n{status} after {took:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---\n"
        )
    }
}

/// Lower case, and what a terminal's line wrapping and frames put in taken out.
fn plain(text: &str) -> String {
    let unframed = text.replace(['│', '×', '╰', '─', '▶', '├', '├'], " ").to_lowercase();
    unframed.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A command as one would type it.
#[derive(Clone)]
struct Shown(String);

impl Shown {
    fn of(command: &Command) -> Self {
        let mut line = String::new();
        if let Some(dir) = command.get_current_dir() {
            line += &format!("cd {} && ", dir.display());
        }
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                line += &format!("{}={} ", name.display(), value.display());
            }
        }
        line += &command.get_program().to_string_lossy();
        for arg in command.get_args() {
            line += &format!(" {arg:?}");
        }
        Shown(line)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n$ {}", self.0)
    }
}

/// What a thread has read of a stream.
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 8192];
            while let Ok(n @ 1..) = from.read(&mut piece) {
                into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..n]);
            }
        });
        Stream { bytes, reader }
    }

    fn is_closed(&self) -> bool {
        self.reader.is_finished()
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
            .into_owned()
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
