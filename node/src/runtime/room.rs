//! The memory that all guests of a node have together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of memory that guests may still take. Clones share them.
#[derive(Clone)]
pub(super) struct Room {
    total: u64,
    left: Arc<AtomicU64>,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        Room { total: bytes, left: Arc::new(AtomicU64::new(bytes)) }
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
    /// not so much.
    pub(super) fn set(&mut self, bytes: u64) -> bool {
        let own = self.bytes;
        let change = |left: u64| left.saturating_add(own).checked_sub(bytes);
        let has_room =
            self.room.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok();
        if has_room {
            self.bytes = bytes;
        }
        has_room
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
