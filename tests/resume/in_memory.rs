//! What is continued and what is not, on a disk in memory, where what a process left can be made up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use leasehold::disk::{Fault, FaultDisk, MemoryDisk, Plan};
use leasehold::format::{Block, BlockExtension, Leader};
use leasehold::{
    AcquireError, AcquireOptions, FormatOptions, Gone, GoneReason, JoinOptions, Lease, LeaseMode, LeaveError,
    Lockspace, LossReason, Membership, ReleaseError, Resource, ResumeError, ResumeToken, Resumed, Status, Version,
    Wait, stretched,
};

use crate::common::memory::thaw;
use crate::common::{self, PATIENCE, id, until, until_some};

/// A host whose membership is taken over, and another one.
struct Memory {
    disk: MemoryDisk,
    membership: Membership,
    other: Membership,
    resources: [Resource; 2],
}

fn options() -> JoinOptions {
    JoinOptions::new().machine("the one")
}

fn lockspace(disk: &MemoryDisk) -> Lockspace {
    Lockspace::open(Arc::new(disk.reopen())).unwrap()
}

fn is_held_here(memory: &Memory, token: &ResumeToken) -> bool {
    matches!(lockspace(&memory.disk).resume(token, options()), Err(ResumeError::HeldHere { .. }))
}

impl Memory {
    fn new() -> Memory {
        let timeouts = crate::timeouts([50, 500, 10_000, 500, 11_000]);
        let disk = MemoryDisk::new(8 << 20, None);
        leasehold::format(Arc::new(disk.reopen()), &FormatOptions { timeouts, ..FormatOptions::default() }).unwrap();
        let join = |host| common::join(&lockspace(&disk), || options().host_id(id(host))).unwrap();
        let (membership, other) = thread::scope(|scope| {
            let other = scope.spawn(|| join(2));
            (join(1), other.join().unwrap())
        });
        let resources = ["first", "second"].map(|name| membership.create(name, Wait::For(PATIENCE)).unwrap());
        until("a renewal", || membership.renewal_latencies().len() > 1);
        Memory { disk, membership, other, resources }
    }

    fn acquire(&self, which: usize) -> Lease {
        self.membership.acquire(&self.resources[which], Wait::For(PATIENCE)).unwrap()
    }

    fn resume(&self, token: &ResumeToken) -> Result<Resumed, ResumeError> {
        common::resume(&lockspace(&self.disk), token, options)
    }

    /// Whether another host may have the resource.
    fn is_free(&self, which: usize) -> bool {
        until_some("an answer", || match self.other.acquire(&self.resources[which], Wait::No) {
            Ok(lease) => Some(lease.release().is_ok()),
            Err(AcquireError::Held { .. }) => Some(false),
            // The machine is busy.
            Err(AcquireError::TimedOut { .. }) => None,
            Err(error) => panic!("{error}"),
        })
    }

    /// Changes the first host's block of a resource.
    fn change_block(&self, which: usize, change: impl FnOnce(&mut Block)) {
        let geometry = self.membership.lockspace().geometry();
        let at = self.resources[which].offset() + geometry.block_offset(self.membership.owner().host);
        self.change(at, |sector| {
            let mut block = Block::decode(sector, at).unwrap();
            change(&mut block);
            block.encode(geometry, at)
        });
    }

    fn change_leader(&self, which: usize, change: impl FnOnce(&mut Leader)) {
        let at = self.resources[which].offset();
        self.change(at, |sector| {
            let mut leader = Leader::decode(sector, at).unwrap();
            change(&mut leader);
            leader.encode(at)
        });
    }

    fn change(&self, at: u64, change: impl FnOnce(&[u8]) -> Vec<u8>) {
        let at = usize::try_from(at).unwrap();
        self.disk.edit(|bytes| {
            let sector = &mut bytes[at..at + 512];
            sector.copy_from_slice(&change(sector));
        });
    }
}

fn versions(leases: &[Lease]) -> Vec<Version> {
    leases.iter().map(Lease::version).collect()
}

