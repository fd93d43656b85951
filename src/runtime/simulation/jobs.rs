//! The jobs that the simulation runs: one kind of query each.

use std::sync::{Arc, LazyLock};

use datafusion::sql::parser::Statement as SqlStatement;

use super::source::DELAY;
use crate::planner::ast::{Emit, JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::{ForkOptions, Session, SessionOptions};
use crate::streaming::{JobQuery, RunFacts};

/// What the sessions of all jobs are forked from: nothing is ever defined in it. All functions are registered in it once.
static EMPTY: LazyLock<Session> = LazyLock::new(|| {
    let options = SessionOptions {
        target_partitions: Some(1),
        ..SessionOptions::default()
    };
    Session::try_new(&options).unwrap()
});

/// The name of the table that is read.
pub(super) const SOURCE: &str = "visits";
/// A partition without new records counts as idle after this many milliseconds.
pub(super) const IDLE_AFTER: u64 = 400;
/// The size of tumbling windows, in seconds.
pub(super) const SIZE: i64 = 10;
/// The step and the size of hopping windows, in seconds.
pub(super) const STEP: i64 = 4;
pub(super) const LENGTH: i64 = 12;
/// The gap of sessions, in seconds.
pub(super) const GAP: i64 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A query without windows: one row for each row.
    Rows,
    /// Tumbling windows, each of which is written once, when it closes.
    TumbleOnClose,
    /// Tumbling windows, each of which is written whenever it has changed.
    TumbleChanges,
    /// Hopping windows, each of which is written once, when it closes. The state has slices and not windows.
    HopOnClose,
    /// Hopping windows, each of which is written whenever it has changed.
    HopChanges,
    /// Sessions, each of which is written whenever it has changed; the row of the session as it was before is withdrawn.
    SessionChanges,
    /// An aggregate by key, without windows, which is written whenever it has changed. Keys are kept for longer than any schedule
    /// lasts.
    KeyChanges,
}

impl Kind {
    /// Whether keys may be NULL: primary keys of upserts may not.
    pub(super) fn has_null_keys(self) -> bool {
        !self.is_upsert()
    }

    /// Whether the sink may be a table: rows cannot be withdrawn from it.
    pub(super) fn may_write_table(self) -> bool {
        !self.is_upsert()
    }

    /// Whether windows are written whenever they have changed, as upserts.
    pub(super) fn is_upsert(self) -> bool {
        matches!(
            self,
            Kind::TumbleChanges | Kind::HopChanges | Kind::SessionChanges | Kind::KeyChanges
        )
    }

    /// The start and end, in seconds, of the tumbling or hopping windows that a time falls into.
    pub(super) fn windows(self, time: i64) -> Vec<(i64, i64)> {
        let (step, size) = match self {
            Kind::Rows | Kind::SessionChanges | Kind::KeyChanges => return vec![],
            Kind::TumbleOnClose | Kind::TumbleChanges => (SIZE, SIZE),
            Kind::HopOnClose | Kind::HopChanges => (STEP, LENGTH),
        };
        (time - size + 1..=time)
            .filter(|start| start.rem_euclid(step) == 0)
            .map(|start| (start, start + size))
            .collect()
    }

    /// Whether it keeps state.
    pub(super) fn is_stateful(self) -> bool {
        self != Kind::Rows
    }

    /// Whether it has windows, and thus watermarks.
    pub(super) fn is_windowed(self) -> bool {
        self.is_stateful() && self != Kind::KeyChanges
    }

    fn sql(self) -> String {
        let (columns, select) = match self {
            Kind::Rows => (
                "k BIGINT, v BIGINT, p BIGINT, o BIGINT",
                "SELECT k, v * 2, p, o FROM visits".to_owned(),
            ),
            Kind::KeyChanges => (
                "k BIGINT, s BIGINT, e BIGINT, n BIGINT, total BIGINT, final BOOLEAN",
                "SELECT k, 0, 0, count(*), sum(v), false FROM visits GROUP BY k EMIT CHANGES"
                    .to_owned(),
            ),
            windowed => (
                "k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT, total BIGINT, final BOOLEAN",
                format!(
                    "SELECT k, window_start, window_end, count(*), sum(v), is_final() FROM {} GROUP BY k, window_start, window_end {}",
                    match windowed {
                        Kind::SessionChanges => format!(
                            "SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(event_time), INTERVAL '{GAP} seconds')"
                        ),
                        Kind::HopOnClose | Kind::HopChanges => format!(
                            "HOP(TABLE visits, DESCRIPTOR(event_time), INTERVAL '{STEP} seconds', INTERVAL '{LENGTH} seconds')"
                        ),
                        _ => format!(
                            "TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '{SIZE} seconds')"
                        ),
                    },
                    match windowed.is_upsert() {
                        true => "EMIT CHANGES",
                        false => "EMIT ON WINDOW CLOSE",
                    }
                ),
            ),
        };
        let key = match self.is_upsert() {
            true => ", PRIMARY KEY (k, s) NOT ENFORCED",
            false => "",
        };
        format!(
            "CREATE EXTERNAL TABLE visits (k BIGINT, event_time TIMESTAMP, v BIGINT,
               p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset',
               WATERMARK FOR event_time AS event_time - INTERVAL '{DELAY} seconds')
             STORED AS KAFKA LOCATION 'visits'
             OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1', 'watermark.idle_after' '{IDLE_AFTER} milliseconds');
             CREATE EXTERNAL TABLE out ({columns}{key})
             STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
             CREATE JOB j AS INSERT INTO out {select}"
        )
    }

    pub(super) async fn query(self) -> Arc<JobQuery> {
        let (session, insert, emit) = self.job().await;
        Arc::new(JobQuery::try_new(&session, insert, emit).await.unwrap())
    }

    /// The query of a run that rests on this.
    pub(super) async fn query_of_run(self, facts: RunFacts) -> Arc<JobQuery> {
        let (session, insert, emit) = self.job().await;
        let query = JobQuery::reprocessing(&session, insert, emit, facts).await;
        Arc::new(query.unwrap())
    }

    /// A session with the tables of the job, and its INSERT.
    async fn job(self) -> (Session, SqlStatement, Emit) {
        let session = EMPTY.fork(&ForkOptions::default()).unwrap();
        let sql = self.sql();
        for raw in Script::new("simulation", &sql).split().unwrap() {
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            if let Statement::Job(job) = parsed.statement {
                let JobStatement::Create { insert, emit, .. } = *job else {
                    panic!("the last statement makes the job");
                };
                return (session, *insert, emit);
            }
            session.execute(parsed).await.unwrap();
        }
        panic!("no job in the script");
    }
}
