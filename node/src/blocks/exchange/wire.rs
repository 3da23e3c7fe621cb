//! The bytes of `/ipdc/blocks/1`. Numbers are big-endian.
//!
//! ```text
//! request  [1 u8] [count u8] count × ([length u8] [CID])
//! answer   [0 u8]                     not held
//!          [1 u8] [length u32] [bytes]  the block
//!          [2 u8]                     held, but cannot be read
//! ```

use std::io;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use ipdc_jobs::ids::Cid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::super::block::BLOCK_LIMIT;

/// CIDs of one request at most: one a block that may be on its way, so that a request is one packet
/// or two.
pub(super) const REQUEST_LIMIT: usize = 64;

/// How long one answer may take, to send or, once it is the next, to come: 2 MiB in it are 17 KB/s, the
/// slowest link worth working over.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(120);

/// Bytes of one CID at most: a version, a codec and 64 bytes of hash fit.
const CID_LIMIT: usize = 96;

/// Blocks up to this length are copied behind their header, to be one packet.
const COPY_LIMIT: usize = 16 * 1024;

const WANT: u8 = 1;
const NOT_HELD: u8 = 0;
const BLOCK: u8 = 1;
const UNABLE: u8 = 2;

/// The answer to one CID of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    NotHeld,
    Block(Bytes),
    Unable,
}

pub(super) async fn write_request<W: AsyncWrite + Unpin>(
    to: &mut W,
    cids: &[Cid],
) -> io::Result<()> {
    let mut frame = BytesMut::with_capacity(2 + cids.len() * 40);
    frame.put_u8(WANT);
    frame.put_u8(u8::try_from(cids.len()).map_err(io::Error::other)?);
    for cid in cids {
        let cid = cid.to_bytes();
        frame.put_u8(u8::try_from(cid.len()).map_err(io::Error::other)?);
        frame.put_slice(&cid);
    }
    to.write_all(&frame).await?;
    to.flush().await
}

/// The next request; `None` at the end of the stream.
pub(super) async fn read_request<R: AsyncRead + Unpin>(
    from: &mut R,
) -> io::Result<Option<Vec<Cid>>> {
    match from.read_u8().await {
        Ok(WANT) => {}
        Ok(_) => return Err(invalid("an unknown request")),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let count = usize::from(from.read_u8().await?);
    if count > REQUEST_LIMIT {
        return Err(invalid("too many CIDs in a request"));
    }
    let mut cids = Vec::with_capacity(count);
    for _ in 0..count {
        let len = usize::from(from.read_u8().await?);
        if len > CID_LIMIT {
            return Err(invalid("a CID that is too long"));
        }
        let mut bytes = [0; CID_LIMIT];
        from.read_exact(&mut bytes[..len]).await?;
        cids.push(Cid::try_from(&bytes[..len]).map_err(|_| invalid("not a CID"))?);
    }
    Ok(Some(cids))
}

pub(super) async fn write_answer<W: AsyncWrite + Unpin>(
    to: &mut W,
    answer: &Answer,
) -> io::Result<()> {
    match answer {
        Answer::NotHeld => to.write_all(&[NOT_HELD]).await?,
        Answer::Unable => to.write_all(&[UNABLE]).await?,
        Answer::Block(bytes) => {
            let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            let mut head = BytesMut::with_capacity(5 + COPY_LIMIT.min(bytes.len()));
            head.put_u8(BLOCK);
            head.put_u32(len);
            if bytes.len() <= COPY_LIMIT {
                head.put_slice(bytes);
                to.write_all(&head).await?;
            } else {
                to.write_all(&head).await?;
                to.write_all(bytes).await?;
            }
        }
    }
    to.flush().await
}

/// The next answer. An error of kind `TimedOut` when nothing at all comes for `silence`.
pub(super) async fn read_answer<R: AsyncRead + Unpin>(
    from: &mut R,
    silence: Duration,
) -> io::Result<Answer> {
    match timeout(silence, from.read_u8()).await?? {
        NOT_HELD => Ok(Answer::NotHeld),
        UNABLE => Ok(Answer::Unable),
        BLOCK => {
            let len = timeout(silence, from.read_u32()).await?? as usize;
            if len > BLOCK_LIMIT {
                return Err(invalid("a block that is too long"));
            }
            let mut bytes = BytesMut::with_capacity(len);
            while bytes.len() < len {
                let missing = len - bytes.len();
                let mut room = (&mut bytes).limit(missing);
                if timeout(silence, from.read_buf(&mut room)).await?? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(Answer::Block(bytes.freeze()))
        }
        _ => Err(invalid("an unknown answer")),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ipdc_jobs::ids::{CODEC_RAW, cid_of};

    use super::*;

    const SILENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn requests_and_answers_read_back_as_written() {
        let mut bytes = Vec::new();
        let cids: Vec<Cid> =
            (0..REQUEST_LIMIT).map(|n| cid_of(CODEC_RAW, &n.to_be_bytes())).collect();
        write_request(&mut bytes, &cids).await.unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(read_request(&mut from).await.unwrap(), Some(cids));
        assert_eq!(read_request(&mut from).await.unwrap(), None);

        let long = Bytes::from(vec![7; COPY_LIMIT + 1]);
        let short = Bytes::from_static(b"short");
        let answers = [Answer::NotHeld, Answer::Block(short), Answer::Unable, Answer::Block(long)];
        let mut bytes = Vec::new();
        for answer in &answers {
            write_answer(&mut bytes, answer).await.unwrap();
        }
        let mut from = bytes.as_slice();
        for answer in &answers {
            assert_eq!(&read_answer(&mut from, SILENCE).await.unwrap(), answer);
        }
    }

    #[tokio::test]
    async fn frames_beyond_the_limits_are_refused() {
        let kind = |result: io::Result<()>| result.unwrap_err().kind();
        let too_many = [WANT, REQUEST_LIMIT as u8 + 1];
        let read = read_request(&mut too_many.as_slice()).await.map(drop);
        assert_eq!(kind(read), io::ErrorKind::InvalidData);
        let too_long = [WANT, 1, CID_LIMIT as u8 + 1];
        let read = read_request(&mut too_long.as_slice()).await.map(drop);
        assert_eq!(kind(read), io::ErrorKind::InvalidData);
        let mut huge = vec![BLOCK];
        huge.extend((BLOCK_LIMIT as u32 + 1).to_be_bytes());
        let read = read_answer(&mut huge.as_slice(), SILENCE).await.map(drop);
        assert_eq!(kind(read), io::ErrorKind::InvalidData);
        let cut = [BLOCK, 0, 0, 0, 9, 1, 2];
        let read = read_answer(&mut cut.as_slice(), SILENCE).await.map(drop);
        assert_eq!(kind(read), io::ErrorKind::UnexpectedEof);
    }
}
