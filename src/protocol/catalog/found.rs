//! Which lockspace stands at the start of a device.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::format::{DeltaRecord, SectorSize};
use crate::protocol::delta::Terms;
use crate::types::HostId;

/// T for records that don't say one: sanlock's own default.
pub const DEFAULT_IO_TIMEOUT: Duration = Duration::from_secs(10);

/// A lockspace as its host records show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What its hosts keep to.
    pub terms: Terms,
    /// The valid records, also those of another formatting.
    pub records: BTreeMap<HostId, DeltaRecord>,
    /// Whether it was formatted to the end.
    pub complete: bool,
}

impl Found {
    /// Looks for a lockspace in the first bytes of a device. Of several formattings the one counts that most records
    /// show: others' writes may have landed late. `None`: no sector is a valid record.
    pub fn search(bytes: &[u8]) -> Option<Found> {
        let sizes = [SectorSize::B512, SectorSize::B4096].into_iter();
        let records = sizes.map(|size| valid_records(bytes, size)).max_by_key(BTreeMap::len)?;
        let mut formattings: BTreeMap<u32, usize> = BTreeMap::new();
        for extension in records.values().filter_map(|record| record.extension.as_ref()) {
            *formattings.entry(extension.nonce).or_default() += 1;
        }
        let nonce = formattings.iter().max_by_key(|(_, count)| **count).map(|(nonce, _)| *nonce);
        let shows = |record: &&DeltaRecord| record.extension.as_ref().map(|extension| extension.nonce) == nonce;
        let any = records.values().find(shows)?;
        let terms = Terms {
            geometry: any.geometry,
            lockspace: any.lockspace,
            nonce: nonce.unwrap_or(0),
            timeouts: any.timeouts(DEFAULT_IO_TIMEOUT),
        };
        // Formatting begins by taking the first magic number away and ends by writing it. A first record that is zero
        // altogether is a damaged one, and so is the first write of a formatting that landed late, and of which there
        // is nothing else.
        let first = &bytes[..terms.geometry.sector_bytes()];
        let begun = first[..4] == [0; 4] && first[4..8] != [0; 4];
        let stray = |nonce| !formattings.contains_key(&nonce);
        let complete = !begun || DeltaRecord::unfinished(first, 0).is_some_and(stray);
        Some(Found { terms, records, complete })
    }
}

fn valid_records(bytes: &[u8], size: SectorSize) -> BTreeMap<HostId, DeltaRecord> {
    let sectors = bytes.chunks_exact(size.bytes()).zip(0..);
    let valid = sectors.filter_map(|(sector, number)| {
        let host = HostId::new(number + 1)?;
        let record = DeltaRecord::decode(sector, number * size.bytes() as u64).ok()?;
        let named = record.owner_id == host.get() || record.owner_id == 0 && record.is_free();
        (named && record.geometry.has_host(host)).then_some((host, record))
    });
    valid.collect()
}
