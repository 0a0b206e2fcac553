//! Runs a job: its statements, one after the other, on whatever engine it is given.
//!
//! What happens is told as [`JobEvent`]s; who listens decides what to show. Nothing here prints.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use trireme_batch_durable::journal::Action;
use trireme_spec::batch_job::{ParameterValue, ResultSink, Table};
use trireme_spec::limits::Limits;
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::report::{ResultReport, StageReport};

use crate::engine::{BatchEngine, PlanCounters, PlanProgress};
use crate::joins;
use crate::journal::{self, JobJournal};
use crate::local::LocalEngine;
use crate::panics;
use crate::sink::{self, Begun, Committed, Created, Decisions, PendingWrite, Writer, Written};
use crate::statements::{self, Work, is_about_the_session, statement_problem};
use crate::tables;

/// What a job is to do: the parts of a manifest that an engine needs.
#[derive(Debug, Clone)]
pub struct JobOrder {
    pub name: String,
    pub sql: String,
    pub parameters: HashMap<String, ScalarValue>,
    pub tables: Vec<Table>,
    /// Where the rows of the last query go; `None` keeps a preview of each query.
    pub result: Option<ResultSink>,
    pub deadline: Option<Duration>,
    /// Who writes, for the destinations' logs.
    pub writer: Writer,
    /// The folder of tables that are created without a location. Each run has one of its own below it.
    pub warehouse: String,
    /// Rows of a query that are kept for showing; the others are counted.
    pub preview_rows_max: usize,
    pub limits: Limits,
}

impl JobOrder {
    /// Where statement `index` puts a table that it creates.
    pub fn home(&self, index: usize) -> sink::Home<'_> {
        sink::Home {
            warehouse: &self.warehouse,
            run: &self.writer.run,
            index,
        }
    }
}

/// A manifest's parameter as a value of SQL.
pub fn parameter_value(value: &ParameterValue) -> ScalarValue {
    match value {
        ParameterValue::Bool(value) => ScalarValue::Boolean(Some(*value)),
        ParameterValue::Integer(value) => ScalarValue::Int64(Some(*value)),
        ParameterValue::Number(value) => ScalarValue::Float64(Some(*value)),
        ParameterValue::Text(value) => ScalarValue::Utf8(Some(value.clone())),
    }
}

/// What happens to a job, in order.
#[derive(Debug)]
pub enum JobEvent {
    /// Statement `index` (from 0) begins.
    StatementStarted {
        index: usize,
        total: usize,
        summary: String,
    },
    /// How far the running statement is. May be skipped when nobody keeps up.
    Progress {
        index: usize,
        stages: Vec<StageReport>,
        counters: PlanCounters,
    },
    /// The statement is done. Whoever shows its result then drops `shown`: only after that is it written down as done, so
    /// that no rows are lost with a driver.
    StatementFinished {
        index: usize,
        outcome: StatementOutcome,
        shown: oneshot::Sender<()>,
    },
}

/// How a statement ended well.
#[derive(Debug)]
pub struct StatementOutcome {
    pub elapsed: Duration,
    pub counters: PlanCounters,
    pub result: StatementResult,
}

/// What a statement left behind.
#[derive(Debug)]
pub enum StatementResult {
    /// Rows of a query.
    Rows(Preview),
    /// Files.
    Written(Written),
    /// A changed session.
    Session,
    /// What is left of a query that an earlier driver has shown.
    Earlier(ResultReport),
}

/// The first rows of a result and how many there are.
#[derive(Debug)]
pub struct Preview {
    pub schema: SchemaRef,
    /// At most as many rows as were asked for.
    pub batches: Vec<RecordBatch>,
    pub rows_total: u64,
}

/// How often progress is told. People see no more, and each telling walks the plan.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// A job under way.
pub struct Job {
    pub order: JobOrder,
    pub session: SessionContext,
    pub engine: Arc<dyn BatchEngine>,
    pub events: mpsc::Sender<JobEvent>,
    pub cancel: CancellationToken,
    /// Writes that the job no longer waits for.
    pub decisions: Decisions,
}

