//! What was fetched as a WARC file (WARC/1.1, ISO 28500): one `warcinfo` record, then a `response` record for each
//! answer of a host, redirects among them, in the order in which they came. Of a page that has not changed since it was
//! fetched before, the `response` of then and a `revisit`.
//!
//! Such files may be put one after the other and are one again. A record's name follows from what is in it.
//! A response is written with its headers as they came, names in small letters; of one that was sent in pieces
//! (`Transfer-Encoding`) the pieces are joined, and the header that said so is kept under another name.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, SecondsFormat};
use hyper::Version;
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use ipdc_jobs::fetch::Rules;
use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{FileWriter, TaskError};
use sha2::{Digest, Sha256};

use super::Visit;
use crate::swarm::certificate::now_ms;

/// What the header is called that said how a response was cut for its way.
const WAS_TRANSFER_ENCODING: &str = "x-orig-transfer-encoding";

/// What a record says of a page that has not changed.
const UNCHANGED: &str = "http://netpreserve.org/warc/1.1/revisit/server-not-modified";

/// What the guests of one attempt fetch: an archive, from the first answer on.
#[derive(Default)]
pub struct Shelf {
    archive: Mutex<Option<Archive>>,
}

impl Shelf {
    /// Adds what hosts sent to whoever asks by `rules`. The first has the file created.
    ///
    /// # Errors
    /// When it cannot be written, or is more output than the task may have.
    pub fn keep(
        &self,
        visits: &[Visit],
        rules: &Rules,
        create: impl FnOnce() -> Result<Box<dyn FileWriter>, TaskError>,
    ) -> Result<(), TaskError> {
        if visits.is_empty() {
            return Ok(());
        }
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let archive = match &mut *archive {
            Some(archive) => archive,
            none => none.insert(Archive::begin(create()?, rules)?),
        };
        visits.iter().try_for_each(|visit| archive.add(visit))
    }

    /// Ends the archive and names it; none when nothing came since the last one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn clear(&self) -> Result<Option<FileRef>, TaskError> {
        let archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner).take();
        archive.map(|archive| archive.file.finish()).transpose()
    }
}

/// A WARC file that is being written.
struct Archive {
    file: Box<dyn FileWriter>,
}

impl Archive {
    /// Begins one in `file`, of what is fetched by `rules`.
    fn begin(file: Box<dyn FileWriter>, rules: &Rules) -> Result<Archive, TaskError> {
        let mut archive = Archive { file };
        let about = format!(
            "software: ipdc/{}\r\nformat: WARC File Format 1.1\r\nhttp-header-user-agent: {}\r\nrobots: {}\r\n",
            env!("CARGO_PKG_VERSION"),
            rules.agent.as_str(),
            if rules.robots { "obey" } else { "ignore" },
        );
        let fields = [("Content-Type", "application/warc-fields".to_owned())];
        archive.write("warcinfo", now_ms(), &fields, &[about.as_bytes()])?;
        Ok(archive)
    }

    /// Adds what a host sent.
    fn add(&mut self, visit: &Visit) -> Result<(), TaskError> {
        let mut fields = vec![
            ("WARC-Target-URI", visit.url.to_string()),
            ("WARC-IP-Address", visit.ip.to_string()),
            ("Content-Type", "application/http;msgtype=response".to_owned()),
        ];
        let kind = match visit.unchanged_since {
            Some(since_ms) => {
                fields.push(("WARC-Profile", UNCHANGED.to_owned()));
                fields.push(("WARC-Refers-To-Target-URI", visit.url.to_string()));
                fields.push(("WARC-Refers-To-Date", date(since_ms)));
                "revisit"
            }
            None => {
                fields.push(("WARC-Payload-Digest", digest(&[&visit.body])));
                "response"
            }
        };
        self.write(kind, visit.fetched_ms, &fields, &[&head(visit), &visit.body])
    }

