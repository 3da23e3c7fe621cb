//! The bounds that the engine and the worker machine keep, and how each was chosen.
//!
//! Each is a field, not a constant, so that a node's configuration, a test or the simulator can
//! set it; [`Default`] holds the values that a swarm over the Internet wants.

use std::time::Duration;

use crate::log::LOG_LIMIT;

/// The most assignments or reports in one message. After the driver has moved long payloads into
/// files one takes up to 15 KiB of JSON: sixteen stay well below
/// [`MESSAGE_LIMIT`](crate::message::MESSAGE_LIMIT).
pub const BATCH_LIMIT: usize = 16;

/// Files that a hint to fetch early names: few enough that hints come soon, and that not a message is
/// sent for each output.
pub(super) const HINTS_BATCH: usize = 8;

/// The most tasks of a job whose tasks follow from results, each of which takes about a kilobyte here for as long
/// as the job lives.
pub(super) const TASKS_LIMIT: usize = 1 << 20;

/// Keys of gifts that are remembered, of the last ones: who repeats a gift does so before thousands of others. With
/// keys as long as they may be they take 4 MB.
pub(super) const GIFT_KEYS_LIMIT: usize = 16_384;

/// Attempts named in one `Revoke`, `Settled` or `Renew`: some 80 bytes each.
pub(super) const NAMES_LIMIT: usize = 1024;

/// The longest list of holders sent with a file: a reader that could not get it from eight peers
/// asks the controller again.
pub const HOLDERS_LIMIT: usize = 8;

/// Failures kept for each task, for the report. What comes after is counted only.
pub(super) const FAILURES_KEPT: usize = 8;

/// Slots that a peer is believed to have: four times what the largest machine has cores. Who says
/// more is given no more than this to lose.
pub(super) const SLOTS_LIMIT: u32 = 1024;

/// Lines of a guest's log that the job's error shows: what fits on a screen.
pub(super) const LOG_LINES: usize = 50;

/// Bytes of a failure's message that are kept and shown.
pub(super) const FAILURE_TEXT_LIMIT: usize = 8 * 1024;

/// Bytes of what a worker says when it refuses that are kept and shown: two lines.
pub(super) const REASON_LIMIT: usize = 256;

/// Workers that refused of which a job's view says why: what fits on a screen.
pub(super) const REFUSALS_SHOWN: usize = 32;

/// Bytes of the logs of attempts that ended well, kept for one job in its journal, its report and
/// its logs: all that the maps of 1 GiB of input may log. Who commits first has the room; of the
/// rest the lines are counted. Failed attempts have [room](FAILURES_KEPT) of their own.
pub(super) const JOB_LOG_LIMIT: usize = 256 * LOG_LIMIT;

