//! The swarm over real sockets on the loopback, several nodes in one process.

#![allow(clippy::unwrap_used)]

mod guests;

use std::time::Duration;

use connexa::prelude::Multiaddr;
use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::admission::{self, Message, NotAdmitted, Refusal};
use super::certificate::{BadCertificate, Certificate, Credential, now_ms};
use super::facts::PeerFacts;
use super::identity::SwarmKey;
use super::join::{Founded, JoinError, Joined, certify, found, join};
use super::rekey::KeyChange;
use super::revocation::Whom;
use super::signed::Signed;
use super::streams::{BoxStream, Protocol, StreamError, Streams as _};
use super::{InviteOptions, Options, Swarm, SwarmError, frame, network};
use crate::audit::Audit;
use crate::state::Db;
use crate::state::members::Grant;
use ipdc_gate::{self as gate, ADMIT, DialOpts, Link, OpenError};

mod hostile;

const MESSAGE_LIMIT: usize = 64 * 1024;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long certificates hold that are signed here.
const LIFE: Duration = Duration::from_secs(3600);

/// A swarm's founder and what is needed to add nodes.
struct World {
    founded: Founded,
    founder: Node,
}

/// What survives a node's restart.
struct Home {
    keypair: Keypair,
    key_file: tempfile::TempPath,
    credential: Credential,
    root: PeerId,
    db: Db,
}

struct Node {
    home: Home,
    swarm: Swarm,
    facts: watch::Sender<PeerFacts>,
}

fn key_file(key: &SwarmKey) -> tempfile::TempPath {
    let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    key.replace(&file).unwrap();
    file
}

impl Home {
    fn swarm_key(&self) -> SwarmKey {
        SwarmKey::load(&self.key_file).unwrap()
    }

    fn options(
        &self,
        bootstrap: Vec<Multiaddr>,
        root_key: Option<Keypair>,
    ) -> (Options, watch::Sender<PeerFacts>) {
        let (facts, facts_receiver) = watch::channel(PeerFacts::default());
        let options = Options {
            keypair: self.keypair.clone(),
            key_file: self.key_file.to_path_buf(),
            root: self.root,
            root_key,
            credential: self.credential.clone(),
            certificate_life: LIFE,
            domain: "test".into(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            announce: Vec::new(),
            bootstrap,
            db: self.db.clone(),
            audit: Audit::start(self.db.clone()),
            facts: facts_receiver,
        };
        (options, facts)
    }

    async fn start(self, bootstrap: Vec<Multiaddr>, root_key: Option<Keypair>) -> Node {
        let (options, facts) = self.options(bootstrap, root_key);
        let swarm = Swarm::start(options).await.unwrap();
        Node { home: self, swarm, facts }
    }

    fn joined(keypair: Keypair, joined: &Joined) -> Home {
        Home {
            keypair,
            key_file: key_file(&joined.swarm_key),
            credential: joined.credential.clone(),
            root: joined.root,
            db: Db::in_memory().unwrap(),
        }
    }
}

impl Node {
    fn id(&self) -> PeerId {
        self.swarm.peer_id()
    }

    fn address(&self) -> Multiaddr {
        self.swarm.listen_addrs().remove(0)
    }

    fn bootstrap(&self) -> Multiaddr {
        self.address().with_p2p(self.id()).unwrap()
    }

    /// Waits until `wanted` holds, looking again at every event.
    async fn until(&self, what: &str, mut wanted: impl FnMut(&Swarm) -> bool) {
        let mut events = self.swarm.events();
        let waited = timeout(PATIENCE, async {
            while !wanted(&self.swarm) {
                // Not everything that is waited for has an event of its own.
                let _ = timeout(Duration::from_millis(50), events.recv()).await;
            }
        });
        let seen = || self.swarm.peers();
        assert!(waited.await.is_ok(), "{} waited for {what}; it sees {:#?}", self.id(), seen());
    }

