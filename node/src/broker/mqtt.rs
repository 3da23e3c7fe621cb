//! [`Broker`] by the `mqtt5` library: its router and its connection handler, with listeners,
//! limits and rules of our own.
//!
//! Every client, on whichever way it comes, is one handler with one [`Session`]. The library's own
//! server is not used: it takes neither streams nor a rule per connection, does not say that a port
//! is in use, and keeps files. Nothing is written to disk; a few sessions of local users' clients
//! outlive their connections, in memory and for a while.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ipdc_jobs::ids::PeerId;
use ipdc_jobs::message::MESSAGE_LIMIT;
use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::resource_monitor::ResourceMonitor;
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::storage::StorageBackend as _;
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::transport::{BrokerTransport, WebSocketTransport};
use mqtt5::broker::websocket_server::{WebSocketServerConfig, accept_websocket_connection};
use mqtt5::broker::{
    AuthProvider, BrokerConfig, BrokerEventHandler, DynamicStorage, MemoryBackend,
};
use mqtt5::packet::publish::PublishPacket;
use mqtt5::protocol::v5::properties::{PropertyId, PropertyValue};
use mqtt5::{MqttError, QoS};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use super::limits::{self, Patience, STREAMS_PER_PEER};
use super::linger::Shared;
use super::retained::Ledger;
pub use super::session::Password;
use super::session::{Hub, Proof, Session, USER};
use super::{Broker, BrokerError, Message, Properties, Sender, Subscription};
use crate::config;
use crate::lobby::{Guarded, Guest, Lobby};
use crate::swarm::conduct::{Conduct, Misdeed};
use crate::swarm::streams::{BoxStream, Protocol};

/// How long a browser may take for the WebSocket handshake. The library gives a client ten
/// seconds for what follows.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often what departed clients left behind is swept up.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How often clients are looked at that may acknowledge nothing.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long clients get to take their goodbye.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a listener rests when the system gives it no connection, as when it has no file
/// descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The path of the WebSocket, as MQTT tools expect it.
const WEBSOCKET_PATH: &str = "/mqtt";

/// The user property in which the library says who published a message.
const SENDER_PROPERTY: &str = "x-mqtt-sender";

/// Where and for whom the broker listens.
pub struct Options {
    /// The loopback address of local users; port 0 picks a free one.
    pub listen: SocketAddr,
    /// For browsers, if any.
    pub websocket: Option<WebSocket>,
    /// The password of the user `ipdc`; without it, every program on this machine is a local user.
    pub password: Option<Password>,
    /// Clients of local users that may be connected at a time.
    pub clients: usize,
    /// Messages that they may have retained.
    pub retained: usize,
    /// What slow clients may do to the others.
    pub patience: Patience,
}

impl Options {
    /// What the settings say.
    #[must_use]
    pub fn new(settings: &config::Mqtt, password: &str) -> Self {
        let origins = || settings.origins.clone();
        Options {
            listen: settings.listen,
            websocket: settings.websocket.map(|listen| WebSocket { listen, origins: origins() }),
            password: (!settings.anonymous).then(|| Password::new(password)),
            clients: settings.clients as usize,
            retained: settings.retained as usize,
            patience: Patience::default(),
        }
    }
}

/// Where and for whom the broker listens for browsers.
pub struct WebSocket {
    /// A loopback address; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The origins, as `http://localhost:8080`, whose pages may connect.
    pub origins: Vec<String>,
}

