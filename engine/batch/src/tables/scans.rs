//! Stands over a scan of files and tells what is wrong with a file as that, and of which file.
//!
//! Decoders know neither: a damaged page reaches us as an invalid argument of somebody, or as a panic. None of this belongs
//! into a plan that is sent or shown, so scans are guarded where they run.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::{ArrowSource, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::future::ready;
use tokio::task::JoinError;
use trireme_spec::problem::{ErrorClass, ErrorCode, Problem};

use super::arrow_files::ArrowScan;
use crate::causes::chain;
use crate::panics::{Panic, catch};
use crate::problems::{carried, problem_of, told};
use crate::through::ThroughExec;

/// `plan` with a guard over each scan of files, and our own reader of Arrow files. For a plan that is run next.
///
/// # Errors
/// None of its own; those of plan nodes that do not take other children.
pub fn guard_scans(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let guarded = plan.transform_up(|node| {
        let Some(config) = file_scan(node.as_ref()) else {
            return Ok(Transformed::no(node));
        };
        let scan = if config.file_source().is::<ArrowSource>() {
            let source = Arc::new(ArrowScan::new(Arc::clone(config.file_source())));
            let config = FileScanConfigBuilder::from(config.clone()).with_source(source).build();
            DataSourceExec::from_data_source(config)
        } else {
            node
        };
        Ok(Transformed::yes(Arc::new(told_by_file(scan)) as _))
    })?;
    Ok(guarded.data)
}

/// What `node` reads, where it is a scan of files.
pub fn file_scan(node: &dyn ExecutionPlan) -> Option<&FileScanConfig> {
    node.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref()
}

/// `scan`, with what goes wrong told as that of the files that the partition reads.
fn told_by_file(scan: Arc<dyn ExecutionPlan>) -> ThroughExec {
    ThroughExec::new("FileScanExec", scan, |rows, scan, partition| {
        let place = place(scan, partition);
        let told = AssertUnwindSafe(rows).catch_unwind().map(move |item| match item {
            Ok(rows) => rows.map_err(|error| of_file(error, &place)),
            Err(payload) => Err(told(undecodable(&Panic::of_payload(payload.as_ref()), &place))),
        });
        // After a panic, the scan is in no state to go on.
        told.scan(false, |failed, item| {
            let item = (!*failed).then_some(item);
            *failed |= matches!(item, Some(Err(_)));
            ready(item)
        })
    })
}

/// The files that `partition` of `scan` reads, for people.
fn place(scan: &dyn ExecutionPlan, partition: usize) -> String {
    let Some(config) = file_scan(scan) else {
        return String::new();
    };
    let files = config.file_groups.get(partition).map_or(&[][..], |group| group.files());
    let url = config.object_store_url.as_str();
    let root = url.strip_prefix("file://").unwrap_or(url);
    match files {
        [] => String::new(),
        [file] => format!("{root}{}", file.object_meta.location),
        [first, rest @ ..] => format!("{root}{} or one of {} others", first.object_meta.location, rest.len()),
    }
}

/// Runs `work`, which looks into the files at `place`.
///
/// # Errors
/// Those of `work`, blamed on the files where nothing else is known to be at fault, and its panic.
pub async fn looking_into<T>(place: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match catch(work).await {
        Ok(done) => done.map_err(|error| of_file(error, place)),
        Err(panic) => Err(told(undecodable(&panic, place))),
    }
}

fn of_file(error: DataFusionError, place: &str) -> DataFusionError {
    if carried(&error).is_some() {
        return error;
    }
    // Some decoders work in tasks of their own.
    let join = chain(&error).find_map(|cause| cause.downcast_ref::<JoinError>());
    if let Some(panic) = join.and_then(Panic::of_task) {
        return told(undecodable(&panic, place));
    }
    let mut problem = problem_of(&error, "");
    match (problem.code, problem.code.class()) {
        (ErrorCode::DataMalformed | ErrorCode::Internal, _) => told(damaged(problem, place)),
        (_, ErrorClass::Data) => {
            problem.message = naming(problem.message, place);
            told(problem)
        }
        _ => error,
    }
}

/// Whoever decodes a file panics on what it does not expect in one.
fn undecodable(panic: &Panic, place: &str) -> Problem {
    let text = format!("a file cannot be decoded: {}", panic.text());
    damaged(Problem::new(ErrorCode::DataMalformed, text), place)
}

fn naming(text: String, place: &str) -> String {
    // Stores name what they were asked for, less the slash that a path begins with.
    if text.contains(place.trim_start_matches('/')) {
        text
    } else {
        format!("{place}: {text}")
    }
}

fn damaged(problem: Problem, place: &str) -> Problem {
    let text = naming(problem.message, place);
    let usual = || "check that the file is complete and of the declared format".to_owned();
    let remedy = match (problem.code, problem.remedy) {
        (ErrorCode::DataMalformed, Some(remedy)) => remedy,
        _ => usual(),
    };
    Problem::new(ErrorCode::DataMalformed, text).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(error: &DataFusionError) -> (ErrorCode, String) {
        let problem = problem_of(error, "");
        (problem.code, problem.message)
    }

    /// The same text, as a decoder and as a function of SQL would say it.
    #[tokio::test]
    async fn a_panic_speaks_of_a_file_only_where_one_is_read() {
        let panics = || async {
            if true {
                panic!("byte array offset overflow")
            }
        };
        let join = tokio::spawn(panics()).await.unwrap_err();
        let error = DataFusionError::ExecutionJoin(Box::new(join));
        assert_eq!(problem(&error).0, ErrorCode::Internal);
        let expected = "/t/a.parquet: a file cannot be decoded: byte array offset overflow".to_owned();
        let in_task = of_file(error, "/t/a.parquet");
        assert_eq!(problem(&in_task), (ErrorCode::DataMalformed, expected.clone()));
        let looking = looking_into("/t/a.parquet", async {
            panics().await;
            Ok(())
        });
        assert_eq!(
            problem(&looking.await.unwrap_err()),
            (ErrorCode::DataMalformed, expected)
        );
    }
}
