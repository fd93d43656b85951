//! Go: `database/sql` with the Flight SQL driver, and the client of arrow-go.

use std::process::Command;

use super::TestServer;
use super::rights::users;
use crate::support::{ProgramOutput, Workspace, repository};

#[test]
fn go_programs_run_statements_and_list_tables() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    let mut program = Command::new(repository().join("tests/go/run"));
    let said = ProgramOutput::of(program.arg(&served.address)).ok().out;
    insta::assert_snapshot!(said);
}
