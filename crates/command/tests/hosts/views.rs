//! The live views of the command: on a terminal, and as text and JSON for others.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;

use crate::common::devices::{Frozen, Loop, Mounted, text};
use crate::common::processes::{Process, await_end, signal_process};
use crate::common::scene::{Scene, ended, keys};
use crate::common::until;

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// What a watching process has said so far, each picture being a line of JSON.
fn pictures(process: &Process) -> Vec<Value> {
    let said = process.said();
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn holder_of(picture: &Value) -> Option<&Value> {
    picture["hosts"].as_array()?.iter().find(|host| host["name"] == "holder")
}

#[test]
fn a_killed_host_dies_before_ones_eyes() {
    let scene = Scene::where_hosts_die(&["db"]);
    let holder = scene.hold(&["db"]);
    let mut watch = scene.start(&["status", "disk", "--watch", "--interval", "100ms"]);
    let states = |watch: &Process| -> Vec<String> {
        let said = watch.said();
        let lines = said.lines().filter(|line| line.contains("  holder  "));
        lines.filter_map(|line| Some(line.split_whitespace().nth(1)?.to_string())).collect()
    };
    let last = |watch: &Process| states(watch).pop().unwrap_or_default();
    until("a sign of life", || last(&watch) == "live");
    assert_eq!(states(&watch)[0], "unknown", "judged at the first sight");
    holder.signal(Signal::KILL);
    ended(holder);
    until("its death", || last(&watch) == "dead");
    // The owner is shown with the state of its host.
    let dead_owner = |line: &str| line.starts_with("db ") && line.contains("(holder)") && line.ends_with(", dead");
    until("the dead owner", || watch.said().lines().any(dead_owner));
    assert_eq!(watch.ended(), None);
    watch.signal(Signal::INT);
    ended(watch).expect(0, &[]);
}

#[test]
fn each_line_of_json_is_a_picture() {
    let scene = Scene::with(&["db"]);
    let _holder = scene.hold(&["db"]);
    let hosts = scene.start(&["hosts", "disk", "--watch", "--json", "--interval", "50ms"]);
    let intervals = |picture: &Value| Some(holder_of(picture)?["renewals"]["intervals_ms"].as_array()?.len());
    until("some renewals", || pictures(&hosts).last().and_then(intervals) > Some(2));
    let all = pictures(&hosts);
    assert_eq!(keys(&all[0]), ["time", "lockspace", "sector_size", "area_size", "timeouts_ms", "hosts"]);
    // One observer goes on: what it has seen stays. A read that took too long shows nothing.
    let seen: Vec<usize> = all.iter().filter_map(intervals).collect();
    assert!(seen[0] == 0 && seen.is_sorted(), "{all:?}");
    let renewals = &holder_of(all.last().unwrap()).unwrap()["renewals"];
    assert_eq!((&renewals["expected_ms"], &renewals["fail_ms"]), (&300.into(), &10_000.into()));
    hosts.signal(Signal::TERM);
    ended(hosts).expect(0, &[]);
    // Time is up at once, and there is one picture all the same. No time is too long to be counted.
    let status =
        scene.start(&["status", "disk", "--watch", "--json", "--for", "0s", "--interval", "500000000000years"]);
    let status = ended(status).expect(0, &[]);
    assert_eq!(status.out.lines().count(), 1, "{status:?}");
    assert_eq!(status.json()["resources"][0]["name"], "db");
}

#[test]
fn watching_writes_nothing() {
    let scene = Scene::with(&["db"]);
    let before = fs::read(scene.path("disk")).unwrap();
    for args in [&["hosts", "disk"][..], &["hosts", "disk", "--json"], &["status", "disk", "--watch", "--for", "500ms"]]
    {
        scene.run(args).expect(0, &[]);
    }
    assert!(fs::read(scene.path("disk")).unwrap() == before, "watching has changed the device");
}

#[test]
fn a_reader_that_has_seen_enough_ends_it() {
    let scene = Scene::with(&[]);
    for form in ["--watch", "--json"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command
            .args(["hosts", "disk", "--watch", "--interval", "20ms"])
            .args(Some(form).filter(|form| *form == "--json"));
        command.current_dir(scene.folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        scene.mark.put_on(&mut command);
        let mut child = command.spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 10]).unwrap();
        drop(out);
        assert_eq!(await_end(&mut child).code(), Some(0), "{form}");
    }
}

