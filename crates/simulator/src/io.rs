//! The life of an I/O: it is submitted, takes effect, and is reported, in that order or timed out in between.

use std::time::Duration;

use leasehold::format::DeltaRecord;
use leasehold::protocol::declare::declared_by;
use leasehold::protocol::procedure::{Window, Write};
use leasehold::protocol::{Seen, Written, reading};
use leasehold::{HostId, Time};

use super::env::{Env, Event, Stalled};
use super::host::{Answer, Completion, Signal, Starts, Tag};
use super::storage::{Action, Area, Io, SECTOR, Sector, Storage, begun_record, delta_at, is_of, nonce_of, readable};

/// An I/O that is about to be submitted.
pub(super) struct Submission {
    pub(super) host: usize,
    pub(super) tag: Tag,
    pub(super) disk: usize,
    /// On the host's clock, before the check that comes before the submission.
    pub(super) started: Time,
    pub(super) action: Action,
    /// It is submitted before this, or not at all.
    pub(super) before: Time,
    /// After which its process is told that it takes too long. `None`: it is told of the end alone.
    pub(super) timeout: Option<Duration>,
}

/// Where a write lands from.
#[derive(Clone, Copy)]
pub(super) struct Landing {
    host: usize,
    disk: usize,
    tag: Tag,
    started: Time,
    late: bool,
}

impl Landing {
    pub(super) const fn of(io: &Io) -> Landing {
        Landing { host: io.host, disk: io.disk, tag: io.tag, started: io.started, late: io.late }
    }
}

impl Env {
    /// Submits a read. Where it has a timeout, its process is told of that.
    pub(super) fn read(&mut self, host: usize, tag: Tag, disk: usize, offsets: Vec<u64>, timeout: Option<Duration>) {
        let action = Action::Read { offsets: offsets.into(), sectors: Vec::new() };
        let (started, before) = (self.local(host), Time::MAX);
        self.submit(Submission { host, tag, disk, started, action, before, timeout });
    }

    /// Submits a write if it is in time; or pauses the host before, on either side of that check. A write of several
    /// sectors may tear: each lands at one of two moments or, where it fails or its machine loses power, perhaps never.
    pub(super) fn write(
        &mut self,
        host: usize,
        tag: Tag,
        disk: usize,
        (offset, bytes): (u64, &[u8]),
        before: Time,
        timeout: Option<Duration>,
    ) {
        let started = self.local(host);
        let action = Action::write(offset, bytes);
        let submission = Submission { host, tag, disk, started, action, before, timeout };
        let stall = self.options.faults.stall;
        if !self.quiet && !self.machines[host].paused && self.random.chance(stall) {
            self.pause(host);
        }
        let paused = self.machines[host].paused;
        let unchecked = paused && before < Time::MAX && self.random.chance(500);
        if !unchecked && !self.is_in_time(&submission) {
            return;
        }
        if paused {
            let machine = &mut self.machines[host];
            machine.stalled.push(Stalled { epoch: machine.epoch, unchecked, submission });
        } else {
            self.submit(submission);
        }
    }

    /// Whether a host has a write in flight to any of these sectors of the first disk.
    pub(super) fn is_writing(&self, host: usize, write: &Write) -> bool {
        let range = write.offset..write.offset + write.bytes.len() as u64;
        self.storage.writing(host, |disk, at| disk == 0 && range.contains(&at))
    }

    /// Goes on with a write before which the host was paused.
    pub(super) fn resume_write(&mut self, Stalled { epoch, unchecked, submission }: Stalled) {
        let host = submission.host;
        if epoch != self.machines[host].epoch {
            return;
        }
        match unchecked {
            true => {
                let submission = Submission { started: self.local(host), ..submission };
                if self.is_in_time(&submission) {
                    self.submit(submission);
                }
            }
            false => self.submit(submission),
        }
    }

