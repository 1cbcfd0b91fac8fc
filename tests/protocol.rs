//! What the machines of `leasehold::protocol` conclude from what one read shows, and how an operation goes on over
//! several disks of which some fail, answer late or differ. Interleavings of hosts are in `scenarios.rs`.

#![allow(clippy::unwrap_used)]

#[path = "common/values.rs"]
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use leasehold::format::{Block, Corrupt, DeltaRecord, Geometry, Leader};
use leasehold::protocol::area::AreaView;
use leasehold::protocol::delta::{self, Acquire, Bid, Identity, Joined, Terms};
use leasehold::protocol::liveness::{HostState, Observer, Verdict};
use leasehold::protocol::record::{self, RecordProcedure};
use leasehold::protocol::resource::{Effect, Event, Operation, Outcome, Refusal, Subject, Wish};
use leasehold::protocol::{Defect, Seen, Span, Written};
use leasehold::{BootId, HostId, MachineId, Owner, Time, Timeouts, Version, stretched};
use values::{A, B, damage, id, name, owner, timeouts};

const NONCE: u32 = 7;

fn free_record() -> DeltaRecord {
    DeltaRecord::free(Geometry::default(), name("ls"), NONCE, timeouts())
}

/// A record of `me` after as many renewals.
fn record(me: Owner, renewals: u32) -> DeltaRecord {
    let mut record = free_record();
    (record.owner_id, record.generation, record.timestamp) = (me.host.get(), me.generation.get(), 1_000);
    record.extension.as_mut().unwrap().started_us = renewals;
    record
}

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

fn instant(time: Time) -> Span {
    Span { started: time, ended: time }
}

// Host ids.

/// The first effect that a join of host id 1 has after it read `seen`.
fn joins(seen: DeltaRecord) -> record::Effect<Joined> {
    let identity = Identity { name: name("host"), machine: MachineId::new(1), boot: BootId::new(1), session: 1 };
    let terms = Terms { geometry: Geometry::default(), lockspace: name("ls"), nonce: NONCE, timeouts: timeouts() };
    Acquire::new(Bid::new(id(A), timeouts().dead()), identity, terms, 0)
        .step(record::Event::Read(instant(at(1_000)), Seen::Good(seen)))
}

#[test]
fn a_join_leaves_alone_what_belongs_to_another_lockspace_or_another_id() {
    let free = DeltaRecord { timestamp: 0, ..record(owner(A, 4), 0) };
    assert!(matches!(joins(free_record()), record::Effect::Write(..)), "formatted, and never held");
    assert!(matches!(joins(free.clone()), record::Effect::Write(..)), "released");
    let foreign = [
        DeltaRecord { lockspace: name("other"), ..free_record() },
        DeltaRecord { owner_id: B, ..free },
        DeltaRecord { owner_id: 0, ..record(owner(A, 4), 0) },
    ];
    for seen in foreign {
        let refused = record::Effect::Done(Err(delta::Refusal::Foreign(Box::new(seen.clone()))));
        assert_eq!(joins(seen), refused);
    }
}

#[test]
fn a_join_never_begins_the_generations_anew() {
    let last = (1 << 61) - 2;
    let released = |generation| DeltaRecord { timestamp: 0, ..record(owner(A, generation), 0) };
    match joins(released(last)) {
        record::Effect::Write(record, _) => assert_eq!(record.generation, last + 1),
        other => panic!("{other:?}"),
    }
    for generation in [last + 1, u64::MAX - 1, u64::MAX] {
        let joins = joins(released(generation));
        let number = |reason: &Defect| matches!(reason, Defect::Corrupt(Corrupt::Number { .. }));
        let refused = matches!(&joins, record::Effect::Done(Err(delta::Refusal::Damaged(reason))) if number(reason));
        assert!(refused, "generation {generation}: {joins:?}");
    }
}

