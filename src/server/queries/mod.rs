//! Queries: running statements, prepared statements, their sessions, limits and results.

pub(crate) mod handle_registry;
pub(crate) mod limits;
pub(crate) mod memory_watch;
pub(crate) mod planning;
pub(crate) mod prepared;
pub(crate) mod scheduler;
pub(crate) mod session_pool;
pub(crate) mod statement;
pub(crate) mod statement_cache;

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array,
};

use crate::error::{Error, Result};
use crate::server::auth::access::Caller;
use crate::server::queries::scheduler::QueryScheduler;
use crate::server::queries::statement::ClientStatement;

/// `id`, `user`, `state`, `started_at`, `rows`, `bytes`, `text`: one row per running statement that the caller may see.
///
/// # Errors
///
/// None that a caller could cause.
pub(super) fn running(work: &QueryScheduler, caller: &Caller) -> Result<RecordBatch> {
    let mut running = work.running();
    running.retain(|statement| caller.may_see(&statement.user));
    let text = |of: fn(&ClientStatement) -> &str| -> ArrayRef {
        let values = running.iter().map(|statement| of(statement));
        Arc::new(StringArray::from_iter_values(values))
    };
    let started = running.iter().map(|statement| statement.at);
    let started = TimestampMillisecondArray::from_iter_values(started).with_timezone("UTC");
    let counts = running.iter().map(|statement| statement.counted());
    let (rows, bytes): (Vec<u64>, Vec<u64>) = counts.unzip();
    let columns: [(&str, ArrayRef); 7] = [
        ("id", text(|statement| &statement.id)),
        ("user", text(|statement| &statement.user)),
        ("state", text(ClientStatement::state)),
        ("started_at", Arc::new(started)),
        ("rows", Arc::new(UInt64Array::from(rows))),
        ("bytes", Arc::new(UInt64Array::from(bytes))),
        ("text", text(|statement| &statement.text)),
    ];
    RecordBatch::try_from_iter(columns).map_err(|error| Error::internal(error.to_string()))
}
