//! The termination log of a pod: a file whose last content Kubernetes keeps when the pod ends, and shows to whoever asks what
//! became of it. It is the last word of a process, so that nothing here can fail: what cannot be written is warned of.

use std::fs;
use std::path::Path;

use trireme_spec::limits::Limits;
use trireme_spec::problem::Problem;
use trireme_spec::report::{JobReport, problem_to_json_within};

/// Leaves a driver's last report in `file`.
pub fn leave_report(file: Option<&Path>, report: &JobReport) {
    leave(file, |bytes_max| report.to_json_within(bytes_max));
}

/// Leaves in `file` what ended a worker.
pub fn leave_problem(file: Option<&Path>, problem: &Problem) {
    leave(file, |bytes_max| problem_to_json_within(problem, bytes_max));
}

fn leave(file: Option<&Path>, json: impl FnOnce(usize) -> String) {
    let Some(file) = file else { return };
    let bytes_max = Limits::DEFAULT.termination_message_bytes_max.get();
    let json = json(usize::try_from(bytes_max).unwrap_or(usize::MAX));
    // Over what is there, in place: the file is a mount of its own and cannot be replaced.
    if let Err(error) = fs::write(file, json) {
        tracing::warn!(file = %file.display(), %error, "the termination log cannot be written");
    }
}
