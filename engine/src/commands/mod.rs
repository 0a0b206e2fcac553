//! One file per command.

mod driver;
mod explain;
mod job;
mod manifest;
mod metrics;
mod run;
mod sql;
mod validate;
mod worker;

use std::process::ExitCode;

use clap::CommandFactory;
use trireme_core::telemetry;
use trireme_spec::problem::{ErrorCode, Problem};

use crate::args::{Args, Command, LogFormat, Logging};
use crate::{output, process};

/// Runs the command and gives the process's exit code.
pub fn dispatch(args: Args) -> ExitCode {
    // Roles log what happens; a person's command says what matters by itself.
    let quiet = !matches!(args.command, Command::Driver(_) | Command::Worker(_));
    let log = args.log;
    let filter = log.as_deref().or(quiet.then_some("warn"));
    if let Err(error) = telemetry::init(log_format(args.log_format), filter) {
        return process::fail(&Problem::new(ErrorCode::ManifestBadValue, error.to_string()).remedy("see --log"));
    }
    let done = match args.command {
        Command::Run(run_args) => {
            let filter = filter.unwrap_or("warn").to_owned();
            let format = args.log_format;
            run::run(&run_args, Logging { filter, format })
        }
        Command::Sql(args) => sql::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Driver(args) => driver::run(&args),
        Command::Worker(args) => worker::run(&args),
        Command::Version => print_version(),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "trireme", &mut text);
            output::text(&text).map(|()| ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|problem| process::fail(&problem))
}

fn log_format(format: LogFormat) -> telemetry::LogFormat {
    match format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    }
}

fn print_version() -> Result<ExitCode, Problem> {
    let text = format!(
        "trireme {}\nwire protocol {}\nDataFusion {}",
        env!("CARGO_PKG_VERSION"),
        trireme_exchange::wire::WIRE_VERSION,
        datafusion::DATAFUSION_VERSION,
    );
    output::line(&text)?;
    Ok(ExitCode::SUCCESS)
}
