//! How an operation is driven: its effects carried out, its answers compared with what is on disk.

use std::time::Duration;

use leasehold::format::{Block, DeltaExtension, DeltaRecord, Geometry};
use leasehold::protocol::area::{AreaView, claimed};
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::resource::{Effect, Event, Operation, Outcome, Subject};
use leasehold::protocol::{Seen, Span, Written};
use leasehold::{Owner, Version};

use super::world::{Broken, NOW, Process, Reading, Sector, State, id, name, timeouts};
use crate::canonical::round;

/// For how long the record of a dead generation has not changed.
const UNCHANGED: Duration = Duration::from_secs(100);

pub(super) fn subject(me: Owner) -> Subject {
    Subject {
        me,
        geometry: Geometry::default(),
        lockspace: name("ls"),
        resource: name("res"),
        timeouts: timeouts(),
        disks: 1,
    }
}

impl State {
    /// Carries out the effect that `host` waits for.
    pub(super) fn perform(&mut self, host: usize) {
        let Some(effect) = self.hosts[host].effect().cloned() else { unreachable!("something is under way") };
        let event = match effect {
            Effect::Read(_) => {
                self.read_rest(host);
                let Some(Reading { leader: Some(leader), blocks }) = self.hosts[host].read.clone() else {
                    unreachable!("everything was read");
                };
                let blocks = blocks.into_iter().filter(|(_, block)| *block != Seen::Good(Block::default()));
                let blocks = blocks.map(|(of, block)| (id(of), block)).collect();
                let view = AreaView { leader, blocks };
                Event::Read { disk: 0, span: Span { started: NOW, ended: NOW }, since: NOW, view }
            }
            Effect::WriteBlock(..) | Effect::WriteLeader(..) => {
                let Some((sector, content)) = self.hosts[host].writes(host) else { unreachable!("it is a write") };
                let written = match self.in_flight.contains_key(&(host, sector)) {
                    // One write in flight for each sector: the engine refuses another.
                    true => Written::InFlight,
                    false => {
                        self.write(content, host);
                        Written::Done
                    }
                };
                Event::Wrote { disk: 0, written }
            }
            Effect::Scan(_) => {
                let known = self.scan(host);
                self.hosts[host].change(|host| host.known = known);
                Event::Scanned
            }
            Effect::Settle(_) => Event::Settled,
            Effect::Wait(..) | Effect::Done(_) => unreachable!("these are carried out at once"),
        };
        self.feed(host, event);
    }

    /// What an operation waited for has happened.
    pub(super) fn feed(&mut self, host: usize, event: Event) {
        let mut observer = self.observer(host);
        let process = self.hosts[host].change(|host| {
            host.read = None;
            std::mem::replace(&mut host.process, Process::Idle)
        });
        let Process::Running { mut operation, effect } = process else { unreachable!("something is under way") };
        let next = operation.step(round(&effect), event, &mut observer, NOW, 0);
        // On one disk every event is the answer to the effect.
        self.arrive(host, operation, next.unwrap());
    }

    /// An operation says what it does next.
    pub(super) fn arrive(&mut self, host: usize, mut operation: Operation, effect: Effect) {
        let mut effect = effect;
        if let Effect::Wait(round, _) = effect {
            let mut observer = self.observer(host);
            effect = operation.step(round, Event::Woke, &mut observer, NOW, 0).unwrap();
        }
        match effect {
            Effect::Done(outcome) => self.finish(host, &operation, &outcome),
            effect => {
                if let Effect::WriteLeader(_, leader) = &effect {
                    self.decide(leader.version, leader.owner.unwrap());
                }
                self.hosts[host].change(|host| host.process = Process::Running { operation, effect });
            }
        }
    }

    /// Somebody concluded that `owner` owns `version`.
    fn decide(&mut self, version: Version, owner: Owner) {
        let first = self.history.decided.get(&version).copied();
        self.break_if(first.is_some_and(|first| first != owner), Broken::Version);
        if first.is_none() {
            self.history.change(|history| history.decided.insert(version, owner));
        }
    }

    /// An operation of `host` is over: compares what it says with what is on disk.
    fn finish(&mut self, host: usize, operation: &Operation, outcome: &Outcome) {
        let me = self.me(host);
        let own = operation.own_block().cloned();
        self.hosts[host].change(|host| {
            host.process = Process::Idle;
            host.own = own.clone();
        });
        let block = self.disk.blocks[host].good().cloned();
        // What is said must hold whatever happens next, a late landing included.
        self.break_if(self.in_flight.contains_key(&(host, Sector::Block(host))), Broken::Answer);
        if let Outcome::Held(version) = outcome {
            let claims = block.is_none_or(|block| block.instance == *version && claimed(me.host, &block) == Some(me));
            self.break_if(!claims, Broken::Answer);
            self.decide(*version, me);
            let again = *version <= self.history.held || self.history.given_up.contains(&(*version, me));
            self.break_if(again, Broken::Version);
            self.history.change(|history| history.held = *version);
            self.hosts[host].change(|host| host.active = Some(*version));
            return;
        }
        let leader = self.disk.leader.version;
        let left_behind = block.is_some_and(|block| {
            let waits = block.extension.as_ref().is_some_and(|extension| extension.waiting.is_some());
            claimed(me.host, &block) == Some(me) && block.instance >= leader || waits
        });
        self.break_if(left_behind, Broken::Answer);
        if let Some(own) = own.filter(|own| own.released && own.inp == Some(me)) {
            let given_up = (own.instance, me);
            if !self.history.given_up.contains(&given_up) {
                self.history.change(|history| history.given_up.insert(given_up));
            }
        }
    }

    /// An observer that has seen what `host` knows.
    fn observer(&self, host: usize) -> Observer {
        let timeouts = timeouts();
        let mut observer = Observer::new(timeouts);
        for (other, known) in self.hosts[host].known.iter().enumerate() {
            if known.generation == 0 {
                continue;
            }
            let record = DeltaRecord {
                geometry: Geometry::default(),
                lockspace: name("ls"),
                owner_id: id(other).get(),
                generation: known.generation,
                host_name: name("host"),
                timestamp: u64::from(!known.free),
                io_timeout: 1,
                extension: Some(DeltaExtension {
                    nonce: 1,
                    session: 1,
                    boot: 1,
                    started_us: 1,
                    machine: id(other).get(),
                    superseded: u32::from(known.generation > 1),
                    confirmed: true,
                    declared_by: None,
                    left: 0,
                    timeouts,
                }),
            };
            let first = if known.dead { NOW - UNCHANGED } else { NOW };
            observer.observe(id(other), Span { started: first, ended: first }, Some(first), Seen::Good(record.clone()));
            observer.observe(id(other), Span { started: NOW, ended: NOW }, Some(NOW), Seen::Good(record));
        }
        observer
    }
}

#[test]
fn the_age_at_which_a_generation_is_shown_to_be_dead_is_more_than_d() {
    assert!(timeouts().dead() + Duration::from_secs(10) < UNCHANGED);
}
