//! Whose the signals are that reach a `run`: until its command is launched they end the wait for it, from then on they
//! are the command's.

use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::descendants::Outcome;
use crate::failure::{Failure, IO};
use crate::guard::{Guard, Received, Signals};

/// How often what is awaited is looked at while a signal may come.
const TICK: Duration = Duration::from_millis(2);

/// What has come, and whose the next one is.
#[derive(Debug, Default)]
pub(crate) struct Signaled {
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The first that ends a process, of those that came before the launch.
    first: Option<i32>,
    launched: bool,
}

impl Signaled {
    /// Takes signals from now on; passes those on to the guard that are the command's.
    pub(crate) fn listen(guard: Arc<Guard>) -> Result<Arc<Signaled>, Failure> {
        let failed = |error| Failure::new(IO, format!("signals can't be caught: {error}"));
        let signals = Signals::new().map_err(failed)?;
        let signaled = Arc::new(Signaled::default());
        let take = {
            let signaled = signaled.clone();
            move || {
                for signal in signals {
                    // A guard that can't be told is gone, and the command with it.
                    signaled.take(signal, |signal| drop(guard.signal(signal)));
                }
            }
        };
        thread::Builder::new().name("leasehold-signals".into()).spawn(take).map_err(failed)?;
        Ok(signaled)
    }

    fn take(&self, signal: Received, pass_on: impl FnOnce(i32)) {
        let mut state = self.state();
        if state.launched {
            signal.pass_on.map(pass_on);
        } else if ends_a_process(signal.signal) {
            state.first.get_or_insert(signal.signal);
            self.came.notify_all();
        }
    }

    /// Waits until `done`; false when a signal that ends a process came first.
    pub(crate) fn wait(&self, done: impl Fn() -> bool) -> bool {
        let mut state = self.state();
        while !done() {
            if state.first.is_some() {
                return false;
            }
            state = self.came.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Launches the command, unless a signal came before: `None`. Every other one comes after, and is passed on.
    pub(crate) fn launch<T>(&self, launch: impl FnOnce() -> T) -> Option<T> {
        let mut state = self.state();
        if state.first.is_some() {
            return None;
        }
        state.launched = true;
        Some(launch())
    }

    /// Of a `run` that a signal has ended before its command was launched.
    pub(crate) fn exit_code(&self) -> ExitCode {
        Outcome::Signal(self.state().first.unwrap_or_default()).exit_code()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ends_a_process(signal: i32) -> bool {
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].map(Signal::as_raw).contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(signal: Signal) -> Received {
        Received { signal: signal.as_raw(), pass_on: Some(signal.as_raw()) }
    }

    #[test]
    fn a_signal_calls_the_launch_off_or_is_passed_on() {
        let early = Signaled::default();
        early.take(received(Signal::TERM), |_| panic!("there is no command"));
        assert!(early.wait(|| true), "what is done is done");
        assert!(!early.wait(|| false));
        assert!(early.launch(|| panic!("it was told to end")).is_none());
        assert_eq!(early.exit_code(), ExitCode::from(128 + 15));

        let late = Signaled::default();
        // Nothing that ends a process: the command that there is going to be is not meant.
        late.take(received(Signal::USR1), |_| panic!("there is no command"));
        assert_eq!(late.launch(|| 7), Some(7));
        let mut passed_on = None;
        late.take(received(Signal::TERM), |signal| passed_on = Some(signal));
        assert_eq!(passed_on, Some(15));
        late.take(Received { signal: 2, pass_on: None }, |_| panic!("the terminal has sent it already"));
    }
}
