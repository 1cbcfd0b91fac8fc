//! How large sectors and areas are, and where in an area a record stands.

use std::fmt;

use super::Corrupt;
use crate::types::HostId;

/// The size of a sector: what one atomic write covers, and what one record fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectorSize {
    /// 512 bytes.
    #[default]
    B512,
    /// 4096 bytes.
    B4096,
}

impl SectorSize {
    /// All of them.
    pub(crate) const ALL: [SectorSize; 2] = [SectorSize::B512, SectorSize::B4096];

    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            SectorSize::B512 => 512,
            SectorSize::B4096 => 4096,
        }
    }

    /// The size with that many bytes.
    pub const fn from_bytes(bytes: u64) -> Option<SectorSize> {
        match bytes {
            512 => Some(SectorSize::B512),
            4096 => Some(SectorSize::B4096),
            _ => None,
        }
    }

    /// The size of a slice that ought to be one sector.
    pub(super) fn of(sector: &[u8]) -> Result<SectorSize, Corrupt> {
        SectorSize::from_bytes(sector.len() as u64).ok_or(Corrupt::Length { bytes: sector.len() })
    }
}

impl fmt::Display for SectorSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes())
    }
}

/// The size of an area: the room of one lockspace, one resource or one index ("align" in sanlock's words).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AreaSize {
    /// 1 MiB.
    #[default]
    M1,
    /// 2 MiB.
    M2,
    /// 4 MiB.
    M4,
    /// 8 MiB.
    M8,
}

const MIB: u64 = 1 << 20;

impl AreaSize {
    const ALL: [AreaSize; 4] = [AreaSize::M1, AreaSize::M2, AreaSize::M4, AreaSize::M8];
    /// All flags of a leader record that stand for an area size.
    const LEADER_FLAGS: u32 = 0xf0;

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.mebibytes() as u64 * MIB
    }

    /// In MiB.
    pub const fn mebibytes(self) -> u32 {
        match self {
            AreaSize::M1 => 1,
            AreaSize::M2 => 2,
            AreaSize::M4 => 4,
            AreaSize::M8 => 8,
        }
    }

    /// The size with that many bytes.
    pub fn from_bytes(bytes: u64) -> Option<AreaSize> {
        AreaSize::ALL.into_iter().find(|area| area.bytes() == bytes)
    }

    /// The flag of a leader record that stands for this size.
    pub const fn leader_flag(self) -> u32 {
        self.mebibytes() << 4
    }

    /// The flag of an index header that stands for this size.
    pub const fn index_flag(self) -> u32 {
        self.mebibytes()
    }
}

impl fmt::Display for AreaSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.mebibytes())
    }
}

/// A sector size and an area size that don't go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error(
    "areas of {area} don't go with sectors of {sector}: with 512 bytes only 1 MiB, with 4096 bytes 1, 2, 4 or 8 MiB"
)]
pub struct GeometryError {
    /// The sector size.
    pub sector: SectorSize,
    /// The area size.
    pub area: AreaSize,
}

/// A sector size and an area size that go together.
///
/// | sector | area  | hosts | index entries |
/// |--------|-------|-------|---------------|
/// | 512    | 1 MiB | 2000  | 16000         |
/// | 4096   | 1 MiB | 250   | 16000         |
/// | 4096   | 2 MiB | 500   | 32000         |
/// | 4096   | 4 MiB | 1000  | 64000         |
/// | 4096   | 8 MiB | 2000  | 128000        |
///
/// The default is 512 bytes and 1 MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Geometry {
    sector: SectorSize,
    area: AreaSize,
}

/// The sector of a resource's area that holds its value block.
const VALUE_SECTOR: u64 = 2002;

impl Geometry {
    /// Checks that the two go together.
    ///
    /// # Errors
    /// When the pair is not in the table above.
    pub const fn new(sector: SectorSize, area: AreaSize) -> Result<Geometry, GeometryError> {
        match (sector, area) {
            (SectorSize::B512, AreaSize::M1) | (SectorSize::B4096, _) => Ok(Geometry { sector, area }),
            (SectorSize::B512, _) => Err(GeometryError { sector, area }),
        }
    }

    /// What is used on a block device when nothing else is said: 512 bytes with 1 MiB, 4096 bytes with 8 MiB.
    pub const fn for_block_device(logical: SectorSize) -> Geometry {
        let area = match logical {
            SectorSize::B512 => AreaSize::M1,
            SectorSize::B4096 => AreaSize::M8,
        };
        Geometry { sector: logical, area }
    }

