//! How much of the node's memory local users' retained messages take.
//!
//! The library limits how many there are and how long each is; what they take together is counted
//! here, topic by topic. When it is too much, the library's limits are drawn so tight that it refuses
//! whatever would add to it, and tells the client so; a message taken back makes room again. The
//! node's own retained messages are not counted: it takes back those of the jobs that it forgets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mqtt5::broker::BrokerEventHandler;
use mqtt5::broker::events::RetainedSetEvent;
use mqtt5::broker::router::MessageRouter;

use super::session::{Answer, ready};
use super::topics;

/// The longest message that a local user may have retained, in bytes: a state or a description, not
/// a file.
const MESSAGE: usize = 16 * 1024;

/// What local users' retained messages may take together, topics included. The library keeps two
/// copies, so it is half of what a node on a small board can spare.
const TOTAL: usize = 32 << 20;

/// What a retained message takes beside topic and payload.
const OVERHEAD: usize = 256;

/// Counts what is retained.
pub(super) struct Ledger {
    router: Weak<MessageRouter>,
    /// How many messages there may be.
    messages: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    by_topic: HashMap<Arc<str>, usize>,
    bytes: usize,
}

impl Ledger {
    /// The ledger of `router`, in which local users may have so many messages retained.
    pub(super) fn new(router: Weak<MessageRouter>, messages: usize) -> Self {
        Ledger { router, messages, taken: Mutex::default() }
    }

    /// The library's limits while there is room: how many messages, and how long each.
    pub(super) fn limits(&self) -> (usize, usize) {
        (self.messages, MESSAGE)
    }

    fn note(&self, event: &RetainedSetEvent) {
        if !topics::is_free(&event.topic) {
            return;
        }
        let bytes = OVERHEAD + event.topic.len() + event.payload.len();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let was_full = taken.bytes >= TOTAL;
        let before = if event.cleared {
            taken.by_topic.remove(&event.topic)
        } else {
            taken.bytes += bytes;
            taken.by_topic.insert(Arc::clone(&event.topic), bytes)
        };
        taken.bytes -= before.unwrap_or_default();
        let is_full = taken.bytes >= TOTAL;
        if is_full != was_full
            && let Some(router) = self.router.upgrade()
        {
            // One message of one byte: the library takes 0 for no limit.
            let (messages, bytes) = if is_full { (1, 1) } else { self.limits() };
            router.update_retained_limits(messages, bytes);
            tracing::info!(is_full, "room for MQTT clients' retained messages");
        }
    }
}

impl BrokerEventHandler for Ledger {
    fn on_retained_set<'a>(&'a self, event: RetainedSetEvent) -> Answer<'a, ()> {
        self.note(&event);
        ready(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mqtt5::QoS;

    use super::*;

    fn set(topic: &str, bytes: usize) -> RetainedSetEvent {
        let payload = Bytes::from(vec![0; bytes]);
        RetainedSetEvent {
            topic: topic.into(),
            cleared: payload.is_empty(),
            payload,
            qos: QoS::AtMostOnce,
        }
    }

    #[test]
    fn the_limits_are_drawn_tight_when_it_is_too_much_and_eased_when_room_returns() {
        let router = Arc::new(MessageRouter::new());
        let ledger = Ledger::new(Arc::downgrade(&router), 10_000);
        let limits = || (router.max_retained_messages(), router.max_retained_message_size());
        let (messages, bytes) = ledger.limits();
        router.update_retained_limits(messages, bytes);
        let most = TOTAL / (MESSAGE + OVERHEAD + "topic/00000".len());
        for n in 0..=most {
            assert_eq!(limits(), (10_000, MESSAGE), "{n}");
            ledger.note(&set(&format!("topic/{n:05}"), MESSAGE));
            ledger.note(&set(&format!("ipdc/v1/node/{n}"), MESSAGE));
        }
        assert_eq!(limits(), (1, 1));
        ledger.note(&set("topic/00000", 0));
        assert_eq!(limits(), (10_000, MESSAGE));
        // The same topic again takes the place of what it had.
        for _ in 0..10 {
            ledger.note(&set("topic/00001", MESSAGE));
        }
        assert_eq!(limits(), (10_000, MESSAGE));
    }
}
