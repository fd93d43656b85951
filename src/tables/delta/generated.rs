//! Generated columns: their SQL text, planned to run over a batch, and the part of a time that the text computes.
//!
//! The text may be ours or Spark's: `YEAR(ts)`, `DATE_FORMAT(ts, 'yyyy-MM')` and their like are
//! rewritten to the functions of this engine. Names are compared without regard to case, as Spark
//! does, and everything is evaluated in UTC.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use anabranch_udfs::{WalkMut, before_types_of_table, checked_of_table, equal_zeros, expr_text};
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::util::display::FormatOptions;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::ast::{
    self, Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Value,
    VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use deltalake::delta_datafusion::create_session;
use deltalake::delta_datafusion::expr::parse_predicate_expression;

use super::time_shape::{TimeShape, string_literal, time_shape};
use crate::core::stack::with_stack;
use crate::error::{Error, Result, Subject};

/// Table expressions are planned here and not in the user's session: the meaning of a table's metadata must not depend
/// on a session's functions and settings.
static PLANNER: LazyLock<SessionState> = LazyLock::new(|| create_session().state());

/// One generated column, ready to run.
#[derive(Debug, Clone)]
pub(super) struct GeneratedColumn {
    pub(super) name: String,
    /// Its index in the table's schema.
    pub(super) index: usize,
    /// The text, as the table stores it.
    pub(super) text: String,
    /// The time column and the part of it, if the column is a part of one time column.
    pub(super) shape: Option<TimeShape>,
    expression: TableExpr,
}

impl GeneratedColumn {
    /// Plans the `text` of the generated column `name` over the columns of `schema`.
    ///
    /// # Errors
    ///
    /// The text is not an expression, names a column that is missing, itself or another
    /// generated one (`generated`), gives another type, or differs from run to run.
    pub(super) fn plan(
        name: &str,
        text: &str,
        schema: &SchemaRef,
        generated: &[&str],
    ) -> Result<Self> {
        let context = |error: Error| {
            error
                .context(format!("generated column '{name}'"))
                .within(Subject::column(name))
        };
        let index = schema
            .index_of(name)
            .map_err(|_| context(Error::internal("is not in the table's schema")))?;
        let declared = schema.field(index).data_type();
        let mut expression = TableExpr::plan(text, schema).map_err(context)?;
        if !same_delta_type(declared, &expression.data_type()?) {
            // Tables that were made when numbers with a point were DOUBLE.
            expression =
                TableExpr::plan_with(text, schema, NumberLiterals::Doubles).map_err(context)?;
        }
        if let Some(source) = expression
            .sources
            .iter()
            .find(|s| generated.contains(&s.as_str()))
        {
            return Err(context(
                Error::invalid(format!(
                    "its expression uses '{source}', which is itself generated"
                ))
                .about(Subject::text(source)),
            ));
        }
        let given = expression.data_type()?;
        if !same_delta_type(declared, &given) {
            return Err(context(
                Error::invalid(format!("'{text}' gives {given}, the column is {declared}"))
                    .about(Subject::text(text))
                    .with_help("wrap the expression in CAST(… AS …)"),
            ));
        }
        let shape = time_shape(&expression.ast, schema);
        Ok(Self {
            name: name.to_owned(),
            index,
            text: text.to_owned(),
            shape,
            expression,
        })
    }

    /// The columns of the table it belongs to.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.expression.schema)
    }

    /// The column's values for the rows of `batch`, which has the table's columns in order.
    ///
    /// # Errors
    ///
    /// A row for which the expression cannot be evaluated.
    pub(super) fn evaluate(&self, batch: &RecordBatch, to: &DataType) -> Result<ArrayRef> {
        let values = self.expression.evaluate(batch)?;
        if values.data_type() == to {
            return Ok(values);
        }
        let strict = CastOptions {
            safe: false,
            format_options: FormatOptions::default(),
        };
        Ok(cast_with_options(&values, to, &strict)
            .map_err(datafusion::error::DataFusionError::from)?)
    }
}

/// A SQL expression of a table's metadata, planned over the table's columns.
#[derive(Debug, Clone)]
pub(super) struct TableExpr {
    /// Rewritten to this engine's functions, with names as the schema spells them.
    ast: SqlExpr,
    /// The columns it reads.
    sources: Vec<String>,
    physical: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
}

impl TableExpr {
    /// Plans `text` over the columns of `schema`.
    pub(super) fn plan(text: &str, schema: &SchemaRef) -> Result<Self> {
        Self::plan_with(text, schema, NumberLiterals::Decimals)
    }

