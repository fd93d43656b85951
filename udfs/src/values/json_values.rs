//! Several calls of JSON functions over one text, which is parsed once for all of them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, ByteView, StringViewArray, StringViewBuilder, StructArray,
};
use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::{Result, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};

use crate::values::json_paths::{JsonStep, PathTree, json_path};

/// The name of the function that returns the results of several calls over one JSON text as fields of a struct.
pub const JSON_VALUES: &str = "json_values";

/// The functions that find a value in a JSON text by a path, and then read it.
pub(crate) const JSON_BY_PATH: [&str; 11] = [
    "json_get",
    "json_get_array",
    "json_get_bool",
    "json_get_float",
    "json_get_int",
    "json_get_json",
    "json_get_str",
    "json_as_text",
    "json_contains",
    "json_length",
    "json_object_keys",
];

/// Bytes of the longest text that is part of its view.
const INLINE: usize = 12;

/// A call of a JSON function with a constant path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct JsonCall {
    function: Arc<ScalarUDF>,
    path: Vec<JsonStep>,
}

impl JsonCall {
    /// The call and its text; `None` for an expression that is no such call.
    pub(crate) fn of(expr: &Expr) -> Option<(&Expr, Self)> {
        let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else {
            return None;
        };
        if !JSON_BY_PATH.contains(&func.name()) {
            return None;
        }
        let (text, path) = args.split_first()?;
        let path = json_path(path.iter().map(|step| match step {
            Expr::Literal(value, _) => Some(value),
            _ => None,
        }))?;
        let function = Arc::clone(func);
        Some((text, Self { function, path }))
    }

    /// The call over a text.
    pub(crate) fn over(&self, text: &Expr) -> Expr {
        let steps = self.path.iter().map(|step| match step {
            JsonStep::Key(key) => lit(key.as_str()),
            JsonStep::Index(index) => lit(i64::try_from(*index).unwrap_or(i64::MAX)),
        });
        let args = std::iter::once(text.clone()).chain(steps);
        self.function.call(args.collect())
    }

    /// The name of its result among those of one text.
    pub(crate) fn name(&self) -> String {
        let steps = self.path.iter().map(|step| match step {
            JsonStep::Key(key) => format!("'{}'", key.replace('\'', "''")),
            JsonStep::Index(index) => index.to_string(),
        });
        let steps: Vec<String> = steps.collect();
        format!("{}({})", self.function.name(), steps.join(", "))
    }

    /// The same call of another function, which wraps that of this one.
    pub(crate) fn wrapped(self, wrap: impl FnOnce(Arc<ScalarUDF>) -> Arc<ScalarUDF>) -> Self {
        Self {
            function: wrap(self.function),
            path: self.path,
        }
    }

    /// Reads the values at which these texts begin.
    fn read(
        &self,
        texts: &StringViewArray,
        result: &FieldRef,
        config: &Arc<ConfigOptions>,
    ) -> Result<ArrayRef> {
        let text = Field::new("text", DataType::Utf8View, true);
        let rows = texts.len();
        let args = ScalarFunctionArgs {
            args: vec![ColumnarValue::Array(Arc::new(texts.clone()))],
            arg_fields: vec![Arc::new(text)],
            number_rows: rows,
            return_field: Arc::clone(result),
            config_options: Arc::clone(config),
        };
        self.function.invoke_with_args(args)?.into_array(rows)
    }
}

