//! Looks at what is held: what a holder concludes when its block or the leader is not what it left there, and what it
//! writes.

use std::collections::BTreeSet;
use std::time::Duration;

use leasehold::format::{Block, Leader};
use leasehold::protocol::area::{AreaView, claim};
use leasehold::protocol::holding::{Holding, Loss, Restore, Task};
use leasehold::protocol::looks::{Glance, Look, Restoration, Sight, Verdict};
use leasehold::protocol::resource::{After, Effect, Event, Operation, Outcome, Refusal, Wish};
use leasehold::protocol::{Seen, Written};
use leasehold::{LeaseMode, Owner, Time, Version};

use crate::world::*;

/// A lease, and what its process knows of it.
struct Lease {
    me: Owner,
    version: Version,
    glance: Glance,
    holding: Holding,
}

/// A read of the blocks of all who can have one.
fn covering(view: &AreaView) -> Sight<'_> {
    Sight { view, unseen: Time::MAX, settled: true }
}

impl World {
    /// What `host` has just acquired.
    fn lease(&self, host: u64, mode: LeaseMode) -> Lease {
        let (me, own) = (self.present(host), self.block_of(host));
        let passed = self.view().claimed_by_others(me.host).collect();
        let holding = Holding::new(&World::subject(me), self.now, passed);
        Lease { me, version: own.instance, glance: Glance { begun: 1, mode, own: Some(own) }, holding }
    }

    /// Host A alone.
    fn owner_a(&mut self) -> Lease {
        self.take(A);
        self.lease(A, LeaseMode::Exclusive)
    }

    /// What a look at `lease` says.
    fn verdict(&mut self, lease: &Lease) -> Verdict {
        let glance = &lease.glance;
        let (subject, view, now) = (World::subject(lease.me), self.view(), self.now);
        let view = covering(&view);
        let observer = self.observers.get_mut(&lease.me.host).unwrap();
        let what = (lease.version, &lease.holding);
        Look::at(&subject, what, (glance, Some(glance)), view, observer, now).unwrap().verdict
    }

    /// Looks, and takes in what that says.
    fn look(&mut self, lease: &mut Lease) -> Option<Restore> {
        let view = self.view();
        self.sees(lease, covering(&view))
    }

    /// As [`World::look`], but without the block of a host of which nobody knew before `unseen`.
    fn overlooks(&mut self, lease: &mut Lease, host: u64, unseen: Time) -> Option<Restore> {
        let mut view = self.view();
        view.blocks.remove(&id(host));
        self.sees(lease, Sight { unseen, ..covering(&view) })
    }

    fn sees(&mut self, lease: &mut Lease, sight: Sight<'_>) -> Option<Restore> {
        let glance = &lease.glance;
        let (subject, span) = (World::subject(lease.me), self.pass());
        let observer = self.observers.get_mut(&lease.me.host).unwrap();
        let what = (lease.version, &lease.holding);
        let look = Look::at(&subject, what, (glance, Some(glance)), sight, observer, span.ended).unwrap();
        lease.holding.looked(span.started, look, span.ended)
    }

    fn restores(&mut self, lease: &mut Lease, restore: Restore) {
        assert!(self.now < restore.by);
        match restore.what {
            Restoration::Block(block) => drop(self.blocks.insert(lease.me.host, Seen::Good(block))),
            Restoration::Leader(leader) => {
                self.leader = leader;
                self.leader_is_damaged = false;
            }
        }
        lease.holding.restored(self.now);
    }

    /// The area as it is made: by somebody who knows nothing of who holds it.
    fn is_made_again(&mut self, version: u64) {
        self.blocks.clear();
        self.leader = Leader { version: Version::new(version), ..self.made() };
    }

    fn made(&self) -> Leader {
        let Leader { geometry, lockspace, resource, num_hosts, .. } = self.leader;
        Leader::new_free(geometry, lockspace, World::subject(owner(A, 1)).nonce, resource, num_hosts, Version::new(0))
    }
}

fn loss_of(lease: &Lease) -> &Loss {
    &lease.holding.loss().unwrap().1
}

