//! Directories: building, listing, finding.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use ipdc_jobs::ids::{CODEC_RAW, Cid, FileRef};

use super::Malformed;
use super::dagpb::{Entry, Kind, Link, Node};
use super::{Error, Parsed, Source, stat};
use crate::blocks::block::{Block, CHUNK};
use crate::blocks::store::Add;

/// Names from the root to a file at most: what Linux allows in a path of one-letter names is
/// more than anybody writes.
const NESTING_LIMIT: usize = 64;

/// Bytes of one name at most: what Linux file systems allow.
const NAME_LIMIT: usize = 255;

/// Bytes of memory that a listing may take: a million files fit, if their paths are not long.
const LISTING: usize = 256 << 20;

/// Bytes that one entry takes of it, beside its path.
const ENTRY: usize = 200;

/// Nodes of a directory tree that are got at the same time.
const IN_FLIGHT: usize = 16;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: not empty, without `/`, neither `.` nor `..`.
    pub name: String,
    /// What it names.
    pub cid: Cid,
    /// Bytes of all its blocks, as the directory says.
    pub dag_size: u64,
}

/// Builds the directory that holds `entries` at their paths, and puts its nodes through `add`. An
/// entry may itself be a directory. The nodes' roots are read from `source`, except raw ones.
///
/// # Errors
/// When a path is not fit, occurs twice, or leads through a file; when one directory has more
/// than 1 MiB of names and CIDs (about 10,000 entries); when a root cannot be had or the disk is full.
pub async fn build_dir<S: Source>(
    add: &Add,
    source: &S,
    entries: impl IntoIterator<Item = (String, FileRef)>,
) -> Result<Cid, Error> {
    let mut root = Names::new();
    for (path, file) in entries {
        insert(&mut root, &path, file)?;
    }
    Ok(put(add, source, root).await?.cid)
}

type Names = BTreeMap<String, Branch>;

enum Branch {
    File(FileRef),
    Directory(Names),
}

fn insert(root: &mut Names, path: &str, file: FileRef) -> Result<(), Error> {
    let refuse = |why| Error::Path { path: path.to_owned(), why };
    let mut directory = root;
    let mut parts = path.split('/').peekable();
    let mut depth = 0;
    while let Some(name) = parts.next() {
        check_name(name).map_err(refuse)?;
        depth += 1;
        if depth > NESTING_LIMIT {
            return Err(refuse("it has more than 64 parts"));
        }
        let slot = directory.entry(name.to_owned());
        if parts.peek().is_none() {
            let Slot::Vacant(slot) = slot else { return Err(refuse("it occurs twice")) };
            slot.insert(Branch::File(file));
            break;
        }
        match slot.or_insert_with(|| Branch::Directory(Names::new())) {
            Branch::Directory(names) => directory = names,
            Branch::File(_) => return Err(refuse("a part of it is a file")),
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("it has an empty part"),
        "." | ".." => Err("it has a part `.` or `..`"),
        _ if name.len() > NAME_LIMIT => Err("it has a part of more than 255 bytes"),
        _ if name.contains(['/', '\0']) => Err("it has a part with `/` or a zero byte"),
        _ => Ok(()),
    }
}

fn put<'a, S: Source>(
    add: &'a Add,
    source: &'a S,
    names: Names,
) -> BoxFuture<'a, Result<Link, Error>> {
    async move {
        let links = futures::stream::iter(names).map(async |(name, branch)| {
            let link = match branch {
                Branch::File(file) => link_to(source, file).await?,
                Branch::Directory(names) => put(add, source, names).await?,
            };
            Ok::<_, Error>(Link { name, ..link })
        });
        let links: Vec<Link> = links.buffered(IN_FLIGHT).try_collect().await?;
        let below: u64 = links.iter().map(|link| link.dag_size).sum();
        let node = Node { links, data: Entry::directory().encode() }.encode();
        if node.len() > CHUNK {
            return Err(Error::Limit { what: "more bytes of names in a directory", limit: CHUNK });
        }
        let block = Block::dag_pb(node.into());
        add.put(&block).await?;
        let dag_size = below.saturating_add(block.len());
        Ok(Link { cid: block.cid(), name: String::new(), dag_size })
    }
    .boxed()
}

async fn link_to<S: Source>(source: &S, file: FileRef) -> Result<Link, Error> {
    let dag_size = if file.cid.codec() == CODEC_RAW {
        file.len
    } else {
        let root = source.get(&file.cid).await?;
        let links = Parsed::of(&root)?.links;
        links.iter().fold(root.len(), |sum, link| sum.saturating_add(link.dag_size))
    };
    Ok(Link { cid: file.cid, name: String::new(), dag_size })
}

/// The memory that a listing has left. What is passed on the way to an entry costs as much: one node may
/// stand in very many places of a tree.
pub(in crate::blocks) struct Room {
    bytes: usize,
    left: usize,
}

impl Room {
    pub(in crate::blocks) fn of(bytes: usize) -> Self {
        Room { bytes, left: bytes }
    }

    fn take(&mut self, path: &str) -> Result<(), Error> {
        let left = self.left.checked_sub(ENTRY + path.len());
        let limit = Error::Limit { what: "a listing of more bytes", limit: self.bytes };
        self.left = left.ok_or(limit)?;
        Ok(())
    }
}

