//! What one client may take of the node, and the library's configuration that says so.
//!
//! Most of the library's own limits are for a server that has nothing else to do. What it does not
//! limit is limited elsewhere: connections in [`crate::lobby`], names, wills and sessions in
//! `session.rs`, topics in `topics.rs`, retained messages in `retained.rs`.

use std::time::Duration;

use ipdc_jobs::message::MESSAGE_LIMIT;
use mqtt5::broker::BrokerConfig;
use mqtt5::broker::resource_monitor::ResourceLimits;
use mqtt5::broker::storage::QueueLimits;

use crate::lobby::PATIENCE;

/// Streams that one peer may have open to the broker. It needs one; the others cover the time in
/// which it reconnects and we have not yet seen the old one end.
pub(super) const STREAMS_PER_PEER: usize = 4;

/// Subscriptions of one client: a large dashboard's, one for each value. Each with a wildcard is held
/// against every message on its way.
const SUBSCRIPTIONS: usize = 256;

/// What a packet may hold beside a message of [`MESSAGE_LIMIT`]: topic, response topic and
/// correlation data.
const PACKET_OVERHEAD: usize = 4 * 1024;

/// The longest MQTT packet, in bytes.
pub(super) const PACKET_LIMIT: usize = MESSAGE_LIMIT + PACKET_OVERHEAD;

/// Messages that wait in line for one client, ahead of its queue: of each quality of service. What
/// is retained is put there at once when it subscribes, and at QoS 0 has no other place.
const CLIENT_LINE: usize = 1_024;

/// Messages that wait for one client, here or away, when its line is full: as many as may be
/// retained, so that a subscriber gets them all. Beyond, the oldest are dropped.
const CLIENT_QUEUE: usize = 10_000;

/// Bytes that wait for one client when its line is full: a kilobyte for each of so many messages.
/// Unlike the line's, these are the client's own copies.
const CLIENT_QUEUE_BYTES: usize = 8 << 20;

/// Messages sent to one client that it has not acknowledged: a millisecond's, at the broker's speed.
const UNACKNOWLEDGED: u16 = 64;

/// QoS 2 messages that a client has begun to publish and not released. They are held whole, 8 MiB at
/// worst.
const UNRELEASED: u16 = 32;

/// Topics that a client may abbreviate, each kept for as long as it is connected: those that a
/// small device writes.
const TOPIC_ALIASES: u16 = 16;

/// How long a client may leave all that it was sent unacknowledged while more waits than may wait in
/// line: an acknowledgement takes a millisecond.
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(30);

/// How long the session is kept of a client that is away and asked for that: for a restart, or a lid
/// that is closed over lunch.
const SESSION_KEPT: Duration = Duration::from_secs(3_600);

/// How long the broker waits for a client that is slow.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To take a packet.
    pub take: Duration,
    /// To acknowledge anything of what fills its line.
    pub acknowledge: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { take: PATIENCE, acknowledge: UNACKNOWLEDGED_FOR }
    }
}

/// How the library serves local users' clients.
pub(super) fn for_locals() -> BrokerConfig {
    BrokerConfig {
        bind_addresses: Vec::new(),
        max_packet_size: PACKET_LIMIT,
        max_subscriptions_per_client: SUBSCRIPTIONS,
        client_channel_capacity: CLIENT_LINE,
        max_outbound_inflight: UNACKNOWLEDGED,
        server_receive_maximum: Some(UNRELEASED),
        topic_alias_maximum: TOPIC_ALIASES,
        session_expiry_interval: SESSION_KEPT,
        ..BrokerConfig::default()
    }
}

/// How it serves other nodes: what links do not use they need not have.
pub(super) fn for_peers() -> BrokerConfig {
    BrokerConfig {
        maximum_qos: 1,
        server_receive_maximum: None,
        topic_alias_maximum: 0,
        shared_subscription_available: false,
        ..for_locals()
    }
}

/// What waits for one client when its line is full.
pub(super) fn queue() -> QueueLimits {
    QueueLimits { max_messages: CLIENT_QUEUE, max_bytes: CLIENT_QUEUE_BYTES }
}

/// The library's count of connections and messages, which decides nothing: connections are counted
/// by our own lobbies, and messages are held up, not counted.
pub(super) fn of_the_library() -> ResourceLimits {
    ResourceLimits {
        max_message_rate_per_client: 0,
        max_bandwidth_per_client: 0,
        ..ResourceLimits::default()
    }
}
