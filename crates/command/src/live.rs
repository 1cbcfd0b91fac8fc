//! The live view: a picture again and again, until somebody has seen enough.
//!
//! One thread looks at the device, and may hang with it; another one catches signals, another reads keys. What they
//! have goes to the main thread, which shows it. So a device that doesn't answer keeps nobody from ending this.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use leasehold::disk::Access;
use leasehold::{Lockspace, Watching};
use rustix::process::Signal;
use serde_json::{Map, Value};
use signal_hook::iterator::Signals;

use crate::failure::{Failure, IO};
use crate::look::{LookArgs, Parts};
use crate::output::{damaged, show, written};
use crate::picture::Picture;
use crate::prepare::open;
use crate::screen::Screen;

/// How often a terminal is redrawn though nothing new is known: to tell for how long that is so.
const TICK: Duration = Duration::from_secs(1);
/// The longest interval. A longer one means as much, and is no time that could be counted from now.
const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);
/// A look takes no longer than this where storage is well.
const SILENCE: Duration = Duration::from_secs(2);

enum Event {
    Look(Box<Look>),
    Key(u8),
    Signal(i32),
}

/// What was seen, or why nothing was.
struct Look {
    at: SystemTime,
    seen: Result<Picture, Failure>,
}

/// How it is shown.
enum Form {
    Screen(Screen),
    Text,
    Json,
}

/// # Errors
/// What the last look failed with, or the damage that it showed.
pub(crate) fn watch(lockspace: Lockspace, args: &LookArgs, parts: Parts) -> Result<(), Failure> {
    let failed = |error| Failure::new(IO, format!("can't watch: {error}"));
    let (sender, events) = channel();
    let on_terminal = !args.json && io::stdout().is_terminal();
    catch_signals(sender.clone(), on_terminal).map_err(failed)?;
    let form = match on_terminal {
        true => Form::Screen(Screen::enter().map_err(failed)?),
        false if args.json => Form::Json,
        false => Form::Text,
    };
    if matches!(&form, Form::Screen(screen) if screen.has_keys()) {
        read_keys(sender.clone()).map_err(failed)?;
    }
    let interval = args.interval.min(LONGEST_INTERVAL);
    let observer = Observer { device: args.device.clone(), parts, interval, sender };
    spawn("leasehold-observe", move || observer.observe(lockspace.watch())).map_err(failed)?;

    let mut view = View { form, interval, told: Instant::now(), shown: None, trouble: None };
    let end = args.span.and_then(|span| Instant::now().checked_add(span));
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        // Nobody waits in vain for the first picture.
        if left == Some(Duration::ZERO) && view.has_news() {
            break;
        }
        let shown = match events.recv_timeout(left.filter(|left| !left.is_zero()).unwrap_or(TICK).min(TICK)) {
            Ok(Event::Look(look)) => view.take_in(*look),
            Ok(Event::Key(b'q' | b'Q')) => break,
            Ok(Event::Key(_)) => Ok(()),
            Ok(Event::Signal(signal)) if signal == Signal::TSTP.as_raw() => view.suspend(),
            Ok(Event::Signal(signal)) if signal == Signal::WINCH.as_raw() => view.redraw(),
            Ok(Event::Signal(_)) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => view.redraw(),
        };
        if shown.is_err() {
            return written(shown);
        }
    }
    view.end()
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(|_| ())
}

fn catch_signals(sender: Sender<Event>, on_terminal: bool) -> io::Result<()> {
    let end = [Signal::INT, Signal::TERM, Signal::HUP];
    let screen = [Signal::WINCH, Signal::TSTP];
    let caught = end.iter().chain(screen.iter().filter(|_| on_terminal));
    let mut signals = Signals::new(caught.map(|signal| signal.as_raw()))?;
    spawn("leasehold-signals", move || {
        for signal in signals.forever() {
            // Who doesn't listen any more is ending.
            let _ = sender.send(Event::Signal(signal));
        }
    })
}

fn read_keys(sender: Sender<Event>) -> io::Result<()> {
    spawn("leasehold-keys", move || {
        for key in io::stdin().lock().bytes().map_while(Result::ok) {
            let _ = sender.send(Event::Key(key));
        }
    })
}

/// Looks at the device, at the pace that its hosts need, and tells what it sees once in an interval.
struct Observer {
    device: PathBuf,
    parts: Parts,
    interval: Duration,
    sender: Sender<Event>,
}

