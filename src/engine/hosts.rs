//! Reads the delta records of a lockspace into the observer.
//!
//! Two kinds of scan: of the ids in use, often, to see who lives; and of all ids, when a ballot needs to know whose
//! blocks it must read. A host that was not there when the latter began can't have written a block before it has
//! completed a join, which takes 2T at least.

use std::time::Duration;

use parking_lot::Mutex;

use super::io::Io;
use super::sightings::Keeper;
use crate::error::{Damage, DiskError};
use crate::format::Geometry;
use crate::protocol::delta::Terms;
use crate::protocol::liveness::{HostState, Observer};
use crate::protocol::member::Coverage;
use crate::protocol::{Seen, reading};
use crate::types::{HostId, Name, Time};

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
enum Reader {
    /// Somebody who is no host, and judges for people only.
    Watcher,
    /// A process that has no host id yet.
    Joiner,
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
        self.scan(io, self.geometry.max_hosts(), Reader::Joiner)
    }

    /// Reads the records of all ids, for somebody who is no host.
    pub(crate) fn scan_all(&self, io: &Io) -> Result<(), DiskError> {
        self.scan(io, self.geometry.max_hosts(), Reader::Watcher)
    }

    /// Reads the records of the ids in use, for somebody who is no host.
    pub(crate) fn scan_used(&self, io: &Io) -> Result<(), DiskError> {
        let Coverage { highest, since } = self.coverage();
        let all = self.geometry.max_hosts();
        self.scan(io, if since.is_some() { highest.clamp(1, all) } else { all }, Reader::Watcher)
    }

    /// The ids that are or were in use, as they were last read.
    pub(crate) fn infos(&self, device: &str, now: Time) -> Vec<HostInfo> {
        self.with_observer(|observer| infos(observer, self.geometry, device, now))
    }

    fn scan(&self, io: &Io, hosts: u64, reader: Reader) -> Result<(), DiskError> {
        let _one_at_a_time = self.scanning.lock();
        let sector = self.geometry.sector_bytes();
        let (span, sectors) = io.read_sectors(0, 0..hosts, sector, self.patience)?;
        let records = reading::records(&sectors, self.geometry, self.nonce);
        let highest = reading::highest_used(&records);
        let content = match reader {
            Reader::Watcher => Some(span.started),
            Reader::Joiner => None,
        };
        let State { observer, coverage } = &mut *self.state.lock();
        match hosts == self.geometry.max_hosts() {
            true => *coverage = Coverage { highest, since: Some(span.started) },
            false => coverage.highest = coverage.highest.max(highest),
        }
        for (host, seen) in records {
            observer.observe(host, span, content, seen);
        }
        Ok(())
    }

    /// What was seen, for the membership that goes on from there.
    pub(super) fn into_seen(self) -> (Observer, Coverage) {
        let State { observer, coverage } = self.state.into_inner();
        (observer, coverage)
    }
}

/// The ids that are or were in use, as `observer` has seen them.
pub(crate) fn infos(observer: &Observer, geometry: Geometry, device: &str, now: Time) -> Vec<HostInfo> {
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
}
