//! Results of others' jobs that this node holds, and whose they are: what their owners' quotas count.

use std::collections::BTreeMap;

use ipdc_jobs::ids::JobId;
use rusqlite::params;

use super::pins::Reason;
use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
CREATE TABLE results_held (
    job    TEXT PRIMARY KEY,
    pinned TEXT NOT NULL,    -- the reason of its pins: without one it counts no more
    owner  TEXT NOT NULL,
    bytes  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Writes down that `bytes` more were fetched to hold the result of `job`.
///
/// # Errors
/// When the database fails.
pub async fn add(db: &Db, job: JobId, owner: String, bytes: u64) -> Result<(), StateError> {
    db.call(move |c| {
        c.execute(
            "INSERT INTO results_held (job, pinned, owner, bytes) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
            params![job.to_string(), Reason::Result(job).to_string(), owner, bytes.cast_signed()],
        )?;
        Ok(())
    })
    .await
}

/// The bytes that are held for each owner.
///
/// # Errors
/// When the database fails.
pub async fn by_owner(db: &Db) -> Result<BTreeMap<String, u64>, StateError> {
    db.call(|c| {
        c.execute("DELETE FROM results_held WHERE pinned NOT IN (SELECT reason FROM pins)", [])?;
        c.prepare("SELECT owner, sum(bytes) FROM results_held GROUP BY owner")?
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?
            .collect()
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipdc_jobs::ids::{CODEC_RAW, cid_of};

    use super::super::pins::{self, Pin};
    use super::*;

    #[tokio::test]
    async fn what_is_pinned_no_more_counts_no_more() {
        let db = Db::in_memory().unwrap();
        let (kept, dropped) = (JobId::of_manifest(b"kept"), JobId::of_manifest(b"dropped"));
        let pin = Pin { root: cid_of(CODEC_RAW, b"root"), reason: Reason::Result(kept) };
        pins::insert(&db, pin).await.unwrap();
        for (job, bytes) in [(kept, 5), (dropped, 100), (kept, 2)] {
            add(&db, job, "ann".into(), bytes).await.unwrap();
        }
        assert_eq!(by_owner(&db).await.unwrap(), BTreeMap::from([("ann".to_owned(), 7)]));
    }
}
