//! The event queue, the clocks, the faults, and the run from its beginning to its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Options;
use super::check::{Checker, Counters};
use super::host::{Answer, Completion, Host, Signal, Tag};
use super::storage::{AREA, Action, Io, Storage, block_at, delta_at, seen};
use crate::format::{DeltaExtension, DeltaRecord, Geometry, Leader};
use crate::protocol::{Seen, Written};
use crate::types::{HostId, Name, Time, Version};

/// SplitMix64: its numbers are the same with every version of every crate.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    pub(super) fn span(&mut self, least: Duration, most: Duration) -> Duration {
        let nanos = (most - least).as_nanos() as u64;
        least + Duration::from_nanos(self.below(nanos + 1))
    }

    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        self.span(Duration::from_millis(least), Duration::from_millis(most))
    }
}

/// A host's boot-time clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Time,
    zero: Time,
    ppm: i64,
}

impl Clock {
    /// What it shows at `now`, in the world's time.
    pub(super) fn local(&self, now: Time) -> Time {
        let elapsed = now.since(self.started).as_nanos() as i128;
        let counted = elapsed + elapsed * i128::from(self.ppm) / 1_000_000;
        self.zero + Duration::from_nanos(counted as u64)
    }

    /// When it shows at least `local`.
    pub(super) fn world(&self, local: Time) -> Time {
        let counted = local.since(self.zero).as_nanos() as i128;
        let elapsed = counted * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        let mut at = self.started + Duration::from_nanos(elapsed as u64);
        while self.local(at) < local {
            at = at + Duration::from_nanos(1);
        }
        at
    }
}

#[derive(Clone, Debug)]
enum Event {
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
    Upset,
    Rot,
    Quiet,
}

/// A write whose deadline was checked before its host was paused.
struct Stalled {
    epoch: u64,
    tag: Tag,
    disk: usize,
    started: Time,
    action: Action,
}

/// What the world knows of a machine beside its processes.
pub(super) struct Machine {
    pub(super) clock: Clock,
    pub(super) boot: u32,
    /// Changes with each process: what was meant for another one is dropped.
    pub(super) epoch: u64,
    paused: bool,
    pauses: u64,
    inbox: VecDeque<(u64, Signal)>,
    stalled: Vec<Stalled>,
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
    /// Machines that acquired since then.
    pub(super) acquired: BTreeSet<usize>,
    /// A sector is damaged.
    rotted: bool,
    queue: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    trace: Option<VecDeque<String>>,
}

const TRACE_LINES: usize = 400;

