//! How long SESSION with a count takes against a plain GROUP BY of the same rows.
//!
//! `cargo run --release -p anabranch-udfs --example session_speed [rows] [users]`

#![expect(clippy::print_stdout, reason = "an example that reports to a person")]

use std::sync::Arc;
use std::time::Instant;

use anabranch_udfs::{query_planner, register, rewrite_window_calls};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::Statement;

const BATCH: usize = 8192;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse::<usize>().ok());
    let rows = arguments.next().unwrap_or(5_000_000);
    let users = arguments.next().unwrap_or(20_000).max(1);
    let builder = SessionStateBuilder::new()
        .with_default_features()
        .with_query_planner(query_planner());
    let context = SessionContext::new_with_state(register(builder).build());
    context.register_table("visits", Arc::new(visits(rows, users)?))?;
    let plain = "SELECT user_id, count(*) FROM visits GROUP BY user_id";
    let session = "SELECT user_id, window_start, count(*) \
                   FROM SESSION(visits, user_id, event_time, INTERVAL '10 minutes') \
                   GROUP BY user_id, window_start";
    for _ in 0..3 {
        for (name, sql) in [("plain", plain), ("session", session)] {
            let start = Instant::now();
            let groups = run(&context, sql).await?;
            println!("{name}: {groups} groups in {:?}", start.elapsed());
        }
    }
    Ok(())
}

async fn run(context: &SessionContext, sql: &str) -> Result<usize> {
    let state = context.state();
    let mut statement = state.sql_to_statement(sql, &state.config_options().sql_parser.dialect)?;
    if let Statement::Statement(inner) = &mut statement {
        rewrite_window_calls(inner.as_mut())
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
    }
    let plan = state.statement_to_plan(statement).await?;
    DataFrame::new(state, plan).count().await
}

/// Visits of all users in the order of time, a hundred a second.
fn visits(rows: usize, users: usize) -> Result<MemTable> {
    let mut batches = vec![vec![], vec![]];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for first in (0..rows).step_by(BATCH) {
        let numbers = first..(first + BATCH).min(rows);
        let times: TimestampMicrosecondArray = numbers
            .clone()
            .map(|number| Some(number as i64 * 10_000))
            .collect();
        let user_ids: Int64Array = numbers
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                Some((random % users as u64) as i64)
            })
            .collect();
        let columns: [(&str, ArrayRef); 2] = [
            ("user_id", Arc::new(user_ids)),
            ("event_time", Arc::new(times)),
        ];
        batches[(first / BATCH) % 2].push(RecordBatch::try_from_iter(columns)?);
    }
    let schema = batches[0].first().map(RecordBatch::schema);
    let schema = schema.ok_or_else(|| DataFusionError::Execution("no rows".to_owned()))?;
    MemTable::try_new(schema, batches)
}
