//! The bytes of `/ipfs/bitswap/1.2.0`: protobuf messages, each behind its length.
//!
//! What a message of ours never has is not written; what nothing here needs (priorities, pending
//! bytes, the blocks of version 1.0) is not read.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipdc_jobs::ids::Cid;
use quick_protobuf::Writer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use unsigned_varint::{decode, encode};

use super::super::block::{BLOCK_LIMIT, Block, SHA2_256};
use crate::protobuf::{
    Malformed, bytes, expect_room, for_each_field, number, shared, skip, varint,
};
use crate::varint as length;

/// The longest message that is read, in bytes: Kubo's own limit.
pub(super) const MESSAGE_LIMIT: usize = 4 << 20;

/// Wants, blocks and presences of one message, of each at most: Kubo's longest wantlist has about
/// 12,000, of half a MiB.
const ITEMS_LIMIT: usize = 16_384;

/// How long a message may take to come once it began, and to go: 4 MiB in it are 70 KB/s, a message of ours
/// 43 KB/s at most.
pub(super) const MESSAGE_TIME: Duration = Duration::from_secs(60);

const MESSAGE_WANTLIST: u32 = bytes(1);
const MESSAGE_PAYLOAD: u32 = bytes(3);
const MESSAGE_PRESENCE: u32 = bytes(4);
const WANTLIST_ENTRY: u32 = bytes(1);
const WANTLIST_FULL: u32 = varint(2);
const ENTRY_CID: u32 = bytes(1);
const ENTRY_PRIORITY: u32 = varint(2);
const ENTRY_CANCEL: u32 = varint(3);
const ENTRY_TYPE: u32 = varint(4);
const ENTRY_SEND_DONT_HAVE: u32 = varint(5);
const PAYLOAD_PREFIX: u32 = bytes(1);
const PAYLOAD_DATA: u32 = bytes(2);
const PRESENCE_CID: u32 = bytes(1);
const PRESENCE_TYPE: u32 = varint(2);

const WANT_BLOCK: u64 = 0;
const WANT_HAVE: u64 = 1;
const HAVE: u64 = 0;
const DONT_HAVE: u64 = 1;

/// What is said in one go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) wants: Vec<Want>,
    /// Whether these are all wants: those before are forgotten.
    pub(super) full: bool,
    pub(super) payload: Vec<Payload>,
    /// What the sender has, or has not.
    pub(super) presences: Vec<(Cid, bool)>,
}

/// What is wanted, or no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) cid: Cid,
    pub(super) what: Wanted,
}

/// What is wanted of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The block itself; that it is not there only if that is asked for.
    Block { or_dont_have: bool },
    /// Whether it is there.
    Have { or_dont_have: bool },
    /// Nothing any more.
    Nothing,
}

/// A block, not hashed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payload {
    /// The CID without the hash's value: version, codec, hash function, length.
    prefix: Bytes,
    pub(super) data: Bytes,
}

impl Payload {
    /// A block on its way out.
    pub(super) fn of(block: &Block) -> Payload {
        let cid = block.cid().to_bytes();
        let digest = block.cid().hash().digest().len();
        let prefix = match cid.first_chunk() {
            // Version 0 has only the hash in its CID, and says in its prefix what it means.
            Some([0x12, 0x20]) => Bytes::from_static(&[0, 0x70, 0x12, 0x20]),
            _ => Bytes::copy_from_slice(&cid[..cid.len() - digest]),
        };
        Payload { prefix, data: block.bytes().clone() }
    }

    /// Hashes it: only then it is known which block it is, by version 1 of its name.
    ///
    /// # Errors
    /// When it is too long, or named by another function than SHA-256.
    pub(super) async fn hash(self) -> Result<Block, Malformed> {
        if self.data.len() > BLOCK_LIMIT {
            return Err(Malformed("a block that is too long"));
        }
        let codec = codec(&self.prefix).ok_or(Malformed("a block with an unknown prefix"))?;
        let hashed = tokio::task::spawn_blocking(move || Block::of(codec, self.data)).await;
        hashed.map_err(|_| Malformed("a block that could not be hashed"))
    }
}

