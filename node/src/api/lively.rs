//! Streams that say something when there is nothing to say, so that who reads notices when nobody is there any more,
//! and who writes does too.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tokio::time::timeout;

/// How long a stream of lines is silent at most: clients give one up after half a minute and more.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// `lines`, and an empty one whenever none came for as long as `silence`.
pub(super) fn lively<E>(
    lines: impl Stream<Item = Result<Bytes, E>> + Send,
    silence: Duration,
) -> impl Stream<Item = Result<Bytes, E>> + Send {
    stream::unfold(Box::pin(lines), move |mut lines| async move {
        let next = timeout(silence, lines.next()).await;
        let next = next.unwrap_or(Some(Ok(Bytes::from_static(b"\n"))));
        next.map(|next| (next, lines))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use futures::channel::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_stream_says_something_while_it_waits_and_loses_nothing() {
        let (sender, lines) = mpsc::unbounded::<Result<Bytes, Infallible>>();
        let mut lines = Box::pin(lively(lines, Duration::from_millis(1)));
        for said in ["one\n", "two\n"] {
            assert_eq!(lines.next().await.unwrap().unwrap(), "\n");
            sender.unbounded_send(Ok(said.into())).unwrap();
            let said_now = loop {
                let line = lines.next().await.unwrap().unwrap();
                if line != "\n" {
                    break line;
                }
            };
            assert_eq!(said_now, said);
        }
        drop(sender);
        while let Some(Ok(line)) = lines.next().await {
            assert_eq!(line, "\n");
        }
    }
}
