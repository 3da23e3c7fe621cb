//! What guests ask and hosts send, for `fuzz/`.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use ipdc_jobs::fuzz::Decoder;
use url::Position;

use super::body;
use super::request::{Request, fit};

/// The longest body that is unpacked here.
const LIMIT: u64 = 1 << 20;

pub(crate) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder { name: "fetch_request", decode: request, seeds: request_seeds },
        Decoder { name: "fetch_body", decode: packed, seeds: packed_seeds },
        Decoder { name: "fetch_redirect", decode: redirect, seeds: redirect_seeds },
    ]
}

/// As a guest writes it.
fn request(bytes: &[u8]) {
    let Ok(request) = Request::parse(bytes) else { return };
    let path = &request.url[Position::BeforePath..Position::AfterQuery];
    assert!(path.parse::<hyper::Uri>().is_ok(), "{path}");
    let again = Request::get(request.url.as_str());
    assert_eq!(again.map(|request| request.url), Ok(request.url));
}

fn request_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        r#"{"url": "https://example.org:8443/a%20b?q=1#f", "method": "HEAD", "headers": {"Accept": "text/html"}}"#,
        r#"{"url": "HTTP://0x7f.1/ä/../[::1]?'|`{}"}"#,
        r#"{"url": "http://[::ffff:127.0.0.1]/"}"#,
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// A body, packed in the way that its first byte says.
fn packed(bytes: &[u8]) {
    let Some((how, sent)) = bytes.split_first() else { return };
    let encoding = if how.is_multiple_of(2) { "gzip" } else { "deflate" };
    if let Ok(body) = body::decode(&Bytes::copy_from_slice(sent), encoding, LIMIT) {
        assert!(body.len() as u64 <= LIMIT);
    }
}

fn packed_seeds() -> Vec<Vec<u8>> {
    let text = b"the quick brown fox ".repeat(50);
    let (mut gzip, mut zlib) = (
        GzEncoder::new(vec![0], Compression::default()),
        ZlibEncoder::new(vec![1], Compression::best()),
    );
    let mut bomb = GzEncoder::new(vec![0], Compression::best());
    let written =
        gzip.write_all(&text).and(zlib.write_all(&text)).and(bomb.write_all(&vec![0; 2 << 20]));
    written.expect("to memory");
    [gzip.finish(), zlib.finish(), bomb.finish()].map(|seed| seed.expect("to memory")).into()
}

/// Where a host sends a guest.
fn redirect(bytes: &[u8]) {
    let base = url::Url::parse("https://example.org/a/b?c").expect("a URL");
    let location = String::from_utf8_lossy(bytes);
    if let Some(Ok(goal)) = base.join(&location).ok().map(fit) {
        assert!(matches!(goal.scheme(), "http" | "https") && goal.username().is_empty());
    }
}

fn redirect_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "/x?y#z",
        "//other.example:81/../..",
        "http://user@h/",
        "?q",
        "javascript:x",
        "http:\\\\h",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}
