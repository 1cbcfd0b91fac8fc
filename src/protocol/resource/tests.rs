//! An operation alone, without disks.

use std::collections::BTreeMap;

use super::*;
use crate::protocol::{Seen, Span};
use crate::timeouts::Profile;
use crate::types::{Generation, HostId};

fn subject() -> Result<Subject, Box<dyn std::error::Error>> {
    let host = HostId::new(1).ok_or("a host id")?;
    let generation = Generation::new(1).ok_or("a generation")?;
    Ok(Subject {
        me: Owner { host, generation },
        geometry: Geometry::default(),
        lockspace: Name::lockspace("test")?,
        nonce: 1,
        resource: Name::resource("demo")?,
        timeouts: Profile::Fast.timeouts(),
        disks: 1,
    })
}

/// A machine that stalls for a moment makes a read too old for its scan. That must not be for ever: each time there
/// is another scan.
#[test]
fn every_read_that_comes_too_late_after_its_scan_leads_to_another_scan() -> Result<(), Box<dyn std::error::Error>> {
    let subject = subject()?;
    let mut observer = Observer::new(subject.timeouts);
    let Subject { geometry, lockspace, nonce, resource, .. } = subject;
    let leader = Leader::new_free(geometry, lockspace, nonce, resource, 2000, Version::new(7));
    let view = AreaView { leader: Seen::Good(leader), blocks: BTreeMap::new() };
    let now = Time::ZERO + subject.timeouts.io() * 10;
    let span = Span { started: now, ended: now };
    let (mut operation, mut effect) = Operation::acquire(subject, None, Wish::exclusive(true), now);
    let mut scans = 0;
    for _ in 0..100 {
        let (round, event) = match effect {
            // The scan was long ago each time.
            Effect::Read(round) => (round, Event::Read { disk: 0, span, since: Time::ZERO, view: view.clone() }),
            Effect::Scan(round) => {
                scans += 1;
                (round, Event::Scanned)
            }
            Effect::Wait(round, _) => (round, Event::Woke),
            other => panic!("{other:?} on blocks that may not be all"),
        };
        effect = operation.step(round, event, &mut observer, now, 0).ok_or("one disk")?;
    }
    assert!(scans > 20, "{scans}");
    Ok(())
}