#[test]
fn a_detached_membership_is_continued_with_all_its_leases_any_number_of_times() {
    let memory = Memory::new();
    let leases = [memory.acquire(0), memory.acquire(1)];
    let owner = memory.membership.owner();
    let expected = versions(&leases);
    let token = memory.membership.detach().unwrap();
    assert_eq!(token.leases().map(|(_, _, version)| version).collect::<Vec<_>>(), expected);
    assert_eq!(memory.membership.status(), Status::Lost { reason: LossReason::Detached });
    for lease in leases {
        assert!(!lease.is_held());
        assert!(matches!(lease.release(), Err(ReleaseError::Lost(LossReason::Detached))));
    }
    assert!(matches!(memory.membership.detach(), Err(LeaveError::Lost(LossReason::Detached))));
    for _ in 0..3 {
        assert!(!memory.is_free(0) && !memory.is_free(1));
        // The first token is as good as the last.
        let Resumed { leases, gone, membership, .. } = memory.resume(&token).unwrap();
        assert_eq!((membership.owner(), versions(&leases), gone.len()), (owner, expected.clone(), 0));
        assert!(leases.iter().all(Lease::is_held));
        assert!(is_held_here(&memory, &token));
        until("a renewal", || membership.renewal_latencies().len() > 1);
        membership.detach().unwrap();
    }
    let Resumed { leases, membership, .. } = memory.resume(&token).unwrap();
    leases.into_iter().for_each(|lease| lease.release().unwrap());
    assert!(memory.is_free(0) && memory.is_free(1));
    membership.leave().unwrap();
    assert!(matches!(memory.resume(&token), Err(ResumeError::Released { .. })));
    let again = common::join(&lockspace(&memory.disk), || options().host_id(owner.host)).unwrap();
    assert!(is_held_here(&memory, &token));
    until("a renewal", || again.renewal_latencies().len() > 1);
    again.detach().unwrap();
    assert!(matches!(memory.resume(&token), Err(ResumeError::Replaced { .. })));
}

#[test]
fn what_was_released_or_acquired_after_the_token_is_told_and_found() {
    let memory = Memory::new();
    let first = memory.acquire(0);
    let (token, version) = (memory.membership.token(), first.version());
    first.release().unwrap();
    let second = memory.acquire(1);
    memory.membership.detach().unwrap();
    let Resumed { leases, gone, .. } = memory.resume(&token).unwrap();
    assert_eq!(versions(&leases), [second.version()]);
    assert_eq!((gone[0].resource, gone[0].version, gone.len()), (memory.resources[0], version, 1));
    assert!(matches!(gone[0].reason, GoneReason::Released), "{gone:?}");
}

#[test]
fn a_lease_that_a_later_owner_has_is_told_with_that_owner() {
    let memory = Memory::new();
    let lease = memory.acquire(0);
    let version = lease.version();
    let token = memory.membership.detach().unwrap();
    let other = memory.other.owner();
    memory.change_leader(0, |leader| {
        (leader.owner, leader.version) = (Some(other), version.after(1));
    });
    let Resumed { leases, gone, membership, .. } = memory.resume(&token).unwrap();
    assert!(leases.is_empty());
    let GoneReason::Superseded { version: by, owner } = gone[0].reason else { panic!("{gone:?}") };
    assert_eq!((gone[0].version, by, owner), (version, version.after(1), Some(other)));
    // Nothing is left of it that would keep the id from being given back, once what it protected has had G to stop.
    until("leaving", || membership.leave().is_ok());
}

#[test]
fn scenario_51_a_lease_whose_area_was_wiped_in_between_is_gone() {
    let memory = Memory::new();
    let lease = memory.acquire(0);
    let (version, offset) = (lease.version(), memory.resources[0].offset() as usize);
    let token = memory.membership.detach().unwrap();
    memory.disk.edit(|bytes| bytes[offset..offset + (1 << 20)].fill(0));
    let Resumed { leases, gone, .. } = memory.resume(&token).unwrap();
    assert!(leases.is_empty());
    assert_eq!((gone[0].resource, gone[0].version, gone.len()), (memory.resources[0], version, 1));
    assert!(matches!(gone[0].reason, GoneReason::BlockErased), "{gone:?}");
}

