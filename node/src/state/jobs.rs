//! The jobs this node controls, and their journals.
//!
//! A job's row is written before its submitter is told `accepted`; a journal record before the
//! engine hears that it was appended; the end before anybody hears `done`.

use ipdc_jobs::ids::JobId;
use rusqlite::{OptionalExtension, Row, params};

use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
CREATE TABLE jobs (
    id       TEXT PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    manifest BLOB NOT NULL,
    notes    TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    ended    TEXT,
    logs     TEXT
) STRICT;
CREATE TABLE journal (
    job    TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
    seq    INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (job, seq)
) STRICT, WITHOUT ROWID;
";

/// How many ended jobs are remembered: a year of one job every two hours. The oldest go first;
/// their results stay as long as they are pinned.
const ENDED_LIMIT: u32 = 4_096;

/// Of how many ended jobs the journal is kept, so that their tasks can be run again with what they
/// read of others: a day's debugging, and a few tens of megabytes when they are large.
pub const JOURNALS_KEPT: u32 = 8;

/// A job as stored.
#[derive(Debug, Clone)]
pub struct StoredJob {
    /// Its ID.
    pub id: JobId,
    /// The signed manifest's bytes.
    pub manifest: Vec<u8>,
    /// What the submitter was told beside `accepted`, as JSON.
    pub notes: String,
    /// The final view as JSON; none while it runs.
    pub ended: Option<String>,
}

/// The outcome of [`accept`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// The job is new.
    New,
    /// The submitter's key names this job already.
    Before(JobId),
    /// So many jobs have not ended: it is not taken in.
    Full(u32),
}

/// Commits a job and the first records of its journal, if fewer than `most` have not ended. The same
/// `key` again gives the job that it named first.
///
/// # Errors
/// When the database fails.
pub async fn accept(
    db: &Db,
    job: StoredJob,
    key: String,
    first_records: Vec<String>,
    most: Option<u32>,
) -> Result<Accepted, StateError> {
    db.call(move |c| {
        let before: Option<String> =
            c.query_row("SELECT id FROM jobs WHERE key = ?1", [&key], |r| r.get(0)).optional()?;
        if let Some(id) = before {
            return Ok(Accepted::Before(parse_id(&id)?));
        }
        let open = "SELECT count(*) FROM jobs WHERE ended IS NULL";
        let open: u32 = c.query_row(open, [], |r| r.get(0))?;
        if most.is_some_and(|most| open >= most) {
            return Ok(Accepted::Full(open));
        }
        c.execute(
            "INSERT INTO jobs (id, key, manifest, notes, accepted)
             VALUES (?1, ?2, ?3, ?4, 1 + (SELECT coalesce(max(accepted), 0) FROM jobs))",
            params![job.id.to_string(), key, job.manifest, job.notes],
        )?;
        for (seq, record) in (0_i64..).zip(first_records) {
            c.execute(
                "INSERT INTO journal (job, seq, record) VALUES (?1, ?2, ?3)",
                params![job.id.to_string(), seq, record],
            )?;
        }
        Ok(Accepted::New)
    })
    .await
}

/// The job that the submitter's `key` names.
///
/// # Errors
/// When the database fails.
pub async fn by_key(db: &Db, key: String) -> Result<Option<JobId>, StateError> {
    db.call(move |c| {
        c.query_row("SELECT id FROM jobs WHERE key = ?1", [key], |r| {
            parse_id(&r.get::<_, String>(0)?)
        })
        .optional()
    })
    .await
}

/// Appends records to a job's journal, all or none. Repeating one changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn append(db: &Db, job: JobId, records: Vec<(u64, String)>) -> Result<(), StateError> {
    db.call(move |c| {
        let mut insert = c.prepare_cached(
            "INSERT OR IGNORE INTO journal (job, seq, record) VALUES (?1, ?2, ?3)",
        )?;
        for (seq, record) in records {
            insert.execute(params![job.to_string(), seq.cast_signed(), record])?;
        }
        Ok(())
    })
    .await
}

/// A job's journal, in order.
///
/// # Errors
/// When the database fails.
pub async fn journal(db: &Db, job: JobId) -> Result<Vec<String>, StateError> {
    db.call(move |c| {
        c.prepare("SELECT record FROM journal WHERE job = ?1 ORDER BY seq")?
            .query_map([job.to_string()], |r| r.get(0))?
            .collect()
    })
    .await
}

