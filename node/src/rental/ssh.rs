//! SSH into a container, without a server or a network in it: this node is the server, on its loopback, and each command
//! is one in the container (RFC 4252 to 4254).
//!
//! Only who has one of the keys that were named gets in, by whatever user's name: who it is in the container the container
//! says. What a client may do is a shell, a command, files by `sftp` where the image has a server for that, and
//! connections to the container's own ports.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::Keypair;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handle, Handler, Msg, Session, VerifiedPublicKey, run_stream,
};
use russh::{
    Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, MethodKind, MethodSet,
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional, split};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::wire::Ask;
use super::{Frame, RentError, Renter};
use crate::problem::Problem;
use crate::view::{Carried, ContainerView, ExecRequest, TerminalSize};

/// How long a client may take to get in.
const LOGIN: Duration = Duration::from_secs(60);

/// How long a client may take to say what it wants of a channel.
const ASK: Duration = Duration::from_secs(60);

/// A client that says nothing is asked so often whether it is there.
const ALIVE: Duration = Duration::from_secs(60);

/// Keys that may be named.
const KEYS: usize = 64;

/// The exit code of what was not begun, as OpenSSH has it.
const NOT_BEGUN: u32 = 255;

/// The number of stderr among the sorts of data that a channel carries.
const STDERR: u32 = 1;

/// The best shell that the image has.
const SHELL: &str = "command -v bash >/dev/null && exec bash -l; exec sh -l";

/// The places where distributions have the server of `sftp` and `scp`.
const SFTP: &str = "for server in /usr/lib/openssh/sftp-server /usr/lib/ssh/sftp-server \
                    /usr/libexec/openssh/sftp-server /usr/libexec/sftp-server; do \
                    [ -x $server ] && exec $server; done; \
                    echo 'the image has no sftp-server: try scp -O, or tar over ssh' >&2; exit 127";

/// Keys of whom may get in, and what shows them who we are.
#[derive(Clone)]
pub(super) struct Ssh {
    config: Arc<Config>,
    keys: Arc<[PublicKey]>,
}

impl Ssh {
    /// For the keys in `text`, a line each as in a `.pub` file. The host key is this node's, always the same.
    ///
    /// # Errors
    /// When there is a line that is no such key, or none.
    pub(super) fn new(text: &str, identity: &Keypair) -> Result<Ssh, RentError> {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(key).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() || keys.len() > KEYS {
            let message = format!("of SSH keys there are {}; expected 1 to {KEYS}", keys.len());
            return Err(RentError::Wrong(message));
        }
        let config = Config {
            methods: MethodSet::from(&[MethodKind::PublicKey][..]),
            keys: vec![host_key(identity)],
            auth_rejection_time_initial: Some(Duration::ZERO),
            inactivity_timeout: None,
            keepalive_interval: Some(ALIVE),
            nodelay: true,
            ..Config::default()
        };
        Ok(Ssh { config: Arc::new(config), keys: keys.into() })
    }

    /// Serves one connection. It is over when this is dropped.
    pub(super) async fn serve(self, renter: Renter, view: ContainerView, connection: TcpStream) {
        let is_in = CancellationToken::new();
        let client = Client { renter, view, keys: self.keys, is_in: is_in.clone() };
        let served = async {
            let greeted = timeout(LOGIN, run_stream(self.config, connection, client)).await;
            let mut session = greeted.map_err(|_| russh::Error::ConnectionTimeout)??;
            let _hang_up = HangUp(session.handle());
            tokio::select! {
                ended = &mut session => ended,
                () = late(is_in) => Err(russh::Error::ConnectionTimeout),
            }
        };
        if let Err(error) = served.await {
            tracing::debug!(%error, "an SSH connection ended");
        }
    }
}

/// Comes back when nobody has got in who could have.
async fn late(is_in: CancellationToken) {
    sleep(LOGIN).await;
    if is_in.is_cancelled() {
        std::future::pending().await
    }
}

/// Ends a connection when it is dropped.
struct HangUp(Handle);

