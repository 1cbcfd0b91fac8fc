//! Properties of all records: round trips, damage, misdirection.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::numbers::VALID;
use super::*;
use crate::timeouts::Profile;
use crate::types::{BootId, Generation, HostId, MachineId, Owner, Time, Version};

fn geometries() -> impl Strategy<Value = Geometry> {
    let with_4096 = |area| Geometry::new(SectorSize::B4096, area).expect("in the table");
    prop_oneof![
        Just(Geometry::default()),
        Just(with_4096(AreaSize::M1)),
        Just(with_4096(AreaSize::M2)),
        Just(with_4096(AreaSize::M4)),
        Just(with_4096(AreaSize::M8)),
    ]
}

fn offsets() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), (0..1_u64 << 40).prop_map(|sector| sector * 512)]
}

fn names() -> impl Strategy<Value = Name> {
    proptest::collection::vec(any::<u8>(), 0..=Name::FIELD).prop_map(|bytes| {
        let mut field = [0; Name::FIELD];
        field[..bytes.len()].copy_from_slice(&bytes);
        Name::from_field(field)
    })
}

/// A host that every geometry has room for.
fn owners() -> impl Strategy<Value = Owner> {
    (1..=250_u64, 1..VALID).prop_map(|(host, generation)| Owner {
        host: HostId::new(host).expect("in range"),
        generation: Generation::new(generation).expect("not 0"),
    })
}

fn versions_but_0() -> impl Strategy<Value = Option<Version>> {
    proptest::option::of((1..VALID).prop_map(Version::new))
}

fn delta_extensions() -> impl Strategy<Value = DeltaExtension> {
    let profiles = prop_oneof![Just(Profile::Fast), Just(Profile::Balanced), Just(Profile::Sanlock)];
    let declared = prop::option::of((1..=HostId::MAX).prop_map(|id| HostId::new(id).expect("in range")));
    let left = 0..64_u8;
    (any::<[u32; 5]>(), any::<u64>(), any::<bool>(), declared, left, profiles).prop_map(
        |(words, machine, confirmed, declared_by, left, profile)| {
            let [nonce, session, boot, started_us, superseded] = words;
            let session = if declared_by.is_some() { 0 } else { session };
            let timeouts = profile.timeouts();
            DeltaExtension {
                nonce,
                session,
                boot: BootId::new(boot),
                started_us,
                machine: MachineId::new(machine),
                superseded,
                confirmed,
                declared_by,
                left,
                timeouts,
            }
        },
    )
}

prop_compose! {
    fn deltas()(
        geometry in geometries(),
        owner in proptest::option::of(owners()),
        timestamp in 0..1_u64 << 34,
        (lockspace, host_name) in (names(), names()),
        io_timeout in any::<u16>(),
        extension in proptest::option::of(delta_extensions()),
    ) -> DeltaRecord {
        DeltaRecord {
            geometry,
            lockspace,
            owner_id: owner.map_or(0, |owner| owner.host.get()),
            generation: owner.map_or(0, |owner| owner.generation.get()),
            host_name,
            timestamp: if owner.is_some() { timestamp } else { 0 },
            io_timeout,
            extension,
        }
    }
}

prop_compose! {
    fn leaders()(
        geometry in geometries(),
        (cleared, short_hold) in any::<(bool, bool)>(),
        hosts in any::<Index>(),
        owner in proptest::option::of(owners()),
        (version, timestamp) in (0..VALID, any::<u64>()),
        (lockspace, resource) in (names(), names()),
        writer in any::<(u64, u64, u64)>(),
        extension in any::<(u32, bool)>(),
    ) -> Leader {
        Leader {
            geometry,
            cleared,
            short_hold,
            num_hosts: 1 + hosts.index(geometry.max_hosts() as usize) as u64,
            owner,
            version: Version::new(version),
            lockspace,
            resource,
            timestamp: if owner.is_some() { timestamp } else { 0 },
            writer: Writer { id: writer.0, generation: writer.1, timestamp: writer.2 },
            extension: Some(LeaderExtension { nonce: extension.0, judged: extension.1 }),
        }
    }
}