/// Starts a broker. It stops by [`Broker::shutdown`] only.
///
/// # Errors
/// When it cannot listen where it should.
pub async fn start(options: Options) -> Result<Arc<dyn Broker>, BrokerError> {
    let listener = bind(options.listen).await?;
    let addr = local_addr(&listener, options.listen)?;
    let websocket = match &options.websocket {
        None => None,
        Some(websocket) => Some(bind(websocket.listen).await?),
    };
    let websocket_addr = match (&websocket, &options.websocket) {
        (Some(listener), Some(asked)) => Some(local_addr(listener, asked.listen)?),
        _ => None,
    };
    if options.password.is_none() {
        tracing::warn!(%addr, "every program on this machine may use MQTT, and run jobs: mqtt.anonymous is set");
    }
    let inner = Arc::new(Inner::new(&options));
    inner.tasks.spawn(Arc::clone(&inner).accept(listener, None));
    if let (Some(listener), Some(websocket)) = (websocket, options.websocket) {
        let rules = WebSocketServerConfig::new()
            .with_path(WEBSOCKET_PATH)
            .with_allowed_origins(websocket.origins);
        inner.tasks.spawn(Arc::clone(&inner).accept(listener, Some(Arc::new(rules))));
    }
    inner.tasks.spawn(Arc::clone(&inner).sweep());
    inner.tasks.spawn(Arc::clone(&inner).check_progress());
    Ok(Arc::new(Mqtt5 { inner, addr, websocket_addr }))
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, BrokerError> {
    if !addr.ip().is_loopback() {
        return Err(BrokerError::NotLoopback(addr));
    }
    TcpListener::bind(addr).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BrokerError::InUse(addr),
        _ => BrokerError::Listen { addr, source },
    })
}

fn local_addr(listener: &TcpListener, addr: SocketAddr) -> Result<SocketAddr, BrokerError> {
    listener.local_addr().map_err(|source| BrokerError::Listen { addr, source })
}

struct Mqtt5 {
    inner: Arc<Inner>,
    addr: SocketAddr,
    websocket_addr: Option<SocketAddr>,
}

/// What listeners and connections share.
struct Inner {
    password: Option<Password>,
    patience: Patience,
    for_locals: BrokerConfig,
    for_peers: BrokerConfig,
    router: Arc<MessageRouter>,
    kept: Arc<DynamicStorage>,
    hub: Arc<Hub>,
    stats: Arc<BrokerStats>,
    monitor: Arc<ResourceMonitor>,
    locals: Arc<Lobby>,
    peers: Mutex<HashMap<PeerId, Arc<Lobby>>>,
    sessions: Mutex<Vec<Weak<Session>>>,
    goodbye: broadcast::Sender<()>,
    tasks: TaskTracker,
}

impl Inner {
    fn new(options: &Options) -> Self {
        let kept =
            Arc::new(DynamicStorage::Memory(MemoryBackend::with_queue_limits(limits::queue())));
        let router = Arc::new_cyclic(|router| {
            let ledger = Ledger::new(Weak::clone(router), Arc::clone(&kept), options.retained);
            let (messages, bytes) = ledger.limits();
            MessageRouter::with_storage(Arc::clone(&kept))
                .with_retained_limits(messages, bytes)
                .with_event_handler(Arc::new(ledger))
        });
        Inner {
            password: options.password.clone(),
            patience: options.patience,
            for_locals: limits::for_locals(),
            for_peers: limits::for_peers(),
            router,
            kept,
            hub: Arc::default(),
            stats: Arc::new(BrokerStats::new()),
            monitor: Arc::new(ResourceMonitor::new(limits::of_the_library())),
            locals: Lobby::new(options.clients, options.patience.take),
            peers: Mutex::default(),
            sessions: Mutex::default(),
            goodbye: broadcast::Sender::new(1),
            tasks: TaskTracker::new(),
        }
    }

