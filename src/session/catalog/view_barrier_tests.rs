//! Property test of views that hide rows: no expression of a reader is evaluated on a row that the view filters out, and the
//! answer equals that over a table which holds exactly the view's rows.
//!
//! The function `probe` returns its argument and records it. Other expressions fail on hidden rows only.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use proptest::prelude::*;

use crate::error::Result;
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::{ForkOptions, Session, SessionOptions};

/// Each view returns rows 0 to 14, with values below 1000, and none of rows 15 to 29.
const ROWS: &str = "SELECT id, k, v, CASE WHEN v < 1000 THEN CAST(v AS VARCHAR) ELSE concat('hidden-', CAST(v AS VARCHAR)) END AS t \
     FROM (SELECT value AS id, CASE WHEN value < 15 THEN value % 4 ELSE 4 + value % 4 END AS k, \
     CASE WHEN value < 15 THEN value * 10 ELSE 1000 + value END AS v FROM generate_series(0, 29)) AS x";

/// A table of the reader.
const OWN: &str = "CREATE TABLE open_own AS SELECT * FROM (VALUES (0, 100), (1, 101), (2, 102), (3, 103)) AS x (k, w)";

/// Tables with those rows, in memory and in two files.
const STORES: [&str; 2] = ["secret", "secret_files"];

/// Views that return the same rows of a table in different ways.
const VIEWS: [&str; 11] = [
    "SELECT id, k, v, t FROM {} WHERE v < 1000",
    "SELECT * FROM {} WHERE id BETWEEN 0 AND 14",
    "SELECT * FROM {} WHERE t NOT LIKE 'hidden%'",
    "SELECT * FROM {} WHERE k IN (SELECT k FROM open_own)",
    "SELECT s.id, s.k, s.v, s.t FROM {} s JOIN open_own o ON s.k = o.k",
    "SELECT * FROM {} s WHERE NOT EXISTS (SELECT 1 FROM secret_blocked b WHERE b.id = s.id)",
    "SELECT DISTINCT id, k, v, t FROM {} WHERE v < 1000",
    "SELECT * FROM {} ORDER BY v LIMIT 15",
    "SELECT id, k, v, t FROM (SELECT *, row_number() OVER (PARTITION BY id % 15 ORDER BY v) AS n FROM {}) AS x WHERE n = 1",
    "SELECT id, k, max(v) AS v, max(t) AS t FROM {} GROUP BY id, k HAVING max(v) < 1000",
    "SELECT * FROM {} WHERE v < 70 UNION ALL SELECT * FROM {} WHERE v BETWEEN 70 AND 999",
];

/// The reader's queries: `{n}` is the view, `{v}` a value and `{c}` a condition over its row `o`.
const QUERIES: [&str; 16] = [
    "SELECT o.id FROM {n} o WHERE {c}",
    "SELECT {v} AS x FROM {n} o WHERE {c}",
    "SELECT {v} AS x, count(*) FROM {n} o WHERE {c} GROUP BY {v}",
    "SELECT o.id FROM {n} o WHERE {c} ORDER BY {v}, o.id LIMIT 3",
    "SELECT DISTINCT {v} AS x FROM {n} o WHERE {c}",
    "SELECT sum({v}), count(*) FILTER (WHERE {c}), max({v}) FILTER (WHERE {c}) FROM {n} o",
    "SELECT o.k, max({v}) FROM {n} o GROUP BY o.k HAVING max({v}) > 10 AND o.k > 0",
    "SELECT o.id, p.id FROM {n} o JOIN {n} p ON {v} = p.v AND {c}",
    "SELECT o.id, w.w FROM {n} o LEFT JOIN open_own w ON w.k = o.k AND {c}",
    "SELECT w.w FROM open_own w WHERE w.k * 10 IN (SELECT {v} FROM {n} o WHERE {c})",
    "SELECT w.w FROM open_own w WHERE EXISTS (SELECT 1 FROM {n} o WHERE o.k = w.k AND {c})",
    "SELECT o.id, row_number() OVER (PARTITION BY o.k ORDER BY {v}, o.id) AS n FROM {n} o WHERE {c}",
    "SELECT x.id FROM (SELECT o.id, {v} AS y FROM {n} o WHERE {c}) x WHERE x.y > 5",
    "SELECT o.id FROM {n} o WHERE {c} UNION ALL SELECT o.k FROM {n} o WHERE {v} > 20",
    "WITH c AS (SELECT o.id, {v} AS y FROM {n} o) SELECT a.id FROM c a JOIN c b ON a.y = b.y",
    "SELECT o.id, CASE WHEN {c} THEN {v} ELSE 0 END AS x FROM {n} o ORDER BY o.v, x LIMIT 5",
];

