//! Calling other hosts, in the words of the API.

use std::time::Duration;

use super::member::Member;
use crate::error::LossReason;
use crate::format::HostEvent;
use crate::protocol::member::{self as machine, Answer, Command};
use crate::types::HostId;

/// Why a host was not called.
pub(crate) enum NotCalled {
    /// Another event stands for this long.
    Busy(Duration),
    Lost(LossReason),
}

impl Member {
    /// How long `host` is called: six times the longer T of its record and of the lockspace.
    pub(crate) fn call_span(&self, host: HostId) -> Duration {
        self.pulse.with_machine(|machine| machine.call_span(host))
    }

    /// Calls these hosts, and waits until that stands on disk: one renewal, which is made at once.
    pub(crate) fn call(&self, hosts: &[HostId], event: Option<HostEvent>) -> Result<(), NotCalled> {
        self.pulse.held().map_err(NotCalled::Lost)?;
        match self.ask(Command::Call(hosts.to_vec(), event)).map_err(NotCalled::Lost)? {
            Answer::Called(Err(machine::NotCalled::Busy(left))) => Err(NotCalled::Busy(left)),
            Answer::Called(Err(machine::NotCalled::Lost(loss))) => Err(NotCalled::Lost(self.why(loss))),
            _ => Ok(()),
        }
    }
}
