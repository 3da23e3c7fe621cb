//! The closed swarm: identity, admission, peers, streams.
//!
//! | room | what it holds |
//! |---|---|
//! | [`identity`], [`backup`] | keys and their files; the root's, encrypted, to be kept elsewhere |
//! | [`signed`], [`certificate`], [`revocation`] | who is a member and who no longer is |
//! | [`invitation`], [`join`] | how to become one |
//! | [`rekey`] | a change of the key that all share |
//! | [`guest`], `visit` | who is none and may fetch blocks all the same |
//! | [`ipdc_gate`] | connections; the quarantine; rust-ipfs set up for a closed swarm |
//! | `admission` | the handshake that ends it |
//! | `authority` | what this node signs for the swarm |
//! | `book`, `peers` | what is known of members; the tasks that dial, tell and hear |
//! | [`address`], [`facts`] | where a node is; what it tells of itself |
//! | `pace` | how fast a peer is listened to |
//! | [`conduct`] | members that break the rules, and when they are put out |
//! | [`streams`], `open` | streams between members, and how they are opened here |
//!
//! What the swarm keeps is in [`crate::state::members`]; who comes and goes it tells
//! [`crate::audit`]. It knows nothing of jobs, brokers or
//! blocks: the repository that rust-ipfs insists on is an empty one in memory.

mod admission;
mod authority;
mod book;
pub mod frame;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod open;
pub(crate) mod pace;
mod peers;

pub mod address;
pub mod backup;
pub mod certificate;
pub mod conduct;
pub mod facts;
pub mod guest;
pub mod identity;
pub mod invitation;
pub mod join;
pub mod membership;
pub mod rekey;
pub mod revocation;
pub mod signed;
pub mod streams;
mod visit;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connexa::prelude::Multiaddr;
use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use rust_ipfs::Ipfs;
use rust_ipfs::repo::Repo;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::address::Whereabouts;
use self::book::Book;
use self::certificate::{BadCertificate, Credential, now_ms};
use self::conduct::{Conduct, PutOut};
use self::facts::PeerFacts;
use self::identity::SwarmKey;
use self::invitation::{Invitation, InvitationId, Token};
use self::open::Takers;
use self::rekey::Keys;
use self::revocation::Whom;
use self::signed::Signed;
use self::streams::Protocol;
use crate::audit::{Audit, Entry, What};
use crate::state::{Db, StateError, guests, members};
use ipdc_gate::{self as gate, DialOpts};

pub use self::admission::Refusal;
pub use self::book::{Admission, PeerView, Standing};
pub use self::join::{Founded, JoinError, Joined, certify, found, join};
pub use self::rekey::{Rekeyed, SWITCH_AFTER};

/// How long a connection may take to show a certificate. Loopback takes 2 ms, a satellite link 3 s.
pub const QUARANTINE: Duration = Duration::from_secs(5);

/// Connections in quarantine whose peers are not known, at most: an eighth of all connections. So
/// many join at once where a cluster is set up; the rest come again. Members find room beside them.
const STRANGERS_LIMIT: usize = 128;

/// Events that a slow listener may be behind; then it is told that it missed some, and should look
/// at [`Swarm::peers`].
const EVENTS_LIMIT: usize = 1024;

/// How long stopping waits for the tasks of the swarm.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// What a swarm is started with.
pub struct Options {
    /// The node's own.
    pub keypair: Keypair,
    /// The file that holds the swarm's key, and is to hold the next.
    pub key_file: PathBuf,
    /// The swarm's root.
    pub root: PeerId,
    /// The root's keypair, on the node that has it.
    pub root_key: Option<Keypair>,
    /// The node's certificate, as the home was made with it.
    pub credential: Credential,
    /// How long certificates hold that this node signs.
    pub certificate_life: Duration,
    /// The swarm's name, for people.
    pub domain: String,
    /// Where to listen: `/ip4/…/tcp/…` or `/ip6/…/tcp/…`. Port 0 takes a free one.
    pub listen: Vec<Multiaddr>,
    /// Addresses to tell others besides those listened on: a port forward, a name.
    pub announce: Vec<Multiaddr>,
    /// Where to look for others first, with or without `/p2p/<peer>`.
    pub bootstrap: Vec<Multiaddr>,
    /// The node's database.
    pub db: Db,
    /// Where it is noted who comes and goes.
    pub audit: Audit,
    /// What the node tells of itself; each change is told.
    pub facts: watch::Receiver<PeerFacts>,
}