impl Env {
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
        self.options.hosts as u64 + 5
    }

    pub(super) fn known_ids(&self) -> impl Iterator<Item = HostId> + Clone + use<> {
        (1..=self.ids()).filter_map(HostId::new)
    }

    fn at(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
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

    pub(super) fn read(&mut self, host: usize, tag: Tag, disk: usize, offsets: Vec<u64>) {
        let action = Action::Read { offsets, sectors: Vec::new() };
        self.submit(host, tag, disk, self.local(host), action);
    }

    /// Submits a write whose deadline was checked just now; or pauses the host in between.
    pub(super) fn write(&mut self, host: usize, tag: Tag, disk: usize, offset: u64, bytes: Vec<u8>) {
        let started = self.local(host);
        let action = Action::Write { offset, bytes };
        let stall = self.options.faults.stall;
        if !self.quiet && !self.machines[host].paused && self.random.chance(stall) {
            self.pause(host);
        }
        let machine = &mut self.machines[host];
        if machine.paused {
            machine.stalled.push(Stalled { epoch: machine.epoch, tag, disk, started, action });
        } else {
            self.submit(host, tag, disk, started, action);
        }
    }

    fn submit(&mut self, host: usize, tag: Tag, disk: usize, started: Time, action: Action) {
        let timeouts = self.options.timeouts;
        let writes = match &action {
            Action::Write { offset, .. } => Some(*offset),
            Action::Read { .. } => None,
        };
        if let Some(offset) = writes
            && self.storage.writing(host, |on, at| (on, at) == (disk, offset))
        {
            self.check.fail(format!("W: machine {host} has two writes to byte {offset} in flight"));
        }
        let micros = |most| Duration::from_micros(most);
        let (mut takes, mut fails, mut lands) = (self.random.span(micros(50), micros(800)), false, true);
        let mut completes = takes + self.random.span(micros(10), micros(200));
        if !self.quiet {
            let faults = &self.options.faults;
            let (slow, hung, eio) = (faults.slow, faults.hung, faults.eio);
            let most = match (self.random.chance(slow), writes.is_some() && self.random.chance(hung)) {
                (_, true) => timeouts.dead() * 3,
                (true, _) => timeouts.io() * 3,
                _ => Duration::ZERO,
            };
            if !most.is_zero() {
                completes = self.random.span(Duration::ZERO, most);
                takes = self.random.span(Duration::ZERO, completes);
            }
            fails = self.random.chance(eio);
            lands = !fails || self.random.chance(500);
        }
        if writes.is_some_and(|offset| self.storage.is_bad(disk, offset)) {
            (fails, lands) = (true, false);
        }
        let epoch = self.machines[host].epoch;
        let io = Io { host, epoch, tag, disk, started, action, fails, lands, late: false };
        self.trace(|| match &io.action {
            Action::Write { offset, .. } => format!("host {host} writes {offset}, lands in {takes:?} ({lands})"),
            Action::Read { .. } => format!("host {host} reads for {tag:?}"),
        });
        let id = self.storage.begin(io);
        self.at(self.now + takes, Event::Takes(id));
        if writes.is_none() {
            self.at(self.now + takes / 2, Event::Takes(id));
        }
        self.at(self.now + completes, Event::Completes(id));
        let times_out = self.machines[host].clock.world(started + timeouts.io()).max(self.now);
        self.at(times_out, Event::TimesOut(id));
    }

    fn takes(&mut self, id: u64) {
        let Some(mut io) = self.storage.ios.remove(&id) else { return };
        match &mut io.action {
            Action::Read { offsets, sectors } => {
                let first = sectors.is_empty();
                sectors.resize(offsets.len(), Vec::new());
                for (offset, sector) in offsets.iter().zip(sectors) {
                    if first || self.random.chance(500) {
                        *sector = self.storage.sector(io.disk, *offset);
                    }
                }
            }
            Action::Write { offset, bytes } if io.lands => {
                io.lands = false;
                self.check.counters.late_landings += u64::from(io.late);
                self.lands(io.host, io.disk, *offset, bytes.clone(), io.late);
            }
            Action::Write { .. } => {}
        }
        self.storage.ios.insert(id, io);
    }

    fn lands(&mut self, host: usize, disk: usize, offset: u64, bytes: Vec<u8>, late: bool) {
        if self.storage.is_bad(disk, offset) {
            return;
        }
        let when = if late { "late" } else { "in time" };
        if offset == AREA && self.rotted && self.would_forget(disk, offset, &bytes) {
            return;
        }
        if offset < AREA
            && let (Seen::Good(before), Seen::Good(after)) =
                (self.storage.delta(offset), seen(&bytes, |sector| DeltaRecord::decode(sector, offset)))
            && after.generation < before.generation
        {
            self.check.set_back(after.owner());
        }
        if offset == AREA {
            let before = self.storage.leader(disk);
            self.storage.put(disk, offset, bytes);
            if let (Seen::Good(before), Seen::Good(after)) = (before, self.storage.leader(disk)) {
                self.trace(|| {
                    let free = if after.is_free() { " (free)" } else { "" };
                    format!("leader lands {when} from host {host}: {} {:?}{free}", after.version, after.owner)
                });
                self.check.leader(&before, &after);
            }
        } else {
            self.storage.put(disk, offset, bytes);
            self.trace(|| format!("sector {offset} lands {when} from host {host}"));
        }
    }

    fn completes(&mut self, id: u64) {
        let Some(io) = self.storage.ios.remove(&id) else { return };
        let answer = match io.action {
            // Its process reads no more than once for each reason; it gave this one up.
            Action::Read { .. } if io.late => return,
            Action::Read { .. } if io.fails => Answer::Failed,
            Action::Read { offsets, sectors } => Answer::Read(offsets.into_iter().zip(sectors).collect()),
            Action::Write { .. } if io.fails => Answer::Wrote(Written::Failed),
            Action::Write { .. } => Answer::Wrote(Written::Done),
        };
        let completion = Completion { tag: io.tag, started: io.started, late: io.late, answer };
        self.at(self.now, Event::Signal { host: io.host, epoch: io.epoch, signal: Signal::Io(completion) });
    }

    fn times_out(&mut self, id: u64) {
        let Some(io) = self.storage.ios.get_mut(&id) else { return };
        io.late = true;
        let answer = match io.action {
            Action::Read { .. } => Answer::Failed,
            Action::Write { .. } => Answer::Wrote(Written::InFlight),
        };
        let completion = Completion { tag: io.tag, started: io.started, late: false, answer };
        let (host, epoch) = (io.host, io.epoch);
        self.trace(|| format!("host {host}: {:?} timed out", completion.tag));
        self.at(self.now, Event::Signal { host, epoch, signal: Signal::Io(completion) });
    }

    fn pause(&mut self, host: usize) {
        self.check.counters.upsets += 1;
        let machine = &mut self.machines[host];
        machine.paused = true;
        machine.pauses += 1;
        let pause = machine.pauses;
        let most = if self.random.chance(500) { self.options.timeouts.dead() * 2 } else { self.options.timeouts.io() };
        let span = self.random.span(Duration::ZERO, most);
        self.trace(|| format!("host {host} is paused for {span:?}"));
        self.at(self.now + span, Event::Resume { host, pause });
    }

    /// A machine loses its power: each of its writes lands now or never.
    fn power_off(&mut self, host: usize) {
        self.trace(|| format!("host {host} loses power"));
        let gone: Vec<u64> = self.storage.ios.iter().filter(|(_, io)| io.host == host).map(|(id, _)| *id).collect();
        for id in gone {
            let Some(io) = self.storage.ios.remove(&id) else { continue };
            if let Action::Write { offset, bytes } = io.action
                && io.lands
                && self.random.chance(500)
            {
                self.lands(host, io.disk, offset, bytes, io.late);
            }
        }
        let zero = Time::from_nanos(self.random.below(10_000_000_000));
        let ppm =
            self.random.below(2 * self.options.faults.clock_ppm + 1) as i64 - self.options.faults.clock_ppm as i64;
        let machine = &mut self.machines[host];
        machine.clock = Clock { started: self.now, zero, ppm };
        machine.boot += 1;
        self.check.rebooted(host);
    }

    /// The machine's process is gone.
    fn kill(&mut self, host: usize) {
        self.trace(|| format!("host {host}: its process is killed"));
        let machine = &mut self.machines[host];
        machine.epoch += 1;
        machine.paused = false;
        machine.inbox.clear();
        machine.stalled.clear();
    }
}

