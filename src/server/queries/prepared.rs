//! Prepared statements: parsed once, run with the values that a client binds.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{
    Array as _, AsArray as _, RecordBatch, RecordBatchOptions, new_null_array,
};
use datafusion::arrow::compute::kernels::length::length;
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};

use crate::error::{Error, Result};
use crate::planner::{
    BoundValue, Parameters, ParsedStatement, RawStatement, bound_column, bound_value,
    inserts_one_row, parse_statement,
};
use crate::server::flight::wire::{WireTypes, wire_schema};

/// A statement with places for values.
#[derive(Debug, Clone)]
pub(crate) struct PreparedStatement {
    raw: Arc<RawStatement>,
    parsed: Arc<ParsedStatement>,
    /// The names of its parameters, in the order in which they are bound.
    names: Vec<String>,
    /// The bound values: the statement is run once for each row.
    rows: Option<Arc<[RecordBatch]>>,
    /// The result, if it is known and always the same.
    answer: Arc<OnceLock<RecordBatch>>,
}

impl PreparedStatement {
    /// Parses a statement; `?` is numbered, `$1` and so on.
    ///
    /// # Errors
    ///
    /// A statement that cannot be parsed.
    pub(crate) fn try_new(mut raw: RawStatement) -> Result<Self> {
        let names = raw.number_parameters();
        Ok(Self {
            parsed: Arc::new(parse_statement(&raw)?),
            raw: Arc::new(raw),
            names,
            rows: None,
            answer: Arc::default(),
        })
    }

    /// The result, if it is known.
    pub(crate) fn answer(&self) -> Option<&RecordBatch> {
        self.answer.get()
    }

    /// About how many bytes it holds.
    pub(crate) fn bytes(&self) -> usize {
        /// Bytes for a token and the parsed form made from it.
        const OF_TOKEN: usize = 300;
        let rows = self.rows.iter().flat_map(|rows| rows.iter());
        let bound: usize = rows.map(RecordBatch::get_array_memory_size).sum();
        let text = self.parsed.text.len();
        bound + 2 * text + OF_TOKEN * self.raw.tokens.len()
    }

    /// Keeps `answer` as the result that the statement always gives. A statement with parameters depends on their
    /// values, so it keeps none.
    pub(crate) fn is_always(&self, answer: &RecordBatch) {
        if !self.has_parameters() {
            // Another call may have found the same.
            let _ = self.answer.set(answer.clone());
        }
    }

    /// The statement, its parameters unbound.
    pub(crate) fn parsed(&self) -> &ParsedStatement {
        &self.parsed
    }

    /// The parameters as columns. A parameter of unknown type is text, which is converted to the type that it is
    /// compared with. A client that always binds times as milliseconds gets milliseconds as their type.
    pub(crate) fn parameter_schema(
        &self,
        types: &HashMap<String, DataType>,
        binds_milliseconds: bool,
    ) -> SchemaRef {
        let names = self.names.iter();
        let field = |name: &String| {
            let of = match types.get(name) {
                Some(DataType::Timestamp(_, zone)) if binds_milliseconds => {
                    DataType::Timestamp(TimeUnit::Millisecond, zone.clone())
                }
                Some(of) => of.clone(),
                None => DataType::Utf8,
            };
            Field::new(format!("${name}"), of, true)
        };
        wire_schema(
            &Schema::new(names.map(field).collect::<Vec<_>>()),
            WireTypes::default(),
        )
    }

