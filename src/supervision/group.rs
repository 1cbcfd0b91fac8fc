//! Process groups, as `/proc` shows them.

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::process::Pid;

/// Whether a process leads its group.
pub(super) fn is_led_by(pid: Pid) -> io::Result<bool> {
    let number = pid.as_raw_nonzero().get();
    Ok(Stat::read(number)?.is_some_and(|stat| stat.group == number))
}

/// Whether it is certain that none is left of the group, but for what `/proc` hides. Zombies, which only wait for their
/// parent, are nobody.
pub(super) fn has_ended(group: Pid) -> bool {
    members_have_ended(group.as_raw_nonzero().get()).unwrap_or(false)
}

fn members_have_ended(group: i32) -> io::Result<bool> {
    for process in fs::read_dir("/proc")? {
        let Some(pid) = process?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let hidden = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => Ok(None),
            _ => Err(error),
        };
        if Stat::read(pid).or_else(hidden)?.is_some_and(|stat| stat.group == group && !stat.over) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    group: i32,
    /// No thread of it runs any more.
    over: bool,
}

impl Stat {
    /// `None` when there is no such process.
    fn read(pid: i32) -> io::Result<Option<Stat>> {
        match fs::read(format!("/proc/{pid}/stat")) {
            Ok(text) => Stat::parse(&text).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::SRCH)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &[u8]) -> Option<Stat> {
        // The name is in parentheses and may itself have any byte.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<&str> = str::from_utf8(&text[end + 1..]).ok()?.split_ascii_whitespace().collect();
        let [state, _, group, ..] = fields[..] else { return None };
        // The first thread may end before others do. How many there are is the seventeenth field after the state.
        let last = matches!(*fields.get(17)?, "0" | "1");
        Some(Stat { group: group.parse().ok()?, over: state == "X" || (state == "Z" && last) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_its_last_thread_has() {
        let text = |name: &[u8], state: &str, threads: u32| {
            let rest =
                format!(") {state} 11750 11745 28955 0 -1 4227084 96 0 0 0 0 0 0 0 20 0 {threads} 0 3564322 0\n");
            [b"11752 (", name, rest.as_bytes()].concat()
        };
        for (state, threads, over) in
            [("S", 1, false), ("R", 4, false), ("Z", 1, true), ("Z", 2, false), ("Z", 12, false), ("X", 1, true)]
        {
            for name in [&b"sleep"[..], b"a) Z 1 (b", b"\xff"] {
                let stat = Stat::parse(&text(name, state, threads));
                assert_eq!(stat, Some(Stat { group: 11745, over }), "{name:?} {state} {threads}");
            }
        }
        assert_eq!(Stat::parse(b"11752 (sleep) Z 11750"), None, "what can't be read says nothing");
    }
}