/// A run.
pub(super) struct World {
    env: Env,
    hosts: Vec<Host>,
}

impl World {
    /// A formatted disk, and hosts that are about to start.
    pub(super) fn new(options: Options, traced: bool) -> World {
        let clock = Clock { started: Time::ZERO, zero: Time::ZERO, ppm: 0 };
        let machine = |_| Machine {
            clock,
            boot: 0,
            epoch: 0,
            paused: false,
            pauses: 0,
            inbox: VecDeque::new(),
            stalled: Vec::new(),
        };
        // One more, which is alone in the end.
        let count = options.hosts + 1;
        let mut env = Env {
            now: Time::ZERO,
            random: Random::new(options.seed),
            storage: Storage::new(options.disks),
            check: Checker::new(count),
            machines: (0..count).map(machine).collect(),
            quiet: false,
            acquired: BTreeSet::new(),
            rotted: false,
            queue: BTreeMap::new(),
            sequence: 0,
            trace: traced.then(VecDeque::new),
            options,
        };
        env.format();
        for host in 0..count {
            env.power_off(host);
            let start = env.random.millis(0, 100);
            if host + 1 < count {
                env.signal_after(host, start, Signal::Start);
            }
        }
        env.upset_later();
        for _ in 0..env.options.faults.rot {
            let at = env.random.span(Duration::ZERO, env.options.duration);
            env.at(Time::ZERO + at, Event::Rot);
        }
        let quiet_at = Time::ZERO + env.options.duration;
        env.at(quiet_at, Event::Quiet);
        World { env, hosts: (0..count).map(Host::new).collect() }
    }

