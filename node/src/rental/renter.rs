//! Asks nodes for containers, and for what is in them. This node is asked as any other is.
//!
//! Nothing is remembered of where containers run: who wants to know asks all that are connected. So nothing is lost when
//! this node is started anew, and any node of an owner knows of all its containers.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use ipdc_jobs::engine::{self, Needs, Runtime, Takes, candidates};
use ipdc_jobs::ids::{Cid, PeerId};
use libp2p_identity::Keypair;
use tokio::io::duplex;
use tokio::time::{Instant, timeout};

use super::forwards::{Bound, Forwards};
use super::ssh::Ssh;
use super::wire::{ANSWER_LIMIT, ASK_LIMIT, Answer, Ask, Order};
use super::{Host, RentError, session};
use crate::blocks::Blocks;
use crate::blocks::store::{Add, Tier};
use crate::containers::Importer;
use crate::problem::{Detail, Problem};
use crate::swarm::Swarm;
use crate::swarm::frame;
use crate::swarm::streams::{BoxStream, Protocol, StreamError, Streams as _};
use crate::view::{
    ContainerId, ContainerList, ContainerRequest, ContainerState, ContainerView, ExecRequest,
    PortRequest, PortsRequest, SilentPeer, Starting,
};

/// How long a node may take to answer a question.
const ANSWER: Duration = Duration::from_secs(30);

/// How long all nodes may take to say what they have.
const LISTING: Duration = Duration::from_secs(5);

/// How long a node may take to have a container running: a large image comes a long way.
const START: Duration = Duration::from_secs(3_600);

/// Bytes on their way within this node.
const PIPE: usize = 256 << 10;

/// What a container has of which nothing is said.
const MEMORY: u64 = 512 << 20;
const DISK: u64 = 1 << 30;
const TIME: Duration = Duration::from_secs(3_600);

/// What a container runs that is there to get into.
const STAYS: [&str; 3] = ["sh", "-c", "trap exit TERM; while :; do sleep 3600 & wait; done"];

/// Asks nodes for containers. Clones share it.
#[derive(Clone)]
pub struct Renter {
    shared: Arc<Shared>,
}

struct Shared {
    swarm: Swarm,
    host: Host,
    blocks: Blocks,
    importer: Importer,
    forwards: Forwards,
    /// This node's, for a host key.
    identity: Keypair,
}

impl Renter {
    /// One that asks over `swarm`, and of this node its `host`.
    #[must_use]
    pub fn new(
        swarm: Swarm,
        host: Host,
        blocks: Blocks,
        importer: Importer,
        identity: Keypair,
    ) -> Renter {
        let forwards = Forwards::default();
        Renter { shared: Arc::new(Shared { swarm, host, blocks, importer, forwards, identity }) }
    }

    /// Runs a container on the node that is named, or on the first of `peers`, by their rank, that does it.
    ///
    /// # Errors
    /// When none does, or what is asked for is none.
    pub async fn run(
        &self,
        request: ContainerRequest,
        peers: Vec<(PeerId, engine::PeerFacts)>,
        tell: impl Fn(Starting),
    ) -> Result<ContainerView, RentError> {
        if request.image.is_empty() {
            return Err(RentError::Wrong("a container has an image".to_owned()));
        }
        // Before anything is begun: it is what goes wrong most.
        let bound = self.bind(&request.ports, request.ssh_keys.as_deref()).await?;
        // The blocks of the image stay until a node has them.
        let add = self.shared.blocks.store().add(Tier::Durable);
        let image = self.image(&request, &add).await?;
        let id = ContainerId(rand::random());
        let order = order(id, image, &request);
        order.check()?;
        let mut why = Vec::new();
        let able = match request.on {
            Some(peer) => vec![peer],
            None => {
                let needs = needs(&request, order.takes);
                let name = id.0.to_be_bytes();
                let (able, unable) = candidates(&name, &needs, order.memory, peers);
                why.extend(unable.into_iter().map(|(peer, why)| Detail(format!("{peer}: {why}"))));
                able
            }
        };
        for peer in able {
            tell(Starting::Asked(peer));
            match self.run_on(peer, &order, &tell).await {
                Ok(mut view) => {
                    self.shared.forwards.start(self, &view, bound);
                    self.shared.forwards.show(&mut view);
                    return Ok(view);
                }
                Err(error) if request.on.is_some() => return Err(error),
                Err(error) => {
                    let problem = Problem::of(&error);
                    let because: String =
                        problem.causes.iter().map(|cause| format!(": {cause}")).collect();
                    why.push(Detail(format!("{peer}: {}{because}", problem.message)));
                }
            }
        }
        Err(RentError::Nobody { why })
    }

    async fn run_on(
        &self,
        peer: PeerId,
        order: &Order,
        tell: &impl Fn(Starting),
    ) -> Result<ContainerView, RentError> {
        let mut stream = self.ask(peer, &Ask::Run(Box::new(order.clone()))).await?;
        let until = Instant::now() + START;
        loop {
            match self.answer(peer, &mut stream).await? {
                Answer::Fetched(bytes) if Instant::now() < until => tell(Starting::Fetched(bytes)),
                Answer::Container(view) => return Ok(*view),
                Answer::Refused(problem) => return Err(RentError::told(problem)),
                _ => return Err(unexpected(peer)),
            }
        }
    }

