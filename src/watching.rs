//! Watching a lockspace from outside: who lives, how regularly each host renews, who owns what. Who watches needs no
//! host id and writes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::thread;
use std::time::Duration;

use crate::engine::hosts::{HostInfo, Hosts};
use crate::error::{Damage, DiskError, FindError};
use crate::format::DeltaRecord;
use crate::lockspace::{FIRST_READ, Lockspace, ResourceInfo};
use crate::timeouts::Timeouts;
use crate::types::{HostId, Resource, Time};

/// How often all ids are read, not only those in use: to see who joined. Not more often than hosts renew.
const ALL_IDS_EVERY: Duration = Duration::from_secs(1);
/// The share of the time, one part in so many, that may be spent searching for resources without an index entry.
const SEARCHING: u32 = 50;

/// A lockspace that is watched over time. States need that: a host is live when its record changes between two looks,
/// and dead when it stays the same for D.
///
/// Nothing is read but in the calls below, each in the thread of its caller.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use leasehold::Lockspace;
/// use leasehold::disk::{Access, DirectDisk};
///
/// let disk = DirectDisk::open("/dev/vg/leases", Access::ReadOnly)?;
/// let mut watching = Lockspace::open(std::sync::Arc::new(disk))?.watch();
/// loop {
///     watching.watch_for(std::time::Duration::from_secs(1))?;
///     for host in watching.hosts() {
///         println!("host {}: {:?}", host.host, host.state);
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Watching {
    lockspace: Lockspace,
    hosts: Hosts,
    histories: BTreeMap<HostId, History>,
    /// Start of the latest look.
    looked: Option<Time>,
    found: Vec<Resource>,
    /// Not before then are resources without an index entry searched for again.
    search_at: Time,
}

/// What was seen of a host's renewals. How long they took only the host itself can tell
/// ([`Membership::renewal_latencies`](crate::Membership::renewal_latencies)); from outside one sees when they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewals {
    /// The timeouts that the host keeps to, as its record says: a renewal should come every R, and F after its last one
    /// the host has stopped.
    pub timeouts: Timeouts,
    /// For how long the record has been seen as it is now.
    pub unchanged_for: Duration,
    /// The time from one change of the record to the next, as seen by this observer; the oldest first, at most
    /// [`Renewals::KEPT`], of the present generation. Each end is seen up to one look late. An interval with an end
    /// that was seen later than R, because the observer itself looked too rarely or was held up, is left out.
    pub intervals: Vec<Duration>,
}

impl Renewals {
    /// How many intervals are kept for each host.
    pub const KEPT: usize = 256;
}

/// The changes of one generation's record.
#[derive(Debug)]
struct History {
    generation: u64,
    /// End of the read that first showed the generation. Its holder joined then: that was no renewal.
    since: Time,
    last: Option<Change>,
    intervals: VecDeque<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    seen: Time,
    /// Whether the look before was less than R earlier.
    in_time: bool,
}

impl History {
    fn new(generation: u64, since: Time) -> History {
        History { generation, since, last: None, intervals: VecDeque::new() }
    }

    fn take_in(&mut self, change: Change) {
        if change.seen == self.last.map_or(self.since, |last| last.seen) {
            return;
        }
        if let Some(last) = self.last.replace(change)
            && last.in_time
            && change.in_time
        {
            self.intervals.push_back(change.seen.since(last.seen));
            if self.intervals.len() > Renewals::KEPT {
                self.intervals.pop_front();
            }
        }
    }
}

impl Lockspace {
    /// Begins to watch it. Reads nothing yet.
    pub fn watch(&self) -> Watching {
        Watching {
            lockspace: self.clone(),
            hosts: Hosts::new(&self.terms, FIRST_READ),
            histories: BTreeMap::new(),
            looked: None,
            found: Vec::new(),
            search_at: Time::ZERO,
        }
    }
}

impl Watching {
    /// The lockspace.
    pub const fn lockspace(&self) -> &Lockspace {
        &self.lockspace
    }

