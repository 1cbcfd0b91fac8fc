//! The life of an I/O: it is submitted, takes effect, and is reported, in that order or timed out in between.

use std::time::Duration;

use super::env::{Env, Event, Stalled};
use super::host::{Answer, Completion, Signal, Tag};
use super::storage::{AREA, Action, Io, Sector, block_at, delta_at, seen};
use crate::format::DeltaRecord;
use crate::protocol::{Seen, Written};
use crate::types::{HostId, Time};

impl Env {
    pub(super) fn read(&mut self, host: usize, tag: Tag, disk: usize, offsets: Vec<u64>) {
        let action = Action::Read { offsets: offsets.into(), sectors: Vec::new() };
        self.submit(host, tag, disk, self.local(host), action);
    }

    /// Submits a write whose deadline was checked just now; or pauses the host in between.
    pub(super) fn write(&mut self, host: usize, tag: Tag, disk: usize, offset: u64, bytes: Vec<u8>) {
        let started = self.local(host);
        let action = Action::Write { offset, bytes: bytes.into() };
        if !matches!(tag, Tag::Join | Tag::Resume) {
            self.check.writes(host, self.now);
        }
        let stall = self.options.faults.stall;
        if !self.quiet && !self.machines[host].paused && self.random.chance(stall) {
            self.pause(host);
        }
        let machine = &mut self.machines[host];
        if machine.paused {
            machine.stalled.push(Stalled { epoch: machine.epoch, tag, disk, started, action });
        } else {
            self.submit(host, tag, disk, started, action);
        }
    }

    pub(super) fn submit(&mut self, host: usize, tag: Tag, disk: usize, started: Time, action: Action) {
        let timeouts = self.options.timeouts;
        let writes = match &action {
            Action::Write { offset, .. } => Some(*offset),
            Action::Read { .. } => None,
        };
        let torn = matches!(&action, Action::Read { offsets, .. } if offsets.len() > 1);
        if let Some(offset) = writes
            && self.storage.writing(host, |on, at| (on, at) == (disk, offset))
        {
            self.check.fail(format!("W: machine {host} has two writes to byte {offset} in flight"));
        }
        let micros = |most| Duration::from_micros(most);
        let (mut takes, mut fails, mut lands) = (self.random.span(micros(50), micros(800)), false, true);
        let mut completes = takes + self.random.span(micros(10), micros(200));
        if !self.quiet {
            let faults = &self.options.faults;
            let (slow, hung, eio) = (faults.slow, faults.hung, faults.eio);
            let most = match (self.random.chance(slow), writes.is_some() && self.random.chance(hung)) {
                (_, true) => timeouts.dead() * 3,
                (true, _) => timeouts.io() * 3,
                _ => Duration::ZERO,
            };
            if !most.is_zero() {
                completes = self.random.span(Duration::ZERO, most);
                takes = self.random.span(Duration::ZERO, completes);
            }
            fails = self.random.chance(eio);
            lands = !fails || self.random.chance(500);
        }
        if writes.is_some_and(|offset| self.storage.is_bad(disk, offset)) {
            (fails, lands) = (true, false);
        }
        let epoch = self.machines[host].epoch;
        let io = Io { host, epoch, tag, disk, started, action, fails, lands, late: false, stale: false };
        self.trace(|| match &io.action {
            Action::Write { offset, .. } => format!("host {host} writes {offset}, lands in {takes:?} ({lands})"),
            Action::Read { .. } => format!("host {host} reads for {tag:?}"),
        });
        let id = self.storage.begin(io);
        self.at(self.now + takes, Event::Takes(id));
        if torn {
            self.at(self.now + takes / 2, Event::Takes(id));
        }
        self.at(self.now + completes, Event::Completes(id));
        let times_out = self.machines[host].clock.world(started + timeouts.io()).max(self.now);
        if self.now + completes >= times_out {
            self.at(times_out, Event::TimesOut(id));
        }
    }

    /// Whether another machine than `host` has a write in flight to the sectors of a host id.
    fn others_write(&self, host: usize, id: HostId) -> bool {
        let of_id = |_, offset| [delta_at(id), block_at(id)].contains(&offset);
        (0..self.machines.len()).any(|other| other != host && self.storage.writing(other, of_id))
    }

