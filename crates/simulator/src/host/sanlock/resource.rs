//! What a daemon that acts as sanlock does with a resource: it acquires alone or shared, converts and releases.
//!
//! It goes by the leader alone, and never reads it again while it holds. Its ballot is three reads and three writes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use leasehold::format::{Block, Geometry, Leader, Writer};
use leasehold::protocol::Written;
use leasehold::{HostId, LeaseMode, Owner};

use super::{Answer, Of, PAUSE, Sanlock, Signal, daemon_reads, daemon_writes};
use crate::env::Env;
use crate::storage::{Area, Sector, delta_at};

/// How often a ballot begins again after an abort.
const TRIES: u32 = 8;
/// The bytes of a block that sanlock zeroes, or leaves what memory held in the ballot of a conversion.
const UNUSED: std::ops::Range<usize> = 56..128;

/// What a daemon has of a resource.
#[derive(Default)]
pub(super) struct Slot {
    /// Which of its I/Os is under way.
    round: u32,
    stage: Option<Stage>,
    held: Option<Held>,
}

impl Slot {
    pub(super) const fn holds(&self) -> bool {
        self.held.is_some()
    }
}

/// A lease, and the leader as the daemon knows it.
#[derive(Clone)]
struct Held {
    mode: LeaseMode,
    leader: Leader,
    block: Block,
}

/// What it waits for.
enum Stage {
    /// A read of the area, to begin with.
    Looking(Wish),
    /// A pause after an abort.
    Aborted(Attempt),
    /// Writes, one after the other.
    Writing(VecDeque<(u64, Vec<u8>)>, Box<Then>),
    /// A read of the area in a ballot.
    Reading(Attempt),
}

/// What follows the last write.
enum Then {
    Read(Attempt),
    Committed(Wish, Leader, Blocks),
    Hold(LeaseMode, Leader, Block),
    /// It has nothing, or what it had before; whether it has released something.
    End {
        released: bool,
    },
}

/// How it wants the resource.
#[derive(Clone, Copy)]
struct Wish {
    mode: LeaseMode,
    /// It shares it, and keeps its flag until it has it alone.
    upgrade: bool,
}

/// A ballot.
struct Attempt {
    wish: Wish,
    block: Block,
    proposes: bool,
    tries: u32,
}

type Blocks = BTreeMap<HostId, Block>;

/// What it reads; `None`: a sector is damaged, and it does nothing then.
fn view(offsets: &[u64], sectors: &[Sector]) -> Option<(Leader, Blocks)> {
    let leader = Leader::decode(&sectors[0], offsets[0]).ok()?;
    let mut blocks = Blocks::new();
    for (at, sector) in offsets.iter().zip(sectors).skip(1).filter(|(at, _)| Area::at(**at).is_some()) {
        blocks.insert(Area::at(*at)?.host_at(*at)?, Block::decode(sector, *at).ok()?);
    }
    Some((leader, blocks))
}

impl Sanlock {
    fn slot(&mut self, area: Area) -> &mut Slot {
        self.slots.entry(area).or_default()
    }

    /// Its programs want what comes next.
    pub(super) fn act(&mut self, index: usize, env: &mut Env, area: Area) {
        let modes = env.options.modes;
        let slot = self.slot(area);
        if slot.stage.is_some() {
            return;
        }
        let converts = slot.held.is_some() && !env.quiet && env.random.chance(modes.converts);
        let stage = match slot.held.clone() {
            Some(Held { mode: LeaseMode::Shared, .. }) if converts => {
                env.trace(|| format!("host {index}: sanlock converts to exclusive"));
                Stage::Looking(Wish { mode: LeaseMode::Exclusive, upgrade: true })
            }
            Some(held) if converts => {
                env.trace(|| format!("host {index}: sanlock converts to shared"));
                env.check.of(area).shares(index);
                return self.share(index, env, area, held.leader, held.block);
            }
            Some(held) => {
                env.trace(|| format!("host {index}: sanlock releases"));
                env.check.of(area).releases(index);
                slot.held = None;
                return self.release(index, env, area, held);
            }
            None => {
                let shared = !env.quiet && env.random.chance(modes.shared);
                let mode = if shared { LeaseMode::Shared } else { LeaseMode::Exclusive };
                env.trace(|| format!("host {index}: sanlock acquires, {mode}"));
                Stage::Looking(Wish { mode, upgrade: false })
            }
        };
        slot.stage = Some(stage);
        env.check.of(area).ordered(index, env.now);
        self.submit(index, env, area);
    }

