//! One running node: the rooms put together in the order in which they depend on each other, and
//! taken apart in the reverse.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipdc_jobs::engine;
use ipdc_jobs::ids::{Cid, PeerId};
use ipdc_jobs::native::Machine;
use libp2p_identity::Keypair;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, ApiError};
use crate::audit::{Audit, Entry, What};
use crate::blocks::Blocks;
use crate::blocks::pins::PinError;
use crate::blocks::store::{Limits, Store, StoreError, Tier};
use crate::broker::{self, Broker, BrokerError, Links, Properties, topics};
use crate::config::Config;
use crate::containers::{self, Containers, Engine, Importer, InEngine, Seen};
use crate::controller::{self, Controller};
use crate::fetch::{self, Fetcher};
use crate::heap;
use crate::home::{Home, HomeError};
use crate::interpreters::Interpreters;
use crate::interrupt::Interrupts;
use crate::machine::{self, Sampler};
use crate::post::Post;
use crate::rental::{self, RentError, Renter};
use crate::runtime::{Compiler, ProcessOptions, Processes, Runtime, Trouble};
use crate::state::pins::Reason;
use crate::state::{Db, StateError, images, pause};
use crate::swarm::certificate::{CERTIFICATE_LIFE, now_ms};
use crate::swarm::facts::PeerFacts;
use crate::swarm::identity::{self, IdentityError};
use crate::swarm::membership::{Membership, MembershipError};
use crate::swarm::streams::Streams;
use crate::swarm::{self, InviteOptions, Swarm, SwarmError, SwarmEvent};
use crate::view::{
    ContainerRequest, ContainerView, ContainersView, Guest, GuestRequest, ImageView, Invite,
    InviteRequest, JobCounts, JobState, NewImage, Peer, RunInfo, Starting, Status, WorkingFor,
};
use crate::worker::{self, Policy, Room, Worker};

/// How long answers under way may take when all else has stopped: who asked the node to stop is to hear that it does.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long a stopping node waits for the attempts that run; what is left then is handed back by
/// its silence.
const DRAIN_BOUND: Duration = Duration::from_secs(30);

/// Swarm events that wait for one room.
const SWARM_EVENT_LIMIT: usize = 1_024;

/// How long an invitation holds, and for how many, unless it says otherwise.
const INVITE_TTL: Duration = Duration::from_secs(24 * 3600);
const INVITE_USES: u32 = 1;

/// How long a guest may come, unless it is said otherwise: for a job or two, and not for ever.
const GUEST_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why a node does not start, or does not do what it was asked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum NodeError {
    /// Its home.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Home(#[from] HomeError),
    /// Its database.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
    /// The folder for containers.
    #[error("the node cannot set up containers: {0}")]
    #[diagnostic(
        code("IPDC-1502"),
        help(
            "see that the node's home can be written, and that nothing in its folder `containers` is in use"
        )
    )]
    Containers(#[from] containers::Trouble),
    /// The swarm.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Swarm(#[from] SwarmError),
    /// The node's keys.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Identity(#[from] IdentityError),
    /// The node's certificate.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Membership(#[from] MembershipError),
    /// Blocks.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// Pins.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pins(#[from] PinError),
    /// The broker.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Broker(#[from] BrokerError),
    /// HTTP.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Api(#[from] ApiError),
    /// It works for others, and was not told to stop all the same.
    #[error("this node works for others: {0}")]
    #[diagnostic(
        code("IPDC-1501"),
        help("`ipdc stop --yes` finishes or hands back what runs, then stops")
    )]
    WorksForOthers(String),
}

/// A running node.
pub struct Node {
    /// Who it is.
    pub me: PeerId,
    /// The swarm.
    pub swarm: Swarm,
    /// Blocks.
    pub blocks: Blocks,
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// Its jobs.
    pub controller: Controller,
    /// Its work for jobs.
    pub worker: Worker,
    /// What interprets code.
    pub interpreters: Interpreters,
    processes: Option<Processes>,
    /// Why it runs no native programs, although its policy lets somebody.
    no_process: Option<String>,
    containers: Containers,
    /// Containers by hand that run here.
    rentals: rental::Host,
    /// And its user's, wherever they run.
    pub renter: Renter,
    /// Whether its policy lets anybody run containers.
    grants_containers: bool,
    post: Post,
    db: Db,
    /// What happened here, and for whom.
    pub audit: Audit,
    home: PathBuf,
    run_info: RunInfo,
    facts: watch::Sender<PeerFacts>,
    started: Instant,
    stop: CancellationToken,
    stopped: CancellationToken,
    /// What answers over HTTP.
    answering: TaskTracker,
}

