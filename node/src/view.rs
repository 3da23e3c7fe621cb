//! What users say and see, as JSON: each request and each answer, over HTTP, MQTT and `--json`.
//!
//! Server, client and command line share these types, so what one writes another reads. They hold no behaviour
//! but their own reading and writing. Sizes are in bytes. CIDs travel as text.

mod containers;
mod jobs;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipdc_jobs::engine::JobError;
use ipdc_jobs::ids::{Cid, FileRef, JobId, PeerId, cid_text};
use rust_ipfs::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::blocks::pins;
use crate::interpreters::KNOWN;
use crate::problem::Problem;
use crate::state::interpreters;
use crate::swarm::certificate::now_ms;
use crate::swarm::facts::PeerFacts;
use crate::swarm::revocation::Whom;
use crate::swarm::{self, PeerView, Standing};

pub use containers::{
    BadContainerId, Carried, ContainerId, ContainerList, ContainerLogsQuery, ContainerRequest,
    ContainerState, ContainerView, ContainersQuery, ExecRequest, Extension, Forward, ImageView,
    NewImage, PortRequest, PortsRequest, SilentPeer, Starting, TerminalSize,
};
pub use jobs::{
    Accepted, AttemptFailure, Cancelled, GiveQuery, Given, ItemsQuery, JobLogs, JobQuery, JobState,
    JobView, LeftOut, LogLine, LogsQuery, Needed, StageView, StepView, Submission, TaskWork,
    Unwanted,
};

/// The first part of every path.
pub const PREFIX: &str = "/v1";

/// The longest that a node holds back the answer to a job request, in seconds: short enough that
/// no middle box or sleeping laptop takes the silence for a dead connection.
pub const WAIT_LIMIT_S: u64 = 30;

/// How a running node is found: the content of `run.json` in its home, written when the node is
/// ready and removed when it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The process.
    pub pid: u32,
    /// Who it is.
    pub peer_id: PeerId,
    /// Where other nodes reach it.
    pub listen: Vec<Multiaddr>,
    /// Its MQTT listener.
    pub mqtt: SocketAddr,
    /// Its HTTP listener.
    pub http: SocketAddr,
}

/// Answer to `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Who the node is.
    pub peer_id: PeerId,
    /// The program's version.
    pub version: String,
    /// The swarm's name.
    pub domain: String,
    /// The owner its certificate names.
    pub owner: String,
    /// Where other nodes reach it.
    pub listen: Vec<Multiaddr>,
    /// Its MQTT listener.
    pub mqtt: SocketAddr,
    /// Its HTTP listener.
    pub http: SocketAddr,
    /// Its home directory.
    pub home: PathBuf,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Admitted peers with a live connection.
    pub peers_connected: u32,
    /// The jobs it controls.
    pub jobs: JobCounts,
    /// Jobs of other submitters that it runs attempts of.
    pub working_for: Vec<WorkingFor>,
    /// What its home takes.
    pub disk: Usage,
    /// True once it was asked to stop.
    pub draining: bool,
    /// Whether its user paused it: it takes no new attempts.
    #[serde(default)]
    pub paused: bool,
    /// Why it runs no native programs, although its policy lets somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_process: Option<String>,
    /// Its container engine, or why it has none.
    #[serde(default)]
    pub containers: ContainersView,
}

/// What a node says of containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainersView {
    /// The engine's name and version, if it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether the node's policy lets anybody run some.
    pub granted: bool,
    /// Whose containers run here by hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_hand: Vec<ByHand>,
}

/// Containers that somebody runs by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByHand {
    /// The node that asked for them.
    pub renter: PeerId,
    /// How many.
    pub containers: u32,
}

impl fmt::Display for ByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "containers by hand: {} of {}", self.containers, self.renter)
    }
}

/// Jobs that a node controls and that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCounts {
    /// With at least one attempt under way.
    pub running: u32,
    /// Waiting for workers.
    pub queued: u32,
}

/// A job of somebody else that a node works for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingFor {
    /// The job.
    pub job: JobId,
    /// Whose it is.
    pub submitter: PeerId,
    /// Attempts held here.
    pub attempts: u32,
}

/// Answer to `GET /du`: the bytes of a node's home by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Blocks that were flushed to disk.
    pub durable: u64,
    /// Blocks of running jobs, gone when they end.
    pub scratch: u64,
    /// Compiled modules and other things that can be made again.
    pub cache: u64,
    /// Outputs of earlier tasks, kept in case they are asked for again.
    #[serde(default)]
    pub memo: u64,
    /// The part of `durable` that is pinned.
    pub pinned: u64,
    /// Free on the file system.
    pub free: u64,
}

