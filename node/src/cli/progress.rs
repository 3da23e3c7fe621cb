//! Progress on stderr, when a person watches it. Off a terminal nothing is drawn; but why a job waits for long is said.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{MissedTickBehavior, interval};

use super::output::{Output, size, span};
use crate::api::client::Meter;
use crate::view::{JobState, JobView, StepView};
use ipdc_jobs::kind::Items;

/// How often the bar of a transfer looks at its meter: as often as an eye can follow.
const GLANCE: Duration = Duration::from_millis(100);

/// How long a job may wait before that is said where nothing is drawn: nodes that have just started meet by then.
const PATIENCE: Duration = Duration::from_secs(10);

const WAITING: &str = "{spinner} {msg}";
const UNMEASURED: &str = "{spinner} {msg} {binary_bytes} {binary_bytes_per_sec}";
const TRANSFER: &str =
    "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
const ITEMS: &str = "{msg}{wide_bar} {human_pos}/{human_len} items, {per_sec} {prefix}";
const JOB: &str = "{msg}{wide_bar} {binary_bytes}/{binary_total_bytes} {prefix}";

/// One line that changes in place. It goes when dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    /// The template in use: a new style draws at once, so it is not set again.
    template: Cell<&'static str>,
    output: Output,
    /// Since when the job waits, and what was said of it last.
    waits: RefCell<Option<(Instant, String)>>,
}

impl Progress {
    /// A line; invisible unless `output` shows progress.
    pub(super) fn new(output: Output) -> Self {
        let target = if output.shows_progress() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.enable_steady_tick(GLANCE);
        let (template, waits) = (Cell::new(""), RefCell::default());
        let progress = Progress { bar, template, output, waits };
        progress.use_template(WAITING);
        progress
    }

    /// Says what is waited for, with no measure of it.
    pub(super) fn say(&self, what: impl Into<String>) {
        self.use_template(WAITING);
        self.bar.set_message(what.into());
    }

    /// Shows how far `meter` is until `work` ends. `total` is in bytes, when it is known.
    pub(super) async fn during<T>(
        &self,
        what: &str,
        meter: &Meter,
        total: Option<u64>,
        work: impl Future<Output = T>,
    ) -> T {
        self.bar.reset();
        self.bar.set_message(what.to_owned());
        match total {
            Some(total) => {
                self.bar.set_length(total);
                self.use_template(TRANSFER);
            }
            None => self.use_template(UNMEASURED),
        }
        let mut work = pin!(work);
        let mut glance = interval(GLANCE);
        glance.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                value = &mut work => return value,
                _ = glance.tick() => self.bar.set_position(meter.bytes()),
            }
        }
    }

    /// Shows how far a job is: its stages, then its bytes and their speed.
    pub(super) fn job(&self, view: &JobView) {
        let step = step(view).map(|step| format!("{step} ")).unwrap_or_default();
        if view.state == JobState::Queued {
            let waiting = view.waiting.as_deref().unwrap_or("planning");
            self.tell_waiting(view);
            return self.say(format!("{step}{}: {waiting}", view.state));
        }
        self.waits.take();
        if let Some(Items { total, done, failed, .. }) = view.items.filter(|items| items.total > 0)
        {
            self.bar.set_length(total);
            self.use_template(ITEMS);
            self.bar.set_message(step);
            let trouble = if failed > 0 { format!("{failed} failed, ") } else { String::new() };
            self.bar.set_prefix(format!("{trouble}{} at work", view.workers));
            self.bar.set_position(done + failed);
            return;
        }
        if view.bytes_total == 0 {
            return self.say(format!("{step}{}: planning", view.state));
        }
        if self.bar.length() != Some(view.bytes_total) {
            self.bar.set_length(view.bytes_total);
        }
        self.use_template(JOB);
        self.bar.set_message(format!("{step}{} ", stages(view)));
        let workers = format!("{} at work", view.workers);
        let prefix: Vec<_> = speed(view).into_iter().chain([workers]).collect();
        self.bar.set_prefix(prefix.join(", "));
        self.bar.set_position(view.bytes_done);
    }

    /// Says once why a job waits, and again when the reason is another.
    fn tell_waiting(&self, view: &JobView) {
        let mut waits = self.waits.borrow_mut();
        let (since, said) = waits.get_or_insert_with(|| (Instant::now(), String::new()));
        let Some(why) = view.waiting.as_ref().filter(|why| *why != said) else { return };
        if self.bar.is_hidden() && since.elapsed() >= PATIENCE {
            self.output.note(format!("job {} waits: {why}", view.job));
            why.clone_into(said);
        }
    }

    /// Runs `print`, which writes whole lines to stderr, with the bar out of its way.
    pub(super) fn above(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    fn use_template(&self, template: &'static str) {
        if self.template.replace(template) != template {
            let style = ProgressStyle::with_template(template);
            self.bar.set_style(style.expect("the templates are those above"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `12.5 MiB/s, 3.20 s left`, as far as it is known.
pub(super) fn speed(view: &JobView) -> Option<String> {
    let left = view.seconds_left.and_then(|left| Duration::try_from_secs_f64(left).ok());
    let left = left.map(|left| format!("{} left", span(left)));
    if view.items.is_some() {
        // Its tasks count items, and how many bytes these are nobody knows.
        return left;
    }
    let speed = Some(view.bytes_per_s).filter(|speed| *speed > 0)?;
    let left = left.map(|left| format!(", {left}")).unwrap_or_default();
    Some(format!("{}/s{left}", size(speed)))
}

/// `step 2/3 index`, of a job that is one of several steps.
pub(super) fn step(view: &JobView) -> Option<String> {
    let StepView { name, place, of } = view.step.as_ref()?;
    Some(format!("step {place}/{of} {name}"))
}

/// `map 3/25 · reduce 0/4`.
pub(super) fn stages(view: &JobView) -> String {
    let stages = view.stages.iter().map(|s| format!("{} {}/{}", s.name, s.done, s.total));
    stages.collect::<Vec<_>>().join(" · ")
}
