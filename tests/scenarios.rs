//! Schedules that went wrong, or would go wrong, in lock managers on shared disks: each step by step, on the machines of
//! `leasehold::protocol`. The numbers are those of the design's list of scenarios.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use leasehold::format::{Block, Corrupt, DeltaExtension, DeltaRecord, Geometry, Leader};
use leasehold::protocol::area::AreaView;
use leasehold::protocol::delta::{self, Acquire, Identity, Loss, Refusal, Tenure, Terms};
use leasehold::protocol::liveness::{Observer, Verdict};
use leasehold::protocol::resource::{Effect, Event, Operation, Outcome, Subject};
use leasehold::protocol::{Seen, Span, Written};
use leasehold::{Generation, HostId, Name, Owner, Profile, Time, Timeouts, Version};

/// One disk with one resource, hosts that are live or not, and a clock that all share.
struct World {
    now: Time,
    leader: Leader,
    blocks: BTreeMap<HostId, Seen<Block>>,
    records: BTreeMap<HostId, DeltaRecord>,
    /// Hosts that renew.
    live: BTreeSet<HostId>,
    observers: BTreeMap<HostId, Observer>,
    scanned: BTreeMap<HostId, Time>,
    /// Hosts with a write in flight to the resource.
    in_flight: BTreeSet<HostId>,
    random: u64,
}

/// An operation of a host, and the effect that it waits for.
struct Run {
    me: Owner,
    operation: Operation,
    effect: Effect,
}

/// A write that timed out.
struct Late(HostId, Effect);