    /// The image of this request, as blocks that `add` spares.
    async fn image(&self, request: &ContainerRequest, add: &Add) -> Result<Cid, RentError> {
        if request.archive.is_none()
            && let Ok(cid) = request.image.parse()
        {
            return Ok(cid);
        }
        self.import(&request.image, request.archive, add).await
    }

    /// Brings an image into blocks: what is in `archive`, or what this node's engine has of this name.
    ///
    /// # Errors
    /// When there is none, or the disk is full.
    pub async fn import(
        &self,
        name: &str,
        archive: Option<ipdc_jobs::ids::FileRef>,
        add: &Add,
    ) -> Result<Cid, RentError> {
        let store = self.shared.blocks.store();
        store.room().map_err(|error| RentError::Keep(error.into()))?;
        let imported = match archive {
            Some(file) => self.shared.importer.of_file(file, add).await,
            None => self.shared.importer.of_engine(name, add).await,
        };
        imported
            .map_err(|source| RentError::Image { name: name.to_owned(), source: Box::new(source) })
    }

    /// The containers of this node's owner, and all that run on this node.
    pub async fn list(&self) -> ContainerList {
        let (mut containers, mut silent) = (Vec::new(), Vec::new());
        let mut heard = self.hear_all();
        while let Some((peer, listed)) = heard.next().await {
            match listed {
                Ok(listed) => containers.extend(listed),
                Err(error) => silent.push(SilentPeer { peer, why: error.to_string() }),
            }
        }
        containers.sort_by_key(|view: &ContainerView| (view.since_ms, view.id));
        ContainerList { containers, silent }
    }

