//! What a membership asks of its carrier, and what the carrier reports.

use std::time::Duration;

use super::account::IoId;
use super::command::{Answer, Command, CommandId};
use super::notices::Notice;
use crate::protocol::procedure::{Extent, Sectors};
use crate::types::Time;

/// What the carrier does. The order of effects is the order of their submission.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Reads sectors.
    Read {
        /// Named again in the event.
        io: IoId,
        /// Which disk.
        disk: usize,
        /// Must not wait behind I/Os that are not urgent.
        urgent: bool,
        /// Which, in the order in which the event has them.
        extents: Vec<Extent>,
    },
    /// Writes sectors.
    Write {
        /// Named again in the event.
        io: IoId,
        /// Which disk.
        disk: usize,
        /// Must not wait behind I/Os that are not urgent.
        urgent: bool,
        /// Bytes from the start of the device.
        offset: u64,
        /// Whole sectors. Between two of them it may tear.
        bytes: Vec<u8>,
        /// The clock is looked at right before the submission: it is submitted before this, or not at all
        /// ([`Event::TooLate`]).
        before: Time,
    },
    /// Tells the caller of a command.
    Answer(CommandId, Answer),
    /// Tells the program what another host has to say.
    Tell(Notice),
    /// A renewal was confirmed, so long after it began.
    Renewed(Duration),
    /// The host id was given back, or left to another process: nothing is in flight. The local lock ends.
    LetGo,
}

/// What happened. Everything carries its time: see [`Member::step`](super::Member::step).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// These sectors were read: at least one of them could be.
    Read(IoId, Sectors),
    /// None of the sectors could be read.
    ReadFailed(IoId),
    /// The write is durable.
    Written(IoId),
    /// The write is over and was reported as failed: it may have reached the disk or not.
    WriteFailed(IoId),
    /// It was too late for the write, which was not submitted.
    TooLate(IoId),
    /// No name leads any more to the medium that this path named. The I/O that was told so is over by another event.
    Gone(String),
    /// A caller wants something. It is answered once, with [`Effect::Answer`].
    Command(CommandId, Command),
    /// Time has passed: at the latest at [`Member::wakes_at`](super::Member::wakes_at).
    Ticked,
}
