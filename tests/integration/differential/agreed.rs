//! The deviations that are agreed, each with its reason.

use super::compare::{Answer, same};
use super::generate::Statement;
use super::readings::READINGS;

/// A deviation that is told by what an engine says when it refuses.
struct Refusal {
    reason: &'static str,
    is_it: fn(&str, &Answer, &Answer) -> bool,
}

const REFUSALS: [Refusal; 2] = [
    Refusal {
        reason: "a decimal has up to 38 digits, and a result beyond is refused; DuckDB's products are DOUBLE then",
        is_it: |_, ours, theirs| {
            ours.says("out of range of DECIMAL(38") && matches!(theirs, Answer::Rows(_))
        },
    },
    Refusal {
        reason: "DuckDB does not widen the sum of two decimals beyond 18 digits, and refuses their products earlier",
        is_it: |sql, ours, theirs| {
            let is_decimal = sql.contains("DECIMAL") && theirs.says("DECIMAL");
            is_decimal && matches!(ours, Answer::Rows(_))
        },
    },
];

/// Why the answers, which are not the same, may differ; `None`: they may not. `run` gives our answer to another statement.
pub(super) fn agreed(
    statement: &Statement,
    ours: &Answer,
    theirs: &Answer,
    run: impl Fn(&str) -> Answer,
) -> Option<&'static str> {
    let is_theirs = |sql: &str| same(statement, &run(sql), theirs);
    let singles = READINGS.iter().map(|reading| (reading, None));
    let pairs = READINGS.iter().enumerate().flat_map(|(at, reading)| {
        let others = READINGS[at + 1..].iter();
        others.map(move |other| (reading, Some(other)))
    });
    let found = singles.chain(pairs).find(|(reading, other)| {
        let read = reading.of(&statement.ours);
        let read = match other {
            None => read,
            Some(other) => read.and_then(|read| other.of(&read)),
        };
        read.is_some_and(|read| is_theirs(&read))
    });
    if let Some((reading, _)) = found {
        return Some(reading.reason);
    }
    let refusal = REFUSALS
        .iter()
        .find(|refusal| (refusal.is_it)(&statement.ours, ours, theirs));
    refusal.map(|refusal| refusal.reason)
}

#[cfg(test)]
mod tests {
    use super::super::generate::Exactness;
    use super::super::{ours, session};
    use super::*;

    /// A part of a reason, a statement, the other engine's answer that is agreed, and one that has to be reported. If there is another
    /// statement, it is reported with either answer.
    type Case = (
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        Option<&'static str>,
    );