prop_compose! {
    fn blocks()(
        (mbal, bal, instance, inp_timestamp) in (0..VALID, 0..VALID, 0..VALID, any::<u64>()),
        inp in proptest::option::of(owners()),
        released in any::<bool>(),
        shared in proptest::option::of((1..VALID).prop_map(|number| Generation::new(number).expect("not 0"))),
        extension in proptest::option::of((
            (0..VALID, any::<u32>()),
            proptest::array::uniform5(versions_but_0()),
            any::<(bool, bool)>(),
        )),
    ) -> Block {
        Block {
            mbal,
            bal,
            inp,
            inp_timestamp: if inp.is_some() { inp_timestamp } else { 0 },
            instance: Version::new(instance),
            released,
            shared,
            extension: extension.map(|((generation, nonce), versions, (shares, making))| {
                let [waiting, burned, holds, receives, withdrawn] = versions;
                BlockExtension { generation, nonce, waiting, burned, shares, holds, receives, withdrawn, making }
            }),
        }
    }
}

prop_compose! {
    fn index_headers()(
        geometry in geometries(),
        entries in any::<Index>(),
        offset in offsets(),
        lockspace in names(),
    ) -> IndexHeader {
        let max_resources = 1 + entries.index(geometry.max_index_entries() as usize) as u32;
        IndexHeader { geometry, max_resources, offset, lockspace }
    }
}

/// A valid sector of any kind, and where it stands.
fn sectors() -> impl Strategy<Value = (Vec<u8>, u64)> {
    let requests = (0..VALID, prop_oneof![Just(Force::None), Just(Force::Kill), Just(Force::Graceful)])
        .prop_map(|(version, force)| Request { version: Version::new(version), force });
    prop_oneof![
        (deltas(), offsets()).prop_map(|(record, at)| (record.encode(at), at)),
        (leaders(), offsets()).prop_map(|(record, at)| (record.encode(at), at)),
        (blocks(), geometries(), offsets()).prop_map(|(record, geometry, at)| (record.encode(geometry, at), at)),
        (requests, geometries()).prop_map(|(record, geometry)| (record.encode(geometry), 0)),
        index_headers().prop_map(|record| (record.encode(), record.offset)),
    ]
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |length| proptest::collection::vec(any::<u8>(), length);
    prop_oneof![bytes(0..600), bytes(512..513), bytes(4096..4097)]
}

/// Everything that reads bytes, on these. It must come back.
fn read_as_all(bytes: &[u8], at: u64) {
    let _ = DeltaRecord::decode(bytes, at);
    let _ = HostBitmap::decode(bytes);
    let _ = HostEvent::decode(bytes);
    let _ = Leader::decode(bytes, at);
    let _ = Block::decode(bytes, at);
    let _ = Request::decode(bytes);
    let _ = IndexHeader::decode(bytes, at);
    let _ = Value::decode(bytes, at);
    if let Some(entry) = bytes.first_chunk() {
        let _ = IndexEntry::decode(entry);
    }
    for kind in ALL_KINDS {
        let _ = fields(kind, bytes);
    }
}

const ALL_KINDS: [RecordKind; 7] = [
    RecordKind::Delta,
    RecordKind::Leader,
    RecordKind::Request,
    RecordKind::Block,
    RecordKind::IndexHeader,
    RecordKind::IndexEntry,
    RecordKind::Value,
];

/// Mostly near the end of something.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (30..=64_u32, 0..3_u64).prop_map(|(bit, less)| (u64::MAX >> (64 - bit)).wrapping_add(2 - less))
    ]
}