/// Whom an invitation lets in.
#[derive(Debug, Clone)]
pub struct InviteOptions {
    /// How long it can be redeemed.
    pub ttl: Duration,
    /// How many machines may join by it.
    pub uses: u32,
    /// Whom they belong to; none, whom this node belongs to.
    pub owner: Option<String>,
}

/// Something happened to a peer. Look at [`Swarm::peers`] for what is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwarmEvent {
    /// It is connected and admitted.
    Up(PeerId),
    /// It is not any more.
    Down(PeerId),
    /// It told new facts.
    Facts(PeerId),
}

/// The swarm could not do it.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SwarmError {
    /// rust-ipfs did not start.
    #[error("the swarm's network could not be started")]
    #[diagnostic(
        code("IPDC-2003"),
        help("is another ipdc running with the same home? `ipdc stop` ends it")
    )]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {why}")]
    #[diagnostic(
        code("IPDC-2004"),
        help(
            "if the port is in use, stop what holds it (`ss -ltnp`) or set another under `listen` in ipdc.toml; port 0 takes a free one"
        )
    )]
    Listen {
        /// Which.
        address: Multiaddr,
        /// What the system said.
        why: String,
    },
    /// An address is of a kind that ipdc does not use.
    #[error("{0} is no address that ipdc can use")]
    #[diagnostic(
        code("IPDC-2005"),
        help(
            "write /ip4/<address>/tcp/<port>, /ip6/<address>/tcp/<port> or, to dial, /dns4/<name>/tcp/<port>"
        )
    )]
    Address(Multiaddr),
    /// The node's own certificate does not hold.
    #[error("this node is no member of the swarm")]
    #[diagnostic(transparent)]
    Certificate(#[from] BadCertificate),
    /// The name of an owner.
    #[error("`{0}` cannot be an owner's name")]
    #[diagnostic(code("IPDC-2006"), help("use 1 to 64 bytes without control characters"))]
    Owner(String),
    /// Inviting needs a right.
    #[error("this node may not {0}")]
    #[diagnostic(
        code("IPDC-2207"),
        help(
            "do it on the node that ran `ipdc init`, or have that node allow it: `ipdc delegate PEER`"
        )
    )]
    NotAllowed(&'static str),
    /// Not a member.
    #[error("{0} is no member that this node knows")]
    #[diagnostic(code("IPDC-2208"), help("`ipdc peers` lists the members and their owners"))]
    NoMember(Whom),
    /// A member needs no pass.
    #[error("{0} is a member of the swarm: it can be no guest")]
    #[diagnostic(
        code("IPDC-2210"),
        help("members fetch any block already; `ipdc peers --admission` lists them")
    )]
    Member(PeerId),
    /// A guest that nobody here could shake hands with.
    #[error("{0} has no Ed25519 key: no node could talk to it")]
    #[diagnostic(
        code("IPDC-2211"),
        help("give it another: `ipfs key rotate --type=ed25519 --oldkey=old`, then `ipfs id`")
    )]
    GuestKey(PeerId),
    /// Cut off for good.
    #[error("{0} was revoked")]
    #[diagnostic(
        code("IPDC-2209"),
        help(
            "a revocation is for good: whoever may come back comes as another peer, of another owner"
        )
    )]
    Revoked(Whom),
    /// An invitation cannot be written down.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Token(#[from] invitation::BadToken),
    /// One change at a time.
    #[error("the swarm's key is being changed")]
    #[diagnostic(code("IPDC-2010"), help("wait ten seconds"))]
    Rekeying,
    /// A key could not be written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] identity::IdentityError),
    /// The database failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
}

/// A running swarm. Clones share it.
#[derive(Clone)]
pub struct Swarm {
    core: Arc<Core>,
}

