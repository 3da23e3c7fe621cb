//! [`Broker`] by the `mqtt5` library: its router and its connection handler, with listeners,
//! limits and rules of our own.
//!
//! Every client, on whichever way it comes, is one handler with one [`Session`]. The library's own
//! server is not used: it takes neither streams nor a rule per connection, does not say that a port
//! is in use, and keeps files. No session outlives its connection, and nothing is written to disk.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ipdc_jobs::ids::PeerId;
use ipdc_jobs::message::MESSAGE_LIMIT;
use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::resource_monitor::{ResourceLimits, ResourceMonitor};
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::transport::{BrokerTransport, WebSocketTransport};
use mqtt5::broker::websocket_server::{WebSocketServerConfig, accept_websocket_connection};
use mqtt5::broker::{AuthProvider, BrokerConfig, BrokerEventHandler};
use mqtt5::packet::publish::PublishPacket;
use mqtt5::protocol::v5::properties::{PropertyId, PropertyValue};
use mqtt5::{MqttError, QoS};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::task::TaskTracker;

pub use super::session::Password;
use super::session::{Hub, Proof, Session, USER};
use super::{Broker, BrokerError, Message, Properties, Sender, Subscription};
use crate::config;
use crate::swarm::conduct::{Conduct, Misdeed};
use crate::swarm::streams::{BoxStream, Protocol};

/// Connections of local users, half-open ones included: more than a desk's tools and a few
/// hundred sensors need, at some 30 KB each.
const LOCAL_CONNECTIONS: usize = 512;

/// Streams that one peer may have open to the broker. It needs one; the others cover the time in
/// which it reconnects and we have not yet seen the old one end.
const STREAMS_PER_PEER: usize = 4;

/// Subscriptions of one client.
const SUBSCRIPTIONS: usize = 256;

/// What a packet may hold beside a message of [`MESSAGE_LIMIT`]: topic, response topic and
/// correlation data.
const PACKET_OVERHEAD: usize = 4 * 1024;

/// The longest MQTT packet, in bytes.
pub(super) const PACKET_LIMIT: usize = MESSAGE_LIMIT + PACKET_OVERHEAD;

/// Messages that local users may have retained. The node's own do not count: it forgets those of
/// jobs that it forgets.
const RETAINED_MESSAGES: usize = 10_000;

/// The longest message that a local user may have retained, in bytes: with
/// [`RETAINED_MESSAGES`], 160 MiB at worst.
const RETAINED_MESSAGE: usize = 16 * 1024;

/// Messages that wait for one client that reads slowly; beyond, the oldest are dropped.
const CLIENT_QUEUE: usize = 1024;

/// Bytes that wait for one client that reads slowly.
const CLIENT_QUEUE_BYTES: usize = 16 << 20;

/// How long a browser may take for the WebSocket handshake. The library gives a client ten
/// seconds for what follows.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often what departed clients left behind is swept up.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

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
    /// The password of the user `ipdc`.
    pub password: Password,
}

