//! The paths of the HTTP API, one function each.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use futures::{StreamExt as _, TryStreamExt as _};
use ipdc_jobs::ids::{Cid, TaskId};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use super::containers;
use super::lively::{SILENCE, lively};
use super::{ApiError, Failure};
use crate::audit;
use crate::blocks::car;
use crate::blocks::fetch::Session;
use crate::blocks::store::Tier;
use crate::blocks::unixfs::{self, DirEntry, FileBuilder, FileReader};
use crate::controller::GIFT_LIMIT;
use crate::node::Node;
use crate::state::pins::{self as table, Reason};
use crate::view::{
    self, Accepted, AddQuery, Added, Admission, AuditQuery, Cancelled, Collected, ContentPath,
    Delegate, Empty, GiveQuery, Given, Guest, GuestRequest, Imported, Interpreter, Invite,
    InviteRequest, ItemsQuery, JobLogs, JobQuery, JobView, Listing, LogsQuery, Needed, NewDir,
    NewDirEntry, NewInterpreter, NodeKind, Peer, Pin, Rekeyed, Revocation, Revoked, Status, Stop,
    Submission, TaskWork, Unwanted, Usage, WAIT_LIMIT_S,
};

pub(super) type Shared = State<Arc<Node>>;
pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// The longest JSON body: a job by name, or a question.
const BODY_LIMIT: usize = 64 << 10;

/// The longest submission: its files have 128 KiB, which JSON may write six times as long.
const SUBMISSION_LIMIT: usize = 1 << 20;

/// The longest list of a directory's files: half a million.
const DIR_LIMIT: usize = 64 << 20;

/// How long a JSON body may take to come.
const BODY_TIME: Duration = Duration::from_secs(60);

/// How long a file that is added may stand still: it may come from a pipe, whose other end takes its
/// time.
const UPLOAD_STALL: Duration = Duration::from_secs(3_600);

/// How much of a file is asked for at once while it is sent: so far ahead it is fetched.
const CAT_AHEAD: usize = 8 << 20;

/// How long a CAR's blocks are looked for before the first is sent: longer than a block is that nobody has,
/// unless the node is told to be very patient, and well below what a client waits.
const FETCH_FIRST: Duration = Duration::from_secs(60);

/// How long what follows a mistake in a body is read, and dropped: 1 GB over loopback.
const REST: Duration = Duration::from_secs(2);
/// The description of all this.
const OPENAPI: &str = include_str!("openapi.json");

pub(super) fn router(node: Arc<Node>) -> Router {
    let v1 = Router::new()
        .route("/status", get(status))
        .route("/peers", get(peers))
        .route("/audit", get(audit))
        .route("/admissions", get(admissions))
        .route("/invites", post(invite))
        .route("/delegates", post(delegate))
        .route("/guests", post(admit))
        .route("/revocations", post(revoke))
        .route("/rekey", post(rekey))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/stop", post(stop))
        .route("/files", post(add_file).layer(DefaultBodyLimit::disable()))
        .route("/dirs", post(add_dir).layer(DefaultBodyLimit::max(DIR_LIMIT)))
        .route("/cars", post(import).layer(DefaultBodyLimit::disable()))
        .route("/car/{*path}", get(export))
        .route("/cat/{*path}", get(cat))
        .route("/ls/{*path}", get(ls))
        .route("/pins", get(pins))
        .route("/pins/{cid}", put(pin).delete(unpin))
        .route("/interpreters", get(interpreters))
        .route("/interpreters/{runtime}", put(add_interpreter).delete(remove_interpreter))
        .route("/gc", post(gc))
        .route("/du", get(du))
        .route("/jobs", get(jobs).post(submit).layer(DefaultBodyLimit::max(SUBMISSION_LIMIT)))
        .route("/jobs/{id}", get(job))
        .route("/jobs/{id}/cancel", post(cancel))
        .route("/jobs/{id}/items", get(items).post(give).layer(DefaultBodyLimit::max(GIFT_LIMIT)))
        .route("/jobs/{id}/items/cancel", post(withdraw))
        .route("/jobs/{id}/files", post(keep))
        .route("/jobs/{id}/close", post(close))
        .route("/jobs/{id}/logs", get(logs))
        .route("/jobs/{id}/tasks/{task}", get(task))
        .route("/containers", get(containers::list).post(containers::run))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/extend", post(containers::extend))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/exec", post(containers::exec))
        .route("/containers/{id}/ports", post(containers::ports))
        .route("/images", get(containers::images).post(containers::add_image))
        .route("/images/{cid}", delete(containers::remove_image));
    Router::new()
        .nest(crate::view::PREFIX, v1)
        .route("/openapi.json", get(openapi))
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(node)
}

