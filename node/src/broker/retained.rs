//! How much of the node's memory local users' retained messages take.
//!
//! The library limits how many there are and how long the payload of each is; what they take together,
//! properties included, is counted here, topic by topic. When it is too much, the library's limits are drawn so tight that it refuses
//! whatever would add to it, and tells the client so; a message taken back makes room again. The
//! node's own retained messages are not counted: it takes back those of the jobs that it forgets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mqtt5::broker::events::RetainedSetEvent;
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::storage::{RetainedMessage, StorageBackend as _};
use mqtt5::broker::{BrokerEventHandler, DynamicStorage};

use super::session::Answer;
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
    /// Where the library keeps the second copy.
    kept: Arc<DynamicStorage>,
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
    pub(super) fn new(
        router: Weak<MessageRouter>,
        kept: Arc<DynamicStorage>,
        messages: usize,
    ) -> Self {
        Ledger { router, kept, messages, taken: Mutex::default() }
    }

    /// The library's limits while there is room: how many messages, and how long each.
    pub(super) fn limits(&self) -> (usize, usize) {
        (self.messages, MESSAGE)
    }

    async fn note(&self, event: RetainedSetEvent) {
        if !topics::is_free(&event.topic) {
            return;
        }
        // The event does not tell of the properties.
        let kept = self.kept.get_retained_message(&event.topic).await.ok().flatten();
        let bytes = kept.map_or(event.payload.len(), |message| size(&message));
        let bytes = OVERHEAD + event.topic.len() + bytes;
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
        Box::pin(self.note(event))
    }
}

/// Bytes of a message's payload and properties.
fn size(message: &RetainedMessage) -> usize {
    let texts = [&message.content_type, &message.response_topic];
    let texts = texts.into_iter().flatten().map(String::len);
    let user = message.user_properties.iter().map(|(name, value)| name.len() + value.len());
    let correlation = message.correlation_data.as_ref().map_or(0, |data| data.len());
    message.payload.len() + correlation + texts.chain(user).sum::<usize>()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mqtt5::QoS;
    use mqtt5::broker::MemoryBackend;
    use mqtt5::packet::publish::PublishPacket;

    use super::*;

    /// A router with a ledger, as in a broker.
    fn router(messages: usize) -> Arc<MessageRouter> {
        let kept = Arc::new(DynamicStorage::Memory(MemoryBackend::new()));
        Arc::new_cyclic(|router| {
            let ledger = Ledger::new(Weak::clone(router), Arc::clone(&kept), messages);
            let (messages, bytes) = ledger.limits();
            MessageRouter::with_storage(kept)
                .with_retained_limits(messages, bytes)
                .with_event_handler(Arc::new(ledger))
        })
    }

    async fn retain(router: &MessageRouter, topic: &str, payload: usize, properties: usize) {
        let packet = PublishPacket::new(topic, vec![b'x'; payload], QoS::AtMostOnce);
        let mut packet = packet.with_retain(true);
        packet.properties.add_user_property("name".into(), "x".repeat(properties));
        router.route_message(&packet, None).await;
    }

    fn limits(router: &MessageRouter) -> (usize, usize) {
        (router.max_retained_messages(), router.max_retained_message_size())
    }

    #[tokio::test]
    async fn the_limits_are_drawn_tight_when_it_is_too_much_and_eased_when_room_returns() {
        const EACH: usize = 64 << 10;
        let router = router(10_000);
        let mut n = 0;
        while limits(&router) == (10_000, MESSAGE) {
            retain(&router, &format!("topic/{n:05}"), MESSAGE, EACH).await;
            retain(&router, &format!("ipdc/v1/node/{n}"), MESSAGE, EACH).await;
            n += 1;
        }
        let taken = n * (MESSAGE + EACH);
        assert!((TOTAL - MESSAGE - EACH - n * 2 * OVERHEAD..=TOTAL).contains(&taken), "{taken}");
        assert_eq!(limits(&router), (1, 1));
        retain(&router, "topic/00000", 0, 0).await;
        assert_eq!(limits(&router), (10_000, MESSAGE));
        // The same topic again takes the place of what it had.
        for _ in 0..10 {
            retain(&router, "topic/00001", MESSAGE, EACH).await;
        }
        assert_eq!(limits(&router), (10_000, MESSAGE));
    }
}