/// Runs a node until it is told to stop, by a signal or by [`Node::ask_to_stop`].
///
/// # Errors
/// When it cannot start.
pub async fn run(
    home: Home,
    config: Config,
    ready: impl FnOnce(&RunInfo),
) -> Result<(), NodeError> {
    let _lock = home.lock()?;
    home.remove_run_info();
    // From here on: who was told that the node is ready may ask it to go at once.
    let mut interrupts = Interrupts::listen();
    let node = start(&home, config).await?;
    home.write_run_info(&node.run_info)?;
    ready(&node.run_info);
    tokio::select! {
        () = interrupts.next() => tracing::info!("asked to stop by a signal"),
        () = node.stop.cancelled() => tracing::info!("asked to stop"),
    }
    node.shut_down().await;
    home.remove_run_info();
    Ok(())
}

async fn start(home: &Home, config: Config) -> Result<Arc<Node>, NodeError> {
    let started = Instant::now();
    // What can be refused at once comes first: a used port costs no swarm.
    let http = api::bind(config.http.listen).await?;
    let db = Db::open(&home.database())?;
    let memo = Db::open_memo(&home.memo()?)?;
    let audit = Audit::start(db.clone());
    let keypair = identity::load(&home.identity())?;
    let me = keypair.public().to_peer_id();
    let room = Room::divide(machine::memory(), machine::cpus(), config.node.slots);
    let mut policy = Policy::new(&config);
    let (mut processes, mut no_process) = (None, None);
    if policy.grants(engine::Runtime::Process) {
        match start_processes(home, &config, me, room).await {
            Ok(started) => processes = Some(started),
            Err(trouble) => {
                tracing::error!(%trouble, "[IPDC-5320] no native programs run here; docs/process.md says what they take");
                policy = policy.without(engine::Runtime::Process);
                no_process = Some(trouble.to_string());
            }
        }
    }
    let containers = Containers::start(containers::Options {
        program: machine::own_program(),
        socket: config.containers.engine.clone(),
        folder: home.containers(),
        name: me.to_string(),
        images: config.containers.images.bytes(),
        build_network: config.containers.build_network.clone(),
    })
    .await?;
    let grants_containers = policy.grants(engine::Runtime::Container);
    let machine = Machine::of_name(std::env::consts::ARCH).filter(|_| processes.is_some());
    let labels = config.node.labels.iter().cloned().chain(machine.map(Machine::label)).collect();
    let mut sampler = Sampler::new(home.path());
    let mut first_facts = PeerFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: sysinfo::System::host_name().unwrap_or_default(),
        cpus: machine::cpus(),
        fetch: policy.grants_fetch(),
        network: policy.grants_network(),
        labels,
        slots: room.slots,
        paused: pause::since(&db).await?.is_some(),
        ..PeerFacts::default()
    };
    sampler.sample(&mut first_facts);
    tell_engine(&mut first_facts, &containers.engine().seen(), &policy);
    let (facts, told) = watch::channel(first_facts);
    let kept = (&db, &audit);
    let swarm = Swarm::start(swarm_options(home, &config, &keypair, kept, told.clone())?).await?;
    let streams: Arc<dyn Streams> = Arc::new(swarm.clone());
    let limits = Limits {
        cache: config.blocks.cache.bytes(),
        memo: config.blocks.memo.bytes(),
        low_water: config.blocks.low_water.bytes(),
        ..Limits::default()
    };
    let store = Store::open(home.path(), limits).await?;
    let blocks = Blocks::start(store, db.clone(), Arc::clone(&streams), config.blocks.stall);
    let compiler = Compiler::apart(room.guests);
    let runtime = Runtime::new(home.cache().join("wasm"), room.guests, compiler);
    let runtime = runtime.with_processes(processes.clone()).with_containers(containers.clone());
    let importer = Importer::new(containers.engine().clone(), db.clone(), blocks.clone());
    let interpreters = Interpreters::new(db.clone(), blocks.clone(), runtime.clone());
    let mqtt = broker::Options::new(&config.mqtt, &home.mqtt_password()?);
    let broker = broker::start(mqtt).await?;
    let (links, incoming) = Links::start(Arc::clone(&broker), streams).await;
    let (post, mail) = Post::open(me, links, incoming);
    let (changes, _) = broadcast::channel(controller::CHANGES_LIMIT);
    let owner = swarm.owner(me).unwrap_or_default();
    let controller = Controller::start(controller::Context {
        me,
        jobs_taken_in: policy.jobs_taken_in(me, &owner),
        owner,
        keypair: keypair.clone(),
        db: db.clone(),
        memo: memo.clone(),
        audit: audit.clone(),
        blocks: blocks.clone(),
        runtime: runtime.clone(),
        interpreters: interpreters.clone(),
        importer: importer.clone(),
        post: post.clone(),
        changes,
    })
    .await?;
    let (to_worker, worker_events) = mpsc::channel(SWARM_EVENT_LIMIT);
    let pages = fetch::Pages::new(memo.clone(), blocks.store().clone());
    let fetcher = Fetcher::new(fetch::Options::of(&config.policy), Some(pages));
    follow_engine(containers.engine(), policy.clone(), facts.clone());
    let gpus = told.borrow().gpus.clone();
    let parts = worker::Parts {
        me,
        room,
        gpus,
        policy: policy.clone(),
        facts: told.clone(),
        swarm: swarm.clone(),
        blocks: blocks.clone(),
        runtime: runtime.clone(),
        fetcher,
        post: post.clone(),
        db: db.clone(),
        memo,
        audit: audit.clone(),
    };
    let worker = Worker::start(parts, mail.worker, worker_events).await?;
    let rentals = rental::Host::start(rental::Parts {
        me,
        policy,
        facts: told.clone(),
        swarm: swarm.clone(),
        blocks: blocks.clone(),
        containers: containers.clone(),
        runtime,
        worker: worker.clone(),
        audit: audit.clone(),
    });
    let (host, images) = (rentals.clone(), importer.clone());
    let renter = Renter::new(swarm.clone(), host, blocks.clone(), images, keypair.clone());
    for (job, bytes) in blocks.store().scratch_jobs() {
        if !controller.controls(job) && !worker.remembered().contains(&job) {
            tracing::info!(%job, bytes, "dropping the scratch files of a job that is over");
            blocks.store().drop_job(job).await?;
        }
    }
    let run_info = RunInfo {
        pid: std::process::id(),
        peer_id: me,
        listen: swarm.listen_addrs(),
        mqtt: broker.addr(),
        http: http
            .local_addr()
            .map_err(|source| ApiError::Listen { addr: config.http.listen, source })?,
    };
    let node = Arc::new(Node {
        me,
        swarm,
        blocks,
        broker,
        controller,
        worker,
        interpreters,
        processes,
        no_process,
        containers,
        rentals,
        renter,
        grants_containers,
        post: post.clone(),
        db,
        audit,
        home: home.path().to_owned(),
        run_info,
        facts: facts.clone(),
        started,
        stop: CancellationToken::new(),
        stopped: CancellationToken::new(),
        answering: TaskTracker::new(),
    });
    tokio::spawn(heap::watch(told.borrow().memory));
    let worker = node.worker.clone();
    tokio::spawn(sampler.watch(facts, move || worker.load().running));
    node.set_going(told, mail.controllers, to_worker);
    node.answering.spawn(api::serve(http, Arc::clone(&node), home.api_token()?));
    tokio::spawn(api::serve_mqtt(Arc::clone(&node)));
    Ok(node)
}

