//! A physical plan cut into stages at its exchanges.
//!
//! Ballista's static planner finds the cuts; the adaptive one is not used, because it does not recover from a lost
//! executor in 55.0. A stage ends in a shuffle writer and begins in scans or in the outputs of earlier stages.

use std::collections::BTreeMap;
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::execution_plans::ShuffleWriter;
use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner};
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result};
use datafusion::config::ConfigOptions;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion_proto::protobuf::PhysicalPlanNode;
use prost::Message;
use trireme_spec::problem::{ErrorCode, Problem};

use super::codec::PlanCodec;
use super::gather::check_joins;
use super::repeatable::is_repeatable;
use super::restrict::{self, Reads};
use super::scan_parts::cut_between_files;
use crate::local::partition_count;
use crate::problems::told;

/// One stage, ready to be sent to workers.
#[derive(Debug, Clone)]
pub struct PlannedStage {
    /// From 1, in an order in which inputs come first.
    pub id: u32,
    /// Tasks: one for each partition of the stage's plan.
    pub tasks: u32,
    /// Partitions that each task divides its output into.
    pub output_partitions: u32,
    /// Stages whose outputs it reads, and how.
    pub inputs: BTreeMap<u32, Reads>,
    /// Whether its tasks, run again on the same inputs, leave the same rows.
    pub repeatable: bool,
    /// The plan below the shuffle writer and the writer itself, encoded.
    pub plan: Bytes,
    /// The plan as text, for people.
    pub text: String,
}

/// Cuts `plan` into stages; the last one yields the result.
///
/// # Errors
/// A plan that cannot be distributed.
pub fn plan_stages(
    run: &str,
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
    codec: &PlanCodec,
) -> Result<Vec<PlannedStage>> {
    // The planner goes through each stage with an optimizer of DataFusion's, which would divide files anew.
    let mut config = config.clone();
    config.optimizer.repartition_file_scans = false;
    let writers = DefaultDistributedPlanner::new()
        .plan_query_stages(&JobId::new(run), cut_between_files(plan)?, &config)
        .map_err(|error| DataFusionError::External(Box::new(error)))?;
    writers.iter().map(|writer| planned_stage(writer, codec)).collect()
}

/// Bounds on what one query may make of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct StageLimits {
    pub tasks_max: u64,
    pub plan_bytes_max: u64,
    /// The depth at which the decoder refuses; told, not set.
    pub plan_depth_max: u32,
}

/// Refuses what workers could not take, before it is sent to any.
///
/// # Errors
/// More than `tasks_max` tasks, a plan of more than `plan_bytes_max` bytes, one that is too deep for who decodes it.
pub fn check_stages(stages: &[PlannedStage], limits: StageLimits) -> Result<(), Problem> {
    let tasks: u64 = stages.iter().map(|stage| u64::from(stage.tasks)).sum();
    if tasks > limits.tasks_max {
        let text = format!(
            "the query needs {tasks} tasks, more than the limit of {}",
            limits.tasks_max
        );
        return Err(Problem::new(ErrorCode::SqlUnsupported, text).remedy("run it on fewer executors or cores"));
    }
    let shrink = "put an intermediate result into a table of its own with CREATE TABLE ... AS";
    for PlannedStage { id, plan, .. } in stages {
        let bytes = plan.len() as u64;
        if bytes > limits.plan_bytes_max {
            let text = format!(
                "the plan of stage {id} has {bytes} bytes, more than the limit of {}",
                limits.plan_bytes_max
            );
            return Err(Problem::new(ErrorCode::LimitMessage, text).remedy(shrink));
        }
        // The decoder's own limit is the one that counts, and what we have just encoded has no other fault.
        if PhysicalPlanNode::decode(plan.as_ref()).is_err() {
            let text = format!(
                "the plan of stage {id} is nested more deeply than {} levels, as many as workers decode",
                limits.plan_depth_max
            );
            return Err(Problem::new(ErrorCode::SqlUnsupported, text)
                .remedy(format!("nest calls, operators and joins less deeply, or {shrink}")));
        }
    }
    Ok(())
}

fn planned_stage(writer: &Arc<dyn ShuffleWriter>, codec: &PlanCodec) -> Result<PlannedStage> {
    let plan: Arc<dyn ExecutionPlan> = Arc::clone(writer) as Arc<dyn ExecutionPlan>;
    check_joins(&plan)?;
    // A task keeps a share of what the writer writes; the writer's own partitions are those of its output.
    let child = plan.children().into_iter().next();
    let inputs = child.map(restrict::inputs).unwrap_or_default();
    let inputs = inputs.into_iter().map(|(stage, reads)| Ok((number(stage)?, reads)));
    let tasks = child.map_or(1, partition_count);
    let text = displayable(plan.as_ref()).indent(false).to_string();
    Ok(PlannedStage {
        id: number(writer.stage_id())?,
        tasks: number(tasks)?,
        output_partitions: number(partition_count(&plan))?,
        inputs: inputs.collect::<Result<_>>()?,
        repeatable: is_repeatable(writer),
        text,
        plan: codec.encode(plan).map_err(no_wire_form)?,
    })
}

