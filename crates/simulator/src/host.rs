//! A machine's process: a carrier of [`leasehold::protocol`]'s machines, as the engine is one, and the program that
//! uses them. It holds no rule of the protocol.
//!
//! | file | what is in it |
//! |---|---|
//! | `formatting.rs` | finds out which lockspace there is, or formats the device |
//! | `sanlock.rs` | a daemon that acts on disk as sanlock does |
//! | `starting.rs` | gets a host id, or goes on with one |
//! | `carrying.rs` | carries out what the membership wants done |
//! | `program.rs` | what a program wants of it, as chance has it |
//! | `messages.rs` | values, requests and events |
//! | `remembering.rs` | what it keeps for the next process of its machine |
//! | `answers.rs` | what a program is told, and what the checker makes of that |

mod answers;
mod carrying;
mod formatting;
mod messages;
mod program;
mod remembering;
mod sanlock;
mod starting;

use std::rc::Rc;

use leasehold::Timeouts;
use leasehold::format::Geometry;
use leasehold::protocol::Written;
use leasehold::protocol::delta::Terms;
use leasehold::protocol::member::{IoId, Member as Machine};
use leasehold::protocol::rules::Rule;
use leasehold::{HostId, LeaseMode, Owner, Time, Version};

use super::env::{Env, NONCE, lockspace};
use super::storage::{Area, Sector};
use program::Program;
use sanlock::Sanlock;
use starting::{Starting, Token};

/// What happens to a process.
#[derive(Clone, Debug)]
pub(super) enum Signal {
    /// A process starts, or tries again to join.
    Start,
    /// The wait of the procedure that gets a host id is over.
    Woke,
    /// Time has passed for the membership.
    Tick,
    /// The program wants what comes next with a resource.
    Act { area: Area },
    /// A pause of a sanlock daemon is over.
    Sanlock(sanlock::Of),
    /// An I/O was completed, or timed out.
    Io(Completion),
}

/// What an I/O is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Finding out which lockspace there is.
    Opening,
    /// The procedure that a process begins with: it gets a host id by a join, goes on with one, or formats the device.
    Starting(Starts),
    /// The membership.
    Member { io: IoId, of: Whose },
    /// Looking for the lease that an earlier process had, as it is known to have held it.
    TakeUp { area: Area, listed: Option<(LeaseMode, Version)> },
    /// Reading the value of what is held at that version; the newest one of which it was known then that it was
    /// written.
    Value { area: Area, version: Version, confirmed: Option<(Version, u64)> },
    /// A sanlock daemon.
    Sanlock(sanlock::Of),
}

/// Whose sectors the I/O of a membership is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those that this host or everybody writes.
    Ours,
    /// The record of another host.
    Record,
    /// Those of everybody in an area that nobody uses.
    Area,
}

/// What a procedure that a process begins with is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starts {
    Reads,
    Joins,
    Resumes,
    Formats,
}

impl Tag {
    /// Whether it is a declaration, or mends a record.
    pub(super) const fn is_for_another(self) -> bool {
        matches!(self, Tag::Member { of: Whose::Record, .. })
    }

    /// Whether it clears an area.
    pub(super) const fn clears(self) -> bool {
        matches!(self, Tag::Member { of: Whose::Area, .. })
    }

    /// Whether it is a write to a sector of an id that its host does not hold: another one may, by the time it lands.
    pub(super) const fn strays(self) -> bool {
        matches!(self, Tag::Starting(Starts::Joins) | Tag::Member { of: Whose::Record | Whose::Area, .. })
    }

    /// Whether it is a sanlock daemon's: of a join, or another one.
    pub(super) const fn is_sanlocks(self) -> bool {
        matches!(self, Tag::Sanlock(_))
    }

    /// Whether its host has no host id yet.
    pub(super) const fn is_before(self) -> bool {
        matches!(self, Tag::Starting(_) | Tag::Sanlock(sanlock::Of::Joining))
    }

