//! Formats a device, also one on which there is a lockspace whose hosts may live.
//!
//! The lockspace that is there is the *former* one. Its hosts go by what its records show, so they are overcome in the
//! way in which a host is overcome that holds an id: watched for D, overwritten, and looked at again.
//!
//! | step | what it does |
//! |---|---|
//! | look | finds the former lockspace, if there is one |
//! | watch | until no sector of any id has changed for the longest D, unless every id is known to be free |
//! | scan | takes in which versions and generations the areas show |
//! | overwrite | the former records, piece by piece, the first two magic numbers zeroed |
//! | note | behind the first piece: the largest version, where it is to stand |
//! | settle | waits until every join that read a former record is over |
//! | check | that no other write has come in between |
//! | make | writes the index, the lease that guards it, and the second record |
//! | commit | looks again, and writes the first record |
//!
//! Invariants:
//! - Each write is justified by a read that started less than T before its submission. It showed what was there before
//!   or, once the records are overwritten, that they are ours still. A format that was paused destroys nothing that
//!   another one has made meanwhile.
//! - A join of the former lockspace whose write lands before the overwriting is overwritten: it holds nothing, if that
//!   is confirmed within 2T of the read before it, since no join ends earlier. Where it took longer a join may have
//!   held for a moment, and D passes before the check.
//! - A join whose write lands after the overwriting began with a read before it. It is over when 2T have passed, and
//!   its record is found by the check.
//! - Generations and versions go on: a host record continues that of the former lockspace, and the lease that guards
//!   the index stands at the largest version that is shown. An id that was never used stays at generation 0.
//! - A format that is interrupted anywhere leaves these numbers to the next one: the version is written where it is to
//!   stand before anything is overwritten that shows it, also where the sizes of the former lockspace were others.
//! - Whatever one write of a format hits when it lands late, the other records outnumber those that it writes.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::blanks::{self, Piece};
use super::former::Former;
use super::found::{Found, HEADS, SMALLEST_AREA};
use super::region::{Difference, Region};
use crate::format::{DeltaRecord, IndexHeader, Leader, LeaderExtension};
use crate::protocol::delta::Terms;
use crate::protocol::liveness::Observer;
use crate::protocol::procedure::{Effect, Event, Extent, Procedure, Sectors, Window, Write};
use crate::protocol::rules::Rule;
use crate::protocol::{Span, Written};
use crate::timeouts::stretched;
use crate::types::{HostId, Name, Time, Version};

/// How long an I/O may take.
const IO: Duration = Duration::from_secs(60);
/// At most so many bytes of host records are written at once: a piece must not take long.
const PIECE: usize = 1 << 18;
/// The largest area, in which any host record of any lockspace stands.
pub const LARGEST_AREA: u64 = 8 << 20;
/// The lockspace, the index, the lease that guards it.
pub const FIXED_AREAS: u64 = 3;
/// How many areas are looked at.
const SEARCHED_AREAS: u64 = 1 << 16;
/// How far the generations go on from those that are shown: a record may have been set back, and a join may be under
/// way that passes over up to 2^30 of them, and a few more.
const GENERATIONS: u64 = 1 << 32;
/// How often in a row a write may come too late for the read that justifies it.
const MAX_LATE: u32 = 20;

/// What is to stand on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The lockspace. Its nonce is drawn anew.
    pub terms: Terms,
    /// Its index; `None`: it has none.
    pub index: Option<IndexHeader>,
    /// The name of the lease that guards it.
    pub guard: Name,
    /// Where that lease's area starts.
    pub guard_offset: u64,
    /// Whether a lockspace that is there is replaced, if no host is live in it.
    pub force: bool,
    /// Bytes of the device.
    pub len: u64,
    /// How many of them are searched for host records, from the start on: [`LARGEST_AREA`], or all where there are
    /// fewer.
    pub searched: u64,
}

/// Why a device was not formatted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There is a lockspace of that name. Nothing was written.
    Exists(Name),
    /// A host uses the lockspace that is there. Nothing was written.
    InUse(HostId, Name),
    /// Something else wrote to the device meanwhile, at that byte. There is no lockspace now, unless that one made it.
    Overtaken(u64),
    /// The device, or this machine, is too slow for the timeouts of the lockspace that was there. There is no lockspace
    /// now, or still the former one.
    Slow,
    /// An I/O failed. There may be no lockspace now.
    Storage,
}

