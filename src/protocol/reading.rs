//! What sectors say in one formatting of a device.
//!
//! A write of a host of the lockspace that was here before may land at any later time. Its record is as valid as any,
//! but for the nonce. So what has another nonce is bad: it was perhaps put over a record of this lockspace, of which it
//! says nothing. A record without an extension, which a sanlock host wrote, is told by the lockspace's name alone.

use super::rules::in_force;
use super::{Defect, Seen};
use crate::format::numbers::Numbers;
use crate::format::{Block, DeltaRecord, Leader};

/// The delta record in a sector at byte `at` of its device.
pub fn record(sector: Result<&[u8], Defect>, at: u64, nonce: u32) -> Seen<DeltaRecord> {
    let read = || {
        let record = DeltaRecord::decode(sector?, at)?;
        let shown = record.extension.as_ref().map(|extension| extension.nonce);
        of_this_formatting(shown, nonce, record.generation).map(|()| record)
    };
    read().into()
}

/// The leader in a sector at byte `at` of its device.
pub fn leader(sector: Result<&[u8], Defect>, at: u64, nonce: u32) -> Seen<Leader> {
    let read = || {
        let leader = Leader::decode(sector?, at)?;
        let shown = leader.extension.map(|extension| extension.nonce);
        of_this_formatting(shown, nonce, leader.version.get()).map(|()| leader)
    };
    read().into()
}

/// The block in a sector at byte `at` of its device.
pub fn block(sector: Result<&[u8], Defect>, at: u64, nonce: u32) -> Seen<Block> {
    let read = || {
        let block = Block::decode(sector?, at)?;
        let shown = block.extension.as_ref().map(|extension| extension.nonce);
        of_this_formatting(shown, nonce, block.instance.get()).map(|()| block)
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
        Some(shown) if shown != nonce && in_force!(NonceIsChecked) => {
            Err(Defect::OtherFormatting { nonce: shown, number })
        }
        _ => Ok(()),
    }
}
