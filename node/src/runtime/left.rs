//! Files that a program left in a folder: found when it has ended, with all that it started. No link is followed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// As much as a program may leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    /// Files.
    pub(super) files: usize,
    /// Bytes of all their paths together.
    pub(super) names: usize,
}

/// The files below `out`, open, by their paths there; or why they cannot be kept.
pub(super) fn walk(out: &Path, most: Most) -> io::Result<Result<Vec<(String, File)>, String>> {
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
            if bytes > most.names {
                return Ok(Err(format!("its names have more than {} bytes together", most.names)));
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(path);
            } else if !kind.is_file() {
                return Ok(Err(format!("`{path}` is neither a file nor a directory")));
            } else if files.len() == most.files {
                return Ok(Err(format!("there are more than {} files", most.files)));
            } else {
                files.push((path, open(&entry.path())?));
            }
        }
    }
    Ok(Ok(files))
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);
    File::options().read(true).custom_flags(flags.bits() as i32).open(path)
}
