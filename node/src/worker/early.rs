//! What later tasks of a job will read here, fetched while others run.
//!
//! One file after the other for each job, into its scratch: what runs now goes first. Nobody waits for it.
//! A file that could not be had, or for which there was no room, is fetched by the task that
//! reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipdc_jobs::ids::JobId;
use ipdc_jobs::message::Wanted;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::blocks::store::Tier;

/// Files of one job that wait to be fetched early: the outputs of four tasks a second for some minutes.
/// What comes beyond is left to the tasks.
const WAITING: usize = 1_024;

/// Bytes that were fetched early, and that no attempt counts among its own yet.
pub(super) type Fetched = Arc<AtomicU64>;

/// The early fetching of one job.
pub(super) struct Early {
    wanted: mpsc::Sender<Wanted>,
    fetched: Fetched,
    stop: CancellationToken,
    fetching: JoinHandle<()>,
}

impl Early {
    /// Begins; there is nothing to fetch yet.
    pub(super) fn start(parts: Arc<Parts>, job: JobId) -> Early {
        let (wanted, waiting) = mpsc::channel(WAITING);
        let (fetched, stop) = (Fetched::default(), CancellationToken::new());
        let fetching = fetch_all(parts, job, waiting, Arc::clone(&fetched), stop.clone());
        Early { wanted, fetched, stop, fetching: tokio::spawn(fetching) }
    }

    /// Fetches these too, as far as there is room in the queue.
    pub(super) fn want(&self, files: Vec<Wanted>) {
        for file in files {
            if self.wanted.try_send(file).is_err() {
                return;
            }
        }
    }

    /// What has come, for the attempt that reads it to count.
    pub(super) fn fetched(&self) -> &Fetched {
        &self.fetched
    }

    /// Stops. Nothing is written any more when this returns.
    pub(super) async fn end(self) {
        self.stop.cancel();
        drop(self.wanted);
        // It ends after the file it is at, however it ends.
        let _ = self.fetching.await;
    }
}

async fn fetch_all(
    parts: Arc<Parts>,
    job: JobId,
    mut waiting: mpsc::Receiver<Wanted>,
    fetched: Fetched,
    stop: CancellationToken,
) {
    while let Some(Wanted { file, holders }) = waiting.recv().await {
        if stop.is_cancelled() {
            return;
        }
        if parts.blocks.store().room().is_err() {
            continue;
        }
        let session = parts.blocks.session(&holders, Tier::Scratch(job));
        if let Err(error) = session.fetch_all(file.cid, |_| {}).await {
            tracing::debug!(%job, cid = %file.cid, %error, "not fetched early");
        }
        fetched.fetch_add(session.fetched(), Ordering::Relaxed);
    }
}
