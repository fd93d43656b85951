//! Our own client: the same commands, with the statements run in a server.

use std::process::Stdio;

use rexpect::session::{PtySession, spawn_command};

use super::{TestServer, there, wait_for};
use crate::support::{ProgramOutput, Workspace};

const DEFINITIONS: &str = "\
CREATE EXTERNAL TABLE people (id BIGINT, name VARCHAR, at TIMESTAMP) STORED AS DELTA LOCATION $place;
CREATE VIEW names AS SELECT name || '''' AS name FROM people;
";

/// Warnings besides the rows come over the network as well.
#[test]
fn warnings_are_the_same_locally_and_remotely() {
    let (near, far) = (Workspace::new(), Workspace::new());
    let served = TestServer::start(&far, &[]);
    let table = "CREATE EXTERNAL TABLE seen (k BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '1 minute') STORED AS DELTA \
                 LOCATION 'seen' OPTIONS ('scan.mode' 'stream')";
    let rows = "INSERT INTO seen SELECT 1, to_timestamp_seconds(1756980000 + value * 300) FROM generate_series(0, 100)";
    near.anabranch(&["sql", "-c", table, "-c", rows]).ok();
    there(&far, &served, &["sql", "-c", table, "-c", rows]).ok();
    let here = |sql: &str| {
        let arguments = ["sql", "-c", table, "-c", sql, "--format", "csv"];
        near.anabranch(&arguments).ok()
    };
    let there = |sql: &str| there(&far, &served, &["sql", "-c", sql, "--format", "csv"]).ok();
    for (sql, warning) in [
        (
            "SELECT count(*) AS n FROM COMPLETE_SESSIONS(TABLE seen PARTITION BY k, DESCRIPTOR(t), INTERVAL '10 minutes', \
             TIMESTAMP '2025-09-04T12:00:00', TIMESTAMP '2025-09-04T12:10:00', INTERVAL '30 minutes')",
            "warning: 1 sessions were still open",
        ),
        (
            "SUBSCRIBE WITH ('trigger' 'once') SELECT k, window_start, count(*) AS n \
             FROM SESSION(TABLE seen PARTITION BY k, DESCRIPTOR(t), INTERVAL '10 minutes') GROUP BY k, window_start EMIT CHANGES",
            "warning: groups that were emitted can change their identity",
        ),
    ] {
        let (one, other) = (here(sql), there(sql));
        assert_eq!(one.out, other.out);
        let warned = |ran: &ProgramOutput| -> Vec<String> {
            let lines = ran.err.lines().filter(|line| line.starts_with("warning: "));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(warned(&one), warned(&other));
        assert!(
            matches!(&warned(&one)[..], [only] if only.starts_with(warning)),
            "{}",
            one.err
        );
        // The server's log has it as well, for clients that do not show warnings.
        let log = served.log.lock().unwrap().clone();
        assert!(log.contains(&warning["warning: ".len()..]), "{log}");
    }
}

/// A statement gives the same text in the process and through a server, to the letter.
#[test]
fn a_statement_has_the_same_result_locally_and_remotely() {
    let (near, far) = (Workspace::new(), Workspace::new());
    let served = TestServer::start(&far, &[]);
    let insert = "INSERT INTO people VALUES (1, 'it''s', TIMESTAMP '2025-01-02T03:04:05'), (2, $name, NULL);\n";
    for work in [&near, &far] {
        work.file("tables.sql", DEFINITIONS);
        work.file("insert.sql", insert);
    }
    let place = "--param=place=2025";
    let name = "--param=name=a; DROP TABLE people --\n'";
    // There definitions stay; here they are given each time.
    let here = |arguments: &[&str]| {
        near.anabranch(&[&["sql", "-f", "tables.sql", place], arguments].concat())
    };
    let there = |arguments: &[&str]| there(&far, &served, &[&["sql"], arguments].concat());
    let defined = there(&["-f", "tables.sql", place, "-f", "insert.sql", name]).ok();
    assert_eq!(defined.err, here(&["-f", "insert.sql", name]).ok().err);
    assert!(defined.err.ends_with("INSERT 2\n"), "{}", defined.err);
    // A number stands for the text of a place.
    assert!(far.path("2025/_delta_log").is_dir());
    let queries = [
        "SELECT * FROM people ORDER BY id",
        "SELECT count(*) AS n FROM names WHERE name = 'it''s'''",
        "SELECT MAP {'a': 1} AS m, [1, 2] AS l, X'00ff' AS b, 1.5 AS half, arrow_cast('v', 'Utf8View') AS v",
        "SELECT 1 AS one WHERE false",
        "SELECT 'x' AS status",
        "SELECT CAST(7 AS BIGINT) AS count",
        "SHOW TABLES; DESCRIBE people; SHOW CREATE TABLE names; SHOW JOBS",
    ];
    for format in ["table", "csv", "json", "ndjson"] {
        let mut arguments = vec!["--format", format];
        arguments.extend(queries.iter().flat_map(|query| ["-c", query]));
        let (near, far) = (here(&arguments).ok(), there(&arguments).ok());
        assert_eq!(far.out, near.out);
        assert!(near.err.ends_with(&far.err), "{}\n{}", far.err, near.err);
    }
    let bound = "SELECT INTERVAL $gap AS gap, $number - $number AS zero, DATE $day AS day, TIMESTAMP $none AS none";
    let mut arguments = vec!["-c", bound];
    for value in ["gap=1 minute", "number=-7", "day=2025-01-02", "none=NULL"] {
        arguments.extend(["-p", value]);
    }
    assert_eq!(there(&arguments).ok().out, here(&arguments).ok().out);
    for wrong in [
        "SELECT 1 /",
        "SELECT id,\n  nothing FROM people",
        "SELECT *\n  FROM nowhere",
        "SELECT\t'ä', 1 / 0",
        "INSERT INTO people VALUES (1)",
        "CREATE VIEW people AS SELECT 1 AS one",
        "SELECT $nothing",
        "SELECT 'open",
        "SELECT 1; SELECT unknown(2)",
    ] {
        let (near, far) = (here(&["-c", wrong]), there(&["-c", wrong]));
        assert_eq!(far.code, Some(1), "{wrong}: {far:#?}");
        assert_eq!(far.out, near.out);
        let shown = near.err.split_once("error: ").unwrap().1;
        let said = without_id(&far.err);
        assert_eq!(said, format!("error: {shown}"), "{wrong}");
    }
}

