//! What the columns of a result are called: by what was typed, and as often as it was typed.
//!
//! The plan keeps the engine's own names, which must differ. Its result is renamed by place, so that nothing else of a statement
//! depends on a label.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::plan_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::expressions::Column;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectNamePart, OrderByKind, Query, Select, SelectItem, SetExpr, SetQuantifier,
    Statement as AnsiStatement, TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};

use crate::error::{Error, Result};
use crate::planner::normalize;

/// Stands in the engine's name of a column before what tells it apart from another of the same label.
const MARK: char = '\u{1f}';
/// A longer label is cut.
const LONGEST: usize = 120;

/// The labels of a query's columns, by place.
#[derive(Debug, Default, Clone)]
pub(super) struct Labels {
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// A column of this label.
    One(String),
    /// As many columns as there are.
    Many,
}

impl Labels {
    /// Those of a query; none of any other statement.
    pub(super) fn of(statement: &SqlStatement) -> Self {
        let SqlStatement::Statement(ansi) = statement else {
            return Self::default();
        };
        let AnsiStatement::Query(query) = ansi.as_ref() else {
            return Self::default();
        };
        let items = match first_select(&query.body) {
            Some(select) => select.projection.iter().map(item_of).collect(),
            None => Vec::new(),
        };
        Self { items }
    }

    /// The labels of columns that the engine calls otherwise; none if all are as they should be.
    fn over(&self, schema: &Schema) -> Option<Vec<String>> {
        let fields = schema.fields();
        let many = self.items.iter().filter(|item| **item == Item::Many);
        let is_known = match many.count() {
            0 => self.items.len() == fields.len(),
            _ => self.items.len() <= fields.len() + 1,
        };
        let before = self.items.iter().take_while(|item| **item != Item::Many);
        let after = self.items.iter().rev();
        let after = after.take_while(|item| **item != Item::Many).count();
        let before = before.count();
        let labels: Vec<String> = fields
            .iter()
            .enumerate()
            .map(|(place, field)| {
                let item = match fields.len() - place {
                    _ if !is_known => None,
                    _ if place < before => self.items.get(place),
                    back if back <= after => self.items.get(self.items.len() - back),
                    _ => None,
                };
                match item {
                    Some(Item::One(label)) => label.clone(),
                    _ => field
                        .name()
                        .split(MARK)
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                }
            })
            .collect();
        let mut names = fields.iter().map(|field| field.name()).zip(&labels);
        names.any(|(name, label)| name != label).then_some(labels)
    }

    /// The schema with the labels.
    pub(super) fn schema(&self, schema: SchemaRef) -> SchemaRef {
        let Some(labels) = self.over(&schema) else {
            return schema;
        };
        let fields = schema.fields().iter().zip(labels);
        let fields = fields.map(|(field, label)| Field::clone(field).with_name(label));
        let metadata = schema.metadata().clone();
        Arc::new(Schema::new_with_metadata(
            fields.collect::<Vec<_>>(),
            metadata,
        ))
    }

    /// The rows, with the labels as the names of their columns.
    pub(super) fn rows(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let schema = self.schema(rows.schema());
        let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(schema, rows.columns().to_vec(), &count)
            .map_err(|error| Error::internal(format!("a row cannot be named: {error}")))
    }

    /// The plan, with the labels as the names of its columns.
    pub(super) fn plan(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = plan.schema();
        let Some(labels) = self.over(&schema) else {
            return Ok(plan);
        };
        let columns = schema.fields().iter().zip(labels).enumerate();
        let columns = columns.map(|(place, (field, label))| ProjectionExpr {
            expr: Arc::new(Column::new(field.name(), place)),
            alias: label,
        });
        let columns: Vec<ProjectionExpr> = columns.collect();
        Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
    }
}