fn id(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

fn owner(host: u64, generation: u64) -> Owner {
    Owner { host: id(host), generation: Generation::new(generation).unwrap() }
}

fn timeouts() -> Timeouts {
    Profile::Fast.timeouts()
}

fn name(text: &str) -> Name {
    Name::resource(text).unwrap()
}

fn damage<T>() -> Seen<T> {
    Seen::Bad(Corrupt::Checksum { found: 1, computed: 2 }.into())
}

/// What a live holder with these timeouts has written.
fn record(me: Owner, timeouts: Timeouts) -> DeltaRecord {
    DeltaRecord {
        geometry: Geometry::default(),
        lockspace: name("ls"),
        owner_id: me.host.get(),
        generation: me.generation.get(),
        host_name: name("host"),
        timestamp: 1_000,
        io_timeout: timeouts.io_seconds(),
        extension: Some(DeltaExtension {
            nonce: 1,
            session: me.host.get() as u32,
            boot: 1,
            counter: 0,
            machine: me.host.get(),
            superseded: 0,
            confirmed: true,
            timeouts,
        }),
    }
}

const A: u64 = 1;
const B: u64 = 2;
const C: u64 = 3;
const D: u64 = 4;

impl World {
    /// Hosts 1 to 4 live in their first generation; the resource was never owned.
    fn new() -> World {
        let hosts = [A, B, C, D].map(|host| owner(host, 1));
        let geometry = Geometry::default();
        World {
            now: Time::ZERO + Duration::from_secs(1_000),
            leader: Leader::new_free(geometry, name("ls"), name("res"), geometry.max_hosts(), Version::new(0)),
            blocks: BTreeMap::new(),
            records: hosts.map(|me| (me.host, record(me, timeouts()))).into(),
            live: hosts.map(|me| me.host).into(),
            observers: hosts.map(|me| (me.host, Observer::new(timeouts()))).into(),
            scanned: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            random: 1,
        }
    }

    fn subject(me: Owner) -> Subject {
        let geometry = Geometry::default();
        Subject { me, geometry, lockspace: name("ls"), resource: name("res"), timeouts: timeouts(), disks: 1 }
    }

    fn block_of(&self, host: u64) -> Block {
        self.blocks.get(&id(host)).and_then(Seen::good).cloned().unwrap_or_default()
    }

    fn acquire(&self, host: u64, wait: bool) -> Run {
        let me = owner(host, self.records[&id(host)].generation);
        let own = self.blocks.get(&id(host)).and_then(Seen::good).cloned();
        let (operation, effect) = Operation::acquire(World::subject(me), own, wait, self.now);
        Run { me, operation, effect }
    }

    fn release(&self, host: u64) -> Run {
        let me = owner(host, self.records[&id(host)].generation);
        let (operation, effect) = Operation::release(World::subject(me), self.block_of(host), self.now);
        Run { me, operation, effect }
    }

    /// Stops renewing.
    fn dies(&mut self, host: u64) {
        self.live.remove(&id(host));
    }

    fn scan(&mut self, host: HostId) {
        let span = self.pass();
        for live in &self.live {
            let record = self.records.get_mut(live).unwrap();
            record.extension.as_mut().unwrap().counter += 1;
        }
        let observer = self.observers.get_mut(&host).unwrap();
        for (other, record) in &self.records {
            observer.observe(*other, span, true, Seen::Good(record.clone()));
        }
        self.scanned.insert(host, span.started);
    }

    fn pass(&mut self) -> Span {
        let started = self.now;
        self.now = self.now + Duration::from_millis(1);
        Span { started, ended: self.now }
    }

    fn report(&mut self, run: &mut Run, round: u32, event: Event) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let observer = self.observers.get_mut(&run.me.host).unwrap();
        let next = run.operation.step(round, event, observer, self.now, self.random);
        run.effect = next.unwrap_or_else(|| panic!("one disk answers at once"));
    }

    /// Carries out the effect that `run` waits for.
    fn step(&mut self, run: &mut Run) {
        let host = run.me.host;
        match run.effect.clone() {
            Effect::Read(round) => {
                let (span, since) = (self.pass(), self.scanned.get(&host).copied().unwrap_or(Time::ZERO));
                let view = AreaView { leader: Seen::Good(self.leader.clone()), blocks: self.blocks.clone() };
                self.report(run, round, Event::Read { disk: 0, span, since, view });
            }
            Effect::WriteBlock(round, _) | Effect::WriteLeader(round, _) => {
                self.land(Late(host, run.effect.clone()));
                self.pass();
                self.report(run, round, Event::Wrote { disk: 0, written: Written::Done });
            }
            Effect::Scan(round) => {
                self.scan(host);
                self.report(run, round, Event::Scanned);
            }
            Effect::Settle(round) => {
                assert!(!self.in_flight.contains(&host), "a write is in flight");
                self.report(run, round, Event::Settled);
            }
            Effect::Wait(round, until) => {
                self.now = self.now.max(until);
                self.report(run, round, Event::Woke);
            }
            Effect::Done(outcome) => panic!("already over: {outcome:?}"),
        }
    }

    /// Goes on until `run` is about to do something that `wanted` picks.
    fn until(&mut self, run: &mut Run, wanted: impl Fn(&Effect) -> bool) {
        for _ in 0..5_000 {
            if wanted(&run.effect) {
                return;
            }
            self.step(run);
        }
        panic!("no end, now before {:?}", run.effect);
    }

    fn finish(&mut self, mut run: Run) -> Outcome {
        self.until(&mut run, |effect| matches!(effect, Effect::Done(_)));
        match run.effect {
            Effect::Done(outcome) => outcome,
            _ => unreachable!(),
        }
    }

    /// The whole of an acquire that succeeds.
    fn take(&mut self, host: u64) -> Version {
        let run = self.acquire(host, true);
        match self.finish(run) {
            Outcome::Held(version) => version,
            other => panic!("host {host}: {other:?}"),
        }
    }

    fn give_back(&mut self, host: u64) {
        let run = self.release(host);
        assert_eq!(self.finish(run), Outcome::Released);
    }

    fn is_blocked_by(&mut self, host: u64, holder: u64) {
        let run = self.acquire(host, false);
        match self.finish(run) {
            Outcome::Blocked(blocker) => assert_eq!(blocker.host, id(holder)),
            other => panic!("host {host}: {other:?}"),
        }
    }

    /// The write that `run` is about to do times out.
    fn times_out(&mut self, run: &mut Run) -> Late {
        let (Effect::WriteBlock(round, _) | Effect::WriteLeader(round, _)) = run.effect else {
            panic!("no write: {:?}", run.effect)
        };
        let late = Late(run.me.host, run.effect.clone());
        self.in_flight.insert(run.me.host);
        self.report(run, round, Event::Wrote { disk: 0, written: Written::InFlight });
        late
    }

    fn land(&mut self, Late(host, effect): Late) {
        self.in_flight.remove(&host);
        match effect {
            Effect::WriteBlock(_, block) => drop(self.blocks.insert(host, Seen::Good(block))),
            Effect::WriteLeader(_, leader) => self.leader = leader,
            other => panic!("no write: {other:?}"),
        }
    }
}

