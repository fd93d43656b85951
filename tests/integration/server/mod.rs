//! The service as its clients meet it: the real program, real drivers.

mod adbc;
mod arguments;
mod client;
mod console;
mod exhaustion;
mod frames;
mod go;
mod grants;
mod hidden_rows;
mod ingest;
mod jdbc;
mod lifetime;
mod limits;
mod metrics;
mod nesting;
mod random_bytes;
mod rights;
mod rpcs;
mod safety;
mod sessions;
mod subscribe;
mod unopened;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, ProgramOutput, Workspace, python, signal};

/// The start of a script that needs neither pandas nor polars: the driver imports both if they are installed, which
/// takes longer than all the rest of a script.
const WITHOUT_FRAMES: &str = r#"
import sys
class WithoutFrames:
    def find_spec(self, name, path=None, target=None):
        if name in ("pandas", "polars"): raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, WithoutFrames())
"#;

/// The start of scripts about a server: `connect`, `rows`, `refused` and `until`. Its address is the first argument.
const PRELUDE: &str = r#"
import sys, time, threading, adbc_driver_flightsql.dbapi as flight, pyarrow
def connect(user=None, password=None, token=None, cookies=False, url=None, **more):
    given = dict(more)
    if user: given |= {"username": user, "password": password}
    if token: given["adbc.flight.sql.authorization_header"] = "Bearer " + token
    if cookies: given["adbc.flight.sql.rpc.with_cookie_middleware"] = "true"
    return flight.connect(url or "grpc://" + sys.argv[1], db_kwargs=given, autocommit=True)
def rows(db, sql, parameters=None):
    with db.cursor() as cur:
        cur.execute(sql, parameters)
        return cur.fetchall()
def said(error):
    return type(error).__name__ + " " + str(error).split("\n")[0].split("; Vendor code")[0].split(". Vendor code")[0]
def refused(do, *given, **named):
    try:
        done = do(*given, **named)
    except Exception as error:
        return said(error)
    return f"done: {done}"
def until(do, wanted, seconds=600):
    end = time.time() + seconds
    while True:
        found = do()
        if wanted(found): return found
        assert time.time() < end, found
        time.sleep(0.05)
"#;

/// A server in a workspace; killed when this is dropped.
pub(crate) struct TestServer {
    process: Child,
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// The same of the console, if there is one.
    console: Option<String>,
    /// The same of its metrics.
    metrics: Option<String>,
    /// Its log so far.
    log: Arc<Mutex<String>>,
}

impl TestServer {
    /// Starts one on a free port with these arguments.
    pub(crate) fn start(work: &Workspace, arguments: &[&str]) -> Self {
        let process = work
            .command()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self::listening(process)
    }

    /// Waits until a server that was started says where it listens.
    fn listening(mut process: Child) -> Self {
        let mut lines = BufReader::new(process.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let mut served = Self {
            process,
            address: String::new(),
            console: None,
            metrics: None,
            log: Arc::clone(&log),
        };
        let mut before = String::new();
        while served.address.is_empty() {
            let mut line = String::new();
            let read = lines.read_line(&mut line).unwrap();
            assert!(read > 0, "the server did not listen: {before}");
            before += &line;
            let said = |before| Some(line.strip_prefix(before)?.trim().split_once("://")?.1);
            if let Some(address) = said("listening at ") {
                address.clone_into(&mut served.address);
            }
            if let Some(address) = said("console at ") {
                served.console = Some(address.to_owned());
            }
            if let Some(page) = said("metrics at ") {
                served.metrics = Some(page.replace("/metrics", ""));
            }
        }
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        served
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("grpc://{}", self.address)
    }

    /// Runs a script that begins with [`PRELUDE`]; gives its output.
    #[track_caller]
    fn python(&self, script: &str, arguments: &[&str]) -> String {
        self.script(&[WITHOUT_FRAMES, PRELUDE, script].concat(), arguments)
    }

    /// The same where pandas and polars can be imported, and the driver gives their types.
    #[track_caller]
    fn python_with_frames(&self, script: &str, arguments: &[&str]) -> String {
        self.script(&[PRELUDE, script].concat(), arguments)
    }

    #[track_caller]
    fn script(&self, script: &str, arguments: &[&str]) -> String {
        let mut all = vec![self.address.as_str()];
        all.extend(arguments);
        python(script, &all)
    }

    /// Tells it to stop; gives how it ended.
    fn stop(mut self) -> Option<i32> {
        signal(&self.process, "-TERM");
        self.process.wait().unwrap().code()
    }

    /// No chance to say anything.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the program with a server; `arguments` begin with the command.
fn there(work: &Workspace, served: &TestServer, arguments: &[&str]) -> ProgramOutput {
    let mut command = work.command();
    ProgramOutput::of(command.args(arguments).env("ANABRANCH_URL", served.url()))
}

/// Waits until a query gives these lines of CSV.
fn wait_for(work: &Workspace, served: &TestServer, sql: &str, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = there(work, served, &["sql", "-c", sql]).ok().out;
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{sql}: {found}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
