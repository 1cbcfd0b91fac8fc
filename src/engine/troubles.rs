//! Which I/O of a membership failed with what: its machine only names it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::io::Io;
use crate::disk::Fault;
use crate::error::{DiskCause, DiskError};
use crate::protocol::member::{IoId, Trouble};

/// So many I/Os are remembered.
const KEPT: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<VecDeque<Known>>);

#[derive(Debug)]
struct Known {
    io: IoId,
    offset: u64,
    len: usize,
    write: bool,
    error: Option<Arc<DiskError>>,
    fault: Option<Fault>,
}

impl Troubles {
    /// An I/O is submitted, or another part of it.
    pub(super) fn began(&self, io: IoId, offset: u64, len: usize, write: bool) {
        let mut known = self.0.lock();
        if known.len() == KEPT {
            known.pop_front();
        }
        known.push_back(Known { io, offset, len, write, error: None, fault: None });
    }

    pub(super) fn failed(&self, io: IoId, error: DiskError) {
        self.with(io, |known| known.error = Some(Arc::new(error)));
    }

    pub(super) fn faulted(&self, io: IoId, fault: Fault) {
        self.with(io, |known| known.fault = Some(fault));
    }

    fn with<T>(&self, io: IoId, work: impl FnOnce(&mut Known) -> T) -> Option<T> {
        self.0.lock().iter_mut().rev().find(|known| known.io == io).map(work)
    }

    /// What an I/O failed with. One that did not fail has taken too long. `None`: that was long ago.
    pub(super) fn error(&self, io: &Io, Trouble { io: id, waited }: Trouble) -> Option<Arc<DiskError>> {
        self.with(id, |known| {
            if let Some(error) = &known.error {
                return error.clone();
            }
            let cause = known.fault.clone().map_or(DiskCause::TimedOut(waited), DiskCause::Fault);
            Arc::new(io.error(known.offset, known.len, known.write, cause))
        })
    }
}
