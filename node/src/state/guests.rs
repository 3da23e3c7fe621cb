//! The passes of the swarm's guests.

use ipdc_jobs::ids::PeerId;
use rusqlite::types::Type;
use rusqlite::{Connection, params};

use crate::swarm::guest::GuestPass;

pub(super) const SCHEMA: &str = "
CREATE TABLE guests (
    peer TEXT PRIMARY KEY,
    pass TEXT NOT NULL      -- JSON, as signed
) STRICT, WITHOUT ROWID;
";

/// All passes, in no order.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<GuestPass>> {
    let mut query = connection.prepare_cached("SELECT pass FROM guests")?;
    let passes = query.query_map([], |row| {
        let text: String = row.get(0)?;
        serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
        })
    })?;
    passes.collect()
}

/// Writes `passes` over what was known of their guests.
pub fn save(connection: &Connection, passes: &[(PeerId, GuestPass)]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO guests VALUES (?, ?)")?;
    for (peer, pass) in passes {
        let text = serde_json::to_string(pass)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        insert.execute(params![peer.to_base58(), text])?;
    }
    Ok(())
}
