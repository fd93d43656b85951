//! Types of a statement's parameters where the engine does not infer them: from the operands beside them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::logical_expr::expr::{Case, ScalarFunction};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, ExprSchemable as _, LogicalPlan, Operator,
};

use crate::planner::types::timestamp_type;

/// The types of a plan's parameters, by name without `$`.
pub(crate) fn types(plan: &LogicalPlan) -> HashMap<String, DataType> {
    let mut types = ParameterTypes::default();
    // The closure does not fail.
    let _ = plan.apply_with_subqueries(|node| {
        types.node(node);
        Ok(TreeNodeRecursion::Continue)
    });
    // Two uses of one parameter may require different types: then the engine's types do not count.
    let known = plan.get_parameter_types().unwrap_or_default().into_iter();
    let mut found: HashMap<String, DataType> =
        known.filter_map(|(name, of)| Some((name, of?))).collect();
    for (name, of) in types.found {
        found.entry(name).or_insert(of);
    }
    for name in types.spans {
        found.insert(name, DataType::Interval(IntervalUnit::MonthDayNano));
    }
    found
        .into_iter()
        .map(|(name, of)| (name.trim_start_matches('$').to_owned(), of))
        .collect()
}

#[derive(Default)]
struct ParameterTypes {
    found: HashMap<String, DataType>,
    /// Parameters added to a time, or subtracted from it; the engine takes them for times.
    spans: Vec<String>,
}

impl ParameterTypes {
    fn node(&mut self, node: &LogicalPlan) {
        let mut schema = DFSchema::empty();
        for input in node.inputs() {
            schema.merge(input.schema());
        }
        match node {
            LogicalPlan::Dml(dml) => {
                // Inserted rows are cast to the columns of the table.
                for (place, field) in dml.input.schema().fields().iter().enumerate() {
                    self.column(&dml.input, place, field.data_type());
                }
                return;
            }
            LogicalPlan::Limit(limit) => {
                for count in [&limit.skip, &limit.fetch].into_iter().flatten() {
                    self.expr(count, &schema, Some(&DataType::Int64));
                }
                return;
            }
            LogicalPlan::Union(union) => {
                for place in 0..union.schema.fields().len() {
                    let of = |input: &Arc<LogicalPlan>| {
                        let field = input.schema().fields().get(place)?;
                        is_known(field.data_type()).then(|| field.data_type().clone())
                    };
                    if let Some(of) = union.inputs.iter().find_map(of) {
                        for input in &union.inputs {
                            self.column(input, place, &of);
                        }
                    }
                }
            }
            _ => {}
        }
        // The closure does not fail.
        let _ = node.apply_expressions(|expr| {
            self.expr(expr, &schema, None);
            Ok(TreeNodeRecursion::Continue)
        });
    }

    /// Gives the parameters behind a plan's column this type.
    fn column(&mut self, plan: &LogicalPlan, place: usize, of: &DataType) {
        match plan {
            LogicalPlan::Projection(projection) => {
                let Some(expr) = projection.expr.get(place) else {
                    return;
                };
                let mut made = expr;
                loop {
                    made = match made {
                        Expr::Alias(alias) => alias.expr.as_ref(),
                        Expr::Cast(cast) if matches!(cast.expr.as_ref(), Expr::Column(_)) => {
                            cast.expr.as_ref()
                        }
                        _ => break,
                    };
                }
                let schema = projection.input.schema();
                match made {
                    Expr::Column(column) => {
                        if let Some(below) = schema.maybe_index_of_column(column) {
                            self.column(&projection.input, below, of);
                        }
                    }
                    other => self.expr(other, schema, Some(of)),
                }
            }
            LogicalPlan::SubqueryAlias(alias) => self.column(&alias.input, place, of),
            LogicalPlan::Filter(filter) => self.column(&filter.input, place, of),
            LogicalPlan::Sort(sort) => self.column(&sort.input, place, of),
            LogicalPlan::Limit(limit) => self.column(&limit.input, place, of),
            LogicalPlan::Distinct(Distinct::All(input)) => self.column(input, place, of),
            LogicalPlan::Union(union) => {
                for input in &union.inputs {
                    self.column(input, place, of);
                }
            }
            LogicalPlan::Values(values) => {
                let nothing = DFSchema::empty();
                for expr in values.values.iter().filter_map(|row| row.get(place)) {
                    self.expr(expr, &nothing, Some(of));
                }
            }
            _ => {}
        }
    }

