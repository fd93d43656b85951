//! Schema registry for tests: Confluent's REST paths on a loopback socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};

/// The schemas of the stub, and the requests it received.
#[derive(Default)]
struct State {
    /// The answer for each id: a status and a body.
    schemas: HashMap<u32, (u16, String)>,
    subjects: HashMap<String, Vec<(String, u32)>>,
    requests: Vec<String>,
    delay: Duration,
    authorization: Option<String>,
}

/// A running registry; it stops when it is dropped.
pub(crate) struct RegistryStub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RegistryStub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (Arc::clone(&state), Arc::clone(&is_stopped));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                // A client that gives up closes its end: the stub ignores that.
                let _ = serve(&stream.unwrap(), &shared);
            }
        });
        Self {
            address,
            state,
            is_stopped,
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn with_schema(self, id: u32, schema: &str) -> Self {
        self.with_answer(id, 200, &json!({ "schema": schema }).to_string())
    }

    pub(crate) fn with_answer(self, id: u32, status: u16, body: &str) -> Self {
        self.state
            .lock()
            .unwrap()
            .schemas
            .insert(id, (status, body.to_owned()));
        self
    }

    pub(crate) fn with_delay(self, delay: Duration) -> Self {
        self.state.lock().unwrap().delay = delay;
        self
    }

    pub(crate) fn with_login(self, user: &str, password: &str) -> Self {
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.state.lock().unwrap().authorization = Some(format!("Basic {login}"));
        self
    }

    /// The first line of each request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The schemas registered under a subject, with their numbers.
    pub(crate) fn versions(&self, subject: &str) -> Vec<(String, u32)> {
        self.state
            .lock()
            .unwrap()
            .subjects
            .get(subject)
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for RegistryStub {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // A last connection wakes the listener.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, answer) = answer(request.trim_end(), authorization.as_deref(), &body, state);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    )
}

fn answer(
    request: &str,
    authorization: Option<&str>,
    body: &[u8],
    state: &Mutex<State>,
) -> (u16, String) {
    let delay = state.lock().unwrap().delay;
    std::thread::sleep(delay);
    let mut state = state.lock().unwrap();
    state
        .requests
        .push(request.trim_end_matches(" HTTP/1.1").to_owned());
    if state.authorization.is_some() && state.authorization.as_deref() != authorization {
        return (
            401,
            json!({ "error_code": 40101, "message": "Unauthorized" }).to_string(),
        );
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        ("GET", ["schemas", "ids", id]) => match state.schemas.get(&id.parse().unwrap()) {
            Some(answer) => answer.clone(),
            None => (
                404,
                json!({ "error_code": 40403, "message": "Schema not found" }).to_string(),
            ),
        },
        ("POST", ["subjects", subject, "versions"]) => {
            let body: Value = serde_json::from_slice(body).unwrap();
            let schema = body["schema"].as_str().unwrap().to_owned();
            if *subject == "incompatible" {
                let message = "Schema being registered is incompatible with an earlier schema";
                return (
                    409,
                    json!({ "error_code": 409, "message": message }).to_string(),
                );
            }
            let next = 100 + state.schemas.len() as u32;
            let id = state
                .subjects
                .get(*subject)
                .and_then(|versions| versions.iter().find(|(known, _)| *known == schema))
                .map_or(next, |(_, id)| *id);
            if id == next {
                let answer = json!({ "schema": schema }).to_string();
                state.schemas.insert(id, (200, answer));
                state
                    .subjects
                    .entry((*subject).to_owned())
                    .or_default()
                    .push((schema, id));
            }
            (200, json!({ "id": id }).to_string())
        }
        _ => (404, "{}".to_owned()),
    }
}
