//! Answering other peers' requests.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use ipdc_jobs::ids::Cid;
use tokio::io::BufReader;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::store::Store;
use super::wire::{self, ANSWER_TIME, Answer};
use crate::swarm::conduct::{Conduct, Misdeed};
use crate::swarm::streams::{BoxStream, Incoming, Protocol, serve_each};

/// Streams that one peer may have open: twice what our own client opens, so that a peer that comes
/// back is served while its old streams time out.
const STREAMS_A_PEER: usize = 4;

/// Blocks of one stream that are read before the ones ahead of them are sent: keeps the
/// disk busy while the network sends.
const READ_AHEAD: usize = 4;

/// Blocks that are read at the same time for all peers: bounds the memory at 32 MiB and leaves
/// blocking threads to the node's own work.
const READS: usize = 16;

/// Answers every stream of `incoming` from `store`, until it is closed or this is dropped. Who asks
/// what is no question is reported to `conduct`.
pub async fn serve(store: Store, incoming: Incoming, conduct: Conduct) {
    let reads = Arc::new(Semaphore::new(READS));
    let surplus = |peer| conduct.report(peer, Misdeed::Streams(Protocol::Blocks.name()));
    let serve = |peer, stream| {
        let (store, reads, conduct) = (store.clone(), reads.clone(), conduct.clone());
        async move {
            if let Err(error) = serve_stream(store, reads, stream).await {
                tracing::debug!(%peer, %error, "a block stream ended");
                if error.kind() == io::ErrorKind::InvalidData {
                    let on = Protocol::Blocks.name();
                    let why = error.to_string();
                    conduct.report(peer, Misdeed::Garbage { on, why });
                }
            }
        }
    };
    serve_each(incoming, STREAMS_A_PEER, surplus, serve).await;
}

async fn serve_stream(store: Store, reads: Arc<Semaphore>, stream: BoxStream) -> io::Result<()> {
    let (from, mut to) = tokio::io::split(stream);
    let answers = requests(BufReader::new(from)).map(|wanted| {
        let (store, reads) = (store.clone(), reads.clone());
        async move { Ok::<_, io::Error>(answer(&store, &reads, &wanted?).await) }
    });
    let mut answers = std::pin::pin!(answers.buffered(READ_AHEAD));
    while let Some(answer) = answers.next().await {
        timeout(ANSWER_TIME, wire::write_answer(&mut to, &answer?)).await??;
    }
    Ok(())
}

/// The CIDs that are asked for, one by one.
fn requests<R: tokio::io::AsyncRead + Unpin>(from: R) -> impl Stream<Item = io::Result<Cid>> {
    let frames = stream::try_unfold(from, async |mut from| {
        Ok(wire::read_request(&mut from).await?.map(|cids| (cids, from)))
    });
    frames.flat_map(|frame: io::Result<Vec<Cid>>| match frame {
        Ok(cids) => stream::iter(cids).map(Ok).left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    })
}

async fn answer(store: &Store, reads: &Semaphore, cid: &Cid) -> Answer {
    let _turn = reads.acquire().await;
    match store.get(cid).await {
        Ok(Some(block)) => Answer::Block(block.into_bytes()),
        Ok(None) => Answer::NotHeld,
        Err(error) => {
            tracing::warn!(%cid, %error, "a block that a peer asked for cannot be read");
            Answer::Unable
        }
    }
}
