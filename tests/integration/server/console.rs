//! The console: the answers for its page, the callers that it accepts, and the page itself in a real browser.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::TestServer;
use super::rights::users;
use crate::support::{PATIENCE, Workspace, python};

const TABLES: &str = "CREATE EXTERNAL TABLE seen (id BIGINT, note VARCHAR) STORED AS DELTA LOCATION 'seen' \
 OPTIONS ('scan.mode' 'stream');
CREATE EXTERNAL TABLE kept (id BIGINT, note VARCHAR) STORED AS DELTA LOCATION 'kept';
CREATE JOB copy WITH ('trigger' '50 milliseconds') AS INSERT INTO kept SELECT id * 10, note FROM seen;
CREATE EXTERNAL TABLE ticks (t TIMESTAMP, note VARCHAR, WATERMARK FOR t AS t - INTERVAL '5 seconds') STORED AS DELTA \
 LOCATION 'ticks' OPTIONS ('scan.mode' 'stream');
CREATE EXTERNAL TABLE counted (s TIMESTAMP, n BIGINT) STORED AS DELTA LOCATION 'counted';
CREATE JOB \"<b>by</b> 10 s/é\" WITH ('trigger' '50 milliseconds') AS INSERT INTO counted SELECT window_start, count(*) \
 FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY window_start;
";

/// A server with a console.
fn served(work: &Workspace, files: &[&str]) -> TestServer {
    let arguments: Vec<&str> = ["--http", "127.0.0.1:0"]
        .iter()
        .chain(files)
        .copied()
        .collect();
    TestServer::start(work, &arguments)
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    #[track_caller]
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    /// The message of the error, which the answer must have.
    #[track_caller]
    fn message(&self) -> String {
        let said = self.json()["error"]["message"].clone();
        said.as_str().unwrap().to_owned()
    }
}

impl TestServer {
    fn console(&self) -> &str {
        self.console.as_deref().unwrap()
    }

