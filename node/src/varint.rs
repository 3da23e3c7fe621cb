//! Lengths as IPFS writes them in front of things: seven bits a byte, the lowest first.

use std::io;

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use unsigned_varint::{decode, encode};

/// Writes `number`.
pub(crate) fn put(to: &mut BytesMut, number: u64) {
    to.put_slice(encode::u64(number, &mut encode::u64_buffer()));
}

/// Reads a number; `None` at the end of the stream.
///
/// # Errors
/// When the stream breaks, or ends within the number (`UnexpectedEof`), or what comes is no number
/// in its shortest form (`InvalidData`).
pub(crate) async fn read<R: AsyncRead + Unpin>(from: &mut R) -> io::Result<Option<u64>> {
    let mut bytes = encode::u64_buffer();
    for len in 0..bytes.len() {
        match from.read_u8().await {
            Ok(byte) => bytes[len] = byte,
            Err(error) if len == 0 && error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        if decode::is_last(bytes[len]) {
            let decoded = decode::u64(&bytes[..=len]);
            let (number, _) = decoded.map_err(|error| invalid(&error))?;
            return Ok(Some(number));
        }
    }
    Err(invalid(&decode::Error::Overflow))
}

fn invalid(error: &decode::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn numbers_read_back_as_written() {
        for number in [0, 1, 127, 128, 300, 1 << 32, u64::MAX] {
            let mut bytes = BytesMut::new();
            put(&mut bytes, number);
            let mut from = &bytes[..];
            assert_eq!(read(&mut from).await.unwrap(), Some(number));
            assert!(from.is_empty());
        }
        assert_eq!(read(&mut &[][..]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn cut_off_long_and_padded_numbers_are_refused() {
        let kind = async |bytes: &[u8]| read(&mut &bytes[..]).await.unwrap_err().kind();
        assert_eq!(kind(&[0x80]).await, io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(&[0x80, 0x00]).await, io::ErrorKind::InvalidData);
        assert_eq!(kind(&[0xff; 20]).await, io::ErrorKind::InvalidData);
    }
}