    fn plan_with(text: &str, schema: &SchemaRef, numbers: NumberLiterals) -> Result<Self> {
        let ast = parse(text, schema)?;
        let mut planned = ast.clone();
        if numbers == NumberLiterals::Decimals {
            let _ = planned.walk_mut(&mut DecimalLiterals);
        }
        // A value that is still to be checked may be null in any column.
        let nullable: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        let schema = Arc::new(Schema::new(nullable));
        let columns = DFSchema::try_from(Arc::clone(&schema))?;
        let expr = parse_predicate_expression(&columns, expr_text(&planned), &*PLANNER).map_err(
            |error| {
                Error::invalid(format!("'{text}' cannot be planned: {error}"))
                    .about(Subject::text(text))
            },
        )?;
        refuse_changing(&expr, text)?;
        let sources = expr
            .column_refs()
            .iter()
            .map(|column| column.name.clone())
            .collect();
        let physical = PLANNER.create_physical_expr(arithmetic(expr, &columns)?, &columns)?;
        Ok(Self {
            ast,
            sources,
            physical,
            schema,
        })
    }

    /// The type it gives.
    pub(super) fn data_type(&self) -> Result<DataType> {
        Ok(self.physical.data_type(&self.schema)?)
    }

    /// Its value for each row of `batch`.
    pub(super) fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        Ok(self
            .physical
            .evaluate(batch)?
            .into_array(batch.num_rows())?)
    }
}

/// The type of number literals with a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberLiterals {
    /// Exact, as in all other SQL.
    Decimals,
    Doubles,
}

/// Makes numbers with a point, and no exponent, decimals (VALUE-1): the library's planner reads DOUBLE.
struct DecimalLiterals;

impl VisitorMut for DecimalLiterals {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
        let SqlExpr::Value(value) = expr else {
            return ControlFlow::Continue(());
        };
        let Value::Number(number, _) = &value.value else {
            return ControlFlow::Continue(());
        };
        let Some((whole, fraction)) = number.split_once('.') else {
            return ControlFlow::Continue(());
        };
        let is_exact = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        let scale = fraction.len();
        let precision = whole.trim_start_matches('0').len() + scale;
        if is_exact(whole) && is_exact(fraction) && (1..=38).contains(&precision) {
            let digits = ast::ExactNumberInfo::PrecisionAndScale(precision as u64, scale as i64);
            *expr = SqlExpr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(SqlExpr::value(Value::SingleQuotedString(number.clone()))),
                data_type: ast::DataType::Decimal(digits),
                array: false,
                format: None,
            };
        }
        ControlFlow::Continue(())
    }
}

/// The expression with arithmetic that refuses a result out of range (VALUE-1), and with one zero.
fn arithmetic(expr: Expr, columns: &DFSchema) -> Result<Expr> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(columns.clone()))
        .build();
    let expr = before_types_of_table(expr, columns)?;
    let expr = ExprSimplifier::new(context).coerce(expr, columns)?;
    Ok(equal_zeros(checked_of_table(expr, columns)?, columns)?)
}

/// The text as it is stored in a table that is created: quoted names as Spark quotes them.
///
/// # Errors
///
/// The text is not an expression; or it would be read as another one.
pub(super) fn storable(text: &str) -> Result<String> {
    struct BacktickNames;
    impl VisitorMut for BacktickNames {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
            if let SqlExpr::Identifier(name) = expr {
                quote(name);
            } else if let SqlExpr::CompoundIdentifier(names) = expr {
                names.iter_mut().for_each(quote);
            }
            ControlFlow::Continue(())
        }
    }
    fn quote(name: &mut Ident) {
        if name.quote_style.is_some() {
            name.quote_style = Some('`');
        }
    }
    let mut ast = parse_sql(text)?;
    let _ = ast.walk_mut(&mut BacktickNames);
    let stored = expr_text(&ast);
    match parse_sql(&stored)? == ast {
        true => Ok(stored),
        false => Err(Error::unsupported(format!(
            "'{text}' has a text or a name with quotes that cannot be kept as it is written"
        ))
        .about(Subject::text(text))
        .with_help("write it without several quotes in a row")),
    }
}

/// Whether two texts are the same expression, up to letter case of names, quotes and white space.
pub(super) fn same_expression(left: &str, right: &str, schema: &SchemaRef) -> bool {
    match (parse(left, schema), parse(right, schema)) {
        (Ok(left), Ok(right)) => expr_text(&left).eq_ignore_ascii_case(&expr_text(&right)),
        _ => left == right,
    }
}

