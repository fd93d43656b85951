//! Column names of queries within a statement, as PostgreSQL gives them: `SELECT sum FROM (SELECT sum(x) FROM t)`.
//!
//! The engine has its own names for expressions, such as `sum(t.x)`, and requires that they are unique within a query. So this
//! module attaches PostgreSQL's names to each query in FROM, as its settings, which the engine ignores, and the columns are
//! renamed by position once the query is planned. Columns of equal names are kept apart by a suffix that cannot be typed: `*`
//! returns all of them, and a reference to one by name is refused.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use anabranch_udfs::{Walk, WalkMut};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{DdlStatement, Expr as Logical, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, FunctionArg, FunctionArgExpr, Ident, LimitClause, ObjectNamePart, Offset,
    OffsetRows, OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr, Setting, TableFactor,
    TableWithJoins, Value, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::core::stack::with_stack;
use crate::error::{APART, Error, Result, equal_names};
use crate::planner::normalize;
use crate::session::names::casts::bare;
use crate::session::names::labels::{
    LabelItem, Labels, first_select, is_column, label_in, label_of, named_item,
};
use crate::session::names::unique::{alias_apart, ambiguous_order, is_same, text_of};
use crate::session::syntax::{taken, visit};

/// The setting of a query that holds the name of one of its columns.
const NAME: &str = "column_name";

