//! A process that is killed and started again every second, under load. It writes a journal, and so does a process that
//! tries to get its leases all the time; they are judged from outside.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use leasehold::{JoinOptions, Lease, Membership, ResumeError, ResumeToken, Resumed, Status, Timeouts, Wait};
use rustix::process::Signal;

use crate::common::devices::{join, open, text};
use crate::common::processes::{self, Process, read};
use crate::common::{PATIENCE, boottime, timeouts, until, until_some};
use crate::{RESOURCES, Scene, acquire};

fn times() -> Timeouts {
    timeouts([150, 300, 1_500, 200, 1_700])
}

/// One line, appended in one step: the time, then the words.
fn say(journal: &Path, words: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(journal).unwrap();
    file.write_all(format!("{} {words}\n", boottime()).as_bytes()).unwrap();
}

fn versions(leases: &[Lease]) -> String {
    let version = |name: &&str| leases.iter().find(|lease| lease.resource().name().to_string() == **name);
    let words: Vec<String> = RESOURCES.iter().filter_map(version).map(|lease| lease.version().to_string()).collect();
    words.join(" ")
}

/// Holds both resources until it is killed: those of its predecessor, if it is in time.
pub(crate) fn embed(device: &Path, saved: &Path, journal: &Path) {
    let (membership, leases) = go_on(device, saved, journal).unwrap_or_else(|| begin(device, saved, journal));
    let mut status = membership.status();
    while let Status::Held { until } | Status::Late { until } = status {
        assert!(leases.iter().all(Lease::is_held) || matches!(membership.status(), Status::Lost { .. }));
        say(journal, &format!("until {} {}", until.as_nanos(), membership.owner().generation));
        status = membership.status_change(&status, PATIENCE);
    }
    say(journal, &format!("lost {status:?}"));
}

/// `None`: nothing is left of what the token is for.
fn go_on(device: &Path, saved: &Path, journal: &Path) -> Option<(Membership, Vec<Lease>)> {
    let token: ResumeToken = fs::read_to_string(saved).ok()?.parse().unwrap();
    loop {
        match open(device).resume(&token, JoinOptions::new()) {
            Ok(Resumed { leases, gone, membership, .. }) => {
                say(journal, &format!("resumed {} {}", membership.owner().generation, versions(&leases)));
                gone.iter().for_each(|gone| say(journal, &format!("gone {gone:?}")));
                return Some((membership, leases));
            }
            // The machine is busy: as long as there is time it is tried again.
            Err(ResumeError::Disk(_) | ResumeError::Index(_) | ResumeError::HeldHere { .. }) => {}
            Err(error) => {
                say(journal, &format!("refused {error}"));
                return None;
            }
        }
    }
}

fn begin(device: &Path, saved: &Path, journal: &Path) -> (Membership, Vec<Lease>) {
    loop {
        let membership = join(device, || JoinOptions::new().host_name("embedder"));
        let leases: Option<Vec<Lease>> = RESOURCES.iter().map(|name| acquire(&membership, name)).collect();
        let Some(leases) = leases else { continue };
        let next = saved.with_extension("next");
        fs::write(&next, membership.token().to_string()).unwrap();
        fs::rename(&next, saved).unwrap();
        say(journal, &format!("acquired {} {}", membership.owner().generation, versions(&leases)));
        return (membership, leases);
    }
}

/// Takes what it can get, and gives it back at once.
pub(crate) fn contend(device: &Path, journal: &Path) {
    let lockspace = open(device);
    let resources = RESOURCES.map(|name| until_some("a resource", || lockspace.find(name).ok()));
    loop {
        let membership = join(device, || JoinOptions::new().host_name("contender"));
        while !matches!(membership.status(), Status::Lost { .. }) {
            for resource in &resources {
                if let Ok(lease) = membership.acquire(resource, Wait::No) {
                    say(journal, &format!("took {} {}", resource.name(), lease.version()));
                    let _ = lease.release();
                }
            }
        }
    }
}

/// What the journal says.
#[derive(Debug, Default)]
struct Verdict {
    resumed: usize,
    /// Generations that ended, each with a reason.
    lost: usize,
    taken: usize,
}

