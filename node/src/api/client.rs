//! A client of a node's HTTP: one method a route, for the command line and for tests.
//!
//! It finds the node by its home: `run.json` says where it listens, `api.token` proves that we
//! may ask. It keeps nothing but its connection pool. Every wait has a bound: an answer comes
//! within [`ANSWER_LIMIT`], and a transfer that moves no byte for [`STALL_LIMIT`] is given up.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::{TryStreamExt as _, stream};
use ipdc_jobs::engine::GiftKey;
use ipdc_jobs::ids::{Cid, JobId, PeerId, TaskId};
use miette::Diagnostic;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use super::{PROTOCOL, status_of};
use crate::audit;
use crate::problem::{ErrorBody, Problem, Reported};
use crate::view::{
    Accepted, AddQuery, Added, Admission, AuditQuery, ByteRange, Cancelled, Collected,
    ContainerList, ContainerLogsQuery, ContainerRequest, ContainerView, ContainersQuery,
    ContentPath, Delegate, Empty, ExecRequest, Extension, GiveQuery, Given, Guest, GuestRequest,
    ImageView, Imported, Interpreter, Invite, InviteRequest, ItemsQuery, JobLogs, JobQuery,
    JobView, Listing, LogsQuery, NewDir, NewImage, NewInterpreter, PREFIX, Peer, Pin, PortsRequest,
    Rekeyed, Revocation, Revoked, RunInfo, Starting, Status, Stop, Submission, TaskWork, Unwanted,
    Usage, WAIT_LIMIT_S,
};

/// How long a node may take to answer a request whose body was sent, but for those that may have an image built.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// How long an answer may take that has an image built, or brought into blocks: a node gives each of them an hour.
const PATIENCE: Duration = Duration::from_secs(3 * 3_600);

/// How long a transfer may stand still. The node itself gives up a block that nobody sends sooner
/// than this, and says who was asked.
pub const STALL_LIMIT: Duration = Duration::from_secs(120);

/// How long a connection may take to open. It is on loopback: only a dead or stopped node needs
/// longer than a blink.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long a connection is kept that nothing is asked on. The node keeps it for longer, so that it is
/// never closed from there while a request is on its way.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Bytes read from a file at once when it is sent: one block.
const CHUNK: usize = 1 << 20;

/// The most bytes of an answer that are read into memory: a listing of a million names.
const ANSWER_SIZE_LIMIT: usize = 256 << 20;

