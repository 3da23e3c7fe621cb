//! Container images that were brought into blocks, by what they were made from: so that none is made twice.

use ipdc_jobs::ids::Cid;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
CREATE TABLE images (
    source TEXT PRIMARY KEY, -- an engine's image, or the files that it was built from
    root   BLOB NOT NULL,    -- the CID's bytes
    used   INTEGER NOT NULL  -- rises with each use
) STRICT, WITHOUT ROWID;
";

/// Images that are remembered: those of a few hundred versions of a job.
const KEPT: u32 = 1_000;

/// Writes down what was made of `source`.
///
/// # Errors
/// When the database fails.
pub async fn set(db: &Db, source: String, root: Cid) -> Result<(), StateError> {
    db.call(move |c| {
        c.execute(
            "INSERT OR REPLACE INTO images VALUES (?, ?, (SELECT ifnull(max(used), 0) + 1 FROM images))",
            params![source, root.to_bytes()],
        )?;
        let forget = "DELETE FROM images WHERE used <= (SELECT max(used) FROM images) - ?";
        c.execute(forget, [KEPT]).map(drop)
    })
    .await
}

/// What was made of `source`. Its blocks may have been collected since.
///
/// # Errors
/// When the database fails.
pub async fn find(db: &Db, source: String) -> Result<Option<Cid>, StateError> {
    db.call(move |c| {
        let root = "SELECT root FROM images WHERE source = ?";
        c.query_row(root, [source], |row| cid(row, 0)).optional()
    })
    .await
}

/// All that were brought in, each with what it was made of; the one that was used last first.
///
/// # Errors
/// When the database fails.
pub async fn all(db: &Db) -> Result<Vec<(String, Cid)>, StateError> {
    db.call(|c| {
        let mut all = c.prepare("SELECT source, root FROM images ORDER BY used DESC")?;
        let rows = all.query_map([], |row| Ok((row.get(0)?, cid(row, 1)?)))?;
        rows.collect()
    })
    .await
}

/// Forgets all that was made of whatever and is this image.
///
/// # Errors
/// When the database fails.
pub async fn forget(db: &Db, root: Cid) -> Result<(), StateError> {
    db.call(move |c| c.execute("DELETE FROM images WHERE root = ?", [root.to_bytes()]).map(drop))
        .await
}

fn cid(row: &Row<'_>, column: usize) -> rusqlite::Result<Cid> {
    let bytes: Vec<u8> = row.get(column)?;
    Cid::try_from(bytes).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, error.into())
    })
}