    /// The same statement with values for its parameters, by their place; the names of the columns do not matter.
    ///
    /// # Errors
    ///
    /// Another number of columns than of parameters; values of a type that no literal has.
    pub(crate) fn bind(&self, batches: &[RecordBatch]) -> Result<Self> {
        let mut rows = Vec::with_capacity(batches.len());
        for batch in batches {
            if batch.num_columns() != self.names.len() {
                return Err(Error::invalid(format!(
                    "the statement has {} parameters, and {} are bound",
                    self.names.len(),
                    batch.num_columns()
                )));
            }
            let mut fields = Vec::with_capacity(self.names.len());
            let mut columns = Vec::with_capacity(self.names.len());
            for (name, column) in self.names.iter().zip(batch.columns()) {
                let column = bound_column(column)?;
                // A value that cannot be bound is refused before anything runs.
                bound_value(name, &new_null_array(column.data_type(), 1), 0)?;
                fields.push(Field::new(
                    format!("${name}"),
                    column.data_type().clone(),
                    true,
                ));
                columns.push(column);
            }
            let count = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let schema = Arc::new(Schema::new(fields));
            let bound = RecordBatch::try_new_with_options(schema, columns, &count);
            rows.push(bound.map_err(|error| Error::internal(error.to_string()))?);
        }
        Ok(Self {
            rows: Some(rows.into()),
            ..self.clone()
        })
    }

    /// The statements to run, one for each row that was bound, or one for all rows that it inserts; one, if there are no
    /// parameters.
    ///
    /// # Errors
    ///
    /// Parameters without values.
    pub(crate) fn statements(&self) -> Result<BoundStatements> {
        let mut statements = BoundStatements {
            prepared: self.clone(),
            first: None,
            left: 0,
            at: (0, 0),
        };
        let rows = match &self.rows {
            Some(rows) if !self.names.is_empty() => rows,
            _ => {
                statements.first = Some(Box::new(self.with(&[])?));
                return Ok(statements);
            }
        };
        let mut filled = rows.iter().filter(|rows| rows.num_rows() > 0);
        if let Some(first) = filled.next()
            && inserts_one_row(&self.parsed)
            && let Ok(all) = concat_batches(first.schema_ref(), rows.iter())
        {
            let mut parsed = self.parsed.as_ref().clone();
            parsed.rows = Some(all);
            statements.first = Some(Box::new(parsed));
            return Ok(statements);
        }
        statements.left = rows.iter().map(RecordBatch::num_rows).sum();
        Ok(statements)
    }

    /// The statement with NULL for each parameter, which tells its likely columns.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(crate) fn with_nulls(&self) -> Result<ParsedStatement> {
        self.with(&vec![BoundValue::null(); self.names.len()])
    }

    /// Whether it has parameters.
    pub(crate) fn has_parameters(&self) -> bool {
        !self.names.is_empty()
    }

    fn with(&self, values: &[BoundValue]) -> Result<ParsedStatement> {
        let mut parameters = Parameters::default();
        for (name, value) in self.names.iter().zip(values) {
            parameters.set_value(name.as_str(), value.clone());
        }
        let mut parsed = self.parsed.as_ref().clone();
        let bound = match self.has_parameters() {
            true => parameters.bind_text(&self.raw, &mut parsed).map(drop),
            // No placeholder is in the text alone.
            false => parameters.bind(&mut parsed),
        };
        bound.map_err(|error| {
            let unbound = Error::invalid(error.message().to_owned());
            let unbound = unbound.with_help("bind a value for each parameter");
            match error.span() {
                Some(span) => unbound.at(span),
                None => unbound,
            }
        })?;
        Ok(parsed)
    }
}

/// The statements of a prepared one: each is made when its turn comes, because each has a copy of the whole.
#[derive(Debug)]
pub(crate) struct BoundStatements {
    prepared: PreparedStatement,
    /// That of all rows, or without values.
    first: Option<Box<ParsedStatement>>,
    /// Rows that have not had their turn.
    left: usize,
    /// The batch and the row of the next one.
    at: (usize, usize),
}

impl BoundStatements {
    /// How many are still to come.
    pub(crate) fn len(&self) -> usize {
        self.left + usize::from(self.first.is_some())
    }

