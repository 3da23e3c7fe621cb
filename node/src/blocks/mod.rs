//! Content-addressed blocks.

pub mod block;
pub mod exchange;
pub mod fetch;
pub mod store;
pub mod unixfs;
