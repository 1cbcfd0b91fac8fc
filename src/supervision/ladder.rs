//! What is done, and when, to a program whose lease runs out. Pure: the time is passed in.
//!
//! Steps are due by the time since the start of the last confirmed renewal, and never by how often somebody looked. So
//! a supervisor that was stalled goes straight to the step that is due when it runs again: a program that should be
//! dead by now is not first asked to end.

use std::time::Duration;

use crate::timeouts::Timeouts;
use crate::types::Time;

/// A step of a [`Ladder`]. A later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The renewal is overdue: prepare to stop. A confirmed renewal takes it back.
    Warn,
    /// The program is asked to end. From here on no renewal saves it.
    Terminate,
    /// The program is killed.
    Kill,
}

/// When each [`Step`] is due, counted from the start of the last confirmed renewal. What a killed program leaves to do,
/// and a watchdog, must be over by F + G.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ladder {
    fail: Duration,
    warn: Duration,
    terminate: Duration,
    kill: Duration,
}

/// Why a [`Ladder`] can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    /// A step would come before the one below it.
    #[error(
        "warn after {warn:?}, terminate after {terminate:?}, kill after {kill:?}: a step is due before the one below it"
    )]
    Order {
        /// When to warn.
        warn: Duration,
        /// When to terminate.
        terminate: Duration,
        /// When to kill.
        kill: Duration,
    },
    /// Terminating before R + 2T would end a program whose host's renewals are merely slow.
    #[error("terminating after {terminate:?} is too early: a slow renewal takes up to {slowest:?}")]
    TooEarly {
        /// When to terminate.
        terminate: Duration,
        /// R + 2T
        slowest: Duration,
    },
    /// Killing at F + G or later is killing when another host may have the lease.
    #[error("killing after {kill:?} is too late: everything must be gone after {gone:?}")]
    TooLate {
        /// When to kill.
        kill: Duration,
        /// F + G
        gone: Duration,
    },
}

impl Ladder {
    /// Warns at F / 2, terminates at F, kills at F + G / 2.
    pub fn new(timeouts: &Timeouts) -> Ladder {
        let fail = timeouts.fail();
        Ladder { fail, warn: timeouts.late(), terminate: fail, kill: fail + timeouts.fence() / 2 }
    }

    /// Steps at other times, each from the start of the last confirmed renewal.
    ///
    /// # Errors
    /// See [`LadderError`].
    pub fn with_steps(
        timeouts: &Timeouts,
        warn: Duration,
        terminate: Duration,
        kill: Duration,
    ) -> Result<Ladder, LadderError> {
        let slowest = timeouts.renewal() + timeouts.io() * 2;
        let gone = timeouts.fail() + timeouts.fence();
        if warn > terminate || terminate > kill {
            return Err(LadderError::Order { warn, terminate, kill });
        }
        if terminate < slowest {
            return Err(LadderError::TooEarly { terminate, slowest });
        }
        if kill >= gone {
            return Err(LadderError::TooLate { kill, gone });
        }
        Ok(Ladder { fail: timeouts.fail(), warn, terminate, kill })
    }

    /// The same, with the killing moved forward so that a machine is not reset for what SIGKILL would have ended:
    /// halfway to `reset`, the earliest that a watchdog fires after the deadline.
    #[must_use]
    pub fn ahead_of(mut self, reset: Duration) -> Ladder {
        self.kill = self.kill.min(self.fail + reset / 2).max(self.terminate);
        self
    }

    /// What a program has between SIGTERM and SIGKILL.
    pub fn grace(&self) -> Duration {
        self.kill - self.terminate
    }

    /// When the steps are due while the lease is held until `until`.
    pub fn deadlines(&self, until: Time) -> Deadlines {
        // The deadline is the start of the last confirmed renewal + F.
        let at =
            |span: Duration| if span < self.fail { until - (self.fail - span) } else { until + (span - self.fail) };
        Deadlines { warn_at: at(self.warn), terminate_at: at(self.terminate), kill_at: at(self.kill) }
    }
}

/// When the steps of a [`Ladder`] are due. Points on the clock that the deadline of the lease is counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// When to warn.
    pub warn_at: Time,
    /// When to terminate.
    pub terminate_at: Time,
    /// When to kill.
    pub kill_at: Time,
}

impl Deadlines {
    const fn of(&self, step: Step) -> Time {
        match step {
            Step::Warn => self.warn_at,
            Step::Terminate => self.terminate_at,
            Step::Kill => self.kill_at,
        }
    }
}

/// How far up a [`Ladder`] one program's end has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escalation {
    deadlines: Deadlines,
    reached: Option<Step>,
    /// The program has to end, whatever the deadline is.
    ended: bool,
}

impl Escalation {
    /// Nothing was done yet.
    pub const fn new(deadlines: Deadlines) -> Escalation {
        Escalation { deadlines, reached: None, ended: false }
    }

    /// A renewal was confirmed, or it is seen that none was. Without effect once the program was asked to end, or has
    /// to ([`Escalation::end`]).
    pub fn extend(&mut self, deadlines: Deadlines) {
        if !self.ended && self.reached < Some(Step::Terminate) && deadlines != self.deadlines {
            *self = Escalation::new(deadlines);
        }
    }

    /// The program has to end now, whatever the deadline is: it is asked to at once, and killed at `kill_at` unless
    /// that is due earlier.
    pub fn end(&mut self, now: Time, kill_at: Time) {
        self.ended = true;
        self.deadlines.terminate_at = self.deadlines.terminate_at.min(now);
        self.deadlines.kill_at = self.deadlines.kill_at.min(kill_at);
    }

