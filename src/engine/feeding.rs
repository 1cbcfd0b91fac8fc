//! Feeds the watchdog of a membership, in a thread of its own: a device may hang in a write, and nobody else is to wait
//! for it longer than he wants.

use std::io;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::member::{LostOnPanic, Member};
use crate::watchdog::{Armed, Pace, Watchdog, WatchdogError};

/// The membership's end of the feeding thread.
#[derive(Debug)]
pub(crate) struct Feeder {
    pub(crate) pace: Pace,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Everything has stopped: it is to be switched off.
    disarm: bool,
    disarmed: Option<Result<(), WatchdogError>>,
    /// Why it could not be fed the last time.
    trouble: Option<WatchdogError>,
}

impl Feeder {
    /// Starts the watchdog and has it fed once before it returns.
    pub(crate) fn start(member: &Arc<Member>, watchdog: Box<dyn Watchdog>) -> Result<Feeder, WatchdogError> {
        let shared = Arc::new(Shared::default());
        let patience = member.terms.timeouts.fail();
        let (member, orders) = (Arc::downgrade(member), shared.clone());
        // Nothing is handed over unless it is taken: a watchdog that nobody waits for any more must not count.
        let (answer, started) = sync_channel(0);
        // It is never joined: it may hang in the device.
        let spawned = thread::Builder::new().name("leasehold-feed".into()).spawn(move || {
            let armed = match start(&member, watchdog) {
                Ok(armed) => armed,
                Err(error) => {
                    let _ = answer.send(Err(error));
                    return;
                }
            };
            let pace = armed.pace();
            match answer.send(Ok(pace)) {
                Ok(()) => feed(&member, &orders, armed, pace.every),
                // What can't be switched off now can't be helped: nobody is left to be told.
                Err(_) => drop(armed.disarm()),
            }
        });
        spawned.map_err(|source: io::Error| WatchdogError::System {
            what: "the thread that feeds the watchdog could not be started",
            source: Arc::new(source),
        })?;
        let pace = started.recv_timeout(patience).unwrap_or(Err(WatchdogError::Stuck))?;
        Ok(Feeder { pace, shared })
    }

    /// Why it could not be fed the last time; `None` when it was.
    pub(crate) fn trouble(&self) -> Option<WatchdogError> {
        self.shared.state.lock().trouble.clone()
    }

    /// Has it switched off. `Stuck` when that takes longer than `patience`; it is done later then, if it can be.
    pub(crate) fn disarm(&self, patience: Duration) -> Result<(), WatchdogError> {
        let mut state = self.shared.state.lock();
        state.disarm = true;
        self.shared.changed.notify_all();
        self.shared.changed.wait_while_for(&mut state, |state| state.disarmed.is_none(), patience);
        state.disarmed.clone().unwrap_or(Err(WatchdogError::Stuck))
    }
}

fn start(member: &Weak<Member>, watchdog: Box<dyn Watchdog>) -> Result<Box<dyn Armed>, WatchdogError> {
    let over = || WatchdogError::TooLate { what: "fed" };
    let member = member.upgrade().ok_or_else(over)?;
    let mut armed = watchdog.start(&member.terms.timeouts)?;
    let held = member.pulse.held().map_err(|_| over());
    if let Err(error) = held.and_then(|deadline| armed.feed(deadline)) {
        armed.disarm()?;
        return Err(error);
    }
    Ok(armed)
}

/// Ends when the watchdog is switched off, or with the membership: then it goes on counting.
fn feed(member: &Weak<Member>, shared: &Shared, mut armed: Box<dyn Armed>, every: Duration) {
    loop {
        let mut state = shared.state.lock();
        shared.changed.wait_while_for(&mut state, |state| !state.disarm, every);
        let disarm = state.disarm;
        // Not while the device works: who wants to switch it off waits with a timeout.
        drop(state);
        let Some(member) = member.upgrade() else { return };
        let _guard = LostOnPanic(&member.pulse);
        if disarm {
            let result = armed.disarm();
            shared.state.lock().disarmed = Some(result);
            shared.changed.notify_all();
            return;
        }
        if let Ok(deadline) = member.pulse.held() {
            let result = armed.feed(deadline);
            shared.state.lock().trouble = result.err();
        }
    }
}
