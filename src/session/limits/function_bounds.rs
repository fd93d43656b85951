//! Bounds for functions whose result, or work, can be much larger than their arguments: `repeat('x', 1000000000)` (SAFE-1).
//!
//! The result of a function belongs to no memory pool until an operator takes it, and a failed allocation would end the
//! process. So these functions measure the result for a batch before they compute it, and are refused beyond the budget of
//! their statement, also where the optimizer evaluates them. The same holds for work: no call can be interrupted before its
//! end.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use anabranch_udfs::{Budget, checked_cast, element_functions, with_one_element};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::registry::FunctionRegistry as _;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TryCast,
};

use crate::error::{Error, ErrorKind, Subject};
use crate::session::limits::function_measures::{
    CallMeasure, any_element, each_with_each, element_with_element, joined, overlaid, padded,
    repeated, repeated_elements, replaced, replaced_by_pattern, replaced_elements, resized,
    searched, separated, series, shown, together, trimmed, written, zipped,
};
use crate::session::limits::refusal::too_large;
use crate::session::limits::{cancellation, memory_checks, type_fields};

/// The limit of comparisons in one call: a few seconds.
const STEPS: u128 = 1_000_000_000;

/// The measure of a function before it is called.
#[derive(Debug, Clone, Copy)]
enum MeasuredCall {
    /// Nothing: only its type may be too large.
    Type,
    /// The bytes of its result.
    Bytes(CallMeasure),
    /// The comparisons that it makes.
    Steps(CallMeasure),
}

/// The functions with bounds. Their aliases are bounded too.
const MEASURED: [(&str, MeasuredCall); 37] = [
    ("repeat", MeasuredCall::Bytes(repeated)),
    ("lpad", MeasuredCall::Bytes(padded)),
    ("rpad", MeasuredCall::Bytes(padded)),
    ("array_repeat", MeasuredCall::Bytes(repeated_elements)),
    ("array_resize", MeasuredCall::Bytes(resized)),
    ("generate_series", MeasuredCall::Bytes(series)),
    ("range", MeasuredCall::Bytes(series)),
    ("replace", MeasuredCall::Bytes(replaced)),
    ("regexp_replace", MeasuredCall::Bytes(replaced_by_pattern)),
    ("concat", MeasuredCall::Bytes(together)),
    ("concat_ws", MeasuredCall::Bytes(separated)),
    ("overlay", MeasuredCall::Bytes(overlaid)),
    ("make_array", MeasuredCall::Bytes(together)),
    ("array_append", MeasuredCall::Bytes(together)),
    ("array_prepend", MeasuredCall::Bytes(together)),
    ("array_concat", MeasuredCall::Bytes(together)),
    ("array_replace_all", MeasuredCall::Bytes(replaced_elements)),
    ("array_replace_n", MeasuredCall::Bytes(replaced_elements)),
    ("array_to_string", MeasuredCall::Bytes(joined)),
    ("encode", MeasuredCall::Bytes(together)),
    ("to_json", MeasuredCall::Bytes(written)),
    ("to_char", MeasuredCall::Bytes(shown)),
    ("levenshtein", MeasuredCall::Steps(each_with_each)),
    ("strpos", MeasuredCall::Steps(searched)),
    ("btrim", MeasuredCall::Steps(trimmed)),
    ("ltrim", MeasuredCall::Steps(trimmed)),
    ("rtrim", MeasuredCall::Steps(trimmed)),
    ("array_has_all", MeasuredCall::Steps(element_with_element)),
    ("array_has_any", MeasuredCall::Steps(any_element)),
    ("named_struct", MeasuredCall::Type),
    ("struct", MeasuredCall::Type),
    ("map", MeasuredCall::Type),
    ("arrays_zip", MeasuredCall::Bytes(zipped)),
    ("arrow_cast", MeasuredCall::Type),
    ("arrow_try_cast", MeasuredCall::Type),
    ("cast_to_type", MeasuredCall::Type),
    ("try_cast_to_type", MeasuredCall::Type),
];

/// The functions whose second argument is a type as text.
const BY_TEXT: [&str; 2] = ["arrow_cast", "arrow_try_cast"];

