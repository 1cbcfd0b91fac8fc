//! A terminal that shows one picture, redrawn in place. It is on the terminal's second screen, so that nothing of it is
//! left when the first one comes back.

use std::io::{self, IsTerminal};

use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::output::show;

/// The second screen, without cursor, and without going on in the next line where a line is too long.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[2K";
const CLEAR_BELOW: &str = "\r\n\x1b[J";

/// What a terminal has that doesn't say.
const USUAL: Size = Size { columns: 80, rows: 24 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// Restored when it is dropped.
pub(crate) struct Screen {
    /// How keys were read before; `None` when the standard input is no terminal.
    keys: Option<Termios>,
}

impl Screen {
    /// Takes the terminal that is the standard output.
    ///
    /// # Errors
    /// It can't be written to.
    pub(crate) fn enter() -> io::Result<Screen> {
        let mut screen = Screen { keys: None };
        screen.take()?;
        Ok(screen)
    }

    /// Whether keys can be read.
    pub(crate) const fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    fn take(&mut self) -> io::Result<()> {
        let input = io::stdin();
        if input.is_terminal() {
            let before = tcgetattr(&input)?;
            let mut modes = before.clone();
            // Each key at once and unseen; Ctrl-C and Ctrl-Z stay signals.
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(&input, OptionalActions::Now, &modes)?;
            self.keys = Some(before);
        }
        show(ENTER.as_bytes())
    }

    fn give_back(&mut self) -> io::Result<()> {
        let written = show(LEAVE.as_bytes());
        if let Some(before) = self.keys.take() {
            tcsetattr(io::stdin(), OptionalActions::Now, &before)?;
        }
        written
    }

    /// Stops this process, as Ctrl-Z does, and goes on when it is continued.
    pub(crate) fn suspend(&mut self) -> io::Result<()> {
        self.give_back()?;
        kill_process(getpid(), Signal::STOP)?;
        self.take()
    }

    pub(crate) fn size() -> Size {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Size { columns: usize::from(size.ws_col), rows: usize::from(size.ws_row) }
            }
            _ => USUAL,
        }
    }

    /// Shows these lines, as far as there is room for them.
    pub(crate) fn draw(text: &str) -> io::Result<()> {
        let size = Screen::size();
        let lines = fit(text, size);
        let below = if lines.len() < size.rows { CLEAR_BELOW } else { "" };
        // Each line is cleared before it is written: the cursor stays on the last character of a full one.
        let lines: Vec<String> = lines.into_iter().map(|line| CLEAR_LINE.to_string() + &line).collect();
        show(format!("{HOME}{}{below}", lines.join("\r\n")).as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.give_back();
    }
}

/// What of `text` has room; what has none is counted.
fn fit(text: &str, size: Size) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let cut = |line: &str| match line.chars().count() > size.columns {
        true => line.chars().take(size.columns.saturating_sub(1)).chain(['…']).collect(),
        false => line.to_string(),
    };
    if lines.len() <= size.rows {
        return lines.into_iter().map(cut).collect();
    }
    let shown = size.rows.saturating_sub(1);
    let note = format!("({} more lines)", lines.len() - shown);
    lines[..shown].iter().copied().chain([&*note]).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_cut_and_counted() {
        let of = |columns, rows| fit("abcdef\nµ\n\nlast", Size { columns, rows });
        assert_eq!(of(6, 4), ["abcdef", "µ", "", "last"]);
        assert_eq!(of(5, 4), ["abcd…", "µ", "", "last"]);
        assert_eq!(of(20, 3), ["abcdef", "µ", "(2 more lines)"]);
        assert_eq!(of(1, 1), ["…"]);
    }
}
