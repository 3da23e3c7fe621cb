//! Protobuf messages, read and written field by field: those of IPFS are few and small.
//!
//! What is read is shared with the bytes it came in, not copied; it is for each message to say which
//! fields it takes, and how many of them.

use bytes::Bytes;
use quick_protobuf::BytesReader;

/// Bytes that are not the message they should be, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

// A protobuf tag: the field's number and how it is written (0 a varint, 2 bytes with their length).
pub(crate) const fn varint(field: u32) -> u32 {
    field << 3
}
pub(crate) const fn bytes(field: u32) -> u32 {
    field << 3 | 2
}

/// Gives each field's tag, and the reader that stands before its value.
pub(crate) fn for_each_field(
    message: &[u8],
    mut field: impl FnMut(u32, &mut BytesReader) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut reader = BytesReader::from_bytes(message);
    while !reader.is_eof() {
        let tag = reader.next_tag(message).map_err(|_| Malformed("a cut-off protobuf tag"))?;
        field(tag, &mut reader)?;
    }
    Ok(())
}

/// The number in a varint field.
pub(crate) fn number(reader: &mut BytesReader, message: &[u8]) -> Result<u64, Malformed> {
    reader.read_uint64(message).map_err(|_| Malformed("a cut-off number"))
}

/// The bytes of a field.
pub(crate) fn shared(reader: &mut BytesReader, message: &Bytes) -> Result<Bytes, Malformed> {
    let bytes = reader.read_bytes(message).map_err(|_| Malformed("cut-off data"))?;
    Ok(message.slice_ref(bytes))
}

/// Goes past a field that nobody needs.
pub(crate) fn skip(tag: u32, reader: &mut BytesReader, message: &[u8]) -> Result<(), Malformed> {
    reader.read_unknown(message, tag).map_err(|_| Malformed("a cut-off field"))
}

/// Says that what was written to a vector was.
pub(crate) fn expect_room(written: quick_protobuf::Result<()>) {
    written.expect("writing to a vector does not fail");
}
