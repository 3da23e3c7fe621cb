//! Members that mean harm, while others work: each was let in by a token, shows a certificate as a
//! node does, and then attacks one protocol with all it has.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::identity::Keypair;
use libp2p::pnet::PreSharedKey;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use libp2p_stream::Control;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::outsider::outsider;
use ipdc_tests::job::many_splits;
use ipdc_tests::{JOB, JobDir, Node, SOON, Swarm, alone, eventually};

const ADMIT: StreamProtocol = StreamProtocol::new("/ipdc/admit/1");
const PEERS: StreamProtocol = StreamProtocol::new("/ipdc/peers/1");
const BLOCKS: StreamProtocol = StreamProtocol::new("/ipdc/blocks/1");
const MQTT: StreamProtocol = StreamProtocol::new("/ipdc/mqtt/1");

/// Rounds a line that make a split of the job last while it is attacked.
const BURN: u32 = 60_000_000;
const SPLITS: usize = 12;

/// More than a node puts up with.
const TIMES: usize = 60;

/// What a node may grow by under attack: its heap keeps some of what it once had.
const GROWTH_KIB: u64 = 200 * 1024;
const FILES_MORE: usize = 64;

/// How one of them attacks.
#[derive(Debug, Clone)]
enum Attack {
    /// Garbage instead of a certificate, connection after connection.
    Admission,
    /// Garbage on each new stream of a protocol.
    Garbage(StreamProtocol),
    /// More streams than it may have, all kept.
    Streams,
    /// Jobs submitted and cancelled in the name of the node's own user.
    Topics,
    /// Letters that are none.
    Letters,
    /// Reports for the job, of attempts that it was not given.
    Reports(String),
    /// Streams that it says nothing on, and one on which it only ever writes. Nothing to put it
    /// out for.
    Mute,
    /// It says that it has all the slots of the world, and takes nothing that it is given.
    Idle,
}

impl Attack {
    /// Whether who does it is put out, by the node at this place.
    fn ends_outside(&self, node: usize) -> bool {
        match self {
            Attack::Mute | Attack::Idle => false,
            // Only the job's controller knows that they are false.
            Attack::Reports(_) => node == 0,
            _ => true,
        }
    }
}

/// A node as an attacker sees it.
#[derive(Debug, Clone)]
struct Target {
    peer: PeerId,
    address: Multiaddr,
}

impl Target {
    fn of(node: &Node) -> Target {
        let status = node.status();
        let listen = status["listen"][0].as_str().unwrap().split("/p2p/").next().unwrap();
        let peer = status["peer_id"].as_str().unwrap().parse().unwrap();
        Target { peer, address: listen.parse().unwrap() }
    }
}

/// A member that speaks the swarm's protocols by hand.
struct Hostile {
    me: PeerId,
    credential: Value,
    control: Control,
    orders: mpsc::UnboundedSender<Order>,
}

/// What its connections are told.
enum Order {
    Dial(Target),
    Leave(PeerId),
}

