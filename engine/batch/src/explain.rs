//! A job as a picture: each statement with its plan, and the stages and tasks that it becomes on workers.

use std::fmt::Write;

use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use trireme_spec::problem::Problem;

use crate::cluster::{ClusterEngine, cluster_settings, suitable_tasks};
use crate::job::JobOrder;
use crate::memory::SlotMemory;
use crate::sink;
use crate::statements::{self, Work, statement_problem};
use crate::tables;

/// The plans of all statements of `order`, on workers with `slots` tasks at a time, each with `memory`. Runs the statements that only change
/// the session, because later ones may need them; reads no rows and writes nothing.
///
/// # Errors
/// Statements that cannot be planned.
pub async fn explain(
    order: &JobOrder,
    session: &SessionContext,
    slots: usize,
    memory: SlotMemory,
) -> Result<String, Problem> {
    let parsed = statements::parse(&order.sql, &order.limits)?;
    for table in &order.tables {
        tables::register(session, table).await?;
    }
    let total = parsed.len();
    let mut text = String::new();
    for (index, statement) in parsed.into_iter().enumerate() {
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "── Statement {} of {total}: {}",
            index + 1,
            statements::summary(&statement)
        );
        let created = sink::Created::by(session, &statement);
        let in_statement = |problem| statements::in_statement(problem, index, total);
        if let Some(created) = created.map_err(in_statement)?
            && created.is_there(session).map_err(in_statement)?
        {
            text.push_str("   the table is there already\n");
            continue;
        }
        let plan = statements::plan(session, statement, &order.parameters).await;
        let plan = plan.map_err(in_statement)?;
        match statements::classify(plan)? {
            Work::Session(plan) => {
                session
                    .execute_logical_plan(plan)
                    .await
                    .map_err(|error| statement_problem(&error))?;
                text.push_str("   changes the session; runs on the driver\n");
            }
            Work::Inspection(_) => text.push_str("   answered by the driver\n"),
            Work::Query(plan) => stages(session, &plan, (slots, memory), &mut text).await?,
            Work::Write(plan) => {
                let (input, destination) = sink::destination_of(session, plan, order.home(index))?;
                let _ = writeln!(text, "   writes {} to {}", destination.format, destination.location);
                stages(session, &input, (slots, memory), &mut text).await?;
            }
        }
    }
    Ok(text)
}

async fn stages(
    session: &SessionContext,
    plan: &LogicalPlan,
    (slots, memory): (usize, SlotMemory),
    text: &mut String,
) -> Result<(), Problem> {
    let told = |error| statement_problem(&error);
    let local = session.state().create_physical_plan(plan).await.map_err(told)?;
    let _ = writeln!(
        text,
        "   In one process:\n{}",
        indented(&displayable(local.as_ref()).indent(false).to_string())
    );
    let config = cluster_settings(session.copied_config(), slots, memory);
    let state = session.state();
    // The catalogs are those of the session; a new default one would take the place of its tables.
    let keeping = config.clone().with_create_default_catalog_and_schema(false);
    let builder = datafusion::execution::SessionStateBuilder::new_from_existing(state).with_config(keeping);
    let cluster = SessionContext::new_with_state(builder.build());
    let suitable = |plan: &dyn ExecutionPlan, tasks| suitable_tasks(plan, tasks, slots, memory);
    let distributed = statements::physical_plan(cluster.state(), plan, suitable).await?;
    let _ = writeln!(text, "   On workers with {slots} slots:");
    for stage in ClusterEngine::explain(distributed, &config).map_err(told)? {
        let inputs: Vec<_> = stage.inputs.keys().map(|input| format!("stage {input}")).collect();
        let from = if inputs.is_empty() {
            String::new()
        } else {
            format!(", reads {}", inputs.join(" and "))
        };
        let repeatable = if stage.repeatable { "" } else { ", not repeatable" };
        let _ = writeln!(text, "   ┌ stage {}: {} tasks{from}{repeatable}", stage.id, stage.tasks);
        let _ = writeln!(text, "{}", indented(&stage.text));
    }
    Ok(())
}

fn indented(text: &str) -> String {
    text.trim_end()
        .lines()
        .map(|line| format!("   │ {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
