//! How large the numbers of a record may be: generations, versions, ballot numbers.
//!
//! | below | |
//! |---|---|
//! | 2^60 | versions that a host writes; generations and ballot numbers that hosts reach |
//! | 2^61 | generations and ballot numbers that a host writes |
//! | 2^62 | what a valid record shows: what is computed from a few of its numbers doesn't overflow |
//!
//! Hosts count up by one for each ownership, by some 2^30 where a record may have landed late, by some 2^32 for a
//! damaged block, and by 2^40 for a leader that was lost. A valid record may show a number that no host reaches. Nobody
//! gets far from there, or nobody at all: so a repair takes the record for damaged, as all do from 2^62 on. It may then
//! go on with a smaller number. That is why nobody writes a version that a repair doesn't count: what may have been
//! held stays below what is held later.
//!
//! A timestamp of a delta record is in whole seconds, and computed with in nanoseconds: below 2^34, which is 544 years
//! since the boot. Those of leaders and blocks are only carried on, and may be anything.

use super::Corrupt;

/// What a valid record shows is below.
pub(crate) const VALID: u64 = 1 << 62;
/// Generations and ballot numbers that a host writes are below.
const WRITTEN: u64 = 1 << 61;
/// Generations and ballot numbers that hosts reach are below, and versions that they write.
const REACHED: u64 = 1 << 60;
/// The timestamp of a delta record is below.
const SECONDS: u64 = 1 << 34;

const _: () = assert!(SECONDS.checked_mul(1_000_000_000).is_some());

/// A record with numbers that grow.
pub(crate) trait Numbers {
    /// These numbers, with the names of their fields.
    fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)>;

    /// The record, if its numbers are those of a valid one.
    fn checked(self) -> Result<Self, Corrupt>
    where
        Self: Sized,
    {
        self.first_from(VALID).map_or(Ok(self), Err)
    }

    /// The first number that no host reaches.
    fn beyond_reach(&self) -> Option<Corrupt> {
        self.first_from(REACHED)
    }

    fn first_from(&self, limit: u64) -> Option<Corrupt> {
        let (field, found) = self.numbers().find(|(_, number)| *number >= limit)?;
        Some(Corrupt::Number { field, found, limit })
    }
}

/// A generation or ballot number after one that a record shows, if a host may write it.
pub(crate) fn written(field: &'static str, number: Option<u64>) -> Result<u64, Corrupt> {
    let found = number.unwrap_or(u64::MAX);
    if found < WRITTEN { Ok(found) } else { Err(Corrupt::Number { field, found, limit: WRITTEN }) }
}

/// Whether hosts reach it; a version: whether a host may write it.
pub(crate) const fn is_reached(number: u64) -> bool {
    number < REACHED
}

pub(super) fn seconds(field: &'static str, found: u64) -> Result<u64, Corrupt> {
    if found < SECONDS { Ok(found) } else { Err(Corrupt::Number { field, found, limit: SECONDS }) }
}
