//! The `leasehold` command: a thin user of the library.

#![deny(missing_docs, unsafe_code)]

mod args;
mod channel;
mod convert;
mod create;
mod declare_dead;
mod descendants;
mod dump;
mod ending;
mod failure;
mod format;
mod guard;
mod handover;
mod hosts;
mod leases;
mod live;
mod look;
mod output;
mod picture;
mod prepare;
mod prober;
mod repair;
mod request;
mod run;
mod screen;
mod session;
mod signaled;
mod status;
mod supervise;
mod value;
mod watchdog;
mod words;
mod yielding;

use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue};

use args::{Cli, Command};
use failure::{Failure, USAGE};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    match args.get(1).and_then(|arg| arg.to_str()) {
        Some(guard::GUARD_SUBCOMMAND) => return guard::guard_main(),
        Some(guard::EXEC_SUBCOMMAND) => return guard::exec_main(&args[2..]),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = without_risky_advice(error);
            // Nothing can be done about a closed standard error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let result = match cli.command {
        Command::Format(args) => format::format(&args).map(|()| ExitCode::SUCCESS),
        Command::Create(args) => create::create(&args),
        Command::Run(args) => run::run(&args),
        Command::Convert(args) => convert::convert(&args).map(|()| ExitCode::SUCCESS),
        Command::Handover(args) => handover::handover(&args).map(|()| ExitCode::SUCCESS),
        Command::Request(args) => request::request(&args),
        Command::Status(args) => status::status(&args).map(|()| ExitCode::SUCCESS),
        Command::Hosts(args) => hosts::hosts(&args).map(|()| ExitCode::SUCCESS),
        Command::Value(args) => value::value(&args),
        Command::DeclareDead(args) => declare_dead::declare_dead(&args),
        Command::Repair(args) => repair::repair(&args),
        Command::Dump(args) => dump::dump(&args).map(|()| ExitCode::SUCCESS),
        Command::Watchdog { command } => watchdog::watchdog(&command).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|failure: Failure| {
        output::tell(&failure);
        ExitCode::from(failure.code())
    })
}

/// A wrong word is never taken for one that gives somebody's word for a dead host.
fn without_risky_advice(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::Strings(mut similar)) = error.remove(ContextKind::SuggestedSubcommand) {
        similar.retain(|name| name != "declare-dead");
        if !similar.is_empty() {
            error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(similar));
        }
    }
    error
}
