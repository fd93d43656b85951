//! Calls in FROM that no engine knows: a hidden name takes the place of each.
//!
//! `job_state('job' [, batch])` becomes a table of the schema `system`, and `archive_coverage('t')` a name that the catalog resolves.

use std::ops::ControlFlow;

use anabranch_udfs::WalkMut;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor,
    Value, VisitorMut,
};

use crate::error::{Error, Result};
use crate::planner::normalize;
use crate::session::catalog::{Catalog, coverage_name};
use crate::session::system::{SYSTEM, state_table};

const ARCHIVE_COVERAGE: &str = "archive_coverage";
const JOB_STATE: &str = "job_state";

/// The names of the functions.
pub(crate) const TABLE_FUNCTIONS: [&str; 2] = [ARCHIVE_COVERAGE, JOB_STATE];

/// Replaces the calls, and checks that each of `archive_coverage` is about a table with an archive.
///
/// # Errors
///
/// Other arguments than those that the functions take, and the errors of [`Catalog::archived`], with the place of the call.
pub(super) async fn table_calls(catalog: &Catalog, node: &mut impl WalkMut) -> Result<()> {
    let mut calls = TableCalls::default();
    if let ControlFlow::Break(error) = node.walk_mut(&mut calls) {
        return Err(error);
    }
    for (table, call) in calls.coverages {
        let check = async {
            let entry = catalog.open(&table).await?;
            catalog.archived(&table, entry).await
        };
        check.await.map_err(|error| error.at(call.span))?;
    }
    Ok(())
}

#[derive(Default)]
struct TableCalls {
    /// The tables of the calls of `archive_coverage` that were replaced, with their places.
    coverages: Vec<(String, Ident)>,
}

impl VisitorMut for TableCalls {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table {
            name, args, alias, ..
        } = factor
        else {
            return ControlFlow::Continue(());
        };
        let (Some(given), [ObjectNamePart::Identifier(ident)]) = (args.as_ref(), name.0.as_slice())
        else {
            return ControlFlow::Continue(());
        };
        let function = normalize(ident);
        if !TABLE_FUNCTIONS.contains(&function.as_str()) {
            return ControlFlow::Continue(());
        }
        let ident = ident.clone();
        let values: Vec<Option<String>> = given.args.iter().map(literal_text).collect();
        let hidden = match (function.as_str(), values.as_slice()) {
            (ARCHIVE_COVERAGE, [Some(table)]) => {
                alias.get_or_insert_with(|| TableAlias {
                    explicit: true,
                    name: ident.clone(),
                    columns: Vec::new(),
                    at: None,
                });
                self.coverages.push((table.clone(), ident.clone()));
                Ok((None, coverage_name(table)))
            }
            (ARCHIVE_COVERAGE, _) => Err(Error::invalid(
                "archive_coverage takes the name of a Kafka table",
            )
            .with_help("SELECT * FROM archive_coverage('visits')")),
            (_, values) => state(values).map(|table| (Some(SYSTEM), table)),
        };
        let (schema, table) = match hidden {
            Ok(hidden) => hidden,
            Err(error) => return ControlFlow::Break(error.at(ident.span)),
        };
        let mut table = Ident::with_quote('"', table);
        table.span = ident.span;
        let schema = schema.map(Ident::new);
        *args = None;
        *name = ObjectName::from(schema.into_iter().chain([table]).collect::<Vec<_>>());
        ControlFlow::Continue(())
    }
}

/// The table of the state that `job_state` gives.
fn state(values: &[Option<String>]) -> Result<String> {
    let table = match values {
        [Some(job)] => Some(state_table(job, None)),
        [Some(job), Some(batch)] => {
            let batch = batch.parse().ok();
            batch.map(|batch| state_table(job, Some(batch)))
        }
        _ => None,
    };
    table.ok_or_else(|| {
        Error::invalid("job_state takes the name of a job and perhaps a batch")
            .with_help("SELECT * FROM job_state('visits_counter', 4)")
    })
}

/// The text of a literal argument.
fn literal_text(argument: &FunctionArg) -> Option<String> {
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) = argument else {
        return None;
    };
    match &value.value {
        Value::Number(number, _) => Some(number.clone()),
        other => other.clone().into_string(),
    }
}
