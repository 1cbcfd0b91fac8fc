//! Going on with a membership in another process: after a restart, planned or not.

mod error;
mod token;

use std::collections::BTreeMap;
use std::time::Duration;

pub use error::{Gone, GoneReason, ResumeError};
pub use token::{ResumeToken, TokenError};

use crate::engine::identity;
use crate::engine::member::Member;
use crate::engine::resume::{self, Hold, Request};
use crate::error::{FindError, Holder, LeaveError};
use crate::index;
use crate::join::JoinOptions;
use crate::lease::Lease;
use crate::lockspace::Lockspace;
use crate::membership::Membership;
use crate::protocol::catalog::index::Index;
use crate::types::Resource;

/// A membership that was continued.
#[derive(Debug)]
pub struct Resumed {
    /// Every lease that the generation holds, in the mode and at the version it had: those that the token lists, and
    /// those that were acquired since. What nobody wants any more is to be released.
    pub leases: Vec<Lease>,
    /// The leases that the token lists, and that are not held any more: what they protected must be stopped.
    pub gone: Vec<Gone>,
    /// Of the leases that were taken by force, from whom, and for how long from now on that host may still act, as for
    /// [`Taken::previous`](crate::Taken::previous). The process before this one may not have been told.
    pub previous: Vec<(Resource, Holder, Duration)>,
    /// Host id and generation as before.
    pub membership: Membership,
}

impl Lockspace {
    /// Goes on with the membership of an earlier process of this machine, its predecessor, which was killed or has
    /// [detached](Membership::detach): the same host id and generation, and all its leases at their versions. No other
    /// host notices. What the leases protect may have run on meanwhile.
    ///
    /// It must succeed before the predecessor's deadline; as the predecessor need not have known of its last renewal,
    /// only the one before it counts. So there is at least F - 2R - F / 64 of time after it has ended, and at most F -
    /// R. Later, and on any other refusal, nothing is held: what the leases protected must be gone by G after that
    /// deadline, so it is to be stopped at once. Then a [join](Lockspace::join) takes the host id again after D.
    ///
    /// Host id and host name are the token's: what `options` say of them is not used. A watchdog of theirs is started
    /// before the leases are taken up; see [`Membership::detach`] for that of the predecessor. The process must see the
    /// same `CLOCK_BOOTTIME` as its predecessor, that is be in the same time namespace; and where neither the device's
    /// locks nor the network namespace are shared with the predecessor (see docs/design/host-ids.md), it must have
    /// ended.
    ///
    /// Takes a few I/Os, a read of one sector for each resource, and of the hosts' blocks for each that is held.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use leasehold::disk::MemoryDisk;
    /// use leasehold::{FormatOptions, JoinOptions, Lockspace, ResumeToken, Wait};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let timeouts = leasehold::Profile::Balanced.with_io_timeout(std::time::Duration::from_millis(100))?;
    /// # let options = FormatOptions { timeouts, ..FormatOptions::default() };
    /// let disk = MemoryDisk::new(8 << 20, None);
    /// let restarted = disk.reopen();
    /// leasehold::format(Arc::new(disk.reopen()), &options)?;
    ///
    /// let lockspace = Lockspace::open(Arc::new(disk))?;
    /// let membership = lockspace.join(JoinOptions::new().machine("this one"))?;
    /// let resource = membership.create("database", Wait::No)?;
    /// let lease = membership.acquire(&resource, Wait::No)?;
    /// let (owner, version) = (membership.owner(), lease.version());
    /// // Kept where the next process finds it: a file, its environment, its command line.
    /// let kept = membership.detach()?.to_string();
    /// assert!(!lease.is_held());
    ///
    /// // The next process.
    /// let token: ResumeToken = kept.parse()?;
    /// let lockspace = Lockspace::open(Arc::new(restarted))?;
    /// let resumed = lockspace.resume(&token, JoinOptions::new().machine("this one"))?;
    /// assert!(resumed.gone.is_empty());
    /// assert_eq!(resumed.membership.owner(), owner);
    /// assert_eq!(resumed.leases[0].version(), version);
    /// assert!(resumed.leases[0].is_held());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`ResumeError`].
    pub fn resume(&self, token: &ResumeToken, options: JoinOptions) -> Result<Resumed, ResumeError> {
        let device = self.device();
        if (token.lockspace, token.nonce) != (self.terms.lockspace, self.terms.nonce) {
            return Err(ResumeError::OtherLockspace { device, found: self.name(), lockspace: token.lockspace });
        }
        let JoinOptions { machine, remember, tell, watchdog, .. } = options;
        let host = token.owner.host;
        let machine = match identity::machine(machine.as_deref()) {
            Ok(machine) => machine,
            Err(reason) => return Err(ResumeError::Unidentified { device, host, reason }),
        };
        let boot = match (token.machine.zip(token.boot), identity::boot()) {
            (None, _) => return Err(ResumeError::UnknownPredecessor { device, host }),
            (Some((other, _)), _) if other != machine => return Err(ResumeError::OtherMachine { device, host }),
            (Some(_), None) => return Err(ResumeError::UnknownBoot { device, host }),
            (Some((_, boot)), Some(now)) if boot != now => return Err(ResumeError::Rebooted { device, host }),
            (Some(_), Some(boot)) => boot,
        };
        let request = Request { owner: token.owner, machine, boot, remember, tell };
        let member = resume::resume(self.io.for_member(), self.terms.clone(), request)?;
        // Until it is known what is held nothing may be given back: dropping a membership would give the host id back.
        let scanned = member.wait_for_scan().map_err(ResumeError::Disk);
        let found = scanned.and_then(|_| Ok(self.resources_to_resume(token)?));
        // What follows does not fail any more: a watchdog that was started protects what is held from here on.
        let watched = found.and_then(|resources| {
            watchdog.map_or(Ok(()), |watchdog| member.watch_over(watchdog))?;
            Ok(resources)
        });
        let resources = match watched {
            Ok(resources) => resources,
            Err(error) => {
                let _ = member.detach(&self.index_guard());
                return Err(error);
            }
        };
        let guard = self.index_guard();
        let (mut leases, mut gone, mut previous) = (Vec::new(), Vec::new(), Vec::new());
        for (offset, (resource, listed)) in resources {
            // The device may have become smaller.
            if let Err(place) = self.check_place(offset) {
                gone.extend(listed.map(|(_, version)| Gone { resource, version, reason: place.into() }));
                continue;
            }
            match member.take_up(&resource, listed) {
                // Nobody changes the index any more.
                Ok(Some((_, held))) if offset == guard.offset => member.release_later(&resource, held.version),
                Ok(Some((mode, held))) => {
                    let version = held.version;
                    let others = member.previous(&held).into_iter();
                    previous.extend(others.map(|(holder, bound)| (resource, holder, bound)));
                    leases.push(Lease::new(member.clone(), resource, mode, version));
                    let earlier = listed.map(|(_, listed)| listed).filter(|listed| *listed != version);
                    gone.extend(earlier.map(|version| Gone { resource, version, reason: GoneReason::Released }));
                }
                Ok(None) => {}
                Err(lease) => gone.push(lease),
            }
        }
        Ok(Resumed { leases, gone, previous, membership: Membership::of(member, self.clone()) })
    }

