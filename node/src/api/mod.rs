//! HTTP for the command line and programs.

pub mod client;
pub mod problem;
pub mod types;
