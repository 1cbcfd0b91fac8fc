//! Processes that share, hold alone and convert one resource on a real disk, while some of them are killed.
//!
//! Each host writes down since when it holds the resource, how and at which version, and when that ends, on the clock
//! that all processes share. The test judges it from outside: who holds it alone never does so beside anybody else, the
//! versions of those who hold it alone grow, every host makes progress, and so does every mode.
//!
//! `LEASEHOLD_MODES_SECONDS`: for how long at least, before and after one is killed (2). `LEASEHOLD_SEED`: repeats the
//! hosts' choices; what the machine makes of them differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use leasehold::{
    AcquireError, AcquireOptions, ConvertError, HostId, JoinOptions, Lease, LeaseMode, Lockspace, Membership, Resource,
    Status, Wait,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use crate::common::devices::{Loop, disk, file, text, with_resources};
use crate::common::processes::{Mark, Process, calmly, read, worker};
use crate::common::{boottime, id, number, timeouts, until};

/// In milliseconds.
const HOLD: std::ops::Range<u64> = 1..25;
const PAUSE: std::ops::Range<u64> = 10..80;

fn sleep(span: std::ops::Range<u64>, random: &mut StdRng) {
    thread::sleep(Duration::from_millis(random.random_range(span)));
}

// ---- The hosts ----

pub(crate) fn work(task: &[&str]) {
    let [host, seed, node, journal, stop] = task else { panic!("no such task: {task:?}") };
    let host = Host {
        id: id(host.parse().unwrap()),
        journal: OpenOptions::new().append(true).open(journal).unwrap(),
        stop: Path::new(stop),
    };
    host.live(Path::new(node), &mut StdRng::seed_from_u64(seed.parse().unwrap()));
}

struct Host<'task> {
    id: HostId,
    journal: File,
    stop: &'task Path,
}

impl Host<'_> {
    fn say(&self, what: &str) {
        // In one piece: then it stands in one place, and is there whole or not at all when this process is killed.
        let line = format!("{} {what}\n", self.id);
        assert_eq!((&self.journal).write(line.as_bytes()).unwrap(), line.len());
    }

    fn live(&self, node: &Path, random: &mut StdRng) {
        while !self.stop.exists() {
            let lockspace = Lockspace::open(disk(node)).unwrap();
            // On a busy machine a host id can be lost; then it has to be waited for.
            let Ok(membership) = lockspace.join(JoinOptions::new().host_id(self.id)) else { continue };
            let resource = calmly("the index", || lockspace.find("demo"));
            while !self.stop.exists() && !matches!(membership.status(), Status::Lost { .. }) {
                self.once(&membership, &resource, random);
                sleep(PAUSE, random);
            }
        }
    }

    /// Acquires it, perhaps converts it once or twice, and releases it. A lease that is lost is dropped.
    fn once(&self, membership: &Membership, resource: &Resource, random: &mut StdRng) {
        let mode = if random.random_range(0..3) == 0 { LeaseMode::Exclusive } else { LeaseMode::Shared };
        let wait = Wait::For(Duration::from_millis(random.random_range(0..500)));
        let lease = match membership.acquire(resource, AcquireOptions::new().mode(mode).wait(wait)) {
            Ok(lease) => lease,
            Err(error) => return expected(&error),
        };
        if !self.holds(&lease, mode) {
            return;
        }
        for _ in 0..random.random_range(0..3) {
            sleep(HOLD, random);
            let to = if lease.mode() == LeaseMode::Shared { LeaseMode::Exclusive } else { LeaseMode::Shared };
            // From here on it doesn't rely on being alone.
            if to == LeaseMode::Shared && !self.holds(&lease, to) {
                return;
            }
            match lease.convert(to, wait) {
                Ok(()) if to == LeaseMode::Exclusive && !self.holds(&lease, to) => return,
                Ok(()) | Err(ConvertError::Unknown { .. }) => {}
                Err(ConvertError::NotAcquired(error)) => expected(&error),
                Err(ConvertError::Lost(_)) => return self.say("lost"),
                Err(error) => panic!("{error}"),
            }
        }
        sleep(HOLD, random);
        let now = boottime();
        if !lease.is_held() {
            return self.say("lost");
        }
        self.say(&format!("ends {now}"));
        // What is not confirmed in time goes on in the background.
        let _ = lease.release();
    }

    /// Writes down how it is held from now on; whether it is.
    fn holds(&self, lease: &Lease, mode: LeaseMode) -> bool {
        let now = boottime();
        match lease.status() {
            Status::Held { until } | Status::Late { until } => {
                self.say(&format!("holds {mode:?} {} {now} {}", lease.version(), until.as_nanos()));
                true
            }
            Status::Lost { .. } => {
                self.say("lost");
                false
            }
        }
    }
}

/// What other hosts, a busy machine, or an earlier conversion that is not over yet explain.
fn expected(error: &AcquireError) {
    match error {
        AcquireError::Held { .. } | AcquireError::Shared { .. } | AcquireError::WouldDeadlock { .. } => {}
        AcquireError::TimedOut { .. } | AcquireError::Unknown { .. } | AcquireError::AlreadyHeld { .. } => {}
        AcquireError::Lost(_) => {}
        error => panic!("{error}"),
    }
}

// ---- What they wrote down ----

#[derive(Clone, Debug)]
struct Holding {
    host: u64,
    alone: bool,
    version: u64,
    began: u64,
    /// Of one of which nothing more was heard, or that was lost: the deadline that it knew of at first.
    ended: u64,
    /// It went on from a holding in the other mode.
    converted: bool,
}