    /// Takes local users' connections; with `rules`, as WebSockets.
    async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        rules: Option<Arc<WebSocketServerConfig>>,
    ) {
        let mut goodbye = self.goodbye.subscribe();
        loop {
            let (stream, addr) = tokio::select! {
                _ = goodbye.recv() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "no MQTT connection to be had");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let guest = self.locals.enter().await;
            self.tasks.spawn(Arc::clone(&self).serve_local(stream, addr, rules.clone(), guest));
        }
    }

    async fn serve_local(
        self: Arc<Self>,
        stream: TcpStream,
        addr: SocketAddr,
        rules: Option<Arc<WebSocketServerConfig>>,
        guest: Arc<Guest>,
    ) {
        // Without it a small message waits for the acknowledgement of the one before; on the
        // loopback interface it cannot fail in a way that matters.
        let _ = stream.set_nodelay(true);
        let tcp = Shared::new(stream);
        let stream = guest.guard(tcp.clone());
        let transport = match rules {
            None => BrokerTransport::WebSocket(Box::new(stream)),
            Some(rules) => {
                let handshake = accept_websocket_connection(stream, &rules, addr);
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                    Ok(Ok(stream)) => BrokerTransport::websocket(stream),
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        };
        let proof = self.password.clone().map_or(Proof::Anonymous, Proof::Password);
        // How it ended was noted; with local users nothing follows from it.
        let _ = self.serve(transport, addr, proof, Arc::clone(&guest)).await;
        // A stranger is not waited for, and who is, keeps its place: so they are few.
        if guest.is_proved() {
            tcp.linger().await;
        }
    }

    async fn serve(
        &self,
        transport: BrokerTransport,
        addr: SocketAddr,
        proof: Proof,
        guest: Arc<Guest>,
    ) -> mqtt5::Result<()> {
        let (mut config, kept) = match proof {
            Proof::Password(_) | Proof::Anonymous => (self.for_locals.clone(), Some(&self.kept)),
            Proof::Stream(..) => (self.for_peers.clone(), None),
        };
        let session = Session::new(proof, Arc::clone(&self.hub), guest, kept.cloned());
        let session = Arc::new(session);
        self.remember(&session);
        config.event_handler = Some(Arc::clone(&session) as Arc<dyn BrokerEventHandler>);
        let handler = ClientHandler::new(
            transport,
            addr,
            Arc::new(config),
            Arc::clone(&self.router),
            session as Arc<dyn AuthProvider>,
            kept.cloned(),
            Arc::clone(&self.stats),
            Arc::clone(&self.monitor),
            self.goodbye.subscribe(),
        );
        let ended = handler.run().await;
        if let Err(error) = &ended
            && !error.is_normal_disconnect()
        {
            tracing::debug!(%addr, %error, "MQTT connection ended");
        }
        ended
    }

    fn remember(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(session));
    }

    /// A place for one more stream of `peer`, if there is one.
    fn welcome_peer(&self, peer: PeerId) -> Option<Arc<Guest>> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, lobby| !lobby.is_empty());
        let lobby =
            peers.entry(peer).or_insert_with(|| Lobby::new(STREAMS_PER_PEER, self.patience.take));
        lobby.welcome()
    }

    async fn check_progress(self: Arc<Self>) {
        let mut goodbye = self.goodbye.subscribe();
        let mut interval = tokio::time::interval(CHECK_INTERVAL);
        loop {
            tokio::select! {
                _ = goodbye.recv() => return,
                _ = interval.tick() => {}
            }
            let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            for session in sessions.iter().filter_map(Weak::upgrade) {
                session.check_progress(&self.router, self.patience.acknowledge);
            }
        }
    }

    async fn sweep(self: Arc<Self>) {
        let mut goodbye = self.goodbye.subscribe();
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                _ = goodbye.recv() => return,
                _ = interval.tick() => {}
            }
            let before = self.kept.session_client_ids().await.unwrap_or_default();
            self.router.sweep_sessions().await;
            let after = self.kept.session_client_ids().await.unwrap_or_default();
            for gone in before.iter().filter(|id| !after.contains(id)) {
                // The library forgets the session, but not what it was in the middle of.
                if let Err(error) = self.kept.remove_all_inflight_messages(gone).await {
                    tracing::debug!(client = %gone, %error, "a session was not swept up whole");
                }
            }
        }
    }
}

#[async_trait]
impl Broker for Mqtt5 {
    async fn publish(
        &self,
        topic: &str,
        payload: Bytes,
        retain: bool,
        properties: Properties,
    ) -> Result<(), BrokerError> {
        for topic in [Some(topic), properties.response_topic.as_deref()].into_iter().flatten() {
            if !mqtt5::is_valid_topic_name(topic) {
                return Err(BrokerError::Topic(topic.to_owned()));
            }
        }
        if payload.len() > MESSAGE_LIMIT {
            return Err(BrokerError::TooLong(payload.len()));
        }
        let mut packet = PublishPacket::new(topic, payload.clone(), QoS::AtLeastOnce);
        packet.retain = retain;
        let message = Message {
            topic: topic.into(),
            payload,
            retained: false,
            response_topic: properties.response_topic.as_deref().map(Arc::from),
            correlation: properties.correlation.clone(),
            sender: Sender::Node,
        };
        if let Some(topic) = properties.response_topic {
            packet.properties.set_response_topic(topic);
        }
        if let Some(data) = properties.correlation {
            packet.properties.set_correlation_data(data);
        }
        if let Some(kind) = properties.content_type {
            packet.properties.set_content_type(kind);
        }
        self.inner.locals.note_published(message.payload.len());
        self.inner.hub.deliver(&message).await;
        // The one way past the limits on retained messages: those are for local users.
        self.inner.router.route_sys_message(&packet).await;
        Ok(())
    }