    /// Writes one record, whose block has these `parts`.
    fn write(
        &mut self,
        kind: &str,
        at_ms: u64,
        fields: &[(&str, String)],
        parts: &[&[u8]],
    ) -> Result<(), TaskError> {
        let mut said = format!("WARC-Type: {kind}\r\n");
        let mut say = |name: &str, value: &str| said.push_str(&format!("{name}: {value}\r\n"));
        say("WARC-Date", &date(at_ms));
        for (name, value) in fields {
            say(name, value);
        }
        say("WARC-Block-Digest", &digest(parts));
        say("Content-Length", &parts.iter().map(|part| part.len()).sum::<usize>().to_string());
        let name = uuid(&Sha256::digest(&said));
        let head = format!("WARC/1.1\r\nWARC-Record-ID: <urn:uuid:{name}>\r\n{said}\r\n");
        self.file.write(head.as_bytes())?;
        parts.iter().try_for_each(|part| self.file.write(part))?;
        self.file.write(b"\r\n\r\n")
    }
}

/// The head of a response, as HTTP has it.
fn head(visit: &Visit) -> Vec<u8> {
    let version = if visit.version == Version::HTTP_10 { "1.0" } else { "1.1" };
    let (status, reason) = (visit.status.as_u16(), visit.status.canonical_reason());
    let mut head =
        format!("HTTP/{version} {status} {}\r\n", reason.unwrap_or_default()).into_bytes();
    let mut say = |name: &str, value: &[u8]| {
        head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    };
    for (name, value) in &visit.headers {
        let is_cut = name == TRANSFER_ENCODING;
        say(if is_cut { WAS_TRANSFER_ENCODING } else { name.as_str() }, value.as_bytes());
    }
    if visit.headers.contains_key(TRANSFER_ENCODING) && !visit.headers.contains_key(CONTENT_LENGTH)
    {
        say(CONTENT_LENGTH.as_str(), visit.body.len().to_string().as_bytes());
    }
    head.extend(b"\r\n");
    head
}

