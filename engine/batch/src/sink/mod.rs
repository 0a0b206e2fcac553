//! Rows into files, all or none: COPY, INSERT INTO, CREATE TABLE AS and a job's `result`.
//!
//! A write has three steps. [`begin`] fences older drivers and finds writes that are already committed; the engine plans the
//! rows and runs [`Write::plan`], whose tasks leave parts that nobody sees; [`Write::commit`] makes them the result. The protocol is that
//! of `trireme_batch_durable::commit`; here is what turns SQL into it.

mod created;
mod destination;
mod encode;
mod exec;
mod parts;
mod pending;
mod reader;
mod sorted;
mod stores;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
pub use trireme_batch_durable::Generation;
use trireme_batch_durable::commit::{
    Begin, CommitError, CommitPermit, CommitRecord, Committer, Discarded, StoreError, VisibleError, WriteMode,
    WriteRequest,
};
use trireme_batch_durable::{Fingerprint, WriteId};
use trireme_spec::problem::{ErrorCode, Problem};

use crate::problems::{causes, problem_of_cause};
use crate::statements::statement_problem;

pub use created::{Created, Home};
pub use destination::{Destination, destination_of, insert_mode};
pub use exec::{PartSinkExec, SinkOrder, decode_sink, encode_sink};
pub use pending::{Decisions, PendingWrite};
pub use reader::recorded_files;

/// Who writes: the same for every statement of one driver.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The job, for people.
    pub job: String,
    /// The run of the job: the same for all its drivers, another for each run.
    pub run: String,
    /// The driver.
    pub generation: Generation,
}

impl Writer {
    /// The first driver of a new run of `job`.
    pub fn first(job: &str) -> Self {
        Self {
            job: job.to_owned(),
            run: crate::incarnation(),
            generation: Generation::FIRST,
        }
    }
}

/// A write that is committed.
#[derive(Debug)]
pub struct Committed {
    pub written: Written,
    /// Why it is not complete: readers leave it out until the next write to the location completes it.
    pub unfinished: Option<Problem>,
}

/// What a write left.
#[derive(Debug, Clone)]
pub struct Written {
    pub location: String,
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
    /// An earlier driver of the job had committed it.
    pub recovered: bool,
}

/// What [`begin`] found.
pub enum Begun {
    /// Plan its rows and run the plan, then commit.
    Run(Box<Write>),
    /// There is nothing to run.
    Already(Box<Committed>),
}

