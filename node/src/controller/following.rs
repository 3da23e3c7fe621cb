//! Steps that follow: what is begun when a job that is one of several steps is done, and what of it need not be run.
//!
//! A step is a job as any other, of the same directory. When it is done its controller makes the manifest of the next
//! from what was frozen of all steps and from what those before gave, and accepts it, before anybody hears that this
//! one is done. Both are in the database: a crash between leaves a job whose end was not told, and that is taken up
//! again at the next start. The next job's key is made of this one's ID, so it is accepted once.
//!
//! Before a step is run it is looked up by all that determines its result. One that is known and still held here is
//! its result too: its journal begins with its end.

use std::time::Duration;

use ipdc_jobs::engine::{End, EndState};
use ipdc_jobs::ids::{Cid, FileRef, JobId};
use ipdc_jobs::kind::{self, Items};
use ipdc_jobs::manifest::{MANIFEST_LIMIT, Manifest};
use ipdc_jobs::memo::ResultKey;
use ipdc_jobs::steps::{self, AsStep, Earlier, Input, Output, Place, Step, Steps};
use tokio::sync::watch;
use tokio::time::sleep;

use super::Controller;
use super::assemble::MANIFEST;
use super::drive::show_end;
use super::submit::{Draft, SubmitError};
use crate::blocks::fetch::Session;
use crate::blocks::pins::PinError;
use crate::blocks::store::{Add, Tier};
use crate::blocks::unixfs;
use crate::problem::Problem;
use crate::state::pins::Reason;
use crate::state::results::{self, Known};
use crate::state::{StateError, jobs};
use crate::view::{JobLogs, JobView};

/// How often a step is tried to be begun while the disk or the database fails, and the pause between. The end of the job
/// before is not told meanwhile; in a minute room can be made on a full disk.
const TRIES: u32 = 60;
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Why no step follows although one is left.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum StepError {
    /// What it was to read is not there.
    #[error("step `{step}` was not begun: its input cannot be had")]
    #[diagnostic(
        code("IPDC-5620"),
        help(
            "`path` of an input is a path in the other step's result: `ipdc ls` shows what is there (docs/steps.md)"
        )
    )]
    Input {
        /// The step.
        step: String,
        /// Why.
        #[source]
        source: Box<unixfs::Error>,
    },
    /// The user ended the job as it was done.
    #[error("the steps after this one were not begun: the job was cancelled")]
    #[diagnostic(code("IPDC-5621"), help("run it again: steps that are done are not run again"))]
    Cancelled,
    /// What was frozen of the steps is not here or not right.
    #[error("the steps after this one were not begun: what was frozen of them cannot be read: {0}")]
    #[diagnostic(
        code("IPDC-5622"),
        help("look at the node's disk; then run it again: steps that are done are not run again")
    )]
    Unreadable(String),
    /// It could not be accepted.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Submit(#[from] SubmitError),
}

impl StepError {
    /// Whether it may be otherwise in a while.
    fn is_passing(&self) -> bool {
        let StepError::Submit(error) = self else { return false };
        match error {
            SubmitError::Store(_) | SubmitError::State(_) => true,
            SubmitError::Pin(error) => !matches!(error, PinError::NotWhole { .. }),
            _ => false,
        }
    }
}

impl From<StateError> for StepError {
    fn from(error: StateError) -> Self {
        StepError::Submit(error.into())
    }
}

/// What follows a job that ended.
#[derive(Default)]
pub(super) struct After {
    next: Option<JobId>,
    stopped: Option<Problem>,
}

impl After {
    /// Takes it over into the job's view.
    pub(super) fn show(self, view: &mut JobView) {
        view.next = self.next;
        view.stopped = self.stopped;
    }
}

impl Controller {
    /// Ends a job whose engine does not run.
    pub(super) async fn conclude(
        &self,
        job: JobId,
        manifest: &Manifest,
        view: &watch::Sender<JobView>,
        end: End,
    ) {
        let after = self.go_on(job, manifest, &end, None).await;
        view.send_modify(|view| {
            show_end(view, end);
            after.show(view);
            view.version += 1;
        });
        let last = view.borrow().clone();
        self.context.ended(&last, &JobLogs::default()).await;
    }

