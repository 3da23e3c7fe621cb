//! Nodes and who they are: `init`, `join`, `invite`, `delegate`, `revoke`, `id`, `status`, `peers`; `pause`,
//! `resume`.

use std::io::{self, IsTerminal as _, Read as _, Write};
use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use ipdc_jobs::ids::PeerId;
use serde::Serialize;

use super::Session;
use super::error::CliError;
use super::output::{Answer, put_table, size, span, table};
use super::progress::Progress;
use super::setup;
use crate::swarm::Standing;
use crate::swarm::certificate::now_ms;
use crate::swarm::facts::PeerFacts;
use crate::swarm::invitation::TOKEN_LIMIT;
use crate::view;

/// Make a new swarm, with this node as its first member
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The swarm's name, for people
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
}

impl Init {
    pub(super) fn run(self, session: &Session) -> Result<(), CliError> {
        let member = setup::init(&session.home()?, self.domain)?;
        session
            .output
            .note("start the node with `ipdc start`, then invite others with `ipdc invite`");
        session.output.put(&Member(member))
    }
}

/// Join a swarm with an invitation
#[derive(Debug, Args)]
pub(super) struct Join {
    /// What `ipdc invite` printed; without it, stdin is read
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
}

impl Join {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let token = match self.token {
            Some(token) => token,
            None => token_from_stdin(session)?,
        };
        if token.trim().is_empty() {
            return Err(CliError::NoToken);
        }
        let progress = Progress::new(session.output);
        progress.say("asking the node that invited");
        let member = setup::join(&session.home()?, &token).await?;
        drop(progress);
        session.output.note("start the node with `ipdc start`");
        session.output.put(&Member(member))
    }
}

fn token_from_stdin(session: &Session) -> Result<String, CliError> {
    let mut token = String::new();
    if io::stdin().is_terminal() {
        session.output.note("paste the invitation and press Enter");
        io::stdin().read_line(&mut token).map_err(CliError::file("read", "stdin"))?;
    } else {
        // A little over the limit, so that a longer one is seen to be too long.
        let limit = TOKEN_LIMIT as u64 + 2;
        io::stdin()
            .take(limit)
            .read_to_string(&mut token)
            .map_err(CliError::file("read", "stdin"))?;
    }
    Ok(token)
}

/// The answer of `init` and `join`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Member(setup::Member);

impl Answer for Member {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let setup::Member { peer_id, domain, owner, home } = &self.0;
        writeln!(to, "{peer_id} is a member of {domain}, owner {owner}, home {}", home.display())
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.0.peer_id)
    }
}

/// Print a token that lets others join the swarm
#[derive(Debug, Args)]
pub(super) struct Invite {
    /// How long it holds: `30m`, `12h`, `7d`
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// How many nodes may join with it
    #[arg(long, value_name = "N")]
    uses: Option<NonZeroU32>,
    /// The person or group that the joining nodes belong to
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
}

impl Invite {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let request = view::InviteRequest {
            ttl_s: self.ttl.map(|ttl| ttl.as_secs()),
            uses: self.uses.map(NonZeroU32::get),
            owner: self.owner,
        };
        let invite = session.client()?.invite(&request).await?;
        let ttl = humantime::format_duration(Duration::from_secs(invite.expires_s));
        let nodes = if invite.uses == 1 { "node" } else { "nodes" };
        session.output.note(format!(
            "a secret that lets {} {nodes} join within {ttl}, by `ipdc join TOKEN`",
            invite.uses
        ));
        session.output.put(&invite)
    }
}

impl Answer for view::Invite {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.token)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.text(to)
    }
}

/// Let a node invite others
#[derive(Debug, Args)]
pub(super) struct Delegate {
    /// The node
    #[arg(value_name = "PEER")]
    peer: PeerId,
}

impl Delegate {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        session.client()?.delegate(self.peer).await?;
        session.output.put(&Delegated { delegate: self.peer })
    }
}

#[derive(Debug, Serialize)]
struct Delegated {
    delegate: PeerId,
}

impl Answer for Delegated {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{} may invite", self.delegate)
    }
}

/// Let a stock IPFS node (Kubo) in, to fetch blocks and do nothing else
#[derive(Debug, Args)]
pub(super) struct Admit {
    /// Its peer ID: `ipfs id` prints it. It needs the swarm's key besides
    #[arg(value_name = "PEER")]
    peer: PeerId,
    /// As a guest: nodes of the swarm get in by `ipdc invite` and `ipdc join`
    #[arg(long, required = true)]
    guest: bool,
    /// How long it may come: `12h`, `30d`; a week if it is not said
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
}

