//! From a submission to an accepted job: the job directory is checked whole, all its steps if it has
//! some; the manifest is frozen and signed, and committed before anybody hears `accepted`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use ipdc_jobs::code::Code;
use ipdc_jobs::engine::{self, Record};
use ipdc_jobs::ids::{Cid, Epoch, FileRef, JobId};
use ipdc_jobs::kind::{self, JobFiles, ReadAt as _};
use ipdc_jobs::manifest::{self, BadManifest, Manifest, SignedManifest};
use ipdc_jobs::spec::{self, JobSpec, Located, Source, SpecError};
use ipdc_jobs::steps::{Input, Output, Place, Step, Steps};
use rand::distr::{Alphanumeric, SampleString};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::drive::to_json;
use super::{Context, Controller, following};
use crate::audit::{Entry, What};
use crate::blocks::Blocks;
use crate::blocks::fetch::Session;
use crate::blocks::pins::PinError;
use crate::blocks::store::{Add, StoreError, Tier};
use crate::blocks::unixfs::{self, BlockingReader, Caller};

use crate::containers::Importer;
use crate::interpreters::{Interpreters, Opener};
use crate::runtime::Runtime;
use crate::state::StateError;
use crate::state::jobs::{self, StoredJob};
use crate::state::pins::Reason;
use crate::view::{Accepted, Submission};

/// The longest `job.toml`.
const JOB_TOML_LIMIT: u64 = 64 << 10;

/// Bytes of files sent inside a submission, in all: more belongs in blocks.
const INLINE_FILES_LIMIT: usize = 128 << 10;

/// The longest key of a submitter's own.
const KEY_LIMIT: usize = 128;

/// How long a node with an engine may take to be seen: one that has just started has not met the others yet.
const ENGINE_WAIT: Duration = Duration::from_secs(3);

/// How often it is looked for.
const ENGINE_LOOK: Duration = Duration::from_millis(100);

/// Why a job was not accepted.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SubmitError {
    /// No such kind.
    #[error("there is no job kind `{given}`; this node knows {known}")]
    #[diagnostic(code("IPDC-4001"), help("`ipdc run mr JOBDIR` runs a map-reduce job"))]
    UnknownKind {
        /// What was asked for.
        given: String,
        /// What there is.
        known: String,
    },
    /// Neither a CID nor files, or both.
    #[error(
        "a submission names its job directory by `job` (a CID) or brings it in `files`: one of the two"
    )]
    #[diagnostic(code("IPDC-4002"), help("docs/mqtt.md shows both"))]
    NoDirectory,
    /// The files sent are too many bytes.
    #[error(
        "the submission's files have {given} bytes; at most {INLINE_FILES_LIMIT} travel inside it"
    )]
    #[diagnostic(
        code("IPDC-4003"),
        help("add the directory with `ipdc add DIR` and submit its CID as `job`")
    )]
    FilesTooLong {
        /// How many.
        given: usize,
    },
    /// What is wrong in the job directory, all of it.
    #[error("the job directory is not right")]
    #[diagnostic(
        code("IPDC-4004"),
        help("docs/job-directory.md describes job.toml; nothing was run")
    )]
    Spec(#[related] Vec<SpecProblem>),
    /// No input anywhere.
    #[error("the job has no input: neither the submission nor job.toml names one")]
    #[diagnostic(
        code("IPDC-4005"),
        help("set `{_0}` in job.toml, or give --input PATH or --input CID")
    )]
    NoInput(&'static str),
    /// The key is too long or empty.
    #[error("a submission's key has 1 to {KEY_LIMIT} characters; this one has {0}")]
    #[diagnostic(code("IPDC-4006"))]
    BadKey(usize),
    /// The node is stopping.
    #[error("the node is stopping and takes no new job")]
    #[diagnostic(code("IPDC-4007"), help("submit it to another node, or start this one again"))]
    Draining,
    /// The manifest could not be made.
    #[error("the job's manifest could not be made")]
    #[diagnostic(
        code("IPDC-4008"),
        help("params and side files are part of it: put large ones into files")
    )]
    Manifest(#[from] BadManifest),
    /// As many jobs are under way as may be.
    #[error(
        "{owner} has {used} jobs under way here, and this node's policy takes in {most} at most"
    )]
    #[diagnostic(
        code("IPDC-4009"),
        help(
            "wait for one to end, cancel one, or raise `jobs` under [policy] in the node's ipdc.toml"
        )
    )]
    Quota {
        /// Whose.
        owner: String,
        /// How many have not ended.
        used: u32,
        /// How many may.
        most: u32,
    },
    /// It runs in containers, and nobody has an engine that it may use.
    #[error(
        "the job runs in containers, and none of the {nodes} nodes that this one sees runs any for anybody"
    )]
    #[diagnostic(
        code("IPDC-4010"),
        help(
            "on a node that is to: install Docker (Debian: apt install docker.io), start it, and name under [policy] in its \
             ipdc.toml who may use `container` (docs/containers.md); `ipdc peers` shows who has an engine"
        )
    )]
    NoEngine {
        /// How many nodes were asked.
        nodes: usize,
    },
    /// Its files could not be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Files(#[from] unixfs::Error),
    /// The block store failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// What it needs could not be pinned.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pin(#[from] PinError),
    /// The database failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
}

