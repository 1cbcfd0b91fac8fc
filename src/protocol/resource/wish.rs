//! What an acquire is for.

use crate::types::{LeaseMode, Version};

/// What an acquire is to achieve, and under which condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wish {
    /// What is to be held.
    pub mode: LeaseMode,
    /// Whether it waits for who is in the way, until the caller calls it off.
    pub wait: bool,
    /// From which version.
    pub basis: Basis,
}

impl Wish {
    /// To hold the resource alone, whatever version it is at.
    pub const fn exclusive(wait: bool) -> Wish {
        Wish { mode: LeaseMode::Exclusive, wait, basis: Basis::Any }
    }
}

/// From which version a resource is acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Basis {
    /// From any.
    Any,
    /// Only from this one: nobody has owned the resource since.
    Unchanged(Version),
    /// Only from this one, and though its owner lives: forced handover. Those who share are respected, and so is an
    /// owner that is a sanlock host: it would not notice.
    Forced(Version),
    /// Only from an owner who hands it over to this host.
    HandedOver,
}

impl Basis {
    pub(super) const fn version(self) -> Option<Version> {
        match self {
            Basis::Any | Basis::HandedOver => None,
            Basis::Unchanged(version) | Basis::Forced(version) => Some(version),
        }
    }
}