impl Hostile {
    /// Joins by `token` at the node that made it.
    async fn join(key: PreSharedKey, token: &str, at: &Target) -> Hostile {
        let mut swarm = outsider(Keypair::generate_ed25519(), key, SOON * 10);
        let me = *swarm.local_peer_id();
        let mut control = swarm.behaviour().new_control();
        let mut told = control.accept(PEERS).expect("nobody accepts it yet");
        let (orders, mut ordered) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = swarm.select_next_some() => {}
                    Some(order) = ordered.recv() => match order {
                        // A connection that is there already will do.
                        Order::Dial(Target { peer, address }) => {
                            let _ = swarm.dial(address.with_p2p(peer).expect("no peer in it"));
                        }
                        // It may be closed already.
                        Order::Leave(peer) => drop(swarm.disconnect_peer_id(peer)),
                    },
                }
            }
        });
        tokio::spawn(async move {
            while let Some((_, stream)) = told.next().await {
                tokio::spawn(acknowledge(stream));
            }
        });
        let mut hostile = Hostile { me, credential: Value::Null, control, orders };
        let ask = json!({"redeem": {"token": token}});
        let answer = hostile.admission(at, &ask).await.expect("an answer to the token");
        hostile.credential = answer["granted"]["credential"].clone();
        assert!(hostile.credential.is_object(), "no certificate but {answer}");
        hostile
    }

    /// An open stream; none when the node is not there or will not have it.
    async fn open(&mut self, to: &Target, protocol: StreamProtocol) -> Option<Stream> {
        let opened = timeout(SOON, self.control.open_stream(to.peer, protocol)).await;
        opened.ok()?.ok()
    }

    /// A stream that the node serves.
    async fn served(&mut self, by: &Target, protocol: StreamProtocol) -> Option<Stream> {
        let mut stream = self.open(by, protocol).await?;
        stream.write_all(&[1]).await.ok()?;
        stream.flush().await.ok()?;
        let mut greeting = [0];
        timeout(SOON, stream.read_exact(&mut greeting)).await.ok()?.ok()?;
        Some(stream)
    }

    /// Connects, says something for admission, and gives the answer; again, if the connection was one
    /// that the node was about to close.
    async fn admission(&mut self, to: &Target, message: &Value) -> Option<Value> {
        let tries = async {
            loop {
                if let Some(answer) = self.ask_admission(to, message).await {
                    return answer;
                }
                self.orders.send(Order::Leave(to.peer)).expect("its connections live");
            }
        };
        timeout(SOON, tries).await.ok()
    }

    async fn ask_admission(&mut self, to: &Target, message: &Value) -> Option<Value> {
        let mut stream = self.quarantined(to).await?;
        write_frame(&mut stream, &serde_json::to_vec(message).unwrap()).await?;
        let answer = read_frame(&mut stream).await?;
        if answer.get("member").is_some() {
            write_frame(&mut stream, b"\"done\"").await?;
        }
        Some(answer)
    }

    /// The admission stream of a connection.
    async fn quarantined(&mut self, to: &Target) -> Option<Stream> {
        let tries = async {
            loop {
                self.orders.send(Order::Dial(to.clone())).ok()?;
                // Until the connection is there.
                sleep(Duration::from_millis(20)).await;
                if let Some(stream) = self.open(to, ADMIT).await {
                    return Some(stream);
                }
            }
        };
        timeout(SOON, tries).await.ok()?
    }

    /// Shows its certificate. None when it is not let in any more.
    async fn enter(&mut self, to: &Target) -> Option<()> {
        let hello = json!({"credential": self.credential, "revocations": [], "run": 7});
        let answer = self.admission(to, &json!({"member": hello})).await?;
        answer.get("member").map(drop)
    }

    /// Whether it is told that it was put out.
    async fn is_out(&mut self, of: &Target) -> bool {
        self.orders.send(Order::Leave(of.peer)).expect("its connections live");
        let hello = json!({"credential": self.credential, "revocations": [], "run": 7});
        let answer = self.admission(of, &json!({"member": hello})).await;
        answer.is_some_and(|answer| answer["refused"]["put_out"]["seconds"].is_u64())
    }

    /// Attacks until it is put out, or has done it often enough. None when it was put out.
    async fn attack(&mut self, target: &Target, attack: &Attack) -> Option<()> {
        self.enter(target).await?;
        match attack {
            Attack::Admission => {
                for _ in 0..TIMES {
                    self.orders.send(Order::Leave(target.peer)).ok()?;
                    let mut stream = self.quarantined(target).await?;
                    stream.write_all(&[0xff; 64]).await.ok()?;
                    let _ = stream.flush().await;
                    let _ = timeout(SOON, stream.read(&mut [0; 64])).await;
                }
            }
            Attack::Garbage(protocol) => {
                for _ in 0..TIMES {
                    let mut stream = self.served(target, protocol.clone()).await?;
                    // An oversized frame, an unknown request, no packet.
                    stream.write_all(&[0xff; 64 * 1024]).await.ok()?;
                    let _ = stream.flush().await;
                    let _ = timeout(SOON, stream.read(&mut [0; 64])).await;
                }
            }
            Attack::Streams => {
                let mut kept = Vec::new();
                for _ in 0..10 * TIMES {
                    kept.push(self.served(target, PEERS).await?);
                }
            }
            Attack::Topics => {
                let mut stream = self.mqtt(target).await?;
                for n in 0..TIMES {
                    let topic = match n % 2 {
                        0 => "ipdc/v1/jobs/submit".to_owned(),
                        _ => format!("ipdc/v1/from/{}/jobs", target.peer),
                    };
                    publish(&mut stream, &topic, b"{}").await?;
                }
                let _ = timeout(SOON, stream.read(&mut [0; 64])).await;
            }
            Attack::Letters => {
                let mut stream = self.mqtt(target).await?;
                for _ in 0..TIMES {
                    publish(&mut stream, &self.topic(), b"{{{").await?;
                }
                let _ = timeout(SOON, stream.read(&mut [0; 64])).await;
            }
            Attack::Reports(job) => {
                let mut stream = self.mqtt(target).await?;
                for n in 0..TIMES as u32 {
                    let outcome =
                        json!({"done": {"output": {"inline": "Zm9yZ2Vk"}, "memoized": false}});
                    let cost =
                        json!({"wall_ms": u64::MAX, "bytes_in": 0, "bytes_out": 9, "fetched": 0});
                    let report = json!({
                        "task": n % 12, "attempt": {"epoch": 1, "n": 1000 + n}, "outcome": outcome, "cost": cost,
                    });
                    let body = json!({"report": {"reports": [report]}});
                    let letter = json!({"to_controller": {"job": job, "epoch": 1, "body": body}});
                    publish(&mut stream, &self.topic(), letter.to_string().as_bytes()).await?;
                }
                let _ = timeout(Duration::from_secs(5), stream.read(&mut [0; 64])).await;
            }
            Attack::Mute => {
                let mut kept = Vec::new();
                for _ in 0..100 {
                    kept.push(self.open(target, BLOCKS).await);
                }
                let mut stream = self.mqtt(target).await?;
                let pings = [0xc0, 0].repeat(32 * 1024);
                let writing = async { while stream.write_all(&pings).await.is_ok() {} };
                // Until nobody takes any more.
                let _ = timeout(Duration::from_secs(3), writing).await;
                drop(kept);
            }
            Attack::Idle => {
                let mut stream = self.served(target, PEERS).await?;
                let facts = json!({
                    "version": "9", "slots": u32::MAX, "runtimes": ["wasm", "wasi"],
                    "memory": u64::MAX, "memory_free": u64::MAX, "cpus": u32::MAX,
                });
                write_frame(&mut stream, json!({"facts": facts}).to_string().as_bytes()).await?;
                let _ = timeout(SOON, stream.read(&mut [0; 1])).await;
            }
        }
        Some(())
    }

    /// A stream on which an MQTT session began.
    async fn mqtt(&mut self, target: &Target) -> Option<Stream> {
        let mut stream = self.served(target, MQTT).await?;
        let id = self.me.to_string();
        let mut connect = b"\0\x04MQTT\x05\x02\0\x3c\0".to_vec();
        connect.extend((id.len() as u16).to_be_bytes());
        connect.extend(id.as_bytes());
        write_packet(&mut stream, 0x10, &connect).await?;
        let mut acknowledged = [0; 2];
        timeout(SOON, stream.read_exact(&mut acknowledged)).await.ok()?.ok()?;
        Some(stream)
    }

    /// Where it may write.
    fn topic(&self) -> String {
        format!("ipdc/v1/from/{}/jobs", self.me)
    }
}