fn writes_leader(effect: &Effect) -> bool {
    matches!(effect, Effect::WriteLeader(..))
}

fn writes_phase_1(effect: &Effect) -> bool {
    matches!(effect, Effect::WriteBlock(_, block) if block.inp.is_none())
}

fn writes_phase_2(effect: &Effect) -> bool {
    matches!(effect, Effect::WriteBlock(_, block) if block.inp.is_some() && !block.released)
}

#[test]
fn scenario_1_the_leader_write_of_a_host_that_gives_up_is_drained_before_anything_else() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_leader);
    a.operation.call_off();
    let late = world.times_out(&mut a);
    assert!(matches!(a.effect, Effect::Settle(_)), "{:?}", a.effect);
    // The accepted value stands: C completes A's ballot, and finds A live.
    world.is_blocked_by(C, A);
    world.land(late);
    assert!(!matches!(world.finish(a), Outcome::Held(_)));
    assert_eq!(world.take(C), Version::new(2));
}

#[test]
fn scenario_2_a_block_is_not_written_while_an_earlier_write_of_it_is_in_flight() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_phase_1);
    let late = world.times_out(&mut a);
    assert!(matches!(a.effect, Effect::Settle(_)), "{:?}", a.effect);
    world.land(late);
    assert_eq!(world.finish(a), Outcome::Held(Version::new(1)));
    world.is_blocked_by(B, A);
}

#[test]
fn scenario_4_a_release_keeps_the_value_for_those_who_still_run_the_instance() {
    let mut world = World::new();
    let before = world.leader.clone();
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_phase_1);
    assert_eq!(world.take(A), Version::new(1));
    world.give_back(A);
    let released = world.block_of(A);
    assert!(released.released && released.inp == Some(owner(A, 1)) && released.bal > 0, "{released:?}");
    // B doesn't see in the leader that instance 1 is over, only in A's block.
    world.leader = before;
    assert_eq!(world.finish(b), Outcome::Held(Version::new(2)));
}

#[test]
fn scenario_7_a_generation_newer_than_its_record_as_last_read_is_alive() {
    let mut observer = Observer::new(timeouts());
    let now = Time::ZERO + Duration::from_secs(10);
    let free = DeltaRecord { timestamp: 0, ..record(owner(B, 1), timeouts()) };
    observer.observe(id(B), Span { started: now, ended: now }, true, Seen::Good(free));
    assert_eq!(observer.judge(owner(B, 1), now), Verdict::Over);
    assert!(!observer.judge(owner(B, 2), now).is_gone());
}

#[test]
fn scenario_8_a_peer_is_counted_with_its_own_timeouts() {
    let mut observer = Observer::new(timeouts());
    let slow = Profile::Balanced.timeouts();
    let start = Time::ZERO + Duration::from_secs(10);
    let mut look = |at: Time| {
        observer.observe(id(A), Span { started: at, ended: at }, true, Seen::Good(record(owner(A, 1), slow)));
        observer.judge(owner(A, 1), at)
    };
    look(start);
    assert!(!look(start + timeouts().dead() * 2).is_gone(), "the observer's own D is not A's");
    assert!(!look(start + slow.dead()).is_gone(), "clocks differ in rate");
    assert_eq!(look(start + slow.dead() * 2), Verdict::Dead);
}