/// Whether Delta stores both Arrow types as the same type.
pub(crate) fn same_delta_type(left: &DataType, right: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Dictionary, FixedSizeBinary, LargeBinary, LargeList, LargeUtf8, List,
        ListView, Map, Struct, Utf8, Utf8View,
    };
    let text = |t: &DataType| matches!(t, Utf8 | LargeUtf8 | Utf8View);
    let bytes = |t: &DataType| matches!(t, Binary | LargeBinary | BinaryView | FixedSizeBinary(_));
    match (left, right) {
        (Dictionary(_, left), right) | (right, Dictionary(_, left)) => same_delta_type(left, right),
        (left, right) if text(left) && text(right) => true,
        (left, right) if bytes(left) && bytes(right) => true,
        (
            List(left) | LargeList(left) | ListView(left),
            List(right) | LargeList(right) | ListView(right),
        ) => same_delta_type(left.data_type(), right.data_type()),
        (Struct(left), Struct(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| {
                    left.name() == right.name()
                        && same_delta_type(left.data_type(), right.data_type())
                })
        }
        (Map(left, _), Map(right, _)) => match (left.data_type(), right.data_type()) {
            // The names of a map's two fields are not part of its type.
            (Struct(left), Struct(right)) => left
                .iter()
                .zip(right)
                .all(|(left, right)| same_delta_type(left.data_type(), right.data_type())),
            _ => false,
        },
        (DataType::Timestamp(_, left), DataType::Timestamp(_, right)) => {
            left.is_some() == right.is_some()
        }
        (left, right) => left == right,
    }
}

fn parse_sql(text: &str) -> Result<SqlExpr> {
    check_size(text)?;
    with_stack(|| parse_checked(text))
}

