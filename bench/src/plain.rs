//! The yardstick of a transfer: a file through one plain TCP connection, hashed and written to disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Bytes read, sent or written at once: so many that a call costs nothing beside them.
const PIECE: usize = 1 << 20;

/// Sends `from` over loopback to `to`, where it is hashed as it comes, and flushed. How long that took.
///
/// # Errors
/// When a file or the connection fails, or what came is not what was sent.
pub(crate) fn transfer(from: &Path, to: &Path) -> io::Result<Duration> {
    let sent = hash(&mut File::open(from)?, &mut io::sink())?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let start = Instant::now();
    let came = std::thread::scope(|scope| {
        let sender = scope.spawn(move || send(from, TcpStream::connect(address)?));
        let mut file = File::create(to)?;
        let came = hash(&mut listener.accept()?.0, &mut file)?;
        file.sync_all()?;
        sender.join().expect("sending does not panic")?;
        io::Result::Ok(came)
    })?;
    let took = start.elapsed();
    if came == sent { Ok(took) } else { Err(io::Error::other("what came is not what was sent")) }
}

fn send(from: &Path, mut to: TcpStream) -> io::Result<()> {
    let mut file = File::open(from)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return to.shutdown(Shutdown::Write),
            n => to.write_all(&piece[..n])?,
        }
    }
}

/// Copies all of `from`, and gives its SHA-256.
fn hash(from: &mut impl Read, to: &mut impl Write) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(hash.finalize().into()),
            n => {
                hash.update(&piece[..n]);
                to.write_all(&piece[..n])?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives() {
        let folder = tempfile::tempdir().expect("a temp folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let bytes: Vec<u8> = (0..3 * PIECE + 17).map(|i| (i % 251) as u8).collect();
        std::fs::write(&from, &bytes).expect("writable");
        transfer(&from, &to).expect("loopback");
        assert_eq!(std::fs::read(&to).expect("written"), bytes);
    }
}
