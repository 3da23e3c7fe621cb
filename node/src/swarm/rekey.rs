//! A change of the swarm's key: `ipdc rekey`.
//!
//! The node with the root's key signs a new one and tells it as news are told: over connections that are
//! admitted, so nobody who was revoked hears of it. Whoever hears writes it down, passes it on, and
//! after [`SWITCH_AFTER`] comes back with the new key on the same addresses. Nothing above the swarm
//! notices more than connections that break and return.
//!
//! The file `swarm.key` is the key that a node starts with. The last change is kept in the database as
//! well, to be told to others and so that an older one, told again, is not taken for news. Who was
//! away gets the key by `ipdc join`, with an invitation made since.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use ipdc_jobs::ids::PeerId;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::certificate::{BadCertificate, now_ms};
use super::conduct::Misdeed;
use super::identity::SwarmKey;
use super::signed::{Signed, Statement};
use super::{Core, Swarm, SwarmError};
use crate::audit::{Entry, What};
use crate::state::members;
use ipdc_gate as gate;

/// From hearing of a new key to leaving with the old one: time for the slowest peer that answers
/// tellings at all to hear of it too.
pub const SWITCH_AFTER: Duration = Duration::from_secs(5);

/// The wait before the network is started again after it could not be: its port may be in use yet.
const RETRY: Duration = Duration::from_millis(250);

/// That the swarm has a new key. Secret: who has it can knock.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyChange {
    /// The swarm's root, who signs it.
    pub swarm: PeerId,
    /// Rises with each change.
    pub number: u64,
    /// The new key.
    pub key: SwarmKey,
}

impl Statement for KeyChange {
    const CONTEXT: &'static [u8] = b"ipdc/key/1\n";

    fn signer(&self) -> PeerId {
        self.swarm
    }
}

/// Who has the new key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rekeyed {
    /// The members that have written it down.
    pub told: Vec<PeerId>,
    /// Those that have not: not connected, or too slow.
    pub away: Vec<PeerId>,
}

/// The swarm's key as this node knows it.
pub(super) struct Keys {
    file: PathBuf,
    /// Of the network that runs.
    current: SwarmKey,
    /// The last change, and whether it is what the file says: else the file is newer.
    last: Option<(KeyChange, Signed<KeyChange>)>,
    /// When to leave with the current one.
    due: Option<Instant>,
    /// The last change that a peer has written down.
    known_by: HashMap<PeerId, u64>,
}

impl Keys {
    /// With the key that `file` holds and the last change that was kept.
    pub(super) fn new(file: PathBuf, key: SwarmKey, kept: Option<Signed<KeyChange>>) -> Keys {
        let last = kept.and_then(|signed| Some((signed.open().ok()?, signed)));
        Keys { file, current: key, last, due: None, known_by: HashMap::new() }
    }

    /// The newest key: what invitations carry.
    pub(super) fn newest(&self) -> &SwarmKey {
        let coming = self.last.as_ref().filter(|_| self.due.is_some());
        coming.map_or(&self.current, |(said, _)| &said.key)
    }

    /// The number of the last change; 0 before the first.
    fn number(&self) -> u64 {
        self.last.as_ref().map_or(0, |(said, _)| said.number)
    }

    /// The last change, with its number, if a peer that knows of `told` should hear of it. One that the
    /// file has gone beyond is told to nobody.
    pub(super) fn news(&self, told: u64) -> Option<(u64, Signed<KeyChange>)> {
        let (said, signed) = self.last.as_ref()?;
        (said.number > told && said.key == *self.newest()).then(|| (said.number, signed.clone()))
    }

