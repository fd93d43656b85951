//! Errors for statements that the engine cannot run, in terms of SQL. The engine's own message prints the inside of its plan.

use super::subjects::of_text;
use crate::error::base::Error;
use crate::error::kind::ErrorKind;
use crate::error::subject::Subject;

/// Start of the engine's message.
const NO_EXPRESSION: &str = "Physical plan does not support logical expression ";
/// The engine's message for an aggregate that cannot retract a row which left a window frame.
const NO_RETRACTION: &str = "because `retract_batch` is not implemented: ";
/// The engine's messages about subqueries of a wrong form or in a wrong place; for each the rule that was broken, and what to
/// write instead.
const REFUSED: [(&str, &str, &str); 5] = [
    (
        "Correlated scalar subquery must be aggregated",
        "a correlated (SELECT …) must return one value, by an aggregate without GROUP BY",
        "write (SELECT max(x) FROM … WHERE …), or join with the table",
    ),
    (
        "A GROUP BY clause in a scalar correlated subquery",
        "a correlated (SELECT …) may group only by what it compares with the outer row",
        "leave GROUP BY out, or join with the query",
    ),
    (
        "Correlated scalar subquery can only be used in",
        "a correlated (SELECT …) is allowed in a select list, WHERE and HAVING",
        "compute it as a column of a query in FROM, and name that column",
    ),
    (
        "Accessing outer reference columns is not allowed",
        "conditions on the outer row of a subquery are allowed in WHERE, and not below an outer join, INTERSECT or EXCEPT",
        "compare in WHERE of the subquery itself, or join with the query",
    ),
    (
        "subquery can only be used in",
        "IN (SELECT …) is allowed in a select list, WHERE, HAVING, GROUP BY and ORDER BY, and EXISTS (SELECT …) in WHERE and HAVING",
        "join with the subquery, and use its columns",
    ),
];

/// The error for an operation that the engine reports as unsupported.
pub(super) fn unsupported(message: String) -> Error {
    let expression = message.strip_prefix(NO_EXPRESSION).unwrap_or_default();
    let (what, help) = if expression.starts_with("InSubquery") {
        (
            "IN (SELECT …) is allowed in a select list, WHERE, HAVING, GROUP BY and ORDER BY, and within aggregates",
            "join: LEFT JOIN (SELECT DISTINCT x FROM …) AS s ON s.x = t.a, and ask s.x IS NOT NULL",
        )
    } else if expression.starts_with("Exists") {
        (
            "EXISTS (SELECT …) is allowed in WHERE and HAVING, and not in a select list or inside another expression there",
            "count instead: (SELECT count(*) FROM … WHERE …) > 0",
        )
    } else if expression.starts_with("SetComparison") {
        (
            "ANY and ALL of a subquery are allowed in WHERE and HAVING only",
            "compare with (SELECT min(x) …) or (SELECT max(x) …)",
        )
    } else if expression.starts_with("ScalarSubquery") {
        (
            "a correlated (SELECT …) may compare with the outer row by = only",
            "join the two tables by the comparison, and GROUP BY the row's columns",
        )
    } else if expression.starts_with("OuterReferenceColumn") {
        (
            "LATERAL with an outer join or an aggregate, and UNNEST of a column of another table in FROM, are not supported",
            "write unnest(t.list) in the select list, or join with the table and aggregate around it",
        )
    } else if let Some(error) = refused_subquery(&message) {
        return error;
    } else if let Some((_, call)) = message.split_once(NO_RETRACTION) {
        let function = call.split('(').next().unwrap_or_default();
        return Error::unsupported(format!(
            "{function} over a window frame that leaves rows behind is not supported"
        ))
        .about(Subject::function(function))
        .with_help("begin the frame with UNBOUNDED PRECEDING, or aggregate in a query that joins each row with those of its frame");
    } else {
        return of_text(ErrorKind::Unsupported, message);
    };
    Error::unsupported(what).with_help(help)
}

/// The error for a subquery that the engine refuses; `None` for any other message.
pub(super) fn refused_subquery(message: &str) -> Option<Error> {
    let mut all = REFUSED.iter();
    let (_, what, help) = all.find(|(said, ..)| message.contains(said))?;
    Some(Error::unsupported(*what).with_help(*help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::engine::real_errors::real;

    #[tokio::test]
    async fn unsupported_expressions_of_the_engine_are_named() {
        for (sql, what) in [
            (
                "SELECT a IN (SELECT a FROM u) FROM t",
                "IN (SELECT …) is allowed in",
            ),
            (
                "SELECT EXISTS (SELECT 1 FROM u WHERE u.a = t.a) FROM t",
                "EXISTS (SELECT …) is allowed in",
            ),
            (
                "SELECT (SELECT max(u.b) FROM u WHERE u.a < t.a) FROM t",
                "a correlated (SELECT …) may compare",
            ),
            (
                "SELECT bit_or(a) OVER (ORDER BY a ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
                "bit_or over a window frame",
            ),
        ] {
            let error = real(sql).await;
            assert!(error.message().starts_with(what), "{sql}: {error}");
        }
    }

    #[tokio::test]
    async fn misplaced_subquery_errors_of_the_engine_are_recognized() {
        for (sql, place) in [
            ("SELECT (SELECT u.b FROM u WHERE u.a = t.a) FROM t", 0),
            (
                "SELECT (SELECT max(u.b) FROM u WHERE u.a = t.a GROUP BY u.s) FROM t",
                1,
            ),
            (
                "SELECT a, b FROM t ORDER BY (SELECT max(u.b) FROM u WHERE u.a = t.a)",
                2,
            ),
            (
                "SELECT a FROM t WHERE a IN (SELECT u.a FROM u LEFT JOIN (SELECT t.b AS x) ON u.b = x)",
                3,
            ),
            ("SELECT a FROM t ORDER BY a IN (SELECT a FROM u)", 4),
        ] {
            let error = real(sql).await;
            assert_eq!(error.message(), REFUSED[place].1, "{sql}");
        }
    }

    #[test]
    fn plan_internals_are_not_shown() {
        for inside in [
            "InSubquery(InSubquery { expr: Column(Column { relation: None }) })",
            "Exists(Exists { subquery: <subquery>, negated: false })",
            "ScalarSubquery(<subquery>)",
            "OuterReferenceColumn(Field { name: \"a\" })",
        ] {
            let error = unsupported(format!("{NO_EXPRESSION}{inside}"));
            assert!(!error.message().contains('{') && error.help().is_some());
        }
        assert_eq!(unsupported("TOP".to_owned()).message(), "TOP");
    }

    #[test]
    fn unsupported_aggregates_and_subqueries_are_named() {
        let frame = format!(
            "Aggregate can not be used as a sliding accumulator {NO_RETRACTION}bit_or(t.a) ORDER BY [t.b ASC]"
        );
        let error = unsupported(frame);
        assert!(error.message().starts_with("bit_or over a window frame"));
        for (said, what, _) in REFUSED {
            let error = refused_subquery(&format!("{said} …")).unwrap();
            assert_eq!((error.message(), error.help().is_some()), (what, true));
        }
        assert!(refused_subquery("Table 't' doesn't exist").is_none());
    }
}
