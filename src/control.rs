//! Host control: what one host does to the record of another.

use crate::error::{Damage, DiskError, LossReason};
use crate::membership::Membership;
use crate::protocol::declare::Declared;
use crate::types::{Generation, HostId, Name, Owner};

/// Why a host was not declared dead. After each of these but `Unknown`, `Lost` and `Disk` nothing was written;
/// declaring it again is always safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeclareError {
    /// It is this host itself.
    #[error("{target} is this host itself")]
    Own {
        /// Which was to be declared dead.
        target: Owner,
    },
    /// The lockspace has room for fewer hosts.
    #[error("{device} has no host id {}, only {max}", target.host)]
    TooLarge {
        /// Path of the device.
        device: String,
        /// Which was to be declared dead.
        target: Owner,
        /// The largest id there is.
        max: u64,
    },
    /// The host's record shows another generation: what was fenced is not who holds the id now, or it never did.
    #[error("{target} of {device} can't be declared dead: its record shows {name} generation {found}")]
    Generation {
        /// Path of the device.
        device: String,
        /// Which was to be declared dead.
        target: Owner,
        /// The name that the record shows.
        name: Name,
        /// The generation that the record shows; 0 when the id was never held.
        found: u64,
    },
    /// The host was seen to renew its record: it was not fenced.
    #[error("{target} ({name}) of {device} is alive: its record was seen to change")]
    Live {
        /// Path of the device.
        device: String,
        /// Which was to be declared dead.
        target: Owner,
        /// Its name.
        name: Name,
    },
    /// The host's record is damaged: nobody can say which generation it is of. Repair it first.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The record belongs to another lockspace or another id.
    #[error("the record of {target} on {device} belongs to host id {found} of lockspace {lockspace}")]
    Foreign {
        /// Path of the device.
        device: String,
        /// Which was to be declared dead.
        target: Owner,
        /// The id that the record names.
        found: u64,
        /// The lockspace that the record names.
        lockspace: Name,
    },
    /// Reading the record took longer than T, so that nothing could be written on account of it.
    #[error("{target} of {device} was not declared dead: the storage was too slow")]
    Slow {
        /// Path of the device.
        device: String,
        /// Which was to be declared dead.
        target: Owner,
    },
    /// The write failed, or is still in flight: the host is declared dead, or not, or will be at any later time.
    #[error("{target}: whether it was declared dead is not known")]
    Unknown {
        /// Which was to be declared dead.
        target: Owner,
        /// What became of the write.
        #[source]
        source: Option<DiskError>,
    },
    /// The membership of this host is lost, or was left.
    #[error("this host's membership is lost")]
    Lost(#[source] LossReason),
    /// The record could not be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Membership {
    /// Declares a generation of another host dead: what it holds is free at once instead of after D, if it has renewed
    /// its host id at least once; it does so right after the join. Its host id may be taken again by a join that
    /// [names] it, after D; no other join takes it, also not on the same machine.
    ///
    /// **The caller vouches** that it was fenced by other means, such as a power cut or the removal of its reservation:
    /// that nothing which its leases protected acts any more, and that no write of it will reach the device. Where that
    /// is not true two hosts may hold one resource, until the host that was declared dead finds it out: at its next
    /// renewal, with [`LossReason::DeclaredDead`].
    ///
    /// The generation must be the one that the host's record shows, so that a host which came back is not hit. The name
    /// in the record says whose it is: a join that failed may have had the number of the host that holds the id. And
    /// the record must not have changed for R + T of that host, as this membership has seen it: one that renews was not
    /// fenced. The call waits for the rest of that time, and for a read and a write.
    ///
    /// A write of this call that is still in flight ([`DeclareError::Unknown`]) may land when the host has come back,
    /// over the record of its later generation. That one is then lost at its next renewal, and others count D for it.
    ///
    /// [names]: crate::JoinOptions::host_id
    ///
    /// # Errors
    /// See [`DeclareError`].
    pub fn declare_dead(&self, host: HostId, generation: Generation) -> Result<Declared, DeclareError> {
        let target = Owner { host, generation };
        let max = self.lockspace.geometry().max_hosts();
        if host == self.owner().host {
            return Err(DeclareError::Own { target });
        }
        if host.get() > max {
            return Err(DeclareError::TooLarge { device: self.lockspace.device(), target, max });
        }
        self.member.declare_dead(target)
    }
}
