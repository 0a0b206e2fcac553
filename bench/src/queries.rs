//! Runs every query once and says how long each took: from its text until all of its rows are here.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use serde_json::json;

use crate::{Failure, Work};

/// As `WARM_UP` in `contenders.py`.
const WARM_UP: &str = "SELECT 1";

/// One line of JSON for each query.
pub async fn run(context: &SessionContext, work: &Work) -> Result<(), Failure> {
    for table in entries(&work.data)? {
        // The slash says that it is a folder.
        let files = format!("{}/", table.display());
        context
            .register_parquet(stem(&table), files, ParquetReadOptions::default())
            .await?;
    }
    // A cluster is complete before the first query counts.
    context.sql(WARM_UP).await?.collect().await?;
    let queries = entries(&work.queries)?;
    for query in queries
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "sql"))
    {
        let sql = fs::read_to_string(query)?;
        let started = Instant::now();
        let frame = context.sql(&sql).await?;
        let schema = SchemaRef::clone(frame.schema().inner());
        let batches = frame.collect().await?;
        let elapsed = started.elapsed();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let line = json!({ "query": stem(query), "elapsedMs": elapsed.as_secs_f64() * 1e3, "rows": rows });
        writeln!(io::stdout().lock(), "{line}")?;
        if let Some(folder) = &work.answers {
            keep(&folder.join(format!("{}.parquet", stem(query))), schema, &batches)?;
        }
    }
    Ok(())
}

fn keep(file: &Path, schema: SchemaRef, batches: &[RecordBatch]) -> Result<(), Failure> {
    // What the plan promises and what arrives may differ in nullability; the rows are what counts.
    let schema = batches.first().map_or(schema, RecordBatch::schema);
    let mut writer = ArrowWriter::try_new(File::create(file)?, schema, None)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    Ok(())
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
