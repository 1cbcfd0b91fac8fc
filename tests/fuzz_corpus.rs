//! The committed inputs of the fuzz targets, which were found to reach code that the others don't or were failures once.
//! `fuzz/` says what each target does with them.

#![cfg(feature = "sim")]

use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stdout, clippy::print_stderr)]
mod targets;

fn replay(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let paths = targets::replay::files(&folder).expect("the corpus can be listed");
    assert!(!paths.is_empty(), "no inputs in {}", folder.display());
    for path in paths {
        let data = std::fs::read(&path).expect("an input can be read");
        assert!(targets::replay::run(name, &data), "{} fails", path.display());
    }
}

// One test, because a panic in a thread of the engine is told from none by a count of all panics in the process.
#[test]
fn the_corpus_of_the_fuzz_targets_passes() {
    ["decoders", "device", "operations", "schedules"].into_iter().for_each(replay);
}
