//! Errors produced by the engine itself, for tests of their interpretation.

use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;

use crate::error::base::Error;

/// The error of a plain session for a statement over tables `t` and `u` with columns `a`, `b` and `s`, and `n` whose column `a`
/// is NOT NULL.
pub(super) async fn raw(sql: &str) -> DataFusionError {
    let context = SessionContext::new();
    for create in [
        "CREATE TABLE t AS SELECT 1 AS a, 2 AS b, 'many' AS s",
        "CREATE TABLE u AS SELECT 1 AS a, 2 AS b, 'many' AS s",
        "CREATE TABLE n (a INT NOT NULL)",
    ] {
        context.sql(create).await.unwrap().collect().await.unwrap();
    }
    let failed = match context.sql(sql).await {
        Ok(frame) => frame.collect().await.map(|_| ()),
        Err(error) => Err(error),
    };
    failed.expect_err(sql)
}

/// The same as this program's error.
pub(super) async fn real(sql: &str) -> Error {
    raw(sql).await.into()
}