impl Admit {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let ttl_s = self.ttl.map(|ttl| ttl.as_secs());
        let request = view::GuestRequest { peer_id: self.peer, ttl_s };
        let guest = session.client()?.admit(&request).await?;
        session.output.note(
            "it needs the swarm's key (swarm.key in this node's home) in its repository, and connects to \
             a node's listen address",
        );
        session.output.put(&guest)
    }
}

impl Answer for view::Guest {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{} is a guest, its pass ends {}", self.guest, expires(self.expires_ms))
    }
}

/// Cut a node, or all nodes of an owner, off from the swarm, for good
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The node, or whom the nodes belong to
    #[arg(value_name = "PEER|OWNER")]
    whom: String,
}

impl Revoke {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let whom = match self.whom.parse() {
            Ok(peer_id) => view::Revocation::Peer { peer_id },
            Err(_) => view::Revocation::Owner { owner: self.whom },
        };
        let revoked = session.client()?.revoke(&whom).await?;
        if revoked.revoked.is_empty() {
            session.output.note("no node that is known here had to go");
        }
        session.output.put(&revoked)
    }
}

impl Answer for view::Revoked {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        self.revoked.iter().try_for_each(|peer| writeln!(to, "revoked {peer}"))
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.revoked.iter().try_for_each(|peer| writeln!(to, "{peer}"))
    }
}

/// Print this node's peer ID
#[derive(Debug, Args)]
pub(super) struct Id {}

impl Id {
    pub(super) fn run(self, session: &Session) -> Result<(), CliError> {
        let peer_id = setup::peer_id(&session.home()?)?;
        session.output.put(&Identity { peer_id })
    }
}

#[derive(Debug, Serialize)]
struct Identity {
    peer_id: PeerId,
}

impl Answer for Identity {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.peer_id)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.text(to)
    }
}

/// Have the node take no new attempts, also after a restart; what runs may end
#[derive(Debug, Args)]
pub(super) struct Pause {}

impl Pause {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        session.client()?.pause().await?;
        session.output.put(&Paused { paused: true })
    }
}

/// Have a paused node take attempts again
#[derive(Debug, Args)]
pub(super) struct Resume {}

impl Resume {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        session.client()?.resume().await?;
        session.output.put(&Paused { paused: false })
    }
}

#[derive(Debug, Serialize)]
struct Paused {
    paused: bool,
}

impl Answer for Paused {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(if self.paused {
            b"paused: what runs may end, nothing begins before `ipdc resume`\n"
        } else {
            b"resumed\n"
        })
    }
}

/// Show what the node is and does
#[derive(Debug, Args)]
pub(super) struct Status {}

impl Status {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let status = session.client()?.status().await?;
        session.output.put(&status)
    }
}

impl Answer for view::Status {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut line = |name: &str, value: String| writeln!(to, "{name:<9} {value}");
        line("peer", self.peer_id.to_string())?;
        line("version", self.version.clone())?;
        line("domain", self.domain.clone())?;
        line("owner", self.owner.clone())?;
        line("home", self.home.display().to_string())?;
        for address in &self.listen {
            line("listen", address.to_string())?;
        }
        line("mqtt", self.mqtt.to_string())?;
        line("http", self.http.to_string())?;
        let draining = match (self.draining, self.paused) {
            (true, _) => ", stopping",
            (false, true) => ", paused: takes no new attempts",
            (false, false) => "",
        };
        line("up", format!("{}{draining}", span(Duration::from_secs(self.uptime_s))))?;
        line("peers", format!("{} connected", self.peers_connected))?;
        line("jobs", format!("{} running, {} queued", self.jobs.running, self.jobs.queued))?;
        for work in &self.working_for {
            let view::WorkingFor { job, submitter, attempts } = work;
            line("works for", format!("job {job} of {submitter}: {attempts} attempts"))?;
        }
        if let Some(why) = &self.no_process {
            line("process", format!("not offered, although [policy] names who may: {why}"))?;
        }
        let view::ContainersView { engine, why, granted, by_hand } = &self.containers;
        for by_hand in by_hand {
            line("works for", by_hand.to_string())?;
        }
        let granted = if *granted { "" } else { "; [policy] lets nobody run some" };
        match (engine, why) {
            (Some(engine), _) => line("container", format!("{engine}{granted}"))?,
            (None, Some(why)) => line("container", format!("none: {why}"))?,
            (None, None) => {}
        }
        let disk = &self.disk;
        let held = disk.durable + disk.scratch + disk.memo + disk.cache;
        line("disk", format!("{} used, {} free", size(held), size(self.disk.free)))
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.peer_id)
    }
}

/// List the nodes of the swarm: latency, CPU, memory, disk, runtimes, labels, load
#[derive(Debug, Args)]
pub(super) struct Peers {
    /// Show who let whom in, and who was put out
    #[arg(long)]
    admission: bool,
}

