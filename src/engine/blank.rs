//! Whether a device is blank, as far as that can be seen without reading all of it.

use std::time::Duration;

use super::io::Io;
use crate::disk::Lane;
use crate::error::DiskError;
use crate::format::{Block, DeltaRecord, IndexHeader, Leader, Request, SectorSize};
use crate::protocol::catalog::format::LARGEST_AREA;

/// How long a read may take: nothing has a deadline here.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read at once, and the smallest area: at each multiple of it a resource may begin. What is left of partition
/// tables, arrays and pools at the end of a device is in the last one.
const PIECE: u64 = 1 << 20;
/// How many of these are looked at.
const PIECES: u64 = 1 << 16;
/// How many reads wait for the device at once.
const AT_ONCE: usize = 32;
/// A sector of any device.
const SECTOR: u64 = SectorSize::B4096.bytes() as u64;

/// Something on a device.
pub(crate) struct Something {
    /// Where its first byte stands that is not zero.
    pub(crate) offset: u64,
    /// What it is, where that is one of ours or of sanlock's.
    pub(crate) what: Option<&'static str>,
}

/// The first thing that stands on the device: in its first bytes, `written` of them at least, at the start of an area,
/// or at its end. `but_ours`: what a format writes is nothing.
///
/// # Errors
/// What can't be read may be something.
pub(crate) fn first_thing(io: &Io, written: u64, but_ours: bool) -> Result<Option<Something>, DiskError> {
    let sector = io.disk().sector_size().unwrap_or(SectorSize::B4096).bytes() as u64;
    let len = io.disk().len() / sector * sector;
    let start = written.max(LARGEST_AREA).next_multiple_of(PIECE).min(len);
    let starts = (0..start).step_by(PIECE as usize).map(|offset| (offset, PIECE.min(start - offset)));
    let heads = (start..len).step_by(PIECE as usize).take(PIECES as usize);
    let heads = heads.map(|offset| (offset, SECTOR.min(len - offset)));
    let tail = len.saturating_sub(PIECE).max(start);
    let mut reads = starts.chain(heads).chain((tail < len).then_some((tail, len - tail)));
    loop {
        let some: Vec<(u64, usize)> = reads.by_ref().take(AT_ONCE).map(|(at, bytes)| (at, bytes as usize)).collect();
        if some.is_empty() {
            return Ok(None);
        }
        for ((at, _), bytes) in some.iter().zip(io.read_at_once(Lane::General, &some, PATIENCE)?) {
            if let Some(first) = first_byte(&bytes, *at, but_ours) {
                return Ok(Some(Something { offset: at + first as u64, what: record_around(&bytes, first, *at) }));
            }
        }
    }
}

/// The first byte that is not zero in what stands at byte `at` of the device.
fn first_byte(bytes: &[u8], at: u64, but_ours: bool) -> Option<usize> {
    let first = bytes.iter().position(|byte| *byte != 0)?;
    if !but_ours {
        return Some(first);
    }
    let theirs = |(from, sector): &(usize, &[u8])| record_in(sector, at + *from as u64).is_none();
    // What is no large sector of ours may be some small ones.
    let large = sectors(bytes, 0, SectorSize::B4096).filter(theirs);
    let mut small = large.flat_map(|(from, sector)| sectors(sector, from, SectorSize::B512)).filter(theirs);
    small.find_map(|(from, sector)| Some(from + sector.iter().position(|byte| *byte != 0)?))
}

/// The sectors of `bytes`, and where each stands; the first one at `from`.
fn sectors(bytes: &[u8], from: usize, size: SectorSize) -> impl Iterator<Item = (usize, &[u8])> {
    (from..).step_by(size.bytes()).zip(bytes.chunks(size.bytes()))
}

/// The record that the byte `first` of `bytes` is in, which stand at byte `at` of the device.
fn record_around(bytes: &[u8], first: usize, at: u64) -> Option<&'static str> {
    SectorSize::ALL.into_iter().find_map(|size| {
        let start = first / size.bytes() * size.bytes();
        record_in(bytes.get(start..start + size.bytes())?, at + start as u64)
    })
}

/// Which record a format or a host has written to a sector, which stands at byte `at` of the device.
fn record_in(sector: &[u8], at: u64) -> Option<&'static str> {
    let host = || DeltaRecord::decode(sector, at).is_ok() || DeltaRecord::unfinished(sector, at).is_some();
    let index = || IndexHeader::decode(sector, at).is_ok();
    // Whatever begins with zeros decodes as a block that nobody has used.
    let block = || Block::decode(sector, at).is_ok_and(|block| block != Block::default());
    let lease = || Leader::decode(sector, at).is_ok() || Request::decode(sector).is_ok() || block();
    if host() {
        Some("a lockspace")
    } else if index() {
        Some("the index of a lockspace")
    } else if lease() {
        Some("the lease of a resource")
    } else {
        None
    }
}
