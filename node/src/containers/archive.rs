//! Archives for the engine, made as they are read: of an image, or of what one is built from.

use std::io;

use bytes::Bytes;
use futures::Stream;
use ipdc_jobs::ids::FileRef;
use tokio::sync::mpsc;

use crate::blocks::fetch::Session;
use crate::blocks::unixfs::FileReader;

/// Pieces of an archive, of up to a block each, that wait for the engine.
const PIECES: usize = 4;

/// Bytes that are read of a file at a time: a block.
const READ: usize = 1 << 20;

/// The size of a block of a tar archive.
const TAR: usize = 512;

/// What a file of an archive holds.
pub(super) enum Content {
    Text(Bytes),
    File(FileRef),
}

/// A tar archive of these files by their paths, as it is read. (POSIX.1-1988, ustar.)
pub(super) fn archive(
    session: Session,
    files: Vec<(String, Content)>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (pieces, archive) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let written = write_archive(&session, files, &pieces).await;
        let end = written.map(|()| Bytes::from_static(&[0; 2 * TAR]));
        let _ = pieces.send(end).await;
    });
    stream_of(archive)
}

fn stream_of<T: Send + 'static>(
    receiver: mpsc::Receiver<T>,
) -> impl Stream<Item = T> + Send + 'static {
    futures::stream::unfold(receiver, async |mut receiver| {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}

async fn write_archive(
    session: &Session,
    files: Vec<(String, Content)>,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let send = async |piece: Bytes| {
        pieces.send(Ok(piece)).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    for (path, content) in files {
        let len = match &content {
            Content::Text(text) => text.len() as u64,
            Content::File(file) => file.len,
        };
        let mut header = tar::Header::new_ustar();
        header.set_path(&path)?;
        header.set_size(len);
        header.set_mode(0o755);
        header.set_cksum();
        send(Bytes::copy_from_slice(header.as_bytes())).await?;
        match content {
            Content::Text(text) => send(text).await?,
            Content::File(file) => {
                let mut reader = FileReader::open_file(session.clone(), &file).await?;
                let mut at = 0;
                while at < len {
                    let piece = reader.read_at(at, READ).await?;
                    at += piece.len() as u64;
                    send(piece).await?;
                }
            }
        }
        let rest = (len as usize).next_multiple_of(TAR) - len as usize;
        send(Bytes::copy_from_slice(&[0; TAR][..rest])).await?;
    }
    Ok(())
}