    async fn until_connected(&self, peers: &[PeerId]) {
        let mut wanted = peers.to_vec();
        wanted.sort_unstable();
        self.until("its peers", |swarm| swarm.connected() == wanted).await;
    }

    async fn token(&self, uses: u32, ttl: Duration) -> String {
        let options = InviteOptions { ttl, uses, owner: Some("bob".into()) };
        self.swarm.invite(options).await.unwrap().to_string()
    }

    async fn stop(self) -> Home {
        self.swarm.shutdown().await;
        self.home
    }
}

impl World {
    async fn new() -> World {
        let keypair = Keypair::generate_ed25519();
        let founded = found(keypair.public().to_peer_id(), "ann").unwrap();
        let home = Home {
            keypair,
            key_file: key_file(&founded.swarm_key),
            credential: founded.credential.clone(),
            root: founded.root_key.public().to_peer_id(),
            db: Db::in_memory().unwrap(),
        };
        let founder = home.start(Vec::new(), Some(founded.root_key.clone())).await;
        World { founded, founder }
    }

    /// A node that joins by a token of the founder.
    async fn joiner(&self) -> Node {
        guest_of(&self.founder).await
    }

    /// A node that joins by a token of the founder, and then may invite.
    async fn deputy(&self) -> Node {
        let deputy = self.joiner().await;
        self.founder.until_connected(&[deputy.id()]).await;
        self.founder.swarm.delegate(deputy.id()).await.unwrap();
        deputy.until("its right", |swarm| own(swarm).may_invite).await;
        deputy
    }

    /// A stranger who somehow has the swarm's key, connected to the founder.
    async fn intruder(&self, key: &SwarmKey) -> Intruder {
        self.intruder_as(Keypair::generate_ed25519(), key).await
    }

    /// The same, with an identity.
    async fn intruder_as(&self, keypair: Keypair, key: &SwarmKey) -> Intruder {
        Intruder::at(&self.founder, keypair, key).await
    }
}

/// A home that the root certified, for `life`.
fn certified(founded: &Founded, life: Duration) -> Home {
    let keypair = Keypair::generate_ed25519();
    let (root, peer) = (&founded.root_key, keypair.public().to_peer_id());
    let whole = super::certificate::certify(root, peer, "bob", false).unwrap();
    let mut certificate = whole.certificate.open().unwrap();
    certificate.expires_ms = now_ms() + life.as_millis() as u64;
    Home {
        keypair,
        key_file: key_file(&founded.swarm_key),
        credential: Credential::by_root(&certificate, root).unwrap(),
        root: root.public().to_peer_id(),
        db: Db::in_memory().unwrap(),
    }
}

/// What a node's own certificate says.
fn own(swarm: &Swarm) -> Certificate {
    swarm.core.book().own().certificate.open().unwrap()
}

/// Whether a node knows of one revocation.
fn knows_one(swarm: &Swarm) -> bool {
    swarm.core.book().revocations().count() == 1
}

/// A node that joins by a token of `inviter`.
async fn guest_of(inviter: &Node) -> Node {
    let token = inviter.token(1, PATIENCE).await;
    let keypair = Keypair::generate_ed25519();
    let joined = join(&token, &keypair).await.unwrap();
    Home::joined(keypair, &joined).start(joined.bootstrap, None).await
}

struct Intruder {
    id: PeerId,
    _ipfs: rust_ipfs::Ipfs,
    ends: gate::Ends,
}

impl Intruder {
    /// Somebody who has the swarm's key, connected to `node`.
    async fn at(node: &Node, keypair: Keypair, key: &SwarmKey) -> Intruder {
        let (ipfs, ends) = network(&keypair, key).await.unwrap();
        let dial = DialOpts::peer_id(node.id()).addresses(vec![node.address()]);
        ends.orders.send(gate::Order::Dial(Box::new(dial.build()))).unwrap();
        Intruder { id: keypair.public().to_peer_id(), _ipfs: ipfs, ends }
    }

