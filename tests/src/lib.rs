//! The worlds that black-box tests and benchmarks run in: programs with bounded time, nodes as real
//! processes, swarms of them, job directories, generated text and its native count, a web site.
//!
//! Nothing here knows the node's code: it sees what a user sees, the command line, HTTP and files.
//! Helpers panic on what a test does not expect, with the command, its directory, status and
//! streams, so that a failure can be replayed by hand.

pub mod api;
pub mod cgroup;
pub mod engine;
pub mod job;
pub mod mqtt;
pub mod node;
pub mod program;
pub mod site;
pub mod swarm;
pub mod text;

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use cgroup::Cgroup;
pub use engine::Engine;
pub use job::JobDir;
pub use node::Node;
pub use program::{Program, Ran, Running};
pub use site::Site;
pub use swarm::Swarm;

/// How long a test waits for what should take a second: two busy cores stretch it a lot.
pub const SOON: Duration = Duration::from_secs(60);

/// How long a test waits for a job to end.
pub const JOB: Duration = Duration::from_secs(300);

/// Between two looks at something that cannot announce itself.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until `look` gives something, and gives that.
///
/// # Panics
/// When `bound` passes first.
pub fn eventually<T>(
    bound: Duration,
    what: impl Display,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {bound:?} in vain: {what}");
        std::thread::sleep(LOOK);
    }
}

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").into()
}

/// The `ipdc` under test: `$IPDC_UNDER_TEST`, else the one that was built into the folder of the
/// running test or benchmark.
///
/// # Panics
/// When it was not built: `make test` builds it first.
#[must_use]
pub fn ipdc() -> PathBuf {
    if let Some(path) = std::env::var_os("IPDC_UNDER_TEST") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a process knows its program");
    let mut folder = own.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("`deps` lies in the profile's folder");
    }
    let ipdc = folder.join("ipdc");
    assert!(ipdc.exists(), "{} is not there: `make build-tests` builds it", ipdc.display());
    ipdc
}

/// Held by a test that needs the machine: of those, one runs at a time, in however many processes.
#[must_use]
pub fn alone() -> File {
    let path = std::env::temp_dir().join("ipdc-tests.lock");
    let lock =
        File::options().create(true).append(true).open(path).expect("a lock in the temp folder");
    lock.lock().expect("locked");
    lock
}