/// Attaches the names of their columns to the queries in FROM and WITH, and resolves these names in ORDER BY.
///
/// # Errors
///
/// An ORDER BY name that several columns have.
pub(crate) fn attach(node: &mut impl WalkMut) -> Result<()> {
    match node.walk_mut(&mut AttachNames) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct AttachNames;

impl VisitorMut for AttachNames {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        match with_tables(query).and_then(|()| sort_keys(query)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match in_relation(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// Wraps a query in WITH into one in FROM, because only there the engine calls other planners.
fn with_tables(query: &mut Query) -> Result<()> {
    let Some(with) = &mut query.with else {
        return Ok(());
    };
    for table in &mut with.cte_tables {
        if !table.alias.columns.is_empty() || !needs_names(&table.query) {
            continue;
        }
        let name = Some(&table.alias.name);
        match table.query.body.as_mut() {
            // The second query of a recursion refers to the columns of the first one.
            SetExpr::SetOperation { left, .. } if with.recursive => {
                let mut first = parsed("SELECT 1")?;
                std::mem::swap(first.body.as_mut(), left.as_mut());
                **left = *all_of(first, name)?.body;
            }
            _ => {
                let mut inner = std::mem::replace(table.query.as_mut(), parsed("SELECT 1")?);
                keep_order(&mut inner);
                *table.query = all_of(inner, name)?;
            }
        }
    }
    Ok(())
}

/// Rewrites `ORDER BY x` to `ORDER BY x OFFSET 0`: in FROM the engine drops an order without LIMIT, and in WITH it does not.
fn keep_order(query: &mut Query) {
    if query.order_by.is_some() && query.limit_clause.is_none() && query.fetch.is_none() {
        let none = Value::Number("0".to_owned(), false);
        query.limit_clause = Some(LimitClause::LimitOffset {
            limit: None,
            offset: Some(Offset {
                value: Expr::Value(none.into()),
                rows: OffsetRows::None,
            }),
            limit_by: Vec::new(),
        });
    }
}

fn in_relation(factor: &mut TableFactor) -> Result<()> {
    match factor {
        TableFactor::Derived {
            subquery, alias, ..
        } if alias.as_ref().is_none_or(|alias| alias.columns.is_empty())
            && needs_names(subquery) =>
        {
            let labels = Labels::of_query(subquery);
            subquery.settings = Some(labels.items.iter().map(setting).collect());
        }
        // The query in the argument of TUMBLE and other window functions.
        TableFactor::Table {
            args: Some(args), ..
        } => {
            for argument in &mut args.args {
                if let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Subquery(query))) = argument
                    && needs_names(query)
                {
                    let inner = std::mem::replace(query.as_mut(), parsed("SELECT 1")?);
                    **query = all_of(inner, None)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether the engine would name a column of a query differently, or two of them alike.
fn needs_names(query: &Query) -> bool {
    let Some(select) = first_select(&query.body) else {
        return false;
    };
    if !query.pipe_operators.is_empty() {
        return false;
    }
    let items = &select.projection;
    let tables = tables_of(select);
    let mut names = HashSet::with_capacity(items.len());
    let mut has_many = false;
    for item in items {
        if let SelectItem::UnnamedExpr(expr) = item
            && !is_plain(expr, &tables)
        {
            return true;
        }
        match named_item(item) {
            LabelItem::Many => has_many = true,
            name => {
                if !names.insert(name) {
                    return true;
                }
            }
        }
    }
    has_many && (items.len() > 1 || select.from.len() > 1 || select.from.iter().any(has_tables))
}

/// Whether one item of FROM may have columns of several tables.
fn has_tables(table: &TableWithJoins) -> bool {
    let is_nameless = match &table.relation {
        TableFactor::Derived { alias, .. } => alias.is_none(),
        TableFactor::Table { alias, args, .. } => alias.is_none() && args.is_some(),
        _ => false,
    };
    is_nameless || !table.joins.is_empty()
}

/// The names of the tables in FROM.
fn tables_of(select: &Select) -> HashSet<String> {
    let mut names = HashSet::new();
    for table in &select.from {
        add_tables(table, &mut names);
    }
    names
}

fn add_tables(table: &TableWithJoins, names: &mut HashSet<String>) {
    let joined = table.joins.iter().map(|join| &join.relation);
    for factor in std::iter::once(&table.relation).chain(joined) {
        let name = match factor {
            TableFactor::Table { name, alias, .. } => match (alias, name.0.last()) {
                (Some(alias), _) => Some(&alias.name),
                (None, Some(ObjectNamePart::Identifier(name))) => Some(name),
                (None, _) => None,
            },
            TableFactor::NestedJoin {
                table_with_joins,
                alias,
            } => {
                add_tables(table_with_joins, names);
                alias.as_ref().map(|alias| &alias.name)
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::UNNEST { alias, .. } => alias.as_ref().map(|alias| &alias.name),
            _ => None,
        };
        names.extend(name.map(normalize));
    }
}

/// Whether an expression is a column of one of these tables, for which the engine keeps the name; `s.x` may be a field.
fn is_plain(expr: &Expr, tables: &HashSet<String>) -> bool {
    match expr {
        Expr::Identifier(_) => true,
        Expr::CompoundIdentifier(parts) => {
            let table = parts.iter().rev().nth(1);
            table.is_some_and(|table| tables.contains(&normalize(table)))
        }
        _ => false,
    }
}

fn setting(item: &LabelItem) -> Setting {
    let value = match item {
        LabelItem::One(name) => Value::SingleQuotedString(name.clone()),
        LabelItem::Kept => Value::Boolean(true),
        LabelItem::Many => Value::Null,
    };
    Setting {
        key: Ident::new(NAME),
        value: Expr::Value(value.into()),
    }
}

/// The names attached to a query.
pub(crate) fn names_of(query: &Query) -> Option<Labels> {
    let settings = query.settings.as_ref()?;
    let item = |setting: &Setting| match &setting.value {
        Expr::Value(value) if setting.key.value == NAME => match &value.value {
            Value::SingleQuotedString(name) => Some(LabelItem::One(name.clone())),
            Value::Boolean(_) => Some(LabelItem::Kept),
            _ => Some(LabelItem::Many),
        },
        _ => None,
    };
    let items: Option<Vec<LabelItem>> = settings.iter().map(item).collect();
    Some(Labels { items: items? })
}

/// Lets expressions keep the engine's names instead of the attached ones; returns whether there were any.
pub(crate) fn keep_names_of_engine(statement: &mut SqlStatement) -> bool {
    let mut keep = KeepNames { any: false };
    let _ = visit(statement, &mut keep);
    keep.any
}

struct KeepNames {
    any: bool,
}

impl VisitorMut for KeepNames {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let (Some(settings), Some(select)) = (&mut query.settings, first_select(&query.body))
        else {
            return ControlFlow::Continue(());
        };
        if settings.len() != select.projection.len() {
            return ControlFlow::Continue(());
        }
        for (name, item) in settings.iter_mut().zip(&select.projection) {
            let is_expression = match item {
                SelectItem::UnnamedExpr(expr) => !matches!(expr, Expr::Identifier(_)),
                SelectItem::ExprWithAlias { expr, alias } => {
                    alias.value.contains(APART) && !matches!(expr, Expr::Identifier(_))
                }
                _ => false,
            };
            if is_expression {
                *name = setting(&LabelItem::Kept);
                self.any = true;
            }
        }
        ControlFlow::Continue(())
    }
}

fn parsed(text: &str) -> Result<Query> {
    // Parsed rather than built by hand: the syntax tree has many fields that mean "absent".
    let query = Parser::new(&GenericDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_query());
    match query {
        Ok(query) => Ok(*query),
        Err(_) => Err(Error::internal("a query cannot be named")),
    }
}

/// `SELECT * FROM (query) AS name`.
fn all_of(query: Query, name: Option<&Ident>) -> Result<Query> {
    let mut all = match name {
        Some(name) => {
            let name = Ident::with_quote('"', normalize(name));
            parsed(&format!("SELECT * FROM (SELECT 1) AS {name}"))?
        }
        None => parsed("SELECT * FROM (SELECT 1)")?,
    };
    if let SetExpr::Select(select) = all.body.as_mut()
        && let Some(table) = select.from.first_mut()
        && let TableFactor::Derived { subquery, .. } = &mut table.relation
    {
        **subquery = query;
    }
    Ok(all)
}

/// Replaces keys of ORDER BY that name expressions of the select list, or, below DISTINCT, repeat such an expression.
fn sort_keys(query: &mut Query) -> Result<()> {
    let Some(OrderBy {
        kind: OrderByKind::Expressions(keys),
        ..
    }) = &mut query.order_by
    else {
        return Ok(());
    };
    let is_distinct = matches!(
        query.body.as_ref(),
        SetExpr::Select(select) if matches!(select.distinct, Some(Distinct::Distinct))
    );
    let Some(select) = first_select_mut(&mut query.body) else {
        return Ok(());
    };
    let mut places = ColumnPositions::of(select);
    let texts = is_distinct.then(|| TextPositions::of(select));
    for key in keys {
        let place = match &key.expr {
            Expr::Identifier(name) => {
                places.named(&select.projection, &normalize(name), name.span)?
            }
            Expr::CompoundIdentifier(_) | Expr::Value(_) => None,
            expr => texts.as_ref().and_then(|texts| texts.place_of(expr)),
        };
        if let Some(place) = place
            && let Some(item) = select.projection.get_mut(place)
            && let Some(alias) = alias_of(item, place)
        {
            key.expr = Expr::Identifier(alias);
        }
    }
    Ok(())
}

fn first_select_mut(body: &mut SetExpr) -> Option<&mut Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_select_mut(&mut query.body),
        SetExpr::SetOperation { left, .. } => first_select_mut(left),
        _ => None,
    }
}

/// The columns of a select list by their names.
struct ColumnPositions {
    tables: HashSet<String>,
    of_names: HashMap<String, Vec<usize>>,
    /// The results of earlier lookups of names.
    found: HashMap<String, Option<usize>>,
}

impl ColumnPositions {
    fn of(select: &Select) -> Self {
        let mut of_names: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, item) in select.projection.iter().enumerate() {
            if let LabelItem::One(name) = named_item(item) {
                of_names.entry(name).or_default().push(place);
            }
        }
        Self {
            tables: tables_of(select),
            of_names,
            found: HashMap::new(),
        }
    }

    /// The position of the expression with this name. The engine itself resolves columns and aliases.
    ///
    /// # Errors
    ///
    /// Several different expressions have the name.
    fn named(&mut self, items: &[SelectItem], name: &str, span: Span) -> Result<Option<usize>> {
        if let Some(found) = self.found.get(name) {
            return Ok(*found);
        }
        let (mut known, mut computed) = (Vec::new(), Vec::new());
        for place in self.of_names.get(name).into_iter().flatten() {
            let (expr, is_known) = match items.get(*place) {
                Some(SelectItem::UnnamedExpr(expr)) => (expr, is_plain(expr, &self.tables)),
                // An alias of the other kind belongs to another key.
                Some(SelectItem::ExprWithAlias { expr, alias }) => {
                    (expr, !alias.value.contains(APART))
                }
                _ => continue,
            };
            match is_known {
                true => known.push((*place, expr)),
                false => computed.push((*place, expr)),
            }
        }
        // A column with this name in the text takes precedence over one that is named so by rule.
        let all = match known.is_empty() {
            true => &computed,
            false => &known,
        };
        let first = all.first().copied();
        let differs = |(_, expr): &(usize, &Expr)| {
            let is_other = |(_, first): (usize, &Expr)| !is_same(first, expr);
            first.is_some_and(is_other)
        };
        if all.iter().any(differs) {
            return Err(Error::invalid(ambiguous_order(name)).at(span));
        }
        let place = first.filter(|_| known.is_empty()).map(|(place, _)| place);
        self.found.insert(name.to_owned(), place);
        Ok(place)
    }
}

/// The first positions of the expressions in a select list, by their text.
#[derive(Default)]
struct TextPositions {
    typed: HashMap<String, usize>,
    /// Without tables, for expressions that name one: all of them, and those that name no table.
    bare: HashMap<String, usize>,
    without_tables: HashMap<String, usize>,
}

impl TextPositions {
    fn of(select: &Select) -> Self {
        let is_of_one = matches!(select.from.as_slice(), [table] if table.joins.is_empty());
        let mut texts = Self::default();
        for (place, item) in select.projection.iter().enumerate() {
            let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item
            else {
                continue;
            };
            if is_column(expr) {
                continue;
            }
            texts.typed.entry(text_of(expr)).or_insert(place);
            // With a single table, a column is the same with and without its table.
            if is_of_one {
                let text = bare(expr).to_string();
                if !names_tables(expr) {
                    let text = text.clone();
                    texts.without_tables.entry(text).or_insert(place);
                }
                texts.bare.entry(text).or_insert(place);
            }
        }
        texts
    }

    fn place_of(&self, wanted: &Expr) -> Option<usize> {
        if let Some(place) = self.typed.get(&text_of(wanted)) {
            return Some(*place);
        }
        let bare_ones = match names_tables(wanted) {
            true => &self.without_tables,
            false => &self.bare,
        };
        bare_ones.get(&bare(wanted).to_string()).copied()
    }
}

/// Whether a column is qualified by its table, or a field by its column.
fn names_tables(expr: &Expr) -> bool {
    struct Compounds;

    impl Visitor for Compounds {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }

    Walk::walk(expr, &mut Compounds).is_break()
}

/// The alias of a column; one that cannot be typed if it has none.
fn alias_of(item: &mut SelectItem, place: usize) -> Option<Ident> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.clone()),
        SelectItem::UnnamedExpr(expr) => {
            let alias = alias_apart(&label_of(expr), place);
            let expr = taken(expr);
            *item = SelectItem::ExprWithAlias {
                expr,
                alias: alias.clone(),
            };
            Some(alias)
        }
        _ => None,
    }
}

/// Planner for queries in FROM with attached names.
#[derive(Debug)]
pub(crate) struct NamedQueries;

impl RelationPlanner for NamedQueries {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<RelationPlanning> {
        let TableFactor::Derived {
            lateral,
            mut subquery,
            alias,
            sample,
        } = relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let names = names_of(&subquery);
        subquery.settings = None;
        let Some(names) = names else {
            return Ok(RelationPlanning::Original(Box::new(TableFactor::Derived {
                lateral,
                subquery,
                alias,
                sample,
            })));
        };
        let equal = match alias {
            Some(_) => EqualNames::Apart,
            None => EqualNames::ByTable,
        };
        let unnamed = TableFactor::Derived {
            lateral,
            subquery,
            alias: None,
            sample,
        };
        let plan = with_stack(|| context.plan(unnamed))?;
        let plan = renamed(plan, &names, equal)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(
            plan, alias,
        ))))
    }
}

