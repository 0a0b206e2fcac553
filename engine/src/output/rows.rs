//! Results as text tables, JSON lines and CSV.

use std::io::{self, Write};
use std::path::Path;

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
    let (shown, total) = (shown(preview), preview.rows_total);
    match shown == total {
        true => writeln!(out, "{}", count(total, "row")),
        false => writeln!(
            out,
            "{shown} of {}; --max-rows shows more, COPY keeps them all",
            count(total, "row")
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

/// `wrote 1234 rows in 3 files to out/`. A table below the folder `temporary` is gone when the command ends: where it lies is
/// of use to nobody.
pub fn describe_write(written: &Written, temporary: Option<&Path>) -> String {
    let again = if written.recovered {
        " (by an earlier driver)"
    } else {
        ""
    };
    let location = &written.location;
    let place = match temporary.filter(|folder| Path::new(location).starts_with(folder)) {
        Some(_) => format!("temporary table {}", table_name(location)),
        None => location.clone(),
    };
    format!(
        "wrote {} in {} to {place}{again}",
        count(written.rows, "row"),
        count(written.files, "file")
    )
}

/// The name of the table in the folder `.../2-visits`: the number is the statement's.
fn table_name(location: &str) -> &str {
    let folder = location.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match folder.split_once('-') {
        Some((number, name)) if number.parse::<usize>().is_ok() => name,
        _ => folder,
    }
}

/// `1 row`, `2 rows`.
pub fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
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
