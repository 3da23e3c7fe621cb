//! The node's settings: what they are, where they come from, what is wrong with them.
//!
//! A setting comes from a flag of `ipdc start`, else from an environment variable, else from
//! `ipdc.toml` in the node's home, else from [`Config::default`]. The commented file that a new
//! home gets is the `ipdc.toml` at the root of the repository: it says all defaults, and a test
//! holds it to that.
//!
//! `layers.rs` reads and checks; this file says what there is. Nothing else reads settings or
//! `IPDC_*` variables, but for [`OTHER_VARIABLES`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipdc_jobs::engine::Runtime;
use ipdc_jobs::fetch::Range;
use rust_ipfs::Multiaddr;
use serde::{Deserialize, Serialize};

mod hours;
mod layers;
mod size;
mod uids;

pub use hours::Hours;
pub use size::Size;
pub use uids::Uids;

/// The `ipdc.toml` of a new home: every setting with its default, as comments.
pub const DEFAULT_TOML: &str = include_str!("../../../ipdc.toml");

/// `IPDC_*` variables that are no settings: the home, and what is logged.
pub const OTHER_VARIABLES: [&str; 2] = [crate::home::HOME_VARIABLE, "IPDC_LOG"];

/// A node's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node itself.
    pub node: Node,
    /// Other nodes.
    pub swarm: Swarm,
    /// MQTT clients on this machine.
    pub mqtt: Mqtt,
    /// HTTP clients on this machine.
    pub http: Http,
    /// Blocks.
    pub blocks: Blocks,
    /// What one attempt may ask for.
    pub limits: Limits,
    /// For whom the node works.
    pub policy: Policy,
    /// Native programs.
    pub process: Process,
    /// Containers.
    pub containers: Containers,
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// What `ipdc init` calls a new swarm.
    pub domain: String,
    /// What `ipdc init` and `ipdc join` name as the node's owner.
    pub owner: String,
    /// What jobs may ask of a node beside its machine.
    pub labels: Vec<String>,
    /// Attempts that run at a time; none, as many as there are cores and memory for.
    #[serde(with = "zero_is_none")]
    pub slots: Option<u32>,
}

impl Default for Node {
    fn default() -> Self {
        Node { domain: "ipdc".into(), owner: String::new(), labels: Vec::new(), slots: None }
    }
}

/// Other nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swarm {
    /// Where they connect.
    pub listen: Vec<Multiaddr>,
    /// Addresses to tell them besides those: a port forward, a name.
    pub announce: Vec<Multiaddr>,
    /// Whom to connect to first, beside those the node knows from before.
    pub bootstrap: Vec<Multiaddr>,
}

impl Default for Swarm {
    fn default() -> Self {
        let listen = "/ip4/0.0.0.0/tcp/4150".parse().expect("a multiaddress");
        Swarm { listen: vec![listen], announce: Vec::new(), bootstrap: Vec::new() }
    }
}

/// MQTT clients on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// Where they connect. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where browsers connect by WebSocket, if they may.
    #[serde(with = "empty_is_none")]
    pub websocket: Option<SocketAddr>,
    /// The origins whose pages may, as `http://localhost:8080`.
    pub origins: Vec<String>,
    /// Whether clients on this machine need no password.
    pub anonymous: bool,
    /// How many may be connected at a time.
    pub clients: u32,
    /// How many messages they may have retained.
    pub retained: u32,
}

impl Default for Mqtt {
    fn default() -> Self {
        Mqtt {
            listen: SocketAddr::from(([127, 0, 0, 1], 1883)),
            websocket: None,
            origins: Vec::new(),
            anonymous: false,
            clients: 512,
            retained: 10_000,
        }
    }
}

/// HTTP clients on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where they connect. Port 0 picks a free one.
    pub listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Http { listen: SocketAddr::from(([127, 0, 0, 1], 4151)) }
    }
}

/// Blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocks {
    /// The most that is kept of blocks that others have too.
    pub cache: Size,
    /// The most that outputs of tasks take which are kept in case they are asked for again.
    pub memo: Size,
    /// With less room on the disk than this, the node takes no new work.
    pub low_water: Size,
    /// How long a fetch may bring nothing before it asks another node.
    #[serde(with = "in_words")]
    pub stall: Duration,
}

impl Default for Blocks {
    fn default() -> Self {
        Blocks {
            cache: Size::GIB,
            memo: Size::GIB * 2,
            low_water: Size::MIB * 256,
            stall: Duration::from_secs(20),
        }
    }
}