    async fn event(&mut self) -> gate::Event {
        timeout(PATIENCE, self.ends.events.recv()).await.unwrap().unwrap()
    }

    /// What the founder says to `token`, asked without looking at it first.
    async fn redeem(&mut self, token: &str) -> Result<Credential, Refusal> {
        let link = self.opened().await;
        let token = token.parse().unwrap();
        let asked = timeout(PATIENCE, admission::ask_to_join(&link, &token)).await.unwrap();
        asked.map_err(|error| match error {
            NotAdmitted::RefusedUs(refusal) => refusal,
            other => panic!("{other}"),
        })
    }

    /// What the founder says to `credential`.
    async fn show(&mut self, credential: Credential) -> Message {
        let link = self.opened().await;
        let mut stream = link.open(ADMIT).await.unwrap().compat();
        let hello = Message::Member { credential, revocations: Vec::new(), run: 1 };
        frame::write(&mut stream, &hello, MESSAGE_LIMIT).await.unwrap();
        frame::read(&mut stream, MESSAGE_LIMIT).await.unwrap()
    }

    async fn opened(&mut self) -> std::sync::Arc<Link> {
        match self.event().await {
            gate::Event::Opened(link) => link,
            _ => panic!("no connection was made"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_join_by_token_all_meet_each_other() {
    let world = World::new().await;
    let (one, two) = (world.joiner().await, world.joiner().await);
    world.founder.until_connected(&[one.id(), two.id()]).await;
    one.until_connected(&[world.founder.id(), two.id()]).await;
    two.until_connected(&[world.founder.id(), one.id()]).await;
    assert_eq!(one.swarm.owner(two.id()).as_deref(), Some("bob"));
    assert_eq!(one.swarm.owner(world.founder.id()).as_deref(), Some("ann"));

    let facts = PeerFacts { cpus: 7, ..PeerFacts::default() };
    two.facts.send(facts.clone()).unwrap();
    let told = |swarm: &Swarm| {
        let peers = swarm.peers();
        peers.iter().any(|p| p.facts.as_ref() == Some(&facts) && p.latency_ms.is_some())
    };
    one.until("facts", told).await;
    world.founder.until("facts", told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_certificate_gets_nothing_and_is_closed() {
    let world = World::new().await;
    let _taken = world.founder.swarm.incoming(Protocol::Blocks);
    let mut intruder = world.intruder(&world.founded.swarm_key).await;
    let link = intruder.opened().await;
    let since = Instant::now();
    for protocol in Protocol::ALL {
        let refused = timeout(PATIENCE, link.open(protocol.name())).await.unwrap();
        assert!(matches!(refused, Err(OpenError::Unsupported)), "{protocol:?}");
    }
    // The admission stream is served, but only once.
    let _admission = link.open(ADMIT).await.unwrap();
    assert!(matches!(intruder.event().await, gate::Event::Closed(_)));
    let lasted = since.elapsed();
    assert!(lasted > Duration::from_secs(3) && lasted < Duration::from_secs(15), "{lasted:?}");
    assert_eq!(world.founder.swarm.connected(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_root_is_refused() {
    let world = World::new().await;
    let mut intruder = world.intruder(&world.founded.swarm_key).await;
    let link = intruder.opened().await;
    let credential = certify(&Keypair::generate_ed25519(), intruder.id, "eve").unwrap();
    let mut stream = link.open(ADMIT).await.unwrap().compat();
    let hello = Message::Member { credential, revocations: Vec::new(), run: 1 };
    frame::write(&mut stream, &hello, MESSAGE_LIMIT).await.unwrap();
    let answer = frame::read(&mut stream, MESSAGE_LIMIT).await.unwrap();
    assert!(matches!(answer, Message::Refused(Refusal::Certificate(_))), "{answer:?}");
    let refused = link.open(Protocol::Peers.name()).await;
    assert!(matches!(refused, Err(OpenError::Unsupported)));
    drop(stream);
    assert!(matches!(intruder.event().await, gate::Event::Closed(_)));
    assert_eq!(world.founder.swarm.connected(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaked_token_that_expired_or_was_used_gives_nothing() {
    let world = World::new().await;
    let key = &world.founded.swarm_key;
    // The thief asks whatever the token says about its end.
    let expired = world.founder.token(1, Duration::ZERO).await;
    let refused = world.intruder(key).await.redeem(&expired).await;
    assert_eq!(refused.unwrap_err(), Refusal::Expired);

    let used = world.founder.token(1, PATIENCE).await;
    let keypair = Keypair::generate_ed25519();
    let peer = keypair.public().to_peer_id();
    let joined = join(&used, &keypair).await.unwrap();
    let replayed = world.intruder(key).await.redeem(&used).await;
    assert_eq!(replayed.unwrap_err(), Refusal::UsedUp);

    // Who it was given to has the same again, but not to come back after it was cut off.
    let again = world.intruder_as(keypair.clone(), key).await.redeem(&used).await;
    assert_eq!(again.unwrap(), joined.credential);
    world.founder.swarm.revoke(Whom::Peer(peer)).await.unwrap();
    let after = world.intruder_as(keypair, key).await.redeem(&used).await;
    assert_eq!(after.unwrap_err(), Refusal::Revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_identity_is_kept_out_while_the_other_is_connected() {
    let world = World::new().await;
    let one = world.joiner().await;
    world.founder.until_connected(&[one.id()]).await;
    let swarm_key = one.home.swarm_key();
    let Home { keypair, credential, .. } = &one.home;
    let (keypair, credential) = (keypair.clone(), credential.clone());
    let mut copy = world.intruder_as(keypair.clone(), &swarm_key).await;
    let answer = copy.show(credential.clone()).await;
    assert!(matches!(answer, Message::Refused(Refusal::Copied)), "{answer:?}");
    drop(copy);

    // The other one did not notice.
    assert_eq!(world.founder.swarm.connected(), [one.id()]);
    let _taken = world.founder.swarm.incoming(Protocol::Blocks);
    one.swarm.open(world.founder.id(), Protocol::Blocks).await.unwrap();

    // A machine that moved to another disk is no copy.
    one.stop().await;
    world.founder.until_connected(&[]).await;
    let answer = world.intruder_as(keypair, &swarm_key).await.show(credential).await;
    assert!(matches!(answer, Message::Member { .. }), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_swarm_key_there_is_no_connection() {
    let world = World::new().await;
    let mut intruder = world.intruder(&SwarmKey::generate()).await;
    assert!(matches!(intruder.event().await, gate::Event::DialFailed(..)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_no_good_says_why() {
    let world = World::new().await;
    let keypair = Keypair::generate_ed25519();

    let token = world.founder.token(1, Duration::ZERO).await;
    assert!(matches!(join(&token, &keypair).await, Err(JoinError::Expired)));

    let token = world.founder.token(1, PATIENCE).await;
    join(&token, &Keypair::generate_ed25519()).await.unwrap();
    assert!(matches!(join(&token, &keypair).await, Err(JoinError::UsedUp)));

    let mut forged = token.clone().into_bytes();
    forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let refused = join(&forged, &keypair).await;
    assert!(matches!(refused, Err(JoinError::Token(super::invitation::BadToken::Forged))));

    let refused = join("ipdc1-rubbish", &keypair).await;
    assert!(matches!(refused, Err(JoinError::Token(super::invitation::BadToken::Malformed(_)))));

    let token = world.founder.token(1, PATIENCE).await;
    world.founder.stop().await;
    assert!(matches!(join(&token, &keypair).await, Err(JoinError::Unreachable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_asks_again_gets_the_same_certificate() {
    let world = World::new().await;
    let token = world.founder.token(1, PATIENCE).await;
    let keypair = Keypair::generate_ed25519();
    let first = join(&token, &keypair).await.unwrap();
    let second = join(&token, &keypair).await.unwrap();
    assert_eq!(first.credential, second.credential);
    assert_eq!(first.certificate.owner, "bob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_invite_lets_others_in() {
    let world = World::new().await;
    let deputy = world.deputy().await;
    let guest = guest_of(&deputy).await;
    guest.until_connected(&[deputy.id(), world.founder.id()]).await;

    let options = InviteOptions { ttl: PATIENCE, uses: 1, owner: None };
    assert!(matches!(guest.swarm.invite(options).await, Err(SwarmError::NotAllowed("invite"))));
    // The right is the root's to give.
    let refused = deputy.swarm.delegate(guest.id()).await;
    assert!(matches!(refused, Err(SwarmError::NotAllowed("let others invite"))));
    // It outlives a restart.
    let deputy = deputy.stop().await.start(Vec::new(), None).await;
    guest_of(&deputy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_before_it_ends_by_whoever_may() {
    let world = World::new().await;
    let deputy = world.deputy().await;
    let short = Duration::from_secs(600);
    let renewed = |swarm: &Swarm| own(swarm).expires_ms > now_ms() + 3_000_000;

    let bootstrap = vec![world.founder.bootstrap()];
    let one = certified(&world.founded, short).start(bootstrap.clone(), None).await;
    one.until("its renewal", renewed).await;
    assert_eq!(own(&one.swarm).let_in_by(), one.swarm.root());
    // It outlives a restart.
    let expires_ms = own(&one.swarm).expires_ms;
    let one = one.stop().await.start(bootstrap, None).await;
    assert_eq!(own(&one.swarm).expires_ms, expires_ms);

    // Also without the root; and everybody knows who let the member in.
    world.founder.stop().await;
    let two = certified(&world.founded, short).start(vec![deputy.bootstrap()], None).await;
    two.until("its renewal", renewed).await;
    let certificate = own(&two.swarm);
    assert_eq!(certificate.issuer, deputy.id());
    assert_eq!(certificate.let_in_by(), two.swarm.root());
    assert!(certificate.expires_ms <= own(&deputy.swarm).expires_ms);
    let heard =
        |swarm: &Swarm| swarm.core.book().certificate(two.id()).is_some_and(|c| c == certificate);
    one.until("the renewal", heard).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_none_any_more_when_its_certificate_ends() {
    let world = World::new().await;
    let one = world.joiner().await;
    one.until_connected(&[world.founder.id()]).await;
    world.founder.stop().await;
    // Nobody is there to renew it.
    let short = certified(&world.founded, Duration::from_secs(4));
    let short = short.start(vec![one.bootstrap()], None).await;
    one.until_connected(&[short.id()]).await;
    assert!(one.swarm.owner(short.id()).is_some());
    one.until_connected(&[]).await;
    assert_eq!(one.swarm.owner(short.id()), None);

    let home = short.stop().await;
    let checked = one.swarm.core.book().check(&home.credential, home.keypair.public().to_peer_id());
    let refused = Refusal::from(checked.unwrap_err()).to_string();
    assert!(refused.contains("expired"), "{refused}");
    let started = Swarm::start(home.options(Vec::new(), None).0).await;
    let refused = started.err().unwrap();
    assert!(matches!(refused, SwarmError::Certificate(BadCertificate::Expired { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moved_is_found_again() {
    let world = World::new().await;
    let (one, two) = (world.joiner().await, world.joiner().await);
    one.until_connected(&[world.founder.id(), two.id()]).await;
    let before = two.address();
    let id = two.id();
    let home = two.stop().await;
    one.until_connected(&[world.founder.id()]).await;
    // Knows nothing but what it kept, and nobody knows its new port.
    let two = home.start(Vec::new(), None).await;
    assert_ne!(two.address(), before);
    one.until_connected(&[world.founder.id(), id]).await;
    two.until_connected(&[world.founder.id(), one.id()]).await;
    let listens = two.address();
    let heard = |swarm: &Swarm| {
        swarm.peers().iter().any(|peer| peer.peer == id && peer.addresses.contains(&listens))
    };
    one.until("the new address", heard).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_peer_is_cut_off_everywhere_and_stays_out() {
    let world = World::new().await;
    let (one, two) = (world.joiner().await, world.joiner().await);
    one.until_connected(&[world.founder.id(), two.id()]).await;
    two.until_connected(&[world.founder.id(), one.id()]).await;
    let refused = one.swarm.revoke(Whom::Peer(two.id())).await;
    assert!(matches!(refused, Err(SwarmError::NotAllowed(_))));

    let revoked = world.founder.swarm.revoke(Whom::Peer(two.id())).await.unwrap();
    assert_eq!(revoked, [two.id()]);
    world.founder.until_connected(&[one.id()]).await;
    one.until_connected(&[world.founder.id()]).await;
    two.until("to be alone", |swarm| swarm.connected().is_empty()).await;
    // Also after a restart of a peer that heard of it.
    let bootstrap = vec![two.bootstrap()];
    let one = one.stop().await.start(bootstrap, None).await;
    one.until_connected(&[world.founder.id()]).await;
    assert!(!one.swarm.peers().iter().any(|peer| peer.peer == two.id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_hears_of_a_revocation_from_anyone_who_knows() {
    let world = World::new().await;
    let (away, knows, two) = (world.joiner().await, world.joiner().await, world.joiner().await);
    away.until_connected(&[world.founder.id(), knows.id(), two.id()]).await;
    let away = away.stop().await;
    world.founder.swarm.revoke(Whom::Peer(two.id())).await.unwrap();
    knows.until("the revocation", knows_one).await;
    world.founder.stop().await;

    // It knows where both are; whoever it meets first, the revoked one does not stay.
    let away = away.start(Vec::new(), None).await;
    away.until_connected(&[knows.id()]).await;
    away.until("the news", |swarm| !swarm.peers().iter().any(|p| p.peer == two.id())).await;
    // It is on the disk: now nobody is there to tell it.
    knows.stop().await;
    let away = away.stop().await.start(vec![two.bootstrap()], None).await;
    let credential = two.home.credential.clone();
    let refused = away.swarm.core.book().check(&credential, two.id());
    assert_eq!(refused, Err(BadCertificate::Revoked(two.id())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_deputy_takes_its_guests_along_also_later_ones() {
    let world = World::new().await;
    let deputy = world.deputy().await;
    let guest = guest_of(&deputy).await;
    world.founder.until_connected(&[deputy.id(), guest.id()]).await;
    let mut revoked = world.founder.swarm.revoke(Whom::Peer(deputy.id())).await.unwrap();
    revoked.sort_unstable();
    let mut gone = [deputy.id(), guest.id()];
    gone.sort_unstable();
    assert_eq!(revoked, gone);
    assert_eq!(world.founder.swarm.connected(), []);

    // What it signs from now on is worth no more.
    let later = Keypair::generate_ed25519().public().to_peer_id();
    let grant = Grant { owner: "eve".into(), may_invite: false, serial: 1, expires_ms: u64::MAX };
    let credential = deputy.swarm.core.issue(later, Vec::new(), grant).unwrap();
    let refused = world.founder.swarm.core.book().check(&credential, later);
    assert_eq!(refused, Err(BadCertificate::Revoked(later)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deputy_revokes_its_guests_and_newcomers_know_on_whose_word() {
    let world = World::new().await;
    let deputy = world.deputy().await;
    let guest = guest_of(&deputy).await;
    guest.until_connected(&[deputy.id(), world.founder.id()]).await;
    deputy.until_connected(&[guest.id(), world.founder.id()]).await;
    let refused = deputy.swarm.revoke(Whom::Peer(world.founder.id())).await;
    assert!(matches!(refused, Err(SwarmError::NotAllowed(_))));
    deputy.swarm.revoke(Whom::Peer(guest.id())).await.unwrap();
    world.founder.until("the revocation", knows_one).await;
    world.founder.until_connected(&[deputy.id()]).await;

    // It is told of the revocation before it knows of the deputy, and never met the guest.
    deputy.stop().await;
    let newcomer = world.joiner().await;
    newcomer.until_connected(&[world.founder.id()]).await;
    let credential = guest.home.credential.clone();
    let refused = newcomer.swarm.core.book().check(&credential, guest.id());
    assert_eq!(refused, Err(BadCertificate::Revoked(guest.id())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_owner_is_out_with_all_machines_and_invitations() {
    let world = World::new().await;
    let (one, two) = (world.joiner().await, world.joiner().await);
    world.founder.until_connected(&[one.id(), two.id()]).await;
    let token = world.founder.token(1, PATIENCE).await;
    let owner = |name: &str| Whom::Owner { owner: name.into() };
    let refused = world.founder.swarm.revoke(owner("ann")).await;
    assert!(matches!(refused, Err(SwarmError::NotAllowed("revoke itself"))));
    let refused = world.founder.swarm.revoke(owner("bop")).await;
    assert!(matches!(refused, Err(SwarmError::NoMember(_))));

    let revoked = world.founder.swarm.revoke(owner("bob")).await.unwrap();
    assert_eq!(revoked.len(), 2);
    assert_eq!(world.founder.swarm.connected(), []);
    let refused = join(&token, &Keypair::generate_ed25519()).await;
    assert!(matches!(refused, Err(JoinError::Refused { why: Refusal::Revoked, .. })));
    let options = InviteOptions { ttl: PATIENCE, uses: 1, owner: Some("bob".into()) };
    assert!(matches!(world.founder.swarm.invite(options).await, Err(SwarmError::Revoked(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_streams_arrives_whole() {
    const BURST: u32 = 50;
    let world = World::new().await;
    let one = world.joiner().await;
    one.until_connected(&[world.founder.id()]).await;
    let mut incoming = world.founder.swarm.incoming(Protocol::Blocks);
    let served = tokio::spawn(async move {
        for _ in 0..BURST {
            let (_, mut stream) = incoming.recv().await.unwrap();
            tokio::spawn(async move {
                let n = stream.read_u32().await.unwrap();
                stream.write_u32(n + 1).await.unwrap();
                stream.flush().await.unwrap();
            });
        }
    });
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..BURST {
        let (swarm, founder) = (one.swarm.clone(), world.founder.id());
        asked.spawn(async move {
            let mut stream: BoxStream = swarm.open(founder, Protocol::Blocks).await.unwrap();
            stream.write_u32(n).await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(stream.read_u32().await.unwrap(), n + 1);
        });
    }
    timeout(PATIENCE, asked.join_all()).await.unwrap();
    served.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_to_who_is_not_there_fails_at_once() {
    let world = World::new().await;
    let stranger = Keypair::generate_ed25519().public().to_peer_id();
    let refused = world.founder.swarm.open(stranger, Protocol::Mqtt).await;
    assert!(matches!(refused, Err(StreamError::NotConnected(peer)) if peer == stranger));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_said_so() {
    let world = World::new().await;
    let id = Keypair::generate_ed25519();
    let credential = certify(&world.founded.root_key, id.public().to_peer_id(), "ann").unwrap();
    let (_facts, facts) = watch::channel(PeerFacts::default());
    let options = Options {
        keypair: id,
        key_file: world.founder.home.key_file.to_path_buf(),
        root: world.founded.root_key.public().to_peer_id(),
        root_key: None,
        credential,
        certificate_life: LIFE,
        domain: "test".into(),
        listen: vec![world.founder.address()],
        announce: Vec::new(),
        bootstrap: Vec::new(),
        audit: Audit::start(Db::in_memory().unwrap()),
        db: Db::in_memory().unwrap(),
        facts,
    };
    let refused = Swarm::start(options).await.err().unwrap();
    let SwarmError::Listen { address, why } = &refused else { panic!("{refused}") };
    assert_eq!(*address, world.founder.address());
    assert!(why.contains("in use"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_reaches_all_that_are_there_and_shuts_out_who_has_the_old_one() {
    let world = World::new().await;
    let (one, two) = (world.joiner().await, world.joiner().await);
    let away = world.joiner().await;
    let all = [one.id(), two.id(), away.id()];
    world.founder.until_connected(&all).await;
    one.until_connected(&[world.founder.id(), two.id(), away.id()]).await;
    let away = away.stop().await;
    world.founder.until_connected(&[one.id(), two.id()]).await;
    let (old, before) = (one.home.swarm_key(), world.founder.address());

    let refused = one.swarm.rekey().await;
    assert!(matches!(refused, Err(SwarmError::NotAllowed(_))));
    let rekeyed = world.founder.swarm.rekey().await.unwrap();
    let again = world.founder.swarm.rekey().await;
    assert!(matches!(again, Err(SwarmError::Rekeying)));
    assert_eq!(rekeyed.told.len(), 2);
    assert_eq!(rekeyed.away, [away.keypair.public().to_peer_id()]);
    let new = world.founder.home.swarm_key();
    assert_ne!(new, old);
    for node in [&one, &two] {
        assert_eq!(node.home.swarm_key(), new);
        node.until("the new key", |swarm| swarm.core.keys().due().is_none()).await;
    }
    for (node, others) in [
        (&world.founder, [one.id(), two.id()]),
        (&one, [world.founder.id(), two.id()]),
        (&two, [world.founder.id(), one.id()]),
    ] {
        node.until_connected(&others).await;
    }
    assert_eq!(world.founder.address(), before);

    let mut with_old = world.intruder(&old).await;
    assert!(matches!(with_old.event().await, gate::Event::DialFailed(..)));
    // Its user brings it the key.
    new.replace(&away.key_file).unwrap();
    let back = away.start(vec![world.founder.bootstrap()], None).await;
    back.until_connected(&[world.founder.id(), one.id(), two.id()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_change_of_the_key_told_again_changes_nothing() {
    let world = World::new().await;
    let one = world.joiner().await;
    world.founder.until_connected(&[one.id()]).await;
    world.founder.swarm.rekey().await.unwrap();
    let (_, old) = one.swarm.core.keys().news(0).unwrap();
    one.until("the first key", |swarm| swarm.core.keys().due().is_none()).await;
    world.founder.until("the first key", |swarm| swarm.core.keys().due().is_none()).await;
    world.founder.until_connected(&[one.id()]).await;
    world.founder.swarm.rekey().await.unwrap();
    let newest = one.home.swarm_key();
    one.swarm.core.learn_key(&old).await.unwrap();
    assert_eq!(one.home.swarm_key(), newest);

    let thief = Keypair::generate_ed25519();
    let root = thief.public().to_peer_id();
    let forged = KeyChange { swarm: root, number: u64::MAX, key: SwarmKey::generate() };
    let forged = Signed::sign(&forged, &thief).unwrap();
    let refused = one.swarm.core.hear_key(&forged, world.founder.id()).await;
    assert_eq!(one.swarm.core.conduct.misdeeds(world.founder.id()), 1);
    assert!(
        matches!(refused, Err(SwarmError::Certificate(BadCertificate::OtherSwarm(by))) if by == root)
    );
    assert_eq!(one.home.swarm_key(), newest);
}