    pub(super) fn into_trace(self) -> Vec<String> {
        self.env.trace.unwrap_or_default().into()
    }

    /// Runs to the end.
    pub(super) fn run(&mut self) -> Result<Counters, String> {
        let timeouts = self.env.options.timeouts;
        let spans = if self.env.options.lone_end { 2 } else { 40 };
        let bound = Time::ZERO + self.env.options.duration + timeouts.dead() * spans;
        let contenders = match self.env.options.lone_end {
            true => self.env.options.hosts..self.env.options.hosts + 1,
            false => 0..self.env.options.hosts,
        };
        while let Some(((at, _), event)) = self.env.queue.pop_first() {
            self.env.now = at;
            self.handle(event);
            if let Some(failure) = self.env.check.take_failure() {
                return Err(failure);
            }
            if self.env.quiet && contenders.clone().all(|host| self.env.acquired.contains(&host)) {
                return Ok(self.env.check.counters.clone());
            }
            if at > bound {
                break;
            }
        }
        let name = if self.env.options.lone_end { "L1" } else { "L2" };
        let stuck: Vec<usize> = contenders.filter(|host| !self.env.acquired.contains(host)).collect();
        Err(format!("{name}: hosts {stuck:?} did not acquire after the faults"))
    }

    fn handle(&mut self, event: Event) {
        let env = &mut self.env;
        match event {
            Event::Takes(id) => env.takes(id),
            Event::Completes(id) => env.completes(id),
            Event::TimesOut(id) => env.times_out(id),
            Event::Signal { host, epoch, signal } => {
                if env.machines[host].epoch != epoch {
                    return;
                }
                if env.machines[host].paused {
                    env.machines[host].inbox.push_back((epoch, signal));
                } else {
                    self.hosts[host].handle(env, signal);
                }
            }
            Event::Resume { host, pause } if pause == env.machines[host].pauses => self.resume(host),
            Event::Resume { .. } => {}
            Event::Upset => self.upset(),
            Event::Rot => env.rot(),
            Event::Quiet => self.become_quiet(),
        }
    }

    fn resume(&mut self, host: usize) {
        let env = &mut self.env;
        if !std::mem::take(&mut env.machines[host].paused) {
            return;
        }
        env.trace(|| format!("host {host} runs again"));
        for write in std::mem::take(&mut env.machines[host].stalled) {
            if write.epoch == env.machines[host].epoch {
                env.submit(host, write.tag, write.disk, write.started, write.action);
            }
        }
        while !env.machines[host].paused
            && let Some((epoch, signal)) = env.machines[host].inbox.pop_front()
        {
            if env.machines[host].epoch == epoch {
                self.hosts[host].handle(env, signal);
            }
        }
    }

    fn upset(&mut self) {
        let env = &mut self.env;
        if env.quiet {
            return;
        }
        let host = env.random.below(env.options.hosts as u64) as usize;
        env.check.counters.upsets += 1;
        match env.random.below(4) {
            0 => self.restart(host, false),
            1 => self.restart(host, true),
            _ if !env.machines[host].paused => env.pause(host),
            _ => {}
        }
        self.env.upset_later();
    }

