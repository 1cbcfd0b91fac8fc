//! What sectors say in one formatting of a device.
//!
//! A write of a host of the lockspace that was here before may land at any later time. Its record is as valid as any,
//! but for the nonce. So what has another nonce is bad: it was perhaps put over a record of this lockspace, of which it
//! says nothing. A record without an extension, which a sanlock host wrote, is told by the lockspace's name alone.

use super::procedure::Sectors;
use super::rules::Rule;
use super::{Defect, Seen};
use crate::format::numbers::Numbers;
use crate::format::{Block, DeltaRecord, Geometry, Leader};
use crate::types::{HostId, Version};

/// The delta record in a sector at byte `at` of its device.
pub fn record(sector: Result<&[u8], Defect>, at: u64, nonce: u32) -> Seen<DeltaRecord> {
    let read = || {
        let record = DeltaRecord::decode(sector?, at)?;
        of_this_formatting(record.nonce(), nonce, record.generation).map(|()| record)
    };
    read().into()
}

/// The delta records of the first ids, whose sectors these are.
pub fn records(sectors: &Sectors, geometry: Geometry, nonce: u32) -> Vec<(HostId, Seen<DeltaRecord>)> {
    let hosts = sectors.iter().zip(1..).filter_map(|(sector, id)| Some((HostId::new(id)?, sector)));
    hosts.map(|(host, sector)| (host, record(sector, geometry.delta_offset(host), nonce))).collect()
}

/// The largest of these ids that is or was in use, or may be; 0: none.
pub fn highest_used(records: &[(HostId, Seen<DeltaRecord>)]) -> u64 {
    let used = |seen: &Seen<DeltaRecord>| seen.good().is_none_or(|record| record.generation != 0);
    records.iter().rev().find(|(_, seen)| used(seen)).map_or(0, |(host, _)| host.get())
}

/// Whether more of the records of all ids are nothing that this lockspace has written than may be its own.
pub fn mostly_foreign(records: &[(HostId, Seen<DeltaRecord>)]) -> bool {
    let may_be_own = |seen: &Seen<DeltaRecord>| matches!(seen, Seen::Good(_) | Seen::Bad(Defect::Unreadable));
    let own = records.iter().filter(|(_, seen)| may_be_own(seen)).count();
    records.len() - own > own
}

/// The leader in a sector at byte `at` of its device.
pub fn leader(sector: Result<&[u8], Defect>, at: u64, nonce: u32) -> Seen<Leader> {
    let read = || {
        let leader = Leader::decode(sector?, at)?;
        of_this_formatting(leader.nonce(), nonce, leader.version.get()).map(|()| leader)
    };
    read().into()
}

/// The block in a sector at byte `at` of its device. One that was never used is the empty one, with or without a nonce.
pub fn block(sector: Result<&[u8], Defect>, at: u64, nonce: u32) -> Seen<Block> {
    let read = || {
        let block = Block::decode(sector?, at)?;
        of_this_formatting(block.nonce(), nonce, block.instance.get())?;
        Ok(if block == Block::blank(nonce, Version::default()) { Block::default() } else { block })
    };
    read().into()
}

/// What a damaged sector still says to sanlock, as `base` reads it. One of another formatting says nothing.
pub fn rest<T, E>(defect: &Defect, sector: &[u8], base: impl FnOnce(&[u8]) -> Result<T, E>) -> Option<T> {
    if matches!(defect, Defect::OtherFormatting { .. }) {
        return None;
    }
    base(sector).ok()
}

/// What a repair takes a sector for: it is damaged, too, where it shows a number that no host reaches, from which
/// nobody may be able to go on.
pub(crate) fn within_reach<T: Numbers>(seen: Seen<T>) -> Seen<T> {
    match seen.good().and_then(Numbers::beyond_reach) {
        Some(corrupt) => Seen::Bad(corrupt.into()),
        None => seen,
    }
}

fn of_this_formatting(shown: Option<u32>, nonce: u32, number: u64) -> Result<(), Defect> {
    match shown {
        Some(shown) if shown != nonce && Rule::NonceIsChecked.is_in_force() => {
            Err(Defect::OtherFormatting { nonce: shown, number })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeouts::Profile;
    use crate::types::Name;

    #[test]
    fn what_can_not_be_read_may_be_own() {
        let foreign = || Seen::Bad(Defect::OtherFormatting { nonce: 8, number: 1 });
        let own = || Seen::Good(DeltaRecord::free(Geometry::default(), Name::EMPTY, 7, Profile::Fast.timeouts()));
        let unreadable = || Seen::Bad(Defect::Unreadable);
        let foreign_to = |records: &[Seen<DeltaRecord>]| {
            let records: Vec<_> = (1..).filter_map(HostId::new).zip(records.iter().cloned()).collect();
            mostly_foreign(&records)
        };
        assert!(!foreign_to(&[]));
        assert!(!foreign_to(&[own(), foreign()]));
        assert!(foreign_to(&[own(), foreign(), foreign()]));
        assert!(!foreign_to(&[own(), unreadable(), foreign(), foreign()]));
    }
}
