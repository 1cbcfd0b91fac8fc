//! Creating a resource: its area and its entry in the index, under the lease that guards the index.

use crate::acquire::Wait;
use crate::error::{AcquireError, CreateError, FindError};
use crate::index;
use crate::membership::Membership;
use crate::protocol::resource::Basis;
use crate::types::{LeaseMode, Name, Resource, Version};

impl Membership {
    /// Creates a resource: takes the first place that is free and makes its area. Its first lease has a version above
    /// any that the area held before, and above any that a resource of this device had when it was formatted. An area
    /// of that name whose entry was lost gets its entry back.
    ///
    /// A place is passed over while a host that began to make something there, and did not end in the orderly way, may
    /// still have a write in flight. An area in which a resource was ever made is not cleared.
    ///
    /// Waits at most `wait` for the lease that guards the index, and writes an area: 1 to 8 MiB.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn create(&self, name: &str, wait: Wait) -> Result<Resource, CreateError> {
        let name = Name::resource(name).map_err(FindError::from)?;
        // Where there is no index its guard's place may have anything.
        index::read_header(&self.member.io, &self.lockspace.terms)?;
        let create = |guard| {
            let index = index::read(&self.member.io, &self.lockspace.terms)?;
            self.member.create(name, guard, index)
        };
        self.guarded(wait, create).map_err(CreateError::Guard)?
    }

    /// Does `work` while holding the lease that guards the index.
    pub(crate) fn guarded<T>(
        &self,
        wait: Wait,
        work: impl FnOnce((Resource, Version)) -> T,
    ) -> Result<T, AcquireError> {
        let resource = self.lockspace.index_guard();
        let deadline = wait.deadline(self.member.io.now());
        let mut turn = None;
        let polled = self.member.poll(deadline, || {
            turn = self.member.index.try_lock();
            turn.is_some()
        });
        polled.map_err(AcquireError::Lost)?;
        let Some(_turn) = turn else { return Err(AcquireError::AlreadyHeld { resource: resource.name }) };
        let guard = self.acquire_by(&resource, LeaseMode::Exclusive, Basis::Any, deadline)?;
        let done = work((resource, guard.version()));
        // A write that is still in flight could spoil what the next one writes here. The work is done, or its error is
        // known, whatever becomes of the guard: the engine goes on with it.
        guard.release_after_writes();
        Ok(done)
    }
}
