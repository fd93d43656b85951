//! The `.slt` files of `tests/slt`, each in a session of its own.

use anabranch::error::Error;
use anabranch::planner::{Parameters, Script, parse_statement};
use anabranch::session::{Session, SessionOptions};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

use crate::support::repository;

struct Database {
    session: Session,
    folder: tempfile::TempDir,
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

    async fn shutdown(&mut self) {}
}

impl Database {
    async fn statement(&self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        let mut rows = Vec::new();
        let mut columns = 0;
        for raw in Script::new("slt", sql).split()? {
            let mut parsed = parse_statement(&raw)?;
            Parameters::default().bind(&mut parsed)?;
            for batch in self.session.collect(parsed).await? {
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

#[test]
fn sql_logic() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut files: Vec<_> = std::fs::read_dir(repository().join("tests/slt"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no .slt file was found");
    for file in files {
        let mut runner = Runner::new(|| async {
            Ok(Database {
                session: Session::try_new(&SessionOptions::default()).map_err(Failure)?,
                folder: tempfile::tempdir().unwrap(),
            })
        });
        runtime
            .block_on(runner.run_file_async(&file))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
