//! A machine's process: drives the state machines of [`crate::protocol`] as the engine does, with one renewal, one scan
//! and, on each resource, one operation at a time.
//!
//! What it answers for itself, and the machines rely on:
//! - The deadline is checked before each effect and before each write. After the loss nothing more is submitted.
//! - While a write is in flight to a sector, nothing else is written there.
//! - A new process waits until the writes of the one before it are over: they keep the local lock.

mod declaring;
mod handing;
mod joining;
mod leasing;
mod procedures;
mod remembering;
mod resuming;
mod signal;
mod slot;
mod verifying;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::declaring::Word;
use self::leasing::view;
use self::resuming::Token;
pub(super) use self::signal::{Answer, Completion, Signal, Tag};
use self::signal::{Begun, Wanted};
use self::slot::Slot;
use super::env::{Env, NONCE, lockspace};
use super::storage::{Area, Sector, delta_at, readable};
use crate::format::{DeltaRecord, Geometry};
use crate::protocol::delta::{Acquire, Tenure, Terms, may_release};
use crate::protocol::liveness::Observer;
use crate::protocol::resource::Event;
use crate::protocol::resumption::Resume;
use crate::protocol::rules::in_force;
use crate::protocol::{Seen, Span, Written, reading};
use crate::timeouts::Timeouts;
use crate::types::{HostId, Owner, Time};

/// What the sector of a host record shows.
fn record(sector: &[u8], at: u64) -> Seen<DeltaRecord> {
    reading::record(readable(sector), at, NONCE)
}

/// What a process goes by whose timeouts are these.
fn terms(timeouts: Timeouts) -> Terms {
    Terms { geometry: Geometry::default(), lockspace: lockspace(), nonce: NONCE, timeouts }
}

pub(super) struct Host {
    index: usize,
    /// The host id that this machine holds or held without releasing it.
    id: Option<HostId>,
    /// What it held last.
    latest: Option<Owner>,
    /// What the process before left.
    token: Option<Token>,
    process: Process,
}

enum Process {
    None,
    Joining(HostId, Box<Acquire>),
    Resuming(Token, Box<Resume>),
    Member(Box<Member>),
}

struct Member {
    tenure: Tenure,
    timeouts: Timeouts,
    observer: Observer,
    /// When what it has seen was kept.
    kept: Option<Time>,
    /// Scans under way.
    scanning: u32,
    /// The ids that the last complete scan showed in use, and when it started.
    known: Option<(Time, BTreeSet<HostId>)>,
    renewal_started: Time,
    slots: BTreeMap<Area, Slot>,
    leaving: bool,
    word: Option<Word>,
}

