//! `leasehold run` and its guard process: the command and everything it started are gone when the lease may be.
//!
//! Everything that a test starts carries a mark in its environment, by which it is found whatever it did to get away.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use leasehold::disk::{Access, DirectDisk};
use leasehold::{Lockspace, Timeouts};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::devices::{file, folder, lockspace, text};
use crate::common::host_path::{self, HostPath};
use crate::common::processes::{Mark, await_end, command_line, read, run_worker, signal_process};
use crate::common::{timeouts, until};

/// A busy machine must not cost the lease where it isn't meant to.
fn brief() -> Timeouts {
    timeouts([200, 1_000, 5_000, 4_000, 9_000])
}

pub(crate) fn work(task: &[&str]) {
    let [file] = task else { panic!("no such task: {task:?}") };
    host_path::write_beside(Path::new(file));
}

/// A folder with its own lockspace, in which one supervisor runs one command.
struct Scene {
    folder: TempDir,
    supervisor: Child,
    mark: Mark,
}

impl Scene {
    /// Runs a shell script under a lease.
    fn script(script: &str) -> Scene {
        Scene::start(&["sh", "-c", script])
    }

    fn start(command: &[&str]) -> Scene {
        Scene::spawn(Scene::run(command), brief())
    }

    fn run(command: &[&str]) -> Command {
        // What started the tests may ignore signals, and that is inherited.
        let mut run = Command::new("env");
        run.args(["--default-signal", env!("CARGO_BIN_EXE_leasehold"), "run", "demo", "--"]).args(command);
        run
    }

