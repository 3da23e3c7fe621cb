//! One node: a home of its own and the process that serves it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::Api;
use crate::job::{JobDir, parts, sorted_lines};
use crate::{Cgroup, JOB, Program, Running, SOON, eventually, ipdc};

/// How long one long poll for a job's news lasts, in seconds.
const POLL_S: u64 = 2;

/// A node that a test may start, kill and start again.
pub struct Node {
    folder: TempDir,
    options: Vec<String>,
    running: Option<Running>,
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Node {
    /// A home that holds nothing yet. Its node will listen on loopback, on free ports.
    ///
    /// # Panics
    /// When the temp folder cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("ipdc-").expect("a temp folder");
        let listen =
            ["--listen", "/ip4/127.0.0.1/tcp/0", "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        Node { folder, options: listen.map(String::from).to_vec(), running: None }
    }

    /// The first node of a new swarm, not started.
    #[must_use]
    pub fn first() -> Self {
        let node = Node::new();
        let _ = node.cli(["init"]).run().ok();
        node
    }

    /// A node that joined by `token`, not started.
    #[must_use]
    pub fn joined(token: &str) -> Self {
        let node = Node::new();
        let _ = node.cli(["join", token]).run().ok();
        node
    }

    /// Its home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Room for the test's own files; goes with the node.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes this its `ipdc.toml`, for the next start.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, toml: &str) {
        fs::write(self.home().join("ipdc.toml"), toml).expect("a writable home");
    }

    /// The options of `ipdc start`, from the next start on.
    pub fn options(&mut self, options: &[&str]) {
        self.options = options.iter().map(ToString::to_string).collect();
    }

    /// `ipdc ARGS` for this home.
    #[must_use]
    pub fn cli<const N: usize>(&self, args: [&str; N]) -> Program {
        Program::new(ipdc()).env("IPDC_HOME", self.home()).dir(self.folder.path()).args(args)
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// When it does not, or runs already.
    pub fn start(&mut self) -> &mut Self {
        self.start_only();
        self.wait_ready();
        self
    }

    /// As [`Node::start`], in a control group.
    ///
    /// # Panics
    /// As [`Node::start`].
    pub fn start_in(&mut self, group: &Cgroup) -> &mut Self {
        assert!(self.running.is_none(), "the node runs already");
        let program = group.program(ipdc()).env("IPDC_HOME", self.home()).dir(self.folder.path());
        self.running = Some(program.arg("start").args(&self.options).start());
        self.wait_ready();
        self
    }

    /// Starts it and waits for nothing.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start_only(&mut self) {
        assert!(self.running.is_none(), "the node runs already");
        self.running = Some(self.cli(["start"]).args(&self.options).start());
    }

    fn wait_ready(&mut self) {
        let running = self.running.as_mut().expect("started");
        let pid = running.pid();
        let home = self.folder.path().join("home");
        let bound = Instant::now() + SOON;
        loop {
            assert!(running.is_running(), "{running}the node ended");
            // A killed node leaves its own behind: only this process's counts.
            if run_file(&home).is_some_and(|run| run["pid"] == json!(pid)) && api(&home).is_some() {
                return;
            }
            assert!(Instant::now() < bound, "{running}the node did not get ready in {SOON:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `ipdc status --json`.
    #[must_use]
    pub fn status(&self) -> Value {
        self.cli(["status", "--json"]).run().ok().json()
    }

    /// Its peer ID.
    #[must_use]
    pub fn peer_id(&self) -> String {
        self.cli(["id"]).run().ok().text().to_owned()
    }

    /// Its HTTP API.
    ///
    /// # Panics
    /// When it does not serve one.
    #[must_use]
    pub fn api(&self) -> Api {
        api(&self.home()).expect("the node serves HTTP")
    }

    /// Its process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn process(&mut self) -> &mut Running {
        self.running.as_mut().expect("the node runs")
    }

    /// Its process's ID.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the node runs").pid()
    }

    /// What the system says of its process's memory, in bytes: `VmRSS` for what is resident, `VmHWM` for
    /// the most that ever was.
    ///
    /// # Panics
    /// When it does not run, or there is no such line.
    #[must_use]
    pub fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the node runs, on Linux");
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        let kib = found.and_then(|text| text.trim().strip_suffix(" kB")).expect("such a line");
        kib.parse::<u64>().expect("a number") << 10
    }

