//! Real watchdog devices: the kernel's softdog, and a card, Intel's 6300ESB. A machine that is reset is no place for
//! tests, so each scenario has a guest of its own under software emulation: a kernel with the command and busybox. qemu
//! ends when the guest is reset.
//!
//! Needs qemu-system-x86_64, a static busybox, cpio, ldd, and in `LEASEHOLD_GUEST_KERNEL` a folder with an unpacked
//! package linux-image of Debian's: `.ci/run` has it all.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// D is 13.3 s here. A guest that nobody has reset by the end of this was not reset.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup; mount -t tmpfs tmp /tmp
insmod /modules/brd.ko rd_nr=1 rd_size=32768; insmod /modules/watchdog.ko; insmod /modules/dog.ko
cd /tmp; echo "is up"
leasehold format /dev/ram0 --profile fast --io-timeout 2s
run() { leasehold run --device /dev/ram0 --create --watchdog /dev/watchdog0 demo -- "$@"; echo "run: $?"; }
begin() { run sh -c 'echo runs > began; sleep 1000' & while ! [ -e began ]; do sleep 1; done; sleep 10; echo "was fed"; }
. /scenario
sleep 30; echo "was not reset"; poweroff -f
"#;

#[derive(Clone, Copy)]
struct Dog {
    module: &'static str,
    qemu: &'static [&'static str],
}

const DOGS: [Dog; 2] = [
    Dog { module: "softdog", qemu: &[] },
    Dog { module: "i6300esb", qemu: &["-device", "i6300esb", "-action", "watchdog=reset"] },
];

#[track_caller]
fn said(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The entry of `folder` whose name begins like this.
#[track_caller]
fn entry(folder: &Path, name: &str) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let found = paths.find(|path| path.file_name().is_some_and(|found| found.to_string_lossy().starts_with(name)));
    found.unwrap_or_else(|| panic!("no {name} in {}", folder.display()))
}

/// What the guest said until it was reset, or was through.
#[track_caller]
fn boot(dog: Dog, scenario: &str) -> String {
    let kernel = std::env::var_os("LEASEHOLD_GUEST_KERNEL").map(PathBuf::from);
    let kernel = kernel.expect("LEASEHOLD_GUEST_KERNEL: the folder with an unpacked package linux-image");
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (root, image) = (folder.path().join("root"), folder.path().join("initrd"));
    let put = |from: &Path, to: &str| {
        let to = root.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    let command = Path::new(env!("CARGO_BIN_EXE_leasehold"));
    put(command, "bin/leasehold");
    for library in said(Command::new("ldd").arg(command)).split_whitespace().filter(|word| word.starts_with('/')) {
        put(Path::new(library), library.trim_start_matches('/'));
    }
    put(Path::new("/bin/busybox"), "bin/busybox");
    let drivers = entry(&kernel.join("lib/modules"), "").join("kernel/drivers");
    put(&drivers.join("block/brd.ko"), "modules/brd.ko");
    put(&drivers.join("watchdog/watchdog.ko"), "modules/watchdog.ko");
    put(&drivers.join("watchdog").join(dog.module).with_extension("ko"), "modules/dog.ko");
    for mounted in ["proc", "sys", "dev", "tmp"] {
        fs::create_dir(root.join(mounted)).unwrap();
    }
    fs::write(root.join("scenario"), scenario).unwrap();
    fs::write(root.join("dog"), dog.module).unwrap();
    fs::write(root.join("init"), INIT).unwrap();
    said(Command::new("chmod").arg("+x").arg(root.join("init")));
    let packed = fs::File::create(&image).unwrap();
    let pack =
        Command::new("sh").args(["-c", "find . | cpio -o -H newc --quiet"]).current_dir(&root).stdout(packed).status();
    assert!(pack.unwrap().success());
    let mut qemu = Command::new("timeout");
    qemu.args(["600", "qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nographic", "-no-reboot"]).args(dog.qemu);
    qemu.arg("-kernel").arg(entry(&kernel.join("boot"), "vmlinuz-")).arg("-initrd").arg(&image);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"]).stdin(Stdio::null());
    // A kernel finds that its timers don't work, and the like, where the emulator doesn't get its turn.
    let mut boots = std::iter::repeat_with(|| said(&mut qemu)).take(3);
    boots.find(|said| said.contains("is up")).expect("a guest that gets as far as its first process")
}

/// Boots a guest for each device at a time, and has all that they said judged.
#[track_caller]
fn with_each(scenario: &str, judge: impl Fn(&str) -> bool) {
    let guests = DOGS.map(|dog| {
        let scenario = scenario.to_string();
        (dog.module, std::thread::spawn(move || boot(dog, &scenario)))
    });
    for (name, guest) in guests {
        let said = guest.join().unwrap();
        assert!(judge(&said), "{name}: {said}");
    }
}

fn was_reset(said: &str) -> bool {
    said.contains("was fed") && said.contains("the end of it") && !said.contains("was not reset")
}

/// As `kill -9` of everything, or the OOM killer, would.
#[test]
fn who_is_killed_has_the_machine_reset() {
    with_each("begin; echo the end of it; killall -9 leasehold", was_reset);
}

#[test]
fn who_is_stopped_has_the_machine_reset() {
    with_each("begin; echo the end of it; killall -STOP leasehold", was_reset);
}

#[test]
fn an_orderly_end_switches_the_device_off() {
    let scenario = "leasehold watchdog test --device /dev/watchdog0 --lockspace /dev/ram0; echo test: $?; run true";
    with_each(scenario, |said| said.contains("test: 0") && said.contains("run: 0") && said.contains("was not reset"));
}

/// The host's record is wiped out. The command has ended before anybody takes over: there is no need for more.
#[test]
fn a_loss_after_which_all_has_ended_switches_the_device_off() {
    let scenario = "begin; dd if=/dev/zero of=/dev/ram0 bs=1M count=1 oflag=direct; wait; ps | grep '[s]leep 1000'";
    with_each(scenario, |said| {
        said.contains("was fed")
            && said.contains("run: 69")
            && !said.contains("sleep 1000")
            && said.contains("was not reset")
    });
}

/// It is not even opened: from then on it would count.
#[test]
fn a_device_that_can_not_be_switched_off_is_refused_and_resets_nothing() {
    let scenario = "rmmod $(cat /dog); insmod /modules/dog.ko nowayout=1
        leasehold watchdog test --device /dev/watchdog0 --lockspace /dev/ram0; echo test: $?; run true; sleep 40";
    with_each(scenario, |said| said.contains("test: 73") && !said.contains("run: 0") && said.contains("was not reset"));
}
