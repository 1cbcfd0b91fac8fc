//! A round: one effect that goes to every disk, and what is collected from them until a majority has answered.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effect, Operation, Step};
use crate::format::Block;
use crate::protocol::area::AreaView;
use crate::protocol::ballot::{Ballot, Progress};
use crate::protocol::liveness::Observer;
use crate::protocol::rules::Rule;
use crate::protocol::{Seen, Written};
use crate::types::{HostId, Time};

impl Operation {
    pub(super) fn look(&mut self) -> Effect {
        self.step = Step::Looking;
        Effect::Read(self.next_round())
    }

    pub(super) fn scan(&mut self) -> Effect {
        Effect::Scan(self.next_round())
    }

    pub(super) fn read(&mut self, ballot: Ballot, durable: BTreeSet<usize>) -> Effect {
        let round = self.next_round();
        self.failed = (0..self.subject.disks).filter(|disk| !durable.contains(disk)).collect();
        self.step = Step::Reading(ballot, durable);
        Effect::Read(round)
    }

    pub(super) fn next_round(&mut self) -> u32 {
        self.round = self.round.wrapping_add(1);
        self.durable.clear();
        self.views.clear();
        self.failed.clear();
        self.in_flight = false;
        self.round
    }

    const fn is_majority(&self, count: usize) -> bool {
        count * 2 > self.subject.disks
    }

    pub(super) fn without_majority(&self) -> bool {
        !self.is_majority(self.subject.disks - self.failed.len())
    }

    pub(super) fn wrote(&mut self, disk: usize, written: Written, now: Time, random: u64) -> Option<Effect> {
        match written {
            Written::Done => self.durable.insert(disk),
            Written::Failed => self.failed.insert(disk),
            Written::InFlight => {
                self.in_flight = Rule::OneWriteInFlight.is_in_force();
                self.failed.insert(disk)
            }
        };
        if self.is_majority(self.durable.len()) {
            return Some(self.written(now, random));
        }
        if !self.without_majority() {
            return None;
        }
        // The released flag is what frees the lease; a leader that can't be freed is only out of date.
        if self.step == Step::Freeing || self.step == Step::Resigning && !Rule::ReleaseIsDurable.is_in_force() {
            return Some(self.freed());
        }
        if self.in_flight {
            self.step = Step::Pausing;
            return Some(Effect::Settle(self.next_round()));
        }
        Some(self.retry(now, random))
    }

    /// The step's write is durable on a majority.
    fn written(&mut self, now: Time, random: u64) -> Effect {
        if let Step::Writing(_) | Step::Marking | Step::Noting | Step::Resigning = self.step {
            self.unconfirmed = false;
            self.own.clone_from(&self.attempt);
        }
        match std::mem::replace(&mut self.step, Step::Pausing) {
            Step::Writing(ballot) => {
                let durable = std::mem::take(&mut self.durable);
                self.read(ballot, durable)
            }
            Step::Committing { version, hold } if hold && self.wants() => self.owned(version),
            Step::Noting => self.noted(),
            Step::Freeing => self.freed(),
            Step::Marking => self.pause(now + self.subject.timeouts.poll()),
            Step::Resigning => {
                self.restored = true;
                self.announced = None;
                match self.wants() {
                    // A flag that came too late: who was in between goes first.
                    true => self.back_off(now, random),
                    false => self.look(),
                }
            }
            _ => self.look(),
        }
    }

    pub(super) fn saw(
        &mut self,
        disk: usize,
        view: AreaView,
        observer: &mut Observer,
        now: Time,
        random: u64,
    ) -> Option<Effect> {
        if self.failed.contains(&disk) {
            return None;
        }
        match std::mem::replace(&mut self.step, Step::Pausing) {
            Step::Reading(mut ballot, durable) => {
                let committed = view.leader.good().is_some_and(|leader| leader.version >= ballot.instance());
                let back = |host: &HostId| !observer.judge_host(*host).is_gone() && Rule::DamagedIsJudged.is_in_force();
                let back = ballot.ignored().iter().copied().find(back);
                if let Some(lost) = self.lost_hold(&view) {
                    return Some(lost);
                }
                let progress = match back {
                    // Another host committed this instance, or a later one.
                    _ if committed => Progress::Superseded,
                    // Somebody has taken that host id since: what its damaged block holds counts again.
                    Some(host) if view.block(host).is_none() => Progress::Damaged(host),
                    _ => ballot.read(disk, &view),
                };
                self.views.insert(disk, view);
                match progress {
                    Progress::Waiting => {
                        self.step = Step::Reading(ballot, durable);
                        None
                    }
                    Progress::Prepared => Some(self.propose(ballot, observer, now)),
                    Progress::Decided(owner) => Some(self.commit(owner, &ballot, now)),
                    // Another host burns too, further on: at once, each would only pass over the other again.
                    Progress::Superseded if !ballot.ignored().is_empty() => {
                        self.aborts += 1;
                        Some(self.back_off(now, random))
                    }
                    Progress::Superseded => Some(self.look()),
                    Progress::Aborted => {
                        self.aborts += 1;
                        Some(self.back_off(now, random))
                    }
                    Progress::Damaged(_) | Progress::OwnBlockChanged if self.subject.disks > 1 => {
                        self.failed.insert(disk);
                        if self.without_majority() {
                            return Some(self.retry(now, random));
                        }
                        self.step = Step::Reading(ballot, durable);
                        None
                    }
                    // Written a moment ago: writing it at once again would only spin.
                    Progress::Damaged(host) if host == self.subject.me.host => Some(self.retry(now, random)),
                    Progress::Damaged(_) => Some(self.look()),
                    Progress::OwnBlockChanged => Some(self.refuse_as_changed()),
                }
            }
            step => {
                self.step = step;
                if self.subject.disks > 1 && view.bad_blocks().next().is_some() {
                    self.failed.insert(disk);
                    return self.without_majority().then(|| self.retry(now, random));
                }
                self.views.insert(disk, view);
                if !self.is_majority(self.views.len()) {
                    return None;
                }
                let view = merged(std::mem::take(&mut self.views));
                Some(self.judge(&view, observer, now, random))
            }
        }
    }
}

/// One view out of those of a majority of disks: the latest leader, and each host's latest block. A disk with a damaged
/// block is not among them, unless it is the only one.
pub(super) fn merged(mut views: BTreeMap<usize, AreaView>) -> AreaView {
    let Some((_, mut all)) = views.pop_first() else {
        unreachable!("a majority of the disks was read");
    };
    for view in views.into_values() {
        let newer = match (view.leader.good(), all.leader.good()) {
            (Some(leader), Some(best)) => leader.version > best.version,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if newer {
            all.leader = view.leader;
        }
        for (host, seen) in view.blocks {
            let order =
                |seen: &Seen<Block>| seen.good().map(|block| (block.instance, block.mbal, block.bal, block.released));
            let best = all.blocks.entry(host).or_insert_with(|| seen.clone());
            if order(&seen) > order(best) {
                *best = seen;
            }
        }
    }
    all
}
