//! Pages that jobs fetched here, in the memo's file: losing them costs time and nothing else.

use rusqlite::{OptionalExtension, params};

use super::memo::next_use;
use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
CREATE TABLE pages (
    key   BLOB PRIMARY KEY,
    entry TEXT NOT NULL,
    used  INTEGER NOT NULL -- counts up; the lowest was not used for longest
) STRICT, WITHOUT ROWID;
CREATE INDEX pages_by_use ON pages (used);
";

/// How many are remembered: a crawl of a large site, in some hundred megabytes at most.
const ROWS_LIMIT: i64 = 100_000;

/// The hash that names a page, and for whom it was fetched.
pub type PageKey = [u8; 32];

/// What is remembered of the page, as JSON. Counts as a use.
///
/// # Errors
/// When the database fails.
pub async fn find(db: &Db, key: PageKey) -> Result<Option<String>, StateError> {
    db.call(move |c| {
        let used = next_use(c, "pages")?;
        let mut found =
            c.prepare_cached("UPDATE pages SET used = ?2 WHERE key = ?1 RETURNING entry")?;
        found.query_row(params![key, used], |row| row.get(0)).optional()
    })
    .await
}

/// Remembers `entry`, in place of what was there and of what was not used for longest.
///
/// # Errors
/// When the database fails.
pub async fn remember(db: &Db, key: PageKey, entry: String) -> Result<(), StateError> {
    db.call(move |c| {
        let used = next_use(c, "pages")?;
        c.prepare_cached("INSERT OR REPLACE INTO pages (key, entry, used) VALUES (?, ?, ?)")?
            .execute(params![key, entry, used])?;
        // Each use has a number of its own, so at most the limit are above this one.
        c.prepare_cached("DELETE FROM pages WHERE used <= ?")?.execute([used - ROWS_LIMIT])?;
        Ok(())
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_remembered_is_found_until_so_many_others_were_used() {
        let db = Db::in_memory().unwrap();
        let key = |n: u8| [n; 32];
        for n in 0..3 {
            remember(&db, key(n), format!("page {n}")).await.unwrap();
        }
        assert_eq!(find(&db, key(0)).await.unwrap().as_deref(), Some("page 0"));
        assert_eq!(find(&db, key(9)).await.unwrap(), None);
        // As if there had been so many since, but for the last use.
        let later = ROWS_LIMIT + 2;
        db.call(move |c| c.execute("UPDATE pages SET used = ? WHERE used = 4", [later]).map(drop))
            .await
            .unwrap();
        remember(&db, key(4), "page 4".to_owned()).await.unwrap();
        for (n, expected) in [(0, true), (1, false), (2, false), (4, true)] {
            assert_eq!(find(&db, key(n)).await.unwrap().is_some(), expected, "{n}");
        }
    }
}
