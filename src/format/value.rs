//! The value block of a resource: a sector with data of its users' own.
//!
//! The data starts at the sector's first byte, where the programs of sanlock hosts read and write theirs. The sector's
//! last bytes hold leasehold's mark, with the rule of the extensions: under which ownership the data was written, how
//! long it is, and a checksum of the whole sector and its position.
//!
//! A sanlock host reads the sector when it acquires, lays what its program sets over the first bytes, and writes the
//! sector when it releases. So what it leaves has no mark, or one whose checksum doesn't fit.

use super::bytes::raw_record;
use super::{Corrupt, Field, Geometry, SectorSize, extension, numbers};
use crate::types::{Generation, HostId, Owner, Version};

raw_record! {
    /// What follows the header of the mark, with offsets from the mark's start.
    RawMark 8..40 {
        8 value_length: u64 as Number,
        16 value_version: u64 as Number,
        24 value_owner_id: u64 as Number,
        32 value_owner_generation: u64 as Number,
    }
}

/// Bytes of the mark, its header included.
const MARK: u8 = 40;

/// What a value block holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// The data. Without a valid mark its length isn't known: then these are all bytes up to the last one that isn't
    /// zero.
    pub data: Vec<u8>,
    /// Who vouches for it.
    pub origin: ValueOrigin,
}

/// Who vouches for the data of a value block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueOrigin {
    /// A leasehold host wrote it while it owned the resource, and the checksum fits.
    Lease {
        /// The version under which it was written.
        version: Version,
        /// The owner who wrote it.
        owner: Owner,
    },
    /// Nobody: there is no mark. Another program wrote it, by way of a sanlock host.
    Unmarked,
    /// Nobody: there is a mark, but its checksum doesn't fit. A sanlock host laid data over a value of a leasehold
    /// host, or the sector is damaged; that can't be told apart.
    Altered,
}

impl Value {
    /// The most data that a value block of this geometry has room for beside its mark: 472 or 4056 bytes.
    pub const fn capacity(geometry: Geometry) -> usize {
        mark(geometry.sector())
    }

    /// Reads the value block from its sector, which stands at byte `at` of its device. `None`: the sector is all zero,
    /// nothing was ever written.
    ///
    /// # Errors
    /// When the slice isn't one sector. Any bytes are a value.
    pub fn decode(sector: &[u8], at: u64) -> Result<Option<Value>, Corrupt> {
        let mark = mark(SectorSize::of(sector)?);
        if sector.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (data, origin) = match extension::open(sector, mark, MARK, at) {
            Ok(None) => (until_zeros(sector), ValueOrigin::Unmarked),
            Ok(Some(_)) => match RawMark::read(&sector[mark..]).check(mark) {
                Some((length, origin)) => (&sector[..length], origin),
                None => (until_zeros(&sector[..mark]), ValueOrigin::Altered),
            },
            Err(_) => (until_zeros(&sector[..mark]), ValueOrigin::Altered),
        };
        Ok(Some(Value { data: data.to_vec(), origin }))
    }

    /// The sector for byte `at` of the device that holds `data`, written by `owner` under `version`. `None` when that
    /// is more than [`Value::capacity`].
    pub fn encode(data: &[u8], version: Version, owner: Owner, geometry: Geometry, at: u64) -> Option<Vec<u8>> {
        let mark = Value::capacity(geometry);
        let mut sector = vec![0; geometry.sector_bytes()];
        sector[..mark].get_mut(..data.len())?.copy_from_slice(data);
        let raw = RawMark {
            value_length: data.len() as u64,
            value_version: version.get(),
            value_owner_id: owner.host.get(),
            value_owner_generation: owner.generation.get(),
        };
        raw.write(&mut sector[mark..]);
        extension::seal(&mut sector, mark, MARK, 0, at);
        Some(sector)
    }

    /// Whether it is surely the newest that has landed, where `last` is the version of the last ownership that may have
    /// written: that of the resource, or for an owner that has not written yet the one before its own. (An owner that
    /// died may have had one more write in flight.) False: nobody has written since, or a late write of an earlier
    /// owner has put an old value back, or nobody vouches for it.
    pub fn is_latest(&self, last: Version) -> bool {
        matches!(self.origin, ValueOrigin::Lease { version, .. } if version >= last)
    }
}

impl RawMark {
    fn check(&self, capacity: usize) -> Option<(usize, ValueOrigin)> {
        let length = usize::try_from(self.value_length).ok().filter(|length| *length <= capacity)?;
        let host = HostId::new(self.value_owner_id)?;
        let owner = Owner { host, generation: Generation::new(self.value_owner_generation)? };
        if self.value_version.max(self.value_owner_generation) >= numbers::VALID {
            return None;
        }
        Some((length, ValueOrigin::Lease { version: Version::new(self.value_version), owner }))
    }
}