/// The most that one attempt may ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory.
    pub memory: Size,
    /// Time in the guest.
    #[serde(with = "in_words")]
    pub time: Duration,
    /// Output.
    pub output: Size,
}

impl Default for Limits {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Limits { memory: Size::GIB * 4, time: day, output: Size::GIB * 64 }
    }
}

/// For whom the node works, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What any member of the swarm may run, without network.
    pub members: Vec<Runtime>,
    /// When the node works for others, by its own clock.
    pub hours: Hours,
    /// Whether it works for others only while other programs leave the processors idle.
    pub idle: bool,
    /// Attempts of one owner that run at a time; none, as many as the node has slots.
    #[serde(with = "zero_is_none")]
    pub slots: Option<u32>,
    /// Jobs of one owner that the node works for at a time, and that it takes in from its own user;
    /// none, any number.
    #[serde(with = "zero_is_none")]
    pub jobs: Option<u32>,
    /// Bytes that the jobs of one owner may take here; 0, as many as there are.
    pub stored: Size,
    /// Whether members may fetch from the network.
    pub fetch: bool,
    /// Whether containers of members may have a network.
    pub network: bool,
    /// How many containers one owner may run here by hand at a time, of those who may run some; 0, none.
    pub containers: u32,
    /// For how long at most.
    #[serde(with = "in_words")]
    pub container_time: Duration,
    /// Whether as the users of their images, root among them.
    pub container_root: bool,
    /// Addresses that who may fetch may ask although they are not public.
    pub fetch_private: Vec<Range>,
    /// Requests a second to one host at most, of all jobs together; none, as many as they say.
    #[serde(with = "zero_is_none")]
    pub fetch_rate: Option<u32>,
    /// Other terms, by an owner's name or a peer ID.
    pub owners: BTreeMap<String, Rule>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            members: vec![Runtime::Wasm, Runtime::Wasi, Runtime::Python],
            hours: Hours::ALL,
            idle: false,
            slots: None,
            jobs: Some(1_000),
            stored: Size(0),
            fetch: false,
            network: false,
            containers: 4,
            container_time: Duration::from_secs(8 * 3600),
            container_root: false,
            fetch_private: Vec::new(),
            fetch_rate: None,
            owners: BTreeMap::new(),
        }
    }
}

/// Native programs, where the policy lets somebody run them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The users that they run as: nobody else's.
    pub uids: Uids,
}

impl Default for Process {
    fn default() -> Self {
        Process { uids: Uids::DYNAMIC }
    }
}

/// Containers, where there is an engine and the policy lets somebody run them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Containers {
    /// The engine's socket on this machine.
    pub engine: PathBuf,
    /// What images of jobs may take of the engine's disk.
    pub images: Size,
    /// The engine's network in which images are built for this node's own user.
    pub build_network: String,
}

impl Default for Containers {
    fn default() -> Self {
        Containers {
            engine: "/var/run/docker.sock".into(),
            images: Size(20 * Size::GIB.bytes()),
            build_network: "default".to_owned(),
        }
    }
}

/// The terms for one owner. Where it says nothing, those for all hold: [`Policy`] and [`Limits`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// What it may run.
    pub runtimes: Option<Vec<Runtime>>,
    /// The most memory of one attempt.
    pub memory: Option<Size>,
    /// The most time of one attempt.
    #[serde(with = "in_words::option")]
    pub time: Option<Duration>,
    /// The most output of one attempt.
    pub output: Option<Size>,
    /// When.
    pub hours: Option<Hours>,
    /// Whether only while the processors are idle.
    pub idle: Option<bool>,
    /// Attempts at a time; 0, as many as the node has slots.
    pub slots: Option<u32>,
    /// Jobs at a time; 0, any number.
    pub jobs: Option<u32>,
    /// Bytes that its jobs may take; 0, as many as there are.
    pub stored: Option<Size>,
    /// Whether it may fetch from the network.
    pub fetch: Option<bool>,
    /// Whether its containers may have a network.
    pub network: Option<bool>,
    /// Containers by hand at a time; 0, none.
    pub containers: Option<u32>,
    /// The longest that one of them may run.
    #[serde(with = "in_words::option")]
    pub container_time: Option<Duration>,
    /// Whether they may be their images' users.
    pub container_root: Option<bool>,
}

