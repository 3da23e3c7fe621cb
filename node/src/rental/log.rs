//! What a container wrote: its last megabyte, for who looks later, and for who looks on.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::containers::Said;

/// Bytes that are kept of one container.
const KEPT: usize = 1 << 20;

/// What a container wrote.
pub(super) struct Log {
    kept: Mutex<Kept>,
    /// How many pieces there were.
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    pieces: VecDeque<Said>,
    bytes: usize,
    /// The number of the first that is kept.
    first: u64,
}

impl Log {
    pub(super) fn new() -> Self {
        Log { kept: Mutex::default(), count: watch::Sender::new(0) }
    }

    /// It wrote more.
    pub(super) fn add(&self, said: Said) {
        let mut kept = self.kept();
        kept.bytes += said.bytes().len();
        kept.pieces.push_back(said);
        while kept.bytes > KEPT
            && let Some(oldest) = kept.pieces.pop_front()
        {
            kept.bytes -= oldest.bytes().len();
            kept.first += 1;
        }
        let count = kept.first + kept.pieces.len() as u64;
        drop(kept);
        self.count.send_replace(count);
    }

    /// How many pieces there were, as that changes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// The piece after so many others, or the first that is kept, and how many there were with it.
    pub(super) fn after(&self, count: u64) -> Option<(Said, u64)> {
        let kept = self.kept();
        let at = count.max(kept.first);
        let piece = kept.pieces.get((at - kept.first) as usize)?;
        Some((piece.clone(), at + 1))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_megabyte_is_kept_and_who_is_behind_goes_on_with_what_there_is() {
        let log = Log::new();
        let seen = log.watch();
        log.add(Said::Out("first".into()));
        let (first, next) = log.after(0).unwrap();
        assert_eq!((first, next), (Said::Out("first".into()), 1));
        assert_eq!(log.after(1), None);
        for n in 0..40_u8 {
            log.add(Said::Err(vec![n; KEPT / 32].into()));
        }
        assert_eq!(*seen.borrow(), 41);
        let (oldest, next) = log.after(1).unwrap();
        assert_eq!((oldest.bytes()[0], next), (8, 10));
        let mut at = next;
        while let Some((_, next)) = log.after(at) {
            at = next;
        }
        assert_eq!(at, 41);
    }
}