impl Peers {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        if self.admission {
            session.output.put(&Admissions(client.admissions().await?))
        } else {
            session.output.put(&PeerList(client.peers().await?))
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct PeerList(Vec<view::Peer>);

impl Answer for PeerList {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let headings = [
            "PEER",
            "OWNER",
            "SEEN",
            "LATENCY",
            "CPU",
            "MEMORY FREE",
            "DISK FREE",
            "RUNTIMES",
            "ENGINE",
            "GPUS",
            "LABELS",
            "LOAD",
        ];
        let mut rows = table(&headings);
        for peer in &self.0 {
            let facts = peer.facts.clone().unwrap_or_default();
            let known = |text: String| if peer.facts.is_some() { text } else { "?".into() };
            rows.add_row([
                peer.peer_id.to_string(),
                peer.owner.escape_debug().to_string(),
                seen(peer),
                peer.latency_ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default(),
                known(format!("{} ({:.0} %)", facts.cpus, facts.cpu_use * 100.0)),
                known(format!("{} of {}", size(facts.memory_free), size(facts.memory))),
                known(size(facts.disk_free)),
                can_use(&facts),
                known(facts.engine.clone().unwrap_or_else(|| "none".into())),
                known(gpus(&facts)),
                facts.labels.join(","),
                known(load(&facts)),
            ]);
        }
        put_table(to, &rows)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|peer| writeln!(to, "{}", peer.peer_id))
    }
}

/// The runtimes that somebody may use there, and whether the network.
fn can_use(facts: &PeerFacts) -> String {
    let more = facts.fetch.then_some("fetch").into_iter().chain(facts.network.then_some("network"));
    let all: Vec<_> = facts.runtimes.iter().map(String::as_str).chain(more).collect();
    all.join(",")
}

/// `2 × NVIDIA A100 (40.0 GiB free, 31 °C)`: what is free of the memory of all, and the warmest.
fn gpus(facts: &PeerFacts) -> String {
    let Some(first) = facts.gpus.first() else { return "none".into() };
    let free = facts.gpus.iter().map(|gpu| gpu.memory_free).sum();
    let celsius = facts.gpus.iter().map(|gpu| gpu.celsius).max().unwrap_or(0);
    let name = first.name.escape_debug();
    format!("{} × {name} ({} free, {celsius} °C)", facts.gpus.len(), size(free))
}

fn load(facts: &PeerFacts) -> String {
    let paused = if facts.paused { ", paused" } else { "" };
    format!("{}/{}{paused}", facts.load, facts.slots)
}

fn seen(peer: &view::Peer) -> String {
    match (peer.me, peer.connected, peer.last_seen_s) {
        (true, _, _) => "this node".into(),
        (_, true, _) => "connected".into(),
        (_, _, Some(ago)) => format!("{} ago", span(Duration::from_secs(ago))),
        (_, _, None) => "never".into(),
    }
}

/// The answer of `peers --admission`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Admissions(Vec<view::Admission>);

impl Answer for Admissions {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let headings =
            ["PEER", "OWNER", "LET IN BY", "SERIAL", "EXPIRES", "MAY INVITE", "STANDING"];
        let mut rows = table(&headings);
        for peer in &self.0 {
            rows.add_row([
                peer.peer_id.to_string(),
                peer.owner.escape_debug().to_string(),
                on_whose_word(peer.let_in_by),
                peer.serial.to_string(),
                expires(peer.expires_ms),
                if peer.may_invite { "yes".into() } else { String::new() },
                standing(peer),
            ]);
        }
        put_table(to, &rows)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|peer| writeln!(to, "{}", peer.peer_id))
    }
}

fn on_whose_word(peer: Option<PeerId>) -> String {
    peer.map_or_else(|| "root".into(), |peer| peer.to_string())
}

fn expires(at_ms: u64) -> String {
    let now_ms = now_ms();
    let distance = span(Duration::from_millis(at_ms.abs_diff(now_ms)));
    if at_ms > now_ms { format!("in {distance}") } else { format!("{distance} ago") }
}

fn standing(peer: &view::Admission) -> String {
    match (peer.standing, &peer.revoked) {
        (Standing::Member, _) if peer.me => "member, this node".into(),
        (Standing::Member, _) => "member".into(),
        (Standing::Guest, _) => "guest".into(),
        (Standing::Expired, _) => "expired".into(),
        (Standing::Revoked, None) => "revoked".into(),
        (Standing::Revoked, Some(said)) if said.whom == peer.peer_id.to_string() => {
            format!("revoked by {}", on_whose_word(said.by))
        }
        (Standing::Revoked, Some(said)) => {
            format!("revoked with {} by {}", said.whom.escape_debug(), on_whose_word(said.by))
        }
    }
}
