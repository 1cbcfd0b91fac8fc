//! What is left of a lease when it is released, to be acquired again by.

use std::fmt;
use std::str::FromStr;

use crate::types::{Name, Version};

/// The name of a resource and the version at which it was held. Its text, `NAME:VERSION`, can stand in XML and in shell
/// commands as it is: names have none of the characters that mean something there.
///
/// ```
/// use leasehold::LeaseState;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let state: LeaseState = "vm-1:12".parse()?;
/// assert_eq!(state.to_string(), "vm-1:12");
/// assert!("vm-1".parse::<LeaseState>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseState {
    resource: Name,
    version: Version,
}

impl LeaseState {
    pub(crate) const fn new(resource: Name, version: Version) -> LeaseState {
        LeaseState { resource, version }
    }

    /// Of which resource.
    pub const fn resource(&self) -> Name {
        self.resource
    }

    /// At which version it was held.
    pub const fn version(&self) -> Version {
        self.version
    }
}

impl fmt::Display for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.resource, self.version)
    }
}

/// Text that is no [`LeaseState`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no lease state: a name, a colon and the version as a number")]
pub struct LeaseStateError {
    text: String,
}

impl FromStr for LeaseState {
    type Err = LeaseStateError;

    fn from_str(text: &str) -> Result<LeaseState, LeaseStateError> {
        let parse = || {
            let (name, version) = text.rsplit_once(':')?;
            Some(LeaseState::new(Name::resource(name).ok()?, Version::new(version.parse().ok()?)))
        };
        // Of a text that is far too long the start is enough to know it by.
        parse().ok_or_else(|| LeaseStateError { text: text.chars().take(80).collect() })
    }
}
