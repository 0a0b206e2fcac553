//! Programs that a person would run: kubectl, the engine's binary, the test cluster's script.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Runs kubectl, and gives what it prints.
///
/// # Errors
/// What it says when it fails.
pub fn kubectl(arguments: &[&str]) -> Result<String, String> {
    succeeds(Command::new("kubectl").args(arguments))
}

/// Runs the engine's binary on this machine, and gives what it prints.
///
/// # Errors
/// What it says when it fails.
pub fn engine(arguments: &[&str]) -> Result<String, String> {
    let binary = env::var_os("TRIREME_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| "trireme".into());
    succeeds(Command::new(binary).args(arguments))
}

/// Runs a program to its end, and gives what it prints.
///
/// # Errors
/// What it says when it fails.
pub fn succeeds(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!(
            "{command:?}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        )),
    }
}