/// The text may be of a table that others have made: the parser recurses with brackets, tries other readings of a wrong text
/// at each of them, and makes a tree that is as deep as a chain is long.
fn check_size(text: &str) -> Result<()> {
    const LENGTH: usize = 8_000;
    const NESTING: usize = 16;
    let (mut open, mut deepest) = (0_usize, 0);
    for character in text.chars() {
        match character {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    if text.len() > LENGTH || deepest > NESTING {
        return Err(Error::unsupported(
            "an expression of the table is too long or nested too deep",
        )
        .with_help(format!(
            "at most {LENGTH} bytes and {NESTING} nested brackets are allowed"
        )));
    }
    Ok(())
}

fn parse_checked(text: &str) -> Result<SqlExpr> {
    let dialect = GenericDialect {};
    let bad = |error: String| {
        Error::invalid(format!("'{text}' is not an expression: {error}")).about(Subject::text(text))
    };
    let mut parser = Parser::new(&dialect)
        .try_with_sql(text)
        .map_err(|error| bad(error.to_string()))?;
    let ast = parser
        .parse_expr()
        .map_err(|error| bad(error.to_string()))?;
    match parser.peek_token().token {
        datafusion::sql::sqlparser::tokenizer::Token::EOF => Ok(ast),
        rest => Err(bad(format!("'{rest}' is left over"))),
    }
}

/// Parses, finds the columns, and rewrites Spark's functions.
fn parse(text: &str, schema: &SchemaRef) -> Result<SqlExpr> {
    let mut ast = parse_sql(text)?;
    match ast.walk_mut(&mut SparkRewrite { schema }) {
        ControlFlow::Continue(()) => Ok(ast),
        ControlFlow::Break(error) => Err(error),
    }
}

struct SparkRewrite<'a> {
    schema: &'a SchemaRef,
}

impl VisitorMut for SparkRewrite<'_> {
    type Break = Error;

    fn post_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<Error> {
        let done = match expr {
            SqlExpr::Identifier(name) => self.resolve(name),
            SqlExpr::CompoundIdentifier(names) => match names.first_mut() {
                Some(first) => self.resolve(first),
                None => Ok(()),
            },
            SqlExpr::Function(function) => match from_spark(function) {
                Ok(Some(rewritten)) => {
                    *expr = rewritten;
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
            _ => Ok(()),
        };
        match done {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl SparkRewrite<'_> {
    fn resolve(&self, name: &mut Ident) -> Result<()> {
        let names = || self.schema.fields().iter().map(|field| field.name());
        let found = names()
            .find(|column| **column == name.value)
            .or_else(|| names().find(|column| column.eq_ignore_ascii_case(&name.value)));
        match found {
            Some(column) => {
                *name = Ident::with_quote('"', column);
                Ok(())
            }
            None => Err(
                Error::invalid(format!("the table has no column '{}'", name.value))
                    .about(Subject::column(&name.value)),
            ),
        }
    }
}

/// Spark's spelling of a function in this engine's, or `None` if it needs no change.
fn from_spark(function: &ast::Function) -> Result<Option<SqlExpr>> {
    let Some(arguments) = plain_arguments(function) else {
        return Ok(None);
    };
    let name = function.name.to_string().to_ascii_lowercase();
    let part = match name.as_str() {
        "year" | "quarter" | "month" | "hour" | "minute" | "second" => name.as_str(),
        "weekofyear" => "week",
        "day" | "dayofmonth" => "day",
        "dayofyear" => "doy",
        _ => "",
    };
    let text = match (name.as_str(), arguments.as_slice()) {
        (_, [source]) if !part.is_empty() => {
            format!("CAST(date_part('{part}', {source}) AS INT)")
        }
        ("date" | "to_date", [source]) => format!("CAST({source} AS DATE)"),
        ("trunc", [source, unit]) => {
            let Some(unit) = string_literal(unit) else {
                return Ok(None);
            };
            format!(
                "CAST(date_trunc('{}', {source}) AS DATE)",
                trunc_unit(unit)?
            )
        }
        ("date_trunc", [unit, source]) => {
            let Some(unit) = string_literal(unit) else {
                return Ok(None);
            };
            format!("date_trunc('{}', {source})", trunc_unit(unit)?)
        }
        ("date_format", [source, pattern]) => {
            let Some(pattern) = string_literal(pattern) else {
                return Ok(None);
            };
            format!("to_char({source}, '{}')", strftime(pattern)?)
        }
        _ => return Ok(None),
    };
    parse_sql(&text).map(Some)
}

fn plain_arguments(function: &ast::Function) -> Option<Vec<&SqlExpr>> {
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    list.args
        .iter()
        .map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
            _ => None,
        })
        .collect()
}

fn trunc_unit(unit: &str) -> Result<&'static str> {
    Ok(match unit.to_ascii_lowercase().as_str() {
        "year" | "yyyy" | "yy" => "year",
        "quarter" => "quarter",
        "month" | "mon" | "mm" => "month",
        "week" => "week",
        "day" | "dd" => "day",
        "hour" => "hour",
        "minute" => "minute",
        "second" => "second",
        _ => {
            return Err(
                Error::unsupported(format!("time cannot be truncated to '{unit}'"))
                    .about(Subject::text(unit)),
            );
        }
    })
}

/// Java's date pattern in the letters of `to_char`.
fn strftime(pattern: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let length = rest.chars().take_while(|c| *c == first).count();
        if first.is_ascii_alphabetic() {
            out.push_str(match &rest[..length] {
                "yyyy" => "%Y",
                "MM" => "%m",
                "dd" => "%d",
                "HH" => "%H",
                "mm" => "%M",
                "ss" => "%S",
                other => {
                    return Err(Error::unsupported(format!(
                        "the pattern '{other}' of DATE_FORMAT is not supported"
                    ))
                    .about(Subject::text(other))
                    .with_help("yyyy, MM, dd, HH, mm and ss are"));
                }
            });
            rest = &rest[length..];
        } else {
            match first {
                '%' => out.push_str("%%"),
                '\'' => {
                    return Err(Error::unsupported(
                        "quotes in a pattern of DATE_FORMAT are not supported",
                    ));
                }
                other => out.push(other),
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    Ok(out)
}

/// Refuses expressions that are not immutable: a stored value must be the same each time that it is computed.
fn refuse_changing(expr: &Expr, text: &str) -> Result<()> {
    let mut changing = None;
    expr.apply(|node| {
        if let Expr::ScalarFunction(call) = node
            && call.func.signature().volatility != Volatility::Immutable
        {
            changing = Some(call.func.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match changing {
        Some(name) => Err(Error::invalid(format!(
            "'{text}' uses {name}(), which does not always give the same for the same row"
        ))
        .about(Subject::text(text))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_text_is_the_expression() {
        for (text, stored) in [
            ("x || ''''''", "x || ''''''"),
            (r#""a b" || ''''"#, r"`a b` || ''''"),
            (r#"x || N'it''s'"#, "x || N'it''s'"),
        ] {
            assert_eq!(storable(text).unwrap(), stored);
            assert_eq!(storable(stored).unwrap(), stored);
        }
    }

    #[test]
    fn foreign_expressions_are_limited() {
        for deep in [
            format!("{}1{}", "(".repeat(100), ")".repeat(100)),
            format!("{}1 1{}", "CAST(".repeat(40), " AS INT)".repeat(40)),
            format!("1{}", " + 1".repeat(100_000)),
            format!("{}1", "NOT ".repeat(50_000)),
        ] {
            assert!(parse_sql(&deep).is_err(), "{}", &deep[..20]);
        }
        // Refused or read: at once, and with room on the stack.
        for wide in [
            format!("1{}", "+1".repeat(3_900)),
            format!("{}1", "-".repeat(7_900)),
            format!("{}1 1{}", "CAST(".repeat(16), " AS INT)".repeat(16)),
            format!("CAST(1 AS {}INT)", "ARRAY<".repeat(1_300)),
        ] {
            let _ = parse_sql(&wide);
        }
        assert!(parse_sql("a > 1 AND (b < 2 OR c IS NULL)").is_ok());
    }
}