impl SubmitError {
    /// There is no kind of the name `given`.
    #[must_use]
    pub fn unknown_kind(given: String) -> Self {
        let known: Vec<_> = kind::KINDS.iter().map(|kind| kind.name()).collect();
        SubmitError::UnknownKind { given, known: known.join(", ") }
    }
}

/// A [`SpecError`] as one of several.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{0}")]
pub struct SpecProblem(pub SpecError);

impl From<Vec<SpecError>> for SubmitError {
    fn from(errors: Vec<SpecError>) -> Self {
        SubmitError::Spec(errors.into_iter().map(SpecProblem).collect())
    }
}

/// A job that is about to be accepted.
pub(super) struct Draft {
    /// What it is.
    pub(super) manifest: Manifest,
    /// What must be here and is kept for it, beside the manifest and the job directory.
    pub(super) needs: Vec<Cid>,
    /// What is kept for it if it is here.
    pub(super) wants: Vec<Cid>,
}

impl Controller {
    /// Takes a job in. When this returns, the job is durable and will end.
    ///
    /// # Errors
    /// When it is not right; then nothing was run and nothing is kept.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, SubmitError> {
        let context = &self.context;
        if self.is_draining() {
            return Err(SubmitError::Draining);
        }
        let key = match submission.key.clone() {
            Some(key) if (1..=KEY_LIMIT).contains(&key.len()) => key,
            Some(key) => return Err(SubmitError::BadKey(key.len())),
            None => Alphanumeric.sample_string(&mut rand::rng(), 22),
        };
        if let Some(job) = jobs::by_key(&context.db, key.clone()).await? {
            return Ok(Accepted { job, notes: vec!["this key was submitted before".into()] });
        }
        context.blocks.store().room()?;
        // What is added here is safe from collection until it is pinned.
        let add = context.blocks.store().add(Tier::Durable);
        let code = job_directory(context, &add, &submission).await?;
        let draft = self.freeze(&add, submission, code, key).await?;
        self.check_engine(&draft.manifest).await?;
        self.accept(&add, draft, context.jobs_taken_in).await
    }

    /// Whether anybody could run the containers of a job: that an engine comes is not waited for, as a node is.
    async fn check_engine(&self, manifest: &Manifest) -> Result<(), SubmitError> {
        let kind = kind::find(&manifest.kind).expect("its directory was checked for it");
        if !kind.needs(&manifest.config).runtimes.contains(&engine::Runtime::Container) {
            return Ok(());
        }
        let until = Instant::now() + ENGINE_WAIT;
        loop {
            let peers = self.peers().clone();
            let has =
                |facts: &engine::PeerFacts| facts.runtimes.contains(&engine::Runtime::Container);
            if peers.values().any(has) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(SubmitError::NoEngine { nodes: peers.len() });
            }
            sleep(ENGINE_LOOK).await;
        }
    }

    /// Takes in the job of `draft`, unless `most` are under way. One whose result is known has ended with it.
    pub(super) async fn accept(
        &self,
        add: &Add,
        draft: Draft,
        most: Option<u32>,
    ) -> Result<Accepted, SubmitError> {
        let context = &self.context;
        let Draft { manifest, mut needs, wants } = draft;
        let signed = SignedManifest::sign(&manifest, &context.keypair)?;
        let (job, bytes) = (signed.job(), signed.to_bytes());
        let notes = self.notes(&manifest);
        let file = context.blocks.add_bytes(add, &bytes).await?;
        let (pins, reason) = (context.blocks.pins(), Reason::Job(job));
        needs.extend([file.cid, manifest.code]);
        let needs = needs.into_iter().map(|root| pins.pin(root, reason));
        let wants = wants.into_iter().map(async |root| match pins.pin(root, reason).await {
            // What is elsewhere stays there until it is read.
            Err(PinError::NotWhole { .. }) => Ok(()),
            pinned => pinned,
        });
        tokio::try_join!(try_join_all(needs), try_join_all(wants))?;
        let epoch = Epoch(1);
        let end = self.known_end(job, &manifest).await?;
        let records: Vec<_> =
            [Record::Epoch { epoch }].into_iter().chain(end.map(Record::Ended)).collect();
        let stored = StoredJob {
            id: job,
            manifest: bytes.to_vec(),
            notes: serde_json::to_string(&notes).expect("strings encode"),
            ended: None,
        };
        let (key, journal) = (manifest.key.clone(), records.iter().map(to_json).collect());
        let release = async || {
            pins.release(reason).await?;
            pins.release(Reason::Result(job)).await
        };
        match jobs::accept(&context.db, stored, key, journal, most).await? {
            jobs::Accepted::New => {
                let step = manifest.step.as_ref().map(|step| format!(", step {}", step.name));
                let what = format!("kind {}{}", manifest.kind, step.unwrap_or_default());
                context.note(What::Accepted, job, what);
                self.drive((job, epoch), file, manifest, notes.clone(), records, None);
            }
            jobs::Accepted::Before(before) => {
                release().await?;
                return Ok(Accepted { job: before, notes });
            }
            jobs::Accepted::Full(used) => {
                release().await?;
                let (owner, most) = (context.owner.clone(), most.unwrap_or(used));
                let refused = SubmitError::Quota { owner, used, most };
                context.note(What::Refused, job, refused.to_string());
                return Err(refused);
            }
        }
        Ok(Accepted { job, notes })
    }

    /// Checks the job directory whole and writes down what it says: all its steps, and the manifest of the first.
    async fn freeze(
        &self,
        add: &Add,
        submission: Submission,
        code: Cid,
        key: String,
    ) -> Result<Draft, SubmitError> {
        let context = &self.context;
        let session = context.blocks.session(&[], Tier::Cache);
        let files = unixfs::files(&session, code).await?;
        let directory = Directory {
            files,
            session: session.clone(),
            blocks: context.blocks.clone(),
            runtime: context.runtime.clone(),
            interpreters: context.interpreters.clone(),
            importer: context.importer.clone(),
            add: add.clone(),
            interpreter: OnceLock::new(),
            images: Mutex::default(),
        };
        let Submission { kind, params, inputs, input, memo, workers, .. } = submission;
        let named = input.map(|input| input.to_string());
        let checked = tokio::task::spawn_blocking(move || {
            let over =
                spec::Overrides { input: named.as_deref(), params: &params, inputs: &inputs };
            let checked = check(kind.as_deref(), over, &directory)?;
            let Directory { interpreter, images, .. } = directory;
            let images = images.into_inner().unwrap_or_else(PoisonError::into_inner);
            Ok::<_, SubmitError>((checked, interpreter.into_inner(), images))
        });
        let (checked, interpreter, images) =
            checked.await.expect("checking a job directory does not panic")?;
        if let Some((first, _)) = checked.first().filter(|_| input.is_some())
            && !first.inputs.is_empty()
        {
            let names: Vec<_> = first.inputs.keys().map(String::as_str).collect();
            let message = format!(
                "the job has several inputs, and the submission names one; name each: {}",
                names.join(", ")
            );
            return Err(wrong(message));
        }
        let has_steps = checked.iter().any(|(spec, _)| spec.step.is_some());
        let mut frozen: Vec<Step> = Vec::with_capacity(checked.len());
        let mut problems = Vec::new();
        for (spec, config) in checked {
            let before = frozen.last().map(|step| step.name.as_str());
            match input_of(&session, code, &spec, &config, before).await {
                Err(SubmitError::Spec(more)) => problems.extend(more),
                Err(error) => return Err(error),
                Ok(input) => frozen.push(Step {
                    name: spec.step.unwrap_or_default(),
                    kind: spec.kind,
                    input,
                    config,
                    limits: spec.limits,
                    memo: memo.or(spec.memo).unwrap_or(true),
                    workers: workers.or(spec.workers),
                }),
            }
        }
        if !problems.is_empty() {
            return Err(SubmitError::Spec(problems));
        }
        for place in frozen.iter().flat_map(|step| step.input.places()) {
            if let Place::Content(cid) = place {
                // Nobody has it: better said now than by a job that fails.
                session.get(cid).await.map_err(unixfs::Error::from)?;
            }
        }
        let images: Vec<Cid> = images.into_iter().collect();
        let steps = Steps { steps: frozen, interpreter: interpreter.and_then(Result::ok), images };
        let first = &steps.steps[0];
        let root = following::input_root(add, &session, code, &first.input, &[]).await?;
        let manifest = self.manifest(code, first, root, key);
        if has_steps {
            let text = serde_json::to_vec(&steps).expect("steps have string keys only");
            let file = context.blocks.add_bytes(add, &text).await?;
            let wrong: Vec<_> =
                following::too_long(&manifest, &steps, file).map(step_too_long).collect();
            if !wrong.is_empty() {
                return Err(wrong.into());
            }
            return Ok(following::draft(manifest, &steps, file, vec![]));
        }
        let needs = steps.code().collect();
        Ok(Draft { wants: vec![manifest.input], manifest, needs })
    }

    /// The manifest of a job that was frozen so, with this input.
    pub(super) fn manifest(&self, code: Cid, frozen: &Step, input: Cid, key: String) -> Manifest {
        let me = self.context.me;
        Manifest {
            v: manifest::VERSION,
            kind: frozen.kind.clone(),
            code,
            input,
            config: frozen.config.clone(),
            limits: frozen.limits,
            memo: frozen.memo,
            workers: frozen.workers,
            submitter: me,
            roster: vec![me],
            key,
            submitted_ms: super::now_ms(),
            step: None,
        }
    }

    fn notes(&self, manifest: &Manifest) -> Vec<String> {
        let there = self.workers_there();
        let fewer = manifest.workers.filter(|asked| *asked > there);
        let note = |asked| {
            format!(
                "{asked} workers were asked for, {there} are there: it runs on those, and on more as they come"
            )
        };
        fewer.map(note).into_iter().collect()
    }
}

