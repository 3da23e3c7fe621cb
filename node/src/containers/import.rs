//! Images into blocks: from this machine's engine, from a file as `docker save` writes it, or built.
//!
//! Owns nothing but what it remembers of images that it brought in before: an image that is still whole is not brought
//! in again. Nothing of one is held in memory but a piece of a layer.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read};
use std::time::Duration;

use bollard::query_parameters::BuildImageOptionsBuilder;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use ipdc_jobs::ids::{Cid, FileRef};
use ipdc_jobs::kind::{FileWriter as _, ReadAt, TaskError};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use super::archive::{Content, archive};
use super::layout::{self, Digest, Parts};
use super::{Engine, Trouble, images};
use crate::blocks::Blocks;
use crate::blocks::store::Add;
use crate::blocks::unixfs::{self, BlockingReader, BlockingWriter, Caller, FileBuilder};
use crate::state::{Db, StateError, images as table};

/// Files of an image's archive at most: a few for each layer, of which there are 127 at most.
const ENTRIES_LIMIT: usize = 4_096;

/// How long peers are asked for blocks of an image that was brought in before: it is as well made again.
const LOOK: Duration = Duration::from_secs(5);

/// How long an image may take to be built, and to be written out: packages are installed in it.
const BUILD: Duration = Duration::from_secs(3_600);

/// Bytes that are moved at a time.
const PIECE: usize = 256 << 10;

/// What the last lines of a build are worth showing.
const BUILD_LINES: usize = 12;

/// Why there is no image of a name.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The engine has none.
    #[error(
        "there is no file `{0}`, and no such image in this machine's container engine (`docker images` lists \
         those)"
    )]
    Unknown(String),
    /// There is no engine to ask.
    #[error("there is no file `{name}`, and no engine to ask for an image: {why}")]
    NoEngine {
        /// The image's name.
        name: String,
        /// Why there is none.
        why: String,
    },
    /// The file is none.
    #[error("this is no image as `docker save` writes it: {0}")]
    Form(String),
    /// It could not be built.
    #[error("the image could not be built: {0}")]
    Build(String),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] Trouble),
    /// Its blocks.
    #[error(transparent)]
    Files(#[from] unixfs::Error),
    /// The disk.
    #[error("the image could not be kept: {0}")]
    Keep(String),
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
}

impl ImportError {
    fn form(error: impl ToString) -> Self {
        ImportError::Form(error.to_string())
    }
}

/// Brings images in. Clones are handles.
#[derive(Clone)]
pub struct Importer {
    engine: Engine,
    db: Db,
    blocks: Blocks,
}

impl Importer {
    /// One that asks `engine`.
    #[must_use]
    pub fn new(engine: Engine, db: Db, blocks: Blocks) -> Self {
        Importer { engine, db, blocks }
    }

    /// The image of this name in this machine's engine, as a part of `add`.
    ///
    /// # Errors
    /// When there is none, or it cannot be kept.
    pub async fn of_engine(&self, name: &str, add: &Add) -> Result<Cid, ImportError> {
        let found =
            self.engine.ask("find an image", async |docker| docker.inspect_image(name).await);
        let found = found.await.map_err(|trouble| match trouble {
            trouble if trouble.is_absence() => ImportError::Unknown(name.to_owned()),
            Trouble::None(why) => ImportError::NoEngine { name: name.to_owned(), why },
            other => other.into(),
        })?;
        let id = found.id.unwrap_or_else(|| name.to_owned());
        let source = format!("engine {id}");
        if let Some(root) = self.known(&source, add).await? {
            return Ok(root);
        }
        let written = self.engine.ask("write an image out", async |docker| {
            Ok(docker.with_timeout(BUILD).export_image(&id).boxed())
        });
        let written = written.await?.map_err(io::Error::other);
        let root = self.unpack(StreamReader::new(written), add).await?;
        table::set(&self.db, source, root).await?;
        Ok(root)
    }

    /// The image in the file that `docker save` or another tool wrote, compressed or not.
    ///
    /// # Errors
    /// When it is none, or cannot be kept.
    pub async fn of_file(&self, file: FileRef, add: &Add) -> Result<Cid, ImportError> {
        let source = format!("file {}", file.cid);
        if let Some(root) = self.known(&source, add).await? {
            return Ok(root);
        }
        let session = self.blocks.fetcher().session_for(&[], add.clone());
        let caller = Caller::new(Handle::current(), CancellationToken::new());
        let (blocks, add) = (self.blocks.clone(), add.clone());
        let unpacked = tokio::task::spawn_blocking(move || {
            let reader = BlockingReader::open(session, &file, caller.clone());
            let file = Reading { file: reader.map_err(ImportError::form)?, at: 0 };
            Unpacking { blocks, add, caller }.unpack(file)
        });
        let root = unpacked.await.expect("unpacking an image does not panic")?;
        table::set(&self.db, source, root).await?;
        Ok(root)
    }

