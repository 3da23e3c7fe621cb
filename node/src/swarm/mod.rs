//! The closed swarm: identity, admission, peers, streams.

pub mod streams;
