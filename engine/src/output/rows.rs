//! Results as text tables, JSON lines and CSV.

use std::io::{self, Write};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{JsonArray, WriterBuilder};
use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;
use serde_json::{Value, json};
use trireme_batch::job::{Preview, StatementOutcome, StatementResult};
use trireme_batch::sink::Written;

/// A table with a line below that says how many rows there are, and how many of them are shown.
pub fn write_table(out: &mut impl Write, preview: &Preview) -> io::Result<()> {
    let table = pretty_format_batches_with_schema(preview.schema.clone(), &preview.batches).map_err(unprintable)?;
    writeln!(out, "{table}")?;
    let shown = shown(preview);
    let plural = if preview.rows_total == 1 { "" } else { "s" };
    match shown == preview.rows_total {
        true => writeln!(out, "{shown} row{plural}"),
        false => writeln!(
            out,
            "{shown} of {} row{plural}; spec.result.location keeps them all",
            preview.rows_total
        ),
    }
}

/// The rows as CSV with a header.
pub fn write_csv(out: &mut impl Write, preview: &Preview) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().with_header(true).build(out);
    if preview.batches.is_empty() {
        writer
            .write(&RecordBatch::new_empty(preview.schema.clone()))
            .map_err(unprintable)?;
    }
    preview
        .batches
        .iter()
        .try_for_each(|batch| writer.write(batch))
        .map_err(unprintable)
}

/// One JSON object for the statement.
pub fn write_json(out: &mut impl Write, index: usize, outcome: &StatementOutcome) -> io::Result<()> {
    // Whole microseconds: a tiny query takes a few milliseconds.
    let elapsed_ms = outcome.elapsed.as_micros() as f64 / 1e3;
    let mut object = json!({
        "statement": index + 1,
        "elapsedMs": elapsed_ms,
        "spilledBytes": outcome.counters.spilled_bytes,
    });
    match &outcome.result {
        StatementResult::Rows(preview) => {
            let columns = preview.schema.fields().iter();
            object["columns"] = columns
                .map(|field| json!({ "name": field.name(), "type": field.data_type().to_string() }))
                .collect();
            object["rows"] = json_rows(preview)?;
            object["rowsTotal"] = json!(preview.rows_total);
        }
        StatementResult::Written(written) => {
            object["location"] = json!(written.location);
            object["files"] = json!(written.files);
            object["rowsTotal"] = json!(written.rows);
            object["bytes"] = json!(written.bytes);
            object["earlier"] = json!(written.recovered);
        }
        StatementResult::Session => {}
        StatementResult::Earlier(kept) => {
            object["preview"] = json!(kept.preview);
            object["rowsTotal"] = json!(kept.rows);
            object["earlier"] = json!(true);
        }
    }
    writeln!(out, "{object}")
}

/// `1,234 rows in 3 files at out/`.
pub fn describe_write(written: &Written) -> String {
    let again = if written.recovered {
        " (by an earlier driver)"
    } else {
        ""
    };
    format!(
        "wrote {} rows in {} files to {}{again}",
        written.rows, written.files, written.location
    )
}

fn json_rows(preview: &Preview) -> io::Result<Value> {
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, JsonArray>(Vec::new());
    writer
        .write_batches(&preview.batches.iter().collect::<Vec<_>>())
        .map_err(unprintable)?;
    writer.finish().map_err(unprintable)?;
    let bytes = writer.into_inner();
    if bytes.is_empty() {
        Ok(json!([]))
    } else {
        Ok(serde_json::from_slice(&bytes)?)
    }
}

fn shown(preview: &Preview) -> u64 {
    preview.batches.iter().map(|batch| batch.num_rows() as u64).sum()
}

fn unprintable(error: ArrowError) -> io::Error {
    io::Error::other(error)
}
