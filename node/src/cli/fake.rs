//! A node for tests: the HTTP that the command line needs, in memory, found by its home.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipdc_jobs::ids::{CODEC_DAG_PB, CODEC_RAW, Cid, JobId, PeerId, cid_of};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::api::client::Client;
use crate::view::{Added, Entry, JobState, JobView, Listing, NewDir, NodeKind, RunInfo};

pub(super) struct FakeNode {
    home: TempDir,
    world: Arc<Mutex<World>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
pub(super) struct World {
    pub(super) files: BTreeMap<Cid, Bytes>,
    pub(super) dirs: BTreeMap<Cid, Vec<Entry>>,
    /// What each look at the job gives, in turn; the last one stays.
    pub(super) views: VecDeque<JobView>,
}

type Shared = State<Arc<Mutex<World>>>;

impl FakeNode {
    pub(super) async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let world = Arc::default();
        let serving = serve(home.path(), Arc::clone(&world)).await;
        FakeNode { home, world, serving }
    }

    pub(super) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(super) fn client(&self) -> Client {
        Client::of_home(self.home()).unwrap()
    }

    pub(super) fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// As after kill -9: nobody answers, and `run.json` is left.
    pub(super) async fn kill(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    /// The same node at another port.
    pub(super) async fn start_again(&mut self) {
        self.serving = serve(self.home.path(), Arc::clone(&self.world)).await;
    }

    /// A job that was looked at `version` times.
    pub(super) fn view(state: JobState, version: u64) -> JobView {
        let peer = peer();
        JobView {
            job: JobId::of_manifest(b"job"),
            kind: "mr".into(),
            state,
            version,
            submitted_ms: 0,
            submitter: peer,
            controller: peer,
            seconds: 0.5,
            tasks: 1,
            memoized: 0,
            counters: std::collections::BTreeMap::new(),
            stages: Vec::new(),
            items: None,
            running_items: Vec::new(),
            bytes_done: 0,
            bytes_total: 0,
            bytes_per_s: 0,
            seconds_left: None,
            workers: 1,
            workers_asked: None,
            waiting: None,
            notes: Vec::new(),
            refusals: Vec::new(),
            result: None,
            report: None,
            error: None,
            step: None,
            next: None,
            stopped: None,
            same_as: None,
        }
    }
}

fn peer() -> PeerId {
    libp2p_identity::Keypair::generate_ed25519().public().to_peer_id()
}

async fn serve(home: &Path, world: Arc<Mutex<World>>) -> JoinHandle<()> {
    let router = Router::new()
        .route("/v1/files", post(add_file).layer(DefaultBodyLimit::disable()))
        .route("/v1/dirs", post(add_dir))
        .route("/v1/cat/{cid}", get(cat))
        .route("/v1/ls/{cid}", get(ls))
        .route("/v1/jobs/{id}", get(job))
        .with_state(world);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = listener.local_addr().unwrap();
    let run = RunInfo { pid: 1, peer_id: peer(), listen: Vec::new(), mqtt: http, http };
    fs::write(home.join(Client::RUN_FILE), serde_json::to_string(&run).unwrap()).unwrap();
    fs::write(home.join(Client::TOKEN_FILE), "secret\n").unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
}

async fn add_file(State(world): Shared, body: Bytes) -> Json<Added> {
    let cid = cid_of(CODEC_RAW, &body);
    let size = body.len() as u64;
    world.lock().unwrap().files.insert(cid, body);
    Json(Added { cid, size })
}

/// Directories one level deep into each other, as the names say.
async fn add_dir(State(world): Shared, Json(dir): Json<NewDir>) -> Json<Added> {
    let mut world = world.lock().unwrap();
    let size = dir.entries.iter().map(|entry| entry.size).sum();
    let mut entries = Vec::new();
    let mut inner: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for entry in dir.entries {
        let file = |name: &str| Entry {
            name: name.to_owned(),
            cid: entry.cid,
            size: entry.size,
            kind: NodeKind::File,
        };
        match entry.path.split_once('/') {
            Some((dir, name)) => inner.entry(dir.to_owned()).or_default().push(file(name)),
            None => entries.push(file(&entry.path)),
        }
    }
    for (name, files) in inner {
        let (cid, size) = (cid_of(CODEC_DAG_PB, name.as_bytes()), 0);
        world.dirs.insert(cid, files);
        entries.push(Entry { name, cid, size, kind: NodeKind::Dir });
    }
    let cid = cid_of(CODEC_DAG_PB, b"");
    world.dirs.insert(cid, entries);
    Json(Added { cid, size })
}

async fn cat(State(world): Shared, UrlPath(cid): UrlPath<String>) -> Bytes {
    world.lock().unwrap().files[&cid.parse().unwrap()].clone()
}

async fn ls(State(world): Shared, UrlPath(cid): UrlPath<String>) -> Json<Listing> {
    let cid = cid.parse().unwrap();
    let world = world.lock().unwrap();
    Json(match world.dirs.get(&cid) {
        Some(entries) => Listing { kind: NodeKind::Dir, cid, size: 0, entries: entries.clone() },
        None => {
            let size = world.files[&cid].len() as u64;
            Listing { kind: NodeKind::File, cid, size, entries: Vec::new() }
        }
    })
}

async fn job(State(world): Shared) -> Json<JobView> {
    let mut world = world.lock().unwrap();
    let next = if world.views.len() > 1 { world.views.pop_front() } else { None };
    Json(next.unwrap_or_else(|| world.views[0].clone()))
}
