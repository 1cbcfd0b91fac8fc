//! Runs the protocol on a disk: effects become I/O, the ends of I/O become events.
//!
//! | module | what it does |
//! |---|---|
//! | [`io`] | reads and writes with a timeout, at most one write in flight for each sector |
//! | [`pulse`] | until when the host id is held; told to whoever watches |
//! | [`hosts`] | reads the delta records into the observer |
//! | [`sightings`] | keeps what was seen of them for the next process |
//! | [`member`] | the membership of one host: its threads and its resources |
//! | [`outbox`] | what this host says to others with its renewals |
//! | [`notices`] | what others say to it |
//! | [`feeding`] | feeds its watchdog |
//! | [`join`] | acquires a host id |
//! | [`declare`] | declares another host dead |
//! | [`repair`] | mends delta records and leaders |
//! | [`resume`] | goes on with the host id and leases of a process that has ended |
//! | [`procedure`] | carries out a procedure of the protocol: each of the four above |
//! | [`operations`] | acquires, converts and releases |
//! | [`carry`] | carries one to its end, and keeps what is held then |
//! | [`drive`] | carries the effects of one out |
//! | [`resources`] | what the membership has of each resource |
//! | [`areas`] | reads resources' areas |
//! | [`handover`] | hands what is held over to another host |
//! | [`explain`] | why one failed, in the words of the public errors |
//! | [`verify`] | looks whether what is held was taken by force |
//! | [`values`] | writes the value blocks of what is held |
//! | [`identity`] | which machine and boot this is; the host-local lock |
//!
//! Threads of one membership: `leasehold-renew` renews the host id, `leasehold-scan` reads the other hosts' records,
//! `leasehold-verify` looks whether a lease was taken by force,
//! `leasehold-watch` looks at the clock and does no I/O, so that storage can't keep it from telling that a lease is
//! late or lost. Acquire and release run in the thread that calls them; what they can't finish by its deadline goes on
//! in a thread of its own, `leasehold-undo`. `leasehold-keep` writes a file that nobody waits for. I/O happens in the
//! disk's own threads: a caller waits for it with a timeout.

pub(crate) mod areas;
mod carry;
mod catalog;
mod declare;
mod drive;
mod explain;
pub(crate) mod feeding;
pub(crate) mod handover;
pub(crate) mod hosts;
pub(crate) mod identity;
pub(crate) mod io;
pub(crate) mod join;
pub(crate) mod member;
pub(crate) mod notices;
mod operations;
pub(crate) mod outbox;
pub(crate) mod procedure;
pub(crate) mod pulse;
mod repair;
pub(crate) mod resources;
pub(crate) mod resume;
pub(crate) mod sightings;
pub(crate) mod values;
pub(crate) mod verify;
