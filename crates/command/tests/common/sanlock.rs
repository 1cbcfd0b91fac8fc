//! sanlock daemons: each is a host of its own beside others on one machine, with its own run directory.
//!
//! Needs the programs `sanlock` and `setpriv`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::processes::{Mark, Process, signal_process};
use super::{PATIENCE, until, until_some};

/// What a call of the program answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The number after the last "done": 0, or an error of the daemon's.
    pub(crate) code: Option<i64>,
    pub(crate) said: String,
}

impl Answer {
    fn new(said: String) -> Answer {
        let number = |line: &str| line.split_once(" done ")?.1.split(' ').next()?.parse().ok();
        Answer { code: said.lines().rev().find_map(number), said }
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i64) -> Answer {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Lines of a name and a value.
    pub(crate) fn fields(&self) -> BTreeMap<String, String> {
        let lines = self.said.lines().filter(|line| !line.contains(" done "));
        lines
            .map(|line| line.split_once(' ').unwrap_or((line, "")))
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }
}

/// What a daemon answers when an I/O took longer than T: reading or writing, and of its own block.
pub(crate) const TOO_SLOW: [i64; 2] = [-202, -211];

/// The program, with everything that it starts marked.
fn program(mark: &Mark) -> Command {
    installed();
    let mut command = Command::new("sanlock");
    mark.put_on(&mut command);
    command
}

fn installed() {
    match Command::new("sanlock").arg("version").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("these tests need sanlock: apt-get install sanlock")
        }
        version => assert!(version.is_ok(), "{version:?}"),
    }
}

/// Runs the program to its end, which may be a failure.
#[track_caller]
fn call(command: &mut Command, mark: &Mark) -> Answer {
    let mut process = Process::start(command, mark);
    process.wait();
    Answer::new(process.said() + &process.complained())
}

/// `sanlock direct ...`: reads a device past all daemons.
#[track_caller]
pub(crate) fn direct(words: &[&str]) -> Answer {
    let mark = Mark::new();
    call(program(&mark).arg("direct").args(words), &mark)
}

/// A daemon, which knows what it is called and its T.
pub(crate) struct Sanlock {
    daemon: Process,
    name: String,
    io_timeout: String,
    mark: Mark,
    /// Not below the project: the path of a socket is short.
    folder: TempDir,
}

impl Sanlock {
    /// With an I/O timeout of so many seconds.
    pub(crate) fn start(name: &str, io_timeout: u64) -> Sanlock {
        installed();
        let mark = Mark::new();
        let folder = TempDir::new().unwrap();
        let io_timeout = io_timeout.to_string();
        // It ends with the thread of the test, also where nothing is dropped.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sanlock", "daemon", "-D", "-Q", "1", "-w", "0", "-L", "-1", "-S", "-1"]);
        command.args(["-e", name, "-o", &io_timeout]);
        command.env("SANLOCK_PRIVILEGED", "0").env("SANLOCK_RUN_DIR", folder.path());
        let mut daemon = Process::start(&mut command, &mark);
        let socket = folder.path().join("sanlock.sock");
        until("the daemon's socket", || {
            assert!(daemon.ended().is_none(), "{}", daemon.complained());
            socket.exists()
        });
        let sanlock = Sanlock { daemon, name: name.into(), io_timeout, mark, folder };
        // The socket is there a moment before anybody listens.
        until("an answer of the daemon", || sanlock.ask(&["status"]).said.starts_with(&format!("daemon {name}")));
        sanlock
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What everything that it starts is marked with.
    pub(crate) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// `sanlock client ...` of this daemon.
    pub(crate) fn client(&self, words: &[&str]) -> Command {
        let mut command = program(&self.mark);
        command.env("SANLOCK_RUN_DIR", self.folder.path()).arg("client").args(words);
        command
    }

    /// Calls `sanlock client ...` and waits for the answer; again where that is that the machine is busy.
    #[track_caller]
    pub(crate) fn ask(&self, words: &[&str]) -> Answer {
        until_some("an answer in time", || {
            let now = call(&mut self.client(words), &self.mark);
            let slow = now.code.is_some_and(|code| TOO_SLOW.contains(&code));
            (!slow).then_some(now)
        })
    }

    /// `lockspace` is `NAME:HOST_ID:PATH:OFFSET`.
    #[track_caller]
    pub(crate) fn join(&self, lockspace: &str) {
        self.ask(&["add_lockspace", "-s", lockspace, "-o", &self.io_timeout]).expect(0);
    }

    #[track_caller]
    pub(crate) fn leave(&self, lockspace: &str) {
        self.ask(&["rem_lockspace", "-s", lockspace]).expect(0);
        let name = lockspace.split(':').next().unwrap();
        until("the end of its membership", || !self.states().contains_key(name));
    }

    /// Acquires `resource`, `NAME:NAME:PATH:OFFSET[:SH]`, and becomes the command; which is released when that ends.
    pub(crate) fn start_command(&self, resource: &str, command: &[&str]) -> Process {
        Process::start(self.client(&["command", "-r", resource, "-c"]).args(command), &self.mark)
    }

    /// The states of the hosts, by lockspace and host id.
    pub(crate) fn states(&self) -> BTreeMap<String, BTreeMap<u64, String>> {
        let mut all = BTreeMap::new();
        let mut lockspace = String::new();
        for line in self.ask(&["gets", "-h", "1"]).said.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["s", spec, ..] => {
                    lockspace = spec.split(':').next().unwrap().into();
                    all.entry(lockspace.clone()).or_insert_with(BTreeMap::new);
                }
                ["h", id, "gen", _, "timestamp", _, state] => {
                    let hosts = all.get_mut(&lockspace).expect("a host after its lockspace");
                    hosts.insert(id.parse().unwrap(), state.into());
                }
                _ => {}
            }
        }
        all
    }

    /// Waits until it sees that host in that state.
    #[track_caller]
    pub(crate) fn await_state(&self, lockspace: &str, host: u64, state: &str, patience: Duration) {
        let start = Instant::now();
        loop {
            let states = self.states();
            if states.get(lockspace).and_then(|hosts| hosts.get(&host)).is_some_and(|seen| seen == state) {
                return;
            }
            assert!(start.elapsed() < patience, "host {host} was not seen as {state}: {states:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What the daemon logged so far.
    pub(crate) fn log(&self) -> String {
        self.daemon.complained()
    }

    /// Kills the daemon and every command that holds something, as if the machine had died.
    pub(crate) fn kill(&self) {
        let start = Instant::now();
        loop {
            // What has died but was not waited for has no environment any more.
            let living = self.mark.living();
            if living.is_empty() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "they don't die: {living:?}");
            living.iter().for_each(|pid| signal_process(*pid, Signal::KILL));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
