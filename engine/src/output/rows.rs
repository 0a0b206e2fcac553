//! Results as text tables, JSON lines and CSV.

use std::io::{self, Write};
use std::path::Path;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{JsonArray, WriterBuilder};
use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;
use serde::Serialize;
use serde_json::value::RawValue;
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

/// A statement's outcome in the form of `--output json`; fields of other kinds of outcome are left out.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    statement: usize,
    elapsed_ms: f64,
    spilled_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<Column<'a>>>,
    /// As Arrow writes them: numbers that are read and written again lose digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    earlier: Option<bool>,
}

#[derive(Serialize)]
struct Column<'a> {
    name: &'a str,
    r#type: String,
}

/// One JSON object for the statement.
pub fn write_json(out: &mut impl Write, index: usize, outcome: &StatementOutcome) -> io::Result<()> {
    let line = Line {
        statement: index + 1,
        // Whole microseconds: a tiny query takes a few milliseconds.
        elapsed_ms: outcome.elapsed.as_micros() as f64 / 1e3,
        spilled_bytes: outcome.counters.spilled_bytes,
        ..Line::default()
    };
    let line = match &outcome.result {
        StatementResult::Rows(preview) => {
            let columns = preview.schema.fields().iter();
            let columns = columns.map(|field| Column {
                name: field.name(),
                r#type: field.data_type().to_string(),
            });
            Line {
                columns: Some(columns.collect()),
                rows: Some(json_rows(preview)?),
                rows_total: Some(preview.rows_total),
                ..line
            }
        }
        StatementResult::Written(written) => Line {
            location: Some(&written.location),
            files: Some(written.files),
            rows_total: Some(written.rows),
            bytes: Some(written.bytes),
            earlier: Some(written.recovered),
            ..line
        },
        StatementResult::Session => line,
        StatementResult::Earlier(kept) => Line {
            preview: Some(&kept.preview),
            rows_total: Some(kept.rows),
            earlier: Some(true),
            ..line
        },
    };
    writeln!(out, "{}", serde_json::to_string(&line)?)
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

fn json_rows(preview: &Preview) -> io::Result<Box<RawValue>> {
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, JsonArray>(Vec::new());
    writer
        .write_batches(&preview.batches.iter().collect::<Vec<_>>())
        .map_err(unprintable)?;
    writer.finish().map_err(unprintable)?;
    let bytes = writer.into_inner();
    let text = match bytes.is_empty() {
        true => "[]".to_owned(),
        false => String::from_utf8(bytes).map_err(io::Error::other)?,
    };
    Ok(RawValue::from_string(text)?)
}

fn shown(preview: &Preview) -> u64 {
    preview.batches.iter().map(|batch| batch.num_rows() as u64).sum()
}

fn unprintable(error: ArrowError) -> io::Error {
    io::Error::other(error)
}
