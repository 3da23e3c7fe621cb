//! Images out of blocks into the engine, and how much of its disk they take.
//!
//! In the engine each has a name of ours beside what names its user gave it: what is removed is that name, and the
//! image with it when nobody else names it. An image is asked for with its layers by those alone that the manifest of
//! a job names; the engine checks each layer's digest.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::ImageSummary;
use bollard::query_parameters::{
    ImportImageOptionsBuilder, ListImagesOptions, ListImagesOptionsBuilder,
    RemoveImageOptionsBuilder,
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use ipdc_jobs::ids::{Cid, FileRef};
use ipdc_jobs::kind::TaskError;
use ipdc_jobs::message::FailureClass;
use serde_json::json;
use tokio::sync::Mutex as Turn;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::archive::{Content, archive};
use super::layout::{self, Digest};
use super::{Engine, Trouble};
use crate::blocks::fetch::Session;
use crate::blocks::unixfs::{self, FileReader};

/// Our name for images in the engine; its tag is the image's CID.
const NAME: &str = "ipdc/image";

/// And for those that are built here.
pub(super) const BUILT: &str = "ipdc/built";

/// What an image may take to be loaded: this, and a second more for every 2 MiB of it. A memory card takes as much.
const LOAD: Duration = Duration::from_secs(60);
const LOAD_RATE: u64 = 2 << 20;

/// Bytes that are read of a file at a time: a block.
const READ: usize = 1 << 20;

/// Images in the engine. Clones share them.
#[derive(Clone)]
pub struct Images {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    /// Images that are asked for: whose turn it is to bring one in, who uses it, and when it was used last.
    known: Mutex<HashMap<Cid, Arc<Known>>>,
}

struct Known {
    turn: Turn<()>,
    used: Mutex<Instant>,
}

/// An image that is in the engine and stays there as long as this is held.
pub struct Loaded {
    /// How the engine names it.
    pub name: String,
    _known: Arc<Known>,
}

/// An image that the engine has.
#[derive(Debug, Clone)]
pub struct InEngine {
    /// How the engine names it.
    pub id: String,
    /// The images in blocks that it is.
    pub roots: Vec<Cid>,
    /// What its user calls it.
    pub names: Vec<String>,
    /// Bytes of the engine's disk, those that it shares with others among them.
    pub size: u64,
}

/// Why an image is not in the engine.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] Trouble),
    /// Its blocks.
    #[error(transparent)]
    Files(#[from] unixfs::Error),
    /// It is none.
    #[error("image {0} is none that can be run: {1}")]
    Form(Cid, String),
    /// Nobody waits for it any more.
    #[error("it is not waited for any more")]
    Stopped,
}

impl From<LoadError> for TaskError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Engine(trouble) => trouble.into(),
            LoadError::Form(..) => {
                let (class, code) = (FailureClass::Guest, "IPDC-5802");
                TaskError::Failed { class, code, message: error.to_string() }
            }
            LoadError::Files(error) => {
                let (class, code) = (FailureClass::Missing, "IPDC-5803");
                let message = format!("the image cannot be had: {error}");
                TaskError::Failed { class, code, message }
            }
            LoadError::Stopped => TaskError::Stopped,
        }
    }
}

