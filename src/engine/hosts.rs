//! Reads the delta records of a lockspace into the observer.
//!
//! Two kinds of scan: of the ids in use, often, to see who lives; and of all ids, when a ballot needs to know whose
//! blocks it must read. A host that was not there when the latter began can't have written a block before it has
//! completed a join, which takes 2T at least.

use std::time::Duration;

use parking_lot::Mutex;

use super::io::Io;
use super::notices::Call;
use super::pulse::Pulse;
use super::sightings::Keeper;
use crate::disk::Lane;
use crate::error::{Damage, DiskCause, DiskError};
use crate::format::{DeltaRecord, Geometry};
use crate::protocol::delta::{Tenure, Terms};
use crate::protocol::liveness::{HostState, Observer};
use crate::protocol::{Seen, Span, reading};
use crate::types::{HostId, Name, Owner, Time};

/// Which hosts' blocks a read must cover.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coverage {
    /// The largest id in use.
    pub(crate) highest: u64,
    /// Start of the last scan of all ids; `None` before the first.
    pub(crate) since: Option<Time>,
}

/// One host id that is or was in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostInfo {
    /// The id.
    pub host: HostId,
    /// The name of the host that holds or held it; `None` when the record is damaged.
    pub name: Option<Name>,
    /// Which of the id's holdings; 0 when the record is damaged.
    pub generation: u64,
    /// The holder's clock in whole seconds at its last renewal; 0 when the id is free.
    pub timestamp: u64,
    /// What this observer saw of it.
    pub state: HostState,
    /// What is wrong with its record.
    pub damage: Option<Damage>,
}

/// Who reads the records.
enum Reader<'pulse> {
    /// Somebody who is no host, and judges for people only.
    Watcher,
    /// A process that has no host id yet.
    Joiner,
    /// The host whose this is: it reads its own record back.
    Member(&'pulse Pulse),
}

impl<'pulse> From<Option<&'pulse Pulse>> for Reader<'pulse> {
    fn from(own: Option<&'pulse Pulse>) -> Reader<'pulse> {
        own.map_or(Reader::Watcher, Reader::Member)
    }
}

/// The delta records as last read.
#[derive(Debug)]
pub(crate) struct Hosts {
    geometry: Geometry,
    nonce: u32,
    /// How long a read may take.
    patience: Duration,
    state: Mutex<State>,
    /// One scan at a time: their results are taken in in the order of their reads.
    scanning: Mutex<()>,
}

#[derive(Debug)]
struct State {
    observer: Observer,
    coverage: Coverage,
}

impl Hosts {
    pub(crate) fn new(terms: &Terms, patience: Duration) -> Hosts {
        let coverage = Coverage { highest: 0, since: None };
        let state = State { observer: Observer::new(terms.timeouts), coverage };
        Hosts {
            geometry: terms.geometry,
            nonce: terms.nonce,
            patience,
            state: Mutex::new(state),
            scanning: Mutex::new(()),
        }
    }

    pub(crate) fn coverage(&self) -> Coverage {
        self.state.lock().coverage
    }

    pub(crate) fn with_observer<T>(&self, work: impl FnOnce(&mut Observer) -> T) -> T {
        work(&mut self.state.lock().observer)
    }

    /// The name of the host that `owner` is, if its record as last read is of that generation.
    pub(crate) fn name_of(&self, owner: Owner) -> Option<Name> {
        self.with_observer(|observer| {
            let record = observer.record(owner.host)?.good()?;
            (record.generation == owner.generation.get()).then_some(record.host_name)
        })
    }

    /// Counts on from what earlier processes have kept.
    pub(super) fn recall(&self, keeper: Option<&Keeper>) {
        if let Some(keeper) = keeper {
            let sightings = keeper.recall();
            self.with_observer(|observer| observer.recall(sightings));
        }
    }

    /// Reads the records of all ids for a process that is about to be one of these hosts. It has written nothing yet
    /// that it could read back, so nothing that it reads is known to be recent.
    pub(super) fn scan_to_join(&self, io: &Io) -> Result<(), DiskError> {
        let _one_at_a_time = self.scanning.lock();
        self.scan(io, self.geometry.max_hosts(), &Reader::Joiner, self.patience).map(drop)
    }

    /// Reads the records of all ids; returns who of them calls the own host.
    pub(crate) fn scan_all(&self, io: &Io, own: Option<&Pulse>) -> Result<Vec<Call>, DiskError> {
        let _one_at_a_time = self.scanning.lock();
        self.scan(io, self.geometry.max_hosts(), &own.into(), self.patience)
    }

