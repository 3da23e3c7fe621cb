//! Content-addressed blocks.

pub mod block;
pub mod fetch;
pub mod store;
pub mod unixfs;
