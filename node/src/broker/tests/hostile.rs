//! Peers that mean harm at the broker, and what is remembered of them.

use super::*;
use crate::post::Post;
use crate::swarm::conduct::Conduct;

/// Two peers: one that serves, with what it remembers, and one that is driven by hand.
struct Pair {
    network: memory::Network,
    node: Node,
    conduct: Conduct,
    at: PeerId,
    me: PeerId,
}

impl Pair {
    async fn new() -> Pair {
        let network = memory::Network::new();
        let (at, me) = (PeerId::random(), PeerId::random());
        let streams = network.peer(at);
        let conduct = streams.conduct().clone();
        Pair { node: Node::start(streams).await, network, conduct, at, me }
    }

    async fn connects(&self) -> Client {
        let name = ConnectOptions::new(self.me.to_string());
        let (client, reason) = stranger(&self.network, self.at, name, self.me).await;
        assert_eq!(reason, ReasonCode::Success);
        client
    }

    async fn opens(&self) -> BoxStream {
        self.network.peer(self.me).open(self.at, Protocol::Mqtt).await.unwrap()
    }

    fn misdeeds(&self) -> u32 {
        self.conduct.misdeeds(self.me)
    }

    async fn until_misdeeds(&self, n: u32) {
        let counted = async {
            while self.misdeeds() < n {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(counted).await;
        assert_eq!(self.misdeeds(), n);
    }
}

#[tokio::test]
async fn what_a_peer_does_beyond_its_topics_is_remembered_of_it() {
    let pair = Pair::new().await;
    let other = PeerId::random();
    let mut peer = pair.connects().await;
    let own = topics::about_jobs(pair.me);
    assert_eq!(peer.say(&own, "{}").await, ReasonCode::Success);
    assert_eq!(pair.misdeeds(), 0);
    let job = JobId::of_manifest(b"job");
    for (n, topic) in [topics::about_jobs(other), topics::SUBMIT.into(), topics::cancel(job)]
        .into_iter()
        .enumerate()
    {
        assert_eq!(peer.say(&topic, "{}").await, ReasonCode::NotAuthorized);
        assert_eq!(pair.misdeeds(), n as u32 + 1, "{topic}");
    }
    peer.publish(message(&own, "kept?").with_retain(true)).await;
    peer.subscribe("#").await;
    assert_eq!(pair.misdeeds(), 5);
    let will = WillMessage::new(topics::SUBMIT.to_owned(), b"{}".to_vec());
    let name = ConnectOptions::new(pair.me.to_string());
    stranger(&pair.network, pair.at, name.with_will(will), pair.me).await;
    let another = ConnectOptions::new(other.to_string());
    stranger(&pair.network, pair.at, another, pair.me).await;
    assert_eq!(pair.misdeeds(), 7);
    assert_eq!(pair.conduct.misdeeds(other), 0, "nobody is blamed for another");
}

#[tokio::test]
async fn what_is_no_mqtt_is_remembered_and_a_stream_that_breaks_is_not() {
    let pair = Pair::new().await;
    let half = b"\x10\x30\0\x04MQTT";
    for broken in [&half[..], &half[..1], b""] {
        let mut stream = pair.opens().await;
        stream.write_all(broken).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = soon(stream.read(&mut [0; 16])).await;
    }
    // In the middle of a packet of a client that was let in.
    let mut client = pair.connects().await;
    client.stream.write_all(b"\x30\x7f\0").await.unwrap();
    drop(client);
    pair.connects().await;
    assert_eq!(pair.misdeeds(), 0);

    let oversized = b"\x10\xff\xff\xff\x7f";
    let not_first = b"\xd0\0".repeat(8);
    for garbage in [&[0xff; 64][..], &oversized[..], &[0; 64], &not_first] {
        let before = pair.misdeeds();
        let mut stream = pair.opens().await;
        stream.write_all(garbage).await.unwrap();
        let _ = soon(stream.read(&mut [0; 16])).await;
        pair.until_misdeeds(before + 1).await;
    }
    assert_lives(&*pair.node.broker).await;
}

#[tokio::test]
async fn a_peer_s_broker_that_answers_with_garbage_is_remembered() {
    let network = memory::Network::new();
    let (at, liar) = (PeerId::random(), PeerId::random());
    let streams = network.peer(at);
    let conduct = streams.conduct().clone();
    let mut opened = network.peer(liar).incoming(Protocol::Mqtt);
    let node = Node::start(streams).await;
    node.links.send(liar, bytes("{}"));
    for n in 1..=2 {
        let (_, mut stream) = soon(opened.recv()).await.unwrap();
        stream.write_all(&[0xff; 64]).await.unwrap();
        while conduct.misdeeds(liar) < n {
            soon(stream.read(&mut [0; 64])).await.unwrap();
        }
    }
    // One that hangs up is only unlucky.
    let (_, stream) = soon(opened.recv()).await.unwrap();
    drop(stream);
    let _again = soon(opened.recv()).await.unwrap();
    assert_eq!(conduct.misdeeds(liar), 2);
}

#[tokio::test]
async fn a_letter_that_is_none_is_remembered_and_one_of_a_later_version_is_not() {
    let Pair { network, node: Node { broker, links, incoming }, conduct, at, me } =
        Pair::new().await;
    let (_post, mut mail) = Post::open(at, links, incoming);
    let name = ConnectOptions::new(me.to_string());
    let (mut peer, _) = stranger(&network, at, name, me).await;
    let topic = topics::about_jobs(me);
    let job = JobId::of_manifest(b"job");
    let later = format!(r#"{{"to_worker":{{"job":"{job}","epoch":1,"body":{{"sleep":5}}}}}}"#);
    let known = format!(r#"{{"to_worker":{{"job":"{job}","epoch":1,"body":"query"}}}}"#);
    for letter in [later.as_str(), r#"{"to_nobody":1}"#, &known] {
        peer.say(&topic, letter).await;
    }
    let (from, order) = soon(mail.worker.recv()).await.unwrap();
    assert_eq!((from, order.job, conduct.misdeeds(me)), (me, job, 0));
    for letter in ["{{{", "", "\u{0}"] {
        peer.say(&topic, letter).await;
    }
    peer.say(&topic, &known).await;
    soon(mail.worker.recv()).await.unwrap();
    assert_eq!(conduct.misdeeds(me), 3);
    assert_lives(&*broker).await;
}

#[tokio::test]
async fn a_peer_that_floods_holds_up_itself_alone() {
    let mut pair = Pair::new().await;
    let mut flooder = pair.connects().await;
    let topic = topics::about_jobs(pair.me);
    let flood = tokio::spawn(async move {
        let packet = PublishPacket::new(&topic, vec![0; MESSAGE_LIMIT / 2], QoS::AtMostOnce);
        let mut bytes = BytesMut::new();
        encode_packet_to_buffer(&Packet::Publish(packet), &mut bytes).unwrap();
        // 128 KiB each: twenty seconds' worth of what a peer is listened to.
        for _ in 0..2_500 {
            if flooder.stream.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let honest = PeerId::random();
    let name = ConnectOptions::new(honest.to_string());
    let (mut other, _) = stranger(&pair.network, pair.at, name, honest).await;
    let listening = async {
        let mut of_honest = 0;
        while of_honest < 200 {
            let (from, _) = pair.node.incoming.recv().await.unwrap();
            of_honest += usize::from(from == honest);
        }
    };
    let speaking = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let asked = Instant::now();
            other.say(&topics::about_jobs(honest), "hello").await;
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    let ((), slowest) = soon(async { tokio::join!(listening, speaking) }).await;
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(!flood.is_finished(), "the flood was let through");
    assert_eq!(pair.conduct.misdeeds(honest), 0);
    flood.abort();
}