    /// How often to look, so that states and intervals are told apart well: R / 5, from 20 ms to a second.
    pub fn pace(&self) -> Duration {
        (self.lockspace.timeouts().renewal() / 5).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// Looks once: reads the records of the ids in use, and those of all ids once in R or a second, whichever is
    /// longer.
    ///
    /// # Errors
    /// When the records can't be read. What was seen before stays, and looking again is safe.
    pub fn refresh(&mut self) -> Result<(), DiskError> {
        let all_every = self.lockspace.timeouts().renewal().max(ALL_IDS_EVERY);
        let now = self.lockspace.io.now();
        let all = self.hosts.coverage().since.is_none_or(|since| now.since(since) >= all_every);
        self.look(all)
    }

    fn look(&mut self, all: bool) -> Result<(), DiskError> {
        let io = &self.lockspace.io;
        let started = io.now();
        match all {
            true => self.hosts.scan_all(io)?,
            false => self.hosts.scan_used(io)?,
        };
        self.note_changes();
        self.looked = Some(started);
        Ok(())
    }

    /// Looks at [this pace](Watching::pace) until `span` has passed. The last look is at all ids.
    ///
    /// # Errors
    /// As [`Watching::refresh`].
    pub fn watch_for(&mut self, span: Duration) -> Result<(), DiskError> {
        let io = self.lockspace.io.clone();
        let end = io.now() + span;
        self.refresh()?;
        while io.now() < end {
            thread::sleep(end.since(io.now()).min(self.pace()));
            self.refresh()?;
        }
        self.look(true)
    }

    fn note_changes(&mut self) {
        let looked = self.looked;
        let io_timeout = self.lockspace.timeouts().io();
        let histories = &mut self.histories;
        self.hosts.with_observer(|observer| {
            for host in observer.hosts() {
                let record = observer.record(host).and_then(|seen| held(seen.good()?));
                let (Some(record), Some(seen)) = (record, observer.first_seen(host)) else { continue };
                let history = histories.entry(host).or_insert_with(|| History::new(record.generation, seen));
                if history.generation != record.generation {
                    *history = History::new(record.generation, seen);
                }
                if observer.has_changed(host) {
                    let renewal = record.timeouts(io_timeout).renewal();
                    let in_time = looked.is_some_and(|looked| seen.since(looked) < renewal);
                    history.take_in(Change { seen, in_time });
                } else {
                    // Nobody knows when what is shown was written: it is the first, or was damaged in between.
                    history.last = None;
                }
            }
        });
    }

    /// The host ids that are or were in use, as they were seen. Reads nothing.
    pub fn hosts(&self) -> Vec<HostInfo> {
        self.hosts.infos(&self.lockspace.device(), self.lockspace.io.now())
    }

    /// What was seen of the renewals of whoever holds `host`; `None` when nobody does, or its record is damaged. Reads
    /// nothing.
    pub fn renewals(&self, host: HostId) -> Option<Renewals> {
        let now = self.lockspace.io.now();
        self.hosts.with_observer(|observer| {
            let record = held(observer.record(host)?.good()?)?;
            let history = self.histories.get(&host).filter(|history| history.generation == record.generation);
            Some(Renewals {
                timeouts: record.timeouts(self.lockspace.timeouts().io()),
                unchanged_for: now.since(observer.first_seen(host)?),
                intervals: history.map(|history| history.intervals.iter().copied().collect()).unwrap_or_default(),
            })
        })
    }

    /// As [`Lockspace::resources`], at less cost: of each area it reads the leader and the blocks of the ids that were
    /// in use at the latest look, and resources without an index entry may be noticed late on a large device, so that
    /// no more than a fiftieth of the time goes into searching for them.
    ///
    /// # Errors
    /// As [`Lockspace::resources`].
    pub fn resources(&mut self) -> Result<(Vec<ResourceInfo>, Vec<Damage>), FindError> {
        let io = &self.lockspace.io;
        let started = io.now();
        if started >= self.search_at {
            self.found = self.lockspace.search()?;
            let ended = io.now();
            self.search_at = ended + ended.since(started) * SEARCHING;
        }
        self.lockspace.resources_with(&self.found, self.hosts.coverage().highest)
    }
}

/// The record, if it says that somebody holds the id.
fn held(record: &DeltaRecord) -> Option<&DeltaRecord> {
    (!record.is_free()).then_some(record)
}
