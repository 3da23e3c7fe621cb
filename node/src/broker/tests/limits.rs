//! What one client may do to the others: nothing. Each limit, from both sides.

use mqtt5::packet::puback::PubAckPacket;
use mqtt5::packet::pubrel::PubRelPacket;
use mqtt5::protocol::v5::properties::{PropertyId, PropertyValue};

use super::*;

/// A broker whose patience is short.
async fn strict(patience: Patience) -> Arc<dyn Broker> {
    let listen = "127.0.0.1:0".parse().unwrap();
    start(Options { patience, ..options(listen) }).await.unwrap()
}

async fn connected(broker: &dyn Broker, options: ConnectOptions) -> Client {
    let (client, reason) = Client::local(broker, options).await;
    assert_eq!(reason, ReasonCode::Success);
    client
}

/// Says `bytes` to the broker and waits until it hangs up.
async fn is_hung_up_on(broker: &dyn Broker, bytes: &[u8]) {
    let mut stream = TcpStream::connect(broker.addr()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    assert_hung_up(&mut stream).await;
}

async fn assert_hung_up(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    // A connection that is reset has ended too.
    let _ = soon(stream.read_to_end(&mut rest)).await;
}

impl Client {
    /// Waits until the broker hangs up, reading and acknowledging nothing that is worth it.
    async fn ends(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Publishes at QoS 1 and gives how long the verdict took.
    async fn timed(&mut self, topic: &str, payload: &str) -> Duration {
        let asked = Instant::now();
        assert_eq!(self.say(topic, payload).await, ReasonCode::Success);
        asked.elapsed()
    }
}

#[tokio::test]
async fn who_says_nothing_or_half_a_word_is_hung_up_on() {
    let broker = broker().await;
    let half_a_connect = [0x10, 0x20, 0, 4, b'M', b'Q'];
    // A PUBLISH before CONNECT, a length that never ends, and no MQTT at all.
    let wrong: [&[u8]; 3] = [&[0x30, 3, 0, 1, b'x'], &[0x10, 255, 255, 255, 255, 255], b"GET / "];
    tokio::join!(
        is_hung_up_on(&*broker, b""),
        is_hung_up_on(&*broker, &half_a_connect),
        is_hung_up_on(&*broker, wrong[0]),
        is_hung_up_on(&*broker, wrong[1]),
        is_hung_up_on(&*broker, wrong[2]),
        assert_lives(&*broker),
    );
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let broker = broker().await;
    let mut first = TcpStream::connect(broker.addr()).await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(broker.addr()).await.unwrap());
        if crowd.len() % 50 == 0 {
            assert_lives(&*broker).await;
        }
    }
    let since = Instant::now();
    assert_hung_up(&mut first).await;
    assert!(since.elapsed() < Duration::from_secs(5), "who waited longest goes first, at once");
}

#[tokio::test]
async fn there_are_as_many_clients_as_there_may_be_and_no_more() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let broker = start(Options { clients: 2, ..options(listen) }).await.unwrap();
    let _one = Client::user(&*broker, "one").await;
    let two = Client::user(&*broker, "two").await;
    for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        let three = user("three").with_protocol_version(version);
        let (_, reason) = Client::local(&*broker, three).await;
        let busy = if version == ProtocolVersion::V5 {
            ReasonCode::ServerBusy
        } else {
            ReasonCode::ServerUnavailable
        };
        assert_eq!(reason, busy);
    }
    drop(two);
    let deadline = Instant::now() + SOON;
    while Client::local(&*broker, user("three")).await.1 != ReasonCode::Success {
        assert!(Instant::now() < deadline, "a place that was left is free again");
    }
}