/// What is at which path, for programs that write clients.
async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn nothing(uri: Uri) -> Failure {
    ApiError::NoSuchPath(uri.path().to_owned()).into()
}

async fn status(State(node): Shared) -> Answer<Status> {
    Ok(Json(node.status().await?))
}

async fn peers(State(node): Shared) -> Answer<Vec<Peer>> {
    Ok(Json(node.peers()))
}

async fn audit(State(node): Shared, Query(query): Query<AuditQuery>) -> Answer<Vec<audit::Entry>> {
    let since = query.since_s.map(Duration::from_secs);
    Ok(Json(node.audit.read(since, query.owner).await?))
}

async fn admissions(State(node): Shared) -> Answer<Vec<Admission>> {
    let admissions = node.swarm.admissions().into_iter();
    Ok(Json(admissions.map(|admission| Admission::of(admission, node.me)).collect()))
}

async fn invite(State(node): Shared, Json(request): Json<InviteRequest>) -> Answer<Invite> {
    Ok(Json(node.invite(request).await?))
}

async fn delegate(State(node): Shared, Json(request): Json<Delegate>) -> Answer<Empty> {
    node.swarm.delegate(request.peer_id).await?;
    Ok(Json(Empty {}))
}

async fn admit(State(node): Shared, Json(request): Json<GuestRequest>) -> Answer<Guest> {
    Ok(Json(node.admit(request).await?))
}

async fn revoke(State(node): Shared, Json(request): Json<Revocation>) -> Answer<Revoked> {
    let revoked = node.swarm.revoke(request.into()).await?;
    Ok(Json(Revoked { revoked }))
}

async fn rekey(State(node): Shared, _: NoBody) -> Answer<Rekeyed> {
    Ok(Json(node.swarm.rekey().await?.into()))
}

async fn pause(State(node): Shared, _: NoBody) -> Answer<Empty> {
    node.pause().await?;
    Ok(Json(Empty {}))
}

async fn resume(State(node): Shared, _: NoBody) -> Answer<Empty> {
    node.resume().await?;
    Ok(Json(Empty {}))
}

async fn stop(State(node): Shared, Json(request): Json<Stop>) -> Answer<Empty> {
    node.ask_to_stop(request.force)?;
    Ok(Json(Empty {}))
}

async fn add_file(State(node): Shared, Query(query): Query<AddQuery>, body: Body) -> Answer<Added> {
    node.blocks.store().room()?;
    let add = node.blocks.store().add(Tier::Durable);
    let mut file = FileBuilder::chunked(add.clone());
    let mut parts = body.into_data_stream();
    while let Some(part) = timeout(UPLOAD_STALL, parts.next()).await.map_err(|_| ApiError::Slow)? {
        let part = part.map_err(|error| ApiError::Malformed(error.to_string()))?;
        file.write(&part).await?;
    }
    let (added, chunks) = file.finish_chunks().await?;
    node.blocks.tables().remember(&added, chunks).await?;
    if query.pin {
        node.blocks.pins().pin(added.cid, Reason::User).await?;
    }
    Ok(Json(Added { cid: added.cid, size: added.len }))
}

async fn add_dir(
    State(node): Shared,
    Query(query): Query<AddQuery>,
    Json(dir): Json<NewDir>,
) -> Answer<Added> {
    node.blocks.store().room()?;
    let add = node.blocks.store().add(Tier::Durable);
    let size = dir.entries.iter().map(|entry| entry.size).sum();
    let entries = dir.entries.into_iter().map(NewDirEntry::named);
    let cid = unixfs::build_dir(&add, node.blocks.store(), entries).await?;
    if query.pin {
        node.blocks.pins().pin(cid, Reason::User).await?;
    }
    Ok(Json(Added { cid, size }))
}

async fn import(
    State(node): Shared,
    Query(query): Query<AddQuery>,
    body: Body,
) -> Answer<Imported> {
    node.blocks.store().room()?;
    let add = node.blocks.store().add(Tier::Durable);
    let mut from = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let imported = match car::import(&add, &mut from).await {
        Ok(imported) => imported,
        Err(error) => {
            // Who still sends may not look for the answer before that ended.
            let mut nowhere = tokio::io::sink();
            let _ = timeout(REST, tokio::io::copy(&mut from, &mut nowhere)).await;
            return Err(error.into());
        }
    };
    if query.pin {
        for root in &imported.roots {
            node.blocks.pins().pin(*root, Reason::User).await?;
        }
    }
    let car::Imported { roots, blocks, bytes } = imported;
    Ok(Json(Imported { roots, blocks, bytes }))
}

