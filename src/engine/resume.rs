//! Goes on with the generation of a process that has ended, and with its leases; and ends a membership so that another
//! process can.

use std::sync::Arc;

use super::hosts::Hosts;
use super::io::Io;
use super::join::{LockError, lock_host};
use super::member::{Member, Tell};
use super::operations::Acquired;
use super::procedure::Driver;
use super::sightings::{Keeper, Place};
use crate::disk::Lane;
use crate::error::{Damage, JoinError};
use crate::format::Block;
use crate::protocol::delta::{Identity, Tenure, Terms};
use crate::protocol::holding;
use crate::protocol::resumption::{Refusal, Resume, Standing};
use crate::protocol::{Defect, reading};
use crate::resume::{Gone, GoneReason, ResumeError};
use crate::types::{BootId, LeaseMode, MachineId, Name, Owner, Resource, Version};

/// What a resumption is given.
pub(crate) struct Request {
    pub(crate) owner: Owner,
    pub(crate) machine: MachineId,
    pub(crate) boot: BootId,
    pub(crate) remember: Place,
    pub(crate) tell: Tell,
}

/// How a lease is held.
pub(crate) type Hold = (LeaseMode, Version);

pub(crate) fn resume(io: Io, terms: Terms, request: Request) -> Result<Arc<Member>, ResumeError> {
    let host = request.owner.host;
    lock_host(&io, &terms, host).map_err(|error| match error {
        LockError::HeldHere => ResumeError::HeldHere { device: io.device(), host },
        LockError::System { what, source } => ResumeError::System { what, source },
    })?;
    let hosts = Hosts::new(&terms, terms.timeouts.io());
    let keeper = Keeper::of(&request.remember, &io, &terms);
    hosts.recall(keeper.as_ref());
    let started = attempt(&io, &terms, &hosts, &request).and_then(|tenure| {
        Member::start(io.clone(), terms, hosts, tenure, request.tell).map_err(|error| match error {
            JoinError::System { what, source } => ResumeError::System { what, source },
            other => unreachable!("starting threads fails in no other way: {other}"),
        })
    });
    if let (Ok(member), Some(keeper)) = (&started, keeper) {
        member.keep_sightings(keeper);
    }
    // What may be on its way to the disk keeps the next attempt waiting.
    if started.is_err() && io.writes_in_flight() == 0 {
        io.let_go();
    }
    started
}

fn attempt(io: &Io, terms: &Terms, hosts: &Hosts, request: &Request) -> Result<Tenure, ResumeError> {
    let (machine, boot) = (Some(request.machine), Some(request.boot));
    let identity = Identity { name: Name::EMPTY, machine, boot, session: rand::random() };
    let resume = Resume::new(request.owner, identity, terms.clone());
    let driver = Driver { io, lane: Lane::Renewal, geometry: terms.geometry, hosts };
    let (resumed, failure) = match driver.carry_out(resume, &()) {
        Ok(ended) => ended,
        Err(never) => match never {},
    };
    resumed.map(|tenure| *tenure).map_err(|refusal| match (refusal, failure) {
        (Refusal::Storage, Some(error)) => error.into(),
        (refusal, _) => refused(io, request, terms.geometry.delta_offset(request.owner.host), refusal),
    })
}

fn refused(io: &Io, request: &Request, at: u64, refusal: Refusal) -> ResumeError {
    let (device, host) = (io.device(), request.owner.host);
    match refusal {
        Refusal::TooLate { deadline, now } => ResumeError::TooLate { device, host, late: now.since(deadline) },
        Refusal::NeverRenewed => ResumeError::NeverRenewed { device, host },
        Refusal::Released => ResumeError::Released { device, host },
        Refusal::Replaced(record) => {
            ResumeError::Replaced { device, host, name: record.host_name, generation: record.generation }
        }
        Refusal::OtherClock => ResumeError::OtherClock { device, host },
        Refusal::Damaged(reason) => Damage { device, offset: at, what: "host record", reason }.into(),
        Refusal::Foreign(record) => {
            ResumeError::Foreign { device, host, found: record.owner_id, lockspace: record.lockspace }
        }
        Refusal::Storage => unreachable!("an I/O failed, and its error was kept"),
    }
}