    /// From the fields of a leader record in a sector of `sector` bytes.
    pub(super) fn from_leader(sector: SectorSize, sector_size: u32, flags: u32) -> Result<Geometry, Corrupt> {
        same_sector_size(sector, sector_size)?;
        match flags & AreaSize::LEADER_FLAGS {
            0 => Ok(Geometry::for_block_device(sector)),
            area => Geometry::from_flag(sector, area, AreaSize::leader_flag),
        }
    }

    /// From the fields of an index header in a sector of `sector` bytes.
    pub(super) fn from_index(sector: SectorSize, sector_size: u32, flags: u32) -> Result<Geometry, Corrupt> {
        same_sector_size(sector, sector_size)?;
        Geometry::from_flag(sector, flags, AreaSize::index_flag)
    }

    fn from_flag(sector: SectorSize, flags: u32, flag_of: fn(AreaSize) -> u32) -> Result<Geometry, Corrupt> {
        let area = AreaSize::ALL.into_iter().find(|area| flag_of(*area) == flags);
        area.and_then(|area| Geometry::new(sector, area).ok()).ok_or(Corrupt::AreaSize { flags })
    }

    /// The sector size.
    pub const fn sector(self) -> SectorSize {
        self.sector
    }

    /// The area size.
    pub const fn area(self) -> AreaSize {
        self.area
    }

    /// Bytes of a sector.
    pub const fn sector_bytes(self) -> usize {
        self.sector.bytes()
    }

    /// Bytes of an area.
    pub const fn area_bytes(self) -> u64 {
        self.area.bytes()
    }

    /// Sectors of an area.
    pub const fn sectors_per_area(self) -> usize {
        self.area.bytes() as usize / self.sector.bytes()
    }

    /// The largest host id that an area has room for.
    pub const fn max_hosts(self) -> u64 {
        match self.sector {
            SectorSize::B512 => 2000,
            SectorSize::B4096 => 250 * self.area.mebibytes() as u64,
        }
    }

    /// Whether an area has room for this host.
    pub const fn has_host(self, host: HostId) -> bool {
        host.get() <= self.max_hosts()
    }

    /// How many entries an index area has room for.
    pub const fn max_index_entries(self) -> u32 {
        16_000 * self.area.mebibytes()
    }

    /// Where in a lockspace's area the delta record of a host stands. Beyond the area's end unless
    /// [`Geometry::has_host`].
    pub const fn delta_offset(self, host: HostId) -> u64 {
        (host.get() - 1) * self.sector.bytes() as u64
    }

    /// Where in a resource's area the request record stands.
    pub const fn request_offset(self) -> u64 {
        self.sector.bytes() as u64
    }

    /// Where in a resource's area the block of a host stands. Beyond the area's end unless [`Geometry::has_host`].
    pub const fn block_offset(self, host: HostId) -> u64 {
        (host.get() + 1) * self.sector.bytes() as u64
    }

    /// Where in a resource's area its value block stands. `None` where that place lies outside of the area, in a
    /// neighbour's: such a resource has no value block.
    pub const fn value_offset(self) -> Option<u64> {
        let offset = VALUE_SECTOR * self.sector.bytes() as u64;
        if offset < self.area.bytes() { Some(offset) } else { None }
    }

    /// Where in an index area entry number `entry`, counted from 0, stands.
    pub const fn index_entry_offset(self, entry: u32) -> u64 {
        self.sector.bytes() as u64 + entry as u64 * super::IndexEntry::BYTES as u64
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sectors of {}, areas of {}", self.sector, self.area)
    }
}

fn same_sector_size(sector: SectorSize, found: u32) -> Result<(), Corrupt> {
    if SectorSize::from_bytes(found.into()) == Some(sector) {
        Ok(())
    } else {
        Err(Corrupt::SectorSize { found, expected: sector.bytes() })
    }
}

