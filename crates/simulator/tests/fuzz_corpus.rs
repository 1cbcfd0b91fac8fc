//! The committed inputs of the fuzz targets, which were found to reach code that the others don't or were failures
//! once. `fuzz/` says what each target does with them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

#[path = "../../../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stdout, clippy::print_stderr)]
mod targets;

/// Most of them wait.
const THREADS: usize = 12;

fn inputs(target: &'static str) -> Vec<(&'static str, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let paths = targets::replay::files(&folder).expect("the corpus can be listed");
    assert!(!paths.is_empty(), "no inputs in {}", folder.display());
    paths.into_iter().map(|path| (target, path)).collect()
}

// One test, because a panic in a thread of the engine is told from none by a count of all panics in the process. So one
// that fails makes those fail that run at the same time.
#[test]
fn the_corpus_of_the_fuzz_targets_passes() {
    let all: Vec<_> =
        ["decoders", "device", "member", "operations", "schedules"].into_iter().flat_map(inputs).collect();
    let (next, failed) = (Mutex::new(all.iter()), Mutex::new(Vec::new()));
    let take = || next.lock().expect("no panic meanwhile").next();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((target, path)) = take() {
                    let data = std::fs::read(path).expect("an input can be read");
                    if !targets::replay::run(target, &data) {
                        failed.lock().expect("no panic meanwhile").push(path);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "one or more of these fail: {failed:#?}");
}