impl Member {
    /// Goes on with the lease on a resource: how it is held, if this generation has one, and who may act beside it.
    /// `listed` is how it is known to have held it. All ids in use were looked at before.
    pub(crate) fn take_up(
        &self,
        resource: &Resource,
        listed: Option<Hold>,
    ) -> Result<Option<(LeaseMode, Acquired)>, Gone> {
        let me = self.pulse.me();
        let version = |other| listed.map_or(other, |(_, version)| version);
        let gone = |other, reason| Err(Gone { resource: *resource, version: version(other), reason });
        let unknown = |reason| listed.map_or(Ok(None), |(_, version)| gone(version, reason));
        // Most resources are none of this generation's, and one sector says so.
        let block_at = resource.offset + self.terms.geometry.block_offset(me.host);
        let (size, timeout) = (self.terms.geometry.sector_bytes(), self.terms.timeouts.io());
        let read = self.io.read(Lane::General, block_at, size, timeout).ok();
        let own = read.map(|(_, sector)| reading::block(Ok(&sector), block_at, self.terms.nonce));
        let own = own.and_then(|own| own.good().cloned());
        if let Some(own) = own.as_ref().filter(|own| !Standing::speaks(me, own)) {
            let erased = *own == Block::default();
            return unknown(if erased { GoneReason::BlockErased } else { GoneReason::Released });
        }
        let (span, view) = match (self.read_area(resource), own) {
            (Ok(read), _) => read,
            (Err(error), Some(own)) => return gone(own.instance, error.into()),
            (Err(error), None) => return unknown(error.into()),
        };
        let damage = |offset, what, reason| Damage { device: self.io.device(), offset, what, reason };
        // A leader that can't be read takes nothing away from what was held; of anything else it shows nothing.
        if let Err(reason @ (Defect::Deleted | Defect::Foreign { .. } | Defect::OtherFormatting { .. })) =
            view.leader_of(self.terms.lockspace, resource.name)
        {
            return unknown(damage(resource.offset, "leader", reason).into());
        }
        let standing = self.with_observer(|observer| Standing::of(me, &view, listed, observer));
        let (standing, own) = match standing {
            Ok(found) => found,
            Err(reason) => {
                let reason = damage(block_at, "block", reason).into();
                // Where nothing else says that something was held there is most likely nothing.
                return match view.leader.good().filter(|leader| leader.owner == Some(me) && !leader.is_free()) {
                    Some(leader) => gone(leader.version, reason),
                    None => unknown(reason),
                };
            }
        };
        let go_on = |mode, version, own| {
            let passed = view.claimed_by_others(me.host).collect();
            self.pulse.with_machine(|machine| machine.adopt(resource, (mode, version), own, span.started, passed));
        };
        // The program stops within G; then it is given back, as what is taken by force always is.
        let lose =
            |version, loss| self.pulse.with_machine(|machine| machine.lose_lease((resource.offset, version), loss));
        let unforced = |version| Acquired { version, overridden: Vec::new() };
        match standing {
            Standing::Held(LeaseMode::Shared, version) => {
                go_on(LeaseMode::Shared, version, own);
                Ok(Some((LeaseMode::Shared, unforced(version))))
            }
            Standing::Held(LeaseMode::Exclusive, version) => {
                let now = self.io.now();
                let overridden = self.with_observer(|observer| view.overridden(me, version, observer, now));
                let until = |owner: &Owner| self.with_observer(|observer| observer.acts_until(owner.host, now));
                let overridden = overridden.iter().map(|owner| (*owner, until(owner))).collect();
                go_on(LeaseMode::Exclusive, version, own);
                Ok(Some((LeaseMode::Exclusive, Acquired { version, overridden })))
            }
            Standing::Upgrading(version) => {
                go_on(LeaseMode::Shared, version, own);
                // Called off at once.
                match self.convert(resource, LeaseMode::Exclusive, version, Some(self.io.now())) {
                    Ok(version) => Ok(Some((LeaseMode::Exclusive, unforced(version)))),
                    Err(_) => Ok(Some((LeaseMode::Shared, unforced(version)))),
                }
            }
            Standing::Open(version) => match self.complete(resource, version) {
                Ok(acquired) => Ok(Some((LeaseMode::Exclusive, acquired))),
                Err(error) => gone(version, GoneReason::CutShort(error)),
            },
            Standing::Superseded { mode, version, by, owner } => {
                go_on(mode, version, own);
                lose(version, holding::Loss::Taken { owner, version: by });
                gone(version, GoneReason::Superseded { version: by, owner })
            }
            Standing::Unverified(mode, version) => {
                go_on(mode, version, own);
                lose(version, holding::Loss::Unverified);
                gone(version, GoneReason::Unverified)
            }
            Standing::Leftover => {
                let version = own.instance;
                go_on(LeaseMode::Exclusive, version, own);
                self.release_later(resource, version);
                self.pulse.let_go((resource.offset, version));
                unknown(GoneReason::Released)
            }
            Standing::Nothing => unknown(GoneReason::Released),
        }
    }
}