    const OVERFLOW: &str = r#"{"refused": "Out of Range Error: Overflow in addition of INT32"}"#;
    const CASES: [Case; 13] = [
        (
            "one operand to be NULL",
            "SELECT coalesce((nullif(CAST(1 AS INT), CAST(1 AS INT)) + (i - CAST(7 AS INT))), CAST(7 AS INT)) AS x FROM t WHERE k = 2",
            r#"[[["int", "7"]], [["int", "7"]], [["int", "7"]]]"#,
            r#"[[["int", "7"]], [["int", "7"]], [null]]"#,
            Some(
                "SELECT coalesce((nullif(CAST(1 AS INT), CAST(2 AS INT)) + (i - CAST(7 AS INT))), CAST(7 AS INT)) AS x FROM t WHERE k = 2",
            ),
        ),
        (
            "one operand to be NULL",
            "SELECT nullif(k, (CAST(NULL AS INT) + (k - i))) AS x FROM t WHERE k = 2",
            r#"[[["int", "2"]], [["int", "2"]], [["int", "2"]]]"#,
            r#"[[["int", "2"]], [["int", "2"]], [null]]"#,
            Some("SELECT nullif(k, (CAST(0 AS INT) + (k - i))) AS x FROM t WHERE k = 2"),
        ),
        (
            "one operand to be NULL",
            "SELECT (abs(nullif(k, k)) + CAST(b AS INT)) AS x FROM t WHERE k = 2",
            "[[null], [null], [null]]",
            r#"[[null], [null], [["int", "0"]]]"#,
            Some("SELECT (abs(nullif(k, i)) + CAST(b AS INT)) AS x FROM t WHERE k = 2"),
        ),
        (
            "one operand to be NULL",
            "SELECT ((CAST(2 AS INT) * CAST(NULL AS INT)) + abs(CAST(CAST(4294967296 AS BIGINT) AS INT))) AS x FROM t WHERE k = 3",
            "[[null], [null]]",
            r#"[[null], [["int", "2"]]]"#,
            Some(
                "SELECT (CAST(2 AS INT) + abs(CAST(CAST(4294967296 AS BIGINT) AS INT))) AS x FROM t WHERE k = 3",
            ),
        ),
        (
            "one operand to be NULL",
            "SELECT abs(nullif((CAST(NULL AS INT) - CAST(7 AS INT)), (i + k))) AS x FROM t WHERE k = 2",
            "[[null], [null], [null]]",
            r#"[[null], [null], [["int", "7"]]]"#,
            Some("SELECT abs(nullif(CAST(7 AS INT), (i + k))) AS x FROM t WHERE k = 2"),
        ),
        (
            "by the statistics of columns",
            "SELECT (nullif(CASE WHEN (k = CAST(5 AS INT)) THEN k ELSE CAST(0 AS INT) END, 0) + (k * i)) AS x FROM t WHERE k = 2",
            "[[null], [null], [null]]",
            r#"[[null], [null], [["int", "2"]]]"#,
            Some(
                "SELECT (nullif(CASE WHEN (k = CAST(2 AS INT)) THEN k ELSE CAST(0 AS INT) END, 0) + (k * i)) AS x FROM t WHERE k = 2",
            ),
        ),
        (
            "by the statistics of columns",
            "SELECT (nullif(k, CAST(2 AS INT)) - abs(i)) AS x FROM t WHERE k = 2",
            "[[null], [null], [null]]",
            r#"[[null], [null], [["int", "0"]]]"#,
            Some("SELECT (nullif(k, CAST(1 AS INT)) - abs(i)) AS x FROM t WHERE k = 2"),
        ),
        (
            "also in nullif(x, 0)",
            "SELECT (i / nullif(CAST(-1 AS INT), 0)) AS x FROM t WHERE k = 2",
            r#"{"refused": "Out of Range Error: Overflow in division of -2147483648 / -1"}"#,
            r#"[[["int", "-2147483647"]], [["int", "-2147483648"]], [null]]"#,
            Some("SELECT (i / nullif(CAST(-2 AS INT), 0)) AS x FROM t WHERE k = 2"),
        ),
        (
            "DuckDB's is HUGEINT",
            "SELECT sum((i + CAST(2147483647 AS INT))) AS x FROM t",
            r#"[[["int", "17179869227"]]]"#,
            r#"[[["int", "17179869228"]]]"#,
            Some("SELECT sum((i + (i + CAST(2147483647 AS INT)))) AS x FROM t"),
        ),
        (
            "DuckDB's is HUGEINT",
            "SELECT sum(b) AS x FROM t WHERE b > 0",
            r#"[[["int", "9232379236109616846"]]]"#,
            r#"[[["int", "9232379236109616845"]]]"#,
            None,
        ),
        (
            "FILTER leaves out",
            "SELECT sum((i * CAST(2 AS INT))) FILTER (WHERE (i < CAST(5 AS INT)) AND (i > CAST(-5 AS INT))) AS x FROM t",
            OVERFLOW,
            r#"[[["int", "-5"]]]"#,
            Some(
                "SELECT sum((k * CAST(2 AS INT))) FILTER (WHERE (i < CAST(5 AS INT)) AND (i > CAST(-5 AS INT))) AS x FROM t",
            ),
        ),
        (
            "arguments of coalesce",
            "SELECT coalesce(k, (i + CAST(1 AS INT))) AS x FROM t WHERE k = 2",
            OVERFLOW,
            r#"[[["int", "2"]], [["int", "2"]], [null]]"#,
            Some("SELECT coalesce(k, (i + CAST(0 AS INT))) AS x FROM t WHERE k = 2"),
        ),
        // Two readings together.
        (
            "one operand to be NULL",
            "SELECT sum(nullif(b, (CAST(NULL AS BIGINT) + (b + b)))) AS x FROM t WHERE b > 0",
            r#"[[["int", "9232379236109616846"]]]"#,
            r#"[[["int", "9232379236109616845"]]]"#,
            None,
        ),
    ];

    #[test]
    fn a_reading_agrees_to_the_answer_that_it_gives_and_to_no_other() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let session = session(&runtime);
        let run = |sql: &str| runtime.block_on(ours(&session, sql));
        let reason = |sql: &str, theirs: &str| {
            let statement = Statement {
                ours: sql.to_owned(),
                theirs: sql.to_owned(),
                exactness: Exactness::Exact,
            };
            let (ours, theirs) = (run(sql), Answer::from_json(theirs));
            assert!(!same(&statement, &ours, &theirs), "{sql}: {ours:?}");
            agreed(&statement, &ours, &theirs, run)
        };
        for (part, sql, theirs, wrong, another) in CASES {
            let found = reason(sql, theirs);
            assert!(
                found.is_some_and(|of| of.contains(part)),
                "{sql}: {found:?}"
            );
            assert_eq!(reason(sql, wrong), None, "{sql}");
            if let Some(another) = another {
                assert_eq!(reason(another, theirs), None, "{another}");
            }
        }
    }
}
