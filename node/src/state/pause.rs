//! Whether the node is paused: its user's word, which holds until it is taken back.

use rusqlite::OptionalExtension;

use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
CREATE TABLE paused (
    since_ms INTEGER NOT NULL -- since 1970; no row, it is not
) STRICT;
";

/// Writes down that the node is paused since then (milliseconds since 1970), or that it is not. A
/// second pause changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn set(db: &Db, since_ms: Option<u64>) -> Result<(), StateError> {
    db.call(move |c| {
        match since_ms {
            Some(at) => c.execute(
                "INSERT INTO paused (since_ms) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM paused)",
                [at.cast_signed()],
            )?,
            None => c.execute("DELETE FROM paused", [])?,
        };
        Ok(())
    })
    .await
}

/// Since when the node is paused, in milliseconds since 1970; none, it is not.
///
/// # Errors
/// When the database fails.
pub async fn since(db: &Db) -> Result<Option<u64>, StateError> {
    db.call(|c| {
        let since: Option<i64> =
            c.query_row("SELECT since_ms FROM paused", [], |row| row.get(0)).optional()?;
        Ok(since.map(i64::cast_unsigned))
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_holds_since_it_was_first_said_until_it_is_taken_back() {
        let db = Db::in_memory().unwrap();
        assert_eq!(since(&db).await.unwrap(), None);
        set(&db, Some(5)).await.unwrap();
        set(&db, Some(7)).await.unwrap();
        assert_eq!(since(&db).await.unwrap(), Some(5));
        set(&db, None).await.unwrap();
        assert_eq!(since(&db).await.unwrap(), None);
    }
}
