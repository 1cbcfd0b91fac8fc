//! The states in which everything begins.

use std::collections::BTreeMap;

use leasehold::format::{Block, BlockExtension, Geometry, Leader, Writer};
use leasehold::protocol::Seen;
use leasehold::{LeaseMode, Owner, Version};

use super::limits::{Begin, Limits};
use super::world::{Content, Disk, FIRST, Held, History, Host, Known, NOW, Process, Sector, State, name};
use crate::canonical::{NONCE, Part};

impl Limits {
    pub(super) fn first_state(&self) -> State {
        let geometry = Geometry::default();
        let leader =
            Leader::new_free(geometry, name("ls"), NONCE, name("res"), geometry.max_hosts(), Version::new(FIRST));
        let up = Known { generation: 1, free: false, dead: false };
        let host = Host {
            generation: 1,
            process: Process::Idle,
            own: None,
            active: None,
            known: vec![up; self.hosts],
            read: None,
            role: None,
        };
        let mut state = State {
            hosts: (0..self.hosts).map(|_| Part::new(host.clone())).collect(),
            disk: Part::new(Disk {
                leader: leader.clone(),
                blocks: (0..self.hosts).map(|_| Seen::Good(Block::default())).collect(),
            }),
            in_flight: BTreeMap::new(),
            history: Part::new(History {
                held: Version::new(FIRST),
                committed: Version::new(FIRST),
                ..History::default()
            }),
            left: self.budget,
        };
        match self.begin {
            Begin::Fresh => {}
            Begin::LateLeader => state.begin_late(&leader),
            Begin::DeadBallot => {
                let block = Block { mbal: 1, instance: Version::new(FIRST + 1), ..Block::default() };
                state.write(Content::Block(block), 0);
                state.end(0, Process::Stopped);
            }
            Begin::Held(mode) => state.begin_held(mode, &leader),
        }
        state
    }
}

impl State {
    /// Host 0 acquired the first version, timed out when it wrote the leader, and stopped. Host 1 completed that
    /// version, found host 0 dead, acquired and released the second version, and holds the third.
    fn begin_late(&mut self, free: &Leader) {
        let leader = |version, owner| committed(version, owner, free);
        let (dead, holder) = (self.me(0), self.me(1));
        let own = won(FIRST + 3, 2, holder);
        self.in_flight.insert((0, Sector::Leader), Content::Leader(leader(FIRST + 1, dead)));
        self.end(0, Process::Stopped);
        self.disk.change(|disk| {
            disk.leader = leader(FIRST + 3, holder);
            disk.blocks[0] = Seen::Good(won(FIRST + 1, 1, dead));
            disk.blocks[1] = Seen::Good(own.clone());
        });
        self.hosts[1].change(|host| {
            host.active = Some(Held::new(LeaseMode::Exclusive, Version::new(FIRST + 3)));
            host.own = Some(own);
        });
        self.history.change(|history| {
            history.decided = [(FIRST + 1, dead), (FIRST + 2, holder), (FIRST + 3, holder)]
                .map(|(version, owner)| (Version::new(version), owner))
                .into();
            history.given_up.insert((Version::new(FIRST + 2), holder));
            history.held = Version::new(FIRST + 3);
            history.committed = Version::new(FIRST + 3);
        });
    }

    /// Host 0 acquired the first version, and holds it or shares.
    fn begin_held(&mut self, mode: LeaseMode, free: &Leader) {
        let (me, version) = (self.me(0), Version::new(FIRST));
        let claim = won(FIRST, 1, me);
        let shares = claim.extension.clone().map(|extension| BlockExtension { shares: true, ..extension });
        let (own, leader) = match mode {
            LeaseMode::Exclusive => (claim, committed(FIRST, me, free)),
            LeaseMode::Shared => {
                let leader = Leader { timestamp: 0, ..committed(FIRST, me, free) };
                (Block { released: true, shared: Some(me.generation), extension: shares, ..claim }, leader)
            }
        };
        self.disk.change(|disk| {
            disk.leader = leader;
            disk.blocks[0] = Seen::Good(own.clone());
        });
        self.hosts[0].change(|host| {
            host.active = Some(Held::new(mode, version));
            host.own = Some(own);
        });
        self.history.change(|history| history.decided = [(version, me)].into());
    }
}

/// The block of a host that has won a ballot for itself.
fn won(instance: u64, mbal: u64, owner: Owner) -> Block {
    let generation = owner.generation.get();
    Block {
        mbal,
        bal: mbal,
        inp: Some(owner),
        inp_timestamp: NOW.as_timestamp(),
        instance: Version::new(instance),
        extension: Some(BlockExtension { generation, nonce: NONCE, ..BlockExtension::default() }),
        ..Block::default()
    }
}

fn committed(version: u64, owner: Owner, free: &Leader) -> Leader {
    let timestamp = NOW.as_timestamp();
    Leader {
        owner: Some(owner),
        version: Version::new(version),
        timestamp,
        writer: Writer { id: owner.host.get(), generation: owner.generation.get(), timestamp },
        ..free.clone()
    }
}