    /// An expression over columns, with the wanted type if it may have any.
    fn expr(&mut self, expr: &Expr, schema: &DFSchema, wanted: Option<&DataType>) {
        match expr {
            Expr::Placeholder(parameter) => {
                if let Some(of) = wanted.filter(|of| is_known(of)) {
                    let name = parameter.id.clone();
                    self.found.entry(name).or_insert_with(|| of.clone());
                }
            }
            Expr::Alias(alias) => self.expr(&alias.expr, schema, wanted),
            Expr::Cast(cast) => self.expr(&cast.expr, schema, Some(cast.field.data_type())),
            Expr::TryCast(cast) => self.expr(&cast.expr, schema, Some(cast.field.data_type())),
            Expr::Not(inner) => self.expr(inner, schema, Some(&DataType::Boolean)),
            Expr::BinaryExpr(binary) => self.binary(binary, schema, wanted),
            Expr::Case(case) => self.case(case, schema, wanted),
            Expr::ScalarFunction(call) => self.call(call, schema, wanted),
            Expr::Between(between) => {
                let all = [&between.expr, &between.low, &between.high];
                self.alike(&all.map(AsRef::as_ref), schema, None);
            }
            Expr::InList(list) => {
                let all: Vec<&Expr> = std::iter::once(list.expr.as_ref())
                    .chain(&list.list)
                    .collect();
                self.alike(&all, schema, None);
            }
            other => {
                // The closure does not fail.
                let _ = other.apply_children(|child| {
                    self.expr(child, schema, None);
                    Ok(TreeNodeRecursion::Continue)
                });
            }
        }
    }

    /// Expressions that must have one type.
    fn alike(&mut self, all: &[&Expr], schema: &DFSchema, wanted: Option<&DataType>) {
        let of = all.iter().find_map(|expr| known(expr, schema));
        let of = of.or_else(|| wanted.cloned());
        for expr in all {
            self.expr(expr, schema, of.as_ref());
        }
    }

    fn binary(&mut self, binary: &BinaryExpr, schema: &DFSchema, wanted: Option<&DataType>) {
        let BinaryExpr { left, op, right } = binary;
        if matches!(op, Operator::And | Operator::Or) {
            for side in [left, right] {
                self.expr(side, schema, Some(&DataType::Boolean));
            }
            return;
        }
        let span = match (left.as_ref(), right.as_ref()) {
            (Expr::Placeholder(span), time) if *op == Operator::Plus => Some((span, time)),
            (time, Expr::Placeholder(span)) => Some((span, time)),
            _ => None,
        };
        if let Some((span, time)) = span
            && is_span(*op, known(time, schema).as_ref(), wanted)
        {
            self.spans.push(span.id.clone());
            self.expr(time, schema, None);
            return;
        }
        let wanted = match op {
            Operator::Plus
            | Operator::Minus
            | Operator::Multiply
            | Operator::Divide
            | Operator::Modulo => wanted,
            _ => None,
        };
        let (of_left, of_right) = (known(left, schema), known(right, schema));
        self.expr(left, schema, of_right.as_ref().or(wanted));
        self.expr(right, schema, of_left.as_ref().or(wanted));
    }

    fn case(&mut self, case: &Case, schema: &DFSchema, wanted: Option<&DataType>) {
        let (whens, thens): (Vec<&Expr>, Vec<&Expr>) = case
            .when_then_expr
            .iter()
            .map(|(when, then)| (when.as_ref(), then.as_ref()))
            .unzip();
        match &case.expr {
            Some(expr) => {
                let all: Vec<&Expr> = std::iter::once(expr.as_ref()).chain(whens).collect();
                self.alike(&all, schema, None);
            }
            None => {
                for when in whens {
                    self.expr(when, schema, Some(&DataType::Boolean));
                }
            }
        }
        let all: Vec<&Expr> = thens.into_iter().chain(case.else_expr.as_deref()).collect();
        self.alike(&all, schema, wanted);
    }

