//! The tasks round the peer book: dialling, telling, hearing, saving.
//!
//! One keeper takes the gate's events and the dials that are due. Each admitted connection has a
//! teller of ours and one of the peer's: a stream of `/ipdc/peers/1` that carries what is news,
//! facts whenever they change, and something at least every [`HEARTBEAT`]; each telling is
//! acknowledged with a byte, which measures the round trip and finds dead connections. Nothing
//! ticks faster than that on an idle node.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipdc_jobs::ids::PeerId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::admission::{self, Admitted, NotAdmitted, Refusal};
use super::book::{DueDial, Target, Telling, Told};
use super::certificate::Certificate;
use super::conduct::{Misdeed, PutOut};
use super::frame;
use super::pace::Pace;
use super::streams::{BoxStream, Incoming, OPEN_TIMEOUT, Protocol, serve_each};
use super::{Core, QUARANTINE, address, open, rekey, visit};
use crate::audit::{Entry, What};
use crate::state::{guests, members};
use ipdc_gate::{self as gate, ADMIT, ConnectionId, DialFailure, DialOpts, Link};

/// The longest a connection stays silent. A dead one is found within this and [`ANSWER_TIMEOUT`].
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a peer may take to acknowledge a telling: a busy small board on a bad link takes 2 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The least time between tellings to one peer: what changes often goes together.
const TELLING_PAUSE: Duration = Duration::from_millis(500);
/// The longest telling, in bytes.
pub(super) const FRAME_LIMIT: usize = 512 * 1024;
/// Time for a burst of changes to gather before it is written to the disk.
const SAVING_PAUSE: Duration = Duration::from_millis(200);
/// How long connections may take to close in good order.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Streams on which a peer may tell at once: it opens one on each connection, of which it may have
/// as many.
const STREAMS_A_PEER: usize = 4;
/// Tellings of one peer that are heard at once: all that there can be to tell to a node that knows
/// nothing.
const TELLINGS_AT_ONCE: u64 = 100;
/// Tellings a second that are heard of one peer in the long run. It tells two, and something more
/// in the seconds after many joined: each costs a hundred signatures at most, some 10 ms.
const TELLINGS_A_SECOND: u64 = 5;
/// The byte that acknowledges a telling.
const ACKNOWLEDGED: u8 = 1;

