//! A machine whose daemon acts on disk as sanlock does, by what can be seen of it from outside: docs/design/sanlock.md
//! has the facts. None of this is code of [`leasehold::protocol`], and none of it has an extension.
//!
//! What can't be seen is taken to be harmless:
//! - An I/O that fails is made again. While a write of it is in flight it writes nothing else to that resource.
//! - Its watchdog resets the machine when the daemon was stopped until the deadline of its host id + G.
//! - A new daemon begins when all that the one before it protected has stopped, and all its writes are over.

mod resource;

use std::collections::BTreeMap;
use std::time::Duration;

use self::resource::Slot;
use leasehold::format::{DeltaRecord, Geometry};
use leasehold::protocol::Written;
use leasehold::{Generation, HostId, Owner, Time};

use super::{Answer, Completion, End, Host, Process, Signal, Tag};
use crate::env::{Env, Event, lockspace, name};
use crate::storage::{Area, SECTOR, Sector, delta_at};

/// What comes of the bytes of a record that sanlock compares.
const COMPARED: usize = 200;
/// The pause before an I/O that failed is made again.
const PAUSE: Duration = Duration::from_millis(200);

/// A daemon.
pub(super) struct Sanlock {
    host: HostId,
    step: Step,
    /// The own record as it was written last, and as it was before that.
    written: Vec<DeltaRecord>,
    renewal_started: Time,
    deadline: Time,
    seen: BTreeMap<HostId, Watched>,
    slots: BTreeMap<Area, Slot>,
}

/// How far it has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Reading,
    Writing,
    Settling,
    Checking,
    Joined,
}

/// What an I/O or a pause of a daemon is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Joining,
    Renewal,
    /// What it does with a resource.
    Resource {
        area: Area,
        round: u32,
    },
}

fn daemon_reads(index: usize, env: &mut Env, of: Of, offsets: Vec<u64>) {
    let timeout = env.options.timeouts.io();
    env.read(index, Tag::Sanlock(of), 0, offsets, Some(timeout));
}

/// It looks at no clock before it writes.
fn daemon_writes(index: usize, env: &mut Env, of: Of, at: u64, bytes: &[u8]) {
    let timeout = env.options.timeouts.io();
    env.write(index, Tag::Sanlock(of), 0, (at, bytes), Time::MAX, Some(timeout));
}

/// What it has seen of the record of a host.
struct Watched {
    record: DeltaRecord,
    /// End of the first read that showed it.
    since: Time,
    /// Start of the last read that showed it.
    until: Time,
}

impl Host {
    /// Begins to join with the machine's own host id.
    pub(super) fn start_sanlock(&mut self, env: &mut Env, host: HostId) {
        let index = self.index;
        if env.storage.writing(index, |_, _| true) {
            env.signal_after(index, Duration::from_millis(10), Signal::Start);
            return;
        }
        for area in env.areas() {
            env.check.of(area).stopped(index);
        }
        self.id = Some(host);
        env.trace(|| format!("host {index} runs sanlock, and joins as {host}"));
        self.process = Process::Sanlock(Box::new(Sanlock {
            host,
            step: Step::Reading,
            written: Vec::new(),
            renewal_started: Time::ZERO,
            deadline: Time::MAX,
            seen: BTreeMap::new(),
            slots: BTreeMap::new(),
        }));
        daemon_reads(index, env, Of::Joining, vec![delta_at(host)]);
    }

    /// Whether it runs sanlock and has not renewed since so long ago that its watchdog resets the machine.
    pub(crate) fn is_reset(&self, env: &Env) -> bool {
        let Process::Sanlock(daemon) = &self.process else { return false };
        env.local(self.index) >= daemon.ends(env)
    }
}