#[test]
fn a_lease_that_was_held_is_continued_though_a_late_write_has_set_the_leader_back() {
    let memory = Memory::new();
    let lease = memory.acquire(0);
    let version = lease.version();
    let token = memory.membership.detach().unwrap();
    memory.change_leader(0, |leader| {
        (leader.owner, leader.version) = (Some(memory.other.owner()), Version::new(version.get() - 1));
    });
    let Resumed { leases, .. } = memory.resume(&token).unwrap();
    assert_eq!(versions(&leases), [version]);
}

#[test]
fn an_acquire_that_was_cut_short_is_completed_or_taken_back() {
    let memory = Memory::new();
    let owner = memory.membership.owner();
    let nonce = memory.membership.lockspace().nonce();
    let token = memory.membership.detach().unwrap();
    // Before the leader was written; while it waited.
    memory.change_block(0, |block| {
        *block = Block { mbal: 1, bal: 1, inp: Some(owner), instance: Version::new(1), ..Block::default() };
    });
    memory.change_block(1, |block| {
        let waiting = Some(Version::new(1));
        block.extension =
            Some(BlockExtension { generation: owner.generation.get(), nonce, waiting, ..BlockExtension::default() });
    });
    let Resumed { leases, gone, membership, .. } = memory.resume(&token).unwrap();
    assert_eq!((versions(&leases), gone.len()), (vec![Version::new(1)], 0));
    assert!(!memory.is_free(0));
    until("the end of the wait", || {
        let geometry = membership.lockspace().geometry();
        let at = memory.resources[1].offset() + geometry.block_offset(owner.host);
        let start = usize::try_from(at).unwrap();
        let block = Block::decode(&memory.disk.bytes()[start..start + 512], at).unwrap();
        block.extension.is_none_or(|extension| extension.waiting.is_none())
    });
    leases.into_iter().for_each(|lease| lease.release().unwrap());
    assert!(memory.is_free(0));
}

#[test]
fn a_token_of_another_lockspace_or_machine_is_refused() {
    let memory = Memory::new();
    let lease = memory.acquire(0);
    let token = memory.membership.detach().unwrap();
    let other = Memory::new();
    assert!(matches!(other.resume(&token), Err(ResumeError::OtherLockspace { .. })));
    let refused = lockspace(&memory.disk).resume(&token, JoinOptions::new().machine("another"));
    assert!(matches!(refused, Err(ResumeError::OtherMachine { .. })), "{refused:?}");
    drop(lease);
    assert_eq!(memory.resume(&token).unwrap().leases.len(), 1, "nothing was changed by all that");
}

/// Whatever I/O of it fails: nothing is given back, and the next attempt finds everything.
/// The token with another number: at so many bytes from where the place of that resource stands in it.
fn with_number(token: &ResumeToken, resource: &Resource, from_place: usize, number: u64) -> String {
    let text = token.to_string();
    let (start, digits) = text.split_once('-').unwrap();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let mut payload: Vec<u8> = (0..digits.len() - 8).step_by(2).map(byte).collect();
    let place = resource.offset().to_le_bytes();
    let at = payload.windows(8).rposition(|bytes| bytes == place).unwrap() + from_place;
    payload[at..at + 8].copy_from_slice(&number.to_le_bytes());
    let sum = crc32c::crc32c(&payload).to_le_bytes();
    let digits: String = payload.iter().chain(&sum).map(|byte| format!("{byte:02x}")).collect();
    format!("{start}-{digits}")
}