impl From<pins::Usage> for Usage {
    fn from(usage: pins::Usage) -> Self {
        let pins::Usage { durable, pinned, scratch, cache, memo, free } = usage;
        Usage { durable, scratch, cache, memo, pinned, free }
    }
}

/// One of the answer to `GET /peers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Who.
    pub peer_id: PeerId,
    /// The owner its certificate names.
    pub owner: String,
    /// Whether this is the node that answers.
    pub me: bool,
    /// Whether there is a live, admitted connection.
    pub connected: bool,
    /// The last round trip, milliseconds.
    pub latency_ms: Option<f64>,
    /// Where it was reached.
    pub addresses: Vec<Multiaddr>,
    /// What it said of itself; none before it did.
    pub facts: Option<PeerFacts>,
    /// Seconds since it was last heard of; none when never.
    pub last_seen_s: Option<u64>,
}

impl From<PeerView> for Peer {
    fn from(view: PeerView) -> Self {
        Peer {
            peer_id: view.peer,
            owner: view.owner,
            me: false,
            connected: view.connected,
            latency_ms: view.latency_ms,
            addresses: view.addresses,
            facts: view.facts,
            last_seen_s: view.seen_ms.map(|at| now_ms().saturating_sub(at) / 1_000),
        }
    }
}

/// One of the answer to `GET /admissions`: on whose word a node is a member, or was one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Who.
    pub peer_id: PeerId,
    /// Whom it belongs to.
    pub owner: String,
    /// Whether this is the node that answers.
    pub me: bool,
    /// Where it stands.
    pub standing: Standing,
    /// Who let it in; none for the root.
    pub let_in_by: Option<PeerId>,
    /// Who signed its certificate: the same, or who renewed it; none for the root.
    pub issuer: Option<PeerId>,
    /// The certificate's number.
    pub serial: u64,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// Whether it may let others in.
    pub may_invite: bool,
    /// What put it out.
    pub revoked: Option<RevokedBy>,
}

/// On whose word a node was put out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedBy {
    /// What was revoked: the node, its owner, or one that vouched for it.
    pub whom: String,
    /// By whom; none for the root.
    pub by: Option<PeerId>,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

impl Admission {
    /// What `admission` says, for the node `me`.
    #[must_use]
    pub fn of(admission: swarm::Admission, me: PeerId) -> Admission {
        let swarm::Admission { certificate, standing, revocation } = admission;
        let not_root = |peer: PeerId| (peer != certificate.swarm).then_some(peer);
        Admission {
            peer_id: certificate.peer,
            me: certificate.peer == me,
            standing,
            let_in_by: not_root(certificate.let_in_by()),
            issuer: not_root(certificate.issuer),
            serial: certificate.serial,
            expires_ms: certificate.expires_ms,
            may_invite: certificate.may_invite,
            revoked: revocation.map(|said| RevokedBy {
                whom: said.whom.to_string(),
                by: not_root(said.issuer),
                at_ms: said.at_ms,
            }),
            owner: certificate.owner,
        }
    }
}

/// Body of `POST /invites`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// Seconds that the token holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// How many nodes may join with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// The owner that the joiners' certificates name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Answer to `POST /invites`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// What `ipdc join` reads. A secret.
    pub token: String,
    /// Seconds that it holds.
    pub expires_s: u64,
    /// How many nodes may join with it.
    pub uses: u32,
}

/// Body of `POST /revocations`: whom to cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Revocation {
    /// One peer.
    Peer {
        /// Which.
        peer_id: PeerId,
    },
    /// All that belong to somebody.
    Owner {
        /// As certificates name it.
        owner: String,
    },
}

impl From<Revocation> for Whom {
    fn from(revocation: Revocation) -> Whom {
        match revocation {
            Revocation::Peer { peer_id } => Whom::Peer(peer_id),
            Revocation::Owner { owner } => Whom::Owner { owner },
        }
    }
}

/// Answer to `POST /revocations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The members that are none any more: those that were named, and whom they let in.
    pub revoked: Vec<PeerId>,
}

/// Answer to `POST /rekey`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekeyed {
    /// The other members that have the new key.
    pub told: Vec<PeerId>,
    /// Those that have not, and cannot connect without.
    pub away: Vec<PeerId>,
    /// In how many seconds the new key is used.
    pub switch_s: u64,
}

impl From<swarm::Rekeyed> for Rekeyed {
    fn from(rekeyed: swarm::Rekeyed) -> Rekeyed {
        let swarm::Rekeyed { told, away } = rekeyed;
        Rekeyed { told, away, switch_s: swarm::SWITCH_AFTER.as_secs() }
    }
}

/// Body of `POST /delegates`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegate {
    /// The member that may invite from now on.
    pub peer_id: PeerId,
}

