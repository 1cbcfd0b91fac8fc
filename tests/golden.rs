//! Sectors that a real sanlock wrote, read by this library, and written again byte for byte.
//!
//! tests/fixtures/README.md says how they were made.

use std::fs;
use std::path::PathBuf;

use leasehold::format::{
    AreaSize, Block, Calls, Corrupt, DeltaRecord, Field, FieldValue, Force, Geometry, HostBitmap, HostEvent,
    IndexEntry, IndexHeader, Leader, LeaderExtension, RecordKind, Request, SectorSize, Value, ValueOrigin, checksum,
    fields,
};
use leasehold::{Generation, HostId, Name, Owner, Version};

/// The fixtures of one geometry.
struct Disk {
    geometry: Geometry,
    folder: PathBuf,
    lockspace: Name,
}

fn disks() -> Vec<Disk> {
    let pairs = [
        (SectorSize::B512, AreaSize::M1),
        (SectorSize::B4096, AreaSize::M1),
        (SectorSize::B4096, AreaSize::M2),
        (SectorSize::B4096, AreaSize::M4),
        (SectorSize::B4096, AreaSize::M8),
    ];
    let disk = |(sector, area): (SectorSize, AreaSize)| {
        let (bytes, mib) = (sector.bytes(), area.mebibytes());
        Disk {
            geometry: Geometry::new(sector, area).expect("in the table"),
            folder: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{bytes}-{mib}M")),
            lockspace: name(&format!("ls{mib}-{bytes}")),
        }
    };
    pairs.into_iter().map(disk).collect()
}

impl Disk {
    fn area(&self, number: u64) -> u64 {
        number * self.geometry.area_bytes()
    }

    fn block_offset(&self, area: u64, host: u64) -> u64 {
        self.area(area) + self.geometry.block_offset(host_id(host))
    }

    fn sector(&self, what: &str, offset: u64) -> Vec<u8> {
        let path = self.folder.join(format!("{what}-{offset}.bin"));
        let mut sector = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(sector.len() <= self.geometry.sector_bytes(), "{}", path.display());
        sector.resize(self.geometry.sector_bytes(), 0);
        sector
    }

    /// Reads a delta record, and checks that writing it gives the same bytes.
    fn delta(&self, moment: &str, host: u64) -> DeltaRecord {
        let at = self.geometry.delta_offset(host_id(host));
        let sector = self.sector(&format!("{moment}-delta{host}"), at);
        let record = DeltaRecord::decode(&sector, at).unwrap_or_else(|error| panic!("{moment} {host}: {error}"));
        let calls = Calls {
            hosts: HostBitmap::decode(&sector).expect("a sector"),
            event: HostEvent::decode(&sector).expect("a sector"),
        };
        assert_eq!(record.encode_with_calls(at, &calls), sector, "{moment} {host}");
        assert_eq!((record.geometry, record.lockspace), (self.geometry, self.lockspace));
        assert_eq!((record.io_timeout, &record.extension), (1, &None));
        record
    }

    /// Reads a leader, and checks that writing it gives the same bytes, and with an extension the same up to that.
    fn leader(&self, what: &str, area: u64) -> Leader {
        let at = self.area(area);
        let sector = self.sector(what, at);
        let leader = Leader::decode(&sector, at).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(leader.encode(at), sector, "{what}");
        let extended = Leader { extension: Some(LeaderExtension { nonce: 7, judged: true }), ..leader.clone() };
        let mut again = extended.encode(at);
        assert_eq!(Leader::decode(&again, at), Ok(extended), "{what}");
        again[200..216].fill(0);
        assert_eq!(again, sector, "{what}");
        assert_eq!((leader.geometry, leader.lockspace), (self.geometry, self.lockspace));
        assert_eq!(leader.extension, None);
        leader
    }

    fn block(&self, moment: &str, area: u64, host: u64) -> Block {
        let at = self.block_offset(area, host);
        let sector = self.sector(&format!("{moment}-block{host}"), at);
        let block = Block::decode(&sector, at).unwrap_or_else(|error| panic!("{moment} {host}: {error}"));
        assert_eq!(block.encode(self.geometry, at), sector, "{moment} {host}");
        assert_eq!(block.extension, None);
        block
    }

    fn request(&self, moment: &str, area: u64) -> Request {
        let sector = self.sector(&format!("{moment}-request"), self.area(area) + self.geometry.request_offset());
        let request = Request::decode(&sector).unwrap_or_else(|error| panic!("{moment}: {error}"));
        assert_eq!(request.encode(self.geometry), sector, "{moment}");
        request
    }

