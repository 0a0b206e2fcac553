//! What a job writes down, so that another driver can go on where this one was killed.
//!
//! The log itself and what it means are `trireme_batch_durable::journal`; here it is opened at a job's storage, and its
//! errors are told in our terms. A record of what is about to happen is durable before it happens; one of what has happened
//! comes after. Who reads the journal therefore never finds less than what was done, and asks the destination about the
//! one write that may lie between.

use std::sync::Arc;

use serde_json::json;
use trireme_batch_durable::journal::{
    Action, FileJournal, JobOutcome, Journal, JournalError, JournalStore, ObjectJournal, QueryDone, Record,
    ResumeError, ResumePlan, StatementOutcome, WriteDone, resume,
};
use trireme_batch_durable::{Fingerprint, Generation, WriteId};
use trireme_core::store::{ConcreteStore, StoreFactory};
use trireme_spec::problem::{ErrorClass, ErrorCode, Problem};
use trireme_spec::report::ResultReport;

use crate::job::{JobOrder, StatementResult};
use crate::problems::{causes, of_store_location, problem_of_cause};
use crate::report;
use crate::sink::{self, Writer};
use crate::statements;

/// The journal of one run of a job, open for this driver.
#[derive(Debug)]
pub struct JobJournal {
    journal: Journal,
    resume: ResumePlan,
}

impl JobJournal {
    /// Opens the journal of the run of `order` below `storage`, and so stops every earlier driver of that run. An empty
    /// journal is that of a new run. The generation is that of `order` if the journal has come less far.
    ///
    /// # Errors
    /// A storage that cannot be used, a damaged journal, a job that was edited since its run began.
    pub async fn open(stores: &StoreFactory, storage: &str, order: &JobOrder) -> Result<Self, Problem> {
        let Writer {
            job: _,
            run,
            generation,
        } = &order.writer;
        let store = store_at(stores, storage, run)?;
        let statements = statements::parse(&order.sql, &order.limits)?;
        let statements: Vec<_> = statements.iter().map(|sql| of_statement(&sql.to_string())).collect();
        let opening = Journal::open(store, of_job(order), *generation, &crate::incarnation()).await;
        let opening = opening.map_err(|error| journal_problem(&error))?;
        let resume = resume(&opening.records, &statements).map_err(|error| resume_problem(&error))?;
        tracing::info!(
            job = %order.name,
            run,
            generation = %opening.journal.generation(),
            statements_done = resume.actions.iter().filter(|action| **action != Action::Run).count(),
            "journal opened"
        );
        Ok(Self {
            journal: opening.journal,
            resume,
        })
    }

    /// Which driver of the run this is.
    pub fn generation(&self) -> Generation {
        self.journal.generation()
    }

    /// How the run ended, if an earlier driver brought it to its end.
    pub fn ended(&self) -> Option<Result<(), Problem>> {
        match self.resume.finished.as_ref()? {
            JobOutcome::Succeeded => Some(Ok(())),
            JobOutcome::Failed { problem } => Some(Err(serde_json::from_value(problem.clone())
                .unwrap_or_else(|_| Problem::new(ErrorCode::Internal, problem.to_string())))),
        }
    }

    /// How far the run has come, for the report of one that has ended.
    pub fn so_far(&self) -> SoFar {
        let actions = &self.resume.actions;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        SoFar {
            statements: small(actions.len()),
            statements_done: self.resume.first_unfinished.unwrap_or(small(actions.len())),
            rows_written: actions.iter().map(rows_written).sum(),
            result: actions.iter().rev().find_map(result_of),
        }
    }

    /// What is to be done with statement `index`.
    pub fn action(&self, index: usize) -> Action {
        self.resume.actions.get(index).cloned().unwrap_or(Action::Run)
    }

    /// Where an earlier driver was about to commit what statement `index` writes, if it does not say whether it has.
    pub fn undecided(&self, index: usize) -> Option<String> {
        let undecided = self.resume.undecided.as_ref();
        undecided
            .filter(|intent| intent.index == number(index))
            .map(|intent| intent.location.clone())
    }

