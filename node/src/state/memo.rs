//! The memo's tables: which output a task of this name gave here, and, for jobs that this node
//! controls, who gave it. A file of its own ([`Db::open_memo`]), because losing the end of it costs
//! time and nothing else.

use std::collections::HashMap;

use ipdc_jobs::ids::PeerId;
use ipdc_jobs::memo::MemoKey;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
CREATE TABLE memo (
    key   BLOB PRIMARY KEY,
    entry TEXT NOT NULL,
    used  INTEGER NOT NULL -- counts up; the lowest was not used for longest
) STRICT, WITHOUT ROWID;
CREATE INDEX memo_by_use ON memo (used);
CREATE TABLE makers (
    key  BLOB PRIMARY KEY,
    peer BLOB NOT NULL,
    used INTEGER NOT NULL -- as above
) STRICT, WITHOUT ROWID;
CREATE INDEX makers_by_use ON makers (used);
";

/// How many rows a table may have: those of 800 GB of input in splits of 4 MiB, in at most
/// some hundred megabytes.
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
        let used = next_use(c, "memo")?;
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
        let used = next_use(c, "memo")?;
        c.prepare_cached("INSERT OR REPLACE INTO memo (key, entry, used) VALUES (?, ?, ?)")?
            .execute(params![key.as_bytes(), entry, used])?;
        if used % COUNT_EVERY == 0 {
            shrink(c, "memo", ROWS_LIMIT)?;
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

/// Who gave the outputs of these names last.
///
/// # Errors
/// When the database fails.
pub async fn makers(db: &Db, keys: Vec<MemoKey>) -> Result<HashMap<MemoKey, PeerId>, StateError> {
    db.call(move |c| {
        let mut makers = HashMap::new();
        let mut peer = c.prepare_cached("SELECT peer FROM makers WHERE key = ?")?;
        for key in keys {
            let bytes = peer.query_row([key.as_bytes()], |row| row.get::<_, Vec<u8>>(0));
            let peer = bytes.optional()?.and_then(|bytes| PeerId::from_bytes(&bytes).ok());
            makers.extend(peer.map(|peer| (key, peer)));
        }
        Ok(makers)
    })
    .await
}

/// Notes who gave the outputs of these names.
///
/// # Errors
/// When the database fails.
pub async fn note_makers(db: &Db, makers: Vec<(MemoKey, PeerId)>) -> Result<(), StateError> {
    db.call(move |c| {
        let used = next_use(c, "makers")?;
        let mut note =
            c.prepare_cached("INSERT OR REPLACE INTO makers (key, peer, used) VALUES (?, ?, ?)")?;
        for (key, peer) in makers {
            note.execute(params![key.as_bytes(), peer.to_bytes(), used])?;
        }
        shrink(c, "makers", ROWS_LIMIT)
    })
    .await
}

/// The next number of a use.
pub(super) fn next_use(c: &Connection, table: &str) -> rusqlite::Result<i64> {
    let query = format!("SELECT coalesce(max(used), 0) + 1 FROM {table}");
    c.prepare_cached(&query)?.query_row([], |row| row.get(0))
}

/// Removes the rows beyond the limit that were not used for longest.
fn shrink(c: &Connection, table: &str, limit: u32) -> rusqlite::Result<()> {
    let delete = format!(
        "DELETE FROM {table} WHERE key IN
             (SELECT key FROM {table} ORDER BY used DESC LIMIT -1 OFFSET ?)"
    );
    c.execute(&delete, [limit]).map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipdc_jobs::kind;
    use ipdc_jobs::manifest::Limits;

    use super::*;

    /// The key of the reduce task of partition `n`.
    fn key(n: u32) -> MemoKey {
        let (mr, config) = (kind::find("mr").unwrap(), serde_json::json!({}));
        let body = format!("{{\"reduce\":{n}}}");
        MemoKey::of(mr, &config, &Limits::default(), body.as_bytes(), &[]).unwrap()
    }

    #[tokio::test]
    async fn what_is_remembered_is_found_until_it_is_forgotten() {
        let db = Db::in_memory().unwrap();
        remember(&db, key(1), "old".into()).await.unwrap();
        remember(&db, key(1), "one".into()).await.unwrap();
        remember(&db, key(2), "two".into()).await.unwrap();
        let found = find(&db, vec![key(1), key(2), key(3)]).await.unwrap();
        assert_eq!(found, HashMap::from([(key(1), "one".into()), (key(2), "two".into())]));
        forget(&db, vec![key(1)]).await.unwrap();
        assert!(find(&db, vec![key(1)]).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_was_not_used_for_longest_goes_first() {
        let db = Db::in_memory().unwrap();
        for n in 0..4 {
            remember(&db, key(n), n.to_string()).await.unwrap();
        }
        find(&db, vec![key(0)]).await.unwrap();
        db.call(|c| shrink(c, "memo", 2)).await.unwrap();
        let left = find(&db, (0..4).map(key).collect()).await.unwrap();
        assert_eq!(left, HashMap::from([(key(0), "0".into()), (key(3), "3".into())]));
    }

    #[tokio::test]
    async fn the_last_maker_counts() {
        let db = Db::in_memory().unwrap();
        let (first, second) = (PeerId::random(), PeerId::random());
        note_makers(&db, vec![(key(1), first), (key(2), first)]).await.unwrap();
        note_makers(&db, vec![(key(1), second)]).await.unwrap();
        let found = makers(&db, (1..4).map(key).collect()).await.unwrap();
        assert_eq!(found, HashMap::from([(key(1), second), (key(2), first)]));
    }
}
