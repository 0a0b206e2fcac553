//! A job as a picture: each statement with its plan, and the stages and tasks that it becomes on workers.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Fields, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use trireme_spec::problem::Problem;

use crate::cluster::{ClusterEngine, cluster_settings, suitable_tasks};
use crate::job::JobOrder;
use crate::memory::SlotMemory;
use crate::sink::{self, Created, Destination};
use crate::statements::{self, Work, is_about_the_session, statement_problem};
use crate::tables::{self, FilesDefinition, FilesTable};

/// A job, as far as it can be planned.
#[derive(Debug)]
pub struct Explained {
    pub text: String,
    /// Why the last statement in the text, and those after it, are not planned.
    pub failure: Option<Problem>,
}

/// The plans of all statements of `order`, on workers with `slots` tasks at a time, each with `memory`. Runs the statements that only
/// change the session, because later ones may need them; reads no rows and writes nothing. What earlier statements would have
/// written is there, and empty, so that joins over it may be planned otherwise than they will be.
///
/// # Errors
/// Text that does not parse, tables of the job that cannot be opened.
pub async fn explain(
    order: &JobOrder,
    session: &SessionContext,
    slots: usize,
    memory: SlotMemory,
) -> Result<Explained, Problem> {
    let parsed = statements::parse(&order.sql, &order.limits)?;
    for table in &order.tables {
        tables::register(session, table).await?;
    }
    let total = parsed.len();
    let mut explaining = Explaining {
        order,
        session,
        slots,
        memory,
        written: Vec::new(),
        text: String::new(),
    };
    for (index, statement) in parsed.into_iter().enumerate() {
        // Writing into a String cannot fail.
        let _ = writeln!(
            explaining.text,
            "── Statement {} of {total}: {}",
            index + 1,
            statements::summary(&statement)
        );
        if let Err(problem) = explaining.statement(index, statement).await {
            explaining.text.push_str("   cannot be planned\n");
            return Ok(Explained {
                text: explaining.text,
                failure: Some(statements::in_statement(problem, index, total)),
            });
        }
    }
    Ok(Explained {
        text: explaining.text,
        failure: None,
    })
}

struct Explaining<'a> {
    order: &'a JobOrder,
    session: &'a SessionContext,
    slots: usize,
    memory: SlotMemory,
    /// What the statements so far would have written.
    written: Vec<Foreseen>,
    text: String,
}

/// Said of a table whose files an earlier statement would have written.
const PLANNED_EMPTY: &str = "   its rows are not there yet: later statements are planned as if it were empty\n";

/// Files that a statement would write.
struct Foreseen {
    location: String,
    /// Where the session finds the table that the statement creates: nothing is there.
    stand_in: Option<String>,
    /// The columns in the files.
    columns: SchemaRef,
}