/// What runs native programs, if they can be confined here.
async fn start_processes(
    home: &Home,
    config: &Config,
    me: PeerId,
    room: Room,
) -> Result<Processes, Trouble> {
    let options = ProcessOptions {
        program: machine::own_program(),
        folder: home.processes(),
        name: format!("ipdc-{me}"),
        uids: config.process.uids,
        memory: room.guests,
        idle: room.slots as usize,
    };
    let started = tokio::task::spawn_blocking(move || Processes::start(options)).await;
    started.unwrap_or_else(|broken| Err(Trouble::new(&broken.to_string())))
}

/// Keeps `facts` true about the engine.
fn follow_engine(engine: &Engine, policy: Policy, facts: watch::Sender<PeerFacts>) {
    let mut seen = engine.watch();
    tokio::spawn(async move {
        loop {
            let now = seen.borrow_and_update().clone();
            facts.send_if_modified(|facts| {
                let before = facts.clone();
                tell_engine(facts, &now, &policy);
                *facts != before
            });
            if seen.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Writes into `facts` what is seen of the engine, and what the node offers with it, or without.
fn tell_engine(facts: &mut PeerFacts, seen: &Seen, policy: &Policy) {
    facts.engine = seen.about().ok().map(str::to_owned);
    facts.runtimes = match facts.engine {
        Some(_) => policy.offered(),
        None => policy.clone().without(engine::Runtime::Container).offered(),
    };
}

fn swarm_options(
    home: &Home,
    config: &Config,
    keypair: &Keypair,
    (db, audit): (&Db, &Audit),
    facts: watch::Receiver<PeerFacts>,
) -> Result<swarm::Options, NodeError> {
    let membership = Membership::load(&home.certificate())?;
    let bootstrap = membership.bootstrap.iter().chain(&config.swarm.bootstrap);
    let root_key = home.root_key();
    Ok(swarm::Options {
        keypair: keypair.clone(),
        key_file: home.swarm_key(),
        root: membership.certificate()?.swarm,
        root_key: if root_key.exists() { Some(identity::load(&root_key)?) } else { None },
        bootstrap: bootstrap.cloned().collect(),
        credential: membership.credential,
        certificate_life: CERTIFICATE_LIFE,
        domain: membership.domain,
        listen: config.swarm.listen.clone(),
        announce: config.swarm.announce.clone(),
        db: db.clone(),
        audit: audit.clone(),
        facts,
    })
}

impl Node {
    /// The tasks that carry news between the rooms.
    fn set_going(
        self: &Arc<Self>,
        mut told: watch::Receiver<PeerFacts>,
        mut letters: mpsc::Receiver<(PeerId, ipdc_jobs::message::ToController)>,
        to_worker: mpsc::Sender<SwarmEvent>,
    ) {
        let controller = self.controller.clone();
        tokio::spawn(async move {
            while let Some((from, message)) = letters.recv().await {
                controller.deliver(from, message);
            }
        });
        // This node is a peer of its own jobs, and tells everybody what it is.
        let node = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let facts = told.borrow_and_update().clone();
                node.controller.peer_up(node.me, placement(&facts));
                node.show_presence(&facts).await;
                if told.changed().await.is_err() {
                    return;
                }
            }
        });
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let mut events = node.swarm.events();
            loop {
                match events.recv().await {
                    Ok(event) => {
                        node.follow(event);
                        let _ = to_worker.send(event).await;
                    }
                    Err(RecvError::Lagged(_)) => node.follow_all(),
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    fn follow(&self, event: SwarmEvent) {
        match event {
            SwarmEvent::Up(peer) | SwarmEvent::Facts(peer) => {
                let view = self.swarm.peers().into_iter().find(|view| view.peer == peer);
                if let Some(facts) = view.filter(|view| view.connected).and_then(|view| view.facts)
                {
                    self.controller.peer_up(peer, placement(&facts));
                }
            }
            SwarmEvent::Down(peer) => self.controller.peer_down(peer),
        }
    }

    /// What is now, after events were missed.
    fn follow_all(&self) {
        for view in self.swarm.peers() {
            match view.facts {
                Some(facts) if view.connected => {
                    self.controller.peer_up(view.peer, placement(&facts));
                }
                _ => self.controller.peer_down(view.peer),
            }
        }
    }

    async fn show_presence(&self, facts: &PeerFacts) {
        let topic = topics::node(self.me);
        api::publish(&*self.broker, &topic, facts, true, Properties::default()).await;
    }

    /// What `ipdc status` shows.
    ///
    /// # Errors
    /// When the disk or the database fails.
    pub async fn status(&self) -> Result<Status, NodeError> {
        let views = self.controller.views().await?;
        let count = |state| views.iter().filter(|view| view.state == state).count() as u32;
        Ok(Status {
            peer_id: self.me,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            domain: self.swarm.domain().to_owned(),
            owner: self.swarm.owner(self.me).unwrap_or_default(),
            listen: self.swarm.listen_addrs(),
            mqtt: self.run_info.mqtt,
            http: self.run_info.http,
            home: self.home.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            peers_connected: Streams::connected(&self.swarm).len() as u32,
            jobs: JobCounts { running: count(JobState::Running), queued: count(JobState::Queued) },
            working_for: self.working_for(),
            disk: self.blocks.pins().du().await?.into(),
            paused: self.facts.borrow().paused,
            no_process: self.no_process.clone(),
            containers: self.containers_view(),
            draining: self.stop.is_cancelled(),
        })
    }

    fn containers_view(&self) -> ContainersView {
        let seen = self.containers.engine().seen();
        let (engine, why) = match seen.about() {
            Ok(about) => (Some(about.to_owned()), None),
            Err(why) => (None, Some(why.to_owned())),
        };
        let by_hand = self.rentals.renters();
        ContainersView { engine, why, granted: self.grants_containers, by_hand }
    }

    /// The nodes of the swarm, this one first.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let mut facts = self.facts.borrow().clone();
        facts.load = self.worker.load().running;
        let me = Peer {
            peer_id: self.me,
            owner: self.swarm.owner(self.me).unwrap_or_default(),
            me: true,
            connected: true,
            latency_ms: None,
            addresses: self.swarm.listen_addrs(),
            facts: Some(facts),
            last_seen_s: Some(0),
        };
        std::iter::once(me).chain(self.swarm.peers().into_iter().map(Peer::from)).collect()
    }

    /// Runs a container by hand.
    ///
    /// # Errors
    /// When no node does.
    pub async fn rent(
        &self,
        request: ContainerRequest,
        tell: impl Fn(Starting),
    ) -> Result<ContainerView, RentError> {
        let own = (self.me, placement(&self.facts.borrow()));
        let others = self.swarm.peers().into_iter().filter(|view| view.connected);
        let others = others.filter_map(|view| Some((view.peer, placement(&view.facts?))));
        self.renter.run(request, others.chain([own]).collect(), tell).await
    }

    /// The images that were brought in here, and those that the engine has for others.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn images(&self) -> Result<Vec<ImageView>, NodeError> {
        let brought = images::all(&self.db).await?;
        // An engine that does not answer has none that could be used.
        let there = self.containers.images().all().await.unwrap_or_default();
        let pins = self.blocks.pins().list().await?;
        let mut views: Vec<ImageView> = Vec::new();
        let others = there.iter().flat_map(|image| image.roots.iter().map(|cid| (None, *cid)));
        for (source, cid) in brought.iter().map(|(source, cid)| (Some(source), *cid)).chain(others)
        {
            let is_it = |image: &&InEngine| {
                let named = source.and_then(|source| source.strip_prefix("engine "));
                image.roots.contains(&cid) || named == Some(&image.id)
            };
            let names = there.iter().filter(is_it).flat_map(|image| image.names.iter().cloned());
            let loaded = there.iter().find(|image| image.roots.contains(&cid));
            let kept = pins.iter().any(|pin| pin.root == cid && pin.reason == Reason::User);
            let (names, loaded) = (names.collect::<Vec<_>>(), loaded.map(|image| image.size));
            match views.iter_mut().find(|view| view.cid == cid) {
                Some(view) => view.names.extend(names),
                None => views.push(ImageView { cid, names, loaded, kept }),
            }
        }
        for view in &mut views {
            view.names.sort();
            view.names.dedup();
        }
        Ok(views)
    }

    /// Brings an image in, and keeps it for this node's user.
    ///
    /// # Errors
    /// When there is none, or it cannot be kept.
    pub async fn add_image(&self, new: NewImage) -> Result<ImageView, RentError> {
        let add = self.blocks.store().add(Tier::Durable);
        let cid = self.renter.import(&new.name, new.archive, &add).await?;
        let pinned = self.blocks.pins().pin(cid, Reason::User).await;
        pinned.map_err(|error| RentError::Keep(error.into()))?;
        Ok(ImageView { cid, names: vec![new.name], loaded: None, kept: true })
    }

    /// Forgets an image: its blocks are not kept for this node's user any more, and the engine has it only under
    /// names that others gave it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_image(&self, cid: Cid) -> Result<(), NodeError> {
        images::forget(&self.db, cid).await?;
        match self.blocks.pins().unpin(cid, Reason::User).await {
            Ok(()) | Err(PinError::NotPinned { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Err(trouble) = self.containers.images().forget(cid).await {
            tracing::info!(%trouble, "an image stays in the engine");
        }
        Ok(())
    }

    /// Makes a token that lets others in.
    ///
    /// # Errors
    /// When this node may not invite, or the database fails.
    pub async fn invite(&self, request: InviteRequest) -> Result<Invite, NodeError> {
        let ttl = request.ttl_s.map_or(INVITE_TTL, Duration::from_secs);
        let uses = request.uses.unwrap_or(INVITE_USES);
        let options = InviteOptions { ttl, uses, owner: request.owner };
        let token = self.swarm.invite(options).await?;
        Ok(Invite { token: token.to_string(), expires_s: ttl.as_secs(), uses })
    }

    /// Lets a peer in as a guest.
    ///
    /// # Errors
    /// When this node may not, the peer is a member or was revoked, or the database fails.
    pub async fn admit(&self, request: GuestRequest) -> Result<Guest, NodeError> {
        let ttl = request.ttl_s.map_or(GUEST_TTL, Duration::from_secs);
        let expires_ms = self.swarm.admit_guest(request.peer_id, ttl).await?;
        Ok(Guest { guest: request.peer_id, expires_ms })
    }

    /// Takes no new attempts from now on, also when started again, until [`Node::resume`]. What runs
    /// may end.
    ///
    /// # Errors
    /// When the database fails; then nothing has changed.
    pub async fn pause(&self) -> Result<(), NodeError> {
        pause::set(&self.db, Some(now_ms())).await?;
        self.note(What::Paused);
        self.facts.send_modify(|facts| facts.paused = true);
        Ok(())
    }

    /// Takes attempts again.
    ///
    /// # Errors
    /// When the database fails; then nothing has changed.
    pub async fn resume(&self) -> Result<(), NodeError> {
        pause::set(&self.db, None).await?;
        self.note(What::Resumed);
        self.facts.send_modify(|facts| facts.paused = false);
        Ok(())
    }

    /// Notes what this node's user did.
    fn note(&self, what: What) {
        let owner = self.swarm.owner(self.me).unwrap_or_default();
        self.audit.note(Entry { peer: Some(self.me), ..Entry::now(what, &owner, "") });
    }

    /// Begins to stop.
    ///
    /// # Errors
    /// When the node works for others and `force` is false.
    pub fn ask_to_stop(&self, force: bool) -> Result<(), NodeError> {
        let others: Vec<_> = self.working_for();
        let others = others.iter().filter(|work| work.submitter != self.me);
        let list: Vec<_> = others
            .map(|work| {
                format!("job {} of {} ({} attempts)", work.job, work.submitter, work.attempts)
            })
            .collect();
        let renters = self.rentals.renters().into_iter();
        let renters = renters.filter(|by_hand| by_hand.renter != self.me);
        let list: Vec<_> = list.into_iter().chain(renters.map(|by| by.to_string())).collect();
        if !force && !list.is_empty() {
            return Err(NodeError::WorksForOthers(list.join(", ")));
        }
        self.stop.cancel();
        Ok(())
    }

    fn working_for(&self) -> Vec<WorkingFor> {
        let jobs = self.worker.load().jobs.into_iter();
        jobs.map(|(job, submitter, attempts)| WorkingFor { job, submitter, attempts }).collect()
    }

    /// Done when the node no longer answers.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.stopped.clone();
        async move { stopped.cancelled().await }
    }

    async fn shut_down(&self) {
        self.stop.cancel();
        self.controller.drain();
        self.renter.stop();
        tokio::join!(self.rentals.stop(), self.worker.drain(DRAIN_BOUND));
        if let Some(processes) = self.processes.clone() {
            // What fails is in the log.
            let _ = tokio::task::spawn_blocking(move || processes.stop()).await;
        }
        self.containers.stop().await;
        self.stopped.cancel();
        self.post.close().await;
        self.broker.shutdown().await;
        self.swarm.shutdown().await;
        self.audit.flush().await;
        self.answering.close();
        // Who follows something is cut off.
        let _ = timeout(LAST_ANSWERS, self.answering.wait()).await;
    }
}

/// What the engine needs to know of a peer to place work on it.
fn placement(facts: &PeerFacts) -> engine::PeerFacts {
    let runtimes = facts.runtimes.iter().filter_map(|name| engine::Runtime::of_name(name));
    engine::PeerFacts {
        slots: facts.slots,
        cpus: facts.cpus,
        gpus: facts.gpus.iter().map(|gpu| gpu.memory).collect(),
        network: facts.network,
        runtimes: runtimes.collect(),
        labels: facts.labels.iter().cloned().collect(),
        fetch: facts.fetch,
        memory: facts.memory,
        refuses: facts.paused.then(|| "it is paused".to_owned()),
    }
}
