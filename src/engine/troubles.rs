//! Which I/O of a membership failed with what: its machine only names it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::io::Io;
use crate::disk::Fault;
use crate::error::{DiskCause, DiskError};
use crate::protocol::member::{IoId, Trouble};
use crate::types::Time;

/// So many that have ended are remembered.
const KEPT: usize = 1024;

/// What is known of those that are under way, and of the last that failed or were slow.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<IoId, Known>,
    /// Those that have ended, the oldest first.
    ended: VecDeque<IoId>,
}

#[derive(Debug)]
struct Known {
    began: Time,
    offset: u64,
    len: usize,
    write: bool,
    error: Option<Arc<DiskError>>,
    fault: Option<Fault>,
}

impl State {
    fn keep(&mut self, io: IoId) {
        self.ended.push_back(io);
        if self.ended.len() > KEPT
            && let Some(oldest) = self.ended.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Troubles {
    /// An I/O is submitted, or another part of it.
    pub(super) fn began(&self, io: IoId, began: Time, offset: u64, len: usize, write: bool) {
        self.0.lock().known.insert(io, Known { began, offset, len, write, error: None, fault: None });
    }

    /// It has ended well, or was not submitted after all. If it took as long as `slow` somebody may have given it up.
    pub(super) fn ended(&self, io: IoId, now: Time, slow: Duration) {
        let mut state = self.0.lock();
        match state.known.get(&io).is_some_and(|known| now.since(known.began) >= slow) {
            true => state.keep(io),
            false => drop(state.known.remove(&io)),
        }
    }

    pub(super) fn failed(&self, io: IoId, error: DiskError) {
        self.fails(io, |known| known.error = Some(Arc::new(error)));
    }

    pub(super) fn faulted(&self, io: IoId, fault: Fault) {
        self.fails(io, |known| known.fault = Some(fault));
    }

    fn fails(&self, io: IoId, note: impl FnOnce(&mut Known)) {
        let mut state = self.0.lock();
        if let Some(known) = state.known.get_mut(&io) {
            note(known);
            state.keep(io);
        }
    }

    /// What an I/O failed with. One that did not fail has taken too long. `None`: that was long ago.
    pub(super) fn error(&self, io: &Io, Trouble { io: id, waited }: Trouble) -> Option<Arc<DiskError>> {
        let state = self.0.lock();
        let known = state.known.get(&id)?;
        if let Some(error) = &known.error {
            return Some(error.clone());
        }
        let cause = known.fault.clone().map_or(DiskCause::TimedOut(waited), DiskCause::Fault);
        Some(Arc::new(io.error(known.offset, known.len, known.write, cause)))
    }
}
