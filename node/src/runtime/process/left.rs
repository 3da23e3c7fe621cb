//! What a program leaves in `/out` for its item: looked for when it has ended, with all that it started.
//!
//! It lies in the working directory, so that one mount is both. A file goes to the node as it is, open; nothing of it
//! is read here, and no link is followed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::Path;

use super::root::WORK;
use crate::runtime::left::{Most, walk};
use crate::runtime::outbox::{FILES_LIMIT, OUT};

/// Bytes of all the files' paths together: what fits a packet, with every byte escaped.
const PATHS_LIMIT: usize = 24 << 10;

const MOST: Most = Most { files: FILES_LIMIT, names: PATHS_LIMIT };

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
    Ok(match walk(&out, MOST)? {
        Ok(files) => {
            if files.is_empty() {
                // Folders without files are the next working directory's to forget.
                let _ = fs::remove_dir(&out);
            }
            let (paths, files) = files.into_iter().map(|(path, file)| (path, file.into())).unzip();
            Left { paths: Ok(paths), files }
        }
        Err(why) => Left::refused(why),
    })
}
