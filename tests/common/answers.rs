//! What an acquire is told when somebody else has the resource.

use leasehold::{AcquireError, AcquireOptions, Lease, LeaseMode, Membership, Resource, Taken, Version, Wait};

use super::processes::calmly;
use super::{id, until_some};

/// Who does not wait is told by a busy machine that it was too slow to judge what it had read, which says nothing of
/// the resource. These ask again then.
pub(crate) trait AtOnce {
    fn try_acquire(&self, resource: &Resource) -> Result<Lease, AcquireError>;
    fn try_share(&self, resource: &Resource) -> Result<Lease, AcquireError>;
    fn try_take(&self, resource: &Resource, version: Version) -> Result<Taken, AcquireError>;
}

impl AtOnce for Membership {
    #[track_caller]
    fn try_acquire(&self, resource: &Resource) -> Result<Lease, AcquireError> {
        judged(|| self.acquire(resource, Wait::No))
    }

    #[track_caller]
    fn try_share(&self, resource: &Resource) -> Result<Lease, AcquireError> {
        judged(|| self.acquire(resource, shared(Wait::No)))
    }

    #[track_caller]
    fn try_take(&self, resource: &Resource, version: Version) -> Result<Taken, AcquireError> {
        judged(|| self.take(resource, version, Wait::No))
    }
}

/// Asks until it is answered, as [`AtOnce`].
#[track_caller]
pub(crate) fn judged<T>(ask: impl Fn() -> Result<T, AcquireError>) -> Result<T, AcquireError> {
    until_some("an answer", || match ask() {
        Err(AcquireError::TimedOut { source: None, .. }) => None,
        answer => Some(answer),
    })
}

pub(crate) fn shared(wait: Wait) -> AcquireOptions {
    AcquireOptions::new().mode(LeaseMode::Shared).wait(wait)
}

/// The ids of those who share, whom a refused acquire names.
#[track_caller]
pub(crate) fn sharers(refused: AcquireError) -> Vec<u64> {
    match refused {
        AcquireError::Shared { holders, .. } => holders.iter().map(|holder| holder.host.get()).collect(),
        other => panic!("{other:?}"),
    }
}

/// Asserts that the resource is refused as that host's.
#[track_caller]
pub(crate) fn held_by(asking: &Membership, resource: &Resource, owner: u64) {
    let holder = calmly("an answer", || match asking.acquire(resource, Wait::No) {
        Err(AcquireError::Held { holder, .. }) => Ok(holder.host),
        other => other.map(|lease| panic!("{lease:?}")),
    });
    assert_eq!(holder, id(owner));
}
