//! Delivers what controllers and workers say to each other, on this node or between nodes.
//!
//! A letter to this node itself goes straight to its mailbox; any other travels over the link to
//! the peer's broker. Nothing here promises delivery: the engine repeats what matters.

use std::sync::Arc;

use ipdc_jobs::ids::PeerId;
use ipdc_jobs::message::{MESSAGE_LIMIT, ToController, ToWorker};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::broker::Links;
use crate::broker::link::Incoming;
use crate::swarm::conduct::{Conduct, Misdeed};

/// Letters that wait for the worker or the controllers of this node. When a mailbox is full the
/// letter is dropped, as a link would: its sender repeats it.
const MAILBOX_LIMIT: usize = 4_096;

/// The form on the wire. A version that is not known is dropped, so a newer node can add one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Letter {
    /// To the worker of the node that receives it.
    ToWorker(ToWorker),
    /// To the controller of the job it names.
    ToController(ToController),
}

/// Reads a letter and forgets it.
#[cfg(feature = "fuzz")]
pub(crate) fn read_letter(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Letter>(bytes);
}

/// Sends letters. Clones share the links.
#[derive(Clone)]
pub struct Post {
    me: PeerId,
    links: Arc<Links>,
    worker: mpsc::Sender<(PeerId, ToWorker)>,
    controllers: mpsc::Sender<(PeerId, ToController)>,
}

/// What arrives at this node, each letter with its sender as the transport knows it.
pub struct Mailboxes {
    /// For the worker.
    pub worker: mpsc::Receiver<(PeerId, ToWorker)>,
    /// For the controllers of jobs.
    pub controllers: mpsc::Receiver<(PeerId, ToController)>,
}

impl Post {
    /// The post of node `me`. `incoming` is what its broker gets from other nodes.
    #[must_use]
    pub fn open(me: PeerId, links: Links, mut incoming: Incoming) -> (Post, Mailboxes) {
        let (worker, worker_mail) = mpsc::channel(MAILBOX_LIMIT);
        let (controllers, controllers_mail) = mpsc::channel(MAILBOX_LIMIT);
        let post = Post { me, links: Arc::new(links), worker, controllers };
        let inbound = post.clone();
        tokio::spawn(async move {
            while let Some((from, bytes)) = incoming.recv().await {
                match serde_json::from_slice::<Letter>(&bytes) {
                    Ok(letter) => inbound.deliver(from, letter),
                    // As a newer version may write it.
                    Err(error) if error.is_data() => {
                        tracing::debug!(%from, %error, "a letter of an unknown form");
                    }
                    Err(error) => {
                        let (on, why) = ("a letter", error.to_string());
                        inbound.conduct().report(from, Misdeed::Garbage { on, why });
                    }
                }
            }
        });
        (post, Mailboxes { worker: worker_mail, controllers: controllers_mail })
    }

    /// Sends to the worker of node `to`.
    pub fn to_worker(&self, to: PeerId, message: ToWorker) {
        self.send(to, Letter::ToWorker(message));
    }

    /// Sends to the controller, on node `to`, of the job that `message` names.
    pub fn to_controller(&self, to: PeerId, message: ToController) {
        self.send(to, Letter::ToController(message));
    }

    fn send(&self, to: PeerId, letter: Letter) {
        if to == self.me {
            self.deliver(self.me, letter);
            return;
        }
        let bytes = serde_json::to_vec(&letter).expect("a letter has string keys only");
        debug_assert!(bytes.len() <= MESSAGE_LIMIT, "the engine cuts its batches below the limit");
        self.links.send(to, bytes.into());
    }

    /// Where to say what is wrong with a letter that could be read.
    #[must_use]
    pub fn conduct(&self) -> &Conduct {
        self.links.conduct()
    }

    /// Closes the links, when what they hold is out or after a moment.
    pub async fn close(&self) {
        self.links.shutdown().await;
    }

    fn deliver(&self, from: PeerId, letter: Letter) {
        let dropped = match letter {
            Letter::ToWorker(message) => self.worker.try_send((from, message)).is_err(),
            Letter::ToController(message) => self.controllers.try_send((from, message)).is_err(),
        };
        if dropped {
            tracing::warn!(%from, "a mailbox is full; the letter will come again");
        }
    }
}
