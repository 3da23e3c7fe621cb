//! Files between this machine's directories and the swarm: walking, sending, fetching.
//!
//! Sending skips what is neither file nor directory and says so. Fetching writes beside the goal
//! and renames at the end, so that what is there is whole; it never writes over anything, and
//! takes no name that could lead out of its directory.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;

use super::error::CliError;
use super::progress::Progress;
use crate::api::client::{Client, Meter};
use crate::view::{AddQuery, Added, ContentPath, NewDir, NewDirEntry, NodeKind};

/// Files sent or fetched at once: enough to hide the flush of each to disk, few enough to keep a
/// small node's memory small.
const PARALLEL: usize = 8;

/// The most files and directories in one transfer: about what a node can list in one answer.
const ENTRIES_LIMIT: usize = 1_000_000;

/// The file that marks a directory as a cache: <https://bford.info/cachedir/>.
const CACHE_MARK: &str = "CACHEDIR.TAG";

/// What `ipdc add` reads from stdin.
pub(super) const STDIN: &str = "-";

/// What was added, and what was left out.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sent {
    #[serde(flatten)]
    pub(super) added: Added,
    /// Symbolic links and special files.
    pub(super) skipped: Vec<PathBuf>,
}

/// Adds a file, a directory with all below it, or stdin, and pins it for the user.
pub(super) async fn send(
    client: &Client,
    path: &Path,
    progress: &Progress,
) -> Result<Sent, CliError> {
    let whole = |added| Sent { added, skipped: Vec::new() };
    if path.as_os_str() == STDIN {
        let meter = Meter::default();
        let sending = client.add_file(tokio::io::stdin(), AddQuery::default(), &meter);
        return Ok(whole(progress.during("adding stdin", &meter, None, sending).await?));
    }
    let what = fs::metadata(path).map_err(CliError::file("read", path))?;
    if what.is_file() {
        let meter = Meter::default();
        let label = format!("adding {}", path.display());
        let sending = send_file(client, path, AddQuery::default(), &meter);
        return Ok(whole(progress.during(&label, &meter, Some(what.len()), sending).await?));
    }
    if !what.is_dir() {
        let why = "it is neither a file nor a directory";
        return Err(CliError::NotAddable { path: path.to_owned(), why });
    }
    send_dir(client, path, |_| false, progress).await
}

/// Adds a job directory, but for what builds left in it: directories that are marked as caches, as
/// cargo's `target` is.
pub(super) async fn send_job(
    client: &Client,
    path: &Path,
    progress: &Progress,
) -> Result<Sent, CliError> {
    send_dir(client, path, |dir| dir.join(CACHE_MARK).is_file(), progress).await
}

async fn send_dir(
    client: &Client,
    path: &Path,
    leave_out: fn(&Path) -> bool,
    progress: &Progress,
) -> Result<Sent, CliError> {
    let label = format!("adding {}", path.display());
    let root = path.to_owned();
    send_walked(client, &label, move || walk(&root, leave_out), progress).await
}

/// Adds files and directories as one directory, each at the name beside it, and pins that for the
/// user. `what` they are is for the progress.
pub(super) async fn send_matches(
    client: &Client,
    what: &str,
    matches: Vec<(PathBuf, String)>,
    progress: &Progress,
) -> Result<Sent, CliError> {
    let walk = move || {
        let mut walked = Walked::default();
        for (path, name) in matches {
            // What is matched is meant: a symbolic link too.
            let what = fs::metadata(&path).map_err(CliError::file("read", &path))?;
            walked.take(path, name, &what)?;
        }
        Ok(walked.end())
    };
    send_walked(client, &format!("adding {what}"), walk, progress).await
}

async fn send_walked(
    client: &Client,
    label: &str,
    walk: impl FnOnce() -> Result<Walked, CliError> + Send + 'static,
    progress: &Progress,
) -> Result<Sent, CliError> {
    let walked = tokio::task::spawn_blocking(walk)
        .await
        .expect("a walk does not panic and is not aborted")?;
    let meter = Meter::default();
    let sending = send_files(client, &walked.files, &meter);
    let entries = progress.during(label, &meter, Some(walked.size), sending).await?;
    let added = client.add_dir(&NewDir { entries }, AddQuery::default()).await?;
    Ok(Sent { added, skipped: walked.skipped })
}