    /// What the `Dockerfile` at the path `dockerfile` builds of these `files`, by the engine of this machine.
    ///
    /// # Errors
    /// When it cannot be built, or kept.
    pub async fn of_dockerfile(
        &self,
        dockerfile: &str,
        files: Vec<(String, FileRef)>,
        add: &Add,
    ) -> Result<Cid, ImportError> {
        let context = unixfs::build_dir(add, self.blocks.store(), files.clone()).await?;
        let source = format!("built {context} {dockerfile}");
        if let Some(root) = self.known(&source, add).await? {
            return Ok(root);
        }
        let tag = format!("{}:{context}", images::BUILT);
        let options = BuildImageOptionsBuilder::default()
            .dockerfile(dockerfile)
            .t(&tag)
            .rm(true)
            .forcerm(true)
            .networkmode(&self.engine.options().build_network)
            .build();
        let session = self.blocks.session(&[], crate::blocks::store::Tier::Cache);
        let files = files.into_iter().map(|(path, file)| (path, Content::File(file)));
        let body = archive(session, files.collect());
        let building =
            self.engine.ask("build an image", async |docker| Ok(docker.with_timeout(BUILD)));
        let docker = building.await?;
        let said = docker.build_image(options, None, Some(bollard::body_try_stream(body)));
        timeout(BUILD, built(said)).await.map_err(|_| {
            ImportError::Build(format!("it took more than {} s", BUILD.as_secs()))
        })??;
        let root = self.of_engine(&tag, add).await?;
        table::set(&self.db, source, root).await?;
        Ok(root)
    }

    /// What was made of `source` before, if all of it can still be had.
    async fn known(&self, source: &str, add: &Add) -> Result<Option<Cid>, ImportError> {
        let Some(root) = table::find(&self.db, source.to_owned()).await? else { return Ok(None) };
        let session = self.blocks.fetcher().session_for(&[], add.clone());
        let fetched = timeout(LOOK, session.fetch_all(root, |_| {})).await;
        Ok(matches!(fetched, Ok(Ok(_))).then_some(root))
    }

    async fn unpack<S>(
        &self,
        archive: StreamReader<S, Bytes>,
        add: &Add,
    ) -> Result<Cid, ImportError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    {
        let caller = Caller::new(Handle::current(), CancellationToken::new());
        let unpacking = Unpacking { blocks: self.blocks.clone(), add: add.clone(), caller };
        let archive = SyncIoBridge::new(archive);
        let unpacked = tokio::task::spawn_blocking(move || unpacking.unpack(archive));
        unpacked.await.expect("unpacking an image does not panic")
    }
}

/// Waits for the end of a build.
async fn built(
    said: impl Stream<Item = Result<bollard::models::BuildInfo, bollard::errors::Error>>,
) -> Result<(), ImportError> {
    let mut lines: Vec<String> = Vec::new();
    let mut said = std::pin::pin!(said);
    while let Some(info) = said.next().await {
        let wrong = match info {
            Ok(info) => {
                let text = info.stream.unwrap_or_default();
                lines.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
                lines.drain(..lines.len().saturating_sub(BUILD_LINES));
                info.error_detail.and_then(|detail| detail.message)
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(wrong) = wrong {
            return Err(ImportError::Build(format!(
                "{wrong}; it said last: {}",
                lines.join(" | ")
            )));
        }
    }
    Ok(())
}

/// A file in blocks, read from its beginning.
struct Reading<R> {
    file: R,
    at: u64,
}

impl<R: ReadAt> Read for Reading<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.at, room.len())?;
        room[..read.len()].copy_from_slice(&read);
        self.at += read.len() as u64;
        Ok(read.len())
    }
}

/// Takes an archive apart.
struct Unpacking {
    blocks: Blocks,
    add: Add,
    caller: Caller,
}

/// What an archive has, by path.
#[derive(Default)]
struct Found {
    files: BTreeMap<String, (FileRef, Digest)>,
    /// Paths that stand for others.
    links: BTreeMap<String, String>,
}

impl Found {
    fn get(&self, path: &str) -> Option<&(FileRef, Digest)> {
        self.files.get(path).or_else(|| self.files.get(self.links.get(path)?))
    }
}

impl Unpacking {
    fn unpack(&self, archive: impl Read) -> Result<Cid, ImportError> {
        let mut archive = BufReader::with_capacity(PIECE, archive);
        let is_gzip = archive.fill_buf().map_err(ImportError::form)?.starts_with(&[0x1f, 0x8b]);
        let found =
            if is_gzip { self.read(MultiGzDecoder::new(archive)) } else { self.read(archive) }?;
        let parts = self.parts(&found)?;
        let mut files = BTreeMap::new();
        for digest in parts.layers.iter().chain([&parts.config]) {
            let blob = found.files.values().find(|(_, has)| has == digest);
            let (file, _) =
                blob.ok_or_else(|| ImportError::Form(format!("{} is missing", digest.path())))?;
            files.insert(digest.clone(), *file);
        }
        self.put(&parts, files)
    }

