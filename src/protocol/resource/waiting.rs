//! Waiting for who is in the way, and whose turn it is among those who wait.

use super::backoff::MAX_SHORT_LOOKS;
use super::{Blocker, Effect, Hold, Operation, Outcome, Step};
use crate::format::{Block, Leader};
use crate::protocol::area::{AreaView, claimed};
use crate::protocol::liveness::Observer;
use crate::types::{Generation, LeaseMode, Owner, Time, Version};

/// How often a host lets one that has waited longer go first before it takes a free lease itself.
pub(super) const MAX_STAND_BACK: u32 = 2;

impl Operation {
    pub(super) fn blocked(
        &mut self,
        blocker: Blocker,
        view: &AreaView,
        leader: &Leader,
        own_is_wrong: bool,
        now: Time,
        random: u64,
    ) -> Effect {
        let waits = self.wish.wait;
        let due = !waits || blocker.free_at.is_none_or(|at| at <= now);
        let free_at = blocker.free_at;
        let holds = |it: &Blocker| (it.owner, it.version);
        if self.blocker.as_ref().map(holds) != Some(holds(&blocker)) {
            // Each of many that come at once has its moment.
            self.short_looks = 0;
        }
        self.blocker = Some(blocker.clone());
        self.stood_back = 0;
        if blocker.hold == Hold::Short && self.short_looks < MAX_SHORT_LOOKS {
            // Two that came at once, each with a claim of what neither owns, would outlast each other's looks.
            let claim = self.own.clone().filter(|own| claimed(self.subject.me.host, own) == Some(self.subject.me));
            return match claim {
                Some(own) => self.mark(own, self.ticket),
                None => self.look_soon(now, random),
            };
        }
        if due && !std::mem::take(&mut self.scanned) {
            // Its record was not read, or not since it must have changed; or this is the last word.
            self.step = Step::Pausing;
            return self.scan();
        }
        if !waits {
            return self.leave(Outcome::Blocked(blocker));
        }
        if self.receives() {
            return self.announce(&blocker, view, own_is_wrong, now, random);
        }
        // Two that wait with a claim each would wait for each other; two whose blocks are damaged, too: what is known
        // to have been there is written anew. A damaged block that nobody knows is not marked: what it may have held
        // would look as if it had never been.
        let me = self.subject.me;
        let own = self.own.clone();
        // A ballot has no mark.
        let unmarked = |own: &Block| own.extension.as_ref().is_none_or(|extension| extension.waiting.is_none());
        // A flag that somebody has put back keeps others away as a claim does.
        let holds = |own: &Block| claimed(me.host, own) == Some(me) || self.has_flagged();
        match own.filter(|own| unmarked(own) || own_is_wrong || holds(own)) {
            Some(own) => {
                // A mark since version 0 is none on the disk: of two that share neither would see that the other waits.
                let ticket = *self.ticket.get_or_insert(leader.version.max(Version::new(1)));
                self.mark(own, Some(ticket))
            }
            None => self.look_later(now, random, free_at),
        }
    }

    /// Gives the claim of the own block up, and says since when this host waits.
    pub(super) fn mark(&mut self, own: Block, waiting: Option<Version>) -> Effect {
        let block = self.given_up(own, waiting);
        self.write_own(Step::Marking, block)
    }

    /// Whether a host that may be active has waited since an earlier version, or as long with a smaller id. Those who
    /// share don't wait for each other.
    pub(super) fn somebody_waited_longer(
        &self,
        view: &AreaView,
        leader: &Leader,
        observer: &mut Observer,
        now: Time,
    ) -> bool {
        let mine = (self.ticket.unwrap_or(leader.version.after(1)), self.subject.me.host);
        let shares = self.wish.mode == LeaseMode::Shared;
        self.waiting(view).any(|(since, owner, block)| {
            let shares_too = shares && block.extension.as_ref().is_some_and(|extension| extension.shares);
            !shares_too && (since, owner.host) < mine && !observer.judge(owner, now).is_gone()
        })
    }

    /// The others who wait for the resource: since which version, who, and their blocks.
    pub(super) fn waiting<'view>(
        &self,
        view: &'view AreaView,
    ) -> impl Iterator<Item = (Version, Owner, &'view Block)> + use<'view> {
        let me = self.subject.me.host;
        view.good_blocks().filter(move |(host, _)| *host != me).filter_map(|(host, block)| {
            let extension = block.extension.as_ref()?;
            let generation = Generation::new(extension.generation)?;
            Some((extension.waiting?, Owner { host, generation }, block))
        })
    }
}
