//! Columns in the names of folders: `day=2024-01-31/`.
//!
//! DataFusion's listing table takes the name of a folder for the value as it stands. It knows of no folder for NULL, and for
//! `column = value` it lists folders that are called as it would call them, which not everybody does: `month=05`, `x=1.0`,
//! `at=10%3A00`. So it is given these columns as text, and filters over this text; the files that it finds get the values that
//! their folders mean here.

use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ColumnStatistics, Result, ScalarValue};
use datafusion::datasource::listing::helpers::{expr_applicable_for_cols, parse_partitions_for_path};
use datafusion::datasource::listing::{ListingTableUrl, PartitionedFile};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, lit, try_cast, when};
use object_store::path::Path;
use trireme_spec::problem::{ErrorCode, Problem};

use crate::problems::told;

/// The folder of NULL, as in Hive.
pub const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// The columns in the names of a table's folders, outermost first.
#[derive(Debug)]
pub struct Partitions {
    fields: Vec<FieldRef>,
    /// The columns as folders are called by them.
    as_text: Vec<(String, DataType)>,
}

/// Where a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In folders of these columns, of which there may be none.
    Inside,
    /// In folders of other columns.
    Elsewhere,
    /// In no folder of any column: no row of it is seen.
    Beside,
}

impl Partitions {
    /// Columns as they were declared: text where no type was.
    pub fn new(declared: &[(String, Option<DataType>)]) -> Self {
        let text = || DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8));
        let field = |(name, declared): &(String, Option<DataType>)| {
            Arc::new(Field::new(name, declared.clone().unwrap_or_else(text), true))
        };
        let as_text = |(name, _): &(String, Option<DataType>)| (folder_text(name), DataType::Utf8);
        Self {
            fields: declared.iter().map(field).collect(),
            as_text: declared.iter().map(as_text).collect(),
        }
    }

    /// The columns as tables of the session have them.
    pub fn fields(&self) -> &[FieldRef] {
        &self.fields
    }

    /// The columns as the listing table is to have them.
    pub fn as_text(&self) -> Vec<(String, DataType)> {
        self.as_text.clone()
    }

    /// Where a file lies that was found at the location of the table.
    pub fn place(&self, url: &ListingTableUrl, file: &Path) -> Place {
        let names = self.as_text.iter().map(|(name, _)| name.as_str());
        if self.fields.is_empty() || parse_partitions_for_path(url, file, names).is_some() {
            return Place::Inside;
        }
        let first = url.strip_prefix(file).and_then(|mut below| below.next());
        match first.is_some_and(|folder| folder.contains('=')) {
            true => Place::Elsewhere,
            false => Place::Beside,
        }
    }

    /// No file of the table is in such folders; `file` is one of those that are elsewhere.
    pub fn without(&self, file: &Path) -> Problem {
        let names: Vec<_> = self
            .fields
            .iter()
            .map(|field| format!("{}=...", field.name()))
            .collect();
        let text = format!("no file is in a folder {}, as {file} is not", names.join("/"));
        Problem::new(ErrorCode::DataMalformed, text).remedy(
            "call the columns as the folders are called, outermost first; the location is the folder above them",
        )
    }

    /// Whether the names of folders alone tell if `filter` holds.
    pub fn decide(&self, filter: &Expr) -> bool {
        let names: Vec<_> = self.fields.iter().map(|field| field.name().as_str()).collect();
        expr_applicable_for_cols(&names, filter)
    }

    /// A filter over these columns as filters over their text. A folder that is no value of its column stays, to be told of.
    ///
    /// # Errors
    /// None that is known of: expressions of ours that do not fit together.
    pub fn over_text(&self, filter: &Expr) -> Result<Vec<Expr>> {
        let mut kept = Vec::new();
        let meant = filter.clone().transform(|expr| match &expr {
            Expr::Column(column) => match self.field(column) {
                Some(field) => {
                    kept.extend(is_no_value(field));
                    Ok(Transformed::yes(meaning(field)?))
                }
                None => Ok(Transformed::no(expr)),
            },
            _ => Ok(Transformed::no(expr)),
        })?;
        // What is unknown does not hold.
        let holds = Expr::IsTrue(Box::new(meant.data));
        let holds = kept.into_iter().fold(holds, Expr::or);
        Ok(self.folder(filter).into_iter().chain([holds]).collect())
    }

    /// `file` with the values of these columns, and what is known of them.
    ///
    /// # Errors
    /// A folder that is no value of its column.
    pub fn with_values(&self, mut file: PartitionedFile) -> Result<PartitionedFile> {
        let texts = file.partition_values.iter().zip(&self.fields);
        file.partition_values = texts
            .map(|(text, field)| value(text, field, &file))
            .collect::<Result<_>>()?;
        if let Some(statistics) = &mut file.statistics {
            let statistics = Arc::make_mut(statistics);
            let rows = statistics.num_rows;
            // Those of columns in folders stand at the end.
            let columns = statistics.column_statistics.iter_mut().rev();
            for (column, value) in columns.zip(file.partition_values.iter().rev()) {
                *column = known_of(value, rows);
            }
        }
        Ok(file)
    }

    fn field(&self, column: &Column) -> Option<&FieldRef> {
        self.fields.iter().find(|field| *field.name() == column.name)
    }

    /// The one folder in which `filter` finds what it is after, where everybody calls that folder the same: others need not be
    /// listed then.
    fn folder(&self, filter: &Expr) -> Option<Expr> {
        let Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) = filter
        else {
            return None;
        };
        let ((Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column))) =
            (left.as_ref(), right.as_ref())
        else {
            return None;
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let text = value.try_as_str()??;
        let field = self.field(column).filter(|field| is_text(field.data_type()))?;
        (!text.is_empty() && text.bytes().all(plain)).then(|| text_of(field).eq(lit(text)))
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        data_type => data_type.is_string(),
    }
}

