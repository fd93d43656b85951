//! Rewrite of DELETE, UPDATE and MERGE to an INSERT of the changes: the rows of a query, each with its position in the table
//! and its change, are inserted into the table's changes.
//!
//! So conditions and values are planned like those of any query, parameters get their types as in an INSERT, and each
//! expression is computed once. The conditions of MERGE's clauses are the exception: they are repeated in each column, so that
//! a volatile function is refused there.

use std::collections::HashMap;
use std::ops::ControlFlow;

use anabranch_udfs::{Walk, WalkMut};
use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::Volatility;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, Ident, Insert, Merge, MergeAction,
    MergeClause, MergeClauseKind, MergeInsertExpr, MergeInsertKind, MergeUpdateExpr, ObjectName,
    ObjectNamePart, Query, SetExpr, Spanned as _, Statement as AnsiStatement, TableAlias,
    TableFactor, TableWithJoins, Update, UpdateTableFromKind, Value, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use crate::core::suggest::closest;
use crate::error::{Error, Result};
use crate::planner::normalize;
use crate::session::catalog::{Catalog, TableEntry, changes_name, rows_name};
use crate::session::options::{CATALOG, SCHEMA};
use crate::session::syntax::{at_name, plain_name};
use crate::tables::delta::{ChangeStatement, ROW_CHANGE, ROW_FILE, ROW_NUMBER, RowChange};

/// Marks the rows of a join that have a row of the MERGE's source.
const IN_SOURCE: &str = "is in source";
/// Names for the parts of a statement in the text that they are inserted into.
const CONDITION: &str = "condition of change";
const SOURCE: &str = "source of change";

/// Rewrites a statement that changes rows to the INSERT of their changes; does not change other statements.
///
/// # Errors
///
/// A table whose rows cannot be changed, an unknown column, or a part of the statement that is not supported.
pub(crate) async fn as_insert(
    context: &SessionContext,
    catalog: &Catalog,
    statement: &mut AnsiStatement,
) -> Result<()> {
    let insert = match statement {
        AnsiStatement::Delete(delete) => Box::pin(of_delete(catalog, delete)).await?,
        AnsiStatement::Update(update) => Box::pin(of_update(catalog, update)).await?,
        AnsiStatement::Merge(merge) => Box::pin(of_merge(context, catalog, merge)).await?,
        _ => return Ok(()),
    };
    *statement = AnsiStatement::Insert(insert);
    Ok(())
}

/// The table whose rows change.
struct ChangedTable {
    /// Its name in the catalog.
    table: String,
    /// The name that the statement uses for it, normalized.
    alias: String,
    columns: Vec<String>,
    /// The types of `columns`.
    types: Vec<DataType>,
    generated: Vec<String>,
}

