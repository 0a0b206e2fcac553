//! From a journal to what a new driver must do. Pure: records in, plan out.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{JobOutcome, QueryDone, Record, StatementOutcome, WriteDone};
use crate::{Fingerprint, Generation, WriteId};

/// What to do with one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It made session state (DDL, SET) that died with the driver: run it, and journal nothing.
    Replay,
    /// A query whose rows were shown or kept: do not run it.
    SkipQuery(QueryDone),
    /// A write that is committed: never run it again.
    SkipWrite(WriteDone),
    /// The job's last statement is a query that ended, and not all of its rows were kept: they stand in the output of a
    /// driver that is gone. Unless the job has ended, run it again. It reads only, so that is safe.
    ShowAgain(QueryDone),
    /// It did not end: run it and journal it.
    Run,
}

/// A write that was begun and may or may not be committed: the destination knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteIntent {
    /// The statement, from 0.
    pub index: u32,
    /// The write to look up, and to use again if it is not there.
    pub write_id: WriteId,
    /// The destination's URL.
    pub location: String,
}

/// What a new driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePlan {
    /// The job ended before; then there is nothing to run, whatever `actions` says.
    pub finished: Option<JobOutcome>,
    /// One for each statement, in order.
    pub actions: Vec<Action>,
    /// The first statement to [`Action::Run`]; `None` when all are done.
    pub first_unfinished: Option<u32>,
    /// The write of the first unfinished statement, if it got that far: begin it at its destination before anything
    /// else, which finishes it if it was committed.
    pub undecided: Option<WriteIntent>,
}

/// The journal does not fit the job, or itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResumeError {
    /// A statement's text changed since it was journaled.
    #[error("statement {} was edited after it ran (fingerprint {journaled}, now {given}); start a new run", index + 1)]
    StatementChanged {
        /// The statement, from 0.
        index: u32,
        /// In the journal.
        journaled: Fingerprint,
        /// In the job that was given.
        given: Fingerprint,
    },
    /// The job has fewer statements than ran.
    #[error("statement {} ran before, but the job now has only {statements}; start a new run", index + 1)]
    StatementRemoved {
        /// The statement, from 0.
        index: u32,
        /// How many there are now.
        statements: usize,
    },
    /// Records in an order that no driver of ours writes.
    #[error("journal record {position} is out of order: {detail}")]
    OutOfOrder {
        /// The record, from 0.
        position: usize,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// One statement began two writes under different ids, so it might be committed twice.
    #[error("statement {} began the write {first} and later the write {second}", index + 1)]
    TwoWrites {
        /// The statement, from 0.
        index: u32,
        /// The id first journaled.
        first: WriteId,
        /// The other id.
        second: WriteId,
    },
}

/// What a new driver must do, given the journal and the statements of the job as it is now.
pub fn resume(records: &[Record], statements: &[Fingerprint]) -> Result<ResumePlan, ResumeError> {
    let mut history = History {
        statements,
        ..History::default()
    };
    for (position, record) in records.iter().enumerate() {
        history.add(position, record)?;
    }
    Ok(history.plan())
}

/// A journal read so far.
#[derive(Default)]
struct History<'a> {
    statements: &'a [Fingerprint],
    generation: Option<Generation>,
    /// The statement that runs in the current generation.
    running: Option<u32>,
    done: BTreeMap<u32, &'a StatementOutcome>,
    intents: BTreeMap<u32, WriteIntent>,
    finished: Option<&'a JobOutcome>,
}

impl<'a> History<'a> {
    fn add(&mut self, position: usize, record: &'a Record) -> Result<(), ResumeError> {
        let wrong = |detail| Err(ResumeError::OutOfOrder { position, detail });
        if self.generation.is_none() && !matches!(record, Record::Opened { .. }) {
            return wrong("no driver has opened the journal");
        }
        if self.finished.is_some() && !matches!(record, Record::Opened { .. }) {
            return wrong("the job had finished");
        }
        match record {
            Record::Opened {
                generation,
                job: _,
                driver: _,
            } => {
                if self.generation.is_some_and(|last| last >= *generation) {
                    return wrong("the generation does not grow");
                }
                self.generation = Some(*generation);
                self.running = None;
            }
            Record::StatementStarted { index, statement } => {
                self.check_text(*index, *statement)?;
                // Either the first that is not done, or a query shown again.
                let shown_again = matches!(self.done.get(index), Some(StatementOutcome::Query(_)));
                if *index != self.first_unfinished() && !shown_again {
                    return wrong("the statement's turn has not come, or is over");
                }
                self.running = Some(*index);
            }
            Record::WriteIntended {
                index,
                write_id,
                location,
            } => {
                if self.running != Some(*index) {
                    return wrong("the statement that intends a write has not started");
                }
                self.intend(WriteIntent {
                    index: *index,
                    write_id: write_id.clone(),
                    location: location.clone(),
                })?;
            }
            Record::StatementDone { index, outcome } => {
                if self.running != Some(*index) {
                    return wrong("the statement that is done has not started");
                }
                if let StatementOutcome::Write(done) = outcome {
                    let WriteDone {
                        write_id,
                        location,
                        rows: _,
                        files: _,
                        bytes: _,
                    } = done;
                    if !self.intents.contains_key(index) {
                        return wrong("the write that is done was not intended");
                    }
                    self.intend(WriteIntent {
                        index: *index,
                        write_id: write_id.clone(),
                        location: location.clone(),
                    })?;
                }
                self.done.insert(*index, outcome);
                self.running = None;
            }
            Record::Finished { outcome } => self.finished = Some(outcome),
        }
        Ok(())
    }

    fn check_text(&self, index: u32, journaled: Fingerprint) -> Result<(), ResumeError> {
        match self.statements.get(index as usize) {
            None => Err(ResumeError::StatementRemoved {
                index,
                statements: self.statements.len(),
            }),
            Some(given) if *given != journaled => Err(ResumeError::StatementChanged {
                index,
                journaled,
                given: *given,
            }),
            Some(_) => Ok(()),
        }
    }

    fn intend(&mut self, intent: WriteIntent) -> Result<(), ResumeError> {
        let index = intent.index;
        let first = self.intents.entry(index).or_insert_with(|| intent.clone());
        if first.write_id != intent.write_id {
            return Err(ResumeError::TwoWrites {
                index,
                first: first.write_id.clone(),
                second: intent.write_id,
            });
        }
        Ok(())
    }

    /// Statements end in order, so the first that is not done is as many as are done.
    fn first_unfinished(&self) -> u32 {
        self.done.len() as u32
    }

    fn plan(self) -> ResumePlan {
        let last = self.statements.len().saturating_sub(1);
        let actions = (0..self.statements.len()).map(|index| match self.done.get(&(index as u32)) {
            None => Action::Run,
            Some(StatementOutcome::Replay) => Action::Replay,
            Some(StatementOutcome::Write(done)) => Action::SkipWrite(done.clone()),
            Some(StatementOutcome::Query(done)) if index == last && !done.is_kept() => Action::ShowAgain(done.clone()),
            Some(StatementOutcome::Query(done)) => Action::SkipQuery(done.clone()),
        });
        let next = self.first_unfinished();
        ResumePlan {
            actions: actions.collect(),
            first_unfinished: ((next as usize) < self.statements.len()).then_some(next),
            undecided: self.intents.get(&next).cloned(),
            finished: self.finished.cloned(),
        }
    }
}
