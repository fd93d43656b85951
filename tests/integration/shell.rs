//! The prompt, as a person at a terminal meets it.

use std::process::Stdio;

use rexpect::session::{PtySession, spawn_command};

use crate::support::Workspace;

const PROMPT: &str = "anabranch> ";

/// The shell on a terminal of its own, which writes rows as lines of JSON.
fn shell(work: &Workspace) -> PtySession {
    let mut command = work.command();
    command
        .args(["sql", "--format", "ndjson"])
        .stdin(Stdio::inherit())
        .env("XDG_STATE_HOME", work.dir.path())
        .env("TERM", "xterm");
    let mut shell = spawn_command(command, Some(60_000)).unwrap();
    shell.exp_string("\\? for help").unwrap();
    shell.exp_string(PROMPT).unwrap();
    shell
}

/// Types a line and waits for the output that it must print. The terminal shows the typed line as well: the output must
/// be a text that the line does not contain.
#[track_caller]
fn answers(shell: &mut PtySession, line: &str, expected: &str) {
    assert!(!line.contains(expected));
    shell.send_line(line).unwrap();
    let found = shell.exp_string(expected);
    if let Err(error) = found.and_then(|_| shell.exp_string(PROMPT)) {
        panic!("{line}: {error}");
    }
}

/// Types a line that prints nothing and waits for the next prompt.
fn quietly(shell: &mut PtySession, line: &str) {
    shell.send_line(line).unwrap();
    shell.exp_string(line).unwrap();
    shell.exp_string(PROMPT).unwrap();
}

#[track_caller]
fn leave(mut shell: PtySession) {
    shell.send_line("\\q").unwrap();
    shell.exp_eof().unwrap();
    let ended = format!("{:?}", shell.process().wait().unwrap());
    assert!(
        ended.starts_with("Exited") && ended.ends_with(", 0)"),
        "{ended}"
    );
}

#[test]
fn statements_span_lines_and_mistakes_leave_the_shell_open() {
    let work = Workspace::new();
    let mut shell = shell(&work);
    shell.send_line("SELECT 1 + 1").unwrap();
    answers(&mut shell, "AS two;", "{\"two\":2}");
    answers(&mut shell, "SELEC 1;", "expected an SQL statement");
    answers(&mut shell, "SELECT nothing;", "no column named nothing");
    quietly(&mut shell, "\\set run r_1");
    answers(&mut shell, "SELECT $run AS run;", "{\"run\":\"r_1\"}");
    answers(&mut shell, "\\timing", "timing is off");
    quietly(&mut shell, "\\format table");
    answers(&mut shell, "SELECT 3 * 4 AS n;", "(1 row)");
    answers(&mut shell, "\\nonsense", "\\? shows the commands");
    leave(shell);
}

#[test]
fn tables_are_listed_described_and_completed() {
    let work = Workspace::new();
    let mut shell = shell(&work);
    answers(
        &mut shell,
        "CREATE EXTERNAL TABLE page_views (user_number BIGINT) STORED AS DELTA LOCATION 'views';",
        "Delta table page_views",
    );
    answers(
        &mut shell,
        "\\d",
        "{\"table_name\":\"page_views\",\"kind\":\"Delta table\"}",
    );
    answers(
        &mut shell,
        "\\d page_views",
        "\"column_name\":\"user_number\"",
    );
    answers(
        &mut shell,
        "\\dd page_views",
        "CREATE EXTERNAL TABLE page_views (",
    );
    // Tab completes a column and a table.
    answers(
        &mut shell,
        "SELECT count(user_nu\t) + 5 AS n FROM page_v\t;",
        "{\"n\":5}",
    );
    leave(shell);
}

#[test]
fn ctrl_c_cancels_the_statement_and_leaves_the_shell() {
    let work = Workspace::new();
    let mut shell = shell(&work);
    // On a terminal a long statement says how far it is.
    shell
        .send_line("SELECT max(a.value * b.value) FROM generate_series(1, 100000000) a, generate_series(1, 1000) b;")
        .unwrap();
    shell.exp_string("rows read").unwrap();
    shell.send_control('c').unwrap();
    shell.exp_string("cancelled").unwrap();
    shell.exp_string(PROMPT).unwrap();
    answers(&mut shell, "SELECT 3 + 4 AS n;", "{\"n\":7}");

    // Ctrl-C at the prompt drops the typed text; Ctrl-D leaves.
    shell.send("SELECT nonsense").unwrap();
    shell.flush().unwrap();
    shell.exp_string("nonsense").unwrap();
    shell.send_control('c').unwrap();
    shell.exp_string(PROMPT).unwrap();
    answers(&mut shell, "SELECT 4 + 4 AS n;", "{\"n\":8}");
    shell.send_control('d').unwrap();
    shell.exp_eof().unwrap();
}

#[test]
fn history_is_kept_from_one_session_to_the_next() {
    let work = Workspace::new();
    let mut first = shell(&work);
    answers(&mut first, "SELECT 5 + 6 AS earlier;", "{\"earlier\":11}");
    leave(first);
    let mut second = shell(&work);
    // Up, past the \q, twice.
    answers(&mut second, "\u{1b}[A\u{1b}[A", "{\"earlier\":11}");
    leave(second);
}

#[test]
fn json_refuses_two_columns_of_one_name_and_csv_has_both() {
    let work = Workspace::new();
    let said = |format: &str| {
        let statement = "SELECT 1 AS a, 2 AS a";
        work.anabranch(&["sql", "--format", format, "-c", statement])
    };
    for format in ["json", "ndjson"] {
        let ran = said(format);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert_eq!(ran.out, "");
        assert!(
            ran.err.contains("two columns are named a") && ran.err.contains("name them: SELECT"),
            "{ran:?}"
        );
    }
    assert_eq!(said("csv").ok().out, "a,a\n1,2\n");
}
