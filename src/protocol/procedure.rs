//! Procedures on sectors: machines that read, write and wait, one thing after another, and end with an answer.
//!
//! The engine and the simulator have one driver each for all of them.
//!
//! Not in here: when a procedure ends early. Its driver drops it when what it runs under is over: the membership is
//! lost, or the caller cancels. Then no further effect of it is carried out.
//!
//! Invariants:
//! - A procedure has one effect at a time, and is told of its end before it names the next one.
//! - A write is submitted before the moment that it names, or not at all. One place checks that, right before the
//!   submission ([`Window::is_open`]); a procedure relies on it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::liveness::Observer;
use super::rules::Rule;
use super::{Defect, Span, Written};
use crate::types::Time;

/// A machine that works on sectors.
pub trait Procedure {
    /// What it ends with.
    type Answer;

    /// Takes in what happened and says what to do next. The first event is [`Event::Begun`]. `observer` is what the
    /// host has seen of the delta records so far.
    fn step(&mut self, event: Event, observer: &mut Observer) -> Effect<Self::Answer>;
}

/// What the driver of a [`Procedure`] does next, and reports back as an [`Event`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect<T> {
    /// Read these sectors.
    Read {
        /// Which, in the order in which the event has them.
        extents: Vec<Extent>,
        /// How long it may take.
        timeout: Duration,
    },
    /// Write.
    Write(Write),
    /// Do nothing until then.
    Wait(Time),
    /// It is over: nothing more is read or written.
    Done(T),
}

impl<T> Effect<T> {
    /// The same, with another answer.
    pub fn map<U>(self, end: impl FnOnce(T) -> U) -> Effect<U> {
        match self {
            Effect::Read { extents, timeout } => Effect::Read { extents, timeout },
            Effect::Write(write) => Effect::Write(write),
            Effect::Wait(until) => Effect::Wait(until),
            Effect::Done(answer) => Effect::Done(end(answer)),
        }
    }
}

/// Sectors that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// Bytes from the start of the device.
    pub offset: u64,
    /// How many.
    pub sectors: u64,
}

/// Bytes for sectors that follow each other. More than one sector may tear between two of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// Bytes from the start of the device.
    pub offset: u64,
    /// Whole sectors.
    pub bytes: Vec<u8>,
    /// When.
    pub window: Window,
}

/// When a write may be submitted, and how long it may take from then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// It is submitted before that, or not at all.
    pub before: Time,
    /// A write that takes longer counts as in flight.
    pub timeout: Duration,
}

impl Window {
    /// Whether the write may be submitted at `now`, which is read right before the submission.
    pub fn is_open(&self, now: Time) -> bool {
        now < self.before || !Rule::WriteIsInTime.is_in_force()
    }
}

/// What became of the last [`Effect`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The procedure begins.
    Begun(Time),
    /// The sectors were read: at least one of them could be.
    Read(Span, Sectors),
    /// None of the sectors could be read, or not in time.
    ReadFailed,
    /// The write ended, or its time did; or another write of this host is in flight to its sectors.
    Wrote(Span, Written),
    /// It was too late for the write, which was not submitted.
    TooLate(Time),
    /// The wait is over.
    Woke(Time),
}

/// Sectors as they were read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sectors {
    size: usize,
    bytes: Vec<u8>,
    unreadable: BTreeSet<u64>,
}

impl Sectors {
    /// No sector yet; `size` is that of each in bytes.
    pub const fn new(size: usize) -> Sectors {
        Sectors { size, bytes: Vec::new(), unreadable: BTreeSet::new() }
    }

    /// Sectors that could all be read.
    pub const fn whole(size: usize, bytes: Vec<u8>) -> Sectors {
        Sectors { size, bytes, unreadable: BTreeSet::new() }
    }

    /// All of them, one after the other; zeros stand for one that can't be read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        (self.bytes.len() / self.size) as u64
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether none of them could be read.
    pub fn all_unreadable(&self) -> bool {
        self.unreadable.len() as u64 == self.len()
    }

    /// Adds one that was read; `None`: it can't be.
    pub fn push(&mut self, sector: Option<&[u8]>) {
        match sector {
            Some(bytes) => self.bytes.extend_from_slice(bytes),
            None => {
                self.unreadable.insert(self.len());
                self.bytes.resize(self.bytes.len() + self.size, 0);
            }
        }
    }

    /// Adds the others behind these.
    pub fn append(&mut self, others: Sectors) {
        if self.is_empty() {
            *self = others;
            return;
        }
        let before = self.len();
        self.unreadable.extend(others.unreadable.iter().map(|number| before + number));
        self.bytes.extend_from_slice(&others.bytes);
    }

    /// Every sector in turn.
    pub fn iter(&self) -> impl Iterator<Item = Result<&[u8], Defect>> {
        self.bytes.chunks_exact(self.size).zip(0..).map(|(bytes, number)| match self.unreadable.contains(&number) {
            true => Err(Defect::Unreadable),
            false => Ok(bytes),
        })
    }

    /// The first sector.
    ///
    /// # Errors
    /// It can't be read, or there is none.
    pub fn first(&self) -> Result<&[u8], Defect> {
        self.iter().next().unwrap_or(Err(Defect::Unreadable))
    }
}
