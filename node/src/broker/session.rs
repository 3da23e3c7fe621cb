//! One client's connection: who it is, what it may do, and the way of what it publishes to the
//! node's own subscriptions.
//!
//! The MQTT library asks a [`Session`] about every connection, subscription and message. It owns
//! nothing that outlives the connection but its share of the [`Hub`].

use std::collections::HashSet;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ipdc_jobs::ids::PeerId;
use mqtt5::broker::events::MessageDeliveredEvent;
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::storage::{ClientSession, StorageBackend as _};
use mqtt5::broker::{
    AuthProvider, AuthResult, BrokerEventHandler, ClientPublishEvent, DynamicStorage, PublishAction,
};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::topics::{Confinement, covers};
use super::{Message, SUBSCRIPTION_LIMIT, Sender};
use crate::lobby::Guest;
use crate::swarm::conduct::{Conduct, Misdeed};
use crate::swarm::pace::Pace;
use crate::swarm::streams::Protocol;

/// The user name of local users.
pub(super) const USER: &str = "ipdc";

/// How long a publisher waits for room in a full in-process subscription before its message is
/// dropped there: long enough for a slow disk flush, too short for the publisher's keep-alive
/// (15 s between nodes) to run out.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest client ID, in bytes: four times the 23 that every broker must take, and enough for a
/// path of names.
const CLIENT_ID_LIMIT: usize = 128;

/// The longest keep-alive that a client may ask for, seconds: it is one and a half times that until a
/// client that is gone is found out.
const KEEP_ALIVE_LIMIT_S: u16 = 3_600;

/// Sessions that the broker keeps of clients that are away, with what waits for them.
pub(super) const KEPT_SESSIONS: usize = 64;

/// Different shared subscriptions (`$share/GROUP/FILTER`) since the node's start: the library keeps
/// a counter of each for good.
const SHARES: usize = 4_096;
/// Bytes of messages that one peer is listened to in a second, in the long run: four thousand small
/// ones, or the reports of ten thousand tasks in three seconds. To read so much takes a tenth of a core.
const PEER_BYTES_A_SECOND: u64 = 16 << 20;

/// Bytes of messages that one peer may send without waiting: two seconds' worth.
const PEER_BYTES_AT_ONCE: u64 = 32 << 20;

/// What a message costs besides its bytes.
const MESSAGE_COST: usize = 4 * 1024;

/// A peer that had to wait so long for what it sent is remarked upon: no job makes so much.
const FLOOD: Duration = Duration::from_secs(5);

/// The password of local users, kept as its SHA-256: comparing digests tells an attacker nothing
/// about how much of a guess was right.
#[derive(Clone)]
pub struct Password([u8; 32]);

impl Password {
    /// The password that is `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Password(Sha256::digest(text.as_bytes()).into())
    }

    fn is(&self, guess: &[u8]) -> bool {
        self.0 == <[u8; 32]>::from(Sha256::digest(guess))
    }
}

/// The node's own subscriptions.
#[derive(Default)]
pub(super) struct Hub {
    takers: Mutex<Vec<Taker>>,
    dropped: AtomicU64,
    /// Of the shared subscriptions that there were; hashes, as their names may be long.
    shares: Mutex<HashSet<[u8; 32]>>,
}

struct Taker {
    filter: Box<str>,
    messages: mpsc::Sender<Message>,
}

impl Hub {
    /// What is published to topics that `filter` matches, from now on.
    pub(super) fn subscribe(&self, filter: &str) -> mpsc::Receiver<Message> {
        let (messages, receiver) = mpsc::channel(SUBSCRIPTION_LIMIT);
        self.takers().push(Taker { filter: filter.into(), messages });
        receiver
    }

    /// Hands `message` to every subscription that matches.
    pub(super) async fn deliver(&self, message: &Message) {
        let takers: Vec<_> = {
            let mut takers = self.takers();
            takers.retain(|taker| !taker.messages.is_closed());
            let matching = takers.iter().filter(|taker| covers(&taker.filter, &message.topic));
            matching.map(|taker| taker.messages.clone()).collect()
        };
        for taker in takers {
            let sent = taker.send_timeout(message.clone(), DELIVERY_TIMEOUT).await;
            if let Err(mpsc::error::SendTimeoutError::Timeout(_)) = sent {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::warn!(topic = %message.topic, dropped, "a subscription of the node is full: message dropped");
            }
        }
    }

    /// Whether there may be this shared subscription: one of those that were, or not one too many.
    fn may_share(&self, filter: &str) -> bool {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = Sha256::digest(filter).into();
        shares.contains(&share) || (shares.len() < SHARES && shares.insert(share))
    }

