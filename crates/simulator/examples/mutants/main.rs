//! Switches off one rule of the protocol after the other, and shows that the simulator then finds a violation.
//!
//! `RUSTFLAGS='--cfg leasehold_mutants' CARGO_TARGET_DIR=target/mutants cargo run --release -p leasehold-simulator
//! --example mutants` prints for each mutant which property failed, after how many seeds and how long, and fails if one
//! survives. Arguments are the names of rules, to try only those. `LEASEHOLD_SEEDS=n` says after how many seeds a
//! mutant has survived.

// A program that talks to people.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

#[cfg(leasehold_mutants)]
mod hunt;

#[cfg(leasehold_mutants)]
fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    hunt::run(&names)
}

#[cfg(not(leasehold_mutants))]
fn main() -> ExitCode {
    println!("no rule can be switched off in this build: build with RUSTFLAGS='--cfg leasehold_mutants'");
    ExitCode::FAILURE
}
