//! `ipdc run --local N`: a swarm of N nodes on this machine, for one job.
//!
//! Each is a process of its own with a home of its own in one temporary directory, on loopback
//! ports that the system picks. One has made the swarm; the others' certificates are signed
//! directly with its root key, which is at hand. Dropping the swarm kills the nodes and removes
//! their homes; whatever kills us, they end with us.

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use rust_ipfs::Multiaddr;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::error::CliError;
use super::process::{Life, NodeProcess};
use super::setup;
use super::start::{Flags, READY_LIMIT};
use crate::api::client::Client;
use crate::home::Home;
use crate::machine;

/// Nodes that start at once: more would only wait for each other's share of the processors.
const START_AT_ONCE: usize = 8;

/// How long the nodes may take to see each other: three times what 20 of them may on two cores.
const MEET_LIMIT: Duration = Duration::from_secs(30);

/// How often a node is asked whom it sees.
const MEET_PAUSE: Duration = Duration::from_millis(50);

/// What such nodes let the job do beside computing: nothing, where it is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Allow {
    /// Fetch from the network, from public addresses
    Fetch,
    /// Fetch from private addresses too, those that job.toml names
    Private,
    /// Run native programs
    Process,
    /// Run containers, by this machine's engine
    Container,
}

/// The settings that say so, and their values.
fn settings(allow: &[Allow]) -> Vec<(&'static str, String)> {
    let mut members = vec!["wasm", "wasi", "python"];
    let mut settings = Vec::new();
    for allow in allow {
        match allow {
            Allow::Fetch => settings.push(("IPDC_POLICY_FETCH", "true".to_owned())),
            Allow::Private => {
                settings.push(("IPDC_POLICY_FETCH_PRIVATE", "0.0.0.0/0,::/0".to_owned()));
            }
            Allow::Process => members.push("process"),
            Allow::Container => members.push("container"),
        }
    }
    settings.push(("IPDC_POLICY_MEMBERS", members.join(",")));
    settings
}

/// N nodes that see each other.
pub(super) struct LocalSwarm {
    // Dropped in this order, after `Drop` has made sure that no process is left.
    nodes: Vec<NodeProcess>,
    homes: Vec<Home>,
    /// Of each.
    settings: Vec<(&'static str, String)>,
    _dir: TempDir,
}

impl LocalSwarm {
    pub(super) async fn start(nodes: u32, allow: &[Allow]) -> Result<Self, CliError> {
        let place = std::env::temp_dir();
        let dir = tempfile::Builder::new()
            .prefix("ipdc-local-")
            .tempdir_in(&place)
            .map_err(CliError::file("write in", &place))?;
        let homes = setup::local_homes(dir.path(), nodes)?;
        // They share the machine.
        let slots = (machine::cpus() as usize / homes.len()).max(1).to_string();
        let mut settings = settings(allow);
        settings.push(("IPDC_NODE_SLOTS", slots));
        let mut swarm = LocalSwarm { nodes: Vec::new(), homes, settings, _dir: dir };
        // The others ask the first one whom there is.
        let first = swarm.start_some(0, 1, &[]).await?;
        let mut next = 1;
        while next < swarm.homes.len() {
            let end = swarm.homes.len().min(next + START_AT_ONCE);
            swarm.start_some(next, end, &first).await?;
            next = end;
        }
        swarm.meet().await?;
        Ok(swarm)
    }

    /// The home of the node that takes the job.
    pub(super) fn home(&self) -> &Path {
        self.homes[0].path()
    }

    /// Starts the nodes from `begin` to before `end`; gives where they listen.
    async fn start_some(
        &mut self,
        begin: usize,
        end: usize,
        bootstrap: &[Multiaddr],
    ) -> Result<Vec<Multiaddr>, CliError> {
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        let listen: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().expect("it is a multiaddress");
        let flags = Flags {
            listen: vec![listen],
            mqtt: Some(any),
            http: Some(any),
            bootstrap: bootstrap.to_vec(),
        };
        for home in &self.homes[begin..end] {
            let life = Life::Ours { settings: self.settings.clone() };
            self.nodes.push(NodeProcess::spawn(home, flags.to_args(), life)?);
        }
        let mut addresses = Vec::new();
        for node in &mut self.nodes[begin..end] {
            addresses.extend(node.ready(READY_LIMIT).await?.listen);
        }
        Ok(addresses)
    }

    /// Waits until every node sees all the others, and the first knows what each can do.
    async fn meet(&self) -> Result<(), CliError> {
        let start = Instant::now();
        let others = self.homes.len() - 1;
        for (index, home) in self.homes.iter().enumerate() {
            let client = Client::of_home(home.path())?;
            loop {
                let peers = client.peers().await?;
                let seen = peers.iter().filter(|p| !p.me && p.connected && p.facts.is_some());
                if seen.count() == others {
                    break;
                }
                if start.elapsed() > MEET_LIMIT {
                    let nodes = self.homes.len();
                    return Err(CliError::LocalSwarm { after: MEET_LIMIT, ready: index, nodes });
                }
                sleep(MEET_PAUSE).await;
            }
        }
        Ok(())
    }
}

impl Drop for LocalSwarm {
    /// Their homes are thrown away, so nothing is lost by killing them.
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(NodeProcess::kill);
        self.nodes.iter_mut().for_each(NodeProcess::wait_killed);
    }
}