/// A host id held by `me`, as a join leaves it; and when that was.
fn tenure() -> (Tenure, DeltaRecord, Time) {
    let (mut acquire, written, mut now) = join(B);
    let settled = acquire.step(delta::Event::Wrote(Span { started: now, ended: now }, Written::Done));
    let delta::Effect::Wait(until) = settled else { panic!("{settled:?}") };
    now = until;
    assert_eq!(acquire.step(delta::Event::Woke(now)), delta::Effect::Read);
    match acquire.step(delta::Event::Read(Span { started: now, ended: now }, Seen::Good(written.clone()))) {
        delta::Effect::Done(Ok(tenure)) => (*tenure, written, now),
        other => panic!("{other:?}"),
    }
}

/// A join of a machine up to its write.
fn join(machine: u64) -> (Acquire, DeltaRecord, Time) {
    let now = Time::ZERO + Duration::from_secs(100);
    let identity = Identity { name: name("host"), machine, boot: 1, session: machine as u32 };
    let terms = Terms { geometry: Geometry::default(), lockspace: name("ls"), nonce: 1, timeouts: timeouts() };
    // Each skips another number of generations.
    let mut acquire = Acquire::new(id(A), identity, terms, machine);
    let free = DeltaRecord { timestamp: 0, ..record(owner(A, 4), timeouts()) };
    match acquire.step(delta::Event::Read(Span { started: now, ended: now }, Seen::Good(free))) {
        delta::Effect::Write(record) => (acquire, record, now),
        other => panic!("{other:?}"),
    }
}

#[test]
fn scenario_10_a_renewal_that_was_read_in_time_is_not_written_after_the_deadline() {
    let (mut tenure, record, _) = tenure();
    let late = tenure.deadline();
    assert_eq!(tenure.renew(late, &Seen::Good(record.clone())), Err(Loss::Expired));
    assert_eq!(tenure.release(late, &Seen::Good(record)), Err(Loss::Expired), "nor is a release");
}

#[test]
fn scenario_12_a_damaged_block_is_neither_empty_nor_in_the_way_for_ever() {
    let mut world = World::new();
    // B finished phase 2: instance 1 is decided. Its block is the only trace, and rots.
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_leader);
    world.blocks.insert(id(B), damage());
    world.is_blocked_by(C, B);
    world.dies(B);
    let version = world.take(C);
    assert!(version > Version::new(1), "version 1 may be B's, {version} is held");
}

#[test]
fn scenario_13_a_corrupt_record_makes_nobody_dead() {
    let mut observer = Observer::new(timeouts());
    let now = Time::ZERO + Duration::from_secs(10);
    let at = |millis| now + Duration::from_millis(millis);
    let mut look = |at, value| observer.observe(id(A), Span { started: at, ended: at }, true, value);
    look(at(0), Seen::Good(record(owner(A, 1), timeouts())));
    look(at(400), damage());
    look(at(900), damage());
    assert!(!observer.judge(owner(A, 1), at(900)).is_gone(), "damage restarts the count");
}

#[test]
fn scenario_17_a_timestamp_is_never_compared_with_the_local_clock() {
    let mut observer = Observer::new(timeouts());
    let now = Time::ZERO + Duration::from_secs(1_000_000);
    let ancient = DeltaRecord { timestamp: 1, ..record(owner(A, 1), timeouts()) };
    for _ in 0..2 {
        observer.observe(id(A), Span { started: now, ended: now }, true, Seen::Good(ancient.clone()));
    }
    assert!(!observer.judge(owner(A, 1), now).is_gone());
}