/// Why a node did not do what it was asked.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ClientError {
    /// No node runs in this home.
    #[error("no node is running in {}", home.display())]
    #[diagnostic(
        code("IPDC-1601"),
        help(
            "start one with `ipdc start --detach` (a new home first needs `ipdc init` or \
             `ipdc join`), or run a job without any set-up: `ipdc run mr JOBDIR --local 3`"
        )
    )]
    NoNode {
        /// The home.
        home: PathBuf,
    },
    /// A file of the home cannot be read.
    #[error("cannot read {}", path.display())]
    #[diagnostic(
        code("IPDC-1602"),
        help(
            "only the user that started the node may use it: run as that user, or name another home with --home"
        )
    )]
    Home {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The node does not answer where it said that it listens.
    #[error("cannot reach the node at {http}")]
    #[diagnostic(
        code("IPDC-1603"),
        help(
            "the node may have died or be starting: try `ipdc start`, and see node.log in its home"
        )
    )]
    Unreachable {
        /// Where.
        http: SocketAddr,
        /// Why not.
        source: reqwest::Error,
    },
    /// The node took the request and then said nothing.
    #[error("the node at {http} has not answered for {} s", after.as_secs())]
    #[diagnostic(
        code("IPDC-1604"),
        help("see node.log in its home; `ipdc status` says whether it is alive")
    )]
    Silent {
        /// Where.
        http: SocketAddr,
        /// How long it was waited for.
        after: Duration,
    },
    /// What came back is not of the API's form.
    #[error("the node at {http} gave an answer that this ipdc cannot read")]
    #[diagnostic(
        code("IPDC-1605"),
        help("the node and this command may be of different versions: restart the node")
    )]
    Answer {
        /// Where.
        http: SocketAddr,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node said no.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Refused(#[from] Reported),
}

/// How far a transfer is. Clones share it, so that a progress bar can watch.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<AtomicU64>);

impl Meter {
    /// Bytes moved so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts `bytes` as moved.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A connection to one node. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    run: Arc<RunInfo>,
    token: Arc<str>,
}

impl Client {
    /// The name of the file in a home that says how its running node is reached.
    pub const RUN_FILE: &'static str = "run.json";
    /// The name of the file in a home that holds the token.
    pub const TOKEN_FILE: &'static str = "api.token";

    /// A client of the node that runs in `home`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::NoNode`] when none does; [`ClientError::Home`] when its files cannot be read.
    pub fn of_home(home: &Path) -> Result<Self, ClientError> {
        let run = read(&home.join(Self::RUN_FILE))?;
        let run = run.ok_or_else(|| ClientError::NoNode { home: home.to_owned() })?;
        let run = serde_json::from_str(&run).map_err(|source| ClientError::Home {
            path: home.join(Self::RUN_FILE),
            source: source.into(),
        })?;
        let token = read(&home.join(Self::TOKEN_FILE))?;
        let token = token.ok_or_else(|| ClientError::NoNode { home: home.to_owned() })?;
        Ok(Self::new(run, token.trim()))
    }

    /// A client of the node that `run` describes. Nothing is sent yet.
    #[must_use]
    pub fn new(run: RunInfo, token: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_built_in_root_certs(false)
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .build()
            .expect("a client without TLS and proxies has nothing to fail on");
        Client { http, run: Arc::new(run), token: token.into() }
    }

    /// How the node said that it is reached.
    #[must_use]
    pub fn run_info(&self) -> &RunInfo {
        &self.run
    }

    /// What the node is and does.
    ///
    /// # Errors
    /// As all of these: when the node cannot be reached or says no.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get(&["status"]).await
    }

    /// The nodes of the swarm, as this one knows them.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn peers(&self) -> Result<Vec<Peer>, ClientError> {
        self.get(&["peers"]).await
    }

    /// On whose word everybody is a member, and who was one.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn admissions(&self) -> Result<Vec<Admission>, ClientError> {
        self.get(&["admissions"]).await
    }

    /// A new invitation.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn invite(&self, invite: &InviteRequest) -> Result<Invite, ClientError> {
        self.post(&["invites"], invite).await
    }

    /// Lets a member invite.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn delegate(&self, peer_id: PeerId) -> Result<(), ClientError> {
        let Empty {} = self.post(&["delegates"], &Delegate { peer_id }).await?;
        Ok(())
    }

    /// Lets a peer in as a guest.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn admit(&self, guest: &GuestRequest) -> Result<Guest, ClientError> {
        self.post(&["guests"], guest).await
    }

    /// Cuts a peer or an owner's peers off; gives the members that are none any more.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn revoke(&self, whom: &Revocation) -> Result<Revoked, ClientError> {
        self.post(&["revocations"], whom).await
    }

    /// Gives the swarm a new key.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn rekey(&self) -> Result<Rekeyed, ClientError> {
        self.post(&["rekey"], &Empty {}).await
    }

    /// What happened on the node, and for whom; the oldest first.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn audit(&self, query: &AuditQuery) -> Result<Vec<audit::Entry>, ClientError> {
        self.ask(self.request(Method::GET, &["audit"]).query(query)).await
    }

    /// Has the node take no new attempts.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn pause(&self) -> Result<(), ClientError> {
        let Empty {} = self.post(&["pause"], &Empty {}).await?;
        Ok(())
    }

    /// Has the node take attempts again.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn resume(&self) -> Result<(), ClientError> {
        let Empty {} = self.post(&["resume"], &Empty {}).await?;
        Ok(())
    }

    /// Asks the node to drain and exit.
    ///
    /// # Errors
    /// As [`Client::status`]; status 409 when it works for others and `force` is not set.
    pub async fn stop(&self, force: bool) -> Result<(), ClientError> {
        let Empty {} = self.post(&["stop"], &Stop { force }).await?;
        Ok(())
    }

    /// Adds what `bytes` gives as one file. `meter` counts what the node took.
    ///
    /// # Errors
    /// As [`Client::status`]; [`ClientError::Unreachable`] also when `bytes` fails.
    pub async fn add_file(
        &self,
        bytes: impl AsyncRead + Send + Unpin + 'static,
        query: AddQuery,
        meter: &Meter,
    ) -> Result<Added, ClientError> {
        self.upload(self.request(Method::POST, &["files"]).query(&query), bytes, meter).await
    }

    /// Puts the blocks of a CAR and pins its roots. `meter` counts what the node took.
    ///
    /// # Errors
    /// As [`Client::add_file`].
    pub async fn import(
        &self,
        car: impl AsyncRead + Send + Unpin + 'static,
        query: AddQuery,
        meter: &Meter,
    ) -> Result<Imported, ClientError> {
        self.upload(self.request(Method::POST, &["cars"]).query(&query), car, meter).await
    }

    async fn upload<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        bytes: impl AsyncRead + Send + Unpin + 'static,
        meter: &Meter,
    ) -> Result<T, ClientError> {
        // Whether it is our own side that is waited for: a slow pipe is no stalled node.
        let reading = Arc::new(AtomicBool::new(false));
        let body = reqwest::Body::wrap_stream(chunks(bytes, meter.clone(), reading.clone()));
        let request = request.body(body);
        let mut answer = pin!(request.send());
        let response = loop {
            let before = meter.bytes();
            match timeout(STALL_LIMIT, &mut answer).await {
                Ok(response) => break response.map_err(|source| self.unreachable(source))?,
                Err(_) if meter.bytes() > before || reading.load(Ordering::Relaxed) => {}
                Err(_) => return Err(self.silent(STALL_LIMIT)),
            }
        };
        self.read_answer(response).await
    }

    /// Makes a directory of files that were added before.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn add_dir(&self, dir: &NewDir, query: AddQuery) -> Result<Added, ClientError> {
        self.ask(self.request(Method::POST, &["dirs"]).query(&query).json(dir)).await
    }

    /// The bytes of a file, or of a range of it.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn cat(
        &self,
        path: &ContentPath,
        range: Option<ByteRange>,
    ) -> Result<Download, ClientError> {
        let mut request = self.request(Method::GET, &segments("cat", path));
        if let Some(range) = range {
            request = request.header(header::RANGE, format!("bytes={range}"));
        }
        let response = self.send(request).await?;
        Ok(Download { response: self.accepted(response).await?, http: self.run.http })
    }

    /// The CAR of what `path` names.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn export(&self, path: &ContentPath) -> Result<Download, ClientError> {
        let response = self.send(self.request(Method::GET, &segments("car", path))).await?;
        Ok(Download { response: self.accepted(response).await?, http: self.run.http })
    }

    /// What a file or directory is and holds.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn ls(&self, path: &ContentPath) -> Result<Listing, ClientError> {
        self.get(&segments("ls", path)).await
    }

    /// Keeps `cid`, with all below it, for the user.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn pin(&self, cid: &Cid) -> Result<(), ClientError> {
        let Empty {} = self.ask(self.request(Method::PUT, &["pins", &cid.to_string()])).await?;
        Ok(())
    }

    /// Keeps `cid` for the user no more.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn unpin(&self, cid: &Cid) -> Result<(), ClientError> {
        let Empty {} = self.ask(self.request(Method::DELETE, &["pins", &cid.to_string()])).await?;
        Ok(())
    }

    /// What is kept, and for whom.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn pins(&self) -> Result<Vec<Pin>, ClientError> {
        self.get(&["pins"]).await
    }

    /// The interpreters that were added.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn interpreters(&self) -> Result<Vec<Interpreter>, ClientError> {
        self.get(&["interpreters"]).await
    }

    /// Adds the module `cid` as what interprets code of `runtime`.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn add_interpreter(
        &self,
        runtime: &str,
        cid: Cid,
    ) -> Result<Interpreter, ClientError> {
        let request = self.request(Method::PUT, &["interpreters", runtime]);
        self.ask(request.json(&NewInterpreter { cid })).await
    }

    /// Forgets the interpreter of `runtime`.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn remove_interpreter(&self, runtime: &str) -> Result<(), ClientError> {
        let Empty {} = self.ask(self.request(Method::DELETE, &["interpreters", runtime])).await?;
        Ok(())
    }

    /// Removes what nothing needs.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn gc(&self) -> Result<Collected, ClientError> {
        self.post(&["gc"], &Empty {}).await
    }

    /// What the home takes.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn du(&self) -> Result<Usage, ClientError> {
        self.get(&["du"]).await
    }

    /// Submits a job. It is durable when this returns. It takes as long as its image takes to be built, if it has one.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn submit(&self, submission: &Submission) -> Result<Accepted, ClientError> {
        self.ask_patiently(self.request(Method::POST, &["jobs"]).json(submission)).await
    }

    /// Every job that the node remembers, newest first.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn jobs(&self) -> Result<Vec<JobView>, ClientError> {
        self.get(&["jobs"]).await
    }

    /// One job, by its ID or the beginning of it.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn job(&self, prefix: &str) -> Result<JobView, ClientError> {
        self.get(&["jobs", prefix]).await
    }

    /// The job as soon as its version is above `since`, or as it is after [`WAIT_LIMIT_S`].
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn job_after(&self, job: JobId, since: u64) -> Result<JobView, ClientError> {
        let query = JobQuery { since: Some(since), wait_s: Some(WAIT_LIMIT_S) };
        self.ask(self.request(Method::GET, &["jobs", &job.to_string()]).query(&query)).await
    }

    /// The job's items as they end, each a line of JSON; empty lines are signs of life. With `after` those that
    /// ended after so many others, in the order of their ends.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn items(&self, prefix: &str, after: Option<u64>) -> Result<Download, ClientError> {
        let request = self.request(Method::GET, &["jobs", prefix, "items"]);
        let response = self.send(request.query(&ItemsQuery { after })).await?;
        Ok(Download { response: self.accepted(response).await?, http: self.run.http })
    }

    /// Gives an open job more items; given again with the same key they are taken once.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn give(
        &self,
        prefix: &str,
        key: Option<GiftKey>,
        items: &[Value],
    ) -> Result<Given, ClientError> {
        let request = self.request(Method::POST, &["jobs", prefix, "items"]);
        self.ask(request.query(&GiveQuery { key }).json(&items)).await
    }

    /// Tells an open job that nothing more is given to it.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn close(&self, prefix: &str) -> Result<JobView, ClientError> {
        self.post(&["jobs", prefix, "close"], &Empty {}).await
    }

    /// Ends a job without a result.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn cancel(&self, prefix: &str) -> Result<JobView, ClientError> {
        self.post(&["jobs", prefix, "cancel"], &Empty {}).await
    }

    /// Takes items out of a job, by their numbers.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn cancel_items(
        &self,
        prefix: &str,
        items: BTreeSet<u64>,
    ) -> Result<Cancelled, ClientError> {
        self.post(&["jobs", prefix, "items", "cancel"], &Unwanted { items }).await
    }

    /// What the job's code logged, and which attempts failed; of one task, when it is named.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn logs(&self, prefix: &str, task: Option<TaskId>) -> Result<JobLogs, ClientError> {
        let query = LogsQuery { task };
        self.ask(self.request(Method::GET, &["jobs", prefix, "logs"]).query(&query)).await
    }

    /// What an attempt at a task is given.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn task(&self, prefix: &str, task: TaskId) -> Result<TaskWork, ClientError> {
        self.get(&["jobs", prefix, "tasks", &task.to_string()]).await
    }

    /// Runs a container by hand; `tell` hears how far that is.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn run_container(
        &self,
        request: &ContainerRequest,
        mut tell: impl FnMut(&Starting),
    ) -> Result<ContainerView, ClientError> {
        let response = self.send(self.request(Method::POST, &["containers"]).json(request)).await?;
        let mut response = self.accepted(response).await?;
        let mut rest = BytesMut::new();
        while let Some(part) = next_chunk(&mut response, self.run.http).await? {
            rest.extend_from_slice(&part);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest.split_to(end + 1);
                // An empty one is a sign of life.
                if line.len() == 1 {
                    continue;
                }
                match serde_json::from_slice(&line).map_err(|source| self.unreadable(source))? {
                    Starting::Container(view) => return Ok(*view),
                    Starting::Error(problem) => return Err(self.refused(problem)),
                    said => tell(&said),
                }
            }
        }
        Err(self.unreadable("it ended before the container began"))
    }

    /// The containers of the node's owner, and all that run on the node; of a group, if one is named.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn containers(&self, group: Option<String>) -> Result<ContainerList, ClientError> {
        let query = ContainersQuery { group };
        self.ask(self.request(Method::GET, &["containers"]).query(&query)).await
    }

    /// Ends a container, and forgets it.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn remove_container(&self, prefix: &str) -> Result<ContainerView, ClientError> {
        self.ask(self.request(Method::DELETE, &["containers", prefix])).await
    }

    /// Lets a container run for so many seconds from now on.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn extend_container(
        &self,
        prefix: &str,
        time_s: u64,
    ) -> Result<ContainerView, ClientError> {
        self.post(&["containers", prefix, "extend"], &Extension { time_s }).await
    }

    /// What a container writes, as [`Frame`](crate::rental::Frame)s.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn container_logs(
        &self,
        prefix: &str,
        follow: bool,
    ) -> Result<impl AsyncRead + Send + Unpin + use<>, ClientError> {
        let request = self.request(Method::GET, &["containers", prefix, "logs"]);
        let response = self.send(request.query(&ContainerLogsQuery { follow })).await?;
        let response = self.accepted(response).await?;
        Ok(StreamReader::new(response.bytes_stream().map_err(std::io::Error::other)))
    }

    /// A command in a container: [`Frame`](crate::rental::Frame)s both ways.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn exec(
        &self,
        prefix: &str,
        exec: &ExecRequest,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, ClientError> {
        let request = self.request(Method::POST, &["containers", prefix, "exec"]).json(exec);
        let request = request.header(header::CONNECTION, "upgrade");
        let response = self.send(request.header(header::UPGRADE, PROTOCOL)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let Empty {} = self.read_answer(response).await?;
            return Err(self.unreadable("it did not become a command's connection"));
        }
        response.upgrade().await.map_err(|source| self.unreachable(source))
    }

    /// Has ports of a container on this machine's loopback, and a way in for SSH.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn forward_ports(
        &self,
        prefix: &str,
        request: &PortsRequest,
    ) -> Result<ContainerView, ClientError> {
        self.post(&["containers", prefix, "ports"], request).await
    }

    /// The images that are known here.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn images(&self) -> Result<Vec<ImageView>, ClientError> {
        self.get(&["images"]).await
    }

    /// Brings an image in, and keeps it. It takes as long as the image is large.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn add_image(&self, image: &NewImage) -> Result<ImageView, ClientError> {
        self.ask_patiently(self.request(Method::POST, &["images"]).json(image)).await
    }

    /// Forgets an image.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn remove_image(&self, cid: &Cid) -> Result<(), ClientError> {
        let Empty {} =
            self.ask(self.request(Method::DELETE, &["images", &cid.to_string()])).await?;
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, path: &[impl AsRef<str>]) -> Result<T, ClientError> {
        self.ask(self.request(Method::GET, path)).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.ask(self.request(Method::POST, path).json(body)).await
    }

    fn request(&self, method: Method, path: &[impl AsRef<str>]) -> RequestBuilder {
        let mut url = Url::parse(&format!("http://{}{}", self.run.http, PREFIX))
            .expect("a socket address makes an http URL");
        url.path_segments_mut().expect("an http URL has a path").extend(path);
        self.http.request(method, url).bearer_auth(&self.token)
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        self.read_answer(response).await
    }

    /// Asks for what may take long: it is waited for as long as the node answers other questions meanwhile.
    async fn ask_patiently<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let mut answer = pin!(request.send());
        let began = Instant::now();
        let response = loop {
            match timeout(ANSWER_LIMIT, &mut answer).await {
                Ok(answer) => break answer.map_err(|source| self.unreachable(source))?,
                Err(_) if began.elapsed() > PATIENCE => return Err(self.silent(PATIENCE)),
                Err(_) => drop(self.status().await?),
            }
        };
        self.read_answer(response).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        match timeout(ANSWER_LIMIT, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(self.unreachable(source)),
            Err(_) => Err(self.silent(ANSWER_LIMIT)),
        }
    }

    async fn read_answer<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let response = self.accepted(response).await?;
        let body = self.read_body(response).await?;
        serde_json::from_slice(&body).map_err(|source| self.unreadable(source))
    }

    /// The response if its status says yes; else the node's error.
    async fn accepted(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.read_body(response).await?;
        match serde_json::from_slice(&body) {
            Ok(ErrorBody { error }) => Err(Reported::with_status(error, status.as_u16()).into()),
            Err(source) => Err(self.unreadable(format!("status {status}: {source}"))),
        }
    }

    async fn read_body(&self, mut response: Response) -> Result<BytesMut, ClientError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = next_chunk(&mut response, self.run.http).await? {
            if body.len() + chunk.len() > ANSWER_SIZE_LIMIT {
                return Err(self.unreadable(format!("longer than {ANSWER_SIZE_LIMIT} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The node's own error, which came in an answer that had begun well.
    fn refused(&self, problem: Problem) -> ClientError {
        let status = status_of(&problem.code).as_u16();
        Reported::with_status(problem, status).into()
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable { http: self.run.http, source: source.without_url() }
    }

    fn silent(&self, after: Duration) -> ClientError {
        ClientError::Silent { http: self.run.http, after }
    }

    fn unreadable(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ClientError {
        ClientError::Answer { http: self.run.http, source: source.into() }
    }
}

/// A file's bytes on their way.
#[derive(Debug)]
pub struct Download {
    response: Response,
    http: SocketAddr,
}

impl Download {
    /// How many bytes there will be, when the node said so.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// When the node is gone or sends nothing for [`STALL_LIMIT`].
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        next_chunk(&mut self.response, self.http).await
    }
}

async fn next_chunk(
    response: &mut Response,
    http: SocketAddr,
) -> Result<Option<Bytes>, ClientError> {
    match timeout(STALL_LIMIT, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(source)) => Err(ClientError::Unreachable { http, source: source.without_url() }),
        Err(_) => Err(ClientError::Silent { http, after: STALL_LIMIT }),
    }
}

/// The bytes of `source` in chunks, counted by `meter`; `reading` says whether one is waited for.
fn chunks(
    source: impl AsyncRead + Send + Unpin + 'static,
    meter: Meter,
    reading: Arc<AtomicBool>,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((source, meter, reading), |(mut source, meter, reading)| async move {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        reading.store(true, Ordering::Relaxed);
        let read = source.read_buf(&mut chunk).await;
        reading.store(false, Ordering::Relaxed);
        let read = read?;
        meter.add(read as u64);
        Ok((read > 0).then(|| (chunk.freeze(), (source, meter, reading))))
    })
}

fn segments(route: &str, path: &ContentPath) -> Vec<String> {
    [route.to_owned(), path.root.to_string()].into_iter().chain(path.parts.clone()).collect()
}

fn read(path: &Path) -> Result<Option<String>, ClientError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ClientError::Home { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::Json;
    use axum::Router;
    use axum::extract::{Path as UrlPath, Query};
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::{get, post};
    use ipdc_jobs::ids::{CODEC_RAW, cid_of};

    use super::*;
    use crate::problem::Problem;

    async fn client_of(router: Router) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, router).into_future());
        let peer_id = libp2p_identity::Keypair::generate_ed25519().public().to_peer_id();
        let run = RunInfo { pid: 1, peer_id, listen: Vec::new(), mqtt: http, http };
        Client::new(run, "secret")
    }

    #[tokio::test]
    async fn a_file_is_streamed_with_its_token_and_counted() {
        let bytes = vec![7_u8; 3 * CHUNK + 5];
        let router = Router::new().route(
            "/v1/files",
            post(|headers: HeaderMap, Query(query): Query<AddQuery>, body: Bytes| async move {
                assert_eq!(headers["authorization"], "Bearer secret");
                assert!(!query.pin);
                Json(Added { cid: cid_of(CODEC_RAW, &body), size: body.len() as u64 })
            })
            .layer(axum::extract::DefaultBodyLimit::disable()),
        );
        let meter = Meter::default();
        let client = client_of(router).await;
        let source = std::io::Cursor::new(bytes.clone());
        let added = client.add_file(source, AddQuery { pin: false }, &meter).await.unwrap();
        assert_eq!(added, Added { cid: cid_of(CODEC_RAW, &bytes), size: bytes.len() as u64 });
        assert_eq!(meter.bytes(), bytes.len() as u64);
    }

    #[tokio::test]
    async fn names_with_odd_characters_reach_the_node_as_they_are() {
        let router = Router::new().route(
            "/v1/cat/{cid}/{*path}",
            get(|UrlPath((_, path)): UrlPath<(String, String)>, headers: HeaderMap| async move {
                format!("{path}|{}", headers["range"].to_str().unwrap())
            }),
        );
        let path = ContentPath {
            root: cid_of(CODEC_RAW, b"x"),
            parts: vec!["a b".into(), "c?d#e%2f".into(), "ß".into()],
        };
        let client = client_of(router).await;
        let range = ByteRange { first: 1, last: Some(2) };
        let mut download = client.cat(&path, Some(range)).await.unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = download.next_chunk().await.unwrap() {
            text.extend_from_slice(&chunk);
        }
        assert_eq!(String::from_utf8(text).unwrap(), "a b/c?d#e%2f/ß|bytes=1-2");
    }

    #[tokio::test]
    async fn a_refusal_keeps_code_causes_help_and_details() {
        let problem = Problem {
            code: "IPDC-1610".into(),
            message: "the job directory is wrong".into(),
            causes: vec!["near".into(), "far".into()],
            help: Some("mend it".into()),
            details: vec!["job.toml:3: no such key".into()],
        };
        let sent = problem.clone();
        let router = Router::new().route(
            "/v1/status",
            get(|| async move { (StatusCode::BAD_REQUEST, Json(ErrorBody { error: sent })) }),
        );
        let error = client_of(router).await.status().await.unwrap_err();
        assert_eq!(Problem::of(&error), problem);
        let ClientError::Refused(reported) = error else { panic!("{error:?}") };
        assert_eq!(reported.status(), Some(400));
    }

    #[tokio::test]
    async fn an_answer_of_another_form_and_a_dead_port_are_told_apart() {
        let router = Router::new().route("/v1/status", get(|| async { "hello" }));
        let client = client_of(router).await;
        assert!(matches!(client.status().await, Err(ClientError::Answer { .. })));

        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let run = RunInfo { http: port, ..client.run_info().clone() };
        let dead = Client::new(run, "secret").status().await;
        assert!(matches!(dead, Err(ClientError::Unreachable { http, .. }) if http == port));
    }

    #[test]
    fn an_empty_home_has_no_node() {
        let home = tempfile::tempdir().unwrap();
        let error = Client::of_home(home.path()).unwrap_err();
        assert!(matches!(error, ClientError::NoNode { .. }));
    }
}
