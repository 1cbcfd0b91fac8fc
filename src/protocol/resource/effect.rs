//! What an operation asks of its caller, and what the caller reports.

use super::Outcome;
use crate::format::{Block, Leader};
use crate::protocol::area::AreaView;
use crate::protocol::{Span, Written};
use crate::types::Time;

/// What the caller of the machine does next. An effect with a round is reported back with it; an answer of an earlier
/// round is ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// On every disk, read the leader and the blocks of all hosts in use, in one I/O.
    Read(u32),
    /// Write the own block to every disk.
    WriteBlock(u32, Block),
    /// Write the leader to every disk.
    WriteLeader(u32, Leader),
    /// Read the delta records of all host ids into the observer.
    Scan(u32),
    /// Wait until no write of this host to this area is in flight.
    Settle(u32),
    /// Do nothing until then.
    Wait(u32, Time),
    /// The operation is over.
    Done(Outcome),
}

/// What happened to an effect, or to one disk's part in it.
#[expect(clippy::large_enum_variant, reason = "one for each I/O, which costs far more than moving it")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `disk` was read. `since` is the start of the last scan of all host ids, which chose which blocks were read.
    Read {
        /// Which disk.
        disk: usize,
        /// When.
        span: Span,
        /// See above.
        since: Time,
        /// What it showed.
        view: AreaView,
    },
    /// `disk` could not be read, or not in time.
    ReadFailed {
        /// Which disk.
        disk: usize,
    },
    /// A write to `disk` ended, or its time did.
    Wrote {
        /// Which disk.
        disk: usize,
        /// How.
        written: Written,
    },
    /// The scan is complete, or failed: judging goes by what the observer has.
    Scanned,
    /// Nothing is in flight any more.
    Settled,
    /// The wait is over.
    Woke,
}
