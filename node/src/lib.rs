//! The ipdc node: everything that touches the world.
//!
//! | room | what it holds |
//! |---|---|
//! | [`home`], [`config`] | the node's directory, its settings |
//! | [`swarm`] | identity, admission, peers, streams |
//! | [`blocks`] | content-addressed blocks, UnixFS, exchange between nodes |
//! | [`broker`] | the embedded MQTT broker and the links between nodes' brokers |
//! | [`runtime`] | the sandbox that runs user code |
//! | [`interpreters`] | what interprets the code of this node's jobs |
//! | [`heap`] | the heap that all share |
//! | [`lobby`] | connections from this machine, before they have proved themselves and after |
//! | [`state`] | the SQLite file: what must survive a crash |
//! | `protobuf`, `varint` | how IPFS writes messages and numbers |
//! | [`audit`] | who was let in, what was run for whom |
//! | [`rental`] | containers that people run by hand, here and on other nodes |
//! | [`worker`] | runs attempts |
//! | [`controller`] | accepts jobs and drives their engines |
//! | [`api`] | HTTP for the command line and programs |
//! | [`cli`] | the command line |
//! | `fuzz` | the decoders that get bytes from outside, for `fuzz/` (its builds only) |
//!
//! Dependencies point one way: `cli → api → controller, worker → broker, blocks, runtime → swarm,
//! state → home, config`; and `node → jobs`. Nothing here knows a job kind by name.

pub mod api;
pub mod audit;
pub mod blocks;
pub mod broker;
pub mod cli;
pub mod config;
pub mod containers;
pub mod controller;
pub mod fetch;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod heap;
pub mod home;
pub mod interpreters;
mod interrupt;
pub mod lobby;
pub mod machine;
pub mod node;
pub mod post;
pub mod problem;
mod protobuf;
pub mod rental;
pub mod runtime;
pub mod state;
pub mod swarm;
mod varint;
pub mod view;
pub mod worker;