/// Wraps these functions of a state in their bounds.
///
/// # Errors
///
/// A function of the list that the state does not have.
pub(crate) fn bound(state: &mut SessionState) -> Result<()> {
    let measured: BTreeSet<&str> = MEASURED.iter().map(|(name, _)| *name).collect();
    for name in measured.into_iter().chain(element_functions()) {
        let bounded = bounded(state.udf(name)?);
        state.register_udf(bounded)?;
    }
    Ok(())
}

/// Whether a call may need many comparisons: the text to trim or to search for is mostly a short literal.
pub(crate) fn may_compare_much(call: &ScalarFunction) -> bool {
    match call.name() {
        "levenshtein" => true,
        "array_has_all" | "array_has_any" => !call.args.iter().any(is_written),
        "btrim" | "ltrim" | "rtrim" | "strpos" => {
            let second = call.args.get(1);
            second.is_some_and(|second| !matches!(second, Expr::Literal(..)))
        }
        _ => false,
    }
}

/// Whether the comparisons of a function are counted for a whole batch: in parts, each part would get the whole limit.
pub(crate) fn counts_steps(name: &str) -> bool {
    let mut measured = MEASURED.iter();
    measured.any(|(of, measured)| *of == name && matches!(measured, MeasuredCall::Steps(_)))
}

/// Whether the statement spells the list out, value by value.
fn is_written(list: &Expr) -> bool {
    match list {
        Expr::Literal(..) => true,
        Expr::ScalarFunction(list) if list.name() == "make_array" => {
            list.args.iter().all(|one| matches!(one, Expr::Literal(..)))
        }
        _ => false,
    }
}

/// The function wrapped in the bounds for its name.
pub(crate) fn bounded(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    if inner.inner().downcast_ref::<BoundedFunction>().is_some() {
        return inner;
    }
    let found = MEASURED.iter().find(|(name, _)| *name == inner.name());
    let measured = found.map_or(MeasuredCall::Type, |(_, measured)| *measured);
    Arc::new(ScalarUDF::new_from_impl(BoundedFunction::new(
        inner, measured,
    )))
}

/// A function that checks the size of its result, and of its type, before each call.
#[derive(Debug)]
struct BoundedFunction {
    inner: Arc<ScalarUDF>,
    measured: MeasuredCall,
    signature: Signature,
}

impl PartialEq for BoundedFunction {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for BoundedFunction {}

impl Hash for BoundedFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl BoundedFunction {
    fn new(inner: Arc<ScalarUDF>, measured: MeasuredCall) -> Self {
        // The engine's own coercion refuses numbers of different types.
        let signature = match element_functions().any(|name| name == inner.name()) {
            true => Signature::user_defined(inner.signature().volatility),
            false => inner.signature().clone(),
        };
        Self {
            inner,
            measured,
            signature,
        }
    }

    /// Returns an error if a type exceeds a limit.
    fn refuse(&self, too_much: Option<String>) -> Result<()> {
        let Some(what) = too_much else {
            return Ok(());
        };
        let what = format!("the type of what {} gives has {what}", self.name());
        Err(DataFusionError::from(too_large(what)))
    }

    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let rows = args.number_rows;
        let error = match self.measured {
            MeasuredCall::Type => return Ok(()),
            MeasuredCall::Bytes(measure) => {
                let Some(size) = measure(args) else {
                    return Ok(());
                };
                match args.config_options.extensions.get::<Budget>() {
                    Some(Budget(most)) if size > *most as u128 => Error::new(
                        ErrorKind::Exhausted,
                        format!(
                            "{} would make {size} bytes of {rows} rows, and the statement may hold {most}",
                            self.name(),
                        ),
                    )
                    .about(Subject::function(self.name()))
                    .with_help("produce less for each row, or read fewer rows"),
                    // The plan keeps the results of all constant calls, so their sizes add up.
                    _ => return memory_checks::go_on(usize::try_from(size).unwrap_or(usize::MAX)),
                }
            }
            MeasuredCall::Steps(measure) => match measure(args) {
                Some(steps) if steps > STEPS => Error::new(
                    ErrorKind::Exhausted,
                    format!(
                        "{} would compare {steps} times in {rows} rows, and may do so {STEPS} times",
                        self.name(),
                    ),
                )
                .about(Subject::function(self.name()))
                .with_help("give it shorter texts or lists, or read fewer rows at a time"),
                _ => return Ok(()),
            },
        };
        Err(DataFusionError::from(error))
    }
}