    fn restart(&mut self, host: usize, power: bool) {
        let env = &mut self.env;
        env.kill(host);
        if power {
            env.power_off(host);
        }
        self.hosts[host].process_is_gone();
        let rest = env.random.span(Duration::ZERO, env.options.timeouts.dead() * 2);
        env.signal_after(host, rest, Signal::Start);
    }

    /// The faults are over.
    fn become_quiet(&mut self) {
        self.env.trace(|| "faults are over".into());
        self.env.quiet = true;
        if self.env.options.lone_end {
            for host in 0..self.env.options.hosts {
                self.env.kill(host);
                self.env.power_off(host);
                self.hosts[host].process_is_gone();
            }
            self.env.signal_after(self.env.options.hosts, Duration::ZERO, Signal::Start);
            return;
        }
        // What is in flight ends within T, in the order in which it would have ended.
        let queue = std::mem::take(&mut self.env.queue);
        let (now, io) = (self.env.now, self.env.options.timeouts.io());
        for ((at, sequence), event) in queue {
            let soon = matches!(event, Event::Takes(_) | Event::Completes(_) | Event::Resume { .. });
            let at = if soon { at.min(now + io) } else { at };
            self.env.queue.insert((at, sequence), event);
        }
    }
}

impl Env {
    fn upset_later(&mut self) {
        let mean = self.options.faults.upset;
        if !mean.is_zero() {
            let span = self.random.span(Duration::ZERO, mean * 2);
            self.at(self.now + span, Event::Upset);
        }
    }

    /// One sector, a host's block or its delta record, is damaged.
    fn rot(&mut self) {
        let ids = self.random.below(self.options.hosts as u64) + 1;
        let Some(id) = HostId::new(ids) else { return };
        let offset = if self.random.chance(700) { block_at(id) } else { delta_at(id) };
        let mut sector = self.storage.sector(0, offset);
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
        self.trace(|| format!("sector {offset} of host id {id} rots"));
        self.storage.put(0, offset, sector);
        self.rotted = true;
    }

    /// Whether, with `bytes` at `offset`, the leader and the accepted values fall short of the latest version that was
    /// decided by two or more. Only damage together with a leader that is set back can do that; no host can know of such
    /// versions.
    fn would_forget(&self, disk: usize, offset: u64, bytes: &[u8]) -> bool {
        let mut after = self.storage.clone();
        after.put(disk, offset, bytes.to_vec());
        after.latest_shown(self.known_ids()).after(1) < self.check.latest_decided()
    }

    fn format(&mut self) {
        let geometry = Geometry::default();
        for id in self.known_ids() {
            let record = DeltaRecord {
                geometry,
                lockspace: lockspace(),
                owner_id: 0,
                generation: 0,
                host_name: Name::EMPTY,
                timestamp: 0,
                io_timeout: self.options.timeouts.io_seconds(),
                extension: Some(DeltaExtension {
                    nonce: NONCE,
                    session: 0,
                    boot: 0,
                    counter: 0,
                    machine: 0,
                    superseded: 0,
                    confirmed: false,
                    timeouts: self.options.timeouts,
                }),
            };
            let at = delta_at(id);
            self.storage.put(0, at, record.encode(at));
        }
        let leader = Leader::new_free(geometry, lockspace(), resource(), geometry.max_hosts(), Version::default());
        for disk in 0..self.options.disks {
            self.storage.put(disk, AREA, leader.encode(AREA));
        }
    }
}

pub(super) const NONCE: u32 = 0x1ea5_e401;

pub(super) fn lockspace() -> Name {
    name(b"ls")
}

pub(super) fn resource() -> Name {
    name(b"res")
}

pub(super) fn name(text: &[u8]) -> Name {
    let mut field = [0; Name::FIELD];
    field[..text.len()].copy_from_slice(text);
    Name::from_field(field)
}
