//! A job's SQL text as statements, and what kind of work each is.

use std::collections::HashMap;
use std::sync::Arc;

use ballista_core::planner::scans_only_information_schema;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use trireme_spec::limits::Limits;
use trireme_spec::problem::{ErrorCode, Problem};

use crate::cluster::check_sent;
use crate::engine::is_for_workers;
use crate::operators;
use crate::parameters;
use crate::problems::problem_of;
use crate::refused;
use crate::sink::insert_mode;

/// The name by which error messages refer to a job's SQL text.
pub const SOURCE: &str = "spec.sql";

/// Splits `sql` into statements.
///
/// # Errors
/// Text that does not parse, no statement at all, more statements or more operators in a row than `limits` allow, a statement
/// that is never run.
pub fn parse(sql: &str, limits: &Limits) -> Result<Vec<Statement>, Problem> {
    let told = |error: DataFusionError| problem_of(&error, SOURCE);
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| told(ParserError::from(error).into()))?;
    operators::check(&tokens, limits.sql_operators_max as usize)?;
    let mut statements = DFParserBuilder::new(tokens)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(told)?;
    statements.iter_mut().for_each(name_folders);
    let statements_max = limits.statements_max as usize;
    if statements.is_empty() {
        return Err(Problem::new(ErrorCode::SqlSyntax, "the job has no statement")
            .remedy("write at least one statement into spec.sql"));
    }
    if statements.len() > statements_max {
        return Err(Problem::new(
            ErrorCode::LimitStatements,
            format!(
                "the job has {} statements, more than the limit of {statements_max}",
                statements.len()
            ),
        )
        .remedy("split it into several jobs"));
    }
    let total = statements.len();
    for (index, statement) in statements.iter().enumerate() {
        refused::check(statement).map_err(|problem| in_statement(problem, index, total))?;
    }
    Ok(statements.into())
}

/// Has the columns of `PARTITIONED BY` called as all others are; the parser leaves quotes and upper case in them.
fn name_folders(statement: &mut Statement) {
    let columns = match statement {
        Statement::CopyTo(copy) => &mut copy.partitioned_by,
        Statement::CreateExternalTable(table) => &mut table.table_partition_cols,
        Statement::Explain(explain) => return name_folders(&mut explain.statement),
        Statement::Statement(_) | Statement::Reset(_) => return,
    };
    for column in columns {
        let quoted = |quote: char| column.strip_prefix(quote)?.strip_suffix(quote);
        *column = match (quoted('"'), quoted('`')) {
            (Some(name), _) => name.replace("\"\"", "\""),
            (None, Some(name)) => name.replace("``", "`"),
            (None, None) => column.to_ascii_lowercase(),
        };
    }
}

/// Plans one statement and puts `parameters` in.
///
/// # Errors
/// Names and types that do not resolve, a parameter without a value.
pub async fn plan(
    context: &SessionContext,
    mut statement: Statement,
    parameters: &HashMap<String, ScalarValue>,
) -> Result<LogicalPlan, Problem> {
    parameters::put_in(&mut statement, parameters);
    let plan = context
        .state()
        .statement_to_plan(statement)
        .await
        .map_err(|error| problem_of(&error, SOURCE))?;
    let missing = plan
        .get_parameter_names()
        .map_err(|error| problem_of(&error, SOURCE))?
        .into_iter()
        .next();
    if let Some(name) = missing {
        let known: Vec<_> = parameters.keys().map(|name| format!("${name}")).collect();
        return Err(Problem::new(
            ErrorCode::SqlParameterMissing,
            format!("the parameter {name} has no value"),
        )
        .allowed(if known.is_empty() {
            "none is given".to_owned()
        } else {
            known.join(", ")
        })
        .remedy(match name.trim_start_matches('$') {
            position if position.starts_with(|first: char| first.is_ascii_digit()) => {
                "parameters have names: write $name, and `name: ...` under spec.parameters".to_owned()
            }
            name => format!("add `{name}: ...` under spec.parameters"),
        }));
    }
    Ok(plan)
}

