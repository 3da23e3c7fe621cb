//! The clock that interrupts guests: one thread that raises the engine's epoch, and sleeps
//! without waking while no guest exists.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::Engine;

/// How long a guest can run past a stop: short for a person, long enough to cost nothing.
const TICK: Duration = Duration::from_millis(10);

/// Owns the thread; it ends with the process.
pub(super) struct Ticker {
    held: Arc<Held>,
}

#[derive(Default)]
struct Held {
    guests: Mutex<usize>,
    changed: Condvar,
}

/// The clock runs as long as one of these exists.
pub(super) struct Hold {
    held: Arc<Held>,
}

impl Ticker {
    pub(super) fn new(engine: Engine) -> Self {
        let held = Arc::new(Held::default());
        let clock = Arc::clone(&held);
        std::thread::Builder::new()
            .name("guest clock".into())
            .spawn(move || {
                loop {
                    let guests = clock.guests.lock().unwrap_or_else(PoisonError::into_inner);
                    let some = clock.changed.wait_while(guests, |guests| *guests == 0);
                    drop(some);
                    std::thread::sleep(TICK);
                    engine.increment_epoch();
                }
            })
            .expect("a process that runs guests can start a thread");
        Ticker { held }
    }

    /// Keeps the clock running.
    pub(super) fn hold(&self) -> Hold {
        *self.held.guests.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.held.changed.notify_one();
        Hold { held: Arc::clone(&self.held) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        *self.held.guests.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}
