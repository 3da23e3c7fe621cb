//! The interpreters that this node's user added, each by the runtime it is for.

use ipdc_jobs::ids::{Cid, FileRef};
use rusqlite::types::Type;
use rusqlite::{Row, params};

use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
CREATE TABLE interpreters (
    runtime TEXT PRIMARY KEY, -- its name
    cid     BLOB NOT NULL,    -- the CID's bytes
    len     INTEGER NOT NULL, -- in bytes
    version TEXT NOT NULL     -- as it says itself
) STRICT, WITHOUT ROWID;
";

/// An interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// The runtime that it is for, by its name.
    pub runtime: String,
    /// The module.
    pub file: FileRef,
    /// Its version, as it says itself.
    pub version: String,
}

/// Writes one down, in the place of what its runtime had.
///
/// # Errors
/// When the database fails.
pub async fn set(db: &Db, interpreter: Interpreter) -> Result<(), StateError> {
    db.call(move |c| {
        let Interpreter { runtime, file, version } = interpreter;
        let row = params![runtime, file.cid.to_bytes(), file.len.cast_signed(), version];
        c.execute("INSERT OR REPLACE INTO interpreters VALUES (?, ?, ?, ?)", row)?;
        Ok(())
    })
    .await
}

/// Forgets that of a runtime.
///
/// # Errors
/// When the database fails.
pub async fn forget(db: &Db, runtime: String) -> Result<(), StateError> {
    db.call(move |c| c.execute("DELETE FROM interpreters WHERE runtime = ?", [runtime]).map(drop))
        .await
}

/// All of them, by their runtimes' names.
///
/// # Errors
/// When the database fails.
pub async fn all(db: &Db) -> Result<Vec<Interpreter>, StateError> {
    db.call(|c| {
        let mut rows = c.prepare_cached("SELECT * FROM interpreters ORDER BY runtime")?;
        rows.query_map([], read)?.collect()
    })
    .await
}

fn read(row: &Row<'_>) -> rusqlite::Result<Interpreter> {
    let cid: Vec<u8> = row.get(1)?;
    let cid = Cid::try_from(cid).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, Type::Blob, Box::new(error))
    })?;
    let file = FileRef { cid, len: row.get::<_, i64>(2)?.cast_unsigned() };
    Ok(Interpreter { runtime: row.get(0)?, file, version: row.get(3)? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipdc_jobs::ids::{CODEC_RAW, cid_of};

    use super::*;

    #[tokio::test]
    async fn a_runtime_has_the_interpreter_that_was_added_last_until_it_is_forgotten() {
        let db = Db::in_memory().unwrap();
        let of = |version: &str| {
            let file = FileRef { cid: cid_of(CODEC_RAW, version.as_bytes()), len: u64::MAX };
            Interpreter { runtime: "python".into(), file, version: version.into() }
        };
        set(&db, of("3.12")).await.unwrap();
        set(&db, of("3.13")).await.unwrap();
        assert_eq!(all(&db).await.unwrap(), [of("3.13")]);
        forget(&db, "python".into()).await.unwrap();
        assert_eq!(all(&db).await.unwrap(), []);
    }
}
