//! What a driver that wants to write must do next. Pure: facts in, decision out; [`super::Committer`] executes.

use super::record::WriteMode;
use crate::Generation;

/// What was read at the destination before deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The driver that asks.
    pub generation: Generation,
    /// What its write does to earlier data.
    pub mode: WriteMode,
    /// The newest generation that claimed the write.
    pub claimed_by: Option<Generation>,
    /// The write's commit, if it has one.
    pub record: Option<RecordFacts>,
    /// Data of others that is there, by a name to show to people. Read for [`WriteMode::Create`] only.
    pub holds: Option<String>,
}

/// What was read about a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFacts {
    /// The driver that committed.
    pub generation: Generation,
    /// A later overwrite replaces it, so there is nothing left to complete.
    pub replaced: bool,
    /// Names of its parts that are not complete.
    pub remaining: Vec<String>,
    /// Names of files that it replaces and that are still there.
    pub leftover: Vec<String>,
    /// `_SUCCESS` is there.
    pub success: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nobody committed the write, and an older driver might: claim it first.
    Claim,
    /// Nobody committed the write and no older driver can: go on, and in the end create the record.
    Write,
    /// The write is committed and not finished: finish it. Its tasks must not run again.
    RollForward {
        /// Parts still to complete; may be none, when only the tidying is left.
        remaining: Vec<String>,
    },
    /// The write is committed and finished.
    AlreadyCommitted,
    /// A newer driver owns the write: stop.
    Stale {
        /// The newer driver.
        by: Generation,
    },
    /// The destination holds data, and the write may not touch it.
    Conflict {
        /// A name to show to people.
        holds: String,
    },
}

/// What to do, given the facts.
///
/// The order of the questions is the order of power: who is newer, then what is committed, then what is in the way.
pub fn decide(facts: &Facts) -> Decision {
    let Facts {
        generation,
        mode,
        claimed_by,
        record,
        holds,
    } = facts;
    let newest = (*claimed_by).max(record.as_ref().map(|record| record.generation));
    if let Some(by) = newest.filter(|newest| newest > generation) {
        return Decision::Stale { by };
    }
    if let Some(RecordFacts {
        generation: _,
        replaced,
        remaining,
        leftover,
        success,
    }) = record
    {
        let finished = remaining.is_empty() && leftover.is_empty() && *success;
        return if *replaced || finished {
            Decision::AlreadyCommitted
        } else {
            Decision::RollForward {
                remaining: remaining.clone(),
            }
        };
    }
    if let (WriteMode::Create, Some(holds)) = (mode, holds) {
        return Decision::Conflict { holds: holds.clone() };
    }
    // A second driver of the same generation does not exist, so its own claim holds for its whole life.
    if *generation == Generation::FIRST || *claimed_by == Some(*generation) {
        Decision::Write
    } else {
        Decision::Claim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Generation = Generation::new(2);

    fn generations() -> [Option<Generation>; 4] {
        [None, Some(Generation::FIRST), Some(ME), Some(Generation::new(3))]
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn records() -> Vec<Option<RecordFacts>> {
        let mut records = vec![None];
        for generation in generations().into_iter().flatten() {
            for bits in 0..16 {
                let (replaced, success) = (bits & 1 != 0, bits & 2 != 0);
                let remaining = names(if bits & 4 != 0 { &["part"] } else { &[] });
                let leftover = names(if bits & 8 != 0 { &["old"] } else { &[] });
                records.push(Some(RecordFacts {
                    generation,
                    replaced,
                    remaining,
                    leftover,
                    success,
                }));
            }
        }
        records
    }

    fn all_facts() -> Vec<Facts> {
        let mut all = Vec::new();
        for generation in [Generation::FIRST, ME] {
            for mode in [WriteMode::Append, WriteMode::Create, WriteMode::Overwrite] {
                for claimed_by in generations() {
                    for record in records() {
                        for holds in [None, Some("old.csv".to_owned())] {
                            all.push(Facts {
                                generation,
                                mode,
                                claimed_by,
                                record: record.clone(),
                                holds,
                            });
                        }
                    }
                }
            }
        }
        all
    }

    /// Every combination of facts against the table, which is written the other way round: by decision, not by
    /// question.
    #[test]
    fn every_combination_of_facts_gets_the_decision_of_the_table() {
        let all = all_facts();
        assert_eq!(all.len(), 2 * 3 * 4 * 49 * 2);
        for facts in all {
            let newer = |other: Option<Generation>| other.is_some_and(|other| other > facts.generation);
            let record = facts.record.as_ref();
            let stale = newer(facts.claimed_by) || newer(record.map(|record| record.generation));
            let unfinished = |record: &RecordFacts| {
                let tidy = record.leftover.is_empty() && record.success;
                !record.replaced && (!tidy || !record.remaining.is_empty())
            };
            let blocked = facts.mode == WriteMode::Create && facts.holds.is_some();
            let fenced_off = facts.generation == Generation::FIRST || facts.claimed_by == Some(facts.generation);

            let fits = match decide(&facts) {
                Decision::Stale { by } => {
                    stale && (facts.claimed_by == Some(by) || record.is_some_and(|record| record.generation == by))
                }
                Decision::RollForward { remaining } => {
                    !stale && record.is_some_and(|record| unfinished(record) && record.remaining == remaining)
                }
                Decision::AlreadyCommitted => !stale && record.is_some_and(|record| !unfinished(record)),
                Decision::Conflict { holds } => !stale && record.is_none() && blocked && facts.holds == Some(holds),
                Decision::Claim => !stale && record.is_none() && !blocked && !fenced_off,
                Decision::Write => !stale && record.is_none() && !blocked && fenced_off,
            };
            assert!(fits, "{facts:?} -> {:?}", decide(&facts));
        }
    }

    #[test]
    fn the_cases_one_tells_a_colleague() {
        let fresh = Facts {
            generation: Generation::FIRST,
            mode: WriteMode::Append,
            claimed_by: None,
            record: None,
            holds: None,
        };
        assert_eq!(decide(&fresh), Decision::Write);
        let successor = Facts {
            generation: ME,
            ..fresh.clone()
        };
        assert_eq!(decide(&successor), Decision::Claim);
        assert_eq!(
            decide(&Facts {
                claimed_by: Some(ME),
                ..successor.clone()
            }),
            Decision::Write
        );
        assert_eq!(
            decide(&Facts {
                claimed_by: Some(ME),
                ..fresh.clone()
            }),
            Decision::Stale { by: ME }
        );
        let half = RecordFacts {
            generation: Generation::FIRST,
            replaced: false,
            remaining: names(&["b"]),
            leftover: vec![],
            success: false,
        };
        let found = Facts {
            record: Some(half.clone()),
            ..successor.clone()
        };
        assert_eq!(
            decide(&found),
            Decision::RollForward {
                remaining: names(&["b"])
            }
        );
        let whole = RecordFacts {
            remaining: vec![],
            success: true,
            ..half
        };
        assert_eq!(
            decide(&Facts {
                record: Some(whole),
                ..successor
            }),
            Decision::AlreadyCommitted
        );
        let table = Facts {
            mode: WriteMode::Create,
            holds: Some("old.csv".to_owned()),
            ..fresh
        };
        assert_eq!(
            decide(&table),
            Decision::Conflict {
                holds: "old.csv".to_owned()
            }
        );
    }
}
