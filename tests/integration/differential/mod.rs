//! VALUE-1 against another engine: random expressions, aggregates, predicates and joins over rows with NULLs, extremes
//! and NaN give the results of DuckDB, or both engines refuse them. Deviations are agreed and listed with their reasons; nearly
//! all are proved by a reading of the statement that gives the other engine's answer here.
//!
//! `ANABRANCH_DIFFERENTIAL=20000` runs so many statements instead of a thousand, `ANABRANCH_SEED` others.

mod agreed;
mod compare;
mod generate;
mod readings;

use anabranch::planner::{Parameters, Script, parse_statement};
use anabranch::session::{Session, SessionOptions};
use futures::StreamExt as _;

use crate::support::{ProgramOutput, python_with};
use agreed::agreed;
use compare::{Answer, Value, same};
use generate::{Generator, Statement, TABLES};

/// Runs statements in DuckDB. Gives one line of JSON for each: rows of values, each its type and a text, or why it refuses.
const DUCKDB: &str = r#"
import datetime, decimal, duckdb, json, sys
db = duckdb.connect()
db.execute("SET TimeZone = 'UTC'")
epoch = datetime.datetime(1970, 1, 1)
def typed(value):
    if value is None: return None
    if isinstance(value, bool): return ["bool", "true" if value else "false"]
    if isinstance(value, int): return ["int", str(value)]
    if isinstance(value, float): return ["double", repr(value)]
    if isinstance(value, decimal.Decimal): return ["decimal", format(value, "f")]
    if isinstance(value, str): return ["text", value]
    if isinstance(value, datetime.datetime):
        return ["time", str((value - epoch) // datetime.timedelta(microseconds=1))]
    if isinstance(value, datetime.date): return ["day", str((value - epoch.date()).days)]
    raise TypeError(f"no form for {type(value)}")
for line in open(sys.argv[1]):
    sql = json.loads(line)
    try:
        found = db.execute(sql).fetchall()
    except duckdb.Error as error:
        print(json.dumps({"refused": str(error).split("\n")[0]}))
        continue
    print(json.dumps([[typed(value) for value in row] for row in found]))
"#;

async fn ours(session: &Session, sql: &str) -> Answer {
    let run = async {
        let mut rows: Vec<Vec<Value>> = Vec::new();
        for raw in Script::new("differential", sql).split()? {
            let mut parsed = parse_statement(&raw)?;
            Parameters::default().bind(&mut parsed)?;
            for batch in session.collect(parsed).await? {
                for row in 0..batch.num_rows() {
                    let columns = batch.columns().iter();
                    let row = columns.map(|column| Value::from_column(column.as_ref(), row));
                    rows.push(row.collect());
                }
            }
        }
        Ok::<_, anabranch::error::Error>(rows)
    };
    Answer::of(run.await)
}

/// A session with the tables that statements read.
fn session(runtime: &tokio::runtime::Runtime) -> Session {
    let session = Session::try_new(&SessionOptions::default()).unwrap();
    for (table, _) in TABLES {
        let made = runtime.block_on(ours(&session, table));
        assert!(matches!(made, Answer::Rows(_)), "{made:?}");
    }
    session
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
}

#[test]
#[expect(clippy::print_stderr, reason = "a failed test shows it")]
fn answers_equal_those_of_another_engine() {
    let count = number("ANABRANCH_DIFFERENTIAL", 1000) as usize;
    let seed = number("ANABRANCH_SEED", 1);
    let mut generator = Generator::new(seed);
    let statements: Vec<Statement> = (0..count).map(|_| generator.statement()).collect();

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("statements");
    let lines = TABLES
        .iter()
        .map(|(_, theirs)| (*theirs).to_owned())
        .chain(statements.iter().map(|statement| statement.theirs.clone()))
        .map(|sql| serde_json::to_string(&sql).unwrap() + "\n");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let ran = ProgramOutput::of(
        std::process::Command::new(python_with("duckdb.txt"))
            .args(["-c", DUCKDB])
            .arg(&file),
    )
    .ok();
    let theirs: Vec<Answer> = ran.out.lines().map(Answer::from_json).collect();
    assert_eq!(theirs.len(), TABLES.len() + count);
    for answer in &theirs[..TABLES.len()] {
        assert!(matches!(answer, Answer::Rows(_)), "{answer:?}");
    }

    let runtime = tokio::runtime::Runtime::new().unwrap();
    // As many at a time as there are cores.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let session = std::sync::Arc::new(session(&runtime));
    let answers = statements.iter().map(|statement| {
        let (session, sql) = (std::sync::Arc::clone(&session), statement.ours.clone());
        tokio::spawn(async move { ours(&session, &sql).await })
    });
    let answers: Vec<Answer> = runtime.block_on(async {
        let answers = futures::stream::iter(answers).buffered(cores);
        answers.map(Result::unwrap).collect().await
    });

    let run = |sql: &str| runtime.block_on(ours(&session, sql));
    let (mut rows, mut refused) = (0, 0);
    let mut agreed_on = std::collections::BTreeMap::<&str, usize>::new();
    let mut found = Vec::new();
    let compared = statements.iter().zip(&answers).zip(&theirs[TABLES.len()..]);
    for ((statement, ours), theirs) in compared {
        match ours {
            Answer::Rows(_) if same(statement, ours, theirs) => rows += 1,
            Answer::Refused(_) if same(statement, ours, theirs) => refused += 1,
            _ => match agreed(statement, ours, theirs, run) {
                Some(reason) => *agreed_on.entry(reason).or_default() += 1,
                None => found.push(format!(
                    "ours:   {}\n  {ours:?}\ntheirs: {}\n  {theirs:?}\n",
                    statement.ours, statement.theirs
                )),
            },
        }
    }
    eprintln!("{rows} with the same rows, {refused} refused by both, agreed: {agreed_on:#?}");
    assert!(
        found.is_empty(),
        "{} of {count} differ (seed {seed}):\n{}",
        found.len(),
        found.iter().take(20).cloned().collect::<String>()
    );
    // A generator of nothing but errors would find nothing.
    assert!(rows * 2 > count, "only {rows} of {count} have rows");
    assert!(refused > 0, "nothing overflows");
}
