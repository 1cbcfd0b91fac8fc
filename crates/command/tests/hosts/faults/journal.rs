//! What the hosts wrote down, and what must be true of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{RESOURCES, nanos, times};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing was heard of it: killed, or not yet over.
    Unknown,
    /// It stopped using the resource then, and gave it back.
    Released(u64),
    Lost,
}

/// One ownership of one resource, as its holder saw it.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) host: usize,
    owner: [u64; 2],
    acquired: u64,
    /// The last that it wrote down.
    deadline: u64,
    end: End,
    /// It wrote when a later holder had written already.
    refused: bool,
}

impl Holding {
    /// Who says nothing more counts as active until all that depends on the lease must have been stopped.
    fn active_until(&self) -> u64 {
        match self.end {
            End::Released(at) => at,
            End::Unknown | End::Lost => self.deadline + nanos(times().fence()),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By version.
    holdings: BTreeMap<u64, Holding>,
    /// The largest version that was written to what the lease protects.
    written: u64,
    /// When each host acquired it last.
    latest: BTreeMap<usize, u64>,
}

/// Everything that was heard, and what must be true of it.
#[derive(Debug, Default)]
pub(super) struct Journal {
    ledgers: [Ledger; 2],
    /// The last of each host id.
    generations: BTreeMap<u64, u64>,
    pub(super) refused: usize,
    /// How often each kind of failure was met.
    pub(super) troubles: BTreeMap<String, usize>,
}

/// Failures that no fault here explains.
const UNEXPLAINED: [&str; 15] = [
    "BlockChanged",
    "BlockDamaged",
    "Damaged",
    "Deleted",
    "Exhausted",
    "Foreign",
    "FormattedOver",
    "Geometry",
    "Incomplete",
    "NotALockspace",
    "NotFound",
    "Overwritten",
    "Panicked",
    "SectorSize",
    "TooLarge",
];

impl Journal {
    /// Takes one line in, in the order of the file.
    pub(super) fn take(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        let [host, what, rest @ ..] = &words[..] else { return Err(format!("a line that says nothing: {line:?}")) };
        if *what == "trouble" {
            let kind = rest.first().copied().unwrap_or_default();
            if UNEXPLAINED.contains(&kind) {
                return Err(format!("no fault explains this: {line}"));
            }
            *self.troubles.entry(kind.into()).or_default() += 1;
            return Ok(());
        }
        let parsed: Result<Vec<u64>, _> = [host].into_iter().chain(rest).map(|word| word.parse()).collect();
        let numbers = parsed.map_err(|error| format!("{error}: {line:?}"))?;
        let host = numbers[0] as usize;
        if let ("joined", [id, generation]) = (*what, &numbers[1..]) {
            return match self.generations.insert(*id, *generation) {
                Some(before) if before >= *generation => {
                    Err(format!("a generation that does not grow, {before} before: {line}"))
                }
                _ => Ok(()),
            };
        }
        let [_, resource, version, rest @ ..] = &numbers[..] else { return Err(format!("not understood: {line:?}")) };
        let ledger = &mut self.ledgers[*resource as usize];
        if let ("acquired", [id, generation, acquired, deadline]) = (*what, rest) {
            let holding = Holding {
                host,
                owner: [*id, *generation],
                acquired: *acquired,
                deadline: *deadline,
                end: End::Unknown,
                refused: false,
            };
            ledger.latest.insert(host, *acquired);
            return match ledger.holdings.insert(*version, holding) {
                Some(before) => Err(format!("a version with two owners, {before:?} before: {line}")),
                None => Ok(()),
            };
        }
        let Some(holding) = ledger.holdings.get_mut(version) else { return Err(format!("nobody acquired it: {line}")) };
        match (*what, rest) {
            ("until", [deadline]) => holding.deadline = holding.deadline.max(*deadline),
            // The write of a holder that saw itself hold just before, or knows that it has lost.
            ("write" | "late", []) => {
                holding.refused |= *version < ledger.written;
                self.refused += usize::from(*version < ledger.written);
                ledger.written = ledger.written.max(*version);
            }
            // And saw itself hold just after.
            ("wrote", []) if holding.refused => {
                return Err(format!("a holder whose writes are refused believes that it holds: {line}"));
            }
            ("wrote", []) => {}
            ("releasing", [at]) => holding.end = End::Released(*at),
            ("lost", []) => holding.end = End::Lost,
            _ => return Err(format!("not understood: {line:?}")),
        }
        Ok(())
    }

    /// No holding begins before the one with the version below has ended. That versions grow in time follows.
    pub(super) fn check(&self) -> Result<(), String> {
        for (ledger, resource) in self.ledgers.iter().zip(RESOURCES) {
            let mut before: Option<(&u64, &Holding)> = None;
            for (version, holding) in &ledger.holdings {
                if let Some((former, first)) = before
                    && holding.acquired < first.active_until()
                {
                    let early = Duration::from_nanos(first.active_until() - holding.acquired);
                    return Err(format!(
                        "{resource}: version {version} was acquired {early:?} before version {former} was over:\n\
                         {former}: {first:?}\n{version}: {holding:?}"
                    ));
                }
                before = Some((version, holding));
            }
        }
        Ok(())
    }

    /// Whether the host has acquired every resource since.
    pub(super) fn progressed(&self, host: usize, since: u64) -> bool {
        self.ledgers.iter().all(|ledger| ledger.latest.get(&host).is_some_and(|at| *at > since))
    }

    pub(super) fn holdings(&self) -> impl Iterator<Item = &Holding> {
        self.ledgers.iter().flat_map(|ledger| ledger.holdings.values())
    }

    /// Holdings that ended otherwise than by a release, and that another one came after.
    pub(super) fn taken_over(&self) -> usize {
        let of = |ledger: &Ledger| {
            let pairs = ledger.holdings.values().zip(ledger.holdings.values().skip(1));
            pairs.filter(|(first, next)| !matches!(first.end, End::Released(_)) && first.owner != next.owner).count()
        };
        self.ledgers.iter().map(of).sum()
    }
}

/// Holder 1 acquires version 5 at 100 and holds until 1000; then what the lines say.
fn judge(lines: &[&str]) -> Result<(), String> {
    let mut journal = Journal::default();
    journal.take("1 acquired 0 5 7 1 100 1000")?;
    lines.iter().try_for_each(|line| journal.take(line))?;
    journal.check()
}

#[test]
fn the_checker_knows_when_a_holding_is_over() {
    let fence = nanos(times().fence());
    let next = |at: u64| format!("2 acquired 0 6 8 1 {at} 99999999999");
    assert_eq!(judge(&[&next(1_000 + fence)]), Ok(()));
    assert!(judge(&[&next(999 + fence)]).unwrap_err().contains("before version 5 was over"));
    assert!(judge(&["1 until 0 5 1001", &next(1_000 + fence)]).is_err());
    assert!(judge(&["1 lost 0 5", &next(999 + fence)]).is_err());
    assert_eq!(judge(&["1 lost 0 5", "1 releasing 0 5 1001", &next(1_001)]), Ok(()));
    assert_eq!(judge(&["1 releasing 0 5 200", &next(200)]), Ok(()));
    assert!(judge(&["1 releasing 0 5 200", &next(199)]).is_err());
    // The other resource is another matter.
    assert_eq!(judge(&["2 acquired 1 6 8 1 101 1000"]), Ok(()));
}

#[test]
fn the_checker_sees_versions_and_generations_that_do_not_grow() {
    let later = 1_000 + nanos(times().fence());
    assert!(judge(&[&format!("2 acquired 0 5 8 1 {later} {later}")]).unwrap_err().contains("two owners"));
    assert!(judge(&[&format!("2 acquired 0 4 8 1 {later} {later}")]).is_err());
    assert_eq!(judge(&["1 joined 7 1", "2 joined 8 1", "1 joined 7 2"]), Ok(()));
    assert!(judge(&["1 joined 7 1", "2 joined 7 1"]).unwrap_err().contains("does not grow"));
}

#[test]
fn the_checker_refuses_writes_behind_a_larger_version() {
    let next = "2 acquired 0 6 8 1 99999999999 99999999999";
    assert_eq!(judge(&["1 write 0 5", "1 wrote 0 5", next, "2 write 0 6", "2 wrote 0 6", "1 late 0 5"]), Ok(()));
    let blind = judge(&[next, "2 write 0 6", "1 write 0 5", "1 wrote 0 5"]);
    assert!(blind.unwrap_err().contains("believes that it holds"));
}

#[test]
fn the_checker_takes_no_failure_that_no_fault_explains() {
    assert_eq!(judge(&["1 trouble Disk reading 512 bytes"]), Ok(()));
    assert!(judge(&["1 trouble Overwritten by host-3"]).is_err());
    assert!(judge(&["1 trouble"]).is_ok());
    assert!(judge(&["gibberish"]).is_err());
    assert!(judge(&["1 write 0 9"]).is_err());
}