impl Options {
    /// What the settings say.
    #[must_use]
    pub fn new(settings: &config::Mqtt, password: &str) -> Self {
        let origins = || settings.origins.clone();
        Options {
            listen: settings.listen,
            websocket: settings.websocket.map(|listen| WebSocket { listen, origins: origins() }),
            password: Password::new(password),
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
    let inner = Arc::new(Inner::new(options.password));
    inner.tasks.spawn(Arc::clone(&inner).accept(listener, None));
    if let (Some(listener), Some(websocket)) = (websocket, options.websocket) {
        let rules = WebSocketServerConfig::new()
            .with_path(WEBSOCKET_PATH)
            .with_allowed_origins(websocket.origins);
        inner.tasks.spawn(Arc::clone(&inner).accept(listener, Some(Arc::new(rules))));
    }
    inner.tasks.spawn(Arc::clone(&inner).sweep());
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
    password: Password,
    config: BrokerConfig,
    router: Arc<MessageRouter>,
    hub: Arc<Hub>,
    stats: Arc<BrokerStats>,
    monitor: Arc<ResourceMonitor>,
    local_places: Arc<Semaphore>,
    peer_places: Mutex<HashMap<PeerId, Arc<Semaphore>>>,
    goodbye: broadcast::Sender<()>,
    tasks: TaskTracker,
}

impl Inner {
    fn new(password: Password) -> Self {
        let config = BrokerConfig {
            bind_addresses: Vec::new(),
            max_packet_size: PACKET_LIMIT,
            max_subscriptions_per_client: SUBSCRIPTIONS,
            client_channel_capacity: CLIENT_QUEUE,
            ..BrokerConfig::default()
        };
        let queue = mqtt5::broker::storage::QueueLimits {
            max_messages: CLIENT_QUEUE,
            max_bytes: CLIENT_QUEUE_BYTES,
        };
        let router = MessageRouter::new()
            .with_fallback_queue_limits(queue)
            .with_retained_limits(RETAINED_MESSAGES, RETAINED_MESSAGE);
        // Connections are counted here, by way; messages are held up, not counted.
        let unlimited = ResourceLimits {
            max_message_rate_per_client: 0,
            max_bandwidth_per_client: 0,
            ..ResourceLimits::default()
        };
        Inner {
            password,
            config,
            router: Arc::new(router),
            hub: Arc::default(),
            stats: Arc::new(BrokerStats::new()),
            monitor: Arc::new(ResourceMonitor::new(unlimited)),
            local_places: Arc::new(Semaphore::new(LOCAL_CONNECTIONS)),
            peer_places: Mutex::default(),
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
            let Ok(place) = Arc::clone(&self.local_places).try_acquire_owned() else {
                tracing::warn!(%addr, "MQTT connection refused: {LOCAL_CONNECTIONS} are open");
                continue;
            };
            self.tasks.spawn(Arc::clone(&self).serve_local(stream, addr, rules.clone(), place));
        }
    }

    async fn serve_local(
        self: Arc<Self>,
        stream: TcpStream,
        addr: SocketAddr,
        rules: Option<Arc<WebSocketServerConfig>>,
        place: OwnedSemaphorePermit,
    ) {
        // Without it a small message waits for the acknowledgement of the one before; on the
        // loopback interface it cannot fail in a way that matters.
        let _ = stream.set_nodelay(true);
        let transport = match rules {
            None => BrokerTransport::tcp(stream),
            Some(rules) => {
                let handshake = accept_websocket_connection(stream, &rules, addr);
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                    Ok(Ok(stream)) => BrokerTransport::websocket(stream),
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        };
        // How it ended was noted; with local users nothing follows from it.
        let _ = self.serve(transport, addr, Proof::Password(self.password.clone()), place).await;
    }

    async fn serve(
        &self,
        transport: BrokerTransport,
        addr: SocketAddr,
        proof: Proof,
        place: OwnedSemaphorePermit,
    ) -> mqtt5::Result<()> {
        let session = Arc::new(Session::new(proof, Arc::clone(&self.hub)));
        let mut config = self.config.clone();
        config.event_handler = Some(Arc::clone(&session) as Arc<dyn BrokerEventHandler>);
        let handler = ClientHandler::new(
            transport,
            addr,
            Arc::new(config),
            Arc::clone(&self.router),
            session as Arc<dyn AuthProvider>,
            None,
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
        drop(place);
        ended
    }

    /// A place for one more stream of `peer`, if there is one.
    fn peer_place(&self, peer: PeerId) -> Option<OwnedSemaphorePermit> {
        let mut places = self.peer_places.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer =
            places.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(STREAMS_PER_PEER)));
        Arc::clone(of_peer).try_acquire_owned().ok()
    }

    async fn sweep(self: Arc<Self>) {
        let mut goodbye = self.goodbye.subscribe();
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                _ = goodbye.recv() => return,
                _ = interval.tick() => {}
            }
            self.router.sweep_sessions().await;
            let mut places = self.peer_places.lock().unwrap_or_else(PoisonError::into_inner);
            places.retain(|_, of_peer| of_peer.available_permits() < STREAMS_PER_PEER);
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
        let Some(place) = self.inner.peer_place(peer) else {
            conduct.report(peer, Misdeed::Streams(Protocol::Mqtt.name()));
            return;
        };
        let (inner, conduct) = (Arc::clone(&self.inner), conduct.clone());
        self.inner.tasks.spawn(async move {
            let transport = BrokerTransport::WebSocket(Box::new(PeerStream(Mutex::new(stream))));
            let proof = Proof::Stream(peer, conduct.clone());
            if let Err(error) = inner.serve(transport, NO_ADDR, proof, place).await
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

/// A peer's stream as the library wants it. The mutex is for the type system, which asks that a
/// handler can be shared; it is never locked.
struct PeerStream(Mutex<BoxStream>);

impl PeerStream {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut BoxStream> {
        Pin::new(self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl WebSocketTransport for PeerStream {
    fn peer_addr(&self) -> mqtt5::Result<SocketAddr> {
        Ok(NO_ADDR)
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
