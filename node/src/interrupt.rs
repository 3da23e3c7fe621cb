//! Ctrl-C and its like, as something to wait for.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupted;

/// The signals that ask a program to end: SIGINT and SIGTERM. While one of these lives they do
/// not end the process by themselves, and one that comes is kept until it is waited for.
pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    pub(crate) fn listen() -> Self {
        let listen = |kind| signal(kind).expect("SIGINT and SIGTERM may be listened to");
        Interrupts { int: listen(SignalKind::interrupt()), term: listen(SignalKind::terminate()) }
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }

    /// Drops `work` when one comes.
    pub(crate) async fn unless<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        tokio::select! {
            value = work => Ok(value),
            () = self.next() => Err(Interrupted),
        }
    }
}