/// Those who have come since saw nothing of it. Without the rule (`OwnBlockIsLookedAt`) A goes on beside them.
#[test]
fn scenario_51_a_holder_whose_block_was_erased_or_replaced_has_lost_the_lease() {
    for mode in [LeaseMode::Exclusive, LeaseMode::Shared] {
        for (change, loss) in [
            (None, Loss::Erased),
            (
                Some((|block: &mut Block| block.instance = Version::new(block.instance.get() - 1)) as fn(&mut Block)),
                Loss::Replaced,
            ),
            (Some(|block| (block.inp, block.shared) = (None, None)), Loss::Replaced),
            (Some(|block| block.extension.as_mut().unwrap().generation += 1), Loss::Replaced),
        ] {
            let mut world = World::new();
            world.take(B);
            world.give_back(B);
            world.takes_as(A, Wish { mode, ..Wish::exclusive(true) });
            let mut lease = world.lease(A, mode);
            assert_eq!(world.verdict(&lease), Verdict::Good);
            match change {
                None => drop(world.blocks.remove(&id(A))),
                Some(change) => world.edit_block(A, change),
            }
            assert_eq!(world.look(&mut lease), None, "nothing is written");
            assert_eq!(loss_of(&lease), &loss, "{mode:?}");
            // Lost is latched.
            let own = lease.glance.own.clone().unwrap();
            world.blocks.insert(id(A), Seen::Good(own));
            assert_eq!(world.look(&mut lease), None);
            assert!(lease.holding.is_lost());
        }
    }
}

/// As a device that is wiped under a holder: B takes what A holds, which stops F + G later. What A gives back then
/// takes nothing from B, which a release like any other would: its block of a later instance looks like another owner.
#[test]
fn scenario_51_an_area_that_is_made_again_under_its_holder_is_not_given_back_over_the_next_one() {
    let mut world = World::new();
    world.take(B);
    world.give_back(B);
    let mut lease = world.owner_a();
    world.is_made_again(0);
    assert_eq!(world.take(B), Version::new(1), "a version of the past");
    let taken = world.lease(B, LeaseMode::Exclusive);
    assert_eq!(world.look(&mut lease), None);
    assert_eq!(loss_of(&lease), &Loss::Erased);
    let due = lease.holding.due();
    assert_eq!(due, lease.holding.loss().unwrap().0 + timeouts().fence());
    assert_eq!(lease.holding.task(due), Some(Task::GiveBack));
    let own = lease.glance.own.clone().unwrap();
    let (operation, effect) = Operation::disown(World::subject(lease.me), own.clone(), world.now);
    assert_eq!(world.finish(Run { me: lease.me, operation, effect }), Outcome::Released);
    assert_eq!(world.verdict(&taken), Verdict::Good);
    assert!(!world.blocks.contains_key(&id(A)));
    // As a release would have it.
    world.blocks.insert(id(A), Seen::Good(Block { released: true, ..own }));
    assert!(matches!(world.verdict(&taken), Verdict::Lost(Loss::Taken { .. })));
}

/// Else the leader would keep everybody from the resource for as long as A lives.
#[test]
fn what_was_lost_with_its_block_alone_is_given_back() {
    let mut world = World::new();
    let mut lease = world.owner_a();
    world.blocks.remove(&id(A));
    world.look(&mut lease);
    world.is_blocked_by(B, A);
    let own = lease.glance.own.unwrap();
    let (operation, effect) = Operation::disown(World::subject(lease.me), own, world.now);
    assert_eq!(world.finish(Run { me: lease.me, operation, effect }), Outcome::Released);
    assert_eq!(world.take(B), Version::new(2));
}

/// A late write of a host that may be dead by now does not end what A protects: A writes its leader again. But no such
/// look moves the deadline (rule `LowerLeaderIsNoGoodLook`).
#[test]
fn scenario_51_a_leader_below_what_is_held_is_written_again_and_is_no_good_look() {
    let changes: [fn(&mut World); 7] = [
        |world| world.leader = Leader { version: Version::new(1), ..world.made() },
        |world| world.leader.version = Version::new(1),
        |world| world.leader.timestamp = 0,
        |world| world.leader = Leader { version: Version::new(2), ..world.made() },
        |world| world.leader.cleared = true,
        |world| world.leader.resource = name("another"),
        |world| world.leader_is_damaged = true,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut world = World::new();
        world.take(B);
        world.give_back(B);
        let mut lease = world.owner_a();
        let right = world.leader.clone();
        let held_until = |lease: &Lease| lease.holding.deadline().unwrap();
        world.now = world.now + timeouts().renewal();
        assert_eq!(world.look(&mut lease), None);
        let before = held_until(&lease);
        world.now = world.now + timeouts().renewal();
        change(&mut world);
        let restore = world.look(&mut lease).unwrap_or_else(|| panic!("change {index}"));
        assert_eq!(restore, Restore { what: Restoration::Leader(right.clone()), by: before }, "change {index}");
        assert_eq!(held_until(&lease), before, "change {index}");
        // A second one knows no more.
        let restore = world.look(&mut lease).unwrap();
        let mut unwritten = lease.holding.clone();
        world.restores(&mut lease, restore);
        assert_eq!(world.leader, right, "change {index}");
        assert!(lease.holding.due() <= world.now, "only a look that begins now shows it");
        assert_eq!(world.look(&mut lease), None);
        assert!(held_until(&lease) > before, "change {index}");
        unwritten.tick(before);
        assert_eq!(unwritten.loss(), Some(&(before, Loss::Unverified)), "change {index}");
    }
}

