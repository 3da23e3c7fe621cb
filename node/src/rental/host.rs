//! The containers that run here by hand: who may have one, with what, and until when.
//!
//! Owns all of them, from the order until they are forgotten. What one takes of the node, slots, GPUs, memory, the image,
//! it has until the engine has removed it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipdc_jobs::ids::PeerId;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::log::Log;
use super::mux::Mux;
use super::wire::Order;
use super::{RentError, session};
use crate::audit::{Audit, Entry, What};
use crate::blocks::Blocks;
use crate::blocks::store::Tier;
use crate::containers::{
    self, Bind, Containers, End, Inside, Loaded, Mounts, Running, Standing, TOOLS, Tools,
};
use crate::runtime::Runtime;
use crate::swarm::Swarm;
use crate::swarm::certificate::now_ms;
use crate::swarm::facts::PeerFacts;
use crate::swarm::streams::{Protocol, Streams as _, serve_each};
use crate::view::{ByHand, ContainerId, ContainerState, ContainerView};
use crate::worker::{self, Now, Policy, Refusal, Wish, Worker};

/// Streams that one peer may have open: connections to ports are one each.
const STREAMS_A_PEER: usize = 1_024;

/// How long a container that has ended is remembered, and what it wrote.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Containers that are known at a time, those that have ended among them: so many logs are in memory.
const KNOWN: usize = 64;

/// How often it is looked at how much a container has written into its file system: it takes the engine a while.
const LOOK: Duration = Duration::from_secs(10);

/// What a container that is nobody's may write into one file. There is only memory to write to.
const FILE_SIZE: u64 = u64::MAX >> 1;

/// The longest text of an order that is only shown.
const NAME_LIMIT: usize = 256;

/// How long a stopping node waits for its containers to end by themselves.
const STOP: Duration = Duration::from_secs(8);

/// What the host works with.
pub struct Parts {
    /// This node.
    pub me: PeerId,
    /// Who may run what here.
    pub policy: Policy,
    /// What is now.
    pub facts: watch::Receiver<PeerFacts>,
    /// Who is a member.
    pub swarm: Swarm,
    /// Images.
    pub blocks: Blocks,
    /// The engine.
    pub containers: Containers,
    /// The memory that all guests share.
    pub runtime: Runtime,
    /// Slots and GPUs.
    pub worker: Worker,
    /// Where it is noted who had what here.
    pub audit: Audit,
}

/// The containers by hand of this node. Clones share them.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Parts,
    rentals: Mutex<BTreeMap<ContainerId, Arc<Rental>>>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// A container by hand.
pub(super) struct Rental {
    pub(super) order: Order,
    pub(super) owner: String,
    renter: PeerId,
    since_ms: u64,
    /// When it is ended; once it has ended, when it is forgotten.
    until: watch::Sender<Instant>,
    stage: watch::Sender<Stage>,
    pub(super) log: Log,
    /// It is to end.
    stop: CancellationToken,
    /// What connects to its ports, once that is needed.
    pub(super) agent: tokio::sync::Mutex<Option<Arc<Mux>>>,
}

/// Where a container is in its life.
#[derive(Clone)]
pub(super) enum Stage {
    Starting,
    Running(Inside, Arc<Tools>),
    Ended { code: Option<i64>, why: Option<String> },
}

impl Rental {
    pub(super) fn id(&self) -> ContainerId {
        self.order.id
    }

    /// Its container, if it runs.
    pub(super) fn inside(&self) -> Result<(Inside, Arc<Tools>), RentError> {
        match &*self.stage.borrow() {
            Stage::Running(inside, tools) => Ok((inside.clone(), Arc::clone(tools))),
            Stage::Starting | Stage::Ended { .. } => Err(RentError::Ended(self.id())),
        }
    }

    /// How it stands, as that changes.
    pub(super) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    fn has_ended(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Ended { .. })
    }

    fn view(&self, node: PeerId) -> ContainerView {
        let (state, exit, why) = match &*self.stage.borrow() {
            Stage::Starting => (ContainerState::Starting, None, None),
            Stage::Running(..) => (ContainerState::Running, None, None),
            Stage::Ended { code, why } => (ContainerState::Ended, *code, why.clone()),
        };
        let Order { id, name, image, command, takes, memory, network, root, group, .. } =
            self.order.clone();
        ContainerView {
            id,
            node,
            owner: self.owner.clone(),
            renter: self.renter,
            image: name,
            cid: image,
            command,
            group,
            state,
            exit,
            why,
            cpus: takes.cpus,
            gpus: takes.gpus,
            memory,
            network,
            root,
            since_ms: self.since_ms,
            left_s: self.until.borrow().saturating_duration_since(Instant::now()).as_secs(),
            ports: Vec::new(),
            ssh: Vec::new(),
        }
    }
}

