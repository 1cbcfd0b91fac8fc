//! The token of a membership: text from which another process goes on with it.
//!
//! `leasehold1-` and hexadecimal digits: of the fields below, numbers little endian, names with their length before
//! them, and at the end a CRC-32C of all that comes before it.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | nonce of the lockspace |
//! | 1 + n | its name |
//! | 2, 8 | host id, generation |
//! | 1 + n | the host's name |
//! | 8, 4 | hashes of machine and boot, 0 where they can't be known |
//! | 2 | how many leases |
//! | 8, 1, 8, 1 + n each | place, 1 for exclusive or 2 for shared, version, and name of the resource |

use std::fmt;
use std::str::FromStr;

use crate::format::numbers::VALID;
use crate::types::{BootId, Generation, HostId, LeaseMode, MachineId, Name, Owner, Resource, Version};

/// What a process must know to go on with a membership and its leases: see [`Lockspace::resume`].
///
/// As text it has letters, digits and one hyphen, so it stands in XML, in JSON, in a shell's word and in an environment
/// variable as it is; 37 characters and more, some 50 for each lease, never more than [`ResumeToken::MAX_TEXT`]. It is
/// no secret and no right: whoever may write the device may do all that it allows.
///
/// It stays good for as long as the generation lasts, through any number of successors. It lists the leases that were
/// held when it was taken; those acquired later are found on the device.
///
/// [`Lockspace::resume`]: crate::Lockspace::resume
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResumeToken {
    pub(crate) nonce: u32,
    pub(crate) lockspace: Name,
    pub(crate) owner: Owner,
    pub(crate) host_name: Name,
    pub(crate) machine: Option<MachineId>,
    pub(crate) boot: Option<BootId>,
    pub(crate) leases: Vec<(Resource, LeaseMode, Version)>,
}

/// Why a text is no resume token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It doesn't begin as one.
    #[error("it is no resume token: those begin with {PREFIX}")]
    Prefix,
    /// It is one of another version of leasehold.
    #[error("it is a resume token of another version, {version}, not 1")]
    Version {
        /// What it says.
        version: u32,
    },
    /// It is longer than any can be.
    #[error("it has {length} characters, a resume token at most {}", ResumeToken::MAX_TEXT)]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It was cut off, or changed.
    #[error("the resume token is damaged: {0}")]
    Damaged(&'static str),
}

const PREFIX: &str = "leasehold1-";
const KIND: &str = "leasehold";
const EXCLUSIVE: u8 = 1;
const SHARED: u8 = 2;

impl ResumeToken {
    /// How many leases a token lists at most. Those beyond are still found, if the index has their resources.
    pub const MAX_LEASES: usize = 16_384;
    /// Bytes of the longest text.
    pub const MAX_TEXT: usize = PREFIX.len() + 2 * (4 + 49 + 2 + 8 + 49 + 8 + 4 + 2 + Self::MAX_LEASES * 66 + 4);

    /// Host id and generation that are continued.
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    /// The lockspace's name.
    pub const fn lockspace(&self) -> Name {
        self.lockspace
    }

    /// The leases that were held when the token was taken, in the order of their places.
    pub fn leases(&self) -> impl Iterator<Item = (&Resource, LeaseMode, Version)> {
        self.leases.iter().map(|(resource, mode, version)| (resource, *mode, *version))
    }

    fn payload(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let name = |bytes: &mut Vec<u8>, name: &Name| {
            let text = name.as_bytes();
            bytes.push(text.len() as u8);
            bytes.extend(text);
        };
        bytes.extend(self.nonce.to_le_bytes());
        name(&mut bytes, &self.lockspace);
        bytes.extend((self.owner.host.get() as u16).to_le_bytes());
        bytes.extend(self.owner.generation.get().to_le_bytes());
        name(&mut bytes, &self.host_name);
        bytes.extend(self.machine.map_or(0, MachineId::get).to_le_bytes());
        bytes.extend(self.boot.map_or(0, BootId::get).to_le_bytes());
        let listed = &self.leases[..self.leases.len().min(Self::MAX_LEASES)];
        bytes.extend((listed.len() as u16).to_le_bytes());
        for (resource, mode, version) in listed {
            bytes.extend(resource.offset.to_le_bytes());
            bytes.push(if *mode == LeaseMode::Exclusive { EXCLUSIVE } else { SHARED });
            bytes.extend(version.get().to_le_bytes());
            name(&mut bytes, &resource.name);
        }
        bytes
    }

    fn parse(mut bytes: Fields<'_>) -> Option<ResumeToken> {
        let nonce = u32::from_le_bytes(bytes.take()?);
        let lockspace = bytes.name()?;
        let host = HostId::new(u16::from_le_bytes(bytes.take()?).into())?;
        let generation = Generation::new(number(&mut bytes)?)?;
        let host_name = bytes.name()?;
        let machine = MachineId::new(u64::from_le_bytes(bytes.take()?));
        let boot = BootId::new(u32::from_le_bytes(bytes.take()?));
        let count = usize::from(u16::from_le_bytes(bytes.take()?));
        let lease = |bytes: &mut Fields<'_>| {
            let offset = u64::from_le_bytes(bytes.take()?);
            let mode = match bytes.take()? {
                [EXCLUSIVE] => LeaseMode::Exclusive,
                [SHARED] => LeaseMode::Shared,
                _ => return None,
            };
            let version = Version::new(number(bytes)?);
            Some((Resource { name: bytes.name()?, offset }, mode, version))
        };
        let leases = (0..count).map(|_| lease(&mut bytes)).collect::<Option<Vec<_>>>()?;
        let owner = Owner { host, generation };
        let token = ResumeToken { nonce, lockspace, owner, host_name, machine, boot, leases };
        (bytes.0.is_empty() && count <= Self::MAX_LEASES).then_some(token)
    }
}