    /// Arguments of a function have the types to which it would cast them; a list has the type of the values that it is
    /// compared with, as in `a = ANY (?)` and `a > ALL (?)`.
    fn call(&mut self, call: &ScalarFunction, schema: &DFSchema, wanted: Option<&DataType>) {
        let given: Vec<DataType> = call
            .args
            .iter()
            .map(|argument| known(argument, schema).unwrap_or(DataType::Null))
            .collect();
        let taken = arguments(call, &given);
        for (place, argument) in call.args.iter().enumerate() {
            let of = taken
                .get(place)
                .filter(|of| is_known(of) && !of.is_nested());
            let of = of.map(|of| match of {
                // For any unit that the function would take.
                DataType::Timestamp(..) => timestamp_type(),
                other => other.clone(),
            });
            let of = match (of, argument) {
                (None, Expr::Placeholder(_)) => list_of_argument(call, &given, place, wanted)
                    .or_else(|| of_argument(call, &given, place)),
                (of, _) => of,
            };
            self.expr(argument, schema, of.as_ref());
        }
    }
}

/// The types to which a function casts its arguments; empty if it refuses them.
fn arguments(call: &ScalarFunction, given: &[DataType]) -> Vec<DataType> {
    let fields: Vec<FieldRef> = given
        .iter()
        .map(|of| Arc::new(Field::new("argument", of.clone(), true)))
        .collect();
    let taken = fields_with_udf(&fields, call.func.as_ref()).unwrap_or_default();
    taken
        .iter()
        .map(|field| field.data_type().clone())
        .collect()
}

/// The type of a list that a function compares with a value, or searches for the least or the greatest one.
fn list_of_argument(
    call: &ScalarFunction,
    given: &[DataType],
    place: usize,
    wanted: Option<&DataType>,
) -> Option<DataType> {
    let element = match (call.name(), place) {
        ("array_has" | "array_position" | "array_positions", 0) => given.get(1),
        // Comparisons with ANY and ALL: how, a list, a value.
        ("list_compare", 1) => given.get(2),
        ("array_min" | "array_max", 0) => wanted,
        _ => None,
    };
    let element = element.filter(|of| is_known(of))?;
    Some(DataType::new_list(element.clone(), true))
}

/// The type of an argument that a function takes without a cast. A function of texts determines no type.
fn of_argument(call: &ScalarFunction, given: &[DataType], place: usize) -> Option<DataType> {
    for of in [
        DataType::Utf8,
        DataType::Int64,
        DataType::Float64,
        timestamp_type(),
    ] {
        let mut tried = given.to_vec();
        if let Some(argument) = tried.get_mut(place) {
            *argument = of.clone();
        }
        if arguments(call, &tried).get(place) == Some(&of) {
            return (of != DataType::Utf8).then_some(of);
        }
    }
    None
}

/// The type of an expression that does not depend on a parameter's type.
fn known(expr: &Expr, schema: &DFSchema) -> Option<DataType> {
    if matches!(expr, Expr::Placeholder(_)) {
        return None;
    }
    expr.get_type(schema).ok().filter(is_known)
}

fn is_known(of: &DataType) -> bool {
    *of != DataType::Null
}