/// Before the first good look the leader can only be made up, of what can be known.
#[test]
fn a_leader_that_was_never_seen_is_made_of_what_the_area_shows() {
    let mut world = World::new();
    world.leader.num_hosts = 7;
    let mut lease = world.owner_a();
    let right = world.leader.clone();
    world.leader.version = Version::new(0);
    let restore = world.look(&mut lease).unwrap();
    let Restoration::Leader(leader) = restore.what else { panic!("{restore:?}") };
    let same = Leader { timestamp: 0, writer: right.writer, extension: right.extension, ..leader.clone() };
    assert_eq!(same, Leader { timestamp: 0, ..right });
    // Nothing tells whom the ballot passed over.
    assert!(!leader.is_free() && !leader.is_judged());
    world.leader_is_damaged = true;
    let restore = world.look(&mut lease).unwrap();
    let Restoration::Leader(lost) = restore.what else { panic!("{restore:?}") };
    assert_eq!(lost.num_hosts, lost.geometry.max_hosts());
}

/// Others wait for it to be written again. Who can't write it does not hold for long.
#[test]
fn a_damaged_block_of_a_holder_is_written_again_and_is_no_good_look() {
    for mode in [LeaseMode::Exclusive, LeaseMode::Shared] {
        let mut world = World::new();
        world.takes_as(A, Wish { mode, ..Wish::exclusive(true) });
        let mut lease = world.lease(A, mode);
        let (own, before) = (lease.glance.own.clone().unwrap(), lease.holding.deadline());
        world.blocks.insert(id(A), damage());
        let restore = world.look(&mut lease).unwrap();
        assert_eq!(restore.what, Restoration::Block(own));
        assert_eq!(lease.holding.deadline(), before);
        world.is_blocked_by(B, A);
        world.restores(&mut lease, restore);
        assert_eq!(world.look(&mut lease), None);
        assert!(lease.holding.deadline() > before);
        // It ends at once where it was taken, too.
        if mode == LeaseMode::Exclusive {
            world.takes_as(B, forced(1));
            world.blocks.insert(id(A), damage());
            assert_eq!(world.look(&mut lease), None);
            assert!(matches!(loss_of(&lease), Loss::Taken { .. }));
        }
    }
}

/// B takes the resource from A by force and gives it back. What says so goes with its next ballot and with the leader.
#[test]
fn an_owner_sees_that_the_next_version_is_being_taken() {
    let mut world = World::new();
    let lease = world.owner_a();
    let before = world.leader.clone();
    let mut b = world.acquire_as(B, forced(1));
    world.until(&mut b, writes_phase_2);
    world.leader = before.clone();
    assert!(matches!(world.verdict(&lease), Verdict::Good), "nothing is decided yet");
    assert_eq!(world.end(&mut b), Outcome::Held(Version::new(2)));
    world.give_back(B);
    let mut b = world.acquire_as(B, forced(2));
    world.until(&mut b, writes_phase_2);
    for damaged in [false, true] {
        world.leader = before.clone();
        world.leader_is_damaged = damaged;
        let taken = Loss::Taken { owner: None, version: Version::new(2) };
        assert_eq!(world.verdict(&lease), Verdict::Lost(taken));
    }
}