    /// All files of an archive, into blocks.
    fn read(&self, archive: impl Read) -> Result<Found, ImportError> {
        let mut found = Found::default();
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().map_err(ImportError::form)? {
            let mut entry = entry.map_err(ImportError::form)?;
            let path = entry.path().map_err(ImportError::form)?.to_string_lossy().into_owned();
            let path = path.trim_start_matches("./").to_owned();
            if found.files.len() + found.links.len() >= ENTRIES_LIMIT {
                return Err(ImportError::Form(format!("it has more than {ENTRIES_LIMIT} files")));
            }
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let file = self.add(&mut entry)?;
                found.files.insert(path, file);
            } else if (kind.is_symlink() || kind.is_hard_link())
                && let Some(target) = entry.link_name().map_err(ImportError::form)?
            {
                // `docker save` before version 25 so names a layer that it has written before.
                let target = target.to_string_lossy();
                let target = target.trim_start_matches("../").to_owned();
                found.links.insert(path, target);
            }
        }
        Ok(found)
    }

    fn add(&self, bytes: &mut impl Read) -> Result<(FileRef, Digest), ImportError> {
        let keep = |error: TaskError| ImportError::Keep(error.to_string());
        let builder = FileBuilder::new(self.add.clone());
        let mut file = Box::new(BlockingWriter::new(builder, self.caller.clone()));
        let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
        loop {
            match bytes.read(&mut piece).map_err(ImportError::form)? {
                0 => break,
                read => {
                    hash.update(&piece[..read]);
                    file.write(&piece[..read]).map_err(keep)?;
                }
            }
        }
        Ok((file.finish().map_err(keep)?, Digest::of_hash(&hash.finalize().into())))
    }

    /// Which of the files make the image.
    fn parts(&self, found: &Found) -> Result<Parts, ImportError> {
        let Some((list, _)) = found.get("manifest.json") else {
            return self.oci_parts(found);
        };
        let list: Vec<Saved> =
            serde_json::from_slice(&self.text(list)?).map_err(ImportError::form)?;
        let [saved] = &list[..] else {
            return Err(ImportError::Form(format!("it has {} images; expected one", list.len())));
        };
        let digest = |path: &String| {
            let file = found.get(path);
            file.map(|(_, digest)| digest.clone())
                .ok_or_else(|| ImportError::Form(format!("`{path}` is missing")))
        };
        let layers = saved.layers.iter().map(digest).collect::<Result<_, _>>()?;
        Ok(Parts { config: digest(&saved.config)?, layers })
    }

    /// The same, where there is but an OCI layout.
    fn oci_parts(&self, found: &Found) -> Result<Parts, ImportError> {
        let (index, _) = found.get(layout::INDEX).ok_or_else(|| {
            ImportError::Form("it has neither manifest.json nor index.json".to_owned())
        })?;
        let mut text = self.text(index)?;
        // An index may name another.
        for _ in 0..2 {
            let manifest = layout::manifest_of(&text).map_err(ImportError::Form)?.path();
            let (manifest, _) = found
                .get(&manifest)
                .ok_or_else(|| ImportError::Form(format!("`{manifest}` is missing")))?;
            text = self.text(manifest)?;
            if !layout::is_index(&text) {
                break;
            }
        }
        layout::parts_of(&text).map_err(ImportError::Form)
    }

    fn text(&self, file: &FileRef) -> Result<Bytes, ImportError> {
        let session = self.blocks.fetcher().session_for(&[], self.add.clone());
        let read = self.caller.wait(self.blocks.read(&session, file, layout::JSON_LIMIT));
        Ok(read.ok_or_else(|| ImportError::Keep(TaskError::Stopped.to_string()))??)
    }

    /// The image's directory.
    fn put(&self, parts: &Parts, files: BTreeMap<Digest, FileRef>) -> Result<Cid, ImportError> {
        let texts = layout::texts(parts, &files).expect("the file of each part is there");
        let paths = [Digest::of(&texts[0]).path(), layout::INDEX.into(), layout::MARK.into()];
        let put = async {
            let mut entries: Vec<_> =
                files.iter().map(|(digest, file)| (digest.path(), *file)).collect();
            for (path, text) in paths.into_iter().zip(&texts) {
                let file = self.blocks.add_bytes(&self.add, text).await;
                entries.push((path, file.map_err(|error| ImportError::Keep(error.to_string()))?));
            }
            Ok(unixfs::build_dir(&self.add, self.blocks.store(), entries).await?)
        };
        self.caller
            .wait(put)
            .unwrap_or_else(|| Err(ImportError::Keep(TaskError::Stopped.to_string())))
    }
}

/// An image as `docker save` lists it. (Docker Image Specification 1.2, "Combined Image JSON + Filesystem Changeset
/// Format".)
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}
