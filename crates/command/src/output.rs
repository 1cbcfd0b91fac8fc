//! Printing what was found, and telling what of it is damaged.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use crate::failure::{DATA, Failure, IO};

/// How many damages are told one by one on standard error. A device that was overwritten has thousands.
const TOLD: usize = 20;

/// What came of writing to standard output. Who closes it has seen enough, which is no failure (`| head`).
pub(crate) fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(IO, format!("can't write to the standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes to standard output in one piece and at once: who watches wants to see it now, and no half of it.
pub(crate) fn show(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

/// Tells something on standard error. Nothing can be done about a closed one, and a supervisor must not end for it.
pub(crate) fn tell(message: impl Display) {
    let _ = writeln!(io::stderr(), "leasehold: {message}");
}

/// Tells each damage on a line of standard error; the last one is the failure.
pub(crate) fn damaged(damages: &[impl Display]) -> Result<(), Failure> {
    let told = damages.len().min(TOLD);
    let Some((last, earlier)) = damages[..told].split_last() else { return Ok(()) };
    for damage in earlier {
        tell(damage);
    }
    let failure = Failure::new(DATA, last.to_string());
    match damages.len() - told {
        0 => Err(failure),
        more => Err(failure.hint(format!("and {more} more; `leasehold dump` shows them all"))),
    }
}

/// Blanks between two columns.
const GAP: usize = 2;

/// A table with its columns aligned to the left.
#[derive(Debug)]
pub(crate) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(crate) fn new(header: [&str; COLUMNS]) -> Table<COLUMNS> {
        Table { rows: vec![header.map(String::from)] }
    }

    pub(crate) fn push(&mut self, row: [String; COLUMNS]) {
        self.rows.push(row);
    }

    /// The width of each column.
    fn widths(&self) -> [usize; COLUMNS] {
        std::array::from_fn(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
    }

    /// How many characters a full line takes.
    pub(crate) fn width(&self) -> usize {
        self.widths().iter().sum::<usize>() + GAP * COLUMNS.saturating_sub(1)
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let widths = self.widths();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line.push_str(&format!("{cell:width$}{:GAP$}", ""));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
