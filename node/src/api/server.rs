//! HTTP's connections: how many, how long, and their end when the node stops.
//!
//! What is asked on them is none of its business. hyper serves each; what axum's own server cannot
//! do is why it is not used: a connection that dawdles over its headers or says nothing more is
//! closed, and each passes the [`Lobby`].

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lobby::{Guest, Lobby};

/// Connections that have shown the token: a command has one, and few programs have ten.
pub(super) const CONNECTIONS: usize = 256;

/// How long a request's headers may take, and how long a connection may go without a request. A
/// client that keeps connections should keep them for less.
const HEAD_LIMIT: Duration = Duration::from_secs(60);

/// How long a client may take no byte of an answer. Long, because a person may look at the first page
/// of a file: `ipdc cat CID | less`.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long the listener rests when the system gives it no connection, as when it has no file
/// descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long answers under way may take when the node stops.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// Serves `app` until `stopped` is done. Each request has its connection's [`Guest`] as an extension.
pub(super) async fn run(listener: TcpListener, app: Router, stopped: impl Future<Output = ()>) {
    let lobby = Lobby::new(CONNECTIONS, PATIENCE);
    let (tasks, goodbye) = (TaskTracker::new(), CancellationToken::new());
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let guest = lobby.enter().await;
                    tasks.spawn(serve(stream, guest, app.clone(), goodbye.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "no HTTP connection to be had");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = stopped => {}
    }
    goodbye.cancel();
    tasks.close();
    if tokio::time::timeout(SHUTDOWN_LIMIT, tasks.wait()).await.is_err() {
        tracing::warn!("HTTP answers were not taken in {SHUTDOWN_LIMIT:?}");
    }
}

async fn serve(stream: TcpStream, guest: Arc<Guest>, app: Router, goodbye: CancellationToken) {
    // Without it a small answer waits for the acknowledgement of the one before; on the loopback
    // interface it cannot fail in a way that matters.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(guest.guard(stream));
    let app = TowerToHyperService::new(app.layer(Extension(guest)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(io, app)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = goodbye.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