impl Context {
    fn note(&self, what: What, job: JobId, detail: String) {
        let entry = Entry::now(what, &self.owner, detail);
        self.audit.note(Entry { peer: Some(self.me), job: Some(job), ..entry });
    }
}

async fn job_directory(
    context: &Context,
    add: &Add,
    submission: &Submission,
) -> Result<Cid, SubmitError> {
    match (&submission.job, &submission.files) {
        (Some(code), None) => {
            let session = context.blocks.fetcher().session_for(&[], add.clone());
            session.fetch_all(*code, |_| {}).await?;
            Ok(*code)
        }
        (None, Some(files)) => {
            let given = files.iter().map(|(path, text)| path.len() + text.len()).sum();
            if given > INLINE_FILES_LIMIT {
                return Err(SubmitError::FilesTooLong { given });
            }
            let mut entries = Vec::with_capacity(files.len());
            for (path, text) in files {
                let file = context.blocks.add_bytes(add, text.as_bytes()).await?;
                entries.push((path.clone(), file));
            }
            Ok(unixfs::build_dir(add, context.blocks.store(), entries).await?)
        }
        _ => Err(SubmitError::NoDirectory),
    }
}

/// Where the input of the job of `spec` is; `before` is the step before it.
async fn input_of(
    session: &Session,
    code: Cid,
    spec: &JobSpec,
    config: &serde_json::Value,
    before: Option<&str>,
) -> Result<Input, SubmitError> {
    let kind = kind::find(&spec.kind).expect("its directory was checked for it");
    if !kind.reads_input(config) {
        return Ok(Input::None);
    }
    let step = spec.step.as_deref();
    if !spec.inputs.is_empty() {
        let mut places = BTreeMap::new();
        for (name, input) in &spec.inputs {
            let key = format!("inputs.{name}");
            places.insert(name.clone(), place_of(session, code, step, &key, input).await?);
        }
        return Ok(Input::Named(places));
    }
    let place = match (&spec.input, before) {
        (Some(input), _) => place_of(session, code, step, kind.input_key(), input).await?,
        (None, Some(before)) => Place::Step(Output { step: before.to_owned(), path: None }),
        (None, None) => return Err(SubmitError::NoInput(kind.input_key())),
    };
    Ok(Input::One(place))
}