/// Every holding, by its beginning.
fn holdings(journal: &str) -> Vec<Holding> {
    let mut all = Vec::new();
    let mut open = BTreeMap::<u64, Holding>::new();
    for line in journal.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let host = words[0].parse().unwrap();
        let number = |word: &str| word.parse::<u64>().unwrap();
        let before = open.remove(&host);
        match words[1..] {
            ["holds", mode, version, began, deadline] => {
                let [version, began, ended] = [version, began, deadline].map(number);
                let converted = before.is_some();
                all.extend(before.map(|before| Holding { ended: began, ..before }));
                let alone = mode == "Exclusive";
                open.insert(host, Holding { host, alone, version, began, ended, converted });
            }
            ["ends", ended] => all.extend(before.map(|before| Holding { ended: number(ended), ..before })),
            ["lost"] => all.extend(before),
            _ => panic!("not understood: {line:?}"),
        }
    }
    all.extend(open.into_values());
    all.sort_by_key(|holding| holding.began);
    all
}

/// Who holds it alone holds it beside nobody, and at a version above all before.
fn check(holdings: &[Holding]) {
    // Whose end is the latest, of all and of those that held it alone.
    let (mut any, mut alone) = (None::<&Holding>, None::<&Holding>);
    let mut version = 0;
    for holding in holdings {
        let rival = if holding.alone { any } else { alone };
        if let Some(rival) = rival.filter(|rival| rival.host != holding.host && rival.ended > holding.began) {
            panic!("held at once:\n{rival:?}\n{holding:?}");
        }
        if holding.alone {
            assert!(holding.version > version, "after version {version}: {holding:?}");
        }
        version = version.max(holding.version);
        let later = |best: Option<&Holding>| best.is_none_or(|best| best.ended < holding.ended);
        any = if later(any) { Some(holding) } else { any };
        alone = if holding.alone && later(alone) { Some(holding) } else { alone };
    }
}

/// The hosts that have begun to hold it in each way since then: alone or not, and by conversion or not.
fn begun(holdings: &[Holding], since: u64) -> BTreeMap<(bool, bool), BTreeSet<u64>> {
    let mut hosts = BTreeMap::<_, BTreeSet<u64>>::new();
    for holding in holdings.iter().filter(|holding| holding.began > since) {
        hosts.entry((holding.alone, holding.converted)).or_default().insert(holding.host);
    }
    hosts
}

#[test]
fn processes_share_hold_alone_and_convert_while_some_are_killed() {
    const HOSTS: u64 = 4;
    let seed = number("LEASEHOLD_SEED").unwrap_or_else(rand::random);
    println!("again: LEASEHOLD_SEED={seed} cargo test -p leasehold --test hosts modes::processes");
    let (folder, backing) = file(16 << 20);
    let node = Loop::new(&backing, &["--direct-io=on"]);
    with_resources(disk(&node.0), timeouts([200, 300, 1_300, 200, 1_500]), &["demo"]);
    let (journal, stop) = (folder.path().join("journal"), folder.path().join("stop"));
    File::create(&journal).unwrap();
    let mark = Mark::new();
    let start = |host: u64| {
        let seed = seed.wrapping_add(host).to_string();
        let task = ["modes", &host.to_string(), &seed, text(&node.0), text(&journal), text(&stop)];
        Process::start(&mut worker(&task), &mark)
    };
    let mut hosts: BTreeMap<u64, Process> = (1..=HOSTS).map(|host| (host, start(host))).collect();
    let seconds = number("LEASEHOLD_MODES_SECONDS").unwrap_or(2);
    let progress = |hosts: &mut BTreeMap<u64, Process>, since: u64| {
        until("progress of every host and in every mode", || {
            for process in hosts.values_mut() {
                assert!(process.ended().is_none(), "{}{}", process.said(), process.complained());
            }
            thread::sleep(Duration::from_millis(50));
            let begun = begun(&holdings(&read(&journal)), since);
            let all: BTreeSet<u64> = begun.values().flatten().copied().collect();
            begun.len() == 4
                && hosts.keys().all(|host| all.contains(host))
                && boottime() > since + seconds * 1_000_000_000
        });
    };
    progress(&mut hosts, boottime());
    // One that shares, so that whoever wants it alone waits until it counts as dead.
    let mut killed = hosts.remove(&1).unwrap();
    until("that it shares", || {
        let journal = read(&journal);
        let last = journal.lines().rfind(|line| line.starts_with("1 "));
        last.is_some_and(|line| line.starts_with("1 holds Shared"))
    });
    killed.signal(Signal::KILL);
    killed.wait();
    let since = boottime();
    hosts.insert(HOSTS + 1, start(HOSTS + 1));
    progress(&mut hosts, since);
    File::create(&stop).unwrap();
    for process in hosts.values_mut() {
        assert_eq!(process.code(), 0, "{}{}", process.said(), process.complained());
    }
    let all = holdings(&read(&journal));
    check(&all);
    let count = |alone, converted| all.iter().filter(|it| (it.alone, it.converted) == (alone, converted)).count();
    let counts = [(true, false), (true, true), (false, false), (false, true)].map(|(a, c)| count(a, c));
    println!("alone, alone by conversion, shared, shared by conversion: {counts:?}");
    let beside = all.windows(2).any(|two| two[0].host != two[1].host && two[1].began < two[0].ended);
    assert!(beside, "nobody shared with anybody");
}