/// The text without the id by which the server's log names the statement.
fn without_id(text: &str) -> String {
    match text.split_once(" (query ") {
        None => text.to_owned(),
        Some((before, rest)) => format!("{before}{}", &rest[rest.find(')').unwrap() + 1..]),
    }
}

#[test]
fn an_error_is_at_its_place_in_the_file() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let text = "SELECT 1 AS one;\n\n-- the second\nSELECT $long AS a, $long AS b,\n  /* here */ missing || $long AS c;\n";
    let file = work.file("two.sql", text);
    let ran = there(&work, &served, &["run", file, "-p", "long=one\ntwo; three"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert_eq!(ran.out, "one\n1\n");
    assert!(
        ran.err.contains("no column named missing")
            && ran.err.contains("two.sql:5:14\n")
            && ran.err.contains("\n  |              ^^^^^^^\n"),
        "{}",
        ran.err
    );
    // All is parsed and bound before the first is sent.
    let late = work.file(
        "late.sql",
        "CREATE VIEW early AS SELECT 1 AS one;\nSELEC 2;\n",
    );
    let ran = there(&work, &served, &["run", late]);
    assert!(ran.err.contains("late.sql:2:1"), "{}", ran.err);
    let ran = there(&work, &served, &["sql", "-c", "SELECT * FROM early"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let ran = there(&work, &served, &["run", "nowhere.sql"]);
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert!(
        ran.err.contains("nowhere.sql cannot be read"),
        "{}",
        ran.err
    );
}

const JOB: &str = "\
CREATE EXTERNAL TABLE seen (id BIGINT) STORED AS DELTA LOCATION $seen OPTIONS ('scan.mode' 'stream');
CREATE EXTERNAL TABLE kept (id BIGINT, label VARCHAR) STORED AS DELTA LOCATION 'kept';
CREATE JOB copy WITH ('trigger' $trigger) AS INSERT INTO kept SELECT id * $factor, $label FROM seen;
";

/// A job runs in the server and goes on after a restart, with the values that were given when it was made.
#[test]
fn jobs_are_created_and_run_remotely() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let run = [
        "run",
        work.file("job.sql", JOB),
        "--param=seen=seen",
        "--param=trigger=50 milliseconds",
        "--param=factor=10",
        "--param=label=it's",
    ];
    let made = there(&work, &served, &run).ok();
    assert_eq!(made.err, "Delta table seen\nDelta table kept\njob copy\n");
    let insert = |served: &TestServer, sql: &str| {
        let ran = there(&work, served, &["sql", "-c", sql]).ok();
        assert!(ran.err.starts_with("INSERT "), "{}", ran.err);
    };
    insert(&served, "INSERT INTO seen VALUES (1), (2)");
    let kept = "SELECT * FROM kept ORDER BY id";
    wait_for(&work, &served, kept, "id,label\n10,it's\n20,it's\n");
    for (flag, help) in [
        ("--until-caught-up", "system.partitions"),
        ("--metrics=127.0.0.1:0", "anabranch serve"),
    ] {
        let refused = there(&work, &served, &[&run[..], &[flag]].concat());
        assert_eq!(refused.code, Some(2), "{refused:#?}");
        assert!(
            refused.err.contains("the server runs these") && refused.err.contains(help),
            "{}",
            refused.err
        );
    }
    assert_eq!(served.stop(), Some(0));
    let served = TestServer::start(&work, &[]);
    insert(&served, "INSERT INTO seen VALUES (3)");
    wait_for(
        &work,
        &served,
        kept,
        "id,label\n10,it's\n20,it's\n30,it's\n",
    );
}

#[test]
fn an_unreachable_server_is_reported() {
    let work = Workspace::new();
    let refused = |arguments: &[&str]| {
        let ran = work.anabranch(&[&["sql", "-c", "SELECT 1"], arguments].concat());
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert_eq!(ran.out, "");
        ran.err
    };
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = format!("grpc://{}", free.local_addr().unwrap());
    drop(free);
    let nobody = refused(&["--url", &nowhere]);
    assert!(
        nobody.contains(&format!("no server can be reached at {nowhere}: "))
            && nobody.contains("Connection refused")
            && nobody.contains("anabranch serve --listen"),
        "{nobody}"
    );
    let wrong = refused(&["--url", "http://127.0.0.1:1"]);
    assert!(wrong.contains("write it as grpc://HOST:PORT"), "{wrong}");
    let alone = refused(&["--tls-ca", "ca.pem"]);
    assert!(
        alone.contains("--tls-ca needs a server, and none is given"),
        "{alone}"
    );
    let served = TestServer::start(&work, &[]);
    let url = served.url();
    let own = refused(&["--url", &url, "--data-dir", "here"]);
    assert!(
        own.contains("give --data-dir to `anabranch serve`"),
        "{own}"
    );
    let unknown = refused(&["--url", &url, "--user", "me"]);
    assert!(unknown.contains("set ANABRANCH_PASSWORD"), "{unknown}");
    let plain = refused(&["--url", &url.replace("grpc://", "grpc+tls://")]);
    assert!(
        plain.contains("a server without TLS is at grpc://"),
        "{plain}"
    );
    let authority = work.file("ca.pem", "-----BEGIN CERTIFICATE-----\n");
    let needless = refused(&["--url", &url, "--tls-ca", authority]);
    assert!(needless.contains("does not use TLS"), "{needless}");
}

#[test]
fn a_lost_server_is_reported() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let url = served.url();
    let forever = "SELECT a.value FROM generate_series(1, 100000000) a, generate_series(1, 1000) b";
    let mut child = work
        .command()
        .args(["sql", "--url", &url, "--format", "ndjson", "-c", forever])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 5];
    std::io::Read::read_exact(&mut out, &mut first).unwrap();
    served.kill();
    let rest = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let ended = child.wait_with_output().unwrap();
    rest.join().unwrap().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(
        said.contains(&format!("the connection to {url} is broken"))
            && said.contains("<command>:1:1"),
        "{said}"
    );
}

