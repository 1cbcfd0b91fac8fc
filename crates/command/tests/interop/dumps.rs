//! What both say of the same bytes: `sanlock direct dump` and `read_leader`, and `leasehold dump`, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use leasehold::format::{AreaSize, HostBitmap, SectorSize};
use rustix::process::Signal;
use serde_json::{Map, Value};

use super::common::processes::{Process, signal_process};
use super::common::sanlock::{Sanlock, direct};
use super::common::until;
use super::{Device, T};

const SIZES: [(SectorSize, AreaSize); 5] = [
    (SectorSize::B512, AreaSize::M1),
    (SectorSize::B4096, AreaSize::M1),
    (SectorSize::B4096, AreaSize::M2),
    (SectorSize::B4096, AreaSize::M4),
    (SectorSize::B4096, AreaSize::M8),
];

/// The fields that sanlock prints of either kind of record, and what they are called here.
const COMMON: [&str; 13] = [
    "magic",
    "version",
    "flags",
    "sector_size",
    "num_hosts",
    "max_hosts",
    "owner_id",
    "owner_generation",
    "lver",
    "space_name",
    "resource_name",
    "timestamp",
    "checksum",
];
const DELTA: [(&str, &str); 4] = [
    ("io_timeout", "io_timeout"),
    ("extra1", "write_id"),
    ("extra2", "write_generation"),
    ("extra3", "write_timestamp"),
];
const PAXOS: [(&str, &str); 4] = [
    ("io_timeout", "io_timeout"),
    ("write_id", "write_id"),
    ("write_generation", "write_generation"),
    ("write_timestamp", "write_timestamp"),
];

/// A name as long as they may be. Of an index entry with such a name sanlock prints what stands behind it in memory
/// too: there it is one byte shorter.
const LONGEST: &str = "a-name-of-48-bytes-with-no-terminator-anywhere-x";
const LONGEST_ENTRY: &str = LONGEST.split_at(47).0;

/// What leasehold dumps: by offset, then by kind of record.
type Records = BTreeMap<u64, Vec<(String, Map<String, Value>)>>;

fn records(device: &Device) -> Records {
    let mut records = Records::new();
    for record in device.json("dump", &[]).as_array().unwrap() {
        assert_eq!(record["error"], Value::Null, "{record}");
        let (name, offset) = (record["record"].as_str().unwrap(), record["offset"].as_u64().unwrap());
        let fields = record["fields"].as_object().unwrap();
        records.entry(offset).or_default().push((name.into(), fields.clone()));
    }
    records
}

/// The record at that offset whose description begins so.
#[track_caller]
fn record<'a>(records: &'a Records, offset: u64, kind: &str) -> &'a Map<String, Value> {
    let there = records.get(&offset).unwrap_or_else(|| panic!("no {kind} at offset {offset}"));
    let found = there.iter().find(|(name, _)| name.starts_with(kind));
    &found.unwrap_or_else(|| panic!("no {kind} at offset {offset}: {there:?}")).1
}

/// A number as either prints it.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[track_caller]
fn same(what: &str, theirs: &str, fields: &Map<String, Value>, name: &str) {
    let ours = match fields.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => panic!("{what}: no field {name}: {fields:?}"),
    };
    // A name may look like a number.
    let equal = if name.ends_with("name") {
        theirs == ours
    } else {
        number(theirs) == number(&ours) && number(&ours).is_some()
    };
    assert!(equal, "{what}: {name} is {theirs} for sanlock and {ours} for leasehold");
}

/// `sanlock direct read_leader`.
#[track_caller]
fn compare_leader(option: &str, spec: &str, fields: &Map<String, Value>) {
    let answer = direct(&["read_leader", option, spec]).expect(0);
    let theirs = answer.fields();
    let more = if option == "-s" { DELTA } else { PAXOS };
    let names: Vec<(&str, &str)> = COMMON.into_iter().map(|name| (name, name)).chain(more).collect();
    let (shown, expected): (BTreeSet<_>, BTreeSet<_>) =
        (theirs.keys().map(String::as_str).collect(), names.iter().map(|(name, _)| *name).collect());
    assert_eq!(shown, expected, "{answer:?}");
    for (their_name, our_name) in names {
        same(spec, &theirs[their_name], fields, our_name);
    }
}

