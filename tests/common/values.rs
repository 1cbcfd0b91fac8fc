//! Values that the tests of the protocol's machines speak of.

use leasehold::format::Corrupt;
use leasehold::protocol::Seen;
use leasehold::{Generation, HostId, Name, Owner, Profile, Timeouts};

pub(crate) const A: u64 = 1;
pub(crate) const B: u64 = 2;

pub(crate) fn id(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

pub(crate) fn owner(host: u64, generation: u64) -> Owner {
    Owner { host: id(host), generation: Generation::new(generation).unwrap() }
}

pub(crate) fn timeouts() -> Timeouts {
    Profile::Fast.timeouts()
}

pub(crate) fn name(text: &str) -> Name {
    Name::resource(text).unwrap()
}

pub(crate) fn damage<T>() -> Seen<T> {
    Seen::Bad(Corrupt::Checksum { found: 1, computed: 2 }.into())
}