#[test]
fn scenario_57_no_number_in_a_token_overflows() {
    let memory = Memory::new();
    let leases = [memory.acquire(0), memory.acquire(1)];
    let expected = leases[0].version();
    let mut token = memory.membership.detach().unwrap();
    let second = memory.resources[1];
    let areas = 8 << 20;
    for number in [1, areas, u64::MAX / 4, u64::MAX / 4 + 1, u64::MAX - 600, u64::MAX - 511, u64::MAX] {
        let version = with_number(&token, &second, 9, number).parse::<ResumeToken>();
        assert_eq!(version.is_ok(), number <= u64::MAX / 4, "{number} {version:?}");
        // A lease that never was, beside one that is.
        let elsewhere: ResumeToken = with_number(&token, &second, 0, number).parse().unwrap();
        let resumed = memory.resume(&elsewhere).unwrap();
        assert_eq!(versions(&resumed.leases)[0], expected, "{number}");
        assert_eq!(resumed.leases.len(), 2, "the device shows the other one, too");
        let place = |gone: &Gone| gone.resource.offset() == number && matches!(gone.reason, GoneReason::Place(_));
        assert!(resumed.gone.iter().any(place), "{number} {:?}", resumed.gone);
        token = resumed.membership.detach().unwrap();
    }
}

#[test]
fn an_attempt_whose_io_fails_is_made_again() {
    let memory = Memory::new();
    let _leases = [memory.acquire(0), memory.acquire(1)];
    let token = memory.membership.detach().unwrap();
    let (mut refused, mut number) = (0, 0);
    loop {
        let path = Arc::new(FaultDisk::new(Arc::new(memory.disk.reopen())));
        let lockspace = Lockspace::open(path.clone()).unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let submitted = count.clone();
        path.set_rule(move |_| match submitted.fetch_add(1, Ordering::SeqCst) == number {
            true => Plan::Fail(Fault::errno("tested", 5)),
            false => Plan::Pass,
        });
        let outcome = common::resume(&lockspace, &token, options);
        let failed = count.load(Ordering::SeqCst) > number;
        assert!(!memory.is_free(0) && !memory.is_free(1), "after a failure of I/O {number}: {outcome:?}");
        match outcome {
            Err(ResumeError::Disk(_) | ResumeError::Index(_)) if failed => refused += 1,
            Err(error) => panic!("{error}"),
            Ok(Resumed { leases, gone, membership, .. }) => {
                // A sector that can't be read costs its lease, and that is told.
                assert_eq!(leases.len() + gone.len(), 2, "{gone:?}");
                if !failed {
                    assert_eq!((leases.len(), refused > 0), (2, true), "{gone:?}");
                    break;
                }
                membership.detach().unwrap();
            }
        }
        number += 1;
    }
}

#[test]
fn a_shared_lease_is_continued_as_one() {
    let memory = Memory::new();
    let shared = AcquireOptions::new().mode(LeaseMode::Shared).wait(Wait::For(PATIENCE));
    let mine = memory.membership.acquire(&memory.resources[0], shared).unwrap();
    let theirs = memory.other.acquire(&memory.resources[0], shared).unwrap();
    let token = memory.membership.detach().unwrap();
    let listed: Vec<_> = token.leases().map(|(_, mode, version)| (mode, version)).collect();
    assert_eq!(listed, [(LeaseMode::Shared, mine.version())]);
    let Resumed { leases, gone, .. } = memory.resume(&token).unwrap();
    assert_eq!((leases[0].mode(), versions(&leases), gone.len()), (LeaseMode::Shared, vec![mine.version()], 0));
    let exclusive = memory.other.acquire(&memory.resources[0], Wait::No);
    assert!(matches!(exclusive, Err(AcquireError::AlreadyHeld { .. })), "{exclusive:?}");
    theirs.release().unwrap();
    let exclusive = until_some("an answer", || match memory.other.acquire(&memory.resources[0], Wait::No) {
        Err(AcquireError::TimedOut { .. }) => None,
        answer => Some(answer),
    });
    assert!(matches!(exclusive, Err(AcquireError::Shared { .. })), "{exclusive:?}");
    leases.into_iter().for_each(|lease| lease.release().unwrap());
    assert!(memory.is_free(0));
}

