//! `$name` in a statement: the value of a parameter, put in where the statement is parsed and not yet planned. It is a value
//! there and never text, whatever is in it; and a planner wants to know the values of some places (`VALUES`, arguments of table
//! functions, `SET`) before it is told of any.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::common::ScalarValue;
use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan, visit_expressions_mut};

/// Puts `parameters` into `statement`. Those that have no value stay.
pub fn put_in(statement: &mut Statement, parameters: &HashMap<String, ScalarValue>) {
    let put = |expr: &mut Expr| {
        if let Expr::Value(ValueWithSpan { value, .. }) = expr
            && let Value::Placeholder(name) = value
            && let Some(literal) = parameters.get(name.trim_start_matches('$')).and_then(literal)
        {
            *value = literal;
        }
        ControlFlow::<()>::Continue(())
    };
    // Nothing breaks off.
    let _ = match statement {
        Statement::Statement(statement) => visit_expressions_mut(statement, put),
        Statement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => visit_expressions_mut(query, put),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        Statement::Explain(explain) => {
            put_in(&mut explain.statement, parameters);
            ControlFlow::Continue(())
        }
        Statement::CreateExternalTable(_) | Statement::Reset(_) => ControlFlow::Continue(()),
    };
}

/// The value as SQL has it, for the types that a parameter has.
fn literal(value: &ScalarValue) -> Option<Value> {
    Some(match value {
        ScalarValue::Boolean(Some(value)) => Value::Boolean(*value),
        ScalarValue::Int64(Some(value)) => Value::Number(value.to_string(), false),
        ScalarValue::Float64(Some(value)) => Value::Number(format!("{value:e}"), false),
        ScalarValue::Utf8(Some(value)) => Value::SingleQuotedString(value.clone()),
        _ => return None,
    })
}
