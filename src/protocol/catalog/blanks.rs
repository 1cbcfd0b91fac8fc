//! What areas hold that nobody has used.
//!
//! A write may land when another lockspace has long been in use. So each sector of a lease says of which formatting it
//! is. A block that nobody has used has the nonce, too: elsewhere it does not pass for an empty one, and what it was
//! written over is not taken for nothing.

use crate::format::{Block, Geometry, IndexHeader, Leader, Request};
use crate::protocol::procedure::Extent;
use crate::protocol::rules::Rule;
use crate::types::{HostId, Version};

/// Bytes, and where they belong.
pub(super) type Piece = (u64, Vec<u8>);

/// Bytes that are written at once.
pub(super) const CHUNK: usize = 1 << 20;

/// Sectors of the area at byte `area`, none of them the first: the request asks for nothing, and the blocks are blank.
/// Where there is no request at all a sanlock host can't ask for the resource.
pub(super) fn sectors(geometry: Geometry, area: u64, extent: Extent, nonce: u32, version: Version) -> Vec<u8> {
    let size = geometry.sector_bytes() as u64;
    let blank = match Rule::BlankHasNonce.is_in_force() {
        true => Block::blank(nonce, version),
        false => Block::default(),
    };
    let places = (extent.offset..).step_by(geometry.sector_bytes()).take(extent.sectors as usize);
    let sector = |at: u64| {
        if at == area + geometry.request_offset() {
            return Request::default().encode(geometry);
        }
        // The blocks of the largest ids may be followed by more.
        let host = HostId::new((at - area) / size - 1).filter(|host| geometry.has_host(*host));
        host.map_or_else(|| vec![0; geometry.sector_bytes()], |_| blank.encode(geometry, at))
    };
    places.flat_map(sector).collect()
}

/// The index without entries, of whose area the first `len` bytes are written. Its header comes last.
pub(super) fn index(header: &IndexHeader, len: usize) -> Vec<Piece> {
    let mut pieces = chunks(header.offset, &vec![0; len]);
    pieces.push((header.offset, header.encode()));
    pieces
}

/// The area at byte `at` of a resource that nobody ever held, of which the first `len` bytes are written. Its leader
/// comes last, and not together with the blocks: they show the version, too, should one of them be lost.
pub(super) fn resource(leader: &Leader, nonce: u32, at: u64, len: usize) -> Vec<Piece> {
    let geometry = leader.geometry;
    let (first, size) = (at + geometry.request_offset(), geometry.sector_bytes());
    let extent = Extent { offset: first, sectors: (len / size) as u64 - 1 };
    let version = if Rule::BlankHasVersion.is_in_force() { leader.version } else { Version::default() };
    let mut pieces = chunks(first, &sectors(geometry, at, extent, nonce, version));
    pieces.push((at, leader.encode(at)));
    pieces
}

fn chunks(at: u64, bytes: &[u8]) -> Vec<Piece> {
    bytes.chunks(CHUNK).zip(0..).map(|(chunk, number)| (at + number * CHUNK as u64, chunk.to_vec())).collect()
}
