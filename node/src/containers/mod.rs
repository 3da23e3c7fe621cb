//! Containers: the engine of this machine, images in blocks, and commands that run in them.
//!
//! | | |
//! |---|---|
//! | [`engine`] | the engine: whether there is one, and what it is asked |
//! | [`layout`] | how an image lies in blocks: the OCI image layout |
//! | [`import`] | images into blocks: from the engine, a file, or built |
//! | [`images`] | images out of blocks into the engine, and how much of its disk they take |
//! | [`archive`] | archives for the engine |
//! | [`run`] | a container, from its beginning to its end |
//! | [`inside`] | commands in a container that runs |
//! | [`mounts`] | what is mounted |
//! | [`tools`] | this program, so that it runs in any container |
//! | [`keeper`] | a process that removes the containers of a node that was killed |
//!
//! The engine is Docker, or what answers as Docker does, on this machine: folders of the node are mounted. What holds
//! for a container is in `docs/containers.md`, why it is so in `docs/decisions/0023-containers.md`.

mod archive;
mod engine;
mod images;
mod import;
mod inside;
mod keeper;
mod layout;
mod mounts;
mod run;
mod tools;

use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};

use ipdc_jobs::kind::TaskError;
use ipdc_jobs::message::FailureClass;
use tokio::runtime::Handle;

pub use engine::{Engine, Seen};
pub use images::{Images, InEngine, LoadError, Loaded};
pub use import::{ImportError, Importer};
pub use inside::{Exec, ExecHandle, Inside};
pub use keeper::keep_if_asked;
pub use mounts::{Folder, Mounts, Tools};
pub use run::{Bind, End, Order, Running, Said, Standing, StartError};
pub use tools::TOOLS;

/// What all containers of a node are labelled with, and its peer ID: whatever has it and is not known is a left-over.
const LABEL: &str = "ipdc.node";

/// How a node has its containers.
#[derive(Debug, Clone)]
pub struct Options {
    /// `ipdc`.
    pub program: PathBuf,
    /// The engine's socket.
    pub socket: PathBuf,
    /// A folder of the node's, which only it may read: here is what is mounted.
    pub folder: PathBuf,
    /// The node's name, and no other node's.
    pub name: String,
    /// Bytes of the engine's disk that images may take.
    pub images: u64,
    /// The engine's network that images are built in.
    pub build_network: String,
}

/// What a node needs to run containers. Clones share it.
#[derive(Clone)]
pub struct Containers {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    images: Images,
    mounts: Mounts,
    runtime: Handle,
    keeper: Mutex<Option<Child>>,
}

impl Containers {
    /// Looks for the engine, and removes what an earlier run of the node left. To be called within the async runtime.
    ///
    /// # Errors
    /// When the folder for containers cannot be made.
    pub async fn start(options: Options) -> Result<Containers, Trouble> {
        let mounts = Mounts::new(options.folder.clone())?;
        let engine = Engine::start(options).await;
        let (images, runtime, keeper) =
            (Images::new(engine.clone()), Handle::current(), Mutex::default());
        Ok(Containers { shared: Arc::new(Shared { engine, images, mounts, runtime, keeper }) })
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// Images in the engine.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.shared.images
    }

    /// What is mounted.
    #[must_use]
    pub fn mounts(&self) -> &Mounts {
        &self.shared.mounts
    }

    /// The async runtime, for threads that block.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    /// Removes all containers of the node, and what was mounted into them. For when nothing runs in them any more.
    pub async fn stop(&self) {
        self.engine().clear().await;
        self.mounts().clear();
    }

    /// Sees to it that containers are removed when this node is killed. To be called before one is made.
    ///
    /// # Errors
    /// When nobody can be found to do so.
    pub fn keep(&self) -> Result<(), Trouble> {
        let mut keeper = self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = keeper.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !is_there {
            let started = keeper::start(self.engine().options());
            *keeper = Some(
                started.map_err(Trouble::disk("the keeper of containers could not be started"))?,
            );
        }
        Ok(())
    }
}

/// Why the engine has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// There is none.
    #[error("this node has no container engine: {0}")]
    None(String),
    /// It said no, or the connection to it broke.
    #[error("the container engine failed to {what}: {source}")]
    Failed {
        /// What it was to do.
        what: &'static str,
        /// What it said.
        source: bollard::errors::Error,
    },
    /// It said nothing.
    #[error("the container engine said nothing for {} s when it was to {what}", engine::ANSWER.as_secs())]
    Silent {
        /// What it was to do.
        what: &'static str,
    },
    /// It is not for here.
    #[error("a container cannot be run here: {0}")]
    Unfit(&'static str),
    /// The node's own disk.
    #[error("{what}: {source}")]
    Disk {
        /// What could not be done.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl Trouble {
    fn disk(what: &'static str) -> impl FnOnce(std::io::Error) -> Trouble {
        move |source| Trouble::Disk { what, source }
    }

    /// Whether the engine says that there is no such thing.
    fn is_absence(&self) -> bool {
        matches!(
            self,
            Trouble::Failed {
                source: bollard::errors::Error::DockerResponseServerError { status_code: 404, .. },
                ..
            }
        )
    }
}

impl From<Trouble> for TaskError {
    fn from(trouble: Trouble) -> Self {
        let (class, code) = (FailureClass::Worker, "IPDC-5801");
        TaskError::Failed { class, code, message: trouble.to_string() }
    }
}
