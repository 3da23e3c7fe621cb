//! A web site on loopback: pages with words and links, made from a seed, and paths at which it misbehaves.
//!
//! It speaks plain HTTP/1.1 on threads, one a connection, and answers from bodies that are made beforehand, so that
//! it is never what a crawl waits for. What it is asked it writes down. It ends when it is dropped.
//!
//! | path | |
//! |---|---|
//! | `/page/N` | page N, with an `ETag`; the links of all lead from page 0 to each |
//! | `/robots.txt` | what [`Site::set_robots`] said; 404 before |
//! | `/silent` | nothing, ever |
//! | `/drip`, `/drip-head` | a byte of the body, or a header, ten times a second, without end |
//! | `/huge`, `/endless` | 10 GB as one piece; pieces without end |
//! | `/bomb` | 1 MB of gzip that are 1 GiB |
//! | `/headers` | headers without end |
//! | `/broken`, `/short`, `/nonsense` | a piece without a length; less than was said; no HTTP |
//! | `/round/N`, `/loop/N` | redirects to N + 1 without end; between 0 and 1 |
//! | `/to?URL` | a redirect there |
//! | `/maze/…` | links to ever deeper pages |
//! | `/gzip`, `/deflate`, `/pieces` | [`TEXT`], packed or in pieces |
//! | `/slow/MS` | [`TEXT`], after so long |
//! | `/status/N` | that status |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::text::Rng;

/// What lets all members fetch from such a site, in a node's `ipdc.toml`.
pub const MAY_FETCH: &str = "[policy]\nfetch = true\nfetch_private = [\"127.0.0.0/8\"]\n";

/// What the small pages say.
pub const TEXT: &str = "the quick brown fox jumps over the lazy dog\n";

/// Links of a page beside those that reach all pages.
const MORE_LINKS: usize = 6;

/// Words of a page, and of the long ones: one page in so many, from page 3 on.
const WORDS: usize = 120;
const MANY_WORDS: usize = 1_500;
const LONG_ONE_IN: u32 = 8;

/// Between two drops of what drips.
const DRIP: Duration = Duration::from_millis(100);

/// A site that runs.
pub struct Site {
    shared: Arc<Shared>,
    addr: SocketAddr,
}

struct Shared {
    /// Each page's whole response.
    pages: Vec<Vec<u8>>,
    bomb: Vec<u8>,
    robots: Mutex<Option<String>>,
    seen: Mutex<Vec<Seen>>,
    started: Instant,
    running: AtomicU32,
    most: AtomicU32,
    stopped: AtomicBool,
}

/// A request, as the site got it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers by their names in small letters.
    pub headers: BTreeMap<String, String>,
    /// When it had come in, since the site began.
    pub at: Duration,
}

/// One page of a site: what a crawl should find on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The pages that it links to, in order.
    pub links: Vec<u32>,
    /// Its words, in order.
    pub words: Vec<String>,
}

/// Page `n` of the site with so many `pages` and this `seed`.
#[must_use]
pub fn page(n: u32, pages: u32, seed: u64) -> Page {
    let mut rng = Rng(seed ^ u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let below = [2 * u64::from(n) + 1, 2 * u64::from(n) + 2];
    let below = below.into_iter().filter(|n| *n < u64::from(pages)).map(|n| n as u32);
    let mut links: Vec<u32> = below.collect();
    links.extend((0..MORE_LINKS).map(|_| rng.below(pages as usize) as u32));
    let words = if n % LONG_ONE_IN == 3 { MANY_WORDS } else { WORDS };
    let words = (0..words).map(|_| {
        // The fewer digits the more frequent, as in a language.
        let most = 10_usize.pow(1 + rng.below(4) as u32);
        format!("w{}", rng.below(most))
    });
    Page { links, words: words.collect() }
}

impl Page {
    fn html(&self, n: u32) -> String {
        let mut html =
            format!("<!doctype html>\n<title>page {n}</title>\n<p>{}\n", self.words.join(" "));
        for link in &self.links {
            // To a text nothing can fail.
            let _ = writeln!(html, "<a href=\"/page/{link}\">{link}</a>");
        }
        html
    }
}

impl Site {
    /// A site of so many `pages`, made from `seed`, on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn start(pages: u32, seed: u64) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let bodies = (0..pages).map(|n| {
            let html = page(n, pages, seed).html(n);
            let etag = format!("ETag: \"{seed}-{n}\"\r\nContent-Type: text/html\r\n");
            response("200 OK", &etag, html.as_bytes())
        });
        let shared = Arc::new(Shared {
            pages: bodies.collect(),
            bomb: bomb(),
            robots: Mutex::default(),
            seen: Mutex::default(),
            started: Instant::now(),
            running: AtomicU32::new(0),
            most: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
        });
        let site = Site { shared: Arc::clone(&shared), addr };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                // The client may go at any time.
                thread::spawn(move || drop(serve(&shared, &stream)));
            }
        });
        site
    }

    /// Where it is.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of `path` on it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Has `/robots.txt` say this from now on.
    pub fn set_robots(&self, text: &str) {
        *self.shared.robots.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    /// How long ago it began.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// What it was asked so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The paths that it was asked for so far, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.path).collect()
    }

    /// The most requests that were under way at a time.
    #[must_use]
    pub fn most_at_once(&self) -> u32 {
        self.shared.most.load(Ordering::Relaxed)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.addr));
    }
}