/// The codec that a prefix names, if it is of a CID with SHA-256.
fn codec(prefix: &[u8]) -> Option<u64> {
    let (version, rest) = decode::u64(prefix).ok()?;
    let (codec, rest) = decode::u64(rest).ok()?;
    let (function, rest) = decode::u64(rest).ok()?;
    let (len, rest) = decode::u64(rest).ok()?;
    (version <= 1 && function == SHA2_256 && len == 32 && rest.is_empty()).then_some(codec)
}

impl Message {
    pub(super) fn is_empty(&self) -> bool {
        let Message { wants, full, payload, presences } = self;
        wants.is_empty() && payload.is_empty() && presences.is_empty() && !full
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        if self.full || !self.wants.is_empty() {
            let list = self.wantlist();
            expect_room(writer.write_with_tag(MESSAGE_WANTLIST, |w| w.write_bytes(&list)));
        }
        for Payload { prefix, data } in &self.payload {
            let mut block = Vec::with_capacity(data.len() + 16);
            let mut inner = Writer::new(&mut block);
            expect_room(inner.write_with_tag(PAYLOAD_PREFIX, |w| w.write_bytes(prefix)));
            expect_room(inner.write_with_tag(PAYLOAD_DATA, |w| w.write_bytes(data)));
            expect_room(writer.write_with_tag(MESSAGE_PAYLOAD, |w| w.write_bytes(&block)));
        }
        for (cid, has) in &self.presences {
            let mut presence = Vec::with_capacity(48);
            let mut inner = Writer::new(&mut presence);
            let says = if *has { HAVE } else { DONT_HAVE };
            expect_room(inner.write_with_tag(PRESENCE_CID, |w| w.write_bytes(&cid.to_bytes())));
            expect_room(inner.write_with_tag(PRESENCE_TYPE, |w| w.write_uint64(says)));
            expect_room(writer.write_with_tag(MESSAGE_PRESENCE, |w| w.write_bytes(&presence)));
        }
        out
    }

    fn wantlist(&self) -> Vec<u8> {
        let mut list = Vec::new();
        let mut writer = Writer::new(&mut list);
        for Want { cid, what } in &self.wants {
            let mut entry = Vec::with_capacity(48);
            let mut inner = Writer::new(&mut entry);
            let mut flag = |field, value| {
                expect_room(inner.write_with_tag(field, |w| w.write_uint64(value)));
            };
            match *what {
                Wanted::Nothing => flag(ENTRY_CANCEL, 1),
                Wanted::Block { or_dont_have } | Wanted::Have { or_dont_have } => {
                    let is_have = matches!(what, Wanted::Have { .. });
                    flag(ENTRY_PRIORITY, 1);
                    flag(ENTRY_TYPE, if is_have { WANT_HAVE } else { WANT_BLOCK });
                    flag(ENTRY_SEND_DONT_HAVE, u64::from(or_dont_have));
                }
            }
            expect_room(inner.write_with_tag(ENTRY_CID, |w| w.write_bytes(&cid.to_bytes())));
            expect_room(writer.write_with_tag(WANTLIST_ENTRY, |w| w.write_bytes(&entry)));
        }
        if self.full {
            expect_room(writer.write_with_tag(WANTLIST_FULL, |w| w.write_uint64(1)));
        }
        list
    }

    /// Reads a message; its blocks are shared with `bytes`, not copied.
    pub(super) fn decode(bytes: &Bytes) -> Result<Message, Malformed> {
        let mut message = Message::default();
        for_each_field(bytes, |tag, reader| {
            match tag {
                MESSAGE_WANTLIST => message.read_wantlist(&shared(reader, bytes)?)?,
                MESSAGE_PAYLOAD => {
                    push(&mut message.payload, read_payload(&shared(reader, bytes)?)?)?;
                }
                MESSAGE_PRESENCE => {
                    push(&mut message.presences, read_presence(&shared(reader, bytes)?)?)?;
                }
                other => skip(other, reader, bytes)?,
            }
            Ok(())
        })?;
        Ok(message)
    }

