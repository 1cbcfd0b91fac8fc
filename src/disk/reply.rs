//! The two ends of one request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Fault;

type Outcome = Result<Vec<u8>, Fault>;
type Hook = Box<dyn FnOnce(&Outcome) + Send>;

#[derive(Debug)]
enum State {
    Waiting,
    Done(Outcome),
    Taken,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The answering end of a request. Dropping it unanswered answers with [`Fault::Abandoned`].
#[must_use = "dropping it answers with Fault::Abandoned"]
pub struct Reply {
    shared: Arc<Shared>,
    hook: Option<Hook>,
    answered: bool,
}

/// The waiting end of a request. Dropping it does not cancel the request.
#[derive(Debug)]
pub struct Pending {
    shared: Arc<Shared>,
}

/// The two ends of a request.
pub fn channel() -> (Reply, Pending) {
    new(None)
}

/// As [`channel`], and `hook` runs when the reply is completed, before the waiter is woken; also when the waiter has
/// given up, and when it is gone.
///
/// The hook runs on the thread that completes the request, which may be inside [`Disk::submit`](super::Disk::submit):
/// it must be brief, and must take no lock that a caller of `submit` holds. If it panics, the waiter gets
/// [`Fault::Abandoned`].
pub fn channel_with(hook: impl FnOnce(&Result<Vec<u8>, Fault>) + Send + 'static) -> (Reply, Pending) {
    new(Some(Box::new(hook)))
}

fn new(hook: Option<Hook>) -> (Reply, Pending) {
    let shared = Arc::new(Shared { state: Mutex::new(State::Waiting), changed: Condvar::new() });
    (Reply { shared: shared.clone(), hook, answered: false }, Pending { shared })
}

impl Reply {
    /// Answers the request: runs the hook, then wakes the waiter.
    pub fn complete(mut self, outcome: Result<Vec<u8>, Fault>) {
        self.answer(outcome);
    }

    fn answer(&mut self, outcome: Outcome) {
        if let Some(hook) = self.hook.take() {
            hook(&outcome);
        }
        self.answered = true;
        *self.shared.state.lock() = State::Done(outcome);
        self.shared.changed.notify_all();
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.answered {
            self.answer(Err(Fault::Abandoned));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("hook", &self.hook.is_some()).finish_non_exhaustive()
    }
}

impl Pending {
    /// Waits at most `timeout` for the answer; `None` when there was none within it. The wait can be repeated until
    /// the answer was handed out, which happens once: `None` at once after that.
    ///
    /// The timeout is counted on a clock that stands still while the machine is suspended.
    pub fn wait(&self, timeout: Duration) -> Option<Result<Vec<u8>, Fault>> {
        let mut state = self.shared.state.lock();
        self.shared.changed.wait_while_for(&mut state, |state| matches!(state, State::Waiting), timeout);
        if !matches!(*state, State::Done(_)) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(outcome) => Some(outcome),
            State::Waiting | State::Taken => None,
        }
    }

    /// Whether the request was answered, also when the answer was handed out already.
    pub fn is_done(&self) -> bool {
        !matches!(*self.shared.state.lock(), State::Waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_is_handed_out_once() {
        let (reply, pending) = channel();
        assert!(pending.wait(Duration::ZERO).is_none());
        assert!(!pending.is_done());
        reply.complete(Ok(vec![7]));
        assert_eq!(pending.wait(LONG).expect("answered").expect("ok"), [7]);
        assert!(pending.wait(LONG).is_none());
        assert!(pending.is_done());
    }

    #[test]
    fn dropping_the_reply_answers_abandoned_and_runs_the_hook() {
        let ran = Arc::new(AtomicBool::new(false));
        let seen = ran.clone();
        let (reply, pending) =
            channel_with(move |outcome| seen.store(matches!(outcome, Err(Fault::Abandoned)), Ordering::SeqCst));
        drop(reply);
        assert!(ran.load(Ordering::SeqCst));
        assert!(matches!(pending.wait(LONG), Some(Err(Fault::Abandoned))));
    }

    #[test]
    fn the_hook_runs_before_the_waiter_wakes_and_without_a_waiter() {
        let (reply, pending) = channel();
        let pending = Arc::new(pending);
        let watched = pending.clone();
        let (outer, unwatched) = channel_with(move |_| {
            assert!(!watched.is_done());
            reply.complete(Ok(Vec::new()));
        });
        drop(unwatched);
        outer.complete(Ok(Vec::new()));
        assert!(pending.is_done());
    }

    #[test]
    fn a_panicking_hook_does_not_leave_the_waiter_alone() {
        let (reply, pending) = channel_with(|_| panic!("expected by the test"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reply.complete(Ok(Vec::new()))));
        assert!(panicked.is_err());
        assert!(matches!(pending.wait(LONG), Some(Err(Fault::Abandoned))));
    }

    #[test]
    fn a_waiter_on_another_thread_is_woken() {
        let (reply, pending) = channel();
        let waiter = std::thread::spawn(move || pending.wait(LONG));
        reply.complete(Ok(vec![1]));
        assert_eq!(waiter.join().expect("waiter").expect("answered").expect("ok"), [1]);
    }
}