    fn takers(&self) -> MutexGuard<'_, Vec<Taker>> {
        self.takers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a connection proves who it is.
pub(super) enum Proof {
    /// By the local users' password.
    Password(Password),
    /// It need not: every program on this machine is a local user.
    Anonymous,
    /// The stream it came on is this peer's; and where to say how it behaves.
    Stream(PeerId, Conduct),
}

/// A connection, as the library's hooks see it.
pub(super) struct Session {
    proof: Proof,
    sender: Sender,
    confinement: Confinement,
    hub: Arc<Hub>,
    /// Its place, which it keeps when it has proved who it is.
    guest: Arc<Guest>,
    /// Where the sessions of clients are kept that may be away; peers' are not.
    kept: Option<Arc<DynamicStorage>>,
    /// Known once it has connected.
    client: OnceLock<Client>,
    /// When it last acknowledged a message, or had none to acknowledge.
    progress: Mutex<Instant>,
    /// How fast a peer is listened to.
    pace: tokio::sync::Mutex<PeersPace>,
}

/// What a client says of itself.
struct Client {
    id: String,
    /// Whether it speaks MQTT 5.
    speaks_v5: bool,
}

struct PeersPace {
    of: Pace,
    /// How long it had to wait, since that was last remarked upon.
    waited: Duration,
}

impl Session {
    pub(super) fn new(
        proof: Proof,
        hub: Arc<Hub>,
        guest: Arc<Guest>,
        kept: Option<Arc<DynamicStorage>>,
    ) -> Self {
        let sender = match proof {
            Proof::Password(_) | Proof::Anonymous => Sender::Local,
            Proof::Stream(peer, _) => Sender::Peer(peer),
        };
        let of = Pace::new(PEER_BYTES_A_SECOND, PEER_BYTES_AT_ONCE);
        Session {
            proof,
            sender,
            confinement: Confinement::of(sender),
            hub,
            guest,
            kept,
            client: OnceLock::new(),
            progress: Mutex::new(Instant::now()),
            pace: tokio::sync::Mutex::new(PeersPace { of, waited: Duration::ZERO }),
        }
    }

    /// Sends the client away when more waits for it than it may have unacknowledged, and it has
    /// acknowledged nothing for as long as `patience`.
    pub(super) fn check_progress(&self, router: &MessageRouter, patience: Duration) {
        let Some(client) = self.client.get() else { return };
        let mut progress = self.progress();
        if router.queue_handle(&client.id).is_empty() {
            *progress = Instant::now();
        } else if progress.elapsed() >= patience {
            tracing::info!(sender = ?self.sender, client = %client.id, "MQTT client dropped: it acknowledges nothing");
            self.guest.send_away();
        }
    }

