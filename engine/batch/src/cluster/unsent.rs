//! What DataFusion's wire form of plans leaves out without a word: workers would compute something else.

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::{Expr, LogicalPlan, WindowFunctionDefinition};
use trireme_spec::problem::{ErrorCode, Problem};

use crate::problems::told;

/// Refuses what workers would not hear of in the optimized `plan`, where views are a part of it.
///
/// # Errors
/// Windows with `FILTER`, and window functions with `IGNORE NULLS`.
pub fn check_sent(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(check)))?;
    Ok(())
}

fn check(expr: &Expr) -> Result<TreeNodeRecursion> {
    let Expr::WindowFunction(window) = expr else {
        return Ok(TreeNodeRecursion::Continue);
    };
    let WindowFunction { fun, params } = window.as_ref();
    let name = fun.name();
    let told_of = |clause: &str, instead: String| {
        let text = format!("workers do not know {clause} of a window function, as {name} has it");
        Err(told(Problem::new(ErrorCode::SqlUnsupported, text).remedy(instead)))
    };
    if params.filter.is_some() {
        return told_of(
            "FILTER",
            format!("write {name}(CASE WHEN condition THEN value END) OVER (...)"),
        );
    }
    let of_its_own = matches!(fun, WindowFunctionDefinition::WindowUDF(_));
    if of_its_own && params.null_treatment == Some(NullTreatment::IgnoreNulls) {
        let instead = "run the job in one process (trireme run without --workers), or leave out the NULLs before";
        return told_of("IGNORE NULLS", instead.to_owned());
    }
    Ok(TreeNodeRecursion::Continue)
}