/// `json_values(text)`: the results of these calls over one text, as a struct with a field of the given type for each call.
pub(crate) fn json_values(calls: Vec<(JsonCall, FieldRef)>) -> ScalarUDF {
    let named = |(call, field): (JsonCall, FieldRef)| {
        let field = field.as_ref().clone().with_name(call.name());
        (call, Arc::new(field))
    };
    let (calls, fields): (Vec<JsonCall>, Vec<FieldRef>) = calls.into_iter().map(named).unzip();
    ScalarUDF::from(JsonValues {
        calls,
        fields: Fields::from(fields),
        signature: Signature::any(1, Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonValues {
    calls: Vec<JsonCall>,
    fields: Fields,
    signature: Signature,
}

impl ScalarUDFImpl for JsonValues {
    fn name(&self) -> &str {
        JSON_VALUES
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(self.fields.clone()))
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        let of = DataType::Struct(self.fields.clone());
        Ok(Arc::new(Field::new(self.name(), of, false)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [text] = args.args.as_slice() else {
            return internal_err!("{JSON_VALUES} takes a text");
        };
        let rows = args.number_rows;
        let texts = text.to_array(rows)?;
        let mut tree = PathTree::default();
        let numbers: Vec<usize> = self.calls.iter().map(|call| tree.add(&call.path)).collect();
        let found = found(&texts, &mut tree)?;
        let texts = numbers.iter().filter_map(|number| found.get(*number));
        let calls = self.calls.iter().zip(texts).zip(&self.fields);
        let values =
            calls.map(|((call, texts), field)| call.read(texts, field, &args.config_options));
        let values = values.collect::<Result<Vec<ArrayRef>>>()?;
        let values = StructArray::try_new_with_length(self.fields.clone(), values, None, rows)?;
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

/// For each path the texts from its value on; they share the memory of the texts.
fn found(texts: &ArrayRef, tree: &mut PathTree) -> Result<Vec<StringViewArray>> {
    match texts.data_type() {
        DataType::Utf8 => {
            let texts = texts.as_string::<i32>();
            let offsets = texts.value_offsets();
            let offset = |row: usize| offsets.get(row).and_then(|at| usize::try_from(*at).ok());
            let first = offset(0).unwrap_or(0);
            let length = offset(texts.len()).unwrap_or(first).saturating_sub(first);
            let block = texts.values().slice_with_length(first, length);
            let place = |row: usize| Some((0, offset(row)?.checked_sub(first)?));
            views(texts.iter(), place, &[block], tree)
        }
        DataType::Utf8View if are_within_reach(texts.as_string_view().data_buffers()) => {
            let texts = texts.as_string_view();
            let place = |row: usize| {
                let view = ByteView::from(*texts.views().get(row)?);
                Some((view.buffer_index, usize::try_from(view.offset).ok()?))
            };
            views(texts.iter(), place, texts.data_buffers(), tree)
        }
        _ => found(&cast(texts, &DataType::Utf8)?, tree),
    }
}

/// Whether views reach all of these bytes.
fn are_within_reach(blocks: &[Buffer]) -> bool {
    let mut lengths = blocks.iter().map(|block| u32::try_from(block.len()));
    lengths.all(|length| length.is_ok_and(|length| length < u32::MAX))
}

/// The texts from the values of all paths on. `place` returns the block and the offset of a row's text.
fn views<'a>(
    texts: impl ExactSizeIterator<Item = Option<&'a str>>,
    place: impl Fn(usize) -> Option<(u32, usize)>,
    blocks: &[Buffer],
    tree: &mut PathTree,
) -> Result<Vec<StringViewArray>> {
    let rows = texts.len();
    let builder = || {
        let mut builder = StringViewBuilder::with_capacity(rows);
        for block in blocks {
            builder.append_block(block.clone());
        }
        builder
    };
    let mut starts = vec![None; tree.len()];
    let mut views: Vec<StringViewBuilder> = starts.iter().map(|_| builder()).collect();
    for (row, text) in texts.enumerate() {
        tree.find(text.unwrap_or_default(), &mut starts);
        for (start, views) in starts.iter().zip(&mut views) {
            let value = start.and_then(|start| Some((start, text?.get(start..)?)));
            match value {
                None => views.append_null(),
                Some((_, value)) if value.len() <= INLINE => views.append_value(value),
                Some((start, value)) => {
                    let view = place(row).and_then(|(block, offset)| {
                        let offset = u32::try_from(offset.checked_add(start)?).ok()?;
                        Some((block, offset, u32::try_from(value.len()).ok()?))
                    });
                    let Some((block, offset, length)) = view else {
                        return internal_err!("{JSON_VALUES} found a value outside of its text");
                    };
                    views.try_append_view(block, offset, length)?;
                }
            }
        }
    }
    Ok(views.iter_mut().map(StringViewBuilder::finish).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{StringArray, UInt64Array};
    use arrow::compute::take;
    use arrow::datatypes::Schema;
    use datafusion::common::{DFSchema, ScalarValue};
    use datafusion::logical_expr::{ExprSchemable as _, col};
    use datafusion_functions_json::udfs;
    use proptest::prelude::*;

    use super::*;

    fn functions() -> Vec<Arc<ScalarUDF>> {
        vec![
            udfs::json_get_udf(),
            udfs::json_get_array_udf(),
            udfs::json_get_bool_udf(),
            udfs::json_get_float_udf(),
            udfs::json_get_int_udf(),
            udfs::json_get_json_udf(),
            udfs::json_get_str_udf(),
            udfs::json_as_text_udf(),
            udfs::json_contains_udf(),
            udfs::json_length_udf(),
            udfs::json_object_keys_udf(),
        ]
    }

    /// The result of a function over a text and constants.
    fn called(
        function: &ScalarUDF,
        text: &ArrayRef,
        path: &[ScalarValue],
        result: &FieldRef,
    ) -> ArrayRef {
        let field = |of: DataType| Arc::new(Field::new("a", of, true));
        let scalars = path.iter().cloned().map(ColumnarValue::Scalar);
        let args: Vec<ColumnarValue> = std::iter::once(ColumnarValue::Array(Arc::clone(text)))
            .chain(scalars)
            .collect();
        let rows = text.len();
        let args = ScalarFunctionArgs {
            arg_fields: args.iter().map(|arg| field(arg.data_type())).collect(),
            args,
            number_rows: rows,
            return_field: Arc::clone(result),
            config_options: Arc::default(),
        };
        function
            .invoke_with_args(args)
            .unwrap()
            .into_array(rows)
            .unwrap()
    }

    /// Compares the results of all functions with these paths, each with a pass of its own and all in one pass.
    fn compare(texts: &[Option<String>], paths: &[Vec<ScalarValue>]) -> Result<(), TestCaseError> {
        let whole: ArrayRef = Arc::new(StringArray::from_iter(texts.iter().cloned()));
        let reversed: UInt64Array = (0..texts.len() as u64).rev().map(Some).collect();
        let viewed = take(&cast(&whole, &DataType::Utf8View).unwrap(), &reversed, None).unwrap();
        let sliced = whole.slice(1, texts.len() - 1);
        for text in [whole, viewed, sliced] {
            let schema = Schema::new(vec![Field::new("j", text.data_type().clone(), true)]);
            let schema = DFSchema::try_from(schema).unwrap();
            let mut calls = vec![];
            let mut alone = vec![];
            for function in functions() {
                for path in paths {
                    let args = std::iter::once(col("j")).chain(path.iter().cloned().map(lit));
                    let expr = function.call(args.collect());
                    let (_, field) = expr.to_field(&schema).unwrap();
                    alone.push(called(&function, &text, path, &field));
                    calls.push((JsonCall::of(&expr).unwrap().1, field));
                }
            }
            let together = json_values(calls);
            let of = Arc::new(Field::new("r", together.return_type(&[]).unwrap(), false));
            let together = called(&together, &text, &[], &of);
            for (call, (alone, together)) in
                alone.iter().zip(together.as_struct().columns()).enumerate()
            {
                prop_assert_eq!(alone, together, "call {} over {:?}", call, text);
            }
        }
        Ok(())
    }

    fn step() -> impl Strategy<Value = ScalarValue> {
        prop_oneof![
            prop::sample::select(vec!["a", "b", "0", "-1", "\"", "ä", ""])
                .prop_map(ScalarValue::from),
            (-3_i64..4).prop_map(ScalarValue::from),
            (0_u64..3).prop_map(ScalarValue::from),
        ]
    }

    /// JSON, with keys that come twice and white space.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "null",
            "true",
            "false",
            "0",
            "-7",
            "1.5",
            "1e400",
            "12345678901234567890123",
            "NaN",
            "\"x\"",
            "\"\"",
            "\"a longer text, \\n ä\"",
            "\"\\ud83d\"",
            "[]",
            "{}",
            " 3 ",
        ]);
        leaf.prop_map(str::to_owned)
            .prop_recursive(4, 24, 4, |inner| {
                let key = prop::sample::select(vec![
                    "a", "b", "0", "-1", "\\\"", "ä", "\\u0061", "c", "",
                ]);
                prop_oneof![
                    prop::collection::vec(inner.clone(), 0..4)
                        .prop_map(|of| format!("[{}]", of.join(" ,"))),
                    prop::collection::vec((key, inner), 0..4).prop_map(|of| {
                        let of: Vec<String> = of
                            .iter()
                            .map(|(key, value)| format!("\"{key}\" :{value}"))
                            .collect();
                        format!("{{{}}}", of.join(", "))
                    }),
                ]
            })
    }

    /// JSON of which parts may be missing or wrong.
    fn text() -> impl Strategy<Value = Option<String>> {
        let broken = (
            json(),
            any::<prop::sample::Index>(),
            prop::option::of("[\\[\\]{}:,\"0-9a]"),
        );
        prop_oneof![
            6 => json().prop_map(Some),
            3 => broken.prop_map(|(json, at, instead)| {
                let mut letters: Vec<char> = json.chars().collect();
                let at = at.index(letters.len());
                match instead {
                    Some(letter) => letters[at] = letter.chars().next().unwrap(),
                    None => letters.truncate(at),
                }
                Some(letters.into_iter().collect())
            }),
            1 => Just(None),
        ]
    }

    proptest! {
        #[test]
        fn one_pass_finds_what_many_find(
            texts in prop::collection::vec(text(), 1..8),
            paths in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..6),
        ) {
            compare(&texts, &paths)?;
        }
    }

    #[test]
    fn what_follows_a_value_does_not_matter() {
        let texts = [
            r#"{"a": 1, "b": {"a": [1, 2"#,
            r#"{"a": 1 x, "b": 2}"#,
            r#"{"b": 2, "a": 12abc}"#,
            r#"{"a": {"b": 1}, "a": {"a": 2}}"#,
            r#"[[1, [2]], 3]"#,
            "",
        ];
        let texts = texts.map(|text| Some(text.to_owned()));
        let key = |key: &str| ScalarValue::from(key);
        let index = |index: i64| ScalarValue::from(index);
        let paths = [
            vec![key("a")],
            vec![key("a"), key("a")],
            vec![key("a"), key("b")],
            vec![key("b")],
            vec![key("b"), key("a"), index(0)],
            vec![key("b"), key("a"), index(1)],
            vec![key("b"), key("a"), index(-1)],
            vec![index(0), index(-1), index(0)],
            vec![index(1)],
            vec![key("1")],
        ];
        compare(&texts, &paths).unwrap();
    }

    #[test]
    fn calls_without_a_constant_path_stay_alone() {
        let get = udfs::json_get_udf();
        let is_one = |args: Vec<Expr>| JsonCall::of(&get.call(args)).is_some();
        assert!(is_one(vec![col("j"), lit("a"), lit(1_i64)]));
        assert!(!is_one(vec![col("j")]));
        assert!(!is_one(vec![col("j"), col("k")]));
        assert!(!is_one(vec![col("j"), lit(ScalarValue::Utf8(None))]));
        assert!(!is_one(
            std::iter::once(col("j"))
                .chain((0..65).map(|_| lit("a")))
                .collect()
        ));
    }
}
