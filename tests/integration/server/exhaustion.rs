//! A server that runs short of a resource because its clients take all that they can: its jobs go on (SAFE-1).

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::TestServer;
use super::rights::users;
use crate::support::{PATIENCE, Workspace, create_topic, kafka, topic};

/// A job that copies rows added to `seen` to `kept`.
pub(super) const TABLES: &str = "CREATE EXTERNAL TABLE seen (id BIGINT) STORED AS DELTA LOCATION 'seen' OPTIONS ('scan.mode' 'stream');
CREATE EXTERNAL TABLE kept (id BIGINT) STORED AS DELTA LOCATION 'kept';
CREATE JOB copy WITH ('trigger' '50 milliseconds') AS INSERT INTO kept SELECT id * 10 FROM seen;
";

/// A server with a job, begun by a shell that has set a limit.
fn limited(work: &Workspace, limit: &str, arguments: &[&str]) -> TestServer {
    let file = work.file("tables.sql", TABLES);
    let program = work.command();
    let mut shell = Command::new("sh");
    // To write more than a file may hold is an error then, and no signal.
    let begin = format!("trap '' XFSZ; {limit}; exec \"$0\" \"$@\"");
    shell
        .args(["-c", &begin])
        .arg(program.get_program())
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .arg(file)
        .current_dir(work.path("."))
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    TestServer::listening(shell.spawn().unwrap())
}

