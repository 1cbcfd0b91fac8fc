//! Processes that a test starts, and what they start.

use std::error::Error;
use std::fs;
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::until_some;

const MARK: &str = "LEASEHOLD_TEST_MARK";

/// Everything that a test starts carries a mark in its environment, by which it is found whatever it did to get away.
/// What is left is killed at the end.
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new() -> Mark {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Mark(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// The mark that this process was given.
    pub(crate) fn inherited() -> Option<String> {
        std::env::var(MARK).ok()
    }

    pub(crate) fn put_on(&self, command: &mut Command) {
        // All of them are on one machine, also where nothing tells which.
        command.env(MARK, &self.0).env("LEASEHOLD_MACHINE", "that of the tests");
    }

    /// Every process with the mark that is not dead.
    pub(crate) fn living(&self) -> Vec<i32> {
        living(&self.0)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let start = Instant::now();
        loop {
            let living = self.living();
            living.iter().for_each(|pid| signal_process(*pid, Signal::KILL));
            if living.is_empty() || start.elapsed() > Duration::from_secs(10) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What the environment variable of a worker process says: its task, and words for it, one on each line.
const TASK: &str = "LEASEHOLD_TEST_TASK";
/// There in the environment of a worker that outlives its test.
const OUTLIVES: &str = "LEASEHOLD_TEST_OUTLIVES";

/// A process of the program that runs, which does that task in its function `worker`.
pub(crate) fn worker(task: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(worker_words()).env(TASK, task.join("\n"));
    command
}

/// Puts a worker at the end of the command line of a program that runs commands.
pub(crate) fn run_worker<'command>(program: &'command mut Command, task: &[&str]) -> &'command mut Command {
    program.arg(std::env::current_exe().unwrap()).args(worker_words()).env(TASK, task.join("\n"))
}

const fn worker_words() -> [&'static str; 3] {
    ["--exact", "worker", "--nocapture"]
}

/// As [`worker`], for one that cleans up after its test.
pub(crate) fn keeper(task: &[&str]) -> Command {
    let mut command = worker(task);
    command.env(OUTLIVES, "1");
    command
}

/// The task of this process, if it is a worker: then it ends with the thread that started it, unless it is a keeper.
pub(crate) fn task() -> Option<String> {
    let task = std::env::var(TASK).ok()?;
    if std::env::var(OUTLIVES).is_err() {
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    }
    Some(task)
}

/// Every process with that mark that is not dead.
pub(crate) fn living(mark: &str) -> Vec<i32> {
    processes().filter(|pid| variable(*pid, MARK).as_deref() == Some(mark)).collect()
}

pub(crate) fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// An environment variable as the process got it; none for one that is dead.
pub(crate) fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment.split(|byte| *byte == 0).find_map(|variable| {
        let rest = variable.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })?;
    String::from_utf8(value.into()).ok()
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

pub(crate) fn command_line(pid: i32) -> String {
    read(Path::new(&format!("/proc/{pid}/cmdline"))).trim_end_matches('\0').replace('\0', " ")
}

pub(crate) fn signal_process(pid: i32, signal: Signal) {
    // It may be gone already.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// A child process whose output is kept. Killed at the end.
pub(crate) struct Process {
    child: Child,
    out: fs::File,
    err: fs::File,
}

impl Process {
    pub(crate) fn start(command: &mut Command, mark: &Mark) -> Process {
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        mark.put_on(command);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        let child = command.spawn().unwrap();
        Process { child, out, err }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_process(self.pid(), signal);
    }

    /// Whether none of its threads goes on.
    pub(crate) fn is_stopped(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat"))).all(|stat| {
            // Behind the name, which may have anything in it.
            stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        })
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        await_end(&mut self.child)
    }

    /// The exit code; 128 + n for signal n, as a shell says it.
    #[track_caller]
    pub(crate) fn code(&mut self) -> i32 {
        let status = self.wait();
        status.code().or_else(|| Some(128 + status.signal()?)).unwrap()
    }

    /// All that it wrote to standard output so far.
    pub(crate) fn said(&self) -> String {
        contents(&self.out)
    }

    /// All that it wrote to standard error so far.
    pub(crate) fn complained(&self) -> String {
        contents(&self.err)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Through another description of the file: the process writes at the position of its own.
fn contents(file: &fs::File) -> String {
    use std::os::fd::AsRawFd;
    let mut bytes = Vec::new();
    let mut file = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[track_caller]
pub(crate) fn await_end(child: &mut Child) -> ExitStatus {
    until_some("the end of a process", || child.try_wait().unwrap())
}

/// Whether what the command `leasehold` said when it failed shows that the machine is busy, which says nothing.
pub(crate) fn is_busy(said: &str) -> bool {
    let signs = [
        "still in flight",
        "not acquired in time",
        "was not acquired: ",
        "membership was lost",
        "no renewal was confirmed in time",
        "could not be verified in time",
        "the guard was not told of a renewal in time",
    ];
    signs.iter().any(|sign| said.contains(sign))
}

/// Does it again for as long as it fails because the machine is busy. Any other failure is one of the test.
#[track_caller]
pub(crate) fn calmly<T, E: Into<Box<dyn Error>>>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    until_some(what, || {
        let error = match attempt() {
            Ok(done) => return Some(done),
            Err(error) => error.into(),
        };
        let said = with_sources(&*error);
        assert!(is_busy(&said), "{what}: {said}");
        None
    })
}

/// An error and all that it comes from, as the command says it.
pub(crate) fn with_sources(error: &dyn Error) -> String {
    let all = std::iter::successors(Some(error), |error| (**error).source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Exit code and all that was said by a process that ends by itself; by another one, if the machine was too busy for
/// it.
#[track_caller]
pub(crate) fn answer_of(start: impl Fn() -> Process) -> (i32, String) {
    until_some("an answer", || Some(answer(start())).filter(|(_, said)| !is_busy(said)))
}

/// Exit code and all that was said by a process that ends by itself.
#[track_caller]
pub(crate) fn answer(mut process: Process) -> (i32, String) {
    let code = process.code();
    (code, process.said() + &process.complained())
}
