//! Carries out what the membership wants done: its I/O goes to the made-up disks, its answers to the program.

use leasehold::Time;
use leasehold::format::{Block, DeltaRecord};
use leasehold::protocol::member::{Effect, Event, IoId, Key, Loss};
use leasehold::protocol::procedure::{Extent, Sectors};
use leasehold::protocol::{Written, reading};

use super::{Answer, End, Member, Tag, Whose};
use crate::env::Env;
use crate::host::Signal;
use crate::storage::{Area, SECTOR, Sector, delta_at};

impl Member {
    /// Time has passed.
    pub(super) fn passes(&mut self, index: usize, env: &mut Env) {
        self.step(index, env, Event::Ticked);
    }

    pub(super) fn io_ended(&mut self, index: usize, env: &mut Env, io: IoId, (started, answer): (Time, Answer)) {
        if let Answer::Read(offsets, _) = &answer
            && let [leader, _, ..] = offsets[..]
            && let Some(area) = Area::at(leader)
        {
            env.check.of(area).reads(index, env.machines[index].clock.world(started), env.now);
        }
        let event = match answer {
            Answer::Read(_, sectors) => match joined(&sectors, SECTOR) {
                sectors if sectors.all_unreadable() => Event::ReadFailed(io),
                sectors => Event::Read(io, sectors),
            },
            Answer::Failed => Event::ReadFailed(io),
            Answer::Wrote(Written::Done) => Event::Written(io),
            Answer::Wrote(Written::Failed | Written::InFlight) => Event::WriteFailed(io),
            Answer::TooLate => Event::TooLate(io),
        };
        self.step(index, env, event);
    }