/// Takes the gate's events and starts the dials that are due, until the node stops.
pub(super) async fn keep(core: Arc<Core>, mut events: mpsc::UnboundedReceiver<gate::Event>) {
    // Dials under way, by the connection they are to become.
    let mut dials: HashMap<ConnectionId, Target> = HashMap::new();
    let (resolved, mut to_dial) = mpsc::channel::<(DueDial, Option<DialOpts>)>(64);
    let mut stirred = core.book().stirred();
    loop {
        let due = until(core.book().next_due());
        let key_due = until(core.keys().due());
        tokio::select! {
            () = core.stopping.cancelled() => return,
            event = events.recv() => match event {
                Some(event) => take(&core, event, &mut dials),
                None => return,
            },
            Some((dial, opts)) = to_dial.recv() => match opts {
                Some(opts) => {
                    dials.insert(opts.connection_id(), dial.target);
                    core.dial(opts);
                }
                None => {
                    let unknown = DialFailure::Unreachable("no address".into());
                    core.book().dial_failed(dial.target, &unknown);
                }
            },
            () = key_due => {
                close_all(&core, &mut events, &mut dials).await;
                events = rekey::switch(&core).await;
            }
            // A sender lives in the book.
            _ = stirred.changed() => {}
            () = due => {
                for dial in core.book().due(Instant::now()) {
                    let resolved = resolved.clone();
                    core.spawn(async move {
                        let opts = options(&dial).await;
                        // The keeper may have stopped.
                        let _ = resolved.send((dial, opts)).await;
                    });
                }
            }
        }
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Closes all connections, in good order where that takes no longer than [`CLOSE_TIMEOUT`], and gives
/// up the dials under way.
async fn close_all(
    core: &Arc<Core>,
    events: &mut mpsc::UnboundedReceiver<gate::Event>,
    dials: &mut HashMap<ConnectionId, Target>,
) {
    core.book().links().iter().for_each(|link| link.close());
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    while !core.book().links().is_empty() {
        match timeout_at(deadline, events.recv()).await {
            Ok(Some(event)) => take(core, event, dials),
            Ok(None) | Err(_) => break,
        }
    }
    let mut book = core.book();
    book.links().iter().for_each(|link| book.closed(link));
    for (_, target) in dials.drain() {
        book.dial_failed(target, &DialFailure::Unreachable("the swarm's key changes".into()));
    }
}

/// What to dial; none if no address is known now.
async fn options(dial: &DueDial) -> Option<DialOpts> {
    let mut addresses = Vec::new();
    for named in &dial.addresses {
        for address in address::resolve(named).await {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses.truncate(address::ADDRESSES_LIMIT);
    // A new port: with the listening one, two nodes that dial each other make one connection that
    // both take for their own, and a quick dial after a close is refused.
    match dial.peer {
        _ if addresses.is_empty() => None,
        Some(peer) => {
            Some(DialOpts::peer_id(peer).addresses(addresses).allocate_new_port().build())
        }
        None => {
            let address = addresses.swap_remove(0);
            Some(DialOpts::unknown_peer_id().address(address).allocate_new_port().build())
        }
    }
}

fn take(core: &Arc<Core>, event: gate::Event, dials: &mut HashMap<ConnectionId, Target>) {
    match event {
        gate::Event::Opened(link) => {
            if link.is_guest() {
                return visit::begin(core, &link);
            }
            let target = dials.remove(&link.id);
            let mut book = core.book();
            book.opened(&link, target);
            if let Some(target) = target {
                book.dial_succeeded(target);
            }
            let is_known = link.dialled.is_some() || book.certificate(link.peer).is_some();
            drop(book);
            let place = core.strangers.clone().try_acquire_owned().ok().filter(|_| !is_known);
            if place.is_none() && !is_known {
                tracing::debug!(peer = %link.peer, "closed: too many strangers are in quarantine");
                link.close();
                return;
            }
            core.spawn(quarantined(core.clone(), link, place));
        }
        gate::Event::Closed(link) => core.book().closed(&link),
        gate::Event::Arrived(arrival) => core.spawn(open::greet(core.clone(), *arrival)),
        gate::Event::DialFailed(id, failure) => {
            if let Some(target) = dials.remove(&id) {
                tracing::debug!(?target, ?failure, "dial failed");
                core.book().dial_failed(target, &failure);
            }
        }
        gate::Event::Listening(address) => core.listening(|listening| {
            if !listening.contains(&address) {
                listening.push(address);
            }
        }),
        gate::Event::NotListening(address) => {
            core.listening(|listening| listening.retain(|known| *known != address));
        }
    }
}

/// Takes in the member behind `link`; the first time is noted. False as [`Book::admitted`] says.
///
/// [`Book::admitted`]: super::book::Book::admitted
fn enter(core: &Core, link: &Arc<Link>, admitted: Admitted) -> bool {
    let mut book = core.book();
    let is_first = !book.was_seen(link.peer);
    let is_member = book.admitted(link, admitted);
    let certificate = book.certificate(link.peer).filter(|_| is_member && is_first);
    drop(book);
    if let Some(Certificate { owner, issuer, .. }) = certificate {
        let entry = Entry::now(What::Admitted, &owner, format!("certified by {issuer}"));
        core.audit.note(Entry { peer: Some(link.peer), ..entry });
    }
    is_member
}

/// Closes the connections of those that are put out, and notes it, until the node stops.
pub(super) async fn put_out(core: Arc<Core>, mut verdicts: mpsc::UnboundedReceiver<PutOut>) {
    while let Some(PutOut { peer, time, last }) = verdicts.recv().await {
        let span = humantime::format_duration(time);
        tracing::warn!(%peer, "put out for {span}: it went on breaking the rules, at last thus: {last}");
        let (links, owner) = {
            let mut book = core.book();
            let owner = book.certificate(peer).map(|certificate| certificate.owner);
            (book.put_out(peer, Instant::now() + time), owner.unwrap_or_default())
        };
        let entry = Entry::now(What::PutOut, &owner, format!("for {span}: {last}"));
        core.audit.note(Entry { peer: Some(peer), ..entry });
        links.iter().for_each(|link| link.close());
    }
}

/// What a connection goes through: quarantine, then tellings until it ends.
async fn quarantined(core: Arc<Core>, link: Arc<Link>, place: Option<OwnedSemaphorePermit>) {
    let peer = link.peer;
    let ended = timeout(QUARANTINE, admission::run(&core, &link)).await;
    drop(place);
    match ended {
        Ok(Ok(admitted)) => {
            if enter(&core, &link, admitted) {
                tracing::debug!(%peer, "admitted");
                let ended = tell(&core, &link).await;
                tracing::debug!(%peer, ?ended, "telling ended");
                if let Err(error) = &ended {
                    core.blame_garbage(peer, Protocol::Peers.name(), error);
                }
            }
        }
        Ok(Err(NotAdmitted::Joined)) => {}
        Ok(Err(NotAdmitted::RefusedUs(refusal))) => {
            tracing::warn!(%peer, %refusal, "a peer does not let this node in");
        }
        // It was named when it was put out; it may come back as often as it likes.
        Ok(Err(refused @ NotAdmitted::Refused(Refusal::PutOut { .. }))) => {
            tracing::debug!(%peer, %refused, "not admitted");
        }
        Ok(Err(refused @ NotAdmitted::Refused(_))) => {
            tracing::warn!(%peer, %refused, "not admitted");
        }
        Ok(Err(broke)) => {
            tracing::debug!(%peer, %broke, "not admitted");
            if let NotAdmitted::Io(error) = &broke {
                core.blame_garbage(peer, ADMIT, error);
            }
        }
        Err(_) => tracing::warn!(%peer, "quarantine ended: no certificate in {QUARANTINE:?}"),
    }
    link.close();
}

/// Tells the peer behind `link` what is news, until the connection breaks, the peer stops
/// answering, or its certificate ends.
async fn tell(core: &Core, link: &Link) -> io::Result<()> {
    let mut stirred = core.book().stirred();
    let mut facts = core.facts.clone();
    let mut told = Told::default();
    let mut told_key = 0;
    let mut tell_facts = true;
    let mut stream = timeout(OPEN_TIMEOUT, open::on_link(link, Protocol::Peers)).await??;
    loop {
        let key = core.keys().news(told_key);
        if let Some((number, change)) = key {
            let telling = Telling { key: Some(change), ..Telling::default() };
            timeout(ANSWER_TIMEOUT, say(&mut stream, &telling)).await??;
            core.key_known_by(link.peer, number);
            told_key = number;
        }
        let (mut tellings, now_told) = core.book().news(told);
        told = now_told;
        let renew = core.asks_renewal_of(link.peer);
        if tell_facts || renew || tellings.is_empty() {
            let facts = tell_facts.then(|| facts.borrow_and_update().to_tell());
            tellings.push(Telling { facts, renew, ..Telling::default() });
        }
        for telling in &tellings {
            let latency = timeout(ANSWER_TIMEOUT, say(&mut stream, telling)).await??;
            core.book().measured(link.peer, latency);
        }
        let holds = core.book().still_member(link.peer);
        let heartbeat = Instant::now() + HEARTBEAT.min(holds);
        sleep(TELLING_PAUSE).await;
        tell_facts = false;
        // Until there is news, or for a heartbeat.
        loop {
            tokio::select! {
                _ = stirred.changed() => {
                    if core.book().has_news(told) || core.keys().news(told_key).is_some() { break }
                }
                Ok(()) = facts.changed() => {
                    tell_facts = true;
                    break;
                }
                () = sleep_until(heartbeat) => break,
                () = core.stopping.cancelled() => return Ok(()),
            }
        }
        if core.book().still_member(link.peer).is_zero() {
            return Err(io::Error::other("its certificate ended"));
        }
    }
}

async fn say(stream: &mut BoxStream, telling: &Telling) -> io::Result<Duration> {
    let start = Instant::now();
    frame::write(stream, telling, FRAME_LIMIT).await?;
    match stream.read_u8().await? {
        ACKNOWLEDGED => Ok(start.elapsed()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Takes what peers tell, until the node stops.
pub(super) async fn hear(core: Arc<Core>, incoming: Incoming) {
    let surplus = |peer| core.conduct.report(peer, Misdeed::Streams(Protocol::Peers.name()));
    let hear = |peer, stream| {
        let core = core.clone();
        async move {
            let ended = hear_one(&core, peer, stream).await;
            tracing::debug!(%peer, ?ended, "hearing ended");
            if let Err(error) = &ended {
                core.blame_garbage(peer, Protocol::Peers.name(), error);
            }
        }
    };
    serve_each(incoming, STREAMS_A_PEER, surplus, hear).await;
}

async fn hear_one(core: &Core, peer: PeerId, mut stream: BoxStream) -> io::Result<()> {
    let mut pace = Pace::new(TELLINGS_A_SECOND, TELLINGS_AT_ONCE);
    loop {
        let telling = timeout(2 * HEARTBEAT, frame::read(&mut stream, FRAME_LIMIT));
        let telling: Telling = telling.await??;
        // Its acknowledgement waits with it, and so does the peer.
        pace.take(1).await;
        if let Some(change) = &telling.key {
            // Acknowledged when it is on the disk.
            core.hear_key(change, peer).await.map_err(io::Error::other)?;
        }
        stream.write_u8(ACKNOWLEDGED).await?;
        stream.flush().await?;
        let learned = core.learn_revocations(&telling.revocations, Some(peer)).await;
        learned.map_err(io::Error::other)?;
        let renew = telling.renew;
        let heard = core.book().heard(peer, telling);
        if let Some(misdeed) = heard.misdeed {
            core.conduct.report(peer, misdeed);
        }
        core.note_guests(&heard.guests);
        if renew {
            core.renew(peer).map_err(io::Error::other)?;
        }
    }
}

impl Core {
    /// Reports `peer` if it was no bad luck that `error` came of reading what it sent.
    fn blame_garbage(&self, peer: PeerId, on: &'static str, error: &io::Error) {
        // Of a stranger there is nothing to remember: it comes as another one.
        if error.kind() == io::ErrorKind::InvalidData && self.book().certificate(peer).is_some() {
            self.conduct.report(peer, Misdeed::Garbage { on, why: error.to_string() });
        }
    }
}

/// Writes members that changed to the database, until the node stops; then once more.
pub(super) async fn save(core: Arc<Core>) {
    let mut stirred = core.book().stirred();
    loop {
        let stopping = tokio::select! {
            () = core.stopping.cancelled() => true,
            _ = stirred.changed() => false,
        };
        if !stopping {
            sleep(SAVING_PAUSE).await;
            stirred.mark_unchanged();
        }
        let unsaved = core.book().take_unsaved();
        let passes = core.book().take_unsaved_guests();
        if !unsaved.is_empty() || !passes.is_empty() {
            let save = move |c: &rusqlite::Connection| {
                members::save_members(c, &unsaved)?;
                guests::save(c, &passes)
            };
            let saved = core.db.call(save).await;
            if let Err(error) = saved {
                // What is lost here is learned again from peers.
                tracing::warn!(%error, "members not saved");
            }
        }
        if stopping {
            return;
        }
    }
}