/// Plans a statement whose columns may have equal names.
///
/// # Errors
///
/// That of the statement as it was typed, but for columns of equal labels.
pub(super) async fn plan_apart(
    state: &SessionState,
    statement: &SqlStatement,
) -> DataFusionResult<LogicalPlan> {
    let mut apart = statement.clone();
    name_apart(&mut apart, Told::Equal);
    let error = match Box::pin(state.statement_to_plan(apart)).await {
        Ok(plan) => return ordered_by_one(plan, statement),
        Err(error) => error,
    };
    let mut apart = statement.clone();
    if is_about_equal_names(&error.to_string())
        && name_apart(&mut apart, Told::Doubtful)
        && let Ok(plan) = Box::pin(state.statement_to_plan(apart)).await
    {
        return ordered_by_one(plan, statement);
    }
    Err(error)
}

/// The plan, unless ORDER BY names a label of columns that differ: the engine would take the first of them.
///
/// # Errors
///
/// It does.
fn ordered_by_one(plan: LogicalPlan, statement: &SqlStatement) -> DataFusionResult<LogicalPlan> {
    let SqlStatement::Statement(ansi) = statement else {
        return Ok(plan);
    };
    let AnsiStatement::Query(query) = ansi.as_ref() else {
        return Ok(plan);
    };
    let (Some(select), Some(order)) = (first_select(&query.body), &query.order_by) else {
        return Ok(plan);
    };
    let OrderByKind::Expressions(keys) = &order.kind else {
        return Ok(plan);
    };
    let mut names = Names::default();
    for key in keys {
        let _ = Visit::visit(&key.expr, &mut names);
    }
    for name in &names.0 {
        let mut labelled: Vec<&Expr> = Vec::new();
        for item in &select.projection {
            let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item
            else {
                continue;
            };
            if item_of(item) == Item::One(name.clone()) {
                labelled.push(expr);
            }
        }
        // Those of a `*` have no text.
        let fields = plan.schema().fields().iter();
        let fields = fields.filter(|field| field.name().split(MARK).next() == Some(name.as_str()));
        let is_of_all = fields.count() > labelled.len();
        let differs = |expr: &&Expr| !is_same(labelled[0], expr);
        let is_other = |expr: &&Expr| !is_column(expr) || label_of(expr) != *name;
        if labelled.iter().skip(1).any(differs) || (is_of_all && labelled.iter().any(is_other)) {
            return plan_err!(
                "ORDER BY {name} is ambiguous: {name} is the name of several columns of the result. \
                 Name them apart, or order by their number, as in ORDER BY 1"
            );
        }
    }
    Ok(plan)
}

/// Whether two expressions are the same by what was typed; a column may be typed with its table and without.
fn is_same(one: &Expr, other: &Expr) -> bool {
    match (one, other) {
        (Expr::Nested(one), other) | (other, Expr::Nested(one)) => is_same(one, other),
        (Expr::Identifier(_), Expr::CompoundIdentifier(_))
        | (Expr::CompoundIdentifier(_), Expr::Identifier(_))
        | (Expr::Identifier(_), Expr::Identifier(_)) => label_of(one) == label_of(other),
        (Expr::CompoundIdentifier(one), Expr::CompoundIdentifier(other)) => {
            let mut ends = one.iter().rev().zip(other.iter().rev());
            ends.all(|(one, other)| normalize(one) == normalize(other))
        }
        _ => {
            let lower = |expr: &Expr| {
                let mut shown = expr.clone();
                let _ = VisitMut::visit(&mut shown, &mut LowerCase);
                shown.to_string()
            };
            lower(one) == lower(other)
        }
    }
}

/// The names without a table in an expression.
#[derive(Default)]
struct Names(Vec<String>);

impl Visitor for Names {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Identifier(ident) = expr {
            self.0.push(normalize(ident));
        }
        ControlFlow::Continue(())
    }
}

/// Which columns get a name of their own for the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Those that are named like an earlier one.
    Equal,
    /// Also those that the engine may name alike: expressions, and whatever stands beside a `*`.
    Doubtful,
}

/// Gives columns a name of their own where an earlier one of their query has the same, and none is seen: in the later queries of a
/// UNION and its kin, below EXISTS, and behind a list of names, as in `FROM (SELECT a, a …) AS q (x, y)`.
pub(super) fn repeated_columns(node: &mut impl VisitMut) {
    let _ = VisitMut::visit(node, &mut Unseen);
}

