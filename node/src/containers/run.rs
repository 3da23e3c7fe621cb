//! A container, from its beginning to its end.
//!
//! What it may not: have rights, processes or memory without limit, write where it was not said, or outlive who waits
//! for it. It is removed when [`Running`] is dropped, in whatever state.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, HostConfigLogConfig, Mount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, ResourcesUlimits,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, InspectContainerOptions,
    StartContainerOptions, WaitContainerOptionsBuilder,
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use super::inside::Inside;
use super::{Engine, LABEL, Trouble};

/// Processes and threads of a container: renderers have some for each processor of a large machine.
const PIDS: i64 = 4_096;

/// Its own scratch files: they take of its memory.
const TMP: &str = "/tmp";

/// What an image's own user is left of Docker's usual rights: to be who it likes within the container. Not to make
/// devices, nor to send packets of any form.
const RIGHTS: [&str; 12] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A folder of this machine in a container.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Where it is here.
    pub source: PathBuf,
    /// And there.
    pub target: &'static str,
    /// Whether it can be written.
    pub is_writable: bool,
}

/// Who runs in a container, and what it may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A user and a group that are nobody's, without rights. It writes nowhere but where it was said, in `/tmp` and in
    /// `/dev/shm`.
    Nobody {
        /// The user and the group.
        user: (u32, u32),
        /// Bytes of the longest file that it may write.
        file_size: u64,
    },
    /// The image's user, with the rights that it takes to be any other there. It writes anywhere in its container.
    OfImage,
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Order {
    /// How the engine names the image.
    pub image: String,
    /// In place of the image's own.
    pub entrypoint: Option<Vec<String>>,
    /// The command.
    pub command: Vec<String>,
    /// Its environment, over that of the image.
    pub variables: Vec<(String, String)>,
    /// Folders of this machine.
    pub binds: Vec<Bind>,
    /// Where the command starts, if not where the image says.
    pub folder: Option<&'static str>,
    /// Who it is.
    pub standing: Standing,
    /// Bytes of memory.
    pub memory: u64,
    /// Processors, if it may not use all.
    pub cpus: Option<u32>,
    /// The GPUs that it has, as the driver knows them.
    pub gpus: Vec<String>,
    /// Whether it has the engine's default network, and what is behind that.
    pub has_network: bool,
}

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] Trouble),
    /// The image has no such program, or it cannot be run.
    #[error("the command could not be started: {0}")]
    Command(String),
}

/// A container that runs.
pub struct Running {
    removal: Removal,
    said: Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>,
    ended:
        Pin<Box<dyn Stream<Item = Result<bollard::models::ContainerWaitResponse, Error>> + Send>>,
}

/// What a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// On stdout.
    Out(Bytes),
    /// On stderr.
    Err(Bytes),
}

impl Said {
    /// What it wrote.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match self {
            Said::Out(bytes) | Said::Err(bytes) => bytes,
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Its exit code; 128 and the signal's number, when one ended it.
    pub code: i64,
    /// Whether it wanted more memory than it may have.
    pub is_out_of_memory: bool,
}

/// Removes a container when it is dropped.
struct Removal {
    engine: Engine,
    id: String,
    held: Vec<Box<dyn Send>>,
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.engine.remove_later(std::mem::take(&mut self.id), std::mem::take(&mut self.held));
    }
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When it did not start. Then nothing of it is left.
    pub async fn start(engine: &Engine, order: &Order) -> Result<Running, StartError> {
        let image =
            engine.ask("find an image", async |docker| docker.inspect_image(&order.image).await);
        let config = image.await?.config.unwrap_or_default();
        let body = body(order, &config.volumes.unwrap_or_default(), &engine.options().name);
        let made = engine.ask("make a container", async |docker| {
            docker.create_container(None::<CreateContainerOptions>, body).await
        });
        let id = made.await?.id;
        engine.note(&id);
        // From here on it is removed, whatever happens.
        let removal = Removal { engine: engine.clone(), id: id.clone(), held: Vec::new() };
        let options =
            AttachContainerOptionsBuilder::default().stdout(true).stderr(true).stream(true).build();
        let attached = engine.ask("attach to a container", async |docker| {
            docker.attach_container(&id, Some(options)).await
        });
        let said = attached.await?.output;
        let started = engine.ask("start a container", async |docker| {
            docker.start_container(&id, None::<StartContainerOptions>).await
        });
        started
            .await
            .map_err(|trouble| of_command(&trouble).unwrap_or(StartError::Engine(trouble)))?;
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let ended = engine.ask("wait for a container", async |docker| {
            Ok(docker.wait_container(&id, Some(options)).boxed())
        });
        let ended = ended.await?;
        Ok(Running { removal, said, ended })
    }

    /// Keeps this until the container is gone.
    pub fn hold(&mut self, what: impl Send + 'static) {
        self.removal.held.push(Box::new(what));
    }

    /// The container, to be asked things while it runs.
    #[must_use]
    pub fn inside(&self) -> Inside {
        Inside::new(self.removal.engine.clone(), self.removal.id.clone())
    }

    /// What it writes next; none, when it has closed both, or the engine has.
    pub async fn said(&mut self) -> Option<Said> {
        loop {
            match self.said.next().await? {
                Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                    return Some(Said::Out(message));
                }
                Ok(LogOutput::StdErr { message }) => return Some(Said::Err(message)),
                Ok(LogOutput::StdIn { .. }) => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the engine died meanwhile.
    pub async fn ended(&mut self) -> Result<End, Trouble> {
        let what = "wait for a container";
        let code = match self.ended.next().await {
            Some(Ok(ended)) => ended.status_code,
            Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(source)) => return Err(Trouble::Failed { what, source }),
            None => {
                return Err(Trouble::None(
                    "it closed the connection while a container ran".to_owned(),
                ));
            }
        };
        let Removal { engine, id, .. } = &self.removal;
        let inspected = engine.ask("look at a container", async |docker| {
            docker.inspect_container(id, None::<InspectContainerOptions>).await
        });
        let state = inspected.await?.state.unwrap_or_default();
        let is_out_of_memory = state.oom_killed.unwrap_or(false);
        Ok(End { code: state.exit_code.unwrap_or(code), is_out_of_memory })
    }
}

