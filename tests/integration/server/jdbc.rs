//! The JDBC driver, of which DBeaver and many others are made.

use std::process::Command;

use super::Served;
use crate::support::{Ran, Workspace, repository};

#[test]
fn the_driver_runs_statements_and_is_told_of_tables() {
    let work = Workspace::new();
    let served = Served::start(&work, &[]);
    let mut program = Command::new(repository().join("tests/jvm/run"));
    let said = Ran::of(program.args(["Jdbc.java", &served.address]))
        .ok()
        .out;
    insta::assert_snapshot!(said);
}
