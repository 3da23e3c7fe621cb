//! DAG-PB and UnixFS version 1, on the wire: two small protobuf messages, one inside the other.
//!
//! Encoding is canonical, byte for byte as Kubo does it, because the bytes are the name. Decoding
//! takes what other implementations write, in any field order, and refuses what is neither.

use bytes::Bytes;
use ipdc_jobs::ids::Cid;
use quick_protobuf::Writer;

use crate::protobuf::{
    Malformed, bytes, expect_room, for_each_field, number, shared, skip, varint,
};

/// A link of a DAG-PB node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::blocks) struct Link {
    /// What it points at.
    pub(in crate::blocks) cid: Cid,
    /// The entry's name in a directory; empty in a file.
    pub(in crate::blocks) name: String,
    /// Bytes of all blocks below, the target's included.
    pub(in crate::blocks) dag_size: u64,
}

/// A DAG-PB node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::blocks) struct Node {
    pub(in crate::blocks) links: Vec<Link>,
    pub(in crate::blocks) data: Bytes,
}

/// What a UnixFS node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::blocks) enum Kind {
    Raw = 0,
    Directory = 1,
    File = 2,
    Metadata = 3,
    Symlink = 4,
    HamtShard = 5,
}

/// The UnixFS part of a DAG-PB node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::blocks) struct Entry {
    pub(in crate::blocks) kind: Kind,
    /// The file's bytes that lie in this node.
    pub(in crate::blocks) data: Bytes,
    /// The file's length in bytes, when it is said.
    pub(in crate::blocks) len: Option<u64>,
    /// The file bytes below each link.
    pub(in crate::blocks) block_sizes: Vec<u64>,
    /// Slots of a sharded directory.
    pub(in crate::blocks) fanout: Option<u64>,
}

const LINK_HASH: u32 = bytes(1);
const LINK_NAME: u32 = bytes(2);
const LINK_SIZE: u32 = varint(3);
const NODE_DATA: u32 = bytes(1);
const NODE_LINK: u32 = bytes(2);
const ENTRY_KIND: u32 = varint(1);
const ENTRY_DATA: u32 = bytes(2);
const ENTRY_LEN: u32 = varint(3);
const ENTRY_BLOCK_SIZE: u32 = varint(4);
const ENTRY_BLOCK_SIZES: u32 = bytes(4);
const ENTRY_FANOUT: u32 = varint(6);

impl Node {
    /// The node's block. Links come first, although their field number is higher.
    pub(in crate::blocks) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + self.links.len() * 64 + 16);
        let mut writer = Writer::new(&mut out);
        for link in &self.links {
            expect_room(writer.write_with_tag(NODE_LINK, |w| w.write_bytes(&link.encode())));
        }
        expect_room(writer.write_with_tag(NODE_DATA, |w| w.write_bytes(&self.data)));
        out
    }

    /// Reads a node; its data is shared with `block`, not copied.
    pub(in crate::blocks) fn decode(block: &Bytes) -> Result<Node, Malformed> {
        let mut node = Node::default();
        for_each_field(block, |tag, reader| {
            match tag {
                NODE_LINK => {
                    let link = reader.read_bytes(block).map_err(|_| Malformed("a cut-off link"))?;
                    node.links.push(Link::decode(link)?);
                }
                NODE_DATA => node.data = shared(reader, block)?,
                _ => return Err(Malformed("an unknown field in a DAG-PB node")),
            }
            Ok(())
        })?;
        Ok(node)
    }
}

impl Link {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let mut writer = Writer::new(&mut out);
        expect_room(writer.write_with_tag(LINK_HASH, |w| w.write_bytes(&self.cid.to_bytes())));
        expect_room(writer.write_with_tag(LINK_NAME, |w| w.write_string(&self.name)));
        expect_room(writer.write_with_tag(LINK_SIZE, |w| w.write_uint64(self.dag_size)));
        out
    }

    fn decode(link: &[u8]) -> Result<Link, Malformed> {
        let (mut cid, mut name, mut dag_size) = (None, String::new(), 0);
        for_each_field(link, |tag, reader| {
            match tag {
                LINK_HASH => {
                    let hash = reader.read_bytes(link).map_err(|_| Malformed("a cut-off CID"))?;
                    let hash = Cid::try_from(hash).map_err(|_| Malformed("a link to no CID"))?;
                    cid = Some(hash);
                }
                LINK_NAME => {
                    let text = reader.read_string(link);
                    name = text.map_err(|_| Malformed("a name that is not UTF-8"))?.to_owned();
                }
                LINK_SIZE => dag_size = number(reader, link)?,
                _ => return Err(Malformed("an unknown field in a link")),
            }
            Ok(())
        })?;
        Ok(Link { cid: cid.ok_or(Malformed("a link without a CID"))?, name, dag_size })
    }
}

impl Entry {
    /// An empty directory's entry.
    pub(in crate::blocks) fn directory() -> Entry {
        Entry {
            kind: Kind::Directory,
            data: Bytes::new(),
            len: None,
            block_sizes: Vec::new(),
            fanout: None,
        }
    }