/// What the engine says of a command that it cannot run; none, when it says something else.
fn of_command(trouble: &Trouble) -> Option<StartError> {
    let Trouble::Failed {
        source: Error::DockerResponseServerError { status_code, message }, ..
    } = trouble
    else {
        return None;
    };
    // `exec: "NAME": why: unknown` is what runc says of it, after all that it does itself; crun, `executable file …`.
    let at = ["exec: ", "executable file"].iter().find_map(|words| message.find(words))?;
    let why = message[at..].trim_end_matches(": unknown").to_owned();
    matches!(status_code, 400 | 404 | 500).then_some(StartError::Command(why))
}

/// What is asked for: nothing that is not needed.
fn body(order: &Order, volumes: &[String], node: &str) -> ContainerCreateBody {
    let Order {
        image,
        entrypoint,
        command,
        variables,
        binds,
        folder,
        standing,
        memory,
        cpus,
        gpus,
        has_network,
    } = order;
    let bytes = i64::try_from(*memory).unwrap_or(i64::MAX);
    let mount = |bind: &Bind| Mount {
        target: Some(bind.target.to_owned()),
        source: Some(bind.source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(!bind.is_writable),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    };
    // What an image declares as a volume would be a folder on this machine's disk.
    let scratch = volumes.iter().map(String::as_str).chain([TMP]);
    let scratch = scratch.filter(|path| !binds.iter().any(|bind| bind.target == *path));
    let scratch: HashMap<String, String> = scratch
        .map(|path| (path.to_owned(), format!("rw,nosuid,nodev,mode=1777,size={bytes}")))
        .collect();
    let limit = |name: &str, most: i64| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(most),
        hard: Some(most),
    };
    let mut limits = vec![limit("core", 0)];
    let (mut user, mut rights) = (None, None);
    match standing {
        Standing::Nobody { user: (uid, gid), file_size } => {
            user = Some(format!("{uid}:{gid}"));
            limits.push(limit("fsize", i64::try_from(*file_size).unwrap_or(i64::MAX)));
        }
        Standing::OfImage => rights = Some(RIGHTS.map(str::to_owned).into()),
    }
    let host = HostConfig {
        memory: Some(bytes),
        // With swap: so there is none.
        memory_swap: Some(bytes),
        pids_limit: Some(PIDS),
        ulimits: Some(limits),
        mounts: Some(binds.iter().map(mount).collect()),
        tmpfs: Some(scratch),
        shm_size: Some(bytes / 2),
        readonly_rootfs: Some(*standing != Standing::OfImage),
        network_mode: Some(if *has_network { "bridge" } else { "none" }.to_owned()),
        nano_cpus: cpus.map(|cpus| i64::from(cpus) * 1_000_000_000),
        device_requests: (!gpus.is_empty()).then(|| {
            vec![DeviceRequest {
                device_ids: Some(gpus.clone()),
                capabilities: Some(vec![vec!["gpu".to_owned()]]),
                ..DeviceRequest::default()
            }]
        }),
        ipc_mode: Some("private".to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: rights,
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(image.clone()),
        entrypoint: entrypoint.clone(),
        cmd: Some(command.clone()).filter(|command| !command.is_empty()),
        env: Some(variables.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        user,
        working_dir: folder.map(str::to_owned),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        labels: Some(HashMap::from([(LABEL.to_owned(), node.to_owned())])),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}