impl Images {
    /// Those in `engine`.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Images { shared: Arc::new(Shared { engine, known: Mutex::default() }) }
    }

    /// The image in the directory `root`, in the engine: what is not there yet comes through `session`. `progress` is
    /// told of the bytes that came so far.
    ///
    /// # Errors
    /// When it cannot be had, or is none.
    pub async fn load(
        &self,
        root: Cid,
        session: &Session,
        progress: impl FnMut(u64),
        stop: &CancellationToken,
    ) -> Result<Loaded, LoadError> {
        let known = self.known(root);
        let name = format!("{NAME}:{root}");
        let loaded = async {
            let _turn = known.turn.lock().await;
            if !self.is_there(&name).await? {
                // The engine unpacks what is here already while the rest comes: who reads a block that is on its way
                // waits for it.
                let fetched = async { Ok(session.fetch_all(root, progress).await?) };
                tokio::try_join!(fetched, self.bring(root, &name, session))?;
            }
            Ok(())
        };
        stop.run_until_cancelled(loaded).await.unwrap_or(Err(LoadError::Stopped))?;
        *lock(&known.used) = Instant::now();
        let loaded = Loaded { name, _known: known };
        if let Err(trouble) = self.collect().await {
            tracing::warn!(%trouble, "images that are not needed could not be removed");
        }
        Ok(loaded)
    }

    fn known(&self, root: Cid) -> Arc<Known> {
        let new = || Arc::new(Known { turn: Turn::default(), used: Mutex::new(Instant::now()) });
        Arc::clone(lock(&self.shared.known).entry(root).or_insert_with(new))
    }

    async fn is_there(&self, name: &str) -> Result<bool, Trouble> {
        let found = self
            .shared
            .engine
            .ask("find an image", async |docker| docker.inspect_image(name).await);
        match found.await {
            Ok(_) => Ok(true),
            Err(trouble) if trouble.is_absence() => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// Gives the engine an image whose blocks are here.
    async fn bring(&self, root: Cid, name: &str, session: &Session) -> Result<(), LoadError> {
        let (files, bytes) = contents(root, name, session).await?;
        let engine = &self.shared.engine;
        let limit = LOAD + Duration::from_secs(bytes / LOAD_RATE);
        let docker =
            engine.ask("load an image", async |docker| Ok(docker.with_timeout(limit))).await?;
        let body = archive(session.clone(), files);
        match timeout(limit, load(&docker, body)).await {
            Ok(Ok(())) => Ok(()),
            // It has read it, and does not like it.
            Ok(Err(bollard::errors::Error::DockerStreamError { error })) => {
                Err(LoadError::Form(root, error))
            }
            Ok(Err(source)) => Err(Trouble::Failed { what: "load an image", source }.into()),
            Err(_) => Err(Trouble::Silent { what: "load an image" }.into()),
        }
    }

    /// All images that the engine has.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn all(&self) -> Result<Vec<InEngine>, Trouble> {
        let listed = self.shared.engine.ask("list its images", async |docker| {
            docker.list_images(None::<ListImagesOptions>).await
        });
        let ours = |tag: &str| tag.strip_prefix(NAME)?.strip_prefix(':')?.parse().ok();
        let image = |image: ImageSummary| {
            let ids = [NAME, BUILT].map(|name| format!("{name}:"));
            let is_ours = |tag: &&String| ids.iter().any(|name| tag.starts_with(name));
            InEngine {
                id: image.id,
                roots: image.repo_tags.iter().filter_map(|tag| ours(tag)).collect(),
                names: image.repo_tags.iter().filter(|tag| !is_ours(tag)).cloned().collect(),
                size: image.size.cast_unsigned(),
            }
        };
        Ok(listed.await?.into_iter().map(image).collect())
    }

    /// Takes our name from an image; what has no other is removed, unless somebody uses it.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn forget(&self, root: Cid) -> Result<(), Trouble> {
        match self.untag(&format!("{NAME}:{root}")).await {
            Err(trouble) if trouble.is_absence() => Ok(()),
            untagged => untagged,
        }
    }

    async fn untag(&self, tag: &str) -> Result<(), Trouble> {
        let options = RemoveImageOptionsBuilder::default().build();
        let removed = self.shared.engine.ask("remove an image", async |docker| {
            docker.remove_image(tag, Some(options), None).await.map(drop)
        });
        removed.await
    }

    /// Removes the images that were not used for longest, when all take more than they may.
    async fn collect(&self) -> Result<(), Trouble> {
        let engine = &self.shared.engine;
        let filters = HashMap::from([("reference", vec![NAME.to_owned(), BUILT.to_owned()])]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let images =
            engine.ask("list its images", async |docker| docker.list_images(Some(options)).await);
        let images = images.await?;
        let most = engine.options().images;
        let mut taken: u64 = images.iter().map(|image| image.size.cast_unsigned()).sum();
        let mut unused: Vec<(Option<Instant>, u64, Vec<String>)> = {
            let known = lock(&self.shared.known);
            let use_of = |tags: &[String]| {
                let root =
                    tags.iter().find_map(|tag| tag.rsplit_once(':')?.1.parse::<Cid>().ok())?;
                known.get(&root)
            };
            let own = images.iter().map(|image| {
                let is_own = |tag: &&String| {
                    [NAME, BUILT].iter().any(|name| tag.starts_with(&format!("{name}:")))
                };
                let tags: Vec<String> = image.repo_tags.iter().filter(is_own).cloned().collect();
                (image.size.cast_unsigned(), tags)
            });
            let idle = own.filter_map(|(size, tags)| match use_of(&tags) {
                // One for the list, and none for who holds it.
                Some(known) if Arc::strong_count(known) > 1 => None,
                known => Some((known.map(|known| *lock(&known.used)), size, tags)),
            });
            idle.collect()
        };
        unused.sort_by_key(|(used, ..)| *used);
        for (_, size, tags) in unused {
            if taken <= most {
                break;
            }
            for tag in tags {
                if let Err(trouble) = self.untag(&tag).await {
                    tracing::debug!(%trouble, tag, "an image stays");
                }
            }
            taken = taken.saturating_sub(size);
        }
        Ok(())
    }
}