    /// Where the generation may have a lease: every resource that is known, and those that the token lists, with how it
    /// held them.
    fn resources_to_resume(&self, token: &ResumeToken) -> Result<BTreeMap<u64, (Resource, Option<Hold>)>, FindError> {
        let mut resources = BTreeMap::new();
        let mut add = |resource: Resource, hold| {
            resources.entry(resource.offset).or_insert((resource, hold));
        };
        for (resource, mode, version) in &token.leases {
            add(*resource, Some((*mode, *version)));
        }
        let index = match index::read(&self.io, &self.terms) {
            Ok(index) => Some(index),
            Err(FindError::NoIndex { .. } | FindError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        for resource in index.iter().flat_map(Index::resources) {
            add(resource, None);
        }
        add(self.index_guard(), None);
        // What an index that is missing or damaged doesn't say, the areas do.
        if index.is_none_or(|index| index.damaged().next().is_some()) {
            for resource in self.search()? {
                add(resource, None);
            }
        }
        Ok(resources)
    }
}

impl Membership {
    /// The text from which another process of this machine goes on with this membership: see [`Lockspace::resume`].
    /// Reads and writes nothing.
    ///
    /// Take it after the join and keep it outside of this process, and again after each acquire and conversion: then
    /// the next process is told of every lease that is gone. In a child of this process, made by `fork`, it lists none.
    /// A lease that the token doesn't list is found too, but for two cases in which it may be given up: a late write of
    /// a dead host has set back what the device says of it; or it is shared, and another host has tried since to get
    /// the resource for itself alone.
    pub fn token(&self) -> ResumeToken {
        token(&self.member)
    }

    /// Ends this membership without giving anything back, for another process to go on with: stops renewing, waits for
    /// what is in flight, and lets go of the host id's local lock. Acquires that wait end at once. At most F and four
    /// I/O timeouts.
    ///
    /// The successor has F - R from the last renewal. From now on this process holds nothing: its leases say lost, and
    /// dropping them releases nothing.
    ///
    /// A watchdog is not fed any more, nor switched off: it fires by the deadline + G, though a successor has gone on
    /// in time, unless [`Membership::disarm_watchdog`] is called before. So call it: for a
    /// [`SelfKill`](crate::SelfKill) when the successor holds, or when this process is about to end anyway; for a
    /// device before the successor resumes with it, since only one process at a time can have it. From then on until it
    /// resumes no watchdog protects.
    ///
    /// # Errors
    /// See [`LeaveError`]. After `LeasesHeld`, which is said only of acquires, releases and creates under way, the
    /// membership goes on, as it may after `UnderWay`. After `InFlight` it is over, and the id stays locked until these
    /// writes have ended, then [`Membership::token`] can be resumed if it is still in time. After `Lost` there is
    /// nothing to go on with.
    pub fn detach(&self) -> Result<ResumeToken, LeaveError> {
        self.member.detach(&self.lockspace().index_guard())?;
        self.member.sightings_are_kept();
        Ok(token(&self.member))
    }
}

fn token(member: &Member) -> ResumeToken {
    let record = member.pulse.record();
    let leases = match member.pulse.is_forked() {
        true => Vec::new(),
        false => member.pulse.with_machine(|machine| machine.leases().held().collect()),
    };
    let (machine, boot) =
        record.extension.as_ref().map_or((None, None), |extension| (extension.machine, extension.boot));
    ResumeToken {
        nonce: member.terms.nonce,
        lockspace: member.terms.lockspace,
        owner: member.pulse.me(),
        host_name: record.host_name,
        machine,
        boot,
        leases,
    }
}
