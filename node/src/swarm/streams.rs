//! Streams between admitted peers: the one seam between the swarm and what speaks over it.
//!
//! The broker's links and the block exchange know peers only through [`Streams`]; their tests use
//! [`memory::Network`], the node uses the libp2p swarm.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use ipdc_jobs::ids::PeerId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::conduct::Conduct;

/// A protocol that runs over streams between admitted peers. Each has a version in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// MQTT, served by the peer's broker.
    Mqtt,
    /// Requests for blocks.
    Blocks,
    /// What peers tell each other about themselves and others.
    Peers,
    /// Containers by hand: orders, and what goes into them and comes out.
    Containers,
    /// Blocks for guests, and theirs: all that they are offered. Not ours: nobody greets.
    Bitswap,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 5] = [
        Protocol::Mqtt,
        Protocol::Blocks,
        Protocol::Peers,
        Protocol::Containers,
        Protocol::Bitswap,
    ];

    /// Whether both sides say a byte first, so that the opener knows that somebody serves it.
    #[must_use]
    pub fn is_greeted(self) -> bool {
        self != Protocol::Bitswap
    }

    /// The name that libp2p negotiates.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Mqtt => "/ipdc/mqtt/1",
            Protocol::Blocks => "/ipdc/blocks/1",
            Protocol::Peers => "/ipdc/peers/1",
            Protocol::Containers => "/ipdc/containers/1",
            Protocol::Bitswap => "/ipfs/bitswap/1.2.0",
        }
    }
}

/// How long opening a stream may take in all: dial, negotiation, and the first byte of the other
/// side. Loopback takes 1 ms, a satellite link under 2 s.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A byte stream to a peer, both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An open stream.
pub type BoxStream = Box<dyn Duplex>;

/// Streams that peers opened to us, each with the peer that did.
pub type Incoming = mpsc::Receiver<(PeerId, BoxStream)>;

/// Opens streams to admitted peers and takes theirs.
#[async_trait]
pub trait Streams: Send + Sync + 'static {
    /// This node.
    fn local(&self) -> PeerId;

    /// The admitted peers that are connected now.
    fn connected(&self) -> Vec<PeerId>;

    /// Opens a stream; when this returns, the other side is serving it.
    async fn open(&self, peer: PeerId, protocol: Protocol) -> Result<BoxStream, StreamError>;

    /// The streams that peers open to us with `protocol`. Each protocol has one taker.
    fn incoming(&self, protocol: Protocol) -> Incoming;

    /// Where to say that a peer broke the rules.
    fn conduct(&self) -> &Conduct;

    /// The guests that are connected now. To them streams of [`Protocol::Bitswap`] can be opened, and
    /// no others.
    fn guests(&self) -> Vec<PeerId>;

    /// Closes a guest's connections.
    fn show_out(&self, guest: PeerId);
}

/// Serves every stream of `incoming`, until it is closed or this is dropped: of one peer `limit` at a
/// time. What is more is closed, and said to `surplus`.
pub(crate) async fn serve_each<S>(
    mut incoming: Incoming,
    limit: usize,
    surplus: impl Fn(PeerId),
    serve: impl Fn(PeerId, BoxStream) -> S,
) where
    S: Future<Output = ()> + Send + 'static,
{
    let mut streams: HashMap<PeerId, usize> = HashMap::new();
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            opened = incoming.recv() => {
                let Some((peer, stream)) = opened else { return };
                let open = streams.entry(peer).or_default();
                if *open == limit {
                    surplus(peer);
                    continue;
                }
                *open += 1;
                let served = serve(peer, stream);
                serving.spawn(async move {
                    served.await;
                    peer
                });
            }
            Some(ended) = serving.join_next() => match ended {
                Ok(peer) => {
                    if let Some(open) = streams.get_mut(&peer) {
                        *open -= 1;
                        if *open == 0 {
                            streams.remove(&peer);
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "serving a peer's stream panicked"),
            }
        }
    }
}

