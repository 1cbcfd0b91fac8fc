//! A deterministic world around the production protocol code: hosts with processes and clocks, disks, faults, in virtual
//! time. One seed gives one run; the same seed gives the same run.
//!
//! # Fault model
//! - **I/O**: takes a random time. It may be slow (beyond T), hang (beyond D), or fail; a write that failed has landed or
//!   not, a write that timed out lands at any later time, after writes of other hosts too. A read of several sectors is
//!   torn: each is seen as of one of two moments. Some sectors rot.
//! - **Hosts**: a process is killed (its writes go on, and keep the local lock until they are over), a machine reboots
//!   (each of its writes lands at that moment or never), a host is paused with its clock going on, also between the
//!   check of its deadline and the submission of the write that was checked. Clocks differ in rate by the bound that
//!   [`crate::stretched`] stands for, and in their zero.
//! - **Budget**: faults stop after [`Options::duration`]. From then on I/O is prompt, what was in flight ends within T,
//!   and either every machine runs, or all are off for good and one that is new is alone. A few sectors rot in
//!   a run, but not so that they take the last trace of a version that was decided by two beyond the leader.
//!
//! # Properties
//! The names are those of the design; [`Failure`] says which one failed.
//! - **S1** At no moment are two leases active. A lease is active from the answer "held" until its release begins, its
//!   machine reboots, or its local deadline + G, whatever became of the process.
//! - **S2** Each version that is held is larger than all held before; no version ever has two owners in a leader.
//! - **S3** A host id has one holder at a time, and each holding has a larger generation than the one before it, unless a
//!   late write of a join that failed put back the record of an earlier one: then nobody can know of the later one.
//! - **S4** When "held" is said the own block on disk claims the version. After any other answer no block on disk
//!   claims a version at or above the leader's for the generation that was answered, or says that it waits.
//! - **W** A machine never has two writes to one sector in flight.
//! - **L1** After the faults, a new host that is alone acquires within two D.
//! - **L2** After the faults, every host acquires.

mod check;
mod env;
mod host;
mod io;
mod random;
mod storage;
mod world;

use std::fmt;
use std::time::Duration;

pub use check::Counters;

use crate::timeouts::{Profile, Timeouts};

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random is drawn from it, behind the schedule.
    pub seed: u64,
    /// What decides before the seed does, two bytes for each decision: for a fuzzer. Empty: the seed decides all.
    pub schedule: Vec<u8>,
    /// Machines that contend for one resource.
    pub hosts: usize,
    /// Disks with a copy of the resource; host ids live on the first.
    pub disks: usize,
    /// The lockspace's timeouts.
    pub timeouts: Timeouts,
    /// How long faults go on.
    pub duration: Duration,
    /// How the run ends: with one new host alone, or with all hosts running.
    pub lone_end: bool,
    /// What goes wrong.
    pub faults: Faults,
}

/// What goes wrong, and how often.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Of 1000 I/Os, how many take up to 3 T.
    pub slow: u64,
    /// Of 1000 writes, how many take up to 3 D.
    pub hung: u64,
    /// Of 1000 I/Os, how many fail.
    pub eio: u64,
    /// Of 1000 writes, before how many the host is paused after the deadline was checked.
    pub stall: u64,
    /// The mean time between two kills, reboots or pauses; zero for none.
    pub upset: Duration,
    /// How many sectors rot: blocks and delta records.
    pub rot: u64,
    /// Whether those are bad for good, and neither readable nor writable.
    pub bad_sector: bool,
    /// Bound on the rate error of clocks, in parts per million.
    pub clock_ppm: u64,
}

impl Options {
    /// The run that belongs to `seed`: its size and its faults are drawn from it too.
    pub fn of_seed(seed: u64) -> Options {
        let mut random = random::Random::new(!seed);
        let mut rate = |most: u64| if random.chance(300) { 0 } else { random.below(most + 1) };
        let faults = Faults {
            slow: rate(40),
            hung: rate(25),
            eio: rate(30),
            stall: rate(15),
            upset: Duration::from_millis(rate(1_500)),
            rot: rate(4).saturating_sub(2),
            bad_sector: rate(3) == 3,
            clock_ppm: rate(crate::timeouts::CLOCK_RATE_ERROR_PPM),
        };
        // While a host lives, its bad block is in the way of all; and two with damaged blocks wait for each other.
        let lone_end = random.chance(300) || faults.bad_sector || faults.rot > 1;
        Options {
            seed,
            schedule: Vec::new(),
            hosts: 2 + random.below(3) as usize,
            disks: 1,
            timeouts: Profile::Fast.timeouts(),
            duration: Duration::from_secs(6),
            lone_end,
            faults,
        }
    }

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
        write!(f, "LEASEHOLD_SEED={} cargo test --features sim --test simulation", self.options.seed)
    }
}