#[tokio::test]
async fn a_client_that_does_not_keep_its_keep_alive_is_dropped() {
    let broker = broker().await;
    for said in [&[][..], &[0x30, 0x7f, 0]] {
        let options = user("silent").with_keep_alive(Duration::from_secs(1));
        let mut client = connected(&*broker, options).await;
        // Nothing, or the beginning of a message.
        client.stream.write_all(said).await.unwrap();
        let since = Instant::now();
        client.ends().await;
        assert!(since.elapsed() >= Duration::from_secs(1));
    }
    let long = user("long").with_keep_alive(Duration::from_secs(3_601));
    let (_, reason) = Client::local(&*broker, long).await;
    assert_eq!(reason, ReasonCode::ImplementationSpecificError);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_never_reads_is_dropped_and_holds_nobody_up() {
    let patience = Patience { take: Duration::from_secs(1), ..Patience::default() };
    let broker = strict(patience).await;
    let mut slow = Client::user(&*broker, "slow").await;
    let mut good = Client::user(&*broker, "good").await;
    for client in [&mut slow, &mut good] {
        assert_eq!(client.subscribe("flood/#").await.0, SubAckReasonCode::GrantedQoS1);
    }
    let reader = tokio::spawn(async move {
        for n in 0.. {
            let heard = good.hear().await;
            assert!(heard.payload.starts_with(format!("{n:06}").as_bytes()), "in order");
            let ack = PubAckPacket::new(heard.packet_id.unwrap());
            good.put(Packet::PubAck(ack)).await;
            if heard.topic_name == "flood/last" {
                return n;
            }
        }
        0
    });
    let mut publisher = Client::user(&*broker, "publisher").await;
    let filling = "x".repeat(100 * 1024);
    let (mut longest, since, mut n) = (Duration::ZERO, Instant::now(), 0);
    // More than twice the patience: the slow one is long gone at the end.
    while since.elapsed() < Duration::from_secs(3) {
        let took = publisher.timed("flood/on", &format!("{n:06}{filling}")).await;
        longest = longest.max(took);
        n += 1;
    }
    publisher.say("flood/last", &format!("{n:06}")).await;
    assert_eq!(soon(reader).await.unwrap(), n, "the other one heard them all");
    // The library waits at most two seconds for room in a client's line, once.
    assert!(longest < Duration::from_secs(5), "a message took {longest:?}");
    slow.ends().await;
    assert_lives(&*broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_never_acknowledges_is_dropped() {
    let patience = Patience { acknowledge: Duration::from_secs(2), ..Patience::default() };
    let broker = strict(patience).await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut slow = Client::user(&*broker, "slow").await;
        let filter =
            SubscribePacket::new(7).add_filter_with_options(TopicFilter::new("flood", qos));
        slow.put(Packet::Subscribe(filter)).await;
        assert!(matches!(slow.next().await, Some(Packet::SubAck(_))));
        let mut publisher = Client::user(&*broker, "publisher").await;
        let mut longest = Duration::ZERO;
        // Its window, its line, and more.
        for _ in 0..1_200 {
            let asked = Instant::now();
            publisher
                .put(Packet::Publish(PublishPacket::new("flood", "x", qos).with_packet_id(1)))
                .await;
            if qos == QoS::ExactlyOnce {
                assert!(matches!(publisher.next().await, Some(Packet::PubRec(_))));
                publisher.put(Packet::PubRel(PubRelPacket::new(1))).await;
            }
            let done = publisher.next().await;
            assert!(matches!(done, Some(Packet::PubAck(_) | Packet::PubComp(_))), "{done:?}");
            longest = longest.max(asked.elapsed());
        }
        assert!(longest < Duration::from_secs(5), "a message took {longest:?}");
        let mut heard = 0;
        while let Some(packet) = slow.next().await {
            assert!(matches!(packet, Packet::Publish(_)), "{packet:?}");
            heard += 1;
        }
        assert_eq!(heard, 64, "no more than its window");
        assert_lives(&*broker).await;
    }
}

#[tokio::test]
async fn what_is_retained_has_its_limits_and_room_returns() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let broker = start(Options { retained: 3, ..options(listen) }).await.unwrap();
    let mut client = Client::user(&*broker, "keeper").await;
    let retain = |topic: &str, payload: &str| message(topic, payload).with_retain(true);
    for topic in ["a", "b", "c"] {
        assert_eq!(client.publish(retain(topic, "1")).await, ReasonCode::Success);
    }
    assert_eq!(client.publish(retain("d", "1")).await, ReasonCode::QuotaExceeded);
    assert_eq!(client.publish(retain("c", "2")).await, ReasonCode::Success, "in its own place");
    let long = "x".repeat(16 * 1024 + 1);
    assert_eq!(client.publish(retain("c", &long)).await, ReasonCode::QuotaExceeded);
    assert_eq!(client.say("c", &long).await, ReasonCode::Success, "it is not to be kept");
    assert_eq!(client.publish(retain("a", "")).await, ReasonCode::Success);
    assert_eq!(client.publish(retain("d", "1")).await, ReasonCode::Success);
    // The node itself is not bound by it.
    let topic = topics::job(JobId::of_manifest(b"job"));
    broker.publish(&topic, bytes("running"), true, Properties::default()).await.unwrap();
    assert!(soon(broker.subscribe(&topic).await.recv()).await.unwrap().retained);
}

#[tokio::test]
async fn subscriptions_names_and_topics_have_their_limits() {
    let broker = broker().await;
    let mut client = Client::user(&*broker, "greedy").await;
    for n in 0..256 {
        let verdict = client.subscribe(&format!("topic/{n}")).await.0;
        assert_eq!(verdict, SubAckReasonCode::GrantedQoS1, "{n}");
    }
    assert_eq!(client.subscribe("topic/256").await.0, SubAckReasonCode::QuotaExceeded);
    let long = "x".repeat(topics::TOPIC_LIMIT + 1);
    let deep = "/".repeat(topics::LEVELS_LIMIT);
    for topic in [long, deep] {
        assert_eq!(client.say(&topic, "x").await, ReasonCode::NotAuthorized);
        assert_eq!(client.subscribe(&topic).await.0, SubAckReasonCode::NotAuthorized);
        let will = WillMessage::new(topic, b"boo".to_vec());
        let (_, reason) = Client::local(&*broker, user("dying").with_will(will)).await;
        assert_eq!(reason, ReasonCode::NotAuthorized);
    }
    let (_, reason) = Client::local(&*broker, user(&"x".repeat(129))).await;
    assert_eq!(reason, ReasonCode::ClientIdentifierNotValid);
    assert_lives(&*broker).await;
}

#[tokio::test]
async fn what_a_client_leaves_unfinished_has_its_limits() {
    let broker = broker().await;
    let mut client = Client::user(&*broker, "unfinished").await;
    let begun = |id| {
        let packet = PublishPacket::new("x", "1", QoS::ExactlyOnce).with_packet_id(id);
        Packet::Publish(packet)
    };
    for id in 1..=32 {
        client.put(begun(id)).await;
        assert!(matches!(client.next().await, Some(Packet::PubRec(_))));
    }
    client.put(begun(33)).await;
    match client.next().await {
        Some(Packet::Disconnect(goodbye)) => {
            assert_eq!(goodbye.reason_code, ReasonCode::ReceiveMaximumExceeded);
        }
        other => panic!("instead of a DISCONNECT {other:?}"),
    }
    client.ends().await;

    let mut client = Client::user(&*broker, "short").await;
    let alias = |n| {
        let mut packet = message("x", "1").with_packet_id(n);
        packet.properties.add(PropertyId::TopicAlias, PropertyValue::TwoByteInteger(n)).unwrap();
        Packet::Publish(packet)
    };
    client.put(alias(16)).await;
    assert!(matches!(client.next().await, Some(Packet::PubAck(_))));
    client.put(alias(17)).await;
    client.ends().await;
    assert_lives(&*broker).await;
}

#[tokio::test]
async fn a_client_that_was_away_gets_what_waited_and_few_may_be_away() {
    let broker = broker().await;
    let lasting = |id: &str| user(id).with_clean_start(false).with_session_expiry_interval(600);
    let mut away = connected(&*broker, lasting("away")).await;
    away.subscribe("news").await;
    away.put(Packet::Disconnect(mqtt5::packet::disconnect::DisconnectPacket::normal())).await;
    away.ends().await;
    let mut publisher = Client::user(&*broker, "publisher").await;
    assert_eq!(publisher.say("news", "while you were away").await, ReasonCode::Success);
    let mut back = connected(&*broker, lasting("away")).await;
    assert_eq!(back.hear().await.payload, "while you were away");

    let mut kept = 0;
    loop {
        let (client, reason) = Client::local(&*broker, lasting(&format!("client-{kept}"))).await;
        if reason != ReasonCode::Success {
            assert_eq!(reason, ReasonCode::QuotaExceeded);
            break;
        }
        drop(client);
        kept += 1;
        assert!(kept <= 70, "there is an end to it");
    }
    assert!(kept >= 60, "only {kept} sessions were kept");
    let mut again = connected(&*broker, lasting("client-0")).await;
    assert_eq!(again.say("news", "who is known may return").await, ReasonCode::Success);
    assert_lives(&*broker).await;
}

#[tokio::test]
async fn without_a_password_everyone_here_is_a_local_user_and_no_more() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let settings = config::Mqtt { anonymous: true, ..config::Mqtt::default() };
    let anonymous = Options { listen, ..Options::new(&settings, PASSWORD) };
    let broker = start(anonymous).await.unwrap();
    let mut nobody = connected(&*broker, ConnectOptions::new("nobody")).await;
    assert_eq!(nobody.say("mine", "hello").await, ReasonCode::Success);
    let state = topics::job(JobId::of_manifest(b"job"));
    assert_eq!(nobody.say(&state, "done").await, ReasonCode::NotAuthorized);
    let peer = ConnectOptions::new(PeerId::random().to_string());
    let (_, reason) = Client::local(&*broker, peer).await;
    assert_eq!(reason, ReasonCode::ClientIdentifierNotValid);
    let open = "0.0.0.0:0".parse().unwrap();
    let everywhere = Options { listen: open, ..Options::new(&settings, PASSWORD) };
    assert!(matches!(start(everywhere).await, Err(BrokerError::NotLoopback(_))));
}

