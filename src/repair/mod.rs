//! Repair: what of a lockspace is damaged, and writing it anew.
//!
//! Each sector is written by who may write it: a host's record by anybody once the host is gone, its block only by who
//! holds its id, a leader by a ballot, the index by who holds the lease that guards it.

mod examine;
mod index;

use std::fmt;
use std::time::Duration;

use crate::acquire::Wait;
use crate::engine::values::WriteError;
use crate::error::{AcquireError, Damage, DiskError, LossReason};
use crate::format::Request;
use crate::lease::Lease;
use crate::membership::Membership;
use crate::types::{HostId, LeaseMode, Resource, Time, Version};

pub use index::EntryFlaw;

/// Something that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The delta record of a host.
    HostRecord {
        /// Whose.
        host: HostId,
        /// What is wrong.
        damage: Damage,
    },
    /// The resource index.
    Index {
        /// What is wrong with its header.
        header: Option<Damage>,
        /// Entries that don't say what stands in their areas.
        entries: Vec<EntryFlaw>,
    },
    /// The leader of a resource.
    Leader {
        /// Which one.
        resource: Resource,
        /// What is wrong.
        damage: Damage,
    },
    /// The request record of a resource.
    Request {
        /// Which one.
        resource: Resource,
        /// What is wrong.
        damage: Damage,
    },
    /// The block of a host in the area of a resource.
    Block {
        /// Which resource.
        resource: Resource,
        /// Whose block.
        host: HostId,
        /// What is wrong.
        damage: Damage,
    },
}

impl Finding {
    /// What is wrong, place by place. An index that only lacks an entry has no damage.
    pub fn damages(&self) -> Vec<&Damage> {
        match self {
            Finding::HostRecord { damage, .. }
            | Finding::Leader { damage, .. }
            | Finding::Request { damage, .. }
            | Finding::Block { damage, .. } => vec![damage],
            Finding::Index { header, entries } => {
                header.iter().chain(entries.iter().filter_map(|flaw| flaw.damage.as_ref())).collect()
            }
        }
    }

    /// What a repair of it does.
    pub fn remedy(&self) -> String {
        match self {
            Finding::HostRecord { host, .. } => {
                format!("write the record of host {host} anew, with the generation that is known of it")
            }
            Finding::Index { header, entries } => {
                let header = if header.is_some() { "the header and " } else { "" };
                format!("write {header}{} entries of the index as the areas say", entries.len())
            }
            Finding::Leader { resource, .. } => {
                format!("write the leader of {} anew, when nobody holds it", resource.name())
            }
            Finding::Request { resource, .. } => {
                format!("write an empty request of {}", resource.name())
            }
            Finding::Block { resource, host, .. } => {
                format!("as host {host}: acquire {} and release it", resource.name())
            }
        }
    }
}

/// What a repair has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repaired {
    /// Nothing: it is not damaged any more.
    Sound,
    /// The delta record of a host is valid again.
    Host {
        /// The generation that it shows.
        generation: u64,
        /// Whether a join that [names](crate::JoinOptions::host_id) the id may take it. Else it has to be declared dead
        /// first.
        free: bool,
    },
    /// The index says what the areas say.
    Index {
        /// Entries that were written.
        entries: usize,
    },
    /// The leader is valid again.
    Leader {
        /// The version that it shows, which nobody holds.
        version: Version,
    },
    /// The request asks for nothing.
    Request,
    /// The block is valid again.
    Block,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Repaired::Sound => write!(f, "it is not damaged any more"),
            Repaired::Host { generation, free: true } => write!(f, "written as free after generation {generation}"),
            Repaired::Host { generation, free: false } => {
                write!(f, "written as not released by generation {generation}: declare that dead to free the id")
            }
            Repaired::Index { entries } => write!(f, "{entries} entries written"),
            Repaired::Leader { version } => write!(f, "written as free after version {version}"),
            Repaired::Request => write!(f, "written as asking for nothing"),
            Repaired::Block => write!(f, "written anew"),
        }
    }
}

/// How to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairOptions {
    /// How long to wait until a host counts as dead, or for a lease.
    pub wait: Wait,
    /// The caller vouches that the host whose record is damaged was fenced, as for [`Membership::declare_dead`]: its
    /// record is written as free.
    pub fenced: bool,
}