#[test]
fn a_join_leaves_alone_an_id_whose_other_joiners_are_slower_than_it_can_wait_for() {
    // Who read the same record may write for as long as its own T, and is waited for twice that, within F.
    let by_peer_with = |io: u64| {
        let millis = Duration::from_millis;
        let timeouts = Timeouts::new(millis(100), millis(io), millis(2_000), millis(500), millis(2_500)).unwrap();
        let mut released = DeltaRecord { timestamp: 0, ..record(owner(A, 4), 0) };
        released.extension.as_mut().unwrap().timeouts = timeouts;
        released
    };
    let longest = (timeouts().fail() - timeouts().io()) / 2;
    let longest = longest.as_millis() as u64;
    assert!(matches!(joins(by_peer_with(longest - 1)), record::Effect::Write(..)));
    let refused = record::Effect::Done(Err(delta::Refusal::SlowPeer));
    assert_eq!(joins(by_peer_with(longest)), refused, "clocks differ in rate");
    let sanlock = DeltaRecord { extension: None, io_timeout: 1, ..by_peer_with(1) };
    assert_eq!(joins(sanlock), refused);
}

// Liveness.

#[test]
fn a_generation_that_its_record_does_not_show_is_counted_from_a_read_after_the_question() {
    let mut observer = Observer::new(timeouts());
    let dead = stretched(timeouts().dead());
    let unknown = Verdict::Active { dead_at: None };
    observer.observe(id(A), instant(at(1_000)), Some(at(1_000)), Seen::Good(record(owner(A, 1), 0)));
    assert_eq!(observer.judge(owner(A, 2), at(1_100)), unknown);
    // Begun before the question: generation 2 may have joined since.
    let early = Span { started: at(1_099), ended: at(1_150) };
    observer.observe(id(A), early, Some(early.started), Seen::Good(record(owner(A, 1), 1)));
    assert_eq!(observer.judge(owner(A, 2), at(1_200)), unknown);

    observer.observe(id(A), instant(at(1_200)), Some(at(1_200)), Seen::Good(record(owner(A, 1), 2)));
    let dead_at = at(1_200) + dead;
    assert_eq!(observer.judge(owner(A, 2), at(1_200)), Verdict::Active { dead_at: Some(dead_at) });
    // What generation 1 does is no life of generation 2.
    observer.observe(id(A), instant(at(1_300)), Some(at(1_300)), Seen::Good(record(owner(A, 1), 3)));
    assert_eq!(observer.judge(owner(A, 2), at(1_300)), Verdict::Active { dead_at: Some(dead_at) });
    // A read that may be of a stale copy shows nothing.
    observer.observe(id(A), instant(dead_at), None, Seen::Good(record(owner(A, 1), 3)));
    assert!(!observer.judge(owner(A, 2), dead_at).is_gone());
    observer.observe(id(A), instant(dead_at), Some(dead_at), Seen::Good(record(owner(A, 1), 3)));
    assert_eq!(observer.judge(owner(A, 2), dead_at), Verdict::Dead);

    // That was said of generation 2: for generation 3 all begins anew.
    assert_eq!(observer.judge(owner(A, 3), dead_at), unknown);
}

#[test]
fn a_generation_that_was_seen_is_not_counted_from_when_it_was_missing() {
    let mut observer = Observer::new(timeouts());
    let dead = stretched(timeouts().dead());
    let mut observe_at = |time, generation| {
        observer.observe(id(A), instant(time), Some(time), Seen::Good(record(owner(A, generation), 0)));
        observer.judge(owner(A, 2), time)
    };
    observe_at(at(1_000), 1);
    let missing_since = at(1_100);
    observe_at(missing_since, 1);
    let shown = at(1_400);
    assert_eq!(observe_at(shown, 2), Verdict::Active { dead_at: Some(shown + dead) });
    // A write of the one before it lands late: generation 2 may renew again all the same.
    let hidden = at(1_500);
    assert_eq!(observe_at(hidden, 1), Verdict::Active { dead_at: None });
    assert!(!observe_at(missing_since + dead, 1).is_gone());
}

