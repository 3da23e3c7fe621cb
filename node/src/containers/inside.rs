//! What is done in a container that runs: commands beside its own, and a look at what it wrote.

use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::{InspectContainerOptionsBuilder, StopContainerOptionsBuilder};
use futures::Stream;
use tokio::io::AsyncWrite;

use super::{Engine, Trouble};

/// Bytes of what a command writes that are taken at a time.
const CAPACITY: usize = 64 << 10;

/// How long a container may take to end that is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// A container that runs, or has run.
#[derive(Clone)]
pub struct Inside {
    engine: Engine,
    container: String,
}

/// A command that runs in a container beside its own.
pub struct Exec {
    /// What it writes.
    pub output: Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>,
    /// What it reads.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// The rest of it.
    pub handle: ExecHandle,
}

/// What can be asked of a command while it runs, and after.
#[derive(Clone)]
pub struct ExecHandle {
    engine: Engine,
    exec: String,
}

impl Inside {
    pub(super) fn new(engine: Engine, container: String) -> Self {
        Inside { engine, container }
    }

    /// Runs a command, as the container's own user, on a terminal if that is asked for.
    ///
    /// # Errors
    /// When the engine does not start it. A program that is not there ends with 126 or 127.
    pub async fn exec(&self, command: Vec<String>, on_terminal: bool) -> Result<Exec, Trouble> {
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(on_terminal),
            env: on_terminal.then(|| vec!["TERM=xterm".to_owned()]),
            cmd: Some(command),
            ..CreateExecOptions::default()
        };
        let made = self.engine.ask("prepare a command in a container", async |docker| {
            docker.create_exec(&self.container, options).await
        });
        let exec = made.await?.id;
        let options =
            StartExecOptions { tty: on_terminal, output_capacity: Some(CAPACITY), detach: false };
        let started = self.engine.ask("start a command in a container", async |docker| {
            docker.start_exec(&exec, Some(options)).await
        });
        let started = started.await?;
        let handle = ExecHandle { engine: self.engine.clone(), exec };
        match started {
            StartExecResults::Attached { output, input } => Ok(Exec { output, input, handle }),
            StartExecResults::Detached => Err(Trouble::Unfit("its engine keeps what it writes")),
        }
    }

    /// Asks it to end, and gives it a moment to do so.
    pub async fn stop(&self) {
        let options = StopContainerOptionsBuilder::default().t(GRACE.as_secs() as i32).build();
        let stopped = self.engine.ask("stop a container", async |docker| {
            docker.stop_container(&self.container, Some(options)).await
        });
        if let Err(trouble) = stopped.await {
            tracing::debug!(%trouble, "a container was not stopped: it is removed");
        }
    }

    /// Bytes that it wrote into its own file system.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn written(&self) -> Result<u64, Trouble> {
        let options = InspectContainerOptionsBuilder::default().size(true).build();
        let found = self.engine.ask("look at a container", async |docker| {
            docker.inspect_container(&self.container, Some(options)).await
        });
        Ok(found.await?.size_rw.unwrap_or(0).cast_unsigned())
    }
}

impl ExecHandle {
    /// Tells it that its terminal has another size.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn resize(&self, height: u16, width: u16) -> Result<(), Trouble> {
        let options = ResizeExecOptions { height, width };
        let resized = self
            .engine
            .ask("resize a terminal", async |docker| docker.resize_exec(&self.exec, options).await);
        resized.await
    }

    /// Its exit code, once it has ended.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn code(&self) -> Result<Option<i64>, Trouble> {
        let found = self.engine.ask("look at a command in a container", async |docker| {
            docker.inspect_exec(&self.exec).await
        });
        Ok(found.await?.exit_code)
    }
}