    /// The first entries of the index, those in its first sector.
    fn entries(&self, moment: &str) -> Vec<Option<IndexEntry>> {
        let at = self.area(1) + self.geometry.index_entry_offset(0);
        let sector = self.sector(&format!("{moment}-entries"), at);
        let entry = |bytes: &[u8]| {
            let bytes = bytes.first_chunk().expect("whole entries");
            let entry = IndexEntry::decode(bytes).unwrap_or_else(|error| panic!("{moment}: {error}"));
            assert_eq!(entry.as_ref().map_or([0; IndexEntry::BYTES], IndexEntry::encode), *bytes);
            entry
        };
        sector.chunks_exact(IndexEntry::BYTES).map(entry).collect()
    }
}

fn host_id(id: u64) -> HostId {
    HostId::new(id).expect("in range")
}

/// Both hosts are in their first generation in all of the fixtures.
fn owner(host: u64) -> Owner {
    Owner { host: host_id(host), generation: first_generation() }
}

fn first_generation() -> Generation {
    Generation::new(1).expect("not 0")
}

fn name(text: &str) -> Name {
    Name::resource(text).expect("a valid name")
}

#[test]
fn checksum_check_values() {
    assert_eq!(checksum(b"123456789"), 0xe8c7_bb34);
    assert_eq!(checksum(&[0; 48]), 0xcb5a_d842);
}

#[test]
fn delta_records_free_held_and_released() {
    for disk in disks() {
        for host in [1, 2] {
            let fresh = disk.delta("fresh", host);
            assert!(fresh.is_free() && fresh.owner().is_none());
            assert_eq!((fresh.owner_id, fresh.generation, fresh.host_name), (0, 0, Name::EMPTY));

            let joined = disk.delta("joined", host);
            assert!(!joined.is_free());
            assert_eq!(joined.owner(), Some(owner(host)));
            assert_eq!(joined.host_name, name(if host == 1 { "hostA" } else { "hostB" }));
            let timeouts = joined.timeouts(std::time::Duration::from_secs(99));
            assert_eq!((timeouts.fail().as_secs(), timeouts.dead().as_secs()), (8, 68));

            let left = disk.delta("left", host);
            assert!(left.is_free());
            assert_eq!((left.owner(), left.host_name), (joined.owner(), joined.host_name));
        }
    }
}

#[test]
fn a_leader_through_its_life() {
    for disk in disks() {
        let max_hosts = disk.geometry.max_hosts();

        let fresh = disk.leader("fresh-leader", 6);
        let long = name("a-name-of-48-bytes-that-leaves-no-room-for-a-nul");
        assert_eq!(long.as_bytes().len(), Name::FIELD);
        let expected = Leader::new_free(disk.geometry, disk.lockspace, 0, long, 7, Version::new(0));
        assert_eq!(fresh, Leader { extension: None, ..expected });

        let held = disk.leader("held-leader", 3);
        assert_eq!((held.version, held.owner, held.resource), (Version::new(1), Some(owner(1)), name("first")));
        assert!(!held.is_free() && !held.short_hold && !held.cleared);
        assert_eq!((held.writer.id, held.writer.generation, held.num_hosts), (1, 1, max_hosts));
        assert_eq!(held.writer.timestamp, held.timestamp);

        let released = disk.leader("released-leader", 3);
        assert!(released.writer.timestamp >= held.writer.timestamp);
        assert_eq!(released, Leader { timestamp: 0, writer: released.writer, ..held });

        let taken = disk.leader("taken-leader", 3);
        assert_eq!((taken.version, taken.owner, taken.is_free()), (Version::new(2), Some(owner(2)), false));

        // Taken for a moment by both, one after the other.
        let shared = disk.leader("shared-leader", 4);
        assert_eq!((shared.version, shared.is_free()), (Version::new(2), true));
        let converted = disk.leader("converted-leader", 4);
        assert_eq!((converted.version, converted.owner), (Version::new(3), Some(owner(2))));

        let deleted = disk.leader("deleted-leader", 4);
        assert!(deleted.cleared && deleted.is_free());
        assert_eq!((deleted.version, deleted.owner, deleted.resource), (Version::new(0), None, name("second")));
    }
}

#[test]
fn blocks_exclusive_released_and_shared() {
    for disk in disks() {
        let max_hosts = disk.geometry.max_hosts();
        assert_eq!(disk.block("fresh", 6, 1), Block::default());

        let held = disk.block("held", 3, 1);
        let timestamp = disk.leader("held-leader", 3).timestamp;
        let expected = Block {
            mbal: 1,
            bal: 1,
            inp: Some(owner(1)),
            inp_timestamp: timestamp,
            instance: Version::new(1),
            ..Block::default()
        };
        assert_eq!(held, expected);
        let released = disk.block("released", 3, 1);
        assert_eq!(released, Block { released: true, ..held });
        assert_eq!(disk.block("taken", 3, 1), released);

        let taken = disk.block("taken", 3, 2);
        assert_eq!((taken.mbal, taken.bal), (max_hosts + 2, max_hosts + 2));
        assert_eq!((taken.inp, taken.instance, taken.released), (Some(owner(2)), Version::new(2), false));

        for host in [1, 2] {
            let shared = disk.block("shared", 4, host);
            assert_eq!((shared.shared, shared.released), (Some(first_generation()), true));
            assert_eq!((shared.instance, shared.inp), (Version::new(host), Some(owner(host))));
        }
        assert_eq!(disk.block("converted", 4, 1).shared, None);
        let converted = disk.block("converted", 4, 2);
        assert_eq!((converted.shared, converted.released, converted.instance), (None, false, Version::new(3)));
        assert_eq!(disk.block("deleted", 4, 2), Block::default());
    }
}

