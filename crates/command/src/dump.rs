//! `leasehold dump`

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::PathBuf;

use clap::Args;
use leasehold::disk::Access;
use leasehold::inspect::{self, Field, FieldValue, Record};
use leasehold::{HostId, Lockspace};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::{damaged, written};
use crate::prepare::open;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold dump /dev/vg/leases
  leasehold dump leasehold.img --json

Prints what it can read of a device that is damaged, and what is wrong with the rest. Writes nothing.")]
pub(crate) struct DumpArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn dump(args: &DumpArgs) -> Result<(), Failure> {
    let lockspace = open(&args.device, Access::ReadOnly)?;
    let out = BufWriter::new(io::stdout().lock());
    let mut dump = Dump { lockspace: &lockspace, out, json: args.json, printed: 0, damages: Vec::new() };
    let result = dump.everything();
    let Dump { damages, .. } = dump;
    written(result)?;
    damaged(&damages)
}

struct Dump<'a> {
    lockspace: &'a Lockspace,
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    printed: u64,
    damages: Vec<String>,
}

impl Dump<'_> {
    fn everything(&mut self) -> io::Result<()> {
        if self.json {
            write!(self.out, "[")?;
        }
        let failed = inspect::each_record(self.lockspace, |record| self.print(&record))?;
        self.damages.extend(failed.iter().map(|error| format!("{error}: {}", error.cause)));
        if self.json {
            writeln!(self.out, "\n]")?;
        }
        self.out.flush()
    }

    fn print(&mut self, record: &Record) -> io::Result<()> {
        let Record { title, offset, fields, flaw, .. } = record;
        if let Some(flaw) = flaw {
            let device = self.lockspace.device();
            self.damages.push(format!("the {title} at offset {offset} of {device} is damaged: {flaw}"));
        }
        let first = self.printed == 0;
        self.printed += 1;
        let all = fields.iter().map(|field| (field.name, shown(field)));
        if self.json {
            let all: Map<String, Value> = all.map(|(name, value)| (name.into(), value)).collect();
            let json = json!({ "record": title, "offset": offset, "fields": all, "error": flaw });
            return write!(self.out, "{}\n  {json}", if first { "" } else { "," });
        }
        if !first {
            writeln!(self.out)?;
        }
        writeln!(self.out, "{title} at offset {offset}")?;
        if let Some(flaw) = flaw {
            writeln!(self.out, "  DAMAGED: {flaw}")?;
        }
        let width = fields.iter().map(|field| field.name.len()).max().unwrap_or_default();
        for (name, value) in all {
            match value {
                Value::String(text) => writeln!(self.out, "  {name:width$}  {text}")?,
                value => writeln!(self.out, "  {name:width$}  {value}")?,
            }
        }
        Ok(())
    }
}

/// A field as it is printed: hexadecimal numbers, names and data as text.
fn shown(field: &Field) -> Value {
    match &field.value {
        FieldValue::Number(number) => (*number).into(),
        FieldValue::Hex(number) => format!("{number:#x}").into(),
        FieldValue::Text(name) => name.to_string().into(),
        FieldValue::Hosts(hosts) => hosts.iter().map(|host| HostId::get(*host)).collect::<Vec<_>>().into(),
        FieldValue::Bytes(data) => data.escape_ascii().to_string().into(),
        other => format!("{other:?}").into(),
    }
}