/// What an input of `job.toml` names: what a step gave, or a file or directory of the job directory, else a CID.
async fn place_of(
    session: &Session,
    code: Cid,
    step: Option<&str>,
    key: &str,
    Located { value, line }: &Located<Source>,
) -> Result<Place, SubmitError> {
    let named = match value {
        Source::Step(output) => return Ok(Place::Step(output.clone())),
        Source::Named(named) => named,
    };
    match unixfs::resolve(session, code, named).await {
        Ok(root) => Ok(Place::Content(root)),
        Err(unixfs::Error::NotFound { .. } | unixfs::Error::NotADirectory(_)) => {
            let cid = named.parse().map_err(|_| {
                let step = step.map(|step| format!("step `{step}`: ")).unwrap_or_default();
                let message = format!(
                    "{step}`{key} = \"{named}\"` names no file or directory of the job directory, and is no CID"
                );
                SubmitError::from(vec![SpecError {
                    file: spec::FILE.into(),
                    line: Some(*line),
                    message,
                }])
            })?;
            Ok(Place::Content(cid))
        }
        Err(error) => Err(error.into()),
    }
}

/// What the job directory's `job.toml` describes, each job with what its kind froze of it.
fn check(
    kind: Option<&str>,
    over: spec::Overrides<'_>,
    directory: &Directory,
) -> Result<Vec<(JobSpec, serde_json::Value)>, SubmitError> {
    if let Some(kind) = kind.filter(|kind| kind::find(kind).is_none()) {
        return Err(SubmitError::unknown_kind(kind.to_owned()));
    }
    let file = directory
        .find(spec::FILE)
        .ok_or_else(|| wrong("not found; every job directory has one at its top".into()))?;
    let text = directory.read(&file, JOB_TOML_LIMIT).map_err(|error| wrong(error.to_string()))?;
    let text = std::str::from_utf8(&text).map_err(|_| wrong("is not UTF-8 text".into()))?;
    let checked = spec::check(text, spec::FILE, over, directory)?;
    match (kind, &checked[..]) {
        (Some(kind), [(spec, _)]) if spec.step.is_none() && spec.kind != kind => {
            Err(wrong(format!("is a job of kind `{}`, and was submitted as `{kind}`", spec.kind)))
        }
        (Some(kind), [(spec, _), ..]) if spec.step.is_some() => Err(wrong(format!(
            "has steps, each of a kind of its own, and was submitted as `{kind}`; leave the kind out"
        ))),
        _ => Ok(checked),
    }
}