impl Sanlock {
    pub(super) fn handle(&mut self, index: usize, env: &mut Env, signal: Signal) -> Option<End> {
        if env.local(index) >= self.deadline {
            return Some(End::Lost);
        }
        match signal {
            Signal::Sanlock(Of::Renewal) => {
                self.renewal_started = env.local(index);
                daemon_reads(index, env, Of::Renewal, env.known_ids().map(delta_at).collect());
                None
            }
            Signal::Sanlock(Of::Joining) => {
                self.step = Step::Checking;
                daemon_reads(index, env, Of::Joining, vec![delta_at(self.host)]);
                None
            }
            Signal::Io(Completion { tag: Tag::Sanlock(Of::Joining), started, answer, .. }) => {
                self.joining(index, env, started, answer)
            }
            Signal::Io(Completion { tag: Tag::Sanlock(Of::Renewal), started, answer, .. }) => {
                self.renewing(index, env, started, answer)
            }
            Signal::Act { area } => {
                self.act(index, env, area);
                None
            }
            Signal::Sanlock(Of::Resource { area, round }) => {
                self.go_on(index, env, (area, round), None);
                None
            }
            Signal::Io(Completion { tag: Tag::Sanlock(Of::Resource { area, round }), started, answer, .. }) => {
                if let Answer::Read(offsets, sectors) = &answer {
                    self.watch(index, env, started, offsets, sectors);
                }
                self.go_on(index, env, (area, round), Some(answer));
                None
            }
            _ => None,
        }
    }

    fn me(&self) -> Option<Owner> {
        let generation = Generation::new(self.written.last()?.generation)?;
        Some(Owner { host: self.host, generation })
    }

    /// When everything that it protects has stopped, whatever becomes of it.
    fn ends(&self, env: &Env) -> Time {
        self.deadline + env.options.timeouts.fence()
    }

    /// The record that it writes now.
    fn record(&self, generation: u64, index: usize, env: &Env) -> DeltaRecord {
        DeltaRecord {
            geometry: Geometry::default(),
            lockspace: lockspace(),
            owner_id: self.host.get(),
            generation,
            host_name: self.name(),
            timestamp: env.local(index).as_timestamp(),
            io_timeout: env.options.timeouts.io_seconds(),
            extension: None,
        }
    }

    fn name(&self) -> leasehold::Name {
        name(format!("sanlock{}", self.host.get()).as_bytes())
    }

    fn write_record(&mut self, index: usize, env: &mut Env, of: Of, record: DeltaRecord) {
        let at = delta_at(self.host);
        let bytes = record.encode(at);
        // Of those before only the last one may be on disk.
        let before = self.written.pop();
        self.written = before.into_iter().chain([record]).collect();
        daemon_writes(index, env, of, at, &bytes);
    }

    /// Whether `sector` shows what it wrote.
    fn is_own(&self, sector: &Sector) -> bool {
        let at = delta_at(self.host);
        self.written.iter().any(|record| record.encode(at)[..COMPARED] == sector[..COMPARED])
    }

    fn joining(&mut self, index: usize, env: &mut Env, started: Time, answer: Answer) -> Option<End> {
        match (self.step, answer) {
            (Step::Reading, Answer::Read(_, sectors)) => {
                let Ok(before) = DeltaRecord::decode(&sectors[0], delta_at(self.host)) else {
                    return Some(End::Refused);
                };
                // Its own name it takes without the long wait; another one is never there.
                if !before.is_free() && before.host_name != self.name() {
                    env.check.fail(format!("W: the record of {}, which runs sanlock, is of {before:?}", self.host));
                }
                let record = self.record(before.generation + 1, index, env);
                self.step = Step::Writing;
                self.write_record(index, env, Of::Joining, record);
                None
            }
            (Step::Writing, Answer::Wrote(Written::Done)) => {
                self.step = Step::Settling;
                self.deadline = started + env.options.timeouts.fail();
                env.signal_after(index, env.options.timeouts.io() * 2, Signal::Sanlock(Of::Joining));
                None
            }
            (Step::Checking, Answer::Read(_, sectors)) if self.is_own(&sectors[0]) => {
                self.step = Step::Joined;
                self.joined(index, env);
                None
            }
            _ => Some(End::Refused),
        }
    }