#[test]
fn a_device_that_is_gone_is_told_and_may_come_back() {
    let scene = Scene::with(&["db"]);
    let whole = fs::read(scene.path("disk")).unwrap();
    let text = scene.start(&["status", "disk", "--watch", "--interval", "50ms"]);
    let json = scene.start(&["hosts", "disk", "--watch", "--json", "--interval", "50ms"]);
    let last = || pictures(&json).pop().unwrap_or_default();
    until("a picture", || last()["hosts"].is_array());
    scene.file("disk", 0);
    until("the error", || last()["error"].as_str().is_some_and(|error| error.contains("disk")));
    until("the error as text", || text.said().lines().any(|line| line.contains("Z: ") && line.contains("disk")));
    // In another file, as a device that is attached again.
    fs::write(scene.path("new"), &whole).unwrap();
    fs::rename(scene.path("new"), scene.path("disk")).unwrap();
    until("the hosts", || last()["hosts"].is_array());
    until("the hosts as text", || text.said().rfind("lockspace leasehold on") > text.said().rfind("Z: "));
    text.signal(Signal::INT);
    ended(text).expect(0, &[]);
    // The last look decides how it ends.
    scene.file("disk", 0);
    until("the error", || last()["error"].is_string());
    json.signal(Signal::INT);
    ended(json).expect(74, &["disk"]);
}

#[test]
fn what_is_damaged_is_in_the_picture_and_in_the_exit_code() {
    let scene = Scene::with(&["a", "b"]);
    scene.overwrite(3 << 20, &[0xff; 512]);
    let damage = "the leader at offset 3145728 of disk is damaged: magic number";
    let seen = ended(scene.start(&["status", "disk", "--watch", "--for", "0s"])).expect(65, &[damage]);
    assert!(seen.out.contains(damage) && seen.out.contains("\nb  "), "{seen:?}");
    // It is not the hosts' that is damaged.
    ended(scene.start(&["hosts", "disk", "--watch", "--for", "0s"])).expect(0, &[]);
}

