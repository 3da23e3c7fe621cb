//! What is between this node and one guest: what it is owed, and what it was asked for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipdc_jobs::ids::Cid;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::super::block::{Block, key};
use super::super::exchange::Reply;
use super::super::store::Store;
use super::ASKS;
use super::wire::{self, Message, Payload, Want, Wanted};
use crate::protobuf::Malformed;

/// Blocks that a guest may be owed; what it wants beyond that it has to ask for again. Kubo owes
/// another node as many.
const OWED_LIMIT: usize = 1024;

/// Answers to a guest about what is here and what not, that wait to be sent. A guest that asks more
/// before it reads them hears nothing of the rest.
const PRESENCES_LIMIT: usize = 16_384;

/// Bytes of blocks after which a message of ours is long enough. One block more may be in it.
const MESSAGE_BYTES: usize = 512 << 10;

/// Bytes that a guest may send without having been asked, between two blocks that it was: what was
/// on its way when it was asked no more.
const UNASKED_LIMIT: usize = 8 << 20;

/// Owed to a guest and wanted from it.
pub(super) struct Session {
    state: Mutex<State>,
    /// There is something to say, or nothing ever more.
    stirred: Notify,
    /// Held by whoever takes in a message: one at a time.
    pub(super) message: Semaphore,
    /// Held for each block that the guest is asked for.
    pub(super) asks: Semaphore,
}

#[derive(Default)]
struct State {
    over: bool,
    presences: VecDeque<(Cid, bool)>,
    /// In the order in which they were wanted; those that are not owed any more are passed over.
    queue: VecDeque<Cid>,
    owed: HashSet<Cid>,
    /// What is to be said of what we want.
    asking: Vec<Want>,
    /// Who waits for what, by the blocks' version 1 names.
    wanted: HashMap<Cid, Vec<Answered>>,
    unasked: usize,
}

type Answered = oneshot::Sender<Result<Block, Reply>>;

