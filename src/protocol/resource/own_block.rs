//! The own block: what an operation writes into it.

use super::{Effect, Kind, Operation, Step};
use crate::format::{Block, BlockExtension};
use crate::protocol::area::claimed;
use crate::types::{LeaseMode, Version};

impl Operation {
    pub(super) fn extension(&self, waiting: Option<Version>, burned: Option<Version>) -> BlockExtension {
        let shares = self.wish.mode == LeaseMode::Shared;
        let generation = self.subject.me.generation.get();
        BlockExtension { generation, waiting, burned, shares, holds: None, receives: None, withdrawn: self.withdrawn }
    }

    /// The own block with its claim given up, and with another waiting mark.
    pub(super) fn given_up(&self, own: Block, waiting: Option<Version>) -> Block {
        let released = own.released || claimed(self.subject.me.host, &own).is_some();
        let burned = own.extension.as_ref().and_then(|extension| extension.burned);
        let extension = self.extension(waiting, burned);
        // What is given up, and what only waits, keeps nobody from sharing.
        let shares = extension.shares || self.kind == Kind::Upgrade;
        Block { released, shared: self.kept_flag(), extension: Some(BlockExtension { shares, ..extension }), ..own }
    }

    /// Until the write is confirmed nobody knows what the own block holds.
    pub(super) fn write_own(&mut self, step: Step, block: Block) -> Effect {
        self.own = None;
        self.attempt = Some(block.clone());
        self.unconfirmed = self.subject.disks > 1;
        self.step = step;
        Effect::WriteBlock(self.next_round(), block)
    }
}
