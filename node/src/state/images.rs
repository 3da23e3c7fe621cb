//! Container images that were brought into blocks, by what they were made from: so that none is made twice.

use ipdc_jobs::ids::Cid;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension as _, params};

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
        c.query_row(root, [source], |row| {
            let bytes: Vec<u8> = row.get(0)?;
            Cid::try_from(bytes).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, error.into())
            })
        })
        .optional()
    })
    .await
}