impl Rule {
    /// One that says all that a rule can say.
    fn whole() -> Rule {
        Rule {
            runtimes: Some(Vec::new()),
            memory: Some(Size::GIB),
            time: Some(Duration::ZERO),
            output: Some(Size::GIB),
            hours: Some(Hours::ALL),
            idle: Some(false),
            slots: Some(0),
            jobs: Some(0),
            stored: Some(Size(0)),
            fetch: Some(false),
            network: Some(false),
            containers: Some(0),
            container_time: Some(Duration::ZERO),
            container_root: Some(false),
        }
    }
}

/// What the flags of `ipdc start` say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flags {
    /// Over `swarm.listen`, when there are any.
    pub listen: Vec<Multiaddr>,
    /// Over `swarm.bootstrap`, when there are any.
    pub bootstrap: Vec<Multiaddr>,
    /// Over `mqtt.listen`.
    pub mqtt: Option<SocketAddr>,
    /// Over `http.listen`.
    pub http: Option<SocketAddr>,
}

impl Config {
    /// The settings by `flags`, this process's environment and the file at `path`, which need
    /// not be there.
    ///
    /// # Errors
    /// When a setting is unknown or wrong, or the file cannot be read.
    pub fn load(path: &Path, flags: Flags) -> Result<Config, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::File { path: path.to_owned(), source }),
        };
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let config = layers::config(path, &text, variables)?;
        Ok(config.over(flags))
    }

    /// The settings of a file with this text, and nothing else.
    #[cfg(test)]
    pub(crate) fn of_toml(text: &str) -> Result<Config, ConfigError> {
        layers::config(Path::new("ipdc.toml"), text, [])
    }

    fn over(mut self, flags: Flags) -> Self {
        if !flags.listen.is_empty() {
            self.swarm.listen = flags.listen;
        }
        if !flags.bootstrap.is_empty() {
            self.swarm.bootstrap = flags.bootstrap;
        }
        self.mqtt.listen = flags.mqtt.unwrap_or(self.mqtt.listen);
        self.http.listen = flags.http.unwrap_or(self.http.listen);
        self
    }
}

/// Where a setting was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file, on this line, from 1.
    Line(PathBuf, usize),
    /// In this environment variable.
    Variable(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Source::Variable(name) => write!(f, "the environment variable {name}"),
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ConfigError {
    /// No such setting.
    #[error("{at}: there is no setting `{key}`; the nearest is `{nearest}`")]
    #[diagnostic(
        code("IPDC-1101"),
        help(
            "the `ipdc.toml` of a new home lists all settings; variables are named like IPDC_MQTT_LISTEN"
        )
    )]
    Unknown {
        /// Where it was said.
        at: Source,
        /// What was said.
        key: String,
        /// What may have been meant.
        nearest: String,
    },
    /// The setting exists and cannot have this value.
    #[error("{at}: `{key}` cannot be this: {message}")]
    #[diagnostic(
        code("IPDC-1102"),
        help("the `ipdc.toml` of a new home shows the form of every setting")
    )]
    Wrong {
        /// Where it was said.
        at: Source,
        /// The setting.
        key: String,
        /// What was found and what was expected.
        message: String,
    },
    /// The file is not TOML.
    #[error("{at}: {message}")]
    #[diagnostic(code("IPDC-1103"), help("see https://toml.io for the form of the file"))]
    Form {
        /// Where.
        at: Source,
        /// What is wrong.
        message: String,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    #[diagnostic(code("IPDC-1104"), help("may this user read it, and is it UTF-8?"))]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// A count of which 0 means none given.
mod zero_is_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::ref_option, reason = "serde passes the field by reference")]
    pub(super) fn serialize<S: Serializer>(n: &Option<u32>, to: S) -> Result<S::Ok, S::Error> {
        n.unwrap_or_default().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
        Ok(Some(u32::deserialize(from)?).filter(|n| *n != 0))
    }
}

/// An address of which `""` means none given.
mod empty_is_none {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::ref_option, reason = "serde passes the field by reference")]
    pub(super) fn serialize<S: Serializer>(
        addr: &Option<SocketAddr>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(&addr.map(|addr| addr.to_string()).unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(D::Error::custom) }
    }
}

/// A duration as people write it: `1h 30m`.
mod in_words {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(|error| {
            D::Error::custom(format!("`{text}` is no time: {error}; expected one like \"20s\""))
        })
    }

    /// One that may be absent.
    pub(super) mod option {
        use super::{Deserializer, Duration, Serializer};

        #[allow(clippy::ref_option, reason = "serde passes the field by reference")]
        pub(in super::super) fn serialize<S: Serializer>(
            time: &Option<Duration>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, to),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Duration>, D::Error> {
            super::deserialize(from).map(Some)
        }
    }
}
