//! Guests of the swarm: libp2p and Bitswap as Kubo speaks them, in this process.

use std::fs;
use std::time::{Duration, Instant};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::identity::Keypair;
use libp2p::pnet::PreSharedKey;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use libp2p_stream::{Control, IncomingStreams, OpenStreamError};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::outsider::outsider;
use ipdc_tests::text::Text;
use ipdc_tests::{JOB, Node, SOON, Swarm};

const BITSWAP: &str = "/ipfs/bitswap/1.2.0";

/// What a node serves its members.
const MEMBERS_ONLY: [&str; 4] =
    ["/ipdc/mqtt/1", "/ipdc/blocks/1", "/ipdc/peers/1", "/ipdc/admit/1"];

/// Sees to it that a block which nobody has is given up within seconds.
const IMPATIENT: &str = "[blocks]\nstall = \"4s\"";

/// A guest: an identity that stays, and one connection at a time.
struct Guest {
    keypair: Keypair,
    key: PreSharedKey,
}

/// A guest's connection to a node.
struct Visit {
    node: PeerId,
    control: Control,
    incoming: IncomingStreams,
    /// A stream on which the node speaks.
    heard: Option<Stream>,
    /// Gives something when the connection is closed.
    closed: mpsc::Receiver<()>,
    _swarm: tokio::task::JoinHandle<()>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self._swarm.abort();
    }
}

impl Guest {
    fn of(node: &Node) -> Guest {
        let key = fs::read_to_string(node.home().join("swarm.key")).unwrap();
        Guest { keypair: Keypair::generate_ed25519(), key: key.parse().unwrap() }
    }

    fn id(&self) -> String {
        self.keypair.public().to_peer_id().to_string()
    }

    async fn visit(&self, node: &Node) -> Visit {
        let status = node.status();
        let peer: PeerId = status["peer_id"].as_str().unwrap().parse().unwrap();
        let listen = status["listen"][0].as_str().unwrap().split("/p2p/").next().unwrap();
        let address: Multiaddr = listen.parse().unwrap();
        let mut swarm = outsider(self.keypair.clone(), self.key, SOON * 10);
        let mut control = swarm.behaviour().new_control();
        let incoming = control.accept(StreamProtocol::new(BITSWAP)).unwrap();
        swarm.dial(address.with_p2p(peer).unwrap()).unwrap();
        let (opened, mut is_open) = mpsc::channel(1);
        let (gone, closed) = mpsc::channel(1);
        let _swarm = tokio::spawn(async move {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => opened.send(()).await.unwrap(),
                    SwarmEvent::ConnectionClosed { .. } => {
                        let _ = gone.send(()).await;
                    }
                    SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                    _ => {}
                }
            }
        });
        within("a connection", is_open.recv()).await.unwrap();
        Visit { node: peer, control, incoming, heard: None, closed, _swarm }
    }
}

async fn within<T>(what: &str, waited: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(SOON, waited).await;
    waited.unwrap_or_else(|_| panic!("waited {SOON:?} for {what}"))
}

impl Visit {
    async fn open(&mut self, protocol: &'static str) -> Result<Stream, OpenStreamError> {
        let opening = self.control.open_stream(self.node, StreamProtocol::new(protocol));
        within("a stream or none", opening).await
    }

    /// Sends a message on a stream of its own, as Kubo does.
    async fn say(&mut self, message: &[u8]) {
        let mut stream = self.open(BITSWAP).await.unwrap();
        stream.write_all(&framed(message)).await.unwrap();
        stream.flush().await.unwrap();
        stream.close().await.unwrap();
    }

    /// The next message of the node.
    async fn hear(&mut self) -> Message {
        within("a message", async {
            loop {
                if self.heard.is_none() {
                    self.heard = Some(self.incoming.next().await.expect("a stream").1);
                }
                let stream = self.heard.as_mut().unwrap();
                match read_frame(stream).await {
                    Some(bytes) => return Message::of(&bytes),
                    None => self.heard = None,
                }
            }
        })
        .await
    }

    /// The bytes of the block `cid`.
    async fn fetch(&mut self, cid: &str) -> Vec<u8> {
        self.say(&want(cid, false)).await;
        loop {
            let message = self.hear().await;
            assert!(message.absent == 0, "{cid} is not there");
            if let Some(block) = message.blocks.into_iter().next() {
                return block;
            }
        }
    }

    async fn shown_out(&mut self) {
        within("being shown out", self.closed.recv()).await;
    }
}

