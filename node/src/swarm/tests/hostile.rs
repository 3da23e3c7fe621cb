//! Members that mean harm: each says with real streams what no node says. Nobody but themselves
//! may notice.

use ipdc_jobs::ids::JobId;

use super::*;
use crate::audit::What;
use crate::swarm::address::Whereabouts;
use crate::swarm::book::{Telling, ToldMember};
use crate::swarm::conduct::{MISDEEDS_LIMIT, Misdeed, OUT_AT_FIRST};
use crate::swarm::revocation::{Notice, Revocation};
use crate::swarm::signed::{Signed, Statement};

/// Longer than the frames of any protocol.
const OVERSIZED: [u8; 4] = u32::MAX.to_be_bytes();

impl Node {
    /// A stream to `to` on which nothing was said.
    async fn opens(&self, to: &Node, protocol: Protocol) -> BoxStream {
        self.swarm.open(to.id(), protocol).await.unwrap()
    }

    fn misdeeds(&self, of: &Node) -> u32 {
        self.swarm.conduct().misdeeds(of.id())
    }

    async fn until_put_out(&self, peer: &Node) {
        let is_out = |swarm: &Swarm| {
            swarm.conduct().is_out(peer.id()).is_some() && !swarm.connected().contains(&peer.id())
        };
        self.until("the other to be put out", is_out).await;
    }

    /// Tells `to` something, and waits until it was taken in or the stream was closed.
    async fn tells(&self, to: &Node, telling: &Telling) {
        let mut stream = self.opens(to, Protocol::Peers).await;
        frame::write(&mut stream, telling, 1 << 20).await.unwrap();
        // What follows is looked at after it.
        let _ = stream.read_u8().await;
        frame::write(&mut stream, &Telling::default(), 1 << 20).await.unwrap();
        let _ = stream.read_u8().await;
    }
}

/// That `peer` is a member, and where it says it is.
fn told(of: &Home, whereabouts: Option<Signed<Whereabouts>>) -> Telling {
    let peer = of.keypair.public().to_peer_id();
    let credential = of.credential.clone();
    Telling { members: vec![ToldMember { peer, credential, whereabouts }], ..Telling::default() }
}

