//! The node's SQLite file: what must survive a crash.
//!
//! One thread owns the one connection. Calls queue up; the thread runs all that wait in one
//! transaction, each in a savepoint of its own, and answers them after the commit has reached the
//! disk (`synchronous = FULL`). So an answer means durable, and a burst of calls costs one flush.
//!
//! Each room that keeps state has a file here with its tables and its queries; nobody else
//! writes SQL.

pub mod attempts;
pub mod audit;
pub mod chunks;
pub mod guests;
pub mod held;
pub mod images;
pub mod interpreters;
pub mod jobs;
pub mod members;
pub mod memo;
pub mod pages;
pub mod pause;
pub mod pins;
pub mod results;

use std::path::Path;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use rusqlite::{Connection, Transaction};
use tokio::sync::oneshot;

/// The tables of every room, in order. Additions go to the end: a file of an older version gets
/// the ones it lacks.
const MIGRATIONS: &[&str] = &[
    jobs::SCHEMA,
    attempts::SCHEMA,
    pins::SCHEMA,
    members::SCHEMA,
    chunks::SCHEMA,
    pause::SCHEMA,
    held::SCHEMA,
    audit::SCHEMA,
    members::NOTICES,
    members::KEY_CHANGE,
    guests::SCHEMA,
    interpreters::SCHEMA,
    results::SCHEMA,
    images::SCHEMA,
];

/// The tables of the memo's file.
const MEMO_MIGRATIONS: &[&str] = &[memo::SCHEMA, pages::SCHEMA];

/// Calls that run in one transaction at most: bounds what one failed commit takes with it.
pub const BATCH_LIMIT: usize = 256;

/// Calls that may wait; a caller beyond that waits for room.
const QUEUE_LIMIT: usize = 4096;

type Job = Box<dyn FnOnce(&mut Transaction<'_>) -> Answer + Send>;
/// Told whether the commit succeeded.
type Answer = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

/// The database. Clones share it.
#[derive(Clone)]
pub struct Db {
    queue: std_mpsc::SyncSender<Job>,
}

/// The database failed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum StateError {
    /// SQLite said no.
    #[error("the node's database failed")]
    #[diagnostic(
        code("IPDC-1301"),
        help(
            "is the disk full, or was the file touched by something else? `ipdc.db` in the node's home must stay readable and writable"
        )
    )]
    Sqlite(#[from] rusqlite::Error),
    /// The transaction's commit failed.
    #[error("the node's database could not commit: {0}")]
    #[diagnostic(
        code("IPDC-1302"),
        help(
            "make room on the disk that holds the node's home; nothing that was said to be accepted is lost"
        )
    )]
    Commit(String),
    /// It was made by a newer ipdc.
    #[error("the node's database has version {found}; this ipdc knows versions up to {known}")]
    #[diagnostic(code("IPDC-1303"), help("use the newer ipdc that made it"))]
    Newer {
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The node is stopping.
    #[error("the node's database is closed")]
    #[diagnostic(code("IPDC-1304"))]
    Closed,
}

impl Db {
    /// Opens or makes the file at `path`. The thread ends when the last clone is dropped.
    ///
    /// # Errors
    /// When it cannot be opened or is of a newer version.
    pub fn open(path: &Path) -> Result<Db, StateError> {
        Self::start(Connection::open(path)?, Durability::Full, MIGRATIONS)
    }