/// All of the device, by both of `sanlock direct`'s commands. How many records of each kind there were.
fn compare(device: &Device) -> BTreeMap<&'static str, usize> {
    let all = records(device);
    let mut counts = BTreeMap::new();
    let mut counted = |kind| *counts.entry(kind).or_insert(0) += 1;
    let mut seen = BTreeSet::new();
    let end = all.keys().last().map_or(1, |last| last / device.area(1) + 1);
    let dumped = direct(&["dump", &format!("{}:0:{}", device.path(), device.area(end)), "-f", "1"]).said;
    let mut lines = dumped.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["offset", "lockspace", "resource", "timestamp", "own", "gen", "lver/req/mode"], "{dumped}");
    let mut area = 0;
    let mut sharers = BTreeMap::<u64, Vec<u64>>::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = || number(words[0].trim_start_matches('0')).unwrap_or(0);
        match words[..] {
            [host, generation, "SH"] => {
                counted("sharer");
                sharers.entry(area).or_default().push(generation.parse().unwrap());
                let block = area + device.geometry.block_offset(super::id(host.parse().unwrap()));
                let fields = record(&all, block, "block of host");
                same(line, generation, fields, "mode_generation");
                same(line, "1", fields, "mode_flags");
            }
            [_, lockspace, "rindex_header", flags, sector, max, offset] => {
                counted("index header");
                seen.insert(at());
                let fields = record(&all, at(), "index header");
                let names = ["lockspace_name", "flags", "sector_size", "max_resources", "rx_offset"];
                for (name, theirs) in names.into_iter().zip([lockspace, flags, sector, max, offset]) {
                    same(line, theirs, fields, name);
                }
            }
            [_, lockspace, "rentry", name, offset] => {
                counted("index entry");
                seen.insert(at());
                assert_eq!(lockspace, device.lockspace);
                let fields = record(&all, at(), "index entry");
                same(line, name, fields, "name");
                same(line, offset, fields, "res_offset");
            }
            [_, lockspace, host, timestamp, owner, generation, ref called @ ..] if at() < device.area(1) => {
                counted("host record");
                seen.insert(at());
                let fields = record(&all, at(), "host record");
                let names = ["space_name", "resource_name", "timestamp", "owner_id", "owner_generation"];
                for (name, theirs) in names.into_iter().zip([lockspace, host, timestamp, owner, generation]) {
                    same(line, theirs, fields, name);
                }
                let calls = fields.get("calls").map_or(Vec::new(), |calls| calls.as_array().unwrap().clone());
                assert_eq!(called.iter().map(|host| number(host).unwrap().into()).collect::<Vec<Value>>(), calls);
                compare_leader("-s", &device.host(owner.parse().unwrap()), fields);
            }
            [_, lockspace, resource, timestamp, owner, generation, versions] => {
                counted("leader");
                area = at();
                seen.insert(area);
                let fields = record(&all, area, "leader of");
                let [version, asked, force] = versions.split('/').collect::<Vec<_>>()[..] else { panic!("{line}") };
                let names = ["space_name", "resource_name", "timestamp", "owner_id", "owner_generation", "lver"];
                for (name, theirs) in
                    names.into_iter().zip([lockspace, resource, timestamp, owner, generation, version])
                {
                    same(line, theirs, fields, name);
                }
                let request = area + device.geometry.request_offset();
                // One that asks for nothing leasehold leaves out.
                if (asked, force) != ("0", "0") || all.contains_key(&request) {
                    counted("request");
                    let fields = record(&all, request, "request for");
                    same(line, asked, fields, "lver");
                    same(line, force, fields, "force_mode");
                }
                let spec = format!("{}:{resource}:{}:{area}", device.lockspace, device.path());
                compare_leader("-r", &spec, fields);
            }
            _ => panic!("not understood: {line:?} in\n{dumped}"),
        }
    }
    // Nothing that leasehold shows is missing there.
    for (offset, there) in &all {
        for (name, fields) in there {
            if name.starts_with("block of host") && fields["mode_flags"] != "0x0" {
                let area = offset / device.area(1) * device.area(1);
                let generation = fields["mode_generation"].as_u64().unwrap();
                let listed = sharers.get(&area).is_some_and(|sharers| sharers.contains(&generation));
                assert!(listed, "sanlock doesn't show the {name}:\n{dumped}");
            } else if !name.starts_with("block of host") && !name.starts_with("request for") {
                assert!(seen.contains(offset), "sanlock doesn't show the {name} at offset {offset}:\n{dumped}");
            }
        }
    }
    counts
}

/// Runs it for every size at once. What it does must end with a device that nobody writes to.
fn for_all_sizes(work: impl Fn(&Device) + Sync) {
    thread::scope(|scope| {
        for (sector, area) in SIZES {
            let work = &work;
            thread::Builder::new()
                .name(format!("{}-{}M", sector.bytes(), area.mebibytes()))
                .spawn_scoped(scope, move || work(&Device::empty(sector, area)))
                .unwrap();
        }
    });
}

/// Whatever was running on the device dies as it is.
fn stand_still(device: &Device) {
    device.mark.living().iter().for_each(|pid| signal_process(*pid, Signal::KILL));
    until("the end of all that was running", || device.mark.living().is_empty());
}