/// Why something was not repaired. Repairing it again is always safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The host whose record is damaged may still be alive: it finds that out itself, or counts as dead later. Nothing
    /// was written.
    #[error("host {host} may be alive, its record is left alone")]
    MayLive {
        /// Whose record.
        host: HostId,
        /// When it will count as dead, if it shows no life.
        gone_in: Option<Duration>,
    },
    /// The own record is damaged: this membership is about to be lost. Nothing was written.
    #[error("host {host} is this host itself")]
    Own {
        /// This host.
        host: HostId,
    },
    /// A block is written only by who holds its host id: join as that host. Nothing was written.
    #[error("{resource}: the block of host {host} is repaired only by a member with that id")]
    OtherHost {
        /// Whose area.
        resource: crate::types::Name,
        /// Whose block.
        host: HostId,
    },
    /// The resource, or the lease that guards the index, was not acquired.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// It was written, and is damaged again, or still.
    #[error("still damaged: {0}")]
    Damaged(Damage),
    /// The membership of this host is lost, or was left.
    #[error("this host's membership is lost")]
    Lost(#[source] LossReason),
    /// An I/O failed. A write may have landed, or may land later.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<WriteError> for RepairError {
    fn from(error: WriteError) -> RepairError {
        match error {
            WriteError::Lost(reason) => RepairError::Lost(reason),
            WriteError::Disk(error) => error.into(),
        }
    }
}

impl Membership {
    /// Repairs one thing that [`Lockspace::examine`](crate::Lockspace::examine) found.
    ///
    /// - **A host's record** is written with the largest generation that is known of the host, once the host counts as
    ///   dead. It is not released, unless its own checksum still says that it was or the caller vouches for it: so
    ///   nobody takes the id before [`Membership::declare_dead`]. One that is free now is taken as after that: by a
    ///   join that [names](crate::JoinOptions::host_id) it.
    /// - **The index** is written as the areas say, under the lease that guards it.
    /// - **A leader** is written by a ballot that is far beyond every version that is known, and released at once. Only
    ///   when nobody who may be active claims any version, shares the resource or has a damaged block there.
    /// - **A request** is written as one that asks for nothing.
    /// - **A block** of this host is written by an acquire, which may end without the lease.
    ///
    /// # Errors
    /// See [`RepairError`].
    pub fn repair(&self, finding: &Finding, options: RepairOptions) -> Result<Repaired, RepairError> {
        self.member.pulse.held().map_err(RepairError::Lost)?;
        let deadline = options.wait.deadline(self.member.io.now());
        match finding {
            Finding::HostRecord { host, .. } if *host == self.owner().host => Err(RepairError::Own { host: *host }),
            Finding::HostRecord { host, .. } => {
                let shown = self.lockspace.generation_shown(*host)?;
                self.member.repair_host(*host, shown, options.fenced, deadline.unwrap_or_default())
            }
            Finding::Index { .. } => self.guarded(options.wait, |guard| self.repair_index(guard))?,
            Finding::Leader { resource, .. } => self.repair_leader(resource, deadline),
            Finding::Request { resource, .. } => self.repair_request(resource),
            Finding::Block { resource, host, .. } if *host == self.owner().host => self.repair_block(resource),
            Finding::Block { resource, host, .. } => {
                Err(RepairError::OtherHost { resource: resource.name(), host: *host })
            }
        }
    }

    fn repair_leader(&self, resource: &Resource, deadline: Option<Time>) -> Result<Repaired, RepairError> {
        loop {
            let Some(rest) = self.lockspace.damaged_leader(resource)? else { return Ok(Repaired::Sound) };
            let now = self.member.io.now();
            match self.member.rebuild_leader(resource, rest) {
                Ok(acquired) => {
                    let lease = Lease::new(self.member.clone(), *resource, LeaseMode::Exclusive, acquired.version);
                    // What is left of it the engine goes on with; the leader is valid in any case.
                    let _ = lease.release();
                    return Ok(Repaired::Leader { version: acquired.version });
                }
                Err(AcquireError::Held { .. } | AcquireError::Shared { .. } | AcquireError::BlockDamaged { .. })
                    if deadline.is_some_and(|deadline| now < deadline)
                        && self.member.pulse.sleep(now + self.lockspace.timeouts().renewal()) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn repair_request(&self, resource: &Resource) -> Result<Repaired, RepairError> {
        self.member.write_request(resource, Request::default())?;
        Ok(Repaired::Request)
    }

    /// An acquire that waits writes a damaged own block before anything else, whoever holds the resource.
    fn repair_block(&self, resource: &Resource) -> Result<Repaired, RepairError> {
        match self.member.repair_block(resource) {
            Ok(acquired) => {
                let lease = Lease::new(self.member.clone(), *resource, LeaseMode::Exclusive, acquired.version);
                // What is left of it the engine goes on with; the block is valid in any case.
                let _ = lease.release();
            }
            Err(
                AcquireError::Held { .. }
                | AcquireError::Shared { .. }
                | AcquireError::BlockDamaged { .. }
                | AcquireError::TimedOut { .. },
            ) => {}
            Err(error) => return Err(error.into()),
        }
        let (own, damages) = (self.owner().host, self.lockspace.examine_area(*resource)?);
        let still = damages.into_iter().find_map(|finding| match finding {
            Finding::Block { host, damage, .. } if host == own => Some(damage),
            _ => None,
        });
        still.map_or(Ok(Repaired::Block), |damage| Err(RepairError::Damaged(damage)))
    }
}
