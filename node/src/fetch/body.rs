//! A response's body: read up to its limit, as sent; and decoded, up to the same limit, so that a small one
//! cannot become large.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// What is done with a body that is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// There is no response.
    Refused,
    /// What has room is taken.
    Cut,
}

/// Why a body cannot be had.
#[derive(Debug)]
pub(super) enum BadBody {
    /// There is too much of it.
    TooLarge,
    /// It is broken off, or not of the form that it should have.
    Broken(String),
}

/// A body as it was sent.
pub(super) struct Sent {
    pub(super) bytes: Bytes,
    /// Whether it was read to its end.
    pub(super) is_whole: bool,
}

/// Reads at most `room` bytes.
pub(super) async fn read(mut body: Incoming, room: usize, excess: Excess) -> Result<Sent, BadBody> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BadBody::Broken(super::error::chain(&error)))?;
        // Trailers say nothing that anybody reads.
        let Ok(data) = frame.into_data() else { continue };
        let fits = data.len().min(room - bytes.len());
        bytes.extend_from_slice(&data[..fits]);
        if fits < data.len() {
            return match excess {
                Excess::Refused => Err(BadBody::TooLarge),
                Excess::Cut => Ok(Sent { bytes: bytes.freeze(), is_whole: false }),
            };
        }
    }
    Ok(Sent { bytes: bytes.freeze(), is_whole: true })
}

/// A body as it was meant, of at most `limit` bytes. One in an encoding that was not asked for stays as it is.
pub(super) fn decode(sent: &Bytes, encoding: &str, limit: u64) -> Result<Bytes, BadBody> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        _ if sent.is_empty() => Ok(Bytes::new()),
        "gzip" | "x-gzip" => unpack(MultiGzDecoder::new(&sent[..]), limit),
        "deflate" => unpack(ZlibDecoder::new(&sent[..]), limit),
        _ => Ok(sent.clone()),
    }
}

fn unpack(packed: impl Read, limit: u64) -> Result<Bytes, BadBody> {
    let mut bytes = Vec::new();
    // One more than there may be tells that there is more.
    let read = packed.take(limit + 1).read_to_end(&mut bytes);
    if bytes.len() as u64 > limit {
        return Err(BadBody::TooLarge);
    }
    read.map_err(|error: io::Error| BadBody::Broken(error.to_string()))?;
    Ok(bytes.into())
}
