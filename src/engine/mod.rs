//! Runs the protocol on a disk: effects become I/O, the ends of I/O become events. Nothing is decided here.
//!
//! | module | what it does |
//! |---|---|
//! | [`join`], [`resume`] | get a host id, and go on with one |
//! | [`member`] | the membership as the API uses it, and its threads |
//! | [`carrier`] | the thread that owns the machine of a membership |
//! | [`pulse`] | the machine as everybody else sees it: until when what is held |
//! | [`operations`], [`handover`], [`values`], [`calls`], [`control`] | its commands, in the words of the API |
//! | [`explain`], [`troubles`] | why one failed, in the words of the public errors |
//! | [`sightings`] | keeps what was seen of the hosts for the next process |
//! | [`feeding`] | feeds its watchdog |
//! | [`io`] | reads and writes with a timeout, for whoever is no member |
//! | [`procedure`] | carries out a procedure of whoever is no member |
//! | [`hosts`], [`areas`] | read the delta records, and resources' areas |
//! | [`identity`] | which machine and boot this is; the host-local lock |
//!
//! Threads of one membership: `leasehold` owns the machine and submits its I/O; `leasehold-watch` looks at the clock
//! and does no I/O, so that storage can't keep it from telling that a lease is late or lost; `leasehold-notice` tells
//! what other hosts say, if anybody wants to know. `leasehold-keep` writes a file that nobody waits for. I/O happens in
//! the disk's own threads. Callers wait for an answer.

pub(crate) mod areas;
pub(crate) mod blank;
pub(crate) mod calls;
mod carrier;
mod control;
mod explain;
pub(crate) mod feeding;
pub(crate) mod handover;
pub(crate) mod hosts;
pub(crate) mod identity;
pub(crate) mod io;
pub(crate) mod join;
pub(crate) mod member;
mod operations;
pub(crate) mod procedure;
pub(crate) mod pulse;
pub(crate) mod resume;
pub(crate) mod sightings;
mod troubles;
pub(crate) mod values;