/// Serves one connection to its end.
fn serve(shared: &Shared, stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream);
    while let Some(seen) = read_request(shared, &mut requests)? {
        let running = shared.running.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most.fetch_max(running, Ordering::SeqCst);
        shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
        let answer = answer(shared, &seen, stream);
        // Before the client can know that it has it.
        shared.running.fetch_sub(1, Ordering::SeqCst);
        let Some(answer) = answer? else { break };
        let mut to = stream;
        to.write_all(&answer)?;
        if shared.stopped.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

fn read_request(
    shared: &Shared,
    from: &mut BufReader<&TcpStream>,
) -> std::io::Result<Option<Seen>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => return Ok(Some(Seen { method, path, headers, at: shared.started.elapsed() })),
        };
    }
}

/// The answer to one request; none when it was misbehaved and the connection is of no more use.
fn answer(shared: &Shared, seen: &Seen, to: &TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (first, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let number = rest.parse::<u32>().ok();
    let redirect = |to: &str| response("302 Found", &format!("Location: {to}\r\n"), b"");
    let packed = |how: &str, bytes: Vec<u8>| {
        response("200 OK", &format!("Content-Encoding: {how}\r\n"), &bytes)
    };
    let mut whole = match (first, number) {
        ("page", Some(n)) if (n as usize) < shared.pages.len() => {
            let page = &shared.pages[n as usize];
            let known = seen.headers.get("if-none-match").map(|tag| format!("ETag: {tag}\r\n"));
            match known.filter(|tag| contains(page, tag.as_bytes())) {
                Some(tag) => format!("HTTP/1.1 304 Not Modified\r\n{tag}\r\n").into_bytes(),
                None => page.clone(),
            }
        }
        ("robots.txt", _) => match &*shared.robots.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(text) => response("200 OK", "", text.as_bytes()),
            None => response("404 Not Found", "", b""),
        },
        ("round", Some(n)) => redirect(&format!("/round/{}", n + 1)),
        ("loop", Some(n)) => redirect(&format!("/loop/{}", 1 - n.min(1))),
        ("to", _) => redirect(query),
        ("maze", _) => {
            let links: String =
                ["a", "b"].map(|way| format!("<a href=\"{path}/{way}\">on</a>\n")).concat();
            response("200 OK", "", links.as_bytes())
        }
        ("gzip", _) => packed("gzip", gzip(TEXT.as_bytes())?),
        ("deflate", _) => {
            let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
            zlib.write_all(TEXT.as_bytes())?;
            packed("deflate", zlib.finish()?)
        }
        ("bomb", _) => packed("gzip", shared.bomb.clone()),
        ("pieces", _) => {
            let (one, two) = TEXT.split_at(7);
            let piece = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
            let pieces = format!("{}{}0\r\n\r\n", piece(one), piece(two));
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{pieces}").into_bytes()
        }
        ("slow", Some(ms)) => {
            thread::sleep(Duration::from_millis(ms.into()));
            response("200 OK", "", TEXT.as_bytes())
        }
        ("status", Some(n)) => response(&format!("{n} So"), "", b"so\n"),
        _ => match misbehave(first, to)? {
            true => return Ok(None),
            false => response("404 Not Found", "", b"there is no such page\n"),
        },
    };
    if seen.method == "HEAD" {
        let end = whole.windows(4).position(|end| end == b"\r\n\r\n");
        whole.truncate(end.map_or(0, |at| at + 4));
    }
    Ok(Some(whole))
}

