//! The words of the protocol as types. A value that exists is valid: each is parsed once, at the edge, and never
//! checked again.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the local clock `CLOCK_BOOTTIME`, in nanoseconds since the host booted.
///
/// Points of two hosts are never compared. The simulator hands out virtual ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(0);
    /// A point that is never reached.
    pub const MAX: Time = Time(u64::MAX);

    /// The point `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// What is written to disk as a timestamp: whole seconds, and never 0, which would mean "free".
    pub const fn as_timestamp(self) -> u64 {
        let seconds = self.0 / 1_000_000_000;
        if seconds == 0 { 1 } else { seconds }
    }

    /// How long after `earlier` this point is; zero when it is before it.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, span: Duration) -> Time {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, span: Duration) -> Time {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_sub(nanos))
    }
}

/// The number under which a host is known in a lockspace: 1 to [`HostId::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(u16);

impl HostId {
    /// The largest host id that any area has room for.
    pub const MAX: u64 = 2000;
    /// The smallest.
    pub const FIRST: HostId = HostId(1);
    /// The one after that.
    pub const SECOND: HostId = HostId(2);

    /// Checks the range.
    ///
    /// ```
    /// # use leasehold::HostId;
    /// assert!(HostId::new(1).is_some());
    /// assert!(HostId::new(0).is_none());
    /// assert!(HostId::new(2001).is_none());
    /// ```
    pub const fn new(id: u64) -> Option<HostId> {
        if id >= 1 && id <= Self::MAX { Some(HostId(id as u16)) } else { None }
    }

    /// The number, as it stands on disk.
    pub const fn get(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the holdings of one host id: each holding has a larger one than all before it. Never 0, which on disk means
/// that the id was never held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(NonZeroU64);

impl Generation {
    /// The generation with this number; `None` for 0.
    pub const fn new(number: u64) -> Option<Generation> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Generation(number)),
            None => None,
        }
    }

    /// The number, as it stands on disk.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The leader version of a resource. It grows with each ownership, and is the fencing token: a protected device that
/// remembers the largest version it has seen can refuse anything that carries a smaller one.
///
/// 0 is the version of a resource that was never owned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The version with this number.
    pub const fn new(number: u64) -> Version {
        Version(number)
    }

    /// The number, as it stands on disk.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The version `steps` further on.
    #[must_use]
    pub const fn after(self, steps: u64) -> Version {
        Version(self.0.saturating_add(steps))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a lease allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseMode {
    /// One holder at a time.
    Exclusive,
    /// Any number of holders that all share.
    Shared,
}

impl fmt::Display for LeaseMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeaseMode::Exclusive => "exclusive",
            LeaseMode::Shared => "shared",
        })
    }
}

/// What tells a machine from all others, across reboots: a hash of its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(NonZeroU64);

impl MachineId {
    /// The identity with this number; `None` for 0, which on disk means that it can't be known.
    pub const fn new(number: u64) -> Option<MachineId> {
        match NonZeroU64::new(number) {
            Some(number) => Some(MachineId(number)),
            None => None,
        }
    }

    pub(crate) fn of_hash(hash: u64) -> MachineId {
        MachineId(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }

    /// The number, as it stands on disk.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// What tells one boot of a machine from its others: a hash of the kernel's boot id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(NonZeroU32);

impl BootId {
    /// The boot with this number; `None` for 0, which on disk means that it can't be known.
    pub const fn new(number: u32) -> Option<BootId> {
        match NonZeroU32::new(number) {
            Some(number) => Some(BootId(number)),
            None => None,
        }
    }

    pub(crate) fn of_hash(hash: u64) -> BootId {
        BootId(NonZeroU32::new(hash as u32).unwrap_or(NonZeroU32::MIN))
    }

    /// The number, as it stands on disk.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// One holding of one host id: who owns, in the sense of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The host id.
    pub host: HostId,
    /// Which of the id's holdings.
    pub generation: Generation,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} generation {}", self.host, self.generation)
    }
}

/// A resource by name and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    pub(crate) name: Name,
    pub(crate) offset: u64,
}

impl Resource {
    /// Its name.
    pub const fn name(&self) -> Name {
        self.name
    }