    /// Begins the step after a job that ended so, and notes what it gave.
    pub(super) async fn go_on(
        &self,
        job: JobId,
        manifest: &Manifest,
        end: &End,
        items: Option<Items>,
    ) -> After {
        let Some(step) = &manifest.step else { return After::default() };
        let (EndState::Done, Some(result)) = (end.state, end.result) else {
            return After::default();
        };
        self.note_result(job, manifest, end, items).await;
        if !step.goes_on() {
            return After::default();
        }
        match self.begin_next(job, manifest, step, result).await {
            Ok(next) => After { next: Some(next), stopped: None },
            Err(error) => {
                tracing::warn!(%job, %error, "no step follows this one");
                After { next: None, stopped: Some(Problem::of(&error)) }
            }
        }
    }

    async fn begin_next(
        &self,
        job: JobId,
        manifest: &Manifest,
        step: &AsStep,
        result: Cid,
    ) -> Result<JobId, StepError> {
        let mut tries = 0;
        let next = loop {
            if self.live().get(&job).is_some_and(|live| live.cancelled) {
                return Err(StepError::Cancelled);
            }
            tries += 1;
            match self.submit_next(job, manifest, step, result).await {
                Err(error) if error.is_passing() && tries < TRIES => {
                    tracing::error!(%job, %error, "the next step could not be begun; trying again");
                    sleep(TRY_AGAIN).await;
                }
                tried => break tried?,
            }
        };
        // Who cancels this job from now on finds the next one; who did meanwhile meant it too.
        let cancelled = self.live().get_mut(&job).is_some_and(|live| {
            live.next = Some(next);
            live.cancelled
        });
        if cancelled {
            // It is known: it was accepted just now.
            let _ = self.cancel(next).await;
        }
        Ok(next)
    }

    async fn submit_next(
        &self,
        job: JobId,
        manifest: &Manifest,
        step: &AsStep,
        result: Cid,
    ) -> Result<JobId, StepError> {
        let key = steps::next_key(job);
        if let Some(next) = jobs::by_key(&self.context.db, key.clone()).await? {
            return Ok(next);
        }
        let blocks = &self.context.blocks;
        let session = blocks.session(&[], Tier::Cache);
        let unreadable = |why: String| StepError::Unreadable(why);
        let text = blocks.read(&session, &step.steps, steps::FILE_LIMIT).await;
        let text = text.map_err(|error| unreadable(error.to_string()))?;
        let steps: Steps =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        let next = steps.steps.get(step.place as usize);
        let next = next.ok_or_else(|| unreadable("there is no next step in it".into()))?;
        let mut earlier = step.earlier.clone();
        earlier.push(Earlier { step: step.name.clone(), job, result });
        // What is built here is safe from collection until it is pinned.
        let add = blocks.store().add(Tier::Durable);
        let input = input_root(&add, &session, manifest.code, &next.input, &earlier).await;
        let input = input.map_err(|source| StepError::Input {
            step: next.name.clone(),
            source: Box::new(source),
        })?;
        let manifest = self.manifest(manifest.code, next, input, key);
        let draft = draft(manifest, &steps, step.steps, earlier);
        // It takes the place of the one that is done: no more are under way than before.
        Ok(self.accept(&add, draft, None).await?.job)
    }