/// What a message of the node holds.
#[derive(Debug, Default)]
struct Message {
    /// CIDs that it wants the blocks of.
    wants: Vec<Vec<u8>>,
    blocks: Vec<Vec<u8>>,
    present: usize,
    absent: usize,
}

impl Message {
    fn of(bytes: &[u8]) -> Message {
        let mut message = Message::default();
        for (field, value) in fields(bytes) {
            match field {
                1 => {
                    for (_, entry) in fields(value).filter(|(field, _)| *field == 1) {
                        let entry: Vec<_> = fields(entry).collect();
                        let is_cancel = entry.iter().any(|(field, v)| *field == 3 && *v != [0]);
                        let cid = entry.iter().find(|(field, _)| *field == 1).unwrap().1;
                        message.wants.extend((!is_cancel).then(|| cid.to_vec()));
                    }
                }
                3 => {
                    let data = fields(value).find(|(field, _)| *field == 2);
                    message.blocks.push(data.map(|(_, data)| data.to_vec()).unwrap_or_default());
                }
                4 if fields(value).any(|(field, v)| field == 2 && v == [1]) => message.absent += 1,
                4 => message.present += 1,
                _ => {}
            }
        }
        message
    }
}

/// The fields of a protobuf message: numbers as the bytes they are written in.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&tag, rest) = bytes.split_first()?;
        let digits = rest.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let (number, rest) = rest.split_at(digits);
        let value = if tag & 7 == 0 {
            bytes = rest;
            number
        } else {
            let len = number.iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
            let (value, rest) = rest.split_at(len);
            bytes = rest;
            value
        };
        Some((tag >> 3, value))
    })
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&varint(message.len()), message].concat()
}

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &framed(value)].concat()
}

/// A wantlist of one block, or of whether it is there.
fn want(cid: &str, is_have: bool) -> Vec<u8> {
    let flags = [0x10, 1, 0x20, u8::from(is_have), 0x28, 1];
    field(1, &field(1, &[field(1, &cid_bytes(cid)), flags.to_vec()].concat()))
}

/// A raw block.
fn payload(data: &[u8]) -> Vec<u8> {
    let prefix = field(1, &[1, 0x55, 0x12, 0x20]);
    field(3, &[prefix, field(2, data)].concat())
}

