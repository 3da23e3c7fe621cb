//! Results of steps, by what determines them: the same again needs not be run.
//!
//! A row says what was once made, not that it is still here: that is for the pins to say.

use ipdc_jobs::ids::{Cid, JobId};
use ipdc_jobs::memo::ResultKey;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, params};

use super::{Db, StateError};

/// A result goes with its job's row: there are at most as many.
pub(super) const SCHEMA: &str = "
CREATE TABLE results (
    key    BLOB PRIMARY KEY, -- a ResultKey's bytes
    job    TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
    result BLOB NOT NULL, -- CIDs' bytes
    report BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX results_by_job ON results (job);
";

/// A job's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The job that made it.
    pub job: JobId,
    /// Root of the result directory.
    pub result: Cid,
    /// Root of the report.
    pub report: Cid,
}

/// Notes what a job gave. The last one counts.
///
/// # Errors
/// When the database fails.
pub async fn note(db: &Db, key: ResultKey, known: Known) -> Result<(), StateError> {
    db.call(move |c| {
        let Known { job, result, report } = known;
        c.execute(
            "INSERT OR REPLACE INTO results (key, job, result, report) VALUES (?1, ?2, ?3, ?4)",
            params![key.as_bytes(), job.to_string(), result.to_bytes(), report.to_bytes()],
        )?;
        Ok(())
    })
    .await
}

/// The result that `key` names, if one was noted.
///
/// # Errors
/// When the database fails.
pub async fn find(db: &Db, key: ResultKey) -> Result<Option<Known>, StateError> {
    db.call(move |c| {
        let query = "SELECT job, result, report FROM results WHERE key = ?1";
        c.query_row(query, [key.as_bytes()], known).optional()
    })
    .await
}

fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let cid = |column| {
        Cid::try_from(row.get::<_, Vec<u8>>(column)?).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error))
        })
    };
    let job = super::jobs::parse_id(&row.get::<_, String>(0)?)?;
    Ok(Known { job, result: cid(1)?, report: cid(2)? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipdc_jobs::ids::{CODEC_RAW, cid_of};
    use ipdc_jobs::manifest::Limits;
    use ipdc_jobs::mr::MapReduce;

    use super::*;
    use crate::state::jobs::{StoredJob, accept};

    #[tokio::test]
    async fn the_last_job_of_a_key_is_found_again() {
        let db = Db::in_memory().unwrap();
        let limits = Limits::default();
        let key = |text: &[u8]| {
            let config = serde_json::json!({});
            ResultKey::of(&MapReduce, &config, &limits, &cid_of(CODEC_RAW, text)).unwrap()
        };
        let known = async |name: &[u8]| {
            let id = JobId::of_manifest(name);
            let (manifest, notes) = (name.to_vec(), "[]".to_owned());
            let stored = StoredJob { id, manifest, notes, ended: None };
            accept(&db, stored, id.to_string(), vec!["r0".into()], None).await.unwrap();
            let cid = cid_of(CODEC_RAW, name);
            Known { job: id, result: cid, report: cid }
        };
        let (first, second) = (known(b"first").await, known(b"second").await);
        note(&db, key(b"a"), first).await.unwrap();
        note(&db, key(b"b"), first).await.unwrap();
        note(&db, key(b"a"), second).await.unwrap();
        assert_eq!(find(&db, key(b"a")).await.unwrap(), Some(second));
        assert_eq!(find(&db, key(b"b")).await.unwrap(), Some(first));
        assert_eq!(find(&db, key(b"c")).await.unwrap(), None);
    }
}