/// What the tasks of a swarm share.
struct Core {
    keypair: Keypair,
    keys: Mutex<Keys>,
    /// Held while a change of the key is written.
    key_writing: tokio::sync::Mutex<()>,
    root: PeerId,
    root_key: Option<Keypair>,
    certificate_life: Duration,
    /// Names this process to peers.
    run: u64,
    domain: String,
    announce: Vec<Multiaddr>,
    db: Db,
    audit: Audit,
    facts: watch::Receiver<PeerFacts>,
    book: Mutex<Book>,
    net: Mutex<Net>,
    /// What was asked to be listened on, with the ports that were found: the next network takes these.
    listens: Mutex<Vec<Multiaddr>>,
    /// Where this node is, wildcards expanded.
    listening: Mutex<Vec<Multiaddr>>,
    takers: Takers,
    conduct: Conduct,
    /// Places in quarantine for those that are not known.
    strangers: Arc<Semaphore>,
    events: broadcast::Sender<SwarmEvent>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// The network with one key.
struct Net {
    ipfs: Ipfs,
    orders: mpsc::UnboundedSender<gate::Order>,
}

impl Swarm {
    /// Starts the node's part of the swarm: listens, and looks for the others for ever.
    ///
    /// # Errors
    /// When the certificate does not hold, the key cannot be read, an address cannot be listened on, or the
    /// database fails.
    pub async fn start(options: Options) -> Result<Swarm, SwarmError> {
        if let Some(address) = options.listen.iter().find(|a| !is_tcp(a, false)) {
            return Err(SwarmError::Address(address.clone()));
        }
        let dialled = options.bootstrap.iter().chain(&options.announce);
        if let Some(address) = dialled.clone().find(|a| !is_tcp(&address::split_peer(a).0, true)) {
            return Err(SwarmError::Address(address.clone()));
        }
        let local = options.keypair.public().to_peer_id();
        let (events, _) = broadcast::channel(EVENTS_LIMIT);
        let mut book = open_book(&options, local, events.clone()).await?;
        let change = options.db.call(members::key_change).await?;
        let key = SwarmKey::load(&options.key_file)?;
        let (ipfs, ends) = network(&options.keypair, &key).await?;
        book.set_door(ends.guests);
        let (conduct, put_out) = Conduct::new();
        let core = Arc::new(Core {
            keypair: options.keypair,
            keys: Mutex::new(Keys::new(options.key_file, key, change)),
            key_writing: tokio::sync::Mutex::default(),
            root: options.root,
            root_key: options.root_key,
            certificate_life: options.certificate_life,
            run: rand::random(),
            domain: options.domain,
            announce: options.announce,
            db: options.db,
            audit: options.audit,
            facts: options.facts,
            book: Mutex::new(book),
            net: Mutex::new(Net { ipfs: ipfs.clone(), orders: ends.orders }),
            listens: Mutex::default(),
            listening: Mutex::default(),
            takers: Takers::default(),
            conduct,
            strangers: Arc::new(Semaphore::new(STRANGERS_LIMIT)),
            events,
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let swarm = Swarm { core };
        if let Err(error) = swarm.core.listen(&ipfs, &options.listen).await {
            swarm.shutdown().await;
            return Err(error);
        }
        swarm.run(ends.events, put_out);
        Ok(swarm)
    }

    fn run(
        &self,
        events: mpsc::UnboundedReceiver<gate::Event>,
        put_out: mpsc::UnboundedReceiver<PutOut>,
    ) {
        let core = &self.core;
        let told = core.takers.take(Protocol::Peers);
        core.spawn(peers::keep(core.clone(), events));
        core.spawn(peers::put_out(core.clone(), put_out));
        core.spawn(peers::hear(core.clone(), told));
        core.spawn(authority::renew_own(core.clone()));
        core.spawn(visit::see_out(core.clone()));
        // Not cut short by stopping: it saves once more.
        core.tasks.spawn(peers::save(core.clone()));
    }

    /// This node.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.core.local()
    }

    /// The swarm's root.
    #[must_use]
    pub fn root(&self) -> PeerId {
        self.core.root
    }

    /// The swarm's name, for people.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.core.domain
    }

    /// The addresses that this node listens on, wildcards expanded, without `/p2p`.
    #[must_use]
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        lock(&self.core.listening).clone()
    }

