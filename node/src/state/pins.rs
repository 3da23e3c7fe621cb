//! Which trees of blocks must be kept, and why. The walk over their blocks is
//! [`crate::blocks::pins`]'s.

use std::fmt;
use std::str::FromStr;

use ipdc_jobs::ids::{BadJobId, Cid, JobId};
use rusqlite::Connection;
use rusqlite::types::Type;

use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
    CREATE TABLE pins (
        root   BLOB NOT NULL, -- the CID's bytes
        reason TEXT NOT NULL, -- as Reason writes itself
        PRIMARY KEY (root, reason)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX pins_by_reason ON pins (reason);
";

/// Why a tree of blocks is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The local user added or pinned it.
    User,
    /// A live job needs it.
    Job(JobId),
    /// It is the result or the report of a job.
    Result(JobId),
    /// It is an interpreter that this node has.
    Runtime,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::User => f.write_str("user"),
            Reason::Job(job) => write!(f, "job:{job}"),
            Reason::Result(job) => write!(f, "result:{job}"),
            Reason::Runtime => f.write_str("runtime"),
        }
    }
}

impl FromStr for Reason {
    type Err = BadJobId;

    fn from_str(text: &str) -> Result<Reason, BadJobId> {
        match text.split_once(':') {
            Some(("job", job)) => Ok(Reason::Job(job.parse()?)),
            Some(("result", job)) => Ok(Reason::Result(job.parse()?)),
            _ if text == "user" => Ok(Reason::User),
            _ if text == "runtime" => Ok(Reason::Runtime),
            _ => Err(BadJobId(text.to_owned())),
        }
    }
}

/// A tree that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The root of the tree.
    pub root: Cid,
    /// Why.
    pub reason: Reason,
}

/// Records a pin; one that is there already stays.
pub(crate) async fn insert(db: &Db, pin: Pin) -> Result<(), StateError> {
    db.call(move |c| write(c, pin)).await
}

/// Records a pin if its tree is kept for any reason already, and says whether it is.
pub(crate) async fn insert_beside(db: &Db, pin: Pin) -> Result<bool, StateError> {
    db.call(move |c| {
        let is_kept = c
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM pins WHERE root = ?)")?
            .query_row([pin.root.to_bytes()], |row| row.get(0))?;
        if is_kept {
            write(c, pin)?;
        }
        Ok(is_kept)
    })
    .await
}

fn write(c: &Connection, pin: Pin) -> rusqlite::Result<()> {
    let row = (pin.root.to_bytes(), pin.reason.to_string());
    c.prepare_cached("INSERT OR IGNORE INTO pins (root, reason) VALUES (?, ?)")?.execute(row)?;
    Ok(())
}

/// Forgets a pin, and says whether it was there.
pub(crate) async fn delete(db: &Db, pin: Pin) -> Result<bool, StateError> {
    db.call(move |c| {
        let row = (pin.root.to_bytes(), pin.reason.to_string());
        Ok(c.execute("DELETE FROM pins WHERE root = ? AND reason = ?", row)? > 0)
    })
    .await
}

/// Forgets every pin for `reason`, and says how many there were.
pub(crate) async fn delete_all(db: &Db, reason: Reason) -> Result<usize, StateError> {
    db.call(move |c| c.execute("DELETE FROM pins WHERE reason = ?", [reason.to_string()])).await
}

/// All pins, by root.
pub(crate) async fn all(db: &Db) -> Result<Vec<Pin>, StateError> {
    db.call(|c| {
        let mut rows = c.prepare_cached("SELECT root, reason FROM pins ORDER BY root, reason")?;
        let pins = rows.query_map([], |row| {
            let (root, reason): (Vec<u8>, String) = (row.get(0)?, row.get(1)?);
            let root = Cid::try_from(root).map_err(|error| unreadable(0, Type::Blob, error))?;
            let reason = reason.parse().map_err(|error| unreadable(1, Type::Text, error))?;
            Ok(Pin { root, reason })
        })?;
        pins.collect()
    })
    .await
}

fn unreadable(
    column: usize,
    of: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, of, Box::new(error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ipdc_jobs::ids::{CODEC_RAW, cid_of};

    use super::*;

    #[tokio::test]
    async fn pins_read_back_each_with_its_reasons() {
        let db = Db::in_memory().unwrap();
        let (job, root) = (JobId::of_manifest(b"job"), cid_of(CODEC_RAW, b"root"));
        let reasons = [Reason::Job(job), Reason::Result(job), Reason::Runtime, Reason::User];
        for reason in reasons.into_iter().chain([Reason::User]) {
            insert(&db, Pin { root, reason }).await.unwrap();
        }
        assert_eq!(all(&db).await.unwrap(), reasons.map(|reason| Pin { root, reason }));
        assert!(delete(&db, Pin { root, reason: Reason::User }).await.unwrap());
        assert!(!delete(&db, Pin { root, reason: Reason::User }).await.unwrap());
        assert_eq!(delete_all(&db, Reason::Job(job)).await.unwrap(), 1);
        let left = [Reason::Result(job), Reason::Runtime];
        assert_eq!(all(&db).await.unwrap(), left.map(|reason| Pin { root, reason }));
    }
}
