//! Users for programs: numbers that are nobody's, each for one launcher of the machine at a time.
//!
//! A lock file for each keeps them apart, also those of several nodes on one machine. The lock goes with the
//! process that holds it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::config::Uids;

/// Where the locks are: a folder that is empty after a start of the machine, and root's.
const LOCKS: &str = "/run/ipdc-uids";

/// A user of one's own.
pub(super) struct Uid {
    pub(super) number: u32,
    _lock: File,
}

impl Uid {
    /// The first of `uids` that nobody has.
    ///
    /// # Errors
    /// When all are taken, or the locks cannot be written.
    pub(super) fn take(uids: Uids) -> io::Result<Uid> {
        Uid::take_at(Path::new(LOCKS), uids)
    }

    fn take_at(locks: &Path, uids: Uids) -> io::Result<Uid> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(locks)?;
        for number in uids.all() {
            let lock = File::create(locks.join(number.to_string()))?;
            match lock.try_lock() {
                Ok(()) => return Ok(Uid { number, _lock: lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        let what = format!("all users from {uids} are taken (`uids` under [process] in ipdc.toml)");
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, what))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_user_is_had_by_one_at_a_time_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let take = || Uid::take_at(folder.path(), "70000-70001".parse().unwrap());
        let (one, other) = (take().unwrap(), take().unwrap());
        assert_eq!([one.number, other.number], [70000, 70001]);
        assert!(take().err().unwrap().to_string().contains("70000-70001"));
        drop(one);
        assert_eq!(take().unwrap().number, 70000);
    }
}