/// Some operators know things that only the process has that planned them.
fn no_wire_form(error: DataFusionError) -> DataFusionError {
    let text = format!(
        "a part of the statement cannot be sent to workers: {}",
        error.strip_backtrace()
    );
    told(Problem::new(ErrorCode::SqlUnsupported, text).remedy(
        "workers run no WITH RECURSIVE, and write no rows of information_schema: run the job in one process \
         (trireme run without --workers), or take that part out",
    ))
}

fn number(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| DataFusionError::Plan(format!("{value} is too many for one query")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::settings::planning;
    use crate::memory::MemoryBudget;
    use crate::tpch::{Table, TpchScan};
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::prelude::{CsvReadOptions, SessionConfig, SessionContext};
    use prost::encoding::{WireType, encode_key, encode_varint};
    use trireme_spec::limits::Limits;

    const LIMITS: StageLimits = StageLimits {
        tasks_max: 10,
        plan_bytes_max: 100_000,
        plan_depth_max: Limits::DEFAULT.plan_depth_max,
    };

    /// A stage whose plan has `operators` operators on top of one another.
    fn stage(operators: u32) -> PlannedStage {
        let scan = TpchScan::try_new(Table::Orders, 0.01, vec![vec![0]], Some(vec![0]), None).unwrap();
        let mut plan: Arc<dyn ExecutionPlan> = Arc::new(scan);
        for _ in 1..operators {
            plan = Arc::new(CoalescePartitionsExec::new(plan));
        }
        PlannedStage {
            id: 3,
            tasks: 4,
            output_partitions: 1,
            inputs: BTreeMap::new(),
            plan: PlanCodec::default().encode(plan).unwrap(),
            repeatable: true,
            text: String::new(),
        }
    }

    /// What nobody of ours would send: merges within merges. Field 13 of a plan's node is a merge, whose field 1 is its input.
    fn nested(operators: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [1, 13].repeat(operators as usize) {
            let inner = std::mem::take(&mut bytes);
            encode_key(field, WireType::LengthDelimited, &mut bytes);
            encode_varint(inner.len() as u64, &mut bytes);
            bytes.extend(inner);
        }
        bytes
    }

    #[tokio::test]
    async fn two_files_of_about_the_same_size_are_a_task_each() {
        let folder = tempfile::tempdir().unwrap();
        for (name, rows) in [("a", 100), ("b", 101)] {
            let path = folder.path().join(name).with_extension("csv");
            std::fs::write(path, format!("n\n{}", "1000\n".repeat(rows))).unwrap();
        }
        let memory = MemoryBudget::split(1 << 30).per_slot(1);
        let config = planning(SessionConfig::new(), 2, memory).with_repartition_file_min_size(0);
        let session = SessionContext::new_with_config(config);
        let place = folder.path().to_str().unwrap();
        session.register_csv("t", place, CsvReadOptions::new()).await.unwrap();
        let query = session.sql("SELECT n, count(*) FROM t GROUP BY n").await.unwrap();
        let plan = query.create_physical_plan().await.unwrap();
        assert!(
            displayable(plan.as_ref()).indent(false).to_string().contains("csv:0.."),
            "DataFusion cuts files"
        );
        let config = session.copied_config();
        let stages = plan_stages("run", plan, config.options(), &PlanCodec::default()).unwrap();
        assert!(stages[0].text.contains("{2 groups: [["), "{}", stages[0].text);
        assert!(!stages[0].text.contains("csv:"), "{}", stages[0].text);
    }

    #[test]
    fn the_published_depth_is_the_decoders() {
        let operators_max = LIMITS.plan_depth_max / 2;
        assert_eq!(check_stages(&[stage(operators_max)], LIMITS), Ok(()));
        let problem = check_stages(&[stage(operators_max + 1)], LIMITS).unwrap_err();
        assert_eq!(problem.code, ErrorCode::SqlUnsupported);
        assert!(problem.message.contains("stage 3"), "{problem}");
    }

    #[test]
    fn too_many_tasks_and_too_long_plans_are_refused() {
        let long = StageLimits {
            plan_bytes_max: 10,
            ..LIMITS
        };
        let wide = StageLimits { tasks_max: 3, ..LIMITS };
        assert_eq!(
            check_stages(&[stage(1)], long).unwrap_err().code,
            ErrorCode::LimitMessage
        );
        assert_eq!(
            check_stages(&[stage(1)], wide).unwrap_err().code,
            ErrorCode::SqlUnsupported
        );
    }

    /// A worker decodes on threads of 2 MiB at least; the deepest plan that gets through has to fit, whoever sent it.
    #[test]
    fn the_deepest_plan_fits_on_a_small_stack() {
        let deepest = stage(LIMITS.plan_depth_max / 2).plan;
        let deeper = nested(5_000);
        let decoding = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
            let context = SessionContext::new().task_ctx();
            let codec = PlanCodec::default();
            assert!(codec.decode(&deepest, &context).is_ok());
            assert!(codec.decode(&deeper, &context).is_err());
        });
        decoding.unwrap().join().unwrap();
    }
}