/// What the engine is given of an image, as [`docker load`] takes it, and how many bytes that is.
///
/// [`docker load`]: https://docs.docker.com/reference/api/engine/
async fn contents(
    root: Cid,
    name: &str,
    session: &Session,
) -> Result<(Vec<(String, Content)>, u64), LoadError> {
    let form = |why: String| LoadError::Form(root, why);
    let all: BTreeMap<String, FileRef> = unixfs::files(session, root).await?.into_iter().collect();
    let find =
        |path: &str| all.get(path).copied().ok_or_else(|| form(format!("it has no `{path}`")));
    let text = async |file: FileRef| {
        if file.len > layout::JSON_LIMIT as u64 {
            return Err(form(format!("a file of {} bytes says what it is", file.len)));
        }
        let mut reader = FileReader::open_file(session.clone(), &file).await?;
        let mut text = Vec::new();
        while (text.len() as u64) < file.len {
            text.extend_from_slice(&reader.read_at(text.len() as u64, READ).await?);
        }
        Ok(text)
    };
    let manifest = layout::manifest_of(&text(find(layout::INDEX)?).await?).map_err(form)?;
    let parts = layout::parts_of(&text(find(&manifest.path())?).await?).map_err(form)?;
    let config = text(find(&parts.config.path())?).await?;
    if Digest::of(&config) != parts.config {
        return Err(form("its configuration is not what its manifest names".to_owned()));
    }
    let layers: Vec<String> = parts.layers.iter().map(Digest::path).collect();
    // Under no other name than ours: an image must not take the place of another.
    let list = json!([{ "Config": parts.config.path(), "RepoTags": [name], "Layers": layers }]);
    let mut files = vec![("manifest.json".to_owned(), Content::Text(list.to_string().into()))];
    let mut bytes = 0;
    for path in [parts.config.path()].into_iter().chain(layers) {
        let file = find(&path)?;
        bytes += file.len;
        if !files.iter().any(|(known, _)| *known == path) {
            files.push((path, Content::File(file)));
        }
    }
    Ok((files, bytes))
}

async fn load(
    docker: &Docker,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Result<(), bollard::errors::Error> {
    let options = ImportImageOptionsBuilder::default().quiet(true).build();
    let mut said = docker.import_image_stream(options, body, None);
    while let Some(said) = said.next().await {
        said?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