    /// The entry of a file's inner node whose children hold `block_sizes` bytes each.
    pub(in crate::blocks) fn inner(block_sizes: Vec<u64>) -> Entry {
        let len = Some(block_sizes.iter().sum());
        Entry { kind: Kind::File, data: Bytes::new(), len, block_sizes, fanout: None }
    }

    /// The bytes for [`Node::data`].
    pub(in crate::blocks) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.data.len() + self.block_sizes.len() * 4 + 16);
        let mut writer = Writer::new(&mut out);
        expect_room(writer.write_with_tag(ENTRY_KIND, |w| w.write_uint64(self.kind as u64)));
        if !self.data.is_empty() {
            expect_room(writer.write_with_tag(ENTRY_DATA, |w| w.write_bytes(&self.data)));
        }
        if let Some(len) = self.len {
            expect_room(writer.write_with_tag(ENTRY_LEN, |w| w.write_uint64(len)));
        }
        for size in &self.block_sizes {
            expect_room(writer.write_with_tag(ENTRY_BLOCK_SIZE, |w| w.write_uint64(*size)));
        }
        if let Some(fanout) = self.fanout {
            expect_room(writer.write_with_tag(ENTRY_FANOUT, |w| w.write_uint64(fanout)));
        }
        out.into()
    }

    /// Reads the UnixFS part of a node; file bytes are shared with `node`, not copied.
    pub(in crate::blocks) fn decode(node: &Bytes) -> Result<Entry, Malformed> {
        let mut entry = Entry::directory();
        let mut kind = None;
        for_each_field(node, |tag, reader| {
            match tag {
                ENTRY_KIND => kind = Some(Kind::of(number(reader, node)?)?),
                ENTRY_DATA => entry.data = shared(reader, node)?,
                ENTRY_LEN => entry.len = Some(number(reader, node)?),
                ENTRY_BLOCK_SIZE => entry.block_sizes.push(number(reader, node)?),
                ENTRY_BLOCK_SIZES => {
                    let packed = reader.read_packed(node, |r, bytes| r.read_uint64(bytes));
                    entry.block_sizes.extend(packed.map_err(|_| Malformed("cut-off sizes"))?);
                }
                ENTRY_FANOUT => entry.fanout = Some(number(reader, node)?),
                // Hash type, mode, modification time: nothing here depends on them.
                other => skip(other, reader, node)?,
            }
            Ok(())
        })?;
        entry.kind = kind.ok_or(Malformed("a node without a UnixFS type"))?;
        Ok(entry)
    }
}

impl Kind {
    fn of(number: u64) -> Result<Kind, Malformed> {
        let known = [
            Kind::Raw,
            Kind::Directory,
            Kind::File,
            Kind::Metadata,
            Kind::Symlink,
            Kind::HamtShard,
        ];
        let found = usize::try_from(number).ok().and_then(|number| known.get(number));
        found.copied().ok_or(Malformed("an unknown UnixFS type"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ipdc_jobs::ids::{CODEC_DAG_PB, cid_of};

    use super::*;

    #[test]
    fn the_empty_directory_has_the_name_that_kubo_gives_it() {
        let node = Node { links: Vec::new(), data: Entry::directory().encode() };
        let block = node.encode();
        assert_eq!(block, [0x0a, 0x02, 0x08, 0x01]);
        let cid = cid_of(CODEC_DAG_PB, &block);
        assert_eq!(cid.to_string(), "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354");
    }

    #[test]
    fn a_node_reads_back_as_written() {
        let link = |name: &str| Link {
            cid: cid_of(CODEC_DAG_PB, name.as_bytes()),
            name: name.into(),
            dag_size: 300,
        };
        let data = Entry::inner(vec![1 << 20, 5]).encode();
        let node = Node { links: vec![link(""), link("ä b")], data };
        assert_eq!(Node::decode(&node.encode().into()).unwrap(), node);
        let entry = Entry::decode(&node.data).unwrap();
        assert_eq!(entry.len, Some((1 << 20) + 5));
        assert_eq!(entry.block_sizes, [1 << 20, 5]);
    }

    #[test]
    fn cut_off_and_foreign_bytes_are_refused() {
        let data = Entry::inner(vec![7]).encode();
        let cid = cid_of(CODEC_DAG_PB, b"x");
        let links = vec![Link { cid, name: String::new(), dag_size: 7 }];
        let whole = Node { links, data }.encode();
        let mut refused = 0;
        for end in 1..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..end]);
            // Cut between two fields, what is left is a node, but one without a UnixFS part.
            let read = Node::decode(&cut).and_then(|node| Entry::decode(&node.data));
            refused += usize::from(read.is_err());
        }
        assert_eq!(refused, whole.len() - 1);
        assert!(Node::decode(&Bytes::from_static(b"hello")).is_err());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_run_on() {
        let cid = cid_of(CODEC_DAG_PB, b"x");
        let links = vec![Link { cid, name: "name".into(), dag_size: 300 }; 2];
        let whole = Node { links, data: Entry::inner(vec![7, 1 << 40]).encode() }.encode();
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = byte;
                // Any answer will do, as long as there is one.
                let changed = Bytes::from(changed);
                let _ = Node::decode(&changed).and_then(|node| Entry::decode(&node.data));
                let _ = Entry::decode(&changed);
            }
        }
    }
}
