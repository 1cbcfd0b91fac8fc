//! Everything but the processes: time, machines, disks, and what may go wrong with them.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use leasehold::Timeouts;
use leasehold::format::{Block, DeltaRecord, Geometry, Leader};
use leasehold::protocol::sightings::Sightings;
use leasehold::{HostId, MachineId, Name, Owner, Time, Version};

use super::check::Checker;
use super::host::Signal;
use super::io::{Landing, Submission};
use super::random::{Clock, Random};
use super::storage::{Action, Area, SECTOR, Sector, Storage, delta_at};
use super::{Kind, Options};

/// What happens in the world.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A read takes its first or second look, a write lands.
    Takes(u64),
    Completes(u64),
    TimesOut(u64),
    Signal {
        host: usize,
        epoch: u64,
        signal: Signal,
    },
    Resume {
        host: usize,
        pause: u64,
    },
    /// The watchdog of a sanlock host fires, unless the process has renewed.
    Watchdog {
        host: usize,
        epoch: u64,
    },
    Upset,
    /// An operator has a machine fenced whose join hung, and hit the record of who holds that id.
    Fence {
        host: usize,
        hit: HostId,
    },
    /// Most hosts are away at once, and one formats the device again.
    Reformat,
    Rot {
        offset: u64,
    },
    /// Somebody begins to wipe the area of a resource.
    Wipe {
        area: Area,
    },
    Wiped {
        offset: u64,
        bytes: Sector,
    },
    /// What was wiped is known by now to all who held it.
    IsKnown {
        area: Area,
    },
    Quiet,
}

/// An event and its time. The largest is the one that comes first.
pub(super) struct Due {
    pub(super) at: Time,
    pub(super) sequence: u64,
    pub(super) event: Event,
}

pub(super) type Queue = BinaryHeap<Due>;

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

/// A write whose host was paused before its submission.
pub(super) struct Stalled {
    pub(super) epoch: u64,
    /// Before the clock was looked at for it.
    pub(super) unchecked: bool,
    pub(super) submission: Submission,
}

/// What the world knows of a machine beside its processes.
pub(super) struct Machine {
    pub(super) clock: Clock,
    pub(super) boot: u32,
    /// Changes with each process: what was meant for another one is dropped.
    pub(super) epoch: u64,
    pub(super) paused: bool,
    pub(super) pauses: u64,
    pub(super) inbox: VecDeque<(u64, Signal)>,
    pub(super) stalled: Vec<Stalled>,
    /// When it was suspended, if it is.
    pub(super) suspended: Option<Time>,
    /// What its processes have seen of the others.
    pub(super) sightings: Sightings,
    /// What its scans read instead of the disk.
    pub(super) stale: Option<Box<Storage>>,
    /// The host id whose local lock a process has taken, and which process.
    pub(super) locked: Option<(HostId, u64)>,
}

/// A generation of which it is known that its machine was fenced.
#[derive(Clone, Copy)]
pub(super) struct Fenced {
    pub(super) owner: Owner,
    /// The machine, where it never held that: a join of its has failed, and left the record.
    pub(super) left_by: Option<MachineId>,
}

/// Everything but the processes.
pub(super) struct Env {
    pub(super) options: Options,
    pub(super) now: Time,
    pub(super) random: Random,
    pub(super) storage: Storage,
    pub(super) check: Checker,
    pub(super) machines: Vec<Machine>,
    /// Faults are over.
    pub(super) quiet: bool,
    /// Machines that acquired since then, and what.
    pub(super) acquired: BTreeSet<(usize, Area)>,
    /// Generations of machines that have lost their power.
    pub(super) fenced: Vec<Fenced>,
    /// A generation that a process has just begun to go on with.
    pub(super) resumed: Option<Owner>,
    /// A sector is damaged.
    pub(super) rotted: bool,
    pub(super) queue: Queue,
    pub(super) sequence: u64,
    pub(super) trace: Option<VecDeque<String>>,
}

const TRACE_LINES: usize = 400;

