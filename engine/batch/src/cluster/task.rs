//! One task attempt on a worker: a stage's plan over one partition, its output as shuffle files.
//!
//! Output files are named after the attempt, which is unique for the driver's life, so that two attempts never share a file.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use ballista_core::JobId;
use ballista_core::client_pool::BallistaClientPool;
use ballista_core::error::BallistaError;
use ballista_core::execution_plans::{
    ShuffleReaderExec, ShuffleWriterExec, SortShuffleWriterExec, compute_global_output_partition_ids,
};
use ballista_core::serde::scheduler::{
    ExecutorMetadata, ExecutorOperatingSystemSpecification, ExecutorSpecification, PartitionId, PartitionLocation,
    PartitionStats,
};
use ballista_scheduler::planner::remove_unresolved_shuffles;
use bytes::Bytes;
use datafusion::arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use tokio_util::sync::CancellationToken;
use trireme_spec::problem::{ErrorClass, ErrorCode, Problem};

use super::codec::PlanCodec;
use super::compact::compacted;
use super::guard::guarded;
use super::metadata::read_written_partitions;
use super::reads::ShuffleReadExec;
use super::restrict::restrict;
use crate::causes::chain;
use crate::engine::PlanCounters;
use crate::local::{add_operator, partition_count};
use crate::memory::SlotMemory;
use crate::problems::{Told, carried, causes};
use crate::sink::PartSinkExec;
use crate::statements::statement_problem;
use crate::tables::guard_scans;

/// What a worker needs to know of a stage; sent once to each worker, before the first task of the stage.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StageOrder {
    /// The stage's plan, encoded by [`PlanCodec`].
    #[prost(bytes = "bytes", tag = "1")]
    pub plan: Bytes,
    /// Settings of the session that planned it.
    #[prost(btree_map = "string, string", tag = "2")]
    pub settings: BTreeMap<String, String>,
}

/// What a worker needs to know to run one attempt; travels with the launch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskOrder {
    /// Names the run in shuffle paths; `[a-z0-9-]` only.
    #[prost(string, tag = "1")]
    pub run: String,
    #[prost(uint32, tag = "2")]
    pub stage: u32,
    #[prost(uint32, tag = "3")]
    pub partition: u32,
    /// The attempt.
    #[prost(uint64, tag = "4")]
    pub task: u64,
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<StageInput>,
    /// The job's name, for logs.
    #[prost(string, tag = "6")]
    pub job: String,
}

/// The outputs of one earlier stage.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StageInput {
    #[prost(uint32, tag = "1")]
    pub stage: u32,
    #[prost(message, repeated, tag = "2")]
    pub outputs: Vec<MapOutput>,
}

/// What one finished task of an earlier stage left behind.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MapOutput {
    /// The worker that holds it.
    #[prost(uint64, tag = "1")]
    pub worker: u64,
    /// Where its data port is.
    #[prost(string, tag = "2")]
    pub host: String,
    #[prost(uint32, tag = "3")]
    pub port: u32,
    #[prost(uint64, tag = "4")]
    pub task: u64,
    #[prost(message, repeated, tag = "5")]
    pub partitions: Vec<WrittenPartition>,
}

/// One partition of a task's output.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct WrittenPartition {
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Written by the sorting writer: all partitions in one file with an index.
    #[prost(bool, tag = "4")]
    pub sorted: bool,
}

/// What a finished attempt reports.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskReport {
    #[prost(message, repeated, tag = "1")]
    pub partitions: Vec<WrittenPartition>,
    #[prost(uint64, tag = "2")]
    pub rows_read: u64,
    #[prost(uint64, tag = "3")]
    pub spilled_bytes: u64,
}

/// What every attempt on a worker shares.
#[derive(Debug, Clone)]
pub struct TaskEnvironment {
    /// Where shuffle files go.
    pub work_dir: String,
    pub codec: Arc<PlanCodec>,
    pub clients: Arc<dyn BallistaClientPool>,
    /// Of one slot.
    pub memory: SlotMemory,
}

