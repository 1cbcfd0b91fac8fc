//! One consensus instance of Disk Paxos ("Disk Paxos", Gafni and Lamport 2003, section 3), for one host, over any
//! number of disks.
//!
//! Not in here: which instance to run and whether it may be run at all (that is [`super::resource`]), the leader, I/O.
//!
//! The caller writes [`Ballot::block`] to every disk, reads from those disks where the write is durable, and hands in
//! what it saw with [`Ballot::read`], which says how to go on when a majority has answered.
//!
//! Invariants:
//! - Phase 1 keeps the `bal`, `inp` and released flag that the own block already has in this instance.
//! - The own block, as read from disk, is among the blocks that choose the value.
//! - A block of an older instance counts as empty. One of a later instance ends the ballot.

use std::collections::{BTreeMap, BTreeSet};

use super::Seen;
use super::area::AreaView;
use super::rules::Rule;
use crate::format::{Block, BlockExtension, numbers};
use crate::types::{Generation, HostId, Owner, Time, Version};

/// Which of the paper's two phases a ballot is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Claims a ballot number and learns what was accepted before.
    One,
    /// Proposes a value.
    Two,
}

/// How a ballot goes on after a read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    /// Not from a majority yet.
    Waiting,
    /// Phase 1 is complete: [`Ballot::propose`] may begin phase 2.
    Prepared,
    /// The instance is decided, now and for ever.
    Decided(Owner),
    /// Another host claimed a larger ballot number in the same instance.
    Aborted,
    /// A block belongs to a later instance: this one is over.
    Superseded,
    /// A host's block is damaged and was not known to be when the ballot began.
    Damaged(HostId),
    /// The own block is not what was written: another process writes it too, or the read came from elsewhere.
    OwnBlockChanged,
}

/// A ballot in progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ballot {
    me: Owner,
    disks: usize,
    phase: Phase,
    block: Block,
    /// Damaged blocks of hosts that are gone, which the instance was chosen to lie beyond.
    ignored: BTreeSet<HostId>,
    /// Disks whose blocks were read since the write of this phase, with the largest accepted ballot there.
    answers: BTreeMap<usize, Option<(u64, Owner, u64)>>,
}

impl Ballot {
    /// Begins phase 1 of `instance`. `own` is the own block as just read from disk; `mbal` a number larger than any
    /// seen, from [`next_mbal`]. `shared` stays set in the block meanwhile.
    #[expect(clippy::too_many_arguments, reason = "a ballot is nothing but these")]
    pub fn new(
        me: Owner,
        disks: usize,
        instance: Version,
        own: &Block,
        mbal: u64,
        ignored: BTreeSet<HostId>,
        shared: Option<Generation>,
        extension: BlockExtension,
    ) -> Ballot {
        debug_assert!(instance >= own.instance, "no instance below the own block's is started");
        let stays = own.instance == instance && Rule::AcceptedValueStays.is_in_force();
        let kept = if stays { own.clone() } else { Block::default() };
        let released = kept.released && Rule::ReleaseStays.is_in_force();
        let block = Block { mbal, instance, released, shared, extension: Some(extension), ..kept };
        Ballot { me, disks, phase: Phase::One, block, ignored, answers: BTreeMap::new() }
    }

    /// What this phase writes to every disk.
    pub const fn block(&self) -> &Block {
        &self.block
    }

    /// The phase.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The instance.
    pub const fn instance(&self) -> Version {
        self.block.instance
    }

    /// The damaged blocks that don't count in this ballot.
    pub const fn ignored(&self) -> &BTreeSet<HostId> {
        &self.ignored
    }

    /// Takes in a read of `disk` that began after this phase's block was durable there.
    pub fn read(&mut self, disk: usize, view: &AreaView) -> Progress {
        let mut accepted = None;
        for (host, seen) in &view.blocks {
            let block = match seen {
                Seen::Good(block) => block,
                _ if self.ignored.contains(host) && *host != self.me.host => continue,
                Seen::Bad(_) => return Progress::Damaged(*host),
            };
            if block.instance > self.block.instance && Rule::LaterInstanceEndsBallot.is_in_force() {
                return Progress::Superseded;
            }
            if block.instance != self.block.instance {
                continue;
            }
            if block.mbal > self.block.mbal {
                return Progress::Aborted;
            }
            if let Some(owner) = block.inp.filter(|_| block.bal > 0) {
                accepted = accepted.max(Some((block.bal, owner, block.inp_timestamp)));
            }
        }
        if view.blocks.get(&self.me.host).and_then(Seen::good) != Some(&self.block) {
            return Progress::OwnBlockChanged;
        }
        self.answers.insert(disk, accepted);
        if self.answers.len() * 2 <= self.disks {
            return Progress::Waiting;
        }
        match self.phase {
            Phase::One => Progress::Prepared,
            Phase::Two => match self.block.inp {
                Some(owner) => Progress::Decided(owner),
                None => Progress::OwnBlockChanged,
            },
        }
    }

    /// Begins phase 2: proposes what was accepted with the largest ballot, or else `owner`. What the block said it
    /// holds of an earlier version is given up by that.
    pub fn propose(&mut self, owner: Owner, now: Time) {
        let chosen = self.answers.values().flatten().max().copied().filter(|_| Rule::LargestAcceptedWins.is_in_force());
        let (inp, inp_timestamp) = match chosen {
            Some((_, owner, timestamp)) => (owner, timestamp),
            None => (owner, now.as_timestamp()),
        };
        self.phase = Phase::Two;
        self.block.bal = self.block.mbal;
        self.block.inp = Some(inp);
        self.block.inp_timestamp = inp_timestamp;
        if let Some(extension) = &mut self.block.extension {
            extension.holds = None;
        }
        self.answers.clear();
    }
}

/// The ballot number to use next, larger than every `seen` one and distinct from every other host's: numbers are
/// congruent to the host id modulo `max_hosts`. `None` when that is one that no host writes.
pub fn next_mbal(host: HostId, max_hosts: u64, seen: impl Iterator<Item = u64>) -> Option<u64> {
    let next = match seen.max().unwrap_or(0) {
        0 => Some(host.get()),
        largest => (largest - largest % max_hosts).checked_add(max_hosts + host.get()),
    };
    numbers::written("mbal", next).ok()
}
