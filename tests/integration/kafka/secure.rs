//! A broker with TLS and logins: the right settings work, wrong ones are reported in time.

use std::time::Instant;

use crate::support::{ProcessGuard, TestBroker, Workspace};

#[test]
fn tls_and_logins_work_or_are_reported() {
    let kafka = TestBroker::start(&["--secure"]);
    let (tls, sasl) = (kafka.variable("KAFKA_TLS"), kafka.variable("KAFKA_SASL"));
    let work = Workspace::new();
    let ca = format!("'kafka.ssl.ca.location' '{}'", kafka.variable("KAFKA_CA"));
    let table = |bootstrap: &str, options: &[&str]| {
        format!(
            "CREATE EXTERNAL TABLE t (v INT) STORED AS KAFKA LOCATION 'secure' OPTIONS \
             ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1', 'connect.timeout' '5 seconds', {})",
            options.join(", ")
        )
    };
    let login = |mechanism: &str, password: &str| {
        format!(
            "'kafka.security.protocol' 'sasl_ssl', 'kafka.sasl.mechanism' '{mechanism}', \
             'kafka.sasl.username' 'alice', 'kafka.sasl.password' '{password}'"
        )
    };
    let ssl = "'kafka.security.protocol' 'ssl'";

    // Each login writes a row, and the last one reads the rows of all.
    let plain = login("PLAIN", "alice-secret");
    let scram = login("SCRAM-SHA-512", "alice-secret");
    for create in [
        table(tls, &[ssl, &ca]),
        table(sasl, &[&plain, &ca]),
        table(sasl, &[&scram, &ca, "'delivery' 'transactional'"]),
    ] {
        work.sql(&[], &[&create, "INSERT INTO t VALUES (1)"]).ok();
    }
    let create = table(sasl, &[&scram, &ca]);
    let read = work
        .sql(&[], &[&create, "SELECT sum(v) AS n FROM t"])
        .ok()
        .out;
    assert_eq!(read, "{\"n\":3}\n");
    let shown = work.sql(&[], &[&create, "SHOW CREATE TABLE t"]).ok().out;
    assert!(!shown.contains("alice-secret"), "{shown}");

    let wrong_plain = login("PLAIN", "guessed-word");
    let wrong_scram = login("SCRAM-SHA-512", "guessed-word");
    let unsupported = login("SCRAM-SHA-256", "alice-secret");
    let no_login = "'kafka.security.protocol' 'sasl_plaintext', 'kafka.sasl.mechanism' 'PLAIN', \
                    'kafka.sasl.username' 'alice', 'kafka.sasl.password' 'alice-secret'";
    for (create, code, expected) in [
        (table(sasl, &[&wrong_plain, &ca]), 2, "authentication"),
        (table(sasl, &[&wrong_scram, &ca]), 2, "authentication"),
        (table(sasl, &[&unsupported, &ca]), 2, "sasl"),
        // No trusted authority has signed the broker's certificate.
        (table(tls, &[ssl]), 2, "certificate"),
        // The other side speaks TLS, this one does not.
        (table(sasl, &[no_login]), 2, "connect"),
        (
            table(tls, &[ssl, "'kafka.ssl.ca.location' '/nowhere.pem'"]),
            1,
            "'kafka.ssl.ca.location': the file '/nowhere.pem' cannot be read",
        ),
    ] {
        for statement in ["SELECT * FROM t", "INSERT INTO t VALUES (2)"] {
            let start = Instant::now();
            let ran = work.sql(&[], &[&create, statement]);
            assert_eq!(ran.code, Some(code), "{create}: {ran:?}");
            // The statement is shown as it was typed; the rest of the message keeps the secret.
            let said: String = ran
                .err
                .lines()
                .filter(|line| !line.contains("CREATE EXTERNAL TABLE"))
                .collect();
            assert!(
                said.to_lowercase().contains(expected),
                "{expected}: {}",
                ran.err
            );
            assert!(
                !said.contains("alice-secret") && !said.contains("guessed-word"),
                "{}",
                ran.err
            );
            assert!(
                start.elapsed() < crate::support::AT_ONCE,
                "{:?}",
                start.elapsed()
            );
        }
    }
    let read = work
        .sql(
            &[],
            &[&table(sasl, &[&scram, &ca]), "SELECT sum(v) AS n FROM t"],
        )
        .ok()
        .out;
    assert_eq!(read, "{\"n\":3}\n", "nothing refused was written");

    // A job waits for its login to be accepted, and says so.
    let tables = table(sasl, &[&wrong_scram, &ca]);
    work.file(
        "job.sql",
        &format!(
            "{tables};\nCREATE EXTERNAL TABLE kept (v INT) STORED AS DELTA LOCATION 'kept';\n\
             CREATE JOB waits AS INSERT INTO kept SELECT v FROM t;\n"
        ),
    );
    let mut run = ProcessGuard(work.command().args(["run", "job.sql"]).spawn().unwrap());
    let deadline = Instant::now() + crate::support::PATIENCE;
    loop {
        let shown = work.sql(&[], &["SHOW JOBS"]).ok().out;
        assert!(!shown.contains("guessed-word"), "{shown}");
        let is_refused = shown.to_lowercase().contains("authentication");
        if shown.contains("\"WAITING\"") && is_refused {
            assert!(shown.contains("'kafka.sasl.password'"), "{shown}");
            break;
        }
        assert!(!shown.contains("\"FAILED\""), "{shown}");
        assert!(run.0.try_wait().unwrap().is_none(), "it has ended: {shown}");
        assert!(Instant::now() < deadline, "{shown}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