/// Runs one attempt to its end.
///
/// # Errors
/// Whatever the plan fails with, and a problem of code `CANCELLED` once `cancel` fires.
pub async fn run_task(
    order: &TaskOrder,
    plan: &[u8],
    context: Arc<TaskContext>,
    environment: &TaskEnvironment,
    cancel: CancellationToken,
) -> Result<TaskReport> {
    let started = Instant::now();
    let stage = environment.codec.decode(plan, &context)?;
    let stage = remove_unresolved_shuffles(stage, &locations(order))
        .map_err(|error| DataFusionError::External(Box::new(error)))?;
    let writer = bind_writer(stage, order, environment, cancel)?;
    let prepared = started.elapsed();
    // Stage, task and attempt are in the span; tests and tools look for the run and the attempt in the line.
    tracing::debug!(
        run = %order.run,
        attempt = order.task,
        reads = if order.inputs.is_empty() { "tables" } else { "shuffle" },
        writes = if writes_parts(writer.as_ref()) { "parts" } else { "shuffle" },
        "task started"
    );
    let partitions = drive_writer(Arc::clone(&writer), context).await?;
    let mut counters = PlanCounters::default();
    add_operator(writer.as_ref(), &mut counters);
    tracing::debug!(
        run = %order.run, attempt = order.task,
        prepare_us = prepared.as_micros() as u64, elapsed_us = started.elapsed().as_micros() as u64,
        rows_read = counters.rows_read, bytes = partitions.iter().map(|written| written.bytes).sum::<u64>(),
        spilled_bytes = counters.spilled_bytes,
        "task finished"
    );
    Ok(TaskReport {
        partitions,
        rows_read: counters.rows_read,
        spilled_bytes: counters.spilled_bytes,
    })
}

/// Whether the task's rows go to a destination, and only their receipts to the driver.
fn writes_parts(writer: &dyn ExecutionPlan) -> bool {
    writer.children().iter().any(|child| child.is::<PartSinkExec>())
}

/// Where each partition of each input stage lies, in the shape that Ballista's reader wants.
fn locations(order: &TaskOrder) -> HashMap<usize, HashMap<usize, Vec<PartitionLocation>>> {
    let mut stages = HashMap::new();
    for input in &order.inputs {
        let partitions: &mut HashMap<usize, Vec<PartitionLocation>> = stages.entry(input.stage as usize).or_default();
        for output in &input.outputs {
            for written in &output.partitions {
                let location = location(&order.run, input.stage, output, *written);
                partitions.entry(written.partition as usize).or_default().push(location);
            }
        }
    }
    stages
}

/// The reader's address of one partition. The executor's id names worker and attempt, so that a fetch that fails tells
/// which output could not be read.
pub fn location(run: &str, stage: u32, output: &MapOutput, written: WrittenPartition) -> PartitionLocation {
    // A port that does not fit cannot be connected to, which is what port 0 says.
    let port = u16::try_from(output.port).unwrap_or(0);
    PartitionLocation {
        map_partition_id: 0,
        partition_id: PartitionId::new(&JobId::new(run), stage as usize, written.partition as usize),
        executor_meta: ExecutorMetadata {
            id: format!("{}/{}", output.worker, output.task),
            host: output.host.clone(),
            port,
            grpc_port: port,
            specification: ExecutorSpecification::default(),
            os_info: ExecutorOperatingSystemSpecification::default(),
        },
        partition_stats: PartitionStats::new(Some(written.rows), None, Some(written.bytes)),
        file_id: Some(output.task),
        is_sort_shuffle: written.sorted,
    }
}

/// The stage's writer over the task's partition only, with this worker's folder and connections.
fn bind_writer(
    stage: Arc<dyn ExecutionPlan>,
    order: &TaskOrder,
    environment: &TaskEnvironment,
    cancel: CancellationToken,
) -> Result<Arc<dyn ExecutionPlan>> {
    let partition = [order.partition as usize];
    let ids = compute_global_output_partition_ids(&stage, &partition);
    let Some(child) = stage.children().into_iter().next().cloned() else {
        return internal_err!("the plan of stage {} does not end in a shuffle writer", order.stage);
    };
    let child = guard_scans(bind_leaves(restrict(child, &partition)?, environment, &cancel)?)?;
    let (run, task) = (JobId::new(order.run.as_str()), order.task as usize);
    let (number, folder) = (order.stage as usize, environment.work_dir.clone());
    if let Some(writer) = stage.downcast_ref::<SortShuffleWriterExec>() {
        let partitioning = writer.shuffle_output_partitioning().clone();
        let buffer = usize::try_from(environment.memory.shuffle_buffer_bytes()).unwrap_or(usize::MAX);
        let config = writer.config().clone().with_memory_limit_per_task_bytes(buffer);
        let child = compacted(child);
        let writer = SortShuffleWriterExec::try_new(run, number, child, folder, partitioning, config)?;
        return Ok(Arc::new(
            writer.with_task_id(task).with_global_output_partition_ids(ids),
        ));
    }
    if stage.is::<ShuffleWriterExec>() {
        let writer = ShuffleWriterExec::try_new(run, number, child, folder)?;
        return Ok(Arc::new(
            writer.with_task_id(task).with_global_output_partition_ids(ids),
        ));
    }
    internal_err!("the plan of stage {} ends in {}", order.stage, stage.name())
}

