//! The command line.

use clap::{Parser, Subcommand};

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
    /// Print the CustomResourceDefinitions, as YAML.
    Crds,
}
