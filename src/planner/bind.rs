//! Parameters: `$name` in the syntax tree becomes a literal node. Text is never spliced.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use anabranch_udfs::WalkMut;
use datafusion::sql::parser::{CopyToSource, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{Expr, Query, TableFactor, Value, ValueWithSpan, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

use crate::core::suggest::closest;
use crate::error::{Error, Result};
use crate::planner::ast::{
    ColumnKind, JobStatement, ParsedStatement, RunStatement, Statement, TableOption, TextValue,
};
use crate::planner::bound_text::BoundText;
use crate::planner::parse::parse_statement;
use crate::planner::script::{RawStatement, Script};
use crate::planner::statement_class::StatementClass;
use crate::planner::value::BoundValue;

/// Values for `$name`, and which of them were used.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    values: BTreeMap<String, ParameterValue>,
    used: BTreeSet<String>,
    /// The values bound in the last statement, by place.
    bound: BTreeMap<Location, BoundValue>,
}

/// A parameter's value as it was given.
#[derive(Debug, Clone)]
enum ParameterValue {
    /// As text, which is read as a literal.
    Text(String),
    /// With its type.
    Value(Box<BoundValue>),
}

impl ParameterValue {
    fn value(&self) -> BoundValue {
        match self {
            ParameterValue::Text(text) => BoundValue {
                plain: literal(text),
                typed: None,
            },
            ParameterValue::Value(value) => (**value).clone(),
        }
    }

    fn text(&self) -> String {
        match self {
            ParameterValue::Text(text) => unquote(text).unwrap_or(text).to_owned(),
            ParameterValue::Value(value) => match &value.plain {
                Value::Number(number, _) => number.clone(),
                plain => {
                    let text = plain.clone().into_string();
                    text.unwrap_or_else(|| plain.to_string())
                }
            },
        }
    }
}

impl Parameters {
    /// Sets a value; one set before is replaced.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.values
            .insert(name.into(), ParameterValue::Text(value.into()));
    }

    /// Sets a value that keeps its type; one set before is replaced.
    pub fn set_value(&mut self, name: impl Into<String>, value: BoundValue) {
        self.values
            .insert(name.into(), ParameterValue::Value(Box::new(value)));
    }

    /// Names and values of the parameters that were given as text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().filter_map(|(name, value)| match value {
            ParameterValue::Text(text) => Some((name.as_str(), text.as_str())),
            ParameterValue::Value(_) => None,
        })
    }

    /// The names that no statement has used so far.
    pub fn unused(&self) -> Vec<&str> {
        self.values
            .keys()
            .filter(|name| !self.used.contains(*name))
            .map(String::as_str)
            .collect()
    }

    /// Binds every `$name` of the statement.
    ///
    /// # Errors
    /// A parameter without a value, with its place.
    pub fn bind(&mut self, parsed: &mut ParsedStatement) -> Result<()> {
        self.bound.clear();
        let bound = self.statement(&mut parsed.statement);
        bound.map_err(|error| parsed.places.locate(error))
    }

    fn statement(&mut self, statement: &mut Statement) -> Result<()> {
        match statement {
            Statement::CreateTable(table) => {
                self.text(&mut table.location)?;
                self.options(&mut table.options)?;
                if let Some((_, expr)) = &mut table.watermark {
                    self.node(expr)?;
                }
                for column in &mut table.columns {
                    if let ColumnKind::Generated { expr, .. } = &mut column.kind {
                        self.node(expr.as_mut())?;
                    }
                }
                Ok(())
            }
            Statement::CreateView(view) => self.node(&mut view.query),
            Statement::Vacuum {
                retain_hours: Some(text),
                ..
            }
            | Statement::KillQuery(text) => self.text(text),
            Statement::Job(job) => self.job(job),
            Statement::Run(run) => self.run(run),
            Statement::Sql(sql) | Statement::DescribeQuery(sql) | Statement::Summarize(sql) => {
                self.sql(sql)
            }
            Statement::Vacuum { .. }
            | Statement::ShowTables
            | Statement::ShowQueries
            | Statement::Describe(_)
            | Statement::ShowCreateTable(_)
            | Statement::Optimize { .. }
            | Statement::History(_) => Ok(()),
        }
    }

    /// Binds every `$name` of the statement; returns its text with the values as literals, for a parser that reads the text
    /// again. A definition keeps that text: it must not ask for values again.
    ///
    /// # Errors
    /// A parameter without a value, with its place.
    pub fn bind_text(
        &mut self,
        raw: &RawStatement,
        parsed: &mut ParsedStatement,
    ) -> Result<BoundText> {
        self.bind(parsed)?;
        let placeholders = raw.tokens.iter().filter_map(|token| match &token.token {
            Token::Placeholder(name) => Some((name, token.span)),
            _ => None,
        });
        let mut has_parameters = false;
        for (name, span) in placeholders {
            has_parameters = true;
            // A value whose place the syntax tree does not hold.
            if !self.bound.contains_key(&span.start) {
                let value = self.lookup(name).map_err(|error| error.at(span))?.value();
                self.bound.insert(span.start, value);
            }
        }
        let bound = BoundText::new(raw, &self.bound);
        if has_parameters && parsed.effect.class == StatementClass::Definition {
            let kept = Script::new("bound", bound.text()).split()?;
            if let [kept] = kept.as_slice() {
                parsed.text = parse_statement(kept)?.text;
            }
        }
        Ok(bound)
    }

    fn job(&mut self, job: &mut JobStatement) -> Result<()> {
        match job {
            JobStatement::Create {
                options, insert, ..
            } => {
                self.options(options)?;
                self.sql(insert)
            }
            JobStatement::Rewind { batch, .. }
            | JobStatement::Describe {
                batch: Some(batch), ..
            } => self.text(batch),
            JobStatement::Subscribe { options, query, .. } => {
                self.options(options)?;
                self.sql(query)
            }
            JobStatement::Resume {
                assuming: Some((batch, _)),
                ..
            } => self.text(batch),
            _ => Ok(()),
        }
    }

    fn run(&mut self, run: &mut RunStatement) -> Result<()> {
        match run {
            RunStatement::Explain(asked)
            | RunStatement::Plan(asked)
            | RunStatement::Reprocess(asked) => {
                for range in [&mut asked.time, &mut asked.offsets].into_iter().flatten() {
                    self.text(&mut range.from)?;
                    self.text(&mut range.to)?;
                }
                if let Some(rows) = &mut asked.rows {
                    self.node(&mut rows.query)?;
                }
                self.options(&mut asked.options)
            }
            RunStatement::Apply(run_id)
            | RunStatement::Abort(run_id)
            | RunStatement::Describe(run_id) => self.text(run_id),
            RunStatement::Show(_) => Ok(()),
        }
    }

    fn sql(&mut self, statement: &mut SqlStatement) -> Result<()> {
        match statement {
            SqlStatement::Statement(ansi) => self.node(ansi.as_mut()),
            SqlStatement::Explain(explain) => self.sql(&mut explain.statement),
            SqlStatement::CopyTo(copy) => {
                if let CopyToSource::Query(query) = &mut copy.source {
                    self.node(query)?;
                }
                copy.options
                    .iter_mut()
                    .try_for_each(|(_, value)| self.value(value))
            }
            SqlStatement::CreateExternalTable(table) => table
                .options
                .iter_mut()
                .try_for_each(|(_, value)| self.value(value)),
            SqlStatement::Reset(_) => Ok(()),
        }
    }

    fn options(&mut self, options: &mut [TableOption]) -> Result<()> {
        options
            .iter_mut()
            .try_for_each(|option| self.text(&mut option.value))
    }

    fn text(&mut self, text: &mut TextValue) -> Result<()> {
        if text.is_parameter {
            let value = self
                .lookup(&text.value)
                .map_err(|error| error.at(text.span))?;
            text.value = value.text();
            text.is_parameter = false;
            let bound = BoundValue {
                plain: Value::SingleQuotedString(text.value.clone()),
                typed: None,
            };
            self.bound.insert(text.span.start, bound);
        }
        Ok(())
    }

    fn value(&mut self, value: &mut Value) -> Result<()> {
        if let Value::Placeholder(name) = value {
            *value = self.lookup(name)?.value().plain;
        }
        Ok(())
    }

    fn node(&mut self, node: &mut impl WalkMut) -> Result<()> {
        let mut binder = ParameterBinder {
            parameters: self,
            in_arguments: vec![false],
        };
        match node.walk_mut(&mut binder) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn lookup(&mut self, placeholder: &str) -> Result<&ParameterValue> {
        let name = placeholder.trim_start_matches('$');
        let Some(value) = self.values.get(name) else {
            let known = self.values.keys().map(String::as_str);
            let help = match closest(name, known) {
                Some(near) => format!("did you mean ${near}?"),
                None => format!("give it with --param {name}=VALUE"),
            };
            return Err(Error::invalid(format!("parameter ${name} has no value")).with_help(help));
        };
        self.used.insert(name.to_owned());
        Ok(value)
    }
}

