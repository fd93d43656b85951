//! Several stars in one select list: `SELECT t.*, t.*` may give columns of equal names, which the engine refuses. This module
//! replaces the stars by their columns, which can get unique names.
//!
//! It takes the columns of a star from the plan of `SELECT t.* FROM …`, if that can be planned by itself.

use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SetExpr, Statement as AnsiStatement, VisitorMut, With,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use crate::session::names::labels::stands_for_many;
use crate::session::names::unique::{DistinctColumns, rename_items_apart};
use crate::session::syntax::visit;

/// The most stars of a statement that are examined.
const MOST: usize = 32;
/// The depth of nested queries in FROM up to which stars are examined.
const DEPTH: usize = 4;

/// Replaces the stars of queries that have several by their columns; returns whether there were any.
pub(crate) async fn expand_stars(state: &SessionState, statement: &mut SqlStatement) -> bool {
    let mut any = false;
    for _ in 0..DEPTH {
        let mut found = StarColumns::default();
        let _ = visit(statement, &mut found);
        let mut selects = Vec::with_capacity(found.selects.len());
        for probes in found.selects {
            let mut stars = Vec::with_capacity(probes.len());
            for probe in probes {
                stars.push(columns_of(state, probe).await);
            }
            // All stars, or none: otherwise some columns of equal names would be renamed and others not.
            selects.push(stars.into_iter().collect::<Option<Vec<_>>>());
        }
        let mut expand = StarExpansion {
            selects: selects.into_iter(),
            any: false,
        };
        let _ = visit(statement, &mut expand);
        if !expand.any {
            break;
        }
        any = true;
    }
    any
}

/// Whether there are several stars, each of which can be replaced by columns.
fn has_stars(select: &Select) -> bool {
    let stars = select.projection.iter().filter(|item| is_star(item));
    let all = select.projection.iter();
    let all = all.filter(|item| stands_for_many(item));
    let count = stars.count();
    count > 1 && count == all.count()
}

fn is_star(item: &SelectItem) -> bool {
    match item {
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
            options.opt_replace.is_none()
        }
        _ => false,
    }
}

/// For each query with several stars, the queries whose plans give the columns of the stars.
#[derive(Default)]
struct StarColumns {
    /// The WITH clauses of the enclosing queries, innermost last.
    around: Vec<Option<With>>,
    selects: Vec<Vec<Query>>,
    stars: usize,
}

impl VisitorMut for StarColumns {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.around.push(query.with.clone());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.around.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if !has_stars(select) {
            return ControlFlow::Continue(());
        }
        let stars = select.projection.iter().filter(|item| is_star(item));
        let probes: Option<Vec<Query>> = stars.map(|star| self.probe(select, star)).collect();
        self.stars += probes.as_ref().map_or(0, Vec::len);
        let probes = probes.filter(|_| self.stars <= MOST);
        self.selects.push(probes.unwrap_or_default());
        ControlFlow::Continue(())
    }
}

impl StarColumns {
    /// `WITH … SELECT star FROM …`
    fn probe(&self, select: &Select, star: &SelectItem) -> Option<Query> {
        let parsed = Parser::new(&GenericDialect {}).try_with_sql("SELECT 1");
        let mut probe = parsed.and_then(|mut parser| parser.parse_query()).ok()?;
        let SetExpr::Select(of_star) = probe.body.as_mut() else {
            return None;
        };
        of_star.projection = vec![star.clone()];
        of_star.from = select.from.clone();
        let mut withs = self.around.iter().flatten();
        let mut with = withs.next().cloned();
        if let Some(with) = &mut with {
            for inner in withs {
                with.recursive |= inner.recursive;
                with.cte_tables.extend(inner.cte_tables.iter().cloned());
            }
        }
        probe.with = with;
        Some(*probe)
    }
}

/// The columns of a query; `None` if it cannot be planned by itself.
async fn columns_of(state: &SessionState, mut probe: Query) -> Option<Vec<SelectItem>> {
    loop {
        let query = Box::new(AnsiStatement::Query(Box::new(probe.clone())));
        let planned = Box::pin(state.statement_to_plan(SqlStatement::Statement(query))).await;
        if let Ok(plan) = planned {
            let columns = plan.schema().iter();
            let columns = columns.map(|(table, field)| column(table, field.name()));
            return Some(columns.collect());
        }
        // Within WITH, later queries are not visible.
        probe.with.as_mut()?.cte_tables.pop()?;
        if probe
            .with
            .as_ref()
            .is_some_and(|with| with.cte_tables.is_empty())
        {
            probe.with = None;
        }
    }
}

fn column(table: Option<&TableReference>, name: &str) -> SelectItem {
    let parts = table.map(TableReference::to_vec).unwrap_or_default();
    let parts = parts.into_iter().chain([name.to_owned()]);
    let mut parts: Vec<Ident> = parts.map(|part| Ident::with_quote('"', part)).collect();
    SelectItem::UnnamedExpr(match parts.len() {
        1 => Expr::Identifier(parts.remove(0)),
        _ => Expr::CompoundIdentifier(parts),
    })
}

/// Replaces the stars by the columns.
struct StarExpansion {
    selects: std::vec::IntoIter<Option<Vec<Vec<SelectItem>>>>,
    any: bool,
}

impl VisitorMut for StarExpansion {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if !has_stars(select) {
            return ControlFlow::Continue(());
        }
        let Some(stars) = self.selects.next().flatten().filter(|all| !all.is_empty()) else {
            return ControlFlow::Continue(());
        };
        let mut stars = stars.into_iter();
        let mut items = Vec::new();
        for item in std::mem::take(&mut select.projection) {
            match is_star(&item) {
                true => items.extend(stars.next().unwrap_or_default()),
                false => items.push(item),
            }
        }
        rename_items_apart(&mut items, DistinctColumns::Doubtful);
        select.projection = items;
        self.any = true;
        ControlFlow::Continue(())
    }
}