impl Env {
    /// Machines without power, and formatted disks.
    pub(super) fn new(options: Options, traced: bool) -> Env {
        let clock = Clock { started: Time::ZERO, zero: Time::ZERO, ppm: 0 };
        let machine = |_| Machine {
            clock,
            boot: 0,
            epoch: 0,
            paused: false,
            pauses: 0,
            inbox: VecDeque::new(),
            stalled: Vec::new(),
            suspended: None,
            sightings: Sightings::default(),
            stale: None,
            locked: None,
        };
        // One more, which is alone in the end.
        let count = options.hosts + 1;
        let mut env = Env {
            now: Time::ZERO,
            random: Random::with_schedule(options.seed, &options.schedule),
            storage: Storage::new(options.disks),
            check: Checker::new(count),
            machines: (0..count).map(machine).collect(),
            quiet: false,
            acquired: BTreeSet::new(),
            fenced: Vec::new(),
            resumed: None,
            rotted: false,
            queue: Queue::new(),
            sequence: 0,
            trace: traced.then(VecDeque::new),
            options,
        };
        env.format();
        env
    }

    pub(super) fn trace(&mut self, line: impl FnOnce() -> String) {
        let now = self.now.as_nanos() / 1_000;
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_LINES {
                trace.pop_front();
            }
            trace.push_back(format!("{:>6}.{:03} ms  {}", now / 1_000, now % 1_000, line()));
        }
    }

    pub(super) fn local(&self, host: usize) -> Time {
        self.machines[host].clock.local(self.now)
    }

    /// How many host ids the lockspace has, one more than are used before the end.
    pub(super) fn ids(&self) -> u64 {
        self.options.ids + 1
    }

    /// The largest host id, which may be a sanlock host's.
    pub(super) fn highest_id(&self) -> u64 {
        self.ids() + self.sanlock_hosts() as u64
    }

    /// The ids that have a record. Where the sizes change there are as many as on a real device: late writes hit no
    /// larger part of them.
    pub(super) fn recorded_ids(&self) -> impl Iterator<Item = HostId> + Clone + use<> {
        let most = if self.options.faults.resizes > 0 { Geometry::default().max_hosts() } else { self.highest_id() };
        (1..=most).filter_map(HostId::new)
    }

    /// What a host joins with: every second one may be slower than the lockspace says.
    pub(super) fn timeouts(&self, host: usize) -> Timeouts {
        if host % 2 == 1 { self.options.slower } else { self.options.timeouts }
    }

    pub(super) fn known_ids(&self) -> impl Iterator<Item = HostId> + Clone + use<> {
        (1..=self.highest_id()).filter_map(HostId::new)
    }

    /// The first id after all that were used.
    pub(super) fn unused_id(&self) -> Option<HostId> {
        let is_used = |record: &DeltaRecord| record.generation > 0;
        let used = self.known_ids().filter(|id| self.storage.delta(delta_at(*id)).good().is_none_or(is_used));
        HostId::new(used.map(HostId::get).max().map_or(1, |used| used + 1).min(self.options.ids))
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.push(Due { at, sequence: self.sequence, event });
    }

    /// So many times, at any moment before the faults are over.
    pub(super) fn sometime(&mut self, times: u64, what: impl Fn(&mut Env) -> Event) {
        for _ in 0..times {
            let at = self.random.span(Duration::ZERO, self.options.duration);
            let event = what(self);
            self.at(Time::ZERO + at, event);
        }
    }

    /// Gives a signal to the process that runs now on `host`, when its clock shows `local`.
    pub(super) fn signal(&mut self, host: usize, local: Time, signal: Signal) {
        let at = self.machines[host].clock.world(local).max(self.now);
        let epoch = self.machines[host].epoch;
        self.at(at, Event::Signal { host, epoch, signal });
    }

    pub(super) fn signal_after(&mut self, host: usize, span: Duration, signal: Signal) {
        self.signal(host, self.local(host) + span, signal);
    }

    pub(super) fn pause(&mut self, host: usize) {
        let most = if self.random.chance(500) { self.options.timeouts.dead() * 2 } else { self.options.timeouts.io() };
        let span = self.random.span(Duration::ZERO, most);
        self.pause_for(host, span);
    }

    pub(super) fn pause_for(&mut self, host: usize, span: Duration) {
        self.check.counters.upsets += 1;
        let machine = &mut self.machines[host];
        machine.paused = true;
        machine.pauses += 1;
        machine.suspended = machine.pauses.is_multiple_of(2).then_some(self.now);
        let pause = machine.pauses;
        self.trace(|| format!("host {host} is paused for {span:?}"));
        self.at(self.now + span, Event::Resume { host, pause });
    }

    /// A machine loses its power: each sector of its writes lands now or never.
    pub(super) fn power_off(&mut self, host: usize) {
        self.trace(|| format!("host {host} loses power"));
        let gone: Vec<u64> = self.storage.ios.iter().filter(|(_, io)| io.host == host).map(|(id, _)| *id).collect();
        for id in gone {
            let Some(io) = self.storage.ios.remove(&id) else { continue };
            let landing = Landing::of(&io);
            let Action::Write { offset, parts } = io.action else { continue };
            for (at, part) in (offset..).step_by(SECTOR as usize).zip(parts) {
                if part.lands && self.random.chance(500) {
                    self.part_lands(landing, at, part.bytes);
                }
            }
        }
        let zero = Time::from_nanos(self.random.below(10_000_000_000));
        let bound = self.options.faults.clock_ppm as i64;
        // At the bound as often as somewhere below it.
        let ppm = match self.random.below(4) {
            0 => bound,
            1 => -bound,
            _ => self.random.below(2 * bound as u64 + 1) as i64 - bound,
        };
        let clock = Clock { started: self.now, zero, ppm };
        // Hosts on one machine have one clock, and lose their power one after the other.
        let first = self.on_machine_of(host).first().copied().filter(|first| *first < host);
        let clock = first.map_or(clock, |first| self.machines[first].clock);
        let machine = &mut self.machines[host];
        machine.clock = clock;
        machine.boot += 1;
        machine.stale = None;
        self.check.rebooted(host);
    }

    /// The machine's process is gone.
    pub(super) fn kill(&mut self, host: usize) {
        self.trace(|| format!("host {host}: its process is killed"));
        let machine = &mut self.machines[host];
        machine.epoch += 1;
        machine.paused = false;
        machine.inbox.clear();
        machine.stalled.clear();
        machine.suspended = None;
    }

    pub(super) fn upset_later(&mut self) {
        let mean = self.options.faults.upset;
        if !mean.is_zero() {
            let span = self.random.span(Duration::ZERO, mean * 2);
            self.at(self.now + span, Event::Upset);
        }
    }

    /// A host's block or its delta record.
    pub(super) fn any_sector(&mut self) -> u64 {
        let block = self.random.chance(700);
        let id = HostId::new(self.random.below(self.options.hosts as u64) + 1);
        let area = self.any_area();
        id.map_or(area.offset(), |id| if block { area.block_at(id) } else { delta_at(id) })
    }

    /// The areas in which resources are, or may be made.
    pub(super) fn areas(&self) -> impl Iterator<Item = Area> + Clone + use<> {
        (0..self.options.resources.max(self.options.places)).map(Area::of_resource)
    }

    /// Whether a machine has acquired each resource that is there since the faults are over.
    pub(super) fn has_acquired(&self, host: usize) -> bool {
        self.areas().all(|area| self.acquired.contains(&(host, area)) || self.resource_in(area).is_none())
    }

    /// One of the resources. Where there is but one nothing is drawn for it.
    pub(super) fn any_area(&mut self) -> Area {
        let count = self.options.resources as u64;
        Area::of_resource(if count > 1 { self.random.below(count) as usize } else { 0 })
    }

    /// One sector is damaged.
    pub(super) fn rot(&mut self, offset: u64) {
        let mut sector = self.storage.sector(0, offset).to_vec();
        if sector.is_empty() {
            return;
        }
        let byte = self.random.below(48) as usize;
        sector[byte] ^= 0x55;
        if self.options.faults.bad_sector {
            sector.clear();
        }
        if self.would_forget(0, offset, &sector) {
            return;
        }
        self.trace(|| format!("sector {offset} rots"));
        self.storage.put(0, offset, sector.into());
        self.rotted = true;
        self.changed(offset);
    }

    /// A machine has lost its power. What it wrote in a join that failed, and landed late, is declared dead, too: that
    /// is all that the disk shows of the id then.
    pub(super) fn fenced_as_shown(&mut self, host: usize) {
        if self.options.faults.declares == 0 || self.kind(host) != Kind::Machine {
            return;
        }
        let machine = MachineId::new(host as u64 + 1);
        let failed = |record: &DeltaRecord| {
            let extension = record.extension.as_ref();
            !record.is_free() && extension.is_some_and(|it| it.machine == machine && !it.confirmed)
        };
        let shown = self.known_ids().filter_map(|id| self.storage.delta(delta_at(id)).good().cloned());
        let shown = shown.filter(failed).filter_map(|record| record.owner());
        let shown: Vec<Fenced> = shown.map(|owner| Fenced { owner, left_by: machine }).collect();
        self.fenced.extend(shown);
    }

    /// Whether the record shows that generation, but of another machine than the one that was fenced: joins of two
    /// machines may come to one number. An operator sees that, and gives no word.
    pub(super) fn is_of_another(&self, fenced: Fenced) -> bool {
        let Fenced { owner, left_by } = fenced;
        let record = self.storage.delta(delta_at(owner.host)).good().cloned();
        let shown = record.filter(|record| record.owner() == Some(owner)).and_then(|record| record.extension?.machine);
        left_by.is_some() && shown.is_some() && shown != left_by
    }

    /// The record of a machine that has lost its power may be damaged then. No second one is: who mends it needs an id.
    pub(super) fn rot_record(&mut self, owner: Option<Owner>) {
        let rate = self.options.faults.rot_record;
        let Some(owner) = owner.filter(|owner| rate > 0 && self.check.latest(owner.host) == Some(*owner)) else {
            return;
        };
        let damaged = self.known_ids().any(|id| self.storage.delta(delta_at(id)).bad().is_some());
        if !damaged && self.random.chance(rate) {
            self.rot(delta_at(owner.host));
        }
    }

    /// Something else stands in the sector at `offset`.
    pub(super) fn changed(&mut self, offset: u64) {
        if let Some(area) = Area::at(offset).filter(|area| area.decides(offset)) {
            self.check.of(area).changed(&self.storage, offset, self.now);
            if self.check.of(area).misjudges() {
                self.is_in_doubt(area, true);
            }
        }
    }

    /// Whether, with `bytes` at `offset`, the leader and the accepted values of a resource fall short of the latest
    /// version that was decided by two or more. Only damage together with a leader that is set back, or with a late
    /// write of a former lockspace, can do that; no host can know of such versions.
    pub(super) fn would_forget(&mut self, disk: usize, offset: u64, bytes: &[u8]) -> bool {
        let Some(area) = Area::at(offset) else { return false };
        let before = self.storage.sector(disk, offset);
        self.storage.put(disk, offset, bytes.into());
        let shown = self.storage.latest_shown(area, self.known_ids());
        self.storage.put(disk, offset, before);
        shown.after(1) < self.check.of(area).latest_decided()
    }

    /// The leader of a resource that is made at that version.
    pub(super) fn made_leader(&self, name: Name, version: Version) -> Leader {
        let geometry = Geometry::default();
        Leader::new_free(geometry, lockspace(), self.storage.nonce, name, geometry.max_hosts(), version)
    }

    pub(super) fn format(&mut self) {
        let geometry = Geometry::default();
        let record = DeltaRecord::free(geometry, lockspace(), NONCE, self.options.timeouts);
        for at in self.recorded_ids().map(delta_at) {
            self.storage.put(0, at, record.encode(at).into());
        }
        // A resource whose leader may be lost is one that was made where there had been another; or it is the one that
        // a format makes, of which blocks show the version, too.
        let faults = &self.options.faults;
        let made = Version::new(if faults.rot_leader > 0 && faults.formats == 0 { 1_000 } else { 0 });
        if self.has_index() {
            self.format_index();
        }
        for area in (0..self.options.resources).map(Area::of_resource) {
            self.check.of(area).made(made);
            let leader = self.made_leader(area.name(), made);
            for disk in 0..self.options.disks {
                self.storage.put(disk, area.offset(), leader.encode(area.offset()).into());
            }
            let blanks = self.known_ids().filter(|_| self.options.faults.formats > 0);
            for at in blanks.map(|id| area.block_at(id)) {
                self.storage.put(0, at, Block::blank(NONCE, made).encode(geometry, at).into());
            }
        }
    }
}

pub(super) const NONCE: u32 = 0x1ea5_e401;

pub(super) fn lockspace() -> Name {
    name(b"ls")
}

pub(super) fn name(text: &[u8]) -> Name {
    let mut field = [0; Name::FIELD];
    field[..text.len()].copy_from_slice(text);
    Name::from_field(field)
}
