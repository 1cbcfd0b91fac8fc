//! What sanlock hosts ask of ours, and tell them.

use super::common::sanlock::{Sanlock, direct};
use super::common::until;
use super::{Device, T};

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
        let expected = format!(
            "host 1 (theirs) asks for first at version {wanted}, to be given up {manner}; held at version {version}"
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