/// A generation or version: as on the device, one that no host writes is refused.
fn number(bytes: &mut Fields<'_>) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.take()?)).filter(|number| *number < VALID)
}

/// What is left to be read.
struct Fields<'text>(&'text [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn name(&mut self) -> Option<Name> {
        let [length] = self.take()?;
        let (text, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        let mut field = [0; Name::FIELD];
        field.get_mut(..text.len())?.copy_from_slice(text);
        Some(Name::from_field(field))
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.payload();
        let sum = crc32c::crc32c(&payload).to_le_bytes();
        f.write_str(PREFIX)?;
        payload.iter().chain(&sum).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ResumeToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<ResumeToken, TokenError> {
        if text.len() > Self::MAX_TEXT {
            return Err(TokenError::TooLong { length: text.len() });
        }
        let Some(digits) = text.strip_prefix(PREFIX) else {
            let version = text.strip_prefix(KIND).and_then(|rest| rest.split_once('-')?.0.parse().ok());
            return Err(version.map_or(TokenError::Prefix, |version| TokenError::Version { version }));
        };
        let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
        let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? * 16 + digit(*low)?) as u8);
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        let bytes = bytes.filter(|_| rest.is_empty());
        let bytes = bytes.ok_or(TokenError::Damaged("it has characters that are no pairs of hexadecimal digits"))?;
        let sum =
            bytes.split_last_chunk::<4>().filter(|(payload, sum)| crc32c::crc32c(payload) == u32::from_le_bytes(**sum));
        let (payload, _) = sum.ok_or(TokenError::Damaged("its checksum is wrong"))?;
        ResumeToken::parse(Fields(payload)).ok_or(TokenError::Damaged("its fields are not those of a token"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = Name> {
        proptest::collection::vec(1..=255_u8, 0..=Name::FIELD).prop_map(|bytes| {
            let mut field = [0; Name::FIELD];
            field[..bytes.len()].copy_from_slice(&bytes);
            Name::from_field(field)
        })
    }

    prop_compose! {
        fn tokens()(
            (nonce, boot) in any::<(u32, u32)>(),
            (lockspace, host_name) in (names(), names()),
            (host, generation) in (1..=HostId::MAX, 1..VALID),
            machine in any::<u64>(),
            leases in proptest::collection::vec((names(), (any::<u64>(), any::<bool>(), 0..VALID)), 0..5),
        ) -> ResumeToken {
            let owner = Owner {
                host: HostId::new(host).expect("in range"),
                generation: Generation::new(generation).expect("not 0"),
            };
            let mode = |shared| if shared { LeaseMode::Shared } else { LeaseMode::Exclusive };
            let lease = |(name, (offset, shared, version))| {
                (Resource { name, offset }, mode(shared), Version::new(version))
            };
            let leases = leases.into_iter().map(lease).collect();
            let (machine, boot) = (MachineId::new(machine), BootId::new(boot));
            ResumeToken { nonce, lockspace, owner, host_name, machine, boot, leases }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_is_safe_anywhere(token in tokens()) {
            let text = token.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
            prop_assert!(text.len() <= ResumeToken::MAX_TEXT);
            prop_assert_eq!(text.parse(), Ok(token));
        }

        #[test]
        fn one_wrong_character_or_a_part_is_refused(
            token in tokens(),
            at in any::<proptest::sample::Index>(),
            byte in 0x20..0x7f_u8,
        ) {
            let text = token.to_string();
            let at = at.index(text.len());
            prop_assert!(text[..at].parse::<ResumeToken>().is_err());
            let mut wrong = text.clone().into_bytes();
            wrong[at] = byte;
            let wrong = String::from_utf8(wrong).expect("ASCII");
            prop_assert!(wrong == text || wrong.parse::<ResumeToken>().is_err());
        }

        #[test]
        fn no_text_is_a_token_by_chance(text in ".*") {
            prop_assert!(text.parse::<ResumeToken>().is_err());
            let behind = format!("{PREFIX}{text}");
            prop_assert!(behind.parse::<ResumeToken>().is_err());
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let parse = |text: &str| text.parse::<ResumeToken>();
        assert_eq!(parse("17"), Err(TokenError::Prefix));
        assert_eq!(parse("leasehold2-00"), Err(TokenError::Version { version: 2 }));
        let long = "x".repeat(ResumeToken::MAX_TEXT + 1);
        assert_eq!(parse(&long), Err(TokenError::TooLong { length: long.len() }));
        assert!(matches!(parse("leasehold1-0"), Err(TokenError::Damaged(_))));
        assert!(matches!(parse("leasehold1-"), Err(TokenError::Damaged(_))));
    }
}