impl ScalarUDFImpl for BoundedFunction {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        // Repeated derivation of types passes here.
        cancellation::check()?;
        if BY_TEXT.contains(&self.name()) {
            let text = args.scalar_arguments.get(1).copied().flatten();
            let text = text.and_then(|text| text.try_as_str().flatten());
            self.refuse(text.and_then(type_fields::too_deep))?;
        }
        let field = self.inner.return_field_from_args(args)?;
        self.refuse(type_fields::too_large(field.data_type()))?;
        Ok(field)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if !element_functions().any(|name| name == self.name()) {
            return self.inner.coerce_types(arg_types);
        }
        let types = with_one_element(self.name(), arg_types);
        let types = types.as_deref().unwrap_or(arg_types).iter();
        let fields = types.map(|of| Arc::new(Field::new("", of.clone(), true)));
        let fields = fields_with_udf(&fields.collect::<Vec<_>>(), self.inner.as_ref())?;
        Ok(fields
            .iter()
            .map(|field| field.data_type().clone())
            .collect())
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    /// A call whose type is within the limit is optimized like the inner function: of a struct that is built and read at once,
    /// only the field that is read is computed.
    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let MeasuredCall::Type = self.measured else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        Ok(match self.inner.simplify(args, context)? {
            ExprSimplifyResult::Original(args) => {
                ExprSimplifyResult::Simplified(self.inner.call(args))
            }
            ExprSimplifyResult::Simplified(made) => {
                // The optimizer may evaluate the cast next, and a NULL of the type takes all its bytes.
                if let Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. }) = &made
                {
                    self.refuse(type_fields::too_large(field.data_type()))?;
                }
                // The rule that checks casts has already run: without this, the optimizer would undo a cast that may fail in a
                // comparison.
                ExprSimplifyResult::Simplified(checked_cast(made, context.schema())?)
            }
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(&args)?;
        self.inner.invoke_with_args(args)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let inner = self.inner.inner().with_updated_config(config)?;
        let updated = Self::new(Arc::new(inner), self.measured);
        Some(ScalarUDF::new_from_impl(updated))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::AsArray as _;

    use crate::core::heap;
    use crate::error::ErrorKind;
    use crate::planner::{Script, parse_statement};
    use crate::session::{ForkOptions, Session, SessionOptions};