/// What runs for `plan`. `suitable` is shown what was made, and for how many partitions, and may ask for another number.
///
/// # Errors
/// What cannot be planned.
pub async fn physical_plan(
    mut planner: SessionState,
    plan: &LogicalPlan,
    suitable: impl Fn(&dyn ExecutionPlan, usize) -> Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>, Problem> {
    let told = |error| statement_problem(&error);
    let plan = planner.optimize(plan).map_err(told)?;
    if is_for_workers(planner.config_options()) {
        check_sent(&plan).map_err(told)?;
    }
    let made = of_optimized(&planner, &plan).await?;
    let Some(partitions) = suitable(made.as_ref(), planner.config().target_partitions()) else {
        return Ok(made);
    };
    planner.config_mut().options_mut().execution.target_partitions = partitions;
    of_optimized(&planner, &plan).await
}

/// What runs for a plan that is optimized already.
async fn of_optimized(planner: &SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>, Problem> {
    let made = planner.query_planner().create_physical_plan(plan, planner).await;
    made.map_err(|error| statement_problem(&error))
}

/// What running a statement means.
#[derive(Debug)]
pub enum Work {
    /// Rows for the user.
    Query(LogicalPlan),
    /// Rows about plans and catalogs, answered by the driver itself.
    Inspection(LogicalPlan),
    /// Rows into files.
    Write(LogicalPlan),
    /// A change of the session: views, tables, settings. Must be done again in a new session.
    Session(LogicalPlan),
}

/// Sorts a planned statement.
///
/// # Errors
/// Statements that no destination of ours can carry out.
pub fn classify(plan: LogicalPlan) -> Result<Work, Problem> {
    Ok(match plan {
        LogicalPlan::Copy(_) | LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(_)) => Work::Write(plan),
        LogicalPlan::Dml(ref dml) => {
            insert_mode(&dml.op)?;
            Work::Write(plan)
        }
        LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => Work::Session(plan),
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_) => Work::Inspection(plan),
        other => Work::Query(other),
    })
}

/// Whether `plan` reads nothing but the catalogs of its session, as `SHOW TABLES` does: no other process has them.
pub fn is_about_the_session(plan: &LogicalPlan) -> bool {
    matches!(scans_only_information_schema(plan), Ok(true))
}

/// A short form of a statement for progress lines and logs: one line, at most 80 characters.
pub fn summary(statement: &Statement) -> String {
    let text = statement.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(79) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The problem of a statement, with its number where the job has several.
pub fn in_statement(mut problem: Problem, index: usize, total: usize) -> Problem {
    if total > 1 {
        problem.message = format!("statement {} of {total}: {}", index + 1, problem.message);
    }
    problem
}

/// The message of a DataFusion error in a statement.
pub fn statement_problem(error: &DataFusionError) -> Problem {
    problem_of(error, SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_at_semicolons_outside_strings() {
        let statements = parse("SET a.b = 1; SELECT ';' ;", &Limits::default()).unwrap();
        assert_eq!(statements.len(), 2);
        assert_eq!(summary(&statements[1]), "SELECT ';'");
    }

    #[test]
    fn bad_text_is_the_users_fault() {
        for (sql, code) in [
            ("", ErrorCode::SqlSyntax),
            ("SELEC 1", ErrorCode::SqlSyntax),
            ("SELECT 'no end", ErrorCode::SqlSyntax),
            ("SELECT 1; SELECT 2; SELECT 3", ErrorCode::LimitStatements),
            ("SELECT 1 + 2 + 3 + 4", ErrorCode::SqlUnsupported),
        ] {
            let limits = Limits {
                statements_max: 2,
                sql_operators_max: 2,
                ..Limits::default()
            };
            assert_eq!(parse(sql, &limits).unwrap_err().code, code, "{sql}");
        }
    }

    #[test]
    fn a_summary_is_one_short_line() {
        let long = format!("SELECT\n  {}", vec!["column_of_some_length"; 20].join(",\n  "));
        let text = summary(&parse(&long, &Limits::default()).unwrap()[0]);
        assert!(
            text.chars().count() == 80 && text.ends_with('…') && !text.contains('\n'),
            "{text}"
        );
    }
}
