//! Definitions in force: folds the catalog's log of created, replaced and dropped objects into the definitions that
//! hold.

use crate::error::Result;
use crate::planner::{Effect, ObjectKind, Parameters, ParsedStatement, Writes};
use crate::server::parse::parse;
use crate::store::CatalogEntry;

/// A definition that holds.
#[derive(Debug)]
pub(crate) struct Definition {
    /// As it is kept.
    pub(crate) entry: CatalogEntry,
    /// The table or view; none for a job.
    pub(crate) name: Option<String>,
    /// The statement, or why this program cannot read it.
    pub(crate) parsed: Result<ParsedStatement>,
}

/// The definitions that hold after these statements, in the order in which their names were first taken. So the tables
/// that a view names come before the view.
pub(crate) fn in_force(entries: Vec<CatalogEntry>) -> Vec<Definition> {
    let mut definitions: Vec<(bool, Definition)> = Vec::new();
    for entry in entries {
        let parsed = read(&entry);
        let writes = match &parsed {
            Ok(parsed) => parsed.effect.writes.clone(),
            // This program cannot parse the statement. Its name stays taken until a program can read it again.
            Err(_) => guessed_writes(&entry.statement),
        };
        match writes {
            Writes::Drops { names, are_views } => definitions.retain(|(is_view, known)| {
                let is_named = known.name.as_ref().is_some_and(|name| names.contains(name));
                !(is_named && *is_view == are_views)
            }),
            Writes::Creates {
                name: Some(name),
                object,
                only_if_new,
            } => {
                let is_view = object == ObjectKind::View;
                let known = definitions
                    .iter_mut()
                    .find(|(_, known)| known.name.as_ref() == Some(&name));
                let new = Definition {
                    entry,
                    name: Some(name),
                    parsed,
                };
                match known {
                    Some(_) if only_if_new => {}
                    Some(known) => *known = (is_view, new),
                    None => definitions.push((is_view, new)),
                }
            }
            Writes::Creates { name: None, .. }
            | Writes::Nothing
            | Writes::Rows { .. }
            | Writes::Layout { .. }
            | Writes::Files
            | Writes::Run => {
                let name = None;
                let other = Definition {
                    entry,
                    name,
                    parsed,
                };
                definitions.push((false, other));
            }
        }
    }
    let definitions = definitions.into_iter();
    definitions.map(|(_, definition)| definition).collect()
}

/// The table or view that a statement creates or replaces; `is_there` tells which ones exist.
pub(crate) fn defined_name(effect: &Effect, is_there: impl Fn(&str) -> bool) -> Option<String> {
    match &effect.writes {
        Writes::Creates {
            name: Some(name),
            only_if_new,
            ..
        } => (!only_if_new || !is_there(name)).then(|| name.clone()),
        _ => None,
    }
}

fn read(entry: &CatalogEntry) -> Result<ParsedStatement> {
    let mut parameters = Parameters::default();
    for (name, value) in &entry.parameters {
        parameters.set(name, value);
    }
    parse(&entry.statement, &mut parameters)
}

/// The effect of a statement that cannot be parsed, guessed from its first words.
fn guessed_writes(text: &str) -> Writes {
    let upper = |word: &str| word.to_ascii_uppercase();
    let mut words = text.split_whitespace().peekable();
    if words.next().map(upper).as_deref() != Some("CREATE") {
        return Writes::Nothing;
    }
    let mut is_view = false;
    let mut only_if_new = false;
    while let Some(word) = words.peek() {
        match upper(word).as_str() {
            "OR" | "REPLACE" | "EXTERNAL" | "TEMPORARY" | "MATERIALIZED" | "TABLE" => {}
            "VIEW" => is_view = true,
            "IF" | "NOT" | "EXISTS" => only_if_new = true,
            _ => break,
        }
        words.next();
    }
    let name = words.next().unwrap_or_default();
    let name = name.split(['(', ';']).next().unwrap_or_default();
    let last = name.rsplit('.').next().unwrap_or_default();
    let name = match last.strip_prefix('"') {
        Some(quoted) => quoted.trim_end_matches('"').to_owned(),
        None => last.to_lowercase(),
    };
    match name.is_empty() {
        true => Writes::Nothing,
        false => Writes::Creates {
            name: Some(name),
            object: match is_view {
                true => ObjectKind::View,
                false => ObjectKind::Table,
            },
            only_if_new,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn entries(statements: &[&str]) -> Vec<CatalogEntry> {
        let entry = |text: &&str| CatalogEntry::new((*text).to_owned(), BTreeMap::new(), 0);
        statements.iter().map(entry).collect()
    }

    /// The texts that hold.
    fn held(statements: &[&str]) -> Vec<String> {
        let definitions = in_force(entries(statements)).into_iter();
        definitions.map(|one| one.entry.statement).collect()
    }

    #[test]
    fn replaced_or_dropped_definitions_are_not_run_again() {
        let mut statements = Vec::new();
        for _ in 0..200 {
            statements.push("CREATE OR REPLACE VIEW v AS SELECT 1 AS n");
            statements.push("CREATE VIEW w AS SELECT 1 AS n");
            statements.push("DROP VIEW w");
        }
        statements.push("CREATE OR REPLACE VIEW v AS SELECT 2 AS n");
        assert_eq!(held(&statements), [statements[600]]);
    }

    #[test]
    fn statements_without_effect_change_no_definitions() {
        let first = "CREATE TABLE t AS SELECT 1 AS n";
        let statements = [
            first,
            "CREATE TABLE IF NOT EXISTS t AS SELECT 2 AS n",
            "DROP VIEW IF EXISTS t",
            "DROP TABLE IF EXISTS other",
        ];
        assert_eq!(held(&statements), [first]);
        assert_eq!(held(&[first, "DROP TABLE t"]), [] as [&str; 0]);
    }

    #[test]
    fn a_view_comes_after_the_tables_it_was_made_over() {
        let table = "CREATE EXTERNAL TABLE t (id BIGINT) STORED AS DELTA LOCATION 't'";
        let again = "CREATE OR REPLACE EXTERNAL TABLE t (id INT) STORED AS DELTA LOCATION 'u'";
        let view = "CREATE VIEW v AS SELECT * FROM t";
        assert_eq!(held(&[table, view, again]), [again, view]);
    }

    #[test]
    fn definitions_of_newer_programs_keep_their_names() {
        for (text, name) in [
            (
                "CREATE EXTERNAL TABLE new (id FUTURE<1>) STORED AS DELTA LOCATION 'x'",
                "new",
            ),
            (
                "CREATE OR REPLACE EXTERNAL TABLE New(id BIGINT) STORED AS COMET LOCATION 'x'",
                "new",
            ),
            (
                "create external table if not exists public.\"new\" (",
                "new",
            ),
            ("CREATE VIEW \"New\" AS SELEKT", "New"),
        ] {
            let definitions = in_force(entries(&[text]));
            assert_eq!(definitions.len(), 1, "{text}");
            assert!(definitions[0].parsed.is_err(), "{text}");
            assert_eq!(definitions[0].name.as_deref(), Some(name), "{text}");
        }
        let replaced = "CREATE OR REPLACE VIEW v AS SELECT 1 AS n";
        assert_eq!(held(&["CREATE VIEW v AS SELEKT", replaced]), [replaced]);
    }
}