/// Formats a device.
#[derive(Clone, Debug)]
pub struct Format {
    plan: Plan,
    former: Option<Former>,
    /// What the first bytes of the device are known to hold: read, or written.
    known: Region,
    /// Some of that was written.
    written: bool,
    /// A piece was confirmed so late that a join may have held in between.
    slow: bool,
    /// How often in a row a write came too late.
    late: u32,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Looking,
    Watching { since: Time },
    Scanning { next: u64 },
    Overwriting(Overwriting),
    Noting(Overwriting),
    Settling,
    Making(VecDeque<Piece>),
    Committing,
    Over,
}

/// The records as they are to be, and which part of them is next, or was written last.
#[derive(Clone, Debug)]
struct Overwriting {
    image: Vec<u8>,
    piece: Range<usize>,
    /// When the read began that justified its write.
    read: Time,
}

impl Overwriting {
    /// All of it: the stage that it belongs to is over.
    fn take(&mut self) -> Overwriting {
        Overwriting { image: std::mem::take(&mut self.image), piece: self.piece.clone(), read: self.read }
    }
}

type Answer = Result<(), Refusal>;
type Next = Result<Effect<Answer>, Refusal>;

impl Procedure for Format {
    type Answer = Answer;

    fn step(&mut self, event: Event, _: &mut Observer) -> Effect<Answer> {
        let next = match event {
            Event::Begun(_) | Event::Woke(_) => Ok(self.look_again()),
            Event::Read(span, sectors) => {
                let seen = Region::of(&sectors, self.plan.terms.geometry.sector_bytes());
                self.saw(span, seen)
            }
            Event::Wrote(span, Written::Done) => self.wrote(span),
            Event::TooLate(_) if self.late < MAX_LATE => {
                self.late += 1;
                Ok(self.look_again())
            }
            Event::TooLate(_) => Err(Refusal::Slow),
            Event::ReadFailed | Event::Wrote(_, Written::Failed | Written::InFlight) => Err(Refusal::Storage),
        };
        next.unwrap_or_else(|refusal| {
            self.stage = Stage::Over;
            Effect::Done(Err(refusal))
        })
    }
}

impl Format {
    /// Begins. The caller has made sure that what is planned fits on the device.
    pub fn new(plan: Plan) -> Format {
        let size = plan.terms.geometry.sector_bytes();
        let known = Region::of(&Sectors::new(size), size);
        Format { plan, former: None, known, written: false, slow: false, late: 0, stage: Stage::Looking }
    }

    fn saw(&mut self, span: Span, seen: Region) -> Next {
        match &mut self.stage {
            Stage::Looking => self.looked(span, seen),
            Stage::Watching { since } => {
                let since = *since;
                match self.difference(0, &seen)? {
                    Difference::Appeared => {
                        self.known = seen;
                        Ok(self.watch(span.ended, span))
                    }
                    _ => Ok(self.watch(since, span)),
                }
            }
            Stage::Scanning { next } => {
                let at = *next;
                *next += SMALLEST_AREA;
                if let Some(former) = &mut self.former {
                    former.take_in(at, seen.bytes(), &self.plan.terms);
                    *next = former.next_place(*next);
                }
                Ok(self.scan())
            }
            Stage::Overwriting(Overwriting { image, piece, read }) => {
                *read = span.started;
                let (at, bytes) = (piece.start, image[piece.clone()].to_vec());
                let mut first = seen;
                let seen = first.split_off(self.plan.terms.geometry.sector_bytes().min(at));
                self.expect(0, &first)?;
                self.expect(at, &seen)?;
                Ok(self.write((at as u64, bytes), span))
            }
            Stage::Noting(_) => {
                self.expect(0, &seen)?;
                Ok(self.write(self.guard(), span))
            }
            Stage::Settling => {
                if Rule::FormatIsChecked.is_in_force() {
                    self.expect_own(&seen)?;
                }
                // Hosts that held for a moment may have acquired something since the scan.
                if !std::mem::take(&mut self.slow) {
                    return Ok(self.make());
                }
                self.stage = Stage::Scanning { next: (self.known.len() as u64).next_multiple_of(SMALLEST_AREA) };
                Ok(self.scan())
            }
            Stage::Making(pieces) => {
                let piece = pieces.front().cloned().ok_or(Refusal::Storage)?;
                self.expect_own(&seen)?;
                Ok(self.write(piece, span))
            }
            Stage::Committing => {
                if Rule::FormatIsChecked.is_in_force() {
                    self.expect_own(&seen)?;
                }
                Ok(self.write((0, self.record_of(HostId::FIRST).encode(0)), span))
            }
            Stage::Over => Err(Refusal::Storage),
        }
    }