impl Host {
    /// Begins to take orders of other nodes.
    #[must_use]
    pub fn start(parts: Parts) -> Host {
        let incoming = parts.swarm.incoming(Protocol::Containers);
        let shared = Shared {
            parts,
            rentals: Mutex::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let host = Host { shared: Arc::new(shared) };
        let serve = {
            let host = host.clone();
            move |peer, stream| session::serve(host.clone(), peer, stream)
        };
        let stopping = host.shared.stopping.clone();
        // What is more is somebody's crowd of connections, and no misdeed of its node.
        let serving = serve_each(incoming, STREAMS_A_PEER, |_| {}, serve);
        tokio::spawn(stopping.clone().run_until_cancelled_owned(serving));
        let cutting = host.clone().cut_off();
        tokio::spawn(stopping.run_until_cancelled_owned(cutting));
        host
    }

    /// Ends the containers of who is no member any more.
    async fn cut_off(self) {
        let mut events = self.shared.parts.swarm.events();
        while !matches!(events.recv().await, Err(RecvError::Closed)) {
            let swarm = &self.shared.parts.swarm;
            for rental in self.rentals().values() {
                if swarm.owner(rental.renter).is_none() {
                    rental.stop.cancel();
                }
            }
        }
    }

    /// Ends all containers, and takes no more orders.
    pub async fn stop(&self) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        let _ = timeout(STOP, self.shared.tasks.wait()).await;
    }

    /// Whose containers run here, and how many of each.
    #[must_use]
    pub fn renters(&self) -> Vec<ByHand> {
        let mut renters = BTreeMap::<PeerId, u32>::new();
        for rental in self.rentals().values().filter(|rental| !rental.has_ended()) {
            *renters.entry(rental.renter).or_default() += 1;
        }
        let renters = renters.into_iter();
        renters.map(|(renter, containers)| ByHand { renter, containers }).collect()
    }

    /// Those that `peer` may know of: its owner's, and of this node's user all.
    pub(super) fn list(&self, peer: PeerId) -> Vec<ContainerView> {
        let rentals: Vec<_> = self.rentals().values().cloned().collect();
        let known = rentals.iter().filter(|rental| self.may_touch(peer, rental));
        known.map(|rental| rental.view(self.shared.parts.me)).collect()
    }

    /// The container of this ID, if `peer` may do something with it.
    pub(super) fn find(&self, id: ContainerId, peer: PeerId) -> Result<Arc<Rental>, RentError> {
        let found = self.rentals().get(&id).cloned();
        // To all others it is not there.
        let found = found.filter(|rental| self.may_touch(peer, rental));
        found.ok_or_else(|| RentError::Unknown(id.to_string()))
    }

    fn may_touch(&self, peer: PeerId, rental: &Rental) -> bool {
        let Parts { me, swarm, .. } = &self.shared.parts;
        peer == *me || swarm.owner(peer).is_some_and(|owner| owner == rental.owner)
    }

    /// Has a container end so much later from now, if the policy lets it.
    pub(super) fn extend(
        &self,
        id: ContainerId,
        peer: PeerId,
        time: Duration,
    ) -> Result<ContainerView, RentError> {
        let rental = self.find(id, peer)?;
        if rental.has_ended() {
            return Err(RentError::Ended(id));
        }
        // On the terms of whose it is, whoever asks.
        let used = self.used(&rental.owner).saturating_sub(1);
        self.judge(&rental.order, time, rental.renter, &rental.owner, used)?;
        rental.until.send_replace(Instant::now() + time);
        Ok(rental.view(self.shared.parts.me))
    }

    /// Ends a container, and forgets it when it has ended.
    pub(super) async fn remove(
        &self,
        id: ContainerId,
        peer: PeerId,
    ) -> Result<ContainerView, RentError> {
        let rental = self.find(id, peer)?;
        rental.stop.cancel();
        let mut stage = rental.stage();
        // It is removed even if this is not waited for.
        let ended = stage.wait_for(|stage| matches!(stage, Stage::Ended { .. }));
        let _ = timeout(2 * STOP, ended).await;
        self.rentals().remove(&id);
        Ok(rental.view(self.shared.parts.me))
    }