/// Does what the path is for, until the client has enough; false when it is for nothing.
fn misbehave(path: &str, mut to: &TcpStream) -> std::io::Result<bool> {
    let again = |mut to: &TcpStream, pause: Duration, bytes: &[u8]| -> std::io::Result<bool> {
        loop {
            to.write_all(bytes)?;
            thread::sleep(pause);
        }
    };
    let ok = b"HTTP/1.1 200 OK\r\n";
    match path {
        "silent" => {
            // Until the client closes.
            to.read_to_end(&mut Vec::new())?;
        }
        "drip" => {
            to.write_all(&[&ok[..], b"Content-Length: 1000000\r\n\r\n"].concat())?;
            again(to, DRIP, b"x")?;
        }
        "drip-head" => {
            to.write_all(ok)?;
            again(to, DRIP, b"X-Drop: x\r\n")?;
        }
        "huge" => {
            to.write_all(&[&ok[..], b"Content-Length: 10000000000\r\n\r\n"].concat())?;
            again(to, Duration::ZERO, &[b'x'; 1 << 16])?;
        }
        "endless" => {
            to.write_all(&[&ok[..], b"Transfer-Encoding: chunked\r\n\r\n"].concat())?;
            again(
                to,
                Duration::ZERO,
                &[b"10000\r\n".to_vec(), vec![b'x'; 1 << 16], b"\r\n".to_vec()].concat(),
            )?;
        }
        "headers" => {
            to.write_all(ok)?;
            again(to, Duration::ZERO, b"X-More: of the same, again and again\r\n")?;
        }
        "broken" => {
            to.write_all(
                &[&ok[..], b"Transfer-Encoding: chunked\r\n\r\nzz\r\nthe quick\r\n"].concat(),
            )?;
        }
        "short" => to.write_all(&[&ok[..], b"Content-Length: 100\r\n\r\nthe quick"].concat())?,
        "nonsense" => to.write_all(b"220 mail.example.org ESMTP\r\n\r\n")?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes)?;
    gzip.finish()
}

/// 1 GiB of zeros, in 64 parts.
fn bomb() -> Vec<u8> {
    gzip(&vec![0; 16 << 20]).expect("to memory").repeat(64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_reached_from_the_first_and_is_what_the_seed_says() {
        let (pages, seed) = (1_000, 7);
        let (mut reached, mut to_do) = (vec![false; pages as usize], vec![0]);
        while let Some(n) = to_do.pop() {
            if !std::mem::replace(&mut reached[n as usize], true) {
                to_do.extend(page(n, pages, seed).links);
            }
        }
        assert!(reached.into_iter().all(|is_reached| is_reached));
        assert_eq!(page(5, pages, seed), page(5, pages, seed));
        assert_ne!(page(5, pages, seed).words, page(5, pages, seed + 1).words);
    }

    #[test]
    fn a_site_serves_its_pages_and_writes_down_who_asked() {
        let site = Site::start(3, 7);
        let mut stream = TcpStream::connect(site.addr()).unwrap();
        stream
            .write_all(b"GET /page/2 HTTP/1.1\r\nX-Who: me\r\n\r\nHEAD /gzip HTTP/1.1\r\n\r\n")
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut sent = String::new();
        stream.read_to_string(&mut sent).unwrap();
        assert!(sent.contains(&page(2, 3, 7).html(2)));
        assert!(sent.contains("Content-Encoding: gzip") && sent.ends_with("\r\n\r\n"));
        let seen = site.seen();
        assert_eq!(site.paths(), ["/page/2", "/gzip"]);
        assert_eq!((seen[0].headers["x-who"].as_str(), seen[1].method.as_str()), ("me", "HEAD"));
    }
}