    fn wrote(&mut self, span: Span) -> Next {
        self.late = 0;
        match &mut self.stage {
            Stage::Overwriting(it) => {
                let Overwriting { image, piece, read } = it.take();
                self.written = true;
                self.known.overwrite(piece.clone(), &image[piece.clone()]);
                let taken = span.ended.since(read);
                let patience = self.former.as_ref().map_or(Duration::MAX, |former| former.io * 2);
                self.slow |= taken > patience && Rule::FormatIsPrompt.is_in_force();
                if piece.start == 0 && self.former.is_some() && Rule::VersionIsNoted.is_in_force() {
                    self.stage = Stage::Noting(Overwriting { image, piece, read });
                    return Ok(self.look_again());
                }
                Ok(self.go_on(image, piece.end, span))
            }
            Stage::Noting(it) => {
                let Overwriting { image, piece, .. } = it.take();
                let (at, leader) = self.guard();
                let place = at as usize..at as usize + leader.len();
                if place.end <= self.known.len() {
                    self.known.overwrite(place, &leader);
                }
                Ok(self.go_on(image, piece.end, span))
            }
            Stage::Making(pieces) => {
                if let Some((at, bytes)) = pieces.pop_front().filter(|(at, _)| *at < self.known.len() as u64) {
                    self.known.overwrite(at as usize..at as usize + bytes.len(), &bytes);
                }
                if pieces.is_empty() {
                    self.stage = Stage::Committing;
                }
                Ok(self.look_again())
            }
            Stage::Committing => {
                self.stage = Stage::Over;
                Ok(Effect::Done(Ok(())))
            }
            Stage::Looking | Stage::Watching { .. } | Stage::Scanning { .. } | Stage::Settling | Stage::Over => {
                Err(Refusal::Storage)
            }
        }
    }

    /// Writes the next piece of the records, from byte `from` on, or waits when all are written.
    fn go_on(&mut self, image: Vec<u8>, from: usize, wrote: Span) -> Effect<Answer> {
        if from < image.len() {
            let sector = self.plan.terms.geometry.sector_bytes();
            let quarter = if Rule::PiecesAreSmall.is_in_force() { image.len() / 4 } else { image.len() };
            let most = PIECE.min(quarter / sector * sector).max(sector);
            let piece = from..image.len().min(from + most);
            self.stage = Stage::Overwriting(Overwriting { image, piece, read: Time::ZERO });
            return self.look_again();
        }
        let quiet = self.former.as_ref().map(|former| if self.slow { former.dead } else { former.io * 2 });
        let quiet = quiet.filter(|_| Rule::FormatSettles.is_in_force()).unwrap_or_default();
        self.stage = Stage::Settling;
        Effect::Wait(wrote.ended + stretched(quiet))
    }

    /// What is there, and whether it may be replaced.
    fn looked(&mut self, span: Span, seen: Region) -> Next {
        let found = Found::search(seen.bytes());
        self.known = seen;
        let Some(found) = found else { return Ok(self.overwrite()) };
        let used = found.records.values().any(|record| record.generation != 0);
        if (found.complete || used) && !self.plan.force {
            return Err(Refusal::Exists(found.terms.lockspace));
        }
        let former = Former::of(&found, self.known.len());
        let former_area = former.geometry.area_bytes() as usize;
        self.known.truncate(former_area.max(self.plan.terms.geometry.area_bytes() as usize));
        self.former = Some(former);
        Ok(self.watch(span.ended, span))
    }

