//! Replays inputs without a fuzzer.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Panics in any thread: the engine survives one of its own threads.
static PANICS: AtomicUsize = AtomicUsize::new(0);
static COUNTED: Once = Once::new();

fn target(name: &str) -> fn(&[u8]) {
    match name {
        "decoders" => super::decoders,
        "device" => super::device,
        "member" => super::member,
        "operations" => super::operations,
        "schedules" => super::schedules,
        _ => unreachable!("there is no target {name}"),
    }
}

/// Runs a target on an input; whether no thread panicked.
pub fn run(name: &str, data: &[u8]) -> bool {
    COUNTED.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            hook(info);
        }));
    });
    let before = PANICS.load(Ordering::SeqCst);
    let ended = catch_unwind(AssertUnwindSafe(|| target(name)(data))).is_ok();
    ended && PANICS.load(Ordering::SeqCst) == before
}

/// The files in a folder, in the order of their names.
///
/// # Errors
/// When they can't be listed.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    files.sort();
    Ok(files)
}

fn replay(name: &str, paths: &[PathBuf]) -> io::Result<usize> {
    let mut failed = 0;
    for path in paths {
        if !run(name, &fs::read(path)?) {
            eprintln!("{name}: {} FAILED", path.display());
            failed += 1;
        }
    }
    println!("{name}: {} inputs, {failed} failed", paths.len());
    Ok(failed)
}

/// The main function of the replay programs: each target over the files and folders named on the command line, or over
/// its corpus when there are none. Fails when an input does, or when a target has none.
pub fn main(names: &[&str]) -> ExitCode {
    let given: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let mut ok = true;
    for name in names {
        let paths = match given.is_empty() {
            true => files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)),
            false => given
                .iter()
                .map(|path| if path.is_dir() { files(path) } else { Ok(vec![path.clone()]) })
                .collect::<io::Result<Vec<_>>>()
                .map(|lists| lists.concat()),
        };
        match paths.and_then(|paths| Ok((paths.len(), replay(name, &paths)?))) {
            Ok((1.., 0)) => {}
            Ok(_) => ok = false,
            Err(error) => {
                eprintln!("{name}: {error}");
                ok = false;
            }
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