    /// When the network must start anew.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Swarm {
    /// Gives the swarm a new key, and waits until the members that are connected have written it
    /// down, [`SWITCH_AFTER`] at most. Then all of them come back with it.
    ///
    /// # Errors
    /// When this node has not the root's key, a change is under way, or the key cannot be written.
    pub async fn rekey(&self) -> Result<Rekeyed, SwarmError> {
        let core = &self.core;
        let Some(root_key) = &core.root_key else {
            return Err(SwarmError::NotAllowed("change the swarm's key"));
        };
        let (number, is_due) = {
            let keys = core.keys();
            (keys.number(), keys.due.is_some())
        };
        if is_due {
            return Err(SwarmError::Rekeying);
        }
        // Rises also when the clock went back.
        let number = now_ms().max(number + 1);
        let change = KeyChange { swarm: core.root, number, key: SwarmKey::generate() };
        let signed = Signed::sign(&change, root_key).map_err(BadCertificate::from)?;
        core.learn_key(&signed).await?;
        let mut stirred = core.book().stirred();
        let deadline = Instant::now() + SWITCH_AFTER;
        let knows = |peer: &PeerId| core.keys().known_by.get(peer) == Some(&number);
        while !core.book().connected().iter().all(knows) {
            if !matches!(timeout_at(deadline, stirred.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        let members = self.peers().into_iter().map(|member| member.peer);
        let (told, away) = members.partition(knows);
        Ok(Rekeyed { told, away })
    }
}

impl Core {
    /// Takes in what `teller` told.
    pub(super) async fn hear_key(
        &self,
        signed: &Signed<KeyChange>,
        teller: PeerId,
    ) -> Result<(), SwarmError> {
        let learned = self.learn_key(signed).await;
        if let Err(SwarmError::Certificate(bad)) = &learned
            && bad.is_forgery()
        {
            self.conduct.report(teller, Misdeed::Forged("a change of the swarm's key"));
        }
        learned
    }

    /// Takes in a change of the swarm's key: on the disk when this returns. One that is not news
    /// changes nothing.
    pub(super) async fn learn_key(&self, signed: &Signed<KeyChange>) -> Result<(), SwarmError> {
        let said = signed.open().map_err(BadCertificate::from)?;
        if said.swarm != self.root {
            return Err(BadCertificate::OtherSwarm(said.swarm).into());
        }
        // One at a time, or an older one could be written last.
        let _writing = self.key_writing.lock().await;
        let (is_news, is_new, file) = {
            let keys = self.keys();
            (said.number > keys.number(), said.key != keys.current, keys.file.clone())
        };
        if !is_news {
            return Ok(());
        }
        if is_new {
            // A hundred bytes, once in a swarm's months: not worth a thread.
            said.key.replace(&file)?;
        }
        let kept = signed.clone();
        self.db.call(move |c| members::save_key_change(c, &kept)).await?;
        {
            let mut keys = self.keys();
            keys.last = Some((said, signed.clone()));
            keys.due = is_new.then(|| Instant::now() + SWITCH_AFTER);
        }
        if is_new {
            tracing::info!("the swarm gets a new key in {SWITCH_AFTER:?}");
            self.audit.note(Entry::now(What::Rekeyed, "", "by the swarm's root"));
        }
        self.book().stir();
        Ok(())
    }

    /// `peer` has written down the change `number`.
    pub(super) fn key_known_by(&self, peer: PeerId, number: u64) {
        self.keys().known_by.insert(peer, number);
        self.book().stir();
    }
}

/// Starts the network anew with the key that is due, however often that fails; gives its events. The
/// connections of the old one are closed.
pub(super) async fn switch(core: &Core) -> mpsc::UnboundedReceiver<gate::Event> {
    let old = core.net().ipfs.clone();
    old.exit_daemon().await;
    loop {
        let key = core.keys().newest().clone();
        match core.start_network(&key).await {
            Ok(events) => {
                let mut keys = core.keys();
                // A newer one may have come meanwhile.
                if *keys.newest() == key {
                    keys.due = None;
                }
                keys.current = key;
                tracing::info!("the swarm's new key is in use");
                return events;
            }
            Err(error) => {
                tracing::error!(%error, "the network does not start with the new key; trying again");
                sleep(RETRY).await;
            }
        }
    }
}