    fn joined(&mut self, index: usize, env: &mut Env) {
        let Some(me) = self.me() else { return };
        env.trace(|| format!("host {index}: sanlock holds {me}"));
        let until = env.machines[index].clock.world(self.deadline);
        env.check.joined(index, (me, env.storage.nonce), env.now, until);
        self.is_renewed(index, env);
        env.signal_after(index, Duration::ZERO, Signal::Sanlock(Of::Renewal));
        for area in env.areas() {
            let rest = env.random.span(Duration::ZERO, env.options.rest);
            env.signal_after(index, rest, Signal::Act { area });
        }
    }

    fn renewing(&mut self, index: usize, env: &mut Env, started: Time, answer: Answer) -> Option<End> {
        let timeouts = env.options.timeouts;
        match answer {
            Answer::Read(offsets, sectors) => {
                let at = delta_at(self.host);
                let own = offsets.iter().position(|offset| *offset == at).map(|index| &sectors[index]);
                if !own.is_some_and(|own| self.is_own(own)) {
                    return Some(End::Lost);
                }
                self.watch(index, env, started, &offsets, &sectors);
                match self.written.last().map(|record| record.generation) {
                    Some(generation) if !env.storage.writing(index, |_, offset| offset == at) => {
                        let record = self.record(generation, index, env);
                        self.write_record(index, env, Of::Renewal, record);
                    }
                    _ => env.signal_after(index, PAUSE, Signal::Sanlock(Of::Renewal)),
                }
            }
            Answer::Wrote(Written::Done) => {
                self.deadline = self.deadline.max(started + timeouts.fail());
                self.is_renewed(index, env);
                env.signal(index, self.renewal_started + timeouts.renewal(), Signal::Sanlock(Of::Renewal));
            }
            Answer::Failed | Answer::Wrote(Written::Failed) => {
                env.signal_after(index, PAUSE, Signal::Sanlock(Of::Renewal))
            }
            // It is waited for.
            Answer::Wrote(Written::InFlight) | Answer::TooLate => {}
        }
        None
    }

    fn is_renewed(&self, index: usize, env: &mut Env) {
        let clock = env.machines[index].clock;
        let (deadline, ends) = (clock.world(self.deadline), clock.world(self.ends(env)));
        env.check.renewed(index, deadline);
        if let Some(me) = self.me() {
            for (area, _) in self.slots.iter().filter(|(_, slot)| slot.holds()) {
                env.check.of(*area).extended(index, me, env.now, ends);
            }
        }
        env.signal(index, self.deadline, Signal::Tick);
        let epoch = env.machines[index].epoch;
        env.at(ends, Event::Watchdog { host: index, epoch });
    }

    /// Takes in the records of hosts that a read shows.
    fn watch(&mut self, index: usize, env: &Env, started: Time, offsets: &[u64], sectors: &[Sector]) {
        let now = env.local(index);
        for (at, sector) in offsets.iter().zip(sectors).filter(|(at, _)| Area::at(**at).is_none()) {
            let Ok(record) = DeltaRecord::decode(sector, *at) else { continue };
            let Some(host) = HostId::new(at / SECTOR + 1) else { continue };
            let same = |watched: &Watched| {
                (watched.record.generation, watched.record.timestamp) == (record.generation, record.timestamp)
            };
            match self.seen.get_mut(&host).filter(|watched| same(watched)) {
                Some(watched) => watched.until = started,
                None => drop(self.seen.insert(host, Watched { record, since: now, until: started })),
            }
        }
    }

    /// Whether it takes nothing of that generation to be active.
    fn is_dead(&self, owner: Owner) -> bool {
        let Some(Watched { record, since, until }) = self.seen.get(&owner.host) else { return false };
        let dead = Duration::from_secs(8 * u64::from(record.io_timeout) + 60);
        record.is_free()
            || record.generation > owner.generation.get()
            || record.generation == owner.generation.get() && until.since(*since) >= dead
    }
}