    /// What each node has, as they answer.
    fn hear_all(&self) -> impl Stream<Item = (PeerId, Result<Vec<ContainerView>, RentError>)> + '_ {
        let peers = self.shared.swarm.connected().into_iter().chain([self.me()]);
        let asked = peers.map(async |peer| {
            let silent = RentError::Answer { peer, why: "it says nothing".to_owned() };
            let heard = timeout(LISTING, self.hear(peer)).await;
            (peer, heard.unwrap_or(Err(silent)))
        });
        asked.collect::<FuturesUnordered<_>>()
    }

    /// What one node has.
    async fn hear(&self, peer: PeerId) -> Result<Vec<ContainerView>, RentError> {
        let mut stream = match self.ask(peer, &Ask::List).await {
            // A node of an earlier version has none.
            Err(RentError::Stream(StreamError::Unsupported { .. })) => return Ok(Vec::new()),
            asked => asked?,
        };
        let mut listed = match self.answer(peer, &mut stream).await? {
            Answer::Containers(listed) => listed,
            Answer::Refused(problem) => return Err(RentError::told(problem)),
            _ => return Err(unexpected(peer)),
        };
        // A node speaks for itself only.
        listed.retain(|view| view.node == peer);
        for view in &mut listed {
            if view.state == ContainerState::Ended {
                self.shared.forwards.end(view.id);
            }
            self.shared.forwards.show(view);
        }
        Ok(listed)
    }

    /// The container whose ID is, or begins with, `text`, of those that [`Renter::list`] has.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub async fn find(&self, text: &str) -> Result<ContainerView, RentError> {
        let unknown = || RentError::Unknown(text.to_owned());
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let whole = text.parse::<ContainerId>().ok();
        let (mut found, mut silent) = (Vec::new(), Vec::new());
        let mut heard = self.hear_all();
        while let Some((peer, listed)) = heard.next().await {
            let Ok(listed) = listed else {
                silent.push(peer.to_string());
                continue;
            };
            let begins = |view: &ContainerView| view.id.to_string().starts_with(text);
            found.extend(listed.into_iter().filter(begins));
            // Who is slow may have others that begin so, but no other that is it.
            if let Some(at) = found.iter().position(|view| Some(view.id) == whole) {
                return Ok(found.swap_remove(at));
            }
        }
        match (found.pop(), found.is_empty(), silent.is_empty()) {
            (Some(view), true, _) => Ok(view),
            (Some(_), false, _) => Err(RentError::Ambiguous(text.to_owned())),
            (None, _, true) => Err(unknown()),
            (None, _, false) => {
                let silent = silent.join(", ");
                let but =
                    format!("{text}, unless one of these has it, which do not answer: {silent}");
                Err(RentError::Unknown(but))
            }
        }
    }

    /// Lets a container run for so long from now on.
    ///
    /// # Errors
    /// When its node does not.
    pub async fn extend(
        &self,
        view: &ContainerView,
        time: Duration,
    ) -> Result<ContainerView, RentError> {
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.change(view, &Ask::Extend { id: view.id, time_ms }).await
    }

    /// Ends a container, and forgets it.
    ///
    /// # Errors
    /// When its node does not.
    pub async fn remove(&self, view: &ContainerView) -> Result<ContainerView, RentError> {
        let removed = self.change(view, &Ask::Remove { id: view.id }).await?;
        self.shared.forwards.end(view.id);
        Ok(removed)
    }

    async fn change(&self, view: &ContainerView, ask: &Ask) -> Result<ContainerView, RentError> {
        let mut stream = self.ask(view.node, ask).await?;
        match self.answer(view.node, &mut stream).await? {
            Answer::Container(view) => Ok(*view),
            Answer::Refused(problem) => Err(RentError::told(problem)),
            _ => Err(unexpected(view.node)),
        }
    }

    /// What a container writes, as [`Frame`](super::Frame)s.
    ///
    /// # Errors
    /// When its node does not say.
    pub async fn logs(&self, view: &ContainerView, follow: bool) -> Result<BoxStream, RentError> {
        self.open(view.node, &Ask::Logs { id: view.id, follow }).await
    }

    /// A command in a container: [`Frame`](super::Frame)s both ways.
    ///
    /// # Errors
    /// When it is not started.
    pub async fn exec(
        &self,
        view: &ContainerView,
        request: ExecRequest,
    ) -> Result<BoxStream, RentError> {
        let ExecRequest { command, terminal } = request;
        if command.is_empty() {
            return Err(RentError::Wrong("a command has at least one word".to_owned()));
        }
        self.open(view.node, &Ask::Exec { id: view.id, command, terminal }).await
    }

    /// Has ports of a container on the loopback of this machine, and a way in for SSH if keys are named.
    ///
    /// # Errors
    /// When one cannot be used, or a key is none.
    pub async fn forward(
        &self,
        mut view: ContainerView,
        request: &PortsRequest,
    ) -> Result<ContainerView, RentError> {
        let bound = self.bind(&request.ports, request.ssh_keys.as_deref()).await?;
        self.shared.forwards.start(self, &view, bound);
        self.shared.forwards.show(&mut view);
        Ok(view)
    }

    async fn bind(
        &self,
        ports: &[PortRequest],
        keys: Option<&str>,
    ) -> Result<Vec<Bound>, RentError> {
        let ssh = keys.map(|keys| Ssh::new(keys, &self.shared.identity)).transpose()?;
        self.shared.forwards.bind(ports, ssh).await
    }

    /// Lets go of all ports.
    pub fn stop(&self) {
        self.shared.forwards.end_all();
    }

    pub(super) async fn open(&self, peer: PeerId, ask: &Ask) -> Result<BoxStream, RentError> {
        let mut stream = self.ask(peer, ask).await?;
        match self.answer(peer, &mut stream).await? {
            Answer::Open => Ok(stream),
            Answer::Refused(problem) => Err(RentError::told(problem)),
            _ => Err(unexpected(peer)),
        }
    }

    async fn ask(&self, peer: PeerId, ask: &Ask) -> Result<BoxStream, RentError> {
        let mut stream = if peer == self.me() {
            let (ours, theirs) = duplex(PIPE);
            tokio::spawn(session::serve(self.shared.host.clone(), peer, Box::new(theirs)));
            Box::new(ours)
        } else {
            self.shared.swarm.open(peer, Protocol::Containers).await?
        };
        let written = timeout(ANSWER, frame::write(&mut stream, ask, ASK_LIMIT)).await;
        match written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(()) => Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(RentError::Wrong(format!("it is too long to be asked for: {error}")))
            }
            Err(error) => Err(RentError::Answer { peer, why: error.to_string() }),
        }
    }

    async fn answer(&self, peer: PeerId, stream: &mut BoxStream) -> Result<Answer, RentError> {
        let answer = timeout(ANSWER, frame::read(stream, ANSWER_LIMIT)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        answer.map_err(|error| RentError::Answer { peer, why: error.to_string() })
    }

    fn me(&self) -> PeerId {
        self.shared.swarm.peer_id()
    }
}

fn unexpected(peer: PeerId) -> RentError {
    RentError::Answer { peer, why: "it answers something else".to_owned() }
}

fn order(id: ContainerId, image: Cid, request: &ContainerRequest) -> Order {
    let ContainerRequest { image: name, mut command, env, cpus, gpus, gpu_memory, .. } =
        request.clone();
    if command.is_empty() && request.ssh_keys.is_some() {
        command = STAYS.map(str::to_owned).into();
    }
    let time = request.time_s.map_or(TIME, Duration::from_secs);
    Order {
        id,
        name,
        image,
        command,
        env,
        takes: Takes { cpus: cpus.unwrap_or(1), gpus, gpu_memory },
        memory: request.memory.unwrap_or(MEMORY),
        disk: request.disk.unwrap_or(DISK),
        time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        network: request.network,
        root: request.root,
        group: request.group.clone(),
    }
}

/// What a node must have for a request.
fn needs(request: &ContainerRequest, takes: Takes) -> Needs {
    Needs {
        runtimes: BTreeSet::from([Runtime::Container]),
        labels: request.labels.iter().cloned().collect(),
        network: request.network,
        takes,
        ..Needs::default()
    }
}