async fn send_files(
    client: &Client,
    files: &[Found],
    meter: &Meter,
) -> Result<Vec<NewDirEntry>, CliError> {
    stream::iter(files)
        .map(|file| async move {
            // The directory that will hold it is what is pinned.
            let added = send_file(client, &file.path, AddQuery { pin: false }, meter).await?;
            Ok(NewDirEntry { path: file.name.clone(), cid: added.cid, size: added.size })
        })
        .buffered(PARALLEL)
        .try_collect()
        .await
}

async fn send_file(
    client: &Client,
    path: &Path,
    query: AddQuery,
    meter: &Meter,
) -> Result<Added, CliError> {
    let file = tokio::fs::File::open(path).await.map_err(CliError::file("read", path))?;
    Ok(client.add_file(file, query, meter).await?)
}

/// What a directory holds, for sending.
#[derive(Debug, Default)]
struct Walked {
    files: Vec<Found>,
    /// Bytes of all files together.
    size: u64,
    skipped: Vec<PathBuf>,
}

#[derive(Debug)]
struct Found {
    path: PathBuf,
    /// Relative to the directory, `/` between parts.
    name: String,
}

/// Every file below `root`, in the order of their names, but for those in a directory that
/// `leave_out` names.
fn walk(root: &Path, leave_out: fn(&Path) -> bool) -> Result<Walked, CliError> {
    let mut walked = Walked::default();
    walked.take_below(root, "", leave_out)?;
    Ok(walked.end())
}

impl Walked {
    /// Takes the file at `path` under `name`, or, of a directory, all below it.
    fn take(&mut self, path: PathBuf, name: String, what: &fs::Metadata) -> Result<(), CliError> {
        if what.is_dir() {
            return self.take_below(&path, &format!("{name}/"), |_| false);
        }
        if what.is_file() {
            self.size += what.len();
            self.files.push(Found { path, name });
        } else {
            self.skipped.push(path);
        }
        Ok(())
    }

    fn take_below(
        &mut self,
        root: &Path,
        prefix: &str,
        leave_out: fn(&Path) -> bool,
    ) -> Result<(), CliError> {
        let mut dirs = VecDeque::from([(root.to_owned(), prefix.to_owned())]);
        while let Some((dir, prefix)) = dirs.pop_front() {
            for entry in fs::read_dir(&dir).map_err(CliError::file("read", &dir))? {
                let entry = entry.map_err(CliError::file("read", &dir))?;
                let path = entry.path();
                let Ok(name) = entry.file_name().into_string() else {
                    return Err(CliError::NotAddable { path, why: "its name is not UTF-8" });
                };
                let name = format!("{prefix}{name}");
                // Of the entry itself: a symbolic link is not followed.
                let what = entry.metadata().map_err(CliError::file("read", &path))?;
                if what.is_dir() {
                    if !leave_out(&path) {
                        dirs.push_back((path, format!("{name}/")));
                    }
                } else {
                    self.take(path, name, &what)?;
                }
            }
            if self.files.len() + dirs.len() > ENTRIES_LIMIT {
                let place = root.display().to_string();
                return Err(CliError::TooMany { place, limit: ENTRIES_LIMIT });
            }
        }
        Ok(())
    }

    /// All that was taken, in order.
    fn end(mut self) -> Walked {
        self.files.sort_by(|a, b| a.name.cmp(&b.name));
        self.skipped.sort();
        self
    }
}

/// What was fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Fetched {
    pub(super) files: u64,
    pub(super) size: u64,
}

