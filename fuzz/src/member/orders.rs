//! What callers want, as the input has it.

use std::time::Duration;

use leasehold::format::{Force, HostEvent, Leader, Request, Value};
use leasehold::protocol::catalog::index::Index;
use leasehold::protocol::member::{Command, CommandId, Event, Order};
use leasehold::protocol::resource::{Basis, Wish};
use leasehold::{Generation, HostId, LeaseMode, Name, Owner, Resource, Time, Version};

use super::super::input::Input;
use super::disk::sectors;
use super::{ENTRIES, IDS, World, header, id, resources, terms};

impl World {
    pub(super) fn command(&mut self, host: usize, input: &mut Input<'_>) {
        if self.hosts[host].is_dead() {
            return;
        }
        let command = self.wanted(host, input);
        self.ask(host, command);
    }

    pub(super) fn ask(&mut self, host: usize, command: Command) {
        self.is_wanted(host, &command);
        self.commands += 1;
        let name = CommandId(self.commands);
        self.hosts[host].asked.insert(name, command.clone());
        self.tell(host, Event::Command(name, command));
    }

    fn wanted(&mut self, host: usize, input: &mut Input<'_>) -> Command {
        let what = input.byte();
        let resource = resources()[usize::from(what >> 6)];
        match what & 31 {
            0..=17 => Command::Operate(resource, self.order(host, &resource, input)),
            18 => Command::Declare(self.owner(host, input)),
            19 => Command::Mend {
                host: any_id(input),
                shown: input.number(),
                fenced: input.flag(),
                deadline: self.now + Duration::from_millis(50) * input.byte().into(),
            },
            20 | 21 => {
                let index = Index::decode(header(), &self.disk.sector(Index::entry_sector(&header(), 0)));
                let device_bytes = (5 + input.below(3) as u64) << 20;
                Command::Create { name: any_name(input), guard: self.guard(host, input), index, device_bytes }
            }
            22 => {
                let offset = Index::entry_sector(&header(), 0);
                let (number, name) = (input.below(ENTRIES as usize) as u32, input.flag().then(|| any_name(input)));
                let sector = Index::with_entry(&header(), number, self.disk.sector(offset), name);
                Command::WriteIndex { guard: self.guard(host, input), offset, sector }
            }
            23 | 24 => {
                let (version, me) = (self.version(host, &resource, input), self.hosts[host].machine.me());
                let sector = Value::encode(&[what], version, me, terms().geometry, value_at(&resource));
                Command::WriteValue { resource, version, sector: sector.expect("a byte has room") }
            }
            25 => {
                let force = input.pick(&[Force::None, Force::Kill, Force::Graceful]);
                Command::WriteRequest(resource, Request { version: self.version(host, &resource, input), force })
            }
            26 | 27 => {
                let event = HostEvent { generation: 0, event: input.number(), data: 1 };
                Command::Call(vec![any_id(input)], input.flag().then_some(event))
            }
            _ => match self.hosts[host].may_finish.take() {
                Some(how) => Command::Finish(how),
                None => Command::Close { but: input.flag().then_some(resources()[3].offset()) },
            },
        }
    }

    /// The lease that guards the index.
    fn guard(&self, host: usize, input: &mut Input<'_>) -> (Resource, Version) {
        (resources()[3], self.version(host, &resources()[3], input))
    }

    fn order(&self, host: usize, resource: &Resource, input: &mut Input<'_>) -> Order {
        let mode = |input: &mut Input<'_>| input.pick(&[LeaseMode::Exclusive, LeaseMode::Shared]);
        let held = self.hosts[host].holds.get(&resource.offset()).map(|held| held.version);
        let version = |input: &mut Input<'_>| self.version(host, resource, input);
        match (input.below(16), held) {
            // What makes sense most often comes most often.
            (0..=7, None) => {
                let basis = match input.below(8) {
                    0..=4 => Basis::Any,
                    5 => Basis::HandedOver,
                    6 => Basis::Unchanged(version(input)),
                    _ => Basis::Forced(version(input)),
                };
                let deadline = self.deadline(input);
                Order::Acquire(Wish { mode: mode(input), wait: deadline.is_some(), basis }, deadline)
            }
            (8..=15, None) if input.below(4) != 0 => Order::Acquire(Wish::exclusive(true), self.deadline(input)),
            (0..=4 | 8, _) => Order::Release {
                held: version(input),
                timeout: Duration::from_millis(50) * input.byte().into(),
                settled: input.flag(),
            },
            (5..=7, _) => Order::Convert { to: mode(input), held: version(input), deadline: self.deadline(input) },
            (9 | 10, _) => {
                Order::HandOver { held: version(input), to: self.owner(host, input), deadline: self.deadline(input) }
            }
            (11, _) => Order::Complete(version(input)),
            (12, _) => Order::Rebuild(Leader::decode(&self.disk.sector(resource.offset()), resource.offset()).ok()),
            (13, _) => Order::Repair(self.deadline(input).unwrap_or(self.now)),
            (14, _) => {
                Order::Regain { to: self.owner(host, input), version: version(input), deadline: self.deadline(input) }
            }
            _ => Order::Acquire(Wish::exclusive(false), self.deadline(input)),
        }
    }

