//! The JDBC driver, of which DBeaver and many others are made.

use std::process::Command;

use super::Served;
use super::rights::users;
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

#[test]
fn the_driver_logs_in() {
    let work = Workspace::new();
    let token = work.anabranch(&["token"]).ok().out;
    let part = |name: &str| {
        let line = token.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let file = users(&work);
    work.append(
        file,
        &format!(
            "\n[users.robot]\ntokens = ['{}']\nrole = 'read'\n",
            part("hash:")
        ),
    );
    let served = Served::start(&work, &["--users", file]);
    let mut program = Command::new(repository().join("tests/jvm/run"));
    let arguments = ["Jdbc.java", &served.address, "reader", &part("token:")];
    let said = Ran::of(program.args(arguments)).ok().out;
    insta::assert_snapshot!(said);
}