impl Explaining<'_> {
    async fn statement(&mut self, index: usize, statement: Statement) -> Result<(), Problem> {
        if let Some(created) = Created::by(self.session, &statement)?
            && created.is_there(self.session)?
        {
            self.text.push_str("   the table is there already\n");
            return Ok(());
        }
        let plan = statements::plan(self.session, statement, &self.order.parameters).await?;
        match statements::classify(plan)? {
            Work::Session(plan) => {
                let (plan, is_unwritten) = self.over_what_is_written(plan)?;
                self.session
                    .execute_logical_plan(plan)
                    .await
                    .map_err(|error| statement_problem(&error))?;
                self.text.push_str("   changes the session; runs on the driver\n");
                if is_unwritten {
                    self.text.push_str(PLANNED_EMPTY);
                }
            }
            Work::Inspection(_) => self.text.push_str("   answered by the driver\n"),
            Work::Query(plan) if is_about_the_session(&plan) => self.text.push_str("   answered by the driver\n"),
            Work::Query(plan) => self.stages(&plan).await?,
            Work::Write(plan) => {
                let (input, destination) = sink::destination_of(self.session, plan, self.order.home(index))?;
                let stand_in = |written: &&Foreseen| written.stand_in.as_ref() == Some(&destination.location);
                let location = match self.written.iter().find(stand_in) {
                    Some(written) => &written.location,
                    None => &destination.location,
                };
                let _ = writeln!(self.text, "   writes {} to {location}", destination.format);
                self.stages(&input).await?;
                self.foresee(&input, destination).await?;
            }
        }
        Ok(())
    }

    /// Remembers what a write would leave, and makes the table that it creates known to the session.
    async fn foresee(&mut self, input: &LogicalPlan, destination: Destination) -> Result<(), Problem> {
        let in_folders = |name: &String| !destination.keep_partition_by && destination.partition_by.contains(name);
        let fields = input.schema().as_arrow().fields().iter();
        let fields: Fields = fields.filter(|field| !in_folders(field.name())).cloned().collect();
        let columns = Arc::new(Schema::new(fields));
        let stand_in = match destination.creates {
            Some(created) => {
                self.text.push_str(PLANNED_EMPTY);
                Some(self.stand_in(created, &columns).await?)
            }
            None => None,
        };
        self.written.push(Foreseen {
            location: destination.location,
            stand_in,
            columns,
        });
        Ok(())
    }

    /// A table without files, at a place that nobody has written to.
    async fn stand_in(&self, created: Created, columns: &SchemaRef) -> Result<String, Problem> {
        let folder = std::env::temp_dir().join(crate::incarnation());
        let definition = FilesDefinition {
            location: format!("{}/", folder.display()),
            format: "parquet".to_owned(),
            options: HashMap::new(),
            partition_columns: Vec::new(),
            schema: Some(Arc::clone(columns)),
        };
        let location = definition.location.clone();
        let told = |error| statement_problem(&error);
        let table = FilesTable::open(&self.session.state(), definition)
            .await
            .map_err(told)?;
        // One that is there is to be replaced, or the statement would have been refused.
        self.session.deregister_table(created.name.clone()).map_err(told)?;
        self.session
            .register_table(created.name, Arc::new(table))
            .map_err(told)?;
        Ok(location)
    }

    /// A table that is declared without columns, over files that an earlier statement would write, has the columns of that one:
    /// there is no file yet to read them from, or an old one. Says whether that is so.
    fn over_what_is_written(&self, plan: LogicalPlan) -> Result<(LogicalPlan, bool), Problem> {
        let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(mut create)) = plan else {
            return Ok((plan, false));
        };
        let is_within = |written: &&Foreseen| {
            let folder = written.location.trim_end_matches('/');
            create.locations.iter().any(|location| {
                location
                    .strip_prefix(folder)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        let of_folders = |name: &String| create.table_partition_cols.contains(name);
        let declared = create.schema.as_arrow().fields();
        let written = self.written.iter().rev().find(is_within);
        let is_unwritten = written.is_some();
        if let Some(written) = written
            && declared.iter().all(|field| of_folders(field.name()))
        {
            let in_files = written.columns.fields().iter();
            let in_files = in_files.filter(|field| !of_folders(field.name()));
            let fields: Fields = in_files.chain(declared).cloned().collect();
            let schema = DFSchema::try_from(Schema::new(fields)).map_err(|error| statement_problem(&error))?;
            create.schema = Arc::new(schema);
        }
        let plan = LogicalPlan::Ddl(DdlStatement::CreateExternalTable(create));
        Ok((plan, is_unwritten))
    }

    async fn stages(&mut self, plan: &LogicalPlan) -> Result<(), Problem> {
        let Self {
            session,
            slots,
            memory,
            text,
            ..
        } = self;
        let (slots, memory) = (*slots, *memory);
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
            let plural = if stage.tasks == 1 { "" } else { "s" };
            let repeatable = if stage.repeatable { "" } else { ", not repeatable" };
            let _ = writeln!(
                text,
                "   ┌ stage {}: {} task{plural}{from}{repeatable}",
                stage.id, stage.tasks
            );
            let _ = writeln!(text, "{}", indented(&stage.text));
        }
        Ok(())
    }
}

fn indented(text: &str) -> String {
    text.trim_end()
        .lines()
        .map(|line| format!("   │ {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
