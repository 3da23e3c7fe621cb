//! Homes: found, made, opened.

use std::path::{Path, PathBuf};

use ipdc_jobs::ids::PeerId;
use serde::Serialize;

use super::error::CliError;
use super::start::Flags;
use crate::config::Config;
use crate::home::Home;

/// What a node became by `init` or `join`.
#[derive(Debug, Serialize)]
pub(super) struct Member {
    pub(super) peer_id: PeerId,
    pub(super) domain: String,
    pub(super) owner: String,
    pub(super) home: PathBuf,
}

pub(super) fn locate(_named: Option<PathBuf>) -> Result<PathBuf, CliError> {
    todo!()
}
pub(super) fn open(_home: PathBuf) -> Result<Home, CliError> {
    todo!()
}
pub(super) fn config(_home: &Home, _flags: Flags) -> Result<Config, CliError> {
    todo!()
}
pub(super) fn init(_home: PathBuf, _domain: Option<String>) -> Result<Member, CliError> {
    todo!()
}
pub(super) async fn join(_home: PathBuf, _token: &str) -> Result<Member, CliError> {
    todo!()
}
pub(super) fn peer_id(_home: PathBuf) -> Result<PeerId, CliError> {
    todo!()
}
pub(super) fn local_homes(_dir: &Path, _n: u32) -> Result<Vec<PathBuf>, CliError> {
    todo!()
}