#[test]
fn a_read_is_no_younger_than_the_own_record_that_it_shows() {
    let start = at(1_000);
    let (failed, dead_at) = (start + stretched(timeouts().fail()), start + stretched(timeouts().dead()));
    let mut observer = Observer::new(timeouts());
    observer.observe(id(A), instant(start), Some(start), Seen::Good(record(owner(A, 1), 0)));
    let mut shows_since = |content| {
        observer.observe(id(A), instant(dead_at), Some(content), Seen::Good(record(owner(A, 1), 0)));
        observer.judge(owner(A, 1), dead_at)
    };
    assert!(!shows_since(failed - Duration::from_nanos(1)).is_gone(), "A may have renewed since, and hold");
    assert_eq!(shows_since(failed), Verdict::Dead);
    assert_eq!(shows_since(start), Verdict::Dead, "an older read takes nothing back");
}

#[test]
fn a_host_is_judged_by_the_generation_that_its_record_shows() {
    let mut observer = Observer::new(timeouts());
    assert_eq!(observer.judge_host(id(A)), Verdict::Active { dead_at: None }, "never read");
    observer.observe(id(A), instant(at(1_000)), Some(at(1_000)), Seen::Good(record(owner(A, 1), 0)));
    let dead_at = at(1_000) + stretched(timeouts().dead());
    assert_eq!(observer.judge_host(id(A)), Verdict::Active { dead_at: Some(dead_at) });
    observer.observe(id(A), instant(dead_at), Some(dead_at), Seen::Good(record(owner(A, 1), 0)));
    assert_eq!(observer.judge_host(id(A)), Verdict::Dead);
    observer.observe(id(A), instant(dead_at), Some(dead_at), Seen::Good(record(owner(A, 2), 0)));
    assert!(!observer.judge_host(id(A)).is_gone(), "somebody has joined");
    let released = DeltaRecord { timestamp: 0, ..record(owner(A, 2), 0) };
    observer.observe(id(A), instant(dead_at), Some(dead_at), Seen::Good(released));
    assert_eq!(observer.judge_host(id(A)), Verdict::Over);
    observer.observe(id(A), instant(dead_at), Some(dead_at), damage());
    assert!(!observer.judge_host(id(A)).is_gone(), "nobody knows what it says now");
}

#[test]
fn people_are_shown_life_only_where_it_was_seen() {
    let mut observer = Observer::new(timeouts());
    let (start, fail) = (at(1_000), timeouts().fail());
    let before = |time: Time| time - Duration::from_nanos(1);
    assert_eq!(observer.state(id(A), start), HostState::Unknown, "never read");
    observer.observe(id(A), instant(start), Some(start), Seen::Good(free_record()));
    assert_eq!(observer.state(id(A), start), HostState::Free);
    assert_eq!(observer.state(id(B), start), HostState::Unknown);
    observer.observe(id(B), instant(start), Some(start), Seen::Good(record(owner(B, 1), 0)));
    assert_eq!(observer.state(id(B), start), HostState::Unknown, "it may be long dead");
    let seen = start + timeouts().renewal();
    observer.observe(id(B), instant(seen), Some(seen), Seen::Good(record(owner(B, 1), 1)));
    assert_eq!(observer.state(id(B), before(seen + fail)), HostState::Live);
    assert_eq!(observer.state(id(B), seen + fail), HostState::Failing);
    let dead_at = seen + stretched(timeouts().dead());
    assert_eq!(observer.state(id(B), dead_at), HostState::Failing, "no read confirms it");
    observer.observe(id(B), instant(dead_at), Some(dead_at), Seen::Good(record(owner(B, 1), 1)));
    assert_eq!(observer.state(id(B), dead_at), HostState::Dead);
    observer.observe(id(B), instant(dead_at), Some(dead_at), damage());
    assert_eq!(observer.state(id(B), dead_at), HostState::Unknown);
}

