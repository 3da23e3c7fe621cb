//! A command in a container as a guest: each call is a container of its own.
//!
//! What it writes on stdout are records, a line each, and on stderr its log; what it leaves in `/out` are the files of
//! its call. It ends with its time, with its attempt, and when it writes more than it may.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ipdc_jobs::code::Container;
use ipdc_jobs::kind::{Given, TaskError};
use ipdc_jobs::message::FailureClass;
use tokio::time::{sleep, sleep_until};

use super::calls::{Attempt, Source};
use super::imports::Outlet;
use super::instance::no_room;
use super::left::{Most, walk};
use super::lines::{Lines, Words};
use super::room::Room;
use super::{Allowance, GuestError};
use crate::containers::{
    Bind, Containers, End, Folder, Loaded, Mounts, Order, Running, Said, Standing, StartError,
    Trouble,
};

/// What a container may leave in `/out`: as many files as a result's directory holds with ease.
const MOST: Most = Most { files: 4_096, names: 512 << 10 };

/// Where a container's job files are.
const JOB: &str = "/job";

/// Where it leaves files.
const OUT: &str = "/out";

/// How often it is looked at how much it has written. On a fast disk that is half a gigabyte beyond its limit.
const LOOK: Duration = Duration::from_millis(250);

/// How often it is looked whether there is memory for another container.
const WAIT: Duration = Duration::from_millis(50);

/// A command, and the image that it is in.
pub(super) struct Program {
    containers: Containers,
    container: Container,
    image: Arc<Loaded>,
    /// As the driver knows them.
    gpus: Vec<String>,
}

impl Program {
    pub(super) fn new(
        containers: Containers,
        container: Container,
        image: Loaded,
        gpus: Vec<String>,
    ) -> Self {
        Program { containers, container, image: Arc::new(image), gpus }
    }

    /// Runs it for one call; what comes of it goes to `source`.
    pub(super) fn call_for(
        &self,
        Attempt { allowance, listener }: Attempt,
        given: &Given,
        room: &Room,
        source: &mut dyn Source,
    ) -> Result<(), TaskError> {
        let mut outlet = Outlet::new(listener);
        outlet.open(source);
        let ended = self.run(&allowance, given, room, &mut outlet);
        let (ended, left) = match ended {
            Ok((files, left)) => (Ok(files), Some(left)),
            Err(error) => (Err(error), None),
        };
        let ended = outlet.end(ended);
        outlet.close();
        drop(left);
        ended
    }

    fn run(
        &self,
        allowance: &Allowance,
        given: &Given,
        room: &Room,
        outlet: &mut Outlet,
    ) -> Result<(Vec<(String, File)>, Folder), TaskError> {
        let memory = allowance.limits.memory;
        let mut share = room.share();
        while !share.set(memory) {
            if memory > room.total() {
                return Err(no_room(memory, room.total()));
            }
            if allowance.stop.is_cancelled() {
                return Err(TaskError::Stopped);
            }
            thread::sleep(WAIT);
        }
        let mounts = self.containers.mounts();
        let job = mounts.lay(&given.files, &mut |file| outlet.listener.open(file))?;
        let out = mounts.out()?;
        let order = Order {
            image: self.image.name.clone(),
            entrypoint: self.container.entrypoint.clone(),
            command: self.container.command.clone(),
            variables: variables(given),
            binds: vec![
                Bind { source: job.path().to_owned(), target: JOB, is_writable: false },
                Bind { source: out.path().to_owned(), target: OUT, is_writable: true },
            ],
            folder: Some(JOB),
            standing: Standing::Nobody { user: Mounts::user(), file_size: allowance.limits.output },
            memory,
            // Who does not say how many gets as much as is free.
            cpus: Some(self.container.takes.cpus).filter(|cpus| *cpus > 0),
            gpus: self.gpus.clone(),
            has_network: self.container.network,
        };
        self.containers.keep()?;
        let (mut stdout, mut stderr) = (Lines::default(), Words::default());
        let until = Instant::now() + allowance.left();
        let ended = self.containers.runtime().block_on(async {
            let start = Running::start(self.containers.engine(), &order);
            let started = allowance.stop.run_until_cancelled(start).await;
            let mut running = started.ok_or(TaskError::Stopped)?.map_err(not_started)?;
            running.hold((job, Arc::clone(&self.image), share));
            let ended = tokio::select! {
                ended = attend(&mut running, outlet, (&mut stdout, &mut stderr)) => ended,
                () = allowance.stop.cancelled() => Err(TaskError::Stopped),
                () = sleep_until(until.into()) => Err(GuestError::Time(allowance.limits.time_ms).into()),
                error = overflow(out.path(), allowance.limits.output) => Err(error),
            };
            match ended {
                Ok(end) => Ok((end, out)),
                Err(error) => {
                    // It may still be writing there.
                    running.hold(out);
                    Err(error)
                }
            }
        });
        allowance.set_left(until.saturating_duration_since(Instant::now()));
        stderr.end(outlet);
        let judged = ended.and_then(|(end, out)| {
            stdout.end(outlet)?;
            judge(end, memory)?;
            Ok((left(out.path(), allowance.limits.output)?, out))
        });
        judged.map_err(|error| match error {
            TaskError::Failed { class: FailureClass::Guest, code, message } => {
                let message = format!("{message}{}", stderr.last());
                TaskError::Failed { class: FailureClass::Guest, code, message }
            }
            other => other,
        })
    }
}

