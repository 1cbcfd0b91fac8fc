//! Reading the delta records: of the ids in use, often, to see who lives; and of all ids, when a ballot needs to know
//! whose blocks it must read. A host that was not there when the latter began can't have written a block before it has
//! completed a join, which takes 2T at least.

use std::collections::BTreeSet;
use std::time::Duration;

use super::account::{Pending, Purpose};
use super::{Happened, JobId, Member, Timer};
use crate::protocol::catalog::Found;
use crate::protocol::delta::Tenure;
use crate::protocol::liveness::Observer;
use crate::protocol::procedure::{Extent, Sectors};
use crate::protocol::rules::Rule;
use crate::protocol::{Span, reading};
use crate::types::Time;

/// For how many I/O timeouts a host that calls may be overlooked: half of the time for which it does.
const UNSEEN: u32 = 3;

/// Which hosts' blocks a read must cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Coverage {
    /// The largest id in use.
    pub highest: u64,
    /// Start of the last scan of all ids; `None` before the first.
    pub since: Option<Time>,
}

/// The records as last read, and the next reading of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scans {
    pub(super) observer: Observer,
    pub(super) coverage: Coverage,
    step: Step,
    /// Who waits for a scan of all ids that begins from now on.
    wanted: BTreeSet<JobId>,
    /// Whether the next one is of all ids, whoever waits.
    all: bool,
    /// Whether calls of hosts that are not known to be in use are to be heard.
    pub(super) listens: bool,
    /// How long from one to the next.
    every: Duration,
    stopped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Resting(Time),
    Reading {
        all: bool,
        /// What was recognised as the own record when it began.
        before: Box<Tenure>,
        for_jobs: BTreeSet<JobId>,
    },
}

impl Scans {
    pub(super) fn new((observer, coverage): (Observer, Coverage), listens: bool, every: Duration, now: Time) -> Scans {
        Scans {
            observer,
            // What was read before the id was held does not show that the lockspace still stands.
            coverage: Coverage { since: None, ..coverage },
            step: Step::Resting(now),
            wanted: BTreeSet::new(),
            all: false,
            listens,
            every,
            stopped: false,
        }
    }
}

impl Member {
    /// Has a scan of all ids made that begins from now on, and tells the job when it is over.
    pub(super) fn want_scan(&mut self, job: JobId) {
        self.scans.wanted.insert(job);
        self.scan_if_due();
    }

    /// Has a scan of all ids made before what waits for it is looked at.
    pub(super) fn scan_all(&mut self) {
        self.scans.all = true;
        self.scan_if_due();
    }

    /// Before that nobody can have taken anything by force whose id is not covered: a join takes 2T, and only hosts of
    /// the lockspace's T take by force.
    pub(super) fn unseen(&self) -> Time {
        self.scans.coverage.since.map_or(Time::ZERO, |since| since + self.terms.timeouts.io() * 2)
    }

    pub(super) fn stop_scanning(&mut self) {
        self.scans.stopped = true;
    }

    pub(super) fn scan_if_due(&mut self) {
        let Step::Resting(until) = self.scans.step else { return };
        if self.scans.stopped || !self.held() {
            return;
        }
        let wanted = std::mem::take(&mut self.scans.all) || !self.scans.wanted.is_empty();
        if !wanted && self.now < until {
            self.wakes(until, Timer::Scan);
            return;
        }
        let Coverage { highest, since } = self.scans.coverage;
        // Who joined since with a larger id than all others is not among those in use, and may call.
        let unseen = self.terms.timeouts.io() * UNSEEN;
        let listens = self.scans.listens && since.is_none_or(|since| self.now >= since + unseen);
        let all = wanted || since.is_none() || listens;
        let sectors = if all { self.hosts } else { highest.clamp(1, self.hosts) };
        let expires = self.now + self.terms.timeouts.io();
        self.read(Purpose::Scan, 0, false, vec![Extent { offset: 0, sectors }], expires, true);
        let for_jobs = std::mem::take(&mut self.scans.wanted);
        self.scans.step = Step::Reading { all, before: Box::new(self.tenure.clone()), for_jobs };
    }

    /// A scan has read the records; or has failed, and shows nothing: judging goes by what was seen before.
    pub(super) fn scanned(&mut self, pending: &Pending, read: Option<&Sectors>) {
        let next = Step::Resting(self.now + self.scans.every);
        let Step::Reading { all, before, for_jobs } = std::mem::replace(&mut self.scans.step, next) else { return };
        if let Some(sectors) = read {
            self.take_in(Span { started: pending.started, ended: self.now }, all, &before, sectors);
        }
        if !self.may_write() {
            return;
        }
        for job in for_jobs {
            self.tell(job, Happened::Scanned);
        }
        // Its failure leaves the leader to look at.
        let looks = if all { std::mem::take(&mut self.after_scan) } else { BTreeSet::new() };
        for key in looks {
            self.look(key);
        }
        self.scan_if_due();
    }

    fn take_in(&mut self, span: Span, all: bool, before: &Tenure, sectors: &Sectors) {
        let records = reading::records(sectors, self.terms.geometry, self.terms.nonce);
        let mine = self.me().host;
        let own = records.iter().find(|(host, _)| *host == mine).and_then(|(_, seen)| seen.good());
        let content = own.and_then(|record| before.recognises(record).or_else(|| self.tenure.recognises(record)));
        // Only a format writes over most of them: what lockspace there is then is found as by whoever opens the device.
        if all && content.is_some() && reading::mostly_foreign(&records) && Rule::LockspaceStands.is_in_force() {
            let found = Found::search(sectors.bytes()).map(|found| found.terms.nonce);
            if let Some(nonce) = found.filter(|nonce| *nonce != self.terms.nonce) {
                return self.tenure.formatted_over(self.now, nonce);
            }
        }
        let highest = reading::highest_used(&records);
        let coverage = &mut self.scans.coverage;
        if all && (content.is_some() || !Rule::ConfirmedByMirror.is_in_force()) {
            // A stale copy of the disk doesn't show who is there.
            *coverage = Coverage { highest, since: Some(span.started) };
        } else {
            coverage.highest = coverage.highest.max(highest);
        }
        self.hear(sectors, &records);
        for (host, seen) in records {
            self.scans.observer.observe(host, span, content, seen);
        }
        self.look_for_destinations();
    }
}