    /// Reads the records of all ids by `end`, whoever else is reading them.
    pub(super) fn scan_all_by(&self, io: &Io, own: &Pulse, end: Time) -> Result<(), DiskError> {
        let (left, all) = (end.since(io.now()), self.geometry.max_hosts());
        let Some(_one_at_a_time) = self.scanning.try_lock_for(left) else {
            let len = all as usize * self.geometry.sector_bytes();
            return Err(io.error(0, len, false, DiskCause::TimedOut(left)));
        };
        // A read that takes too long is followed by another.
        let timeout = self.patience.min(end.since(io.now()) / 2);
        self.scan(io, all, &Reader::Member(own), timeout).map(drop)
    }

    /// Reads the records of the ids in use; returns who of them calls the own host.
    pub(crate) fn scan_used(&self, io: &Io, own: Option<&Pulse>) -> Result<Vec<Call>, DiskError> {
        let _one_at_a_time = self.scanning.lock();
        let Coverage { highest, since } = self.coverage();
        // Without the own record nothing that is seen is known to be recent.
        let highest = highest.max(own.map_or(0, |pulse| pulse.me().host.get()));
        let all = self.geometry.max_hosts();
        self.scan(io, if since.is_some() { highest.clamp(1, all) } else { all }, &own.into(), self.patience)
    }

    /// The ids that are or were in use, as they were last read.
    pub(crate) fn infos(&self, device: &str, now: Time) -> Vec<HostInfo> {
        let geometry = self.geometry;
        self.with_observer(|observer| {
            let seen = observer.hosts().filter_map(|host| Some((host, observer.record(host)?)));
            let infos = seen.filter_map(|(host, seen)| match seen {
                Seen::Good(record) if record.is_unheld() => None,
                Seen::Good(record) => Some(HostInfo {
                    host,
                    name: Some(record.host_name),
                    generation: record.generation,
                    timestamp: record.timestamp,
                    state: observer.state(host, now),
                    damage: None,
                }),
                Seen::Bad(reason) => Some(HostInfo {
                    host,
                    name: None,
                    generation: 0,
                    timestamp: 0,
                    state: HostState::Unknown,
                    damage: Some(Damage {
                        device: device.into(),
                        offset: geometry.delta_offset(host),
                        what: "host record",
                        reason: reason.clone(),
                    }),
                }),
            });
            infos.collect()
        })
    }

    fn scan(&self, io: &Io, hosts: u64, reader: &Reader<'_>, timeout: Duration) -> Result<Vec<Call>, DiskError> {
        let sector = self.geometry.sector_bytes();
        let own = match reader {
            Reader::Member(pulse) => Some(*pulse),
            Reader::Joiner | Reader::Watcher => None,
        };
        let before = own.map(Pulse::tenure);
        let (span, sectors) = io.read_sectors(0, 0..hosts, sector, timeout)?;
        let records: Vec<(HostId, Seen<DeltaRecord>)> = sectors
            .iter()
            .zip(1..)
            .filter_map(|(sector, id)| Some((HostId::new(id)?, sector)))
            .map(|(host, sector)| (host, reading::record(sector, self.geometry.delta_offset(host), self.nonce)))
            .collect();
        let mut calls = Vec::new();
        if let Some(me) = own.map(Pulse::me) {
            for ((host, seen), sector) in records.iter().zip(sectors.iter()) {
                if let (Seen::Good(record), Ok(sector)) = (seen, sector) {
                    calls.extend(Call::find(sector, *host, record, me));
                }
            }
        }
        let content = match reader {
            Reader::Watcher => Some(span.started),
            Reader::Joiner => None,
            Reader::Member(pulse) => {
                let mine = pulse.me().host;
                let shown = records.iter().find(|(host, _)| *host == mine).and_then(|(_, seen)| seen.good());
                let recognised = |tenure: &Tenure| shown.and_then(|record| tenure.recognises(record));
                before.as_ref().and_then(recognised).or_else(|| recognised(&pulse.tenure()))
            }
        };
        let used = |seen: &Seen<DeltaRecord>| seen.good().is_none_or(|record| record.generation != 0);
        let highest = records.iter().rev().find(|(_, seen)| used(seen)).map_or(0, |(host, _)| host.get());
        let mut state = self.state.lock();
        if hosts == self.geometry.max_hosts() && content.is_some() {
            // A stale copy of the disk doesn't show who is there.
            state.coverage = Coverage { highest, since: Some(span.started) };
        } else {
            state.coverage.highest = state.coverage.highest.max(highest);
        }
        for (host, seen) in records {
            state.observer.observe(host, span, content, seen);
        }
        Ok(calls)
    }
}

/// Reads the record of `host`.
pub(crate) fn read_record(
    io: &Io,
    lane: Lane,
    terms: &Terms,
    host: HostId,
    timeout: Duration,
) -> Result<(Span, Seen<DeltaRecord>), DiskError> {
    let at = terms.geometry.delta_offset(host);
    let (span, sector) = io.read(lane, at, terms.geometry.sector_bytes(), timeout)?;
    Ok((span, reading::record(Ok(&sector), at, terms.nonce)))
}