fn value() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "probe(o.v)",
        "CAST(o.t AS BIGINT)",
        "100000 / (o.v - 1017)",
        "probe(o.v + 1) - 1",
    ])
}

/// A condition with a part that, in most cases, must not be evaluated on a hidden row.
fn condition() -> impl Strategy<Value = String> {
    let harmless = proptest::sample::select(vec![
        "o.id > 3",
        "o.k = 2",
        "o.v < 70",
        "o.v > 900",
        "o.id IN (2, 20, 5)",
        "o.t IS NOT NULL",
        "o.id = 17",
    ]);
    let telling = prop_oneof![
        value().prop_map(|value| format!("{value} > 30")),
        value().prop_map(|value| format!("{value} % 20 = 0")),
        value().prop_map(|value| format!("{value} IN (10, 40, 1020)")),
    ];
    let part = prop_oneof![1 => harmless.prop_map(str::to_owned), 2 => telling];
    part.prop_recursive(2, 4, 2, |part| {
        let two = (part.clone(), part.clone());
        let other = two.clone();
        prop_oneof![
            part.prop_map(|one| format!("NOT ({one})")),
            two.prop_map(|(left, right)| format!("({left} AND {right})")),
            other.prop_map(|(left, right)| {
                format!("CASE WHEN {left} THEN {right} ELSE o.id = 1 OR {left} END")
            }),
        ]
    })
}

/// Numbers with which `probe` was called.
type ProbedValues = Arc<Mutex<BTreeSet<i64>>>;

/// Registers the function in a session.
fn with_probe(session: &Session) -> ProbedValues {
    let met = ProbedValues::default();
    let told = Arc::clone(&met);
    let probe = move |given: &[ColumnarValue]| -> DataFusionResult<ColumnarValue> {
        let values = ColumnarValue::values_to_arrays(given)?;
        let values = values[0].as_primitive::<Int64Type>().iter().flatten();
        told.lock().unwrap().extend(values);
        Ok(given[0].clone())
    };
    session.context.register_udf(create_udf(
        "probe",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Immutable,
        Arc::new(probe),
    ));
    met
}

/// The rows of the last statement of a text, each as a line, sorted.
async fn run(session: &Session, text: &str) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for raw in Script::new("test", text).split()? {
        let mut parsed = parse_statement(&raw)?;
        Parameters::default().bind(&mut parsed)?;
        rows.clear();
        for batch in session.collect(parsed).await? {
            for row in 0..batch.num_rows() {
                let columns = batch.columns().iter();
                let values: Vec<String> = columns
                    .map(|column| array_value_to_string(column, row).unwrap())
                    .collect();
                rows.push(values.join(" "));
            }
        }
    }
    rows.sort();
    Ok(rows)
}

fn view_name(view: usize, store: usize) -> String {
    format!("open_{view}_{}", STORES[store])
}

