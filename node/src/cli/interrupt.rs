//! Ctrl-C and its like, as something to wait for.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;

/// The signals that ask a program to end: SIGINT and SIGTERM. While one of these lives they do
/// not end the process by themselves.
pub(super) struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    pub(super) fn listen() -> Self {
        let listen = |kind| signal(kind).expect("SIGINT and SIGTERM may be listened to");
        Interrupts { int: listen(SignalKind::interrupt()), term: listen(SignalKind::terminate()) }
    }

    /// Waits for one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }

    /// Drops `work` when one comes.
    pub(super) async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Result<T, CliError> {
        tokio::select! {
            value = work => Ok(value),
            () = self.next() => Err(CliError::Interrupted),
        }
    }
}