/// The engine's bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// An attempt that was not renewed for this long counts as lost. Long enough for three
    /// renewals to be lost on a bad link, short enough that a dead worker costs seconds.
    pub lease: Duration,
    /// An order that was not answered is sent again after this, then after twice as long, and so
    /// on up to [`Limits::resend_max`]. A round trip over a satellite takes 0.7 s.
    pub resend: Duration,
    /// The longest pause between two sends of one order.
    pub resend_max: Duration,
    /// After a connection broke, how long its peer may take to come back before its attempts
    /// count as lost. A node redials within a second.
    pub down_grace: Duration,
    /// How long a peer may be away before what only it holds counts as lost and is made again. A
    /// reader that needs it sooner finds out by itself.
    pub holder_gone: Duration,
    /// The pause before a failed task is tried again; doubled each time.
    pub retry: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
    /// Tries of a task that end by the guest's own fault before the job fails: one for the guest,
    /// two in case the machine was at fault.
    pub guest_tries: u32,
    /// Workers lost while they ran a task before the task is held to be the cause. Machines do
    /// fall asleep; six in a row under the same task do not.
    pub deaths: u32,
    /// Tries of a task that fail for other reasons (a worker's disk, a block nobody has) before
    /// the job fails. With the doubling pause this is several minutes.
    pub other_tries: u32,
    /// Times that one task's output may be lost before the job fails.
    pub losses: u32,
    /// And times that it may be lost by the word of one worker: three such, and it has them made by
    /// who can.
    pub losses_a_worker: u32,
    /// Failures of a worker's own making before this job avoids it for a while.
    pub strikes: u32,
    /// How long it is avoided the first time; doubled each time. A full disk takes minutes to
    /// get room.
    pub block: Duration,
    /// The longest such time.
    pub block_max: Duration,
    /// Attempts given to a worker beyond its slots, so that it need not wait for the controller
    /// between two tasks.
    pub prefetch: u32,
    /// To a worker that answers from its memo, as many more for each answer, up to this many: a few
    /// round trips give it all it knows, and little is with it when it knows no more.
    pub memo_ahead: usize,
    /// A task is not taken from its home while the home would start it within this. Small jobs
    /// stay where their data is, long queues are shared.
    pub steal_after: Duration,
    /// A running attempt is a straggler beyond this many medians of its stage.
    pub straggler: u32,
    /// And never before this: below it a second attempt costs more than it saves.
    pub straggler_min: Duration,
    /// Added to the job's own time limit before an attempt without progress is given up: fetching,
    /// compiling and writing are not the guest's time.
    pub attempt_grace: Duration,
    /// A job that makes no progress at all for this long fails. A day: a laptop that alone can run
    /// it may be closed overnight.
    pub stall: Duration,
    /// A job that is open for more and was given nothing for this long is closed: who would have given more went
    /// away without a word.
    pub idle: Duration,
    /// A job fails when for this long each peer that could and would run it by all else had too little
    /// memory. A minute: a larger node that is about to join does so within seconds.
    pub too_small: Duration,
    /// After a take-over, how long to wait for what the workers still have before anything is
    /// assigned anew.
    pub adopt: Duration,
    /// A node asked to hold the result is given this long before the next one is asked too.
    pub store_each: Duration,
    /// In all; then the job is done with a note. Ten minutes: 7 GiB at 100 Mbit/s.
    pub store_all: Duration,
    /// A failed build of the result is tried again this often.
    pub build_tries: u32,
    /// How long a worker is told of the end before it is left to find out by itself.
    pub end: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            lease: Duration::from_secs(12),
            resend: Duration::from_secs(1),
            resend_max: Duration::from_secs(30),
            down_grace: Duration::from_secs(3),
            holder_gone: Duration::from_secs(30),
            retry: Duration::from_millis(200),
            retry_max: Duration::from_secs(60),
            guest_tries: 3,
            deaths: 6,
            other_tries: 10,
            losses: 20,
            losses_a_worker: 3,
            strikes: 3,
            block: Duration::from_secs(60),
            block_max: Duration::from_secs(3600),
            prefetch: 2,
            memo_ahead: 128,
            steal_after: Duration::from_millis(500),
            straggler: 3,
            straggler_min: Duration::from_secs(2),
            attempt_grace: Duration::from_secs(60),
            stall: Duration::from_secs(24 * 3600),
            idle: Duration::from_secs(3600),
            too_small: Duration::from_secs(60),
            adopt: Duration::from_secs(2),
            store_each: Duration::from_secs(60),
            store_all: Duration::from_secs(600),
            build_tries: 6,
            end: Duration::from_secs(600),
        }
    }
}

/// The worker machine's bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerLimits {
    /// Renewals sent in one lease: three may be lost before the attempt counts as lost.
    pub renewals: u32,
    /// An unsettled report is sent again after this, doubled up to [`WorkerLimits::resend_max`].
    pub resend: Duration,
    /// The longest pause between two sends of a report.
    pub resend_max: Duration,
    /// A job whose controller cannot be reached, or does not answer, for this long is dropped.
    /// An hour: a controller's machine may restart, install and come back.
    pub controller_gone: Duration,
    /// A worker that holds nothing running of a job asks this often whether it is still on.
    pub idle_ping: Duration,
    /// Ended jobs remembered, so that late orders do not bring one back.
    pub tombstones: usize,
    /// Jobs worked for at once; beyond that an order is refused.
    pub jobs: usize,
    /// Attempts waiting for a slot, all jobs together; beyond that an assignment is left
    /// unanswered and comes again.
    pub queue: usize,
}

impl Default for WorkerLimits {
    fn default() -> Self {
        WorkerLimits {
            renewals: 4,
            resend: Duration::from_secs(1),
            resend_max: Duration::from_secs(30),
            controller_gone: Duration::from_secs(3600),
            idle_ping: Duration::from_secs(600),
            tombstones: 1024,
            jobs: 256,
            queue: 4096,
        }
    }
}

/// The pause before try `n + 1` (n from 1): `first`, doubled each time, at most `longest`.
pub(super) fn back_off(first: Duration, longest: Duration, n: u32) -> Duration {
    let doublings = n.saturating_sub(1).min(20);
    first.saturating_mul(1 << doublings).min(longest)
}