/// The name of the folder.
fn text_of(field: &Field) -> Expr {
    Expr::Column(Column::from_name(folder_text(field.name())))
}

/// The value that the name of the folder means.
fn meaning(field: &Field) -> Result<Expr> {
    let null = lit(ScalarValue::try_new_null(field.data_type())?);
    when(text_of(field).eq(lit(NULL_FOLDER)), null).otherwise(try_cast(text_of(field), field.data_type().clone()))
}

/// Whether the name of the folder means nothing; `None` where it always does.
fn is_no_value(field: &Field) -> Option<Expr> {
    let value = try_cast(text_of(field), field.data_type().clone());
    (!is_text(field.data_type())).then(|| text_of(field).not_eq(lit(NULL_FOLDER)).and(value.is_null()))
}

fn value(text: &ScalarValue, field: &Field, file: &PartitionedFile) -> Result<ScalarValue> {
    match text.try_as_str().flatten() {
        None | Some(NULL_FOLDER) => ScalarValue::try_new_null(field.data_type()),
        Some(text) => ScalarValue::try_from_string(text.to_owned(), field.data_type()).map_err(|_| {
            let (name, wanted, path) = (field.name(), field.data_type(), &file.object_meta.location);
            let problem = format!("the folder {name}={text} of {path} is no value of type {wanted}");
            told(Problem::new(ErrorCode::DataMalformed, problem).remedy(format!(
                "rename the folder, or declare {name} as a column of text and cast what is a value"
            )))
        }),
    }
}

fn known_of(value: &ScalarValue, rows: Precision<usize>) -> ColumnStatistics {
    if value.is_null() {
        return ColumnStatistics {
            null_count: rows,
            ..ColumnStatistics::new_unknown()
        };
    }
    ColumnStatistics {
        null_count: Precision::Exact(0),
        max_value: Precision::Exact(value.clone()),
        min_value: Precision::Exact(value.clone()),
        distinct_count: Precision::Exact(1),
        ..ColumnStatistics::new_unknown()
    }
}

/// A column or a value as it stands in the name of a folder: what is not plain goes as `%XX`, as in Hive.
pub fn folder_text(text: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b' ' | b'+' | b',' | b'@');
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_hold_nothing_that_leaves_them() {
        assert_eq!(folder_text("2024-01-31"), "2024-01-31");
        assert_eq!(folder_text("a/b=c%"), "a%2Fb%3Dc%25");
        assert_eq!(folder_text("é"), "%C3%A9");
    }
}