struct ParameterBinder<'a> {
    parameters: &'a mut Parameters,
    /// For each query and call in FROM that the visitor is in, whether it is in the arguments of the call: these are literals.
    in_arguments: Vec<bool>,
}

impl ParameterBinder<'_> {
    fn bind(&mut self, value: &ValueWithSpan) -> Result<Option<BoundValue>> {
        let Value::Placeholder(name) = &value.value else {
            return Ok(None);
        };
        let given = self.parameters.lookup(name);
        let bound = given.map_err(|error| error.at(value.span))?.value();
        let places = &mut self.parameters.bound;
        places.insert(value.span.start, bound.clone());
        Ok(Some(bound))
    }

    fn expr(&mut self, expr: &mut Expr) -> Result<()> {
        match expr {
            Expr::Value(value) => {
                let wants_literal = self.in_arguments.last().copied().unwrap_or(false);
                match self.bind(value)? {
                    Some(bound) if wants_literal => value.value = bound.plain,
                    Some(bound) => match bound.typed {
                        Some(typed) => *expr = typed,
                        None => value.value = bound.plain,
                    },
                    None => {}
                }
            }
            // After INTERVAL the grammar takes a literal only.
            Expr::Interval(interval) => {
                if let Expr::Value(value) = interval.value.as_mut()
                    && let Some(bound) = self.bind(value)?
                {
                    value.value = bound.plain;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl VisitorMut for ParameterBinder<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.in_arguments.push(false);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.in_arguments.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        self.in_arguments.push(!matches!(
            factor,
            TableFactor::Table { args: None, .. } | TableFactor::Derived { .. }
        ));
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, _: &mut TableFactor) -> ControlFlow<Error> {
        self.in_arguments.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match self.expr(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<Error> {
        match self.bind(value) {
            Ok(Some(bound)) => value.value = bound.plain,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

/// A number, a boolean or NULL if the text is one; `'…'` forces text, `X'…'` is bytes; any other text stays text.
fn literal(value: &str) -> Value {
    if let Some(hex) = value.strip_prefix('X').and_then(unquote)
        && hex.bytes().all(|digit| digit.is_ascii_hexdigit())
    {
        return Value::HexStringLiteral(hex.to_owned());
    }
    if let Some(text) = unquote(value) {
        return Value::SingleQuotedString(text.to_owned());
    }
    match value {
        "true" | "false" => Value::Boolean(value == "true"),
        "null" | "NULL" => Value::Null,
        _ if is_number(value) => Value::Number(value.to_owned(), false),
        _ => Value::SingleQuotedString(value.to_owned()),
    }
}

fn unquote(value: &str) -> Option<&str> {
    value.strip_prefix('\'')?.strip_suffix('\'')
}

/// A plain decimal number, without the leading zeros that identifiers have.
fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits(whole) && all_digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(sql: &str, values: &[(&str, &str)]) -> Result<String> {
        let raw = Script::new("t", sql).split()?.remove(0);
        let mut parsed = parse_statement(&raw)?;
        let mut parameters = Parameters::default();
        for (name, value) in values {
            parameters.set(*name, *value);
        }
        parameters.bind(&mut parsed)?;
        match parsed.statement {
            Statement::Sql(sql) => Ok(sql.to_string()),
            other => Ok(format!("{other:?}")),
        }
    }

    #[test]
    fn binds_wherever_a_literal_may_stand() {
        let sql = "SELECT $a, INTERVAL $i, TIMESTAMP $t FROM f($a) WHERE x IN ($a, $b) LIMIT $n";
        let values = [
            ("a", "x' OR 1=1 --"),
            ("b", "-2"),
            ("n", "3"),
            ("i", "1 minute"),
            ("t", "2025-01-01"),
        ];
        let bound = bind(sql, &values).unwrap();
        assert_eq!(
            bound,
            "SELECT 'x'' OR 1=1 --', INTERVAL '1 minute', CAST('2025-01-01' AS TIMESTAMP) \
             FROM f('x'' OR 1=1 --') WHERE x IN ('x'' OR 1=1 --', -2) LIMIT 3"
        );
        assert_eq!(
            bind(
                "INSERT INTO t VALUES ($b, $s)",
                &[("b", "true"), ("s", "'7'")]
            )
            .unwrap(),
            "INSERT INTO t VALUES (true, '7')"
        );
    }

    #[test]
    fn definitions_keep_the_values_of_their_parameters() {
        let kept = |sql: &str| {
            let raw = Script::new("t", sql).split().unwrap().remove(0);
            let mut parsed = parse_statement(&raw).unwrap();
            let mut parameters = Parameters::default();
            parameters.set("n", "3");
            parameters.bind_text(&raw, &mut parsed).unwrap();
            parsed.text
        };
        let job = |n: &str| format!("CREATE JOB j AS INSERT INTO s SELECT * FROM t WHERE v > {n}");
        assert_eq!(kept(&job("$n")), job(" 3").as_str());
        let view = "CREATE VIEW v AS SELECT 1 AS n";
        assert_eq!(kept(view), view);
        // The text of a query, which no catalog keeps, stays as it was typed.
        assert_eq!(kept("SELECT $n"), "SELECT $n");
    }

    #[test]
    fn a_missing_parameter_has_a_place() {
        let error = bind("SELECT\n  $run_idd", &[("run_id", "x")]).unwrap_err();
        assert_eq!(error.help(), Some("did you mean $run_id?"));
        assert_eq!(error.span().unwrap().start.line, 2);
    }

    #[test]
    fn leading_zeros_stay_text() {
        assert_eq!(literal("007"), Value::SingleQuotedString("007".into()));
        assert_eq!(literal("X'00fF'"), Value::HexStringLiteral("00fF".into()));
        assert_eq!(literal("X'y'"), Value::SingleQuotedString("X'y'".into()));
        assert_eq!(literal("0.5"), Value::Number("0.5".into(), false));
        assert_eq!(literal("1e5"), Value::SingleQuotedString("1e5".into()));
    }
}