    /// Submits the I/O that the stage waits for.
    fn submit(&mut self, index: usize, env: &mut Env, area: Area) {
        let slot = self.slot(area);
        slot.round += 1;
        let of = Of::Resource { area, round: slot.round };
        match &slot.stage {
            Some(Stage::Looking(_) | Stage::Reading(_)) => {
                // It judges by records that it reads now.
                let offsets = area.offsets(env.known_ids()).into_iter().chain(env.known_ids().map(delta_at));
                daemon_reads(index, env, of, offsets.collect());
            }
            Some(Stage::Aborted(_)) => {
                let pause = env.random.span(Duration::ZERO, Duration::from_secs(1));
                env.signal_after(index, pause, Signal::Sanlock(of));
            }
            Some(Stage::Writing(writes, _)) => match writes.front().cloned() {
                Some((at, bytes)) => daemon_writes(index, env, of, at, &bytes),
                None => self.wrote(index, env, area),
            },
            None => {}
        }
    }

    fn write(&mut self, index: usize, env: &mut Env, area: Area, writes: Vec<(u64, Vec<u8>)>, then: Then) {
        self.slot(area).stage = Some(Stage::Writing(writes.into(), Box::new(then)));
        self.submit(index, env, area);
    }

    /// A pause is over, or an I/O.
    pub(super) fn go_on(&mut self, index: usize, env: &mut Env, (area, round): (Area, u32), answer: Option<Answer>) {
        let slot = self.slot(area);
        if slot.round != round {
            return;
        }
        match (answer, &mut slot.stage) {
            (None, Some(Stage::Aborted(_))) => self.begin_again(index, env, area),
            (None, _) => self.submit(index, env, area),
            (Some(Answer::Read(offsets, sectors)), _) => self.read(index, env, area, view(&offsets, &sectors)),
            (Some(Answer::Wrote(Written::Done)), Some(Stage::Writing(writes, _))) => {
                writes.pop_front();
                self.submit(index, env, area);
            }
            // It is waited for.
            (Some(Answer::Wrote(Written::InFlight)), _) => {}
            (Some(_), _) => {
                let of = Of::Resource { area, round };
                env.signal_after(index, PAUSE, Signal::Sanlock(of));
            }
        }
    }

    fn begin_again(&mut self, index: usize, env: &mut Env, area: Area) {
        if let Some(Stage::Aborted(attempt)) = self.slot(area).stage.take() {
            let mbal = attempt.block.mbal + Geometry::default().max_hosts();
            let block = Block { mbal, ..attempt.block };
            self.run(index, env, area, Attempt { block, proposes: false, ..attempt });
        }
    }

    /// The last of several writes is durable.
    fn wrote(&mut self, index: usize, env: &mut Env, area: Area) {
        let Some(Stage::Writing(_, then)) = self.slot(area).stage.take() else { return };
        match *then {
            Then::Read(attempt) => {
                self.slot(area).stage = Some(Stage::Reading(attempt));
                self.submit(index, env, area);
            }
            Then::Committed(wish, leader, blocks) => self.committed(index, env, area, wish, leader, &blocks),
            Then::Hold(mode, leader, block) => self.holds(index, env, area, Held { mode, leader, block }),
            Then::End { released } => self.ends_with(index, env, area, released),
        }
    }

    fn read(&mut self, index: usize, env: &mut Env, area: Area, view: Option<(Leader, Blocks)>) {
        let (Some(stage), Some(me)) = (self.slot(area).stage.take(), self.me()) else { return };
        let Some((leader, blocks)) = view.filter(|(leader, _)| !leader.cleared) else {
            return self.ends_with(index, env, area, false);
        };
        match stage {
            Stage::Looking(wish) => self.looked(index, env, area, wish, leader, blocks),
            Stage::Reading(attempt) => {
                let instance = attempt.block.instance;
                let others = || blocks.iter().filter(|(host, _)| **host != me.host).map(|(_, block)| block);
                if leader.version == instance && leader.owner == Some(me) && !leader.is_free() {
                    // Another host has completed its ballot.
                    self.committed(index, env, area, attempt.wish, leader, &blocks);
                } else if leader.version >= instance || others().any(|block| block.instance > instance) {
                    self.ends_with(index, env, area, false);
                } else if others().any(|block| block.instance == instance && block.mbal > attempt.block.mbal) {
                    if attempt.tries == TRIES {
                        return self.ends_with(index, env, area, false);
                    }
                    let attempt = Attempt { tries: attempt.tries + 1, ..attempt };
                    self.slot(area).stage = Some(Stage::Aborted(attempt));
                    self.submit(index, env, area);
                } else if attempt.proposes {
                    self.commit(index, env, area, attempt, leader, blocks);
                } else {
                    self.propose(index, env, area, attempt, &blocks);
                }
            }
            Stage::Aborted(_) | Stage::Writing(..) => {}
        }
    }

