//! Labels of result columns: the original text of each column, which may occur several times.
//!
//! The plan keeps the engine's own names, which must be unique. The result is renamed by position, so that no other part of a
//! statement depends on a label.

use std::ops::ControlFlow;
use std::sync::Arc;

use anabranch_udfs::WalkMut;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::display::StringifiedPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::expressions::Column;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::sql::parser::{CopyToSource, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{
    CreateTable, Expr, Ident, ObjectNamePart, Query, Select, SelectItem, SetExpr,
    Statement as AnsiStatement, VisitorMut,
};

use crate::error::{APART, Error, Result};
use crate::planner::normalize;
use crate::session::names::name_of;

/// A longer label is cut.
const LONGEST: usize = 120;

/// The labels of a query's columns, by position.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) items: Vec<LabelItem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum LabelItem {
    /// A column of this label.
    One(String),
    /// A column that keeps the engine's name.
    Kept,
    /// All columns of a star, of unknown number.
    Many,
}

impl Labels {
    /// The labels of a query's result; empty for any other statement.
    pub(crate) fn of(statement: &SqlStatement) -> Self {
        let SqlStatement::Statement(ansi) = statement else {
            return Self::default();
        };
        match ansi.as_ref() {
            AnsiStatement::Query(query) => Self::by(query, item_of),
            _ => Self::default(),
        }
    }

    /// The names of a query's columns for references from outside.
    pub(crate) fn of_query(query: &Query) -> Self {
        Self::by(query, named_item)
    }

    /// The same for a table or file that a statement creates from the rows of a query without naming its columns.
    pub(crate) fn of_made(statement: &SqlStatement) -> Option<Self> {
        let query = match statement {
            SqlStatement::Statement(ansi) => match ansi.as_ref() {
                AnsiStatement::CreateTable(CreateTable {
                    query: Some(query),
                    columns,
                    ..
                }) if columns.is_empty() => query,
                AnsiStatement::Query(query) if first_select(&query.body)?.into.is_some() => query,
                _ => return None,
            },
            SqlStatement::CopyTo(copy) => match &copy.source {
                CopyToSource::Query(query) => query,
                CopyToSource::Relation(_) => return None,
            },
            _ => return None,
        };
        Some(Self::of_query(query))
    }

    fn by(query: &Query, of: fn(&SelectItem) -> LabelItem) -> Self {
        let items = match first_select(&query.body) {
            Some(select) => select.projection.iter().map(of).collect(),
            None => Vec::new(),
        };
        Self { items }
    }

    /// The labels for columns with these names in the engine.
    pub(crate) fn over(&self, names: &[&str]) -> Vec<String> {
        let many = self.items.iter().filter(|item| **item == LabelItem::Many);
        let is_known = match many.count() {
            0 => self.items.len() == names.len(),
            _ => self.items.len() <= names.len() + 1,
        };
        let before = self
            .items
            .iter()
            .take_while(|item| **item != LabelItem::Many);
        let after = self.items.iter().rev();
        let after = after.take_while(|item| **item != LabelItem::Many).count();
        let before = before.count();
        let label = |(place, name): (usize, &&str)| {
            let item = match names.len() - place {
                _ if !is_known => None,
                _ if place < before => self.items.get(place),
                back if back <= after => self.items.get(self.items.len() - back),
                _ => None,
            };
            match item {
                Some(LabelItem::One(label)) => label.clone(),
                _ => label_in(name).to_owned(),
            }
        };
        names.iter().enumerate().map(label).collect()
    }

    /// The labels for the columns of a schema; `None` if they equal its names.
    fn over_fields(&self, schema: &Schema) -> Option<Vec<String>> {
        let fields = schema.fields().iter();
        let names: Vec<&str> = fields.map(|field| field.name().as_str()).collect();
        let labels = self.over(&names);
        let mut pairs = names.iter().zip(&labels);
        pairs.any(|(name, label)| name != label).then_some(labels)
    }

