//! What went wrong with a write, for the person who wrote the job.

use trireme_batch_durable::commit::{CommitError, StoreError, VisibleError};
use trireme_spec::problem::{ErrorCode, Problem};

use crate::problems::{causes, problem_of_cause};

/// Whether the destination failed, which the next try may find mended.
pub fn is_of_the_store(error: &CommitError) -> bool {
    matches!(error, CommitError::Store(_))
}

/// The write is committed, and `problem` kept it from being completed.
pub fn not_complete(location: &str, mut problem: Problem) -> Problem {
    problem.message = format!(
        "what was written to {location} is committed, and not complete yet: {}",
        problem.message
    );
    problem.remedy("do not write it again: readers leave it out until the next write to this folder completes it")
}

/// `problem` keeps from everybody whether the write is committed.
pub fn not_known(location: &str, mut problem: Problem) -> Problem {
    problem.message = format!(
        "it cannot be told whether what was written to {location} is committed: {}",
        problem.message
    );
    problem.remedy("look for this job in _trireme/commits of the folder before you run it again: a commit there is complete after the next write")
}

/// What a failed commit means for the person who wrote the job.
pub fn commit_problem(error: &CommitError) -> Problem {
    let text = causes(error);
    match error {
        CommitError::Store(error) => store_problem(error),
        CommitError::Stale { .. } | CommitError::Contended { .. } => Problem::new(ErrorCode::DataCommitConflict, text),
        CommitError::Exists { .. } => Problem::new(ErrorCode::DataDestinationExists, text).remedy(
            "choose an empty folder, or say what to do with the old data: OPTIONS (mode 'overwrite') or (mode 'append')",
        ),
        CommitError::Visible {
            source: VisibleError::Unsettled { .. },
            ..
        } => Problem::new(ErrorCode::DataCommitConflict, text)
            .remedy("read again when the overwrite is done; if its job died, the next write to the folder completes it"),
        CommitError::PartLost { .. } | CommitError::Visible { .. } => {
            Problem::new(ErrorCode::DataMalformed, text).remedy("overwrite the destination: its data is not whole")
        }
        CommitError::DamagedLog { .. } => Problem::new(ErrorCode::DataMalformed, text)
            .remedy("restore the entry from a copy; without _trireme, the files are read as a plain folder"),
        CommitError::LogFull { .. } => Problem::new(ErrorCode::SqlUnsupported, text).remedy(
            "write to a new folder, into which the rows of this one can be copied; fewer and larger writes fill it later",
        ),
        CommitError::WrongPart { .. } => Problem::new(ErrorCode::Internal, text),
    }
}

/// What a failed destination means for the person who wrote the job.
pub fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::File { .. } | StoreError::Objects { .. } => {
            let mut problem = problem_of_cause(error);
            if problem.code == ErrorCode::Internal {
                // What has no number of the kernel's: folders in folders without end, and the like.
                problem = Problem::new(ErrorCode::DataIo, problem.message).remedy("look at what is in the folder");
            }
            problem.message = format!("{error}: {}", problem.message);
            problem
        }
        StoreError::Name { .. } => Problem::new(ErrorCode::DataMalformed, error.to_string()).remedy("rename the file"),
        StoreError::TooManyFiles { .. } => Problem::new(ErrorCode::DataMalformed, error.to_string())
            .remedy("write fewer, larger files: fewer partition columns, or an overwrite that compacts"),
        StoreError::PartTooLarge { .. } => Problem::new(ErrorCode::SqlUnsupported, error.to_string())
            .remedy("divide the rows: SET datafusion.execution.target_partitions to more, or write PARTITIONED BY"),
    }
}