/// Does the same for a query whose columns get other names.
pub(super) fn columns_apart(query: &mut Query) {
    tell_apart(&mut query.body, Told::Equal);
}

struct Unseen;

impl VisitorMut for Unseen {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let Some(with) = &mut query.with {
            for table in &mut with.cte_tables {
                if !table.alias.columns.is_empty() {
                    columns_apart(&mut table.query);
                }
            }
        }
        later_queries(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Derived {
            subquery,
            alias: Some(alias),
            ..
        } = factor
            && !alias.columns.is_empty()
        {
            columns_apart(subquery);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Exists { subquery, .. } = expr {
            columns_apart(subquery);
        }
        ControlFlow::Continue(())
    }
}

/// The names of a set operation are those of its first query.
fn later_queries(body: &mut SetExpr) {
    let SetExpr::SetOperation {
        set_quantifier,
        left,
        right,
        ..
    } = body
    else {
        return;
    };
    later_queries(left);
    match set_quantifier {
        SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName => {
            later_queries(right);
        }
        _ => {
            tell_apart(right, Told::Equal);
        }
    }
}

/// Gives columns a name of their own for the engine, in all parts of a UNION; gives whether there were any.
fn tell_apart(body: &mut SetExpr, which: Told) -> bool {
    match body {
        SetExpr::Select(select) => tell_items_apart(&mut select.projection, which),
        SetExpr::Query(query) => tell_apart(&mut query.body, which),
        SetExpr::SetOperation { left, right, .. } => {
            let left = tell_apart(left, which);
            tell_apart(right, which) || left
        }
        _ => false,
    }
}

/// The same for the columns of a query, or those that an INSERT takes by their place.
fn name_apart(statement: &mut SqlStatement, which: Told) -> bool {
    let SqlStatement::Statement(ansi) = statement else {
        return false;
    };
    match ansi.as_mut() {
        AnsiStatement::Query(query) => tell_apart(&mut query.body, which),
        AnsiStatement::Insert(insert) => match &mut insert.source {
            Some(source) => tell_apart(&mut source.body, which),
            None => false,
        },
        _ => false,
    }
}

fn tell_items_apart(items: &mut [SelectItem], which: Told) -> bool {
    let mut labels: HashSet<String> = HashSet::new();
    let mut texts: HashSet<String> = HashSet::new();
    let has_all = items.iter().any(|item| item_of(item) == Item::Many);
    let mut any = false;
    for (place, item) in items.iter_mut().enumerate() {
        let Item::One(label) = item_of(item) else {
            continue;
        };
        let (expr, is_column, is_named) = match item {
            SelectItem::UnnamedExpr(expr) => (expr.clone(), is_column(expr), false),
            SelectItem::ExprWithAlias { expr, .. } => (expr.clone(), false, true),
            _ => continue,
        };
        // Columns of two tables may have one name: the engine tells them apart itself.
        let is_new_text = texts.insert(match &expr {
            Expr::CompoundIdentifier(parts) if is_column => {
                let parts: Vec<String> = parts.iter().map(normalize).collect();
                parts.join(".")
            }
            _ => label.clone(),
        });
        let is_new_label = labels.insert(label.clone());
        let is_told = is_new_label || (is_column && is_new_text && !texts.contains(&label));
        let is_doubtful = has_all || !(is_column || is_named);
        if is_told && !(which == Told::Doubtful && is_doubtful) {
            continue;
        }
        any = true;
        let alias = Ident::with_quote('"', format!("{label}{MARK}{place}"));
        *item = SelectItem::ExprWithAlias { expr, alias };
    }
    any
}

/// Whether planning failed since two columns have one name.
fn is_about_equal_names(message: &str) -> bool {
    message.contains("unique expression names") || message.contains("would be ambiguous")
}

fn first_select(body: &SetExpr) -> Option<&Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_select(&query.body),
        SetExpr::SetOperation { left, .. } => first_select(left),
        _ => None,
    }
}