impl ChangedTable {
    /// Opens the table, and pins it to one version for the statement.
    async fn open(
        catalog: &Catalog,
        factor: &TableFactor,
        verb: &str,
        statement: ChangeStatement,
    ) -> Result<Self> {
        let not_plain = || Error::unsupported(format!("{verb} changes the rows of one table"));
        let TableFactor::Table {
            name,
            alias,
            args: None,
            with_hints,
            version: None,
            with_ordinality: false,
            partitions,
            json_path: None,
            sample: None,
            index_hints,
        } = factor
        else {
            return Err(not_plain()
                .with_help("name a Delta table, without a version")
                .at(factor.span()));
        };
        if !(with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty()) {
            return Err(not_plain().with_help("leave hints out").at(factor.span()));
        }
        let table = plain_name(name)?;
        let mut qualifiers = name.0.iter().rev().skip(1);
        for expected in [SCHEMA, CATALOG] {
            let qualifier = qualifiers.next().and_then(ObjectNamePart::as_ident);
            if qualifier.is_some_and(|qualifier| normalize(qualifier) != expected) {
                let error = Error::invalid(format!("the rows of {name} cannot be changed"));
                return Err(at_name(
                    error.with_help(format!("tables are in the schema {CATALOG}.{SCHEMA}")),
                    name,
                ));
            }
        }
        if alias
            .as_ref()
            .is_some_and(|alias| !alias.columns.is_empty())
        {
            return Err(not_plain()
                .with_help("give the table another name, but not its columns")
                .at(factor.span()));
        }
        let entry = catalog.open(&table).await;
        let entry = entry.map_err(|error| at_name(error, name))?;
        let refused = |what: &str, help: &str| {
            let error = Error::unsupported(format!("{verb}: {table} is {what}"));
            Err(at_name(error.with_help(help), name))
        };
        let handle = match entry {
            TableEntry::Delta { handle, .. } => handle,
            TableEntry::Kafka(_) => {
                return refused(
                    "a Kafka topic, whose records stay as they were written",
                    "INSERT a new record with the same key; in a compacted topic it takes the place of the old one",
                );
            }
            TableEntry::View(_) => {
                return refused("a view", "change the table that it reads");
            }
            TableEntry::Provider(_) | TableEntry::Unopened(_) => {
                return refused(
                    "a table over files or in memory",
                    "CREATE EXTERNAL TABLE … STORED AS DELTA, INSERT INTO it SELECT from this one, and change that",
                );
            }
        };
        let target = handle.change(statement).await;
        let target = target.map_err(|error| at_name(error, name))?;
        catalog.pin(&table, target.table);
        catalog.pin(&rows_name(&table), target.rows);
        catalog.pin(&changes_name(&table), target.changes);
        let columns = target.schema.fields().iter();
        let types = columns.clone().map(|field| field.data_type().clone());
        Ok(Self {
            types: types.collect(),
            alias: match alias {
                Some(alias) => normalize(&alias.name),
                None => table.clone(),
            },
            table,
            columns: columns.map(|field| field.name().clone()).collect(),
            generated: target.generated,
        })
    }

    fn is_generated(&self, column: &str) -> bool {
        self.generated.iter().any(|generated| generated == column)
    }

    /// The value of an unassigned column: its old value, or NULL for a generated column, which the table computes.
    fn kept(&self, column: &str) -> String {
        match self.is_generated(column) {
            true => "NULL".to_owned(),
            false => self.column(column),
        }
    }

    fn column(&self, column: &str) -> String {
        format!("{}.{}", quoted(&self.alias), quoted(column))
    }

    /// The relation of its rows with their positions.
    fn rows(&self) -> String {
        format!(
            "{} AS {}",
            quoted(&rows_name(&self.table)),
            quoted(&self.alias)
        )
    }

    /// `INSERT INTO` the target of its changes.
    fn insert(&self) -> String {
        format!("INSERT INTO {}", quoted(&changes_name(&self.table)))
    }

    /// The columns with the positions of its rows.
    fn places(&self) -> String {
        let places = [ROW_FILE, ROW_NUMBER];
        let places = places.map(|name| format!("{} AS {}", self.column(name), quoted(name)));
        places.join(", ")
    }

    /// The column of this name.
    fn known(&self, name: &ObjectName) -> Result<String> {
        let column = plain_name(name)?;
        let mut qualifiers = name.0.iter().rev().skip(1);
        let of = qualifiers.next().and_then(ObjectNamePart::as_ident);
        let is_of_target = of.is_none_or(|of| normalize(of) == self.alias);
        if !is_of_target || qualifiers.next().is_some() {
            let error = Error::unsupported(format!("{name} is not a column of {}", self.alias));
            return Err(at_name(
                error.with_help("set whole columns of the table that changes: a field of a STRUCT is set with its STRUCT"),
                name,
            ));
        }
        if self.columns.contains(&column) {
            return Ok(column);
        }
        let error = Error::invalid(format!("table {} has no column {column}", self.table));
        let error = match closest(&column, self.columns.iter().map(String::as_str)) {
            Some(near) => error.with_help(format!("did you mean {near}?")),
            None => error.with_help(format!("the columns are {}", self.columns.join(", "))),
        };
        Err(at_name(error, name))
    }