fn date(at_ms: u64) -> String {
    let at = DateTime::from_timestamp_millis(at_ms as i64).unwrap_or_default();
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn digest(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().iter().fold("sha256:".to_owned(), |mut text, byte| {
        // To a text nothing can fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A UUID of the form that is free for names of one's own (version 8, RFC 9562).
fn uuid(hash: &[u8]) -> String {
    let mut hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    hex.replace_range(12..13, "8");
    hex.replace_range(16..17, "8");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use hyper::StatusCode;
    use hyper::header::{HeaderMap, HeaderValue};
    use ipdc_jobs::fetch::Agent;
    use ipdc_jobs::ids::{CODEC_RAW, cid_of};
    use serde_json::{Value, json};

    use super::super::Method;
    use super::*;

    /// A file in memory.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl FileWriter for Memory {
        fn write(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(())
        }

        fn finish(self: Box<Self>) -> Result<FileRef, TaskError> {
            let bytes = self.0.lock().unwrap();
            Ok(FileRef { cid: cid_of(CODEC_RAW, &bytes), len: bytes.len() as u64 })
        }
    }

    fn visit(
        path: &str,
        status: u16,
        headers: &[(&'static str, &'static str)],
        body: &'static [u8],
    ) -> Visit {
        let value = |(name, value): &(&'static str, &'static str)| {
            (name.parse().unwrap(), HeaderValue::from_static(value))
        };
        Visit {
            url: format!("http://example.org{path}").parse().unwrap(),
            method: Method::Get,
            fetched_ms: 1_795_323_845_678,
            ip: "192.0.2.7".parse().unwrap(),
            version: Version::HTTP_11,
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.iter().map(value).collect::<HeaderMap>(),
            body: body.into(),
            unchanged_since: None,
        }
    }

    fn rules() -> Rules {
        Rules::of(Agent::try_from("wordbot (me@example.org)".to_owned()).unwrap())
    }

    fn archive(visits: &[Visit]) -> Vec<u8> {
        let (file, shelf) = (Memory::default(), Shelf::default());
        let keep = |visit: &Visit| {
            shelf.keep(std::slice::from_ref(visit), &rules(), || Ok(Box::new(file.clone())))
        };
        visits.iter().for_each(|visit| keep(visit).unwrap());
        let named = shelf.clear().unwrap().unwrap();
        let bytes = file.0.lock().unwrap().clone();
        assert_eq!(named.len, bytes.len() as u64);
        bytes
    }

    #[test]
    fn there_is_a_file_only_when_something_came_and_a_new_one_after_the_last() {
        let (shelf, created) = (Shelf::default(), AtomicU32::new(0));
        let keep = |visits: &[Visit]| {
            shelf.keep(visits, &rules(), || {
                created.fetch_add(1, Ordering::Relaxed);
                Ok(Box::new(Memory::default()))
            })
        };
        keep(&[]).unwrap();
        assert_eq!((shelf.clear().unwrap(), created.load(Ordering::Relaxed)), (None, 0));
        keep(&visits()).unwrap();
        keep(&visits()).unwrap();
        assert!(shelf.clear().unwrap().is_some());
        assert_eq!((shelf.clear().unwrap(), created.load(Ordering::Relaxed)), (None, 1));
        keep(&visits()).unwrap();
        assert!(shelf.clear().unwrap().is_some());
        assert_eq!(created.load(Ordering::Relaxed), 2);
    }

    fn visits() -> Vec<Visit> {
        vec![
            visit(
                "/a",
                200,
                &[("content-type", "text/plain"), ("x-y", "1"), ("x-y", "2")],
                b"hello\r\n\r\n",
            ),
            visit("/b?c", 302, &[("location", "/a"), ("content-length", "0")], b""),
            Visit { unchanged_since: Some(1), ..visit("/a", 304, &[], b"") },
            visit("/d", 404, &[("transfer-encoding", "chunked")], b"WARC/1.1\r\n"),
        ]
    }

    #[test]
    fn a_response_is_written_as_it_came_and_a_record_is_named_by_what_is_in_it() {
        let text = String::from_utf8(archive(&visits()[..1])).unwrap();
        let record = text.split("WARC/1.1\r\n").nth(2).unwrap();
        let (name, record) = record.split_once("\r\n").unwrap();
        assert!(name.starts_with("WARC-Record-ID: <urn:uuid:") && name.ends_with('>'), "{name}");
        assert_eq!(
            record,
            "WARC-Type: response\r\n\
             WARC-Date: 2026-11-22T05:04:05.678Z\r\n\
             WARC-Target-URI: http://example.org/a\r\n\
             WARC-IP-Address: 192.0.2.7\r\n\
             Content-Type: application/http;msgtype=response\r\n\
             WARC-Payload-Digest: sha256:b5d93f2cd5fcb979cf1e62a74efacc13036888a5e5cff6c502f9469acc0bcc7b\r\n\
             WARC-Block-Digest: sha256:e0887e9c97d0dbb2d69536732ceda474c4e71ba11d5ff23e8a5190438c7c0252\r\n\
             Content-Length: 70\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx-y: 1\r\nx-y: 2\r\n\r\nhello\r\n\r\n\r\n\r\n"
        );
        let again = String::from_utf8(archive(&visits()[..1])).unwrap();
        assert!(again.contains(name), "the same response has the same name");
        let other = Visit { fetched_ms: 1, ..visits().remove(0) };
        assert!(!String::from_utf8(archive(&[other])).unwrap().contains(name));
    }

    /// The records of a WARC file, by warcio, which checks their digests.
    fn read_by_warcio(bytes: &[u8]) -> Vec<Value> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let root = ipdc_tests::root();
        // `make build-tests` installs it.
        let read = Command::new(root.join("target/venv/bin/python"))
            .arg(root.join("tests/warc.py"))
            .arg(file.path())
            .output()
            .unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        let lines = String::from_utf8(read.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn others_read_an_archive_and_two_of_them_one_after_the_other() {
        let visits = visits();
        let both = [archive(&visits[..1]), archive(&visits[1..])].concat();
        let read = read_by_warcio(&both);
        let types: Vec<_> = read.iter().map(|record| record["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["warcinfo", "response", "warcinfo", "response", "revisit", "response"]);
        assert!(read[0]["body"].as_str().unwrap().contains("http-header-user-agent: wordbot (me@"));
        let responses = read.iter().filter(|record| record["type"] != "warcinfo");
        for (record, visit) in responses.zip(&visits) {
            assert_eq!(record["uri"], visit.url.as_str());
            assert_eq!(
                (&record["ip"], &record["status"]),
                (&json!("192.0.2.7"), &json!(visit.status.as_str()))
            );
            assert_eq!(record["body"].as_str().unwrap().as_bytes(), &visit.body[..]);
            assert_eq!(record["date"], "2026-11-22T05:04:05.678Z");
        }
        let was_cut = json!([[WAS_TRANSFER_ENCODING, "chunked"], ["content-length", "10"]]);
        assert_eq!(read[5]["headers"], was_cut);
    }
}
