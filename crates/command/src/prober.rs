//! What else a device may hold, as the prober of util-linux sees it.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Where it is, and where it may be else.
const PROBERS: [&str; 3] = ["/usr/sbin/blkid", "/sbin/blkid", "blkid"];
/// How long it may take: the device may hang.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than it says of a device.
const MOST: u64 = 1 << 16;

/// A name for what it holds; `None` where that is not known, or there is no such program.
pub(crate) fn held_by(device: &Path) -> Option<String> {
    let started = PROBERS.into_iter().find_map(|prober| {
        let mut command = Command::new(prober);
        command.args(["-p", "-o", "export", "--"]).arg(device);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()
    });
    let mut child = started?;
    let (sender, answer) = channel();
    let out = child.stdout.take()?;
    thread::spawn(move || {
        let mut told = Vec::new();
        let _ = out.take(MOST).read_to_end(&mut told);
        // Nobody may wait any more.
        let _ = sender.send(told);
    });
    let told = answer.recv_timeout(PATIENCE).ok();
    // It has ended, or ends when the device lets it. Nobody waits for that.
    let _ = child.kill();
    let _ = child.try_wait();
    named(&String::from_utf8_lossy(&told?))
}

/// What `KEY=value` lines say.
fn named(told: &str) -> Option<String> {
    let value = |key: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let shown = |value: &str| value.replace("\\ ", " ").chars().filter(|it| !it.is_control()).collect::<String>();
        line.map(shown).filter(|value| !value.is_empty())
    };
    let label = value("LABEL").map_or_else(String::new, |label| format!(" ({label})"));
    match (value("TYPE"), value("USAGE").as_deref(), value("PTTYPE")) {
        (Some(kind), Some("filesystem"), _) => Some(format!("a file system, {kind}{label}")),
        (Some(kind), ..) => Some(format!("{kind}{label}")),
        (None, _, Some(table)) => Some(format!("a partition table, {table}")),
        (None, _, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn what_the_prober_says_is_named() {
        let ext4 = "DEVNAME=/dev/loop0\nLABEL=my\\ data\u{1b}\nUUID=1\nTYPE=ext4\nUSAGE=filesystem\n";
        assert_eq!(named(ext4).as_deref(), Some("a file system, ext4 (my data)"));
        assert_eq!(named("TYPE=LVM2_member\nUSAGE=raid\n").as_deref(), Some("LVM2_member"));
        assert_eq!(named("DEVNAME=x\nPTTYPE=gpt\n").as_deref(), Some("a partition table, gpt"));
        assert_eq!(named("DEVNAME=x\n"), None);
    }
}