    /// The values of assigned columns, by name.
    fn assigned(&self, assignments: &[Assignment]) -> Result<HashMap<String, Expr>> {
        let mut values = HashMap::new();
        for Assignment { target, value } in assignments {
            let AssignmentTarget::ColumnName(name) = target else {
                return Err(Error::unsupported("SET (a, b) = … is not supported")
                    .with_help("write SET a = …, b = …"));
            };
            let column = self.known(name)?;
            if self.is_generated(&column) {
                let error = Error::invalid(format!("column {column} is generated"));
                return Err(at_name(
                    error.with_help("set the columns that it is computed from"),
                    name,
                ));
            }
            if values.insert(column.clone(), value.clone()).is_some() {
                let error = Error::invalid(format!("column {column} is set twice"));
                return Err(at_name(error, name));
            }
        }
        Ok(values)
    }
}

async fn of_delete(catalog: &Catalog, delete: &Delete) -> Result<Insert> {
    let Delete {
        delete_token: _,
        optimizer_hints,
        tables,
        from,
        using,
        selection,
        returning,
        output,
        order_by,
        limit,
    } = delete;
    refuse_parts(
        "DELETE",
        &[
            (!optimizer_hints.is_empty(), "hints"),
            (!tables.is_empty(), "a list of tables"),
            (returning.is_some(), "RETURNING"),
            (output.is_some(), "OUTPUT"),
            (!order_by.is_empty(), "ORDER BY"),
            (limit.is_some(), "LIMIT"),
        ],
    )?;
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = from;
    let factor = one_table(from, "DELETE")?;
    let target = ChangedTable::open(catalog, factor, "DELETE", ChangeStatement::Delete).await?;
    let text = format!(
        "{} ({}, {}, {}) SELECT {} AS {}, {} FROM {}{}",
        target.insert(),
        quoted(ROW_CHANGE),
        quoted(ROW_FILE),
        quoted(ROW_NUMBER),
        RowChange::Delete as i64,
        quoted(ROW_CHANGE),
        target.places(),
        target.rows(),
        condition(selection.is_some()),
    );
    let mut parts = TextReplacements::default();
    if let Some(selection) = selection {
        parts.expr(CONDITION, selection.clone());
    }
    parts.insert(&text, using.clone().unwrap_or_default())
}

async fn of_update(catalog: &Catalog, update: &Update) -> Result<Insert> {
    let Update {
        update_token: _,
        optimizer_hints,
        table,
        assignments,
        from,
        selection,
        returning,
        output,
        or,
        order_by,
        limit,
    } = update;
    refuse_parts(
        "UPDATE",
        &[
            (!optimizer_hints.is_empty(), "hints"),
            (returning.is_some(), "RETURNING"),
            (output.is_some(), "OUTPUT"),
            (or.is_some(), "OR"),
            (!order_by.is_empty(), "ORDER BY"),
            (limit.is_some(), "LIMIT"),
            (
                matches!(from, Some(UpdateTableFromKind::BeforeSet(_))),
                "FROM before SET",
            ),
        ],
    )?;
    let factor = one_table(std::slice::from_ref(table), "UPDATE")?;
    let target = ChangedTable::open(catalog, factor, "UPDATE", ChangeStatement::Update).await?;
    let mut values = target.assigned(assignments)?;
    let mut parts = TextReplacements::default();
    let columns = target.columns.iter().enumerate().map(|(place, column)| {
        let value = match values.remove(column) {
            Some(value) => parts.expr(&format!("value {place}"), value),
            None => target.kept(column),
        };
        format!(", {value} AS {}", quoted(column))
    });
    let columns: String = columns.collect();
    let text = format!(
        "{} SELECT {} AS {}, {}{columns} FROM {}{}",
        target.insert(),
        RowChange::Update as i64,
        quoted(ROW_CHANGE),
        target.places(),
        target.rows(),
        condition(selection.is_some()),
    );
    if let Some(selection) = selection {
        parts.expr(CONDITION, selection.clone());
    }
    let from = match from {
        Some(UpdateTableFromKind::AfterSet(from) | UpdateTableFromKind::BeforeSet(from)) => {
            from.clone()
        }
        None => Vec::new(),
    };
    parts.insert(&text, from)
}

