//! The files in `/job`, the folder behind `/out`, and this program for containers.
//!
//! What the containers of a job may read is laid down once for all of them that run here, and stays for a while: a
//! frame takes seconds, a scene's textures are gigabytes. Each folder is removed with the last who holds it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{ReadAt, TaskError, is_path};

use super::{Trouble, tools};

/// Folders that are kept though nobody uses them: those of the jobs that a node works for by turns.
const KEPT: usize = 4;

/// Bytes that are read at a time: a block.
const READ: usize = 1 << 20;

/// The user that containers run as where the node is root: nobody's, as images without a shell have it.
const NOBODY: u32 = 65_532;

/// Opens a file of the job's, to be read from anywhere.
pub(super) type Open<'a> = dyn FnMut(&FileRef) -> Result<Box<dyn ReadAt>, TaskError> + 'a;

/// The files of jobs. Clones share them.
#[derive(Clone)]
pub struct Mounts {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    /// Counts folders.
    next: AtomicU64,
    /// The one that was used last at the end.
    laid: Mutex<Vec<Arc<Laid>>>,
    /// This program, once a container needs it.
    tools: Mutex<Option<Arc<Tools>>>,
}

/// This program, for containers.
#[derive(Debug)]
pub struct Tools {
    /// What is to be mounted at [`TOOLS`](super::TOOLS).
    pub folder: Folder,
    /// What runs it there; its arguments follow.
    pub command: Vec<String>,
}

/// Files that are laid down, once somebody has done so.
struct Laid {
    files: BTreeMap<String, FileRef>,
    folder: Mutex<Option<Arc<Folder>>>,
}

/// A folder that is removed when nobody holds it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a folder of a container could not be removed");
        }
    }
}

impl Mounts {
    /// Those below `folder`, which is this node's, and empty from here on.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(folder: PathBuf) -> Result<Self, Trouble> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Trouble::disk("folders of containers that an earlier run left")(error));
            }
            _ => {}
        }
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&folder);
        made.map_err(Trouble::disk("the folder for containers"))?;
        // The engine is told absolute paths.
        let folder = folder.canonicalize().map_err(Trouble::disk("the folder for containers"))?;
        let (next, laid, tools) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        let shared = Shared { folder, next, laid, tools };
        Ok(Mounts { shared: Arc::new(shared) })
    }

    /// The user and group that containers run as.
    #[must_use]
    pub fn user() -> (u32, u32) {
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        // What others leave in /out, only root can read.
        if uid.is_root() { (NOBODY, NOBODY) } else { (uid.as_raw(), gid.as_raw()) }
    }

    /// A folder with these files, read by `open`.
    ///
    /// # Errors
    /// When a file cannot be had, or the disk is full.
    pub fn lay(
        &self,
        files: &BTreeMap<String, FileRef>,
        open: &mut Open<'_>,
    ) -> Result<Arc<Folder>, TaskError> {
        let laid = self.laid(files);
        let mut folder = lock(&laid.folder);
        if let Some(folder) = &*folder {
            return Ok(Arc::clone(folder));
        }
        let new = self.folder("job", 0o755).map_err(Trouble::disk("a folder for /job"))?;
        for (path, file) in files {
            write(new.path(), path, file, open)?;
        }
        let new = Arc::new(new);
        *folder = Some(Arc::clone(&new));
        Ok(new)
    }

    /// An empty folder for `/out`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn out(&self) -> Result<Folder, Trouble> {
        let made = self.folder("out", 0o700).and_then(|folder| {
            let (uid, gid) = Self::user();
            chown(folder.path(), Some(uid), Some(gid))?;
            Ok(folder)
        });
        made.map_err(Trouble::disk("a folder for /out"))
    }

    /// A folder with this program, and the command that runs it in a container where the folder is mounted at
    /// [`TOOLS`](super::TOOLS).
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn tools(&self) -> Result<Arc<Tools>, Trouble> {
        let mut tools = lock(&self.shared.tools);
        if let Some(tools) = &*tools {
            return Ok(Arc::clone(tools));
        }
        let made = self.folder("tools", 0o755).and_then(|folder| {
            let command = tools::install(folder.path())?;
            Ok(Arc::new(Tools { folder, command }))
        });
        let made =
            made.map_err(Trouble::disk("this program could not be copied for containers"))?;
        *tools = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Lets go of the files that nobody uses.
    pub(super) fn clear(&self) {
        lock(&self.shared.laid).clear();
        lock(&self.shared.tools).take();
    }

    fn laid(&self, files: &BTreeMap<String, FileRef>) -> Arc<Laid> {
        let mut all = lock(&self.shared.laid);
        let laid = match all.iter().position(|laid| laid.files == *files) {
            Some(at) => all.remove(at),
            None => Arc::new(Laid { files: files.clone(), folder: Mutex::default() }),
        };
        all.push(Arc::clone(&laid));
        if all.len() > KEPT {
            all.remove(0);
        }
        laid
    }

    fn folder(&self, what: &str, mode: u32) -> io::Result<Folder> {
        let n = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let path = self.shared.folder.join(format!("{what}{n}"));
        DirBuilder::new().mode(mode).create(&path)?;
        let folder = Folder(path);
        // Whatever this process's mask is.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode))?;
        Ok(folder)
    }
}

/// Writes one file at its path in `folder`, for everybody to read.
fn write(folder: &Path, path: &str, file: &FileRef, open: &mut Open<'_>) -> Result<(), TaskError> {
    let disk =
        |error| TaskError::from(Trouble::disk("the files in /job could not be written")(error));
    if !is_path(path) {
        return Err(disk(io::Error::other(format!("`{path}` is no path"))));
    }
    let mut parent = folder.to_owned();
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    for part in folders.split('/').filter(|part| !part.is_empty()) {
        parent.push(part);
        match fs::create_dir(&parent) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made.map_err(disk)?;
                fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).map_err(disk)?;
            }
        }
    }
    let mut reader = open(file)?;
    let mut to = File::create_new(parent.join(name)).map_err(disk)?;
    to.set_permissions(fs::Permissions::from_mode(0o644)).map_err(disk)?;
    let mut at = 0;
    while at < file.len {
        let read = reader.read_at(at, READ).map_err(|error| TaskError::of_read(file, error))?;
        to.write_all(&read).map_err(disk)?;
        at += read.len() as u64;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