/// Fetches a file or a directory to `goal`, which must not be there, or be an empty directory.
pub(super) async fn fetch(
    client: &Client,
    from: &ContentPath,
    goal: &Path,
    progress: &Progress,
) -> Result<Fetched, CliError> {
    check_goal(goal)?;
    progress.say(format!("looking for {from}"));
    let root = client.ls(from).await?;
    let parent = match goal.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(CliError::file("create", parent))?;
    // Renamed whole at the end; removed when anything fails on the way.
    let stage = tempfile::Builder::new()
        .prefix(".ipdc-get-")
        .tempdir_in(parent)
        .map_err(CliError::file("write in", parent))?;
    let staged = stage.path().join("whole");
    let plan = match root.kind {
        NodeKind::File => {
            Plan { dirs: Vec::new(), files: vec![(from.clone(), staged.clone())], size: root.size }
        }
        NodeKind::Dir => plan(client, root.cid.into(), &staged).await?,
    };
    for dir in &plan.dirs {
        fs::create_dir(dir).map_err(CliError::file("create", dir))?;
    }
    let meter = Meter::default();
    let label = format!("getting {from}");
    let fetching = stream::iter(&plan.files)
        .map(|(from, to)| fetch_file(client, from, to, &meter))
        .buffer_unordered(PARALLEL)
        .try_collect::<()>();
    progress.during(&label, &meter, Some(plan.size), fetching).await?;
    put_in_place(&staged, goal)?;
    Ok(Fetched { files: plan.files.len() as u64, size: meter.bytes() })
}

/// What is to be made to have a directory.
struct Plan {
    /// Parents before children.
    dirs: Vec<PathBuf>,
    files: Vec<(ContentPath, PathBuf)>,
    size: u64,
}

async fn plan(client: &Client, root: ContentPath, to: &Path) -> Result<Plan, CliError> {
    let mut plan = Plan { dirs: vec![to.to_owned()], files: Vec::new(), size: 0 };
    let mut pending = VecDeque::from([(root.clone(), to.to_owned())]);
    while let Some((from, to)) = pending.pop_front() {
        for entry in client.ls(&from).await?.entries {
            let to = to.join(safe_name(&entry.name)?);
            let from = ContentPath::from(entry.cid);
            match entry.kind {
                NodeKind::Dir => {
                    plan.dirs.push(to.clone());
                    pending.push_back((from, to));
                }
                NodeKind::File => {
                    plan.size += entry.size;
                    plan.files.push((from, to));
                }
            }
        }
        if plan.files.len() + plan.dirs.len() > ENTRIES_LIMIT {
            return Err(CliError::TooMany { place: root.to_string(), limit: ENTRIES_LIMIT });
        }
    }
    Ok(plan)
}

async fn fetch_file(
    client: &Client,
    from: &ContentPath,
    to: &Path,
    meter: &Meter,
) -> Result<(), CliError> {
    let mut download = client.cat(from, None).await?;
    let mut file = tokio::fs::File::create_new(to).await.map_err(CliError::file("write", to))?;
    while let Some(chunk) = download.next_chunk().await? {
        file.write_all(&chunk).await.map_err(CliError::file("write", to))?;
        meter.add(chunk.len() as u64);
    }
    file.flush().await.map_err(CliError::file("write", to))
}

/// The name of a directory's entry, if a file here may have it.
fn safe_name(name: &str) -> Result<&str, CliError> {
    let unsafe_name = matches!(name, "" | "." | "..") || name.contains(['/', '\0']);
    if unsafe_name { Err(CliError::Name { name: name.to_owned() }) } else { Ok(name) }
}

/// Refuses a goal that is there, unless it is a directory with nothing in it.
pub(super) fn check_goal(goal: &Path) -> Result<(), CliError> {
    let free = match fs::symlink_metadata(goal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(source) => return Err(CliError::file("write", goal)(source)),
        Ok(what) if what.is_dir() => {
            let mut entries = fs::read_dir(goal).map_err(CliError::file("read", goal))?;
            entries.next().is_none()
        }
        Ok(_) => false,
    };
    if free { Ok(()) } else { Err(CliError::Exists { path: goal.to_owned() }) }
}

