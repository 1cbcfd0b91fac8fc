//! The words that several commands take: profiles, spans, resources, hosts, sizes.

use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use leasehold::{AreaSize, HostId, Name, Profile, SectorSize, Wait};

/// A [`Profile`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileName {
    /// A dead owner is replaced within a second
    Fast,
    /// A dead owner is replaced within ten seconds
    Balanced,
    /// The timeouts of sanlock, for lockspaces shared with it: minutes
    Sanlock,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Profile {
        match name {
            ProfileName::Fast => Profile::Fast,
            ProfileName::Balanced => Profile::Balanced,
            ProfileName::Sanlock => Profile::Sanlock,
        }
    }
}

/// How long to wait for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    For(Duration),
    Forever,
}

impl FromStr for Patience {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Patience, Self::Err> {
        match text {
            "forever" => Ok(Patience::Forever),
            text => humantime::parse_duration(text).map(Patience::For),
        }
    }
}

impl From<Patience> for Wait {
    fn from(patience: Patience) -> Wait {
        match patience {
            Patience::Forever => Wait::Forever,
            Patience::For(span) if span.is_zero() => Wait::No,
            Patience::For(span) => Wait::For(span),
        }
    }
}

/// A resource as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// Byte offset of its area; `None`: the index says.
    pub(crate) offset: Option<u64>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (name, offset) = match text.rsplit_once('@') {
            Some((name, offset)) => {
                let offset = offset.parse().map_err(|error| format!("{offset:?} is no byte offset: {error}"))?;
                (name, Some(offset))
            }
            None => (text, None),
        };
        Name::resource(name).map_err(|error| error.to_string())?;
        Ok(Target { name: name.into(), offset })
    }
}

pub(crate) fn host_id(text: &str) -> Result<HostId, String> {
    let id = text.parse().ok().and_then(HostId::new);
    id.ok_or_else(|| format!("a host id is a number from 1 to {}", HostId::MAX))
}

pub(crate) fn sector_size(text: &str) -> Result<SectorSize, String> {
    let size = text.parse().ok().and_then(SectorSize::from_bytes);
    size.ok_or_else(|| "a sector has 512 or 4096 bytes".into())
}

pub(crate) fn area_size(text: &str) -> Result<AreaSize, String> {
    let mebibytes = text.strip_suffix(['M', 'm']).and_then(|number| number.parse::<u64>().ok());
    let size = mebibytes.and_then(|number| number.checked_mul(1 << 20)).and_then(AreaSize::from_bytes);
    size.ok_or_else(|| "an area has 1M, 2M, 4M or 8M".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_and_perhaps_a_place() {
        assert_eq!("db".parse(), Ok(Target { name: "db".into(), offset: None }));
        assert_eq!("db@3145728".parse(), Ok(Target { name: "db".into(), offset: Some(3_145_728) }));
        for wrong in ["", "@5", "db@", "db@x", "db@-1", "a b", "db@99999999999999999999"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