/// The leader that A had in flight when B took the resource by force shows A again. B passed over A, so that is no
/// other owner.
#[test]
fn who_has_taken_by_force_writes_its_leader_over_that_of_the_owner_before() {
    let mut world = World::new();
    world.take(A);
    let before = world.leader.clone();
    world.takes_as(B, forced(1));
    let lease = world.lease(B, LeaseMode::Exclusive);
    world.leader = before;
    assert!(matches!(world.verdict(&lease), Verdict::Restore(Restoration::Leader(_))));
}

/// B joins with an id that nobody used, takes the lease from A by force, and its leader is overwritten by one that was
/// long on its way. A doesn't read B's block before it has read all records again.
#[test]
fn scenario_46_a_late_leader_does_not_hide_a_taker_that_the_owner_has_never_seen() {
    let mut world = World::new();
    let late = world.leader.clone();
    let mut a = world.owner_a();
    assert_eq!(world.look(&mut a), None);
    let unseen = world.now;
    world.takes_as(B, forced(1));
    world.leader = late;
    let restore = world.overlooks(&mut a, B, unseen).unwrap();
    world.restores(&mut a, restore);
    for _ in 0..3 {
        assert_eq!(world.overlooks(&mut a, B, unseen), None);
        let end = a.holding.deadline();
        assert!(end <= Some(unseen + timeouts().fail()), "{end:?}: its leader is the one that it has written itself");
        assert!(a.holding.needs_scan(Some(world.now), world.now));
    }
    assert_eq!(world.look(&mut a), None);
    let taken = Loss::Taken { owner: Some(owner(B, 1)), version: Version::new(2) };
    assert_eq!(a.holding.loss().map(|(_, loss)| loss), Some(&taken));
}

/// B takes the lease from A by force. Then the leader is damaged, and so is B's block: nothing is left of that.
#[test]
fn scenario_46_damage_does_not_hide_a_taker() {
    let mut world = World::new();
    let mut a = world.owner_a();
    for _ in 0..2 {
        assert_eq!(world.look(&mut a), None);
    }
    let end = a.holding.deadline();
    world.takes_as(B, forced(1));
    let taker = world.block_of(B);
    world.leader_is_damaged = true;
    world.blocks.insert(id(B), damage());
    for _ in 0..3 {
        assert_eq!(world.look(&mut a), None, "writing the leader again would hide it for good");
        assert_eq!(a.holding.deadline(), end);
    }
    world.blocks.insert(id(B), Seen::Good(taker));
    assert_eq!(world.look(&mut a), None);
    assert!(matches!(loss_of(&a), Loss::Taken { .. }));
}

/// One fault alone costs no lease: while the leader is right nobody has taken anything.
#[test]
fn a_damaged_block_of_another_host_hides_nothing_where_the_leader_is_right() {
    let mut world = World::new();
    let mut a = world.owner_a();
    assert_eq!(world.look(&mut a), None);
    world.blocks.insert(id(B), damage());
    let goes_on = |world: &mut World, a: &mut Lease| {
        let start = world.now;
        assert_eq!(world.look(a), None);
        assert_eq!(a.holding.deadline(), Some(start + timeouts().fail()));
    };
    goes_on(&mut world, &mut a);
    goes_on(&mut world, &mut a);
    // Nor where the other one is gone.
    world.leaves(B);
    world.scan(id(A));
    world.leader_is_damaged = true;
    let restore = world.look(&mut a).unwrap();
    world.restores(&mut a, restore);
    goes_on(&mut world, &mut a);
}

/// Reading all records with each look would cost more than all the rest.
#[test]
fn a_leader_that_has_not_changed_shows_that_nobody_has_come() {
    let mut world = World::new();
    let mut a = world.owner_a();
    let first = world.now;
    assert_eq!(world.overlooks(&mut a, B, Time::ZERO), None);
    assert_eq!(a.holding.due(), world.now, "the first leader is none that it has seen before");
    assert_eq!(world.look(&mut a), None);
    for _ in 0..3 {
        let start = world.now;
        assert_eq!(world.overlooks(&mut a, B, Time::ZERO), None);
        assert_eq!(a.holding.deadline(), Some(start + timeouts().fail()));
        assert!(!a.holding.needs_scan(Some(first), world.now));
    }
    // Whoever wrote it may write the same once more.
    let view = world.view();
    world.sees(&mut a, Sight { settled: false, ..covering(&view) });
    let start = world.now;
    assert_eq!(world.overlooks(&mut a, B, Time::ZERO), None);
    assert!(a.holding.deadline() < Some(start + timeouts().fail()));
}

