//! Runs every target over its committed corpus: `replay`. Or over other inputs: `decoders FILE...`, and so on for the
//! other targets.

fn main() -> std::process::ExitCode {
    leasehold_fuzz::replay::main(&["decoders", "device", "member", "operations", "schedules"])
}