// Resources.

/// Disks with copies of one resource, and hosts that are all alive in their first generation.
struct Disks {
    now: Time,
    leaders: Vec<Seen<Leader>>,
    blocks: Vec<BTreeMap<HostId, Seen<Block>>>,
    /// Each disk once: in this order they answer a read, and a write the other way round.
    order: Vec<usize>,
    /// Disks on which every read and write fails.
    down: BTreeSet<usize>,
    observer: Observer,
    scanned: Time,
    scans: u32,
    writes: u32,
}

/// An operation of a host, and the effect that it waits for.
struct Run {
    host: HostId,
    operation: Operation,
    effect: Effect,
}

fn free_leader(version: u64) -> Leader {
    let geometry = Geometry::default();
    Leader::new_free(geometry, name("ls"), NONCE, name("res"), geometry.max_hosts(), Version::new(version))
}

impl Disks {
    fn new(disks: usize) -> Disks {
        Disks {
            now: at(1_000_000),
            leaders: vec![Seen::Good(free_leader(0)); disks],
            blocks: vec![BTreeMap::new(); disks],
            order: (0..disks).collect(),
            down: BTreeSet::new(),
            observer: Observer::new(timeouts()),
            scanned: Time::ZERO,
            scans: 0,
            writes: 0,
        }
    }

    fn subject(&self, host: u64) -> Subject {
        Subject {
            me: owner(host, 1),
            geometry: Geometry::default(),
            lockspace: name("ls"),
            nonce: NONCE,
            resource: name("res"),
            timeouts: timeouts(),
            disks: self.leaders.len(),
        }
    }

    fn acquire(&self, host: u64, own: Option<Block>) -> Run {
        let (operation, effect) = Operation::acquire(self.subject(host), own, Wish::exclusive(false), self.now);
        Run { host: id(host), operation, effect }
    }

    fn release(&self, host: u64, own: Block) -> Run {
        let (operation, effect) = Operation::release(self.subject(host), own, self.now);
        Run { host: id(host), operation, effect }
    }

    fn block(&self, disk: usize, host: u64) -> Block {
        self.blocks[disk].get(&id(host)).and_then(Seen::good).cloned().unwrap_or_default()
    }

    fn leader(&self, disk: usize) -> &Leader {
        self.leaders[disk].good().unwrap()
    }

    fn pass(&mut self) -> Span {
        let started = self.now;
        self.now = self.now + Duration::from_millis(1);
        Span { started, ended: self.now }
    }

    /// Hands in what every disk says. None of it counts once the operation has gone on; when it is over none is handed
    /// in.
    fn report(&mut self, run: &mut Run, round: u32, events: Vec<Event>) {
        let mut next = None;
        for event in events {
            let answer = run.operation.step(round, event, &mut self.observer, self.now, 1 << 60);
            assert!(next.is_none() || answer.is_none(), "an answer of an earlier round leads to {answer:?}");
            next = next.or(answer);
            if matches!(next, Some(Effect::Done(_))) {
                break;
            }
        }
        run.effect = next.unwrap_or_else(|| panic!("every disk has answered"));
    }

    fn wrote(&mut self, run: &mut Run, round: u32, write: impl Fn(&mut Disks, usize)) {
        self.writes += 1;
        self.pass();
        let up: Vec<usize> = self.order.iter().copied().filter(|disk| !self.down.contains(disk)).collect();
        up.into_iter().for_each(|disk| write(self, disk));
        let written = |disk: &usize| if self.down.contains(disk) { Written::Failed } else { Written::Done };
        let event = |disk: &usize| Event::Wrote { disk: *disk, written: written(disk) };
        let events = self.order.iter().rev().map(event).collect();
        self.report(run, round, events);
    }