    /// Whether it does not say yet that statement `index` is done.
    pub fn lacks(&self, index: usize) -> bool {
        match self.action(index) {
            Action::Run | Action::ShowAgain(_) => true,
            Action::Replay | Action::SkipQuery(_) | Action::SkipWrite(_) => false,
        }
    }

    /// Statement `index`, whose text is `sql`, is about to run.
    ///
    /// # Errors
    /// As all that append: a storage that fails, or a newer driver that has taken over.
    pub async fn started(&mut self, index: usize, sql: &str) -> Result<(), Problem> {
        let (index, statement) = (number(index), of_statement(sql));
        self.append(&Record::StatementStarted { index, statement }).await
    }

    /// Statement `index` is about to write to `location`.
    ///
    /// # Errors
    /// As [`Self::started`].
    pub async fn intends(&mut self, index: usize, write_id: WriteId, location: &str) -> Result<(), Problem> {
        let (index, location) = (number(index), location.to_owned());
        self.append(&Record::WriteIntended {
            index,
            write_id,
            location,
        })
        .await
    }

    /// Statement `index` has ended, and whoever was to see its result has seen it.
    ///
    /// # Errors
    /// As [`Self::started`].
    pub async fn done(&mut self, index: usize, outcome: StatementOutcome) -> Result<(), Problem> {
        let index = number(index);
        self.append(&Record::StatementDone { index, outcome }).await
    }

    /// The run has ended for good: no driver that comes later runs anything. A job that was stopped, or whose driver was
    /// replaced, has not ended.
    ///
    /// # Errors
    /// As [`Self::started`].
    pub async fn end(&mut self, done: &Result<(), Problem>) -> Result<(), Problem> {
        let outcome = match done {
            Ok(()) => JobOutcome::Succeeded,
            Err(problem) if problem.code.class() == ErrorClass::Cancelled => return Ok(()),
            Err(problem) => JobOutcome::Failed {
                problem: serde_json::to_value(problem).unwrap_or_default(),
            },
        };
        // The work may have been dropped amid an append.
        let record = Record::Finished { outcome };
        let appended = self.journal.append_in_doubt(&record).await;
        appended.map_err(|error| journal_problem(&error))?;
        tracing::debug!(record = record.name(), "journaled");
        Ok(())
    }

    async fn append(&mut self, record: &Record) -> Result<(), Problem> {
        let appended = self.journal.append(record).await;
        appended.map_err(|error| journal_problem(&error))?;
        // Tests kill the driver here, between a record and what it announces.
        tracing::debug!(record = record.name(), "journaled");
        Ok(())
    }
}

fn store_at(stores: &StoreFactory, storage: &str, run: &str) -> Result<Arc<dyn JournalStore>, Problem> {
    let folder = format!("{}/journal", storage.trim_end_matches('/'));
    let place = stores.locate(&folder).map_err(|error| of_store_location(&error))?;
    Ok(match place.store {
        ConcreteStore::Local(_) => {
            let folder = format!("/{}", place.path);
            std::fs::create_dir_all(&folder).map_err(|error| {
                Problem::new(
                    ErrorCode::DataNotFound,
                    format!("the storage {folder} cannot be used: {error}"),
                )
                .remedy("name a folder that can be written to in spec.storage or --storage")
            })?;
            Arc::new(FileJournal::new(format!("{folder}/{run}.log")))
        }
        ConcreteStore::S3(store) => Arc::new(ObjectJournal::new(store, place.path.join(run))),
        ConcreteStore::Memory(store) => Arc::new(ObjectJournal::new(store, place.path.join(run))),
    })
}

/// How far the drivers of a run have come.
#[derive(Debug)]
pub struct SoFar {
    pub statements: u32,
    pub statements_done: u32,
    pub rows_written: u64,
    /// Of the last statement that left one.
    pub result: Option<ResultReport>,
}