/// Hears what a node tells, as a member has to.
async fn acknowledge(mut stream: Stream) -> Option<()> {
    let mut greeting = [0];
    stream.read_exact(&mut greeting).await.ok()?;
    stream.write_all(&[1]).await.ok()?;
    stream.flush().await.ok()?;
    loop {
        read_frame(&mut stream).await?;
        stream.write_all(&[1]).await.ok()?;
        stream.flush().await.ok()?;
    }
}

async fn write_frame(stream: &mut Stream, bytes: &[u8]) -> Option<()> {
    stream.write_all(&(bytes.len() as u32).to_be_bytes()).await.ok()?;
    stream.write_all(bytes).await.ok()?;
    stream.flush().await.ok()
}

async fn read_frame(stream: &mut Stream) -> Option<Value> {
    let mut len = [0; 4];
    timeout(SOON, stream.read_exact(&mut len)).await.ok()?.ok()?;
    let mut bytes = vec![0; u32::from_be_bytes(len) as usize];
    timeout(SOON, stream.read_exact(&mut bytes)).await.ok()?.ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Publishes at QoS 0, MQTT 5.
async fn publish(stream: &mut Stream, topic: &str, payload: &[u8]) -> Option<()> {
    let mut packet = (topic.len() as u16).to_be_bytes().to_vec();
    packet.extend(topic.as_bytes());
    packet.push(0);
    packet.extend(payload);
    write_packet(stream, 0x30, &packet).await
}

async fn write_packet(stream: &mut Stream, kind: u8, rest: &[u8]) -> Option<()> {
    let mut packet = vec![kind];
    let mut len = rest.len();
    loop {
        let low = (len % 128) as u8;
        len /= 128;
        packet.push(low | if len > 0 { 128 } else { 0 });
        if len == 0 {
            break;
        }
    }
    packet.extend(rest);
    timeout(SOON, stream.write_all(&packet)).await.ok()?.ok()?;
    stream.flush().await.ok()
}

/// Each attack by a member of its own, on all nodes; gives who they were.
fn attack_all(
    key: &str,
    token: &str,
    targets: &[Target],
    attacks: &[Attack],
) -> Vec<(Attack, PeerId)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let attackers = attacks.iter().map(|attack| async move {
            let mut hostile = Hostile::join(key.parse().unwrap(), token, &targets[0]).await;
            for (node, target) in targets.iter().enumerate() {
                let _ = hostile.attack(target, attack).await;
                // A stream may have been lost in the din: it goes on until it is told.
                while attack.ends_outside(node) && !hostile.is_out(target).await {
                    let _ = hostile.attack(target, attack).await;
                }
            }
            (attack.clone(), hostile.me)
        });
        let done = timeout(JOB, futures::future::join_all(attackers)).await;
        done.expect("each is told that it was put out")
    })
}