/// Gives readers this worker's folder and connections, and puts a guard over every leaf, so that a cancelled task ends also
/// where an operator would first read all of its input.
fn bind_leaves(
    plan: Arc<dyn ExecutionPlan>,
    environment: &TaskEnvironment,
    cancel: &CancellationToken,
) -> Result<Arc<dyn ExecutionPlan>> {
    let bound = plan.transform_up(|node| {
        if !node.children().is_empty() {
            return Ok(Transformed::no(node));
        }
        let leaf: Arc<dyn ExecutionPlan> = match node.downcast_ref::<ShuffleReaderExec>() {
            Some(reader) => {
                let (clients, blocks_max) = (
                    Arc::clone(&environment.clients),
                    environment.memory.blocks_fetched_max(),
                );
                Arc::new(ShuffleReadExec::new(reader, &environment.work_dir, clients, blocks_max))
            }
            None => node,
        };
        Ok(Transformed::yes(guarded(leaf, cancel.clone())))
    })?;
    Ok(bound.data)
}

/// Pulls all outputs of the writer at once: it hands them out only when every one is awaited.
async fn drive_writer(writer: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<Vec<WrittenPartition>> {
    let sorted = writer.is::<SortShuffleWriterExec>();
    let outputs = (0..partition_count(&writer))
        .map(|index| writer.execute(index, Arc::clone(&context)))
        .collect::<Result<Vec<_>>>()?;
    let written = futures::future::try_join_all(
        outputs
            .into_iter()
            .map(|output| read_written_partitions(output, sorted)),
    );
    let mut partitions: Vec<_> = written
        .await?
        .into_iter()
        .flatten()
        .filter(|written| written.bytes > 0)
        .collect();
    partitions.sort_by_key(|written| written.partition);
    Ok(partitions)
}

/// Why an attempt failed, in the scheduler's terms.
#[derive(Debug)]
pub enum TaskFailure {
    /// The output of attempt `task` on `worker` could not be read.
    Fetch { worker: u64, task: u64, message: String },
    /// This worker's disk or connections; another attempt may succeed.
    Infrastructure { message: String },
    /// The attempt was told to stop.
    Cancelled,
    /// The query or its data. `problem.retry` says whether another attempt may succeed.
    Application(Problem),
}

/// Sorts a failed attempt's error into who is at fault: by the first of its causes that says so.
pub fn classify(error: &DataFusionError) -> TaskFailure {
    let message = || causes(error);
    for cause in chain(error) {
        if let Some(ballista) = cause.downcast_ref::<BallistaError>() {
            match ballista {
                BallistaError::FetchFailed(from, ..) => {
                    let message = message();
                    return match attempt_of(from) {
                        Some((worker, task)) => TaskFailure::Fetch { worker, task, message },
                        None => TaskFailure::Infrastructure { message },
                    };
                }
                BallistaError::GrpcConnectionError(_) | BallistaError::GrpcActionError(_) => {
                    return TaskFailure::Infrastructure { message: message() };
                }
                _ => {}
            }
        }
        // Storage has connections too; whether another attempt may help there is for its problem to say.
        if cause.is::<object_store::Error>() || cause.is::<Told>() {
            break;
        }
        if is_connection(cause) {
            return TaskFailure::Infrastructure { message: message() };
        }
    }
    let problem = statement_problem(error);
    match (problem.code, problem.code.class()) {
        (ErrorCode::Cancelled, _) => TaskFailure::Cancelled,
        (ErrorCode::LimitSpill, _) => TaskFailure::Infrastructure { message: message() },
        // Another worker has another disk. What is told of an input, whose place is in the text, is the same on all of them.
        (ErrorCode::DataIo, _) if problem.retry && carried(error).is_none() => {
            TaskFailure::Infrastructure { message: message() }
        }
        (ErrorCode::DataIo, _) if problem.retry => TaskFailure::Application(problem),
        // Less may run beside the next attempt.
        (ErrorCode::LimitMemory, _) | (_, ErrorClass::Network) => TaskFailure::Application(problem.retryable(true)),
        _ => TaskFailure::Application(problem.retryable(false)),
    }
}

/// How the text of a [`tonic::Status`] begins.
const STATUS_TEXT: &str = "code: '";

/// Whether a connection to another process of the job is what failed. That the peer is lost is told by its own stream, so the
/// attempt only has to be made again.
fn is_connection(cause: &(dyn Error + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected, TimedOut,
        };
        let kinds = [
            BrokenPipe,
            ConnectionAborted,
            ConnectionRefused,
            ConnectionReset,
            NotConnected,
            TimedOut,
        ];
        return kinds.contains(&error.kind());
    }
    // The one place where a type is lost: Ballista's client makes a text of a status that comes after the first block
    // (`execute_do_action_with_header`). No decoder of Arrow says anything that begins like one.
    if let Some(ArrowError::IpcError(text)) = cause.downcast_ref::<ArrowError>() {
        return text.starts_with(STATUS_TEXT);
    }
    cause.is::<tonic::Status>() || cause.is::<tonic::transport::Error>()
}

