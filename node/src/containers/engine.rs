//! The container engine of this machine: whether there is one, and what it is asked.
//!
//! Owns the connection, and what was seen of the engine last. It is looked at every few seconds, for it may be
//! installed, started, stopped and die while the node runs. Each question has a bound.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::{LABEL, Options, Trouble};

/// How often the engine is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// How long a look may take: an engine that is well answers in milliseconds.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// How long an answer may take: to start a container on a busy machine takes seconds.
pub(super) const ANSWER: Duration = Duration::from_secs(60);

/// The pause before a container that could not be removed is removed again.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest such pause.
const AGAIN_LIMIT: Duration = Duration::from_secs(60);

/// What was seen of the engine.
#[derive(Debug, Clone)]
pub enum Seen {
    /// It answers.
    There {
        /// How it is asked.
        docker: Docker,
        /// Its name and version.
        about: String,
    },
    /// It does not, and why.
    Not(String),
}

impl Seen {
    /// The engine's name and version, if it is there.
    ///
    /// # Errors
    /// Why it is not.
    pub fn about(&self) -> Result<&str, &str> {
        match self {
            Seen::There { about, .. } => Ok(about),
            Seen::Not(why) => Err(why),
        }
    }
}

/// A container that nobody needs any more, and what is kept until it is gone.
struct Over {
    container: String,
    _held: Vec<Box<dyn Send>>,
}

/// The engine. Clones share it.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    seen: watch::Sender<Seen>,
    look: Notify,
    /// Containers that somebody waits for.
    current: Mutex<HashSet<String>>,
    /// Containers that nobody needs any more.
    over: mpsc::UnboundedSender<Over>,
}

impl Engine {
    /// Looks for the engine, and removes what a node of this name left there.
    pub async fn start(options: Options) -> Engine {
        let (over, to_remove) = mpsc::unbounded_channel();
        let (seen, _) = watch::channel(Seen::Not("it was not looked for yet".to_owned()));
        let look = Notify::new();
        let engine = Engine {
            shared: Arc::new(Shared { options, seen, look, current: Mutex::default(), over }),
        };
        engine.look().await;
        let weak = Arc::downgrade(&engine.shared);
        tokio::spawn(async move {
            loop {
                let Some(shared) = weak.upgrade() else { return };
                let _ = timeout(LOOK, shared.look.notified()).await;
                Engine { shared }.look().await;
            }
        });
        tokio::spawn(remove_all(engine.clone(), to_remove));
        engine
    }

    pub(super) fn options(&self) -> &Options {
        &self.shared.options
    }

    /// What is seen of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Seen> {
        self.shared.seen.subscribe()
    }

    /// What was seen of it last.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Asks it something.
    pub(super) async fn ask<T>(
        &self,
        what: &'static str,
        question: impl AsyncFnOnce(Docker) -> Result<T, Error>,
    ) -> Result<T, Trouble> {
        let docker = match self.seen() {
            Seen::There { docker, .. } => docker,
            Seen::Not(why) => return Err(Trouble::None(why)),
        };
        let trouble = match timeout(ANSWER, question(docker)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(source)) => Trouble::Failed { what, source },
            Err(_) => Trouble::Silent { what },
        };
        if !matches!(
            &trouble,
            Trouble::Failed { source: Error::DockerResponseServerError { .. }, .. }
        ) {
            self.shared.look.notify_one();
        }
        Err(trouble)
    }

    /// A container was made, and is waited for.
    pub(super) fn note(&self, container: &str) {
        lock(&self.shared.current).insert(container.to_owned());
    }

    /// A container is over: it is removed, when the engine can, and then what is `held` is let go of.
    pub(super) fn remove_later(&self, container: String, held: Vec<Box<dyn Send>>) {
        lock(&self.shared.current).remove(&container);
        // When nobody takes it, the node is about to stop, and removes all.
        let _ = self.shared.over.send(Over { container, _held: held });
    }

    /// Removes all containers of this node. For when nothing of it runs any more.
    pub(super) async fn clear(&self) {
        if let Seen::There { docker, .. } = self.seen() {
            let cleared = timeout(LOOK_LIMIT, sweep(&docker, &self.options().name, |_| true)).await;
            if let Ok(Err(error)) = cleared {
                tracing::warn!(%error, "containers of this node could not be removed");
            }
        }
    }

    async fn look(&self) {
        let before = self.seen();
        let looked = timeout(LOOK_LIMIT, async {
            match &before {
                // Asked in the version that was agreed on then.
                Seen::There { docker, .. } => look(docker.clone()).await,
                Seen::Not(_) => look(connect(&self.options().socket).await?).await,
            }
        });
        let now = match looked.await {
            Ok(Ok((docker, about))) => Seen::There { docker, about },
            Ok(Err(error)) => Seen::Not(explain(&self.options().socket, &error)),
            Err(_) => Seen::Not(format!(
                "the engine at {} said nothing for {} s",
                self.options().socket.display(),
                LOOK_LIMIT.as_secs()
            )),
        };
        if let (Seen::Not(_), Seen::There { docker, about }) = (&before, &now) {
            tracing::info!(engine = about, "the container engine answers");
            let is_over = |container: &str| !lock(&self.shared.current).contains(container);
            if let Err(error) = sweep(docker, &self.options().name, is_over).await {
                tracing::warn!(%error, "containers that an earlier run left could not be removed");
            }
        }
        self.shared.seen.send_if_modified(|seen| {
            let is_news = seen.about() != now.about();
            if let (Seen::There { .. }, Seen::Not(why)) = (&*seen, &now) {
                tracing::warn!(why, "the container engine does not answer any more");
            }
            if is_news {
                *seen = now;
            }
            is_news
        });
    }
}