#[test]
fn a_profile_names_a_server() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    std::fs::create_dir(work.path("etc")).unwrap();
    work.file("etc/token", "a-token\n");
    let file = work.file("etc/anabranch.toml", "");
    let write = |text: &str| std::fs::write(work.path(file), text).unwrap();
    let sql = |arguments: &[&str]| {
        let query = ["sql", "--config", file, "-c", "SELECT 1 AS one"];
        work.anabranch(&[&query, arguments].concat())
    };
    let refused = |arguments: &[&str], words: &str| {
        let ran = sql(arguments);
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert!(ran.err.contains(words), "{}", ran.err);
        ran.err
    };
    refused(&["--profile", "prod"], "write [profiles.prod]");
    let url = served.url();
    write(&format!(
        "[profiles.prod]\nurl = \"{url}\"\ntoken_file = \"token\"\n\
         [profiles.gone]\nurl = \"grpc://127.0.0.1:1\"\n\
         [profiles.empty]\nuser = \"me\"\n"
    ));
    // The token lies beside the file that names it.
    assert_eq!(sql(&["--profile", "prod"]).ok().out, "one\n1\n");
    let gone = ["--profile", "gone", "--url", &url];
    assert_eq!(sql(&gone).ok().out, "one\n1\n");
    refused(&gone[..2], "grpc://127.0.0.1:1");
    let unknown = refused(&["--profile", "test"], "there is no profile test");
    assert!(unknown.contains("the profiles are empty, gone, prod"));
    refused(&["--profile", "empty"], "profile empty has no url");
    write("[profiles.prod]\nurl = \"grpc://h:1\"\npassword = \"secret\"\n");
    let password = refused(&["--profile", "prod"], "password");
    assert!(!password.contains("secret"));
}