/// What an earlier process read may be long ago.
#[test]
fn what_is_taken_up_from_an_earlier_process_is_looked_at_once_more() {
    let mut world = World::new();
    let unseen = world.now;
    let mut a = world.owner_a();
    a.holding = a.holding.adopted(unseen);
    assert_eq!(a.holding.deadline(), Some(unseen + timeouts().fail()));
    assert!(a.holding.needs_scan(Some(world.now), world.now));
    assert_eq!(a.holding.task(world.now), Some(Task::Look));
    assert_eq!(world.look(&mut a), None);
    assert!(a.holding.due() > world.now && !a.holding.needs_scan(Some(world.now), world.now));
}

/// A shared version 1 and gave it up, and runs version 1 again to hold it alone, because the leader was set back. Then
/// the area is set back to where A shared.
#[test]
fn scenario_51_a_flag_that_was_set_back_does_not_hold_alone() {
    let mut world = World::new();
    world.share(A);
    let (flag, leader) = (world.block_of(A), world.leader.clone());
    world.give_back(A);
    world.leader = world.made();
    let mut a = world.acquire(A, false);
    world.until(&mut a, |effect| matches!(effect, Effect::WriteLeader(..)));
    world.step(&mut a);
    world.blocks.insert(id(A), Seen::Good(flag));
    world.leader = leader;
    if let Outcome::Held(version) = world.finish(a) {
        let own = world.block_of(A);
        assert_eq!(claim(id(A), &own), Some((version, owner(A, 1))), "{own:?}");
    }
}

/// A shares, the area is wiped while its flag is on its way, and B comes to own the same version once more.
#[test]
fn scenario_51_a_flag_at_a_version_that_another_owns_since_a_wipe_is_no_hold() {
    let mut world = World::new();
    let mut a = world.acquire_as(A, SHARED);
    world.until(&mut a, |effect| matches!(effect, Effect::WriteBlock(_, block) if block.shared.is_some()));
    let late = world.times_out(&mut a);
    world.is_made_again(0);
    assert_eq!(world.take(B), Version::new(1));
    world.land(late);
    let outcome = world.finish(a);
    assert!(!matches!(outcome, Outcome::Held(_)), "{outcome:?}");
}

/// B dies with a leader in flight, and its host id is used again when that lands: nobody can say any more that B was
/// gone. But A has seen B's claim before.
#[test]
fn a_late_leader_of_an_owner_that_died_long_ago_is_written_over_though_its_host_id_is_used_again() {
    let mut world = World::new();
    world.take(B);
    let late = world.leader.clone();
    world.dies(B);
    world.scan(id(A));
    world.now = world.now + timeouts().dead() * 2;
    let mut lease = world.owner_a();
    world.records.get_mut(&id(B)).unwrap().generation = 9;
    world.scan(id(A));
    assert_eq!(world.look(&mut lease), None);
    world.leader = late;
    let restore = world.look(&mut lease);
    assert!(matches!(restore, Some(Restore { what: Restoration::Leader(_), .. })), "{:?}", lease.holding.loss());
}

/// The area is wiped after A has looked at it for the last time before a write, so that write hides it. Without the
/// rule (`RivalEndsHold`) A and B go on beside each other.
#[test]
fn who_sees_another_own_the_resource_who_saw_nothing_of_its_own_hold_has_lost_it() {
    for mode in [LeaseMode::Exclusive, LeaseMode::Shared] {
        let mut world = World::new();
        world.take(B);
        world.give_back(B);
        world.takes_as(A, Wish { mode, ..Wish::exclusive(true) });
        let lease = world.lease(A, mode);
        world.is_made_again(0);
        world.take(B);
        world.blocks.insert(id(A), Seen::Good(lease.glance.own.clone().unwrap()));
        let by = Loss::Taken { owner: Some(owner(B, 1)), version: Version::new(1) };
        assert_eq!(world.verdict(&lease), Verdict::Lost(by), "{mode:?}");
        world.dies(B);
        world.scan(id(A));
        world.now = world.now + timeouts().dead() * 2;
        world.scan(id(A));
        assert!(!matches!(world.verdict(&lease), Verdict::Lost(_)), "one that is gone is none");
    }
}

