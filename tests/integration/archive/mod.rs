//! Archived topics: a Delta table is the past of a topic (ARCH-1).

mod halves;
mod refusals;

use anabranch::planner::{Parameters, Script, parse_statement};
use anabranch::session::{Session, SessionOptions};
use anabranch::tables::kafka::embedded_broker::EmbeddedBroker;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// A session with an embedded broker and a folder for Delta tables.
struct Lake {
    runtime: tokio::runtime::Runtime,
    session: Session,
    broker: EmbeddedBroker,
    folder: tempfile::TempDir,
}

impl Lake {
    fn new() -> Self {
        Self {
            runtime: tokio::runtime::Runtime::new().unwrap(),
            session: Session::try_new(&SessionOptions::default()).unwrap(),
            broker: EmbeddedBroker::start().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The rows of the last of these statements, each as text, or its error.
    fn try_run(&self, sql: &str) -> Result<Vec<String>, anabranch::error::Error> {
        let folder = self.folder.path().display().to_string();
        let sql = sql
            .replace("__DIR__", &folder)
            .replace("__KAFKA__", &self.broker.bootstrap_servers());
        let mut rows = Vec::new();
        for raw in Script::new("test", sql).split()? {
            let mut parsed = parse_statement(&raw)?;
            Parameters::default().bind(&mut parsed)?;
            rows.clear();
            let batches = self.runtime.block_on(self.session.collect(parsed))?;
            let options = FormatOptions::default().with_null("NULL");
            for batch in &batches {
                let columns = batch.columns().iter();
                let cells: Vec<_> = columns
                    .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
                    .collect();
                for row in 0..batch.num_rows() {
                    let row = cells.iter().map(|cells| cells.value(row).to_string());
                    rows.push(row.collect::<Vec<_>>().join(" "));
                }
            }
        }
        Ok(rows)
    }

    #[track_caller]
    fn run(&self, sql: &str) -> Vec<String> {
        match self.try_run(sql) {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error} ({:?})", error.help()),
        }
    }

    /// The error of a statement, with its help.
    #[track_caller]
    fn refused(&self, sql: &str) -> String {
        match self.try_run(sql) {
            Ok(rows) => panic!("{sql} gave {rows:?}"),
            Err(error) => format!("{error}\n{}", error.help().unwrap_or_default()),
        }
    }

    /// The plan of a query, as EXPLAIN shows it.
    fn plan(&self, query: &str) -> String {
        self.run(&format!("EXPLAIN FORMAT INDENT {query}"))
            .join("\n")
    }
}

/// A Kafka table with these options besides the broker's address.
fn table(name: &str, topic: &str, options: &str) -> String {
    format!(
        "CREATE EXTERNAL TABLE {name} (user_id BIGINT, page VARCHAR, event_time TIMESTAMP,
           p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset', raw VARCHAR METADATA FROM 'value',
           k VARCHAR METADATA FROM 'key', ts TIMESTAMP METADATA FROM 'timestamp',
           WATERMARK FOR event_time AS event_time - INTERVAL '1 minute')
         STORED AS KAFKA LOCATION '{topic}' OPTIONS ('kafka.bootstrap.servers' '__KAFKA__' {options});\n"
    )
}