    /// What follows from a command for its program, and for what is promised.
    fn is_wanted(&mut self, host: usize, command: &Command) {
        let (geometry, me) = (terms().geometry, self.hosts[host].machine.me().host);
        let dead = |world: &World, of: HostId| world.hosts.iter().any(|it| it.machine.me().host == of && it.is_dead());
        let vouched = match command {
            Command::Declare(target) => Some(target.host),
            Command::Mend { host, fenced: true, .. } => Some(*host),
            _ => None,
        };
        self.sound &= vouched.is_none_or(|of| dead(self, of) || of.get() > 2);
        // What is released, or shared from now on, is not acted on meanwhile as it was.
        let writable: Vec<u64> = match command {
            Command::Operate(resource, order) => {
                let offset = resource.offset();
                let holds = &mut self.hosts[host].holds;
                match (order, holds.get_mut(&offset)) {
                    (Order::Release { held, .. }, Some(it)) if it.version == *held => drop(holds.remove(&offset)),
                    (Order::Convert { to: LeaseMode::Shared, held, .. }, Some(it)) if it.version == *held => {
                        it.mode = LeaseMode::Shared;
                    }
                    (Order::Acquire(Wish { basis: Basis::Forced(_), .. }, _), _) => drop(self.forced.insert(offset)),
                    _ => {}
                }
                vec![offset, offset + geometry.block_offset(me)]
            }
            Command::Declare(Owner { host, .. }) | Command::Mend { host, .. } => vec![geometry.delta_offset(*host)],
            Command::Create { index, .. } => {
                let area = |number| sectors(index.header.resource_offset(number), IDS + 2);
                let entries = Index::entry_sector(&index.header, 0);
                (0..ENTRIES).flat_map(area).chain([entries]).collect()
            }
            Command::WriteIndex { offset, .. } => vec![*offset],
            Command::WriteValue { resource, .. } => vec![value_at(resource)],
            Command::WriteRequest(resource, _) => vec![resource.offset() + geometry.request_offset()],
            Command::Call(..) | Command::Close { .. } | Command::Finish(_) => vec![],
        };
        self.hosts[host].writable.extend(writable);
    }

    fn deadline(&self, input: &mut Input<'_>) -> Option<Time> {
        let wait = input.byte();
        (wait >= 64).then(|| self.now + Duration::from_millis(50) * wait.into())
    }

    /// Mostly the version that is held, or that the leader shows.
    fn version(&self, host: usize, resource: &Resource, input: &mut Input<'_>) -> Version {
        let held = self.hosts[host].holds.get(&resource.offset()).map(|held| held.version);
        let leader = || Leader::decode(&self.disk.sector(resource.offset()), resource.offset()).ok();
        match input.byte() {
            0..=223 => held.or_else(|| Some(leader()?.version)).unwrap_or_default(),
            other => Version::new((other - 224).into()),
        }
    }

    /// Mostly the other one.
    fn owner(&self, host: usize, input: &mut Input<'_>) -> Owner {
        match input.byte() {
            0..=191 => self.hosts[1 - host].machine.me(),
            192..=207 => self.hosts[host].machine.me(),
            generation => {
                Owner { host: any_id(input), generation: Generation::new(generation.into()).expect("it is above zero") }
            }
        }
    }
}

fn value_at(resource: &Resource) -> u64 {
    resource.offset() + terms().geometry.value_offset().expect("it is within the area")
}

fn any_id(input: &mut Input<'_>) -> HostId {
    id(1 + input.below(IDS as usize) as u64)
}

fn any_name(input: &mut Input<'_>) -> Name {
    resources()[input.below(4)].name()
}