impl Drop for HangUp {
    fn drop(&mut self) {
        let handle = self.0.clone();
        // Without a runtime the node is gone.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let why = "the way into the container is closed".to_owned();
                // It may be over already.
                let _ = handle.disconnect(Disconnect::ByApplication, why, String::new()).await;
            });
        }
    }
}

fn key(line: &str) -> Result<PublicKey, RentError> {
    if line.starts_with("-----BEGIN") {
        let what = "this is a private key: give the public one, in the file that ends with .pub";
        return Err(RentError::Wrong(what.to_owned()));
    }
    match PublicKey::from_openssh(line) {
        Ok(key) if matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { .. }) => {
            Ok(key)
        }
        _ => {
            let sort = line.split(' ').next().unwrap_or_default().escape_debug();
            let what = format!(
                "an SSH key of the sort `{sort}` is not taken: ed25519 and ECDSA are (`ssh-keygen -t ed25519`)"
            );
            Err(RentError::Wrong(what))
        }
    }
}

/// Always the same for a node, and of no use for anything else.
fn host_key(identity: &Keypair) -> PrivateKey {
    let mut hash = Sha256::new();
    hash.update(b"ipdc ssh host key");
    // Every node's key is one that can be written; another would have a key of its own.
    hash.update(identity.to_protobuf_encoding().unwrap_or_default());
    let pair = Ed25519Keypair::from_seed(&hash.finalize().into());
    PrivateKey::new(KeypairData::from(pair), "ipdc").expect("an Ed25519 key needs nothing more")
}