    fn read_wantlist(&mut self, list: &Bytes) -> Result<(), Malformed> {
        for_each_field(list, |tag, reader| {
            match tag {
                WANTLIST_ENTRY => push(&mut self.wants, read_want(&shared(reader, list)?)?)?,
                WANTLIST_FULL => self.full = number(reader, list)? != 0,
                other => skip(other, reader, list)?,
            }
            Ok(())
        })
    }
}

fn push<T>(items: &mut Vec<T>, item: T) -> Result<(), Malformed> {
    if items.len() == ITEMS_LIMIT {
        return Err(Malformed("too many items in a message"));
    }
    items.push(item);
    Ok(())
}

fn read_want(entry: &Bytes) -> Result<Want, Malformed> {
    let (mut cid, mut is_have, mut is_cancel, mut or_dont_have) = (None, false, false, false);
    for_each_field(entry, |tag, reader| {
        match tag {
            ENTRY_CID => cid = Some(read_cid(&shared(reader, entry)?)?),
            ENTRY_CANCEL => is_cancel = number(reader, entry)? != 0,
            ENTRY_TYPE => is_have = number(reader, entry)? == WANT_HAVE,
            ENTRY_SEND_DONT_HAVE => or_dont_have = number(reader, entry)? != 0,
            other => skip(other, reader, entry)?,
        }
        Ok(())
    })?;
    let cid = cid.ok_or(Malformed("a want without a CID"))?;
    let what = match (is_cancel, is_have) {
        (true, _) => Wanted::Nothing,
        (false, true) => Wanted::Have { or_dont_have },
        (false, false) => Wanted::Block { or_dont_have },
    };
    Ok(Want { cid, what })
}

fn read_payload(block: &Bytes) -> Result<Payload, Malformed> {
    let mut payload = Payload { prefix: Bytes::new(), data: Bytes::new() };
    for_each_field(block, |tag, reader| {
        match tag {
            PAYLOAD_PREFIX => payload.prefix = shared(reader, block)?,
            PAYLOAD_DATA => payload.data = shared(reader, block)?,
            other => skip(other, reader, block)?,
        }
        Ok(())
    })?;
    Ok(payload)
}

fn read_presence(presence: &Bytes) -> Result<(Cid, bool), Malformed> {
    let (mut cid, mut has) = (None, true);
    for_each_field(presence, |tag, reader| {
        match tag {
            PRESENCE_CID => cid = Some(read_cid(&shared(reader, presence)?)?),
            PRESENCE_TYPE => has = number(reader, presence)? == HAVE,
            other => skip(other, reader, presence)?,
        }
        Ok(())
    })?;
    Ok((cid.ok_or(Malformed("a presence without a CID"))?, has))
}

fn read_cid(bytes: &[u8]) -> Result<Cid, Malformed> {
    Cid::try_from(bytes).map_err(|_| Malformed("what is no CID"))
}

/// The length of the next message; `None` at the end of the stream. Between messages a stream may be
/// silent for as long as it likes.
///
/// # Errors
/// When the stream breaks, or the message is too long (`InvalidData`).
pub(super) async fn read_length<R: AsyncRead + Unpin>(from: &mut R) -> io::Result<Option<usize>> {
    let Some(len) = length::read(from).await? else { return Ok(None) };
    let len = usize::try_from(len).ok().filter(|len| *len <= MESSAGE_LIMIT);
    len.map(Some).ok_or_else(|| invalid(Malformed("a message that is too long")))
}

/// The message of this length, within [`MESSAGE_TIME`].
///
/// # Errors
/// When the stream breaks or is too slow, or what comes is no message (`InvalidData`).
pub(super) async fn read<R: AsyncRead + Unpin>(from: &mut R, len: usize) -> io::Result<Message> {
    // Grows with what arrives, not with what was announced.
    let mut bytes = Vec::new();
    let mut message = from.take(len as u64);
    timeout(MESSAGE_TIME, message.read_to_end(&mut bytes)).await??;
    if bytes.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Message::decode(&bytes.into()).map_err(invalid)
}

/// Writes a message. Unbounded: the caller bounds it.
///
/// # Errors
/// When the stream breaks.
pub(super) async fn write<W: AsyncWrite + Unpin>(to: &mut W, message: &Message) -> io::Result<()> {
    let message = message.encode();
    let mut head = BytesMut::with_capacity(encode::u64_buffer().len());
    length::put(&mut head, message.len() as u64);
    to.write_all(&head).await?;
    to.write_all(&message).await?;
    to.flush().await
}

