//! A deterministic world around the production protocol code: hosts with processes and clocks, disks, faults, in
//! virtual time. One seed gives one run; the same seed gives the same run.
//!
//! # Fault model
//! - **I/O**: takes a random time. It may be slow (beyond T), hang (beyond D), or fail; a write that failed has landed
//!   or not, a write that timed out lands at any later time, after writes of other hosts too. A read of several sectors
//!   is torn: each is seen as of one of two moments. So is a write of several: each lands at one of two moments, and
//!   perhaps never where the write fails or its machine loses power. Some sectors rot. In some runs scans, and only
//!   they, read a copy of the disk that is out of date.
//! - **Hosts**: a process is killed (its writes go on, and keep the local lock until they are over), and in some runs
//!   another one goes on with what it held; a machine reboots (each of its writes lands at that moment or never), a
//!   host is paused with its clock going on, also between the check of its deadline and the submission of the write
//!   that was checked. Clocks differ in rate by the bound that [`leasehold::stretched`] stands for, and in their zero.
//!   Every second pause is a suspend: a boot-time clock goes on. In some runs machines run sanlock.
//! - **Areas**: in some runs somebody wipes the area of a resource, makes it again or sets it back, at any time, in
//!   part, and while a write to it is on its way.
//! - **Budget**: faults stop after [`Options::duration`]. From then on I/O is prompt, what was in flight ends within T,
//!   and either every machine runs, or all are off for good and one that is new is alone. A few sectors rot in a run,
//!   but not so that they take the last trace of a version that was decided by two beyond the leader; nor does a late
//!   write of another formatting.
//!
//! # Properties
//! The names are those of the design; [`Failure`] says which one failed.
//! - **S1** At no moment are two leases active, unless both are shared. A lease is active from the answer "held" until
//!   its release begins, its machine reboots, or its local deadline + G, whatever became of the process. One that was
//!   taken by force may be active beside the one that took it, for as long as that was told at most. No two areas of
//!   one name have active leases.
//! - **S2** Each version that is held is larger than all held before; no version ever has two owners in a leader.
//! - **S3** A host id has one holder at a time; when the device is formatted again nobody holds one of the former
//!   lockspace, nor does anybody later, but until its first scan where a late write has put a former record back; what
//!   a process goes on with nobody takes for gone; and each holding has a new generation, larger than the one before
//!   it. Where a late write puts back the record of an earlier one nobody can know of the later one: then it is larger
//!   than those that did not follow such a record themselves. So it is where a format to other sizes has overwritten
//!   the record (docs/design/limits.md).
//! - **S4** When "held" is said the own block on disk claims the version. After any other answer no block on disk
//!   claims a version at or above the leader's for the generation that was answered, or says that it waits.
//!
//!   Where an area was wiped, S1, S2 and S4 hold but for what `check/wiped.rs` says.
//! - **V** Whoever gave a resource up, or shares it, has no write of its value in flight. A value that is said to be
//!   surely the newest is: none that was written after it was confirmed before it was read; to one whose lease was
//!   taken by force, and who has not seen that, none of its own version.
//! - **N** A host is told of requests and events that somebody sent, and of none that is not for it or for what it
//!   holds. When a call is said to stand, it does.
//! - **W** A machine never has two writes to one sector in flight, submits none after the deadline of its host id,
//!   releases the id only when all are over, and none of them lands in a sector of an id that another machine holds;
//!   unless a late write of a join that failed had put that machine's name on the id before. Where it then lands on a
//!   block, S1, S2 and S4 end for that resource; on the record, for all of them, and S3 for the id: a known limit
//!   (docs/design/limits.md). A declaration, or a record
//!   that is mended, may land there, too; so may what clears an area in which nobody ever owned a resource, a write of
//!   a host of a former lockspace, or a late one of a format.
//! - **L1** After the faults, a new host that is alone acquires within four D: it may have to wait for a damaged block,
//!   and then for generations that no record shows. Where it may have to format the device first, or to try other ids,
//!   it has 20 D.
//! - **L2** After the faults, every host acquires.

mod catalog;
mod check;
mod counters;
mod emphasis;
mod env;
mod host;
mod io;
mod machines;
mod options;
mod random;
mod storage;
mod wipes;
mod world;

use std::fmt;

pub use counters::Counters;
pub use emphasis::Emphasis;
pub use machines::{Boot, Kind};
pub use options::{Faults, Modes, Options};

impl Options {
    /// Runs the world to its end.
    ///
    /// # Errors
    /// The first property that failed, with the last part of the trace. A panic of the protocol counts as one.
    pub fn run(&self) -> Result<Counters, Box<Failure>> {
        let attempt = |traced: bool| {
            let mut world = world::World::new(self.clone(), traced);
            let run = std::panic::AssertUnwindSafe(|| world.run());
            let result = std::panic::catch_unwind(run).unwrap_or_else(|_| Err("panic in the protocol".into()));
            (result, world.into_trace())
        };
        match attempt(false).0 {
            Ok(counters) => Ok(counters),
            // Again, for the trace: writing it costs more than the run.
            Err(what) => Err(Box::new(Failure { options: self.clone(), what, trace: attempt(true).1 })),
        }
    }
}

/// A property that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run.
    pub options: Options,
    /// Which property, and how.
    pub what: String,
    /// The last lines of the trace.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{}", self.what)?;
        writeln!(f, "{:?}", self.options)?;
        write!(f, "LEASEHOLD_SEED={} cargo test --test simulation", self.options.seed)
    }
}
