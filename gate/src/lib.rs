//! Connections and the quarantine: the one libp2p behaviour of ours, and rust-ipfs started with it.
//!
//! Every connection has a handler here and a [`Link`], its handle for everyone else. A link starts
//! in quarantine: the handler offers [`ADMIT`] and nothing else, once. When [`Link::admit`] was
//! called it offers the swarm's protocols on the same connection. A connection from one of the
//! [`Guests`] is in no quarantine: it is offered the guests' protocols from its first moment, and
//! never anything else. Who is admitted, who is a guest, and when a connection is closed, is decided
//! by the node; this only enforces it, and carries dials and closings out.
//!
//! Why not `libp2p_stream`: it holds one accepted stream and drops a burst in silence, opens one
//! stream at a time, leaves an opener hanging when the connection is not admitted, and cannot
//! change what it offers, so that admission would cost a second connection.
//!
//! Why a crate of its own: rust-ipfs is generic over the behaviour, and its instance takes minutes
//! to compile. Here that is done once; nothing generic over the behaviour may leave this crate.

mod network;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use connexa::prelude::swarm::behaviour::FromSwarm;
use connexa::prelude::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use connexa::prelude::swarm::{
    CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, DialError,
    NetworkBehaviour, StreamUpgradeError, SubstreamProtocol, THandler, ToSwarm,
};
use connexa::prelude::transport::Endpoint;
use connexa::prelude::transport::transport::PortUse;
use connexa::prelude::transport::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use connexa::prelude::{Multiaddr, Stream};
use libp2p_identity::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub use connexa::prelude::swarm::derive_prelude::ConnectionId;
pub use connexa::prelude::swarm::dial_opts::DialOpts;

pub use self::network::{StartError, Starting, start};

/// The protocol of admission, the only one in quarantine.
pub const ADMIT: &str = "/ipdc/admit/1";

/// The names of protocols.
pub type Protocols = &'static [&'static str];

/// What is offered to whom.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// To admitted peers.
    pub members: Protocols,
    /// To guests, who prove nothing but their peer ID: programs that know nothing of admission.
    pub guests: Protocols,
}

/// Who is let in as a guest. Clones share it with the gate.
#[derive(Clone, Default)]
pub struct Guests(Arc<Mutex<HashSet<PeerId>>>);

impl Guests {
    /// Makes these the guests, and nobody else. Connections that are there stay what they are.
    pub fn set(&self, guests: HashSet<PeerId>) {
        *lock(&self.0) = guests;
    }

    fn holds(&self, peer: &PeerId) -> bool {
        lock(&self.0).contains(peer)
    }
}

/// Streams of one link that may wait to be opened: a burst of a busy worker, with room.
const OPENING_LIMIT: usize = 256;

/// Streams that a peer opened on one link and that no one took yet. More are dropped; their
/// openers see that and try again.
const ARRIVING_LIMIT: usize = 128;

/// What the gate reports. The queue has no limit of its own: connections are limited, and so are
/// the streams that arrive on each.
pub enum Event {
    /// A connection is there: a guest's, or one in quarantine.
    Opened(Arc<Link>),
    /// It is gone.
    Closed(Arc<Link>),
    /// An admitted peer, or a guest, opened a stream.
    Arrived(Box<Arrival>),
    /// A dial came to nothing.
    DialFailed(ConnectionId, DialFailure),
    /// We can be reached here.
    Listening(Multiaddr),
    /// No more.
    NotListening(Multiaddr),
}

/// Why a dial came to nothing.
#[derive(Debug)]
pub enum DialFailure {
    /// Somebody else answered at this address.
    WrongPeer(Multiaddr),
    /// A connection is there already, or another dial is under way.
    NotNeeded,
    /// Nobody answered.
    Unreachable(String),
}

/// A stream that an admitted peer, or a guest, opened.
pub struct Arrival {
    /// Who.
    pub peer: PeerId,
    /// One of the protocols it is offered.
    pub protocol: &'static str,
    /// The stream.
    pub stream: Stream,
    /// Held until someone took the stream.
    pub place: OwnedSemaphorePermit,
}

/// What the gate is told to do. The queue has no limit of its own: a link is closed once, a peer
/// has one dial at a time.
pub enum Order {
    /// Dial a peer.
    Dial(Box<DialOpts>),
    /// Close a connection: what [`Link::close`] asks for.
    Close(PeerId, ConnectionId),
}