/// The treatment of columns of equal names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EqualNames {
    /// By their name and a suffix that makes it unique.
    Apart,
    /// The same, except for columns that their tables distinguish: a query in FROM without an alias keeps the tables.
    ByTable,
    /// By the engine's names.
    Kept,
}

/// The plan with these names for its columns.
pub(crate) fn renamed(
    plan: LogicalPlan,
    names: &Labels,
    equal: EqualNames,
) -> DataFusionResult<LogicalPlan> {
    let columns = plan.schema().columns();
    let own: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let names = names.over(&own);
    // The number of columns of each name, and how many of them are table columns with that name.
    let mut counts: HashMap<&str, (usize, usize)> = HashMap::new();
    for (column, name) in columns.iter().zip(&names) {
        let (all, of_tables) = counts.entry(name.as_str()).or_default();
        *all += 1;
        *of_tables += usize::from(column.relation.is_some() && column.name == *name);
    }
    let name = |(place, (own, name)): (usize, (&&str, &String))| {
        let (all, of_tables) = counts.get(name.as_str()).copied().unwrap_or_default();
        match equal {
            _ if all == 1 => name.clone(),
            EqualNames::ByTable if all == of_tables => name.clone(),
            EqualNames::Apart | EqualNames::ByTable => format!("{name}{APART}{place}"),
            EqualNames::Kept => (*own).to_owned(),
        }
    };
    let names: Vec<String> = own.iter().zip(&names).enumerate().map(name).collect();
    if own.iter().zip(&names).all(|(own, name)| own == name) {
        return Ok(plan);
    }
    let exprs: Vec<Logical> = columns
        .into_iter()
        .zip(names)
        .map(|(column, name)| match column.name == name {
            true => Logical::Column(column),
            false => Logical::Column(column).alias(name),
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// The plan of rows for a table, a view or a file: its columns get these names, which must be unique.
///
/// # Errors
///
/// Two of the names are equal.
pub(crate) fn with_unique_names(plan: LogicalPlan, names: &Labels) -> Result<LogicalPlan> {
    let plan = renamed(plan, names, EqualNames::Apart)?;
    let mut fields = plan.schema().fields().iter();
    match fields.find(|field| field.name().contains(APART)) {
        Some(field) => Err(equal_names(label_in(field.name()))),
        None => Ok(plan),
    }
}

/// The plan of a statement that creates a table or a file, with these names for its columns.
///
/// # Errors
///
/// Two of the names are equal.
pub(crate) fn with_created_names(plan: LogicalPlan, names: &Labels) -> Result<LogicalPlan> {
    let unique = |input: Arc<LogicalPlan>| -> Result<Arc<LogicalPlan>> {
        Ok(Arc::new(with_unique_names(
            Arc::unwrap_or_clone(input),
            names,
        )?))
    };
    Ok(match plan {
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(mut table)) => {
            table.input = unique(table.input)?;
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table))
        }
        LogicalPlan::Copy(mut copy) => {
            copy.input = unique(copy.input)?;
            LogicalPlan::Copy(copy)
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;

    use crate::error::{APART, Result};
    use crate::planner::{Parameters, ParsedStatement, Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    const TABLES: &str = "
        CREATE TABLE t AS SELECT CAST(column1 AS INT) AS a, CAST(column2 AS INT) AS b
        FROM (VALUES (1, 10), (2, 20)) AS v;
        CREATE VIEW w AS SELECT a, sum(b), date_trunc('day', now()) FROM t GROUP BY a;
        CREATE TABLE c AS SELECT count(*), max(a) AS m FROM t;";

    fn parsed(sql: &str) -> Vec<ParsedStatement> {
        let script = Script::new("test", sql).split().unwrap();
        let statements = script.iter().map(|raw| {
            let mut parsed = parse_statement(raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            parsed
        });
        statements.collect()
    }

    async fn session() -> Session {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        for statement in parsed(TABLES) {
            session.collect(statement).await.unwrap();
        }
        session
    }

    async fn columns(session: &Session, sql: &str) -> Result<String> {
        let planned = session.plan(parsed(sql).remove(0)).await?;
        let schema = planned.schema();
        let names: Vec<&str> = schema
            .fields()
            .iter()
            .map(|of| of.name().as_str())
            .collect();
        Ok(names.join("|"))
    }

    async fn shown(session: &Session, sql: &str) -> Result<String> {
        let rows = session.collect(parsed(sql).remove(0)).await?;
        Ok(pretty_format_batches(&rows).unwrap().to_string())
    }

    #[tokio::test]
    async fn queries_at_every_level_have_postgresql_names() {
        let session = session().await;
        for (sql, expected) in [
            (
                "SELECT * FROM (SELECT sum(1), a + 1 FROM t GROUP BY a)",
                "sum|?column?",
            ),
            ("SELECT * FROM w", "a|sum|date_trunc"),
            ("SELECT * FROM c", "count|m"),
            (
                "WITH x AS (SELECT count(*), a + 1 FROM t GROUP BY a) SELECT * FROM x",
                "count|?column?",
            ),
            (
                "WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT \"?column?\" + 1 FROM n WHERE \"?column?\" < 3) \
                 SELECT * FROM n",
                "?column?",
            ),
            (
                "SELECT * FROM (SELECT * FROM (SELECT max(a), a + 1 FROM t GROUP BY a))",
                "max|?column?",
            ),
            ("SELECT q.*, 1 FROM (SELECT a, a, b FROM t) AS q", "a|a|b|1"),
            (
                "SELECT * FROM (SELECT min(a) FROM t UNION ALL SELECT 7)",
                "min",
            ),
            ("SELECT * FROM (SELECT *, -a FROM t)", "a|b|?column?"),
            (
                "SELECT * FROM (SELECT * FROM t AS x JOIN t AS y ON x.a = y.a) AS q",
                "a|b|a|b",
            ),
            (
                "SELECT q.* FROM (SELECT * FROM (SELECT * FROM t AS x JOIN t AS y ON x.a = y.a)) AS q",
                "a|b|a|b",
            ),
            (
                "SELECT x.a, y.b FROM (SELECT * FROM t AS x JOIN t AS y ON x.a = y.a)",
                "a|b",
            ),
            (
                "SELECT q.* FROM t, LATERAL (SELECT u.b + 1 FROM t AS u WHERE u.a = t.a) AS q",
                "?column?",
            ),
            // Texts that were stored when the engine's names were in use.
            (
                "SELECT \"t.a + Int64(1)\" FROM (SELECT a + 1 FROM t)",
                "t.a + Int64(1)",
            ),
        ] {
            let columns = columns(&session, sql).await;
            let columns = columns.unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(columns, expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_name_of_several_columns_is_ambiguous_where_it_is_used() {
        let session = session().await;
        for (sql, name) in [
            ("SELECT a FROM (SELECT a, a FROM t)", "a"),
            ("SELECT q.a FROM (SELECT a, b AS a FROM t) AS q", "a"),
            (
                "SELECT \"?column?\" FROM (SELECT a + 1, b + 1 FROM t)",
                "?column?",
            ),
            (
                "WITH x AS (SELECT a, a FROM t) SELECT 1 FROM x WHERE a = 1",
                "a",
            ),
        ] {
            let error = columns(&session, sql).await.unwrap_err();
            let expected = format!("column {name} is ambiguous");
            assert!(error.message().starts_with(&expected), "{sql}: {error}");
            assert!(!error.message().contains(APART));
        }
    }

    #[tokio::test]
    async fn created_objects_have_unique_column_names() {
        let session = session().await;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        for sql in [
            "CREATE VIEW bad AS SELECT a, a FROM t".to_owned(),
            "CREATE VIEW bad AS SELECT a + 1, b + 1 FROM t".to_owned(),
            "CREATE TABLE bad AS SELECT a + 1, b + 1 FROM t".to_owned(),
            format!(
                "COPY (SELECT a + 1, b + 1 FROM t) TO '{}'",
                file("bad.json")
            ),
        ] {
            let error = shown(&session, &sql).await.unwrap_err();
            assert!(
                error.message().contains("two columns are named"),
                "{sql}: {error}"
            );
        }
        let named = "CREATE VIEW good (x, y) AS SELECT a, a FROM t";
        shown(&session, named).await.unwrap();
        assert_eq!(
            columns(&session, "SELECT * FROM good").await.unwrap(),
            "x|y"
        );
        let copied = file("good.json");
        let copy = format!("COPY (SELECT a, sum(b) FROM t WHERE a = 1 GROUP BY a) TO '{copied}'");
        shown(&session, &copy).await.unwrap();
        let text = std::fs::read_to_string(&copied).unwrap();
        assert!(text.contains("\"sum\":10"), "{text}");
    }

    #[tokio::test]
    async fn explain_output_is_readable() {
        let session = session().await;
        let text = shown(&session, "EXPLAIN SELECT a, a FROM t").await.unwrap();
        assert!(text.contains("a#1") && !text.contains(APART), "{text}");
    }
}
