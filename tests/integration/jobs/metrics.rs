//! Status of a running job: its metrics over HTTP, its phases in the log.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::Pipeline;

/// A program that runs jobs and serves metrics; it ends when this is dropped.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    /// Runs files; gives it when it says where the metrics are.
    fn start(pipeline: &Pipeline, files: &[&str], variable: bool) -> Self {
        let mut command = pipeline.work.command();
        command.arg("run").args(files);
        if variable {
            command.env("ANABRANCH_METRICS", "127.0.0.1:0");
        } else {
            command.args(["--metrics", "127.0.0.1:0"]);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        // The rest is read as well: the program would block when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let address = line
            .strip_prefix("metrics at http://")
            .and_then(|rest| rest.strip_suffix("/metrics\n"));
        let address = address.unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, address }
    }

    fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// All samples, by name and labels as they are written.
    fn scrape(&self) -> BTreeMap<String, f64> {
        let (head, body) = self.get("/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        let mut samples = BTreeMap::new();
        let (mut helped, mut typed) = (Vec::new(), Vec::new());
        for line in body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(!text.is_empty());
                helped.push(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                typed.push(kind.split_once(' ').unwrap().0.to_owned());
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let twice = samples.insert(sample.to_owned(), value.parse().unwrap());
                assert_eq!(twice, None, "{sample}");
            }
        }
        assert_eq!(helped, typed, "every metric has a help text and a type");
        samples
    }

    /// Scrapes until it is as wanted.
    fn scrape_until(
        &self,
        wanted: impl Fn(&BTreeMap<String, f64>) -> bool,
    ) -> BTreeMap<String, f64> {
        let deadline = Instant::now() + crate::support::PATIENCE;
        loop {
            let samples = self.scrape();
            if wanted(&samples) {
                return samples;
            }
            assert!(Instant::now() < deadline, "{samples:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Windows of ten seconds behind a watermark of five; and a job that takes no bad record.
fn pipeline(name: &str) -> Pipeline {
    let pipeline = super::windows::counting(name);
    let (bootstrap, source) = (&pipeline.bootstrap, &pipeline.source);
    pipeline.work.file(
        "strict.sql",
        &format!(
            "CREATE EXTERNAL TABLE strict (k BIGINT, t TIMESTAMP) STORED AS KAFKA LOCATION '{source}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'on_error' 'fail');\n\
             CREATE EXTERNAL TABLE copied (k BIGINT, t TIMESTAMP) STORED AS DELTA LOCATION 'copied';\n\
             CREATE JOB copying WITH ('trigger' '10 milliseconds') AS INSERT INTO copied SELECT k, t FROM strict;\n"
        ),
    );
    pipeline
}

#[test]
fn metrics_are_those_of_the_rows_while_jobs_run() {
    let pipeline = pipeline("metrics");
    pipeline.tick(0..20);
    // The program ends when its last job does: one is left alone.
    let files = ["tables.sql", "job.sql", "strict.sql", "keep.sql"];
    let serving = Serving::start(&pipeline, &files, false);
    let of = |name: &str, job: &str| format!("anabranch_job_{name}{{job=\"{job}\"}}");
    let state =
        |job: &str, state: &str| format!("anabranch_job_state{{job=\"{job}\",state=\"{state}\"}}");
    let is = |samples: &BTreeMap<String, f64>, sample: &str, value: f64| {
        samples.get(sample) == Some(&value)
    };

    let rows_in = of("rows_in_total", "to_topic");
    let copied = of("rows_in_total", "copying");
    // Seconds up to 19, and five of delay.
    let (watermark, at) = (
        of("watermark_timestamp_seconds", "to_topic"),
        1_735_689_614.0,
    );
    let samples = serving.scrape_until(|now| {
        is(now, &rows_in, 20.0) && is(now, &copied, 20.0) && is(now, &watermark, at)
    });
    assert_eq!(samples[&of("late_rows_total", "to_topic")], 0.0);
    assert_eq!(samples[&of("dead_letters_total", "to_topic")], 0.0);
    for job in ["to_topic", "copying"] {
        assert_eq!(samples[&state(job, "RUNNING")], 1.0);
        assert_eq!(samples[&state(job, "FAILED")], 0.0);
    }
    let delay = samples[&of("watermark_delay_seconds", "to_topic")];
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!((now.as_secs_f64() - at - delay).abs() < 60.0, "{delay}");
    assert!(
        !samples.contains_key(&of("watermark_timestamp_seconds", "copying")),
        "it has no windows"
    );

    // A record that cannot be read, and a row whose window is closed.
    pipeline.produce("nonsense\n");
    pipeline.tick(3..4);
    let dead = of("dead_letters_total", "to_topic");
    let late = of("late_rows_total", "to_topic");
    let failed = state("copying", "FAILED");
    let lag = "anabranch_job_lag_offsets{job=\"to_topic\",partition=\"0\",table=\"ticks\"}";
    let samples = serving.scrape_until(|now| {
        is(now, &dead, 1.0) && is(now, &late, 1.0) && is(now, &failed, 1.0) && is(now, lag, 0.0)
    });
    assert_eq!(samples[&rows_in], 22.0);
    // Two keys of the window that is closed.
    assert_eq!(samples[&of("rows_out_total", "to_topic")], 2.0);
    assert_eq!(samples[&of("state_rows", "to_topic")], 2.0);
    assert!(samples[&of("state_bytes", "to_topic")] > 0.0);
    assert!(samples[&of("bytes_in_total", "to_topic")] >= 22.0 * 8.0);
    assert_eq!(samples[&of("retries_total", "to_topic")], 0.0);
    assert_eq!(samples[&of("failures_total", "copying")], 1.0);
    assert_eq!(samples[&state("copying", "RUNNING")], 0.0);
    assert_eq!(samples[&state("to_topic", "RUNNING")], 1.0);
    // Three records a batch at most.
    let batches = samples[&of("batches_total", "to_topic")];
    assert!(batches >= 8.0, "{batches}");
    assert_eq!(samples[&of("batch_seconds_count", "to_topic")], batches);
    let mut phases = 0.0;
    for phase in ["choose", "run", "stage", "commit", "log"] {
        let sample = |part: &str| {
            samples[&format!(
                "anabranch_job_batch_phase_seconds_{part}{{job=\"to_topic\",phase=\"{phase}\"}}"
            )]
        };
        assert_eq!(sample("count"), batches, "{phase}");
        assert!(sample("sum") > 0.0, "{phase}");
        phases += sample("sum");
    }
    assert!(phases <= samples[&of("batch_seconds_sum", "to_topic")]);

    let (head, body) = serving.get("/health");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    let jobs =
        serde_json::json!({"copying": "FAILED", "to_delta": "RUNNING", "to_topic": "RUNNING"});
    assert_eq!(health, serde_json::json!({"status": "ok", "jobs": jobs}));

    // A statement of another process.
    pipeline.work.sql(&[], &["PAUSE JOB to_topic"]).ok();
    let paused = state("to_topic", "PAUSED");
    serving.scrape_until(|now| is(now, &paused, 1.0));
}

#[test]
fn metrics_may_be_asked_for_by_a_variable() {
    let pipeline = pipeline("metrics-variable");
    let serving = Serving::start(&pipeline, &["tables.sql", "job.sql"], true);
    serving.scrape_until(|now| {
        now.get("anabranch_job_state{job=\"to_topic\",state=\"RUNNING\"}") == Some(&1.0)
    });
}

#[test]
fn an_address_in_use_is_reported_before_a_job_starts() {
    let pipeline = pipeline("metrics-in-use");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (address, reason) in [
        (address.as_str(), "the address is in use"),
        ("9464", "it is not HOST:PORT"),
    ] {
        let ran = pipeline
            .work
            .anabranch(&["run", "tables.sql", "job.sql", "--metrics", address]);
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert!(
            ran.err.starts_with(&format!(
                "error: metrics cannot be served at '{address}': {reason}\n  = help: "
            )),
            "{}",
            ran.err
        );
    }
    assert!(
        !pipeline.work.path("anabranch-data").exists(),
        "no job was made"
    );
}

#[test]
fn the_log_has_a_span_for_each_phase_of_a_batch() {
    let pipeline = pipeline("phases");
    pipeline.tick(0..3);
    let arguments = [
        "run",
        "tables.sql",
        "job.sql",
        "--until-caught-up",
        "--log",
        "anabranch=debug",
        "--log-format",
        "json",
    ];
    let ran = pipeline.work.anabranch(&arguments).ok();
    let mut phases = Vec::new();
    for line in ran.err.lines().filter(|line| line.starts_with('{')) {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        if event["fields"]["message"] != "phase done" {
            continue;
        }
        let [batch, phase] = event["spans"].as_array().unwrap().as_slice() else {
            panic!("{line}");
        };
        assert_eq!(batch["name"], "batch");
        assert_eq!(
            (&batch["job"], &batch["generation"]),
            (&"to_topic".into(), &0.into())
        );
        if batch["batch"] == 1 {
            assert!(
                event["fields"]["microseconds"].as_u64().unwrap() > 0,
                "{line}"
            );
            phases.push(phase["phase"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(phases, ["choose", "run", "stage", "commit", "log"]);
    let quiet = pipeline
        .work
        .anabranch(&["run", "tables.sql", "job.sql", "--until-caught-up"]);
    assert!(!quiet.ok().err.contains("phase"), "nobody asked");
}