/// One connection.
struct Client {
    renter: Renter,
    view: ContainerView,
    keys: Arc<[PublicKey]>,
    /// Somebody got in.
    is_in: CancellationToken,
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), russh::Error> {
        self.is_in.cancel();
        Ok(())
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        let is_known = self.keys.iter().any(|known| known.key_data() == key.public_key.key_data());
        Ok(if is_known { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        let (renter, view, handle) = (self.renter.clone(), self.view.clone(), session.handle());
        tokio::spawn(async move {
            let (reader, writer) = channel.split();
            // Who is gone hears nothing.
            let _ = serve_session(&renter, &view, reader, &writer, &handle).await;
            let _ = writer.eof().await;
            let _ = writer.close().await;
        });
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        let is_own = matches!(host, "localhost" | "127.0.0.1" | "::1");
        let port = u16::try_from(port).ok().and_then(std::num::NonZeroU16::new);
        let (Some(port), true) = (port, is_own) else { return Ok(()) };
        let ask = Ask::Port { id: self.view.id, port, carries: Carried::Tcp };
        // Without an answer it is rejected.
        if let Ok(mut stream) = self.renter.open(self.view.node, &ask).await {
            reply.accept().await;
            tokio::spawn(async move {
                copy_bidirectional(&mut channel.into_stream(), &mut stream).await
            });
        }
        Ok(())
    }
}

/// Does what a client asks of a channel: one command, on a terminal if it asked for that first.
async fn serve_session(
    renter: &Renter,
    view: &ContainerView,
    mut reader: ChannelReadHalf,
    writer: &ChannelWriteHalf<Msg>,
    handle: &Handle,
) -> Result<(), russh::Error> {
    let Ok(Some(asked)) = timeout(ASK, ask(&mut reader, writer, handle)).await else {
        return Ok(());
    };
    match renter.exec(view, asked).await {
        Ok(stream) => {
            let (from, to) = split(stream);
            tokio::select! {
                told = tell(from, writer) => told,
                // The client has gone.
                _ = feed(reader, to) => Ok(()),
            }
        }
        Err(error) => {
            let said = format!("{}\r\n", Problem::of(&error).message);
            writer.extended_data_bytes(STDERR, said).await?;
            writer.exit_status(NOT_BEGUN).await
        }
    }
}

/// What is to be run; none, when the client goes.
async fn ask(
    reader: &mut ChannelReadHalf,
    writer: &ChannelWriteHalf<Msg>,
    handle: &Handle,
) -> Option<ExecRequest> {
    let mut terminal = None;
    let script = loop {
        match reader.wait().await? {
            ChannelMsg::RequestPty { col_width, row_height, .. } => {
                terminal = Some(size(row_height, col_width));
                handle.channel_success(writer.id()).await.ok()?;
            }
            ChannelMsg::RequestShell { .. } => break SHELL.to_owned(),
            ChannelMsg::Exec { command, .. } => {
                break String::from_utf8_lossy(&command).into_owned();
            }
            ChannelMsg::RequestSubsystem { name, .. } if name == "sftp" => break SFTP.to_owned(),
            ChannelMsg::RequestSubsystem { .. }
            | ChannelMsg::AgentForward { .. }
            | ChannelMsg::RequestX11 { .. } => handle.channel_failure(writer.id()).await.ok()?,
            ChannelMsg::Close => return None,
            _ => {}
        }
    };
    handle.channel_success(writer.id()).await.ok()?;
    let command = ["sh", "-c", &script].map(str::to_owned).into();
    Some(ExecRequest { command, terminal })
}

fn size(rows: u32, columns: u32) -> TerminalSize {
    let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    TerminalSize { rows: short(rows), columns: short(columns) }
}

/// Tells the client what the command writes, and how it ends.
async fn tell(
    mut from: impl AsyncRead + Unpin,
    writer: &ChannelWriteHalf<Msg>,
) -> Result<(), russh::Error> {
    let code = loop {
        match Frame::read(&mut from).await? {
            Some(Frame::Bytes(bytes)) => writer.data_bytes(bytes).await?,
            Some(Frame::Err(bytes)) => writer.extended_data_bytes(STDERR, bytes).await?,
            Some(Frame::Exit(code)) => break code.and_then(|code| u32::try_from(code).ok()),
            Some(Frame::Broken(why)) => {
                writer.extended_data_bytes(STDERR, format!("{why}\r\n")).await?;
                break None;
            }
            Some(Frame::Eof | Frame::Resize(_)) => {}
            None => break None,
        }
    };
    writer.exit_status(code.unwrap_or(NOT_BEGUN)).await
}

/// Gives the command what the client sends, until that is gone.
async fn feed(mut reader: ChannelReadHalf, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    while let Some(message) = reader.wait().await {
        let frame = match message {
            ChannelMsg::Data { data } => Frame::Bytes(data),
            ChannelMsg::Eof => Frame::Eof,
            ChannelMsg::WindowChange { col_width, row_height, .. } => {
                Frame::Resize(size(row_height, col_width))
            }
            ChannelMsg::Close => return Ok(()),
            _ => continue,
        };
        frame.write(&mut to).await?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti foo@bar.com";

    /// One that can be read, but whose signatures would not be.
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDua+98fmaVgKl3rzfFxWjno5PgVuAr3AuCkumI0U7GxUbbbzPiAf\
        g1BmEybZ6cRMtmfbA78awV3B7sbxz/Dw/d763Wb00ld5Q5p0p1B5LJ2TjZLyxWuqzYyMk1chXW3H0E9qT7Ts4cqN3f\
        J+SL5kGxnRJlGXOVzTgq3LYD/tyNpQ== x";

    #[test]
    fn keys_are_public_ones_a_line_each_and_what_is_none_is_told() {
        let identity = Keypair::generate_ed25519();
        let said = |text: &str| Ssh::new(text, &identity).err().map(|error| error.to_string());
        assert_eq!(said(KEY), None);
        assert_eq!(said(&format!("# mine\n\n{KEY}\n  {KEY}\n")), None);
        assert!(said("").unwrap().contains("expected 1 to 64"));
        let private = said("-----BEGIN OPENSSH PRIVATE KEY-----\nabc").unwrap();
        assert!(private.contains(".pub"), "{private}");
        assert!(said("ssh-dss AAAA x").unwrap().contains("`ssh-dss` is not taken"));
        assert!(said(RSA).unwrap().contains("`ssh-rsa` is not taken"));
    }

    #[test]
    fn a_nodes_host_key_stays_the_same_and_is_no_others() {
        let (one, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        assert_eq!(host_key(&one).public_key(), host_key(&one).public_key());
        assert_ne!(host_key(&one).public_key(), host_key(&other).public_key());
    }
}