/// A terminal on which the command runs.
struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    fn start(scene: &Scene, args: &[&str]) -> Terminal {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        resize(&keyboard, 110, 30);
        let other_end = File::options().read(true).write(true).open(OsStr::from_bytes(name.as_bytes())).unwrap();
        // In a session of its own, whose terminal this is: else Ctrl-C would be no signal.
        let mut command = Command::new("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_leasehold")]).args(args).current_dir(scene.folder.path());
        command.stdin(other_end.try_clone().unwrap()).stdout(other_end.try_clone().unwrap()).stderr(other_end);
        scene.mark.put_on(&mut command);
        let child = command.spawn().unwrap();
        let keyboard = File::from(keyboard);
        let (mut from, screen) = (keyboard.try_clone().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let kept = screen.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                kept.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Terminal { keyboard, screen, child }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// The lines of the latest picture that is complete.
    fn frame(&self) -> Option<Vec<String>> {
        let said = self.said();
        let mut frames: Vec<&str> = said.split("\x1b[H").collect();
        frames.pop();
        let frame = frames.pop()?.replace("\x1b[2K", "").replace("\x1b[J", "").replace('\r', "");
        Some(frame.trim_end_matches('\n').lines().map(String::from).collect())
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Whether keys are echoed and read in lines, as a shell has it.
    fn is_cooked(&self) -> bool {
        tcgetattr(&self.keyboard).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    fn code(&mut self) -> Option<i32> {
        await_end(&mut self.child).code()
    }
}

fn resize(terminal: &impl std::os::fd::AsFd, columns: u16, rows: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_terminal_shows_bars_and_fits_what_it_shows() {
    let scene = Scene::with(&["db", "other"]);
    let _holder = scene.hold(&["db"]);
    let mut terminal = Terminal::start(&scene, &["status", "disk", "--watch", "--interval", "100ms"]);
    let is_bar = |character: char| ('▁'..='█').contains(&character);
    let shows_bars = |terminal: &Terminal| {
        let frame = terminal.frame().unwrap_or_default();
        frame.iter().any(|line| line.contains("  holder  ") && line.chars().filter(|c| is_bar(*c)).count() > 2)
    };
    until("bars", || shows_bars(&terminal));
    assert!(!terminal.is_cooked());
    // Smaller than the picture.
    resize(&terminal.keyboard, 40, 8);
    let fits = |frame: &Vec<String>| frame.len() <= 8 && frame.iter().all(|line| line.chars().count() <= 40);
    until("a smaller picture", || terminal.frame().as_ref().is_some_and(fits));
    let frame = terminal.frame().unwrap();
    assert!(frame.iter().any(|line| line.ends_with('…')), "{frame:?}");
    assert!(frame.last().unwrap().ends_with("more lines)"), "{frame:?}");
    terminal.press(b"xq");
    assert_eq!(terminal.code(), Some(0), "{}", terminal.said());
    // The last picture stays on the first screen, all of it.
    until("the last picture", || {
        let said = terminal.said();
        said.split_once(LEAVE).is_some_and(|(_, left)| left.contains("\nother  "))
    });
    assert!(terminal.is_cooked());
}

#[test]
fn a_terminal_is_given_back_after_ctrl_c_and_while_stopped() {
    let scene = Scene::with(&[]);
    let mut terminal = Terminal::start(&scene, &["hosts", "disk", "--watch", "--interval", "100ms"]);
    let entered = |terminal: &Terminal| terminal.said().matches(ENTER).count();
    let left = |terminal: &Terminal| terminal.said().matches(LEAVE).count();
    until("the first picture", || terminal.frame().is_some());
    let pid = i32::try_from(terminal.child.id()).unwrap();
    terminal.press(b"\x1a");
    until("the stop", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ") && left(&terminal) == 1
    });
    assert!(terminal.is_cooked());
    signal_process(pid, Signal::CONT);
    until("the second screen again", || entered(&terminal) == 2);
    until("its keys", || !terminal.is_cooked());
    terminal.press(b"\x03");
    assert_eq!(terminal.code(), Some(0), "{}", terminal.said());
    until("the first screen again", || left(&terminal) == 2);
    assert!(terminal.is_cooked());
}

#[test]
fn a_device_that_is_gone_is_told_above_the_last_picture() {
    let scene = Scene::with(&["db"]);
    let mut terminal = Terminal::start(&scene, &["status", "disk", "--watch", "--interval", "50ms"]);
    let shows = |terminal: &Terminal, text: &str| terminal.frame().is_some_and(|frame| frame.join("\n").contains(text));
    until("the picture", || shows(&terminal, "\ndb  "));
    scene.file("disk", 0);
    until("the error", || terminal.frame().is_some_and(|frame| frame[0].contains("disk")));
    assert!(shows(&terminal, "\ndb  "), "the last picture has gone");
    terminal.press(b"q");
    assert_eq!(terminal.code(), Some(74), "{}", terminal.said());
}

#[test]
fn a_device_that_hangs_keeps_nobody_from_ending_it() {
    let scene = Scene::empty();
    scene.file("image", 64 << 20);
    let mounted = Mounted::new(scene.folder.path(), &scene.path("image"), &[]);
    let backing = mounted.point.join("disk");
    fs::write(&backing, vec![0; 8 << 20]).unwrap();
    File::open(&backing).unwrap().sync_all().unwrap();
    let node = Loop::new(&backing, &["--direct-io=on"]);
    let device = text(&node.0);
    scene.run(&["format", device]).expect(0, &[]);

    let mut terminal = Terminal::start(&scene, &["status", device, "--watch", "--interval", "50ms"]);
    until("the picture", || terminal.frame().is_some_and(|frame| frame.join("\n").contains("no resources")));
    // A write to the device hangs below it, and the reads hang behind the write. It is waited for after the thaw.
    let mut write;
    let mut frozen = Frozen::new(&mounted.point);
    let mut dd = Command::new("dd");
    dd.args(["if=/dev/zero", &format!("of={device}"), "bs=4096", "count=1", "seek=2000", "oflag=direct"]);
    write = Process::start(&mut dd, &scene.mark);
    let told = |frame: &Vec<String>| frame[0].starts_with("the device has not answered for ");
    until("the silence", || terminal.frame().as_ref().is_some_and(told));
    assert!(terminal.frame().unwrap().join("\n").contains("no resources"), "the last picture has gone");
    terminal.press(b"q");
    until("the first screen again", || terminal.said().contains(LEAVE));
    until("its keys", || terminal.is_cooked());
    // A process is not gone before the kernel has ended what it waits for.
    frozen.thaw();
    assert_eq!(terminal.code(), Some(0), "{}", terminal.said());
    assert_eq!(write.code(), 0, "{}", write.complained());
}
