//! The JDBC driver, of which DBeaver and many others are made.

use std::process::Command;

use super::TestServer;
use super::rights::users;
use crate::support::{ProgramOutput, Workspace, repository};

#[test]
fn the_driver_runs_statements_and_lists_tables() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let mut program = Command::new(repository().join("tests/jvm/run"));
    let said = ProgramOutput::of(program.args(["Jdbc.java", &served.address]))
        .ok()
        .out;
    insta::assert_snapshot!(said);
}

/// No value is lost or changed when it is bound or read as an object: tools that do not know the types in advance read
/// so.
#[test]
fn values_of_each_type_are_read_as_objects_and_bound() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let mut program = Command::new(repository().join("tests/jvm/run"));
    let said = ProgramOutput::of(program.args(["Jdbc.java", &served.address, "values"]))
        .ok()
        .out;
    let names = [
        "one", "yes", "small", "whole", "large", "half", "tenth", "amount", "t", "b", "day", "at",
        "list", "s", "m", "span",
    ];
    let values = [
        "Long 1",
        "Boolean true",
        "Short 7",
        "Integer -8",
        "Long 9007199254740993",
        "Double 1.5",
        "Double 0.1",
        "BigDecimal 12.34",
        "String x",
        "bytes [0, -1]",
        "Date 9999-12-31",
        "Timestamp 2025-01-02 03:04:05.678901",
        "Array [1, null, 3]",
        "Map {\"a\":1,\"b\":\"x\"}",
        "Map {\"k\":1}",
        "PeriodDuration",
    ];
    let bound = [
        "day: Date 2024-02-29",
        "moment: Timestamp 2025-01-02 03:04:05.678",
        "amount: BigDecimal 12345678901234.5678",
    ];
    let mut expected: Vec<String> = Vec::new();
    expected.extend(
        names
            .iter()
            .zip(values)
            .map(|(name, value)| format!("{name}: {value}")),
    );
    expected.extend(names.iter().map(|name| format!("{name}: nothing")));
    expected.extend(["1", "1", "id: Integer 1"].map(str::to_owned));
    expected.extend(bound.map(str::to_owned));
    let others = [
        "x: Double 0.1",
        "yes: Boolean true",
        "b: bytes [0, -1]",
        "t: String it's",
        "id: Integer 2",
    ];
    expected.extend(others.map(str::to_owned));
    let nothing = ["day", "moment", "amount", "x", "yes", "b", "t"];
    expected.extend(nothing.map(|name| format!("{name}: nothing")));
    expected.extend(bound.map(str::to_owned));
    // The driver names no class for a column of any type: the values read show it.
    expected.push("classes of columns: [null]".to_owned());
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
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
    let served = TestServer::start(&work, &["--users", file]);
    let mut program = Command::new(repository().join("tests/jvm/run"));
    let arguments = ["Jdbc.java", &served.address, "reader", &part("token:")];
    let said = ProgramOutput::of(program.args(arguments)).ok().out;
    insta::assert_snapshot!(said);
}