    /// Sends a request as it stands here: nothing is added but its length.
    fn send(&self, first: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.console()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("{first} HTTP/1.1\r\nConnection: close\r\n");
        for header in headers {
            request += &format!("{header}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        // The server need not read a request that it refuses as too large: then the write fails.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{first}: {read:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &["Host: localhost"], "")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = ["Host: localhost", "Content-Type: application/json"];
        self.send(&format!("POST {path}"), &headers, &body.to_string())
    }

    fn query(&self, sql: &str) -> Answer {
        self.post("/api/query", &json!({"sql": sql, "id": sql}))
    }

    /// The job of this name, when it is as it should be.
    fn wait_for_job(&self, name: &str, is_as_wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.get("/api/jobs").ok();
            let jobs = found["jobs"].as_array().unwrap();
            let job = jobs.iter().find(|job| job["job"] == name);
            if let Some(job) = job.filter(|job| is_as_wanted(job)) {
                return job.clone();
            }
            assert!(Instant::now() < deadline, "{found}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn results_lose_nothing_in_json() {
    let work = Workspace::new();
    let served = served(&work, &[]);
    let found = served.query(
        "SELECT 1 AS one, NULL AS nothing, 9007199254740993 AS large, true AS yes, 15e-1 AS half, CAST('NaN' AS DOUBLE) AS nan, \
         CAST(1.25 AS DECIMAL(30, 2)) AS d, TIMESTAMP '2025-01-02T03:04:05.000006' AS at, DATE '2025-01-02' AS day, X'00ff' AS b, \
         [1, NULL] AS list, named_struct('a', 9007199254740993, 'b', 'x') AS s, MAP {'k': 1} AS m, '<b>\"é' AS text",
    );
    let found = found.ok();
    let row = json!([
        1, null, "9007199254740993", true, 1.5, "NaN", "1.25", "2025-01-02T03:04:05.000006Z", "2025-01-02", "00ff",
        [1, null], {"a": "9007199254740993", "b": "x"}, {"k": 1}, "<b>\"é"
    ]);
    assert_eq!(found["rows"], json!([row]));
    let types: Vec<&str> = found["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types[..9],
        [
            "BIGINT",
            "NULL",
            "BIGINT",
            "BOOLEAN",
            "DOUBLE",
            "DOUBLE",
            "DECIMAL(30, 2)",
            "TIMESTAMP",
            "DATE"
        ]
    );
    assert_eq!(found["is_cut"], false);
    // Columns of the same name are columns all the same.
    let twice = served.query("SELECT * FROM (SELECT 1 AS a) x CROSS JOIN (SELECT 2 AS a) y");
    assert_eq!(twice.ok()["rows"], json!([[1, 2]]));
    let none = served.query("SELECT 1 AS a WHERE false").ok();
    assert_eq!(
        (&none["rows"], &none["columns"][0]["name"]),
        (&json!([]), &json!("a"))
    );
}

#[test]
fn results_are_cut() {
    let work = Workspace::new();
    let served = served(&work, &[]);
    let sql = "SELECT value FROM generate_series(1, 100000)";
    let found = served.query(sql).ok();
    assert_eq!(found["rows"].as_array().unwrap().len(), 1_000);
    assert_eq!(found["is_cut"], true);
    let asked = json!({"sql": sql, "id": "few", "rows": 3});
    let few = served.post("/api/query", &asked).ok();
    assert_eq!(
        (&few["rows"], &few["is_cut"]),
        (&json!([[1], [2], [3]]), &json!(true))
    );
    let asked = json!({"sql": sql, "id": "most", "rows": 1_000_000});
    let most = served.post("/api/query", &asked).ok();
    assert_eq!(most["rows"].as_array().unwrap().len(), 10_000);
    let wide = served.query("SELECT repeat('x', 20000000) AS text");
    assert_eq!(wide.status, 507);
    assert_eq!(wide.message(), "one row is larger than 16 MiB");
    let wide = "SELECT repeat('x', 1000000) AS text FROM generate_series(1, 100)";
    let wide = served.query(wide).ok();
    assert_eq!(wide["rows"].as_array().unwrap().len(), 16);
    assert_eq!(wide["is_cut"], true);
}

#[test]
fn errors_have_their_place() {
    let work = Workspace::new();
    let served = served(&work, &[]);
    let wrong = served.query("SELECT one,\n  too FROM (SELECT 1 AS one, 2 AS two)");
    assert_eq!(wrong.status, 400);
    let error = &wrong.json()["error"];
    assert_eq!(error["message"], "no column named too");
    assert_eq!(error["help"], "did you mean \"two\"?");
    assert_eq!(error["sqlstate"], "42000");
    assert_eq!(error["from"], json!({"line": 2, "column": 3}));
    assert_eq!(error["to"], json!({"line": 2, "column": 6}));
    for (sql, status, message) in [
        ("", 400, "the text has no statement"),
        ("SELECT 1; SELECT 2", 400, "the text has several statements"),
        (
            "SELECT * FROM nowhere",
            404,
            "no table or view is named nowhere",
        ),
        ("SELECT $1", 400, "parameter $1 has no value"),
        (
            "SET datafusion.execution.batch_size = 7",
            404,
            "unknown setting datafusion.execution.batch_size",
        ),
    ] {
        let wrong = served.query(sql);
        let said = wrong.message();
        assert_eq!(wrong.status, status, "{sql}: {said}");
        assert!(said.starts_with(message), "{sql}: {said}");
    }
    let late = served.query("SELECT 1 / (value - 5) FROM generate_series(1, 10)");
    assert_eq!(
        late.json()["error"]["from"],
        json!({"line": 1, "column": 1})
    );
    let garbled = served.send(
        "POST /api/query",
        &["Host: localhost", "Content-Type: application/json"],
        "{",
    );
    assert_eq!(garbled.status, 400);
}

#[test]
fn tables_are_created_filled_and_shown() {
    let work = Workspace::new();
    let served = served(&work, &[]);
    let made = "CREATE EXTERNAL TABLE \"odd/Näme\" (id BIGINT, name VARCHAR) STORED AS DELTA LOCATION 'odd'";
    let made = served.query(made).ok();
    assert_eq!(made["has_changed"], true);
    let written = served.query("INSERT INTO \"odd/Näme\" VALUES (1, 'one'), (2, NULL)");
    assert_eq!(written.ok()["rows_written"], 2);
    served
        .query("CREATE VIEW few AS SELECT id FROM \"odd/Näme\"")
        .ok();
    assert_eq!(
        served.get("/api/tables").ok()["rows"],
        json!([["few", "view"], ["odd/Näme", "Delta table"]])
    );
    let columns = served.get("/api/tables/odd%2FN%C3%A4me/columns").ok();
    assert_eq!(
        columns["rows"],
        json!([
            ["id", "BIGINT", true, null],
            ["name", "VARCHAR", true, null]
        ])
    );
    let definition = served.get("/api/tables/odd%2FN%C3%A4me/definition").ok();
    let definition = definition["definition"].as_str().unwrap();
    assert!(
        definition.starts_with("CREATE EXTERNAL TABLE"),
        "{definition}"
    );
    assert_eq!(served.get("/api/tables/none/columns").status, 404);
}

#[test]
fn jobs_are_watched_and_controlled() {
    let work = Workspace::new();
    let served = served(&work, &[work.file("tables.sql", TABLES)]);
    // A stream that has nothing yet begins with an empty batch.
    served.wait_for_job("copy", |job| job["batch"] == 1);
    for id in 1..=3 {
        served
            .query(&format!("INSERT INTO seen VALUES ({id}, 'x')"))
            .ok();
        served.wait_for_job("copy", |job| job["here"]["rows_in"] == id);
    }
    let job = served.wait_for_job("copy", |job| job["state"] == "RUNNING");
    assert_eq!(job["here"]["lag"], 0);
    assert!(job["committed_at"].is_string(), "{job}");
    let batches = served.get("/api/jobs/copy/batches").ok();
    let names = batches["columns"].as_array().unwrap();
    let at = names
        .iter()
        .position(|column| column["name"] == "rows_in")
        .unwrap();
    let rows = batches["rows"].as_array().unwrap();
    let read: Vec<&Value> = rows.iter().map(|row| &row[at]).collect();
    assert_eq!(read, [0, 1, 1, 1]);
    let rewound = served.post("/api/jobs/copy/rewind", &json!({"batch": 9}));
    assert_eq!(rewound.message(), "job copy has no batch 9; it has 1 to 4");
    let said = served.post("/api/jobs/copy/pause", &json!({})).ok();
    assert_eq!(said, json!({"said": "job copy paused"}));
    served.wait_for_job("copy", |job| job["state"] == "PAUSED");
    // Its runner may not have read the pause yet.
    let rewound = loop {
        let rewound = served.post("/api/jobs/copy/rewind", &json!({"batch": 2}));
        if rewound.status != 503 {
            break rewound;
        }
    };
    let said = rewound.ok();
    assert!(
        said["said"]
            .as_str()
            .unwrap()
            .contains("2 batches are abandoned"),
        "{said}"
    );
    let rows = served.query("SELECT id FROM kept").ok();
    assert_eq!(rows["rows"], json!([[10]]));
    let said = served.post("/api/jobs/copy/resume", &json!({})).ok();
    assert_eq!(said, json!({"said": "job copy resumed"}));
    served.wait_for_job("copy", |job| job["batch"] == 3 && job["generation"] == 1);
    let rows = served.query("SELECT id FROM kept ORDER BY id").ok();
    assert_eq!(rows["rows"], json!([[10], [20], [30]]));
    let definition = served.get("/api/jobs/copy/definition").ok();
    assert!(
        definition["definition"]
            .as_str()
            .unwrap()
            .contains("CREATE JOB copy")
    );
    assert_eq!(served.get("/api/jobs/none/batches").status, 404);
    assert_eq!(served.post("/api/jobs/none/pause", &json!({})).status, 404);
}

#[test]
fn rows_that_a_job_set_aside_are_shown() {
    let work = Workspace::new();
    let served = served(&work, &[work.file("tables.sql", TABLES)]);
    let name = "<b>by</b> 10 s/é";
    let path = "/api/jobs/%3Cb%3Eby%3C%2Fb%3E%2010%20s%2F%C3%A9";
    served.wait_for_job(name, |job| job["batch"] == 1);
    for (read, row) in [
        (1, "'2025-01-01T00:01:00Z', 'on time'"),
        (2, "'2025-01-01T00:00:01Z', 'late'"),
    ] {
        served
            .query(&format!("INSERT INTO ticks VALUES ({row})"))
            .ok();
        served.wait_for_job(name, |job| job["here"]["rows_in"] == read);
    }
    let late = served.get(&format!("{path}/late-rows")).ok();
    let rows = late["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{late}");
    assert_eq!(rows[0].as_array().unwrap().last(), Some(&json!(1)));
    let letters = served.get(&format!("{path}/dead-letters")).ok();
    assert_eq!(letters["rows"], json!([]));
    let partitions = served.get(&format!("{path}/partitions")).ok();
    assert_eq!(partitions["rows"][0][0], "ticks");
    let job = served.wait_for_job(name, |job| job["here"]["watermark"].is_string());
    assert_eq!(job["here"]["watermark"], "2025-01-01T00:00:55.000Z");
}

/// Processor time of a process, in hundredths of a second.
#[cfg(target_os = "linux")]
fn processor_time(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = rest.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

const ENDLESS: &str = "SELECT sum(sin(a.value) * cos(b.value)) FROM generate_series(1, 10000000) a \
                       CROSS JOIN generate_series(1, 10000000) b";

/// Until the server does nothing any more.
fn wait_for_rest(served: &TestServer) {
    #[cfg(target_os = "linux")]
    {
        let process = served.process.id();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = processor_time(process);
            std::thread::sleep(Duration::from_millis(500));
            let spent = processor_time(process) - before;
            if spent <= 5 {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{spent} hundredths of a second in half of one"
            );
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = served;
}

#[test]
fn a_cancelled_statement_ends_in_the_server() {
    let work = Workspace::new();
    let served = served(&work, &[]);
    let stop =
        |id: &str| served.post("/api/query/cancel", &json!({"id": id})).ok()["stopped"] == true;
    assert!(!stop("other"));
    // It keeps all processors at work, and the server answers all the same.
    let ended = std::thread::scope(|scope| {
        let asking =
            scope.spawn(|| served.post("/api/query", &json!({"sql": ENDLESS, "id": "mine"})));
        std::thread::sleep(Duration::from_secs(1));
        assert!(!stop("other"));
        while !stop("mine") {
            std::thread::sleep(Duration::from_millis(100));
        }
        asking.join().unwrap()
    });
    assert_eq!(ended.status, 409);
    assert_eq!(ended.message(), "the statement was cancelled");
    wait_for_rest(&served);
    // A client that hangs up has no use for the statement either.
    let body = json!({"sql": ENDLESS, "id": "gone"}).to_string();
    let mut stream = TcpStream::connect(served.console()).unwrap();
    let request = format!(
        "POST /api/query HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !served.query("SHOW QUERIES").body.contains("sum(sin(") {
        assert!(Instant::now() < deadline, "it does not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(stream);
    wait_for_rest(&served);
    assert!(!stop("gone"));
}

/// The lines of an answer that comes as it is made, without the lengths of its pieces.
fn lines(answer: &Answer) -> Vec<Value> {
    let lines = answer.body.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn rows_without_an_end_come_in_lines() {
    let work = Workspace::new();
    let served = served(&work, &[work.file("tables.sql", TABLES)]);
    served
        .query("INSERT INTO seen SELECT value, 'row' FROM generate_series(1, 1200)")
        .ok();
    let ask = |sql: &str, rows: u64| {
        let body = json!({"sql": sql, "id": sql, "rows": rows, "live": true});
        served.post("/api/query", &body)
    };
    let once = "SUBSCRIBE WITH ('trigger' 'once') SELECT id FROM seen";
    let all = ask(once, 10_000);
    assert_eq!(all.status, 200, "{}", all.body);
    assert!(all.head.contains("application/x-ndjson"), "{}", all.head);
    let found = lines(&all);
    let columns = json!([{"name": "id", "type": "BIGINT", "is_number": true}]);
    assert_eq!(found[0]["columns"], columns);
    assert_eq!(found.last().unwrap()["is_complete"], true);
    let rows = |found: &[Value]| -> Vec<i64> {
        let rows = found.iter().filter_map(|line| line["rows"].as_array());
        let mut rows: Vec<i64> = rows.flatten().map(|row| row[0].as_i64().unwrap()).collect();
        rows.sort_unstable();
        rows
    };
    let counted = |found: &[Value]| -> u64 {
        let counts = found.iter().filter_map(|line| line["count"].as_u64());
        counts.sum()
    };
    assert_eq!(rows(&found), (1..=1_200).collect::<Vec<i64>>());
    assert_eq!(counted(&found), 1_200);
    // All are counted, and only the newest of a batch come.
    let few = lines(&ask(once, 7));
    assert_eq!(counted(&few), 1_200);
    assert!(rows(&few).len() < 1_200);
    // Until it is cancelled, which is its last line.
    let endless = "SUBSCRIBE SELECT id FROM seen";
    let ended = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(endless, 100));
        let cancel = json!({"id": endless});
        let deadline = Instant::now() + PATIENCE;
        while !served.query("SHOW QUERIES").body.contains(endless) {
            assert!(Instant::now() < deadline, "it does not begin");
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(
            served.post("/api/query/cancel", &cancel).ok()["stopped"],
            true
        );
        asking.join().unwrap()
    });
    let last = lines(&ended).pop().unwrap();
    assert_eq!(last["error"]["message"], "the statement was cancelled");
    // Errors of the statement are known before the first line.
    let wrong = ask("SUBSCRIBE SELECT nothing FROM seen", 100);
    assert_eq!(wrong.status, 400, "{}", wrong.body);
    assert_eq!(wrong.message(), "no column named nothing");
    // A client that does not take rows as they come is told so.
    let refused = served.query(endless);
    assert_eq!(refused.status, 501, "{}", refused.body);
}

#[test]
fn only_the_page_itself_may_send_requests() {
    let work = Workspace::new();
    let served = served(&work, &[]);
    let port = served.console().rsplit_once(':').unwrap().1.to_owned();
    let page = served.get("/");
    assert_eq!(page.status, 200);
    let head = page.head.to_lowercase();
    for header in [
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
        "frame-ancestors 'none'",
        "x-frame-options: deny",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "content-type: text/html; charset=utf-8",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert!(!head.contains("access-control-allow"), "{head}");
    for host in ["example.com", "localhost.example.com", "192.0.2.1"] {
        for path in ["/", "/api/jobs", "/assets/app.js"] {
            let host = format!("Host: {host}:{port}");
            assert_eq!(
                served.send(&format!("GET {path}"), &[&host], "").status,
                403
            );
        }
    }
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        let host = format!("Host: {host}:{port}");
        assert_eq!(served.send("GET /api/about", &[&host], "").status, 200);
    }
    let body = json!({"sql": "CREATE VIEW v AS SELECT 1 AS one", "id": "1"}).to_string();
    let own = format!("Host: localhost:{port}");
    let json = "Content-Type: application/json";
    let foreign = [
        vec![own.as_str(), json, "Origin: http://example.com"],
        vec![&own, json, "Origin: null"],
        vec![&own, json, "Sec-Fetch-Site: cross-site"],
        vec![&own, "Content-Type: text/plain"],
        vec![&own],
        vec!["Host: example.com", json, "Origin: http://example.com"],
    ];
    for headers in foreign {
        let refused = served.send("POST /api/query", &headers, &body);
        assert!(
            matches!(refused.status, 403 | 415),
            "{headers:?}: {}",
            refused.body
        );
        assert!(
            refused.head.contains("X-Frame-Options") || refused.head.contains("x-frame-options")
        );
    }
    assert_eq!(served.get("/api/tables").ok()["rows"], json!([]));
    let origin = format!("Origin: http://localhost:{port}");
    let own = served.send("POST /api/query", &[&own, json, &origin], &body);
    assert_eq!(own.status, 200, "{}", own.body);
    for (first, status) in [
        ("GET /nothing", 404),
        ("GET /assets/../mod.rs", 404),
        ("GET /assets/none.js", 404),
        ("GET /api/none", 404),
        ("GET /api/query", 405),
        ("GET /api/jobs/copy/pause", 405),
    ] {
        assert_eq!(
            served.send(first, &["Host: localhost"], "").status,
            status,
            "{first}"
        );
    }
    let large = json!({"sql": "x".repeat(2 << 20), "id": "1"});
    assert_eq!(served.post("/api/query", &large).status, 413);
    let login = json!({"user": "one", "password": "secret"});
    assert_eq!(served.post("/api/login", &login).status, 404);
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn a_public_console_needs_an_explicit_option() {
    let work = Workspace::new();
    let ran = work.anabranch(&["serve", "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0"]);
    assert_ne!(ran.code, Some(0));
    assert!(
        ran.err.contains("no login is required") && ran.err.contains("--insecure"),
        "{}",
        ran.err
    );
    let ran = work.anabranch(&["serve", "--listen", "127.0.0.1:0", "--http", "nowhere"]);
    assert!(
        ran.err.contains("cannot listen at 'nowhere'") && ran.err.contains("--http"),
        "{}",
        ran.err
    );
}

/// `CONSOLE_SCREENSHOTS=FOLDER` keeps screenshots of the page.
#[test]
fn the_page_works_in_a_browser() {
    let work = Workspace::new();
    let served = served(&work, &[work.file("tables.sql", TABLES)]);
    let url = format!("http://{}/", served.console());
    let other = Workspace::new();
    let files = [other.file("tables.sql", TABLES), "--users", users(&other)];
    let with_users = self::served(&other, &files);
    let url_with_users = format!("http://{}/", with_users.console());
    let said = python(include_str!("console.py"), &[&url, &url_with_users]);
    assert_eq!(said.lines().last(), Some("done"), "{said}");
    assert_eq!(served.stop(), Some(0));
}