/// Body of `POST /guests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestRequest {
    /// Who may fetch blocks.
    pub peer_id: PeerId,
    /// For how many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// Answer to `POST /guests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Who is a guest now.
    pub guest: PeerId,
    /// Until when, milliseconds since 1970.
    pub expires_ms: u64,
}

/// Body of `POST /stop`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Stop although the node works for others.
    #[serde(default)]
    pub force: bool,
}

/// Query of `GET /audit`, which answers with [`Entry`](crate::audit::Entry)s, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Only of the last so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_s: Option<u64>,
    /// Only about the nodes and jobs of this owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// An answer with nothing to say: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Answer to `POST /files` and `POST /dirs`: what was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Its root.
    #[serde(with = "cid_text")]
    pub cid: Cid,
    /// Its size.
    pub size: u64,
}

/// Answer to `POST /cars`: what was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// What the file says that it holds.
    #[serde(with = "cid_text::list")]
    pub roots: Vec<Cid>,
    /// Its blocks.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
}

/// Query of `POST /files`, `POST /dirs` and `POST /cars`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddQuery {
    /// Whether what is added is kept for the user. A file that a directory will hold needs no pin
    /// of its own.
    #[serde(default = "yes")]
    pub pin: bool,
}

impl Default for AddQuery {
    fn default() -> Self {
        AddQuery { pin: true }
    }
}

fn yes() -> bool {
    true
}

/// Body of `POST /dirs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDir {
    /// Its files, at any depth. An empty directory is not kept.
    pub entries: Vec<NewDirEntry>,
}

impl NewDirEntry {
    /// Its path, and the file at it.
    #[must_use]
    pub fn named(self) -> (String, FileRef) {
        (self.path, FileRef { cid: self.cid, len: self.size })
    }
}

/// A file of a directory to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDirEntry {
    /// Relative, `/` between parts, no part empty, `.` or `..`.
    pub path: String,
    /// The file's root.
    #[serde(with = "cid_text")]
    pub cid: Cid,
    /// The file's size.
    pub size: u64,
}

/// Whether something is a file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Bytes.
    File,
    /// Names.
    Dir,
}

/// Answer to `GET /ls/{cid}[/path]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// What it is.
    pub kind: NodeKind,
    /// Its root.
    #[serde(with = "cid_text")]
    pub cid: Cid,
    /// Its size.
    pub size: u64,
    /// What a directory holds, by name; nothing for a file.
    pub entries: Vec<Entry>,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// What it names.
    #[serde(with = "cid_text")]
    pub cid: Cid,
    /// Its size.
    pub size: u64,
    /// What that is.
    pub kind: NodeKind,
}

/// One of the answer to `GET /pins`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// What is kept, with all below it.
    #[serde(with = "cid_text")]
    pub cid: Cid,
    /// For whom: `user`, or a job.
    pub reason: String,
}

/// Body of `PUT /interpreters/RUNTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInterpreter {
    /// The module, a file.
    #[serde(with = "cid_text")]
    pub cid: Cid,
}

/// Answer to `PUT /interpreters/RUNTIME`, and one of the answer to `GET /interpreters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// The runtime that it is for.
    pub runtime: String,
    /// Its version, as it says itself.
    pub version: String,
    /// The module.
    #[serde(with = "cid_text")]
    pub cid: Cid,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it is the one that this version of ipdc knows, which other nodes take without adding it.
    pub known: bool,
}

impl From<interpreters::Interpreter> for Interpreter {
    fn from(added: interpreters::Interpreter) -> Self {
        let interpreters::Interpreter { runtime, file, version } = added;
        let known = file.cid == KNOWN.cid;
        Interpreter { runtime, version, cid: file.cid, size: file.len, known }
    }
}

/// Answer to `POST /gc`: what was freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Blocks removed.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Names something in the swarm: `CID`, `CID/dir/file`, either also after `/ipfs/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentPath {
    /// Where it begins.
    pub root: Cid,
    /// The names to follow from there.
    pub parts: Vec<String>,
}

/// A text that names nothing in the swarm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadContentPath {
    /// The part before the first `/` is no CID.
    #[error("`{0}` is not a CID: expected something like bafy… or bafk…")]
    Cid(String),
    /// A part that is empty or leads elsewhere.
    #[error("`{0}` has a part that names nothing: empty, `.` or `..`")]
    Part(String),
}

impl FromStr for ContentPath {
    type Err = BadContentPath;

