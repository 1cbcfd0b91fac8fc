//! Which lockspace stands at the start of a device.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::format::{AreaSize, DeltaRecord, Geometry, SectorSize};
use crate::protocol::delta::Terms;
use crate::protocol::rules::Rule;
use crate::types::HostId;

/// Areas of any sizes are of so many bytes or more, and begin at a multiple of that.
pub(super) const SMALLEST_AREA: u64 = AreaSize::M1.bytes();

/// T for records that don't say one: sanlock's own default.
pub const DEFAULT_IO_TIMEOUT: Duration = Duration::from_secs(10);

/// A lockspace as its host records show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What its hosts keep to.
    pub terms: Terms,
    /// The valid records, also those of another formatting, and the first ones where they were left unfinished.
    pub records: BTreeMap<HostId, DeltaRecord>,
    /// Whether it was formatted to the end.
    pub complete: bool,
    /// The formatting that has begun to replace it and was interrupted: it has taken both of the first records. One
    /// late write alone does not look like that.
    begun: Option<u32>,
}

impl Found {
    /// Looks for a lockspace in the first bytes of a device. Of several formattings the one counts that most records
    /// show, and of several sizes the ones whose records take the most room of the first mebibyte, which those of any
    /// sizes fill: others' writes may have landed late. `None`: no sector is a valid record.
    pub fn search(bytes: &[u8]) -> Option<Found> {
        let sized = SectorSize::ALL.map(|size| (size, valid_records(bytes, size)));
        let room = |(size, records): &(SectorSize, BTreeMap<HostId, _>)| {
            let first = records.keys().take_while(|host| host.get() <= SMALLEST_AREA / size.bytes() as u64);
            first.count() * size.bytes()
        };
        let (_, mut records) = sized.into_iter().max_by_key(room)?;
        let mut formattings: BTreeMap<u32, usize> = BTreeMap::new();
        for nonce in records.values().filter_map(DeltaRecord::nonce) {
            *formattings.entry(nonce).or_default() += 1;
        }
        let nonce = formattings.iter().max_by_key(|(_, count)| **count).map(|(nonce, _)| *nonce);
        let shows = |record: &&DeltaRecord| record.nonce() == nonce;
        let any = records.values().find(shows)?;
        let terms = Terms {
            geometry: any.geometry,
            lockspace: any.lockspace,
            nonce: nonce.unwrap_or(0),
            timeouts: any.timeouts(DEFAULT_IO_TIMEOUT),
        };
        let heads = HEADS.map(|host| Head::of(host, bytes, &records, (terms.geometry, nonce)));
        let complete = match heads.each_ref().map(|head| head.mark) {
            [Mark::Finished, _] => true,
            [Mark::Unfinished, _] => false,
            // Something has landed late on the first one, or it is damaged.
            [_, Mark::Finished] | [Mark::Damaged, Mark::Damaged] => true,
            [_, _] => !Rule::TwoRecordsCommit.is_in_force(),
        };
        let begun = match heads.each_ref().map(|head| head.unfinished.as_ref().and_then(DeltaRecord::nonce)) {
            [Some(first), Some(second)] if first == second => Some(first),
            _ => None,
        };
        records.extend(heads.into_iter().filter_map(|head| Some((head.host, head.unfinished?))));
        Some(Found { terms, records, complete, begun })
    }

    /// Whether a record is of this lockspace: what another formatting has written, or a host of that, says nothing.
    pub(super) fn has(&self, record: &DeltaRecord) -> bool {
        record.nonce().is_none_or(|nonce| nonce == self.terms.nonce) || !Rule::StrangerIsNotFree.is_in_force()
    }

    /// Whether a record shows the generation of its id: it is of this lockspace, or goes on from what that showed.
    pub(super) fn shows_generation(&self, record: &DeltaRecord) -> bool {
        self.has(record) || self.begun.is_some() && record.nonce() == self.begun
    }
}

/// The ids whose records say whether a formatting has come to its end. It takes their magic numbers away when it
/// begins, and writes them at the end, the first one last of all. One of them alone may be hit by a late write.
pub(super) const HEADS: [HostId; 2] = [HostId::FIRST, HostId::SECOND];

/// What one of these records says.
struct Head {
    host: HostId,
    mark: Mark,
    unfinished: Option<DeltaRecord>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Finished,
    Unfinished,
    /// It is of another formatting.
    Other,
    Damaged,
}

impl Head {
    fn of(
        host: HostId,
        bytes: &[u8],
        records: &BTreeMap<HostId, DeltaRecord>,
        (geometry, nonce): (Geometry, Option<u32>),
    ) -> Head {
        let at = geometry.delta_offset(host);
        let sector = bytes.get(at as usize..at as usize + geometry.sector_bytes()).unwrap_or_default();
        let unfinished = DeltaRecord::unfinished(sector, at);
        let shown = records.get(&host).or(unfinished.as_ref());
        // Taken away by whoever writes no extension. One that is zero altogether is damaged.
        let begun = sector.len() > 8 && sector[..4] == [0; 4] && sector[4..8] != [0; 4];
        let mark = match shown.map(DeltaRecord::nonce) {
            Some(Some(shown)) if Some(shown) != nonce => Mark::Other,
            Some(_) if unfinished.is_some() => Mark::Unfinished,
            Some(_) => Mark::Finished,
            None if begun => Mark::Unfinished,
            None => Mark::Damaged,
        };
        Head { host, mark, unfinished }
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
