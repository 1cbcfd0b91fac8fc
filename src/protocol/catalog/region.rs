//! The first bytes of a device, as they were last read or written.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::protocol::procedure::Sectors;

#[derive(Clone, Debug)]
pub(super) struct Region {
    bytes: Vec<u8>,
    /// The size of a sector.
    size: usize,
    /// Where sectors start that could not be read. Their bytes are zero.
    unreadable: BTreeSet<usize>,
}

/// How a part of a region differs from what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// Not at all, as far as it could be read both times.
    None,
    /// A sector can be read that could not be before.
    Appeared,
    /// The sector at that byte has changed.
    Changed(usize),
}

impl Region {
    /// What was read of sectors of that size.
    pub(super) fn of(sectors: &Sectors, size: usize) -> Region {
        let mut region = Region { bytes: Vec::new(), size, unreadable: BTreeSet::new() };
        for sector in sectors.iter() {
            let at = region.bytes.len();
            match sector {
                Ok(sector) => region.bytes.extend_from_slice(sector),
                Err(_) => {
                    region.unreadable.insert(at);
                    region.bytes.resize(at + size, 0);
                }
            }
        }
        region
    }

    /// Its bytes. What could not be read is zero.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether all of it could be read.
    pub(super) fn is_readable(&self) -> bool {
        self.unreadable.is_empty()
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.unreadable.retain(|at| *at < len);
    }

    /// Takes away what stands from byte `at` on.
    pub(super) fn split_off(&mut self, at: usize) -> Region {
        let unreadable = self.unreadable.split_off(&at).into_iter().map(|start| start - at).collect();
        Region { bytes: self.bytes.split_off(at), size: self.size, unreadable }
    }

    /// Takes in what was written.
    pub(super) fn overwrite(&mut self, range: Range<usize>, bytes: &[u8]) {
        self.unreadable.retain(|at| !range.contains(at));
        self.bytes[range].copy_from_slice(bytes);
    }

    /// How `seen`, which was read from byte `start` on, differs from this in the sectors that count.
    pub(super) fn compare(&self, start: usize, seen: &Region, counts: impl Fn(usize) -> bool) -> Difference {
        let known = self.bytes.get(start..).unwrap_or_default();
        let pairs = known.chunks(self.size).zip(seen.bytes.chunks(self.size));
        let mut appeared = false;
        for ((known, now), number) in pairs.zip(0..) {
            let within = number * self.size;
            let at = start + within;
            match (self.unreadable.contains(&at), seen.unreadable.contains(&within)) {
                (false, false) if known != now && counts(at) => return Difference::Changed(at),
                (true, false) => appeared = true,
                _ => {}
            }
        }
        if appeared { Difference::Appeared } else { Difference::None }
    }
}