/// Between two tries to settle a commit at a store that fails; its client has tried for a while each time.
const SETTLE_AGAIN: &[Duration] = &[
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// Tasks in this process have this long to stop before what they wrote is swept.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A write under way.
pub struct Write {
    committer: Committer,
    permit: CommitPermit,
    order: Arc<SinkOrder>,
    /// Once there is one.
    plan: Option<Arc<PartSinkExec>>,
    settle_again: &'static [Duration],
}

/// The write of statement `index`, the same for all drivers of a run.
pub fn write_id(writer: &Writer, index: usize) -> WriteId {
    WriteId::for_statement(&writer.run, u32::try_from(index).unwrap_or(u32::MAX))
}

/// Begins the write of statement `index`, before its rows are planned: a statement that reads its own destination reads what
/// is complete then. `attempt` counts the tries of this driver, from 0.
///
/// # Errors
/// A destination that holds data already, that cannot be reached, or that a newer driver owns.
pub async fn begin(
    session: &SessionContext,
    writer: &Writer,
    index: usize,
    attempt: u64,
    destination: &Destination,
) -> Result<Begun, Problem> {
    let committer = committer_at(session, &destination.location)?;
    let request = request(writer, index, destination.mode);
    let write_id = request.write_id.clone();
    let permit = match look(&committer, &destination.location, request, SETTLE_AGAIN).await? {
        Looked::Permit(permit) => permit,
        Looked::Committed(committed) => return Ok(Begun::Already(Box::new(committed))),
    };
    let order = SinkOrder {
        location: destination.location.clone(),
        format: destination.format.clone(),
        options: destination.options.clone().into_iter().collect(),
        partition_by: destination.partition_by.clone(),
        keep_partition_by: destination.keep_partition_by,
        write_id,
        generation: writer.generation,
        attempt,
    };
    Ok(Begun::Run(Box::new(Write {
        committer,
        permit,
        order: Arc::new(order),
        plan: None,
        settle_again: SETTLE_AGAIN,
    })))
}

/// The write of statement `index`, if an earlier driver committed it at `location`; it is complete then, if that can be. What the
/// statement read may be gone since, so this is asked before it is planned.
///
/// # Errors
/// A destination that does not tell, or that a newer driver owns.
pub async fn committed_earlier(
    session: &SessionContext,
    writer: &Writer,
    index: usize,
    location: &str,
) -> Result<Option<Committed>, Problem> {
    let committer = committer_at(session, location)?;
    // What is at the destination already does not matter to a write that is committed.
    let request = request(writer, index, WriteMode::Append);
    match look(&committer, location, request, SETTLE_AGAIN).await? {
        Looked::Committed(committed) => Ok(Some(committed)),
        Looked::Permit(_) => Ok(None),
    }
}

fn committer_at(session: &SessionContext, location: &str) -> Result<Committer, Problem> {
    let store = stores::store_at(&session.copied_config(), location).map_err(|error| statement_problem(&error))?;
    Ok(Committer::new(store))
}

fn request(writer: &Writer, index: usize, mode: WriteMode) -> WriteRequest {
    WriteRequest {
        write_id: write_id(writer, index),
        job: writer.job.clone(),
        generation: writer.generation,
        mode,
    }
}

/// What a driver finds that is about to write.
enum Looked {
    Permit(CommitPermit),
    Committed(Committed),
}

/// Begins at the destination. An earlier driver may have committed the write, which is then not called failed because a
/// store fails.
async fn look(
    committer: &Committer,
    location: &str,
    request: WriteRequest,
    again: &[Duration],
) -> Result<Looked, Problem> {
    let mut again = again.iter().filter(|_| request.generation != Generation::FIRST);
    let error = loop {
        let begun = match committer.begin(request.clone()).await {
            Err(CommitError::Store(error)) => Err(CommitError::Store(error)),
            begun => match finish_earlier(committer, location, request.mode).await {
                Err(error) if matches!(begun, Ok(Begin::Permit(_))) => Err(error),
                Ok(()) | Err(_) => begun,
            },
        };
        match begun {
            Ok(Begin::Permit(permit)) => return Ok(Looked::Permit(permit)),
            Ok(Begin::Committed(record)) => {
                return Ok(Looked::Committed(Committed {
                    written: written(location, &record, true),
                    unfinished: None,
                }));
            }
            Err(CommitError::Store(error)) => {
                let Some(wait) = again.next() else {
                    break CommitError::Store(error);
                };
                tracing::warn!(location, error = %causes(&error), "cannot look up a write; trying again");
                tokio::time::sleep(*wait).await;
            }
            Err(error) => break error,
        }
    };
    let problem = commit_problem(&error);
    match (error, committer.recorded(&request.write_id).await) {
        (CommitError::Store(_), Ok(Some(record))) => Ok(Looked::Committed(Committed {
            written: written(location, &record, true),
            unfinished: Some(not_complete(location, problem)),
        })),
        (CommitError::Store(_), Err(_)) if request.generation != Generation::FIRST => Err(not_known(location, problem)),
        _ => Err(problem),
    }
}

/// Completes what drivers that died had committed: readers leave it out and write nothing, so nobody else would. What is not
/// complete is not read, and an overwrite would remove it all the same: it waits for it.
async fn finish_earlier(committer: &Committer, location: &str, mode: WriteMode) -> Result<(), CommitError> {
    match committer.recover().await {
        Ok(recovered) => {
            for write in recovered.rolled_forward {
                tracing::info!(location, %write, "completed an earlier write");
            }
        }
        Err(CommitError::Store(error)) if mode == WriteMode::Overwrite => return Err(CommitError::Store(error)),
        Err(error) => tracing::warn!(location, error = %causes(&error), "an earlier write could not be completed"),
    }
    Ok(())
}

impl Write {
    /// What the engine is to run so that `input` is written; its rows are for [`Self::commit`].
    pub fn plan(&mut self, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let plan = Arc::new(PartSinkExec::new(input, Arc::clone(&self.order)));
        self.plan = Some(Arc::clone(&plan));
        plan
    }

    /// The destination.
    pub fn location(&self) -> &str {
        &self.order.location
    }

    /// Makes the parts that `receipts` name the result.
    ///
    /// # Errors
    /// Another writer that came first, a destination that fails. Either all parts are the result then, or none; where that
    /// cannot be found out, the problem says so.
    pub async fn commit(self, receipts: &[RecordBatch]) -> Result<Committed, Problem> {
        let order = Arc::clone(&self.order);
        let location = order.location.as_str();
        let parts = exec::read_receipts(receipts).map_err(|error| statement_problem(&error))?;
        let schema = self.plan.as_ref().map(|plan| plan.rows_schema());
        let fields = schema.iter().flat_map(|schema| schema.fields());
        let schema = Fingerprint::of(fields.map(|field| format!("{field:?}")));
        // Tests kill the driver between these two lines, too.
        tracing::debug!(location, parts = parts.len(), "committing");
        let mut again = self.settle_again.iter();
        let error = loop {
            match self.committer.commit(&self.permit, schema, parts.clone()).await {
                Ok(committed) => {
                    tracing::debug!(location, "committed");
                    let recovered = committed.record.generation != self.permit.request().generation;
                    return Ok(Committed {
                        written: written(location, &committed.record, recovered),
                        unfinished: None,
                    });
                }
                Err(CommitError::Store(error)) => {
                    let Some(wait) = again.next() else {
                        break CommitError::Store(error);
                    };
                    tracing::warn!(location, error = %causes(&error), "cannot settle a commit; trying again");
                    tokio::time::sleep(*wait).await;
                }
                Err(error) => break error,
            }
        };
        let problem = commit_problem(&error);
        let is_in_doubt = matches!(error, CommitError::Store(_));
        match self.committer.discard(self.permit).await {
            Ok(Discarded::Committed(record)) if is_in_doubt => Ok(Committed {
                written: written(location, &record, false),
                unfinished: Some(not_complete(location, problem)),
            }),
            Err(left) if is_in_doubt => {
                tracing::warn!(location, error = %causes(&left), "a write could not be given up");
                Err(not_known(location, problem))
            }
            Err(left) => {
                tracing::warn!(location, error = %causes(&left), "parts of a failed write were left behind");
                Err(problem)
            }
            Ok(Discarded::Committed(_) | Discarded::Freed(_)) => Err(problem),
        }
    }

    /// Frees what the tasks of a failed write left. They have been told to stop.
    pub async fn abandon(self) {
        let location = self.order.location.as_str();
        if self.plan.is_none() && self.order.generation == Generation::FIRST {
            // Only earlier drivers could have left anything.
            return;
        }
        if let Some(plan) = &self.plan
            && tokio::time::timeout(STOP_PATIENCE, plan.stopped()).await.is_err()
        {
            tracing::warn!(
                location,
                "tasks of a failed write do not stop, and may leave parts behind"
            );
        }
        if let Err(error) = self.committer.discard(self.permit).await {
            tracing::warn!(location, error = %causes(&error), "parts of a failed write were left behind");
        }
    }
}

/// The write is committed, and `problem` kept it from being completed.
fn not_complete(location: &str, mut problem: Problem) -> Problem {
    problem.message = format!(
        "what was written to {location} is committed, and not complete yet: {}",
        problem.message
    );
    problem.remedy("do not write it again: readers leave it out until the next write to this folder completes it")
}

/// `problem` keeps from everybody whether the write is committed.
fn not_known(location: &str, mut problem: Problem) -> Problem {
    problem.message = format!(
        "it cannot be told whether what was written to {location} is committed: {}",
        problem.message
    );
    problem.remedy("look for this job in _trireme/commits of the folder before you run it again: a commit there is complete after the next write")
}

fn written(location: &str, record: &CommitRecord, recovered: bool) -> Written {
    Written {
        location: location.to_owned(),
        rows: record.rows(),
        files: record.parts.len() as u64,
        bytes: record.bytes(),
        recovered,
    }
}

/// What a failed commit means for the person who wrote the job.
fn commit_problem(error: &CommitError) -> Problem {
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
fn store_problem(error: &StoreError) -> Problem {
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
