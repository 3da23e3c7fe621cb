//! The audit log as a table: rows are added, and the oldest of a sort go when there are many. SQLite
//! itself refuses to change one.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::{Db, StateError};
use crate::audit::{Entry, What};

pub(super) const SCHEMA: &str = "
CREATE TABLE audit (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms  INTEGER NOT NULL,
    what   TEXT NOT NULL,
    owner  TEXT NOT NULL,
    peer   TEXT,
    job    TEXT,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_what ON audit (what, seq);
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is not rewritten'); END;
";

/// Entries of one sort that are kept, some 200 bytes each: of what people do, years; of what tasks
/// do, weeks. Each sort has its own, so that who makes many of one cannot wash out the others.
pub const KEPT: u32 = 20_000;

/// The most entries of one answer: a page that a person can still search.
pub const ANSWER_LIMIT: u32 = 10_000;

/// Adds `entries`, in order, all or none.
///
/// # Errors
/// When the database fails.
pub async fn append(db: &Db, entries: Vec<Entry>) -> Result<(), StateError> {
    db.call(move |c| {
        add(c, &entries)?;
        for what in What::ALL.into_iter().filter(|what| entries.iter().any(|e| e.what == *what)) {
            trim(c, what, KEPT)?;
        }
        Ok(())
    })
    .await
}

fn add(c: &Connection, entries: &[Entry]) -> rusqlite::Result<()> {
    let mut insert = c.prepare_cached(
        "INSERT INTO audit (at_ms, what, owner, peer, job, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for Entry { at_ms, what, owner, peer, job, detail } in entries {
        let (peer, job) = (peer.map(|peer| peer.to_string()), job.map(|job| job.to_string()));
        insert.execute(params![at_ms.cast_signed(), what.name(), owner, peer, job, detail])?;
    }
    Ok(())
}

fn trim(c: &Connection, what: What, kept: u32) -> rusqlite::Result<()> {
    c.prepare_cached(
        "DELETE FROM audit WHERE what = ?1 AND seq <=
             (SELECT seq FROM audit WHERE what = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute(params![what.name(), kept])?;
    Ok(())
}

/// The newest entries since `since_ms` (1970), of one owner if one is named, the oldest of them
/// first.
///
/// # Errors
/// When the database fails.
pub async fn read(db: &Db, since_ms: u64, owner: Option<String>) -> Result<Vec<Entry>, StateError> {
    db.call(move |c| {
        c.prepare_cached(
            "SELECT at_ms, what, owner, peer, job, detail FROM
                 (SELECT * FROM audit WHERE at_ms >= ?1 AND (?2 IS NULL OR owner = ?2)
                  ORDER BY seq DESC LIMIT ?3)
             ORDER BY seq",
        )?
        .query_map(params![since_ms.cast_signed(), owner, ANSWER_LIMIT], entry)?
        .collect()
    })
    .await
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let what: String = row.get(1)?;
    let what = What::of_name(&what).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(1, Type::Text, format!("`{what}`?").into())
    })?;
    Ok(Entry {
        at_ms: row.get::<_, i64>(0)?.cast_unsigned(),
        what,
        owner: row.get(2)?,
        peer: parsed(row, 3)?,
        job: parsed(row, 4)?,
        detail: row.get(5)?,
    })
}

fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse()).transpose().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipdc_jobs::ids::JobId;

    use super::*;

    fn entry(at_ms: u64, what: What, owner: &str) -> Entry {
        Entry { at_ms, job: Some(JobId::of_manifest(b"x")), ..Entry::now(what, owner, "as said") }
    }

    #[tokio::test]
    async fn entries_read_back_in_order_since_a_time_and_of_one_owner() {
        let db = Db::in_memory().unwrap();
        let peer = libp2p_identity::Keypair::generate_ed25519().public().to_peer_id();
        let said = [
            Entry { peer: Some(peer), ..entry(1, What::Joined, "ann") },
            entry(2, What::Accepted, "bob"),
            entry(3, What::Refused, "ann"),
        ];
        append(&db, said.to_vec()).await.unwrap();
        assert_eq!(read(&db, 0, None).await.unwrap(), said);
        assert_eq!(read(&db, 2, None).await.unwrap(), said[1..]);
        assert_eq!(read(&db, 2, Some("ann".into())).await.unwrap(), said[2..]);
    }

    #[tokio::test]
    async fn many_of_one_sort_wash_out_the_oldest_of_that_sort_only() {
        let db = Db::in_memory().unwrap();
        let mut said = vec![entry(0, What::Revoked, "ann")];
        said.extend((1..6).map(|n| entry(n, What::Refused, "bob")));
        append(&db, said.clone()).await.unwrap();
        db.call(|c| trim(c, What::Refused, 2)).await.unwrap();
        let kept = read(&db, 0, None).await.unwrap();
        assert_eq!(kept, [&said[..1], &said[4..]].concat());
    }

    #[tokio::test]
    async fn what_was_written_is_not_rewritten() {
        let db = Db::in_memory().unwrap();
        append(&db, vec![entry(1, What::Refused, "bob")]).await.unwrap();
        let rewritten = db.call(|c| c.execute("UPDATE audit SET owner = 'ann'", [])).await;
        assert!(rewritten.is_err_and(|error| format!("{error:?}").contains("not rewritten")));
    }
}
