//! The `.slt` files of `tests/slt`, each in a session of its own, and each over Flight in a server of its own.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anabranch::client::{Address, Client, Login, TlsFiles};
use anabranch::error::Error;
use anabranch::planner::{Parameters, Script, parse_statement};
use anabranch::session::{Session, SessionOptions};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt as _;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner, TestError};

use crate::server::TestServer;
use crate::support::{Workspace, repository};

struct Database {
    engine: Engine,
    folder: tempfile::TempDir,
}

enum Engine {
    Here(Box<Session>),
    /// A server keeps no tables in memory: there they are views.
    There(Box<Client>),
}

#[derive(Debug)]
struct Failure(Error);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {}

#[async_trait::async_trait]
impl AsyncDB for Database {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        // Each file has a folder of its own for Delta tables.
        let sql = sql.replace("__DIR__", &self.folder.path().display().to_string());
        self.statement(&sql).await.map_err(Failure)
    }

    fn engine_name(&self) -> &str {
        match &self.engine {
            Engine::Here(_) => "here",
            Engine::There(_) => "flight",
        }
    }

    async fn shutdown(&mut self) {}
}

impl Database {
    async fn statement(&self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        let mut rows = Vec::new();
        let mut columns = 0;
        let sql = match (&self.engine, sql.strip_prefix("CREATE TABLE ")) {
            (Engine::There(_), Some(table)) => format!("CREATE VIEW {table}"),
            _ => sql.to_owned(),
        };
        for raw in Script::new("slt", sql).split()? {
            let mut parsed = parse_statement(&raw)?;
            let is_query = raw.text().trim_start().to_uppercase();
            let is_query = [
                "SELECT",
                "WITH",
                "SHOW",
                "DESCRIBE",
                "EXPLAIN",
                "VALUES",
                "SUMMARIZE",
            ]
            .iter()
            .any(|word| is_query.starts_with(word));
            let batches: Vec<RecordBatch> = match &self.engine {
                Engine::Here(session) => {
                    Parameters::default().bind(&mut parsed)?;
                    session.collect(parsed).await?
                }
                Engine::There(client) => {
                    let bound = Parameters::default().bind_text(&raw, &mut parsed)?;
                    let answer = client.run(&bound).await?;
                    answer.rows.try_collect().await?
                }
            };
            for batch in batches.iter().filter(|_| is_query) {
                columns = batch.num_columns();
                let options = FormatOptions::default().with_null("NULL");
                let cells: Vec<_> = batch
                    .columns()
                    .iter()
                    .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
                    .collect();
                for row in 0..batch.num_rows() {
                    let cell = |cells: &ArrayFormatter<'_>| match cells.value(row).to_string() {
                        text if text.is_empty() => "(empty)".to_owned(),
                        text => text,
                    };
                    rows.push(cells.iter().map(cell).collect());
                }
            }
            if is_query && columns == 0 {
                // No rows are rows as well.
                columns = 1;
            }
        }
        if columns == 0 {
            return Ok(DBOutput::StatementComplete(0));
        }
        Ok(DBOutput::Rows {
            types: vec![DefaultColumnType::Any; columns],
            rows,
        })
    }
}

fn files() -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(repository().join("tests/slt"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no .slt file was found");
    files
}

#[test]
fn sql_logic() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut failed = String::new();
    for file in files() {
        let mut runner = Runner::new(|| async {
            let session = Session::try_new(&SessionOptions::default()).map_err(Failure)?;
            Ok(Database {
                engine: Engine::Here(Box::new(session)),
                folder: tempfile::tempdir().unwrap(),
            })
        });
        if let Err(error) = runtime.block_on(runner.run_file_async(&file)) {
            failed += &format!("{}: {error}\n", file.display());
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

#[test]
fn sql_logic_over_flight() {
    // The fixtures are named from the folder of the repository, where the server is not.
    let has_fixtures = |file: &std::path::PathBuf| file.ends_with("int96.slt");
    let mut files = files();
    files.retain(|file| !has_fixtures(file));
    // Two at a time, and the longest first: this is the longest test of all, and among the last.
    files.sort_by_key(|file| Reverse(file.metadata().unwrap().len()));
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(String::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = run_over_flight(file) {
                        *failed.lock().unwrap() += &format!("{}: {error}\n", file.display());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed}");
}

fn run_over_flight(file: &Path) -> Result<(), TestError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let url = served.url();
    let mut runner = Runner::new(|| async {
        let address = Address::parse(&url).map_err(Failure)?;
        let client = Client::connect(address, Login::Anonymous, &TlsFiles::default()).await;
        Ok(Database {
            engine: Engine::There(Box::new(client.map_err(Failure)?)),
            folder: tempfile::tempdir().unwrap(),
        })
    });
    runtime.block_on(runner.run_file_async(file))
}