    /// Whether the resource is free: the leader says so, or its owner is dead, or has released what others committed
    /// for it.
    fn looked(&mut self, index: usize, env: &mut Env, area: Area, wish: Wish, leader: Leader, blocks: Blocks) {
        let Some(me) = self.me() else { return };
        let next = leader.version.after(1);
        let own = blocks.get(&me.host).cloned().unwrap_or_default();
        if let Some(owner) = leader.owner.filter(|_| !leader.is_free()) {
            let block = blocks.get(&owner.host);
            let released = leader.writer.id != owner.host.get()
                && block.is_some_and(|block| block.released && block.instance == leader.version);
            if owner == me && !released && own.instance == leader.version && own.inp == Some(me) {
                return self.committed(index, env, area, wish, leader, &blocks);
            }
            if !released && !self.is_dead(owner) {
                return self.ends_with(index, env, area, false);
            }
        }
        if blocks.values().any(|block| block.instance > next) {
            return self.ends_with(index, env, area, false);
        }
        let max_hosts = Geometry::default().max_hosts();
        let mbal = match blocks.values().map(|block| block.mbal).max().unwrap_or(0) {
            0 => me.host.get(),
            largest => largest - largest % max_hosts + max_hosts + me.host.get(),
        };
        let kept = if own.instance == next { own } else { Block::default() };
        let shared = wish.upgrade.then_some(me.generation);
        let block = Block { mbal, instance: next, released: false, shared, extension: None, ..kept };
        self.run(index, env, area, Attempt { wish, block, proposes: false, tries: 0 });
    }

    /// Writes the block of a phase.
    fn run(&mut self, index: usize, env: &mut Env, area: Area, attempt: Attempt) {
        let (at, mut bytes) = self.encoded(area, &attempt.block);
        if attempt.wish.upgrade {
            bytes[UNUSED].iter_mut().for_each(|byte| *byte = env.random.next() as u8);
        }
        if let Some(held) = &mut self.slot(area).held {
            held.block = attempt.block.clone();
        }
        self.write(index, env, area, vec![(at, bytes)], Then::Read(attempt));
    }

    fn propose(&mut self, index: usize, env: &mut Env, area: Area, attempt: Attempt, blocks: &Blocks) {
        let Some(me) = self.me() else { return };
        let own = &attempt.block;
        let accepted = blocks.values().chain([own]).filter(|block| block.instance == own.instance && block.bal > 0);
        let chosen = accepted.max_by_key(|block| block.bal).and_then(|block| Some((block.inp?, block.inp_timestamp)));
        let (inp, inp_timestamp) = chosen.unwrap_or((me, env.local(index).as_timestamp()));
        let block = Block { bal: own.mbal, inp: Some(inp), inp_timestamp, ..own.clone() };
        self.run(index, env, area, Attempt { block, proposes: true, ..attempt });
    }

    fn commit(&mut self, index: usize, env: &mut Env, area: Area, attempt: Attempt, before: Leader, blocks: Blocks) {
        let Some(me) = self.me() else { return };
        let Attempt { wish, block, .. } = attempt;
        let leader = Leader {
            short_hold: wish.mode == LeaseMode::Shared && block.inp == Some(me),
            owner: block.inp,
            version: block.instance,
            timestamp: block.inp_timestamp.max(1),
            writer: self.writer(me, index, env),
            extension: None,
            ..before
        };
        let at = area.offset();
        let blocks = blocks.into_iter().chain([(me.host, block)]).collect();
        let bytes = leader.encode(at);
        self.write(index, env, area, vec![(at, bytes)], Then::Committed(wish, leader, blocks));
    }

    fn writer(&self, me: Owner, index: usize, env: &Env) -> Writer {
        Writer { id: me.host.get(), generation: me.generation.get(), timestamp: env.local(index).as_timestamp() }
    }