    /// Where its area starts, in bytes from the device's start.
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no characters.
    #[error("a name can't be empty")]
    Empty,
    /// It has more bytes than its field.
    #[error("{name:?} has {bytes} bytes, the longest name here has {max}")]
    TooLong {
        /// The name as given.
        name: String,
        /// Its length.
        bytes: usize,
        /// The longest that fits.
        max: usize,
    },
    /// It has a byte that can't stand in a name: control characters, blanks, `@`, `:`, `,` and `/`, which separate
    /// names in commands and paths.
    #[error("{name:?} has the character {character:?}: letters, digits and any of . _ - + = % ~ # may stand in a name")]
    Character {
        /// The name as given.
        name: String,
        /// The first character that is refused.
        character: char,
    },
}

/// The bytes of a 48-byte name field up to its padding: read from disk as they are, shown with escapes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name([u8; Name::FIELD]);

impl Name {
    /// Bytes of a name field on disk.
    pub const FIELD: usize = 48;
    /// The longest name of a lockspace or a host; a resource's may fill the field.
    pub const MAX_TERMINATED: usize = 47;
    /// All zero.
    pub const EMPTY: Name = Name([0; Name::FIELD]);

    /// A lockspace's name: 1 to 47 bytes.
    ///
    /// # Errors
    /// Empty, too long, or a character that separates names.
    pub fn lockspace(name: &str) -> Result<Name, NameError> {
        Name::parse(name, Name::MAX_TERMINATED)
    }

    /// A host's name: 1 to 47 bytes.
    ///
    /// # Errors
    /// As for [`Name::lockspace`].
    pub fn host(name: &str) -> Result<Name, NameError> {
        Name::parse(name, Name::MAX_TERMINATED)
    }

    /// A resource's name: 1 to 48 bytes.
    ///
    /// # Errors
    /// As for [`Name::lockspace`].
    pub fn resource(name: &str) -> Result<Name, NameError> {
        Name::parse(name, Name::FIELD)
    }

    fn parse(name: &str, max: usize) -> Result<Name, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > max {
            return Err(NameError::TooLong { name: name.into(), bytes: name.len(), max });
        }
        let refused = |c: &char| c.is_control() || c.is_whitespace() || "@:,/\\\"'<>&".contains(*c);
        if let Some(character) = name.chars().find(refused) {
            return Err(NameError::Character { name: name.into(), character });
        }
        let mut field = [0; Name::FIELD];
        field[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Name(field))
    }

    /// Any 48 bytes, as found on a disk that others write too.
    pub const fn from_field(field: [u8; Name::FIELD]) -> Name {
        Name(field)
    }

    /// The whole field, zero padded.
    pub const fn field(&self) -> &[u8; Name::FIELD] {
        &self.0
    }

    /// The bytes before the first zero.
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(Name::FIELD);
        &self.0[..end]
    }

    /// Whether no byte stands before the first zero.
    pub const fn is_empty(&self) -> bool {
        self.0[0] == 0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_free_of_separators() {
        assert_eq!(Name::host(""), Err(NameError::Empty));
        assert!(Name::host(&"x".repeat(47)).is_ok());
        assert!(matches!(Name::host(&"x".repeat(48)), Err(NameError::TooLong { bytes: 48, max: 47, .. })));
        assert!(Name::resource(&"x".repeat(48)).is_ok());
        assert!(Name::resource(&"x".repeat(49)).is_err());
        for refused in ["a@1", "a:b", "a,b", "a/b", "a b", "a\n", "a<b"] {
            assert!(matches!(Name::resource(refused), Err(NameError::Character { .. })), "{refused}");
        }
        assert_eq!(Name::resource("größe").map(|name| name.to_string()), Ok("größe".into()));
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_escaped() {
        let mut field = [0; Name::FIELD];
        field[..4].copy_from_slice(b"a\xff\x01z");
        assert_eq!(Name::from_field(field).to_string(), "a\\xff\\u{1}z");
    }

    #[test]
    fn a_timestamp_is_never_zero() {
        assert_eq!(Time::ZERO.as_timestamp(), 1);
        assert_eq!(Time::from_nanos(2_999_999_999).as_timestamp(), 2);
    }
}
