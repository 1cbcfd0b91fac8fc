//! What the owner of a delta record says to other hosts in its sector, beside the record: whom it calls, and an event.

use super::leader::RawLeader;
use super::{Corrupt, SectorSize};
use crate::types::HostId;

/// Where the bitmap starts.
pub(super) const BITMAP: usize = 256;

/// All that the owner of a delta record says to other hosts. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Calls {
    /// Whom it calls.
    pub hosts: HostBitmap,
    /// The event that it has for those of them that it is for.
    pub event: Option<HostEvent>,
}

/// The hosts that the owner of a delta record calls: "look, I have a request or an event for you".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostBitmap([u8; HostBitmap::BYTES]);

impl Default for HostBitmap {
    fn default() -> HostBitmap {
        HostBitmap([0; HostBitmap::BYTES])
    }
}

impl HostBitmap {
    const BYTES: usize = 256;

    /// Writes the bitmap to its place in a delta record's sector.
    pub(super) fn write(&self, sector: &mut [u8]) {
        sector[BITMAP..BITMAP + HostBitmap::BYTES].copy_from_slice(&self.0);
    }

    /// Reads the bitmap of a delta record's sector. Any bits are valid; whether the record is,
    /// [`DeltaRecord::decode`](super::DeltaRecord::decode) says.
    ///
    /// # Errors
    /// When the slice isn't one sector.
    pub fn decode(sector: &[u8]) -> Result<HostBitmap, Corrupt> {
        SectorSize::of(sector)?;
        let mut bits = [0; HostBitmap::BYTES];
        bits.copy_from_slice(&sector[BITMAP..BITMAP + HostBitmap::BYTES]);
        Ok(HostBitmap(bits))
    }

    /// Whether nobody is called.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Whether this host is called.
    pub fn contains(&self, host: HostId) -> bool {
        let (byte, bit) = HostBitmap::place(host);
        self.0[byte] & bit != 0
    }

    /// Calls this host.
    pub fn insert(&mut self, host: HostId) {
        let (byte, bit) = HostBitmap::place(host);
        self.0[byte] |= bit;
    }

    /// Ceases to call this host.
    pub fn remove(&mut self, host: HostId) {
        let (byte, bit) = HostBitmap::place(host);
        self.0[byte] &= !bit;
    }

    fn place(host: HostId) -> (usize, u8) {
        let index = host.get() as usize - 1;
        (index / 8, 1 << (index % 8))
    }
}

const _: () = assert!(HostId::MAX as usize <= HostBitmap::BYTES * 8 && BITMAP + HostBitmap::BYTES <= 512);

/// What the owner of a delta record says to a host that it calls. No checksum covers it in a sanlock host's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostEvent {
    /// The generation of the host that it is for; 0: any.
    pub generation: u64,
    /// The event: a number that means what sender and receiver agree on.
    pub event: u64,
    /// What belongs to it.
    pub data: u64,
}

impl HostEvent {
    /// Reads the event from a delta record's sector; `None` when event and data are zero. Whether the record is valid,
    /// [`DeltaRecord::decode`](super::DeltaRecord::decode) says; for whom it is, the [`HostBitmap`].
    ///
    /// # Errors
    /// When the slice isn't one sector.
    pub fn decode(sector: &[u8]) -> Result<Option<HostEvent>, Corrupt> {
        SectorSize::of(sector)?;
        // As `DeltaRecord::encode_with_calls` puts it there.
        let RawLeader { write_id: generation, write_generation: event, write_timestamp: data, .. } =
            RawLeader::read(sector);
        Ok((event != 0 || data != 0).then_some(HostEvent { generation, event, data }))
    }
}
