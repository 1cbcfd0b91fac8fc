//! Process groups, as `/proc` shows them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
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
    static CENSUS: Census = Census::new(LOOK_PATIENCE);
    CENSUS.has_ended(group.as_raw_nonzero().get(), living)
}

/// Looks take milliseconds. One that was cut off by a fork never ends in the child.
const LOOK_PATIENCE: Duration = Duration::from_millis(50);

/// Which groups have a process that lives, as the last look at all processes has shown. A look costs the more the more
/// processes there are: those that ask meanwhile share the next one.
struct Census {
    last: Mutex<Option<Look>>,
    /// Who waits for longer looks for itself.
    patience: Duration,
}

struct Look {
    began: Instant,
    /// `None`: not all could be seen, but for those that `/proc` hides.
    living: Option<HashSet<i32>>,
}

impl Census {
    const fn new(patience: Duration) -> Census {
        Census { last: Mutex::new(None), patience }
    }

    /// Whether a look that began after this call shows nothing of the group.
    fn has_ended(&self, group: i32, look: impl FnOnce() -> io::Result<HashSet<i32>>) -> bool {
        let asked = Instant::now();
        let Some(mut last) = self.last.try_lock_for(self.patience) else {
            return look().is_ok_and(|living| !living.contains(&group));
        };
        let last = match last.take() {
            Some(since) if since.began > asked => last.insert(since),
            _ => {
                let began = Instant::now();
                last.insert(Look { began, living: look().ok() })
            }
        };
        last.living.as_ref().is_some_and(|living| !living.contains(&group))
    }
}

/// The groups of all processes that run.
fn living() -> io::Result<HashSet<i32>> {
    let mut groups = HashSet::new();
    for process in fs::read_dir("/proc")? {
        let Some(pid) = process?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let hidden = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => Ok(None),
            _ => Err(error),
        };
        groups.extend(Stat::read(pid).or_else(hidden)?.filter(|stat| !stat.over).map(|stat| stat.group));
    }
    Ok(groups)
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
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// As a forked child's, whose parent had a thread that looked.
    #[test]
    fn a_look_that_does_not_end_holds_up_no_other() {
        let census = Census::new(Duration::ZERO);
        let _looks = census.last.lock();
        assert!(!census.has_ended(1, || Ok(HashSet::from([1]))));
        assert!(census.has_ended(2, || Ok(HashSet::from([1]))));
    }

    /// With a look for each of them, many programs that end at once cost each other their leases.
    #[test]
    fn those_that_ask_at_once_share_a_look() {
        const ASKING: usize = 60;
        let (census, asking, looks) = (Census::new(PATIENCE), AtomicUsize::new(0), AtomicUsize::new(0));
        let look = || {
            if looks.fetch_add(1, Relaxed) == 0 {
                while asking.load(Relaxed) < ASKING {
                    thread::yield_now();
                }
                // Those that have said so do it.
                thread::sleep(Duration::from_millis(100));
            }
            Ok(HashSet::from([1]))
        };
        let ask = |group| {
            asking.fetch_add(1, Relaxed);
            assert_eq!(census.has_ended(group, look), group != 1);
        };
        thread::scope(|scope| (0..ASKING).for_each(|number| drop(scope.spawn(move || ask(number as i32 % 2)))));
        assert!(looks.into_inner() < ASKING / 2, "each has looked for itself");
    }

    /// Else a process that came after the look is not seen.
    #[test]
    fn a_look_that_began_before_says_nothing() {
        let census = Census::new(PATIENCE);
        assert!(census.has_ended(1, || Ok(HashSet::new())));
        assert!(!census.has_ended(1, || Ok(HashSet::from([1]))));
        assert!(!census.has_ended(1, || Err(io::ErrorKind::InvalidData.into())), "what can't be read says nothing");
    }

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