/// One connection to a peer.
pub struct Link {
    /// The other side, as its Noise handshake proved it.
    pub peer: PeerId,
    /// Its name, in this process.
    pub id: ConnectionId,
    /// The address we dialled; none if the peer dialled us.
    pub dialled: Option<Multiaddr>,
    admitted: AtomicBool,
    guest: AtomicBool,
    closing: AtomicBool,
    gone: AtomicBool,
    opens: mpsc::Sender<Open>,
    /// Where the peer's one admission stream goes.
    admission: Mutex<Option<oneshot::Sender<Stream>>>,
    admission_stream: Mutex<Option<oneshot::Receiver<Stream>>>,
    orders: mpsc::UnboundedSender<Order>,
}

/// A stream to be opened.
struct Open {
    protocol: &'static str,
    answer: oneshot::Sender<Result<Stream, OpenError>>,
}

/// A stream could not be opened on a link.
#[derive(Debug)]
pub enum OpenError {
    /// The link is gone.
    Closed,
    /// The peer does not offer the protocol.
    Unsupported,
    /// It broke meanwhile.
    Io(io::Error),
}

impl Link {
    /// Lets the peer open the swarm's protocols. Holds as soon as this returns.
    pub fn admit(&self) {
        self.admitted.store(true, Ordering::Release);
    }

    /// Whether it came as a guest's, and so stays one until it is closed.
    pub fn is_guest(&self) -> bool {
        self.guest.load(Ordering::Acquire)
    }

    /// Whether the connection is gone. Set before [`Event::Closed`] is sent.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Closes the connection, soon.
    pub fn close(&self) {
        self.admitted.store(false, Ordering::Release);
        self.guest.store(false, Ordering::Release);
        if !self.closing.swap(true, Ordering::AcqRel) {
            // When the gate is gone, so is the connection.
            let _ = self.orders.send(Order::Close(self.peer, self.id));
        }
    }

    /// Opens a stream on this connection. Unbounded: callers put their own time-out round it.
    ///
    /// # Errors
    /// When the connection is gone or the peer does not offer `protocol` to us.
    pub async fn open(&self, protocol: &'static str) -> Result<Stream, OpenError> {
        let (answer, opened) = oneshot::channel();
        let asked = self.opens.send(Open { protocol, answer }).await;
        asked.map_err(|_| OpenError::Closed)?;
        opened.await.map_err(|_| OpenError::Closed)?
    }