    /// How many file descriptors its process has open.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        open.expect("the node runs, on Linux").count()
    }

    /// Its process, from now on the caller's.
    ///
    /// # Panics
    /// When it does not run.
    pub fn take_process(&mut self) -> Running {
        self.running.take().expect("the node runs")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    /// `ipdc stop --yes`, and the end of its process.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop(&mut self) {
        let running = self.take_process();
        let _ = self.cli(["stop", "--yes"]).run().ok();
        let _ = running.wait(SOON).ok();
    }

    /// A new invitation for so many nodes.
    #[must_use]
    pub fn invite(&self, uses: usize) -> String {
        self.cli(["invite", "--uses", &uses.to_string()]).run().ok().text().to_owned()
    }

    /// Waits until it is connected to exactly `others` other nodes.
    ///
    /// # Panics
    /// When that does not happen.
    pub fn wait_peers(&self, others: usize) {
        let api = self.api();
        eventually(SOON, format!("{others} peers of {}", self.home().display()), || {
            (connected(&api.get("/peers").ok()) == others).then_some(())
        });
    }

    /// Adds a file or directory; gives its CID.
    ///
    /// # Panics
    /// When it cannot be added.
    #[must_use]
    pub fn add(&self, path: &Path) -> String {
        let added = self.cli(["add", "--json"]).arg(path).within(JOB).run().ok().json();
        added["cid"].as_str().unwrap_or_else(|| panic!("no `cid` in {added}")).to_owned()
    }

    /// Submits a map-reduce job and does not wait for it; gives its ID.
    ///
    /// # Panics
    /// When it is not accepted.
    #[must_use]
    pub fn submit(&self, job: &Path, input: &str) -> String {
        self.accepted(self.cli(["run", "mr"]).arg(job).args(["--input", input]))
    }

    /// As [`Node::submit`], of a job of any kind that names its input itself.
    ///
    /// # Panics
    /// When it is not accepted.
    #[must_use]
    pub fn detach(&self, job: &JobDir) -> String {
        self.accepted(self.cli(["run"]).arg(job.path()))
    }

    fn accepted(&self, run: Program) -> String {
        let accepted = run.args(["--detach", "--json"]).within(JOB).run().ok().json();
        accepted["job"].as_str().unwrap_or_else(|| panic!("no `job` in {accepted}")).to_owned()
    }

    /// Waits for the job to look as `wanted`, woken by its news.
    ///
    /// # Panics
    /// When it ends, or [`JOB`] passes, before it does.
    pub fn job_until(&self, job: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let api = self.api();
        let deadline = Instant::now() + JOB;
        let mut since = 0;
        loop {
            let view = api.get(&format!("/jobs/{job}?wait_s={POLL_S}&since={since}")).ok();
            if wanted(&view) {
                return view;
            }
            let ended = ["done", "failed", "cancelled"].iter().any(|state| view["state"] == *state);
            assert!(!ended, "job ended before this was seen: {what}\n{view:#}");
            assert!(Instant::now() < deadline, "waited {JOB:?} for: {what}\n{view:#}");
            since = view["version"].as_u64().unwrap_or_else(|| panic!("no `version` in {view:#}"));
        }
    }

    /// Waits for the job to end well.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn job_done(&self, job: &str) -> Value {
        self.job_until(job, "done", |view| view["state"] == "done")
    }

    /// The files of an ended job's result, saved below its folder: where they are.
    ///
    /// # Panics
    /// When they cannot be had.
    #[must_use]
    pub fn save_result(&self, job: &str) -> PathBuf {
        let out = self.folder().join(format!("result-{job}"));
        let _ = self.cli(["job", "result", job, "--out"]).arg(&out).within(JOB).run().ok();
        out
    }

    /// Checks that a word count's result is `expected`, the native one's.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn assert_counts(&self, job: &str, expected: &[u8]) {
        let lines = sorted_lines(&parts(&self.save_result(job)));
        assert!(lines == expected, "the result of {job} differs from the native count");
    }

    /// Attempts of the job that it works on for others or itself, as it says.
    #[must_use]
    pub fn attempts_of(&self, job: &str) -> u64 {
        let status = self.api().get("/status").ok();
        let work = status["working_for"].as_array().cloned().unwrap_or_default();
        work.iter().filter(|w| w["job"] == job).filter_map(|w| w["attempts"].as_u64()).sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(running) = &self.running
        {
            eprintln!("--- a node of the failed test: {running}");
        }
    }
}

/// What a running node says of itself in its home.
fn run_file(home: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(home.join("run.json")).ok()?).ok()
}

/// The API of the node that serves `home`, if one answers.
#[must_use]
pub fn api(home: &Path) -> Option<Api> {
    let run = run_file(home)?;
    let token = fs::read_to_string(home.join("api.token")).ok()?;
    let api = Api::new(run["http"].as_str()?, token.trim());
    let answer = api.try_get("/status").ok()?;
    (answer.status == 200).then_some(api)
}

/// How many other nodes a list of peers shows as connected.
#[must_use]
pub fn connected(peers: &Value) -> usize {
    let others = peers.as_array().into_iter().flatten().filter(|peer| peer["me"] != true);
    others.filter(|peer| peer["connected"] == true).count()
}