async fn connect(socket: &Path) -> Result<Docker, Error> {
    let socket = socket.to_string_lossy();
    let docker = Docker::connect_with_unix(&socket, ANSWER.as_secs(), API_DEFAULT_VERSION)?;
    docker.negotiate_version().await
}

async fn look(docker: Docker) -> Result<(Docker, String), Error> {
    let version = docker.version().await?;
    let components = version.components.unwrap_or_default();
    let is_podman = components.iter().any(|component| component.name.contains("Podman"));
    let name = if is_podman { "Podman" } else { "Docker" };
    Ok((docker, format!("{name} {}", version.version.unwrap_or_default())))
}

/// Why there is no engine, and what to do.
fn explain(socket: &Path, error: &Error) -> String {
    let place = socket.display();
    let kind = match error {
        Error::SocketNotFoundError(_) => Some(std::io::ErrorKind::NotFound),
        other => io_kind(other),
    };
    match kind {
        Some(std::io::ErrorKind::NotFound) => format!(
            "there is no engine at {place}: install Docker (Debian: apt install docker.io) and start it"
        ),
        Some(std::io::ErrorKind::PermissionDenied) => {
            format!("this node may not use {place}: add its user to the group `docker`")
        }
        Some(std::io::ErrorKind::ConnectionRefused) => {
            format!("nobody answers at {place}: start the engine (systemctl start docker)")
        }
        _ => format!("the engine at {place} does not answer: {error}"),
    }
}

/// What the innermost cause is, if it is of the system.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)
        .last()
}

/// Removes each container that is told, however often the engine fails to.
async fn remove_all(engine: Engine, mut over: mpsc::UnboundedReceiver<Over>) {
    let weak = Arc::downgrade(&engine.shared);
    drop(engine);
    while let Some(Over { container, _held }) = over.recv().await {
        let mut pause = AGAIN;
        while let Some(shared) = weak.upgrade() {
            match (Engine { shared }).remove(&container).await {
                Ok(()) => break,
                // Its successor is asked to remove all that it finds.
                Err(Trouble::None(_)) => break,
                Err(trouble) => {
                    tracing::debug!(%trouble, container, "a container could not be removed yet");
                    sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_LIMIT);
                }
            }
        }
    }
}

impl Engine {
    async fn remove(&self, container: &str) -> Result<(), Trouble> {
        let removed =
            self.ask("remove a container", async |docker| remove(&docker, container).await);
        match removed.await {
            Err(trouble) if trouble.is_absence() => Ok(()),
            removed => removed,
        }
    }
}

async fn remove(docker: &Docker, container: &str) -> Result<(), Error> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    docker.remove_container(container, Some(options)).await
}

/// Removes those containers of the node of this name that are over.
pub(super) async fn sweep(
    docker: &Docker,
    node: &str,
    is_over: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    let filters = HashMap::from([("label", vec![format!("{LABEL}={node}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    for container in docker.list_containers(Some(options)).await? {
        let Some(id) = container.id.filter(|id| is_over(id)) else { continue };
        match remove(docker, &id).await {
            // Another removes it at the same time.
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