impl Host {
    pub(super) fn new(index: usize) -> Host {
        Host { index, id: None, latest: None, token: None, process: Process::None }
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
        let now = env.local(self.index);
        let index = self.index;
        match &mut self.process {
            Process::None => {
                if let Signal::Start = signal {
                    self.start(env);
                }
            }
            Process::Joining(..) => self.joining(env, signal),
            Process::Resuming(..) => self.resuming(env, signal),
            Process::Member(member) => {
                if in_force!(DeadlineBeforeWrite) {
                    member.tenure.tick(now);
                }
                let stops = !member.tenure.held(now) && in_force!(DeadlineBeforeWrite) && in_force!(LostIsLatched);
                let end = if stops { Some(End::Lost) } else { member.handle(index, env, signal) };
                if let Some(end) = end {
                    self.ended(env, end);
                }
            }
        }
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

/// How a process ended.
#[derive(Debug)]
enum End {
    Lost,
    /// In the orderly way; the write that releases the id may have failed.
    Left {
        released: bool,
    },
    Refused,
}

impl Member {
    fn new(tenure: Tenure, lockspace: Timeouts, own: Timeouts) -> Member {
        Member {
            tenure,
            observer: Observer::new(lockspace),
            timeouts: own,
            kept: None,
            scanning: 0,
            known: None,
            renewal_started: Time::ZERO,
            slots: BTreeMap::new(),
            leaving: false,
            word: None,
        }
    }

    /// What this process has of a resource.
    fn slot(&mut self, area: Area) -> &mut Slot {
        self.slots.entry(area).or_default()
    }

    fn handle(&mut self, index: usize, env: &mut Env, signal: Signal) -> Option<End> {
        let (now, me) = (env.local(index), self.tenure.me());
        match signal {
            Signal::Renew => {
                self.renewal_started = now;
                env.read(index, Tag::Renew, 0, vec![delta_at(me.host)]);
            }
            Signal::Scan => {
                self.declare(index, env);
                if self.scanning == 0 {
                    self.scan(index, env, None);
                }
                env.signal_after(index, env.options.scan, Signal::Scan);
            }
            Signal::Verify { area, version } => return self.verify(index, env, (area, version)),
            Signal::Act { area } => return self.act(index, env, area),
            Signal::CallOff { of } => {
                if let Some(operation) = self.slot(of.area).under_way(of) {
                    env.trace(|| format!("host {index} calls off"));
                    operation.call_off();
                }
            }
            Signal::Woke { of, round } => return self.step(index, env, (of, round), Event::Woke),
            signal @ (Signal::ProcedureWoke(_) | Signal::Io(Completion { tag: Tag::Declare, .. })) => {
                self.declaring(index, env, signal);
            }
            Signal::Io(completion) => return self.completed(index, env, completion),
            Signal::Start | Signal::Deadline => {}
        }
        None
    }

    fn scan(&mut self, index: usize, env: &mut Env, wanted_by: Option<Wanted>) {
        self.scanning += 1;
        let offsets = env.known_ids().map(delta_at).collect();
        let known_from = env.local(index);
        env.read(index, Tag::Scan { known_from, wanted_by }, 0, offsets);
    }

    fn completed(&mut self, index: usize, env: &mut Env, completion: Completion) -> Option<End> {
        let Completion { tag, started, late, stale, answer } = completion;
        let span = Span { started, ended: env.local(index) };
        match (tag, answer) {
            (Tag::Renew, Answer::Read(_, sectors)) => self.renew(index, env, &sectors[0]),
            (Tag::Renew, Answer::Failed) => {
                env.signal_after(index, Duration::from_millis(5), Signal::Renew);
                None
            }
            (Tag::Renew, Answer::Wrote(written)) => {
                self.tenure.renewed(span, written, span.ended);
                self.renewed(index, env);
                match written {
                    Written::Done => {
                        env.signal(index, self.renewal_started + self.timeouts.renewal(), Signal::Renew);
                    }
                    Written::Failed => env.signal_after(index, Duration::from_millis(5), Signal::Renew),
                    // Nothing more is written there until it is over.
                    Written::InFlight => {}
                }
                None
            }
            (Tag::Leave, Answer::Wrote(written)) => Some(End::Left { released: written == Written::Done }),
            (Tag::Scan { known_from, wanted_by }, answer) => {
                self.scanning -= 1;
                if let Answer::Read(offsets, sectors) = answer {
                    self.scanned(env, (known_from, stale), span, &offsets, &sectors);
                    self.keep_sightings(index, env);
                }
                match wanted_by? {
                    Wanted::Operation(of, round) => self.step(index, env, (of, round), Event::Scanned),
                    Wanted::Look(area, version) => {
                        self.look(index, env, (area, version));
                        None
                    }
                }
            }
            (Tag::Operation { of, round, disk, since }, answer) => {
                let slot = self.slot(of.area);
                let current = of.number == slot.begun;
                // Of several disks, one may still write what a majority has; then nobody waits for it, but to settle.
                if let (Answer::Wrote(_), true) = (&answer, late || !current || slot.settling.is_some()) {
                    return self.settled(index, env, of.area);
                }
                let event = match answer {
                    Answer::Read(offsets, sectors) => Event::Read { disk, span, since, view: view(&offsets, &sectors) },
                    Answer::Failed => Event::ReadFailed { disk },
                    Answer::Wrote(written) => Event::Wrote { disk, written },
                    // Only of procedures.
                    Answer::TooLate => return None,
                };
                self.step(index, env, (of, round), event)
            }
            (Tag::Verify { of, version }, answer) => {
                self.verified(index, env, (of, version), started, answer);
                None
            }
            (Tag::Restore { area, version }, Answer::Wrote(written)) => {
                if written == Written::Done {
                    self.restored(index, env, (area, version));
                }
                self.settled(index, env, area)
            }
            (Tag::TakeUp { area, listed }, answer) => self.take_up(index, env, (area, listed), started, answer),
            (Tag::Join | Tag::Resume | Tag::Declare | Tag::Renew | Tag::Leave | Tag::Restore { .. }, _) => None,
        }
    }

    /// A write has ended, for whose end an operation may wait.
    fn settled(&mut self, index: usize, env: &mut Env, area: Area) -> Option<End> {
        let slot = self.slot(area);
        let settled = slot.settling.filter(|_| !env.storage.writing(index, |_, at| area.has(at)))?;
        slot.settling = None;
        let of = Begun { area, number: slot.begun };
        self.step(index, env, (of, settled), Event::Settled)
    }

    /// The deadline is where the tenure has it now.
    fn renewed(&self, index: usize, env: &mut Env) {
        let deadline = self.tenure.deadline();
        env.check.renewed(index, env.machines[index].clock.world(deadline));
        for area in self.slots.keys() {
            self.extend(index, env, *area);
        }
        env.signal(index, deadline, Signal::Deadline);
    }

    fn renew(&mut self, index: usize, env: &mut Env, sector: &[u8]) -> Option<End> {
        let (now, at) = (env.local(index), delta_at(self.tenure.me().host));
        let seen = record(sector, at);
        let idle = self.slots.values().all(Slot::is_idle);
        let may_leave = self.leaving && idle && may_release(!env.storage.writing(index, |_, _| true));
        let record = match may_leave {
            true => self.tenure.release(now, &seen),
            false => self.tenure.renew(now, &seen),
        };
        let Ok(record) = record else {
            return Some(End::Lost);
        };
        if may_leave {
            env.trace(|| format!("host {index} leaves"));
            if env.storage.writing(index, |_, _| true) {
                env.check.fail(format!("W: machine {index} releases its host id while it has a write in flight"));
            }
            env.check.left(index);
        }
        let tag = if may_leave { Tag::Leave } else { Tag::Renew };
        env.write(index, tag, 0, at, record.encode(at));
        None
    }

    /// When it began, and whether it read a stale copy.
    fn scanned(
        &mut self,
        env: &mut Env,
        (known_from, stale): (Time, bool),
        span: Span,
        offsets: &[u64],
        sectors: &[Sector],
    ) {
        let records: Vec<(HostId, Seen<DeltaRecord>)> = env
            .known_ids()
            .zip(offsets.iter().zip(sectors))
            .map(|(host, (at, sector))| (host, record(sector, *at)))
            .collect();
        let own = records.iter().find(|(host, _)| *host == self.tenure.me().host).and_then(|(_, value)| value.good());
        let content = own.and_then(|record| self.tenure.recognises(record));
        let used = |value: &Seen<DeltaRecord>| value.good().is_none_or(|record| record.generation != 0);
        let known = records.iter().filter(|(_, value)| used(value) || stale).map(|(host, _)| *host).collect();
        let counts = content.is_some() || !in_force!(ConfirmedByMirror);
        if counts && self.known.as_ref().is_none_or(|(from, _)| *from <= known_from) {
            self.known = Some((known_from, known));
        }
        for (host, value) in records {
            self.observer.observe(host, span, content, value);
        }
    }
}