#[test]
fn scenario_18_after_the_deadline_nothing_brings_the_lease_back() {
    let (mut tenure, record, now) = tenure();
    let deadline = tenure.deadline();
    assert!(tenure.held(now) && !tenure.held(deadline));
    tenure.renew(now, &Seen::Good(record)).unwrap();
    // The write was confirmed long ago, but the process that asked for it was paused.
    tenure.renewed(Span { started: now, ended: deadline }, Written::Done, deadline);
    assert!(!tenure.held(deadline) && !tenure.held(now));
    assert_eq!(tenure.lost(), Some(&Loss::Expired));
}

#[test]
fn scenario_21_a_late_leader_write_does_not_give_back_what_was_released() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_leader);
    // B completes A's ballot too; its leader write is slow.
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_leader);
    let late = world.times_out(&mut b);
    assert_eq!(world.finish(a), Outcome::Held(Version::new(1)));
    world.give_back(A);
    world.land(late);
    assert_eq!(world.leader.owner, Some(owner(A, 1)));
    assert!(!world.leader.is_free());
    assert_eq!(world.take(C), Version::new(2));
}

#[test]
fn scenario_22_released_is_answered_only_when_the_released_flag_is_durable() {
    let mut world = World::new();
    world.take(A);
    let mut a = world.release(A);
    for _ in 0..3 {
        world.until(&mut a, |effect| matches!(effect, Effect::WriteBlock(..)));
        let Effect::WriteBlock(round, _) = a.effect else { unreachable!() };
        world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
        assert!(!matches!(a.effect, Effect::Done(_)), "{:?}", a.effect);
    }
    assert_eq!(world.finish(a), Outcome::Released);
    assert!(world.block_of(A).released);
    assert_eq!(world.take(B), Version::new(2));
}

#[test]
fn scenario_24_a_value_that_another_host_commits_is_held_by_its_owner() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_leader);
    world.is_blocked_by(B, A);
    assert_eq!((world.leader.owner, world.leader.writer.id), (Some(owner(A, 1)), B), "B committed it");
    assert_eq!(world.finish(a), Outcome::Held(Version::new(1)));
}

#[test]
fn scenario_25_a_leader_that_is_set_back_by_two_versions_neither_wedges_nor_lets_a_second_owner_in() {
    let mut world = World::new();
    world.take(A);
    world.give_back(A);
    let old = world.leader.clone();
    for host in [B, A] {
        world.take(host);
        if host == B {
            world.give_back(host);
        }
    }
    // A holds version 3; the leader says that 1 is free.
    world.leader = old;
    world.is_blocked_by(C, A);
    world.dies(A);
    assert_eq!(world.take(C), Version::new(4));
    assert_eq!(world.leader.version, Version::new(4), "the leader is repaired");
}

#[test]
fn scenario_25_a_version_below_a_later_instance_is_respected_though_the_leader_is_set_back() {
    let mut world = World::new();
    world.take(A);
    world.give_back(A);
    let old = world.leader.clone();
    assert_eq!(world.take(B), Version::new(2));
    // C began to burn versions that no block shows, and got no further; then the leader forgets B.
    let begun = Block { mbal: 9 * 2_000 + C, instance: Version::new(5), ..Block::default() };
    world.blocks.insert(id(C), Seen::Good(begun));
    world.leader = old;
    world.is_blocked_by(D, B);
    world.dies(B);
    assert_eq!(world.take(D), Version::new(5));
}

#[test]
fn an_owner_that_commits_during_phase_1_of_a_later_instance_is_respected() {
    let mut world = World::new();
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_phase_2);
    // A sees C's burn, but not yet what B is about to write; B does not see the burn.
    let begun = Seen::Good(Block { mbal: 9 * 2_000 + C, instance: Version::new(5), ..Block::default() });
    world.blocks.insert(id(C), begun.clone());
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_phase_1);
    world.blocks.remove(&id(C));
    assert_eq!(world.finish(b), Outcome::Held(Version::new(1)));
    world.blocks.insert(id(C), begun);
    for _ in 0..1_000 {
        world.step(&mut a);
        assert!(!matches!(a.effect, Effect::Done(_)), "{:?}", a.effect);
    }
    assert_eq!(a.operation.blocker().unwrap().owner, Some(owner(B, 1)));
}

