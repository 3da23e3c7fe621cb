//! The chunks that files are cut into: what was found by reading them whole, so that they need not
//! be read for it again. Finding them is [`crate::blocks::tables`]'s.

use ipdc_jobs::chunk::{Chunk, RecordKind, Table, VERSION};
use ipdc_jobs::ids::Cid;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, params};

use super::{Db, StateError};

pub(super) const SCHEMA: &str = "
    CREATE TABLE chunks (
        file     BLOB NOT NULL,    -- the CID's bytes
        records  TEXT NOT NULL,    -- as RecordKind writes itself
        version  INTEGER NOT NULL, -- of the cuts
        subtrees INTEGER NOT NULL,
        chunks   BLOB NOT NULL,    -- each its length, eight bytes little-endian, and its name
        UNIQUE (file, records, version)
    ) STRICT;
";

/// Files that are remembered: of a gigabyte each, they take 12 KiB a file here. The oldest go first.
const FILES_LIMIT: i64 = 16_384;

/// Remembers the chunks of `file`.
pub(crate) async fn insert(
    db: &Db,
    file: Cid,
    records: RecordKind,
    table: &Table,
) -> Result<(), StateError> {
    let (subtrees, chunks) = (table.subtrees, encode(&table.chunks));
    db.call(move |c| {
        let row = params![file.to_bytes(), records.to_string(), VERSION, subtrees, chunks];
        c.prepare_cached(
            "INSERT OR REPLACE INTO chunks (file, records, version, subtrees, chunks)
             VALUES (?, ?, ?, ?, ?)",
        )?
        .execute(row)?;
        c.prepare_cached("DELETE FROM chunks WHERE rowid <= ?")?
            .execute([c.last_insert_rowid() - FILES_LIMIT])?;
        Ok(())
    })
    .await
}

/// The chunks of `file`, if they are known.
pub(crate) async fn get(
    db: &Db,
    file: Cid,
    records: RecordKind,
) -> Result<Option<Table>, StateError> {
    db.call(move |c| {
        let mut rows = c.prepare_cached(
            "SELECT subtrees, chunks FROM chunks WHERE file = ? AND records = ? AND version = ?",
        )?;
        let row = params![file.to_bytes(), records.to_string(), VERSION];
        rows.query_row(row, |row| {
            let chunks = decode(row.get_ref(1)?.as_blob()?).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(1, Type::Blob, Box::new(error))
            })?;
            Ok(Table { chunks, subtrees: row.get(0)? })
        })
        .optional()
    })
    .await
}

fn encode(chunks: &[Chunk]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chunks.len() * 44);
    for chunk in chunks {
        bytes.extend_from_slice(&chunk.len.to_le_bytes());
        bytes.extend_from_slice(&chunk.name.to_bytes());
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Result<Vec<Chunk>, BadChunks> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk().ok_or(BadChunks)?;
        bytes = rest;
        let name = Cid::read_bytes(&mut bytes).map_err(|_| BadChunks)?;
        chunks.push(Chunk { len: u64::from_le_bytes(*len), name });
    }
    Ok(chunks)
}

#[derive(Debug, thiserror::Error)]
#[error("these are no chunks")]
struct BadChunks;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ipdc_jobs::ids::{CODEC_RAW, cid_of};

    use super::*;

    #[tokio::test]
    async fn a_files_chunks_read_back_for_the_records_they_were_cut_for() {
        let db = Db::in_memory().unwrap();
        let file = cid_of(CODEC_RAW, b"file");
        let names = [b"one", b"two"].map(|bytes| cid_of(CODEC_RAW, bytes));
        let chunks = names.map(|name| Chunk { len: 1 << 40, name }).to_vec();
        let table = Table { chunks, subtrees: true };
        insert(&db, file, RecordKind::Csv, &table).await.unwrap();
        insert(&db, file, RecordKind::Csv, &table).await.unwrap();
        assert_eq!(get(&db, file, RecordKind::Csv).await.unwrap(), Some(table));
        assert_eq!(get(&db, file, RecordKind::Fixed(80)).await.unwrap(), None);
        assert_eq!(get(&db, names[0], RecordKind::Csv).await.unwrap(), None);
    }
}