    fn of_row(&self, batch: &RecordBatch, row: usize) -> Result<ParsedStatement> {
        let columns = self.prepared.names.iter().zip(batch.columns());
        let values = columns.map(|(name, column)| bound_value(name, column, row));
        self.prepared.with(&values.collect::<Result<Vec<_>>>()?)
    }
}

impl Iterator for BoundStatements {
    type Item = Result<ParsedStatement>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            return Some(Ok(*first));
        }
        let rows = self.prepared.rows.clone()?;
        while self.left > 0 {
            let (batch, row) = self.at;
            let of = rows.get(batch)?;
            if row < of.num_rows() {
                self.at = (batch, row + 1);
                self.left -= 1;
                return Some(self.of_row(of, row));
            }
            self.at = (batch + 1, 0);
        }
        None
    }
}

/// Bytes of bound rows, when each value is counted by itself.
pub(crate) fn bound_bytes(rows: &RecordBatch) -> usize {
    let columns = rows.columns().iter();
    let bytes = columns.map(|column| {
        let Some(dictionary) = column.as_any_dictionary_opt() else {
            return column.get_array_memory_size();
        };
        let own = column.get_array_memory_size();
        if dictionary.values().is_empty() {
            return own;
        }
        let lengths = length(dictionary.values());
        let lengths = lengths.and_then(|lengths| cast(&lengths, &DataType::Int64));
        let Ok(lengths) = lengths else {
            return own;
        };
        let lengths = lengths.as_primitive::<Int64Type>();
        let of = |key: usize| match key < lengths.len() && lengths.is_valid(key) {
            true => usize::try_from(lengths.value(key)).unwrap_or(usize::MAX),
            false => 0,
        };
        let keys = dictionary.normalized_keys().into_iter();
        keys.map(of).fold(own, usize::saturating_add)
    });
    bytes.fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
        Float64Array, Int32Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray,
    };
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::arrow::util::pretty::pretty_format_batches;

    use super::*;
    use crate::planner::{Script, Statement};
    use crate::session::{Session, SessionOptions, StatementOutcome};

    fn prepared(sql: &str) -> PreparedStatement {
        PreparedStatement::try_new(Script::new("t", sql).split().unwrap().remove(0)).unwrap()
    }

    fn texts(prepared: &PreparedStatement) -> Vec<String> {
        let statements = prepared.statements().unwrap();
        let text = |parsed: Result<ParsedStatement>| match parsed.unwrap().statement {
            Statement::Sql(sql) => sql.to_string(),
            other => format!("{other:?}"),
        };
        statements.map(text).collect()
    }

    #[test]
    fn values_of_each_type_become_literals() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("0", Arc::new(Int64Array::from(vec![Some(-7), None]))),
            ("1", Arc::new(StringArray::from(vec!["it's; --", "12"]))),
            ("2", Arc::new(Float64Array::from(vec![0.5, 2.0]))),
            ("3", Arc::new(BooleanArray::from(vec![true, false]))),
            (
                "4",
                Arc::new(BinaryArray::from(vec![&[0_u8, 255][..], &[]])),
            ),
            (
                "5",
                Arc::new(TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC")),
            ),
        ];
        let bound = prepared("SELECT ?, ?, ?, ?, ?, ?")
            .bind(&[RecordBatch::try_from_iter(columns).unwrap()])
            .unwrap();
        assert_eq!(
            texts(&bound),
            [
                "SELECT -7, 'it''s; --', CAST('5e-1' AS DOUBLE), true, X'00ff', \
                 arrow_cast(1, 'Timestamp(Microsecond, Some(\"UTC\"))')",
                "SELECT arrow_cast(NULL, 'Int64'), '12', CAST('2e0' AS DOUBLE), false, X'', \
                 arrow_cast(2, 'Timestamp(Microsecond, Some(\"UTC\"))')"
            ]
        );
    }

    /// VALUE-1: numbers that are bound are stored as those that are written, all rows by one commit.
    #[tokio::test(flavor = "multi_thread")]
    async fn bound_numbers_are_rounded_as_written_ones() {
        let dir = tempfile::tempdir().unwrap();
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let parsed = |sql: &str| {
            let raw = Script::new("t", sql).split().unwrap().remove(0);
            parse_statement(&raw).unwrap()
        };
        let create = format!(
            "CREATE EXTERNAL TABLE t (i INT, d DECIMAL(5, 1), x INT) STORED AS DELTA LOCATION '{}'",
            dir.path().display()
        );
        session.execute(parsed(&create)).await.unwrap();
        let decimals = |values: Vec<i128>| {
            let values = Decimal128Array::from(values);
            Arc::new(values.with_precision_and_scale(6, 2).unwrap()) as ArrayRef
        };
        let doubles: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 2.5, -0.6]));
        let columns = vec![
            ("0", doubles),
            ("1", decimals(vec![125, 999, -125])),
            ("2", decimals(vec![150, 250, -250])),
        ];
        let bound = prepared("INSERT INTO t VALUES (?, ?, ?)")
            .bind(&[RecordBatch::try_from_iter(columns).unwrap()])
            .unwrap();
        for statement in bound.statements().unwrap() {
            let outcome = session.execute(statement.unwrap()).await.unwrap();
            let StatementOutcome::Insert(execution) = outcome else {
                panic!("it inserts");
            };
            assert_eq!(execution.written().await.unwrap(), 3);
        }
        let rows = session
            .collect(parsed("SELECT i, d, x FROM t ORDER BY i, x"))
            .await;
        let shown = pretty_format_batches(&rows.unwrap()).unwrap().to_string();
        let shown: Vec<&str> = shown.lines().skip(3).take(3).collect();
        assert_eq!(
            shown,
            [
                "| -1 | -1.3 | -3 |",
                "| 2  | 1.3  | 2  |",
                "| 2  | 10.0 | 3  |"
            ]
        );
        let commits = session.collect(parsed("DESCRIBE HISTORY t")).await.unwrap();
        let commits: usize = commits.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(commits, 2);
        let beyond: ArrayRef = Arc::new(Float64Array::from(vec![2_147_483_647.5]));
        let bound = prepared("INSERT INTO t (i) VALUES (?)")
            .bind(&[RecordBatch::try_from_iter([("0", beyond)]).unwrap()])
            .unwrap();
        let statement = bound.statements().unwrap().next().unwrap().unwrap();
        let refused = session.collect(statement).await.unwrap_err();
        assert!(refused.message().contains("out of range of INT"));
    }

    #[test]
    fn value_1_literals_keep_types_and_digits() {
        let decimals = Decimal128Array::from(vec![1_250]).with_precision_and_scale(10, 2);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("0", Arc::new(decimals.unwrap())),
            ("1", Arc::new(Date32Array::from(vec![2_932_896]))),
            ("2", Arc::new(Float64Array::from(vec![f64::NAN]))),
            ("3", Arc::new(Float64Array::from(vec![1e-310]))),
        ];
        let bound = prepared("SELECT ?, ?, ?, ?")
            .bind(&[RecordBatch::try_from_iter(columns).unwrap()])
            .unwrap();
        assert_eq!(
            texts(&bound),
            ["SELECT arrow_cast('12.50', 'Decimal128(10, 2)'), \
                 arrow_cast(arrow_cast(2932896, 'Int32'), 'Date32'), CAST('NaN' AS DOUBLE), \
                 CAST('1e-310' AS DOUBLE)"]
        );
    }

    #[test]
    fn times_are_announced_in_the_unit_that_the_client_binds() {
        let of = |unit| DataType::Timestamp(unit, Some("UTC".into()));
        let types = HashMap::from([
            ("1".to_owned(), of(TimeUnit::Microsecond)),
            ("2".to_owned(), DataType::Int64),
        ]);
        for (binds_milliseconds, unit) in [
            (false, TimeUnit::Microsecond),
            (true, TimeUnit::Millisecond),
        ] {
            let schema = prepared("SELECT $1, $2, $3").parameter_schema(&types, binds_milliseconds);
            let announced: Vec<&DataType> = schema
                .fields()
                .iter()
                .map(|field| field.data_type())
                .collect();
            assert_eq!(announced, [&of(unit), &DataType::Int64, &DataType::Utf8]);
        }
    }

    #[test]
    fn a_parameter_that_is_not_numbered_has_no_value() {
        let statement = prepared("SELECT :x");
        assert!(!statement.has_parameters());
        let error = statement.statements().unwrap_err();
        assert_eq!(error.message(), "parameter $:x has no value");
        assert_eq!(error.help(), Some("bind a value for each parameter"));
    }

    #[test]
    fn parameters_are_bound_by_number() {
        let many = prepared("SELECT $10, $2, $1, $3, $4, $5, $6, $7, $8, $9");
        let names: Vec<String> = many
            .parameter_schema(&HashMap::new(), false)
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        assert_eq!(names.join(" "), "$1 $2 $3 $4 $5 $6 $7 $8 $9 $10");
        let none = many.statements().unwrap_err();
        assert_eq!(none.message(), "parameter $10 has no value");
        assert_eq!(none.span().unwrap().start.column, 8);
        let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let few = many.bind(&[RecordBatch::try_from_iter([("x", one)]).unwrap()]);
        assert_eq!(
            few.unwrap_err().message(),
            "the statement has 10 parameters, and 1 are bound"
        );
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
            Some(vec![Some(1), None]),
        ]));
        let list = prepared("SELECT ?").bind(&[RecordBatch::try_from_iter([("x", list)]).unwrap()]);
        assert_eq!(
            texts(&list.unwrap()),
            ["SELECT make_array(1, arrow_cast(NULL, 'Int64'))"]
        );
        assert_eq!(texts(&prepared("SELECT 1")), ["SELECT 1"]);
    }

    /// As many copies of a long statement as rows are bound would be more than there is memory.
    #[test]
    fn bound_statements_are_created_one_at_a_time() {
        let list = vec!["1"; 200_000].join(", ");
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
        let bound = prepared(&format!("SELECT 7 WHERE ? IN ({list})"))
            .bind(&[RecordBatch::try_from_iter([("x", numbers)]).unwrap()])
            .unwrap();
        let mut statements = bound.statements().unwrap();
        assert_eq!(statements.len(), 100_000);
        assert!(statements.next().unwrap().is_ok());
        assert_eq!(statements.len(), 99_999);
        let column = |numbers: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(numbers.to_vec())) };
        let batch = |numbers| RecordBatch::try_from_iter([("x", column(numbers))]).unwrap();
        let bound =
            prepared("SELECT ?").bind(&[batch(&[]), batch(&[1]), batch(&[]), batch(&[2, 3])]);
        assert_eq!(texts(&bound.unwrap()), ["SELECT 1", "SELECT 2", "SELECT 3"]);
        let none = prepared("SELECT ?").bind(&[batch(&[])]).unwrap();
        assert_eq!(none.statements().unwrap().len(), 0);
    }

    #[test]
    fn dictionary_rows_are_weighed_by_their_values() {
        let long = "x".repeat(1_000_000);
        let values: ArrayRef = Arc::new(StringArray::from(vec![long.as_str(), "y"]));
        let keys = Int32Array::from_iter_values((0..1_000).map(|row| row % 2));
        let column: ArrayRef = Arc::new(DictionaryArray::new(keys, values));
        let rows = RecordBatch::try_from_iter([("x", column)]).unwrap();
        assert!(rows.get_array_memory_size() < 10_000_000);
        assert!(bound_bytes(&rows) > 500_000_000);
    }
}
