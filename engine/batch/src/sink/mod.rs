//! Rows into files, all or none: COPY, INSERT INTO, CREATE TABLE AS and a job's `result`.
//!
//! A write has three steps. [`begin`] fences older drivers and finds writes that are already committed; the engine plans the
//! rows and runs [`Write::plan`], whose tasks leave parts that nobody sees; [`Write::commit`] makes them the result. The protocol is that
//! of `trireme_batch_durable::commit`; here is what turns SQL into it.

mod created;
mod destination;
mod encode;
mod exec;
mod failures;
mod look;
mod parts;
mod pending;
mod reader;
mod sorted;
mod stores;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
pub use trireme_batch_durable::Generation;
use trireme_batch_durable::commit::{CommitPermit, CommitRecord, Committer, Discarded, WriteMode, WriteRequest};
use trireme_batch_durable::{Fingerprint, WriteId};
use trireme_spec::problem::Problem;

use self::failures::{commit_problem, is_of_the_store, not_complete, not_known};
use self::look::{Looked, look};
use crate::problems::causes;
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

/// When to ask a store again that fails, after 1, 2, 4 and 8 s; its client has tried for a while each time.
const SETTLE_AGAIN: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_times(4);

/// Tasks in this process have this long to stop before what they wrote is swept.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A write under way.
pub struct Write {
    committer: Committer,
    permit: CommitPermit,
    order: Arc<SinkOrder>,
    /// Once there is one.
    plan: Option<Arc<PartSinkExec>>,
    settle_again: ExponentialBuilder,
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
        let settled = (|| self.committer.commit(&self.permit, schema, parts.clone()))
            .retry(self.settle_again)
            .when(is_of_the_store)
            .notify(|error, _| tracing::warn!(location, error = %causes(error), "cannot settle a commit; trying again"))
            .await;
        let error = match settled {
            Ok(committed) => {
                tracing::debug!(location, "committed");
                let recovered = committed.record.generation != self.permit.request().generation;
                return Ok(Committed {
                    written: written(location, &committed.record, recovered),
                    unfinished: None,
                });
            }
            Err(error) => error,
        };
        let problem = commit_problem(&error);
        let is_in_doubt = is_of_the_store(&error);
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

fn written(location: &str, record: &CommitRecord, recovered: bool) -> Written {
    Written {
        location: location.to_owned(),
        rows: record.rows(),
        files: record.parts.len() as u64,
        bytes: record.bytes(),
        recovered,
    }
}