/// `signed`, with another body than was signed.
fn forged<T: Statement>(signed: &Signed<T>, from: &str, to: &str) -> Signed<T> {
    let text = serde_json::to_string(signed).unwrap();
    assert!(text.contains(from), "{text} has no {from}");
    serde_json::from_str(&text.replace(from, to)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_goes_on_sending_garbage_is_put_out_and_its_name_is_noted() {
    let world = World::new().await;
    let (hostile, honest) = (world.joiner().await, world.joiner().await);
    let founder = &world.founder;
    founder.until_connected(&[hostile.id(), honest.id()]).await;
    for n in 0..MISDEEDS_LIMIT {
        assert_eq!(founder.swarm.conduct().is_out(hostile.id()), None, "after {n}");
        let mut stream = hostile.opens(founder, Protocol::Peers).await;
        let garbage: &[u8] = if n % 2 == 0 { &OVERSIZED } else { b"\0\0\0\x03{{{" };
        stream.write_all(garbage).await.unwrap();
        // It is closed for it, and nothing else is, until that was enough.
        assert!(stream.read_u8().await.is_err());
        if n + 1 < MISDEEDS_LIMIT {
            founder.until("the misdeed", |_| founder.misdeeds(&hostile) == n + 1).await;
        }
    }
    founder.until_connected(&[honest.id()]).await;
    founder.until_put_out(&hostile).await;

    // It comes back by itself, and is told why not.
    let home = hostile.stop().await;
    let swarm_key = home.swarm_key();
    let Home { keypair, credential, .. } = home;
    let peer = keypair.public().to_peer_id();
    let answer = world.intruder_as(keypair, &swarm_key).await.show(credential).await;
    let Message::Refused(Refusal::PutOut { seconds }) = answer else { panic!("{answer:?}") };
    assert!(seconds <= OUT_AT_FIRST.as_secs() + 1, "{seconds}");
    assert!(seconds > OUT_AT_FIRST.as_secs() / 2, "{seconds}");

    let mut entries = founder.swarm.core.audit.read(None, None).await.unwrap();
    entries.retain(|entry| entry.what == What::PutOut);
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!((entries[0].peer, entries[0].owner.as_str()), (Some(peer), "bob"));
    assert!(entries[0].detail.contains("/ipdc/peers/1"), "{}", entries[0].detail);
    // The others noticed nothing.
    assert_eq!(founder.swarm.connected(), [honest.id()]);
    assert_eq!(founder.misdeeds(&honest), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_luck_is_no_misdeed() {
    let world = World::new().await;
    let unlucky = world.joiner().await;
    let founder = &world.founder;
    founder.until_connected(&[unlucky.id()]).await;
    // A link that breaks in the middle of a frame, of its length, and before.
    for cut in [&b"\0\0\x01\0{"[..], b"\0\0", b""] {
        let mut stream = unlucky.opens(founder, Protocol::Peers).await;
        stream.write_all(cut).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(stream.read_u8().await.is_err());
    }
    // A version that says more, and one that says it otherwise.
    for other in [r#"{"news":[1,2]}"#, r#"{"members":"all"}"#] {
        let mut stream = unlucky.opens(founder, Protocol::Peers).await;
        stream.write_all(&(other.len() as u32).to_be_bytes()).await.unwrap();
        stream.write_all(other.as_bytes()).await.unwrap();
        let _ = stream.read_u8().await;
    }
    // A certificate that ended by this clock, and not by its own.
    let expired = certified(&world.founded, Duration::ZERO);
    unlucky.tells(founder, &told(&expired, None)).await;
    // News of long ago.
    let say = |number| {
        let (peer, addresses) = (unlucky.id(), vec![unlucky.address()]);
        Signed::sign(&Whereabouts { peer, number, addresses }, &unlucky.home.keypair).unwrap()
    };
    unlucky.tells(founder, &told(&unlucky.home, Some(say(1)))).await;
    assert_eq!(founder.misdeeds(&unlucky), 0);
    assert_eq!(founder.swarm.connected(), [unlucky.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_signed_is_not_believed_and_remembered_of_its_teller() {
    let world = World::new().await;
    let (hostile, honest) = (world.joiner().await, world.joiner().await);
    let founder = &world.founder;
    founder.until_connected(&[hostile.id(), honest.id()]).await;
    hostile.until_connected(&[founder.id(), honest.id()]).await;
    let (before, owner) = (honest.address(), founder.swarm.owner(honest.id()));

    // Where another is.
    let number = u64::MAX;
    let elsewhere = vec!["/ip4/10.1.2.3/tcp/4".parse().unwrap()];
    let peer = hostile.id();
    let said = Whereabouts { peer, number, addresses: elsewhere };
    let signed = Signed::sign(&said, &hostile.home.keypair).unwrap();
    let (from, to) = (hostile.id().to_string(), honest.id().to_string());
    let lies = [told(&honest.home, Some(signed.clone())), {
        told(&honest.home, Some(forged(&signed, &from, &to)))
    }];
    for (n, lie) in lies.iter().enumerate() {
        hostile.tells(founder, lie).await;
        assert_eq!(founder.misdeeds(&hostile), n as u32 + 1);
    }
    // Who another is.
    let mut changed = honest.home.credential.clone();
    changed.certificate = forged(&changed.certificate, "bob", "eve");
    let lie = ToldMember { peer: honest.id(), credential: changed, whereabouts: None };
    hostile.tells(founder, &Telling { members: vec![lie], ..Telling::default() }).await;
    assert_eq!(founder.misdeeds(&hostile), 3);
    // Members that nobody let in: it certified them itself.
    let crowd = (0..100).map(|_| {
        let keypair = Keypair::generate_ed25519();
        let mut certificate = own(&hostile.swarm);
        certificate.peer = keypair.public().to_peer_id();
        certificate.issuer = hostile.id();
        let credential = Credential {
            certificate: Signed::sign(&certificate, &hostile.home.keypair).unwrap(),
            issuer: Some(hostile.home.credential.certificate.clone()),
        };
        ToldMember { peer: certificate.peer, credential, whereabouts: None }
    });
    hostile.tells(founder, &Telling { members: crowd.collect(), ..Telling::default() }).await;
    assert_eq!(founder.misdeeds(&hostile), 4);
    // That another is cut off.
    let whom = Whom::Peer(honest.id());
    let said = Revocation { swarm: founder.swarm.root(), whom, issuer: hostile.id(), at_ms: 1 };
    let issuer = Some(hostile.home.credential.certificate.clone());
    let notice = Notice::sign(&said, &hostile.home.keypair, issuer).unwrap();
    hostile.tells(founder, &Telling { revocations: vec![notice], ..Telling::default() }).await;
    assert_eq!(founder.misdeeds(&hostile), 5);

    let seen = founder.swarm.peers();
    let seen = seen.iter().find(|view| view.peer == honest.id()).unwrap();
    assert!(seen.connected && seen.addresses.contains(&before), "{seen:?}");
    assert_eq!(founder.swarm.owner(honest.id()), owner);
    assert_eq!(founder.swarm.peers().len(), 2);
    // Its own number is its own business: it can only not move any more.
    hostile.tells(founder, &told(&hostile.home, Some(signed))).await;
    assert_eq!(founder.misdeeds(&hostile), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_facts_are_not_kept_and_floods_of_them_put_out() {
    let world = World::new().await;
    let hostile = world.joiner().await;
    let founder = &world.founder;
    founder.until_connected(&[hostile.id()]).await;
    let labels = vec!["x".repeat(1000); 200];
    let facts = Some(PeerFacts { labels, cpus: 99, ..PeerFacts::default() });
    hostile.tells(founder, &Telling { facts: facts.clone(), ..Telling::default() }).await;
    assert_eq!(founder.misdeeds(&hostile), 1);
    let view = founder.swarm.peers().remove(0);
    assert!(view.facts.is_none_or(|facts| facts.cpus != 99 && facts.labels.is_empty()));

    let mut stream = hostile.opens(founder, Protocol::Peers).await;
    let telling = Telling { facts, ..Telling::default() };
    // Until it is closed on us.
    while frame::write(&mut stream, &telling, 1 << 20).await.is_ok() {
        if stream.read_u8().await.is_err() {
            break;
        }
    }
    founder.until_put_out(&hostile).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_greet_nobody_keep_nobody_waiting() {
    let world = World::new().await;
    let (hostile, honest) = (world.joiner().await, world.joiner().await);
    let founder = &world.founder;
    founder.until_connected(&[hostile.id(), honest.id()]).await;
    let mut taken = founder.swarm.incoming(Protocol::Blocks);
    let link = hostile.swarm.core.book().link(founder.id()).unwrap();
    let open = || link.open(Protocol::Blocks.name());
    let silent = futures::future::join_all((0..120).map(|_| open())).await;
    assert!(silent.iter().filter(|opened| opened.is_ok()).count() >= 100);

    let since = Instant::now();
    honest.opens(founder, Protocol::Blocks).await;
    assert_eq!(taken.recv().await.unwrap().0, honest.id());
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_a_peer_may_have_are_closed_and_then_the_connection() {
    let world = World::new().await;
    let (hostile, honest) = (world.joiner().await, world.joiner().await);
    let founder = &world.founder;
    founder.until_connected(&[hostile.id(), honest.id()]).await;
    let mut held = Vec::new();
    while let Ok(stream) = hostile.swarm.open(founder.id(), Protocol::Peers).await {
        held.push(stream);
        assert!(held.len() < 1_000, "no end of streams");
    }
    founder.until_put_out(&hostile).await;
    assert_eq!(founder.swarm.connected(), [honest.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_instead_of_a_certificate_counts_only_against_who_was_a_member() {
    let world = World::new().await;
    let member = world.joiner().await;
    let founder = &world.founder;
    founder.until_connected(&[member.id()]).await;
    let home = member.stop().await;
    let swarm_key = home.swarm_key();
    let Home { keypair, .. } = home;
    let peer = keypair.public().to_peer_id();
    for keypair in [keypair, Keypair::generate_ed25519()] {
        let mut intruder = world.intruder_as(keypair, &swarm_key).await;
        let link = intruder.opened().await;
        let mut stream = link.open(ADMIT).await.unwrap().compat();
        stream.write_all(&OVERSIZED).await.unwrap();
        stream.flush().await.unwrap();
        assert!(matches!(intruder.event().await, gate::Event::Closed(_)));
        assert_eq!(founder.swarm.conduct().misdeeds(intruder.id), u32::from(intruder.id == peer));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_strangers_in_quarantine_keeps_no_member_out() {
    let world = World::new().await;
    let member = world.joiner().await;
    let founder = &world.founder;
    founder.until_connected(&[member.id()]).await;
    let home = member.stop().await;
    founder.until_connected(&[]).await;
    let crowd = founder.swarm.core.strangers.clone();
    let crowd = crowd.try_acquire_many_owned(super::super::STRANGERS_LIMIT as u32).unwrap();
    // One stranger more is shown out at once.
    let mut stranger = world.intruder(&world.founded.swarm_key).await;
    let since = Instant::now();
    let _link = stranger.opened().await;
    assert!(matches!(stranger.event().await, gate::Event::Closed(_)));
    assert!(since.elapsed() < crate::swarm::QUARANTINE, "{:?}", since.elapsed());
    let member = home.start(vec![founder.bootstrap()], None).await;
    founder.until_connected(&[member.id()]).await;
    // And when they are gone, there is room again.
    drop(crowd);
    world.joiner().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_put_out_is_not_dialled_before_its_time_is_over() {
    let world = World::new().await;
    let hostile = world.joiner().await;
    let founder = &world.founder;
    founder.until_connected(&[hostile.id()]).await;
    founder.until("its address", |swarm| !swarm.peers()[0].addresses.is_empty()).await;
    let job = JobId::of_manifest(b"a job");
    for _ in 0..MISDEEDS_LIMIT {
        founder.swarm.conduct().report(hostile.id(), Misdeed::Order(job));
    }
    founder.until_put_out(&hostile).await;
    let due = founder.swarm.core.book().next_due().unwrap();
    assert!(due > Instant::now() + OUT_AT_FIRST / 2, "dialled in {:?}", due - Instant::now());
}
