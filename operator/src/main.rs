//! `trireme-operator`: the control plane as one process.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use trireme_operator::api::{condition, crd};
use trireme_operator::args::{Args, Command};
use trireme_operator::run;

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(args) => return run_operator(&args),
        Command::Crds => io::stdout().lock().write_all(crd::manifests().as_bytes()),
        Command::Reasons => io::stdout().lock().write_all(condition::page().as_bytes()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run_operator(args: &trireme_operator::args::RunArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run::run(args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr().lock(), "error: {error}"));
            ExitCode::FAILURE
        }
    }
}
