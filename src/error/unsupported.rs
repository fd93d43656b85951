//! What the engine cannot run, by the name it has in SQL. The engine prints the inside of its plan.

use super::Error;

/// How the engine begins.
const NO_EXPRESSION: &str = "Physical plan does not support logical expression ";
/// How it says that a subquery stands where it takes none.
const NO_PLACE: &str = "subquery can only be used in";

/// The error for what the engine says it cannot do.
pub(super) fn unsupported(message: String) -> Error {
    let expression = message.strip_prefix(NO_EXPRESSION).unwrap_or_default();
    let (what, help) = if expression.starts_with("InSubquery") {
        (
            "IN (SELECT …) stands in a select list, WHERE and HAVING, and not inside an aggregate or a window function",
            "join: LEFT JOIN (SELECT DISTINCT x FROM …) AS s ON s.x = t.a, and ask s.x IS NOT NULL",
        )
    } else if expression.starts_with("Exists") {
        (
            "EXISTS (SELECT …) stands in WHERE and HAVING, and not in a select list or inside another expression there",
            "count instead: (SELECT count(*) FROM … WHERE …) > 0",
        )
    } else if expression.starts_with("SetComparison") {
        (
            "ANY and ALL of a subquery stand in WHERE and HAVING only",
            "compare with (SELECT min(x) …) or (SELECT max(x) …)",
        )
    } else if expression.starts_with("ScalarSubquery") {
        (
            "a subquery that depends on the row around it may compare with that row by = only",
            "join the two tables by the comparison, and GROUP BY the row's columns",
        )
    } else if expression.starts_with("OuterReferenceColumn") {
        (
            "LATERAL with an outer join or an aggregate, and UNNEST of a column of another table in FROM, are not supported",
            "say unnest(t.list) in the select list, or join with the table and aggregate around it",
        )
    } else if message.contains(NO_PLACE) {
        (
            "IN and EXISTS with a subquery stand in WHERE and HAVING only",
            "join with the subquery, and use its columns",
        )
    } else {
        return Error::unsupported(message);
    };
    Error::unsupported(what).with_help(help)
}

/// Whether the engine says that a subquery stands where it takes none.
pub(super) fn is_misplaced_subquery(message: &str) -> bool {
    message.contains(NO_PLACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_of_a_plan_is_not_told() {
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
}
