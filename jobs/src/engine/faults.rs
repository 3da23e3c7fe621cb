//! Faults planted on purpose, so that the simulator can be seen to find them.
//!
//! The code asks [`Planted::has`] where a fault would be; outside tests that is `false` at compile
//! time and nothing is left of it.

/// A mistake that an engine or a worker could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A second report of a task whose commit is under way is committed too.
    CommitsTwice,
    /// What was said under an older epoch is taken as if it were said now.
    BelievesOldEpochs,
    /// A committed output that nobody has any more is not run again.
    ForgetsLostOutputs,
    /// A report is settled before the journal holds it.
    SettlesBeforeAppend,
    /// An order that was lost is not sent again.
    NeverResends,
    /// A worker takes orders of an older epoch than the highest it has seen.
    WorkerObeysOldEpochs,
    /// A dead worker's attempts are waited for without end.
    TrustsDeadWorkers,
    /// A worker begins more attempts of an owner than its node's policy grants.
    WorkerIgnoresGrants,
    /// A gift that its giver repeats is taken again.
    TakesGiftsTwice,
}

/// The fault planted in one machine, if any.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Planted {
    #[cfg(any(test, feature = "planted-faults"))]
    fault: Option<Fault>,
}

impl Planted {
    /// Whether this fault is planted.
    #[cfg(any(test, feature = "planted-faults"))]
    pub(super) fn has(self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Whether this fault is planted: never, outside tests.
    #[cfg(not(any(test, feature = "planted-faults")))]
    pub(super) const fn has(self, _: Fault) -> bool {
        false
    }

    /// Plants one.
    #[cfg(any(test, feature = "planted-faults"))]
    pub(super) fn plant(fault: Fault) -> Self {
        Planted { fault: Some(fault) }
    }
}