    /// `read` showed what has been there since `since`.
    fn watch(&mut self, since: Time, read: Span) -> Effect<Answer> {
        let Some(former) = &self.former else { return self.overwrite() };
        let watched = !former.is_free && Rule::FormatWatches.is_in_force();
        let until = since + stretched(former.dead);
        if watched && read.started < until {
            self.stage = Stage::Watching { since };
            return Effect::Wait(until.min(read.ended + former.renewal / 2));
        }
        self.stage = Stage::Scanning { next: SMALLEST_AREA };
        self.scan()
    }

    /// Looks at the next place where an area may begin, or goes on where that was the last one. Hosts of a lockspace of
    /// other sizes may have used areas, of which an interrupted format has overwritten the records.
    fn scan(&mut self) -> Effect<Answer> {
        if let (Stage::Scanning { next }, Some(former)) = (&self.stage, &self.former) {
            let sector = self.plan.terms.geometry.sector_bytes() as u64;
            let end = self.plan.len.min(SEARCHED_AREAS * former.geometry.area_bytes());
            if next + SMALLEST_AREA <= end {
                let sectors = former.step_in_use() / sector;
                return Effect::Read { extents: vec![Extent { offset: *next, sectors }], timeout: IO };
            }
        }
        if self.written { self.make() } else { self.overwrite() }
    }

    /// Begins to write over what is there.
    fn overwrite(&mut self) -> Effect<Answer> {
        let terms = &self.plan.terms;
        let area = terms.geometry.area_bytes() as usize;
        self.known.truncate(self.former.as_ref().map_or(area, |_| self.known.len()));
        let sector = terms.geometry.sector_bytes();
        let hosts = (1..=terms.geometry.max_hosts()).filter_map(HostId::new).take(self.known.len() / sector);
        let records = hosts.map(|host| self.record_of(host).encode(terms.geometry.delta_offset(host)));
        let mut image = records.collect::<Vec<_>>().concat();
        image.resize(self.known.len(), 0);
        // Until their magic numbers are there nobody takes this for a lockspace.
        for host in HEADS {
            let at = terms.geometry.delta_offset(host);
            if let Some(place) = image.get_mut(at as usize..at as usize + sector) {
                place.copy_from_slice(&self.record_of(host).encode_unfinished(at));
            }
        }
        // Where the records of the former lockspace went on beyond it.
        let (at, leader) = self.guard();
        if let Some(place) = image.get_mut(at as usize..at as usize + leader.len()) {
            place.copy_from_slice(&leader);
        }
        self.stage = Stage::Overwriting(Overwriting { image, piece: 0..sector, read: Time::ZERO });
        self.look_again()
    }

    /// The record of an id that nobody holds.
    fn record_of(&self, host: HostId) -> DeltaRecord {
        let Terms { geometry, lockspace, nonce, timeouts } = self.plan.terms;
        let never_held = DeltaRecord::free(geometry, lockspace, nonce, timeouts);
        let former = self.former.as_ref().filter(|_| Rule::GenerationsGoOn.is_in_force());
        // All go on from the largest, so that one whose record is lost is not behind what it had.
        match former.filter(|former| former.generations.contains_key(&host)).and_then(Former::largest_generation) {
            Some(largest) => DeltaRecord { owner_id: host.get(), generation: largest + GENERATIONS, ..never_held },
            None => never_held,
        }
    }