#[tokio::test]
async fn a_peer_has_nothing_kept_shared_or_abbreviated() {
    let network = memory::Network::new();
    let (a, me) = (PeerId::random(), PeerId::random());
    let at_a = Node::start(network.peer(a)).await;
    let name = ConnectOptions::new(me.to_string());
    let own = topics::about_jobs(me);
    let kept = WillMessage::new(own.clone(), b"boo".to_vec()).with_retain(true);
    let (_, reason) = stranger(&network, a, name.clone().with_will(kept), me).await;
    assert_eq!(reason, ReasonCode::NotAuthorized);
    let will = WillMessage::new(own.clone(), b"boo".to_vec());
    let lasting = name.with_will(will).with_session_expiry_interval(600);
    let (mut peer, reason) = stranger(&network, a, lasting.clone(), me).await;
    assert_eq!(reason, ReasonCode::Success);
    let readable = topics::to_peer(me, "#");
    let shared = format!("$share/g/{readable}");
    assert_eq!(peer.subscribe(&shared).await.0, SubAckReasonCode::NotAuthorized);
    assert_eq!(peer.subscribe(&readable).await.0, SubAckReasonCode::GrantedQoS1);
    // QoS 2 and abbreviated topics, which links do not use, end the connection.
    let twice = PublishPacket::new(&*own, "1", QoS::ExactlyOnce).with_packet_id(1);
    peer.put(Packet::Publish(twice)).await;
    peer.ends().await;
    let (mut peer, reason) = stranger(&network, a, lasting.clone(), me).await;
    assert_eq!(reason, ReasonCode::Success);
    let mut short = message(&own, "1").with_packet_id(2);
    short.properties.add(PropertyId::TopicAlias, PropertyValue::TwoByteInteger(1)).unwrap();
    peer.put(Packet::Publish(short)).await;
    peer.ends().await;
    // Its session has not outlived its connection.
    let (mut peer, _) = stranger(&network, a, lasting.with_clean_start(false), me).await;
    let news = topics::to_peer(me, "news");
    at_a.broker.publish(&news, bytes("old"), false, Properties::default()).await.unwrap();
    assert_eq!(peer.subscribe(&readable).await.0, SubAckReasonCode::GrantedQoS1);
    at_a.broker.publish(&news, bytes("new"), false, Properties::default()).await.unwrap();
    assert_eq!(peer.hear().await.payload, "new");
}

