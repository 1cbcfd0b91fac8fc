//! The request record: one host asks the owner of a resource to yield.

use super::bytes::raw_record;
use super::leader::same_version;
use super::numbers::Numbers;
use super::{Corrupt, Field, Geometry, SectorSize};
use crate::types::Version;

const MAGIC: u32 = 0x0829_2011;
const VERSION: u32 = 0x0001_0001;

raw_record! {
    /// A request record as it stands on disk, unchecked.
    RawRequest 0..20 {
        0 magic: u32 as Hex,
        4 version: u32 as Hex,
        8 lver: u64 as Number,
        16 force_mode: u32 as Number,
    }
}

/// The second sector of a resource's area. It has no checksum. The default asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Request {
    /// The version that the requester wants to own: an owner of a smaller one is asked to yield.
    pub version: Version,
    /// What the owner is asked to do.
    pub force: Force,
}

/// What a request asks of the owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Force {
    /// Nothing: there is no request.
    #[default]
    None,
    /// To kill the program that the lease protects.
    Kill,
    /// To stop that program in the orderly way.
    Graceful,
}

impl Request {
    /// Reads a request from its sector.
    ///
    /// # Errors
    /// [`Corrupt`], with the first check that failed.
    pub fn decode(sector: &[u8]) -> Result<Request, Corrupt> {
        SectorSize::of(sector)?;
        let raw = RawRequest::read(sector);
        if raw.magic != MAGIC {
            return Err(Corrupt::Magic { found: raw.magic, expected: MAGIC });
        }
        same_version(raw.version, VERSION)?;
        let force = match raw.force_mode {
            0 => Force::None,
            1 => Force::Kill,
            2 => Force::Graceful,
            found => return Err(Corrupt::Force { found }),
        };
        Request { version: Version::new(raw.lver), force }.checked()
    }

    /// The sector that holds this request.
    pub fn encode(&self, geometry: Geometry) -> Vec<u8> {
        let mut sector = vec![0; geometry.sector_bytes()];
        let force_mode = match self.force {
            Force::None => 0,
            Force::Kill => 1,
            Force::Graceful => 2,
        };
        RawRequest { magic: MAGIC, version: VERSION, lver: self.version.get(), force_mode }.write(&mut sector);
        sector
    }
}

impl Numbers for Request {
    fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("lver", self.version.get())].into_iter()
    }
}

/// The fields of a request's sector, valid or not.
pub(super) fn fields(sector: &[u8]) -> Vec<Field> {
    RawRequest::read(sector).fields()
}