    /// The other members, connected or not, in the order of their IDs.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        self.core.book().views()
    }

    /// Whom a member belongs to, this node included. None of who is no member, or whose certificate
    /// has expired or was revoked.
    #[must_use]
    pub fn owner(&self, peer: PeerId) -> Option<String> {
        let book = self.core.book();
        book.certificate(peer).filter(|_| !book.still_member(peer).is_zero()).map(|c| c.owner)
    }

    /// On whose word everybody is a member, this node included, and who was one.
    #[must_use]
    pub fn admissions(&self) -> Vec<Admission> {
        self.core.book().admissions()
    }

    /// What happens to peers from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<SwarmEvent> {
        self.core.events.subscribe()
    }

    /// Makes an invitation. This node must run while others join by it.
    ///
    /// # Errors
    /// When this node may not invite, or the database fails.
    pub async fn invite(&self, options: InviteOptions) -> Result<Token, SwarmError> {
        let core = &self.core;
        let own = {
            let book = core.book();
            book.check(book.own(), core.local())?
        };
        if core.root_key.is_none() && !own.may_invite {
            return Err(SwarmError::NotAllowed("invite"));
        }
        let owner = options.owner.unwrap_or(own.owner);
        join::check_owner(&owner)?;
        let whom = Whom::Owner { owner: owner.clone() };
        if core.book().revocations().is_revoked(&whom, core.root) {
            return Err(SwarmError::Revoked(whom));
        }
        let id = InvitationId(rand::random());
        let expires_ms = now_ms().saturating_add(options.ttl.as_millis() as u64);
        let kept = members::Invitation {
            id,
            owner,
            // The right to invite is given to a member that is known: by `delegate`.
            may_invite: false,
            expires_ms,
            uses: options.uses,
        };
        let span = humantime::format_duration(options.ttl);
        let detail = format!("for {} nodes within {span}", options.uses);
        let entry = Entry::now(What::Invited, &kept.owner, detail);
        core.db.call(move |c| members::save_invitation(c, &kept)).await?;
        core.audit.note(entry);
        let invitation = Invitation {
            swarm_key: core.keys().newest().clone(),
            root: core.root,
            domain: core.domain.clone(),
            issuer: core.local(),
            addresses: core.told_addresses(),
            id,
            expires_ms,
            uses: options.uses,
        };
        Ok(Token::sign(invitation, &core.keypair)?)
    }

    /// Leaves: closes all connections and keeps what was learned. Takes at most a few seconds.
    pub async fn shutdown(&self) {
        self.core.stopping.cancel();
        self.core.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("a task of the swarm did not stop in time");
        }
        let ipfs = self.core.net().ipfs.clone();
        ipfs.exit_daemon().await;
    }
}

/// Who is offered which protocols.
const OFFERED: gate::Offered = gate::Offered {
    members: &[
        Protocol::Mqtt.name(),
        Protocol::Blocks.name(),
        Protocol::Peers.name(),
        Protocol::Containers.name(),
    ],
    guests: &[Protocol::Bitswap.name(), visit::IDENTIFY, visit::PING],
};

/// Starts rust-ipfs behind our gate, with nothing listening yet.
async fn network(keypair: &Keypair, key: &SwarmKey) -> Result<(Ipfs, gate::Ends), SwarmError> {
    let repo = Repo::new_memory();
    let started = gate::start(keypair.clone(), *key.as_bytes(), repo, OFFERED).await;
    started.map_err(SwarmError::Start)
}

/// Reads what was kept, and adds ourselves and the bootstrap addresses.
async fn open_book(
    options: &Options,
    local: PeerId,
    events: broadcast::Sender<SwarmEvent>,
) -> Result<Book, SwarmError> {
    let read = |c: &rusqlite::Connection| {
        Ok((members::members(c)?, members::revocations(c)?, guests::all(c)?))
    };
    let (known, revocations, passes) = options.db.call(read).await?;
    let own = options.credential.clone();
    let mut book = Book::new(local, options.root, own, events, revocations);
    for member in known {
        book.restore(member);
    }
    for pass in passes {
        book.restore_guest(pass);
    }
    book.restore_own()?;
    book.add_contacts(options.bootstrap.iter().map(address::split_peer));
    Ok(book)
}

