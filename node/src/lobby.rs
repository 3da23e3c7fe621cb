//! Connections from this machine: how many there may be, and what those may do that have not proved
//! yet who they are.
//!
//! Anyone with an account on the machine can connect to a loopback port. A connection first waits in
//! a [`Lobby`], whose places are few: who comes when all are taken pushes out who waited longest. So
//! a crowd that says nothing, or half a sentence again and again, keeps nobody out who says at once
//! what it has to, and none of those who have proved themselves. MQTT and HTTP have a lobby each.
//!
//! Each connection's bytes pass through its [`Guarded`] stream, which ends it when it is pushed out,
//! sends too much before it has proved itself, or takes nothing of what it is sent.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections that have not proved themselves yet. Proof takes a millisecond: this covers a desk's
/// tools that all start at once.
const WAITING: usize = 64;

/// Bytes that a connection may send before it has proved itself: the longest MQTT CONNECT has two of
/// MQTT's strings of 64 KiB, password and will, and little else of length; HTTP's headers are shorter.
const UNPROVED_BYTES: usize = 256 << 10;

/// New connections in a second, and at once after a quiet second. Each costs some 0.1 ms of a
/// processor: so a fifth of one at most.
const PER_SECOND: u32 = 2_000;

/// How long a connection may take none of the bytes that it is sent. Nothing that runs on this
/// machine needs a second, unless it is stopped.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that may be published while a connection takes none: they may all be waiting for it. Who is
/// behind by so much is not slow but stopped.
const MISSED_BYTES: u64 = 64 << 20;

/// How often a connection that takes nothing is looked at: what is published meanwhile, at a few
/// hundred megabytes a second, is less than [`MISSED_BYTES`].
const LOOK: Duration = Duration::from_millis(100);

/// The places of one listener's connections.
#[derive(Debug)]
pub struct Lobby {
    limit: usize,
    patience: Duration,
    proved: AtomicUsize,
    published: AtomicU64,
    waiting: Mutex<VecDeque<Arc<Guest>>>,
    pace: Mutex<Pace>,
}

/// One connection. Its place is free again when the last `Arc` of it is gone.
#[derive(Debug)]
pub struct Guest {
    lobby: Arc<Lobby>,
    proved: AtomicBool,
    end: CancellationToken,
}

impl Lobby {
    /// With room for `limit` connections that have proved themselves, which may take nothing of
    /// what they are sent for as long as `patience`.
    #[must_use]
    pub fn new(limit: usize, patience: Duration) -> Arc<Lobby> {
        Arc::new(Lobby {
            limit,
            patience,
            proved: AtomicUsize::new(0),
            published: AtomicU64::new(0),
            waiting: Mutex::default(),
            pace: Mutex::new(Pace { left: PER_SECOND, since: Instant::now() }),
        })
    }

    /// Lets a new connection in. Who calls it for each that it accepts holds up those that come
    /// faster than [`PER_SECOND`].
    pub async fn enter(self: &Arc<Lobby>) -> Arc<Guest> {
        let pause = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(until) = pause {
            tokio::time::sleep_until(until).await;
        }
        let guest = self.guest();
        let mut waiting = self.waiting();
        // Who is known to nobody else is gone already.
        waiting.retain(|other| Arc::strong_count(other) > 1);
        if waiting.len() >= WAITING
            && let Some(longest) = waiting.pop_front()
        {
            longest.end.cancel();
        }
        waiting.push_back(Arc::clone(&guest));
        guest
    }

    /// A connection that is proved to begin with; none when there is no room for it.
    #[must_use]
    pub fn welcome(self: &Arc<Lobby>) -> Option<Arc<Guest>> {
        let guest = self.guest();
        guest.prove().then_some(guest)
    }

    /// Notes that so many bytes were published, for whichever of the connections.
    pub fn note_published(&self, bytes: usize) {
        self.published.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether none of its connections has proved itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.proved.load(Ordering::Relaxed) == 0
    }

