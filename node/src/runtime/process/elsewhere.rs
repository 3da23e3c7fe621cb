//! Where there is no Linux, no native program is run.

use std::convert::Infallible;
use std::process::ExitCode;

use ipdc_jobs::kind::{Given, Guest, TaskError};
use ipdc_jobs::native::Native;

use super::{Options, Trouble};
use crate::runtime::Attempt;
use crate::runtime::calls::Source;
use crate::runtime::room::Room;

/// There is none.
#[derive(Clone)]
pub struct Processes(Infallible);

impl Processes {
    /// Says that there is none.
    ///
    /// # Errors
    /// Always.
    pub fn start(_: Options) -> Result<Processes, Trouble> {
        Err(Trouble::new("this machine does not run Linux"))
    }

    /// Never called.
    pub fn stop(&self) {
        match self.0 {}
    }

    pub(in crate::runtime) fn program(&self, _: &Native, _: Room) -> Result<Program, TaskError> {
        match self.0 {}
    }
}

/// There is none.
pub(in crate::runtime) struct Program(Infallible);

impl Program {
    pub(in crate::runtime) fn instantiate(&self, _: Attempt, _: Given) -> Run {
        match self.0 {}
    }
}

/// There is none.
pub(in crate::runtime) struct Run(Infallible);

impl Run {
    pub(in crate::runtime) fn call_for(
        &mut self,
        _: &str,
        _: &[u8],
        _: &mut dyn Source,
    ) -> Result<(), TaskError> {
        match self.0 {}
    }
}

impl Guest for Run {
    fn call(
        &mut self,
        _: &str,
        _: &[u8],
        _: &mut dyn FnMut(&[u8]) -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        match self.0 {}
    }
}

/// This process is no launcher.
#[must_use]
pub fn launch_if_asked() -> Option<ExitCode> {
    None
}