#[test]
fn blocks_are_not_judged_by_a_scan_that_is_older_than_a_join_takes() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.scan(id(A));
    world.now = world.now + timeouts().io() * 2;
    world.step(&mut a);
    assert!(matches!(a.effect, Effect::Scan(_)), "{:?}", a.effect);
}

#[test]
fn a_join_waits_until_no_write_of_another_join_can_land_in_time() {
    let (mut acquire, written, now) = join(B);
    let span = Span { started: now, ended: now };
    let delta::Effect::Wait(until) = acquire.step(delta::Event::Wrote(span, Written::Done)) else { panic!("no wait") };
    assert!(until.since(now) > timeouts().io() * 2);
    assert_eq!(acquire.step(delta::Event::Woke(now)), delta::Effect::Read);
    let early = acquire.step(delta::Event::Read(span, Seen::Good(written)));
    assert!(matches!(early, delta::Effect::Done(Err(_))), "{early:?}");
}

#[test]
fn scenario_26_after_a_wait_the_instance_is_chosen_anew() {
    let mut world = World::new();
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_phase_1);
    // B aims at version 1; meanwhile 1 is used up and 2 decided.
    world.take(A);
    world.give_back(A);
    world.take(C);
    b.operation.call_off();
    assert!(!matches!(world.finish(b), Outcome::Held(_)));
    let mut b = world.acquire(B, true);
    world.dies(C);
    world.until(&mut b, writes_phase_2);
    let Effect::WriteBlock(_, block) = &b.effect else { unreachable!() };
    assert_eq!(block.instance, Version::new(3));
}

#[test]
fn scenario_27_the_next_ballot_number_exceeds_all_that_were_seen() {
    let mut world = World::new();
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_phase_1);
    // A host with a far larger number is in the instance, and dies in it.
    let block = Block { mbal: 7 * 2_000 + D, instance: Version::new(1), ..Block::default() };
    world.blocks.insert(id(D), Seen::Good(block));
    world.step(&mut b);
    world.until(&mut b, writes_phase_1);
    let Effect::WriteBlock(_, block) = &b.effect else { unreachable!() };
    assert_eq!(block.mbal, 8 * 2_000 + B);
}

#[test]
fn scenario_31_two_hosts_that_contend_both_make_progress() {
    let mut world = World::new();
    let mut held = [0_u32; 2];
    let mut runs = [A, B].map(|host| Some(world.acquire(host, true)));
    for turn in 0..60_000 {
        // A is four times as fast.
        let index = usize::from(turn % 5 == 0);
        let Some(mut run) = runs[index].take() else { continue };
        let host = run.me.host.get();
        // Waiting is no step: whoever waits is passed over until its time has come.
        match run.effect.clone() {
            Effect::Wait(_, until) if until > world.now => drop(world.pass()),
            Effect::Done(Outcome::Held(_)) => {
                held[index] += 1;
                run = world.release(host);
            }
            Effect::Done(_) => run = world.acquire(host, true),
            _ => world.step(&mut run),
        }
        runs[index] = Some(run);
    }
    let [fast, slow] = held;
    assert!(slow * 8 > fast && fast > 50, "{held:?}");
}

#[test]
fn scenario_34_a_damaged_or_foreign_own_record_is_the_loss_at_once() {
    let (mut first, record, now) = tenure();
    assert!(matches!(first.renew(now, &damage()), Err(Loss::Damaged(_))));
    assert!(first.renew(now, &Seen::Good(record.clone())).is_err(), "for good");
    let (mut second, ..) = tenure();
    let other = DeltaRecord { generation: record.generation + 1, ..record };
    assert!(matches!(second.renew(now, &Seen::Good(other)), Err(Loss::Overwritten(_))));
    assert!(!second.held(now));
}