    /// The step to do now, told once: the last one that is due. Those below that were missed are left out.
    pub fn due(&mut self, now: Time) -> Option<Step> {
        let last =
            [Step::Kill, Step::Terminate, Step::Warn].into_iter().find(|step| now >= self.deadlines.of(*step))?;
        if self.reached >= Some(last) {
            return None;
        }
        self.reached = Some(last);
        Some(last)
    }

    /// The last step that [`Escalation::due`] told.
    pub const fn reached(&self) -> Option<Step> {
        self.reached
    }

    /// When the next step is due; `None` after the last one.
    pub fn next_at(&self) -> Option<Time> {
        let left = [Step::Warn, Step::Terminate, Step::Kill].into_iter().filter(|step| self.reached < Some(*step));
        left.map(|step| self.deadlines.of(step)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn timeouts() -> Timeouts {
        Timeouts::new(ms(100), ms(100), ms(400), ms(200), ms(600)).expect("valid")
    }

    /// After a renewal that started at `renewed`.
    fn escalation(renewed: Time) -> Escalation {
        Escalation::new(Ladder::new(&timeouts()).deadlines(renewed + ms(400)))
    }

    #[test]
    fn steps_come_in_their_order_and_once() {
        let start = Time::ZERO + ms(1_000);
        let mut escalation = escalation(start);
        let mut told = Vec::new();
        for millis in 0..600 {
            if let Some(step) = escalation.due(start + ms(millis)) {
                assert_eq!(escalation.reached(), Some(step));
                told.push((millis, step));
            }
        }
        assert_eq!(told, [(200, Step::Warn), (400, Step::Terminate), (500, Step::Kill)]);
        assert_eq!(escalation.next_at(), None);
    }

    /// Scenario 37: a supervisor that ran its steps in turn would ask a program to end that has to be dead by now.
    #[test]
    fn a_stalled_supervisor_goes_straight_to_the_step_that_is_due() {
        let start = Time::ZERO + ms(1_000);
        for (stall, step) in [(450, Step::Terminate), (500, Step::Kill), (100_000, Step::Kill)] {
            let mut escalation = escalation(start);
            assert_eq!(escalation.due(start + ms(199)), None);
            assert_eq!(escalation.due(start + ms(stall)), Some(step));
            assert_eq!(escalation.due(start + ms(stall)), None, "a step that was missed came later");
        }
    }

    #[test]
    fn a_renewal_takes_a_warning_back_and_nothing_else() {
        let start = Time::ZERO + ms(1_000);
        let later = Ladder::new(&timeouts()).deadlines(start + ms(700));
        let mut escalation = escalation(start);
        assert_eq!(escalation.due(start + ms(250)), Some(Step::Warn));
        escalation.extend(later);
        assert_eq!(escalation.due(start + ms(450)), None);
        assert_eq!(escalation.due(start + ms(500)), Some(Step::Warn), "the next warning is told again");
        assert_eq!(escalation.due(start + ms(700)), Some(Step::Terminate));
        escalation.extend(Ladder::new(&timeouts()).deadlines(start + ms(9_000)));
        assert_eq!(escalation.due(start + ms(800)), Some(Step::Kill), "a renewal saved what was asked to end");
    }

    #[test]
    fn a_loss_before_the_deadline_ends_the_program_at_once_and_never_later_than_the_ladder() {
        let start = Time::ZERO + ms(1_000);
        let mut early = escalation(start);
        early.end(start + ms(10), start + ms(110));
        assert_eq!(early.next_at(), Some(start + ms(10)));
        assert_eq!(early.due(start + ms(10)), Some(Step::Terminate));
        assert_eq!(early.next_at(), Some(start + ms(110)));
        assert_eq!(early.due(start + ms(110)), Some(Step::Kill));
        let mut late = escalation(start);
        late.end(start + ms(450), start + ms(9_000));
        assert_eq!(late.due(start + ms(500)), Some(Step::Kill));
    }

    /// The two may be told at once, before any step is taken: to a guard that did not run for a moment.
    #[test]
    fn no_renewal_takes_back_that_a_program_has_to_end() {
        let start = Time::ZERO + ms(1_000);
        let later = Ladder::new(&timeouts()).deadlines(start + ms(700));
        let mut escalation = escalation(start);
        escalation.end(start + ms(10), start + ms(110));
        escalation.extend(later);
        assert_eq!(escalation.due(start + ms(20)), Some(Step::Terminate));
        escalation.extend(later);
        assert_eq!(escalation.due(start + ms(110)), Some(Step::Kill));
    }

    #[test]
    fn a_ladder_that_is_no_protection_is_refused() {
        let with = |warn, terminate, kill| Ladder::with_steps(&timeouts(), ms(warn), ms(terminate), ms(kill));
        assert!(with(200, 300, 599).is_ok());
        assert!(matches!(with(350, 300, 500), Err(LadderError::Order { .. })));
        assert!(matches!(with(200, 500, 450), Err(LadderError::Order { .. })));
        assert!(matches!(with(200, 299, 500), Err(LadderError::TooEarly { .. })));
        assert!(matches!(with(200, 400, 600), Err(LadderError::TooLate { .. })));
    }

    #[test]
    fn a_watchdog_comes_after_the_last_step() {
        let until = Time::ZERO + ms(1_000);
        let kill_at = |ladder: Ladder| ladder.deadlines(until).kill_at;
        let ladder = Ladder::new(&timeouts());
        assert_eq!(kill_at(ladder.ahead_of(ms(60))), until + ms(30));
        assert_eq!(kill_at(ladder.ahead_of(ms(1_000))), kill_at(ladder));
    }
}