async fn export(State(node): Shared, Path(path): Path<String>) -> Result<Response, Failure> {
    let (_, root) = resolve(&node, &path).await?;
    let session = node.blocks.session(&[], Tier::Durable);
    // What cannot be had is said before the first byte, if it is found out soon.
    if let Ok(fetched) = timeout(FETCH_FIRST, session.fetch_all(root, |_| {})).await {
        fetched?;
    }
    let parts = car::export(session, root).inspect_err(move |error| {
        tracing::warn!(%root, %error, "an export broke off");
    });
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/vnd.ipld.car; version=1; order=dfs; dups=n")
        .body(Body::from_stream(parts));
    response.map_err(|error| ApiError::Malformed(error.to_string()).into())
}

async fn cat(
    State(node): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (session, cid) = resolve(&node, &path).await?;
    let file = FileReader::open(session, cid).await?;
    let len = file.len();
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let (status, range) = match range {
        None => (StatusCode::OK, 0..len),
        Some(text) => (
            StatusCode::PARTIAL_CONTENT,
            byte_range(text, len).ok_or_else(|| {
                ApiError::Malformed(format!("the range `{text}` is not in the file's {len} bytes"))
            })?,
        ),
    };
    let content_range = format!("bytes {}-{}/{len}", range.start, range.end.saturating_sub(1));
    let content_length = range.end - range.start;
    let parts = file.stream(range, CAT_AHEAD);
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_LENGTH, content_length)
        .header(header::CONTENT_TYPE, "application/octet-stream");
    if status == StatusCode::PARTIAL_CONTENT {
        response = response.header(header::CONTENT_RANGE, content_range);
    }
    let response = response.body(Body::from_stream(parts));
    response.map_err(|error| ApiError::Malformed(error.to_string()).into())
}

/// `bytes=a-b`, `bytes=a-` or `bytes=-n` of a file of `len` bytes.
fn byte_range(text: &str, len: u64) -> Option<Range<u64>> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (from, to) {
        ("", last) => len.saturating_sub(last.parse().ok()?)..len,
        (from, "") => from.parse().ok()?..len,
        (from, to) => from.parse().ok()?..to.parse::<u64>().ok()?.checked_add(1)?.min(len),
    };
    (range.start <= range.end && range.start <= len).then_some(range)
}

async fn ls(State(node): Shared, Path(path): Path<String>) -> Answer<Listing> {
    let (session, cid) = resolve(&node, &path).await?;
    if let Some(file) = unixfs::stat(&session, cid).await? {
        let (kind, size) = (NodeKind::File, file.len);
        return Ok(Json(Listing { kind, cid, size, entries: vec![] }));
    }
    let mut entries = Vec::new();
    for DirEntry { name, cid, dag_size } in unixfs::ls(&session, cid).await? {
        let file = unixfs::stat(&session, cid).await?;
        let kind = if file.is_some() { NodeKind::File } else { NodeKind::Dir };
        entries.push(view::Entry { name, cid, size: file.map_or(dag_size, |file| file.len), kind });
    }
    let size = entries.iter().map(|entry| entry.size).sum();
    Ok(Json(Listing { kind: NodeKind::Dir, cid, size, entries }))
}

async fn pins(State(node): Shared) -> Answer<Vec<Pin>> {
    let pins = node.blocks.pins().list().await?;
    let view = |pin: table::Pin| Pin { cid: pin.root, reason: pin.reason.to_string() };
    Ok(Json(pins.into_iter().map(view).collect()))
}

async fn pin(State(node): Shared, Path(cid): Path<String>, _: NoBody) -> Answer<Empty> {
    let root = content_path(&cid)?.root;
    let session = node.blocks.session(&[], Tier::Durable);
    session.fetch_all(root, |_| {}).await?;
    node.blocks.pins().pin(root, Reason::User).await?;
    Ok(Json(Empty {}))
}

async fn unpin(State(node): Shared, Path(cid): Path<String>, _: NoBody) -> Answer<Empty> {
    node.blocks.pins().unpin(content_path(&cid)?.root, Reason::User).await?;
    Ok(Json(Empty {}))
}

async fn interpreters(State(node): Shared) -> Answer<Vec<Interpreter>> {
    let added = node.interpreters.list().await?.into_iter();
    Ok(Json(added.map(Interpreter::from).collect()))
}

