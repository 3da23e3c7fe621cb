//! Rentals: containers that people run by hand, on this node and on others.
//!
//! | | |
//! |---|---|
//! | [`wire`] | what nodes say: `/ipdc/containers/1` |
//! | [`host`] | the containers that run here: who may have one, with what, until when |
//! | [`session`] | what goes into one and comes out: logs, commands, ports |
//! | [`log`] | what one wrote |
//! | [`mux`], [`agent`] | connections to the ports of one, by a process in it |
//! | [`renter`] | asks nodes for containers, and for what is in them |
//! | [`forwards`] | ports of containers on the loopback of this machine |
//! | [`ssh`] | and a way in for SSH, there too |
//!
//! A rental has an owner, what it may take, and an end. It lives as long as its node runs, at most: nothing of it is on
//! the disk, and whatever happens to the node, [`containers`](crate::containers) removes it. What each node lets whom do
//! its [policy](crate::worker::Policy) says; who asks is who the transport says it is.

mod agent;
mod forwards;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod host;
mod log;
mod mux;
mod renter;
mod session;
mod ssh;
mod wire;

use std::num::NonZeroU16;

use ipdc_jobs::ids::PeerId;

use crate::containers::{ImportError, LoadError, StartError, Trouble};
use crate::problem::{Detail, Problem, Reported};
use crate::swarm::streams::StreamError;
use crate::view::{Carried, ContainerId};
use crate::worker;

pub use agent::connect_if_asked;
pub use host::{Host, Parts};
pub use renter::Renter;
pub use wire::Frame;

/// Why there is no container, or nothing was done with it.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum RentError {
    /// There is none of this ID.
    #[error("there is no container {0}")]
    #[diagnostic(
        code("IPDC-5811"),
        help(
            "`ipdc container ls` shows those that there are; one that has ended is forgotten after a while"
        )
    )]
    Unknown(String),
    /// Several begin so.
    #[error("the IDs of several containers begin with {0}")]
    #[diagnostic(code("IPDC-5812"), help("give more of its ID: `ipdc container ls`"))]
    Ambiguous(String),
    /// The node's policy.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Refused(#[from] worker::Refusal),
    /// Too little is free.
    #[error("this node has too little free for it: {0}")]
    #[diagnostic(
        code("IPDC-5814"),
        help("ask for less, or on another node, or wait: `ipdc peers` shows what nodes have")
    )]
    NoRoom(String),
    /// No node runs it.
    #[error("no node of the swarm runs this container")]
    #[diagnostic(
        code("IPDC-5815"),
        help(
            "a node with a container engine runs containers for those whom its ipdc.toml lets: \
             `[policy.owners.NAME]`, `runtimes = [\"wasm\", \"container\"]`; docs/by-hand.md has the rest"
        )
    )]
    Nobody {
        /// Why each does not.
        #[related]
        why: Vec<Detail>,
    },
    /// What is asked for is none.
    #[error("{0}")]
    #[diagnostic(code("IPDC-5816"))]
    Wrong(String),
    /// There is no such image.
    #[error("image `{name}`: {source}")]
    #[diagnostic(
        code("IPDC-5817"),
        help(
            "name an image of this machine's engine, a file that `docker save` wrote, or a CID of `ipdc images`"
        )
    )]
    Image {
        /// How it was named.
        name: String,
        /// Why.
        source: Box<ImportError>,
    },
    /// The image did not get to the node.
    #[error("the image could not be loaded")]
    #[diagnostic(code("IPDC-5818"), help("is the node that has the image still there?"))]
    Load(#[source] Box<LoadError>),
    /// It did not start.
    #[error("the container did not start")]
    #[diagnostic(
        code("IPDC-5819"),
        help("does the image have the program, and may a user who is nobody run it? See --root")
    )]
    Start(#[source] Box<StartError>),
    /// The engine.
    #[error("the container engine does not do it")]
    #[diagnostic(code("IPDC-5801"), help("`ipdc status` shows what the node sees of its engine"))]
    Engine(#[from] Trouble),
    /// It has ended.
    #[error("container {0} has ended")]
    #[diagnostic(code("IPDC-5820"), help("`ipdc container logs` still has what it wrote"))]
    Ended(ContainerId),
    /// Nobody listens there.
    #[error("nobody listens on port {port}/{carries} in container {id}")]
    #[diagnostic(
        code("IPDC-5821"),
        help("its program may still be starting; `ipdc container logs` shows what it says")
    )]
    NoListener {
        /// In which.
        id: ContainerId,
        /// Where.
        port: NonZeroU16,
        /// What it should carry.
        carries: Carried,
    },
    /// The process that connects to its ports does not.
    #[error(
        "the ports of container {id} cannot be reached: the process in it that connects to them has ended"
    )]
    #[diagnostic(
        code("IPDC-5822"),
        help(
            "has the container memory for a process more, some 20 MiB? And has nothing in it ended that process?"
        )
    )]
    Agent {
        /// Of which.
        id: ContainerId,
    },
    /// A port here is taken.
    #[error("port {port}/{carries} of this machine's loopback cannot be used")]
    #[diagnostic(
        code("IPDC-5823"),
        help("another program has it: name another, as in `-p 8080:80`, or none, as in `-p 80`")
    )]
    LocalPort {
        /// Which.
        port: u16,
        /// What it should carry.
        carries: Carried,
        /// The system's words.
        source: std::io::Error,
    },
    /// There are too many.
    #[error("{what}: there are {most} already, and no more may be")]
    #[diagnostic(code("IPDC-5824"), help("end some that are not needed any more"))]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many may be.
        most: usize,
    },
    /// The other node cannot be asked.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Stream(#[from] StreamError),
    /// It said something else.
    #[error("peer {peer} does not answer as it should: {why}")]
    #[diagnostic(
        code("IPDC-5825"),
        help("compare `ipdc --version` on both nodes, and see node.log there")
    )]
    Answer {
        /// Who.
        peer: PeerId,
        /// What it did.
        why: String,
    },
    /// The other node said no.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Told(Reported),
    /// The blocks of this node.
    #[error("the image cannot be kept here")]
    #[diagnostic(code("IPDC-5826"), help("`ipdc du` shows what the node's disk is full of"))]
    Keep(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl RentError {
    fn told(problem: Problem) -> RentError {
        RentError::Told(problem.into())
    }
}

impl From<StartError> for RentError {
    fn from(error: StartError) -> Self {
        RentError::Start(Box::new(error))
    }
}

impl From<LoadError> for RentError {
    fn from(error: LoadError) -> Self {
        RentError::Load(Box::new(error))
    }
}
