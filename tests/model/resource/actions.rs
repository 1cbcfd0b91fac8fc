//! What may happen, and what it changes.

use leasehold::LeaseMode;
use leasehold::format::{Block, Corrupt};
use leasehold::protocol::resource::{Basis, Effect, Event, Operation, Wish};
use leasehold::protocol::{Seen, Written};

use super::limits::Limits;
use super::operations::subject;
use super::world::{Held, Known, NOW, Process, Role, Sector, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A caller wants the lease.
    Acquire(usize),
    /// A caller wants to share it.
    Share(usize),
    /// A caller wants it by force, from the version that the leader shows.
    Force(usize),
    /// A caller changes how it is held.
    Convert(usize),
    /// A caller waits to be handed the lease.
    Receive(usize),
    /// A caller hands the lease over to a host, which may not ask for it.
    HandOver { from: usize, to: usize },
    /// A caller gives the lease back.
    Release(usize),
    /// A caller does not want to wait any longer.
    CallOff(usize),
    /// The effect that a host waits for is carried out.
    Perform(usize),
    /// A read shows one sector now, the rest later.
    ReadOne(usize, Sector),
    /// A read shows everything now, and is taken in later.
    ReadAll(usize),
    /// A read or write fails; the write has landed or not.
    Fail { host: usize, landed: bool },
    /// A write times out and stays in flight.
    TimeOut(usize),
    /// A write in flight lands.
    Land(usize, Sector),
    /// A write in flight ends without having landed.
    Vanish(usize, Sector),
    /// A host stops. Its write was not submitted yet, or it stays in flight.
    Stop { host: usize, writing: bool },
    /// A host gives its id back.
    Leave(usize),
    /// A host starts as the next generation.
    Start(usize),
    /// A host finds that another one's record has not changed for D.
    Bury { by: usize, dead: usize },
    /// A host reads all delta records, for itself.
    Scan(usize),
    /// A block on disk is damaged.
    Damage(usize),
}