fn rows_written(action: &Action) -> u64 {
    match action {
        Action::SkipWrite(done) => done.rows,
        Action::Run | Action::Replay | Action::SkipQuery(_) | Action::ShowAgain(_) => 0,
    }
}

fn result_of(action: &Action) -> Option<ResultReport> {
    match action {
        Action::SkipQuery(done) | Action::ShowAgain(done) => Some(kept_of(done.clone())),
        Action::SkipWrite(done) => Some(report::written(&done.location, done.rows)),
        Action::Run | Action::Replay => None,
    }
}

/// What is left of a query's result.
pub fn kept_of(done: QueryDone) -> ResultReport {
    let QueryDone {
        preview,
        truncated,
        rows,
        location,
    } = done;
    ResultReport {
        truncated: truncated || preview.is_none(),
        preview: preview.unwrap_or_default(),
        rows,
        location,
    }
}

/// What the journal is to say of a statement that ended with `result`; `None` where it says it already.
pub fn outcome_of(order: &JobOrder, index: usize, result: &StatementResult) -> Option<StatementOutcome> {
    Some(match result {
        StatementResult::Session => StatementOutcome::Replay,
        StatementResult::Rows(preview) => {
            let ResultReport {
                preview,
                rows,
                truncated,
                location,
            } = report::shown(preview, &order.limits);
            StatementOutcome::Query(QueryDone {
                preview: Some(preview),
                truncated,
                rows,
                location,
            })
        }
        StatementResult::Written(written) => StatementOutcome::Write(WriteDone {
            write_id: sink::write_id(&order.writer, index),
            location: written.location.clone(),
            rows: written.rows,
            files: written.files,
            bytes: written.bytes,
        }),
        StatementResult::Earlier(_) => return None,
    })
}

/// Of all that decides what the job does. A driver that is given another job under the same run must not go on with it.
fn of_job(order: &JobOrder) -> Fingerprint {
    let mut parameters: Vec<_> = order.parameters.iter().collect();
    parameters.sort_unstable_by_key(|(name, _)| *name);
    let parameters = parameters
        .into_iter()
        .map(|(name, value)| format!("{name}: {} = {value}", value.data_type()));
    // As the manifest has them, which another version of this program reads alike.
    let tables = order.tables.iter().map(|table| json!(table).to_string());
    let pieces = [order.name.clone(), order.sql.clone(), json!(order.result).to_string()];
    Fingerprint::of(pieces.into_iter().chain(parameters).chain(tables))
}

fn of_statement(sql: &str) -> Fingerprint {
    Fingerprint::of([sql])
}

/// A job has at most 1000 statements.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn journal_problem(error: &JournalError) -> Problem {
    let text = causes(error);
    match error {
        JournalError::Fenced { .. } => Problem::new(ErrorCode::CancelledReplaced, text),
        JournalError::JobChanged { .. } => Problem::new(ErrorCode::ManifestChanged, text)
            .remedy("start a new run of the changed job, or give back the old manifest"),
        JournalError::Objects { .. } => problem_of_cause(error),
        JournalError::File { .. } => Problem::new(ErrorCode::DataNotFound, text)
            .remedy("check that the folder of spec.storage or --storage can be written to"),
        JournalError::Corrupt { .. } | JournalError::Version { .. } | JournalError::TooLarge { .. } => {
            Problem::new(ErrorCode::DataMalformed, text)
                .remedy("start a new run; writes that were committed stay, and are not known to it")
        }
        JournalError::Locked { .. } | JournalError::Contended => Problem::new(ErrorCode::DataCommitConflict, text),
    }
}

fn resume_problem(error: &ResumeError) -> Problem {
    let text = error.to_string();
    match error {
        ResumeError::StatementChanged { .. } | ResumeError::StatementRemoved { .. } => {
            Problem::new(ErrorCode::ManifestChanged, text)
        }
        ResumeError::OutOfOrder { .. } | ResumeError::TwoWrites { .. } => {
            Problem::new(ErrorCode::DataMalformed, text).remedy("start a new run")
        }
    }
}
