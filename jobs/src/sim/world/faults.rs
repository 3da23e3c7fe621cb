//! What goes wrong, besides the network.

use std::time::Duration;

use super::{Happening, World};
use crate::engine::{Event, Worker, WorkerEvent};
use crate::ids::JobId;
use crate::sim::laws::Broken;

impl World {
    pub(super) fn mishap(&mut self) -> Result<(), Broken> {
        if !self.are_faults_on {
            return Ok(());
        }
        let pause = self.scenario.fault_every.unwrap_or(Duration::from_secs(1)).as_millis() as u64;
        let next = self.rng.millis(1, 2 * pause);
        self.at(next, Happening::Mishap);
        let node = if self.rng.chance(250) {
            let job = self.rng.index(self.jobs.len());
            self.jobs[job].draw.controller
        } else {
            self.rng.index(self.nodes.len())
        };
        match self.rng.between(0, 109) {
            0..=34 => self.mishap_crash(node),
            35..=49 => {
                self.tally.partitions += 1;
                let share = self.rng.between(100, 900);
                let sides = (0..self.nodes.len()).map(|_| self.rng.chance(share)).collect();
                self.sides = Some(sides);
                self.hint_all();
                let pause = self.rng.millis(200, 15_000);
                self.at(pause, Happening::Mend);
            }
            50..=61 => {
                self.tally.clock_jumps += 1;
                self.nodes[node].ahead += self.rng.millis(100, 120_000);
                self.tell_worker(node, WorkerEvent::Tick)?;
                for job in 0..self.jobs.len() {
                    if self.jobs[job].draw.controller == node {
                        self.tell_engine(job, Event::Tick)?;
                    }
                }
            }
            62..=73 => {
                self.tally.freezes += 1;
                self.nodes[node].frozen_until = self.now + self.rng.millis(100, 20_000);
            }
            74..=83 => {
                self.tally.slow_nodes += 1;
                self.nodes[node].slowness = self.rng.between(1, 20) as u32;
            }
            84..=93 => {
                self.tally.wiped_disks += 1;
                self.nodes[node].scratch.clear();
            }
            94..=103 => {
                self.tally.pauses += 1;
                self.set_paused(node, true)?;
                let pause = self.rng.millis(50, 20_000);
                self.at(pause, Happening::Resume { node });
            }
            _ => {
                self.tally.drains += 1;
                self.tell_worker(node, WorkerEvent::Drain)?;
                let pause = self.rng.millis(50, 2_000);
                self.at(pause, Happening::Crash { node });
            }
        }
        Ok(())
    }

    pub(super) fn mishap_crash(&mut self, node: usize) {
        if self.nodes[node].worker.is_none() {
            return;
        }
        let is_controller = self.jobs.iter().any(|job| job.draw.controller == node);
        self.tally.crashes += 1;
        self.tally.controller_crashes += u64::from(is_controller);
        self.crash(node);
        if !is_controller && self.rng.chance(100) {
            self.tally.scrapped += 1;
            self.nodes[node].is_scrap = true;
            return;
        }
        let pause = self.rng.millis(50, 20_000);
        self.at(pause, Happening::Restart { node });
    }

    pub(super) fn stop_faults(&mut self) -> Result<(), Broken> {
        self.are_faults_on = false;
        self.faults_stopped_at = Some(self.now);
        self.sides = None;
        for node in 0..self.nodes.len() {
            self.nodes[node].frozen_until = Duration::ZERO;
            self.nodes[node].slowness = 1;
            self.boot(node)?;
            self.set_paused(node, false)?;
        }
        self.hint_all();
        Ok(())
    }

    /// The node's policy changes its mind; its worker and the controllers hear of it.
    pub(super) fn set_paused(&mut self, node: usize, is_paused: bool) -> Result<(), Broken> {
        self.nodes[node].is_paused = is_paused;
        let held = self.nodes[node].worker.iter().flat_map(Worker::jobs);
        for job in held.collect::<Vec<JobId>>() {
            let checked = self.judge(node, job);
            let Some(known) = self.job_index(job) else { continue };
            let from = self.nodes[self.jobs[known].draw.controller].id;
            self.tell_worker(node, WorkerEvent::ManifestChecked { job, from, checked })?;
        }
        self.hint_about(node);
        Ok(())
    }
}