/// A session with the hidden tables and the views, and one that has the rows of a view as its table `seen`.
async fn sessions(files: &str) -> Result<(Session, Session)> {
    let whole = Session::try_new(&SessionOptions::default())?;
    let tables = format!(
        "{OWN}; CREATE TABLE secret AS {ROWS};
         CREATE TABLE secret_blocked AS SELECT id FROM secret WHERE v >= 1000;
         CREATE EXTERNAL TABLE secret_files (id BIGINT, k BIGINT, v BIGINT, t VARCHAR) STORED AS DELTA LOCATION '{files}';
         INSERT INTO secret_files SELECT * FROM secret WHERE id % 3 = 0;
         INSERT INTO secret_files SELECT * FROM secret WHERE id % 3 <> 0"
    );
    run(&whole, &tables).await?;
    for (store, table) in STORES.iter().enumerate() {
        for (view, query) in VIEWS.iter().enumerate() {
            let name = view_name(view, store);
            let query = query.replace("{}", table);
            run(&whole, &format!("CREATE VIEW {name} AS {query}")).await?;
        }
        // A view above one that hides.
        let (name, below) = (view_name(VIEWS.len(), store), view_name(0, store));
        let above = format!("CREATE VIEW {name} AS SELECT * FROM {below} WHERE id >= 0");
        run(&whole, &above).await?;
    }
    let other = Session::try_new(&SessionOptions::default())?;
    let seen = format!("{OWN}; CREATE TABLE seen AS SELECT * FROM ({ROWS}) AS r WHERE v < 1000");
    run(&other, &seen).await?;
    Ok((whole, other))
}

/// Whether `probe` was called with a value of a hidden row since the last call.
fn has_met_hidden(met: &ProbedValues) -> bool {
    let met = std::mem::take(&mut *met.lock().unwrap());
    met.iter().any(|value| *value >= 1000)
}

#[test]
fn no_reader_expression_sees_a_hidden_row() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("secret").display().to_string();
    let (whole, other) = runtime.block_on(sessions(&files)).unwrap();
    let may_name = ForkOptions {
        may_name: Some(Arc::new(|_: &str, name: &str| name.starts_with("open"))),
        ..ForkOptions::default()
    };
    let reader = whole.fork(&may_name).unwrap();
    let all = whole.fork(&ForkOptions::default()).unwrap();
    let (met, met_by_all, _) = (with_probe(&reader), with_probe(&all), with_probe(&other));
    let expected = runtime.block_on(run(&other, "SELECT * FROM seen")).unwrap();
    assert_eq!(expected.len(), 15);
    for store in 0..STORES.len() {
        for view in 0..=VIEWS.len() {
            let sql = format!("SELECT * FROM {}", view_name(view, store));
            assert_eq!(
                runtime.block_on(run(&reader, &sql)).unwrap(),
                expected,
                "{sql}"
            );
        }
    }
    let (cases, answered, shown) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let places = (
        0..=VIEWS.len(),
        0..STORES.len(),
        proptest::sample::select(QUERIES.to_vec()),
    );
    let config = ProptestConfig {
        cases: 96,
        ..ProptestConfig::default()
    };
    proptest!(config, |((view, store, query) in places, value in value(), condition in condition())| {
        let query = query.replace("{v}", value).replace("{c}", &condition);
        let of_view = query.replace("{n}", &view_name(view, store));
        let mine = runtime.block_on(run(&reader, &of_view));
        prop_assert!(!has_met_hidden(&met), "a hidden row was looked at: {}", of_view);
        let right = runtime.block_on(run(&other, &query.replace("{n}", "seen")));
        match (&mine, &right) {
            (Ok(mine), Ok(right)) => prop_assert_eq!(mine, right, "{}", of_view),
            // The statement fails on both alike.
            (Err(mine), Err(_)) => {
                let said = mine.to_string();
                prop_assert!(!said.contains("hidden-"), "{}: {}", of_view, said);
            }
            _ => {
                let differ = format!("{of_view}: {mine:?}, and of its rows alone {right:?}");
                return Err(TestCaseError::fail(differ));
            }
        }
        // A user who may read the tables gets a view without a barrier.
        let open = runtime.block_on(run(&all, &of_view));
        let is_shown = has_met_hidden(&met_by_all) || (open.is_err() && right.is_ok());
        cases.set(cases.get() + 1);
        answered.set(answered.get() + usize::from(right.is_ok()));
        shown.set(shown.get() + usize::from(is_shown));
    });
    // The statements are chosen so that a view without a barrier would fail the test.
    let (cases, answered, shown) = (cases.get(), answered.get(), shown.get());
    assert!(answered * 4 > cases * 3, "{answered} of {cases}");
    assert!(shown * 20 > cases, "{shown} of {cases}");
}