/// Another process adds a row to the job's source, and waits until the job has copied as many as are wanted.
fn goes_on(work: &Workspace, wanted: u32) {
    let seen = "CREATE EXTERNAL TABLE seen (id BIGINT) STORED AS DELTA LOCATION 'seen'";
    let kept = "CREATE EXTERNAL TABLE kept (id BIGINT) STORED AS DELTA LOCATION 'kept'";
    let insert = format!("INSERT INTO seen VALUES ({wanted})");
    work.sql(&[], &[seen, &insert]).ok();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let count = "SELECT count(*) AS n FROM kept";
        let found = work.sql(&[], &[kept, count]).ok().out;
        if found == format!("{{\"n\":{wanted}}}\n") {
            return;
        }
        assert!(Instant::now() < deadline, "{found}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn held_connections_leave_file_descriptors_for_jobs() {
    let work = Workspace::new();
    let served = limited(&work, "ulimit -n 256", &[]);
    goes_on(&work, 1);
    let connect = || TcpStream::connect(&served.address).unwrap();
    let held: Vec<TcpStream> = (0..250).map(|_| connect()).collect();
    // Until it holds as many as it takes.
    let folder = format!("/proc/{}/fd", served.process.id());
    let deadline = Instant::now() + PATIENCE;
    let is_socket = |entry: &std::io::Result<std::fs::DirEntry>| {
        let entry = entry.as_ref().map(std::fs::DirEntry::path);
        let of = entry.ok().and_then(|path| std::fs::read_link(path).ok());
        of.is_some_and(|of| of.to_string_lossy().starts_with("socket:"))
    };
    let sockets = || {
        let open = std::fs::read_dir(&folder).unwrap();
        open.filter(is_socket).count()
    };
    while sockets() < 128 {
        assert!(Instant::now() < deadline, "they are not accepted");
        std::thread::sleep(Duration::from_millis(20));
    }
    goes_on(&work, 2);
    drop(held);
    let said = served.python("print(rows(connect(), 'SELECT 1'))", &[]);
    assert_eq!(said, "[(1,)]\n");
    assert_eq!(served.stop(), Some(0));
}

/// A user opens connections until there are no more for one user, and then many are opened that say nothing: user `writer` can
/// still connect, and the connections of `reader` still answer.
#[test]
fn one_user_and_silent_connections_leave_connections_for_others() {
    let work = Workspace::new();
    let served = limited(&work, "ulimit -n 256", &["--users", users(&work)]);
    let script = r#"
import socket
held = []
def hold():
    held.append(connect("reader", "reader-pw"))
    return rows(held[-1], "SELECT 1")
full = until(lambda: refused(hold), lambda answer: answer != "done: [(1,)]")
print("reader has 96 connections open, which is the limit" in full or full)
host, port = sys.argv[1].rsplit(":", 1)
silent = [socket.create_connection((host, int(port))) for n in range(200)]
print(rows(connect("writer", "writer-pw"), "SELECT 1"), rows(held[0], "SELECT 1"))
"#;
    assert_eq!(served.python(script, &[]), "True\n[(1,)] [(1,)]\n");
    goes_on(&work, 1);
    assert_eq!(served.stop(), Some(0));
}

/// Rows that a statement cannot hold in memory go to disk. If the disk is full, the statement fails and nothing else
/// does.
#[test]
fn a_statement_that_fills_the_disk_fails_alone() {
    const SORT: &str = "SELECT md5(CAST(value AS VARCHAR)) AS h FROM generate_series(1, 300000) ORDER BY h OFFSET 299999";
    // Jobs have half of the memory.
    let arguments = ["--memory-limit", "64MiB", "--target-partitions", "1"];
    let script = "print(refused(rows, connect(), sys.argv[2])[:8])";
    for (limit, is_full) in [("ulimit -f unlimited", false), ("ulimit -f 128", true)] {
        let work = Workspace::new();
        let served = limited(&work, limit, &arguments);
        for round in 1..3 {
            let said = served.python(script, &[SORT]);
            assert_eq!(said != "done: [(\n", is_full, "{limit}: {said}");
            goes_on(&work, round);
        }
        assert_eq!(served.stop(), Some(0));
    }
}

/// Statements hold all the memory that they can get, and stand still: jobs have memory of their own.
#[test]
fn statements_cannot_take_all_memory_from_jobs() {
    let work = Workspace::new();
    let arguments = ["--memory-limit", "64MiB", "--target-partitions", "1"];
    let served = limited(&work, "true", &arguments);
    let script = r#"
import os
folder = sys.argv[2]
standing = []
def stand(keys):
    own = connect(**{"adbc.flight.sql.client_option.with_max_msg_size": "100000000"})
    cur = own.cursor()
    # The keys of the join are held in memory until its last row is fetched.
    cur.execute(f"SELECT l.value, repeat('some text ', 20) AS t FROM generate_series(1, {keys}) AS l "
        f"JOIN (SELECT value % {keys} + 1 AS v FROM generate_series(1, 5000000)) AS r ON l.value = r.v")
    batches = cur.fetch_record_batch()
    batches.read_next_batch()
    standing.append((own, cur, batches))
# What is left is too little for any of them, and for what a job writes with.
for keys in [1000000, 250000, 62500, 15625, 4000, 1000, 250]:
    while refused(stand, keys).startswith("done"):
        assert len(standing) < 60, "there is always more memory"
assert standing, "nothing was held"
answer = refused(stand, 1000)
assert "Failed to allocate" in answer or "Resources exhausted" in answer, answer
print(len(standing) == len([row for row in rows(connect(), "SHOW QUERIES") if "repeat" in row[6]]))
open(folder + "/full", "w").close()
until(lambda: os.path.exists(folder + "/enough"), bool)
for own, cur, batches in standing:
    batches.close(); cur.close(); own.close()
"#;
    let folder = work.path(".").display().to_string();
    std::thread::scope(|threads| {
        let clients = threads.spawn(|| served.python(script, &[&folder]));
        let deadline = Instant::now() + PATIENCE;
        while !work.path("full").exists() && !clients.is_finished() {
            assert!(Instant::now() < deadline, "memory is never full");
            std::thread::sleep(Duration::from_millis(50));
        }
        for wanted in 1..4 {
            goes_on(&work, wanted);
        }
        work.file("enough", "");
        assert_eq!(clients.join().unwrap(), "True\n");
    });
    goes_on(&work, 4);
    assert_eq!(served.stop(), Some(0));
}

/// Clients read many partitions and stall, and a statement reads more partitions than there are threads for blocking
/// calls.
#[test]
fn stalled_readers_and_a_wide_insert_leave_threads_for_jobs() {
    let names = ["standing", "standing-wide", "standing-copy"].map(topic);
    for (name, partitions) in names.iter().zip([16, 600, 1]) {
        create_topic(name, partitions);
    }
    let work = Workspace::new();
    let served = limited(&work, "true", &["--max-statements", "200"]);
    let script = r#"
db = connect()
for name, topic in zip(["source", "wide", "copied"], sys.argv[3:]):
    rows(db, f"""CREATE EXTERNAL TABLE {name} (v INT, p INT METADATA FROM 'partition') STORED AS KAFKA LOCATION '{topic}'
        OPTIONS ('kafka.bootstrap.servers' '{sys.argv[2]}', 'format' 'json')""")
rows(db, "INSERT INTO source (v, p) SELECT value, value % 16 FROM generate_series(1, 200000)")
rows(db, "INSERT INTO wide (v, p) SELECT value, value % 600 FROM generate_series(0, 5999)")
standing = []
for n in range(20):
    own = connect(**{"adbc.flight.sql.client_option.with_max_msg_size": "100000000"})
    cur = own.cursor()
    cur.execute("SELECT v, repeat('some text ', 200) AS t FROM source")
    batches = cur.fetch_record_batch()
    batches.read_next_batch()
    standing.append((own, cur, batches))
rows(db, "INSERT INTO copied (v) SELECT v FROM wide")
print(rows(db, "SELECT count(*), count(DISTINCT v) FROM copied"))
rows(db, "INSERT INTO seen VALUES (7)")
print(until(lambda: rows(db, "SELECT id FROM kept"), len))
print(len([row for row in rows(db, "SHOW QUERIES") if "repeat" in row[6]]))
for own, cur, batches in standing:
    batches.close(); cur.close(); own.close()
"#;
    let broker = kafka();
    let arguments: Vec<&str> = std::iter::once(broker.as_str())
        .chain(names.iter().map(String::as_str))
        .collect();
    assert_eq!(
        served.python(script, &arguments),
        "[(6000, 6000)]\n[(70,)]\n20\n"
    );
}

/// Expressions that make much of little are refused in every statement, when it is planned or when it runs; other
/// statements do not notice.
#[test]
fn statements_that_request_all_memory_are_refused_and_a_job_continues() {
    const STATEMENTS: &[&str] = &[
        // Types whose values are wide.
        "SELECT arrow_cast(NULL, 'FixedSizeList(2147483647, FixedSizeList(1000000, Int64))')",
        "SELECT CAST(NULL AS BIGINT[2147483647]) FROM generate_series(1, 10)",
        "SELECT count(arrow_cast(nullif(value, value), 'FixedSizeBinary(2000000000)')) FROM generate_series(1, 10)",
        // Aggregates that take room before they have seen a row.
        "SELECT approx_percentile_cont(value, 0.5, 200000000000000) FROM generate_series(1, 10)",
        "SELECT approx_percentile_cont_with_weight(value, 1, 0.5, 2000000000) FROM generate_series(1, 10)",
        "SELECT approx_percentile_cont(value, 0.5, 200000000000) OVER () FROM generate_series(1, 10)",
        // Each row of a window has all rows.
        "SELECT array_agg(value) OVER () FROM generate_series(1, 50000)",
        "SELECT string_agg('xxxxxxxxxx', ',') OVER () FROM generate_series(1, 50000)",
        "SELECT array_agg(value) OVER (PARTITION BY value % 3) FROM generate_series(1, 50000)",
        "SELECT array_agg(value) OVER (ORDER BY value) FROM generate_series(1, 200000)",
        "SELECT string_agg('xxxxxxxxxx', ',') OVER (ORDER BY value DESC) FROM generate_series(1, 200000)",
        "SELECT first_value(t) OVER (ORDER BY value) FROM (SELECT value, CASE WHEN value = 1 THEN repeat('x', 5000000) ELSE '' END AS t FROM generate_series(1, 50000))",
        // Each row of a batch has a value that was made once.
        "SELECT value, range(1, 1000000) AS r FROM generate_series(1, 2000)",
        "SELECT value, repeat('x', 10000000) AS r FROM generate_series(1, 2000)",
        "SELECT string_to_array(repeat('a,', 100000), ',') FROM generate_series(1, 8000)",
        "SELECT value, (SELECT max(repeat('x', 5000000)) FROM generate_series(1, 2)) AS r FROM generate_series(1, 8000)",
        "SELECT CASE WHEN value % 2 = 0 THEN repeat('x', 5000000) ELSE 'y' END AS r FROM generate_series(1, 8000)",
        "SELECT lag('a', 100000, repeat('x', 1000000)) OVER (ORDER BY value) FROM generate_series(1, 8000)",
        // Functions make large results of a batch, or of an argument that is the same for all rows.
        "SELECT string_to_array(repeat(',', 1500 + value % 7), ',') FROM generate_series(1, 8000)",
        "SELECT unnest(range(0, 100000 + value)) AS e, repeat('x', 100000 + value % 2) AS t FROM generate_series(1, 20)",
        "SELECT array_agg(repeat('x', 1000000)) FROM generate_series(1, 8000)",
        "SELECT array_repeat(arrow_cast(NULL, 'FixedSizeBinary(60000)'), 200000 + value) FROM generate_series(1, 1)",
        "SELECT arrays_zip(range(0, 1000000 + value), array_repeat(arrow_cast(NULL, 'FixedSizeBinary(60000)'), 1)) FROM generate_series(1, 1)",
        "SELECT array_replace_all(array_repeat([value], 100000), [value], range(0, 1000000)) FROM generate_series(1, 1)",
        // Keys and arguments that are the same for all rows.
        "SELECT count(*) FROM generate_series(1, 8000) GROUP BY repeat('x', 200000), repeat('y', 200000)",
        "SELECT count(*) FROM generate_series(1, 8000) GROUP BY ROLLUP (value, repeat('x', 200000))",
        "SELECT array_agg(value ORDER BY repeat('x', 200000)) FROM generate_series(1, 8000)",
        "SELECT approx_distinct(repeat('x', 40000)) OVER () FROM generate_series(1, 50000)",
    ];
    let many = |of: &dyn Fn(usize) -> String| {
        let columns: Vec<String> = (0..1_000).map(of).collect();
        columns.join(", ")
    };
    let texts = "SELECT value, repeat('x', 1500 + value % 7) AS t FROM generate_series(1, 8000)";
    let wide = [
        // Short lists become as long as the longest.
        format!(
            "SELECT unnest(range(0, 1000000 + value)), {} FROM generate_series(1, 1)",
            many(&|n| format!("unnest([value + {n}])"))
        ),
        format!(
            "SELECT unnest(range(0, 1000000 + value)), {} FROM generate_series(1, 1)",
            many(&|n| format!("value + {n} AS n{n}"))
        ),
        // Expressions without a function call copy their columns.
        format!(
            "SELECT {} FROM ({texts})",
            many(&|n| format!("CASE WHEN value > {n} THEN t ELSE 'y' END AS c{n}"))
        ),
    ];
    let statements = STATEMENTS.iter().copied();
    let statements: Vec<&str> = statements.chain(wide.iter().map(String::as_str)).collect();
    let work = Workspace::new();
    let arguments = [
        "--users",
        users(&work),
        "--memory-limit",
        "256MiB",
        "--statement-memory",
        "64MiB",
    ];
    let served = limited(&work, "true", &arguments);
    goes_on(&work, 1);
    let script = r#"
for sql in sys.argv[2:]:
    answer = refused(rows, connect("reader", "reader-pw"), sql)
    if "ResourceExhausted" not in answer and "InvalidArgument" not in answer:
        print(sql, "|", answer[:300])
# What only looks as if it needed much.
few = "SELECT value % 10 AS g, max(value) AS m FROM generate_series(1, 1000) GROUP BY 1 ORDER BY m LIMIT 100000000000"
print(len(rows(connect("reader", "reader-pw"), few)))
print(rows(connect("reader", "reader-pw"), "SELECT count(*) FROM generate_series(1, 100000)"))
"#;
    assert_eq!(served.python(script, &statements), "10\n[(100000,)]\n");
    goes_on(&work, 2);
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(peak < 2 << 20, "{peak} KiB were held");
    assert_eq!(served.stop(), Some(0));
}

/// A join repeats a row of many wide columns in one step that does not check the memory: its thread waits when no
/// memory is left, and its statement is ended. Other threads serve other statements.
#[test]
fn an_oversized_step_fails_only_its_statement() {
    let work = Workspace::new();
    // The limit of addresses is below the free memory.
    let served = limited(&work, "ulimit -v 10000000", &["--target-partitions", "1"]);
    goes_on(&work, 1);
    let columns: Vec<String> = (0..40)
        .map(|n| format!("max(repeat('x', 200000 + value)) AS c{n}"))
        .collect();
    let lengths: Vec<String> = (0..40).map(|n| format!("sum(length(c{n}))")).collect();
    let wide = format!(
        "SELECT {} FROM (SELECT {} FROM generate_series(1, 2)) CROSS JOIN (SELECT value AS v FROM generate_series(1, 50000)) WHERE v % 7 > 0",
        lengths.join(", "),
        columns.join(", ")
    );
    let script = r#"
for round in range(2):
    answer = refused(rows, connect(), sys.argv[2])
    print("ResourceExhausted" in answer or answer[:300])
    print(until(lambda: refused(rows, connect(), "SELECT 7"), lambda answer: "done" in answer))
"#;
    let said = served.python(script, &[&wide]);
    assert_eq!(said, "True\ndone: [(7,)]\nTrue\ndone: [(7,)]\n");
    goes_on(&work, 2);
}
