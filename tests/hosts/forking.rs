//! Children that are forked without exec from a process that holds a host id and leases.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use leasehold::disk::Fault;
use leasehold::{
    AcquireError, ConvertError, CreateError, DeclareError, DiskCause, DiskError, EventError, FindError, Force,
    HostEvent, JoinError, JoinOptions, Lease, LeaseMode, LeaveError, LossReason, Membership, PrepareError, Protected,
    ReleaseError, RequestError, Resource, Status, SuperviseError, Supervision, ValueError, Wait, WatchdogError,
};
use nix::libc;
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::common::answers::{AtOnce, held_by};
use crate::common::devices::{disk, folder, join, open, text, with_resources};
use crate::common::memory::{Scene, steady};
use crate::common::processes::{Mark, Process, signal_process, worker};
use crate::common::{PATIENCE, id, until, until_some};

pub(crate) fn work(task: &[&str]) {
    match task {
        ["holder", device, folder] => hold(Path::new(device), Path::new(folder)),
        ["busy"] => fork_while_busy(),
        _ => panic!("no such task: {task:?}"),
    }
}

/// Makes a child process; `None` in the child, which must not return from its test.
#[allow(unsafe_code)]
fn fork() -> Option<Pid> {
    // SAFETY: the child goes on with this thread alone, in its own copy of the memory. What it does there takes no lock
    // that another thread of its parent may have held, but those of the allocator, which glibc makes usable in a child.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "no child");
    Pid::from_raw(pid)
}

/// Ends a child with an exit code: 0 if `work` did not panic.
#[allow(unsafe_code)]
fn end_after(work: impl FnOnce()) -> ! {
    let code = if catch_unwind(AssertUnwindSafe(work)).is_ok() { 0 } else { 101 };
    // SAFETY: it ends this process, and runs nothing that its parent registered for its own end.
    unsafe { libc::_exit(code) }
}

/// Says in the folder that this has happened.
fn report(folder: &Path, what: &str, said: &str) {
    let next = folder.join(format!("{what}.next"));
    fs::write(&next, said).unwrap();
    fs::rename(next, folder.join(what)).unwrap();
}

fn is_forked(error: &DiskError) -> bool {
    matches!(error.cause, DiskCause::Fault(Fault::Forked))
}

/// What the child is told of a program that its parent supervises.
fn is_told_of_program(supervision: Supervision) {
    supervision.end(Duration::ZERO);
    assert!(!supervision.wait(Duration::MAX), "it waits for nothing");
    assert_eq!(supervision.reached(), None);
    supervision.stop();
}

/// In a process of its own: holds `a`, `b` and `c` as host 1, and has a child. Ends when it is killed.
fn hold(device: &Path, folder: &Path) {
    let membership = join(device, || JoinOptions::new().host_id(id(1)).machine("this one"));
    let resources = ["a", "b", "c", "d", "f"].map(|name| membership.lockspace().find(name).unwrap());
    let leases = [0, 1, 2].map(|number| membership.try_acquire(&resources[number]).unwrap());
    let orphan = membership.try_acquire(&resources[4]).unwrap();
    let dropped = catch_unwind(AssertUnwindSafe(move || {
        let _held = orphan;
        panic!("expected by the test");
    }));
    assert!(dropped.is_err());
    let mut program = Command::new("sleep").arg("1006").stdout(Stdio::null()).spawn().unwrap();
    let supervision = membership.supervise(Protected::new(program.id())).unwrap();
    let Some(_) = fork() else {
        end_after(|| {
            let tells = || {
                is_told_of_program(supervision);
                is_told(membership, leases, &resources[3]);
            };
            let said = catch_unwind(AssertUnwindSafe(tells));
            report(folder, "child", &format!("{} {}", std::process::id(), said.is_ok()));
            thread::sleep(Duration::MAX);
        });
    };
    until("the child", || folder.join("child").exists());
    let before = membership.renewal_latencies().len();
    until("renewals", || membership.renewal_latencies().len() >= before + 3);
    assert!(leases.iter().all(Lease::is_held));
    assert_eq!(membership.orphans().len(), 1, "it is the parent's");
    assert!(program.try_wait().unwrap().is_none(), "the child has had it ended");
    supervision.end(Duration::ZERO);
    assert!(supervision.wait(PATIENCE), "the child has stopped it");
    program.wait().unwrap();
    report(folder, "parent", "");
    thread::sleep(Duration::MAX);
}