    /// Tells the machine what happened, and carries out what it wants done, and what follows from that.
    pub(super) fn step(&mut self, index: usize, env: &mut Env, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            if self.ended.is_some() {
                return;
            }
            let (now, random) = (env.local(index), env.random.next());
            self.machine.step(event, now, random);
            for effect in self.machine.take_effects() {
                events.extend(self.carry_out(index, env, effect));
            }
            self.observe(index, env);
        }
        self.tick_later(index, env);
    }

    fn tick_later(&mut self, index: usize, env: &mut Env) {
        let Some(at) = self.machine.wakes_at() else { return };
        if self.ticks.is_none_or(|ticks| at < ticks) {
            self.ticks = Some(at);
            env.signal(index, at, Signal::Tick);
        }
    }

    fn carry_out(&mut self, index: usize, env: &mut Env, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Read { io, disk, extents, .. } => {
                env.read(index, Tag::Member { io, of: Whose::Ours }, disk, offsets(&extents, SECTOR), None);
            }
            Effect::Write { io, disk, offset, bytes, before, .. } => {
                self.is_about_to_write(index, env, offset, &bytes);
                let of = self.whose(offset, bytes.len() as u64);
                env.write(index, Tag::Member { io, of }, disk, (offset, &bytes), before, None);
            }
            Effect::Answer(command, answer) => self.answered(index, env, command, answer),
            Effect::Tell(notice) => self.is_told(index, env, notice),
            Effect::Renewed(_) => {}
            Effect::LetGo => self.program.let_go = true,
        }
        None
    }

    fn whose(&self, offset: u64, len: u64) -> Whose {
        let me = self.machine.me().host;
        match Area::at(offset) {
            None if offset == delta_at(me) => Whose::Ours,
            None => Whose::Record,
            Some(Area::INDEX) => Whose::Ours,
            // A request is anybody's, a value the owner's.
            Some(area) if len == SECTOR && !area.decides(offset) => Whose::Ours,
            Some(area) if offset == area.offset() || offset == area.block_at(me) => Whose::Ours,
            Some(_) => Whose::Area,
        }
    }

    fn is_about_to_write(&self, index: usize, env: &mut Env, offset: u64, bytes: &[u8]) {
        let me = self.machine.me();
        if offset == delta_at(me.host) {
            let record = reading::record(Ok(bytes), offset, self.machine.terms().nonce);
            if record.good().is_some_and(DeltaRecord::is_free) {
                env.trace(|| format!("host {index} leaves"));
                if env.storage.writing(index, |_, _| true) {
                    env.check.fail(format!("W: machine {index} releases its host id while it has a write in flight"));
                }
                env.check.left(index);
            }
            return;
        }
        let Some(area) = Area::at(offset) else { return };
        if offset == area.value_at() {
            return self.is_about_to_write_value(index, env, area);
        }
        let block = Some(bytes).filter(|_| offset == area.block_at(me.host));
        let block = block.and_then(|bytes| Block::decode(bytes, offset).ok());
        let of_held = block.as_ref().filter(|_| self.program.held_at(area).is_some());
        env.check.of(area).submits(index, offset, of_held, env.now);
        if let Some(block) = block {
            let burns = block.extension.as_ref().is_some_and(|extension| extension.burned.is_some());
            env.check.counters.burns += u64::from(burns);
            env.check.of(area).proposes(me, &block);
            env.trace(|| format!("host {index}: {block:?}"));
        }
    }

    /// Tells the checker until when what is held may be acted on.
    pub(super) fn observe(&mut self, index: usize, env: &mut Env) {
        let (now, me) = (env.local(index), self.machine.me());
        let deadline = self.machine.tenure().deadline();
        if deadline != self.deadline {
            self.deadline = deadline;
            env.check.renewed(index, env.machines[index].clock.world(deadline));
        }
        if self.machine.loss(now).is_some() {
            return;
        }
        for (area, version) in self.program.held() {
            let key = (area.offset(), version);
            match self.machine.loss_of(key, now) {
                None => {
                    let until = self.acts_until(index, env, key);
                    if let Some(began) = self.machine.leases().looked(key)
                        && self.program.sees(area, began)
                    {
                        env.check.of(area).looked(index, env.machines[index].clock.world(began));
                    }
                    if self.program.extends(area, until) {
                        env.check.of(area).extended(index, me, env.now, until);
                    }
                }
                // It learns of it, and stops within G.
                Some((Some(since), loss)) => {
                    if self.program.loses(area) {
                        env.trace(|| format!("host {index}: {me} lost version {version}: {loss:?}"));
                        if let Loss::Lease(loss) = &loss {
                            env.check.of(area).loses(me, version, loss);
                        }
                        let until = since + self.machine.terms().timeouts.fence();
                        env.check.of(area).ends_by(index, me, env.machines[index].clock.world(until));
                    }
                }
                // Nobody answers for it any more: it is another's from now on.
                Some((None, _)) => {
                    if self.program.cedes(area) {
                        env.check.of(area).stopped(index);
                    }
                }
            }
        }
    }

    pub(super) fn acts_until(&self, index: usize, env: &Env, key: Key) -> Time {
        let fence = self.machine.terms().timeouts.fence();
        env.machines[index].clock.world(self.machine.held_until(key) + fence)
    }

    pub(super) fn leaves(&mut self, released: bool) {
        self.ended = Some(End::Left { released });
    }
}

/// The sectors on disk of these extents, whose own have `size` bytes each.
pub(super) fn offsets(extents: &[Extent], size: u64) -> Vec<u64> {
    let sectors = |extent: &Extent| {
        let offset = extent.offset;
        (offset..offset + extent.sectors * size).step_by(SECTOR as usize)
    };
    extents.iter().flat_map(sectors).collect()
}

/// Sectors as a reader gets them, of `size` bytes each.
pub(super) fn joined(sectors: &[Sector], size: u64) -> Sectors {
    let mut all = Sectors::new(size as usize);
    for parts in sectors.chunks((size / SECTOR) as usize) {
        match parts {
            parts if parts.iter().any(|part| part.is_empty()) => all.push(None),
            [sector] => all.push(Some(sector)),
            parts => all.push(Some(&parts.concat())),
        }
    }
    all
}