    /// Whether it is one that puts the name of its host's machine on the id.
    pub(super) const fn races(self) -> bool {
        matches!(self, Tag::Starting(Starts::Joins))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Completion {
    pub(super) tag: Tag,
    pub(super) started: Time,
    /// Its time-out was signalled before.
    pub(super) late: bool,
    pub(super) answer: Answer,
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Read(Rc<[u64]>, Vec<Sector>),
    Failed,
    Wrote(Written),
    /// The write was not submitted.
    TooLate,
}

/// What a process goes by whose timeouts are these, in the lockspace with that nonce.
pub(super) fn terms(timeouts: Timeouts, nonce: u32) -> Terms {
    Terms { geometry: Geometry::default(), lockspace: lockspace(), nonce, timeouts }
}

pub(super) struct Host {
    index: usize,
    /// The host id that this machine holds or held without releasing it.
    id: Option<HostId>,
    /// What it held last.
    latest: Option<Owner>,
    /// What the process before left.
    token: Option<Token>,
    /// Of the lockspace that it found last.
    nonce: u32,
    /// It is to format the device when it starts.
    formats: bool,
    process: Process,
}

enum Process {
    None,
    Opening,
    Starting(Box<Starting>),
    Member(Box<Member>),
    Sanlock(Box<Sanlock>),
}

/// A process with a membership.
struct Member {
    machine: Machine,
    program: Program,
    /// The deadline of the host id as the checker knows it.
    deadline: Time,
    /// When a signal comes to tell that time has passed.
    ticks: Option<Time>,
    /// When what it has seen was kept.
    kept: Option<Time>,
    ended: Option<End>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Lost,
    /// In the orderly way; the write that releases the id may have failed.
    Left {
        released: bool,
    },
    Refused,
}

impl Host {
    pub(super) const fn new(index: usize) -> Host {
        Host { index, id: None, latest: None, token: None, nonce: NONCE, formats: false, process: Process::None }
    }

    pub(super) const fn id(&self) -> Option<HostId> {
        self.id
    }

    pub(super) const fn latest(&self) -> Option<Owner> {
        self.latest
    }

    pub(super) fn process_is_gone(&mut self) {
        self.process = Process::None;
    }

    pub(super) fn handle(&mut self, env: &mut Env, signal: Signal) {
        match &mut self.process {
            Process::None => {
                if let Signal::Start = signal {
                    self.start(env);
                }
            }
            Process::Opening => self.opening(env, signal),
            Process::Starting(_) => self.starting(env, signal),
            Process::Sanlock(daemon) => {
                if let Some(end) = daemon.handle(self.index, env, signal) {
                    self.ended(env, end);
                }
            }
            Process::Member(member) => {
                member.handle(self.index, env, signal);
                if let Some(end) = member.ended {
                    self.ended(env, end);
                }
            }
        }
    }

    /// Whether its process has, or is after, what stands in the area.
    pub(super) fn uses(&self, area: Area) -> bool {
        matches!(&self.process, Process::Member(member) if member.program.uses(area))
    }

    /// Whether this host would take over what that generation has.
    pub(super) fn takes_for_gone(&mut self, env: &Env, other: Owner) -> Option<usize> {
        let now = env.local(self.index);
        let Process::Member(member) = &mut self.process else { return None };
        member.machine.observer().judge(other, now).is_gone().then_some(self.index)
    }

    fn ended(&mut self, env: &mut Env, end: End) {
        let index = self.index;
        env.trace(|| format!("host {index}: its process ends, {end:?}"));
        match end {
            End::Lost => env.check.counters.losses += 1,
            End::Left { released: true } => self.id = None,
            End::Left { released: false } | End::Refused => {}
        }
        env.check.left(index);
        self.process = Process::None;
        env.machines[index].epoch += 1;
        let rest = env.random.millis(1, 100);
        env.signal_after(index, rest, Signal::Start);
    }
}

impl Member {
    fn handle(&mut self, index: usize, env: &mut Env, signal: Signal) {
        let now = env.local(index);
        match signal {
            Signal::Tick => {
                self.keep_sightings(index, env);
                self.declare(index, env);
                if self.ticks.is_some_and(|at| at <= now) {
                    self.ticks = None;
                }
                self.passes(index, env);
            }
            Signal::Act { area } => self.act(index, env, area),
            Signal::Io(Completion { tag: Tag::Member { io, .. }, started, answer, .. }) => {
                self.io_ended(index, env, io, (started, answer));
            }
            Signal::Io(Completion { tag: Tag::TakeUp { area, listed }, started, answer, .. }) => {
                self.take_up(index, env, (area, listed), started, answer);
            }
            Signal::Io(Completion { tag: Tag::Value { area, version, confirmed }, answer, .. }) => {
                self.value_read(index, env, (area, version), confirmed, answer);
            }
            Signal::Start | Signal::Woke | Signal::Sanlock(_) | Signal::Io(_) => {}
        }
        // Whoever was not told of a loss goes on; the rules say that nothing comes of it.
        let stops = Rule::DeadlineBeforeWrite.is_in_force() && Rule::LostIsLatched.is_in_force();
        if self.ended.is_none() && stops && self.machine.loss(now).is_some() {
            self.ended = Some(End::Lost);
        }
    }
}
