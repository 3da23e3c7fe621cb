//! `ipdc start`: a node in the foreground, or as a daemon.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use clap::Args;
use rust_ipfs::Multiaddr;

use super::Session;
use super::error::CliError;
use super::output::{Answer, Output};
use super::process::{Life, NodeProcess, stdin_closed};
use crate::config::{self, Config};
use crate::home::Home;
use crate::node;
use crate::view::RunInfo;

/// How long a node may take to be ready. It needs well under a second; a slow disk that recovers
/// a database after a crash needs more.
pub(super) const READY_LIMIT: Duration = Duration::from_secs(15);

/// Start the node, until Ctrl-C or `ipdc stop`
#[derive(Debug, Args)]
pub(super) struct Start {
    /// Run in the background; returns when the node is ready. It logs to node.log in its home
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    flags: Flags,
    /// End when stdin is closed: for a node that must not outlive who started it
    #[arg(long = "while-stdin", hide = true, conflicts_with = "detach")]
    while_stdin: bool,
}

/// What a start sets over `ipdc.toml`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Flags {
    /// Where other nodes connect; may be repeated
    #[arg(long, value_name = "MULTIADDR", num_args = 1..)]
    pub(super) listen: Vec<Multiaddr>,
    /// Where MQTT clients on this machine connect; port 0 picks one
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(super) mqtt: Option<SocketAddr>,
    /// Where HTTP clients on this machine connect; port 0 picks one
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(super) http: Option<SocketAddr>,
    /// Nodes to connect to first; may be repeated
    #[arg(long, value_name = "MULTIADDR", num_args = 1..)]
    pub(super) bootstrap: Vec<Multiaddr>,
}

impl Flags {
    /// The same again for a process of its own.
    pub(super) fn to_args(&self) -> Vec<OsString> {
        let listen = self.listen.iter().map(|a| ("--listen", a.to_string()));
        let mqtt = self.mqtt.iter().map(|a| ("--mqtt", a.to_string()));
        let http = self.http.iter().map(|a| ("--http", a.to_string()));
        let bootstrap = self.bootstrap.iter().map(|a| ("--bootstrap", a.to_string()));
        let pairs = listen.chain(mqtt).chain(http).chain(bootstrap);
        pairs.flat_map(|(flag, value)| [flag.into(), value.into()]).collect()
    }
}

impl From<Flags> for config::Flags {
    fn from(Flags { listen, mqtt, http, bootstrap }: Flags) -> Self {
        config::Flags { listen, bootstrap, mqtt, http }
    }
}

impl Start {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        if self.detach {
            self.in_background(session).await
        } else {
            self.in_foreground(session).await
        }
    }

    async fn in_background(self, session: &Session) -> Result<(), CliError> {
        let home = Home::open(&session.home()?)?;
        let mut args = self.flags.to_args();
        args.extend((0..session.verbose).map(|_| "-v".into()));
        let mut process = NodeProcess::spawn(&home, args, Life::Own)?;
        let run_info = process.ready(READY_LIMIT).await?;
        session.output.put(&Started(run_info))
    }

    async fn in_foreground(self, session: &Session) -> Result<(), CliError> {
        let home = Home::open(&session.home()?)?;
        let config = Config::load(&home.config_file(), self.flags.into())?;
        let output = session.output;
        let node = node::run(home, config, |run_info| say_ready(output, run_info));
        if !self.while_stdin {
            return Ok(node.await?);
        }
        tokio::select! {
            ended = node => Ok(ended?),
            () = stdin_closed() => Ok(()),
        }
    }
}

/// People read it in the log; a program that asked for JSON gets its one value.
fn say_ready(output: Output, run_info: &RunInfo) {
    tracing::info!(
        peer_id = %run_info.peer_id, listen = ?run_info.listen,
        mqtt = %run_info.mqtt, http = %run_info.http,
        "the node is ready",
    );
    // Whoever started us may have closed stdout and still want the node.
    let _ = output.put(&Ready(run_info));
}

/// The answer of a start in the foreground: nothing but its JSON.
#[derive(Debug, serde::Serialize)]
#[serde(transparent)]
struct Ready<'a>(&'a RunInfo);

impl Answer for Ready<'_> {
    fn text(&self, _to: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

/// The answer of a start in the background.
#[derive(Debug, serde::Serialize)]
#[serde(transparent)]
struct Started(RunInfo);

impl Answer for Started {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let run = &self.0;
        writeln!(to, "started {} (process {})", run.peer_id, run.pid)?;
        run.listen.iter().try_for_each(|address| writeln!(to, "{:<7} {address}", "listen"))?;
        writeln!(to, "{:<7} {}", "mqtt", run.mqtt)?;
        writeln!(to, "{:<7} {}", "http", run.http)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.0.peer_id)
    }
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT, such as 127.0.0.1:0")]
struct BadAddress;

/// The first address that `HOST:PORT` means.
fn address(text: &str) -> Result<SocketAddr, BadAddress> {
    text.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or(BadAddress)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn flags_survive_the_way_to_another_process() {
        let flags = Flags {
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            mqtt: Some("127.0.0.1:0".parse().unwrap()),
            http: Some("[::1]:8080".parse().unwrap()),
            bootstrap: vec![
                "/ip4/10.0.0.1/tcp/1".parse().unwrap(),
                "/ip4/10.0.0.2/tcp/2".parse().unwrap(),
            ],
        };
        let args = [OsString::from("ipdc")].into_iter().chain(flags.to_args());
        let again = Only::try_parse_from(args).unwrap().flags;
        assert_eq!(again.to_args(), flags.to_args());
        assert_eq!(again.bootstrap, flags.bootstrap);
    }

    #[test]
    fn an_address_needs_host_and_port() {
        assert_eq!(address("127.0.0.1:0").unwrap().port(), 0);
        assert!(address("localhost:80").unwrap().ip().is_loopback());
        for wrong in ["", "127.0.0.1", ":80:", "127.0.0.1:99999"] {
            assert_eq!(address(wrong), Err(BadAddress), "{wrong}");
        }
    }
}
