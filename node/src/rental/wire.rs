//! What nodes say on `/ipdc/containers/1`.
//!
//! A stream carries one [`Ask`] one way and [`Answer`]s the other, as JSON behind its length. After [`Answer::Open`]
//! it carries what was asked for: of a command and of logs [`Frame`]s, of a TCP port bytes as they are, of a UDP port
//! datagrams, each behind its length.
//!
//! Who asks is who opened the stream: the transport proves it.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use bytes::Bytes;
use ipdc_jobs::engine::Takes;
use ipdc_jobs::ids::{Cid, cid_text};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::RentError;
use crate::problem::Problem;
use crate::view::{Carried, ContainerId, ContainerView, TerminalSize};

/// The longest ask, in bytes: a command and an environment as long as a shell takes.
pub(super) const ASK_LIMIT: usize = 256 << 10;

/// The longest answer: the list of some thousand containers.
pub(super) const ANSWER_LIMIT: usize = 4 << 20;

/// What a container may ask for of processors, GPUs, and memory: the engine starts none with less.
const CPUS: RangeInclusive<u32> = 1..=1_024;
const GPUS_LIMIT: u32 = 64;
const MEMORY_LEAST: u64 = 6 << 20;

/// The longest name of a group, in bytes.
const GROUP_LIMIT: usize = 64;

/// The longest [`Frame`], in bytes of what it carries.
const FRAME_LIMIT: usize = 64 << 10;

/// What one node asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// To run a container. Answered by [`Answer::Fetched`], again and again, and then by [`Answer::Container`].
    Run(Box<Order>),
    /// Which containers it has of the owner of who asks.
    List,
    /// To let one run for longer, or for less long, from now on.
    Extend {
        /// Which.
        id: ContainerId,
        /// How long.
        time_ms: u64,
    },
    /// To end one, and to forget it.
    Remove {
        /// Which.
        id: ContainerId,
    },
    /// What one has written.
    Logs {
        /// Which.
        id: ContainerId,
        /// Whether what it writes later comes too.
        follow: bool,
    },
    /// To run a command in one.
    Exec {
        /// Which.
        id: ContainerId,
        /// The command.
        command: Vec<String>,
        /// The terminal that it runs on; none, pipes.
        terminal: Option<TerminalSize>,
    },
    /// To connect to a port of one.
    Port {
        /// Which.
        id: ContainerId,
        /// The port.
        port: NonZeroU16,
        /// What it carries.
        carries: Carried,
    },
}

/// A container that is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// What is to name it.
    pub(super) id: ContainerId,
    /// How its image was named, for people.
    pub(super) name: String,
    /// The image.
    #[serde(with = "cid_text")]
    pub(super) image: Cid,
    /// In place of the image's own.
    pub(super) command: Vec<String>,
    /// Its environment, over that of the image.
    pub(super) env: BTreeMap<String, String>,
    /// Processors and GPUs.
    pub(super) takes: Takes,
    /// Bytes of memory.
    pub(super) memory: u64,
    /// Bytes that it may write into its own file system, where it can.
    pub(super) disk: u64,
    /// How long it may run.
    pub(super) time_ms: u64,
    /// Whether it has its node's network.
    pub(super) network: bool,
    /// Whether it runs as the image's user, in a file system that it can write.
    pub(super) root: bool,
    /// Containers that belong together.
    pub(super) group: Option<String>,
}

impl Order {
    /// What is wrong with it, whoever asks.
    pub(super) fn check(&self) -> Result<(), RentError> {
        let wrong = |what: &str| Err(RentError::Wrong(what.to_owned()));
        if self.env.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return wrong("the name of a variable is not empty and has no `=`");
        }
        if !CPUS.contains(&self.takes.cpus) {
            return wrong("a container has 1 to 1024 processors");
        }
        if self.takes.gpus > GPUS_LIMIT {
            return wrong("a container has at most 64 GPUs");
        }
        if self.memory < MEMORY_LEAST {
            return wrong("a container has at least 6 MiB of memory");
        }
        if self.time_ms == 0 {
            return wrong("a container runs for a second at least");
        }
        let is_group = |name: &String| {
            let is_right = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=GROUP_LIMIT).contains(&name.len()) && name.bytes().all(is_right)
        };
        if !self.group.iter().all(is_group) {
            return wrong("the name of a group has 1 to 64 letters, digits, `-` and `_`");
        }
        Ok(())
    }
}

/// What the other says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It is at work; bytes of the image that have come. Said every few seconds, also when it is the same number.
    Fetched(u64),
    /// The container, as it is now.
    Container(Box<ContainerView>),
    /// All of them.
    Containers(Vec<ContainerView>),
    /// What was asked for follows.
    Open,
    /// It does not do it.
    Refused(Problem),
}

