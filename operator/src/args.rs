//! The command line.

use std::net::SocketAddr;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

/// Trireme's operator for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "trireme-operator", version, propagate_version = true, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinitions, as YAML.
    Crds,
    /// Print the reasons of conditions, as a page of Markdown.
    Reasons,
}

/// `trireme-operator run`.
#[derive(Debug, Group)]
pub struct RunArgs {
    /// Namespaces to watch, separated by commas [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "TRIREME_NAMESPACES")]
    pub namespaces: Vec<String>,
    /// Visits to jobs at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Image of jobs that name none.
    #[arg(long, value_name = "IMAGE", env = "TRIREME_ENGINE_IMAGE")]
    pub engine_image: String,
    /// When nodes pull the image of jobs that do not say.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pub engine_image_pull_policy: PullPolicy,
    /// Storage of jobs that name none; each gets a folder of its own below it.
    #[arg(long, value_name = "URL")]
    pub storage: Option<String>,
    /// What engines log, for instance `debug`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub engine_log: String,
    /// Health and metrics.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080")]
    pub http: SocketAddr,
    /// Act without waiting to be the only one: for a run outside a cluster.
    #[arg(long)]
    pub without_lease: bool,
    /// Namespace of the Lease by which replicas agree on the one that acts.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// Name of that Lease.
    #[arg(long, value_name = "NAME", default_value = "trireme-operator")]
    pub lease_name: String,
    /// Name of this replica.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub identity: Option<String>,
    /// What to log, for instance `debug`.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "TRIREME_LOG")]
    pub log: String,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// When nodes pull an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