/// A stream could not be opened.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum StreamError {
    /// The peer is not connected, or left meanwhile.
    #[error("peer {0} is not connected")]
    #[diagnostic(
        code("IPDC-2101"),
        help("is it running, and on the network? `ipdc peers` lists who is connected")
    )]
    NotConnected(PeerId),
    /// Nothing came back in time.
    #[error("peer {peer} did not answer {} in {OPEN_TIMEOUT:?}", .protocol.name())]
    #[diagnostic(
        code("IPDC-2102"),
        help("the peer may be overloaded or asleep; this is tried again by itself")
    )]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// The protocol asked for.
        protocol: Protocol,
    },
    /// The peer does not serve the protocol to us: another version of ipdc, or we are not admitted.
    #[error("peer {peer} does not serve {}", .protocol.name())]
    #[diagnostic(code("IPDC-2103"), help("compare `ipdc --version` on both nodes"))]
    Unsupported {
        /// The peer.
        peer: PeerId,
        /// The protocol asked for.
        protocol: Protocol,
    },
    /// The stream broke while it was opened.
    #[error("the stream to peer {peer} broke")]
    #[diagnostic(code("IPDC-2104"))]
    Broken {
        /// The peer.
        peer: PeerId,
        /// How.
        #[source]
        source: std::io::Error,
    },
}

/// A network in memory, for tests of what runs over streams.
pub mod memory {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use super::{
        BoxStream, Conduct, Incoming, PeerId, Protocol, StreamError, Streams, async_trait, mpsc,
    };

    type Takers = HashMap<(PeerId, Protocol), mpsc::Sender<(PeerId, BoxStream)>>;

    /// Peers in one process, all connected to each other.
    #[derive(Clone, Default)]
    pub struct Network {
        takers: Arc<Mutex<Takers>>,
    }

    impl Network {
        /// A network without peers.
        #[must_use]
        pub fn new() -> Self {
            Self::default()
        }

        /// Peer `id`'s end of the network.
        #[must_use]
        pub fn peer(&self, id: PeerId) -> Arc<Peer> {
            Arc::new(Peer { id, network: self.clone(), conduct: Conduct::alone() })
        }

        /// Cuts `id` off: nobody can open a stream to it any more. Open streams go on.
        pub fn remove(&self, id: PeerId) {
            self.takers().retain(|(peer, _), _| *peer != id);
        }

        fn takers(&self) -> std::sync::MutexGuard<'_, Takers> {
            self.takers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    /// One peer's end.
    pub struct Peer {
        id: PeerId,
        network: Network,
        conduct: Conduct,
    }

    impl Peer {
        /// The others that take streams of such protocols. Who takes only those of guests is one.
        fn others(&self, takes: impl Fn(Protocol) -> bool) -> Vec<PeerId> {
            let takers = self.network.takers();
            let others = takers.keys().filter(|(peer, _)| *peer != self.id);
            let mut others: Vec<_> =
                others.filter(|(_, protocol)| takes(*protocol)).map(|(peer, _)| *peer).collect();
            others.sort_unstable();
            others.dedup();
            others
        }
    }

    #[async_trait]
    impl Streams for Peer {
        fn local(&self) -> PeerId {
            self.id
        }

        fn connected(&self) -> Vec<PeerId> {
            self.others(|protocol| protocol != Protocol::Bitswap)
        }

        fn guests(&self) -> Vec<PeerId> {
            let members = self.connected();
            let mut guests = self.others(|protocol| protocol == Protocol::Bitswap);
            guests.retain(|guest| !members.contains(guest));
            guests
        }

        fn show_out(&self, guest: PeerId) {
            self.network.remove(guest);
        }

        async fn open(&self, peer: PeerId, protocol: Protocol) -> Result<BoxStream, StreamError> {
            let taker = self.network.takers().get(&(peer, protocol)).cloned();
            let taker = taker.ok_or(StreamError::NotConnected(peer))?;
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let offered = taker.send((self.id, Box::new(theirs) as BoxStream)).await;
            offered.map_err(|_| StreamError::NotConnected(peer))?;
            Ok(Box::new(ours))
        }

        fn incoming(&self, protocol: Protocol) -> Incoming {
            let (sender, receiver) = mpsc::channel(16);
            self.network.takers().insert((self.id, protocol), sender);
            receiver
        }

        fn conduct(&self) -> &Conduct {
            &self.conduct
        }
    }
}