    /// Carries out the effect that `run` waits for.
    fn step(&mut self, run: &mut Run) {
        match run.effect.clone() {
            Effect::Read(round) => {
                let (span, since) = (self.pass(), self.scanned);
                let read = |disk: &usize| match (*disk, self.down.contains(disk)) {
                    (disk, true) => Event::ReadFailed { disk },
                    (disk, false) => {
                        let view = AreaView { leader: self.leaders[disk].clone(), blocks: self.blocks[disk].clone() };
                        Event::Read { disk, span, since, view }
                    }
                };
                let events = self.order.iter().map(read).collect();
                self.report(run, round, events);
            }
            Effect::WriteBlock(round, block) => {
                let host = run.host;
                self.wrote(run, round, |disks, disk| {
                    disks.blocks[disk].insert(host, Seen::Good(block.clone()));
                });
            }
            Effect::WriteLeader(round, leader) => {
                self.wrote(run, round, |disks, disk| disks.leaders[disk] = Seen::Good(leader.clone()));
            }
            Effect::Scan(round) => {
                let span = self.pass();
                self.scans += 1;
                for host in [A, B] {
                    let seen = Seen::Good(record(owner(host, 1), self.scans));
                    self.observer.observe(id(host), span, Some(span.started), seen);
                }
                self.scanned = span.started;
                self.report(run, round, vec![Event::Scanned]);
            }
            Effect::Settle(round) => self.report(run, round, vec![Event::Settled]),
            Effect::Wait(round, until) => {
                self.now = self.now.max(until);
                self.report(run, round, vec![Event::Woke]);
            }
            Effect::Done(outcome) => panic!("already over: {outcome:?}"),
        }
    }

    /// Goes on until `run` is about to do something that `wanted` picks.
    fn until(&mut self, run: &mut Run, wanted: impl Fn(&Effect) -> bool) {
        for _ in 0..1_000 {
            if wanted(&run.effect) {
                return;
            }
            self.step(run);
        }
        panic!("no end, now before {:?}", run.effect);
    }

    /// Goes on until the block that `wanted` picks is written, but not yet read back.
    fn until_written(&mut self, run: &mut Run, wanted: impl Fn(&Block) -> bool) {
        self.until(run, |effect| matches!(effect, Effect::WriteBlock(_, block) if wanted(block)));
        self.step(run);
        assert!(matches!(run.effect, Effect::Read(_)), "{:?}", run.effect);
    }

    fn finish(&mut self, mut run: Run) -> Outcome {
        self.until(&mut run, |effect| matches!(effect, Effect::Done(_)));
        match run.effect {
            Effect::Done(outcome) => outcome,
            _ => unreachable!(),
        }
    }

    fn takes(&mut self, host: u64) -> Outcome {
        let run = self.acquire(host, None);
        self.finish(run)
    }

    fn is_blocked_by(&mut self, host: u64, holder: u64) {
        match self.takes(host) {
            Outcome::Blocked(blocker) => assert_eq!(blocker.owner, Some(owner(holder, 1))),
            other => panic!("{other:?}"),
        }
    }
}

fn is_phase_1(block: &Block) -> bool {
    block.inp.is_none()
}

fn is_phase_2(block: &Block) -> bool {
    block.inp.is_some() && !block.released
}

fn held(version: u64) -> Outcome {
    Outcome::Held(Version::new(version))
}

/// A leader that is none of ours to write: each with the refusal that it leads to.
fn strange_leaders() -> Vec<(Seen<Leader>, Refusal)> {
    let Seen::<Leader>::Bad(reason) = damage() else { unreachable!() };
    let others = Leader { resource: name("other"), ..free_leader(0) };
    let moved = Leader { lockspace: name("other"), ..free_leader(0) };
    vec![
        (damage(), Refusal::LeaderDamaged(reason)),
        (Seen::Good(Leader { cleared: true, ..free_leader(0) }), Refusal::Cleared),
        (Seen::Good(others.clone()), Refusal::Foreign(Box::new(others))),
        (Seen::Good(moved.clone()), Refusal::Foreign(Box::new(moved))),
        (Seen::Good(Leader { num_hosts: 1, ..free_leader(0) }), Refusal::HostIdTooLarge { num_hosts: 1 }),
    ]
}