/// Every host's sectors, the value block and the last index entry must lie inside of the area.
const _: () = {
    let geometries = [
        Geometry { sector: SectorSize::B512, area: AreaSize::M1 },
        Geometry { sector: SectorSize::B4096, area: AreaSize::M1 },
        Geometry { sector: SectorSize::B4096, area: AreaSize::M2 },
        Geometry { sector: SectorSize::B4096, area: AreaSize::M4 },
        Geometry { sector: SectorSize::B4096, area: AreaSize::M8 },
    ];
    let mut i = 0;
    while i < geometries.len() {
        let geometry = geometries[i];
        assert!(geometry.max_hosts() <= HostId::MAX);
        assert!(geometry.max_hosts() as usize + 2 <= geometry.sectors_per_area());
        assert!(geometry.index_entry_offset(geometry.max_index_entries()) <= geometry.area_bytes());
        if let Some(offset) = geometry.value_offset() {
            // Behind the last host's block, too.
            assert!(offset >= (geometry.max_hosts() + 2) * geometry.sector_bytes() as u64);
        }
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let rows = [
            (512, 1, 2000, 16_000, true),
            (4096, 1, 250, 16_000, false),
            (4096, 2, 500, 32_000, false),
            (4096, 4, 1000, 64_000, false),
            (4096, 8, 2000, 128_000, true),
        ];
        let mut valid = Vec::new();
        for sector in [SectorSize::B512, SectorSize::B4096] {
            for area in AreaSize::ALL {
                let Ok(geometry) = Geometry::new(sector, area) else { continue };
                valid.push((
                    geometry.sector_bytes(),
                    geometry.area_bytes() / MIB,
                    geometry.max_hosts(),
                    geometry.max_index_entries(),
                    geometry.value_offset().is_some(),
                ));
            }
        }
        assert_eq!(valid, rows);
    }

    #[test]
    fn a_size_comes_back_from_its_bytes_and_no_other_number_is_one() {
        for area in AreaSize::ALL {
            assert_eq!(AreaSize::from_bytes(area.bytes()), Some(area));
            assert_eq!(AreaSize::from_bytes(area.bytes() + 1), None);
        }
        for sector in [SectorSize::B512, SectorSize::B4096] {
            assert_eq!(SectorSize::from_bytes(sector.bytes() as u64), Some(sector));
        }
        assert_eq!((AreaSize::from_bytes(0), AreaSize::from_bytes(3 * MIB)), (None, None));
        assert_eq!((SectorSize::from_bytes(0), SectorSize::from_bytes(1024)), (None, None));
    }

    #[test]
    fn who_asks_for_sizes_that_do_not_go_together_is_told_both() {
        let refused = Geometry::new(SectorSize::B512, AreaSize::M8).expect_err("not in the table");
        assert!(refused.to_string().starts_with("areas of 8 MiB don't go with sectors of 512 bytes"), "{refused}");
        let geometry = Geometry::new(SectorSize::B4096, AreaSize::M2).expect("in the table");
        assert_eq!((geometry.sector(), geometry.area()), (SectorSize::B4096, AreaSize::M2));
        assert_eq!(geometry.to_string(), "sectors of 4096 bytes, areas of 2 MiB");
    }

    #[test]
    fn defaults_by_device() {
        let default = Geometry::default();
        assert_eq!(Geometry::for_block_device(SectorSize::B512), default);
        assert_eq!(default.area_bytes(), MIB);
        assert_eq!(Geometry::for_block_device(SectorSize::B4096).area_bytes(), 8 * MIB);
    }

    #[test]
    fn places_in_an_area() {
        let host = HostId::new(7).expect("in range");
        let large = Geometry::for_block_device(SectorSize::B4096);
        assert_eq!((large.delta_offset(host), large.block_offset(host)), (6 * 4096, 8 * 4096));
        assert_eq!(Geometry::default().value_offset(), Some(2002 * 512));
        assert_eq!(Geometry::default().index_entry_offset(3), 512 + 3 * 64);
        assert!(
            !Geometry::new(SectorSize::B4096, AreaSize::M1).expect("valid").has_host(HostId::new(251).expect("id"))
        );
    }

    #[test]
    fn a_leader_without_an_area_flag_has_the_default_of_its_sector_size() {
        let of = |sector, size, flags| Geometry::from_leader(sector, size, flags);
        assert_eq!(of(SectorSize::B512, 512, 1), Ok(Geometry::default()));
        assert_eq!(of(SectorSize::B4096, 4096, 0).map(Geometry::area), Ok(AreaSize::M8));
        assert_eq!(of(SectorSize::B4096, 4096, 0x20).map(Geometry::area), Ok(AreaSize::M2));
        assert_eq!(of(SectorSize::B4096, 4096, 0x30), Err(Corrupt::AreaSize { flags: 0x30 }));
        assert_eq!(of(SectorSize::B512, 512, 0x80), Err(Corrupt::AreaSize { flags: 0x80 }));
        assert_eq!(of(SectorSize::B512, 4096, 0x10), Err(Corrupt::SectorSize { found: 4096, expected: 512 }));
    }

    #[test]
    fn an_index_must_have_an_area_flag() {
        assert_eq!(Geometry::from_index(SectorSize::B512, 512, 1), Ok(Geometry::default()));
        assert_eq!(Geometry::from_index(SectorSize::B512, 512, 0), Err(Corrupt::AreaSize { flags: 0 }));
    }
}