impl Session {
    pub(super) fn new() -> Session {
        Session {
            state: Mutex::default(),
            stirred: Notify::new(),
            message: Semaphore::new(1),
            asks: Semaphore::new(ASKS),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is owed and nothing will come any more.
    pub(super) fn end(&self) {
        let mut state = self.state();
        // Whoever waits hears that it broke.
        *state = State { over: true, ..State::default() };
        self.stirred.notify_one();
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().over
    }

    /// How many blocks are waited for.
    #[cfg(test)]
    pub(super) fn asked_for(&self) -> usize {
        self.state().wanted.len()
    }

    /// Asks the guest for a block, and waits. When this is dropped, the guest is asked no more.
    pub(super) async fn want(&self, cid: Cid) -> Result<Block, Reply> {
        let (answer, answered) = oneshot::channel();
        let _interest = Interest { session: self, cid };
        self.wait_for(cid, answer);
        answered.await.unwrap_or(Err(Reply::Broken))
    }

    /// Adds `answer` to those that wait for the block. When all is over, it is dropped.
    fn wait_for(&self, cid: Cid, answer: Answered) {
        let mut state = self.state();
        if state.over {
            return;
        }
        let waiting = state.wanted.entry(key(&cid)).or_default();
        waiting.push(answer);
        if waiting.len() == 1 {
            state.asking.push(Want { cid, what: Wanted::Block { or_dont_have: true } });
            self.stirred.notify_one();
        }
    }

    /// Takes in what the guest says.
    ///
    /// # Errors
    /// Of kind `InvalidData` when it broke the rules.
    pub(super) async fn hear(
        &self,
        store: &Store,
        reads: &Semaphore,
        message: Message,
    ) -> io::Result<()> {
        if message.full {
            let wanted: HashSet<Cid> = message.wants.iter().map(|want| want.cid).collect();
            self.state().owed.retain(|cid| wanted.contains(cid));
        }
        for Want { cid, what } in message.wants {
            self.hear_want(store, reads, cid, what).await?;
        }
        for (cid, has) in message.presences {
            // Only blocks are asked for, so what it has will come by itself.
            let waiting = if has { None } else { self.state().wanted.remove(&key(&cid)) };
            for answer in waiting.into_iter().flatten() {
                // Whoever asked may have gone.
                let _ = answer.send(Err(Reply::NotHeld));
            }
        }
        for payload in message.payload {
            self.hear_block(payload).await?;
        }
        Ok(())
    }

    async fn hear_want(
        &self,
        store: &Store,
        reads: &Semaphore,
        cid: Cid,
        what: Wanted,
    ) -> io::Result<()> {
        let (is_block, or_dont_have) = match what {
            Wanted::Nothing => {
                self.state().owed.remove(&cid);
                return Ok(());
            }
            Wanted::Block { or_dont_have } => (true, or_dont_have),
            Wanted::Have { or_dont_have } => (false, or_dont_have),
        };
        let turn = reads.acquire().await;
        // A disk that fails is our trouble: the guest may ask somebody else.
        let has = store.has(&cid).await.unwrap_or(false);
        drop(turn);
        let mut state = self.state();
        if state.over {
            return Ok(());
        }
        match (has, is_block) {
            (true, true) => state.owe(cid),
            (true, false) => state.answer(cid, true),
            (false, _) if or_dont_have => state.answer(cid, false),
            (false, _) => {}
        }
        self.stirred.notify_one();
        Ok(())
    }

    async fn hear_block(&self, payload: Payload) -> io::Result<()> {
        let len = payload.data.len();
        let is_asked = !self.state().wanted.is_empty();
        // Nothing is hashed for a guest that was asked for nothing.
        let block =
            if is_asked { Some(payload.hash().await.map_err(wire::invalid)?) } else { None };
        let mut state = self.state();
        let waiting = block.as_ref().and_then(|block| state.wanted.remove(&block.cid()));
        if let (Some(block), Some(waiting)) = (block, waiting) {
            state.unasked = 0;
            for answer in waiting {
                // Whoever asked may have gone.
                let _ = answer.send(Ok(block.clone()));
            }
            return Ok(());
        }
        // Empty ones are not for nothing either.
        state.unasked += len.max(1024);
        if state.unasked > UNASKED_LIMIT {
            return Err(wire::invalid(Malformed("many blocks that it was not asked for")));
        }
        Ok(())
    }

    /// The next that there is to say; waits for it. `None` when nothing ever will be.
    pub(super) async fn next(&self, store: &Store, reads: &Semaphore) -> Option<Message> {
        loop {
            let mut message = Message::default();
            {
                let mut state = self.state();
                if state.over {
                    return None;
                }
                message.wants = std::mem::take(&mut state.asking);
                message.presences = state.presences.drain(..).collect();
            }
            let mut bytes = 0;
            while bytes < MESSAGE_BYTES {
                let Some(cid) = self.state().next_owed() else { break };
                let _turn = reads.acquire().await;
                match store.get(&cid).await {
                    Ok(Some(block)) => {
                        bytes += block.bytes().len();
                        message.payload.push(Payload::of(&block));
                    }
                    Ok(None) => message.presences.push((cid, false)),
                    Err(error) => {
                        tracing::warn!(%cid, %error, "a block that a guest wants cannot be read");
                        message.presences.push((cid, false));
                    }
                }
            }
            if !message.is_empty() {
                return Some(message);
            }
            self.stirred.notified().await;
        }
    }
}

impl State {
    fn owe(&mut self, cid: Cid) {
        if self.owed.len() < OWED_LIMIT && self.owed.insert(cid) {
            // One that was wanted, cancelled and wanted again may be in it still.
            self.queue.retain(|queued| *queued != cid);
            self.queue.push_back(cid);
        }
    }

    fn answer(&mut self, cid: Cid, has: bool) {
        if self.presences.len() < PRESENCES_LIMIT {
            self.presences.push_back((cid, has));
        }
    }

    fn next_owed(&mut self) -> Option<Cid> {
        while let Some(cid) = self.queue.pop_front() {
            if self.owed.remove(&cid) {
                return Some(cid);
            }
        }
        None
    }
}

/// Somebody's wait for a block of the guest. When the last one ends, the guest is told.
struct Interest<'a> {
    session: &'a Session,
    cid: Cid,
}

impl Drop for Interest<'_> {
    fn drop(&mut self) {
        let mut state = self.session.state();
        let name = key(&self.cid);
        let Some(waiting) = state.wanted.get_mut(&name) else { return };
        waiting.retain(|answer| !answer.is_closed());
        if waiting.is_empty() {
            state.wanted.remove(&name);
            state.asking.push(Want { cid: self.cid, what: Wanted::Nothing });
            self.session.stirred.notify_one();
        }
    }
}
