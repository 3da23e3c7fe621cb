//! The same as over HTTP for any MQTT client: submit, follow, cancel.
//!
//! | topic | |
//! |---|---|
//! | `ipdc/v1/jobs/submit` | a submission as JSON; the answer goes to its MQTT 5 response topic and, when it has a `key`, retained to `ipdc/v1/submissions/<key>` |
//! | `ipdc/v1/jobs/<id>` | the job's view, retained, on every change |
//! | `ipdc/v1/jobs/<id>/cancel` | any payload |
//! | `ipdc/v1/node/<peer ID>` | this node's presence, retained |

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;

use super::ApiError;
use crate::broker::{Broker, Message, Properties, Sender, topics};
use crate::node::Node;
use crate::problem::{ErrorBody, Problem};
use crate::view::{Accepted, JobView, Submission};

/// Submissions that are looked at at a time: each may fetch and compile. The others wait in their
/// subscription, and then their publishers do.
const SUBMITTING: usize = 16;

/// Keys whose answers are retained; beyond, the one answered first is forgotten. Ten thousand take
/// some megabytes.
const ANSWERS: usize = 10_000;

/// The topics of the answers that are retained, in the order of their first ones.
#[derive(Default)]
struct Answered {
    order: VecDeque<Arc<str>>,
    topics: HashSet<Arc<str>>,
}

impl Answered {
    /// Notes that `topic` has an answer; gives the one that is to be forgotten for it.
    fn note(&mut self, topic: &str) -> Option<Arc<str>> {
        let topic = Arc::<str>::from(topic);
        if self.topics.insert(Arc::clone(&topic)) {
            self.order.push_back(topic);
        }
        let oldest = self.order.pop_front_if(|_| self.topics.len() > ANSWERS)?;
        self.topics.remove(&oldest);
        Some(oldest)
    }
}

/// What a submitter hears.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Accepted(Accepted),
    Refused(ErrorBody),
}

/// Serves until the broker ends.
pub async fn serve(node: Arc<Node>) {
    let submissions = node.broker.subscribe(topics::SUBMIT).await;
    let cancels = node.broker.subscribe(topics::CANCELS).await;
    show_now(&node).await;
    tokio::join!(submit_all(&node, submissions), cancel_all(&node, cancels), show_all(&node));
}

async fn submit_all(node: &Arc<Node>, mut submissions: crate::broker::Subscription) {
    let places = Arc::new(Semaphore::new(SUBMITTING));
    let answered = Arc::new(Mutex::default());
    while let Some(message) = submissions.recv().await {
        if message.sender != Sender::Local {
            continue;
        }
        let place = Arc::clone(&places).acquire_owned().await;
        let (node, answered) = (Arc::clone(node), Arc::clone(&answered));
        tokio::spawn(async move {
            submit(&node, message, &answered).await;
            drop(place);
        });
    }
}

async fn submit(node: &Node, message: Message, answered: &Mutex<Answered>) {
    let read = serde_json::from_slice::<Submission>(&message.payload);
    let key = read.as_ref().ok().and_then(|submission| submission.key.clone());
    let answer = match read {
        Ok(submission) => match node.controller.submit(submission).await {
            Ok(accepted) => Answer::Accepted(accepted),
            Err(error) => Answer::Refused(ErrorBody { error: Problem::of(&error) }),
        },
        Err(error) => {
            let error = ApiError::Malformed(format!("the submission is not right: {error}"));
            Answer::Refused(ErrorBody { error: Problem::of(&error) })
        }
    };
    if let Answer::Refused(ErrorBody { error }) = &answer {
        tracing::warn!(code = %error.code, message = %error.message, "a submission over MQTT was refused");
    }
    if let Some(topic) = message.response_topic {
        let properties = Properties { correlation: message.correlation, ..Properties::default() };
        publish(&*node.broker, &topic, &answer, false, properties).await;
    }
    if let Some(topic) = key.as_deref().and_then(topics::submission) {
        publish(&*node.broker, &topic, &answer, true, Properties::default()).await;
        let forgotten = answered.lock().unwrap_or_else(PoisonError::into_inner).note(&topic);
        if let Some(topic) = forgotten {
            forget(&*node.broker, &topic).await;
        }
    }
}

async fn forget(broker: &dyn Broker, topic: &str) {
    if let Err(error) = broker.publish(topic, Bytes::new(), true, Properties::default()).await {
        tracing::warn!(%topic, %error, "an MQTT message could not be taken back");
    }
}

async fn cancel_all(node: &Node, mut cancels: crate::broker::Subscription) {
    while let Some(message) = cancels.recv().await {
        let Some(job) = topics::job_to_cancel(&message.topic) else { continue };
        if message.sender == Sender::Local
            && let Err(error) = node.controller.cancel(job).await
        {
            tracing::warn!(%job, %error, "a cancellation over MQTT came to nothing");
        }
    }
}

async fn show_all(node: &Node) {
    let mut changes = node.controller.changes();
    loop {
        match changes.recv().await {
            Ok(view) => show(node, &view).await,
            // It missed some: show what is now.
            Err(RecvError::Lagged(_)) => show_now(node).await,
            Err(RecvError::Closed) => return,
        }
    }
}

async fn show_now(node: &Node) {
    for view in node.controller.views().await.unwrap_or_default() {
        show(node, &view).await;
    }
}

async fn show(node: &Node, view: &JobView) {
    publish(&*node.broker, &topics::job(view.job), view, true, Properties::default()).await;
}

/// Publishes `value` as JSON.
pub(crate) async fn publish(
    broker: &dyn Broker,
    topic: &str,
    value: &impl Serialize,
    retain: bool,
    properties: Properties,
) {
    let json = serde_json::to_vec(value).expect("views have string keys only");
    let properties = Properties { content_type: Some("application/json".into()), ..properties };
    if let Err(error) = broker.publish(topic, Bytes::from(json), retain, properties).await {
        tracing::warn!(%topic, %error, "an MQTT message could not be published");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_the_key_that_came_first_is_forgotten_when_there_are_too_many() {
        let mut answered = Answered::default();
        for n in 0..ANSWERS {
            assert_eq!(answered.note(&format!("key/{n}")), None);
            assert_eq!(answered.note("key/0"), None, "the same key again is no other");
        }
        assert_eq!(answered.note("one more").as_deref(), Some("key/0"));
        assert_eq!(answered.note("key/0").as_deref(), Some("key/1"), "it is new again");
    }
}
