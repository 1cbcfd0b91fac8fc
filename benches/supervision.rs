//! What it takes to end many supervised programs at once, each the leader of a process group: 50 of them, then 200, on
//! the profile `fast`, in one run. `cargo bench --bench supervision` prints the distributions and the ratio, and how
//! many leases were lost meanwhile: none may be. `-- --test` does it once.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use leasehold::disk::MemoryDisk;
use leasehold::{FormatOptions, JoinOptions, Lease, Membership, Profile, Protected, Scope, Supervision, Wait};

const FEW: usize = 50;
const MANY: usize = 200;
const ROUNDS: usize = 20;
/// Only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Program {
    child: Child,
    supervision: Supervision,
}

impl Program {
    fn start(lease: &Lease) -> Program {
        let child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let supervision = lease.supervise(Protected::new(child.id()).scope(Scope::Group)).unwrap();
        Program { child, supervision }
    }
}

/// How long it takes to end so many, and whether their lease was held to the end.
fn end_all(membership: &Membership, count: usize) -> (Duration, bool) {
    let resource = membership.create("programs", Wait::For(PATIENCE)).unwrap();
    let lease = membership.acquire(&resource, Wait::For(PATIENCE)).unwrap();
    let mut programs: Vec<_> = (0..count).map(|_| Program::start(&lease)).collect();
    let start = Instant::now();
    programs.iter().for_each(|program| program.supervision.end(PATIENCE));
    assert!(programs.iter().all(|program| program.supervision.wait(PATIENCE)), "some program did not end");
    let took = start.elapsed();
    programs.iter_mut().for_each(|program| drop(program.child.wait()));
    let held = lease.is_held();
    let _ = lease.release();
    (took, held)
}

/// One membership for each round: one that was lost does not count for the next.
fn join() -> Membership {
    let options = FormatOptions { timeouts: Profile::Fast.timeouts(), ..FormatOptions::default() };
    let disk = Arc::new(MemoryDisk::new(8 << 20, None));
    leasehold::format(disk, &options).unwrap().join(JoinOptions::new()).unwrap()
}

fn report(count: usize, rounds: usize) -> Duration {
    let mut rounds: Vec<_> = (0..rounds).map(|_| end_all(&join(), count)).collect();
    rounds.sort();
    let at = |share: usize| rounds[(rounds.len() - 1) * share / 100].0;
    let lost = rounds.iter().filter(|(_, held)| !held).count();
    println!(
        "{count:>4} programs: min {:.1?}, median {:.1?}, p99 {:.1?}; lost their lease: {lost} of {} times",
        at(0),
        at(50),
        at(99),
        rounds.len()
    );
    at(50)
}

fn main() {
    let rounds = if std::env::args().any(|arg| arg == "--test") { 1 } else { ROUNDS };
    let (few, many) = (report(FEW, rounds), report(MANY, rounds));
    println!("{MANY} take {:.1} times as long as {FEW}", many.as_secs_f64() / few.as_secs_f64());
}
