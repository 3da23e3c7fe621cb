//! A process that outlives its node by a moment: when the node is gone, however it went, the keeper removes the
//! containers that it left.
//!
//! Its stdin is a pipe that the node holds and never writes to: the end of it is the end of the node.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::time::{sleep, timeout};

use super::{Options, engine};

/// What the process is started with.
const ROLE: &str = "keep-containers";

/// How long an engine that does not answer is asked again: one that was restarted is there by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// How long one may take.
const TRY: Duration = Duration::from_secs(30);

/// Starts a keeper for the node of these options. It ends by itself when the node has.
pub(super) fn start(options: &Options) -> std::io::Result<Child> {
    use std::os::unix::process::CommandExt as _;
    Command::new(&options.program)
        .arg(ROLE)
        .arg(&options.socket)
        .arg(&options.name)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // What ends the node's group does not end it.
        .process_group(0)
        .spawn()
}

/// Is a keeper, if that is what this process was started for.
#[must_use]
pub fn keep_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != OsStr::new(ROLE) {
        return None;
    }
    let (Some(socket), Some(name)) = (arguments.next(), arguments.next()) else {
        return Some(ExitCode::FAILURE);
    };
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Some(ExitCode::FAILURE) };
    let is_done = runtime.block_on(clear(Path::new(&socket), &name.to_string_lossy()));
    Some(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn clear(socket: &Path, name: &str) -> bool {
    let began = Instant::now();
    loop {
        let docker = Docker::connect_with_unix(
            &socket.to_string_lossy(),
            TRY.as_secs(),
            API_DEFAULT_VERSION,
        );
        if let Ok(docker) = docker
            && let Ok(Ok(docker)) = timeout(TRY, docker.negotiate_version()).await
            && let Ok(Ok(())) = timeout(TRY, engine::sweep(&docker, name, |_| true)).await
        {
            return true;
        }
        if began.elapsed() > PATIENCE {
            return false;
        }
        sleep(PAUSE).await;
    }
}
