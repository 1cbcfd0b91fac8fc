//! How an operation is driven: its effects carried out, its answers compared with what is on disk.

use std::time::Duration;

use leasehold::format::{Block, BlockExtension, DeltaExtension, DeltaRecord, Geometry};
use leasehold::protocol::area::{AreaView, claimed};
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::resource::{After, Effect, Event, Operation, Outcome, Subject, Wish};
use leasehold::protocol::{Seen, Span, Written};
use leasehold::{BootId, LeaseMode, MachineId, Owner, Version};

use super::world::{Broken, Held, NOW, Process, Reading, Role, Sector, State, id, name, timeouts};
use crate::canonical::{NONCE, round};

/// For how long the record of a dead generation has not changed.
const UNCHANGED: Duration = Duration::from_secs(100);

pub(super) fn subject(me: Owner) -> Subject {
    Subject {
        me,
        geometry: Geometry::default(),
        lockspace: name("ls"),
        nonce: NONCE,
        resource: name("res"),
        timeouts: timeouts(),
        disks: 1,
    }
}

impl State {
    pub(super) fn acquire(&mut self, host: usize, wish: Wish) {
        let (operation, effect) = Operation::acquire(subject(self.me(host)), self.hosts[host].own.clone(), wish, NOW);
        self.arrive(host, operation, effect);
    }

    /// Changes how `host` holds the resource.
    pub(super) fn convert(&mut self, host: usize, wait: bool) {
        let (to, own) = self.hosts[host].change(|host| {
            let (Some(held), Some(own)) = (&mut host.active, &host.own) else { unreachable!("it holds") };
            if held.mode == LeaseMode::Shared {
                return (LeaseMode::Exclusive, own.clone());
            }
            // What the lease protects no longer relies on being alone.
            held.mode = LeaseMode::Shared;
            (LeaseMode::Shared, own.clone())
        });
        let (operation, effect) = Operation::convert(subject(self.me(host)), own, to, wait, NOW);
        self.arrive(host, operation, effect);
    }

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
        self.submits(host, &operation, &effect);
        match effect {
            Effect::Done(outcome) => {
                self.finish(host, &operation, &outcome);
                self.hosts[host].change(|host| host.role = None);
            }
            effect => {
                if let Effect::WriteLeader(_, leader) = &effect {
                    self.decide(leader.version, leader.owner.unwrap());
                }
                self.hosts[host].change(|host| host.process = Process::Running { operation, effect });
            }
        }
    }

    /// Somebody concluded that `owner` owns `version`.
    pub(super) fn decide(&mut self, version: Version, owner: Owner) {
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
        let shares = block.as_ref().is_none_or(|block| block.shared == Some(me.generation));
        match (operation.leaves(outcome), outcome) {
            (After::Held(mode), Outcome::Held(version)) => return self.hold(host, mode, *version, operation),
            (After::Lost, _) => {
                // What is lost keeps others away until it is released.
                self.break_if(!shares && !matches!(self.hosts[host].role, Some(Role::Source(..))), Broken::Answer);
                self.hosts[host].change(|host| {
                    host.active = host.active.map(|held| Held { taken: true, lost: true, ..held });
                });
                return;
            }
            (After::Held(LeaseMode::Exclusive), _) => {
                self.hosts[host].change(|host| {
                    host.active = host.active.map(|held| Held { mode: LeaseMode::Exclusive, ..held });
                });
                return self.handed(host, outcome);
            }
            (After::Held(LeaseMode::Shared), _) => self.break_if(!shares, Broken::Answer),
            (After::Nothing, _) => {
                let flagged = block.as_ref().is_some_and(|block| block.shared == Some(me.generation));
                self.break_if(flagged, Broken::Answer);
            }
        }
        let leader = self.disk.leader.version;
        let left_behind = block.is_some_and(|block| {
            let waits = |extension: &BlockExtension| {
                let asks = extension.receives.is_some() && extension.generation == me.generation.get();
                extension.waiting.is_some() || asks
            };
            let waits = block.extension.as_ref().is_some_and(waits);
            claimed(me.host, &block) == Some(me) && block.instance >= leader || waits
        });
        self.break_if(left_behind, Broken::Answer);
        self.handed(host, outcome);
        if let Some(own) = own.filter(|own| own.released && own.inp == Some(me)) {
            let given_up = (own.instance, me);
            if !self.history.given_up.contains(&given_up) {
                self.history.change(|history| history.given_up.insert(given_up));
            }
        }
    }

    /// `host` says that it holds `version`.
    fn hold(&mut self, host: usize, mode: LeaseMode, version: Version, operation: &Operation) {
        let me = self.me(host);
        let says = |block: &Block| match mode {
            LeaseMode::Exclusive => block.instance == version && claimed(me.host, block) == Some(me),
            LeaseMode::Shared => block.instance == version && block.shared == Some(me.generation),
        };
        self.break_if(!self.disk.blocks[host].good().is_none_or(says), Broken::Answer);
        self.decide(version, me);
        let taken = self.history.passed.get(&me).is_some_and(|last| version <= *last) && mode == LeaseMode::Exclusive;
        // Those who share don't all set up their holds in the order of their versions.
        let late = version <= self.history.held && mode == LeaseMode::Exclusive && !taken;
        self.break_if(late || self.history.given_up.contains(&(version, me)), Broken::Version);
        self.receives(host, version, operation);
        let overridden = operation.overridden();
        self.history.change(|history| {
            history.held = history.held.max(version);
            history.passed.extend(overridden.iter().map(|owner| (*owner, Version::new(version.get() - 1))));
        });
        self.hosts[host].change(|host| host.active = Some(Held { taken, ..Held::new(mode, version) }));
        for other in 0..self.hosts.len() {
            if overridden.contains(&self.me(other)) {
                self.hosts[other].change(|other| {
                    other.active = other.active.map(|held| Held { taken: true, ..held });
                });
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
                    nonce: NONCE,
                    session: 1,
                    boot: BootId::new(1),
                    started_us: 1,
                    machine: MachineId::new(id(other).get()),
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