/// Goes through the journal, and fails where it shows something that must not be.
fn judge(journal: &str) -> Verdict {
    let mut verdict = Verdict::default();
    // Generation and versions that are held, and whether somebody else has had one of them since.
    let mut held: Option<(String, bool)> = None;
    // Until when the holder said that it holds.
    let mut deadlines: Vec<u64> = Vec::new();
    let mut latest = 0;
    for line in journal.lines() {
        let (time, words) = line.split_once(' ').unwrap();
        let (word, rest) = words.split_once(' ').unwrap();
        let time: u64 = time.parse().unwrap();
        match word {
            "acquired" => {
                let versions = rest.split(' ').skip(1).map(|version| version.parse::<u64>().unwrap());
                assert_eq!(versions.clone().count(), 2, "{line}");
                assert!(held.is_none(), "{line}: nobody said that {held:?} was lost");
                held = Some((rest.into(), false));
                latest = latest.max(versions.max().unwrap());
            }
            "resumed" => {
                verdict.resumed += 1;
                assert_eq!(held, Some((rest.into(), false)), "{line}");
            }
            "until" => {
                let (until, generation) = rest.split_once(' ').unwrap();
                let (mine, taken) = held.as_ref().unwrap_or_else(|| panic!("{line}: nothing is held"));
                assert!(mine.starts_with(&format!("{generation} ")) && !taken, "{line}: {held:?}");
                deadlines.push(until.parse().unwrap());
            }
            "refused" | "lost" => {
                verdict.lost += 1;
                held = None;
                // What the renewal before the last was good for must have run out.
                if let [.., certain, _] = deadlines[..] {
                    let rounded = (times().fail() / 64 + Duration::from_millis(1)).as_nanos() as u64;
                    assert!(time + rounded >= certain, "{line}: it was held until {certain}");
                }
                deadlines.clear();
            }
            "took" => {
                verdict.taken += 1;
                if let Some((mine, taken)) = &mut held {
                    let until = deadlines.last().copied().unwrap_or_default();
                    assert!(time >= until, "{line}: {mine} is held until {until}");
                    *taken = true;
                }
            }
            _ => panic!("{line}"),
        }
    }
    verdict
}

#[test]
#[should_panic(expected = "is held until 300")]
fn what_is_taken_from_a_holder_is_seen() {
    judge("100 acquired 7 1 2\n150 until 250 7\n200 until 300 7\n260 took first 3\n");
}

#[test]
fn a_process_that_is_restarted_every_second_under_load_keeps_its_leases_or_is_told() {
    let seconds = std::env::var("LEASEHOLD_RESTART_SECONDS").map_or(2, |seconds| seconds.parse().unwrap());
    let scene = Scene::new(times());
    let (saved, journal) = (scene.folder.path().join("token"), scene.folder.path().join("journal"));
    let start = || {
        let task = ["embed", text(&scene.node.0), text(&saved), text(&journal)];
        Process::start(&mut processes::worker(&task), &scene.mark)
    };
    let count = |word: &str| read(&journal).lines().filter(|line| line.split(' ').nth(1) == Some(word)).count();
    let begun = || count("acquired") + count("resumed");
    let _contender =
        Process::start(&mut processes::worker(&["contend", text(&scene.node.0), text(&journal)]), &scene.mark);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _ends = Ends(&over);
        let mut process = start();
        until("the first leases", || begun() > 0);
        let mut restart = |pause: Duration| {
            let before = begun();
            process.signal(Signal::KILL);
            process.wait();
            thread::sleep(pause);
            process = start();
            until("leases again", || {
                // It lost them on the way, and said so.
                if process.ended().is_some() {
                    process = start();
                }
                begun() > before
            });
        };
        for _ in 0..seconds {
            thread::sleep(Duration::from_secs(1));
            restart(Duration::ZERO);
        }
        // A machine that is very busy makes some of them late.
        until("a process that goes on", || {
            let resumed = count("resumed") > 0;
            if !resumed {
                restart(Duration::ZERO);
            }
            resumed
        });
        // Once it is late, and until the contender was there first.
        let taken = count("took");
        until("a lease that somebody else takes", || {
            restart(times().fail());
            count("took") > taken
        });
    });
    let verdict = judge(&read(&journal));
    println!("{verdict:?}");
    assert!(verdict.lost > 0, "{verdict:?}\n{}", read(&journal));
}

/// Ends the load, also when the test fails.
struct Ends<'over>(&'over AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
