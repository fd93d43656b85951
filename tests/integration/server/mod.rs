//! The service as its clients meet it: the real program, real drivers.

mod adbc;
mod console;
mod jdbc;
mod lifetime;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use crate::support::Workspace;

/// A server in a workspace; killed when this is dropped.
struct Served {
    process: Child,
    /// `HOST:PORT`.
    address: String,
    /// The same of the console, if there is one.
    console: Option<String>,
}

impl Served {
    /// Starts one on a free port with these arguments.
    fn start(work: &Workspace, arguments: &[&str]) -> Self {
        let process = work
            .command()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut served = Self {
            process,
            address: String::new(),
            console: None,
        };
        let said = BufReader::new(served.process.stderr.take().unwrap());
        let mut before = Vec::new();
        for line in said.lines() {
            let line = line.unwrap();
            if let Some(address) = line.strip_prefix("listening at grpc://") {
                address.clone_into(&mut served.address);
                return served;
            }
            if let Some(address) = line.strip_prefix("console at http://") {
                served.console = Some(address.to_owned());
            }
            before.push(line);
        }
        panic!("the server did not listen: {}", before.join("\n"));
    }

    /// Tells it to stop; gives how it ended.
    fn stop(mut self) -> Option<i32> {
        let id = self.process.id().to_string();
        let told = std::process::Command::new("kill").arg(&id).status();
        assert!(told.unwrap().success());
        self.process.wait().unwrap().code()
    }

    /// No chance to say anything.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