    /// How the job ends if its result is known and still here; then it is kept for this job too.
    pub(super) async fn known_end(
        &self,
        job: JobId,
        manifest: &Manifest,
    ) -> Result<Option<End>, SubmitError> {
        let Some(key) = key_of(manifest) else { return Ok(None) };
        let Some(known) = results::find(&self.context.db, key).await? else { return Ok(None) };
        let Known { job: same_as, result, report } = known;
        let (pins, reason) = (self.context.blocks.pins(), Reason::Result(job));
        match tokio::try_join!(pins.pin(result, reason), pins.pin(report, reason)) {
            Ok(_) => {
                let (result, report, same_as) = (Some(result), Some(report), Some(same_as));
                Ok(Some(End { result, report, same_as, ..End::of(EndState::Done) }))
            }
            Err(PinError::NotWhole { .. }) => {
                pins.release(reason).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes what a step gave, for when the same is asked for again. Failures are not remembered.
    async fn note_result(&self, job: JobId, manifest: &Manifest, end: &End, items: Option<Items>) {
        let End { result: Some(result), report: Some(report), same_as: None, .. } = *end else {
            return;
        };
        let Some(key) = key_of(manifest) else { return };
        if items.is_some_and(|items| items.failed > 0) {
            return;
        }
        let known = Known { job, result, report };
        if let Err(error) = results::note(&self.context.db, key, known).await {
            tracing::warn!(%job, %error, "what a step gave could not be noted: it will be run again");
        }
    }
}

/// The steps whose manifests are too long, or would be when their turn comes, each with how many bytes it would have.
pub(super) fn too_long<'a>(
    first: &Manifest,
    steps: &'a Steps,
    file: FileRef,
) -> impl Iterator<Item = (&'a str, usize)> {
    // Every job ID is as long as another, and so is every CID that is made here.
    let stand_in = |step: &Step| Earlier {
        step: step.name.clone(),
        job: JobId::of_manifest(&[]),
        result: first.code,
    };
    let len_of = move |(place, step): (usize, &'a Step)| {
        let earlier: Vec<_> = steps.steps[..place].iter().map(stand_in).collect();
        let manifest = Manifest {
            kind: step.kind.clone(),
            config: step.config.clone(),
            limits: step.limits,
            memo: step.memo,
            workers: step.workers,
            key: steps::next_key(JobId::of_manifest(&[])),
            ..first.clone()
        };
        let manifest = draft(manifest, steps, file, earlier).manifest;
        let len = serde_json::to_vec(&manifest).expect("a manifest has string keys only").len();
        (step.name.as_str(), len)
    };
    steps.steps.iter().enumerate().map(len_of).filter(|(_, len)| *len > MANIFEST_LIMIT)
}

/// What names the result of a job that is a step; none, when it is to be run whatever was before.
fn key_of(manifest: &Manifest) -> Option<ResultKey> {
    manifest.step.as_ref().filter(|_| manifest.memo)?;
    let kind = kind::find(&manifest.kind)?;
    ResultKey::of(kind, &manifest.config, &manifest.limits, &manifest.input)
}

/// The job of `manifest` as the one of `steps` after the `earlier` ones; `file` holds them.
pub(super) fn draft(
    manifest: Manifest,
    steps: &Steps,
    file: FileRef,
    earlier: Vec<Earlier>,
) -> Draft {
    let place = earlier.len();
    let needs = steps.code().chain([file.cid]).chain(earlier.iter().map(|step| step.result));
    let needs = needs.collect();
    let to_come = steps.steps[place..].iter().flat_map(|step| step.input.places());
    let to_come = to_come.filter_map(|place| match place {
        Place::Content(cid) => Some(*cid),
        Place::Step(_) => None,
    });
    let wants = to_come.chain([manifest.input]).collect();
    let step = AsStep {
        name: steps.steps[place].name.clone(),
        place: place as u32 + 1,
        of: steps.steps.len() as u32,
        steps: file,
        earlier,
    };
    Draft { manifest: Manifest { step: Some(step), ..manifest }, needs, wants }
}

/// The root of a job's input: the job directory itself, for one that reads none.
pub(super) async fn input_root(
    add: &Add,
    session: &Session,
    code: Cid,
    input: &Input,
    earlier: &[Earlier],
) -> Result<Cid, unixfs::Error> {
    match input {
        Input::None => Ok(code),
        Input::One(place) => root_of(add, session, place, earlier).await,
        Input::Named(places) => {
            let mut entries = Vec::with_capacity(places.len());
            for (name, place) in places {
                let cid = root_of(add, session, place, earlier).await?;
                let root = session.get(&cid).await?;
                entries.push((name.clone(), FileRef { cid, len: root.len() }));
            }
            unixfs::build_dir(add, session, entries).await
        }
    }
}

async fn root_of(
    add: &Add,
    session: &Session,
    place: &Place,
    earlier: &[Earlier],
) -> Result<Cid, unixfs::Error> {
    let Output { step, path } = match place {
        Place::Content(cid) => return Ok(*cid),
        Place::Step(output) => output,
    };
    let found = earlier.iter().find(|earlier| earlier.step == *step);
    let result = found.expect("checked at submission: each names one before it").result;
    match path {
        Some(path) => unixfs::resolve(session, result, path).await,
        None => all_of(add, session, result).await,
    }
}

/// All that a job put out: its result without the file that says what determines it.
async fn all_of(add: &Add, session: &Session, result: Cid) -> Result<Cid, unixfs::Error> {
    let entries = unixfs::ls(session, result).await?;
    let entries = entries.into_iter().filter(|entry| entry.name != MANIFEST);
    // Of a raw block, the bytes that the directory says are those of the file.
    let entries =
        entries.map(|entry| (entry.name, FileRef { cid: entry.cid, len: entry.dag_size }));
    unixfs::build_dir(add, session, entries).await
}