#[test]
fn where_the_leader_is_not_that_of_the_resource_nothing_is_written() {
    for (leader, refusal) in strange_leaders() {
        let mut disks = Disks::new(1);
        disks.leaders[0] = leader;
        assert_eq!(disks.takes(B), Outcome::Refused(refusal));
        assert_eq!(disks.writes, 0);
    }
}

#[test]
fn the_last_host_that_a_resource_has_room_for_may_take_it() {
    let mut disks = Disks::new(1);
    disks.leaders[0] = Seen::Good(Leader { num_hosts: B, ..free_leader(0) });
    assert_eq!(disks.takes(B), held(1));
}

#[test]
fn a_leader_that_becomes_strange_during_phase_1_ends_the_ballot() {
    for (leader, refusal) in strange_leaders() {
        let mut disks = Disks::new(1);
        let mut run = disks.acquire(B, None);
        disks.until_written(&mut run, is_phase_1);
        disks.leaders[0] = leader;
        assert_eq!(disks.finish(run), Outcome::Refused(refusal));
        assert_eq!(disks.block(0, B).inp, None, "nothing is proposed");
    }
}

#[test]
fn a_leader_that_becomes_strange_during_phase_2_is_not_written_over() {
    for (leader, refusal) in strange_leaders() {
        let mut disks = Disks::new(1);
        let mut run = disks.acquire(B, None);
        disks.until_written(&mut run, is_phase_2);
        disks.leaders[0] = leader.clone();
        let damaged = matches!(refusal, Refusal::LeaderDamaged(_));
        assert_eq!(disks.finish(run), Outcome::Refused(refusal));
        assert_eq!(disks.leaders[0], leader);
        // The claim is in the block alone. Where there is no resource any more, the area is left alone.
        assert_eq!(disks.block(0, B).released, damaged);
        assert_eq!(disks.block(0, B).inp, Some(owner(B, 1)));
    }
}

#[test]
fn a_lease_is_released_though_the_leader_is_damaged() {
    let mut disks = Disks::new(1);
    assert_eq!(disks.takes(A), held(1));
    disks.leaders[0] = damage();
    let run = disks.release(A, disks.block(0, A));
    assert_eq!(disks.finish(run), Outcome::Released);
    assert!(disks.block(0, A).released);
    assert_eq!(disks.leaders[0], damage());
}

#[test]
fn an_operation_ends_where_versions_or_ballot_numbers_do() {
    let last = (1 << 60) - 2;
    let mut disks = Disks::new(1);
    disks.leaders[0] = Seen::Good(free_leader(last));
    assert_eq!(disks.takes(A), held(last + 1));
    let run = disks.release(A, disks.block(0, A));
    assert_eq!(disks.finish(run), Outcome::Released);
    let writes = disks.writes;
    assert_eq!(disks.takes(B), Outcome::Refused(Refusal::Exhausted));
    assert_eq!(disks.writes, writes);

    let mut disks = Disks::new(1);
    disks.blocks[0].insert(id(A), Seen::Good(Block { mbal: (1 << 61) - 1, ..Block::default() }));
    assert_eq!(disks.takes(B), Outcome::Refused(Refusal::Exhausted));
    assert_eq!(disks.writes, 0);
}

