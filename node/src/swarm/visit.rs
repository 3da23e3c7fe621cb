//! What a guest's connection is besides blocks: identify and ping, and its end.
//!
//! Kubo asks every peer to [identify] itself. What it hears is who we are and which protocols we offer it:
//! nothing of the swarm. There is no stream to be opened to a guest but for blocks.
//!
//! [identify]: https://github.com/libp2p/specs/tree/master/identify

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quick_protobuf::Writer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::{Core, OFFERED};
use crate::protobuf::{bytes, expect_room};
use crate::varint;
use ipdc_gate::{Arrival, Link};

/// Who is there, and what it speaks.
pub(super) const IDENTIFY: &str = "/ipfs/id/1.0.0";

/// Whether it is still there.
pub(super) const PING: &str = "/ipfs/ping/1.0.0";

/// How long a guest may take to read who we are, and be silent between two pings.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of one ping.
const PING_LEN: usize = 32;

const PUBLIC_KEY: u32 = bytes(1);
const PROTOCOL: u32 = bytes(3);
const AGENT: u32 = bytes(6);

/// A guest's connection was made.
pub(super) fn begin(core: &Core, link: &Arc<Link>) {
    let peer = link.peer;
    if core.book().guest_opened(link) {
        tracing::info!(%peer, "a guest is connected");
    } else {
        tracing::debug!(%peer, "a guest whose pass ended, or one too many: shown out");
        link.close();
    }
}

/// Answers a stream that asks who we are, or whether we are there.
pub(super) async fn answer(core: &Core, arrival: Arrival) {
    let Arrival { peer, protocol, stream, place } = arrival;
    let stream = stream.compat();
    let answered = match protocol {
        IDENTIFY => timeout(PATIENCE, identify(core, stream)).await.map_err(io::Error::from),
        _ => Ok(ping(stream).await),
    };
    if let Err(error) = answered.flatten() {
        tracing::debug!(%peer, protocol, %error, "a guest's stream broke");
    }
    // Until now, so that their number is limited.
    drop(place);
}

async fn identify(core: &Core, mut stream: impl AsyncWrite + Unpin) -> io::Result<()> {
    let key = core.keypair.public().encode_protobuf();
    let mut message = Vec::new();
    let mut writer = Writer::new(&mut message);
    expect_room(writer.write_with_tag(PUBLIC_KEY, |w| w.write_bytes(&key)));
    for protocol in OFFERED.guests {
        expect_room(writer.write_with_tag(PROTOCOL, |w| w.write_string(protocol)));
    }
    let agent = concat!("ipdc/", env!("CARGO_PKG_VERSION"));
    expect_room(writer.write_with_tag(AGENT, |w| w.write_string(agent)));
    let mut frame = BytesMut::new();
    varint::put(&mut frame, message.len() as u64);
    frame.extend_from_slice(&message);
    stream.write_all(&frame).await?;
    stream.shutdown().await
}

async fn ping(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let mut bytes = [0; PING_LEN];
        timeout(PATIENCE, stream.read_exact(&mut bytes)).await??;
        stream.write_all(&bytes).await?;
        stream.flush().await?;
    }
}

/// Closes guests' connections when their passes end, until the node stops.
pub(super) async fn see_out(core: Arc<Core>) {
    let mut stirred = core.book().stirred();
    loop {
        let (over, next) = core.book().end_visits();
        for link in over {
            tracing::info!(peer = %link.peer, "a guest is shown out: its pass ended");
            link.close();
        }
        let next_end = async {
            match next {
                Some(next) => sleep(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = next_end => {}
            // A sender lives in the book.
            _ = stirred.changed() => {}
        }
    }
}