#[test]
fn scenario_41_an_id_that_was_not_released_is_not_taken_by_another_machine() {
    let identity = Identity { name: name("host"), machine: 77, boot: 1, session: 1 };
    let terms = Terms { geometry: Geometry::default(), lockspace: name("ls"), nonce: 1, timeouts: timeouts() };
    let mut acquire = Acquire::new(id(A), identity, terms, 0);
    let held = record(owner(A, 4), timeouts());
    let mut now = Time::ZERO + Duration::from_secs(100);
    for _ in 0..1_000 {
        match acquire.step(delta::Event::Read(Span { started: now, ended: now }, Seen::Good(held.clone()))) {
            delta::Effect::Wait(until) => now = until,
            delta::Effect::Done(Err(Refusal::NotReleased(_))) => return,
            other => panic!("{other:?}"),
        }
        assert_eq!(acquire.step(delta::Event::Woke(now)), delta::Effect::Read);
    }
    panic!("no end");
}

#[test]
fn scenario_42_a_join_that_took_too_long_writes_no_more_and_ends_no_generation() {
    let (mut slow, slow_record, now) = join(C);
    let took = Span { started: now, ended: now + timeouts().io() + Duration::from_millis(1) };
    let ended = slow.step(delta::Event::Wrote(took, Written::Done));
    assert_eq!(ended, delta::Effect::Done(Err(Refusal::Storage)));
    for event in [delta::Event::Woke(took.ended), delta::Event::Read(took, Seen::Good(slow_record.clone()))] {
        assert!(!matches!(slow.step(event), delta::Effect::Write(_)), "it writes again");
    }
    // Its record lands over that of the host that has the id: that host is lost at once, but not gone for others.
    let (mut tenure, mine, held) = tenure();
    assert!(slow_record.generation > mine.generation);
    assert!(matches!(tenure.renew(held, &Seen::Good(slow_record.clone())), Err(Loss::Overwritten(_))));
    let mut observer = Observer::new(timeouts());
    observer.observe(id(A), Span { started: held, ended: held }, true, Seen::Good(mine));
    observer.observe(id(A), Span { started: held, ended: held }, true, Seen::Good(slow_record));
    assert!(!observer.judge(tenure.me(), held).is_gone());
}

#[test]
fn scenario_43_a_released_version_is_used_by_nobody_again_not_even_by_its_owner() {
    let mut world = World::new();
    world.take(A);
    world.give_back(A);
    let one_is_free = world.leader.clone();
    assert_eq!(world.take(B), Version::new(2));
    world.give_back(B);
    world.leader = one_is_free;
    assert_eq!(world.take(B), Version::new(3));
    world.is_blocked_by(A, B);
}

#[test]
fn scenario_44_the_late_leader_write_of_a_dead_owner_whose_block_rotted_admits_no_second_owner() {
    let mut world = World::new();
    let mut q = world.acquire(A, true);
    world.until(&mut q, writes_leader);
    let late = world.times_out(&mut q);
    world.dies(A);
    world.blocks.insert(id(A), damage());
    let version = world.take(B);
    assert!(version > Version::new(1), "version 1 is burned");
    world.land(late);
    assert_eq!(world.leader.owner, Some(owner(A, 1)));
    // C may judge A's damaged block only after D; all the while, and after it, B is in the way.
    let mut c = world.acquire(C, true);
    for _ in 0..1_000 {
        world.step(&mut c);
        assert!(!matches!(c.effect, Effect::Done(_)), "{:?}", c.effect);
    }
    assert_eq!(c.operation.blocker().unwrap().host, id(B));
    world.dies(B);
    match world.finish(c) {
        Outcome::Held(next) => assert!(next > version),
        other => panic!("{other:?}"),
    }
}