#[tokio::test]
async fn a_peer_that_never_reads_is_hung_up_on() {
    let patience = Patience { take: Duration::from_secs(1), ..Patience::default() };
    let broker = strict(patience).await;
    let me = PeerId::random();
    let (ours, theirs) = tokio::io::duplex(4096);
    broker.serve(Box::new(theirs), me, &Conduct::alone());
    let (mut peer, _) = Client::on(Box::new(ours), ConnectOptions::new(me.to_string())).await;
    // Each of these is answered; the answers soon fill what a stream holds.
    let mut bytes = BytesMut::new();
    let ping = Packet::PingReq;
    for _ in 0..1_000 {
        encode_packet_to_buffer(&ping, &mut bytes).unwrap();
    }
    let flood = async { while peer.stream.write_all(&bytes).await.is_ok() {} };
    soon(flood).await;
    assert_lives(&*broker).await;
}

#[tokio::test]
async fn a_page_that_has_not_said_who_it_is_is_heard_out_only_so_far() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let websocket = WebSocket { listen, origins: vec!["http://localhost:8080".into()] };
    let options = Options { websocket: Some(websocket), ..options(listen) };
    let broker = start(options).await.unwrap();
    let addr = broker.websocket_addr().unwrap();
    let (head, mut stream) = upgrade(addr, "Origin: http://localhost:8080\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101"));
    // A frame that says it has 16 MiB, which the library would take.
    stream.write_all(&[0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let mut said = 0;
    while stream.write_all(&[0; 4096]).await.is_ok() {
        said += 4096;
        assert!(said < 16 << 20, "all of it was taken");
    }
    assert_lives(&*broker).await;
}