/// What is in the directory `cid`, sorted by the bytes of the names.
///
/// # Errors
/// When a node of it cannot be had, or it is no directory.
pub async fn ls<S: Source>(source: &S, cid: Cid) -> Result<Vec<DirEntry>, Error> {
    ls_in(source, cid, &mut Room::of(LISTING)).await
}

/// [`ls`], in this memory.
pub(in crate::blocks) async fn ls_in<S: Source>(
    source: &S,
    cid: Cid,
    room: &mut Room,
) -> Result<Vec<DirEntry>, Error> {
    let root = Parsed::of(&source.get(&cid).await?)?;
    let mut entries = match root.entry.kind {
        Kind::Directory => entries_of(cid, root.links)?,
        Kind::HamtShard => shards(source, cid, root, room).await?,
        _ => return Err(Error::NotADirectory(cid)),
    };
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn entries_of(cid: Cid, links: Vec<Link>) -> Result<Vec<DirEntry>, Error> {
    let entry = |Link { cid: target, name, dag_size }| {
        let unfit = |why| Error::Form { cid, why: Malformed(why) };
        check_name(&name).map_err(unfit)?;
        Ok(DirEntry { name, cid: target, dag_size })
    };
    links.into_iter().map(entry).collect()
}

/// The entries of a sharded directory: a link's name begins with its slot in hexadecimal, and one
/// that has no more is a further shard.
async fn shards<S: Source>(
    source: &S,
    root: Cid,
    top: Parsed,
    room: &mut Room,
) -> Result<Vec<DirEntry>, Error> {
    let mut entries = Vec::new();
    let mut open = vec![(root, top, 0)];
    while let Some((cid, shard, depth)) = open.pop() {
        let malformed = |why| Error::Form { cid, why: Malformed(why) };
        let fanout = shard.entry.fanout.filter(|fanout| (2..=1 << 16).contains(fanout));
        let fanout = fanout.ok_or(malformed("a shard without a width"))?;
        let prefix = format!("{:x}", fanout - 1).len();
        if shard.entry.kind != Kind::HamtShard || depth > NESTING_LIMIT {
            return Err(malformed("a shard that is none"));
        }
        for mut link in shard.links {
            room.take(&link.name)?;
            match link.name.get(prefix..) {
                Some("") => {
                    let below = Parsed::of(&source.get(&link.cid).await?)?;
                    open.push((link.cid, below, depth + 1));
                }
                Some(name) => {
                    link.name = name.to_owned();
                    entries.extend(entries_of(cid, vec![link])?);
                }
                None => return Err(malformed("a shard's link without a slot")),
            }
        }
    }
    Ok(entries)
}

/// What `path` (relative, `/` between names; empty for `root` itself) names in `root`.
///
/// # Errors
/// When there is no such thing, or a node on the way cannot be had.
pub async fn resolve<S: Source>(source: &S, root: Cid, path: &str) -> Result<Cid, Error> {
    let mut cid = root;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let entries = ls(source, cid).await?;
        let found = entries.into_iter().find(|entry| entry.name == name);
        let not_found = || Error::NotFound { root, path: path.to_owned() };
        cid = found.ok_or_else(not_found)?.cid;
    }
    Ok(cid)
}

/// All files below `root` with their paths, sorted by the bytes of the paths; one with an empty path
/// when `root` is a file. Lengths of one-block files are as the directory says, and checked when such
/// a file is opened.
///
/// # Errors
/// When a node cannot be had, or something in it is neither a file nor a directory.
pub async fn files<S: Source>(source: &S, root: Cid) -> Result<Vec<(String, FileRef)>, Error> {
    files_in(source, root, &mut Room::of(LISTING)).await
}

/// [`files`], in this memory.
pub(in crate::blocks) async fn files_in<S: Source>(
    source: &S,
    root: Cid,
    room: &mut Room,
) -> Result<Vec<(String, FileRef)>, Error> {
    let Some(file) = stat(source, root).await? else {
        let mut files = Vec::new();
        let mut open = vec![(String::new(), root, 0)];
        while let Some((prefix, directory, depth)) = open.pop() {
            if depth > NESTING_LIMIT {
                let what = "directories nested deeper";
                return Err(Error::Limit { what, limit: NESTING_LIMIT });
            }
            let entries = ls_in(source, directory, room).await?;
            let stats = futures::stream::iter(entries).map(async |entry| {
                let file = match entry.cid.codec() {
                    CODEC_RAW => Some(FileRef { cid: entry.cid, len: entry.dag_size }),
                    _ => stat(source, entry.cid).await?,
                };
                Ok::<_, Error>((entry, file))
            });
            let mut stats = std::pin::pin!(stats.buffered(IN_FLIGHT));
            while let Some((entry, file)) = stats.try_next().await? {
                let path = format!("{prefix}{}", entry.name);
                room.take(&path)?;
                match file {
                    Some(file) => files.push((path, file)),
                    None => open.push((path + "/", entry.cid, depth + 1)),
                }
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        return Ok(files);
    };
    Ok(vec![(String::new(), file)])
}