    pub(super) fn takes(&mut self, id: u64) {
        let Some(mut io) = self.storage.ios.remove(&id) else { return };
        match &mut io.action {
            Action::Read { offsets, sectors } => {
                let stale = self.machines[io.host].stale.as_deref().filter(|_| matches!(io.tag, Tag::Scan { .. }));
                let storage = stale.unwrap_or(&self.storage);
                if sectors.is_empty() {
                    io.stale = stale.is_some();
                    sectors.extend(offsets.iter().map(|offset| storage.sector(io.disk, *offset)));
                } else if io.stale == stale.is_some() {
                    for (offset, sector) in offsets.iter().zip(sectors) {
                        if self.random.chance(500) {
                            *sector = storage.sector(io.disk, *offset);
                        }
                    }
                }
            }
            Action::Write { offset, bytes } if io.lands => {
                io.lands = false;
                self.check.counters.late_landings += u64::from(io.late);
                self.lands(io.host, io.disk, *offset, bytes.clone(), io.late);
                if io.tag.races()
                    && let Some(id) = self.known_ids().find(|id| delta_at(*id) == *offset)
                    && self.others_write(io.host, id)
                {
                    self.check.raced(id);
                }
                self.check.landed(io.host, io.tag.races(), *offset, self.now);
                if *offset > AREA && !self.quiet && self.random.chance(self.options.faults.rot_written) {
                    let later = self.random.span(Duration::ZERO, self.options.timeouts.io());
                    self.at(self.now + later, Event::Rot { offset: *offset });
                }
            }
            Action::Write { .. } => {}
        }
        self.storage.ios.insert(id, io);
    }

    pub(super) fn lands(&mut self, host: usize, disk: usize, offset: u64, bytes: Sector, late: bool) {
        if self.storage.is_bad(disk, offset) {
            return;
        }
        let when = if late { "late" } else { "in time" };
        if offset == AREA && self.rotted && self.would_forget(disk, offset, &bytes) {
            return;
        }
        if offset < AREA
            && let Seen::Good(after) = seen(&bytes, |sector| DeltaRecord::decode(sector, offset))
            && self.storage.delta(offset).good().is_none_or(|before| after.generation < before.generation)
        {
            self.check.set_back(after.owner());
        }
        if offset == AREA {
            let before = self.storage.leader(disk);
            self.storage.put(disk, offset, bytes);
            if let Seen::Good(after) = self.storage.leader(disk) {
                self.trace(|| {
                    let free = if after.is_free() { " (free)" } else { "" };
                    format!("leader lands {when} from host {host}: {} {:?}{free}", after.version, after.owner)
                });
                self.check.leader(before.good(), &after);
            }
        } else {
            self.storage.put(disk, offset, bytes);
            self.trace(|| format!("sector {offset} lands {when} from host {host}"));
        }
    }

    pub(super) fn completes(&mut self, id: u64) {
        let Some(io) = self.storage.ios.remove(&id) else { return };
        let answer = match io.action {
            // Its process reads no more than once for each reason; it gave this one up.
            Action::Read { .. } if io.late => return,
            Action::Read { .. } if io.fails => Answer::Failed,
            Action::Read { offsets, sectors } => Answer::Read(offsets, sectors),
            Action::Write { .. } if io.fails => Answer::Wrote(Written::Failed),
            Action::Write { .. } => Answer::Wrote(Written::Done),
        };
        let completion = Completion { tag: io.tag, started: io.started, late: io.late, stale: io.stale, answer };
        self.at(self.now, Event::Signal { host: io.host, epoch: io.epoch, signal: Signal::Io(completion) });
    }

    pub(super) fn times_out(&mut self, id: u64) {
        let Some(io) = self.storage.ios.get_mut(&id) else { return };
        io.late = true;
        let answer = match io.action {
            Action::Read { .. } => Answer::Failed,
            Action::Write { .. } => Answer::Wrote(Written::InFlight),
        };
        let completion = Completion { tag: io.tag, started: io.started, late: false, stale: false, answer };
        let (host, epoch) = (io.host, io.epoch);
        self.trace(|| format!("host {host}: {:?} timed out", completion.tag));
        self.at(self.now, Event::Signal { host, epoch, signal: Signal::Io(completion) });
    }
}