async fn of_merge(context: &SessionContext, catalog: &Catalog, merge: &Merge) -> Result<Insert> {
    let Merge {
        merge_token: _,
        optimizer_hints,
        into: _,
        table,
        source,
        on,
        clauses,
        output,
    } = merge;
    refuse_parts(
        "MERGE",
        &[
            (!optimizer_hints.is_empty(), "hints"),
            (output.is_some(), "OUTPUT"),
            (clauses.is_empty(), "no WHEN"),
        ],
    )?;
    let only_inserts = clauses
        .iter()
        .all(|clause| matches!(clause.action, MergeAction::Insert(_)));
    let statement = ChangeStatement::Merge { only_inserts };
    let target = ChangedTable::open(catalog, table, "MERGE", statement).await?;
    let source_alias = quoted(&alias_of(source)?);
    let in_source = format!("{source_alias}.{}", quoted(IN_SOURCE));
    let in_target = target.column(ROW_NUMBER);
    let mut parts = TextReplacements::default();
    let mut changes = String::new();
    let mut columns = vec![String::new(); target.columns.len()];
    for (place, clause) in clauses.iter().enumerate() {
        let kind = match clause.clause_kind {
            MergeClauseKind::Matched => {
                format!("{in_target} IS NOT NULL AND {in_source} IS NOT NULL")
            }
            MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => {
                format!("{in_target} IS NULL")
            }
            MergeClauseKind::NotMatchedBySource => format!("{in_source} IS NULL"),
        };
        let applies = match &clause.predicate {
            Some(predicate) => {
                refuse_volatile(context, predicate)?;
                let predicate = parts.expr(&format!("predicate {place}"), predicate.clone());
                format!("{kind} AND ({predicate})")
            }
            None => kind,
        };
        let (change, values) = of_clause(&target, clause, place, &mut parts)?;
        changes.push_str(&format!(" WHEN {applies} THEN {}", change as i64));
        for (column, value) in columns.iter_mut().zip(values) {
            column.push_str(&format!(" WHEN {applies} THEN {value}"));
        }
    }
    let has = |kinds: &[MergeClauseKind]| {
        let mut clauses = clauses.iter();
        clauses.any(|clause| kinds.contains(&clause.clause_kind))
    };
    let keeps_source = has(&[
        MergeClauseKind::NotMatched,
        MergeClauseKind::NotMatchedByTarget,
    ]);
    let join = match (has(&[MergeClauseKind::NotMatchedBySource]), keeps_source) {
        (false, false) => "INNER JOIN",
        (false, true) => "RIGHT JOIN",
        (true, false) => "LEFT JOIN",
        (true, true) => "FULL JOIN",
    };
    let named = target.columns.iter().map(|column| quoted(column));
    let names: String = named.clone().map(|column| format!(", {column}")).collect();
    let columns = columns.iter().zip(named);
    let columns = columns.map(|(value, column)| format!(", CASE{value} END AS {column}"));
    let columns: String = columns.collect();
    let change = quoted(ROW_CHANGE);
    let text = format!(
        "{} SELECT {change}, {}, {}{names} FROM (SELECT CASE{changes} END AS {change}, {}{columns} FROM {} {join} \
         (SELECT *, true AS {} FROM {}) AS {source_alias} ON {}) AS \"changes of rows\" WHERE {change} IS NOT NULL",
        target.insert(),
        quoted(ROW_FILE),
        quoted(ROW_NUMBER),
        target.places(),
        target.rows(),
        quoted(IN_SOURCE),
        quoted(SOURCE),
        quoted(CONDITION),
    );
    parts.expr(CONDITION, on.as_ref().clone());
    parts.source = Some(source.clone());
    parts.insert(&text, Vec::new())
}

