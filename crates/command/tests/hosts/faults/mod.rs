//! Processes that share a real disk, while everything fails at once, for as long as one likes.
//!
//! Some hosts contend for two resources, each host a process of its own. They come to the disk by two paths: partitions
//! of two loop devices over one file, on a file system of its own. Meanwhile a plan made from one seed
//! - kills hosts with SIGKILL and starts them again, also while what they wrote still hangs in the kernel;
//! - stops them with SIGSTOP, for less and for more than the dead time;
//! - freezes the file system below: what is being written then lands when it is thawed;
//! - takes one or both paths away, by making the partition so small that nothing but the record of host 1 is left.
//!   Truncating the file would be no fault of this kind: it loses what was confirmed.
//!
//! All hosts append what they do to one journal, on another file system, with times of `CLOCK_BOOTTIME`; the test reads
//! it from outside. [`Journal`] judges it: no resource has two holders at once, versions and generations grow, and
//! nothing is written to what a lease protects by a holder that was replaced and doesn't know. Afterwards all hosts
//! must make progress, and then the last one that is left.
//!
//! The journal is also what the leases protect: a holder appends its version, and whatever stands behind a larger one
//! counts as refused. A file with a lock would make the hosts wait for one that is stopped with the lock taken.
//!
//! `LEASEHOLD_FAULT_SECONDS`: how long (4). `LEASEHOLD_FAULT_HOSTS`: how many hosts (5). `LEASEHOLD_SEED`: repeats the
//! plan of a run; what the machine makes of it differs.

mod disk;
mod host;
mod journal;
mod plan;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use leasehold::{HostId, Timeouts};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use crate::common::devices::text;
use crate::common::processes::{self, Mark, Process};
use crate::common::{boottime, number, timeouts};
use disk::{Keeper, SharedDisk, keep};
use host::Host;
use journal::Journal;
use plan::{Action, plan};

/// Renewal, io, fail, fence, dead: short, so that much happens; the machine may be busy, which is one more fault.
fn times() -> Timeouts {
    timeouts([200, 300, 1_500, 500, 2_200])
}

const RESOURCES: [&str; 2] = ["first", "second"];

/// What comes when the faults are over may take long on a busy machine: only a failing test waits so long.
const RECOVERY: Duration = Duration::from_secs(240);

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

pub(crate) fn work(task: &[&str]) {
    match *task {
        ["host", index, id, seed, node, journal, stop] => {
            let host = Host {
                index: index.parse().unwrap(),
                id: HostId::new(id.parse().unwrap()),
                node: node.into(),
                journal: OpenOptions::new().append(true).open(journal).unwrap(),
                stop: stop.into(),
            };
            host.live(&mut StdRng::seed_from_u64(seed.parse().unwrap()));
        }
        ["keeper", mark, folder, point] => keep(mark, Path::new(folder), point),
        _ => panic!("no such task: {task:?}"),
    }
}

/// Hosts on a disk. Taken down in this order: nothing that hangs is waited for before it is thawed.
struct Stage {
    keeper: Keeper,
    /// `None`: killed, and not started again yet.
    hosts: Vec<Option<Process>>,
    /// Killed. One whose write hangs is not dead before the write has ended.
    killed: Vec<Process>,
    mark: Mark,
    disk: SharedDisk,
    random: StdRng,
    starts: usize,
    journal: Journal,
    lines: File,
    unfinished: Vec<u8>,
    path: PathBuf,
}