proptest! {
    /// Each number of each record, in turn.
    #[test]
    fn a_number_that_no_host_writes_is_corrupt(
        (mut delta, mut leader, mut block) in (deltas(), leaders(), blocks()),
        number in numbers(), which in any::<Index>(), at in offsets(),
    ) {
        let version = Version::new(number);
        let some = Generation::new(number.max(1)).expect("not 0");
        let owner = Owner { host: HostId::new(7).expect("in range"), generation: some };
        let mut limit = VALID;
        let extension = block.extension.get_or_insert_default();
        let mut all = [
            &mut block.mbal, &mut block.bal, &mut extension.generation, &mut delta.generation, &mut delta.timestamp,
        ];
        let chosen = which.index(all.len() + 10);
        if let Some(field) = all.get_mut(chosen) {
            **field = number.max(1);
        }
        match chosen {
            4 => limit = 1 << 34,
            5 => block.instance = version,
            6 => block.inp = Some(owner),
            7 => block.shared = Some(some),
            8 => extension.waiting = Some(version),
            9 => extension.holds = Some(version),
            10 => extension.receives = Some(version),
            11 => extension.withdrawn = Some(version),
            12 => extension.burned = Some(version),
            13 => leader.version = version,
            14 => leader.owner = Some(owner),
            _ => {}
        }
        delta.owner_id = 7;
        delta.generation = delta.generation.max(1);
        let geometry = Geometry::default();
        let read = match chosen {
            3 | 4 => DeltaRecord::decode(&delta.encode(at), at).map(drop),
            13 | 14 => Leader::decode(&leader.encode(at), at).map(drop),
            _ => Block::decode(&block.encode(geometry, at), at).map(drop),
        };
        match read {
            Ok(()) => prop_assert!(number < limit),
            Err(Corrupt::Number { found, limit: said, .. }) => prop_assert!(found == number && said == limit && number >= limit),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// A clock's time is read from any record without an overflow.
    #[test]
    fn any_record_that_is_valid_says_when_it_was_written(record in deltas(), now in any::<u64>(), until in any::<u64>()) {
        let _ = (record.started(), record.held_until());
        let mut next = record;
        next.begin_write(Time::from_nanos(now), Time::from_nanos(until));
        let _ = (next.started(), next.held_until());
    }

    #[test]
    fn a_delta_record_comes_back(record in deltas(), at in offsets()) {
        prop_assert_eq!(DeltaRecord::decode(&record.encode(at), at), Ok(record));
    }

    #[test]
    fn calls_come_back_and_leave_the_record_alone(
        record in deltas(), at in offsets(), called in proptest::collection::btree_set(1..=HostId::MAX, 0..9),
        event in proptest::option::of((any::<u64>(), 1..u64::MAX, any::<u64>())),
    ) {
        let mut hosts = HostBitmap::default();
        for id in &called {
            hosts.insert(HostId::new(*id).expect("in range"));
        }
        let event = event.map(|(generation, event, data)| HostEvent { generation, event, data });
        let sector = record.encode_with_calls(at, &Calls { hosts, event });
        prop_assert_eq!(DeltaRecord::decode(&sector, at), Ok(record));
        prop_assert_eq!(HostEvent::decode(&sector), Ok(event));
        let mut read = HostBitmap::decode(&sector).expect("a sector");
        for id in 1..=HostId::MAX {
            let host = HostId::new(id).expect("in range");
            prop_assert_eq!(read.contains(host), called.contains(&id), "host {}", id);
            read.remove(host);
        }
        prop_assert!(read.is_empty());
    }

    #[test]
    fn a_leader_comes_back(leader in leaders(), at in offsets()) {
        prop_assert_eq!(Leader::decode(&leader.encode(at), at), Ok(leader));
    }

    #[test]
    fn a_block_comes_back(block in blocks(), geometry in geometries(), at in offsets()) {
        prop_assert_eq!(Block::decode(&block.encode(geometry, at), at), Ok(block));
    }

    #[test]
    fn an_index_header_comes_back(header in index_headers()) {
        prop_assert_eq!(IndexHeader::decode(&header.encode(), header.offset), Ok(header));
    }

    #[test]
    fn an_index_entry_comes_back(offset in 1..=u64::MAX, name in names()) {
        prop_assume!(!name.is_empty());
        let entry = IndexEntry { offset, name };
        prop_assert_eq!(IndexEntry::decode(&entry.encode()), Ok(Some(entry)));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        bytes in noise(), at in any::<u64>()
    ) {
        read_as_all(&bytes, at);
    }

    /// Damage leaves the magic numbers and most of the checks behind it intact: it gets further than noise does.
    #[test]
    fn damaged_sectors_are_read_without_a_panic(
        (mut sector, at) in sectors(), damage in proptest::collection::vec((0..600_usize, any::<u8>()), 0..4)
    ) {
        for (place, byte) in damage {
            let place = place % sector.len();
            sector[place] = byte;
        }
        read_as_all(&sector, at);
    }

    /// Damage with the checksum made to fit: only the checks behind the checksum can catch it.
    #[test]
    fn sealed_nonsense_is_read_without_a_panic(
        record in leaders(), at in offsets(), damage in proptest::collection::vec((8..168_usize, any::<u8>()), 0..4)
    ) {
        let mut sector = record.encode(at);
        for (place, byte) in damage {
            sector[place] = byte;
        }
        let sum = checksum(&sector[..168]);
        sector[168..172].copy_from_slice(&sum.to_le_bytes());
        for extended in [true, false] {
            if !extended {
                sector[200..216].fill(0);
            }
            if let Ok(leader) = Leader::decode(&sector, at) {
                prop_assert!(leader.num_hosts >= 1 && leader.num_hosts <= leader.geometry.max_hosts());
                prop_assert!(leader.is_free() || leader.owner.is_some());
                prop_assert!(leader.owner.is_none_or(|owner| leader.geometry.has_host(owner.host)));
            }
        }
    }

    /// The base checksum covers 168 bytes, the extension's covers the rest of the sector.
    #[test]
    fn a_flipped_bit_anywhere_is_detected(record in deltas(), leader in leaders(), at in offsets(), bit in any::<Index>()) {
        let mut sector = leader.encode(at);
        let flipped = bit.index(sector.len() * 8);
        sector[flipped / 8] ^= 1 << (flipped % 8);
        let read = Leader::decode(&sector, at);
        // The extension's own magic: without it the sector is one that sanlock wrote.
        prop_assert!(read.is_err() || (1600..1616).contains(&flipped), "bit {} of a leader", flipped);

        let mut sector = record.encode(at);
        let flipped = bit.index(sector.len() * 8);
        sector[flipped / 8] ^= 1 << (flipped % 8);
        let read = DeltaRecord::decode(&sector, at);
        let covered = if record.extension.is_some() { sector.len() * 8 } else { 172 * 8 };
        prop_assert!(read.is_err() || flipped >= covered || (1600..1616).contains(&flipped), "bit {} of a delta", flipped);
    }

    #[test]
    fn a_flipped_bit_of_a_block_is_detected(
        block in blocks(), geometry in geometries(), at in offsets(), bit in any::<Index>()
    ) {
        let mut sector = block.encode(geometry, at);
        // An empty ballot has no checksum, and is changed into one that needs it.
        let covered = if block.extension.is_some() { sector.len() * 8 } else { 52 * 8 };
        let flipped = bit.index(covered);
        sector[flipped / 8] ^= 1 << (flipped % 8);
        prop_assert!(Block::decode(&sector, at).is_err() || (448..464).contains(&flipped), "bit {}", flipped);
    }

    #[test]
    fn a_sector_of_another_place_is_detected(
        record in deltas(), extension in delta_extensions(), leader in leaders(), block in blocks(),
        geometry in geometries(), header in index_headers(), at in offsets(), other in offsets(),
    ) {
        prop_assume!(at != other);
        let record = DeltaRecord { extension: Some(extension), ..record };
        prop_assert_eq!(DeltaRecord::decode(&record.encode(at), other), Err(Corrupt::ExtensionChecksum));
        prop_assert_eq!(Leader::decode(&leader.encode(at), other), Err(Corrupt::ExtensionChecksum));
        let extension = Some(BlockExtension { generation: 1, ..BlockExtension::default() });
        let block = Block { extension, ..block };
        prop_assert_eq!(Block::decode(&block.encode(geometry, at), other), Err(Corrupt::ExtensionChecksum));
        let header = IndexHeader { offset: at, ..header };
        let expected = Err(Corrupt::Position { found: at, expected: other });
        prop_assert_eq!(IndexHeader::decode(&header.encode(), other), expected);
    }

    #[test]
    fn a_request_comes_back(version in 0..VALID, geometry in geometries()) {
        for force in [Force::None, Force::Kill, Force::Graceful] {
            let request = Request { version: Version::new(version), force };
            prop_assert_eq!(Request::decode(&request.encode(geometry)), Ok(request));
        }
    }
}

fn name(text: &str) -> Name {
    Name::resource(text).expect("a valid name")
}

fn held_delta() -> DeltaRecord {
    DeltaRecord {
        geometry: Geometry::default(),
        lockspace: name("ls"),
        owner_id: 3,
        generation: 9,
        host_name: name("host"),
        timestamp: 77,
        io_timeout: 0,
        extension: None,
    }
}

#[test]
fn no_extension_means_the_rule_of_sanlock() {
    let own = Duration::from_millis(1_001);
    let dead_after = |io_timeout| DeltaRecord { io_timeout, ..held_delta() }.timeouts(own).dead().as_secs();
    assert_eq!(dead_after(10), 140);
    // Not said: the reader's own, rounded up.
    assert_eq!(dead_after(0), 8 * 2 + 60);
    assert_eq!(held_delta().timeouts(Duration::ZERO).dead().as_secs(), 68);
    assert_eq!(dead_after(u16::MAX), 8 * 65_535 + 60);
}

#[test]
fn an_extension_that_sanlock_erased_leaves_a_valid_record() {
    let leader = Leader::new_free(Geometry::default(), name("ls"), 7, name("r"), 2000, Version::new(4));
    let mut sector = leader.encode(512);
    sector[200..256].fill(0);
    assert_eq!(Leader::decode(&sector, 512), Ok(Leader { extension: None, ..leader }));
}

proptest! {
    /// A successor may hold no longer than the writer did for certain, and every write is to be seen as a change.
    #[test]
    fn a_delta_record_tells_its_start_and_until_when_its_writer_held(
        start in 0..1_u64 << 50,
        steps in proptest::collection::vec((0..3_000_000_000_u64, 0..600_u64), 1..8),
        profile in prop_oneof![Just(Profile::Fast), Just(Profile::Balanced), Just(Profile::Sanlock)],
    ) {
        let (fail, second) = (profile.timeouts().fail(), Time::from_nanos(1_000_000_000));
        let mut record = DeltaRecord::free(Geometry::default(), name("ls"), 1, profile.timeouts());
        (record.owner_id, record.generation) = (1, 1);
        let mut now = Time::from_nanos(start);
        for (step, left_ms) in steps {
            now = now + Duration::from_nanos(step);
            let held_until = now + fail.min(Duration::from_millis(left_ms));
            let before = record.clone();
            record.begin_write(now, held_until);
            prop_assert_ne!(&record, &before);
            let read = DeltaRecord::decode(&record.encode(0), 0);
            prop_assert_eq!(read.as_ref(), Ok(&record));
            let started = record.started().expect("held");
            let certain = record.held_until();
            // Only a clock that is younger than a second, or that stands still, is behind what the record says.
            prop_assert!(started <= now.max(second) + Duration::from_micros(8));
            prop_assert!(step < 1_000 || now < second || started <= now && now.since(started) < Duration::from_micros(1));
            prop_assert!(certain.is_none_or(|certain| certain <= held_until));
            let lost = held_until.since(certain.unwrap_or(now));
            prop_assert!(lost <= fail / 64 + Duration::from_micros(1) || now < second);
        }
    }
}

#[test]
fn an_extension_of_another_length_is_no_extension_of_ours() {
    let leader = Leader::new_free(Geometry::default(), name("ls"), 7, name("r"), 2000, Version::new(4));
    let mut sector = leader.encode(0);
    extension::seal(&mut sector, 200, 24, 0, 0);
    assert_eq!(Leader::decode(&sector, 0), Err(Corrupt::ExtensionChecksum));
}

#[test]
fn timeouts_on_disk_that_fail_an_inequality_are_refused_with_the_reason() {
    let timeouts = Profile::Balanced.timeouts();
    let extension = DeltaExtension {
        nonce: 1,
        session: 2,
        boot: BootId::new(3),
        started_us: 4,
        machine: MachineId::new(5),
        superseded: 0,
        confirmed: true,
        declared_by: None,
        left: 0,
        timeouts,
    };
    let mut sector = DeltaRecord { extension: Some(extension), ..held_delta() }.encode(0);
    // D, the last field, becomes smaller than F + G.
    sector[252..256].copy_from_slice(&8_999_u32.to_le_bytes());
    extension::seal(&mut sector, 200, 56, 1, 0);
    let refused = DeltaRecord::decode(&sector, 0).expect_err("an inequality fails");
    assert_eq!(refused, Corrupt::ExtensionTimeouts { millis: [1_000, 1_000, 6_000, 3_000, 8_999] });
    assert!(refused.to_string().contains("more than dead 8999 ms"), "{refused}");
}

#[test]
fn what_is_held_is_held_by_somebody() {
    let nobody = DeltaRecord { generation: 0, ..held_delta() };
    assert_eq!(DeltaRecord::decode(&nobody.encode(0), 0), Err(Corrupt::NoOwner { id: 3, generation: 0 }));
    let outside = DeltaRecord { owner_id: 2001, ..held_delta() };
    assert_eq!(DeltaRecord::decode(&outside.encode(0), 0), Err(Corrupt::OwnerId { found: 2001 }));
    let geometry = Geometry::new(SectorSize::B4096, AreaSize::M1).expect("in the table");
    let outside = DeltaRecord { owner_id: 251, geometry, ..held_delta() };
    assert_eq!(DeltaRecord::decode(&outside.encode(0), 0), Err(Corrupt::OwnerId { found: 251 }));
}

#[test]
fn a_formatted_id_is_nobodys_and_tells_the_timeouts_of_the_lockspace() {
    let timeouts = Profile::Fast.timeouts();
    for sector in [SectorSize::B512, SectorSize::B4096] {
        let record = DeltaRecord::free(Geometry::for_block_device(sector), name("ls"), 5, timeouts);
        assert!(record.is_free() && record.owner().is_none());
        assert_eq!(record.timeouts(Duration::from_secs(9)), timeouts);
        // A sanlock host reads whole seconds, and takes 0 for its own.
        assert_eq!(record.io_timeout, 1);
        assert_eq!(DeltaRecord::decode(&record.encode(512), 512), Ok(record));
    }
}

/// Byte for byte where sanlock hosts put it: behind the checksum, in the place of a paxos leader's writer.
#[test]
fn an_event_is_read_from_beside_the_record_and_changes_nothing_in_it() {
    let with = |generation: u64, event: u64, data: u64| {
        let mut sector = held_delta().encode(0);
        assert_eq!(HostEvent::decode(&sector), Ok(None));
        for (place, value) in [(176, generation), (184, event), (192, data)] {
            sector[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
        assert_eq!(DeltaRecord::decode(&sector, 0), Ok(held_delta()));
        HostEvent::decode(&sector)
    };
    assert_eq!(with(9, 2, 3), Ok(Some(HostEvent { generation: 9, event: 2, data: 3 })));
    assert_eq!(with(0, 2, 0), Ok(Some(HostEvent { generation: 0, event: 2, data: 0 })));
    assert_eq!(with(0, 0, 3), Ok(Some(HostEvent { generation: 0, event: 0, data: 3 })));
    assert_eq!(HostEvent::decode(&[1; 511]), Err(Corrupt::Length { bytes: 511 }));
}

#[test]
fn a_block_names_a_whole_owner_or_none() {
    let owner = Owner { host: HostId::new(3).expect("in range"), generation: Generation::new(9).expect("not 0") };
    let block = Block { mbal: 3, bal: 3, inp: Some(owner), inp_timestamp: 1, ..Block::default() };
    let with = |host: u64, generation: u64| {
        let mut sector = block.encode(Geometry::default(), 0);
        sector[16..24].copy_from_slice(&host.to_le_bytes());
        sector[24..32].copy_from_slice(&generation.to_le_bytes());
        let sum = checksum(&sector[..48]);
        sector[48..52].copy_from_slice(&sum.to_le_bytes());
        Block::decode(&sector, 0)
    };
    assert_eq!(with(3, 9), Ok(block.clone()));
    assert_eq!(with(HostId::MAX, 9).map(|block| block.inp.map(|owner| owner.host.get())), Ok(Some(HostId::MAX)));
    assert_eq!(with(HostId::MAX + 1, 9), Err(Corrupt::OwnerId { found: 2001 }));
    assert_eq!(with(3, 0), Err(Corrupt::NoOwner { id: 3, generation: 0 }));
    assert_eq!(with(0, 9).map(|block| block.inp), Ok(None));
}

#[test]
fn an_index_has_as_many_entries_as_its_area_has_room_for() {
    let with = |max_resources| {
        let header =
            IndexHeader { geometry: Geometry::default(), max_resources, offset: 1 << 20, lockspace: name("ls") };
        IndexHeader::decode(&header.encode(), 1 << 20).map(|header| header.max_resources)
    };
    assert_eq!((with(1), with(16_000)), (Ok(1), Ok(16_000)));
    for found in [0, 16_001, u32::MAX] {
        assert_eq!(with(found), Err(Corrupt::MaxResources { found, max: 16_000 }));
    }
}

#[test]
fn a_request_for_something_unknown_is_corrupt() {
    let mut sector = Request { version: Version::new(4), force: Force::None }.encode(Geometry::default());
    let force = fields(RecordKind::Request, &sector).into_iter().find(|field| field.name == "force_mode");
    assert_eq!(force.map(|field| field.value), Some(FieldValue::Number(0)));
    sector[16..20].copy_from_slice(&3_u32.to_le_bytes());
    assert_eq!(Request::decode(&sector), Err(Corrupt::Force { found: 3 }));
}

#[test]
fn a_minor_version_may_differ_and_a_major_one_may_not() {
    let with_version = |version: u32| {
        let mut sector = held_delta().encode(0);
        sector[4..8].copy_from_slice(&version.to_le_bytes());
        let sum = checksum(&sector[..168]);
        sector[168..172].copy_from_slice(&sum.to_le_bytes());
        DeltaRecord::decode(&sector, 0)
    };
    assert_eq!(with_version(0x0003_0009), Ok(held_delta()));
    assert_eq!(with_version(0x0004_0004), Err(Corrupt::Version { found: 0x0004_0004, expected: 0x0003_0004 }));
}

#[test]
fn an_unformatted_sector_is_no_record_but_an_empty_block() {
    let zero = [0; 512];
    assert!(matches!(DeltaRecord::decode(&zero, 0), Err(Corrupt::Magic { found: 0, .. })));
    assert!(matches!(Leader::decode(&zero, 0), Err(Corrupt::Magic { found: 0, .. })));
    assert!(matches!(Request::decode(&zero), Err(Corrupt::Magic { found: 0, .. })));
    assert_eq!(Block::decode(&zero, 0), Ok(Block::default()));
    assert_eq!(Block::default().encode(Geometry::default(), 0), zero);
    assert_eq!(IndexEntry::decode(&[0; 64]), Ok(None));
    assert_eq!(Block::decode(&zero[1..], 0), Err(Corrupt::Length { bytes: 511 }));
}

#[test]
fn an_empty_ballot_with_a_checksum_is_valid_too() {
    let mut sector = [0; 512];
    sector[48..52].copy_from_slice(&0xcb5a_d842_u32.to_le_bytes());
    assert_eq!(Block::decode(&sector, 0), Ok(Block::default()));
}

#[test]
fn a_shared_flag_counts_only_with_a_generation() {
    let mut sector = [0; 512];
    sector[128] = 1;
    assert_eq!(Block::decode(&sector, 0), Ok(Block::default()));
    sector[136] = 7;
    assert_eq!(Block::decode(&sector, 0).map(|block| block.shared), Ok(Generation::new(7)));
    sector[128] = 0;
    assert_eq!(Block::decode(&sector, 0), Ok(Block::default()));
}

#[test]
fn half_an_index_entry_is_corrupt() {
    let whole = IndexEntry { offset: 3 << 20, name: name("r") }.encode();
    let mut no_name = whole;
    no_name[16..].fill(0);
    let mut no_offset = whole;
    no_offset[..8].fill(0);
    assert!(matches!(IndexEntry::decode(&no_name), Err(Corrupt::IndexEntry { .. })));
    assert!(matches!(IndexEntry::decode(&no_offset), Err(Corrupt::IndexEntry { .. })));
}

#[test]
fn a_damaged_record_can_still_be_looked_at() {
    let mut sector = held_delta().encode(0);
    sector[40] = 0xff;
    assert!(matches!(DeltaRecord::decode(&sector, 0), Err(Corrupt::Checksum { .. })));
    let fields = fields(RecordKind::Delta, &sector);
    let value = |wanted| fields.iter().find(|field| field.name == wanted).map(|field| field.value.clone());
    assert_eq!(value("owner_generation"), Some(FieldValue::Number(0xff)));
    assert_eq!(value("resource_name"), Some(FieldValue::Text(name("host"))));
    assert_eq!(value("extension_magic"), None);
}