    /// Runs a container for `renter`. `fetched` is told of the bytes of its image that have come.
    pub(super) async fn run(
        &self,
        order: Order,
        renter: PeerId,
        fetched: impl FnMut(u64) + Send,
    ) -> Result<ContainerView, RentError> {
        let rental = self.admit(order, renter)?;
        let forget = Forget { host: self, rental: &rental, is_kept: false };
        let running = self.begin(&rental, fetched);
        let running = tokio::select! {
            begun = running => begun?,
            () = rental.stop.cancelled() => return Err(RentError::Ended(rental.id())),
            () = self.shared.stopping.cancelled() => return Err(RentError::Ended(rental.id())),
        };
        self.note(&rental, format!("container {} of {} began", rental.id(), rental.order.name));
        rental.until.send_replace(Instant::now() + Duration::from_millis(rental.order.time_ms));
        let host = self.clone();
        let attended = Arc::clone(&rental);
        self.shared.tasks.spawn(async move { host.attend(attended, running).await });
        forget.keep();
        Ok(rental.view(self.shared.parts.me))
    }

    /// Takes an order in, if the policy lets it and there is room among those that are known.
    fn admit(&self, mut order: Order, renter: PeerId) -> Result<Arc<Rental>, RentError> {
        let Parts { swarm, .. } = &self.shared.parts;
        let owner = swarm.owner(renter).ok_or(Refusal::Stranger(renter))?;
        order.check()?;
        order.name.truncate(order.name.floor_char_boundary(NAME_LIMIT));
        let time = Duration::from_millis(order.time_ms);
        let mut rentals = self.rentals();
        if rentals.contains_key(&order.id) {
            return Err(RentError::Wrong(format!("there is a container {} already", order.id)));
        }
        let used = used(&rentals, &owner);
        let judged = self.judge(&order, time, renter, &owner, used);
        if let Err(RentError::Refused(refusal)) = &judged {
            let entry = Entry::now(What::Refused, &owner, refusal.to_string());
            self.shared.parts.audit.note(Entry { peer: Some(renter), ..entry });
        }
        judged?;
        if rentals.len() >= KNOWN {
            let ended = rentals.iter().filter(|(_, rental)| rental.has_ended());
            let oldest = ended.min_by_key(|(_, rental)| *rental.until.borrow());
            let Some(oldest) = oldest.map(|(id, _)| *id) else {
                return Err(RentError::TooMany { what: "containers on this node", most: KNOWN });
            };
            rentals.remove(&oldest);
        }
        let rental = Arc::new(Rental {
            owner,
            renter,
            since_ms: now_ms(),
            until: watch::Sender::new(Instant::now() + time),
            stage: watch::Sender::new(Stage::Starting),
            log: Log::new(),
            stop: CancellationToken::new(),
            agent: tokio::sync::Mutex::default(),
            order,
        });
        rentals.insert(rental.id(), Arc::clone(&rental));
        Ok(rental)
    }

    fn judge(
        &self,
        order: &Order,
        time: Duration,
        renter: PeerId,
        owner: &str,
        used: u32,
    ) -> Result<(), RentError> {
        let Parts { me, policy, facts, .. } = &self.shared.parts;
        let Order { memory, disk, network, root, .. } = *order;
        let wish = Wish { memory, disk, time, network, root };
        let (paused, others) = {
            let facts = facts.borrow();
            (facts.paused, facts.cpu_others)
        };
        let now = Now { me: *me, paused, minute: worker::minute(), others };
        Ok(policy.judge_wish(&wish, renter, owner, used, &now)?)
    }

    fn used(&self, owner: &str) -> u32 {
        used(&self.rentals(), owner)
    }

    /// Has the container running. What it takes of the node it holds until it is gone.
    async fn begin(
        &self,
        rental: &Rental,
        fetched: impl FnMut(u64) + Send,
    ) -> Result<Running, RentError> {
        let Parts { containers, runtime, worker, blocks, facts, .. } = &self.shared.parts;
        let Order { id, image, takes, memory, .. } = &rental.order;
        if facts.borrow().cpus < takes.cpus {
            return Err(RentError::NoRoom(format!("it has not {} processors", takes.cpus)));
        }
        let lease = worker.lease(id.0, *takes).await;
        let lease = lease.ok_or_else(|| RentError::NoRoom(format!("{} GPUs", takes.gpus)))?;
        let claim = runtime.claim(*memory).ok_or_else(|| {
            RentError::NoRoom(format!("memory: it asks for {} MiB", memory >> 20))
        })?;
        let session = blocks.session(&[rental.renter], Tier::Cache);
        let loading = containers.images().load(*image, &session, fetched, &rental.stop);
        let image = loading.await?;
        containers.keep()?;
        let mounts = containers.mounts().clone();
        // It copies the program, the first time.
        let tools = tokio::task::spawn_blocking(move || mounts.tools()).await;
        let tools = tools.expect("copying the program does not panic")?;
        let order = ordered(&rental.order, &image, &tools, lease.gpus.clone());
        let mut running = Running::start(containers.engine(), &order).await?;
        rental.stage.send_replace(Stage::Running(running.inside(), Arc::clone(&tools)));
        running.hold((image, tools, lease, claim));
        Ok(running)
    }

