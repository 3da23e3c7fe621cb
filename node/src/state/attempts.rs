//! What this node, as a worker, must remember of jobs that others control: the highest epoch it
//! has seen, and reports that were not settled yet.

use ipdc_jobs::ids::JobId;
use rusqlite::params;

use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
CREATE TABLE worker_records (
    job    TEXT NOT NULL,
    name   TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (job, name)
) STRICT, WITHOUT ROWID;
";

/// One change to what is remembered.
#[derive(Debug, Clone)]
pub enum Change {
    /// Remember `record` under `name`, in place of what was there.
    Put {
        /// The job.
        job: JobId,
        /// What the record is about, within the job.
        name: String,
        /// The record, as JSON.
        record: String,
    },
    /// Forget what is under `name`.
    Forget {
        /// The job.
        job: JobId,
        /// As in [`Change::Put`].
        name: String,
    },
    /// Forget the job.
    ForgetJob {
        /// The job.
        job: JobId,
    },
}

/// Makes `changes`, in order, all or none.
///
/// # Errors
/// When the database fails.
pub async fn change(db: &Db, changes: Vec<Change>) -> Result<(), StateError> {
    db.call(move |c| {
        for change in changes {
            match change {
                Change::Put { job, name, record } => c
                    .prepare_cached(
                        "INSERT INTO worker_records (job, name, record) VALUES (?1, ?2, ?3)
                         ON CONFLICT DO UPDATE SET record = excluded.record",
                    )?
                    .execute(params![job.to_string(), name, record])?,
                Change::Forget { job, name } => c
                    .prepare_cached("DELETE FROM worker_records WHERE job = ?1 AND name = ?2")?
                    .execute(params![job.to_string(), name])?,
                Change::ForgetJob { job } => c
                    .prepare_cached("DELETE FROM worker_records WHERE job = ?1")?
                    .execute([job.to_string()])?,
            };
        }
        Ok(())
    })
    .await
}

/// Every record, by job and name.
///
/// # Errors
/// When the database fails.
pub async fn all(db: &Db) -> Result<Vec<String>, StateError> {
    db.call(|c| {
        c.prepare("SELECT record FROM worker_records ORDER BY job, name")?
            .query_map([], |r| r.get(0))?
            .collect()
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_forgotten_does_not_come_back() {
        let db = Db::in_memory().unwrap();
        let (one, two) = (JobId::of_manifest(b"1"), JobId::of_manifest(b"2"));
        let put = |job, name: &str, record: &str| Change::Put {
            job,
            name: name.into(),
            record: record.into(),
        };
        let changes = vec![
            put(one, "a", "old"),
            put(one, "a", "new"),
            put(one, "b", "x"),
            put(two, "a", "y"),
        ];
        change(&db, changes).await.unwrap();
        change(&db, vec![Change::Forget { job: one, name: "b".into() }]).await.unwrap();
        change(&db, vec![Change::ForgetJob { job: two }]).await.unwrap();
        assert_eq!(all(&db).await.unwrap(), ["new"]);
    }
}
