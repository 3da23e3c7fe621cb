//! HTTP for the command line and programs.

pub mod client;
pub mod types;
