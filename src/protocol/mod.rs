//! The protocol as pure state machines: event in, effect out.
//!
//! There is no clock, file, thread or random source in here. Every event carries its time and, where a choice must
//! differ from host to host, a random number. The engine, the simulator and the model run this same code.
//!
//! | module | what it decides |
//! |---|---|
//! | [`identity`] | which machine and boot a process belongs to, if that can be known |
//! | [`delta`] | who holds a host id: acquire, renew, release |
//! | [`choice`] | which host id an automatic join tries |
//! | [`declare`] | whether a host may be declared dead by its caller's word |
//! | [`liveness`] | whether another host's generation is live, over or dead, from reads of its record |
//! | [`sightings`] | what of that counts for the next process of the machine |
//! | [`resumption`] | whether a restarted process goes on with its predecessor's generation and leases |
//! | [`ballot`] | one consensus instance of Disk Paxos over any number of disks |
//! | [`catalog`] | which lockspace stands on a device, and how a device is formatted |
//! | [`holding`] | until when a lease is held, when it is looked at, when it is given back if it is lost alone |
//! | [`looks`] | what a look at a lease says of it, and what is written for it |
//! | [`mend`] | what is written in the place of a damaged delta record |
//! | [`procedure`] | nothing: what machines that read, write and wait on sectors have in common |
//! | [`reading`] | what sectors say in this formatting of the device |
//! | [`record`] | nothing: the same for machines that work on one delta record |
//! | [`resource`] | a lease of either mode: judge, ballot, commit, wait, take over, convert, repair, release, give up |
//! | [`rules`] | nothing: the names of the rules, by which the mutants' build switches one off |
//!
//! What it rests on: "Disk Paxos" (Gafni and Lamport, 2003) for the ballot, "Light-weight leases for storage-centric
//! coordination" (Chockler and Malkhi, 2004) for the delta lease. docs/design argues what was added to them.

pub mod area;
pub mod ballot;
pub mod catalog;
pub mod choice;
pub mod declare;
pub mod delta;
pub mod holding;
pub mod identity;
pub mod liveness;
pub mod looks;
pub mod member;
pub mod mend;
pub mod procedure;
pub mod reading;
pub mod record;
pub mod resource;
pub mod resumption;
pub mod rules;
pub mod sightings;

use crate::format::Corrupt;
use crate::types::{Name, Time};

/// What a read showed where a record belongs. A read that showed nothing of all it was for is not `Seen`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seen<T> {
    /// A valid record.
    Good(T),
    /// No valid record. It may hold anything, and is never taken for "free".
    Bad(Defect),
}

/// Why a sector shows no valid record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Defect {
    /// Its bytes are damaged, or something else's.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// It can't be read, though its neighbours can.
    #[error("the sector can't be read")]
    Unreadable,
    /// It is another resource's, or another lockspace's.
    #[error("it belongs to resource {resource} of lockspace {lockspace}")]
    Foreign {
        /// The resource that it names.
        resource: Name,
        /// The lockspace that it names.
        lockspace: Name,
    },
    /// It was written in a lockspace that stood here before, or stands here since.
    #[error("it belongs to another formatting of the device, that with the nonce {nonce:#010x}")]
    OtherFormatting {
        /// The nonce of that lockspace.
        nonce: u32,
        /// The version that a leader or a block shows, the generation of a host's record.
        number: u64,
    },
    /// The resource was deleted.
    #[error("the resource was deleted")]
    Deleted,
}

impl<T> From<Result<T, Defect>> for Seen<T> {
    fn from(read: Result<T, Defect>) -> Seen<T> {
        match read {
            Ok(record) => Seen::Good(record),
            Err(defect) => Seen::Bad(defect),
        }
    }
}

impl<T> Seen<T> {
    /// The record, if it is valid.
    pub fn good(&self) -> Option<&T> {
        match self {
            Seen::Good(record) => Some(record),
            Seen::Bad(_) => None,
        }
    }

    /// What is wrong, if there is no valid record.
    pub const fn bad(&self) -> Option<&Defect> {
        match self {
            Seen::Good(_) => None,
            Seen::Bad(defect) => Some(defect),
        }
    }
}

/// When an I/O was submitted and when its completion was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Not after the submission.
    pub started: Time,
    /// Not before the completion.
    pub ended: Time,
}

/// How a write ended, as far as can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Written {
    /// It is durable.
    Done,
    /// It is over and was reported as failed: it may have reached the disk or not.
    Failed,
    /// It wasn't over in time. It may reach the disk at any later moment, and nothing else may be written to that
    /// sector until it is over.
    InFlight,
}

/// The next of the numbers that follow from `state`, by SplitMix64 (Steele, Lea and Flood, "Fast splittable
/// pseudorandom number generators", 2014): for whoever was given one random number and needs several.
pub const fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