    fn progress(&self) -> MutexGuard<'_, Instant> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the connection's user, which has its place from now on.
    async fn admit(&self, connect: &ConnectPacket) -> Result<String, ReasonCode> {
        let user = self.user(connect)?;
        if connect.client_id.len() > CLIENT_ID_LIMIT {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        if connect.keep_alive > KEEP_ALIVE_LIMIT_S {
            return Err(ReasonCode::ImplementationSpecificError);
        }
        // The library asks nobody when it publishes a will of a 3.1.1 client.
        if let Some(will) = &connect.will {
            if !mqtt5::is_valid_topic_name(&will.topic) {
                return Err(ReasonCode::TopicNameInvalid);
            }
            if !self.confinement.may_leave_will(&will.topic, will.retain) {
                self.report("leave a will at", &will.topic);
                return Err(ReasonCode::NotAuthorized);
            }
        }
        if !self.guest.prove() {
            return Err(ReasonCode::ServerBusy);
        }
        self.check_kept(connect).await?;
        let speaks_v5 = connect.protocol_version == 5;
        // A second CONNECT of one connection is a protocol error: the library asks once.
        let _ = self.client.set(Client { id: connect.client_id.clone(), speaks_v5 });
        Ok(user)
    }

    fn user(&self, connect: &ConnectPacket) -> Result<String, ReasonCode> {
        match &self.proof {
            Proof::Password(password) => {
                let known = connect.username.as_deref() == Some(USER);
                let right = connect.password.as_ref().is_some_and(|guess| password.is(guess));
                if !(known && right) {
                    return Err(ReasonCode::BadUsernameOrPassword);
                }
            }
            Proof::Anonymous => {}
            Proof::Stream(peer, conduct) => {
                let name = peer.to_string();
                if connect.client_id == name {
                    return Ok(name);
                }
                let why = "another's client ID".to_owned();
                conduct.report(*peer, Misdeed::Garbage { on: Protocol::Mqtt.name(), why });
                return Err(ReasonCode::ClientIdentifierNotValid);
            }
        }
        // Peers' connections are named by their peer IDs: a local client of that name would take
        // over the peer's.
        if connect.client_id.parse::<PeerId>().is_ok() {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        Ok(USER.to_owned())
    }

    /// Whether the client may have its session kept, if that is what it wants.
    async fn check_kept(&self, connect: &ConnectPacket) -> Result<(), ReasonCode> {
        let Some(kept) = &self.kept else { return Ok(()) };
        if ClientSession::expiry_from_connect(connect) == Some(0) {
            return Ok(());
        }
        let sessions = kept.session_client_ids().await.unwrap_or_default();
        // Those that are connected are among them.
        let limit = self.guest.others() + KEPT_SESSIONS;
        let room = sessions.len() < limit || sessions.contains(&connect.client_id);
        if room { Ok(()) } else { Err(ReasonCode::QuotaExceeded) }
    }

    /// The client would do this where it has no business: of a peer, that is remembered.
    fn report(&self, verb: &'static str, topic: &str) {
        match &self.proof {
            Proof::Password(_) | Proof::Anonymous => {
                tracing::info!(verb, topic, "MQTT client refused");
            }
            Proof::Stream(peer, conduct) => conduct.report(*peer, Misdeed::topic(verb, topic)),
        }
    }

    /// Waits while a peer says more than it may at once, and holds up its stream with that.
    async fn keep_pace(&self, payload: usize) {
        let Proof::Stream(peer, conduct) = &self.proof else { return };
        let mut pace = self.pace.lock().await;
        let waited = pace.of.take((payload + MESSAGE_COST) as u64).await;
        pace.waited += waited;
        if pace.waited >= FLOOD {
            pace.waited = Duration::ZERO;
            conduct.report(*peer, Misdeed::Flood);
        }
    }

    fn message(&self, event: ClientPublishEvent) -> Message {
        let answerable = |topic: &Arc<str>| self.confinement.may_be_answered_at(topic);
        Message {
            topic: event.topic,
            payload: event.payload,
            retained: false,
            response_topic: event.response_topic.filter(answerable),
            correlation: event.correlation_data,
            sender: self.sender,
        }
    }
}

pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub(super) fn ready<'a, T: Send + 'a>(answer: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl AuthProvider for Session {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        _client_addr: SocketAddr,
    ) -> Answer<'a, mqtt5::Result<AuthResult>> {
        Box::pin(async move {
            Ok(match self.admit(connect).await {
                Ok(user) => AuthResult::success_with_user(user),
                Err(reason) => {
                    tracing::info!(sender = ?self.sender, client = %connect.client_id, ?reason, "MQTT client refused");
                    AuthResult::fail(reason)
                }
            })
        })
    }

    fn authorize_publish<'a>(
        &'a self,
        _client_id: &str,
        _user_id: Option<&'a str>,
        topic: &'a str,
    ) -> Answer<'a, bool> {
        // A refusal here is answered with a reason code, which MQTT 3.1.1 has none of: the
        // library would send such a client a malformed packet. Its message is dropped below.
        let speaks_v5 = self.client.get().is_none_or(|client| client.speaks_v5);
        let allowed = !speaks_v5 || self.confinement.may_publish(topic, false);
        if !allowed {
            self.report("write to", topic);
        }
        ready(allowed)
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _client_id: &str,
        _user_id: Option<&'a str>,
        topic_filter: &'a str,
    ) -> Answer<'a, bool> {
        let shared = topic_filter.starts_with("$share/");
        let allowed = self.confinement.may_subscribe(topic_filter);
        if !allowed {
            self.report("read", topic_filter);
        }
        ready(allowed && (!shared || self.hub.may_share(topic_filter)))
    }
}

impl BrokerEventHandler for Session {
    fn on_client_publish<'a>(&'a self, event: ClientPublishEvent) -> Answer<'a, PublishAction> {
        Box::pin(async move {
            if !self.confinement.may_publish(&event.topic, event.retain) {
                self.report("write to", &event.topic);
                return PublishAction::Handled;
            }
            self.keep_pace(event.payload.len()).await;
            self.guest.note_published(event.payload.len());
            self.hub.deliver(&self.message(event)).await;
            PublishAction::Continue
        })
    }

    fn on_message_delivered<'a>(&'a self, _event: MessageDeliveredEvent) -> Answer<'a, ()> {
        *self.progress() = Instant::now();
        ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_shared_subscriptions_and_those_that_were_may_be_again() {
        let hub = Hub::default();
        for n in 0..SHARES {
            assert!(hub.may_share(&format!("$share/g{n}/x")), "{n}");
        }
        assert!(!hub.may_share("$share/one more/x"));
        assert!(hub.may_share("$share/g0/x"));
    }
}
