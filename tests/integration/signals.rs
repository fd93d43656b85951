//! A program that is told to end does so, during every kind of work.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Instant;

use crate::support::{AT_ONCE, ProcessGuard, Workspace, signal};

/// A statement that is planned for minutes.
pub(crate) fn planned_for_long() -> String {
    let columns = || 0..6_000;
    let made: Vec<String> = columns().map(|n| format!("value * {n} AS c{n}")).collect();
    let sorted: Vec<String> = columns().map(|n| format!("c{n}")).collect();
    let (made, sorted) = (made.join(", "), sorted.join(", "));
    format!("SELECT {made} FROM generate_series(1, 3) ORDER BY {sorted}")
}

#[test]
fn a_statement_that_is_being_planned_ends_with_its_program() {
    for name in ["-TERM", "-INT"] {
        let work = Workspace::new();
        let first = work.file("first.sql", "SELECT 1 AS n;\n");
        let second = work.file("second.sql", &planned_for_long());
        let running = work
            .command()
            .args(["sql", "--format", "ndjson", "-f", first, "-f", second])
            .stdout(Stdio::piped())
            .spawn();
        let mut running = ProcessGuard(running.unwrap());
        let mut line = String::new();
        let mut said = BufReader::new(running.0.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"n\":1}\n");
        let told = Instant::now();
        signal(&running.0, name);
        let code = running.0.wait().unwrap().code();
        assert_eq!(code, Some(if name == "-TERM" { 143 } else { 130 }));
        assert!(told.elapsed() < AT_ONCE, "{name}: {:?}", told.elapsed());
    }
}