/// The change that a clause makes, and the value of each column of the table.
fn of_clause(
    target: &ChangedTable,
    clause: &MergeClause,
    place: usize,
    parts: &mut TextReplacements,
) -> Result<(RowChange, Vec<String>)> {
    let is_of_source = matches!(
        clause.clause_kind,
        MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget
    );
    let kind = clause.clause_kind;
    let nulls = || vec!["NULL".to_owned(); target.columns.len()];
    match &clause.action {
        MergeAction::Delete { .. } if !is_of_source => Ok((RowChange::Delete, nulls())),
        MergeAction::Update(MergeUpdateExpr {
            update_token: _,
            assignments,
            update_predicate: None,
            delete_predicate: None,
        }) if !is_of_source => {
            let mut values = target.assigned(assignments)?;
            let columns = target.columns.iter().enumerate();
            let columns = columns.map(|(column, name)| match values.remove(name) {
                Some(value) => value_of_clause(target, place, column, value, parts),
                None => target.kept(name),
            });
            Ok((RowChange::Update, columns.collect()))
        }
        MergeAction::Insert(MergeInsertExpr {
            insert_token: _,
            columns,
            kind_token: _,
            kind: MergeInsertKind::Values(rows),
            insert_predicate: None,
        }) if is_of_source => {
            let [row] = rows.rows.as_slice() else {
                return Err(Error::invalid("INSERT in a MERGE has one row of VALUES"));
            };
            let columns: Vec<String> = match columns.is_empty() {
                true => {
                    let given = target.columns.iter();
                    let given = given.filter(|column| !target.is_generated(column));
                    given.cloned().collect()
                }
                false => {
                    let known = columns.iter().map(|name| target.known(name));
                    known.collect::<Result<_>>()?
                }
            };
            let row: &Vec<Expr> = row;
            if columns.len() != row.len() {
                return Err(Error::invalid(format!(
                    "INSERT in a MERGE gives {} values for {} columns",
                    row.len(),
                    columns.len()
                )));
            }
            let mut values = nulls();
            for (name, value) in columns.iter().zip(row) {
                let column = target.columns.iter().position(|column| column == name);
                let column = column.ok_or_else(|| Error::internal("a column is missing"))?;
                if values[column] != "NULL" {
                    return Err(Error::invalid(format!("column {name} is given twice")));
                }
                values[column] = value_of_clause(target, place, column, value.clone(), parts);
            }
            Ok((RowChange::Insert, values))
        }
        action => Err(
            Error::unsupported(format!("WHEN {kind} THEN {action} is not supported")).with_help(
                "WHEN MATCHED and WHEN NOT MATCHED BY SOURCE take UPDATE SET a = … and DELETE, WHEN NOT MATCHED takes INSERT (…) VALUES (…)",
            ),
        ),
    }
}

/// The value of a column in a clause. One CASE has the values of all clauses: a value of another numeric type would change the type
/// of those that are kept, and with it their digits. So numbers have the type of the column; a parameter gets it by itself.
fn value_of_clause(
    target: &ChangedTable,
    place: usize,
    column: usize,
    value: Expr,
    parts: &mut TextReplacements,
) -> String {
    let is_parameter =
        matches!(&value, Expr::Value(of) if matches!(of.value, Value::Placeholder(_)));
    let value = parts.expr(&format!("clause {place} value {column}"), value);
    match &target.types[column] {
        of if of.is_numeric() && !is_parameter => format!("arrow_cast({value}, '{of}')"),
        _ => value,
    }
}

/// The name that a MERGE uses for its source.
fn alias_of(source: &TableFactor) -> Result<String> {
    let alias: Option<&TableAlias> = match source {
        TableFactor::Table {
            name, alias: None, ..
        } => return plain_name(name),
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::TableFunction { alias, .. } => alias.as_ref(),
        _ => None,
    };
    alias.map(|alias| normalize(&alias.name)).ok_or_else(|| {
        Error::invalid("the source of a MERGE needs a name")
            .with_help("write USING (SELECT …) AS s ON …")
            .at(source.span())
    })
}

/// The only table in FROM.
fn one_table<'a>(from: &'a [TableWithJoins], verb: &str) -> Result<&'a TableFactor> {
    match from {
        [one] if one.joins.is_empty() => Ok(&one.relation),
        _ => Err(
            Error::unsupported(format!("{verb} changes the rows of one table")).with_help(
                "join in UPDATE t SET … FROM s WHERE … or DELETE FROM t USING s WHERE …, or write MERGE INTO t USING s ON …",
            ),
        ),
    }
}