const PROMPT: &str = "anabranch> ";

fn shell(work: &Workspace, served: &TestServer) -> PtySession {
    let mut command = work.command();
    command
        .args(["sql", "--format", "ndjson", "--url", &served.url()])
        .stdin(Stdio::inherit())
        .env("XDG_STATE_HOME", work.dir.path())
        .env("TERM", "xterm");
    let mut shell = spawn_command(command, Some(60_000)).unwrap();
    shell.exp_string(&format!("at {}", served.url())).unwrap();
    shell.exp_string(PROMPT).unwrap();
    shell
}

#[track_caller]
fn answers(shell: &mut PtySession, line: &str, expected: &str) {
    assert!(!line.contains(expected));
    shell.send_line(line).unwrap();
    let found = shell.exp_string(expected);
    if let Err(error) = found.and_then(|_| shell.exp_string(PROMPT)) {
        panic!("{line}: {error}");
    }
}

#[test]
fn the_prompt_shows_the_server() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let create =
        "CREATE EXTERNAL TABLE page_views (user_number BIGINT) STORED AS DELTA LOCATION 'views'";
    there(&work, &served, &["sql", "-c", create]).ok();
    let mut shell = shell(&work, &served);
    answers(&mut shell, "\\d", "{\"table_name\":\"page_views\"");
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
    answers(&mut shell, "\\dd nothing", "error: ");
    answers(&mut shell, "\\df offsets_i", "offsets_in");
    // Tab completes names of the server.
    answers(
        &mut shell,
        "SELECT count(user_nu\t) + 5 AS n FROM page_v\t;",
        "{\"n\":5}",
    );
    answers(&mut shell, "SELECT nothing;", "no column named nothing");
    shell
        .send_line("SELECT max(a.value * b.value) FROM generate_series(1, 100000000) a, generate_series(1, 1000) b;")
        .unwrap();
    shell.exp_string("rows received").unwrap();
    shell.send_control('c').unwrap();
    shell.exp_string("cancelled").unwrap();
    shell.exp_string(PROMPT).unwrap();
    answers(&mut shell, "SELECT 3 + 4 AS n;", "{\"n\":7}");
    // The prompt outlives the server.
    served.kill();
    answers(&mut shell, "SELECT 1 AS one;", "is broken");
    shell.send_line("\\q").unwrap();
    shell.exp_eof().unwrap();
}
