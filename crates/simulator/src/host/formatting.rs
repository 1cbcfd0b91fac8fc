//! A process finds out which lockspace there is, and formats the device: now and then over others, and where nobody has
//! formatted it to the end.

use leasehold::format::{AreaSize, Geometry, SectorSize};
use leasehold::protocol::catalog::Found;
use leasehold::protocol::catalog::format::{FIXED_AREAS, Format, Plan};
use leasehold::protocol::delta::Terms;

use super::starting::Way;
use super::{Answer, Completion, End, Host, Process, Signal, Tag, terms};
use crate::env::Env;
use crate::storage::{Area, SECTOR, Sector, begun_record, delta_at};

/// The other sizes to which the device is formatted.
const LARGE: Geometry = match Geometry::new(SectorSize::B4096, AreaSize::M8) {
    Ok(geometry) => geometry,
    Err(_) => unreachable!(),
};

impl Host {
    /// The next process of the machine formats the device.
    pub(crate) fn formats_next(&mut self) {
        self.formats = true;
    }

    pub(super) fn open(&mut self, env: &mut Env) {
        self.process = Process::Opening;
        let (offsets, timeout) = (env.recorded_ids().map(delta_at).collect(), env.options.timeouts.io());
        env.read(self.index, Tag::Opening, 0, offsets, Some(timeout));
    }

    pub(super) fn opening(&mut self, env: &mut Env, signal: Signal) {
        let Signal::Io(Completion { tag: Tag::Opening, answer, .. }) = signal else { return };
        let Answer::Read(_, sectors) = answer else { return self.ended(env, End::Refused) };
        match found(&sectors) {
            Some(found) => {
                if self.nonce != found.terms.nonce {
                    // What it was in another lockspace says nothing in this one.
                    self.id = None;
                    self.token = None;
                }
                self.nonce = found.terms.nonce;
                // Late writes may have left no id to the one that is alone: its operator sees that, too.
                let formats = std::mem::take(&mut self.formats) && !env.quiet || env.quiet && env.random.chance(150);
                if formats { self.format(env) } else { self.begin(env) }
            }
            // Whoever finds none may be wrong: somebody is at it.
            None if env.quiet || env.random.chance(300) => self.format(env),
            None => self.ended(env, End::Refused),
        }
    }

    fn format(&mut self, env: &mut Env) {
        let area = Area::of_resource(0);
        let terms = terms(env.options.timeouts, env.random.next() as u32);
        let force = env.quiet || env.random.chance(900);
        let resizes = env.options.faults.resizes;
        let resized = resizes > 0 && !env.quiet && env.random.chance(resizes);
        let (geometry, guard_offset) =
            if resized { (LARGE, 2 * LARGE.area_bytes()) } else { (terms.geometry, area.offset()) };
        let (len, searched) = match resizes {
            0 => (Area::of_resource(env.options.resources).offset(), env.highest_id() * SECTOR),
            // Large records reach as far as to the leader.
            _ => (FIXED_AREAS * LARGE.area_bytes(), area.offset() + 2 * LARGE.sector_bytes() as u64),
        };
        env.trace(|| format!("host {} formats as {:#x} to {geometry}", self.index, terms.nonce));
        let terms = Terms { geometry, ..terms };
        let plan = Plan { terms, index: None, guard: area.name(), guard_offset, force, len, searched };
        self.starts(env, Way::Format(Box::new(Format::new(plan)), geometry));
    }
}

/// The lockspace that sectors of host records show, if hosts may join it: it is complete, and of their sizes.
fn found(sectors: &[Sector]) -> Option<Found> {
    let bytes = |sector: &Sector| if sector.is_empty() { [0; SECTOR as usize].into() } else { sector.clone() };
    let bytes: Vec<Sector> = sectors.iter().map(bytes).collect();
    Found::search(&bytes.concat()).filter(|found| found.complete && found.terms.geometry == Geometry::default())
}

impl Env {
    /// A write of a format has landed that began before the lockspace was complete. It alone does not do away with
    /// that.
    pub(crate) fn outlasts(&mut self, late: Option<u32>) {
        if late.is_none() {
            return;
        }
        let (nonce, sectors) = (self.storage.nonce, self.records());
        // Others have hit it, too, or it is being replaced.
        if self.formattings(&sectors).any(|shown| shown != late && shown != Some(nonce)) {
            return;
        }
        if found(&sectors).is_none_or(|found| found.terms.nonce != nonce) {
            self.check.fail(format!("W: a late write of a format does away with the lockspace {nonce:#x}"));
        }
    }

    /// What the records show, also those that are not finished.
    fn formattings(&self, records: &[Sector]) -> impl Iterator<Item = Option<u32>> {
        self.recorded_ids().zip(records).map(|(id, sector)| begun_record(delta_at(id), sector)?.nonce())
    }

    fn records(&self) -> Vec<Sector> {
        self.recorded_ids().map(|id| self.storage.sector(0, delta_at(id))).collect()
    }

    /// A host record has changed: perhaps that was the last part of a format, and there is another lockspace now.
    pub(crate) fn look_for_lockspace(&mut self) {
        let sectors = self.records();
        let nonce = found(&sectors).map(|found| found.terms.nonce);
        let Some(nonce) = nonce.filter(|nonce| *nonce != self.storage.nonce) else { return };
        self.trace(|| format!("the lockspace is {nonce:#x} now"));
        self.storage.nonce = nonce;
        let all = self.formattings(&sectors).all(|shown| shown == Some(nonce));
        self.check.replaced(nonce, all, self.now);
        for area in self.areas() {
            area.offsets(self.known_ids()).into_iter().for_each(|at| self.changed(at));
        }
    }
}