impl Observer {
    /// For as long as the process lasts.
    fn observe(self, mut watching: Watching) {
        let mut next = Instant::now();
        loop {
            let looked = watching.refresh();
            if Instant::now() >= next {
                let seen = looked.map_err(Failure::from).and_then(|()| {
                    let resources = (self.parts == Parts::All).then(|| watching.resources());
                    Picture::new(&watching, resources)
                });
                if seen.is_err() {
                    watching = self.open_again().unwrap_or(watching);
                }
                // Who doesn't listen any more is ending.
                let _ = self.sender.send(Event::Look(Box::new(Look { at: SystemTime::now(), seen })));
                // From here on, and not from when it was due: after a stall nothing is made up for.
                next = Instant::now() + self.interval.max(watching.pace());
            }
            thread::sleep(watching.pace().min(next.saturating_duration_since(Instant::now())));
        }
    }

    /// A device that was gone may be back under its path, and is another one to the kernel then. What is seen of its
    /// hosts begins anew.
    fn open_again(&self) -> Option<Watching> {
        open(&self.device, Access::ReadOnly).ok().map(|lockspace| lockspace.watch())
    }
}

struct View {
    form: Form,
    interval: Duration,
    /// When the last look came in.
    told: Instant,
    shown: Option<(SystemTime, Picture)>,
    /// What the last look failed with.
    trouble: Option<Failure>,
}

impl View {
    const fn has_news(&self) -> bool {
        self.shown.is_some() || self.trouble.is_some()
    }

    fn take_in(&mut self, look: Look) -> io::Result<()> {
        self.told = Instant::now();
        let result = match &self.form {
            Form::Screen(_) => Ok(()),
            Form::Text => tell_as_text(&look),
            Form::Json => tell_as_json(&look),
        };
        match look.seen {
            Ok(picture) => (self.shown, self.trouble) = (Some((look.at, picture)), None),
            Err(failure) => self.trouble = Some(failure),
        }
        result.and_then(|()| self.redraw())
    }

    /// On a terminal: shows what is known now.
    fn redraw(&self) -> io::Result<()> {
        if !matches!(self.form, Form::Screen(_)) {
            return Ok(());
        }
        let mut text = Vec::new();
        let age = self.told.elapsed();
        match &self.trouble {
            Some(trouble) => writeln!(text, "{trouble}")?,
            None if age > self.interval + SILENCE => {
                writeln!(text, "the device has not answered for {} s", age.as_secs())?;
            }
            None => {}
        }
        if let Some((at, picture)) = &self.shown {
            let every = humantime::format_duration(self.interval);
            writeln!(text, "{}, every {every}; q ends", time(*at))?;
            describe(picture, &mut text, Some(Screen::size().columns))?;
        }
        Screen::draw(&String::from_utf8_lossy(&text))
    }

    fn suspend(&mut self) -> io::Result<()> {
        if let Form::Screen(screen) = &mut self.form {
            screen.suspend()?;
        }
        self.redraw()
    }

    /// Leaves the last picture on a terminal, and says how the last look ended.
    fn end(self) -> Result<(), Failure> {
        if let Form::Screen(screen) = self.form {
            let columns = Screen::size().columns;
            drop(screen);
            if let Some((at, picture)) = &self.shown {
                let mut text = Vec::new();
                let told = heading(*at, &mut text).and_then(|()| picture.print(&mut text, Some(columns)));
                written(told.and_then(|()| show(&text)))?;
            }
        }
        match (self.trouble, self.shown) {
            (Some(trouble), _) => Err(trouble),
            (None, Some((_, picture))) => damaged(&picture.damages),
            (None, None) => Ok(()),
        }
    }
}

fn tell_as_text(look: &Look) -> io::Result<()> {
    let mut text = Vec::new();
    match &look.seen {
        Ok(picture) => {
            heading(look.at, &mut text)?;
            describe(picture, &mut text, None)?;
            writeln!(text)?;
        }
        Err(failure) => writeln!(text, "{}: {}\n", time(look.at), failure.message())?,
    }
    show(&text)
}

fn tell_as_json(look: &Look) -> io::Result<()> {
    let mut line = Map::from_iter([("time".to_string(), Value::from(time(look.at)))]);
    match &look.seen {
        Ok(picture) => line.extend(picture.to_json()),
        Err(failure) => drop(line.insert("error".into(), failure.message().into())),
    }
    show(format!("{}\n", Value::from(line)).as_bytes())
}

fn describe(picture: &Picture, out: &mut Vec<u8>, columns: Option<usize>) -> io::Result<()> {
    picture.print(out, columns)?;
    for damage in &picture.damages {
        writeln!(out, "\n{damage}")?;
    }
    Ok(())
}

fn heading(at: SystemTime, out: &mut Vec<u8>) -> io::Result<()> {
    writeln!(out, "{}", time(at))
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
