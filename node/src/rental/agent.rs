//! A process in a container that connects to its ports: so a container needs no network for it.
//!
//! It is this program, started there by the engine. On its stdin and stdout it is asked for connections, a stream each
//! ([`mux`](super::mux)): three bytes say what it carries and the port, one says whether somebody listens there, and then
//! it is the connection. It ends with its stdin.

use std::ffi::OsStr;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::mux;
use crate::view::Carried;

/// What the process is started with.
pub(super) const ROLE: &str = "connect-ports";

/// How long a port may take to take a connection: it is on the same machine.
const CONNECT: Duration = Duration::from_secs(5);

/// The answer when somebody listens there.
const OPEN: u8 = 1;

/// The longest datagram, in bytes.
pub(super) const DATAGRAM: usize = u16::MAX as usize;

/// Asks the agent behind `stream` for a port; whether it has connected.
pub(super) async fn connect(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    carries: Carried,
    port: NonZeroU16,
) -> io::Result<bool> {
    let [high, low] = port.get().to_be_bytes();
    stream.write_all(&[carries as u8, high, low]).await?;
    stream.flush().await?;
    Ok(timeout(2 * CONNECT, stream.read_u8()).await?? == OPEN)
}

/// Is an agent, if that is what this process was started for.
#[must_use]
pub fn connect_if_asked() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != OsStr::new(ROLE) {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(serve()));
    Some(if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn serve() -> io::Result<()> {
    let from = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let to = pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
    mux::take_streams(tokio::io::join(from, to).compat(), |stream| {
        // Who asked hears of its end, and nobody of its cause.
        tokio::spawn(serve_one(stream));
    })
    .await;
    Ok(())
}

async fn serve_one(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let (carries, port) = (stream.read_u8().await?, stream.read_u16().await?);
    if carries == Carried::Udp as u8 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_u8(OPEN).await?;
        stream.flush().await?;
        return carry_datagrams(stream, &socket).await;
    }
    let connected = timeout(CONNECT, async {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Err(_) => TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await,
            connected => connected,
        }
    });
    let Ok(Ok(mut connection)) = connected.await else {
        stream.write_u8(0).await?;
        return stream.shutdown().await;
    };
    connection.set_nodelay(true)?;
    stream.write_u8(OPEN).await?;
    stream.flush().await?;
    copy_bidirectional(&mut stream, &mut connection).await.map(drop)
}

async fn carry_datagrams(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    socket: &UdpSocket,
) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let inwards = async {
        while let Some(datagram) = read_datagram(&mut from).await? {
            // That nobody listens is said after the next one.
            let _ = socket.send(&datagram).await;
        }
        io::Result::Ok(())
    };
    let outwards = async {
        let mut room = vec![0; DATAGRAM];
        loop {
            if let Ok(len) = socket.recv(&mut room).await {
                write_datagram(&mut to, &room[..len]).await?;
            }
        }
    };
    tokio::select! {
        ended = inwards => ended,
        ended = outwards => ended,
    }
}

/// Writes a datagram: two bytes of length, big-endian, and its own.
pub(super) async fn write_datagram(
    to: &mut (impl AsyncWrite + Unpin),
    datagram: &[u8],
) -> io::Result<()> {
    let len = u16::try_from(datagram.len()).map_err(io::Error::other)?;
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend_from_slice(datagram);
    to.write_all(&bytes).await?;
    to.flush().await
}

/// Reads a datagram; none at the end of the stream.
pub(super) async fn read_datagram(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Vec<u8>>> {
    let len = match from.read_u16().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        len => len?,
    };
    let mut datagram = vec![0; len.into()];
    from.read_exact(&mut datagram).await?;
    Ok(Some(datagram))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::duplex;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_where_somebody_listens_is_connected_and_another_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut said = Vec::new();
            peer.read_to_end(&mut said).await.unwrap();
            peer.write_all(&said).await.unwrap();
        });
        let (mut ours, theirs) = duplex(64);
        tokio::spawn(serve_one(theirs));
        assert!(connect(&mut ours, Carried::Tcp, port).await.unwrap());
        ours.write_all(b"hello").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut back = Vec::new();
        ours.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"hello");

        let (mut ours, theirs) = duplex(64);
        tokio::spawn(serve_one(theirs));
        assert!(!connect(&mut ours, Carried::Tcp, port).await.unwrap(), "it has gone");
    }

    #[tokio::test]
    async fn datagrams_keep_their_borders() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = NonZeroU16::new(socket.local_addr().unwrap().port()).unwrap();
        tokio::spawn(async move {
            let mut room = [0; 64];
            loop {
                let (len, from) = socket.recv_from(&mut room).await.unwrap();
                socket.send_to(&room[..len], from).await.unwrap();
            }
        });
        let (mut ours, theirs) = duplex(256);
        tokio::spawn(serve_one(theirs));
        assert!(connect(&mut ours, Carried::Udp, port).await.unwrap());
        for datagram in [&b"one"[..], b"", b"three"] {
            write_datagram(&mut ours, datagram).await.unwrap();
            assert_eq!(read_datagram(&mut ours).await.unwrap().unwrap(), datagram);
        }
    }
}