/// Somebody may own it who looked before its flag was there. What is left of it is a shared hold, to the end.
#[test]
fn a_shared_lease_of_which_it_is_not_known_that_it_was_in_time_is_given_back() {
    let memory = Memory::new();
    let token = memory.membership.token();
    let shared = AcquireOptions::new().mode(LeaseMode::Shared).wait(Wait::For(PATIENCE));
    let lease = memory.membership.acquire(&memory.resources[0], shared).unwrap();
    let version = lease.version();
    memory.membership.detach().unwrap();
    let geometry = memory.other.lockspace().geometry();
    let at = memory.resources[0].offset() + geometry.block_offset(memory.other.owner().host);
    let later = Block { mbal: 2, instance: version.after(1), ..Block::default() };
    memory.change(at, |_| later.encode(geometry, at));
    let path = Arc::new(FaultDisk::new(Arc::new(memory.disk.reopen())));
    // It can't be given back yet.
    let area = memory.resources[0].offset();
    path.set_rule(move |request| if request.is_write() && request.offset >= area { Plan::Hold } else { Plan::Pass });
    let Resumed { leases, gone, membership, .. } =
        common::resume(&Lockspace::open(path.clone()).unwrap(), &token, options).unwrap();
    assert!(leases.is_empty());
    assert!(matches!(gone[..], [Gone { reason: GoneReason::Superseded { .. }, .. }]), "{gone:?}");
    let kept: Vec<_> = membership.token().leases().map(|(_, mode, version)| (mode, version)).collect();
    assert_eq!(kept, [(LeaseMode::Shared, version)]);
    thaw(&path);
    until("leaving", || membership.leave().is_ok());
    assert!(memory.is_free(0));
}

/// The process before may have been killed when it had taken the lease by force, and before it was told for how long
/// its former owner may act. Here that one's block says still that it has an earlier version.
#[test]
fn who_may_act_beside_a_lease_that_is_continued_is_told() {
    let memory = Memory::new();
    memory.acquire(0).release().unwrap();
    let lease = memory.acquire(0);
    let version = lease.version();
    let former = memory.other.owner();
    let (generation, nonce) = (former.generation.get(), memory.other.lockspace().nonce());
    let extension = Some(BlockExtension { generation, nonce, ..BlockExtension::default() });
    let instance = Version::new(version.get() - 1);
    let block = Block { mbal: 2, bal: 2, inp: Some(former), instance, extension, ..Block::default() };
    let geometry = memory.other.lockspace().geometry();
    let at = memory.resources[0].offset() + geometry.block_offset(former.host);
    memory.change(at, |_| block.encode(geometry, at));
    // Who takes by force does not say that nobody may have an earlier version.
    memory.change_leader(0, |leader| leader.extension.iter_mut().for_each(|extension| extension.judged = false));
    let token = memory.membership.detach().unwrap();
    let Resumed { leases, previous, membership, .. } = memory.resume(&token).unwrap();
    assert_eq!(versions(&leases), [version]);
    let [(resource, holder, bound)] = &previous[..] else { panic!("{previous:?}") };
    assert_eq!(
        (resource, holder.host, holder.generation),
        (&memory.resources[0], former.host, Some(former.generation.get()))
    );
    let timeouts = membership.lockspace().timeouts();
    assert!(!bound.is_zero() && *bound <= stretched(timeouts.fail() + timeouts.fence()), "{bound:?}");
}

#[test]
fn a_lease_that_is_taken_by_force_meanwhile_is_gone_and_given_back() {
    let memory = Memory::new();
    let lease = memory.acquire(0);
    let version = lease.version();
    let token = memory.membership.detach().unwrap();
    let taken = memory.other.take(&memory.resources[0], version, Wait::For(PATIENCE)).unwrap().lease;
    let Resumed { leases, gone, membership, .. } = memory.resume(&token).unwrap();
    assert!(leases.is_empty());
    let GoneReason::Superseded { version: by, owner } = gone[0].reason else { panic!("{gone:?}") };
    assert_eq!((gone[0].version, by, owner), (version, taken.version(), Some(memory.other.owner())));
    assert!(taken.is_held());
    // What it protected has G to stop; then nothing is left of it.
    until("leaving", || membership.leave().is_ok());
    taken.release().unwrap();
}
