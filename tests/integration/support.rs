//! Shared parts of the tests: the real program, the real broker, Kafka's own tools.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use crate::topics::{
    consume, consume_on, create_topic, create_topic_on, produce, produce_on,
};

/// No run of the program takes so long on any machine, and no event that a test waits for does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// The bound for messages that must come at once, without a wait: far less than the minutes that the client libraries
/// wait by themselves, and more than a busy machine needs to start a program.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(45);

/// The broker's address. Tests of Kafka fail, and are not skipped, without one.
pub(crate) fn kafka() -> String {
    std::env::var("KAFKA_BOOTSTRAP")
        .expect("these tests need Kafka: run them with tests/run, or docker/with-kafka cargo test")
}

/// The repository's folder.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A topic name no other test has.
pub(crate) fn topic(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{name}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The output of the program, and how it ended.
#[derive(Debug)]
pub(crate) struct ProgramOutput {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl ProgramOutput {
    /// Runs it to its end; a program that hangs is killed, and its output so far is shown.
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::within(command, PATIENCE)
    }

    /// The same where it may take so long.
    pub(crate) fn within(command: &mut Command, patience: Duration) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let out = read_aside(child.stdout.take().expect("a pipe"));
        let err = read_aside(child.stderr.take().expect("a pipe"));
        let deadline = Instant::now() + patience;
        let (status, hung) = loop {
            if let Some(status) = child.try_wait().expect("a process") {
                break (status, false);
            }
            if Instant::now() > deadline {
                child.kill().expect("a process");
                break (child.wait().expect("a process"), true);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let ran = Self::from(Output {
            status,
            stdout: out.join().expect("a reader"),
            stderr: err.join().expect("a reader"),
        });
        assert!(!hung, "it did not end within {patience:?}: {ran:#?}");
        ran
    }

    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
            err: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
        }
    }

    /// Its output, lines of JSON.
    pub(crate) fn rows(&self) -> Vec<serde_json::Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The run, which must have gone well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }
}

/// The numbers `v` of lines of JSON, sorted.
pub(crate) fn numbers_of(printed: &str) -> Vec<u64> {
    let mut numbers: Vec<u64> = printed
        .lines()
        .map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["v"].as_u64().unwrap()
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Random numbers by SplitMix64: the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Sends a process a signal, such as `-TERM`.
#[track_caller]
pub(crate) fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &process.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "{name}: {sent}");
}

/// A process that is killed when this is dropped.
pub(crate) struct ProcessGuard(pub(crate) Child);

impl ProcessGuard {
    /// Kills it, if it still runs.
    pub(crate) fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        self.end();
    }
}

fn read_aside(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe");
        bytes
    })
}

/// The program in a folder of its own, with the repository's `sql` in reach.
pub(crate) struct Workspace {
    pub(crate) dir: tempfile::TempDir,
}

impl Workspace {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::os::unix::fs::symlink(repository().join("sql"), dir.path().join("sql"))
            .expect("a link to the stored SQL");
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and gives its name.
    pub(crate) fn file<'a>(&self, name: &'a str, text: &str) -> &'a str {
        std::fs::write(self.path(name), text).expect("a file in a temporary folder");
        name
    }

    /// Adds to a file.
    pub(crate) fn append(&self, name: &str, text: &str) {
        let path = self.path(name);
        let before = std::fs::read_to_string(&path).expect("a file");
        std::fs::write(path, before + text).expect("a file");
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
        command
            .current_dir(self.dir.path())
            .env_remove("RUST_LOG")
            .env("XDG_CONFIG_HOME", self.dir.path())
            .stdin(Stdio::null());
        // They are for the tests; the program would take them for settings.
        for name in ["ENDURANCE", "FUZZ", "MEMORY_ROWS", "SEED", "SEEDS"] {
            command.env_remove(format!("ANABRANCH_{name}"));
        }
        command
    }

    pub(crate) fn anabranch(&self, arguments: &[&str]) -> ProgramOutput {
        ProgramOutput::of(self.command().args(arguments))
    }

    /// `sql -c` of each statement, results as lines of JSON.
    pub(crate) fn sql(&self, files: &[&str], statements: &[&str]) -> ProgramOutput {
        let mut arguments = vec!["sql", "--format", "ndjson"];
        for file in files {
            arguments.extend(["-f", file]);
        }
        for statement in statements {
            arguments.extend(["-c", statement]);
        }
        self.anabranch(&arguments)
    }
}