/// The block that the look read is that of before the operation, and says that A has lost the lease.
#[test]
fn what_was_read_before_an_own_operation_began_says_nothing() {
    let mut world = World::new();
    let lease = world.owner_a();
    let view = world.view();
    let after = Glance { begun: 2, ..lease.glance.clone() };
    world.receive_and_ask(A, B);
    let own = world.block_of(A);
    assert_ne!(Some(&own), lease.glance.own.as_ref());
    let (subject, now) = (World::subject(lease.me), world.now);
    let observer = world.observers.get_mut(&id(A)).unwrap();
    let what = (lease.version, &lease.holding);
    let mut look = |before: &Glance, after: Option<&Glance>| {
        Look::at(&subject, what, (before, after), covering(&view), observer, now).map(|look| look.verdict)
    };
    assert_eq!(look(&lease.glance, Some(&after)), None);
    assert_eq!(look(&lease.glance, None), None);
    let stale = Glance { own: Some(own), ..after };
    assert_eq!(look(&stale, Some(&stale)), Some(Verdict::Lost(Loss::Replaced)));
}

impl World {
    /// `source` begins to hand over to `to`, and keeps what it has: its block is of a later instance then, and says
    /// that it holds the earlier one.
    fn receive_and_ask(&mut self, source: u64, to: u64) {
        let mut b = self.receive(to);
        self.until(&mut b, |effect| matches!(effect, Effect::Wait(..)));
        let mut a = self.hand_over(source, 1, self.present(to));
        self.until(&mut a, writes_phase_1);
        self.step(&mut a);
        a.operation.call_off();
        assert!(!matches!(self.end(&mut a), Outcome::HandedOver(_)));
    }
}

/// While it waits for others it shares. Its flag is looked at all along, and its operation does not write it again.
/// Without the rule (`HoldIsNotMadeUp`) it does, and A shares what B owns.
#[test]
fn scenario_51_an_area_that_is_wiped_under_an_upgrade_ends_it() {
    for reads_first in [false, true] {
        let mut world = World::new();
        world.share(C);
        world.share(A);
        let mut lease = world.lease(A, LeaseMode::Shared);
        let mut a = world.convert(A, LeaseMode::Exclusive, true);
        world.until(&mut a, |effect| matches!(effect, Effect::Wait(..)));
        lease.glance.own = None;
        assert_eq!(world.verdict(&lease), Verdict::Good);
        world.blocks.insert(id(A), damage());
        assert_eq!(world.verdict(&lease), Verdict::Unclear, "the operation writes it");
        world.is_made_again(0);
        if reads_first {
            world.take(B);
        }
        let before = world.view();
        let outcome = world.end(&mut a);
        assert_eq!(outcome, Outcome::Refused(Refusal::NotHeld(Loss::Erased)));
        assert_eq!((a.operation.leaves(&outcome), world.view()), (After::Lost, before));
        assert_eq!(world.look(&mut lease), None);
        assert_eq!(loss_of(&lease), &Loss::Erased);
    }
}

/// The write of the own block fails, and then the area is found wiped: what is lost is given back all the same.
#[test]
fn scenario_51_what_is_lost_in_a_conversion_is_given_back_though_its_last_write_failed() {
    for (mode, to) in [(LeaseMode::Shared, LeaseMode::Exclusive), (LeaseMode::Exclusive, LeaseMode::Shared)] {
        let mut world = World::new();
        world.takes_as(A, Wish { mode, ..Wish::exclusive(true) });
        let mut a = world.convert(A, to, false);
        world.until(&mut a, |effect| matches!(effect, Effect::WriteBlock(..)));
        let Effect::WriteBlock(round, _) = a.effect else { unreachable!("it was waited for") };
        world.is_made_again(0);
        world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
        let outcome = world.end(&mut a);
        assert_eq!(outcome, Outcome::Refused(Refusal::NotHeld(Loss::Erased)));
        assert_eq!(a.operation.leaves(&outcome), After::Lost);
        let own = a.operation.own_block().cloned().expect("who releases it starts from its block");
        let (operation, effect) = Operation::disown(World::subject(owner(A, 1)), own, world.now);
        world.end(&mut Run { operation, effect, ..a });
        assert_eq!(world.take(B), Version::new(1));
    }
}