/// How long a machine watches an unreleased record of its own before it takes the id again.
fn watches(seen: &DeltaRecord, boot: u32) -> Duration {
    let identity = Identity { name: name("host"), machine: A, boot, session: 9 };
    let terms = Terms { geometry: Geometry::default(), lockspace: name("ls"), nonce: 1, timeouts: timeouts() };
    let mut acquire = Acquire::new(id(A), identity, terms, 0);
    let start = Time::ZERO + Duration::from_secs(100);
    let mut now = start;
    loop {
        match acquire.step(delta::Event::Read(Span { started: now, ended: now }, Seen::Good(seen.clone()))) {
            delta::Effect::Wait(until) => now = until,
            delta::Effect::Write(_) => return now.since(start),
            other => panic!("{other:?}"),
        }
        acquire.step(delta::Event::Woke(now));
    }
}

#[test]
fn scenario_9_only_a_reboot_makes_taking_the_own_id_again_fast() {
    let held = record(owner(A, 4), timeouts());
    assert!(watches(&held, 1) >= timeouts().dead(), "the same boot: what it protected may still run");
    let quick = watches(&held, 2);
    assert!(quick < timeouts().dead() && quick >= (timeouts().renewal() + timeouts().io()) * 2, "{quick:?}");
    let mut unconfirmed = held;
    unconfirmed.extension.as_mut().unwrap().confirmed = false;
    assert!(watches(&unconfirmed, 2) >= timeouts().dead(), "it never surely held the id");
}

#[test]
fn scenario_28_a_write_that_failed_but_landed_leaves_nothing_that_nobody_manages() {
    let mut world = World::new();
    let mut a = world.acquire(A, false);
    world.until(&mut a, writes_phase_2);
    let Effect::WriteBlock(round, _) = a.effect else { unreachable!() };
    world.land(Late(id(A), a.effect.clone()));
    world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
    assert_eq!(world.finish(a), Outcome::Refused(leasehold::protocol::resource::Refusal::Storage));
    assert!(world.block_of(A).released);
    world.take(B);
}

#[test]
fn a_release_ends_though_the_own_block_rots_and_its_first_write_fails() {
    let mut world = World::new();
    world.take(A);
    let mut a = world.release(A);
    world.blocks.insert(id(A), damage());
    let Effect::WriteBlock(round, _) = a.effect else { panic!("{:?}", a.effect) };
    world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
    assert_eq!(world.finish(a), Outcome::Released);
    assert_eq!(world.take(B), Version::new(2));
}

#[test]
fn two_whose_instance_was_passed_over_do_not_wait_for_each_other() {
    let mut world = World::new();
    let mut runs = [world.acquire(A, true), world.acquire(B, true)];
    for run in &mut runs {
        world.until(run, writes_phase_1);
    }
    // Both have read before either wrote phase 2, so both claim version 1.
    let [a, b] = &mut runs;
    world.step(a);
    let view = (world.leader.clone(), world.blocks.clone());
    world.step(b);
    let seen_by_b = std::mem::replace(&mut world.blocks, view.1);
    world.step(a);
    world.until(a, writes_phase_2);
    world.blocks.insert(id(B), seen_by_b[&id(B)].clone());
    world.step(b);
    world.until(b, writes_phase_2);
    world.step(a);
    world.step(b);
    // C passed over 1 when it burned 2, and died.
    let passed = Block { mbal: 9 * 2_000 + C, instance: Version::new(3), ..Block::default() };
    world.blocks.insert(id(C), Seen::Good(passed));
    world.dies(C);
    for _ in 0..2_000 {
        for run in &mut runs {
            if let Effect::Done(outcome) = &run.effect {
                assert_eq!(outcome, &Outcome::Held(Version::new(3)));
                return;
            }
            world.step(run);
        }
    }
    panic!("both wait: {:?}", runs.map(|run| run.effect));
}