#[test]
fn an_own_block_that_somebody_set_back_is_no_ground_to_begin_again() {
    let claim = Block {
        mbal: B,
        bal: B,
        inp: Some(owner(B, 1)),
        inp_timestamp: 9,
        instance: Version::new(3),
        ..Block::default()
    };
    let given_up = Block { released: true, ..claim.clone() };
    for (known, writes) in [(given_up.clone(), 0), (claim, 1)] {
        let mut disks = Disks::new(1);
        let run = disks.acquire(B, Some(known));
        assert_eq!(disks.finish(run), Outcome::Refused(Refusal::OwnBlockChanged));
        // What could have been respected is there again, and given up.
        assert_eq!(disks.writes, writes);
        let expected = if writes == 0 { Block::default() } else { given_up.clone() };
        assert_eq!(Block { extension: None, ..disks.block(0, B) }, expected);
    }
}

#[test]
fn an_own_block_that_vanishes_during_a_ballot_is_written_again_and_nothing_is_held() {
    // In phase 2 somebody may have seen it: the value is still there, and given up.
    for (wanted, left) in [(is_phase_1 as fn(&Block) -> bool, None), (is_phase_2, Some(owner(A, 1)))] {
        let mut disks = Disks::new(1);
        let mut run = disks.acquire(A, None);
        disks.until_written(&mut run, wanted);
        disks.blocks[0].clear();
        assert_eq!(disks.finish(run), Outcome::Refused(Refusal::OwnBlockChanged));
        assert_eq!((disks.block(0, A).inp, disks.block(0, A).released), (left, left.is_some()));
        assert_eq!(disks.takes(B), held(if left.is_some() { 2 } else { 1 }));
    }
}

#[test]
fn who_gives_up_needs_no_scan_to_do_so() {
    let mut disks = Disks::new(1);
    let mut run = disks.acquire(A, None);
    disks.until_written(&mut run, is_phase_1);
    run.operation.call_off();
    let scans = disks.scans;
    disks.now = disks.now + timeouts().io() * 20;
    assert_eq!(disks.finish(run), Outcome::GaveUp);
    assert_eq!(disks.scans, scans);
    assert_eq!(disks.takes(B), held(1));
}

// Several disks.

/// All orders in which three disks may answer.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn a_majority_of_the_disks_is_enough_and_necessary() {
    for order in ORDERS {
        let mut disks = Disks::new(3);
        disks.order = order.into();
        disks.down = [order[0]].into();
        assert_eq!(disks.takes(A), held(1));
        disks.down.insert(order[1]);
        assert_eq!(disks.takes(B), Outcome::Refused(Refusal::Storage));
        let writes = disks.writes;
        disks.down = [order[1]].into();
        disks.is_blocked_by(B, A);
        assert_eq!(disks.writes, writes, "what is held was seen before anything was written");
    }
}

/// Whatever majority was written and whatever majority is read: they have a disk in common, and what it shows counts.
#[test]
fn what_one_disk_of_a_majority_shows_counts() {
    for order in ORDERS {
        for down in 0..3 {
            let mut disks = Disks::new(3);
            disks.down = [down].into();
            let mut run = disks.acquire(A, None);
            disks.until_written(&mut run, is_phase_2);
            // Instance 1 is decided, and no leader says so.
            disks.order = order.into();
            for deaf in (0..3).filter(|disk| *disk != down) {
                disks.down = [deaf].into();
                let mut peer = disks.acquire(B, None);
                disks.until(&mut peer, |effect| matches!(effect, Effect::WriteLeader(..) | Effect::Done(_)));
                match peer.effect {
                    Effect::WriteLeader(_, leader) => assert_eq!(leader.owner, Some(owner(A, 1))),
                    Effect::Done(Outcome::Blocked(blocker)) => assert_eq!(blocker.owner, Some(owner(A, 1))),
                    other => panic!("{other:?}"),
                }
            }
            disks.down.clear();
            assert_eq!(disks.finish(run), held(1));
        }
    }
}