    /// The schema with the labels as names.
    pub(crate) fn schema(&self, schema: SchemaRef) -> SchemaRef {
        let Some(labels) = self.over_fields(&schema) else {
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

    /// The rows with the labels as the names of their columns.
    pub(crate) fn rows(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let schema = self.schema(rows.schema());
        let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(schema, rows.columns().to_vec(), &count)
            .map_err(|error| Error::internal(format!("a row cannot be named: {error}")))
    }

    /// The plan with the labels as the names of its columns.
    pub(crate) fn plan(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = plan.schema();
        let Some(labels) = self.over_fields(&schema) else {
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

/// The plan of EXPLAIN with readable suffixes of columns of equal names.
pub(crate) fn readable(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let Some(explain) = plan.downcast_ref::<ExplainExec>() else {
        return plan;
    };
    let of = |shown: &StringifiedPlan| {
        StringifiedPlan::new(shown.plan_type.clone(), shown.plan.replace(APART, "#"))
    };
    let plans = explain.stringified_plans().iter().map(of).collect();
    let schema = explain.schema();
    Arc::new(ExplainExec::new(schema, plans, explain.verbose()))
}

/// The label within the unique name that the engine has for a column.
pub(crate) fn label_in(name: &str) -> &str {
    name.split(APART).next().unwrap_or_default()
}

/// The SELECT that determines the column names of a query.
pub(crate) fn first_select(body: &SetExpr) -> Option<&Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_select(&query.body),
        SetExpr::SetOperation { left, .. } => first_select(left),
        _ => None,
    }
}

/// The label of a column in a result.
pub(crate) fn item_of(item: &SelectItem) -> LabelItem {
    match item {
        SelectItem::UnnamedExpr(expr) => LabelItem::One(label_of(expr)),
        SelectItem::ExprWithAlias { alias, .. } => {
            LabelItem::One(label_in(&normalize(alias)).to_owned())
        }
        _ => LabelItem::Many,
    }
}

/// Whether an item stands for all columns of a star: [`item_of`] gives [`LabelItem::Many`].
pub(crate) fn stands_for_many(item: &SelectItem) -> bool {
    !matches!(
        item,
        SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
    )
}

/// The name of a column for outer queries.
pub(crate) fn named_item(item: &SelectItem) -> LabelItem {
    match item {
        SelectItem::UnnamedExpr(expr) => LabelItem::One(name_of(expr)),
        SelectItem::ExprWithAlias { expr, alias } => match alias.value.contains(APART) {
            true => LabelItem::One(name_of(expr)),
            false => LabelItem::One(normalize(alias)),
        },
        _ => LabelItem::Many,
    }
}

pub(crate) fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

/// A column's label is its name, also in brackets or within a cast; the label of any other expression is its text.
pub(crate) fn label_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => normalize(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(normalize).unwrap_or_default(),
        Expr::Nested(inner) => label_of(inner),
        Expr::Cast { expr: inner, .. } if is_column(inner) => label_of(inner),
        _ => {
            let mut shown = expr.clone();
            let _ = WalkMut::walk_mut(&mut shown, &mut LowerCase);
            let text = shown.to_string();
            match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}

/// Makes unquoted names lower case.
pub(crate) struct LowerCase;

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
    async fn result_columns_are_labelled_as_typed() {
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
            ("SELECT t.*, *", "a|userid|ts|a|userid|ts"),
            ("SELECT *, a + 1, t.*", "a|userid|ts|a + 1|a|userid|ts"),
            (&long, "c"),
        ] {
            let sql = format!("{select} {from}");
            let raw = Script::new("test", &sql).split().unwrap().remove(0);
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            let planned = session.plan(parsed).await;
            let planned = planned.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let labels = |schema: &super::Schema| -> Vec<String> {
                schema.fields().iter().map(|of| of.name().clone()).collect()
            };
            assert_eq!(labels(&planned.schema()).join("|"), expected, "{sql}");
            let rows = session.begin(planned).unwrap().rows().await.unwrap();
            assert_eq!(labels(&rows.schema()).join("|"), expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn columns_of_empty_results_are_labelled_as_typed() {
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
