//! The jobs that are simulated.

use std::sync::Arc;

use super::source::DELAY;
use crate::planner::ast::{JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::{JobQuery, Session, SessionOptions};

/// The name of the table that is read.
pub(super) const SOURCE: &str = "visits";
/// The size of tumbling windows, in seconds.
pub(super) const SIZE: i64 = 10;
/// The gap of sessions, in seconds.
pub(super) const GAP: i64 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Row by row.
    Rows,
    /// Tumbling windows, each once.
    TumbleOnClose,
    /// Tumbling windows whenever they change.
    TumbleChanges,
    /// Sessions whenever they change; what they were is withdrawn.
    SessionChanges,
}

impl Kind {
    /// Whether keys may be NULL: those of upserts may not.
    pub(super) fn has_null_keys(self) -> bool {
        matches!(self, Kind::Rows | Kind::TumbleOnClose)
    }

    /// Whether the sink may be a table, which can withdraw nothing.
    pub(super) fn may_write_table(self) -> bool {
        matches!(self, Kind::Rows | Kind::TumbleOnClose)
    }

    pub(super) fn is_windowed(self) -> bool {
        self != Kind::Rows
    }

    fn sql(self) -> String {
        let (columns, select) = match self {
            Kind::Rows => (
                "k BIGINT, v BIGINT, p BIGINT, o BIGINT",
                "SELECT k, v * 2, p, o FROM visits".to_owned(),
            ),
            windowed => (
                "k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT, total BIGINT, final BOOLEAN",
                format!(
                    "SELECT k, window_start, window_end, count(*), sum(v), is_final() FROM {} GROUP BY k, window_start, window_end {}",
                    match windowed {
                        Kind::SessionChanges => format!(
                            "SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(event_time), INTERVAL '{GAP} seconds')"
                        ),
                        _ => format!(
                            "TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '{SIZE} seconds')"
                        ),
                    },
                    match windowed {
                        Kind::TumbleOnClose => "EMIT ON WINDOW CLOSE",
                        _ => "EMIT CHANGES",
                    }
                ),
            ),
        };
        let key = match self {
            Kind::TumbleChanges | Kind::SessionChanges => ", PRIMARY KEY (k, s) NOT ENFORCED",
            Kind::Rows | Kind::TumbleOnClose => "",
        };
        format!(
            "CREATE EXTERNAL TABLE visits (k BIGINT, event_time TIMESTAMP, v BIGINT,
               p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset',
               WATERMARK FOR event_time AS event_time - INTERVAL '{DELAY} seconds')
             STORED AS KAFKA LOCATION 'visits'
             OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1', 'watermark.idle_after' '400 milliseconds');
             CREATE EXTERNAL TABLE out ({columns}{key})
             STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
             CREATE JOB j AS INSERT INTO out {select}"
        )
    }

    pub(super) async fn query(self) -> Arc<JobQuery> {
        let options = SessionOptions {
            target_partitions: Some(1),
            ..SessionOptions::default()
        };
        let session = Session::try_new(&options).unwrap();
        let sql = self.sql();
        for raw in Script::new("simulation", &sql).split().unwrap() {
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            if let Statement::Job(job) = parsed.statement {
                let JobStatement::Create { insert, emit, .. } = *job else {
                    panic!("the last statement makes the job");
                };
                let query = JobQuery::try_new(&session, *insert, emit).await;
                return Arc::new(query.unwrap());
            }
            session.execute(parsed).await.unwrap();
        }
        panic!("no job in the script");
    }
}