async fn add_interpreter(
    State(node): Shared,
    Path(runtime): Path<String>,
    Json(new): Json<NewInterpreter>,
) -> Answer<Interpreter> {
    Ok(Json(node.interpreters.add(&runtime, new.cid).await?.into()))
}

async fn remove_interpreter(
    State(node): Shared,
    Path(runtime): Path<String>,
    _: NoBody,
) -> Answer<Empty> {
    node.interpreters.remove(&runtime).await?;
    Ok(Json(Empty {}))
}

async fn gc(State(node): Shared, _: NoBody) -> Answer<Collected> {
    let swept = node.blocks.pins().gc().await?;
    Ok(Json(Collected { blocks: swept.blocks, bytes: swept.bytes }))
}

async fn du(State(node): Shared) -> Answer<Usage> {
    Ok(Json(node.blocks.pins().du().await?.into()))
}

async fn submit(
    State(node): Shared,
    Json(submission): Json<Submission>,
) -> Result<(StatusCode, Json<Accepted>), Failure> {
    Ok((StatusCode::ACCEPTED, Json(node.controller.submit(submission).await?)))
}

async fn jobs(State(node): Shared) -> Answer<Vec<JobView>> {
    Ok(Json(node.controller.views().await?))
}

async fn job(
    State(node): Shared,
    Path(id): Path<String>,
    Query(query): Query<JobQuery>,
) -> Answer<JobView> {
    let job = node.controller.find(&id).await?;
    let Some(since) = query.since else { return Ok(Json(node.controller.view(job).await?)) };
    let wait = Duration::from_secs(query.wait_s.unwrap_or(WAIT_LIMIT_S).min(WAIT_LIMIT_S));
    match timeout(wait, node.controller.wait(job, since)).await {
        Ok(view) => Ok(Json(view?)),
        Err(_) => Ok(Json(node.controller.view(job).await?)),
    }
}

async fn cancel(State(node): Shared, Path(id): Path<String>, _: NoBody) -> Answer<JobView> {
    let job = node.controller.find(&id).await?;
    Ok(Json(node.controller.cancel(job).await?))
}

async fn items(
    State(node): Shared,
    Path(id): Path<String>,
    Query(query): Query<ItemsQuery>,
) -> Result<Response, Failure> {
    let job = node.controller.find(&id).await?;
    let lines = node.controller.items(job, query.after).await?.inspect_err(move |error| {
        tracing::warn!(%job, %error, "the list of a job's items broke off");
    });
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Body::from_stream(lively(lines, SILENCE)));
    response.map_err(|error| ApiError::Malformed(error.to_string()).into())
}

async fn give(
    State(node): Shared,
    Path(id): Path<String>,
    Query(query): Query<GiveQuery>,
    Json(items): Json<Vec<Value>>,
) -> Answer<Given> {
    let job = node.controller.find(&id).await?;
    let items = serde_json::to_vec(&items).expect("what was JSON encodes");
    Ok(Json(Given { first: node.controller.give(job, query.key, items.into()).await? }))
}

async fn keep(
    State(node): Shared,
    Path(id): Path<String>,
    Json(Needed { files }): Json<Needed>,
) -> Answer<Empty> {
    let job = node.controller.find(&id).await?;
    node.controller.keep(job, &files).await?;
    Ok(Json(Empty {}))
}

async fn withdraw(
    State(node): Shared,
    Path(id): Path<String>,
    Json(unwanted): Json<Unwanted>,
) -> Answer<Cancelled> {
    let job = node.controller.find(&id).await?;
    Ok(Json(Cancelled { cancelled: node.controller.withdraw(job, unwanted.items).await? }))
}

async fn close(State(node): Shared, Path(id): Path<String>, _: NoBody) -> Answer<JobView> {
    let job = node.controller.find(&id).await?;
    Ok(Json(node.controller.close(job).await?))
}