/// A piece of what goes into a command and comes out of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// For its stdin, or from its stdout, or from its terminal.
    Bytes(Bytes),
    /// From its stderr.
    Err(Bytes),
    /// There is no more for its stdin.
    Eof,
    /// Its terminal has this size now.
    Resize(TerminalSize),
    /// It has ended; with this code, if it ended by itself.
    Exit(Option<i64>),
    /// It goes on no more, and why.
    Broken(String),
}

impl Frame {
    fn code(&self) -> u8 {
        match self {
            Frame::Bytes(_) => 0,
            Frame::Err(_) => 1,
            Frame::Eof => 2,
            Frame::Resize(_) => 3,
            Frame::Exit(_) => 4,
            Frame::Broken(_) => 5,
        }
    }

    /// Writes it: a byte that says what it is, four of length, big-endian, and what it carries.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let body = match self {
            Frame::Bytes(bytes) | Frame::Err(bytes) => bytes.clone(),
            Frame::Eof => Bytes::new(),
            Frame::Resize(size) => json(size)?,
            Frame::Exit(code) => json(code)?,
            Frame::Broken(why) => {
                let end = why.floor_char_boundary(FRAME_LIMIT);
                Bytes::copy_from_slice(&why.as_bytes()[..end])
            }
        };
        if body.is_empty() {
            return put(to, self.code(), &[]).await;
        }
        for part in body.chunks(FRAME_LIMIT) {
            put(to, self.code(), part).await?;
        }
        Ok(())
    }

    /// Reads one; none at the end of the stream.
    ///
    /// # Errors
    /// When the stream breaks, or what comes is none: of kind `InvalidData`.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
        let mut code = [0];
        if from.read(&mut code).await? == 0 {
            return Ok(None);
        }
        let len = from.read_u32().await? as usize;
        if len > FRAME_LIMIT {
            return Err(invalid(format!("a frame of {len} bytes")));
        }
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes).await?;
        Ok(Some(match code[0] {
            0 => Frame::Bytes(bytes.into()),
            1 => Frame::Err(bytes.into()),
            2 => Frame::Eof,
            3 => Frame::Resize(serde_json::from_slice(&bytes).map_err(invalid)?),
            4 => Frame::Exit(serde_json::from_slice(&bytes).map_err(invalid)?),
            5 => Frame::Broken(String::from_utf8(bytes).map_err(invalid)?),
            code => return Err(invalid(format!("a frame of the sort {code}"))),
        }))
    }
}

async fn put(to: &mut (impl AsyncWrite + Unpin), code: u8, body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(5 + body.len());
    bytes.push(code);
    bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
    bytes.extend_from_slice(body);
    to.write_all(&bytes).await?;
    to.flush().await
}

fn json(value: &impl Serialize) -> io::Result<Bytes> {
    Ok(serde_json::to_vec(value)?.into())
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_as_they_were_sent_and_long_ones_in_pieces() {
        let size = TerminalSize { rows: 24, columns: 80 };
        let sent = [
            Frame::Bytes("a".into()),
            Frame::Err("b".into()),
            Frame::Resize(size),
            Frame::Eof,
            Frame::Exit(Some(-3)),
            Frame::Exit(None),
            Frame::Broken("why".into()),
        ];
        let mut bytes = Vec::new();
        for frame in &sent {
            frame.write(&mut bytes).await.unwrap();
        }
        let mut from = &bytes[..];
        for frame in sent {
            assert_eq!(Frame::read(&mut from).await.unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).await.unwrap(), None);

        let long = vec![7; FRAME_LIMIT + 1];
        let mut bytes = Vec::new();
        Frame::Bytes(long.clone().into()).write(&mut bytes).await.unwrap();
        let mut from = &bytes[..];
        let mut back = Vec::new();
        while let Some(Frame::Bytes(part)) = Frame::read(&mut from).await.unwrap() {
            back.extend_from_slice(&part);
        }
        assert_eq!(back, long);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_told_apart_from_a_stream_that_breaks() {
        let read = async |bytes: &[u8]| Frame::read(&mut &bytes[..]).await.unwrap_err().kind();
        assert_eq!(read(&[9, 0, 0, 0, 0]).await, io::ErrorKind::InvalidData);
        assert_eq!(read(&[0, 0xff, 0, 0, 0]).await, io::ErrorKind::InvalidData);
        assert_eq!(read(&[3, 0, 0, 0, 1, b'{']).await, io::ErrorKind::InvalidData);
        assert_eq!(read(&[0, 0, 0, 0, 9, 1]).await, io::ErrorKind::UnexpectedEof);
    }
}
