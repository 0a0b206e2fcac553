//! Rows into files, all or none: COPY, INSERT INTO, CREATE TABLE AS and a job's `result`.
//!
//! A write has three steps. [`begin`] fences older drivers and finds writes that are already committed; the engine runs
//! [`Write::plan`], whose tasks leave parts that nobody sees; [`Write::commit`] makes them the result. The protocol is that
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

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
pub use trireme_batch_durable::Generation;
use trireme_batch_durable::commit::{
    Begin, CommitError, CommitPermit, CommitRecord, Committer, StoreError, VisibleError, WriteRequest,
};
use trireme_batch_durable::{Fingerprint, WriteId};
use trireme_spec::problem::{ErrorCode, Problem};

use crate::problems::{causes, problem_of_cause};
use crate::statements::statement_problem;

pub use created::{Created, Home};
pub use destination::{Destination, destination_of, insert_mode};
pub use exec::{PartSinkExec, SinkOrder, decode_sink, encode_sink};
pub use pending::PendingWrite;
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

/// A write that is complete.
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
    /// Run the plan, then commit.
    Run(Box<Write>),
    /// There is nothing to run.
    Already(Written),
}

/// A write under way.
pub struct Write {
    committer: Committer,
    permit: CommitPermit,
    plan: Arc<PartSinkExec>,
    schema: Fingerprint,
    location: String,
}

/// The write of statement `index`, the same for all drivers of a run.
pub fn write_id(writer: &Writer, index: usize) -> WriteId {
    WriteId::for_statement(&writer.run, u32::try_from(index).unwrap_or(u32::MAX))
}

/// Begins the write of statement `index`.
///
/// # Errors
/// A destination that holds data already, that cannot be reached, or that a newer driver owns.
pub async fn begin(
    session: &SessionContext,
    writer: &Writer,
    index: usize,
    destination: &Destination,
    input: Arc<dyn ExecutionPlan>,
) -> Result<Begun, Problem> {
    let config = session.copied_config();
    let store = stores::store_at(&config, &destination.location).map_err(|error| statement_problem(&error))?;
    let committer = Committer::new(store);
    let write_id = write_id(writer, index);
    let request = WriteRequest {
        write_id: write_id.clone(),
        job: writer.job.clone(),
        generation: writer.generation,
        mode: destination.mode,
    };
    let begun = committer.begin(request).await;
    if !matches!(begun, Err(CommitError::Store(_))) {
        finish_earlier(&committer, &destination.location).await;
    }
    let permit = match begun.map_err(|error| commit_problem(&error))? {
        Begin::Permit(permit) => permit,
        Begin::Committed(record) => return Ok(Begun::Already(written(&destination.location, &record, true))),
    };
    let order = SinkOrder {
        location: destination.location.clone(),
        format: destination.format.clone(),
        options: destination.options.clone().into_iter().collect(),
        partition_by: destination.partition_by.clone(),
        keep_partition_by: destination.keep_partition_by,
        write_id,
        generation: writer.generation,
    };
    let schema = Fingerprint::of(input.schema().fields().iter().map(|field| format!("{field:?}")));
    let plan = Arc::new(PartSinkExec::new(input, Arc::new(order)));
    Ok(Begun::Run(Box::new(Write {
        committer,
        permit,
        plan,
        schema,
        location: destination.location.clone(),
    })))
}

/// Completes what drivers that died had committed: readers leave it out and write nothing, so nobody else would.
async fn finish_earlier(committer: &Committer, location: &str) {
    match committer.recover().await {
        Ok(recovered) => {
            for write in recovered.rolled_forward {
                tracing::info!(location, %write, "completed an earlier write");
            }
        }
        Err(error) => tracing::warn!(location, error = %causes(&error), "an earlier write could not be completed"),
    }
}

impl Write {
    /// What the engine is to run; its rows are for [`Self::commit`].
    pub fn plan(&self) -> Arc<dyn ExecutionPlan> {
        Arc::clone(&self.plan) as Arc<dyn ExecutionPlan>
    }

    /// Makes the parts that `receipts` name the result.
    ///
    /// # Errors
    /// Another writer that came first, a destination that fails. Either all parts are the result then, or none.
    pub async fn commit(self, receipts: &[RecordBatch]) -> Result<Written, Problem> {
        let parts = exec::read_receipts(receipts).map_err(|error| statement_problem(&error))?;
        // Tests kill the driver between these two lines, too.
        tracing::debug!(location = %self.location, parts = parts.len(), "committing");
        match self.committer.commit(&self.permit, self.schema, parts).await {
            Ok(committed) => {
                tracing::debug!(location = %self.location, "committed");
                Ok(written(&self.location, &committed.record, !committed.created))
            }
            Err(error) => {
                let problem = commit_problem(&error);
                self.abandon().await;
                Err(problem)
            }
        }
    }

    /// Frees what the tasks of a failed write left.
    pub async fn abandon(self) {
        if let Err(error) = self.committer.discard(self.permit).await {
            tracing::warn!(location = %self.location, error = %error, "parts of a failed write were left behind");
        }
    }
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
        CommitError::WrongPart { .. } => Problem::new(ErrorCode::Internal, text),
    }
}

/// What a failed destination means for the person who wrote the job.
fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::File { .. } | StoreError::Objects { .. } => {
            let mut problem = problem_of_cause(error);
            problem.message = format!("{error}: {}", problem.message);
            problem
        }
        StoreError::Name { .. } => Problem::new(ErrorCode::DataMalformed, error.to_string()).remedy("rename the file"),
        StoreError::TooManyFiles { .. } => Problem::new(ErrorCode::DataMalformed, error.to_string())
            .remedy("write fewer, larger files: fewer partition columns, or an overwrite that compacts"),
        StoreError::PartTooLarge { .. } => Problem::new(ErrorCode::SqlUnsupported, error.to_string()),
    }
}
