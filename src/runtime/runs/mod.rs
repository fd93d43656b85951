//! Reprocessing runs ([ADR 35](../../../docs/adr/0035-a-run-is-a-job-that-ends.md)): their statements.

mod description;
mod run_order;
mod selected_rows;
mod statements;
