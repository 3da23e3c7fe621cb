//! What makes a home the home of a member: the file `certificate`.
//!
//! Written once, by `init`, `join` or `run --local`; with the swarm's key and the node's identity
//! it is all that a start needs. A renewed certificate is kept in the database with those of the
//! other members; of the two, the longer one holds.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use connexa::prelude::Multiaddr;
use serde::{Deserialize, Serialize};

use super::certificate::{BadCertificate, Certificate, Credential};

/// A membership as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The swarm's name, for people.
    pub domain: String,
    /// The node's certificate.
    pub credential: Credential,
    /// Where to look for the others first, each with `/p2p/<peer>`.
    pub bootstrap: Vec<Multiaddr>,
}

/// A membership cannot be read or written.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum MembershipError {
    /// The file.
    #[error("cannot {did} the certificate {}", path.display())]
    #[diagnostic(
        code("IPDC-2009"),
        help(
            "it must belong to the user that runs the node; a lost one is made anew by `ipdc join` in another home"
        )
    )]
    File {
        /// What could not be done.
        did: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Certificate(#[from] BadCertificate),
}

impl Membership {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or is not of the known form.
    pub fn load(path: &Path) -> Result<Self, MembershipError> {
        let read = std::fs::read(path).and_then(|text| Ok(serde_json::from_slice(&text)?));
        read.map_err(file("read", path))
    }

    /// Writes it to `path`, where nothing may be, whole or not at all, on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), MembershipError> {
        let write = || {
            let dir = path.parent().unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.as_file().sync_all()?;
            file.persist_noclobber(path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(file("write", path))
    }

    /// What the certificate says. Whether it holds is checked when the swarm starts.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn certificate(&self) -> Result<Certificate, MembershipError> {
        Ok(self.credential.certificate.open().map_err(BadCertificate::from)?)
    }
}

fn file(did: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MembershipError {
    let path = path.to_owned();
    move |source| MembershipError::File { did, path, source }
}