/// Writes down that a job ended, with its final view and logs, and frees the journal of one that
/// ended before it.
///
/// # Errors
/// When the database fails.
pub async fn end(db: &Db, job: JobId, view: String, logs: String) -> Result<(), StateError> {
    db.call(move |c| {
        c.execute(
            "UPDATE jobs SET ended = ?2, logs = ?3 WHERE id = ?1",
            params![job.to_string(), view, logs],
        )?;
        c.execute(
            "DELETE FROM journal WHERE job IN (SELECT id FROM jobs WHERE ended IS NOT NULL
                 ORDER BY accepted DESC LIMIT -1 OFFSET ?1)",
            [JOURNALS_KEPT],
        )?;
        c.execute(
            "DELETE FROM jobs WHERE ended IS NOT NULL AND accepted <= (SELECT max(accepted) FROM jobs) - ?1",
            [ENDED_LIMIT],
        )?;
        Ok(())
    })
    .await
}

/// A job's signed manifest.
///
/// # Errors
/// When the database fails.
pub async fn manifest(db: &Db, job: JobId) -> Result<Option<Vec<u8>>, StateError> {
    db.call(move |c| {
        let found =
            c.query_row("SELECT manifest FROM jobs WHERE id = ?1", [job.to_string()], |r| r.get(0));
        found.optional()
    })
    .await
}

/// An ended job's logs.
///
/// # Errors
/// When the database fails.
pub async fn logs(db: &Db, job: JobId) -> Result<Option<String>, StateError> {
    db.call(move |c| {
        let found =
            c.query_row("SELECT logs FROM jobs WHERE id = ?1", [job.to_string()], |r| r.get(0));
        Ok(found.optional()?.flatten())
    })
    .await
}

/// Every job, newest first.
///
/// # Errors
/// When the database fails.
pub async fn all(db: &Db) -> Result<Vec<StoredJob>, StateError> {
    db.call(|c| {
        c.prepare("SELECT id, manifest, notes, ended FROM jobs ORDER BY accepted DESC")?
            .query_map([], stored_job)?
            .collect()
    })
    .await
}

fn stored_job(row: &Row<'_>) -> rusqlite::Result<StoredJob> {
    Ok(StoredJob {
        id: parse_id(&row.get::<_, String>(0)?)?,
        manifest: row.get(1)?,
        notes: row.get(2)?,
        ended: row.get(3)?,
    })
}

pub(super) fn parse_id(text: &str) -> rusqlite::Result<JobId> {
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn job(name: &str) -> StoredJob {
        StoredJob {
            id: JobId::of_manifest(name.as_bytes()),
            manifest: name.into(),
            notes: "[]".into(),
            ended: None,
        }
    }

    #[tokio::test]
    async fn the_same_key_names_the_same_job() {
        let db = Db::in_memory().unwrap();
        assert_eq!(
            accept(&db, job("a"), "k".into(), vec!["r0".into()], None).await.unwrap(),
            Accepted::New
        );
        let again = accept(&db, job("b"), "k".into(), vec!["r0".into()], None).await.unwrap();
        assert_eq!(again, Accepted::Before(job("a").id));
        assert_eq!(by_key(&db, "k".into()).await.unwrap(), Some(job("a").id));
        assert_eq!(by_key(&db, "other".into()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn no_more_are_taken_in_than_may_be_under_way_and_an_end_makes_room() {
        let db = Db::in_memory().unwrap();
        let accept = async |name: &str| {
            accept(&db, job(name), name.into(), vec!["r0".into()], Some(2)).await.unwrap()
        };
        assert_eq!(accept("a").await, Accepted::New);
        assert_eq!(accept("b").await, Accepted::New);
        assert_eq!(accept("c").await, Accepted::Full(2));
        assert_eq!(accept("b").await, Accepted::Before(job("b").id), "which was accepted");
        end(&db, job("a").id, "{}".into(), "[]".into()).await.unwrap();
        assert_eq!(accept("c").await, Accepted::New);
    }

    #[tokio::test]
    async fn a_journal_reads_back_in_order_and_goes_when_others_have_ended() {
        let db = Db::in_memory().unwrap();
        let id = job("a").id;
        accept(&db, job("a"), "k".into(), vec!["r0".into()], None).await.unwrap();
        append(&db, id, vec![(1, "r1".into()), (2, "r2".into())]).await.unwrap();
        append(&db, id, vec![(2, "again".into())]).await.unwrap();
        assert_eq!(journal(&db, id).await.unwrap(), ["r0", "r1", "r2"]);
        end(&db, id, "{}".into(), "[]".into()).await.unwrap();
        for n in 0..JOURNALS_KEPT {
            assert_eq!(journal(&db, id).await.unwrap().len(), 3, "{n} ended after it");
            let (later, key) = (job(&format!("later {n}")), format!("k{n}"));
            accept(&db, later.clone(), key, vec!["r0".into()], None).await.unwrap();
            end(&db, later.id, "{}".into(), "[]".into()).await.unwrap();
        }
        assert!(journal(&db, id).await.unwrap().is_empty());
        assert_eq!(logs(&db, id).await.unwrap().as_deref(), Some("[]"));
        let all = all(&db).await.unwrap();
        assert_eq!(all.last().unwrap().ended.as_deref(), Some("{}"));
    }
}