    /// Begins to write what comes behind the host records.
    fn make(&mut self) -> Effect<Answer> {
        let Plan { terms, index, guard_offset: at, .. } = &self.plan;
        let Terms { geometry, nonce, .. } = *terms;
        let area = geometry.area_bytes() as usize;
        self.known.truncate(area);
        // All of it, but where only a part of the records was searched.
        let len = area.min(self.known.len() + 2 * geometry.sector_bytes());
        let mut pieces = VecDeque::new();
        if let Some(index) = index {
            pieces.extend(blanks::index(index, len));
        }
        pieces.extend(blanks::resource(&self.guard_leader(), nonce, *at, len));
        let fixed = FIXED_AREAS * geometry.area_bytes();
        let lookalikes = self.former.iter().flat_map(|former| &former.lookalikes);
        for (at, leader) in lookalikes.filter(|(at, _)| *at >= fixed && at.is_multiple_of(geometry.area_bytes())) {
            // Should it land late, it says nothing in any other lockspace.
            let extension = Some(LeaderExtension { nonce, judged: false });
            pieces.push_back((*at, Leader { cleared: true, timestamp: 0, extension, ..leader.clone() }.encode(*at)));
        }
        let second = geometry.delta_offset(HostId::SECOND);
        pieces.push_back((second, self.record_of(HostId::SECOND).encode(second)));
        self.stage = Stage::Making(pieces);
        self.look_again()
    }

    /// The leader of the lease that guards the index.
    fn guard_leader(&self) -> Leader {
        let Terms { geometry, lockspace, nonce, .. } = self.plan.terms;
        let former = self.former.as_ref().filter(|_| Rule::VersionsGoOn.is_in_force());
        let version = former.map_or(Version::default(), Former::version);
        Leader::new_free(geometry, lockspace, nonce, self.plan.guard, geometry.max_hosts(), version)
    }

    fn guard(&self) -> Piece {
        let at = self.plan.guard_offset;
        (at, self.guard_leader().encode(at))
    }

    /// The read that the present stage rests on.
    fn look_again(&self) -> Effect<Answer> {
        let sector = self.plan.terms.geometry.sector_bytes();
        // Whoever formats the device takes the first sector first.
        let first = 0..sector;
        let (before, range) = match &self.stage {
            Stage::Looking => (None, 0..self.plan.searched as usize),
            Stage::Overwriting(it) => (Some(first).filter(|_| it.piece.start > 0), it.piece.clone()),
            Stage::Making(_) => (None, first),
            _ => (None, 0..self.known.len()),
        };
        let extent =
            |range: Range<usize>| Extent { offset: range.start as u64, sectors: range.len().div_ceil(sector) as u64 };
        Effect::Read { extents: before.into_iter().chain([range]).map(extent).collect(), timeout: IO }
    }

    /// A write that `read` justifies.
    fn write(&self, (offset, bytes): Piece, read: Span) -> Effect<Answer> {
        let patience = self.former.as_ref().map_or(self.plan.terms.timeouts.io(), |former| former.io);
        Effect::Write(Write { offset, bytes, window: Window { before: read.started + patience, timeout: IO } })
    }

    /// That nothing else was written.
    fn expect(&self, at: usize, seen: &Region) -> Result<(), Refusal> {
        match self.difference(at, seen)? {
            Difference::None => Ok(()),
            _ => Err(Refusal::Storage),
        }
    }

    /// That what was written here is there.
    fn expect_own(&self, seen: &Region) -> Result<(), Refusal> {
        if seen.is_readable() { self.expect(0, seen) } else { Err(Refusal::Storage) }
    }

    /// What has appeared since what stands from byte `start` on was last read, or written.
    fn difference(&self, start: usize, seen: &Region) -> Result<Difference, Refusal> {
        let counts = |at| Rule::FormatReadsAllIds.is_in_force() || self.written || self.is_used(at);
        match self.known.compare(start, seen, counts) {
            Difference::Changed(at) => {
                let former = self.former.as_ref().filter(|_| !self.written);
                let host = former.and_then(|former| former.host_at(at));
                let of_host = |(host, place): (HostId, Range<usize>)| {
                    let record = seen.bytes().get(place.start.saturating_sub(start)..place.end.saturating_sub(start));
                    let record = record.and_then(|sector| DeltaRecord::decode_base(sector).ok());
                    Refusal::InUse(host, record.map_or(Name::EMPTY, |record| record.host_name))
                };
                Err(host.map_or(Refusal::Overtaken(at as u64), of_host))
            }
            other => Ok(other),
        }
    }

    /// Whether the id whose record stands there is or was in use.
    fn is_used(&self, at: usize) -> bool {
        let Some(former) = &self.former else { return true };
        former.host_at(at).is_some_and(|(host, _)| former.generations.contains_key(&host))
    }
}
