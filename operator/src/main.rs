//! `trireme-operator`: the control plane as one process.

use std::process::ExitCode;

use clap::Parser;
use trireme_operator::api::crd;
use trireme_operator::args::{Args, Command};

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Crds => print_crds(),
    }
}

fn print_crds() -> ExitCode {
    use std::io::Write;
    match std::io::stdout().lock().write_all(crd::manifests().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
