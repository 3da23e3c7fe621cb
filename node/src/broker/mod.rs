//! The embedded MQTT broker and the links between nodes' brokers.
//!
//! A node's broker serves three kinds of clients: local users on a loopback listener, other
//! nodes over streams of the swarm, and the node's own rooms, in process. [`Broker`] is all that
//! the rest of the node sees of it. `mqtt.rs` implements it and, with those below it, alone knows the
//! MQTT library:
//!
//! | | |
//! |---|---|
//! | `limits.rs` | what one client may take, and the library's configuration that says so |
//! | `session.rs` | one connection: who it is, what it may do; the library's hooks |
//! | `retained.rs` | what is retained, counted |
//! | `linger.rs` | connections whose last words are heard |
//! | [`link`] | speaks to the brokers of other nodes |
//!
//! [`topics`] says who may read and write what.
//!
//! The broker keeps nothing on disk and promises nothing by an acknowledgement: what must last is
//! in [`crate::state`], and whoever needs an answer asks again until it comes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ipdc_jobs::ids::PeerId;
use ipdc_jobs::message::MESSAGE_LIMIT;
use tokio::sync::mpsc;

use crate::swarm::conduct::Conduct;
use crate::swarm::streams::BoxStream;

mod limits;
mod linger;
pub mod link;
mod mqtt;
mod retained;
mod session;
pub mod topics;

#[cfg(test)]
mod tests;

pub use limits::Patience;
pub use link::Links;
pub use mqtt::{Options, Password, WebSocket, start};

/// Who published a message, as the broker knows it; no client can claim another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// A local user: someone who knows the broker's password.
    Local,
    /// Another node, over a stream of the swarm.
    Peer(PeerId),
    /// This node.
    Node,
}

/// A message that reached a [`Subscription`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic it was published to.
    pub topic: Arc<str>,
    /// At most [`MESSAGE_LIMIT`] bytes.
    pub payload: Bytes,
    /// True when it was retained before the subscription was made.
    pub retained: bool,
    /// Where the sender wants an answer; none when it asked for one where it has no business.
    pub response_topic: Option<Arc<str>>,
    /// What the answer must carry for the sender to know what it answers.
    pub correlation: Option<Bytes>,
    /// Who published it.
    pub sender: Sender,
}

/// What may go with a message beside its payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Where the answer should go.
    pub response_topic: Option<String>,
    /// What the answer should carry; in an answer, what the question carried.
    pub correlation: Option<Bytes>,
    /// The payload's media type.
    pub content_type: Option<String>,
}

/// One in-process subscription. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    retained: VecDeque<Message>,
    live: mpsc::Receiver<Message>,
}

impl Subscription {
    /// The next message; none when the broker is gone. Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Message> {
        match self.retained.pop_front() {
            Some(message) => Some(message),
            None => self.live.recv().await,
        }
    }
}

/// Messages that may wait in one in-process subscription. A publisher that finds it full waits a
/// moment, and that holds up its connection: the queue only has to cover a burst.
pub const SUBSCRIPTION_LIMIT: usize = 1024;

/// A node's broker.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Publishes as [`Sender::Node`], to MQTT clients at QoS 1. An empty payload with `retain`
    /// forgets what was retained.
    ///
    /// # Errors
    /// When the topic or the response topic is none, or the payload is too long.
    async fn publish(
        &self,
        topic: &str,
        payload: Bytes,
        retain: bool,
        properties: Properties,
    ) -> Result<(), BrokerError>;

    /// The messages on topics that match `filter`: first the retained ones, then what is
    /// published from now on, wills excepted. What each sender published comes in its order. A
    /// message may come twice; one that finds the subscription full for long is dropped.
    async fn subscribe(&self, filter: &str) -> Subscription;

    /// Serves MQTT to `peer` on `stream`, confined as [`topics::Confinement`] says, until it ends.
    /// What it does beyond that, `conduct` hears.
    fn serve(&self, stream: BoxStream, peer: PeerId, conduct: &Conduct);

    /// Where local users connect.
    fn addr(&self) -> SocketAddr;

    /// Where browsers connect, if they may.
    fn websocket_addr(&self) -> Option<SocketAddr>;

    /// Says goodbye to all clients and ends when they are gone, in a few seconds at most.
    async fn shutdown(&self);
}

/// The broker cannot do what was asked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum BrokerError {
    /// Another program listens there.
    #[error("the MQTT address {0} is in use")]
    #[diagnostic(
        code("IPDC-6001"),
        help(
            "stop the other program, or choose another address with `--mqtt HOST:PORT`; port 0 picks a free one"
        )
    )]
    InUse(SocketAddr),
    /// The address can be reached from outside, and MQTT's password is not encrypted on the way.
    #[error("the MQTT address {0} is not on this machine's loopback interface")]
    #[diagnostic(
        code("IPDC-6002"),
        help("listen on 127.0.0.1 or [::1]; from elsewhere, go through an SSH tunnel")
    )]
    NotLoopback(SocketAddr),
    /// The system does not let us listen.
    #[error("cannot listen for MQTT on {addr}")]
    #[diagnostic(
        code("IPDC-6003"),
        help("is it an address of this machine, and the port allowed?")
    )]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Not a topic that can be published to.
    #[error("`{0}` is no MQTT topic name")]
    #[diagnostic(
        code("IPDC-6004"),
        help("a topic name has 1 to 65,535 bytes and neither `+` nor `#` nor NUL in it")
    )]
    Topic(String),
    /// The message is too long.
    #[error("the MQTT message has {0} bytes; at most {MESSAGE_LIMIT} are allowed")]
    #[diagnostic(code("IPDC-6005"), help("put large data into a file and name its CID"))]
    TooLong(usize),
}
