//! How deep the syntax tree of a statement may get, read from its tokens before anything recursive sees it.
//!
//! A parser makes of `a + b + c` a tree that leans to the left, one level for each operator; whoever walks it, or drops it,
//! takes stack for each level. So the operators that stand in one another's way are counted. Depth by parentheses is
//! bounded by the parser itself.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use trireme_spec::problem::{ErrorCode, Location, Problem};

use crate::statements::SOURCE;

/// Refuses a text in which more than `operators_max` operators could make one deep tree.
///
/// # Errors
/// The place of the first operator that is too many.
pub fn check(tokens: &[TokenWithSpan], operators_max: usize) -> Result<(), Problem> {
    let mut levels = vec![Level::default()];
    // Over all levels that are open: what is inside parentheses hangs below what stands before them.
    let mut operators = 0;
    for TokenWithSpan { token, span } in tokens {
        let innermost = levels.len() - 1;
        let level = &mut levels[innermost];
        match part(token, level.kind) {
            Part::Operand => {}
            Part::Operator => (level.of_values, operators) = (level.of_values + 1, operators + 1),
            Part::Relation => (level.of_relations, operators) = (level.of_relations + 1, operators + 1),
            Part::Comma => operators -= std::mem::take(&mut level.of_values),
            Part::Statement => {
                levels.clear();
                levels.push(Level::default());
                operators = 0;
            }
            Part::Opens(kind) => levels.push(Level {
                kind,
                ..Level::default()
            }),
            Part::Closes => {
                operators -= level.of_values + level.of_relations;
                *level = Level::default();
                if innermost > 0 {
                    levels.pop();
                }
            }
        }
        if operators > operators_max {
            let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
            let text = format!("an expression has more than {operators_max} operators in a row");
            return Err(Problem::new(ErrorCode::SqlUnsupported, text)
                .at(Location {
                    source: SOURCE.to_owned(),
                    line: number(span.start.line),
                    column: number(span.start.column),
                    field: String::new(),
                })
                .remedy(
                    "say a long OR with IN (...), and put parts of a long UNION or sum into a table of their own",
                ));
        }
    }
    Ok(())
}

/// What stands between a parenthesis and its end.
#[derive(Debug, Default)]
struct Level {
    kind: Kind,
    /// Operators since the last comma: what a comma separates does not hang together.
    of_values: usize,
    /// Joins and set operations, whatever commas stand between them.
    of_relations: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Parenthesis,
    /// From CASE to END: its branches lie beside one another.
    Case,
}

enum Part {
    Operand,
    Operator,
    Relation,
    Comma,
    Statement,
    Opens(Kind),
    Closes,
}

/// What a token does to the depth. One that is not known to be harmless is taken for an operator.
fn part(token: &Token, within: Kind) -> Part {
    match token {
        Token::Word(Word {
            keyword,
            quote_style: None,
            ..
        }) => keyword_part(*keyword, within),
        Token::SemiColon => Part::Statement,
        Token::Comma => Part::Comma,
        Token::LParen | Token::LBrace => Part::Opens(Kind::Parenthesis),
        Token::RParen | Token::RBrace => Part::Closes,
        Token::EOF
        | Token::Word(_)
        | Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::Placeholder(_)
        | Token::Whitespace(_)
        | Token::Colon
        | Token::RBracket => Part::Operand,
        // Also a period: a path into nested values has one level for each.
        _ => Part::Operator,
    }
}

fn keyword_part(keyword: Keyword, within: Kind) -> Part {
    match (keyword, within) {
        (Keyword::CASE, _) => Part::Opens(Kind::Case),
        (Keyword::END, Kind::Case) => Part::Closes,
        (Keyword::WHEN | Keyword::THEN | Keyword::ELSE, Kind::Case) => Part::Comma,
        (Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS | Keyword::JOIN, _) => Part::Relation,
        (
            Keyword::AND
            | Keyword::OR
            | Keyword::XOR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::SIMILAR
            | Keyword::BETWEEN
            | Keyword::OVERLAPS
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::DIV,
            _,
        ) => Part::Operator,
        _ => Part::Operand,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    fn fits(sql: &str, operators_max: usize) -> bool {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
        check(&tokens.unwrap(), operators_max).is_ok()
    }

    #[test]
    fn operators_that_hang_together_are_counted() {
        for (sql, operators) in [
            ("SELECT 1", 0),
            ("SELECT 1 + 2 + 3", 2),
            ("SELECT 1 + 2, 3 + 4, 5 + 6", 1),
            ("SELECT 1 + (2 + (3 + 4)) + 5", 3),
            ("SELECT 1 + 2; SELECT 3 + 4", 1),
            ("SELECT a = 1 OR b IS NULL OR NOT c", 5),
            ("SELECT '1 + 2', \"OR\" -- 3 + 4", 0),
            ("SELECT CASE WHEN 1 < 2 THEN 3 WHEN 4 < 5 THEN 6 ELSE 7 + 8 END + 9", 1),
            ("SELECT 1, 2 UNION ALL SELECT 3, 4 UNION ALL SELECT 5, 6", 2),
            ("SELECT x FROM a JOIN b USING (x, y) JOIN c USING (x, y)", 2),
            ("SELECT a[1][2]", 2),
            // Not ours to complain about, and nothing to fall over.
            (") END ) 1 + 2", 1),
        ] {
            assert!(fits(sql, operators), "{sql} has more than {operators}");
            assert!(
                operators == 0 || !fits(sql, operators - 1),
                "{sql} has fewer than {operators}"
            );
        }
    }

    #[test]
    fn the_place_is_told() {
        let tokens = Tokenizer::new(&GenericDialect {}, "SELECT 1 +\n  2 + 3").tokenize_with_location();
        let problem = check(&tokens.unwrap(), 1).unwrap_err();
        let place = problem.location.unwrap();
        assert_eq!((place.line, place.column), (2, 5));
    }
}