/// Where the mark starts.
const fn mark(size: SectorSize) -> usize {
    size.bytes() - MARK as usize
}

fn until_zeros(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// The fields of the mark of a value block's sector, valid or not; none where there is no mark.
pub(super) fn fields(sector: &[u8]) -> Vec<Field> {
    let Ok(size) = SectorSize::of(sector) else { return Vec::new() };
    let Some(mut fields) = extension::header_fields(sector, mark(size)) else { return Vec::new() };
    fields.extend(RawMark::read(&sector[mark(size)..]).fields());
    fields
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::AreaSize;

    fn owner() -> Owner {
        Owner { host: HostId::new(7).expect("in range"), generation: Generation::new(9).expect("not 0") }
    }

    fn large() -> Geometry {
        Geometry::for_block_device(SectorSize::B4096)
    }

    proptest! {
        #[test]
        fn a_value_comes_back(data in proptest::collection::vec(any::<u8>(), 0..=472), at in any::<u64>(), large_sector: bool) {
            let geometry = if large_sector { large() } else { Geometry::default() };
            let sector = Value::encode(&data, Version::new(5), owner(), geometry, at).expect("room");
            let origin = ValueOrigin::Lease { version: Version::new(5), owner: owner() };
            // Where a sanlock host's program finds it.
            prop_assert_eq!(&sector[..data.len()], &data[..]);
            prop_assert_eq!(Value::decode(&sector, at), Ok(Some(Value { data, origin })));
        }

        #[test]
        fn no_bit_of_a_value_changes_unseen(at in 0..1_000_000u64, bit in 0..512usize * 8) {
            let mut sector = Value::encode(b"data", Version::new(5), owner(), Geometry::default(), at).expect("room");
            sector[bit / 8] ^= 1 << (bit % 8);
            let value = Value::decode(&sector, at).expect("a sector").expect("a value");
            prop_assert!(matches!(value.origin, ValueOrigin::Altered | ValueOrigin::Unmarked), "{:?}", value);
        }
    }

    #[test]
    fn there_is_room_for_so_much_and_no_more() {
        for (geometry, room) in [(Geometry::default(), 472), (large(), 4056)] {
            assert_eq!(Value::capacity(geometry), room);
            let encode = |len| Value::encode(&vec![1; len], Version::new(1), owner(), geometry, 0);
            assert!(encode(room).is_some() && encode(room + 1).is_none());
        }
        // However many hosts the area has room for.
        let small = Geometry::new(SectorSize::B4096, AreaSize::M1).expect("in the table");
        assert_eq!(small.value_offset(), None);
    }

    /// As sanlock 3.8.5 leaves it: `set_lvb` lays its bytes over the first ones of what it read.
    #[test]
    fn what_a_sanlock_host_leaves_is_a_value_that_nobody_vouches_for() {
        let decode = |sector: &[u8]| Value::decode(sector, 0).expect("a sector");
        let mut sector = vec![0; 512];
        assert_eq!(decode(&sector), None);
        sector[..5].copy_from_slice(b"hello");
        assert_eq!(decode(&sector), Some(Value { data: b"hello".to_vec(), origin: ValueOrigin::Unmarked }));
        let mut sector = Value::encode(b"of ours", Version::new(5), owner(), Geometry::default(), 0).expect("room");
        sector[..2].copy_from_slice(b"in");
        assert_eq!(decode(&sector), Some(Value { data: b"in ours".to_vec(), origin: ValueOrigin::Altered }));
        assert_eq!(decode(&[b'x'; 512]).expect("a value").data.len(), 512);
        assert_eq!(Value::decode(&[0; 100], 0), Err(Corrupt::Length { bytes: 100 }));
    }

    #[test]
    fn one_that_was_written_elsewhere_is_not_vouched_for() {
        let sector = Value::encode(b"data", Version::new(5), owner(), Geometry::default(), 512).expect("room");
        let value = Value::decode(&sector, 1024).expect("a sector").expect("a value");
        assert_eq!(value.origin, ValueOrigin::Altered);
    }

    #[test]
    fn a_value_is_the_latest_where_its_version_says_so() {
        let origin = ValueOrigin::Lease { version: Version::new(5), owner: owner() };
        let value = Value { data: Vec::new(), origin };
        assert!(value.is_latest(Version::new(5)) && !value.is_latest(Version::new(6)));
        assert!(!Value { origin: ValueOrigin::Unmarked, ..value }.is_latest(Version::new(0)));
    }
}
