//! What the swarm keeps: its members, whom it cut off, and the invitations this node gave.
//!
//! An invitation's use is written here before the certificate is signed: a joiner that lost the
//! answer asks again and gets the same certificate, and a crash never gives one use twice.

use connexa::prelude::Multiaddr;
use ipdc_jobs::ids::PeerId;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::swarm::address::Whereabouts;
use crate::swarm::certificate::Credential;
use crate::swarm::invitation::InvitationId;
use crate::swarm::rekey::KeyChange;
use crate::swarm::revocation::{Notice, Revocation};
use crate::swarm::signed::Signed;

/// The tables.
pub const SCHEMA: &str = "
CREATE TABLE members (
    peer        TEXT PRIMARY KEY,
    credential  TEXT NOT NULL,      -- JSON
    whereabouts TEXT NOT NULL,      -- JSON, null if never heard
    worked      TEXT NOT NULL,      -- JSON: addresses that led to it
    seen_ms     INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE revocations (
    peer        TEXT NOT NULL,
    issuer      TEXT NOT NULL,
    statement   TEXT NOT NULL,      -- JSON, as signed
    PRIMARY KEY (peer, issuer)
) WITHOUT ROWID;
CREATE TABLE invitations (
    id          BLOB PRIMARY KEY,
    owner       TEXT NOT NULL,
    may_invite  INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    uses        INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE redemptions (
    invitation  BLOB NOT NULL REFERENCES invitations(id),
    peer        TEXT NOT NULL,
    serial      INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,   -- of the certificate
    PRIMARY KEY (invitation, peer)
) WITHOUT ROWID;
";

/// Revocations of owners, and with each the certificate of who said so.
pub const NOTICES: &str = "
ALTER TABLE revocations RENAME COLUMN peer TO whom;
ALTER TABLE revocations RENAME COLUMN statement TO notice;
UPDATE revocations SET notice = json_object('revocation', json(notice));
";

/// The last change of the swarm's key.
pub const KEY_CHANGE: &str = "
CREATE TABLE key_change (
    only        INTEGER PRIMARY KEY CHECK (only = 0),
    statement   TEXT NOT NULL
) STRICT;
";

/// A member as it is kept.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub peer: PeerId,
    /// Its certificate.
    pub credential: Credential,
    /// Where it says it is.
    pub whereabouts: Option<Signed<Whereabouts>>,
    /// Addresses that led to it.
    pub worked: Vec<Multiaddr>,
    /// When it was last connected, milliseconds since 1970; 0 for never.
    pub seen_ms: u64,
}

/// All members, in no order.
pub fn members(connection: &Connection) -> rusqlite::Result<Vec<Member>> {
    let mut query = connection
        .prepare_cached("SELECT peer, credential, whereabouts, worked, seen_ms FROM members")?;
    let rows = query.query_map([], |row| {
        Ok(Member {
            peer: peer(row, 0)?,
            credential: json(row, 1)?,
            whereabouts: json(row, 2)?,
            worked: json(row, 3)?,
            seen_ms: unsigned(row, 4)?,
        })
    })?;
    rows.collect()
}

/// Writes `members` over what was known of them.
pub fn save_members(connection: &Connection, members: &[Member]) -> rusqlite::Result<()> {
    let mut insert =
        connection.prepare_cached("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)")?;
    for member in members {
        insert.execute(params![
            member.peer.to_base58(),
            text(&member.credential)?,
            text(&member.whereabouts)?,
            text(&member.worked)?,
            signed(member.seen_ms),
        ])?;
    }
    Ok(())
}

/// All revocations, in no order.
pub fn revocations(connection: &Connection) -> rusqlite::Result<Vec<Notice>> {
    let mut query = connection.prepare_cached("SELECT notice FROM revocations")?;
    query.query_map([], |row| json(row, 0))?.collect()
}

/// Keeps a revocation: `said` is what `notice` says.
pub fn save_revocation(
    connection: &Connection,
    said: &Revocation,
    notice: &Notice,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT OR IGNORE INTO revocations (whom, issuer, notice) VALUES (?, ?, ?)",
        params![said.whom.to_string(), said.issuer.to_base58(), text(notice)?],
    )?;
    Ok(())
}

/// The last change of the swarm's key that this node heard of.
pub fn key_change(connection: &Connection) -> rusqlite::Result<Option<Signed<KeyChange>>> {
    let mut query = connection.prepare_cached("SELECT statement FROM key_change")?;
    query.query_row([], |row| json(row, 0)).optional()
}

/// Keeps a change of the swarm's key in place of the one before.
pub fn save_key_change(
    connection: &Connection,
    change: &Signed<KeyChange>,
) -> rusqlite::Result<()> {
    connection.execute("INSERT OR REPLACE INTO key_change VALUES (0, ?)", [text(change)?])?;
    Ok(())
}

/// An invitation that this node gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Its name.
    pub id: InvitationId,
    /// Whom those that join by it belong to.
    pub owner: String,
    /// Whether they may invite others.
    pub may_invite: bool,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// How many peers may join by it.
    pub uses: u32,
}

/// Keeps a new invitation.
pub fn save_invitation(connection: &Connection, invitation: &Invitation) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO invitations VALUES (?, ?, ?, ?, ?)",
        params![
            invitation.id.0,
            invitation.owner,
            invitation.may_invite,
            signed(invitation.expires_ms),
            invitation.uses
        ],
    )?;
    Ok(())
}

/// What a certificate shall say that an invitation gave the right to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whom the peer belongs to.
    pub owner: String,
    /// Whether it may invite others.
    pub may_invite: bool,
    /// The certificate's serial number.
    pub serial: u64,
    /// When the certificate ends, milliseconds since 1970.
    pub expires_ms: u64,
}