#[test]
fn a_request_and_the_call_for_its_owner() {
    for disk in disks() {
        assert_eq!(disk.request("fresh", 6), Request::default());
        assert_eq!(disk.request("deleted", 4), Request::default());
        let asked = disk.request("asked", 3);
        assert_eq!(asked, Request { version: Version::new(3), force: Force::Graceful });

        assert_eq!(disk.delta("asked", 1).owner(), Some(owner(1)));
        let sector = disk.sector("asked-delta1", 0);
        let mut called = HostBitmap::decode(&sector).expect("a sector");
        assert!(called.contains(host_id(2)));
        called.remove(host_id(2));
        assert!(called.is_empty());
    }
}

/// Where an area has no room for a value, what sanlock writes for one lands in a neighbour's: there is no fixture then.
#[test]
fn the_value_that_a_program_of_a_sanlock_host_has_set() {
    let mut found = 0;
    for disk in disks() {
        let Some(within) = disk.geometry.value_offset() else { continue };
        let at = disk.area(6) + within;
        let value = Value::decode(&disk.sector("valued-value", at), at).expect("a sector");
        assert_eq!(value, Some(Value { data: b"of sanlock".to_vec(), origin: ValueOrigin::Unmarked }));
        found += 1;
    }
    assert_eq!(found, 2);
}

#[test]
fn the_index_and_the_lease_that_guards_it() {
    for disk in disks() {
        let at = disk.area(1);
        let sector = disk.sector("fresh-index", at);
        let header = IndexHeader::decode(&sector, at).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((header.geometry, header.lockspace), (disk.geometry, disk.lockspace));
        assert_eq!(header.max_resources, IndexHeader::DEFAULT_MAX_RESOURCES);
        assert_eq!(header.encode(), sector);
        let elsewhere = IndexHeader::decode(&sector, at + 512);
        assert_eq!(elsewhere, Err(Corrupt::Position { found: at, expected: at + 512 }));

        let first = IndexEntry { offset: disk.area(3), name: name("first") };
        let second = IndexEntry { offset: disk.area(4), name: name("second") };
        assert_eq!((header.resource_offset(0), header.resource_offset(1)), (first.offset, second.offset));
        let created = disk.entries("created");
        assert_eq!(created[..3], [Some(first.clone()), Some(second), None]);
        assert_eq!(disk.entries("deleted")[..3], [Some(first), None, None]);
        assert_eq!(disk.leader("created-leader", 4).version, Version::new(0));

        let guard = disk.leader("fresh-guard", 2);
        assert_eq!((guard.resource, guard.version), (name("rindex_lease"), Version::new(0)));
        // Owned once for each of the two entries.
        let guard = disk.leader("created-guard", 2);
        assert_eq!((guard.version, guard.owner, guard.is_free()), (Version::new(2), Some(owner(1)), true));
    }
}

/// Every field that sanlock shows of a record has the same name and value here.
#[test]
fn the_dump_says_what_sanlock_says() {
    for disk in disks() {
        let records = [
            ("left-delta1", RecordKind::Delta, 0),
            ("left-delta2", RecordKind::Delta, disk.geometry.delta_offset(host_id(2))),
            ("left-leader", RecordKind::Leader, disk.area(3)),
        ];
        for (what, kind, offset) in records {
            let ours = fields(kind, &disk.sector(what, offset));
            let theirs = fs::read_to_string(disk.folder.join(format!("{what}.txt"))).expect("a fixture");
            let mut compared = 0;
            for line in theirs.lines() {
                let Some((key, value)) = line.split_once(' ') else { continue };
                // It shows the event of a delta record, which has no names of its own on disk, as extra1 to extra3.
                let key = match key {
                    "extra1" => "write_id",
                    "extra2" => "write_generation",
                    "extra3" => "write_timestamp",
                    "read_leader" => continue,
                    key => key,
                };
                let field = ours.iter().find(|field| field.name == key);
                let field = field.unwrap_or_else(|| panic!("{what}: no field {key}"));
                assert_eq!(shown(field), value.trim(), "{what}: {key}");
                compared += 1;
            }
            assert!(compared >= 15, "{what}: only {compared} fields compared");
        }
    }
}

fn shown(field: &Field) -> String {
    match &field.value {
        FieldValue::Number(number) => number.to_string(),
        FieldValue::Hex(number) => format!("{number:#x}"),
        FieldValue::Text(name) => name.to_string(),
        other => format!("{other:?}"),
    }
}