    fn spawn(mut run: Command, timeouts: Timeouts) -> Scene {
        // Of its own, with a parent in the session: the kernel stops nobody in an orphaned process group.
        run.process_group(0);
        let folder = folder();
        let device = folder.path().join("leasehold.img");
        lockspace(&device, timeouts);
        let mark = Mark::new();
        mark.put_on(&mut run);
        run.current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let supervisor = run.spawn().unwrap();
        Scene { folder, supervisor, mark }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits until the command has written a file.
    fn await_file(&self, name: &str) {
        until(name, || self.path(name).exists());
    }

    /// Waits until a process runs this program with these words.
    fn await_running(&self, words: &str) {
        until(words, || self.living().iter().any(|pid| command_line(*pid) == words));
    }

    /// Every process that was started here and is not dead, supervisor and guard among them.
    fn living(&self) -> Vec<i32> {
        self.mark.living()
    }

    /// The same without the supervisor.
    fn living_below(&self) -> Vec<i32> {
        self.living().into_iter().filter(|pid| *pid != self.supervisor.id() as i32).collect()
    }

    fn signal(&self, signal: Signal) {
        signal_process(self.supervisor.id() as i32, signal);
    }

    fn guard(&self) -> i32 {
        let is_guard = |pid: &i32| read(Path::new(&format!("/proc/{pid}/comm"))) == "leasehold-guard\n";
        self.living().into_iter().find(is_guard).expect("no guard process")
    }

    fn wait(&mut self) -> ExitStatus {
        await_end(&mut self.supervisor)
    }

    fn code(&mut self) -> i32 {
        self.wait().code().expect("the supervisor was killed")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.living().into_iter().for_each(|pid| signal_process(pid, Signal::KILL));
        let _ = self.supervisor.wait();
    }
}

/// A command that starts processes which do what they can to get away, and writes a file when it gets SIGTERM.
const ESCAPERS: &str = "
    trap 'echo > term; exit' TERM
    setsid sleep 1001 &
    (setsid sh -c 'nohup sleep 1002 > /dev/null & exit' &)
    (sh -c 'trap \"\" TERM HUP; exec sleep 1003' &)
    echo > ready
    while :; do sleep 0.05; done";

fn escaped(scene: &Scene) {
    for sleeper in ["sleep 1001", "sleep 1002", "sleep 1003"] {
        scene.await_running(sleeper);
    }
    scene.await_file("ready");
}

#[test]
fn a_killed_supervisor_takes_everything_with_it_at_once() {
    let mut scene = Scene::script(ESCAPERS);
    escaped(&scene);
    scene.signal(Signal::KILL);
    let killed = Instant::now();
    until("the end of all processes", || scene.living().is_empty());
    println!("all gone {:?} after kill -9 of the supervisor", killed.elapsed());
    assert_eq!(scene.wait().signal(), Some(9));
    // At the deadline SIGTERM would have come first.
    assert!(!scene.path("term").exists(), "the guard waited for the deadline");
}

#[test]
fn a_stopped_supervisor_loses_its_command_at_the_deadline() {
    let mut scene = Scene::script(ESCAPERS);
    escaped(&scene);
    scene.signal(Signal::STOP);
    until("the end of all processes but the supervisor", || scene.living_below().is_empty());
    assert!(scene.path("term").exists(), "the command was not asked to end");
    scene.signal(Signal::CONT);
    assert_eq!(scene.code(), 69);
}

#[test]
fn a_dead_guard_is_replaced_by_the_supervisor() {
    let mut scene = Scene::script(ESCAPERS);
    escaped(&scene);
    signal_process(scene.guard(), Signal::KILL);
    assert_ne!(scene.code(), 0);
    // Not "soon after": the supervisor releases the lease before it ends.
    assert_eq!(scene.living(), Vec::<i32>::new());
    assert!(!scene.path("term").exists(), "the command outlived its guard");
}

/// It may still write: the kernel ends no write that hangs. Of a process with several threads `/proc` then shows a
/// zombie.
#[test]
fn nothing_is_given_back_when_something_can_not_be_killed() {
    let (folder, file) = file(4096);
    let hung = HostPath::new(folder.path(), "hung", &file);
    hung.hang_writes_from(0);
    let mut run = Scene::run(&[]);
    run_worker(&mut run, &["guard", text(&hung.file)]);
    let mut scene = Scene::spawn(run, brief());
    // To be dropped before what waits for the processes: they end with their writes.
    let hung = hung;
    hung.await_write();
    signal_process(scene.guard(), Signal::KILL);
    assert_eq!(scene.code(), 74);
    assert!(hung.held_back() > 0);
    let disk = DirectDisk::open(scene.path("leasehold.img"), Access::ReadOnly).unwrap();
    let lockspace = Lockspace::open(Arc::new(disk)).unwrap();
    let demo = lockspace.resource_info(&lockspace.find("demo").unwrap());
    let owner = demo.ownership.unwrap().owner.expect("the lease was released");
    let hosts = lockspace.hosts(Duration::ZERO).unwrap();
    let host = hosts.iter().find(|host| host.host == owner.host).unwrap();
    assert_ne!(host.timestamp, 0, "the host id was given back");
}

#[test]
fn the_command_lives_as_long_as_the_deadline_is_moved() {
    // Longer than until SIGKILL comes without a renewal.
    let mut scene = Scene::script("trap 'echo > term' TERM; sleep 10; echo > done");
    assert_eq!(scene.code(), 0);
    assert!(scene.path("done").exists());
    assert!(!scene.path("term").exists());
}

#[test]
fn the_commands_own_end_is_the_exit_code() {
    let scripts = [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
        ("kill -INT $$", 130),
        // A broken pipe must end it: the Rust runtime ignores this signal for itself.
        ("kill -PIPE $$; exit 1", 141),
    ];
    let mut commands: Vec<(Vec<&str>, i32)> =
        scripts.iter().map(|(script, code)| (vec!["sh", "-c", *script], *code)).collect();
    commands.extend([(vec!["no-such-program-anywhere"], 127), (vec!["/proc/self/status"], 126)]);
    thread::scope(|scope| {
        for (command, code) in &commands {
            scope.spawn(move || assert_eq!(Scene::start(command).code(), *code, "{command:?}"));
        }
    });
}

#[test]
fn the_supervisor_ends_with_the_command_and_not_with_the_next_renewal() {
    // A join that has to be made again takes D.
    let renewal = Duration::from_secs(10);
    let run = Scene::run(&["sh", "-c", "echo > over"]);
    let mut scene = Scene::spawn(run, timeouts([10_000, 1_000, 20_000, 1_000, 21_000]));
    scene.await_file("over");
    let over = Instant::now();
    assert_eq!(scene.code(), 0);
    assert!(over.elapsed() < renewal / 2, "it took {:?}", over.elapsed());
}

#[test]
fn signals_to_the_supervisor_reach_the_command_once() {
    let mut scene = Scene::script(
        "for signal in HUP INT QUIT TERM USR1 USR2; do trap \"echo $signal >> got\" $signal; done
         echo > ready
         while [ ! -e stop ]; do sleep 0.02; done; exit 5",
    );
    scene.await_file("ready");
    let signals = [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::TERM, "TERM"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ];
    let mut expected = String::new();
    for (signal, name) in signals {
        scene.signal(signal);
        expected += &format!("{name}\n");
        until(name, || scene.read("got").len() >= expected.len());
    }
    fs::write(scene.path("stop"), "").unwrap();
    assert_eq!(scene.code(), 5);
    assert_eq!(scene.read("got"), expected);
}

#[test]
fn a_stop_signal_stops_the_command_and_not_its_supervisor() {
    let mut scene = Scene::script("echo > ready; while [ ! -e stop ]; do sleep 0.02; done; exit 6");
    scene.await_file("ready");
    let shell = scene.living_below().into_iter().find(|pid| command_line(*pid).starts_with("sh -c echo")).unwrap();
    let state = |pid: u32| {
        let stat = read(Path::new(&format!("/proc/{pid}/stat")));
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    scene.signal(Signal::TSTP);
    until("the stopped command", || state(shell as u32) == Some('T'));
    assert_ne!(state(scene.supervisor.id()), Some('T'));
    fs::write(scene.path("stop"), "").unwrap();
    scene.signal(Signal::CONT);
    assert_eq!(scene.code(), 6);
}

#[test]
fn what_the_command_leaves_behind_ends_before_the_supervisor_does() {
    let mut scene = Scene::script(
        "setsid sleep 1001 &
         (sh -c 'trap \"\" TERM; echo > ignoring; exec sleep 1002' &)
         while [ ! -e ignoring ]; do sleep 0.01; done
         exit 3",
    );
    assert_eq!(scene.code(), 3);
    assert_eq!(scene.living(), Vec::<i32>::new());
}

#[test]
fn a_process_that_forks_and_exits_without_end_does_not_get_away() {
    let mut scene = Scene::script("fly() { echo >> sign; fly & }; fly & while :; do sleep 0.05; done");
    until("some generations", || scene.read("sign").len() > 50);
    scene.signal(Signal::KILL);
    until("the end of all processes", || scene.living().is_empty());
    scene.wait();
    let generations = scene.read("sign").len();
    // One look at a process list can miss it, what it writes can't.
    thread::sleep(Duration::from_millis(200));
    assert_eq!(scene.read("sign").len(), generations);
}

#[test]
fn the_command_has_the_supervisors_streams_folder_and_environment() {
    let mut scene =
        Scene::script("cat > heard; echo $LEASEHOLD_VERSION > version; ls -l /proc/self/fd > fds; echo said");
    scene.supervisor.stdin.take().unwrap().write_all(b"words\n").unwrap();
    assert_eq!(scene.code(), 0);
    assert_eq!(scene.read("heard"), "words\n");
    assert_ne!(scene.read("version").trim(), "");
    let mut said = String::new();
    std::io::Read::read_to_string(scene.supervisor.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(said, "said\n");
    // Not the guard's socket: whoever holds that could play the supervisor.
    assert!(!scene.read("fds").contains("socket:"), "{}", scene.read("fds"));
}

#[test]
fn a_signal_that_was_ignored_stays_ignored_for_the_command() {
    let mut run = Command::new("sh");
    run.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_leasehold")]);
    run.args(["run", "demo", "--", "sh", "-c", "kill -HUP $$; echo > survived"]);
    let mut scene = Scene::spawn(run, brief());
    assert_eq!(scene.code(), 0);
    assert!(scene.path("survived").exists());
}
