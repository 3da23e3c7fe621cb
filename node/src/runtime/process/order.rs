//! What a node and a launcher say to each other: packets of JSON on a socket, with them a run's pipes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runtime::outbox::FILES_LIMIT;

/// The longest packet: params, which a manifest has room for, with every byte escaped; and what a socket takes
/// in one piece.
const PACKET_LIMIT: usize = 192 << 10;

/// What comes with an order: stdin, stdout, stderr, and the socket on which the program asks its host. An answer
/// may come with more.
pub(super) const PIPES: usize = 4;
const _: () = assert!(PIPES <= FILES_LIMIT);

/// To a launcher: run the program, with the pipes that come with this.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) arguments: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
    /// The longest file that it may write, in bytes.
    pub(super) file_size: u64,
    /// Before that a fresh working directory, with room for so many bytes: another attempt begins.
    pub(super) fresh: Option<u64>,
    /// Whether it may leave files in `/out`.
    pub(super) out: bool,
}

/// From a launcher.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is confined and waits for orders.
    Ready,
    /// It cannot be, or cannot do what it was told: why. It is gone.
    Failed(String),
    /// The system does not start the program: the number of its error.
    NotStarted(i32),
    /// The program ended, and nothing of what it started is left. The paths of the files in `/out`, which come with
    /// this, or why they cannot be kept.
    Ended { end: End, out: Result<Vec<String>, String> },
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// The two ends of the socket.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(socketpair(kind.0, kind.1, kind.2, None)?)
}

/// Sends `message`, and `files` with it.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > PACKET_LIMIT {
        let what = format!("{} bytes are more than a launcher takes", text.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_LIMIT))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(files));
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message, with its files; none when the other end is gone.
pub(super) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // Most packets are a hundredth of the longest.
    let (_, bytes) = recv(&socket, &mut [0; 0], RecvFlags::PEEK | RecvFlags::TRUNC)?;
    let mut text = vec![0; bytes];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_LIMIT))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut room = [IoSliceMut::new(&mut text)];
    let received = recvmsg(&socket, &mut room, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files = files.flatten().collect();
    Ok(Some((serde_json::from_slice(&text[..received.bytes])?, files)))
}