fn item_of(item: &SelectItem) -> Item {
    match item {
        SelectItem::UnnamedExpr(expr) => Item::One(label_of(expr)),
        SelectItem::ExprWithAlias { alias, .. } => {
            let label = normalize(alias);
            Item::One(label.split(MARK).next().unwrap_or_default().to_owned())
        }
        _ => Item::Many,
    }
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

/// A column is called by its name, also in brackets or cast; everything else by what was typed.
pub(super) fn label_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => normalize(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(normalize).unwrap_or_default(),
        Expr::Nested(inner) => label_of(inner),
        Expr::Cast { expr: inner, .. } if is_column(inner) => label_of(inner),
        _ => {
            let mut shown = expr.clone();
            let _ = VisitMut::visit(&mut shown, &mut LowerCase);
            let text = shown.to_string();
            match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}

/// Names without quotes are those of the lower case.
struct LowerCase;

impl VisitorMut for LowerCase {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let lower = |ident: &mut Ident| {
            if ident.quote_style.is_none() {
                ident.value = ident.value.to_lowercase();
            }
        };
        match expr {
            Expr::Identifier(ident) => lower(ident),
            Expr::CompoundIdentifier(parts) => parts.iter_mut().for_each(lower),
            Expr::Function(function) => {
                for part in &mut function.name.0 {
                    if let ObjectNamePart::Identifier(ident) = part {
                        lower(ident);
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use crate::planner::{Parameters, Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    #[tokio::test]
    async fn columns_are_called_by_what_was_typed() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let from = "FROM (VALUES (1, 'x', TIMESTAMP '2025-01-01T00:00:00')) AS t (a, userid, ts)";
        let long = format!("SELECT concat({}) AS c", ["'x'"; 3].join(", "));
        for (select, expected) in [
            ("SELECT 1, 'x', NULL, -1.5", "1|'x'|NULL|-1.5"),
            (
                "SELECT a, t.a, (a), userId, \"userid\"",
                "a|a|a|userid|userid",
            ),
            (
                "SELECT COUNT(*), count(1), count(DISTINCT t.a)",
                "count(*)|count(1)|count(DISTINCT t.a)",
            ),
            (
                "SELECT date_trunc('day', ts), Date_Trunc('day', TS)",
                "date_trunc('day', ts)|date_trunc('day', ts)",
            ),
            (
                "SELECT CAST(a AS BIGINT), a::INT, CAST(a + 1 AS INT)",
                "a|a|CAST(a + 1 AS INT)",
            ),
            (
                "SELECT sum(a) OVER (), a + 1 AS \"B c\", a IS NULL",
                "sum(a) OVER ()|B c|a IS NULL",
            ),
            ("SELECT *, a + 1", "a|userid|ts|a + 1"),
            ("SELECT a * 2, t.*, 1", "a * 2|a|userid|ts|1"),
            ("SELECT t.*, *", ""),
            (&long, "c"),
        ] {
            let sql = format!("{select} {from}");
            let raw = Script::new("test", &sql).split().unwrap().remove(0);
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            let planned = match session.plan(parsed).await {
                Ok(planned) => planned,
                Err(error) if expected.is_empty() => {
                    assert!(error.message().contains("unique"), "{error}");
                    continue;
                }
                Err(error) => panic!("{sql}: {error}"),
            };
            let labels = |schema: &super::Schema| -> Vec<String> {
                schema.fields().iter().map(|of| of.name().clone()).collect()
            };
            assert_eq!(labels(&planned.schema()).join("|"), expected, "{sql}");
            let rows = session.begin(planned).unwrap().rows().await.unwrap();
            assert_eq!(labels(&rows.schema()).join("|"), expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn columns_of_nothing_are_called_so_too() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let raw = Script::new("test", "SELECT 1, 1, upper('x')")
            .split()
            .unwrap()
            .remove(0);
        let planned = session.plan(parse_statement(&raw).unwrap()).await.unwrap();
        let rows = &planned.answer().unwrap().rows;
        let names: Vec<_> = rows
            .schema()
            .fields()
            .iter()
            .map(|of| of.name().clone())
            .collect();
        assert_eq!(names, ["1", "1", "upper('x')"]);
    }
}
