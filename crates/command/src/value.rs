//! `leasehold value`

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use leasehold::disk::Access;
use leasehold::{Name, StoredValue, Value, ValueOrigin, Wait};
use serde_json::json;

use crate::failure::{DATA, Failure, REFUSED, USAGE};
use crate::output::{tell, written};
use crate::prepare::{existing, open};
use crate::session::{Identity, with_membership};
use crate::words::{Patience, Target};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold value get /dev/vg/leases database
  leasehold value set /dev/vg/leases database 'primary=node2'
  pg_controldata -D /srv/db | head -c 400 | leasehold value set /dev/vg/leases database --file -

A resource has a sector for data of its users': 472 bytes, or 4056 with sectors of 4096 bytes. With those sectors \
and areas smaller than 8M there is none.")]
pub(crate) struct ValueArgs {
    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Print the value of a resource; needs no host id and writes nothing
    Get(GetArgs),
    /// Acquire a resource, replace its value, and release it
    Set(SetArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is printed where no value was ever written. What a sanlock host wrote has no mark of its length and its \
writer: then all is printed up to the last byte that isn't zero. Where there is a mark that doesn't fit, because a \
sanlock host wrote over it or the sector is damaged, the value is printed too, with exit code 65.")]
pub(crate) struct GetArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// Resource: NAME, or NAME@OFFSET for one that stands at a byte offset of the device
    #[arg(value_name = "NAME")]
    pub(crate) name: Target,
    /// For programs: with who wrote it and under which version
    #[arg(long)]
    pub(crate) json: bool,
    /// The bytes as they are, and no others
    #[arg(long, conflicts_with = "json")]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// Resource: NAME, or NAME@OFFSET for one that stands at a byte offset of the device
    #[arg(value_name = "NAME")]
    pub(crate) name: Target,
    /// The value
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) text: Option<String>,
    /// Take the value from a file; - is the standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How long to wait for the resource if it is held
    #[arg(long, value_name = "DUR|forever", default_value = "0s")]
    pub(crate) wait: Patience,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

pub(crate) fn value(args: &ValueArgs) -> Result<ExitCode, Failure> {
    match &args.action {
        Action::Get(args) => get(args),
        Action::Set(args) => set(args),
    }
}

fn get(args: &GetArgs) -> Result<ExitCode, Failure> {
    let lockspace = open(&args.device, Access::ReadOnly)?;
    let resource = existing(&lockspace, &args.name)?;
    let stored = lockspace.value(&resource)?;
    let mut out = io::stdout().lock();
    let result = match (args.json, &stored.value) {
        (true, _) => writeln!(out, "{:#}", to_json(resource.name(), &stored)),
        (false, None) => Ok(()),
        (false, Some(value)) if args.raw => out.write_all(&value.data),
        (false, Some(value)) => out.write_all(readable(&value.data).as_bytes()),
    };
    written(result.and_then(|()| out.flush()))?;
    let name = resource.name();
    match &stored.value {
        Some(Value { origin: ValueOrigin::Altered, .. }) => Err(Failure::new(
            DATA,
            format!("nobody vouches for the value of {name}: a sanlock host wrote over it, or it is damaged"),
        )),
        Some(value) if !args.json => {
            tell_age(name, value, &stored);
            Ok(ExitCode::SUCCESS)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn tell_age(name: Name, value: &Value, stored: &StoredValue) {
    match value.origin {
        ValueOrigin::Lease { version, .. } if !value.is_latest(stored.version) => tell(format_args!(
            "the value of {name} was written at version {version}, the last ownership has version {}: nobody has written \
             since, or a late write has put it back",
            stored.version
        )),
        ValueOrigin::Unmarked => tell(format_args!("the value of {name} was not written by leasehold")),
        ValueOrigin::Lease { .. } | ValueOrigin::Altered => {}
    }
}

/// As text that a terminal can show, on lines of its own.
fn readable(data: &[u8]) -> String {
    let shown = |c: char| !c.is_control() || c == '\n' || c == '\t';
    let mut text = match str::from_utf8(data) {
        Ok(text) if text.chars().all(shown) => text.to_string(),
        _ => data.escape_ascii().to_string(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn to_json(name: Name, stored: &StoredValue) -> serde_json::Value {
    let mut json = json!({ "resource": name.to_string(), "last_version": stored.version.get(), "value": null });
    let Some(value) = &stored.value else { return json };
    // Null where it is no text.
    json["value"] = str::from_utf8(&value.data).ok().into();
    json["hex"] = value.data.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    json["latest"] = value.is_latest(stored.version).into();
    match value.origin {
        ValueOrigin::Lease { version, owner } => {
            json["origin"] = "lease".into();
            json["version"] = version.get().into();
            json["host_id"] = owner.host.get().into();
            json["generation"] = owner.generation.get().into();
        }
        ValueOrigin::Unmarked => json["origin"] = "unmarked".into(),
        ValueOrigin::Altered => json["origin"] = "altered".into(),
    }
    json
}

fn set(args: &SetArgs) -> Result<ExitCode, Failure> {
    let lockspace = open(&args.device, Access::ReadWrite)?;
    let resource = existing(&lockspace, &args.name)?;
    let room = Value::capacity(lockspace.geometry());
    // A file may be endless.
    let data = match (&args.text, &args.file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, file) => read(file.as_deref().unwrap_or(Path::new("-")), room + 1)?,
    };
    // Before a lease is taken for nothing.
    lockspace.value(&resource)?;
    if data.len() > room {
        return Err(Failure::new(REFUSED, format!("a value has at most {room} bytes here, this one has more")));
    }
    with_membership(&lockspace, &args.identity, |membership, _| {
        let lease = membership.acquire(&resource, Wait::from(args.wait))?;
        lease.set_value(&data)?;
        Ok(lease.release()?)
    })
}

fn read(file: &Path, at_most: usize) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::new(USAGE, format!("can't read {}: {error}", file.display()));
    let input: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).map_err(failed)?),
    };
    let mut data = Vec::new();
    input.take(at_most as u64).read_to_end(&mut data).map_err(failed)?;
    Ok(data)
}
