//! Classification of the engine's planning errors about names: equal, missing or ambiguous ones.

use datafusion::error::DataFusionError;

/// The engine's messages for two columns of the same name: in a select list, and in a join or a subquery.
const EQUAL: [&str; 2] = ["unique expression names", "would be ambiguous"];
/// The messages of the engine and of the functions in FROM for a missing column.
const MISSING: [&str; 2] = ["No field named", "no column"];
/// The engine's messages for a name that may refer to several columns, or is taken.
const UNCLEAR: [&str; 2] = ["mbiguous", "duplicate"];

/// The problems with names for which the engine cannot plan a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameProblems {
    /// Two columns have one name.
    pub(crate) equal: bool,
    /// A column does not exist.
    pub(crate) missing: bool,
    /// A name may refer to several columns.
    pub(crate) unclear: bool,
}

impl NameProblems {
    /// Classifies an error of the engine by its message.
    pub(crate) fn of(error: &DataFusionError) -> Self {
        let text = error.to_string();
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        Self {
            equal: says(&EQUAL),
            missing: says(&MISSING),
            unclear: says(&UNCLEAR),
        }
    }
}

/// The table that a message reports as missing, by its name without a schema.
pub(super) fn unknown_table(text: &str) -> Option<&str> {
    let name = text.strip_prefix("table '")?.strip_suffix("' not found")?;
    name.rsplit('.').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::engine::real_errors::raw;
    use crate::error::{Error, Subject};

    #[tokio::test]
    async fn duplicate_missing_and_ambiguous_names_are_distinguished() {
        let equal = raw("SELECT a, a FROM t").await;
        assert!(NameProblems::of(&equal).equal, "{equal}");
        let equal = raw("SELECT * FROM (SELECT 1 AS a, 2 AS a) AS q").await;
        assert!(NameProblems::of(&equal).equal, "{equal}");
        let equal = raw("SELECT t.a, 3 AS a FROM t").await;
        assert!(NameProblems::of(&equal).equal, "{equal}");
        let missing = raw("SELECT x FROM t").await;
        assert!(NameProblems::of(&missing).missing, "{missing}");
        let unclear = raw("SELECT a FROM t, u").await;
        assert!(NameProblems::of(&unclear).unclear, "{unclear}");
        let other = raw("SELECT nothing(a) FROM t").await;
        let problems = NameProblems::of(&other);
        assert!(!problems.equal && !problems.missing, "{other}");
    }

    #[tokio::test]
    async fn missing_table_errors_of_the_engine_name_the_table() {
        for (sql, table) in [
            ("SELECT * FROM nothing", "nothing"),
            ("SELECT * FROM public.nothing", "nothing"),
            ("INSERT INTO gone SELECT 1", "gone"),
        ] {
            let error = Error::from(raw(sql).await);
            let unknown = Subject::UnknownTable(table.to_owned());
            assert!(error.subjects().contains(&unknown), "{error}");
        }
    }
}