    async fn run(sql: &str) -> crate::error::Result<usize> {
        let whole = Session::try_new(&SessionOptions::default())?;
        let limited = ForkOptions {
            memory_limit: Some(32 << 20),
            ..ForkOptions::default()
        };
        let session = whole.fork(&limited)?;
        let raw = Script::new("test", sql).split()?.remove(0);
        let rows = session.collect(parse_statement(&raw)?).await?;
        Ok(rows.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn too_large_results_are_refused_before_allocation() {
        for expr in [
            "repeat('x', COUNT)",
            "repeat('xyz', 2000000000 + value)",
            "lpad('x', COUNT)",
            "rpad('x', COUNT, 'ab')",
            "array_repeat(1, COUNT)",
            "array_repeat([value, 2], COUNT)",
            "array_resize([1], COUNT, 0)",
            "array_repeat('', COUNT)",
            "generate_series(1, COUNT)",
            "range(0, COUNT)",
            "range(0, COUNT, 2)",
            "generate_series(TIMESTAMP '2024-01-01', TIMESTAMP '2034-01-01', INTERVAL '10 milliseconds')",
            "range(DATE '0001-01-01', DATE '9999-01-01', INTERVAL '1 second')",
            "replace(repeat('x', 100000), 'x', repeat('y', 100000))",
            "regexp_replace(repeat('x', 100000), '', repeat('y', 100000), 'g')",
            "array_to_string(range(0, 100000), repeat('y', 100000))",
            "array_to_string(array_repeat(NULLIF(value, 1), 100000), ',', repeat('y', 100000))",
            "array_to_string(array_repeat(value = 1, 100000), repeat('y', 5000))",
            "array_resize([''], CASE WHEN value = 1 THEN 10000 ELSE 0 END, CASE WHEN value = 1 THEN repeat('x', 1000000) ELSE '' END)",
            "array_replace_all(array_repeat('a' || value, 100000), 'a' || value, repeat('x', 100000))",
            "to_char(now() + value * INTERVAL '1 day', repeat('%A', 1000000))",
            "array_repeat(arrow_cast(NULL, 'FixedSizeBinary(60000)'), 100000 + value)",
            "array_resize(array_repeat(arrow_cast(NULL, 'FixedSizeBinary(60000)'), 10), 10000 + value)",
            "arrays_zip(range(0, 10000 + value), array_repeat(arrow_cast(NULL, 'FixedSizeBinary(60000)'), 1))",
            "array_replace_all(array_repeat([value], 10000), [value], range(0, 100000))",
            "concat_ws(repeat('x', 700000), 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', CAST(value AS VARCHAR))",
            r"regexp_replace(repeat('x', 100000), '(.*)(x{0}){0}(x{0}){0}(x{0}){0}', repeat('\1', 1000 + value))",
        ] {
            for n in ["2000000000", "(2000000000 + value)"] {
                let expr = expr.replace("COUNT", n);
                for sql in [
                    format!("SELECT {expr} FROM generate_series(1, 10)"),
                    format!("SELECT {} ", expr.replace("value", "1")),
                    format!("SELECT value FROM generate_series(1, 10) WHERE {expr} IS NULL"),
                ] {
                    let error = run(&sql).await.expect_err(&sql);
                    assert_eq!(error.kind(), ErrorKind::Exhausted, "{sql}: {error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn delimiters_are_limited() {
        let agg = |delimiter: &str, over: &str| {
            format!(
                "SELECT string_agg(CAST(value AS VARCHAR), {delimiter}) {over} FROM generate_series(1, 3)"
            )
        };
        for over in ["", "OVER ()", "OVER (ORDER BY value)"] {
            for long in ["repeat('x', 100000)", &format!("'{}'", "x".repeat(70_000))] {
                let error = run(&agg(long, over)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{over}: {error}");
            }
            assert!(run(&agg("repeat('x', 1000)", over)).await.unwrap() > 0);
        }
    }

    #[tokio::test]
    async fn constants_are_counted_together() {
        let columns: Vec<String> = (0..40)
            .map(|n| format!("repeat('x', 4000000 - {n}) AS c{n}"))
            .collect();
        let sql = format!("SELECT {}", columns.join(", "));
        let owner = Arc::new(heap::MemoryOwner::default());
        let error = heap::within(owner, 64 << 20, run(&sql)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    }

    #[tokio::test]
    async fn field_names_are_counted_per_occurrence() {
        let name = "x".repeat(60_000);
        let json = |elements: usize| {
            format!(
                "SELECT to_json(array_repeat(named_struct('{name}', value), {elements})) FROM generate_series(1, 1)"
            )
        };
        let error = run(&json(10_000)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert_eq!(run(&json(10)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn results_of_moderate_size_are_computed() {
        for expr in [
            "repeat('x', 100)",
            "lpad(CAST(value AS VARCHAR), 20, '0')",
            "array_repeat(value, 10)",
            "generate_series(1, value)",
            "range(DATE '2024-01-01', DATE '2024-12-31', INTERVAL '1 day')",
            "replace('aXb', 'X', '')",
            "concat('a', value, NULL)",
            "concat_ws(',', 'a', 'b')",
            "encode('abc', 'hex')",
            "array_to_string([1, 2], ',')",
            "regexp_replace('abc', '(b)', '<\\1>')",
            "arrays_zip([1, 2], [value], NULL)",
            "array_replace_all([1, value], 1, 2)",
            "to_json({'a': [value], 'b': NULL})",
        ] {
            let sql = format!("SELECT {expr} FROM generate_series(1, 1000)");
            assert_eq!(run(&sql).await.expect(&sql), 1_000, "{sql}");
        }
    }
    /// `steps` nested queries, each over the previous one.
    fn steps(first: &str, step: &str, steps: usize) -> String {
        let mut query = format!("SELECT {first} AS c FROM generate_series(1, 3)");
        for _ in 0..steps {
            query = format!("SELECT {step} AS c FROM ({query})");
        }
        query
    }

    #[tokio::test]
    async fn doubling_values_are_refused() {
        for (first, step) in [
            ("'x' || value", "c || c"),
            ("'x' || value", "c || c || 'y' || c"),
            ("[value]", "c || c"),
            ("value", "[c, c]"),
            ("value", "make_array(c, c, c)"),
            ("'x' || value", "to_json([c, c])"),
            ("X'00'", "c || c"),
            ("array_repeat(NULL, value)", "array_concat(c, c)"),
        ] {
            let error = run(&steps(first, step, 30)).await.expect_err(step);
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{step}: {error}");
        }
        assert_eq!(run(&steps("'x' || value", "c || c", 10)).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn bounded_concatenation_keeps_results() {
        for (expr, expected) in [
            ("'a' || 'b'", Some("ab")),
            ("'a' || NULL", None),
            ("'a' || 1", Some("a1")),
            ("'x' || value || 'y'", Some("x1y")),
            ("CAST(NULL AS VARCHAR) || value", None),
            ("arrow_cast('ä', 'LargeUtf8') || value", Some("ä1")),
            ("arrow_cast('ä', 'Utf8View') || value", Some("ä1")),
            ("encode(X'00' || X'ff', 'hex')", Some("00ff")),
            ("array_to_string([1] || [value], '-')", Some("1-1")),
        ] {
            let session = Session::try_new(&SessionOptions::default()).unwrap();
            let sql = format!("SELECT CAST({expr} AS VARCHAR) FROM generate_series(1, 1)");
            let raw = Script::new("test", &sql).split().unwrap().remove(0);
            let rows = session.collect(parse_statement(&raw).unwrap()).await;
            let rows = rows.expect(expr);
            let texts = rows[0].column(0).as_string::<i32>();
            assert_eq!(texts.iter().next().flatten(), expected, "{expr}");
        }
    }

    #[tokio::test]
    async fn long_running_calls_are_refused() {
        for expr in [
            "levenshtein(repeat('x', 100000), repeat('y', 100000) || value)",
            "levenshtein(repeat('x', 100000), repeat('y', 100000))",
            "array_has_all(range(0, 100000), range(0, 100000))",
            "array_has_all(range(0, 100000), range(value, 100000))",
            "range(0, 100000) @> range(value, 100000)",
            "range(value, 100000) <@ range(0, 100000)",
            "array_has_any(range(0, 100000 + value), range(200000, 300000 + value))",
            "btrim(repeat('x', 200000) || value, repeat('y', 20000) || 'x')",
            "trim(BOTH repeat('y', 20000) || 'x' FROM repeat('x', 200000) || value)",
            "strpos(repeat('x', 200000), repeat('x', 100000) || value || 'y')",
            "position(repeat('x', 100000) || value || 'y' IN repeat('x', 200000))",
        ] {
            let sql = format!("SELECT {expr} FROM generate_series(1, 10)");
            let error = run(&sql).await.expect_err(&sql);
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{sql}: {error}");
        }
        for expr in [
            "levenshtein('kitten' || value, 'sitting')",
            "array_has_all([1, 2, value], [1])",
            "[1, 2, value] @> [2]",
            "array_has_any([1, value], range(0, 1000))",
            "array_has_any(range(0, 100000), range(value, value + 10))",
            "btrim(repeat('x', 2000) || value, ' xyz')",
            "btrim(' x ')",
            "trim(BOTH 'xy' FROM 'xay' || value)",
            "strpos(repeat('x', 1000) || value, '7')",
            "position('1' || value IN repeat('x', 1000))",
            "to_char(now(), '%Y-%m-%d')",
        ] {
            let sql = format!("SELECT {expr} FROM generate_series(1, 1000)");
            assert_eq!(run(&sql).await.expect(&sql), 1_000, "{sql}");
        }
    }
}