impl Limits {
    /// Everything that may happen next.
    pub(super) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        if state.history.broken.is_some() {
            return;
        }
        let left = &state.left;
        for host in 0..self.hosts {
            let it = &state.hosts[host];
            match &it.process {
                Process::Stopped | Process::Left => {
                    if left.starts > 0 && !state.has_in_flight(host) {
                        actions.push(Action::Start(host));
                    }
                    continue;
                }
                Process::Idle => {
                    match it.active {
                        Some(held) => {
                            actions.push(Action::Release(host));
                            if left.converts > 0 && !held.lost {
                                actions.push(Action::Convert(host));
                            }
                            if left.hand_overs > 0 && !held.lost {
                                let others = (0..self.hosts).filter(|to| *to != host);
                                actions.extend(others.map(|to| Action::HandOver { from: host, to }));
                            }
                        }
                        None => {
                            if self.acquires {
                                actions.push(Action::Acquire(host));
                            }
                            if left.receives > 0 {
                                actions.push(Action::Receive(host));
                            }
                            if self.shares {
                                actions.push(Action::Share(host));
                            }
                            if left.forces > 0 {
                                actions.push(Action::Force(host));
                            }
                        }
                    }
                    if left.leaves > 0 && it.active.is_none() && !state.has_in_flight(host) {
                        actions.push(Action::Leave(host));
                    }
                }
                Process::Running { effect, operation } => {
                    self.effect_actions(state, host, effect, actions);
                    let mut called_off = operation.clone();
                    called_off.call_off();
                    if left.call_offs > 0 && called_off != *operation {
                        actions.push(Action::CallOff(host));
                    }
                }
            }
            if left.stops > 0 {
                actions.push(Action::Stop { host, writing: false });
                if it.writes(host).is_some_and(|(sector, _)| !state.in_flight.contains_key(&(host, sector))) {
                    actions.push(Action::Stop { host, writing: true });
                }
            }
            if state.scan(host) != it.known {
                actions.push(Action::Scan(host));
            }
            for dead in 0..self.hosts {
                let stopped = matches!(state.hosts[dead].process, Process::Stopped);
                if stopped && !(it.known[dead].dead && it.known[dead].generation == state.hosts[dead].generation) {
                    actions.push(Action::Bury { by: host, dead });
                }
            }
        }
        for (host, sector) in state.in_flight.keys() {
            actions.push(Action::Land(*host, *sector));
            actions.push(Action::Vanish(*host, *sector));
        }
        if left.damages > 0 {
            let written = |block: &Seen<Block>| *block != Seen::Good(Block::default()) && block.good().is_some();
            let damaged = (0..self.hosts).filter(|host| written(&state.disk.blocks[*host]));
            actions.extend(damaged.map(Action::Damage));
        }
    }

    pub(super) fn after(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Acquire(host) => state.acquire(host, Wish::exclusive(self.wait)),
            Action::Share(host) => {
                state.acquire(host, Wish { mode: LeaseMode::Shared, ..Wish::exclusive(self.wait) });
            }
            Action::Force(host) => {
                state.left.forces -= 1;
                let basis = Basis::Forced(state.disk.leader.version);
                state.acquire(host, Wish { basis, ..Wish::exclusive(self.wait) });
            }
            Action::Convert(host) => {
                state.left.converts -= 1;
                state.convert(host, self.wait);
            }
            Action::Receive(host) => {
                state.left.receives -= 1;
                state.receive(host);
            }
            Action::HandOver { from, to } => {
                state.left.hand_overs -= 1;
                let to = state.asks(to).unwrap_or(state.me(to));
                state.hand_over(from, to);
            }
            Action::Release(host) => {
                let subject = subject(state.me(host));
                // What the lease protects has stopped before the release begins.
                let own = state.hosts[host].change(|host| {
                    let held = host.active.take();
                    let says = |held: &Held| host.own.as_ref().is_some_and(|own| own.instance == held.version);
                    let begun = held.filter(|held| held.mode == LeaseMode::Exclusive && !says(held));
                    host.role = begun.map(|held| Role::Release(held.version));
                    host.own.clone()
                });
                let (operation, effect) = Operation::release(subject, own.unwrap(), NOW);
                state.arrive(host, operation, effect);
            }
            Action::CallOff(host) => {
                state.left.call_offs -= 1;
                state.hosts[host].change(|host| {
                    if let Process::Running { operation, .. } = &mut host.process {
                        operation.call_off();
                    }
                });
                state.wants_no_more(host);
            }
            Action::Perform(host) => state.perform(host),
            Action::ReadOne(host, sector) => state.read_sector(host, sector),
            Action::ReadAll(host) => state.read_rest(host),
            Action::Fail { host, landed } => {
                state.left.failures -= 1;
                let event = match state.hosts[host].writes(host) {
                    Some((_, content)) => {
                        if landed {
                            state.write(content, host);
                        }
                        Event::Wrote { disk: 0, written: Written::Failed }
                    }
                    None => Event::ReadFailed { disk: 0 },
                };
                state.feed(host, event);
            }
            Action::TimeOut(host) => {
                state.left.timeouts -= 1;
                let (sector, content) = state.hosts[host].writes(host)?;
                state.in_flight.insert((host, sector), content);
                state.feed(host, Event::Wrote { disk: 0, written: Written::InFlight });
            }
            Action::Land(host, sector) => {
                let content = state.in_flight.remove(&(host, sector))?;
                state.write(content, host);
            }
            Action::Vanish(host, sector) => {
                state.in_flight.remove(&(host, sector))?;
            }
            Action::Stop { host, writing } => {
                state.left.stops -= 1;
                state.promise_ends(host);
                if writing {
                    let (sector, content) = state.hosts[host].writes(host)?;
                    state.in_flight.insert((host, sector), content);
                }
                state.end(host, Process::Stopped);
            }
            Action::Leave(host) => {
                state.left.leaves -= 1;
                state.end(host, Process::Left);
            }
            Action::Start(host) => {
                state.left.starts -= 1;
                state.hosts[host].change(|host| {
                    host.generation += 1;
                    host.process = Process::Idle;
                });
                let known = (0..self.hosts).map(|of| state.record(of)).collect();
                state.hosts[host].change(|host| host.known = known);
            }
            Action::Bury { by, dead } => {
                let record = Known { dead: true, ..state.record(dead) };
                state.hosts[by].change(|host| host.known[dead] = record);
            }
            Action::Scan(host) => {
                let known = state.scan(host);
                state.hosts[host].change(|host| host.known = known);
            }
            Action::Damage(host) => {
                state.left.damages -= 1;
                let defect = Corrupt::Checksum { found: 1, computed: 2 }.into();
                state.disk.change(|disk| disk.blocks[host] = Seen::Bad(defect));
                // What the block of a source alone shows is lost with it.
                state.history.change(|history| history.promised.clear());
            }
        }
        Some(state)
    }

    /// What may become of the effect that a host waits for.
    fn effect_actions(&self, state: &State, host: usize, effect: &Effect, actions: &mut Vec<Action>) {
        let left = &state.left;
        match effect {
            Effect::Read(_) => {
                actions.push(Action::Perform(host));
                if self.split_reads && state.hosts[host].read.is_none() {
                    actions.push(Action::ReadAll(host));
                    actions.extend(self.sectors(host).map(|sector| Action::ReadOne(host, sector)));
                }
                if left.failures > 0 {
                    actions.push(Action::Fail { host, landed: false });
                }
            }
            Effect::WriteBlock(..) | Effect::WriteLeader(..) => {
                actions.push(Action::Perform(host));
                let busy = state.hosts[host]
                    .writes(host)
                    .is_some_and(|(sector, _)| state.in_flight.contains_key(&(host, sector)));
                if busy {
                    return;
                }
                if left.failures > 0 {
                    actions.push(Action::Fail { host, landed: false });
                    actions.push(Action::Fail { host, landed: true });
                }
                if left.timeouts > 0 {
                    actions.push(Action::TimeOut(host));
                }
            }
            Effect::Scan(_) => actions.push(Action::Perform(host)),
            Effect::Settle(_) => {
                if !state.has_in_flight(host) {
                    actions.push(Action::Perform(host));
                }
            }
            Effect::Wait(..) | Effect::Done(_) => unreachable!("these are carried out at once"),
        }
    }

    fn sectors(&self, host: usize) -> impl Iterator<Item = Sector> {
        // Nobody but the host changes its own block while it reads.
        let others = (0..self.hosts).filter(move |of| *of != host).map(Sector::Block);
        std::iter::once(Sector::Leader).chain(others)
    }
}