/// Nothing of A's block could be respected, so A forgets it, and acquires by what the disk shows. If it wrote the block
/// again B would lose what it holds; if it kept it in mind it would be refused for as long as it lives.
#[test]
fn scenario_51_a_host_that_holds_nothing_is_told_once_that_its_block_was_wiped() {
    for in_ballot in [false, true] {
        let mut world = World::new();
        world.take(A);
        world.give_back(A);
        world.take(A);
        world.give_back(A);
        let known = world.block_of(A);
        let mut a = world.acquire(A, true);
        if in_ballot {
            world.until(&mut a, writes_phase_1);
            world.step(&mut a);
        }
        world.is_made_again(0);
        world.take(B);
        let taken = world.lease(B, LeaseMode::Exclusive);
        if !in_ballot {
            let (operation, effect) =
                Operation::acquire(World::subject(a.me), Some(known), Wish::exclusive(true), world.now);
            a = Run { operation, effect, ..a };
        }
        assert_eq!(world.end(&mut a), Outcome::Refused(Refusal::OwnBlockChanged));
        assert_eq!(world.verdict(&taken), Verdict::Good, "nothing was written");
        world.give_back(B);
        let own = a.operation.own_block().cloned();
        let (operation, effect) = Operation::acquire(World::subject(a.me), own, Wish::exclusive(true), world.now);
        assert_eq!(world.finish(Run { operation, effect, ..a }), Outcome::Held(Version::new(2)));
    }
}

/// The leader that A had in flight lands when A has given it up and the area was wiped: nothing says any more that A
/// has nothing. A waits for B, which waits for A.
#[test]
fn scenario_51_a_host_that_a_late_leader_names_after_a_wipe_says_that_it_has_nothing() {
    let mut world = World::new();
    world.take(A);
    let late = world.leader.clone();
    world.give_back(A);
    world.is_made_again(0);
    world.share(B);
    world.leader = late;
    world.is_blocked_by(C, A);
    world.is_blocked_by(A, B);
    world.is_blocked_by(C, B);
    world.give_back(B);
    assert_eq!(world.take(C), Version::new(2));
}

/// Those who share don't write the leader again. On the disk a mark since version 0 is none.
#[test]
fn scenario_51_two_upgrades_see_each_other_wait_though_the_leader_was_made_again() {
    for seed in 1..20 {
        let mut world = World::new();
        world.random = seed;
        world.share(A);
        world.share(B);
        world.leader = world.made();
        let mut runs = [A, B].map(|host| world.convert(host, LeaseMode::Exclusive, true));
        world.interleave(&mut runs, |runs| runs.iter().any(|run| run.outcome().is_some()));
        let told = runs.iter().find_map(|run| run.outcome()).unwrap();
        assert!(matches!(told, Outcome::Refused(Refusal::WouldDeadlock(_))), "seed {seed}: {told:?}");
    }
}

/// A shared, gave that back, and its block is set back: the flag in it is nothing that A holds. A gives it up before it
/// waits, as it would a claim.
#[test]
fn scenario_51_a_flag_that_was_set_back_is_not_held() {
    for wish in [Wish::exclusive(false), SHARED] {
        let mut world = World::new();
        world.share(A);
        let flagged = world.block_of(A);
        world.give_back(A);
        let known = world.block_of(A);
        world.blocks.insert(id(A), Seen::Good(flagged));
        let before = world.block_of(A).instance;
        let me = world.present(A);
        let (operation, effect) = Operation::acquire(World::subject(me), Some(known), wish, world.now);
        let mut a = Run { me, operation, effect };
        assert_eq!(world.end(&mut a), Outcome::Held(before.after(1)), "by a ballot");
        world.give_back(A);
        assert_eq!(world.take(B), before.after(2));
    }
    for waits in [false, true] {
        let mut world = World::new();
        world.share(A);
        let mut flagged = world.block_of(A);
        // As of an upgrade that waits.
        flagged.extension.as_mut().unwrap().waiting = waits.then_some(Version::new(1));
        world.give_back(A);
        let known = world.block_of(A);
        world.share(B);
        world.blocks.insert(id(A), Seen::Good(flagged));
        let me = world.present(A);
        let wish = Wish::exclusive(waits);
        let (operation, effect) = Operation::acquire(World::subject(me), Some(known), wish, world.now);
        let mut a = Run { me, operation, effect };
        match waits {
            true => world.until(&mut a, |effect| matches!(effect, Effect::Wait(..))),
            false => assert!(matches!(world.end(&mut a), Outcome::Blocked(_))),
        }
        assert_eq!(world.block_of(A).shared, None, "it was taken back");
    }
}