impl Core {
    fn local(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        lock(&self.keys)
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        lock(&self.net)
    }

    /// Dials, on whatever network there is by then.
    fn dial(&self, options: DialOpts) {
        // When the gate is gone, the node stops or takes a new key.
        let _ = self.net().orders.send(gate::Order::Dial(Box::new(options)));
    }

    async fn listen(&self, ipfs: &Ipfs, addresses: &[Multiaddr]) -> Result<(), SwarmError> {
        let refused = |address: &Multiaddr, error: &dyn std::fmt::Display| SwarmError::Listen {
            address: address.clone(),
            why: error.to_string(),
        };
        // All before the first is listened on: `0.0.0.0` and `::` would be in each other's way.
        for address in addresses {
            address::check_free(address).map_err(|error| refused(address, &error))?;
        }
        let mut listens = Vec::new();
        for address in addresses {
            let listener = ipfs.add_listening_address(address.clone()).await;
            let listener = listener.map_err(|error| refused(address, &error))?;
            let found = ipfs.get_listening_address(listener).await;
            let found = found.map_err(|error| refused(address, &error))?;
            listens.push(
                found.first().map_or(address.clone(), |one| address::with_port_of(address, one)),
            );
            self.listening(|listening| {
                let news = found.into_iter().filter(|found| !listening.contains(found));
                let news: Vec<_> = news.collect();
                listening.extend(news);
            });
        }
        *lock(&self.listens) = listens;
        Ok(())
    }

    /// Starts the network that follows with `key` where the last one listened; gives its events.
    async fn start_network(
        &self,
        key: &SwarmKey,
    ) -> Result<mpsc::UnboundedReceiver<gate::Event>, SwarmError> {
        let (keypair, key, runtime) = (self.keypair.clone(), key.clone(), Handle::current());
        // Its future cannot move between threads.
        let started = spawn_blocking(move || runtime.block_on(network(&keypair, &key))).await;
        let (ipfs, ends) = started.map_err(|panic| SwarmError::Start(Box::new(panic)))??;
        let listens = lock(&self.listens).clone();
        if let Err(error) = self.listen(&ipfs, &listens).await {
            ipfs.exit_daemon().await;
            return Err(error);
        }
        self.book().set_door(ends.guests);
        *self.net() = Net { ipfs, orders: ends.orders };
        Ok(ends.events)
    }

    /// Runs `task` until it ends or the swarm stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            stopping.run_until_cancelled(task).await;
        });
    }

    /// Changes the addresses that we listen on, and what we tell of them.
    fn listening(&self, change: impl FnOnce(&mut Vec<Multiaddr>)) {
        let mut listening = lock(&self.listening);
        let before = listening.clone();
        change(&mut listening);
        let changed = *listening != before;
        drop(listening);
        if changed {
            self.tell_whereabouts();
        }
    }

    fn told_addresses(&self) -> Vec<Multiaddr> {
        let mut addresses = self.announce.clone();
        addresses.extend(address::worth_telling(&lock(&self.listening)));
        addresses.truncate(address::ADDRESSES_LIMIT);
        addresses
    }

    fn tell_whereabouts(&self) {
        let mut book = self.book();
        // Rises also when the clock went back.
        let number = now_ms().max(book.own_number() + 1);
        let said = Whereabouts { peer: self.local(), number, addresses: self.told_addresses() };
        match Signed::sign(&said, &self.keypair) {
            Ok(signed) => book.set_own_whereabouts(&signed),
            Err(error) => tracing::error!(%error, "own addresses not signed"),
        }
    }
}

/// Whether `address` is IP (or a name, where those are allowed) and TCP, and nothing else.
fn is_tcp(address: &Multiaddr, names: bool) -> bool {
    use connexa::prelude::Protocol as P;
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(P::Ip4(_) | P::Ip6(_)) => true,
        Some(P::Dns(_) | P::Dns4(_) | P::Dns6(_)) => names,
        _ => false,
    };
    host && matches!(parts.next(), Some(P::Tcp(_))) && parts.next().is_none()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
