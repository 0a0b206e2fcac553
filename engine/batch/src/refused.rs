//! Statements that parse and are not run, told before the first one of a job is.
//!
//! DataFusion's planner would take each of them for another one: `PREPARE` for the statement that it prepares, `EXPLAIN
//! ANALYZE COPY` for a write of its own, which knows nothing of commits.

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use trireme_spec::problem::{ErrorCode, Problem};
use trireme_spec::secrets::{has_user, is_name_of_secret};

/// Refuses what is not run.
///
/// # Errors
/// Prepared statements, statements that `EXPLAIN ANALYZE` would carry out, secrets in a statement.
pub fn check(statement: &Statement) -> Result<(), Problem> {
    match statement {
        Statement::Explain(explain) => {
            if explain.options.analyze && !is_query(&explain.statement) {
                let text = "EXPLAIN ANALYZE runs its statement, and runs queries only";
                return Err(Problem::new(ErrorCode::SqlUnsupported, text)
                    .remedy("leave ANALYZE out, or analyze the query whose rows are to be written"));
            }
            check(&explain.statement)
        }
        Statement::Statement(statement) => match statement.as_ref() {
            ast::Statement::Prepare { .. } | ast::Statement::Execute { .. } | ast::Statement::Deallocate { .. } => Err(
                Problem::new(ErrorCode::SqlUnsupported, "there are no prepared statements")
                    .remedy("write the statement itself; $name in it takes its value from spec.parameters"),
            ),
            _ => Ok(()),
        },
        Statement::CopyTo(copy) => public(&[&copy.target], copy.options.iter().map(|(name, _)| name.as_str())),
        Statement::CreateExternalTable(table) => {
            let locations: Vec<_> = table.locations.iter().map(String::as_str).collect();
            public(&locations, table.options.iter().map(|(name, _)| name.as_str()))
        }
        Statement::Reset(_) => Ok(()),
    }
}

fn is_query(statement: &Statement) -> bool {
    matches!(statement, Statement::Statement(statement) if matches!(statement.as_ref(), ast::Statement::Query(_)))
}

/// Statements are in manifests, logs, statuses and journals: no secret may stand in one.
fn public<'a>(locations: &[&str], mut options: impl Iterator<Item = &'a str>) -> Result<(), Problem> {
    const WHERE_FROM: &str = "credentials come from mounted files or the identity of the machine";
    if locations.iter().any(|location| has_user(location)) {
        let text = "a URL in a statement must not hold a user or a secret";
        return Err(Problem::new(ErrorCode::ManifestCredential, text)
            .remedy(format!("remove the part before the @; {WHERE_FROM}")));
    }
    match options.find(|option| is_name_of_secret(option)) {
        Some(option) => Err(Problem::new(
            ErrorCode::ManifestCredential,
            format!("a statement must not hold secrets, as the option {option:?} does"),
        )
        .remedy(format!("remove it; {WHERE_FROM}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use trireme_spec::limits::Limits;

    use crate::statements::parse;

    use super::*;

    #[test]
    fn what_would_do_something_else_is_refused() {
        let copy = "COPY (SELECT 1 AS a) TO 'x.csv'";
        for sql in [
            "PREPARE p AS INSERT INTO t VALUES (1)",
            "EXECUTE p",
            "DEALLOCATE p",
            &format!("EXPLAIN ANALYZE {copy}"),
            &format!("EXPLAIN (ANALYZE) {copy}"),
            "EXPLAIN ANALYZE INSERT INTO t VALUES (1)",
            "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1 AS a",
            "EXPLAIN PREPARE p AS SELECT 1",
        ] {
            let problem = parse(sql, &Limits::default()).unwrap_err();
            assert_eq!(problem.code, ErrorCode::SqlUnsupported, "{sql}: {problem}");
        }
        for sql in [copy, &format!("EXPLAIN {copy}"), "EXPLAIN ANALYZE SELECT 1"] {
            assert!(parse(sql, &Limits::default()).is_ok(), "{sql}");
        }
    }

    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for sql in [
            "COPY (SELECT 1) TO 's3://key:hunter2@bucket/x'",
            "EXPLAIN COPY (SELECT 1) TO 's3://key:hunter2@bucket/x'",
            "COPY (SELECT 1) TO 's3://bucket/x' OPTIONS ('aws.secret_access_key' 'hunter2')",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://hunter2@bucket/x'",
            "SELECT 1; CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x' OPTIONS ('session-token' 'hunter2')",
        ] {
            let problem = parse(sql, &Limits::default()).unwrap_err();
            assert_eq!(problem.code, ErrorCode::ManifestCredential, "{sql}: {problem}");
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}