impl Stage {
    fn new(hosts: usize, mut random: StdRng) -> Stage {
        let disk = SharedDisk::new(if random.random() { 512 } else { 4096 });
        disk.format();
        let path = disk.folder.path().join("journal");
        File::create(&path).unwrap();
        let mark = Mark::new();
        let keeper = Keeper::start(&mark, &disk);
        let lines = File::open(&path).unwrap();
        let mut stage = Stage {
            keeper,
            hosts: (0..hosts).map(|_| None).collect(),
            killed: Vec::new(),
            mark,
            disk,
            random,
            starts: 0,
            journal: Journal::default(),
            lines,
            unfinished: Vec::new(),
            path,
        };
        (0..hosts).for_each(|host| stage.act(Action::Start(host)));
        stage
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Kill(host) => {
                if let Some(process) = self.hosts[host].take() {
                    process.signal(Signal::KILL);
                    self.killed.push(process);
                }
            }
            Action::Start(host) if self.hosts[host].is_none() => {
                let node = &self.disk.paths[(host + self.starts) % 2].node;
                // The last one takes any id. The others have theirs, and not 1, which is left of a path that is cut.
                let id = if host + 1 == self.hosts.len() { 0 } else { host + 2 };
                let [index, id, seed] = [host as u64, id as u64, self.random.random()].map(|word| word.to_string());
                let stop = self.stop_file();
                let task = ["faults", "host", &index, &id, &seed, text(node), text(&self.path), text(&stop)];
                self.hosts[host] = Some(Process::start(&mut processes::worker(&task), &self.mark));
                self.starts += 1;
            }
            Action::Start(_) => {}
            Action::Stop(host) => self.signal(host, Signal::STOP),
            Action::Continue(host) => self.signal(host, Signal::CONT),
            Action::Freeze(millis) => self.keeper.tell(&format!("freeze {millis}\n")),
            Action::Cut(path) => self.disk.paths[path].cut(),
            Action::Restore(path) => self.disk.paths[path].restore(),
        }
    }

    fn signal(&self, host: usize, signal: Signal) {
        if let Some(process) = &self.hosts[host] {
            process.signal(signal);
        }
    }

    /// Tells the hosts to end.
    fn stop_file(&self) -> PathBuf {
        self.disk.folder.path().join("stop")
    }

    /// Reads what was written since, and looks after the hosts.
    fn listen(&mut self) {
        for (host, process) in self.hosts.iter_mut().enumerate() {
            if let Some(process) = process
                && let Some(status) = process.ended()
            {
                panic!("host {host} ended by itself, {status}: {}{}", process.said(), process.complained());
            }
        }
        self.killed.retain_mut(|process| process.ended().is_none());
        self.take_lines();
    }

    fn take_lines(&mut self) {
        self.lines.read_to_end(&mut self.unfinished).unwrap();
        let end = self.unfinished.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = String::from_utf8(self.unfinished.drain(..end).collect()).unwrap();
        let verdict = lines.lines().try_for_each(|line| self.journal.take(line));
        self.demand(verdict);
    }

    /// A journal that shows a violation is kept.
    fn demand(&self, verdict: Result<(), String>) {
        if let Err(violation) = verdict {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.journal", std::process::id()));
            fs::copy(&self.path, &kept).unwrap();
            panic!("{violation}\nthe journal is kept as {}", kept.display());
        }
    }

    fn check(&self) {
        self.demand(self.journal.check());
    }

    /// Waits until all these hosts have acquired each resource since then.
    fn await_progress(&mut self, hosts: &[usize]) -> Duration {
        let since = boottime();
        while !hosts.iter().all(|host| self.journal.progressed(*host, since)) {
            self.listen();
            if boottime() > since + nanos(RECOVERY) {
                let verdict = hosts.iter().map(|host| format!("{host}: {}", self.journal.progressed(*host, since)));
                let stuck = verdict.collect::<Vec<_>>().join(", ");
                self.demand(Err(format!("not all hosts make progress after {RECOVERY:?}: {stuck}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Duration::from_nanos(boottime() - since)
    }
}

#[test]
fn nothing_that_fails_makes_two_holders_and_all_go_on_when_it_is_over() {
    let seed = number("LEASEHOLD_SEED").unwrap_or_else(rand::random);
    let seconds = number("LEASEHOLD_FAULT_SECONDS").unwrap_or(4);
    let hosts = number("LEASEHOLD_FAULT_HOSTS").unwrap_or(5).clamp(2, 64) as usize;
    println!(
        "LEASEHOLD_SEED={seed} LEASEHOLD_FAULT_SECONDS={seconds} LEASEHOLD_FAULT_HOSTS={hosts} \
         cargo test -p leasehold-command --test hosts faults:: -- --nocapture"
    );
    let mut random = StdRng::seed_from_u64(seed);
    let plan = plan(&mut random, hosts, seconds * 1_000);
    let mut stage = Stage::new(hosts, random);

    let start = boottime();
    let mut checked = start;
    for (at, action) in &plan {
        let due = start + nanos(Duration::from_millis(*at));
        while boottime() < due {
            stage.listen();
            thread::sleep(Duration::from_nanos(due.saturating_sub(boottime())).min(Duration::from_millis(20)));
        }
        if boottime() - checked > nanos(Duration::from_secs(60)) {
            checked = boottime();
            stage.check();
            println!("{} s: {} holdings", (checked - start) / 1_000_000_000, stage.journal.holdings().count());
        }
        stage.act(*action);
    }

    // Every fault has been ended by the plan; a file system that took long to freeze is thawed in a moment.
    let all: Vec<usize> = (0..hosts).collect();
    let recovered = stage.await_progress(&all);
    let survivor = stage.random.random_range(0..hosts);
    all.iter().filter(|host| **host != survivor).for_each(|host| stage.act(Action::Kill(*host)));
    let alone = stage.await_progress(&[survivor]);
    fs::write(stage.stop_file(), "").unwrap();
    let mut last = stage.hosts[survivor].take().unwrap();
    assert_eq!(last.code(), 0, "{}{}", last.said(), last.complained());
    stage.take_lines();
    stage.check();
    assert!(stage.keeper.end(), "not every freeze was one");

    let journal = &stage.journal;
    let of_host = |host: usize| journal.holdings().filter(|holding| holding.host == host).count();
    let holdings: Vec<usize> = all.iter().map(|host| of_host(*host)).collect();
    let (taken_over, refused) = (journal.taken_over(), journal.refused);
    println!("{} actions, {} starts of hosts, sectors of {}", plan.len(), stage.starts, stage.disk.paths[0].sector);
    println!("holdings {holdings:?}, {taken_over} of them taken over, {refused} writes refused");
    println!("all went on after {recovered:?}, the last one after {alone:?}");
    println!("failures that hosts met: {:?}", journal.troubles);
    // The faults were felt. In half a minute of them there is one that costs every holder its lease.
    assert!(seconds < 30 || taken_over > 0);
}
