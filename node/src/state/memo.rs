//! The memo's table: which output a task of this name gave here. A file of its own
//! ([`Db::open_memo`]), because losing the end of it costs time and nothing else.

use std::collections::HashMap;

use ipdc_jobs::memo::MemoKey;
use rusqlite::{OptionalExtension, params};

use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
CREATE TABLE memo (
    key   BLOB PRIMARY KEY,
    entry TEXT NOT NULL,
    used  INTEGER NOT NULL -- counts up; the lowest was not used for longest
) STRICT, WITHOUT ROWID;
CREATE INDEX memo_by_use ON memo (used);
";

/// How many outputs are remembered: those of 800 GB of input in splits of 4 MiB, in at most some
/// hundred megabytes of rows.
const ROWS_LIMIT: u32 = 200_000;

/// Every so many uses the rows are counted, and those beyond the limit removed: counting reads the
/// whole index.
const COUNT_EVERY: i64 = 1_000;

/// What is remembered under these keys, as JSON. Counts as a use.
///
/// # Errors
/// When the database fails.
pub async fn find(db: &Db, keys: Vec<MemoKey>) -> Result<HashMap<MemoKey, String>, StateError> {
    db.call(move |c| {
        let used = next_use(c)?;
        let mut found = HashMap::new();
        let mut use_row =
            c.prepare_cached("UPDATE memo SET used = ?2 WHERE key = ?1 RETURNING entry")?;
        for key in keys {
            let entry = use_row.query_row(params![key.as_bytes(), used], |row| row.get(0));
            found.extend(entry.optional()?.map(|entry| (key, entry)));
        }
        Ok(found)
    })
    .await
}

/// Remembers `entry` under `key`, in place of what was there.
///
/// # Errors
/// When the database fails.
pub async fn remember(db: &Db, key: MemoKey, entry: String) -> Result<(), StateError> {
    db.call(move |c| {
        let used = next_use(c)?;
        c.prepare_cached("INSERT OR REPLACE INTO memo (key, entry, used) VALUES (?, ?, ?)")?
            .execute(params![key.as_bytes(), entry, used])?;
        if used % COUNT_EVERY == 0 {
            c.execute(
                "DELETE FROM memo WHERE key IN
                     (SELECT key FROM memo ORDER BY used DESC LIMIT -1 OFFSET ?)",
                [ROWS_LIMIT],
            )?;
        }
        Ok(())
    })
    .await
}

/// Forgets these: their blocks are gone.
///
/// # Errors
/// When the database fails.
pub async fn forget(db: &Db, keys: Vec<MemoKey>) -> Result<(), StateError> {
    db.call(move |c| {
        let mut delete = c.prepare_cached("DELETE FROM memo WHERE key = ?")?;
        keys.iter().try_for_each(|key| delete.execute([key.as_bytes()]).map(|_| ()))
    })
    .await
}

fn next_use(c: &rusqlite::Connection) -> rusqlite::Result<i64> {
    c.prepare_cached("SELECT coalesce(max(used), 0) + 1 FROM memo")?.query_row([], |row| row.get(0))
}