    async fn subscribe(&self, filter: &str) -> Subscription {
        // In this order, so that what is published meanwhile comes twice rather than not at all.
        let live = self.inner.hub.subscribe(filter);
        let retained = self.inner.router.get_retained_messages(filter).await;
        Subscription { retained: retained.into_iter().map(retained_message).collect(), live }
    }

    fn serve(&self, stream: BoxStream, peer: PeerId, conduct: &Conduct) {
        let Some(guest) = self.inner.welcome_peer(peer) else {
            conduct.report(peer, Misdeed::Streams(Protocol::Mqtt.name()));
            return;
        };
        let (inner, conduct) = (Arc::clone(&self.inner), conduct.clone());
        self.inner.tasks.spawn(async move {
            let stream = guest.guard(PeerStream(Mutex::new(stream)));
            let transport = BrokerTransport::WebSocket(Box::new(stream));
            let proof = Proof::Stream(peer, conduct.clone());
            if let Err(error) = inner.serve(transport, NO_ADDR, proof, guest).await
                && is_garbage(&error)
            {
                let misdeed =
                    Misdeed::Garbage { on: Protocol::Mqtt.name(), why: error.to_string() };
                conduct.report(peer, misdeed);
            }
        });
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn websocket_addr(&self) -> Option<SocketAddr> {
        self.websocket_addr
    }

    async fn shutdown(&self) {
        // Nobody listens any more when it was shut down before.
        let _ = self.inner.goodbye.send(());
        self.inner.tasks.close();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("MQTT clients did not take their goodbye in {SHUTDOWN_TIMEOUT:?}");
        }
    }
}

pub(super) fn retained_message(packet: PublishPacket) -> Message {
    let response_topic = match packet.properties.get(PropertyId::ResponseTopic) {
        Some(PropertyValue::Utf8String(topic)) => Some(topic.as_str().into()),
        _ => None,
    };
    let correlation = match packet.properties.get(PropertyId::CorrelationData) {
        Some(PropertyValue::BinaryData(data)) => Some(data.clone()),
        _ => None,
    };
    // Peers can have nothing retained, and the library lets no client choose this property.
    let by_local = packet.properties.get_user_property_value(SENDER_PROPERTY) == Some(USER);
    Message {
        topic: packet.topic_name.into(),
        payload: packet.payload,
        retained: true,
        response_topic,
        correlation,
        sender: if by_local { Sender::Local } else { Sender::Node },
    }
}

/// Whether it was no bad luck of the connection that an error came of what the other side sent.
pub(super) fn is_garbage(error: &MqttError) -> bool {
    matches!(
        error,
        MqttError::MalformedPacket(_)
            | MqttError::PacketTooLarge { .. }
            | MqttError::ProtocolError(_)
            | MqttError::InvalidPacketType(_)
            | MqttError::InvalidQoS(_)
            | MqttError::InvalidReasonCode(_)
            | MqttError::InvalidPropertyId(_)
            | MqttError::DuplicatePropertyId(_)
            | MqttError::InvalidTopicName(_)
            | MqttError::TopicAliasInvalid(_)
    )
}

/// The address the library is told for a stream: it logs it, nothing more.
const NO_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A peer's stream. The mutex is for the type system, as the library asks that a handler can be
/// shared; it is never locked.
struct PeerStream(Mutex<BoxStream>);

impl PeerStream {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut BoxStream> {
        Pin::new(self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

/// A stream of MQTT's bytes as they are, in the one form in which the library takes any stream.
impl<S> WebSocketTransport for Guarded<S>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin,
{
    fn peer_addr(&self) -> mqtt5::Result<SocketAddr> {
        Ok(NO_ADDR)
    }
}
