//! What a program leaves in `/out` for its item: looked for when it has ended, with all that it started.
//!
//! It lies in the working directory, so that one mount is both. A file goes to the node as it is, open; nothing of it
//! is read here, and no link is followed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown};
use std::path::Path;

use rustix::fs::OFlags;

use super::root::WORK;
use crate::runtime::outbox::{FILES_LIMIT, OUT};

/// Bytes of all the files' paths together: what fits a packet, with every byte escaped.
const PATHS_LIMIT: usize = 24 << 10;

/// What was found there.
pub(super) struct Left {
    /// The files' paths below `/out`, or why they cannot be kept.
    pub(super) paths: Result<Vec<String>, String>,
    /// The files, in the same order.
    pub(super) files: Vec<OwnedFd>,
}

impl Left {
    pub(super) fn nothing() -> Left {
        Left { paths: Ok(Vec::new()), files: Vec::new() }
    }

    fn refused(why: String) -> Left {
        Left { paths: Err(why), files: Vec::new() }
    }
}

/// Makes an empty `/out` for the user `uid`.
pub(super) fn make(uid: u32) -> io::Result<()> {
    let out = Path::new(WORK).join(OUT);
    DirBuilder::new().mode(0o700).create(&out)?;
    chown(&out, Some(uid), Some(uid))
}

/// What is in `/out`, which is gone with it when that is nothing.
pub(super) fn take() -> io::Result<Left> {
    let out = Path::new(WORK).join(OUT);
    match fs::symlink_metadata(&out) {
        Ok(found) if found.is_dir() => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Left::nothing()),
        Ok(_) => return Ok(Left::refused("it is no directory any more".to_owned())),
        Err(error) => return Err(error),
    }
    Ok(match walk(&out)? {
        Ok(files) => {
            if files.is_empty() {
                // Folders without files are the next working directory's to forget.
                let _ = fs::remove_dir(&out);
            }
            let (paths, files) = files.into_iter().unzip();
            Left { paths: Ok(paths), files }
        }
        Err(why) => Left::refused(why),
    })
}

/// The files below `out`, by their paths there, or why they cannot be kept.
fn walk(out: &Path) -> io::Result<Result<Vec<(String, OwnedFd)>, String>> {
    let (mut files, mut folders, mut bytes) = (Vec::new(), vec![String::new()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(out.join(&folder))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Ok(Err(format!("the name of {} is not UTF-8", name.display())));
            };
            let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            bytes += path.len();
            if bytes > PATHS_LIMIT {
                return Ok(Err(format!("its names have more than {PATHS_LIMIT} bytes together")));
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(path);
            } else if !kind.is_file() {
                return Ok(Err(format!("`{path}` is neither a file nor a directory")));
            } else if files.len() == FILES_LIMIT {
                return Ok(Err(format!("there are more than {FILES_LIMIT} files")));
            } else {
                files.push((path, open(&entry.path())?));
            }
        }
    }
    Ok(Ok(files))
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path)?;
    Ok(file.into())
}
