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

/// Writes a record; one of the same name is replaced.
///
/// # Errors
/// When the database fails.
pub async fn put(db: &Db, job: JobId, name: String, record: String) -> Result<(), StateError> {
    db.call(move |c| {
        c.prepare_cached(
            "INSERT INTO worker_records (job, name, record) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET record = excluded.record",
        )?
        .execute(params![job.to_string(), name, record])?;
        Ok(())
    })
    .await
}
