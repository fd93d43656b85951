//! Go: `database/sql` with the Flight SQL driver, and the client of arrow-go.

use std::process::Command;

use super::Served;
use super::rights::users;
use crate::support::{Ran, Workspace, repository};

#[test]
fn go_programs_run_statements_and_are_told_of_tables() {
    let work = Workspace::new();
    let served = Served::start(&work, &["--users", users(&work)]);
    let mut program = Command::new(repository().join("tests/go/run"));
    let said = Ran::of(program.arg(&served.address)).ok().out;
    insta::assert_snapshot!(said);
}