/// Moves what was fetched to its place, if that is still free.
fn put_in_place(staged: &Path, goal: &Path) -> Result<(), CliError> {
    check_goal(goal)?;
    if staged.is_file() {
        // An empty directory was good enough to hold a directory, not to become a file. A hard
        // link, unlike a rename, never replaces what came to be there meanwhile.
        return fs::hard_link(staged, goal).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CliError::Exists { path: goal.to_owned() },
            _ => CliError::file("write", goal)(source),
        });
    }
    fs::rename(staged, goal).map_err(|source| match source.kind() {
        io::ErrorKind::DirectoryNotEmpty => CliError::Exists { path: goal.to_owned() },
        _ => CliError::file("write", goal)(source),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::fake::FakeNode;
    use crate::cli::output::{Form, Output};
    use crate::view::Entry;

    fn unseen() -> Progress {
        Progress::new(Output::new(Form::Quiet))
    }

    #[tokio::test]
    async fn a_directory_comes_back_as_it_was_sent() {
        let node = FakeNode::start().await;
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("sub")).unwrap();
        let large = vec![b'x'; 3_000_000];
        fs::write(from.join("large"), &large).unwrap();
        fs::write(from.join("sub/small"), "small").unwrap();
        fs::write(from.join("empty"), "").unwrap();
        let sent = send(&node.client(), &from, &unseen()).await.unwrap();
        assert_eq!(sent.added.size, 3_000_005);

        let to = dir.path().join("new/place");
        let fetched = fetch(&node.client(), &sent.added.cid.into(), &to, &unseen()).await.unwrap();
        assert_eq!(fetched, Fetched { files: 3, size: 3_000_005 });
        assert_eq!(fs::read(to.join("large")).unwrap(), large);
        assert_eq!(fs::read(to.join("sub/small")).unwrap(), b"small");
        assert_eq!(fs::read(to.join("empty")).unwrap(), b"");
        let left: Vec<_> = fs::read_dir(to.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing is left beside it: {left:?}");
    }

    #[tokio::test]
    async fn a_directory_with_a_name_that_leads_out_leaves_nothing_behind() {
        let node = FakeNode::start().await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "evil").unwrap();
        let cid = send(&node.client(), &file, &unseen()).await.unwrap().added.cid;
        let root = ipdc_jobs::ids::cid_of(ipdc_jobs::ids::CODEC_DAG_PB, b"evil");
        let entry = Entry { name: "../evil".into(), cid, size: 4, kind: NodeKind::File };
        node.world().dirs.insert(root, vec![entry]);

        let goal = dir.path().join("goal");
        let error = fetch(&node.client(), &root.into(), &goal, &unseen()).await.unwrap_err();
        assert!(matches!(error, CliError::Name { name } if name == "../evil"));
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [file]);
    }

    #[test]
    fn a_walk_finds_files_at_any_depth_and_skips_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/c")).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        fs::write(dir.path().join("b/c/deep"), "12345").unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let walked = walk(dir.path(), |_| false).unwrap();
        let names: Vec<_> = walked.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a", "b/c/deep"]);
        assert_eq!(walked.size, 6);
        assert_eq!(walked.skipped, [dir.path().join("link")]);
        let walked = walk(dir.path(), |dir| dir.ends_with("c")).unwrap();
        let names: Vec<_> = walked.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn no_name_leads_out_of_its_directory() {
        for name in ["", ".", "..", "a/b", "../x", "/etc/passwd", "a\0b"] {
            assert!(matches!(safe_name(name), Err(CliError::Name { .. })), "{name:?}");
        }
        for name in ["a", "..a", "part-00000", "ß", "a b", "-rf"] {
            assert_eq!(safe_name(name).unwrap(), name);
        }
    }

    #[test]
    fn nothing_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let staged = dir.path().join("staged");
        let goal = dir.path().join("goal");
        fs::write(&staged, "new").unwrap();
        fs::write(&goal, "old").unwrap();
        assert!(matches!(check_goal(&goal), Err(CliError::Exists { .. })));
        assert!(matches!(put_in_place(&staged, &goal), Err(CliError::Exists { .. })));
        assert_eq!(fs::read_to_string(&goal).unwrap(), "old");

        let free = dir.path().join("free");
        put_in_place(&staged, &free).unwrap();
        assert_eq!(fs::read_to_string(&free).unwrap(), "new");
    }

    #[test]
    fn a_directory_takes_the_place_of_an_empty_one_only() {
        let dir = tempfile::tempdir().unwrap();
        let staged = dir.path().join("staged");
        fs::create_dir(&staged).unwrap();
        fs::write(staged.join("part-00000"), "x").unwrap();
        let goal = dir.path().join("goal");
        fs::create_dir(&goal).unwrap();
        put_in_place(&staged, &goal).unwrap();
        assert!(goal.join("part-00000").is_file());
        assert!(matches!(check_goal(&goal), Err(CliError::Exists { .. })));
    }
}
