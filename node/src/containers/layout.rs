//! How an image lies in blocks: a directory in the OCI image layout, each blob a file under its digest. So images
//! that share layers share blocks, and what names an image is the CID of its directory.
//!
//! (OCI Image Format Specification 1.1, "OCI Image Layout", "Image Index", "Image Manifest".)

use std::collections::BTreeMap;

use bytes::Bytes;
use ipdc_jobs::ids::FileRef;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

pub(super) const MARK: &str = "oci-layout";
pub(super) const INDEX: &str = "index.json";
const VERSION: &str = "1.0.0";

/// The longest index, manifest or configuration that is read, in bytes: as registries take them.
pub(super) const JSON_LIMIT: usize = 4 << 20;

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// The SHA-256 of a blob, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Digest(String);

impl Digest {
    /// What `sha256:` and 64 digits say; none for anything else.
    pub(super) fn parse(text: &str) -> Option<Digest> {
        let hex = text.strip_prefix("sha256:")?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (hex.len() == 64 && hex.bytes().all(is_hex)).then(|| Digest(hex.to_owned()))
    }

    pub(super) fn of(bytes: &[u8]) -> Digest {
        Digest::of_hash(&Sha256::digest(bytes).into())
    }

    pub(super) fn of_hash(hash: &[u8; 32]) -> Digest {
        Digest(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Where the blob is in the directory.
    pub(super) fn path(&self) -> String {
        format!("blobs/sha256/{}", self.0)
    }

    fn text(&self) -> String {
        format!("sha256:{}", self.0)
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct Descriptor {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// The blobs that make an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) config: Digest,
    /// From the lowest on.
    pub(super) layers: Vec<Digest>,
}

/// The manifest that an index names: of several, the first. Why there is none.
pub(super) fn manifest_of(index: &[u8]) -> Result<Digest, String> {
    let index: Index =
        serde_json::from_slice(index).map_err(|error| format!("its index: {error}"))?;
    let first = index.manifests.first().ok_or("its index names no manifest")?;
    Digest::parse(&first.digest).ok_or_else(|| format!("`{}` is no SHA-256", first.digest))
}

/// Whether a manifest is an index of others, for several machines.
pub(super) fn is_index(text: &[u8]) -> bool {
    serde_json::from_slice::<Index>(text).is_ok()
}

/// The blobs that a manifest names.
pub(super) fn parts_of(manifest: &[u8]) -> Result<Parts, String> {
    let Manifest { config, layers } =
        serde_json::from_slice(manifest).map_err(|error| format!("its manifest: {error}"))?;
    let digest = |of: &Descriptor| {
        Digest::parse(&of.digest).ok_or_else(|| format!("`{}` is no SHA-256", of.digest))
    };
    let layers = layers.iter().map(digest).collect::<Result<_, _>>()?;
    Ok(Parts { config: digest(&config)?, layers })
}

/// The texts of an image's layout that say what it is made of: manifest, index and mark. The same parts give the same
/// texts.
pub(super) fn texts(parts: &Parts, files: &BTreeMap<Digest, FileRef>) -> Option<[Bytes; 3]> {
    let descriptor = |media_type: &str, digest: &Digest| {
        let size = files.get(digest)?.len;
        Some(Descriptor { media_type: media_type.to_owned(), digest: digest.text(), size })
    };
    let layers = parts.layers.iter().map(|layer| descriptor(LAYER_TYPE, layer));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &parts.config)?,
        "layers": layers.collect::<Option<Vec<_>>>()?,
    });
    let manifest = manifest.to_string();
    let digest = Digest::of(manifest.as_bytes());
    let listed = Descriptor {
        media_type: MANIFEST_TYPE.to_owned(),
        digest: digest.text(),
        size: manifest.len() as u64,
    };
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [listed] });
    let mark = json!({ "imageLayoutVersion": VERSION });
    Some([manifest.into(), index.to_string().into(), mark.to_string().into()])
}
