//! Machines that want one host id, with `protocol::delta::{Acquire, Tenure}`, and a watcher with a real `Observer`.
//!
//! Time goes in ticks of a little less than T: an I/O within T takes at most one tick. A state knows no time of day,
//! only ages, and those that are past every timeout are one. Numbers of renewals count only by their order.
//!
//! A read shows the record at some moment between its start and its end. A write lands at some moment after its start;
//! when its process has ended or given it up it may still land, and until then the same machine starts no other process
//! (the local lock) unless it was rebooted.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use leasehold::format::{DeltaRecord, Geometry};
use leasehold::protocol::delta::{Acquire, Bid, Identity, Joined, Tenure, Terms};
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::record::{Effect, Event, RecordProcedure};
use leasehold::protocol::{Seen, Span, Written};
use leasehold::{BootId, Generation, HostId, MachineId, Name, Owner, Time, Timeouts};
use stateright::{Model, Property};

use crate::canonical::{NONCE, Tokens};
use crate::explore::{explore, in_full};

/// A time of day larger than any other number in a state.
const START: Time = Time::from_nanos(1 << 62);
/// An I/O of one tick ends within T, one of two ticks does not.
const TICK: Duration = Duration::from_millis(999);

#[derive(Clone, Debug)]
struct Limits {
    machines: usize,
    /// How many processes may start.
    starts: u8,
    /// How many writes may be reported as failed.
    failures: u8,
    /// How many processes may be killed: what depends on the id is counted as active until its deadline and G.
    kills: u8,
    /// How many machines may be rebooted.
    reboots: u8,
    /// Holders renew, and may give the id back.
    lives: bool,
    /// Somebody watches the record to see whether its holder is dead.
    watched: bool,
    sights: &'static [Sight],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    starts: u8,
    failures: u8,
    kills: u8,
    reboots: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Io {
    Read { started: Time, shown: Option<DeltaRecord> },
    Write { started: Time, record: DeltaRecord, landed: bool },
    Wait(Time),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Process {
    None,
    Joining { acquire: Acquire, io: Io },
    Member { tenure: Tenure, io: Option<Io>, leaving: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Machine {
    boot: u32,
    process: Process,
    /// Writes that nobody waits for any more.
    late: Vec<DeltaRecord>,
    /// What may be active there, and until when.
    active: Option<(Owner, Time)>,
}

#[derive(Clone, Debug, PartialEq)]
struct State {
    now: Time,
    disk: DeltaRecord,
    machines: Vec<Machine>,
    watcher: Option<Observer>,
    /// How many processes have started: no two have one session.
    sessions: u32,
    left: Left,
    /// A machine took the id while a holding of its own was active.
    broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Time goes on.
    Tick,
    /// A process starts and wants the id.
    Start(usize),
    /// A read shows the record.
    Show(usize),
    /// A write lands.
    Land(usize),
    /// An I/O, or a wait, ends.
    End(usize),
    /// A write is reported as failed.
    Fail(usize),
    /// A write is given up, and stays in flight.
    TimeOut(usize),
    /// The holder begins a renewal.
    Renew(usize),
    /// The holder begins to give the id back.
    Leave(usize),
    /// The process is killed.
    Kill(usize),
    /// The machine is rebooted.
    Reboot(usize),
    /// A write that nobody waits for lands.
    LandLate(usize),
    /// It ends without having landed.
    Vanish(usize),
    /// The watcher reads the record.
    Watch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    SecondHolder,
    Retaken,
    Overwritten,
    Outrun,
    FoundDead,
}

fn host() -> HostId {
    HostId::new(1).unwrap()
}

fn timeouts() -> Timeouts {
    let seconds = Duration::from_secs;
    Timeouts::new(seconds(1), seconds(1), seconds(4), seconds(1), seconds(5)).unwrap()
}

fn lockspace() -> Name {
    Name::lockspace("ls").unwrap()
}

impl State {
    /// Whether the watcher takes a generation to be over or dead.
    fn finds_gone(&self, owner: Owner) -> bool {
        self.watcher.clone().is_some_and(|mut watcher| watcher.judge(owner, self.now).is_gone())
    }

    fn begin(now: Time, effect: &Effect<Joined>) -> Option<Io> {
        match effect {
            Effect::Read => Some(Io::Read { started: now, shown: None }),
            // Nothing lies between this and its submission.
            Effect::Write(record, _) => Some(Io::Write { started: now, record: record.clone(), landed: false }),
            Effect::Wait(until) => Some(Io::Wait(*until)),
            Effect::Done(_) => None,
        }
    }

    fn io(&mut self, machine: usize) -> Option<&mut Io> {
        match &mut self.machines[machine].process {
            Process::None => None,
            Process::Joining { io, .. } => Some(io),
            Process::Member { io, .. } => io.as_mut(),
        }
    }

    /// The process is gone; its write is not.
    fn end_process(&mut self, machine: usize) {
        if let Some(Io::Write { record, landed: false, .. }) = self.io(machine).cloned() {
            self.machines[machine].late.push(record);
        }
        self.machines[machine].process = Process::None;
    }

    /// Holders whose deadline has passed know it.
    fn latch(&mut self) {
        for machine in 0..self.machines.len() {
            if let Process::Member { tenure, .. } = &mut self.machines[machine].process {
                tenure.tick(self.now);
                if !tenure.held(self.now) {
                    self.end_process(machine);
                }
            }
            if self.machines[machine].active.is_some_and(|(_, until)| until <= self.now) {
                self.machines[machine].active = None;
            }
        }
    }

    fn joining(&mut self, machine: usize, event: Event) {
        let now = self.now;
        let Process::Joining { acquire, io } = &mut self.machines[machine].process else { return };
        let given_up = matches!(event, Event::Wrote(_, Written::InFlight));
        let effect = acquire.step(event);
        if let Some(next) = State::begin(now, &effect) {
            *io = next;
            return;
        }
        match effect {
            Effect::Done(Ok(tenure)) => {
                let until = tenure.deadline() + timeouts().fence();
                self.broken |= self.machines[machine].active.is_some();
                self.machines[machine].active = Some((tenure.me(), until));
                self.machines[machine].process = Process::Member { tenure: *tenure, io: None, leaving: false };
            }
            _ if given_up => self.end_process(machine),
            _ => self.machines[machine].process = Process::None,
        }
    }

    fn end_io(&mut self, machine: usize, written: Written) {
        let now = self.now;
        let Some(io) = self.io(machine).cloned() else { return };
        let span = |started| Span { started, ended: now };
        let Process::Member { tenure, io: slot, leaving } = &mut self.machines[machine].process else {
            let event = match io {
                Io::Read { started, shown } => Event::Read(span(started), Seen::Good(shown.unwrap())),
                Io::Write { started, .. } => Event::Wrote(span(started), written),
                Io::Wait(_) => Event::Woke(now),
            };
            return self.joining(machine, event);
        };
        *slot = None;
        match io {
            Io::Read { shown, .. } => {
                let seen = Seen::Good(shown.unwrap());
                let next = if *leaving { tenure.release(now, &seen) } else { tenure.renew(now, &seen) };
                match next {
                    Ok(record) => {
                        *slot = Some(Io::Write { started: now, record, landed: false });
                        if *leaving {
                            // What depends on the id has stopped.
                            self.machines[machine].active = None;
                        }
                    }
                    Err(_) => self.end_process(machine),
                }
            }
            Io::Write { .. } if *leaving => self.end_process(machine),
            Io::Write { started, .. } => {
                tenure.renewed(span(started), written, now);
                let until = tenure.deadline() + timeouts().fence();
                if let Some(active) = &mut self.machines[machine].active {
                    active.1 = until;
                }
            }
            Io::Wait(_) => unreachable!("a holder does not wait"),
        }
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut tokens = Tokens::default();
        self.disk.hash(&mut tokens);
        self.machines.hash(&mut tokens);
        self.watcher.hash(&mut tokens);
        self.left.hash(&mut tokens);
        self.sessions.hash(&mut tokens);
        self.broken.hash(&mut tokens);
        // Of two old times only which was first matters, and that is in what the watcher concludes.
        let generations = (1..=u64::from(u8::MAX)).map_while(Generation::new).take(self.sessions as usize);
        let owners = generations.map(|generation| Owner { host: host(), generation });
        owners.map(|owner| self.finds_gone(owner)).collect::<Vec<_>>().hash(&mut tokens);
        // No timeout is longer than D, stretched.
        tokens.normalise(START, self.now, Duration::from_millis(5_100), NONCE);
        tokens.hash(state);
    }
}

impl Model for Limits {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let disk = DeltaRecord {
            geometry: Geometry::default(),
            lockspace: lockspace(),
            owner_id: 0,
            generation: 0,
            host_name: Name::EMPTY,
            timestamp: 0,
            io_timeout: 1,
            extension: None,
        };
        let machine = Machine { boot: 1, process: Process::None, late: Vec::new(), active: None };
        vec![State {
            now: START,
            disk,
            machines: vec![machine; self.machines],
            watcher: self.watched.then(|| Observer::new(timeouts())),
            sessions: 0,
            left: Left { starts: self.starts, failures: self.failures, kills: self.kills, reboots: self.reboots },
            broken: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        if self.watched {
            actions.push(Action::Watch);
        }
        let left = &state.left;
        for (machine, it) in state.machines.iter().enumerate() {
            if !it.late.is_empty() {
                actions.push(Action::LandLate(machine));
                actions.push(Action::Vanish(machine));
            }
            let running = !matches!(it.process, Process::None);
            if !running && left.starts > 0 && it.late.is_empty() {
                actions.push(Action::Start(machine));
            }
            if running && left.kills > 0 {
                actions.push(Action::Kill(machine));
            }
            if (running || !it.late.is_empty() || it.active.is_some()) && left.reboots > 0 {
                actions.push(Action::Reboot(machine));
            }
            let (io, joining) = match &it.process {
                Process::None => (None, false),
                Process::Joining { io, .. } => (Some(io), true),
                Process::Member { io, .. } => (io.as_ref(), false),
            };
            match io {
                Some(Io::Read { shown: None, .. }) => actions.push(Action::Show(machine)),
                Some(Io::Read { shown: Some(_), .. }) => actions.push(Action::End(machine)),
                Some(Io::Write { started, landed, .. }) => {
                    actions.push(if *landed { Action::End(machine) } else { Action::Land(machine) });
                    if left.failures > 0 {
                        actions.push(Action::Fail(machine));
                    }
                    // A holder waits for its write up to its deadline.
                    if joining && state.now.since(*started) > timeouts().io() {
                        actions.push(Action::TimeOut(machine));
                    }
                }
                Some(Io::Wait(until)) if *until <= state.now => actions.push(Action::End(machine)),
                None if running && self.lives => {
                    actions.push(Action::Renew(machine));
                    actions.push(Action::Leave(machine));
                }
                Some(Io::Wait(_)) | None => {}
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let now = state.now;
        match action {
            Action::Tick => {
                state.now = now + TICK;
                state.latch();
            }
            Action::Start(machine) => {
                state.left.starts -= 1;
                state.sessions += 1;
                let identity = Identity {
                    name: Name::EMPTY,
                    machine: MachineId::new(machine as u64 + 1),
                    boot: BootId::new(state.machines[machine].boot),
                    session: state.sessions,
                };
                let (geometry, timeouts) = (Geometry::default(), timeouts());
                let terms = Terms { geometry, lockspace: lockspace(), nonce: NONCE, timeouts };
                // All skip as many generations: the worst case.
                let acquire = Acquire::new(Bid::new(host(), timeouts.dead()), identity, terms, 0);
                let io = Io::Read { started: now, shown: None };
                state.machines[machine].process = Process::Joining { acquire, io };
            }
            Action::Show(machine) => {
                let record = state.disk.clone();
                if let Some(Io::Read { shown, .. }) = state.io(machine) {
                    *shown = Some(record);
                }
            }
            Action::Land(machine) => {
                let Some(Io::Write { record, landed, .. }) = state.io(machine) else { return None };
                *landed = true;
                state.disk = record.clone();
            }
            Action::End(machine) => state.end_io(machine, Written::Done),
            Action::Fail(machine) => {
                state.left.failures -= 1;
                state.end_io(machine, Written::Failed);
            }
            Action::TimeOut(machine) => state.end_io(machine, Written::InFlight),
            Action::Renew(machine) | Action::Leave(machine) => {
                if let Process::Member { io, leaving, .. } = &mut state.machines[machine].process {
                    *io = Some(Io::Read { started: now, shown: None });
                    *leaving = action == Action::Leave(machine);
                }
            }
            Action::Kill(machine) => {
                state.left.kills -= 1;
                state.end_process(machine);
            }
            Action::Reboot(machine) => {
                state.left.reboots -= 1;
                let boot = state.machines[machine].boot + 1;
                state.machines[machine] = Machine { boot, process: Process::None, late: Vec::new(), active: None };
            }
            Action::LandLate(machine) => state.disk = state.machines[machine].late.remove(0),
            Action::Vanish(machine) => {
                state.machines[machine].late.remove(0);
            }
            Action::Watch => {
                let record = state.disk.clone();
                let span = Span { started: now, ended: now };
                state.watcher.as_mut()?.observe(host(), span, Some(span.started), Seen::Good(record));
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Limits>> {
        let mut properties = vec![
            Property::always("S3: one holder", |_, state: &State| {
                !state.broken && state.machines.iter().filter(|machine| machine.active.is_some()).count() <= 1
            }),
            Property::always("no record shows an active generation to be over", |_, state: &State| {
                state.machines.iter().filter_map(|machine| machine.active).all(|(owner, _)| {
                    let mut observer = Observer::new(timeouts());
                    let span = Span { started: state.now, ended: state.now };
                    observer.observe(host(), span, None, Seen::Good(state.disk.clone()));
                    !observer.judge(owner, state.now).is_gone()
                })
            }),
            Property::always("no active generation is found dead", |_, state: &State| {
                state.machines.iter().filter_map(|machine| machine.active).all(|(owner, _)| !state.finds_gone(owner))
            }),
        ];
        properties.extend(self.sights.iter().map(|sight| sight.property()));
        properties
    }
}

impl Sight {
    fn property(self) -> Property<Limits> {
        fn tenures(state: &State) -> impl Iterator<Item = &Tenure> {
            state.machines.iter().filter_map(|machine| match &machine.process {
                Process::Member { tenure, .. } => Some(tenure),
                _ => None,
            })
        }
        match self {
            Sight::SecondHolder => Property::sometimes("held after a release", |_, state: &State| {
                tenures(state).any(|tenure| tenure.me().generation.get() > 1)
            }),
            Sight::Retaken => Property::sometimes("held again after a reboot", |_, state: &State| {
                state.machines.iter().any(|machine| machine.boot > 1 && machine.active.is_some())
            }),
            Sight::Overwritten => Property::sometimes("a late write spoils a holder's record", |_, state: &State| {
                let session = state.disk.extension.as_ref().map(|extension| extension.session);
                tenures(state).any(|tenure| {
                    session.is_some()
                        && tenure.recognises(&state.disk).is_none()
                        && state.disk.owner() == Some(tenure.me())
                })
            }),
            Sight::Outrun => Property::sometimes("two write at once", |_, state: &State| {
                let writes = |machine: &&Machine| {
                    matches!(&machine.process, Process::Joining { io: Io::Write { .. } | Io::Wait(_), .. })
                };
                state.machines.iter().filter(writes).count() > 1
            }),
            Sight::FoundDead => Property::sometimes("a generation is found dead", |_, state: &State| {
                state.disk.owner().is_some_and(|owner| !state.disk.is_free() && state.finds_gone(owner))
            }),
        }
    }
}

const ONE: Limits =
    Limits { machines: 1, starts: 2, failures: 0, kills: 0, reboots: 0, lives: true, watched: false, sights: &[] };

use self::Sight::*;

#[test]
fn one_machine_comes_back() {
    let limits = Limits { kills: 1, reboots: 1, failures: 1, sights: &[SecondHolder, Retaken], ..ONE };
    explore("one machine twice, killed, rebooted, a failed write", limits, 15_150);
}

#[test]
fn a_holder_is_watched() {
    let limits = Limits { starts: 1, watched: true, sights: &[FoundDead], ..ONE };
    explore("one machine, watched", limits, 28_173);
}

#[test]
fn two_machines_want_one_id() {
    let limits = Limits { machines: 2, lives: false, sights: &[Outrun, Overwritten], ..ONE };
    explore("two machines want one id", limits, 42_305);
}

/// Minutes in release mode: only with `LEASEHOLD_MODEL=full`.
#[test]
fn larger_configurations() {
    if !in_full() {
        return;
    }
    let two = Limits { machines: 2, sights: &[Outrun, Overwritten, SecondHolder], ..ONE };
    let all = [
        ("two machines", two.clone(), 366_811),
        ("two machines, three starts", Limits { starts: 3, lives: false, kills: 1, reboots: 1, ..two }, 1_884_977),
        (
            "one machine twice, watched",
            Limits { watched: true, reboots: 1, sights: &[FoundDead, Retaken], ..ONE },
            304_818,
        ),
    ];
    for (name, limits, states) in all {
        explore(name, limits, states);
    }
}