    /// Stays with a container until it has ended, and with what is known of it until that is forgotten.
    async fn attend(&self, rental: Arc<Rental>, mut running: Running) {
        let inside = running.inside();
        let hear = async {
            while let Some(said) = running.said().await {
                rental.log.add(said);
            }
            running.ended().await
        };
        let ended = tokio::select! {
            ended = hear => match ended {
                Ok(End { is_out_of_memory: true, .. }) => {
                    let mib = rental.order.memory >> 20;
                    Err(format!("it wanted more than its {mib} MiB of memory"))
                }
                Ok(End { code, .. }) => Ok(code),
                Err(trouble) => Err(trouble.to_string()),
            },
            () = over(&rental.until) => Err("its time was over".to_owned()),
            () = overflow(&rental.order, &inside) => {
                Err(format!("it wrote more than {} MiB into its file system", rental.order.disk >> 20))
            }
            () = rental.stop.cancelled() => Err("it was removed".to_owned()),
            () = self.shared.stopping.cancelled() => Err("the node stops".to_owned()),
        };
        if ended.is_err() {
            inside.stop().await;
        }
        drop(running);
        let (code, why) = match ended {
            Ok(code) => (Some(code), None),
            Err(why) => (None, Some(why)),
        };
        let how = why.clone().unwrap_or_else(|| format!("exit code {}", code.unwrap_or_default()));
        self.note(&rental, format!("container {} ended: {how}", rental.id()));
        rental.agent.lock().await.take();
        rental.until.send_replace(Instant::now() + REMEMBERED);
        rental.stage.send_replace(Stage::Ended { code, why });
        let host = self.clone();
        tokio::spawn(async move {
            sleep(REMEMBERED).await;
            host.rentals().remove(&rental.id());
        });
    }

    fn note(&self, rental: &Rental, detail: String) {
        let entry = Entry::now(What::Rented, &rental.owner, detail);
        self.shared.parts.audit.note(Entry { peer: Some(rental.renter), ..entry });
    }

    fn rentals(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Arc<Rental>>> {
        self.shared.rentals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a container that does not begin, whoever gives up waiting for it.
struct Forget<'a> {
    host: &'a Host,
    rental: &'a Rental,
    is_kept: bool,
}

impl Forget<'_> {
    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.rental.stop.cancel();
            let why = Some("it did not begin".to_owned());
            self.rental.stage.send_replace(Stage::Ended { code: None, why });
            self.host.rentals().remove(&self.rental.id());
        }
    }
}

/// What the engine is asked for.
fn ordered(order: &Order, image: &Loaded, tools: &Tools, gpus: Vec<String>) -> containers::Order {
    let mut variables: Vec<_> = order.env.clone().into_iter().collect();
    let standing = if order.root {
        Standing::OfImage
    } else {
        variables.insert(0, ("HOME".to_owned(), "/tmp".to_owned()));
        Standing::Nobody { user: Mounts::user(), file_size: FILE_SIZE }
    };
    let source = tools.folder.path().to_owned();
    containers::Order {
        image: image.name.clone(),
        entrypoint: None,
        command: order.command.clone(),
        variables,
        binds: vec![Bind { source, target: TOOLS, is_writable: false }],
        folder: None,
        standing,
        memory: order.memory,
        cpus: Some(order.takes.cpus),
        gpus,
        has_network: order.network,
    }
}

/// How many containers of `owner` there are that have not ended.
fn used(rentals: &BTreeMap<ContainerId, Arc<Rental>>, owner: &str) -> u32 {
    let its = rentals.values().filter(|rental| rental.owner == owner && !rental.has_ended());
    its.count() as u32
}

/// Comes back when the time is over, whatever it is changed to meanwhile.
async fn over(until: &watch::Sender<Instant>) {
    let mut until = until.subscribe();
    loop {
        let now = *until.borrow_and_update();
        tokio::select! {
            () = sleep_until(now) => return,
            _ = until.changed() => {}
        }
    }
}

/// Comes back when a container has written more than it may, where it can write.
async fn overflow(order: &Order, inside: &Inside) {
    if !order.root {
        std::future::pending::<()>().await;
    }
    loop {
        sleep(LOOK).await;
        // An engine that does not say is asked again.
        if matches!(inside.written().await, Ok(written) if written > order.disk) {
            return;
        }
    }
}