/// Worker and attempt in the name that [`location`] gives to an output.
fn attempt_of(executor: &str) -> Option<(u64, u64)> {
    let (worker, task) = executor.split_once('/')?;
    Some((worker.parse().ok()?, task.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems::told;
    use datafusion::common::exec_datafusion_err;

    /// Every error as it is, and as the operators between a reader and the end of its stage wrap it.
    fn kinds(error: impl Fn() -> DataFusionError) -> Vec<String> {
        let wrapped = [
            error(),
            error().context("while sorting").context("while joining"),
            DataFusionError::Shared(Arc::new(error())),
            BallistaError::from(error()).into_datafusion(),
            DataFusionError::Shared(Arc::new(BallistaError::from(error()).into_datafusion())),
        ];
        let mut kinds: Vec<_> = wrapped.iter().map(|error| kind(&classify(error))).collect();
        kinds.dedup();
        kinds
    }

    fn kind(failure: &TaskFailure) -> String {
        match failure {
            TaskFailure::Fetch { worker, task, .. } => format!("fetch from {worker} of {task}"),
            TaskFailure::Infrastructure { .. } => "infrastructure".to_owned(),
            TaskFailure::Cancelled => "cancelled".to_owned(),
            TaskFailure::Application(problem) => format!("{} retry={}", problem.code, problem.retry),
        }
    }

    fn ballista(error: BallistaError) -> DataFusionError {
        error.into_datafusion()
    }

    fn ipc(text: &str) -> DataFusionError {
        ArrowError::IpcError(text.to_owned()).into()
    }

    fn io(kind: io::ErrorKind) -> DataFusionError {
        DataFusionError::IoError(kind.into())
    }

    fn store(source: impl Error + Send + Sync + 'static) -> DataFusionError {
        DataFusionError::ObjectStore(Box::new(object_store::Error::Generic {
            store: "S3",
            source: Box::new(source),
        }))
    }

    #[test]
    fn whoever_is_at_fault_is_found_however_deep_it_is_wrapped() {
        let status = || tonic::Status::unavailable("error reading a body from connection");
        let fetch = |from: &str| ballista(BallistaError::FetchFailed(from.to_owned(), 1, 3, "refused".to_owned()));
        let cancelled = || told(Problem::new(ErrorCode::Cancelled, "the task was cancelled"));
        let cases: &[(&dyn Fn() -> DataFusionError, &str)] = &[
            (&|| fetch("7/42"), "fetch from 7 of 42"),
            (&|| fetch("nobody of ours"), "infrastructure"),
            (&|| ballista(status().into()), "infrastructure"),
            (
                &|| ballista(BallistaError::GrpcConnectionError("refused".to_owned())),
                "infrastructure",
            ),
            (&|| DataFusionError::External(Box::new(status())), "infrastructure"),
            (&|| ipc(&status().to_string()), "infrastructure"),
            (&|| io(io::ErrorKind::ConnectionReset), "infrastructure"),
            (
                &|| ArrowError::IoError(String::new(), io::ErrorKind::BrokenPipe.into()).into(),
                "infrastructure",
            ),
            (&|| io(io::ErrorKind::StorageFull), "infrastructure"),
            (
                &|| DataFusionError::IoError(io::Error::from_raw_os_error(5)),
                "infrastructure",
            ),
            (
                &|| told(Problem::new(ErrorCode::DataIo, "cannot read /in/a.csv").retryable(true)),
                "DATA-IO retry=true",
            ),
            (&|| io(io::ErrorKind::InvalidFilename), "DATA-IO retry=false"),
            (&cancelled, "cancelled"),
            (
                &|| store(io::Error::from(io::ErrorKind::ConnectionReset)),
                "NETWORK-UNREACHABLE retry=true",
            ),
            (&|| ipc("not an Arrow file"), "DATA-MALFORMED retry=false"),
            (&|| ArrowError::DivideByZero.into(), "SQL-EXECUTION retry=false"),
            (
                &|| exec_datafusion_err!("h2 protocol error, said a user's function"),
                "SQL-EXECUTION retry=false",
            ),
            (
                &|| DataFusionError::ResourcesExhausted("no memory".to_owned()),
                "LIMIT-MEMORY retry=true",
            ),
            (
                &|| {
                    let memory = DataFusionError::ResourcesExhausted("no memory".to_owned());
                    ballista(BallistaError::DataFusionError(Box::new(memory)))
                },
                "LIMIT-MEMORY retry=true",
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(kinds(error), [*expected], "{:?}", error());
        }
    }
}