#[test]
fn scenario_51_an_area_that_is_wiped_under_a_handover_ends_it() {
    let mut world = World::new();
    world.take(A);
    let mut b = world.receive(B);
    world.until(&mut b, |effect| matches!(effect, Effect::Wait(..)));
    let mut a = world.hand_over(A, 1, owner(B, 1));
    world.blocks.remove(&id(A));
    let outcome = world.end(&mut a);
    assert_eq!(outcome, Outcome::Refused(Refusal::NotHeld(Loss::Erased)));
    assert_eq!(a.operation.leaves(&outcome), After::Lost);
}

/// What it writes first hides that, but not who came in between: the first look afterwards shows B.
#[test]
fn scenario_51_an_area_that_is_wiped_under_a_downgrade_ends_what_it_brings() {
    let mut world = World::new();
    world.take(B);
    world.give_back(B);
    world.take(A);
    let passed = world.lease(A, LeaseMode::Exclusive).holding;
    let mut a = world.convert(A, LeaseMode::Shared, false);
    world.is_made_again(0);
    world.take(B);
    assert_eq!(world.end(&mut a), Outcome::Held(Version::new(2)));
    let mut lease = world.lease(A, LeaseMode::Shared);
    lease.holding = passed.converted(&World::subject(lease.me), world.now, world.now);
    assert_eq!(world.look(&mut lease), None);
    assert_eq!(loss_of(&lease), &Loss::Taken { owner: Some(owner(B, 1)), version: Version::new(1) });
}

/// A leader that is written again hangs, and lands when the lease was released, and another host owns the resource.
#[test]
fn a_leader_that_is_written_again_is_harmless_whenever_it_lands() {
    for released in [false, true] {
        let mut world = World::new();
        let mut lease = world.owner_a();
        world.leader.version = Version::new(0);
        let Some(Restore { what: Restoration::Leader(late), .. }) = world.look(&mut lease) else {
            panic!("it is right")
        };
        world.leader.version = Version::new(1);
        if released {
            world.give_back(A);
            assert_eq!(world.take(B), Version::new(2));
        } else {
            world.takes_as(B, forced(1));
        }
        let taken = world.lease(B, LeaseMode::Exclusive);
        world.leader = late;
        if !released {
            assert_eq!(world.look(&mut lease), None, "it sees B by its block");
            assert!(matches!(loss_of(&lease), Loss::Taken { .. }));
        }
        assert!(matches!(world.verdict(&taken), Verdict::Restore(Restoration::Leader(_))));
        let mut c = world.acquire(C, false);
        assert!(matches!(world.end(&mut c), Outcome::Blocked(_)));
        if !released {
            world.give_back(A);
        }
        world.give_back(B);
        assert!(world.take(C) > Version::new(2));
    }
}

/// As it falls due.
#[test]
fn a_lease_is_looked_at_every_r_and_given_back_g_after_its_loss() {
    let mut world = World::new();
    let mut lease = world.owner_a();
    let holding = &mut lease.holding;
    let start = world.now;
    assert_eq!(holding.task(start), None);
    let renewal = timeouts().renewal();
    assert_eq!(holding.task(start + renewal), Some(Task::Look));
    assert_eq!(holding.task(start + renewal), None, "one at a time");
    assert_eq!(holding.task(start + renewal * 2), Some(Task::Look));
    assert!(holding.needs_scan(None, start));
    assert!(!holding.needs_scan(Some(start), start + timeouts().fail()));
    assert!(holding.needs_scan(Some(start), start + timeouts().fail() + Duration::from_nanos(1)));
    let end = holding.deadline().unwrap();
    assert_eq!(end, start + timeouts().fail());
    assert_eq!(holding.task(end), None, "it is lost");
    let given_back = end + timeouts().fence();
    assert_eq!(
        (holding.task(given_back), holding.task(given_back + renewal)),
        (Some(Task::GiveBack), Some(Task::GiveBack))
    );
    holding.given_back();
    assert_eq!(holding.due(), Time::MAX);
    // Nobody looks at several disks.
    let subject = leasehold::protocol::resource::Subject { disks: 3, ..World::subject(owner(A, 1)) };
    let several = Holding::new(&subject, start, BTreeSet::new());
    assert_eq!((several.deadline(), several.due()), (None, Time::MAX));
}