/// Refuses the unsupported parts that a statement has.
fn refuse_parts(verb: &str, parts: &[(bool, &str)]) -> Result<()> {
    match parts.iter().find(|(is_there, _)| *is_there) {
        Some((_, part)) => Err(Error::unsupported(format!(
            "{verb} with {part} is not supported"
        ))),
        None => Ok(()),
    }
}

/// Refuses a volatile condition, and one with a query: MERGE computes it once for each column.
fn refuse_volatile(context: &SessionContext, condition: &Expr) -> Result<()> {
    struct VolatileCalls<'a>(&'a SessionContext);

    impl Visitor for VolatileCalls<'_> {
        type Break = Error;

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<Error> {
            let error = Error::unsupported(
                "a subquery in a condition of WHEN would be computed several times, perhaps with other values",
            );
            ControlFlow::Break(error.with_help(
                "compute it in the source: USING (SELECT *, (SELECT …) AS x FROM s) AS s",
            ))
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
            let Expr::Function(call) = expr else {
                return ControlFlow::Continue(());
            };
            let name = plain_name(&call.name).unwrap_or_default();
            let state = self.0.state_ref();
            let state = state.read();
            let function = state.scalar_functions().get(&name);
            let volatility = function.map(|function| function.signature().volatility);
            if volatility != Some(Volatility::Volatile) {
                return ControlFlow::Continue(());
            }
            let error = Error::unsupported(format!(
                "{name}() in a condition of a MERGE would be computed several times, with other values"
            ));
            ControlFlow::Break(error.with_help(format!(
                "compute it in the source: USING (SELECT *, {name}() AS x FROM s) AS s"
            )))
        }
    }

    match Walk::walk(condition, &mut VolatileCalls(context)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error.at(condition.span())),
    }
}

fn condition(is_there: bool) -> String {
    match is_there {
        true => format!(" WHERE {}", quoted(CONDITION)),
        false => String::new(),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The parts that replace names in the text of a statement.
#[derive(Default)]
struct TextReplacements {
    exprs: HashMap<String, Expr>,
    source: Option<TableFactor>,
}

impl TextReplacements {
    /// Registers an expression to replace a name; returns that name in quotes.
    fn expr(&mut self, name: &str, expr: Expr) -> String {
        self.exprs
            .insert(name.to_owned(), Expr::Nested(Box::new(expr)));
        quoted(name)
    }

    /// Parses the INSERT from this text, with more tables in FROM.
    fn insert(mut self, text: &str, from: Vec<TableWithJoins>) -> Result<Insert> {
        let internal = || Error::internal("the changes of rows cannot be read");
        let parsed = Parser::parse_sql(&GenericDialect {}, text);
        let mut statement = parsed.ok().and_then(|mut parsed| parsed.pop());
        let statement = statement.as_mut().ok_or_else(internal)?;
        let _ = WalkMut::walk_mut(statement, &mut self);
        let AnsiStatement::Insert(insert) = statement else {
            return Err(internal());
        };
        if !from.is_empty() {
            let body = insert.source.as_mut().map(|query| query.body.as_mut());
            let Some(SetExpr::Select(select)) = body else {
                return Err(internal());
            };
            select.from.extend(from);
        }
        Ok(insert.clone())
    }
}

// Inserted parts are not visited again: the user's own expressions may have the same names.
impl VisitorMut for TextReplacements {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let part = match expr {
            Expr::Identifier(Ident {
                value,
                quote_style: Some('"'),
                ..
            }) => self.exprs.get(value),
            _ => None,
        };
        if let Some(part) = part {
            *expr = part.clone();
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let is_source = match factor {
            TableFactor::Table { name, .. } => plain_name(name).is_ok_and(|name| name == SOURCE),
            _ => false,
        };
        if is_source && let Some(source) = self.source.take() {
            *factor = source;
        }
        ControlFlow::Continue(())
    }
}