fn not_started(error: StartError) -> TaskError {
    match error {
        StartError::Engine(trouble) => trouble.into(),
        StartError::Command(_) => {
            let (class, code) = (FailureClass::Guest, "IPDC-5804");
            TaskError::Failed { class, code, message: error.to_string() }
        }
    }
}

/// Its environment, over that of the image.
fn variables(given: &Given) -> Vec<(String, String)> {
    let params = String::from_utf8_lossy(&given.params).into_owned();
    let all = [("HOME", "/tmp".to_owned()), ("IPDC_PARAMS", params)];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Takes what it writes, until it has ended.
async fn attend(
    running: &mut Running,
    outlet: &mut Outlet,
    (stdout, stderr): (&mut Lines, &mut Words),
) -> Result<End, TaskError> {
    while let Some(said) = running.said().await {
        match said {
            Said::Out(bytes) => stdout.write(&bytes, outlet)?,
            Said::Err(bytes) => stderr.write(&bytes, outlet),
        }
    }
    Ok(running.ended().await?)
}

/// Comes back when there is more in `out` than there may be.
async fn overflow(out: &Path, most: u64) -> TaskError {
    loop {
        sleep(LOOK).await;
        // What cannot be counted now is judged at the end.
        match size(out) {
            Ok((bytes, _)) if bytes > most => return GuestError::Output(most).into(),
            Ok((_, entries)) if entries > 2 * MOST.files => {
                return GuestError::Out(format!("there are more than {} files", MOST.files)).into();
            }
            _ => {}
        }
    }
}

/// Bytes on the disk below a folder, and how many files and folders there are.
fn size(folder: &Path) -> io::Result<(u64, usize)> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut bytes, mut entries, mut folders) = (0, 0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            entries += 1;
            if found.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += found.blocks() * 512;
            }
            if entries > 2 * MOST.files {
                return Ok((bytes, entries));
            }
        }
    }
    Ok((bytes, entries))
}

/// What the end of a container means.
fn judge(end: End, memory: u64) -> Result<(), TaskError> {
    /// What a shell adds to the number of the signal that ended a program.
    const SIGNAL: i64 = 128;
    let error = match end {
        End { code: 0, .. } => return Ok(()),
        End { is_out_of_memory: true, .. } => GuestError::Memory(memory),
        End { code, .. } if code > SIGNAL && code <= SIGNAL + 64 => {
            GuestError::Signal((code - SIGNAL) as i32)
        }
        End { code, .. } => GuestError::Exit(code as u32),
    };
    Err(error.into())
}

/// The files that a container left which went well.
fn left(out: &Path, most: u64) -> Result<Vec<(String, File)>, TaskError> {
    let disk = |source| Trouble::Disk { what: "what a container left could not be read", source };
    let files = walk(out, MOST).map_err(disk)?.map_err(GuestError::Out)?;
    let sizes = files.iter().map(|(_, file)| file.metadata().map(|found| found.len()));
    let bytes: u64 = sizes.sum::<io::Result<u64>>().map_err(disk)?;
    if bytes > most { Err(GuestError::Output(most).into()) } else { Ok(files) }
}