    /// Whether a write may be submitted; the one place that looks at the clock for it. Who may not is told so.
    fn is_in_time(&mut self, submission: &Submission) -> bool {
        let &Submission { host, tag, started, before, .. } = submission;
        let open = Window { before, timeout: Duration::ZERO }.is_open(started);
        if !open {
            let completion = Completion { tag, started, late: false, answer: Answer::TooLate };
            let epoch = self.machines[host].epoch;
            self.at(self.now, Event::Signal { host, epoch, signal: Signal::Io(completion) });
        } else if !tag.is_before() {
            self.check.writes(host, self.now);
        }
        open
    }

    pub(super) fn submit(&mut self, submission: Submission) {
        let Submission { host, tag, disk, started, mut action, timeout, .. } = submission;
        let timeouts = self.options.timeouts;
        let (writes, is_whole) = match &action {
            Action::Write { parts, .. } => (true, parts.len() > 1),
            Action::Read { offsets, .. } => (false, offsets.len() > 1),
        };
        for offset in action.written() {
            if self.storage.writing(host, |on, at| (on, at) == (disk, offset)) {
                self.check.fail(format!("W: machine {host} has two writes to byte {offset} in flight"));
            }
        }
        let micros = |most| Duration::from_micros(most);
        let (mut takes, mut fails, mut lands) = (self.random.span(micros(50), micros(800)), false, true);
        let mut completes = takes + self.random.span(micros(10), micros(200));
        if !self.quiet {
            let faults = &self.options.faults;
            let (slow, hung, eio) = (faults.slow, faults.hung, faults.eio);
            let (hung, spans) = match tag {
                tag if tag.is_for_another() && faults.hung_words > 0 => (hung.max(faults.hung_words), 6),
                tag if tag.races() && faults.hung_joins > 0 => (hung.max(faults.hung_joins), 3),
                _ if faults.hung_leaders > 0
                    && action.written().any(|at| Area::at(at).is_some_and(|area| area.offset() == at)) =>
                {
                    (hung.max(faults.hung_leaders), 2)
                }
                // Beyond a format, which watches for D.
                _ if faults.formats > 0 => (hung, 6),
                _ => (hung, 3),
            };
            let wiped = action.written().find_map(Area::at).filter(|_| self.is_wiped_meanwhile());
            if let Some(area) = wiped {
                self.at(self.now, Event::Wipe { area });
            }
            let slow = self.random.chance(slow) || wiped.is_some();
            let most = match (slow, writes && self.random.chance(hung)) {
                (_, true) => timeouts.dead() * spans,
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
        let first = match is_whole {
            // A write that hangs may be anywhere between its sectors.
            true if writes => self.random.span(Duration::ZERO, takes),
            _ => takes / 2,
        };
        let failed = fails;
        let bad: Vec<bool> = action.written().map(|at| self.storage.is_bad(disk, at)).collect();
        if let Action::Write { parts, .. } = &mut action {
            for (index, (part, bad)) in parts.iter_mut().zip(bad).enumerate() {
                // Of a write that fails, each sector may have landed.
                if index > 0 {
                    lands = !failed || self.random.chance(500);
                }
                part.lands = lands && !bad;
                fails |= bad;
            }
        }
        let epoch = self.machines[host].epoch;
        let io = Io {
            host,
            epoch,
            tag,
            disk,
            started,
            timed: timeout.is_some(),
            action,
            fails,
            is_whole,
            late: false,
            stale: false,
        };
        self.trace(|| match &io.action {
            Action::Write { offset, parts } => {
                let (count, lands) = (parts.len(), parts.iter().filter(|part| part.lands).count());
                format!("host {host} writes {offset}, lands in {takes:?} ({lands} of {count} sectors)")
            }
            Action::Read { .. } => format!("host {host} reads for {tag:?}"),
        });
        let id = self.storage.begin(io);
        self.at(self.now + takes, Event::Takes(id));
        if is_whole {
            self.at(self.now + first, Event::Takes(id));
        }
        self.at(self.now + completes, Event::Completes(id));
        let times_out = self.machines[host].clock.world(started + timeout.unwrap_or(timeouts.io())).max(self.now);
        if self.now + completes >= times_out {
            self.at(times_out, Event::TimesOut(id));
        }
    }

    /// What a scan reads of a stale copy. Who is there it doesn't hide: while the copy is younger than the own last
    /// renewal nothing tells that it is stale.
    fn stale_sector(&self, host: usize, copy: &Storage, disk: usize, offset: u64) -> Sector {
        let own = self.check.host_id(host).is_some_and(|id| delta_at(id) == offset);
        match !own && copy.delta(offset).good().is_some_and(|record| record.generation == 0) {
            true => self.storage.sector(disk, offset),
            false => copy.sector(disk, offset),
        }
    }

    /// Whether another machine than `host` has a write in flight to the sectors of a host id.
    fn others_write(&self, host: usize, id: HostId) -> bool {
        (0..self.machines.len())
            .any(|other| other != host && self.storage.writing(other, |_, offset| is_of(id, offset)))
    }

    /// Whether another machine than `host` is paused before such a write.
    fn others_stall(&self, host: usize, id: HostId) -> bool {
        let others = self.machines.iter().enumerate().filter(|(other, _)| *other != host);
        let mut writes = others.flat_map(|(_, machine)| &machine.stalled);
        writes.any(|stalled| stalled.submission.action.written().any(|offset| is_of(id, offset)))
    }

    pub(super) fn takes(&mut self, id: u64) {
        let Some(mut io) = self.storage.ios.remove(&id) else { return };
        let (mut random, landing) = (self.random.clone(), Landing::of(&io));
        match &mut io.action {
            Action::Read { offsets, sectors } => {
                let stale = self.machines[io.host].stale.as_deref().filter(|_| is_scan(offsets));
                let sector = |env: &Env, offset| match stale {
                    Some(copy) => env.stale_sector(io.host, copy, io.disk, offset),
                    None => env.storage.sector(io.disk, offset),
                };
                if sectors.is_empty() {
                    io.stale = stale.is_some();
                    sectors.extend(offsets.iter().map(|offset| sector(self, *offset)));
                } else if io.stale == stale.is_some() {
                    for (offset, read) in offsets.iter().zip(sectors) {
                        if random.chance(500) {
                            *read = sector(self, *offset);
                        }
                    }
                }
                self.random = random;
            }
            Action::Write { offset, parts } => {
                let is_first = std::mem::take(&mut io.is_whole);
                for (at, part) in (*offset..).step_by(SECTOR as usize).zip(parts) {
                    if part.lands && (!is_first || self.random.chance(500)) {
                        part.lands = false;
                        self.part_lands(landing, at, part.bytes.clone());
                    }
                }
            }
        }
        self.storage.ios.insert(id, io);
    }

    pub(super) fn part_lands(&mut self, landing: Landing, offset: u64, bytes: Sector) {
        let Landing { host, disk, tag, started, late } = landing;
        self.check.counters.late_landings += u64::from(late);
        if tag == Tag::Starting(Starts::Formats) {
            // Nobody uses what a format to other sizes writes elsewhere.
            if Area::at(offset).is_some_and(|area| !self.areas().any(|used| used == area)) {
                return self.storage.put(disk, offset, bytes);
            }
            let in_time = self.local(host).since(started) <= self.options.timeouts.io();
            let record = begun_record(offset, &bytes);
            let formatting = record.as_ref().and_then(DeltaRecord::nonce);
            if let Ok(before) = DeltaRecord::decode(&self.storage.sector(disk, offset), offset) {
                // Records of other sizes stand elsewhere: nothing is left of this one, whenever that is.
                let after = record.filter(|after| after.geometry == before.geometry);
                let (goes_on, generation) = (after.is_some(), after.map_or(0, |after| after.generation));
                let id = HostId::new(before.owner_id).filter(|_| generation < before.generation);
                if let Some(id) = id.filter(|_| !in_time || !goes_on) {
                    self.check.forgotten(id, generation);
                }
            }
            self.lands(host, disk, offset, bytes, late || !in_time);
            if self.check.is_complete_since(self.machines[host].clock.world(started)) {
                self.outlasts(formatting);
            }
            // Its operator sees that something is wrong.
            let again = self.check.overwritten(host, offset, in_time, self.now) && !self.quiet;
            if again && self.random.chance(self.options.faults.reformats) {
                let later = self.random.span(Duration::ZERO, self.options.timeouts.io());
                self.at(self.now + later, Event::Reformat);
            }
            return;
        }
        if tag.is_for_another()
            && let (Seen::Good(before), Seen::Good(after)) =
                (self.storage.delta(offset), reading::record(readable(&bytes), offset, self.storage.nonce))
        {
            self.check.counters.outdated += u64::from(after.generation < before.generation);
        }
        // Who takes an id that is free by somebody's word knows that nobody writes who had it before.
        let vouched = !late && self.storage.delta(offset).good().is_some_and(|record| declared_by(record).is_some());
        if tag.clears() {
            self.is_cleared(host, offset);
        }
        let nonce = nonce_of(offset, &bytes);
        self.lands(host, disk, offset, bytes, late);
        if tag.races()
            && let Some(id) = self.known_ids().find(|id| delta_at(*id) == offset)
        {
            if vouched {
                self.check.vouched(id);
            } else if self.others_write(host, id) || late && self.others_stall(host, id) {
                self.check.raced(id);
            }
        }
        // A sanlock host clears the block of a sharer that is dead, whoever has its host id by then.
        if !tag.is_sanlocks() {
            let fences = self.options.faults.fences;
            if let Some(hit) = self.check.landed(host, tag, offset, nonce, self.now)
                && !self.quiet
                && fences > 0
                && self.random.chance(fences)
            {
                self.at(self.now, Event::Fence { host, hit });
            }
        }
        if Area::at(offset).is_some_and(|area| offset > area.offset() && area.decides(offset))
            && !self.quiet
            && self.random.chance(self.options.faults.rot_written)
        {
            let later = self.random.span(Duration::ZERO, self.options.timeouts.io());
            self.at(self.now + later, Event::Rot { offset });
        }
    }

    fn lands(&mut self, host: usize, disk: usize, offset: u64, bytes: Sector, late: bool) {
        if self.storage.is_bad(disk, offset) {
            return;
        }
        let when = if late { "late" } else { "in time" };
        let area = Area::at(offset);
        let leads = area.filter(|area| area.offset() == offset);
        let decides = area.filter(|area| area.decides(offset));
        let is_strange = nonce_of(offset, &bytes).is_some_and(|nonce| nonce != self.storage.nonce);
        let strays = decides.is_some() && is_strange;
        let hides_others = strays && (late || self.rotted) || leads.is_some() && self.rotted;
        if hides_others && self.would_forget(disk, offset, &bytes) {
            return;
        }
        // To those whose sector it is that is damage.
        self.rotted |= strays && late;
        if late && area.is_none() && is_strange {
            HostId::new(offset / SECTOR + 1).into_iter().for_each(|id| self.check.revives(id));
        }
        if area.is_none()
            && let Seen::Good(after) = reading::record(readable(&bytes), offset, self.storage.nonce)
            && self.storage.delta(offset).good().is_none_or(|before| after.generation < before.generation)
        {
            self.check.set_back(after.owner());
        }
        let hides = decides.is_some_and(|area| self.check.of(area).hides(host, offset));
        if let Some(area) = decides {
            if hides {
                // Those who have come since saw nothing of a claim that lands now.
                self.is_in_doubt(area, leads.is_none());
            }
            self.check.of(area).lands(offset, hides);
        }
        if let Some(area) = leads {
            let before = self.storage.leader(disk, area);
            self.storage.put(disk, offset, bytes);
            if let Seen::Good(after) = self.storage.leader(disk, area) {
                self.trace(|| {
                    let free = if after.is_free() { " (free)" } else { "" };
                    format!("leader lands {when} from host {host}: {} {:?}{free}", after.version, after.owner)
                });
                if self.check.of(area).decides_what_was_before(&after) {
                    self.is_in_doubt(area, false);
                }
                self.check.of(area).leader(before.good(), &after);
            }
        } else {
            self.storage.put(disk, offset, bytes);
            if let Some((area, host)) = decides.filter(|_| hides).and_then(|area| Some((area, area.host_at(offset)?)))
                && let Seen::Good(block) = self.storage.block(disk, area, host)
            {
                self.check.of(area).claims_by_what_was_before(host, &block);
            }
            self.trace(|| format!("sector {offset} lands {when} from host {host}"));
        }
        self.changed(offset);
        // The first records are the last that a format writes.
        if offset < self.highest_id() * SECTOR && self.options.faults.formats > 0 {
            self.look_for_lockspace();
        }
    }

    pub(super) fn completes(&mut self, id: u64) {
        let Some(io) = self.storage.ios.remove(&id) else { return };
        let answer = match io.action {
            // Its process reads no more than once for each reason; it gave this one up.
            Action::Read { .. } if io.late && io.timed => return,
            Action::Read { .. } if io.fails => Answer::Failed,
            Action::Read { offsets, sectors } => Answer::Read(offsets, sectors),
            Action::Write { .. } if io.fails => Answer::Wrote(Written::Failed),
            Action::Write { .. } => Answer::Wrote(Written::Done),
        };
        let completion = Completion { tag: io.tag, started: io.started, late: io.late, answer };
        self.at(self.now, Event::Signal { host: io.host, epoch: io.epoch, signal: Signal::Io(completion) });
    }

    pub(super) fn times_out(&mut self, id: u64) {
        let Some(io) = self.storage.ios.get_mut(&id) else { return };
        io.late = true;
        if !io.timed {
            return;
        }
        let answer = match io.action {
            Action::Read { .. } => Answer::Failed,
            Action::Write { .. } => Answer::Wrote(Written::InFlight),
        };
        let completion = Completion { tag: io.tag, started: io.started, late: false, answer };
        let (host, epoch) = (io.host, io.epoch);
        self.trace(|| format!("host {host}: {:?} timed out", completion.tag));
        self.at(self.now, Event::Signal { host, epoch, signal: Signal::Io(completion) });
    }
}

/// Whether what is read is the records of hosts, for a scan.
fn is_scan(offsets: &[u64]) -> bool {
    offsets.len() > 1 && Area::at(offsets[0]).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    const SECTORS: u64 = 6;

    /// How many sectors of a write of several have landed after each event of it, or when its machine has lost power.
    fn landed(seed: u64, power_off: bool) -> Vec<usize> {
        let mut env = Env::new(Options::calm(seed, 1, Duration::from_secs(1)), false);
        let at = |sector| Area::of_resource(0).offset() + SECTOR * sector;
        let bytes = vec![7; (SECTORS * SECTOR) as usize];
        env.write(0, Tag::Starting(Starts::Joins), 0, (at(1), &bytes), Time::MAX, None);
        let count = |env: &Env| (1..=SECTORS).filter(|sector| env.storage.sector(0, at(*sector))[0] == 7).count();
        let mut counts = Vec::new();
        while let Some(due) = env.queue.pop() {
            env.now = due.at;
            match due.event {
                Event::Takes(id) => env.takes(id),
                _ => break,
            }
            counts.push(count(&env));
            if power_off {
                env.power_off(0);
                counts.push(count(&env));
                break;
            }
        }
        counts
    }

    #[test]
    fn a_write_of_several_sectors_tears() {
        let all = SECTORS as usize;
        let runs: Vec<Vec<usize>> = (0..200).map(|seed| landed(seed, false)).collect();
        // Between the two moments any part may be there; what is not reported as failed is there in the end.
        assert!(runs.iter().all(|counts| counts.len() == 2), "{runs:?}");
        assert!((0..=all).all(|part| runs.iter().any(|counts| counts[0] == part)), "{runs:?}");
        assert!(runs.iter().filter(|counts| counts[1] == all).count() > 190, "{runs:?}");
        let cut_short: Vec<Vec<usize>> = (0..200).map(|seed| landed(seed, true)).collect();
        assert!(cut_short.iter().any(|counts| counts[0] < counts[1] && counts[1] < all), "{cut_short:?}");
    }
}