/// A file of a data directory as releases before checksums wrote it.
pub(crate) fn without_checksum(text: &str) -> String {
    let (head, tail) = (r#"{"checked_by":"crc32","#, r#","crc32":"#);
    let inner = text.strip_prefix(head).expect("a checksum is announced");
    let (inner, _) = inner.rsplit_once(tail).expect("a checksum is at the end");
    format!("{{{inner}}}")
}

/// Runs a Python script with the pinned packages of `tests/python`; gives its output.
pub(crate) fn python(script: &str, arguments: &[&str]) -> String {
    // The interpreter's own exit races with PyArrow's threads on a busy machine and then aborts.
    let script = format!("{script}\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n");
    ProgramOutput::of(
        Command::new(interpreter())
            .args(["-c", &script])
            .args(arguments),
    )
    .ok()
    .out
}

/// The Python that has those packages; the first call in this process looks for it.
fn interpreter() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| python_with("requirements.txt"))
}

/// The Python that has the packages of a file of `tests/python`; `tests/python/venv` installs them where they are missing.
pub(crate) fn python_with(requirements: &str) -> String {
    let folder = repository().join("tests/python");
    let venv = folder.join("venv");
    let made = Command::new(&venv)
        .arg(folder.join(requirements))
        .output()
        .expect("the script starts");
    assert!(
        made.status.success(),
        "{} needs python3: {}",
        venv.display(),
        String::from_utf8_lossy(&made.stderr)
    );
    let path = String::from_utf8(made.stdout).expect("UTF-8");
    path.trim().to_owned()
}

/// Runs one of Kafka's own tools with text on its standard input.
pub(crate) fn kafka_tool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(repository().join("docker/kafka-cli"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("Kafka's tools start");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes())
        .expect("the tool reads its input");
    let output = child.wait_with_output().expect("the tool ends");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// All committed records of a topic as Kafka's own consumer prints them, in order of arrival.
pub(crate) fn read_by_kafka(bootstrap: &str, topic: &str, properties: &[&str]) -> String {
    // On a busy machine a reader may need long for its first record; an empty topic is seldom.
    for silence in ["4000", "15000"] {
        let mut arguments = vec!["kafka-console-consumer", "--bootstrap-server", bootstrap];
        arguments.extend(["--topic", topic, "--from-beginning"]);
        arguments.extend([
            "--isolation-level",
            "read_committed",
            "--timeout-ms",
            silence,
        ]);
        for property in properties {
            arguments.extend(["--property", property]);
        }
        let printed = kafka_tool(&arguments, "");
        if !printed.is_empty() {
            return printed;
        }
    }
    String::new()
}

/// A broker of a test's own, which it may stop and start; it ends when this is dropped.
pub(crate) struct TestBroker {
    script: Child,
    /// Closed, it lets the script end.
    stdin: Option<ChildStdin>,
    /// The `KAFKA_…` variables it gives.
    variables: HashMap<String, String>,
}

impl TestBroker {
    /// Starts one; `options` go to `docker/with-kafka`.
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut script = Command::new(repository().join("docker/with-kafka"))
            .args(options)
            .args(["sh", "-c", "env | grep '^KAFKA_'; echo; cat >/dev/null"])
            .env_remove("KAFKA_BOOTSTRAP")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script starts");
        let stdin = script.stdin.take();
        let lines = BufReader::new(script.stdout.take().expect("a pipe")).lines();
        let variables = lines
            .map(|line| line.expect("UTF-8"))
            .take_while(|line| !line.is_empty())
            .filter_map(|line| {
                let (name, value) = line.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect();
        Self {
            script,
            stdin,
            variables,
        }
    }

    /// A variable it gives, such as `KAFKA_BOOTSTRAP`.
    pub(crate) fn variable(&self, name: &str) -> &str {
        &self.variables[name]
    }

    /// `stop`, `start`, `kill`, `pause` or `continue`.
    pub(crate) fn control(&self, action: &str) {
        self.controlled(&[action]);
    }

    /// The same for one broker of several; they are counted from 1.
    pub(crate) fn control_broker(&self, number: usize, action: &str) {
        self.controlled(&[&number.to_string(), action]);
    }

    fn controlled(&self, arguments: &[&str]) {
        let done = Command::new(self.variable("KAFKA_CONTROL"))
            .args(arguments)
            .status()
            .expect("the control script runs");
        assert!(done.success(), "{arguments:?}");
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.script.wait();
    }
}

/// Endpoint and bucket of the object store of the environment; `None` after the test has run, and passed, in an environment
/// with one.
#[expect(
    clippy::print_stderr,
    reason = "what the test says there, it says here"
)]
pub(crate) fn s3(test: &str) -> Option<(String, String)> {
    if let Ok(endpoint) = std::env::var("S3_ENDPOINT") {
        return Some((endpoint, std::env::var("S3_BUCKET").unwrap()));
    }
    let script = repository().join("docker/with-s3");
    let output = Command::new(&script)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", script.display()));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "under {}:\n{out}\n{err}",
        script.display()
    );
    assert!(
        out.contains("1 passed"),
        "{test} is not the name of a test:\n{out}"
    );
    eprint!("{err}");
    None
}
