//! The memory that all guests of a node have together, and the servers that wait in it as long as nobody else
//! needs it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::server::{Key, Server};

/// The most servers that wait: as many as one task may use, for a few jobs.
const IDLE_LIMIT: usize = 64;

/// Bytes of memory that guests may still take. Clones share them.
#[derive(Clone)]
pub(super) struct Room {
    total: u64,
    left: Arc<AtomicU64>,
    /// The one that waits for longest first.
    idle: Arc<Mutex<VecDeque<Server>>>,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        Room { total: bytes, left: Arc::new(AtomicU64::new(bytes)), idle: Arc::default() }
    }

    /// A server of `key` that waits, the one that was used last.
    pub(super) fn take(&self, key: &Key) -> Option<Server> {
        let mut idle = self.idle();
        let place = idle.iter().rposition(|server| server.key == *key)?;
        idle.remove(place)
    }

    /// Keeps a server until it is needed again, or what it has.
    pub(super) fn keep(&self, server: Server) {
        let mut idle = self.idle();
        idle.retain(|server| !server.has_ended());
        idle.push_back(server);
        let one_more = if idle.len() > IDLE_LIMIT { idle.pop_front() } else { None };
        drop(idle);
        one_more.into_iter().for_each(Server::end);
    }

    /// Ends the server that waits for longest; whether there was one.
    fn make(&self) -> bool {
        let oldest = self.idle().pop_front();
        let is_there = oldest.is_some();
        oldest.into_iter().for_each(Server::end);
        is_there
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Server>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is for all of them.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What a guest, or what it fetched, has of it: nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { room: self.clone(), bytes: 0 }
    }
}

/// What one guest has taken; it is given back when this is dropped.
pub(super) struct Share {
    room: Room,
    bytes: u64,
}

impl Share {
    /// What it is a share of.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    /// Takes more or gives back, to have `bytes` in all; false, and nothing changes, when there is
    /// not so much, also without the servers that wait.
    pub(super) fn set(&mut self, bytes: u64) -> bool {
        let own = self.bytes;
        let change = |left: u64| left.saturating_add(own).checked_sub(bytes);
        let update = || self.room.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        while update().is_err() {
            if bytes > self.room.total || !self.room.make() {
                return false;
            }
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_have_the_room_together_and_give_it_back() {
        let room = Room::new(10);
        let (mut one, mut other) = (room.share(), room.share());
        assert!(one.set(6));
        assert!(!other.set(5));
        assert!(other.set(4));
        assert!(!one.set(7));
        assert!(one.set(2));
        assert!(other.set(8));
        drop(other);
        assert!(one.set(10));
    }
}