    fn guest(self: &Arc<Lobby>) -> Arc<Guest> {
        Arc::new(Guest {
            lobby: Arc::clone(self),
            proved: AtomicBool::new(false),
            end: CancellationToken::new(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Guest>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Says that the connection has proved who it is; false when there is no room for it. To say it
    /// again changes nothing.
    #[must_use]
    pub fn prove(self: &Arc<Guest>) -> bool {
        if self.is_proved() {
            return true;
        }
        let more = |proved: usize| (proved < self.lobby.limit).then_some(proved + 1);
        let counter = &self.lobby.proved;
        if counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return false;
        }
        self.proved.store(true, Ordering::Relaxed);
        self.lobby.waiting().retain(|other| !Arc::ptr_eq(other, self));
        true
    }

    /// Whether it has proved who it is.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        self.proved.load(Ordering::Relaxed)
    }

    /// How many connections to the same listener have proved themselves.
    #[must_use]
    pub fn others(&self) -> usize {
        self.lobby.proved.load(Ordering::Relaxed)
    }

    /// Notes that it has published so many bytes.
    pub fn note_published(&self, bytes: usize) {
        self.lobby.note_published(bytes);
    }

    /// Ends the connection.
    pub fn send_away(&self) {
        self.end.cancel();
    }

    /// The connection's bytes.
    pub fn guard<S>(self: &Arc<Guest>, stream: S) -> Guarded<S> {
        Guarded {
            stream,
            guest: Arc::clone(self),
            end: Box::pin(self.end.clone().cancelled_owned()),
            unproved: UNPROVED_BYTES,
            stalled: None,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.is_proved() {
            self.lobby.proved.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How fast connections may come.
#[derive(Debug)]
struct Pace {
    left: u32,
    since: Instant,
}

impl Pace {
    /// Takes one of this second's; when there is none left, says when the next one begins. An accept
    /// loop waits for that before it takes another connection, so few are early.
    fn take(&mut self) -> Option<Instant> {
        const SECOND: Duration = Duration::from_secs(1);
        if self.since.elapsed() >= SECOND {
            *self = Pace { left: PER_SECOND, since: Instant::now() };
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or_default();
        left.is_none().then_some(self.since + SECOND)
    }
}

/// A stream that does not outstay its welcome.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    guest: Arc<Guest>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Bytes that it may still read before it has proved itself.
    unproved: usize,
    /// Since when nothing of what is being written was taken.
    stalled: Option<Stall>,
}

#[derive(Debug)]
struct Stall {
    until: Instant,
    /// What had been published when it began.
    published: u64,
    look: Pin<Box<Sleep>>,
}

impl<S> Guarded<S> {
    /// An error if the connection was sent away; else has it polled when it is.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// What `poll` says of something written, but that it has stalled for too long.
    fn patiently<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            return poll;
        }
        self.check(cx)?;
        let lobby = &self.guest.lobby;
        let published = lobby.published.load(Ordering::Relaxed);
        let stall = self.stalled.get_or_insert_with(|| Stall {
            until: Instant::now() + lobby.patience,
            published,
            look: Box::pin(tokio::time::sleep(LOOK.min(lobby.patience))),
        });
        while stall.look.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= stall.until || published - stall.published >= MISSED_BYTES {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            stall.look.as_mut().reset(stall.until.min(now + LOOK));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(cx)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if !this.guest.is_proved() {
            let read = buf.filled().len() - before;
            let Some(left) = this.unproved.checked_sub(read) else {
                buf.set_filled(before);
                return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
            };
            this.unproved = left;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.patiently(cx, poll)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_flush(cx);
        if poll.is_ready() {
            // All of it was taken: a slow reader that reads is no stalled one.
            this.stalled = None;
        }
        this.patiently(cx, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.patiently(cx, poll)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn who_waited_longest_makes_room_and_who_has_proved_itself_never_does() {
        let lobby = Lobby::new(1, PATIENCE);
        let proved = lobby.enter().await;
        assert!(proved.prove());
        let mut waiting = Vec::new();
        for _ in 0..=WAITING {
            waiting.push(lobby.enter().await);
        }
        let sent_away: Vec<_> = waiting.iter().map(|guest| guest.end.is_cancelled()).collect();
        assert_eq!(sent_away.iter().filter(|away| **away).count(), 1);
        assert!(sent_away[0] && !proved.end.is_cancelled());
        assert!(!waiting[1].prove(), "there is room for one");
        drop(proved);
        assert!(waiting[1].prove());
    }

    #[tokio::test]
    async fn a_second_has_room_for_so_many_and_the_next_one_for_the_others() {
        let lobby = Lobby::new(1, PATIENCE);
        let since = Instant::now();
        for _ in 0..PER_SECOND {
            drop(lobby.enter().await);
        }
        drop(lobby.enter().await);
        assert!(since.elapsed() >= Duration::from_millis(990));
    }

    #[tokio::test]
    async fn who_takes_nothing_is_given_up_and_who_takes_a_little_is_not() {
        let patience = Duration::from_millis(500);
        let lobby = Lobby::new(1, patience);
        let (ours, mut theirs) = duplex(10);
        let mut guarded = lobby.enter().await.guard(ours);
        let since = Instant::now();
        guarded.write_all(&[0; 10]).await.unwrap();
        guarded.flush().await.unwrap();
        let stalled = guarded.write_all(&[0; 10]).await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        assert!(since.elapsed() >= patience);

        let (ours, mut slow) = duplex(10);
        let mut guarded = lobby.enter().await.guard(ours);
        let writer = tokio::spawn(async move {
            for _ in 0..10 {
                guarded.write_all(&[0; 10]).await?;
                guarded.flush().await?;
            }
            io::Result::Ok(())
        });
        for _ in 0..10 {
            tokio::time::sleep(patience / 4).await;
            slow.read_exact(&mut [0; 10]).await.unwrap();
        }
        writer.await.unwrap().unwrap();
        theirs.read_exact(&mut [0; 10]).await.unwrap();
    }

    #[tokio::test]
    async fn who_takes_nothing_while_much_is_published_is_not_waited_for() {
        let lobby = Lobby::new(1, Duration::from_secs(600));
        let (ours, _theirs) = duplex(10);
        let mut guarded = lobby.enter().await.guard(ours);
        // What was published before does not count.
        lobby.note_published(1 << 30);
        let stalled = tokio::spawn(async move { guarded.write_all(&[0; 20]).await });
        for _ in 0..3 {
            tokio::time::sleep(LOOK * 2).await;
            assert!(!stalled.is_finished());
        }
        lobby.note_published(MISSED_BYTES as usize);
        let stalled = stalled.await.unwrap().unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_stranger_is_heard_out_only_so_far() {
        let lobby = Lobby::new(1, PATIENCE);
        let guest = lobby.enter().await;
        let mut sink = vec![0; 1 << 20];
        let all = vec![1; UNPROVED_BYTES];
        let mut guarded = guest.guard(&all[..]);
        guarded.read_exact(&mut sink[..UNPROVED_BYTES]).await.unwrap();
        let more = vec![1; UNPROVED_BYTES + 1];
        let mut guarded = guest.guard(&more[..]);
        let refused = guarded.read_to_end(&mut sink).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(guest.prove());
        let mut guarded = guest.guard(&more[..]);
        guarded.read_to_end(&mut sink).await.unwrap();
    }

    #[tokio::test]
    async fn who_is_sent_away_goes_at_once_whatever_it_does() {
        let lobby = Lobby::new(1, PATIENCE);
        let guest = lobby.enter().await;
        let (ours, _theirs) = duplex(10);
        let mut guarded = guest.guard(ours);
        let reading = tokio::spawn(async move { guarded.read_u8().await });
        guest.send_away();
        let gone = reading.await.unwrap().unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionAborted);
    }
}