    /// Opens or makes the memo's file at `path`, apart from the rest: its commits are not flushed,
    /// so a loss of power takes the last of them, and wait for nobody else's flush. A file that
    /// cannot be read is begun anew.
    ///
    /// # Errors
    /// When it can be neither opened nor made.
    pub fn open_memo(path: &Path) -> Result<Db, StateError> {
        let open = || Self::start(Connection::open(path)?, Durability::Lazy, MEMO_MIGRATIONS);
        open().or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the memo cannot be read: begun anew");
            // If it cannot be removed, opening it says why.
            let _ = std::fs::remove_file(path);
            open()
        })
    }

    /// A database that is gone when dropped, for tests.
    ///
    /// # Errors
    /// When SQLite cannot be set up.
    pub fn in_memory() -> Result<Db, StateError> {
        let all = [MIGRATIONS, MEMO_MIGRATIONS].concat();
        Self::start(Connection::open_in_memory()?, Durability::Lazy, &all)
    }

    fn start(
        mut connection: Connection,
        durability: Durability,
        migrations: &[&str],
    ) -> Result<Db, StateError> {
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", durability.pragma())?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrate(&mut connection, migrations)?;
        let (queue, jobs) = std_mpsc::sync_channel(QUEUE_LIMIT);
        std::thread::Builder::new()
            .name("state".into())
            .spawn(move || serve(&mut connection, &jobs))
            .map_err(|error| StateError::Commit(error.to_string()))?;
        Ok(Db { queue })
    }

    /// Runs `body` in a transaction; when this returns `Ok`, what it wrote is on the disk. When
    /// `body` fails, what it wrote is undone.
    ///
    /// # Errors
    /// What `body` failed with, or the commit.
    pub async fn call<T, F>(&self, body: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |transaction| {
            let result = in_savepoint(transaction, body);
            Box::new(move |committed| {
                let answer = match (result, committed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Ok(_), Err(error)) => Err(StateError::Commit(error.to_string())),
                    (Err(error), _) => Err(StateError::Sqlite(error)),
                };
                // The caller may have gone away; what it asked for is done all the same.
                let _ = sender.send(answer);
            })
        });
        match self.queue.try_send(job) {
            Ok(()) => {}
            Err(std_mpsc::TrySendError::Disconnected(_)) => return Err(StateError::Closed),
            Err(std_mpsc::TrySendError::Full(job)) => {
                let queue = self.queue.clone();
                let sent = tokio::task::spawn_blocking(move || queue.send(job)).await;
                sent.map_err(|_| StateError::Closed)?.map_err(|_| StateError::Closed)?;
            }
        }
        receiver.await.map_err(|_| StateError::Closed)?
    }
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy)]
enum Durability {
    /// The disk.
    Full,
    /// The operating system: survives the process, not the machine, and is never left broken.
    Lazy,
}

impl Durability {
    fn pragma(self) -> &'static str {
        match self {
            Durability::Full => "full",
            Durability::Lazy => "normal",
        }
    }
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), StateError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = migrations.len() as u32;
    if found > known {
        return Err(StateError::Newer { found, known });
    }
    let transaction = connection.transaction()?;
    for migration in &migrations[found as usize..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

fn in_savepoint<T>(
    transaction: &mut Transaction<'_>,
    body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let savepoint = transaction.savepoint()?;
    let value = body(&savepoint)?;
    savepoint.commit()?;
    Ok(value)
}

fn serve(connection: &mut Connection, jobs: &std_mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut answers = Vec::new();
        let committed = connection.transaction().and_then(|mut transaction| {
            answers.push(first(&mut transaction));
            while answers.len() < BATCH_LIMIT
                && let Ok(job) = jobs.try_recv()
            {
                answers.push(job(&mut transaction));
            }
            transaction.commit()
        });
        for answer in answers {
            answer(committed.as_ref().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_call_undoes_only_itself() -> Result<(), StateError> {
        let db = Db::in_memory()?;
        db.call(|c| c.execute_batch("CREATE TABLE t(x INTEGER PRIMARY KEY)")).await?;
        let good = db.call(|c| c.execute("INSERT INTO t VALUES (1)", []));
        let bad = db.call(|c| {
            c.execute("INSERT INTO t VALUES (2)", [])?;
            c.execute("INSERT INTO t VALUES (2)", [])
        });
        let (good, bad) = tokio::join!(good, bad);
        good?;
        assert!(matches!(bad, Err(StateError::Sqlite(_))));
        let count: u32 =
            db.call(|c| c.query_row("SELECT count(*) FROM t", [], |r| r.get(0))).await?;
        assert_eq!(count, 1);
        Ok(())
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused() -> Result<(), StateError> {
        let connection = Connection::open_in_memory()?;
        connection.pragma_update(None, "user_version", 1_000)?;
        let started = Db::start(connection, Durability::Full, MIGRATIONS);
        assert!(matches!(started, Err(StateError::Newer { found: 1_000, .. })));
        Ok(())
    }
}