/// What came of redeeming an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redemption {
    /// The peer may have this certificate.
    Granted(Grant),
    /// The invitation ended.
    Expired,
    /// Other peers used it up.
    UsedUp,
    /// This node gave no such invitation.
    Unknown,
}

/// Uses the invitation `id` for `peer` at `now_ms`. A peer that used it before gets the same
/// grant again, whatever else happened since; `serial` and `expires_ms` are for a new one.
pub fn redeem(
    connection: &Connection,
    id: InvitationId,
    peer: &PeerId,
    now_ms: u64,
    serial: u64,
    expires_ms: u64,
) -> rusqlite::Result<Redemption> {
    let invitation = connection
        .query_row(
            "SELECT owner, may_invite, expires_ms, uses FROM invitations WHERE id = ?",
            [id.0],
            |row| {
                Ok(Invitation {
                    id,
                    owner: row.get(0)?,
                    may_invite: row.get(1)?,
                    expires_ms: unsigned(row, 2)?,
                    uses: row.get(3)?,
                })
            },
        )
        .optional()?;
    let Some(invitation) = invitation else { return Ok(Redemption::Unknown) };
    let grant = |serial, expires_ms| {
        let Invitation { owner, may_invite, .. } = invitation.clone();
        Redemption::Granted(Grant { owner, may_invite, serial, expires_ms })
    };
    let before = connection
        .query_row(
            "SELECT serial, expires_ms FROM redemptions WHERE invitation = ? AND peer = ?",
            params![id.0, peer.to_base58()],
            |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)),
        )
        .optional()?;
    if let Some((serial, expires_ms)) = before {
        return Ok(grant(serial, expires_ms));
    }
    if invitation.expires_ms <= now_ms {
        return Ok(Redemption::Expired);
    }
    let used: u32 = connection.query_row(
        "SELECT count(*) FROM redemptions WHERE invitation = ?",
        [id.0],
        |row| row.get(0),
    )?;
    if used >= invitation.uses {
        return Ok(Redemption::UsedUp);
    }
    connection.execute(
        "INSERT INTO redemptions VALUES (?, ?, ?, ?)",
        params![id.0, peer.to_base58(), signed(serial), signed(expires_ms)],
    )?;
    Ok(grant(serial, expires_ms))
}

/// SQLite's integers are signed; a time or number beyond them means "never" just as well.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(at)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, number))
}

fn peer(row: &Row<'_>, at: usize) -> rusqlite::Result<PeerId> {
    let text: String = row.get(at)?;
    text.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error)))
}

fn json<T: DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error)))
}

fn text<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use libp2p_identity::Keypair;

    use super::*;
    use crate::state::Db;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    struct World {
        db: Db,
        id: InvitationId,
    }

    impl World {
        async fn with_invitation(uses: u32) -> World {
            let db = Db::in_memory().unwrap();
            let id = InvitationId([3; 16]);
            let owner = "ann".to_owned();
            let invitation = Invitation { id, owner, may_invite: false, expires_ms: DAY_MS, uses };
            db.call(move |c| save_invitation(c, &invitation)).await.unwrap();
            World { db, id }
        }

        async fn redeem(&self, peer: PeerId, now_ms: u64, serial: u64) -> Redemption {
            let id = self.id;
            let redeemed =
                self.db.call(move |c| redeem(c, id, &peer, now_ms, serial, 9 * DAY_MS)).await;
            redeemed.unwrap()
        }
    }

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    fn granted(serial: u64) -> Redemption {
        let owner = "ann".to_owned();
        Redemption::Granted(Grant { owner, may_invite: false, serial, expires_ms: 9 * DAY_MS })
    }

    #[tokio::test]
    async fn an_invitation_lets_in_as_many_as_it_says() {
        let world = World::with_invitation(2).await;
        assert_eq!(world.redeem(peer(), 0, 1).await, granted(1));
        assert_eq!(world.redeem(peer(), 0, 2).await, granted(2));
        assert_eq!(world.redeem(peer(), 0, 3).await, Redemption::UsedUp);
    }

    #[tokio::test]
    async fn a_peer_that_asks_again_gets_the_same_and_uses_nothing_up() {
        let world = World::with_invitation(1).await;
        let joiner = peer();
        assert_eq!(world.redeem(joiner, 0, 1).await, granted(1));
        assert_eq!(world.redeem(joiner, 0, 2).await, granted(1));
        assert_eq!(world.redeem(joiner, 2 * DAY_MS, 3).await, granted(1));
    }

    #[tokio::test]
    async fn an_expired_or_unknown_invitation_lets_nobody_in() {
        let world = World::with_invitation(1).await;
        assert_eq!(world.redeem(peer(), DAY_MS, 1).await, Redemption::Expired);
        let other = World { id: InvitationId([4; 16]), ..world };
        assert_eq!(other.redeem(peer(), 0, 1).await, Redemption::Unknown);
    }

    #[tokio::test]
    async fn a_revocation_of_an_older_version_is_read() {
        use crate::swarm::revocation::Whom;

        let root = Keypair::generate_ed25519();
        let (swarm, gone) = (root.public().to_peer_id(), peer());
        let said = Revocation { swarm, whom: Whom::Peer(gone), issuer: swarm, at_ms: 1 };
        let old = Signed::sign(&said, &root).unwrap();
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        let row = params![gone.to_base58(), swarm.to_base58(), text(&old).unwrap()];
        connection.execute("INSERT INTO revocations VALUES (?, ?, ?)", row).unwrap();
        connection.execute_batch(NOTICES).unwrap();
        let read = revocations(&connection).unwrap();
        assert_eq!(read, [Notice { revocation: old, issuer: None }]);
        assert_eq!(read[0].open(swarm), Ok(said));
    }
}
