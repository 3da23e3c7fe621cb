//! The closed swarm: identity, admission, peers, streams.

pub mod address;
pub mod certificate;
pub mod facts;
mod frame;
mod gate;
pub mod identity;
pub mod invitation;
pub mod signed;
pub mod streams;
