//! The rule that the extensions of all records share.
//!
//! An extension stands in bytes that sanlock never reads. It begins with a header of 8 bytes:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u16 | magic 0x484c |
//! | 2 | u8 | length of the extension in bytes, this header included |
//! | 3 | u8 | flags, by record |
//! | 4 | u32 | checksum of the sector, with this field as zero, followed by its offset on the device (u64) |
//!
//! The checksum covers the bytes that the base record's misses, and the offset, so that a sector that was written to,
//! or read from, another place than the intended one is found out.
//!
//! Without the magic there is no extension: sanlock wrote the sector, and it has sanlock's meaning. With the magic, but
//! a checksum or length that is wrong, the whole record is [`Corrupt`]: a sector that rotted, or went astray. It could
//! in theory be a valid one of a sanlock host, which leaves stale memory in its block while it converts a shared lease
//! to an exclusive one. To take that for damage costs time and nothing else: the host rewrites the whole sector with
//! its next step. To take damage for a sanlock record would cost the protection against misdirected writes.

use super::bytes::{get, put, raw_record};
use super::checksum::checksum_of;
use super::{Corrupt, Field};

const MAGIC: u16 = 0x484c;

raw_record! {
    /// The header, with offsets from its own start.
    RawHeader 0..8 {
        0 extension_magic: u16 as Hex,
        2 extension_length: u8 as Number,
        3 extension_flags: u8 as Hex,
        4 extension_checksum: u32 as Hex,
    }
}

const CHECKSUM: usize = 4;
/// Bytes of the header.
pub(super) const HEADER: usize = 8;

/// Checks the extension of `length` bytes at `start` of the sector that stands at byte `at` of its device; gives its
/// flags, or `None` when there is no extension.
pub(super) fn open(sector: &[u8], start: usize, length: u8, at: u64) -> Result<Option<u8>, Corrupt> {
    let header = RawHeader::read(&sector[start..]);
    if header.extension_magic != MAGIC {
        return Ok(None);
    }
    if header.extension_length != length || header.extension_checksum != sum(sector, start, at) {
        return Err(Corrupt::ExtensionChecksum);
    }
    Ok(Some(header.extension_flags))
}

/// Writes the header at `start`. The last thing to be done to a sector: the checksum covers all of it.
pub(super) fn seal(sector: &mut [u8], start: usize, length: u8, flags: u8, at: u64) {
    let header =
        RawHeader { extension_magic: MAGIC, extension_length: length, extension_flags: flags, extension_checksum: 0 };
    header.write(&mut sector[start..]);
    let checksum = sum(sector, start, at);
    put(sector, start + CHECKSUM, &checksum);
}

/// The fields of the header at `start`, when there is one, right or wrong.
pub(super) fn header_fields(sector: &[u8], start: usize) -> Option<Vec<Field>> {
    let present = get::<u16>(sector, start) == MAGIC;
    present.then(|| RawHeader::read(&sector[start..]).fields())
}

fn sum(sector: &[u8], start: usize, at: u64) -> u32 {
    let field = start + CHECKSUM;
    checksum_of(&[&sector[..field], &[0; size_of::<u32>()], &sector[field + size_of::<u32>()..], &at.to_le_bytes()])
}