/// What the child is told, of its copies.
fn is_told(membership: Membership, [a, b, c]: [Lease; 3], free: &Resource) {
    use LossReason::Forked;
    let lost = Status::Lost { reason: Forked };
    let held = membership.owner();
    assert_eq!((held.host, a.owner()), (id(1), held));
    assert_eq!((membership.status(), a.status()), (lost.clone(), lost.clone()));
    let seen = Status::Lost { reason: LossReason::Left };
    assert_eq!(membership.status_change(&seen, Duration::MAX), lost);
    assert_eq!(a.status_change(&lost, Duration::MAX), lost, "nothing will change");
    assert!(!a.is_held() && a.remaining().is_zero());

    let refused = membership.acquire(free, Wait::Forever);
    assert!(matches!(refused, Err(AcquireError::Lost(Forked))), "{refused:?}");
    let refused = membership.create("e", Wait::Forever);
    assert!(matches!(&refused, Err(CreateError::Index(FindError::Disk(error))) if is_forked(error)), "{refused:?}");
    let refused = a.convert(LeaseMode::Shared, Wait::Forever);
    assert!(matches!(refused, Err(ConvertError::Lost(Forked))), "{refused:?}");
    let refused = a.set_value(b"forked");
    assert!(matches!(refused, Err(ValueError::Lost(Forked))), "{refused:?}");
    let refused = a.supervise(Protected::new(1));
    assert!(matches!(refused, Err(SuperviseError::Lost(Forked))), "{refused:?}");
    assert!(matches!(membership.disarm_watchdog(), Err(WatchdogError::StillHeld)));
    assert!(matches!(membership.leave(), Err(LeaveError::Lost(Forked))));
    assert!(matches!(membership.detach(), Err(LeaveError::Lost(Forked))));
    assert!(membership.hosts().is_empty() && membership.orphans().is_empty());
    assert!(membership.renewal_latencies().is_empty() && membership.watchdog_trouble().is_none());
    assert_eq!(membership.token().leases().count(), 0);
    let refused = membership.request(free, Force::Graceful);
    assert!(matches!(refused, Err(RequestError::Lost(Forked))), "{refused:?}");
    let refused = membership.request(free, Force::None);
    assert!(matches!(refused, Err(RequestError::Lost(Forked))), "{refused:?}");
    let event = HostEvent { generation: 0, event: 1, data: 1 };
    assert!(matches!(membership.send_event(id(2), event), Err(EventError::Lost(Forked))));
    assert!(matches!(a.destinations(), Err(error) if is_forked(&error)));
    assert!(matches!(a.prepare_handover(id(2), Wait::Forever), Err(PrepareError::Lost(Forked))));
    let refused = membership.declare_dead(id(2), held.generation);
    assert!(matches!(refused, Err(DeclareError::Lost(Forked))), "{refused:?}");
    let lockspace = membership.lockspace().clone();
    assert!(matches!(lockspace.hosts(Duration::ZERO), Err(error) if is_forked(&error)));
    let refused = lockspace.join(JoinOptions::new());
    assert!(matches!(&refused, Err(JoinError::Disk(error)) if is_forked(error)), "{refused:?}");

    assert!(matches!(a.release(), Err(ReleaseError::Lost(Forked))));
    drop((b, membership));
    assert_eq!(c.status(), lost, "it outlives the membership");
    drop((c, lockspace));
}

/// The child outlives its parent, too, and keeps what it shares with it: the locks on the host id.
#[test]
fn scenario_59_a_child_that_is_forked_holds_nothing_writes_nothing_and_keeps_the_host_id_from_others() {
    let (mark, folder) = (Mark::new(), folder());
    let device = folder.path().join("disk");
    fs::write(&device, vec![0; 8 << 20]).unwrap();
    let lockspace = with_resources(disk(&device), steady(), &["a", "b", "c", "d", "f"]);
    let mut parent = Process::start(&mut worker(&["forking", "holder", text(&device), text(folder.path())]), &mark);
    let told = until_some("the child", || {
        assert!(parent.ended().is_none(), "{}", parent.complained());
        fs::read_to_string(folder.path().join("child")).ok()
    });
    let (child, told) = told.split_once(' ').unwrap();
    assert_eq!(told, "true", "{}", parent.complained());
    until("the parent", || folder.path().join("parent").exists());

    let other = join(&device, || JoinOptions::new().host_id(id(2)).machine("this one"));
    for name in ["a", "b", "c"] {
        held_by(&other, &lockspace.find(name).unwrap(), 1);
    }
    until("a refusal", || is_held_here(&device));
    parent.signal(Signal::KILL);
    parent.wait();
    let record = || fs::read(&device).unwrap()[..512].to_vec();
    let last = record();
    thread::sleep(steady().renewal() * 10);
    assert!(record() == last, "the child renews");
    until("a refusal", || is_held_here(&device));
    signal_process(child.parse().unwrap(), Signal::KILL);
    until("the locks", || !is_held_here(&device));
}

/// Whether a process of this machine has host id 1, as a join is told that begins now.
fn is_held_here(device: &Path) -> bool {
    let joining = open(device).start_join(JoinOptions::new().host_id(id(1)).machine("this one")).unwrap();
    thread::sleep(Duration::from_millis(500));
    // With the locks it waits for D.
    joining.is_done() && matches!(joining.wait(), Err(JoinError::HeldHere { .. }))
}

/// In a process of its own: forks again and again while another thread asks. Says how many children have answered.
fn fork_while_busy() {
    let scene = Scene::new();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let membership = &scene.membership;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(matches!(membership.status(), Status::Held { .. } | Status::Late { .. }));
                assert!(membership.orphans().is_empty());
                drop((membership.renewal_latencies(), membership.token()));
            }
        });
        for _ in 0..CHILDREN {
            let Some(child) = fork() else {
                end_after(move || {
                    assert_eq!(lease.status(), Status::Lost { reason: LossReason::Forked });
                    assert!(membership.orphans().is_empty() && membership.renewal_latencies().is_empty());
                    assert_eq!(membership.token().leases().count(), 0);
                    assert!(lease.destinations().is_err());
                    drop(lease);
                });
            };
            let ended = until_some("the answer of a child", || waitpid(Some(child), WaitOptions::NOHANG).unwrap());
            assert_eq!(ended.1.exit_status(), Some(0));
        }
        over.store(true, Ordering::Relaxed);
    });
    println!("\nanswered {CHILDREN}");
}

const CHILDREN: u32 = 200;

/// What a thread of the parent had locked stays locked in the child for good.
#[test]
fn a_forked_child_is_answered_though_its_parent_was_in_the_middle_of_a_call() {
    let mark = Mark::new();
    let mut parent = Process::start(&mut worker(&["forking", "busy"]), &mark);
    parent.wait();
    assert!(parent.said().contains(&format!("answered {CHILDREN}")), "{}{}", parent.said(), parent.complained());
}