impl Job {
    /// Runs the job to its end, as far as no earlier driver has. Without a journal, nobody comes after this one.
    ///
    /// # Errors
    /// The first thing that went wrong. What earlier statements wrote stays.
    pub async fn run(&self, mut journal: Option<JobJournal>) -> Result<(), Problem> {
        let ended = journal.as_ref().and_then(JobJournal::ended);
        if let Some(outcome) = ended {
            tracing::info!(job = %self.order.name, "an earlier driver has brought the job to its end");
            return outcome;
        }
        let limit = async {
            match self.order.deadline {
                Some(deadline) => tokio::time::sleep(deadline).await,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            done = self.run_statements(journal.as_mut()) => done,
            () = limit => {
                let seconds = self.order.deadline.map_or(0, |deadline| deadline.as_secs());
                Err(Problem::new(ErrorCode::LimitDeadline, format!("the job did not finish within {seconds} s"))
                    .remedy("raise spec.activeDeadlineSeconds or give the job more executors"))
            }
            () = self.cancel.cancelled() => Err(Problem::new(ErrorCode::Cancelled, "the job was cancelled")),
        };
        let committed = self.decisions.settle().await;
        let done = done.map_err(|mut problem| {
            problem
                .message
                .extend(committed.map(|committed| format!("; {committed}")));
            problem
        });
        if let Some(journal) = &mut journal {
            journal.end(&done).await?;
        }
        done
    }

    async fn run_statements(&self, mut journal: Option<&mut JobJournal>) -> Result<(), Problem> {
        let statements = statements::parse(&self.order.sql, &self.order.limits)?;
        for table in &self.order.tables {
            tables::register(&self.session, table).await?;
        }
        let total = statements.len();
        for (index, statement) in statements.into_iter().enumerate() {
            let summary = statements::summary(&statement);
            tracing::info!(job = %self.order.name, statement = index + 1, total, sql = %summary, "statement started");
            self.tell(JobEvent::StatementStarted { index, total, summary }).await;
            let started = Instant::now();
            let last = index + 1 == total;
            let (result, counters) = panics::caught(self.take_turn(index, last, statement, journal.as_deref_mut()))
                .await
                .map_err(|problem| statements::in_statement(problem, index, total))?;
            let recorded = journal
                .as_deref()
                .filter(|journal| journal.lacks(index))
                .and_then(|_| journal::outcome_of(&self.order, index, &result));
            let outcome = StatementOutcome {
                elapsed: started.elapsed(),
                counters,
                result,
            };
            let PlanCounters {
                rows_read,
                rows_expected: _,
                spilled_bytes,
                shuffle_bytes,
                result_bytes,
                tasks_rerun,
            } = counters;
            tracing::info!(
                job = %self.order.name, statement = index + 1, total, elapsed_ms = outcome.elapsed.as_millis() as u64,
                rows_read, spilled_bytes, shuffle_bytes, result_bytes, tasks_rerun, "statement finished"
            );
            self.tell_finished(index, outcome).await;
            if let (Some(journal), Some(recorded)) = (journal.as_deref_mut(), recorded) {
                journal.done(index, recorded).await?;
            }
        }
        Ok(())
    }

    /// Statement `index`, as far as no earlier driver has done it.
    async fn take_turn(
        &self,
        index: usize,
        last: bool,
        statement: Statement,
        journal: Option<&mut JobJournal>,
    ) -> Result<(StatementResult, PlanCounters), Problem> {
        let Some(journal) = journal else {
            return self.run_statement(index, last, statement, None).await;
        };
        let result = match journal.action(index) {
            Action::Run | Action::ShowAgain(_) => {
                journal.started(index, &statement.to_string()).await?;
                if let Some(location) = journal.undecided(index)
                    && let Some(committed) = self.committed_earlier(index, &location).await?
                {
                    self.recall_table(&statement, &location).await?;
                    return Ok((self.written(last, committed)?, PlanCounters::default()));
                }
                return self.run_statement(index, last, statement, Some(journal)).await;
            }
            Action::Replay => return self.run_statement(index, last, statement, None).await,
            Action::SkipQuery(done) => StatementResult::Earlier(journal::kept_of(done)),
            Action::SkipWrite(done) => {
                self.recall_table(&statement, &done.location).await?;
                StatementResult::Written(Written {
                    location: done.location,
                    rows: done.rows,
                    files: done.files,
                    bytes: done.bytes,
                    recovered: true,
                })
            }
        };
        Ok((result, PlanCounters::default()))
    }

    async fn committed_earlier(&self, index: usize, location: &str) -> Result<Option<Committed>, Problem> {
        sink::committed_earlier(&self.session, &self.order.writer, index, location).await
    }

    /// Makes the table known that an earlier driver created with `statement`, at `location`; other writes leave nothing in
    /// the session. What the statement reads may have been replaced since, so it is not planned again.
    async fn recall_table(&self, statement: &Statement, location: &str) -> Result<(), Problem> {
        match Created::by(&self.session, statement)? {
            Some(created) if !created.is_there(&self.session)? => created.register(&self.session, location).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn run_statement(
        &self,
        index: usize,
        last: bool,
        statement: Statement,
        journal: Option<&mut JobJournal>,
    ) -> Result<(StatementResult, PlanCounters), Problem> {
        if let Some(created) = Created::by(&self.session, &statement)?
            && created.is_there(&self.session)?
        {
            return Ok((StatementResult::Session, PlanCounters::default()));
        }
        let plan = statements::plan(&self.session, statement, &self.order.parameters).await?;
        match (statements::classify(plan)?, &self.order.result) {
            (Work::Session(plan), _) => {
                let changed = self.session.execute_logical_plan(plan).await;
                let frame = changed.map_err(|error| statement_problem(&error))?;
                frame.collect().await.map_err(|error| statement_problem(&error))?;
                Ok((StatementResult::Session, PlanCounters::default()))
            }
            (Work::Inspection(plan), _) => self.query(index, &LocalEngine, plan).await,
            (Work::Query(plan), Some(result)) if last => {
                let destination = sink::Destination::of_result(result);
                self.write(index, last, plan, destination, journal).await
            }
            (Work::Query(plan), _) if is_about_the_session(&plan) => self.query(index, &LocalEngine, plan).await,
            (Work::Query(plan), _) => self.query(index, self.engine.as_ref(), plan).await,
            (Work::Write(plan), _) => {
                let (input, destination) = sink::destination_of(&self.session, plan, self.order.home(index))?;
                let (created, location) = (destination.creates.clone(), destination.location.clone());
                let done = self.write(index, last, input, destination, journal).await?;
                if let Some(created) = created.filter(|_| !last) {
                    created.register(&self.session, &location).await?;
                }
                Ok(done)
            }
        }
    }

    async fn query(
        &self,
        index: usize,
        engine: &dyn BatchEngine,
        plan: LogicalPlan,
    ) -> Result<(StatementResult, PlanCounters), Problem> {
        match self.query_once(index, engine, &plan, self.session.state()).await {
            Err(problem) if joins::outgrown(&problem) => {
                self.query_once(index, engine, &plan, joins::all_sorted(self.session.state()))
                    .await
            }
            done => done,
        }
    }

    async fn query_once(
        &self,
        index: usize,
        engine: &dyn BatchEngine,
        plan: &LogicalPlan,
        planner: SessionState,
    ) -> Result<(StatementResult, PlanCounters), Problem> {
        let told = |error| statement_problem(&error);
        let suitable = |plan: &dyn ExecutionPlan, partitions| engine.suitable_partitions(plan, partitions);
        let plan = statements::physical_plan(planner, plan, suitable).await?;
        let mut running = engine.submit(plan, self.session.task_ctx()).await.map_err(told)?;
        let mut preview = Preview {
            schema: running.rows.schema(),
            batches: Vec::new(),
            rows_total: 0,
        };
        let mut kept = 0;
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                batch = running.rows.next() => match batch {
                    Some(Ok(batch)) => {
                        preview.rows_total += batch.num_rows() as u64;
                        let keep = batch.num_rows().min(self.order.preview_rows_max - kept);
                        if keep > 0 {
                            kept += keep;
                            preview.batches.push(batch.slice(0, keep));
                        }
                    }
                    Some(Err(error)) => return Err(statement_problem(&error)),
                    None => break,
                },
                _ = ticks.tick() => self.tell_progress(index, running.progress.as_ref()),
            }
        }
        Ok((StatementResult::Rows(preview), running.progress.counters()))
    }

    async fn write(
        &self,
        index: usize,
        last: bool,
        input: LogicalPlan,
        destination: sink::Destination,
        journal: Option<&mut JobJournal>,
    ) -> Result<(StatementResult, PlanCounters), Problem> {
        if let Some(journal) = journal {
            let write = sink::write_id(&self.order.writer, index);
            journal.intends(index, write, &destination.location).await?;
        }
        let done = match self
            .write_once(index, 0, &input, &destination, self.session.state())
            .await
        {
            Err(problem) if joins::outgrown(&problem) => {
                let planner = joins::all_sorted(self.session.state());
                self.write_once(index, 1, &input, &destination, planner).await
            }
            done => done,
        };
        let (committed, counters) = done?;
        Ok((self.written(last, committed)?, counters))
    }

    fn written(&self, last: bool, Committed { written, unfinished }: Committed) -> Result<StatementResult, Problem> {
        match unfinished {
            // Later statements would not see what this one wrote.
            Some(problem) if !last => return Err(problem),
            Some(problem) => tracing::warn!(job = %self.order.name, "{problem}"),
            None => {}
        }
        Ok(StatementResult::Written(written))
    }

    async fn write_once(
        &self,
        index: usize,
        attempt: u64,
        input: &LogicalPlan,
        destination: &sink::Destination,
        planner: SessionState,
    ) -> Result<(Committed, PlanCounters), Problem> {
        let begun = sink::begin(&self.session, &self.order.writer, index, attempt, destination).await?;
        let mut pending = match begun {
            Begun::Run(write) => PendingWrite::new(write, &self.decisions),
            Begun::Already(committed) => return Ok((*committed, PlanCounters::default())),
        };
        let suitable = |plan: &dyn ExecutionPlan, partitions| self.engine.suitable_partitions(plan, partitions);
        let input = match statements::physical_plan(planner, input, suitable).await {
            Ok(input) => input,
            Err(problem) => {
                pending.abandon(None).await;
                return Err(problem);
            }
        };
        let mut running = match self.engine.submit(pending.plan(input), self.session.task_ctx()).await {
            Ok(running) => running,
            Err(error) => {
                pending.abandon(None).await;
                return Err(statement_problem(&error));
            }
        };
        let mut receipts = Vec::new();
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                batch = running.rows.next() => match batch {
                    Some(Ok(batch)) => receipts.push(batch),
                    Some(Err(error)) => {
                        pending.abandon(Some(running)).await;
                        return Err(statement_problem(&error));
                    }
                    None => break,
                },
                _ = ticks.tick() => self.tell_progress(index, running.progress.as_ref()),
            }
        }
        let committed = pending.commit(receipts).await?;
        Ok((committed, running.progress.counters()))
    }

    fn tell_progress(&self, index: usize, progress: &dyn PlanProgress) {
        let event = JobEvent::Progress {
            index,
            stages: progress.stages(),
            counters: progress.counters(),
        };
        // Progress is a courtesy: a listener that does not keep up misses some of it.
        drop(self.events.try_send(event));
    }

    /// Tells that a statement is done, and waits until its result has been shown.
    async fn tell_finished(&self, index: usize, outcome: StatementOutcome) {
        let (shown, waiting) = oneshot::channel();
        self.tell(JobEvent::StatementFinished { index, outcome, shown }).await;
        // It is dropped when the result has been shown, or when nobody is there to show it.
        drop(waiting.await);
    }

    async fn tell(&self, event: JobEvent) {
        // Nobody listening is no reason to stop the job.
        drop(self.events.send(event).await);
    }
}

/// Checks a job's SQL as far as it can be checked without reading data.
///
/// # Errors
/// Text that does not parse.
pub fn check_sql(sql: &str, limits: &Limits) -> Result<usize, Problem> {
    statements::parse(sql, limits).map(|statements| statements.len())
}