#[test]
fn a_disk_that_missed_a_write_hides_neither_a_release_nor_a_hold() {
    for order in ORDERS {
        let [missed, other, third] = order;
        for deaf in [other, third] {
            let mut disks = Disks::new(3);
            assert_eq!(disks.takes(A), held(1));
            disks.order = order.into();
            disks.down = [missed].into();
            let run = disks.release(A, disks.block(other, A));
            assert_eq!(disks.finish(run), Outcome::Released);
            disks.down = [deaf].into();
            assert_eq!(disks.takes(B), held(2));

            disks.down = [missed].into();
            let run = disks.release(B, disks.block(if deaf == other { third } else { other }, B));
            assert_eq!(disks.finish(run), Outcome::Released);
            assert_eq!(disks.takes(A), held(3));
            disks.down = [deaf].into();
            disks.is_blocked_by(B, A);
        }
    }
}

#[test]
fn the_latest_leader_of_a_majority_counts_and_a_damaged_one_does_not_hide_it() {
    let latest = Seen::Good(free_leader(5));
    for order in ORDERS {
        for other in [Seen::Good(free_leader(4)), damage()] {
            let mut disks = Disks::new(3);
            disks.order = order.into();
            disks.leaders = vec![latest.clone(), other, latest.clone()];
            assert_eq!(disks.takes(A), held(6));
            assert_eq!([0, 1, 2].map(|disk| disks.leader(disk).version), [Version::new(6); 3]);
        }
    }
}

#[test]
fn a_disk_with_a_damaged_block_counts_as_not_read() {
    for order in ORDERS {
        let mut disks = Disks::new(3);
        disks.order = order.into();
        disks.blocks[order[0]].insert(id(B), damage());
        assert_eq!(disks.takes(A), held(1), "two others are sound");
        let mut disks = Disks::new(3);
        disks.order = order.into();
        disks.blocks[order[0]].insert(id(B), damage());
        disks.blocks[order[2]].insert(id(B), damage());
        assert_eq!(disks.takes(A), Outcome::Refused(Refusal::Storage));
        assert_eq!(disks.writes, 0);
    }
}

/// The ballot has just the majority that was written first: one disk less, and it is over.
#[test]
fn a_disk_that_turns_bad_between_write_and_read_ends_the_attempt_and_nothing_is_left_of_it() {
    let bad: [(u64, Seen<Block>); 3] = [(A, Seen::Good(Block::default())), (A, damage()), (B, damage())];
    for order in ORDERS {
        for (host, value) in &bad {
            for (wanted, next) in [(is_phase_1 as fn(&Block) -> bool, 1), (is_phase_2, 2)] {
                let mut disks = Disks::new(3);
                disks.order = order.into();
                let mut run = disks.acquire(A, None);
                disks.until_written(&mut run, wanted);
                disks.blocks[order[2]].insert(id(*host), value.clone());
                assert_eq!(disks.finish(run), Outcome::Refused(Refusal::Storage));
                // Mended from another copy.
                disks.blocks[order[2]] = disks.blocks[order[1]].clone();
                assert_eq!(disks.takes(B), held(next), "{host} {value:?}");
            }
        }
    }
}

#[test]
fn a_disk_where_the_own_block_is_not_durable_says_nothing_in_that_phase() {
    for order in ORDERS {
        let mut disks = Disks::new(3);
        disks.order = order.into();
        let mut run = disks.acquire(A, None);
        disks.until(&mut run, |effect| matches!(effect, Effect::WriteBlock(..)));
        disks.down = [order[0]].into();
        disks.step(&mut run);
        // It answers first, and it shows a larger ballot: that would end this one.
        disks.down.clear();
        let larger = Block { mbal: 4_002, instance: Version::new(1), ..Block::default() };
        disks.blocks[order[0]].insert(id(B), Seen::Good(larger));
        disks.step(&mut run);
        let proposes = matches!(&run.effect, Effect::WriteBlock(_, block) if is_phase_2(block));
        assert!(proposes, "{:?}", run.effect);
    }
}
