//! `archive_coverage('t')` in FROM: replaced by a hidden name that the catalog resolves.

use std::ops::ControlFlow;

use anabranch_udfs::WalkMut;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, TableAlias, TableFactor, VisitorMut};

use crate::error::{Error, Result};
use crate::planner::normalize;
use crate::session::catalog::{Catalog, coverage_name};
use crate::session::syntax::literal_text;

const NAME: &str = "archive_coverage";

/// Replaces the calls, and checks that each is about a table with an archive.
///
/// # Errors
///
/// Other arguments than the name of a table, and those of [`Catalog::archived`], with the place of the call.
pub(super) async fn coverages(catalog: &Catalog, node: &mut impl WalkMut) -> Result<()> {
    let mut calls = CoverageCalls::default();
    if let ControlFlow::Break(error) = node.walk_mut(&mut calls) {
        return Err(error);
    }
    for (table, call) in calls.0 {
        let check = async {
            let entry = catalog.open(&table).await?;
            catalog.archived(&table, entry).await
        };
        check.await.map_err(|error| error.at(call.span))?;
    }
    Ok(())
}

/// The tables of the calls that were replaced, with their places.
#[derive(Default)]
struct CoverageCalls(Vec<(String, Ident)>);

impl VisitorMut for CoverageCalls {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table {
            name, args, alias, ..
        } = factor
        else {
            return ControlFlow::Continue(());
        };
        let ident = match name.0.as_slice() {
            [part] => part.as_ident().cloned(),
            _ => None,
        };
        let Some(ident) = ident.filter(|ident| normalize(ident) == NAME) else {
            return ControlFlow::Continue(());
        };
        let Some(given) = args.take() else {
            return ControlFlow::Continue(());
        };
        let values: Vec<Option<String>> = given.args.iter().map(literal_text).collect();
        let [Some(table)] = values.as_slice() else {
            return ControlFlow::Break(
                Error::invalid("archive_coverage takes the name of a Kafka table")
                    .with_help("SELECT * FROM archive_coverage('visits')")
                    .at(ident.span),
            );
        };
        alias.get_or_insert_with(|| TableAlias {
            explicit: true,
            name: ident.clone(),
            columns: Vec::new(),
            at: None,
        });
        let mut hidden = Ident::with_quote('"', coverage_name(table));
        hidden.span = ident.span;
        *name = ObjectName::from(vec![hidden]);
        self.0.push((table.clone(), ident));
        ControlFlow::Continue(())
    }
}