pub(super) fn invalid(why: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ipdc_jobs::ids::{CODEC_DAG_PB, CODEC_RAW, cid_of};

    use super::*;

    fn message() -> Message {
        let cid = |text: &[u8]| cid_of(CODEC_RAW, text);
        let want = |text: &[u8], what| Want { cid: cid(text), what };
        let block = Block::dag_pb(Bytes::from_static(b"node"));
        Message {
            wants: vec![
                want(b"a", Wanted::Block { or_dont_have: true }),
                want(b"b", Wanted::Have { or_dont_have: false }),
                want(b"c", Wanted::Nothing),
            ],
            full: true,
            payload: vec![Payload::of(&block)],
            presences: vec![(cid(b"d"), true), (cid(b"e"), false)],
        }
    }

    #[test]
    fn a_message_reads_back_as_written() {
        let message = message();
        assert_eq!(Message::decode(&message.encode().into()), Ok(message));
    }

    /// As Kubo writes it: fields in the order of their numbers, priority and all.
    #[test]
    fn a_message_of_another_make_is_read() {
        let cid = cid_of(CODEC_RAW, b"x").to_bytes();
        let mut entry = vec![0x0a, cid.len() as u8];
        entry.extend(&cid);
        // Priority 2^31-1, cancel false, want-have, send-dont-have.
        entry.extend([0x10, 0xff, 0xff, 0xff, 0xff, 0x07, 0x18, 0, 0x20, 1, 0x28, 1]);
        let mut list = vec![0x0a, entry.len() as u8];
        list.extend(entry);
        list.extend([0x10, 0]);
        let mut bytes = vec![0x0a, list.len() as u8];
        bytes.extend(list);
        // Pending bytes.
        bytes.extend([0x28, 0x80, 0x01]);
        let message = Message::decode(&bytes.into()).unwrap();
        let what = Wanted::Have { or_dont_have: true };
        assert_eq!(message.wants, [Want { cid: cid_of(CODEC_RAW, b"x"), what }]);
        assert!(!message.full);
    }

    #[tokio::test]
    async fn a_payload_is_what_it_hashes_to() {
        let raw = Block::raw(Bytes::from_static(b"raw"));
        assert_eq!(Payload::of(&raw).prefix, [1, 0x55, 0x12, 0x20][..]);
        assert_eq!(Payload::of(&raw).hash().await, Ok(raw.clone()));
        let v0 = Cid::new_v0(*cid_of(CODEC_DAG_PB, b"old").hash()).unwrap();
        let old = Block::check(v0, Bytes::from_static(b"old")).unwrap();
        let hashed = Payload::of(&old).hash().await.unwrap();
        assert_eq!(hashed.cid(), cid_of(CODEC_DAG_PB, b"old"));

        for prefix in [&[][..], &[1], &[1, 0x55, 0x13, 0x40], &[1, 0x55, 0x12, 0x20, 0]] {
            let payload = Payload { prefix: Bytes::copy_from_slice(prefix), data: Bytes::new() };
            assert!(payload.hash().await.is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_run_on() {
        let whole = message().encode();
        for at in 0..whole.len() {
            let _ = Message::decode(&Bytes::copy_from_slice(&whole[..at]));
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = byte;
                // Any answer will do, as long as there is one.
                let _ = Message::decode(&changed.into());
            }
        }
    }

    #[tokio::test]
    async fn long_and_crowded_messages_are_refused() {
        let mut frame = BytesMut::new();
        length::put(&mut frame, MESSAGE_LIMIT as u64 + 1);
        let refused = read_length(&mut &frame[..]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        // Empty presences take three bytes each, so they are refused one by one.
        let want = Want { cid: cid_of(CODEC_RAW, b"x"), what: Wanted::Nothing };
        let crowded = Message { wants: vec![want; ITEMS_LIMIT + 1], ..Message::default() };
        assert!(Message::decode(&crowded.encode().into()).is_err());
    }
}
