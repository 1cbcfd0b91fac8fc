//! A process finds out which lockspace there is, and formats the device: now and then over others, and where nobody has
//! formatted it to the end.

use super::carrying::joined;
use super::starting::Way;
use super::{Answer, Completion, End, Host, Process, Signal, Tag, terms};
use crate::protocol::catalog::Found;
use crate::protocol::catalog::format::{Format, Plan};
use crate::sim::env::Env;
use crate::sim::storage::{Area, SECTOR, Sector, begun_record, delta_at};

impl Host {
    /// The next process of the machine formats the device.
    pub(in crate::sim) fn formats_next(&mut self) {
        self.formats = true;
    }

    pub(super) fn open(&mut self, env: &mut Env) {
        self.process = Process::Opening;
        let (offsets, timeout) = (env.known_ids().map(delta_at).collect(), env.options.timeouts.io());
        env.read(self.index, Tag::Opening, 0, offsets, Some(timeout));
    }

    pub(super) fn opening(&mut self, env: &mut Env, signal: Signal) {
        let Signal::Io(Completion { tag: Tag::Opening, answer, .. }) = signal else { return };
        let Answer::Read(_, sectors) = answer else { return self.ended(env, End::Refused) };
        match found(&sectors).filter(|found| found.complete) {
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
            // Whoever finds that it is not complete may be wrong: somebody is at it.
            None if env.quiet || env.random.chance(300) => self.format(env),
            None => self.ended(env, End::Refused),
        }
    }

    fn format(&mut self, env: &mut Env) {
        let area = Area::of_resource(0);
        let plan = Plan {
            terms: terms(env.options.timeouts, env.random.next() as u32),
            index: None,
            guard: area.name(),
            guard_offset: area.offset(),
            force: env.quiet || env.random.chance(900),
            len: Area::of_resource(env.options.resources).offset(),
            searched: env.ids() * SECTOR,
        };
        env.trace(|| format!("host {} formats as {:#x}", self.index, plan.terms.nonce));
        self.starts(env, Way::Format(Box::new(Format::new(plan))));
    }
}

/// The lockspace that sectors of host records show.
fn found(sectors: &[Sector]) -> Option<Found> {
    let empty = [0; SECTOR as usize];
    let bytes: Vec<u8> = joined(sectors).iter().flat_map(|sector| sector.unwrap_or(&empty).to_vec()).collect();
    Found::search(&bytes)
}

impl Env {
    /// A write of a format has landed that began before the lockspace was complete. It alone does not do away with
    /// that.
    pub(in crate::sim) fn outlasts(&mut self, late: Option<u32>) {
        let (nonce, sectors) = (self.storage.nonce, self.records());
        // Others have hit it, too, or it is being replaced.
        if late.is_none() || self.formattings(&sectors).any(|shown| shown != late && shown != Some(nonce)) {
            return;
        }
        if found(&sectors).filter(|found| found.complete).is_none_or(|found| found.terms.nonce != nonce) {
            self.check.fail(format!("W: a late write of a format does away with the lockspace {nonce:#x}"));
        }
    }

    /// What the records show, also those that are not finished.
    fn formattings(&self, records: &[Sector]) -> impl Iterator<Item = Option<u32>> {
        self.known_ids().zip(records).map(|(id, sector)| begun_record(delta_at(id), sector)?.nonce())
    }

    fn records(&self) -> Vec<Sector> {
        self.known_ids().map(|id| self.storage.sector(0, delta_at(id))).collect()
    }

    /// A host record has changed: perhaps that was the last part of a format, and there is another lockspace now.
    pub(in crate::sim) fn look_for_lockspace(&mut self) {
        let sectors = self.records();
        let nonce = found(&sectors).filter(|found| found.complete).map(|found| found.terms.nonce);
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