async fn logs(
    State(node): Shared,
    Path(id): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Answer<JobLogs> {
    let job = node.controller.find(&id).await?;
    Ok(Json(match query.task {
        Some(task) => node.controller.task_logs(job, task).await?,
        None => node.controller.logs(job).await?,
    }))
}

async fn task(State(node): Shared, Path((id, task)): Path<(String, u32)>) -> Answer<TaskWork> {
    let job = node.controller.find(&id).await?;
    Ok(Json(node.controller.task(job, TaskId(task)).await?))
}

/// What a path names, and what fetches it.
async fn resolve(node: &Node, path: &str) -> Result<(Session, Cid), Failure> {
    let path = content_path(path)?;
    let session = node.blocks.session(&[], Tier::Cache);
    let cid = unixfs::resolve(&session, path.root, &path.parts.join("/")).await?;
    Ok((session, cid))
}

pub(super) fn content_path(text: &str) -> Result<ContentPath, ApiError> {
    text.parse()
        .map_err(|error: crate::view::BadContentPath| ApiError::Malformed(error.to_string()))
}

/// Of a request that needs no body. One that is sent all the same is read: hyper closes a connection on which a body
/// was not, and its client, who was not told, may be sending the next request.
pub(super) struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Failure;

    async fn from_request(request: axum::extract::Request, _: &S) -> Result<Self, Failure> {
        let mut body = request.into_body().into_data_stream();
        let reading = async {
            let mut bytes = 0;
            while let Some(part) = body.next().await {
                bytes += part.map_err(|error| ApiError::Malformed(error.to_string()))?.len();
                if bytes > BODY_LIMIT {
                    return Err(ApiError::TooLong);
                }
            }
            Ok(NoBody)
        };
        timeout(BODY_TIME, reading).await.unwrap_or(Err(ApiError::Slow)).map_err(Failure::from)
    }
}

/// JSON in and out, its errors in the API's own form.
pub(super) struct Json<T>(pub(super) T);

impl<S, T> FromRequest<S> for Json<T>
where
    axum::Json<T>: FromRequest<S, Rejection = JsonRejection>,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Failure> {
        match timeout(BODY_TIME, axum::Json::from_request(request, state)).await {
            Ok(Ok(axum::Json(value))) => Ok(Json(value)),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(ApiError::TooLong.into())
            }
            Ok(Err(rejection)) => Err(ApiError::Malformed(rejection.body_text()).into()),
            Err(_) => Err(ApiError::Slow.into()),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// A query string, its errors in the API's own form.
pub(super) struct Query<T>(pub(super) T);

impl<S, T> FromRequestParts<S> for Query<T>
where
    axum::extract::Query<T>: FromRequestParts<S, Rejection = QueryRejection>,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Failure> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Query(value)),
            Err(rejection) => Err(ApiError::Malformed(rejection.body_text()).into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::{OPENAPI, Value, byte_range};

    /// The routes as this file's source spells them: method and path.
    fn routes() -> BTreeSet<(&'static str, String)> {
        let source = include_str!("routes.rs").split("#[cfg(test)]").next().unwrap();
        let mut routes = BTreeSet::new();
        for piece in source.split(".route(").skip(1) {
            let (path, handlers) = piece.split_once(',').unwrap();
            let path = path.trim().trim_matches('"').replace("{*", "{");
            let prefix = if path == "/openapi.json" { "" } else { crate::view::PREFIX };
            let handlers = handlers.split([';', '\n']).next().unwrap();
            let methods = ["get", "post", "put", "delete", "patch", "any"];
            let has = |method: &&str| {
                [" ", "."].iter().any(|before| handlers.contains(&format!("{before}{method}(")))
            };
            let methods: Vec<_> = methods.into_iter().filter(has).collect();
            assert!(!methods.is_empty(), "{piece}");
            routes.extend(methods.into_iter().map(|method| (method, format!("{prefix}{path}"))));
        }
        routes
    }

    #[test]
    fn the_description_has_every_route_and_no_other() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = description["paths"].as_object().unwrap();
        let described: BTreeSet<(&str, String)> = paths
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys();
                methods.map(|method| (method.as_str(), path.clone()))
            })
            .collect();
        let served = routes();
        assert!(served.len() > 20, "{served:?}");
        let missing: Vec<_> = served.difference(&described).collect();
        let stale: Vec<_> = described.difference(&served).collect();
        assert!(missing.is_empty(), "openapi.json does not have {missing:?}");
        assert!(stale.is_empty(), "openapi.json has what is not served: {stale:?}");
    }

    #[test]
    fn ranges_stay_inside_the_file() {
        assert_eq!(byte_range("bytes=0-9", 100), Some(0..10));
        assert_eq!(byte_range("bytes=90-200", 100), Some(90..100));
        assert_eq!(byte_range("bytes=10-", 100), Some(10..100));
        assert_eq!(byte_range("bytes=-10", 100), Some(90..100));
        assert_eq!(byte_range("bytes=-1000", 100), Some(0..100));
        for bad in [
            "bytes=101-",
            "bytes=9-2",
            "bytes=a-b",
            "lines=1-2",
            "bytes=1",
            "bytes=0-18446744073709551615x",
        ] {
            assert_eq!(byte_range(bad, 100), None, "{bad}");
        }
    }
}
