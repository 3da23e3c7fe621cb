//! Messages on a stream: JSON behind its length.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Writes `message` as four bytes of length, big-endian, and JSON.
///
/// # Errors
/// When the stream breaks, or the message is longer than `limit` bytes.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    limit: usize,
) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let len = bytes.len() - 4;
    if len > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {len} bytes")));
    }
    bytes[..4].copy_from_slice(&(len as u32).to_be_bytes());
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Reads a message of at most `limit` bytes.
///
/// # Errors
/// When the stream breaks or ends. Of kind `InvalidData`, when what comes is too long or no JSON: no
/// version says that. Of kind `Unsupported`, when it is JSON but not of the form known here.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<T> {
    let len = stream.read_u32().await? as usize;
    if len > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
    }
    // Grows with what arrives, not with what was announced.
    let mut bytes = Vec::new();
    stream.take(len as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let kind =
            if error.is_data() { io::ErrorKind::Unsupported } else { io::ErrorKind::InvalidData };
        io::Error::new(kind, error)
    })
}