    /// Somebody owns the version that `leader` shows: this host, or the one whose value it has completed.
    fn committed(&mut self, index: usize, env: &mut Env, area: Area, wish: Wish, leader: Leader, blocks: &Blocks) {
        let Some(me) = self.me().filter(|me| leader.owner == Some(*me)) else {
            return self.ends_with(index, env, area, false);
        };
        let block = blocks.get(&me.host).cloned().unwrap_or_default();
        if wish.mode == LeaseMode::Shared {
            return self.share(index, env, area, leader, block);
        }
        let shared = |(host, block): (&HostId, &Block)| Some(Owner { host: *host, generation: block.shared? });
        let sharers: Vec<Owner> = blocks.iter().filter_map(shared).filter(|owner| owner.host != me.host).collect();
        if sharers.iter().any(|owner| !self.is_dead(*owner)) {
            let shared = wish.upgrade.then_some(me.generation);
            let block = Block { released: true, shared, ..block };
            if let Some(held) = &mut self.slot(area).held {
                held.block = block.clone();
            }
            let writes = self.frees(index, env, area, &leader, block);
            return self.write(index, env, area, writes, Then::End { released: false });
        }
        // The whole sector of a sharer that is dead.
        let zeros = |owner: &Owner| (area.block_at(owner.host), vec![0; Geometry::default().sector_bytes()]);
        let mut writes: Vec<(u64, Vec<u8>)> = sharers.iter().map(zeros).collect();
        let block = Block { shared: None, ..block };
        if wish.upgrade {
            writes.push(self.encoded(area, &block));
        }
        self.write(index, env, area, writes, Then::Hold(LeaseMode::Exclusive, leader, block));
    }

    /// One write of the block sets the flag and gives the version up; then the leader is freed.
    fn share(&mut self, index: usize, env: &mut Env, area: Area, leader: Leader, block: Block) {
        let Some(me) = self.me() else { return };
        let block = Block { released: true, shared: Some(me.generation), ..block };
        let (at, bytes) = self.encoded(area, &block);
        let mut writes = vec![(at, bytes)];
        writes.extend(self.free(index, env, area, &leader));
        self.write(index, env, area, writes, Then::Hold(LeaseMode::Shared, leader, block));
    }

    fn release(&mut self, index: usize, env: &mut Env, area: Area, held: Held) {
        let Held { mode, leader, block } = held;
        let block = Block { released: true, shared: None, ..block };
        let writes = match mode {
            LeaseMode::Exclusive => self.frees(index, env, area, &leader, block),
            LeaseMode::Shared => vec![self.encoded(area, &block)],
        };
        self.write(index, env, area, writes, Then::End { released: true });
    }

    /// The block and the free leader, in either order.
    fn frees(&self, index: usize, env: &mut Env, area: Area, leader: &Leader, block: Block) -> Vec<(u64, Vec<u8>)> {
        let mut writes = vec![self.encoded(area, &block)];
        writes.extend(self.free(index, env, area, leader));
        if env.random.chance(500) {
            writes.reverse();
        }
        writes
    }

    /// The free leader. What another host wrote it leaves as it is.
    fn free(&self, index: usize, env: &Env, area: Area, leader: &Leader) -> Option<(u64, Vec<u8>)> {
        let me = self.me().filter(|me| me.host.get() == leader.writer.id)?;
        let writer = self.writer(me, index, env);
        let free = Leader { timestamp: 0, short_hold: false, writer, extension: None, ..leader.clone() };
        Some((area.offset(), free.encode(area.offset())))
    }

    fn encoded(&self, area: Area, block: &Block) -> (u64, Vec<u8>) {
        let at = area.block_at(self.host);
        (at, block.encode(Geometry::default(), at))
    }

    fn holds(&mut self, index: usize, env: &mut Env, area: Area, held: Held) {
        let Some(me) = self.me() else { return };
        let (mode, version) = (held.mode, held.leader.version);
        env.trace(|| format!("host {index}: sanlock's {me} holds version {version}, {mode}"));
        self.slot(area).held = Some(held);
        let until = env.machines[index].clock.world(self.ends(env));
        env.check.counters.held_by_sanlock += 1;
        let acting = env.check.of(area).sanlock_holds(me, mode, version);
        env.check.of(area).held(index, me, (mode, version), &acting, env.now, until, &env.storage);
        self.rests(index, env, area);
    }

    fn ends_with(&mut self, index: usize, env: &mut Env, area: Area, released: bool) {
        let Some(me) = self.me() else { return };
        env.trace(|| format!("host {index}: sanlock's {me} has no more than before, released {released}"));
        // What it leaves of a ballot that it lost nobody answers for.
        if released {
            env.check.of(area).ended(me, true, false, &env.storage);
        }
        self.rests(index, env, area);
    }

    fn rests(&mut self, index: usize, env: &mut Env, area: Area) {
        self.slot(area).stage = None;
        let most = if env.random.chance(200) { env.options.rest * 5 } else { env.options.rest };
        let rest = env.random.span(Duration::ZERO, most);
        env.signal_after(index, rest, Signal::Act { area });
    }
}
