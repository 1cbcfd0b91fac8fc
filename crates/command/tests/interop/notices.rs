//! What sanlock hosts ask of ours, and tell them.

use leasehold::{HostEvent, JoinOptions};
use rustix::process::Signal;

use super::common::processes::calmly;
use super::common::sanlock::{Sanlock, direct};
use super::common::until;
use super::{Device, Lockspace, T, id};

/// What sanlock asks of an owner it writes beside the leader, and calls that host.
#[test]
fn a_request_of_sanlock_reaches_the_owner() {
    let device = Device::ours(&["first", "second"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let (ours, version) = device.hold(2, &[], "first");
    for (force, manner) in [("2", "when it suits"), ("1", "at once")] {
        let wanted = version + 3 - force.parse::<u64>().unwrap();
        let request = format!("{}:{wanted}", device.resource("first", 3));
        theirs.ask(&["request", "-r", &request, "-f", force]).expect(0);
        let place = format!("{}:{}:{}", device.path(), device.area(3), device.area(1));
        let dumped = direct(&["dump", &place, "-f", "1"]).said;
        assert!(dumped.lines().any(|line| line.ends_with(&format!(" {version}/{wanted}/{force}"))), "{dumped}");
        let due = if wanted > version + 1 { ": not the next version" } else { "" };
        let expected = format!(
            "host 1 (theirs) asks for first at version {wanted}, to be given up {manner}; held at version {version}{due}"
        );
        until("the request", || ours.complained().contains(&expected));
    }
    // A version that the owner has is refused, as it is among sanlock's own.
    let older = format!("{}:{version}", device.resource("first", 3));
    theirs.ask(&["request", "-r", &older, "-f", "2"]).expect(-272);
    // Each was told once, however often the record was read.
    let seen = device.record(2).timestamp;
    until("renewals", || device.record(2).timestamp > seen + 6);
    let told = ours.complained();
    assert_eq!(told.matches(" asks for ").count(), 2, "{told}");
    // It holds on to what it has, and sanlock's host respects that.
    assert_eq!(device.sanlock_takes(&theirs, &device.resource("first", 3)), Err(-243));
}

/// Where the owner is told to: sanlock's host gets what it asked for, in both ways.
#[test]
fn an_owner_yields_to_sanlock() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    for force in ["2", "1"] {
        let (mut ours, version) = device.hold(2, &["--on-request", "yield"], "first");
        let request = format!("{}:{}", device.resource("first", 3), version + 1);
        theirs.ask(&["request", "-r", &request, "-f", force]).expect(0);
        // What `sleep` makes of SIGTERM, which comes first in either way.
        assert_eq!(ours.code(), 128 + Signal::TERM.as_raw(), "{}", ours.complained());
        device.sanlock_takes_at_last(&theirs, &device.resource("first", 3));
    }
}

/// sanlock's owner kills the process that holds, in both ways where no other program is configured for the orderly one.
#[test]
fn sanlock_yields_to_our_request() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let mut holder = device.sanlock_holds(&theirs, &device.resource("first", 3));
    for options in [&["--force"][..], &[]] {
        let words = ["request", device.path(), "first", "--host-id", "2", "--wait", "forever"];
        let said = device.leasehold(&[&words[..], options].concat(), 0);
        assert!(said.contains("first is held by host 1 (theirs) generation "), "{said}");
        let code = holder.code();
        assert!([Signal::TERM, Signal::KILL].contains(&Signal::from_named_raw(code - 128).unwrap()), "{code}");
        // The request stands on, and concerns nobody who comes later.
        holder = device.sanlock_holds(&theirs, &device.resource("first", 3));
        let seen = device.record(1).timestamp;
        until("renewals", || device.record(1).timestamp > seen + 8);
        assert!(holder.ended().is_none(), "{}", theirs.log());
    }
}

#[test]
fn an_event_of_sanlock_reaches_the_host_that_it_is_for() {
    let device = Device::ours(&["first", "second"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let (ours, _) = device.hold(2, &[], "first");
    let (others, _) = device.hold(3, &[], "second");
    let generation = device.record(2).generation.to_string();
    let event = |generation: &str, event: &str, data: &str| {
        let lockspace = device.host(1);
        let words = ["set_event", "-s", &lockspace, "-i", "2", "-g", generation, "-e", event, "-d", data];
        theirs.ask(&words).expect(0);
    };
    event(&generation, "7", "9");
    let told = "host 1 (theirs) sends event 0x7 with data 0x9";
    until("the event", || ours.complained().contains(told));
    // Longer than it stands in the record of its sender.
    let seen = device.record(2).timestamp;
    until("renewals", || device.record(2).timestamp > seen + 8);
    assert_eq!(ours.complained().matches(" sends event ").count(), 1, "{}", ours.complained());
    assert!(!others.complained().contains("event"), "{}", others.complained());
    // One for a generation of it that is over is not for it.
    let former = (device.record(2).generation + 1).to_string();
    event(&former, "11", "12");
    let seen = device.record(2).timestamp;
    until("renewals", || device.record(2).timestamp > seen + 8);
    assert!(!ours.complained().contains("event 0xb"), "{}", ours.complained());
}

/// What it then tells its programs can be seen only through its library: numbers and generation come out right there,
/// tried by hand with `python3-sanlock`. While the event stands they are told with each of its renewals.
#[test]
fn an_event_of_ours_reaches_sanlock() {
    let device = Device::ours(&[]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let lockspace = Lockspace::open(device.disk()).unwrap();
    let ours = calmly("a join", || lockspace.join(JoinOptions::new().host_id(id(2))));
    let event = HostEvent { generation: device.record(1).generation, event: 7, data: 9 };
    until("the event's way", || ours.send_event(id(1), event).is_ok());
    until("the event", || theirs.log().contains(" s1 host event from host_id 2\n"));
    ours.leave().unwrap();
}