    /// Waits for the peer's admission stream: what the side that was dialled does, once.
    ///
    /// # Errors
    /// When the connection is gone, or this was called before.
    pub async fn accept_admission(&self) -> Result<Stream, OpenError> {
        let stream = lock(&self.admission_stream).take();
        stream.ok_or(OpenError::Closed)?.await.map_err(|_| OpenError::Closed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The behaviour.
struct Gate {
    orders: mpsc::UnboundedReceiver<Order>,
    orders_sender: mpsc::UnboundedSender<Order>,
    events: mpsc::UnboundedSender<Event>,
    links: HashMap<ConnectionId, Arc<Link>>,
    guests: Guests,
    offered: Offered,
}

/// Where the gate's orders go in and its events come out.
pub struct Ends {
    /// In.
    pub orders: mpsc::UnboundedSender<Order>,
    /// Out.
    pub events: mpsc::UnboundedReceiver<Event>,
    /// Who is let in as a guest: nobody at first.
    pub guests: Guests,
}

impl Gate {
    /// A gate without connections, and its ends.
    fn new(offered: Offered) -> (Gate, Ends) {
        let (orders_sender, orders) = mpsc::unbounded_channel();
        let (events, events_receiver) = mpsc::unbounded_channel();
        let guests = Guests::default();
        let ends =
            Ends { orders: orders_sender.clone(), events: events_receiver, guests: guests.clone() };
        (Gate { orders, orders_sender, events, links: HashMap::new(), guests, offered }, ends)
    }

    fn link(&mut self, id: ConnectionId, peer: PeerId, dialled: Option<&Multiaddr>) -> Handler {
        let (opens, to_open) = mpsc::channel(OPENING_LIMIT);
        let (admission, admission_stream) = oneshot::channel();
        let link = Arc::new(Link {
            peer,
            id,
            dialled: dialled.cloned(),
            admitted: AtomicBool::new(false),
            // Whom we dialled for a member is to show that it is one.
            guest: AtomicBool::new(dialled.is_none() && self.guests.holds(&peer)),
            closing: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            opens,
            admission: Mutex::new(Some(admission)),
            admission_stream: Mutex::new(Some(admission_stream)),
            orders: self.orders_sender.clone(),
        });
        self.links.insert(id, link.clone());
        let places = Arc::new(Semaphore::new(ARRIVING_LIMIT));
        Handler { link, to_open, events: self.events.clone(), places, offered: self.offered }
    }

    fn tell(&self, event: Event) {
        // Nobody listens only while the node stops.
        let _ = self.events.send(event);
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.link(id, peer, None))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.link(id, peer, Some(address)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                if let Some(link) = self.links.get(&established.connection_id) {
                    self.tell(Event::Opened(link.clone()));
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some(link) = self.links.remove(&closed.connection_id) {
                    link.gone.store(true, Ordering::Release);
                    self.tell(Event::Closed(link));
                }
            }
            FromSwarm::DialFailure(failed) => {
                self.links.remove(&failed.connection_id);
                let failure = match failed.error {
                    DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } => {
                        DialFailure::WrongPeer(address.clone())
                    }
                    DialError::DialPeerConditionFalse(_) => DialFailure::NotNeeded,
                    other => DialFailure::Unreachable(other.to_string()),
                };
                self.tell(Event::DialFailed(failed.connection_id, failure));
            }
            FromSwarm::ListenFailure(failed) => {
                self.links.remove(&failed.connection_id);
            }
            FromSwarm::NewListenAddr(new) => self.tell(Event::Listening(new.addr.clone())),
            FromSwarm::ExpiredListenAddr(old) => {
                self.tell(Event::NotListening(old.addr.clone()));
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Infallible>> {
        match self.orders.poll_recv(cx) {
            Poll::Ready(Some(Order::Dial(opts))) => Poll::Ready(ToSwarm::Dial { opts: *opts }),
            Poll::Ready(Some(Order::Close(peer_id, id))) => {
                let connection = CloseConnection::One(id);
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection })
            }
            // Never closed: the gate holds a sender itself.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// What libp2p runs for one connection.
struct Handler {
    link: Arc<Link>,
    to_open: mpsc::Receiver<Open>,
    events: mpsc::UnboundedSender<Event>,
    places: Arc<Semaphore>,
    offered: Offered,
}

impl Handler {
    fn arrived(&self, protocol: &'static str, stream: Stream) {
        if protocol == ADMIT {
            // The first one is served; a dropped stream is reset.
            if let Some(admission) = lock(&self.link.admission).take() {
                let _ = admission.send(stream);
            }
            return;
        }
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            let arrival = Arrival { peer: self.link.peer, protocol, stream, place };
            let _ = self.events.send(Event::Arrived(Box::new(arrival)));
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Result<Stream, OpenError>>;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer, ()> {
        let admitted = self.link.admitted.load(Ordering::Acquire);
        let offer = match admitted {
            true => Offer::All(self.offered.members),
            false if self.link.is_guest() => Offer::All(self.offered.guests),
            false => Offer::One(ADMIT),
        };
        SubstreamProtocol::new(offer, ())
    }

    /// Quarantine and the peers' own probes end connections, idleness does not.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, Self::OutboundOpenInfo, Infallible>> {
        match self.to_open.poll_recv(cx) {
            Poll::Ready(Some(Open { protocol, answer })) => {
                let protocol = SubstreamProtocol::new(Offer::One(protocol), answer);
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
            }
            // Never closed: the link holds a sender and this the link.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Offer, Offer, (), Self::OutboundOpenInfo>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.arrived(protocol, stream),
            ConnectionEvent::FullyNegotiatedOutbound(opened) => {
                let (stream, _) = opened.protocol;
                // The opener may have given up.
                let _ = opened.info.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(failed) => {
                let error = match failed.error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Io(error) => OpenError::Io(error),
                    StreamUpgradeError::Timeout => OpenError::Io(io::ErrorKind::TimedOut.into()),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = failed.info.send(Err(error));
            }
            _ => {}
        }
    }
}

/// The protocols of a stream that is being negotiated.
#[derive(Debug, Clone, Copy)]
enum Offer {
    One(&'static str),
    All(Protocols),
}

impl UpgradeInfo for Offer {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<
        std::option::IntoIter<&'static str>,
        std::iter::Copied<std::slice::Iter<'static, &'static str>>,
    >;

    fn protocol_info(&self) -> Self::InfoIter {
        let (one, more): (_, Protocols) = match self {
            Offer::One(name) => (Some(*name), &[]),
            Offer::All(names) => (None, *names),
        };
        one.into_iter().chain(more.iter().copied())
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, &'static str);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: &'static str) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, &'static str);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: &'static str) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
