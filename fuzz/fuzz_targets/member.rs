//! `leasehold_fuzz::member` under libFuzzer; without cargo-fuzz, its replay over files.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| leasehold_fuzz::member(data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    leasehold_fuzz::replay::main(&["member"])
}
