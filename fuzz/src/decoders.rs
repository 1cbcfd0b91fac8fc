//! Everything that reads bytes of a device, on any bytes.

use std::time::Duration;

use leasehold::format::{
    Block, DeltaRecord, Geometry, HostBitmap, HostEvent, IndexEntry, IndexHeader, Leader, RecordKind, Request, Value,
    ValueOrigin, fields,
};
use leasehold::{HostId, Timeouts};

use super::input::Input;
use super::records::{Kind, geometry, record, reseal, reseal_value};

const KINDS: [Kind; 6] = [Kind::Delta, Kind::Leader, Kind::Request, Kind::Block, Kind::Index, Kind::Entries];

/// No bytes make a decoder panic; what it returns is valid, and comes back when it is encoded and decoded again.
pub fn decoders(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.pick(&KINDS);
    let geometry = geometry(&mut input);
    let at = input.number().saturating_mul(512);
    let mut sector = match input.below(4) {
        // Of any length.
        0 => {
            decode_all(input.bytes(8192), geometry, at);
            return;
        }
        1 => {
            let mut sector = vec![0; geometry.sector_bytes()];
            let bytes = input.bytes(sector.len());
            sector[..bytes.len()].copy_from_slice(bytes);
            sector
        }
        _ => {
            let sector = record(kind, geometry, 0, at, &mut input);
            decode_all(&sector, geometry, at);
            sector
        }
    };
    while !input.is_empty() {
        let place = usize::from(input.word()) % sector.len();
        let bytes = input.bytes(1 + place % 8);
        let end = sector.len().min(place + bytes.len());
        sector[place..end].copy_from_slice(&bytes[..end - place]);
    }
    decode_all(&sector, geometry, at);
    reseal(kind, &mut sector, at);
    decode_all(&sector, geometry, at);
    reseal_value(&mut sector, at);
    decode_all(&sector, geometry, at);
}

fn decode_all(bytes: &[u8], geometry: Geometry, at: u64) {
    match DeltaRecord::decode(bytes, at) {
        Ok(record) => {
            assert!(record.is_free() || record.owner().is_some() || record.owner_id > HostId::MAX, "{record:?}");
            assert!(record.owner_id <= record.geometry.max_hosts(), "{record:?}");
            let timeouts = record.timeouts(Duration::from_millis(1_500));
            if record.extension.is_some() {
                let [r, t, f, g, d] =
                    [timeouts.renewal(), timeouts.io(), timeouts.fail(), timeouts.fence(), timeouts.dead()];
                assert_eq!(Timeouts::new(r, t, f, g, d), Ok(timeouts));
            }
            assert_eq!(DeltaRecord::decode(&record.encode(at), at), Ok(record));
        }
        Err(reason) => drop(reason.to_string()),
    }
    if let Ok(mut bitmap) = HostBitmap::decode(bytes) {
        for host in (1..=HostId::MAX).filter_map(HostId::new).filter(|host| bitmap.contains(*host)).collect::<Vec<_>>()
        {
            bitmap.remove(host);
        }
        // Room for 2048, of which 2000 are hosts.
        assert!(bitmap.is_empty() || bytes[256 + 250..256 + 256].iter().any(|byte| *byte != 0));
    }
    match Leader::decode(bytes, at) {
        Ok(leader) => {
            assert!((1..=leader.geometry.max_hosts()).contains(&leader.num_hosts), "{leader:?}");
            assert!(leader.is_free() || leader.owner.is_some(), "{leader:?}");
            assert!(leader.owner.is_none_or(|owner| leader.geometry.has_host(owner.host)), "{leader:?}");
            assert_eq!(Leader::decode(&leader.encode(at), at), Ok(leader));
        }
        Err(reason) => drop(reason.to_string()),
    }
    match Block::decode(bytes, at) {
        Ok(block) => assert_eq!(Block::decode(&block.encode(geometry, at), at), Ok(block)),
        Err(reason) => drop(reason.to_string()),
    }
    match Request::decode(bytes) {
        Ok(request) => assert_eq!(Request::decode(&request.encode(geometry)), Ok(request)),
        Err(reason) => drop(reason.to_string()),
    }
    match IndexHeader::decode(bytes, at) {
        Ok(header) => {
            assert!((1..=header.geometry.max_index_entries()).contains(&header.max_resources), "{header:?}");
            assert!(header.resource_offset(header.max_resources - 1) > header.offset || header.offset == u64::MAX);
            assert_eq!(IndexHeader::decode(&header.encode(), at), Ok(header));
        }
        Err(reason) => drop(reason.to_string()),
    }
    match Value::decode(bytes, at) {
        Ok(None) => assert!(bytes.iter().all(|byte| *byte == 0)),
        Ok(Some(Value { data, origin })) => {
            assert!(bytes.starts_with(&data));
            if let ValueOrigin::Lease { version, owner } = origin {
                let again =
                    Value::encode(&data, version, owner, geometry, at).filter(|again| again.len() == bytes.len());
                if let Some(again) = again {
                    assert_eq!(Value::decode(&again, at), Ok(Some(Value { data, origin })));
                }
            }
        }
        Err(reason) => drop(reason.to_string()),
    }
    if let Ok(Some(event)) = HostEvent::decode(bytes) {
        assert!(event.event != 0 || event.data != 0);
    }
    for bytes in bytes.as_chunks().0 {
        match IndexEntry::decode(bytes) {
            Ok(Some(entry)) => assert_eq!(IndexEntry::decode(&entry.encode()), Ok(Some(entry))),
            Ok(None) => {}
            Err(reason) => drop(reason.to_string()),
        }
    }
    let kinds = [
        RecordKind::Delta,
        RecordKind::Leader,
        RecordKind::Request,
        RecordKind::Block,
        RecordKind::IndexHeader,
        RecordKind::IndexEntry,
        RecordKind::Value,
    ];
    for kind in kinds {
        drop(format!("{:?}", fields(kind, bytes)));
    }
}