    fn from_str(text: &str) -> Result<Self, BadContentPath> {
        let path = text.strip_prefix("/ipfs/").unwrap_or(text);
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut parts = path.split('/');
        let root = parts.next().unwrap_or_default();
        let root = root.parse().map_err(|_| BadContentPath::Cid(root.to_owned()))?;
        let parts: Vec<String> = parts.map(str::to_owned).collect();
        if parts.iter().any(|part| matches!(part.as_str(), "" | "." | "..")) {
            return Err(BadContentPath::Part(text.to_owned()));
        }
        Ok(ContentPath { root, parts })
    }
}

impl fmt::Display for ContentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root)?;
        self.parts.iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

impl From<JobError> for Problem {
    /// What the guest logged last becomes the details.
    fn from(error: JobError) -> Self {
        let message = match error.task {
            Some(task) => format!("task {task}: {}", error.message),
            None => error.message,
        };
        let help =
            "`ipdc job logs ID` shows what failed where; docs/errors has a page for the code";
        Problem {
            code: error.code,
            message,
            causes: vec![],
            help: Some(help.into()),
            details: error.log,
        }
    }
}

impl From<Cid> for ContentPath {
    fn from(root: Cid) -> Self {
        ContentPath { root, parts: Vec::new() }
    }
}

/// Some bytes of a file: `A-B`, both ends included, or `A-` for all from `A` on; as in HTTP's
/// `Range: bytes=A-B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte, from 0.
    pub first: u64,
    /// The last byte; none, the file's last.
    pub last: Option<u64>,
}

/// A text that is no range of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no range of bytes: expected A-B (both included, A not above B) or A-")]
pub struct BadRange(pub String);

impl FromStr for ByteRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten().ok_or_else(bad)
        };
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        let first = number(first)?;
        let last = if last.is_empty() { None } else { Some(number(last)?) };
        if last.is_some_and(|last| last < first) {
            Err(bad())
        } else {
            Ok(ByteRange { first, last })
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Some(last) => write!(f, "{}-{last}", self.first),
            None => write!(f, "{}-", self.first),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipdc_jobs::ids::{CODEC_RAW, cid_of};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_submission_names_its_cids_as_text_and_refuses_unknown_fields() {
        let cid = cid_of(CODEC_RAW, b"job");
        let submission =
            Submission { kind: Some("mr".into()), job: Some(cid), ..Submission::default() };
        let wire = serde_json::to_value(&submission).unwrap();
        assert_eq!(wire, json!({"kind": "mr", "job": cid.to_string()}));
        assert_eq!(serde_json::from_value::<Submission>(wire).unwrap(), submission);
        let wrong = json!({"kind": "mr", "job": cid.to_string(), "worker": 3});
        let error = serde_json::from_value::<Submission>(wrong).unwrap_err();
        assert!(error.to_string().contains("unknown field `worker`"), "{error}");
    }

    #[test]
    fn what_is_added_is_pinned_unless_the_query_says_otherwise() {
        assert!(serde_json::from_value::<AddQuery>(json!({})).unwrap().pin);
        assert!(!serde_json::from_value::<AddQuery>(json!({"pin": false})).unwrap().pin);
    }

    #[test]
    fn a_content_path_reads_with_and_without_prefix() {
        let cid = cid_of(CODEC_RAW, b"x");
        let plain: ContentPath = format!("{cid}/a/b c").parse().unwrap();
        assert_eq!(plain.parts, ["a", "b c"]);
        assert_eq!(format!("/ipfs/{cid}/a/b c/").parse(), Ok(plain.clone()));
        assert_eq!(plain.to_string(), format!("{cid}/a/b c"));
        assert_eq!(cid.to_string().parse(), Ok(ContentPath::from(cid)));
    }

    #[test]
    fn a_content_path_that_leads_elsewhere_is_refused() {
        let cid = cid_of(CODEC_RAW, b"x");
        for path in ["/..", "/a/../b", "//a", "/./a"] {
            let text = format!("{cid}{path}");
            assert_eq!(text.parse::<ContentPath>(), Err(BadContentPath::Part(text)));
        }
        assert_eq!("wat".parse::<ContentPath>(), Err(BadContentPath::Cid("wat".into())));
    }

    #[test]
    fn a_range_has_both_ends_or_is_open() {
        assert_eq!("0-9".parse(), Ok(ByteRange { first: 0, last: Some(9) }));
        assert_eq!("5-5".parse(), Ok(ByteRange { first: 5, last: Some(5) }));
        assert_eq!("7-".parse(), Ok(ByteRange { first: 7, last: None }));
        let huge = format!("0-{}0", u64::MAX);
        for wrong in ["", "-", "-5", "9-0", "a-b", "1", "1-2-3", "+1-2", "1 - 2", &huge] {
            assert_eq!(wrong.parse::<ByteRange>(), Err(BadRange(wrong.into())));
        }
        assert_eq!(ByteRange { first: 7, last: None }.to_string(), "7-");
    }
}