/// Whom a node put out, as it noted, and named in its log.
fn named(node: &mut Node) -> BTreeSet<String> {
    let log = node.cli(["audit", "--json"]).run().ok().json();
    let said = node.process().stderr();
    let is_named =
        |peer: &str| said.lines().any(|line| line.contains("misbehaves") && line.contains(peer));
    let entries = log.as_array().unwrap().iter().filter(|entry| entry["what"] == "put_out");
    let peers = entries.filter_map(|entry| entry["peer"].as_str());
    peers.filter(|peer| is_named(peer)).map(str::to_owned).collect()
}

/// The resident memory of a node in KiB, and how many files it has open.
fn size(node: &Node) -> (u64, usize) {
    (node.memory("VmRSS") >> 10, node.descriptors())
}

#[test]
fn members_that_mean_harm_spoil_nobodys_work_and_are_named_and_put_out() {
    let _alone = alone();
    let mut swarm = Swarm::of(3);
    let key = std::fs::read_to_string(swarm[0].home().join("swarm.key")).unwrap();
    let targets: Vec<Target> = swarm.nodes().iter().map(Target::of).collect();
    let (input, expected) = many_splits(swarm[0].folder(), SPLITS);
    let words = JobDir::words(BURN, 2);
    let job = swarm[0].submit(words.path(), input.to_str().unwrap());
    eventually(SOON, "another node works", || swarm.worker_of(&job, &[0]));
    let before: Vec<_> = swarm.nodes().iter().map(size).collect();

    let attacks = [
        Attack::Admission,
        Attack::Garbage(PEERS),
        Attack::Garbage(BLOCKS),
        Attack::Garbage(MQTT),
        Attack::Streams,
        Attack::Topics,
        Attack::Letters,
        Attack::Reports(job.clone()),
        Attack::Mute,
        Attack::Idle,
    ];
    let token = swarm[0].invite(attacks.len());
    let attackers = attack_all(&key, &token, &targets, &attacks);

    // The job does not notice, nor does the next one.
    let _ = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
    let next = swarm[1].submit(JobDir::words(0, 3).path(), input.to_str().unwrap());
    let _ = swarm[1].job_done(&next);
    swarm[1].assert_counts(&next, &expected);

    for node in 0..targets.len() {
        let all: BTreeSet<_> = attackers
            .iter()
            .filter(|(attack, _)| attack.ends_outside(node))
            .map(|(_, peer)| peer.to_string())
            .collect();
        // Those that did no wrong to it are members as before, and no more than these are named.
        let deadline = Instant::now() + SOON;
        while named(&mut swarm[node]) != all {
            let named = named(&mut swarm[node]);
            let seen = Instant::now() < deadline;
            assert!(seen, "node {node} put out {named:#?} of {attackers:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    for (node, (memory, files)) in swarm.nodes().iter().zip(before) {
        let what = format!("{} to have few files open, after {files}", node.home().display());
        eventually(SOON, what, || (size(node).1 <= files + FILES_MORE).then_some(()));
        let (now, _) = size(node);
        assert!(now <= memory + GROWTH_KIB, "it had {memory} KiB and has {now}");
    }
}