#[test]
fn both_say_the_same_of_what_leasehold_made_and_used() {
    for_all_sizes(|device| {
        device.format();
        let fresh = compare(device);
        assert_eq!((count(&fresh, "index header"), count(&fresh, "leader")), (1, 1), "{fresh:?}");
        device.leasehold(&["create", device.path(), "first", LONGEST_ENTRY], 0);
        device.take(1, &[], "first");
        let last = device.geometry.max_hosts();
        let (_held, _) = device.hold(last, &[], LONGEST_ENTRY);
        stand_still(device);
        let used = compare(device);
        assert!(count(&used, "host record") >= 2, "{used:?}");
        assert_eq!((count(&used, "index entry"), count(&used, "leader")), (2, 3), "{used:?}");
    });
}

/// Two sanlock hosts, 1 and 2, use lockspaces of every size, which `begin` made, and what `go_on` leaves running; then
/// all die.
fn used_by_sanlock(
    begin: impl Fn(&Device, &Sanlock) + Sync,
    go_on: impl Fn(&Device, &Sanlock) -> Option<Process> + Sync,
) -> Vec<Device> {
    let daemons = [Sanlock::start("theirs1", T), Sanlock::start("theirs2", T)];
    let [first, second] = &daemons;
    let one = |(sector, area)| {
        let device = Device::empty(sector, area);
        begin(&device, first);
        for (daemon, host) in daemons.iter().zip(1..) {
            daemon.join(&device.host(host));
        }
        let index = device.index();
        // In areas 4 and 5; area 3 has what `begin` made, 6 stands alone.
        for name in ["exclusive", "shared"] {
            first.ask(&["create", "-x", &index, "-e", name]).expect(0);
        }
        device.init_resource(first, LONGEST, 6, &["-m", "7"]);
        assert_eq!(device.sanlock_takes(first, &device.resource(LONGEST, 6)), Ok(()));
        let going_on = go_on(&device, first);
        let held = [
            device.sanlock_holds(second, &device.resource("exclusive", 4)),
            device.sanlock_holds(first, &device.shared("shared", 5)),
            device.sanlock_holds(second, &device.shared("shared", 5)),
        ];
        let wanted = format!("{}:{}", device.resource("exclusive", 4), device.leader(4).version.get() + 5);
        first.ask(&["request", "-r", &wanted, "-f", "1"]).expect(0);
        (device, going_on, held)
    };
    let one = &one;
    let used: Vec<_> = thread::scope(|scope| {
        let all = SIZES.map(|sizes| scope.spawn(move || one(sizes)));
        all.into_iter().map(|used| used.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    // An event stands in the sender's record for a few seconds.
    for (device, ..) in &used {
        let event = ["set_event", "-s", &device.host(1), "-i", "2", "-g", "1", "-e", "5", "-d", "77"];
        first.ask(&event).expect(0);
    }
    let at = used[0].0.geometry.delta_offset(super::id(1));
    until("an event", || !HostBitmap::decode(&used[0].0.sector(at)).unwrap().is_empty());
    daemons.iter().for_each(Sanlock::kill);
    let devices = used.into_iter().map(|(device, ..)| device);
    devices.inspect(stand_still).collect()
}

fn count(counts: &BTreeMap<&str, usize>, kind: &str) -> usize {
    counts.get(kind).copied().unwrap_or(0)
}

#[test]
fn both_say_the_same_of_what_sanlock_made_and_used() {
    let begin = |device: &Device, daemon: &Sanlock| {
        device.init(daemon);
        compare(device);
        device.init_index(daemon);
        compare(device);
        daemon.join(&device.host(1));
        daemon.ask(&["create", "-x", &device.index(), "-e", "deleted"]).expect(0);
        daemon.leave(&device.host(1));
    };
    let go_on = |device: &Device, daemon: &Sanlock| {
        daemon.ask(&["delete", "-x", &device.index(), "-e", "deleted"]).expect(0);
        None
    };
    for device in used_by_sanlock(begin, go_on) {
        let counts = compare(&device);
        let kinds = ["host record", "index header", "index entry", "leader", "request", "sharer"];
        // The leaders are the guard of the index, and areas 4 to 6.
        assert_eq!(kinds.map(|kind| count(&counts, kind)), [2, 1, 2, 4, 1, 2], "{}", device.lockspace);
    }
}

#[test]
fn both_say_the_same_of_what_both_used() {
    let begin = |device: &Device, _: &Sanlock| {
        device.format();
        device.leasehold(&["create", device.path(), "first"], 0);
        device.take(1, &[], "first");
    };
    let go_on = |device: &Device, daemon: &Sanlock| {
        // The next owner's kind is the other one's, for each of them.
        device.sanlock_takes_at_last(daemon, &device.resource("first", 3));
        device.take(3, &[], "exclusive");
        device.take(3, &[], "shared");
        Some(device.hold(3, &[], &device.placed(LONGEST, 6)).0)
    };
    for device in used_by_sanlock(begin, go_on) {
        let counts = compare(&device);
        let kinds = ["index header", "index entry", "leader", "request", "sharer"];
        assert_eq!(kinds.map(|kind| count(&counts, kind)), [1, 3, 5, 1, 2], "{}", device.lockspace);
        assert!(count(&counts, "host record") >= 3, "{counts:?}");
    }
}
