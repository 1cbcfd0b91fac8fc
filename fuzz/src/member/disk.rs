//! A disk in memory, and the I/O in flight on it.

use std::collections::BTreeMap;

use leasehold::protocol::member::{Event, IoId};
use leasehold::protocol::procedure::{Extent, Sectors};

use super::super::input::Input;

pub(super) const SECTOR: usize = 512;

/// What stands at which byte. Elsewhere are zeros.
#[derive(Default)]
pub(super) struct Disk(BTreeMap<u64, Vec<u8>>);

pub(super) struct Io {
    pub(super) host: usize,
    pub(super) id: IoId,
    does: Does,
}

enum Does {
    /// What stood in the sectors when it was submitted.
    Read(Vec<(u64, Vec<u8>)>),
    /// What has not landed of it is `Some`.
    Write(Vec<(u64, Option<Vec<u8>>)>),
}

/// How an I/O ends.
#[derive(Clone, Copy)]
pub(super) enum End {
    Well,
    /// Nothing was read, or nothing more lands.
    Failed,
    /// One bit for each sector: is it read as it was before; does it land, of a write that then fails?
    Mixed(u8),
    /// This sector can't be read; the same as above for a write.
    Bad(u8),
    /// A write lands, but is still under way for its carrier.
    Lands,
}

impl End {
    pub(super) fn any(input: &mut Input<'_>) -> End {
        match input.byte() {
            0..=127 => End::Well,
            128..=159 => End::Failed,
            160..=191 => End::Mixed(u8::MAX),
            192..=207 => End::Mixed(input.byte()),
            208..=223 => End::Bad(input.byte()),
            224..=255 => End::Lands,
        }
    }
}

impl Disk {
    pub(super) fn sector(&self, at: u64) -> Vec<u8> {
        self.0.get(&at).cloned().unwrap_or_else(|| vec![0; SECTOR])
    }

    pub(super) fn put(&mut self, at: u64, sector: Vec<u8>) {
        self.0.insert(at, sector);
    }

    /// What its carrier is told; `None`: nothing yet.
    pub(super) fn ends(&mut self, io: &mut Io, how: End) -> Option<Event> {
        match (&mut io.does, how) {
            (Does::Read(_), End::Failed) => Some(Event::ReadFailed(io.id)),
            (Does::Read(before), how) => {
                let mut sectors = Sectors::new(SECTOR);
                let count = before.len();
                for (number, (at, before)) in before.drain(..).enumerate() {
                    match how {
                        End::Bad(bad) if usize::from(bad) % count == number => sectors.push(None),
                        End::Mixed(mask) if mask >> (number % 8) & 1 != 0 => sectors.push(Some(&before)),
                        _ => sectors.push(Some(&self.sector(at))),
                    }
                }
                Some(if sectors.all_unreadable() { Event::ReadFailed(io.id) } else { Event::Read(io.id, sectors) })
            }
            (Does::Write(parts), how) => {
                for (number, (at, bytes)) in parts.iter_mut().enumerate() {
                    let lands = match how {
                        End::Well | End::Lands => true,
                        End::Failed => false,
                        End::Mixed(mask) | End::Bad(mask) => mask >> (number % 8) & 1 != 0,
                    };
                    if let Some(bytes) = bytes.take_if(|_| lands) {
                        self.put(*at, bytes);
                    }
                }
                match how {
                    End::Lands => None,
                    End::Well => Some(Event::Written(io.id)),
                    End::Failed | End::Mixed(_) | End::Bad(_) => Some(Event::WriteFailed(io.id)),
                }
            }
        }
    }

    pub(super) fn reads(&self, host: usize, id: IoId, extents: &[Extent]) -> Io {
        let sectors = extents.iter().flat_map(|it| sectors(it.offset, it.sectors));
        Io { host, id, does: Does::Read(sectors.map(|at| (at, self.sector(at))).collect()) }
    }
}

impl Io {
    pub(super) fn writes(host: usize, id: IoId, offset: u64, bytes: &[u8]) -> Io {
        let parts = bytes.chunks(SECTOR).zip(sectors(offset, u64::MAX >> 10));
        Io { host, id, does: Does::Write(parts.map(|(bytes, at)| (at, Some(bytes.to_vec()))).collect()) }
    }

    pub(super) fn is_write(&self) -> bool {
        matches!(self.does, Does::Write(_))
    }

    /// Whether it writes that sector.
    pub(super) fn writes_to(&self, sector: u64) -> bool {
        matches!(&self.does, Does::Write(parts) if parts.iter().any(|(at, _)| *at == sector))
    }
}

/// Where so many sectors start.
pub(super) fn sectors(offset: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |number| offset + number * SECTOR as u64)
}