/// Whether an operand of unknown type beside a time is an interval. The difference of two times is one as well.
fn is_span(op: Operator, time: Option<&DataType>, wanted: Option<&DataType>) -> bool {
    let is_difference = matches!(wanted, Some(DataType::Interval(_) | DataType::Duration(_)));
    match (op, time) {
        (Operator::Plus, Some(DataType::Timestamp(..) | DataType::Date32)) => true,
        (Operator::Minus, Some(DataType::Timestamp(..))) => !is_difference,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::planner::{RawStatement, Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    const TABLE: &str = "CREATE TABLE q AS SELECT CAST(1 AS INT) AS a, CAST('x' AS VARCHAR) AS s, \
        DATE '2025-01-01' AS d, TIMESTAMP '2025-01-01T00:00:00' AS ts, CAST(1.5 AS DOUBLE) AS f";

    fn raw(sql: &str) -> RawStatement {
        let mut raw = Script::new("test", sql).split().unwrap().remove(0);
        raw.number_parameters();
        raw
    }

    /// The types by number, `-` for an unknown one.
    async fn announced(session: &Session, sql: &str) -> String {
        let raw = raw(sql);
        let types = session
            .parameter_types(&parse_statement(&raw).unwrap())
            .await;
        let all = (1..=sql.matches('?').count()).map(|number| {
            let of = types.get(&number.to_string());
            of.map_or_else(|| "-".to_owned(), ToString::to_string)
        });
        all.collect::<Vec<_>>().join(", ")
    }

    #[tokio::test]
    async fn parameters_have_the_types_of_their_operands() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let table = parse_statement(&raw(TABLE)).unwrap();
        session.collect(table).await.unwrap();
        let time = "Timestamp(µs, \"UTC\")";
        let span = "Interval(MonthDayNano)";
        for (sql, expected) in [
            ("SELECT a FROM q WHERE a = ? AND s > ?", "Int32, Utf8"),
            ("SELECT a FROM q LIMIT ? OFFSET ?", "Int64, Int64"),
            ("SELECT a FROM q FETCH FIRST ? ROWS ONLY", "Int64"),
            (
                "INSERT INTO q (a, d, ts) SELECT ?, ?, ?",
                &format!("Int32, Date32, {time}"),
            ),
            (
                "INSERT INTO q (ts, f) SELECT ts, ? FROM (SELECT ts FROM q) AS p WHERE ts < ?",
                &format!("Float64, {time}"),
            ),
            ("INSERT INTO q (f) SELECT ? UNION ALL SELECT 2.5", "Float64"),
            ("INSERT INTO q (a) VALUES (?)", "Int32"),
            ("SELECT coalesce(a, ?) FROM q", "Int32"),
            (
                "SELECT greatest(a, ?), least(f, ?) FROM q",
                "Int32, Float64",
            ),
            (
                "SELECT substr(s, ?), substr(s, 1, ?) FROM q",
                "Int64, Int64",
            ),
            ("SELECT a FROM q WHERE (a, d) = (?, ?)", "Int32, Date32"),
            ("SELECT CASE WHEN a > 1 THEN ? ELSE a END FROM q", "Int32"),
            (
                "SELECT CASE a WHEN ? THEN d ELSE ? END FROM q",
                "Int32, Date32",
            ),
            (
                "SELECT a FROM q WHERE a = CASE WHEN d > ? THEN ? END",
                "Date32, Int32",
            ),
            ("SELECT a FROM q WHERE a BETWEEN ? AND ?", "Int32, Int32"),
            ("SELECT a FROM q WHERE ts > now() - ?", span),
            (
                "SELECT a FROM q WHERE ts + ? > ?",
                &format!("{span}, {time}"),
            ),
            ("SELECT ts - ? FROM q", span),
            ("SELECT a FROM q WHERE ts - ? > INTERVAL '1 day'", time),
            ("SELECT CAST(? AS BIGINT)", "Int64"),
            ("EXPLAIN SELECT CAST(? AS BIGINT)", "Int64"),
            ("SELECT a FROM q UNION ALL SELECT ?", "Int32"),
            ("SELECT ts + ? FROM q", span),
            ("SELECT a FROM q WHERE a IN (?, ?)", "Int32, Int32"),
            ("SELECT a FROM q WHERE d NOT IN (?)", "Date32"),
            ("SELECT a FROM q WHERE a = ANY(?)", "List(Int32)"),
            (
                "SELECT a FROM q WHERE d = SOME(?) AND s <> ALL(?)",
                "List(Date32), List(Utf8)",
            ),
            (
                "SELECT a FROM q WHERE a <> ANY(?) AND d > SOME(?) AND ts <= ALL(?)",
                &format!("List(Int32), List(Date32), List({time})"),
            ),
            (
                "SELECT a FROM q WHERE f = ALL(?) AND NOT s < ANY(?)",
                "List(Float64), List(Utf8)",
            ),
            (
                "SELECT a FROM q WHERE ? = ANY([a]) AND ? > SOME([d]) AND ? <= ALL([a])",
                "Int32, Date32, Int32",
            ),
            // Of any type: it is text.
            ("SELECT ? FROM q", "-"),
        ] {
            let announced = announced(&session, sql).await;
            assert_eq!(announced, expected, "{sql}");
        }
    }
}