/// The bytes of a CID in base 32.
fn cid_bytes(cid: &str) -> Vec<u8> {
    let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for letter in cid.strip_prefix('b').unwrap().bytes() {
        let digit = alphabet.iter().position(|known| *known == letter).unwrap();
        bits = bits << 5 | digit as u32;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

async fn read_frame(stream: &mut Stream) -> Option<Vec<u8>> {
    let (mut len, mut shift) = (0, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        len |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

fn admit(node: &Node, guest: &Guest) {
    let admitted = node.cli(["admit", &guest.id(), "--guest", "--json"]).run().ok().json();
    assert_eq!(admitted["guest"], guest.id().as_str());
}

/// Waits until `node` counts the guest as one.
fn wait_guest(node: &Node, guest: &Guest) {
    ipdc_tests::eventually(SOON, "the pass", || {
        let admissions = node.cli(["peers", "--admission", "--json"]).run().ok().json();
        let mut all = admissions.as_array().unwrap().iter();
        let is_guest =
            |peer: &Value| peer["peer_id"] == guest.id().as_str() && peer["standing"] == "guest";
        all.any(is_guest).then_some(())
    });
}

/// A file of one block.
fn leaf(node: &Node, seed: u64) -> (String, Vec<u8>) {
    let bytes = Text::make(seed, 300_000);
    let path = node.folder().join(format!("leaf-{seed}"));
    fs::write(&path, &bytes).unwrap();
    (node.add(&path), bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_fetches_leaves_comes_back_and_fetches_again_from_any_node() {
    let swarm = Swarm::of(2);
    let guest = Guest::of(&swarm[0]);
    admit(&swarm[0], &guest);
    wait_guest(&swarm[1], &guest);
    for node in [&swarm[0], &swarm[1]] {
        let (cid, bytes) = leaf(node, 1);
        for _ in 0..2 {
            let mut visit = guest.visit(node).await;
            assert!(visit.fetch(&cid).await == bytes);
            visit.say(&want(&cid, true)).await;
            assert_eq!(visit.hear().await.present, 1);
        }
    }
    let audit = swarm[1].cli(["audit", "--json"]).run().ok().text().to_owned();
    assert!(audit.contains(&guest.id()) && audit.contains("as a guest"), "{audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_gets_blocks_and_nothing_else_and_is_shown_out_when_revoked() {
    let mut node = Node::first();
    node.start();
    let guest = Guest::of(&node);
    admit(&node, &guest);
    let mut visit = guest.visit(&node).await;
    for protocol in MEMBERS_ONLY {
        match visit.open(protocol).await {
            Err(OpenStreamError::UnsupportedProtocol(_)) => {}
            other => panic!("expected no stream of {protocol}, got {other:?}"),
        }
    }
    assert_eq!(node.status()["peers_connected"], 0);
    let _ = node.cli(["revoke", &guest.id()]).run().ok();
    visit.shown_out().await;
    let mut again = guest.visit(&node).await;
    assert!(again.open(BITSWAP).await.is_err());
    let _ = node.cli(["admit", &guest.id(), "--guest"]).run().refused(&["IPDC-2209"]);
    let _ = node.cli(["admit", &node.peer_id(), "--guest"]).run().refused(&["IPDC-2210"]);
    let _ = node.cli(["admit", &guest.id()]).run().failed(2, &["--guest"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_guest_has_can_be_got_and_wrong_bytes_are_not_taken() {
    let mut node = Node::first();
    node.configure(IMPATIENT);
    node.start();
    // The CID, from a swarm of its own.
    let mut other = Node::first();
    other.start();
    let (cid, bytes) = leaf(&other, 2);
    let (lied, _) = leaf(&other, 3);

    let guest = Guest::of(&node);
    admit(&node, &guest);
    let mut visit = guest.visit(&node).await;
    let held = (cid_bytes(&cid), payload(&bytes));
    let lie = payload(b"something else");
    let serving = tokio::spawn(async move {
        loop {
            for wanted in visit.hear().await.wants {
                let given = if wanted == held.0 { &held.1 } else { &lie };
                visit.say(given).await;
            }
        }
    });
    let out = node.folder().join("out");
    let got = node.cli(["get", &cid, "--output"]).arg(&out);
    let _ = tokio::task::spawn_blocking(move || got.within(JOB).run().ok()).await.unwrap();
    assert!(fs::read(&out).unwrap() == bytes);
    let lied_to = node.cli(["cat", &lied]);
    let missing = tokio::task::spawn_blocking(move || lied_to.run()).await.unwrap();
    let _ = missing.refused(&["IPDC-3301", &lied]);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_guest_is_bounded_shown_out_and_named() {
    let mut node = Node::first();
    node.start();
    let (cid, bytes) = leaf(&node, 4);
    let guest = Guest::of(&node);
    admit(&node, &guest);

    // What is no message, and what is too long for one.
    for garbage in [framed(b"hello, world"), varint(1 << 30)] {
        let mut visit = guest.visit(&node).await;
        let mut stream = visit.open(BITSWAP).await.unwrap();
        stream.write_all(&garbage).await.unwrap();
        stream.flush().await.unwrap();
        visit.shown_out().await;
    }
    // Blocks that nobody asked for, until that is enough.
    let mut visit = guest.visit(&node).await;
    let unasked = framed(&payload(&vec![7; 1 << 20]));
    let mut stream = visit.open(BITSWAP).await.unwrap();
    for _ in 0..64 {
        if stream.write_all(&unasked).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
    visit.shown_out().await;

    // A flood of wants from one that never reads; the others are served meanwhile.
    let mut flooding = guest.visit(&node).await;
    let flood = {
        let entry = want(&cid, false);
        let wantlist: Vec<u8> =
            std::iter::repeat_n(&entry[2..], 8_000).flatten().copied().collect();
        framed(&field(1, &wantlist))
    };
    let mut stream = flooding.open(BITSWAP).await.unwrap();
    let pouring = tokio::spawn(async move {
        while stream.write_all(&flood).await.is_ok() && stream.flush().await.is_ok() {}
    });
    let polite = Guest::of(&node);
    admit(&node, &polite);
    let began = Instant::now();
    let mut visit = polite.visit(&node).await;
    for _ in 0..20 {
        assert!(visit.fetch(&cid).await == bytes);
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(node.cli(["cat", &cid]).run().ok().stdout == bytes);
    pouring.abort();

    let log = node.process().stderr();
    assert!(log.contains(&guest.id()) && log.contains("broke the rules"), "{log}");
}
