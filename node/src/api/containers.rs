//! The paths of containers by hand, and of images.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::lively::{SILENCE, lively};
use super::routes::{Answer, Json, NoBody, Query, Shared, content_path};
use super::{ApiError, Failure, PROTOCOL};
use crate::problem::Problem;
use crate::view::{
    ContainerList, ContainerLogsQuery, ContainerRequest, ContainerView, ContainersQuery, Empty,
    ExecRequest, Extension, ImageView, NewImage, PortsRequest, Starting,
};

/// News of a container that starts which wait to be read: what comes when there is no room is as good when it is left out.
const NEWS: usize = 16;

pub(super) async fn list(
    State(node): Shared,
    Query(query): Query<ContainersQuery>,
) -> Answer<ContainerList> {
    let mut list = node.renter.list().await;
    if let Some(group) = query.group {
        list.containers.retain(|view| view.group.as_ref() == Some(&group));
    }
    Ok(Json(list))
}

/// Says how far it is, a line each time, and at last how it ended. Who does not listen any more wants no container.
pub(super) async fn run(
    State(node): Shared,
    Json(request): Json<ContainerRequest>,
) -> Result<Response, Failure> {
    let (news, mut heard) = mpsc::channel(NEWS);
    let running = async move {
        let tell = |said| drop(news.try_send(said));
        match node.rent(request, tell).await {
            Ok(view) => Starting::Container(Box::new(view)),
            Err(error) => Starting::Error(Problem::of(&error)),
        }
    };
    let mut running = Box::pin(running);
    let next = async move |is_over: bool| {
        if is_over {
            return None;
        }
        let (said, is_over) = tokio::select! {
            biased;
            Some(said) = heard.recv() => (said, false),
            ended = &mut running => (ended, true),
        };
        let mut line = serde_json::to_vec(&said).expect("what is said has string keys only");
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), is_over))
    };
    let lines = stream::unfold((next, false), |(mut next, is_over)| async move {
        let (line, is_over) = next(is_over).await?;
        Some((line, (next, is_over)))
    });
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Body::from_stream(lively(lines, SILENCE)));
    response.map_err(malformed)
}

pub(super) async fn remove(
    State(node): Shared,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer<ContainerView> {
    let view = node.renter.find(&id).await?;
    Ok(Json(node.renter.remove(&view).await?))
}

pub(super) async fn extend(
    State(node): Shared,
    Path(id): Path<String>,
    Json(extension): Json<Extension>,
) -> Answer<ContainerView> {
    let view = node.renter.find(&id).await?;
    Ok(Json(node.renter.extend(&view, Duration::from_secs(extension.time_s)).await?))
}

pub(super) async fn logs(
    State(node): Shared,
    Path(id): Path<String>,
    Query(query): Query<ContainerLogsQuery>,
) -> Result<Response, Failure> {
    let view = node.renter.find(&id).await?;
    let frames = node.renter.logs(&view, query.follow).await?;
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(Body::from_stream(ReaderStream::new(frames)));
    response.map_err(malformed)
}

/// The connection becomes that of the command.
pub(super) async fn exec(
    State(node): Shared,
    Path(id): Path<String>,
    mut request: Request,
) -> Result<Response, Failure> {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if upgrade != Some(PROTOCOL) {
        let expected =
            format!("expected the headers `Connection: upgrade` and `Upgrade: {PROTOCOL}`");
        return Err(ApiError::Malformed(expected).into());
    }
    let connection = hyper::upgrade::on(&mut request);
    let Json(asked) = Json::<ExecRequest>::from_request(request, &node).await?;
    let view = node.renter.find(&id).await?;
    let mut frames = node.renter.exec(&view, asked).await?;
    tokio::spawn(async move {
        let carried = async {
            let connection = connection.await.map_err(io::Error::other)?;
            copy_bidirectional(&mut TokioIo::new(connection), &mut frames).await
        };
        if let Err(error) = carried.await {
            tracing::debug!(%error, "the connection of a command broke");
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(Body::empty());
    response.map_err(malformed)
}

pub(super) async fn ports(
    State(node): Shared,
    Path(id): Path<String>,
    Json(request): Json<PortsRequest>,
) -> Answer<ContainerView> {
    let view = node.renter.find(&id).await?;
    Ok(Json(node.renter.forward(view, &request).await?))
}

pub(super) async fn images(State(node): Shared) -> Answer<Vec<ImageView>> {
    Ok(Json(node.images().await?))
}

pub(super) async fn add_image(State(node): Shared, Json(new): Json<NewImage>) -> Answer<ImageView> {
    Ok(Json(node.add_image(new).await?))
}

pub(super) async fn remove_image(
    State(node): State<Arc<crate::node::Node>>,
    Path(cid): Path<String>,
    _: NoBody,
) -> Answer<Empty> {
    node.remove_image(content_path(&cid)?.root).await?;
    Ok(Json(Empty {}))
}

fn malformed(error: axum::http::Error) -> Failure {
    ApiError::Malformed(error.to_string()).into()
}
