//! What `run` does when another host asks for what it holds: it tells, and ends the command if it was told to yield.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use leasehold::{Force, HostEvent, Notice, Owner};

use crate::guard::Guard;
use crate::output::tell;

/// What a request of another host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnRequest {
    /// It is told on standard error, and nothing else: people decide
    Ignore,
    /// The command is asked to end, or ended at once where that is asked for; then the leases are released
    Yield,
}

/// Ends the command on request.
pub(crate) struct Yielding {
    on_request: OnRequest,
    guard: Arc<Guard>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The guard has the command, and heeds nothing before: what that has between SIGTERM and SIGKILL, where it is to
    /// end at once.
    launched: Option<Duration>,
    asked: Option<Force>,
}

impl State {
    /// What is asked for at once stays so, whoever asks for less afterwards.
    fn ask(&mut self, force: Force) {
        if self.asked != Some(Force::Kill) {
            self.asked = Some(force);
        }
    }
}

impl Yielding {
    pub(crate) fn new(on_request: OnRequest, guard: Arc<Guard>) -> Yielding {
        Yielding { on_request, guard, state: Mutex::default() }
    }

    /// Takes in what another host says.
    pub(crate) fn take_in(&self, notice: &Notice) {
        match notice {
            Notice::Request { from, name, resource, held, version, force, due } => {
                let how = if *force == Force::Kill { "at once" } else { "when it suits" };
                let what = match (due, self.on_request) {
                    (false, _) => ": not the next version, so that asks nothing of this owner",
                    (true, OnRequest::Ignore) => "",
                    (true, OnRequest::Yield) => ": the command is ended",
                };
                tell(format_args!(
                    "host {from} ({name}) asks for {resource} at version {version}, to be given up {how}; held at version {held}{what}"
                ));
                if *due && self.on_request == OnRequest::Yield {
                    let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.ask(*force);
                    self.act(&state);
                }
            }
            Notice::HandoverAsked { from, name, resource, held } => {
                let name = name.map_or_else(String::new, |name| format!(" ({name})"));
                let Owner { host, generation } = from;
                tell(format_args!(
                    "host {host}{name} generation {generation} asks to be handed {resource}, held at version {held}"
                ));
            }
            Notice::Event { from, name, event: HostEvent { event, data, .. } } => {
                tell(format_args!("host {from} ({name}) sends event {event:#x} with data {data:#x}"));
            }
            // Of a later version of the library.
            _ => {}
        }
    }

    /// The guard has the command, and now heeds what was asked before. The command has `grace` between SIGTERM and
    /// SIGKILL where it is to end at once.
    pub(crate) fn launched(&self, grace: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.launched = Some(grace);
        self.act(&state);
    }

    /// Whether the command was ended as it is when the lease is lost, though it is not.
    pub(crate) fn at_once(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).asked == Some(Force::Kill)
    }

    fn act(&self, state: &State) {
        let Some(grace) = state.launched else { return };
        match state.asked {
            Some(Force::Kill) => self.guard.terminate(grace),
            // A guard that can't be told is gone, and the command with it.
            Some(Force::Graceful) => drop(self.guard.ask_to_end()),
            Some(Force::None) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an end that is forgotten to have been asked for `run` would say that the lease was lost.
    #[test]
    fn a_graceful_request_takes_back_no_other_one() {
        let mut state = State::default();
        for (force, asked) in
            [(Force::Graceful, Force::Graceful), (Force::Kill, Force::Kill), (Force::Graceful, Force::Kill)]
        {
            state.ask(force);
            assert_eq!(state.asked, Some(asked));
        }
    }
}
