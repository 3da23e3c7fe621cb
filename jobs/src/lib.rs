//! What a job is and who does what next.
//!
//! This crate is pure: no I/O, no async runtime, no clock, no randomness of its own. Time is a
//! [`std::time::Duration`] since the owner's start, given from outside. What touches the world
//! (sockets, disks, wasm) lives in `ipdc-node` and reaches this crate through traits.
//!
//! | room | what it holds |
//! |---|---|
//! | [`chunk`] | where files are cut, by their content, and where records end |
//! | [`ids`] | the names: peers, jobs, tasks, attempts, epochs, content |
//! | [`spec`] | `job.toml`: parsing and checking |
//! | [`code`] | user code, as a job names it |
//! | [`native`] | native programs, as far as their first bytes tell |
//! | [`manifest`] | the signed, frozen description of a submitted job |
//! | [`message`] | what controllers and workers say to each other |
//! | [`log`] | what user code logs: its last lines |
//! | [`memo`] | what names a task's output before it is made |
//! | [`kind`] | what a job kind must say; the registry of kinds |
//! | `record` | what user code emits: packed records, and lines of them |
//! | `lines` | files of lines |
//! | [`mr`] | the map-reduce kind |
//! | [`cl`] | the kind of independent items |
//! | [`render`] | the kind of renderings |
//! | [`engine`] | the shared state machines: one per job on its controller, one per node as worker |
//! | `fuzz` | the decoders that get bytes from outside, for `fuzz/` (its builds only) |
//! | [`steps`] | jobs in a row, as they are frozen |
//! | `sim` | the deterministic swarm simulator that tests the engine (tests only) |

pub mod chunk;
pub mod cl;
pub mod code;
pub mod engine;
#[cfg(test)]
mod fake;
pub mod fetch;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod ids;
pub mod kind;
mod lines;
pub mod log;
pub mod manifest;
pub mod memo;
pub mod message;
pub mod mr;
pub mod native;
mod record;
pub mod render;
#[cfg(any(test, feature = "planted-faults"))]
pub mod sim;
pub mod spec;
pub mod steps;