/// A step's manifest could not be made when its turn comes.
fn step_too_long((step, len): (&str, usize)) -> SpecError {
    let message = format!(
        "step `{step}`: {}; params and side files are part of it: put large ones into files",
        BadManifest::TooLong(len)
    );
    SpecError { file: spec::FILE.into(), line: None, message }
}

/// An error about `job.toml` as a whole.
fn wrong(message: String) -> SubmitError {
    vec![SpecError { file: spec::FILE.into(), line: None, message }].into()
}

/// A job directory in blocks.
struct Directory {
    files: Vec<(String, FileRef)>,
    session: Session,
    blocks: Blocks,
    runtime: Runtime,
    interpreters: Interpreters,
    /// What spares an interpreter from collection until the job pins it.
    add: Add,
    /// Asked for once, and only for code that needs it.
    interpreter: OnceLock<Result<FileRef, String>>,
    importer: Importer,
    /// The images that it named.
    images: Mutex<BTreeSet<Cid>>,
}

impl JobFiles for Directory {
    fn find(&self, path: &str) -> Option<FileRef> {
        self.files.iter().find(|(name, _)| name == path).map(|(_, file)| *file)
    }

    fn read(&self, file: &FileRef, limit: u64) -> io::Result<Bytes> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let read = self.blocks.read(&self.session, file, limit);
        Handle::current().block_on(read).map_err(io::Error::other)
    }

    fn head(&self, file: &FileRef, limit: usize) -> io::Result<Bytes> {
        let caller = Caller::new(Handle::current(), CancellationToken::new());
        BlockingReader::open(self.session.clone(), file, caller)?.read_at(0, limit)
    }

    fn paths(&self) -> Vec<String> {
        self.files.iter().map(|(path, _)| path.clone()).collect()
    }

    fn interpreter(&self) -> Result<FileRef, String> {
        let ask = || {
            let python = self.interpreters.python(&self.add);
            Handle::current().block_on(python).map_err(|error| error.to_string())
        };
        self.interpreter.get_or_init(ask).clone()
    }

    fn image(&self, name: &str) -> Result<Cid, String> {
        let (folder, file) =
            name.rsplit_once('/').map_or(("", name), |(folder, file)| (folder, file));
        let is_dockerfile = file.starts_with("Dockerfile") || file.ends_with(".dockerfile");
        let found = Handle::current().block_on(async {
            match self.find(name) {
                Some(_) if is_dockerfile => {
                    let below = |path: &str| match folder {
                        "" => Some(path.to_owned()),
                        folder => path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned),
                    };
                    let context =
                        self.files.iter().filter_map(|(path, file)| Some((below(path)?, *file)));
                    self.importer.of_dockerfile(file, context.collect(), &self.add).await
                }
                Some(archive) => self.importer.of_file(archive, &self.add).await,
                None => self.importer.of_engine(name, &self.add).await,
            }
        });
        let root = found.map_err(|error| error.to_string())?;
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(root);
        Ok(root)
    }

    fn check(&self, code: &Code, function: &str) -> Result<(), String> {
        let opener = Opener::new(self.blocks.clone(), self.session.clone());
        let read = |module: &FileRef| opener.read(module);
        self.runtime.check(code, function, read, Box::new(opener.clone()))
    }
}
