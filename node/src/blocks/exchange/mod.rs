//! `/ipdc/blocks/1`: blocks between admitted peers.
//!
//! A stream carries requests one way and answers the other. A request is a list of CIDs; for each,
//! in the order asked, comes one answer: the block, or why not. More may be asked before the answers
//! are there. [`Client`] asks, keeping a stream or two to each peer it asks; [`serve`] answers from
//! the local store, never by asking others. Streams that nobody uses cost no time.
//!
//! What a peer sends is nothing until it is hashed: [`Client::ask`] gives [`Block`]s only.
//!
//! [`Block`]: super::block::Block

mod client;
#[cfg(feature = "fuzz")]
pub(in crate::blocks) mod fuzz;
mod server;
mod wire;

use std::fmt;
use std::time::Duration;

pub use self::client::Client;
pub use self::server::serve;

/// What a peer said that was asked for a block and did not give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It does not hold it.
    NotHeld,
    /// It holds it, but could not read it.
    Unable,
    /// No stream to it could be opened, and why.
    Unreachable(String),
    /// The stream broke before it answered.
    Broken,
    /// Nothing came from it for this long.
    Silent(Duration),
    /// It sent other bytes than those asked for.
    Lied,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::NotHeld => f.write_str("does not hold it"),
            Reply::Unable => f.write_str("could not read it"),
            Reply::Unreachable(why) => write!(f, "cannot be reached ({why})"),
            Reply::Broken => f.write_str("broke off"),
            Reply::Silent(time) => write!(f, "was silent for {time:?}"),
            Reply::Lied => f.write_str("sent other bytes"),
        }
    }
}

#[cfg(test)]
pub(in crate::blocks) mod tests;
