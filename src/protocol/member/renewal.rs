//! Renewing the host id: when, and what is written.
//!
//! A read or write that is slow is waited for, up to the deadline: giving it up and starting another would lose a lease
//! on a disk that still answers.

use super::account::{IoId, Pending, Purpose, Trouble};
use super::effect::Effect;
use super::{Member, Submitted, Timer};
use crate::format::{Calls, DeltaRecord};
use crate::protocol::procedure::{Extent, Sectors};
use crate::protocol::{Defect, Seen, Span, Written};
use crate::types::Time;

/// Which step a renewal is at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Renewal {
    step: Step,
    /// When the one under way began.
    began: Time,
    /// The next one is to be made at once.
    hurried: bool,
    /// What the last one failed with, to explain a loss.
    pub(super) trouble: Option<Trouble>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Until then.
    Resting(Time),
    Reading,
    Writing(Box<Calls>),
    /// Nothing is renewed any more.
    Stopped,
}

impl Renewal {
    pub(super) const fn new(now: Time) -> Renewal {
        Renewal { step: Step::Resting(now), began: now, hurried: false, trouble: None }
    }
}

impl Member {
    /// Has the next renewal made at once.
    pub(super) fn hurry(&mut self) {
        self.renewal.hurried = true;
        self.renew_if_due();
    }

    /// Has the next one made at once when the one under way is over.
    pub(super) const fn hurry_next(&mut self) {
        self.renewal.hurried = true;
    }

    /// Whether a renewal is under way.
    pub fn is_renewing(&self) -> bool {
        self.account.is_pending(Purpose::Renewal)
    }

    pub(super) fn stop_renewing(&mut self) {
        self.renewal.step = Step::Stopped;
    }

    pub(super) fn renew_if_due(&mut self) {
        let Step::Resting(until) = self.renewal.step else { return };
        if !self.may_write() {
            return;
        }
        if self.now < until && !self.renewal.hurried {
            self.wakes(until, Timer::Renewal);
            return;
        }
        self.renewal.hurried = false;
        self.renewal.began = self.now;
        self.renewal.step = Step::Reading;
        let offset = self.terms.geometry.delta_offset(self.me().host);
        let expires = self.tenure.deadline();
        self.read(Purpose::Renewal, 0, true, vec![Extent { offset, sectors: 1 }], expires, false);
    }

    fn renew_again(&mut self, at: Time) {
        if self.renewal.step != Step::Stopped {
            self.renewal.step = Step::Resting(at);
            self.renew_if_due();
        }
    }

    /// The own record was read.
    pub(super) fn read_own(&mut self, sectors: &Sectors) {
        if self.renewal.step != Step::Reading {
            return;
        }
        let offset = self.terms.geometry.delta_offset(self.me().host);
        let seen = self.record(sectors.first(), offset);
        let Ok(record) = self.tenure.renew(self.now, &seen) else {
            self.renewal.step = Step::Stopped;
            self.revision += 1;
            return;
        };
        let said = self.outbox.said(self.now);
        let bytes = record.encode_with_calls(offset, &said);
        let window = (self.tenure.deadline(), self.tenure.deadline());
        match self.write(Purpose::Renewal, 0, true, offset, bytes, window) {
            Submitted::Yes(_) => self.renewal.step = Step::Writing(Box::new(said)),
            Submitted::Busy | Submitted::Over => self.renew_again(self.now + self.terms.timeouts.renewal() / 4),
        }
    }

    /// What a sector in the place of a delta record shows.
    pub(super) fn record(&self, sector: Result<&[u8], Defect>, offset: u64) -> Seen<DeltaRecord> {
        crate::protocol::reading::record(sector, offset, self.terms.nonce)
    }

    /// A read or write of a renewal has failed: it may be a passing failure.
    pub(super) fn renewal_failed(&mut self, io: IoId, pending: &Pending) {
        self.renewal.trouble = Some(Trouble { io, waited: pending.waited() });
        if pending.is_write() {
            let span = Span { started: pending.started, ended: self.now };
            self.tenure.renewed(span, Written::Failed, self.now);
        }
        self.renew_again(self.now + self.terms.timeouts.renewal() / 4);
    }

    /// A renewal is confirmed.
    pub(super) fn renewed(&mut self, pending: &Pending) {
        let span = Span { started: pending.started, ended: self.now };
        self.renewal.trouble = None;
        self.tenure.renewed(span, Written::Done, self.now);
        self.revision += 1;
        if let Step::Writing(said) = std::mem::replace(&mut self.renewal.step, Step::Stopped) {
            self.outbox.stands(&said, self.now);
            self.effects.push(Effect::Renewed(self.now.since(self.renewal.began)));
            self.renewal.step = Step::Resting(self.now);
            self.calls_stand();
            self.renew_again(self.renewal.began + self.terms.timeouts.renewal());
        }
        self.wakes(self.tenure.deadline(), Timer::Deadline);
    }
}
