//! A proxy before a store that speaks HTTP: it hides successes, refuses, delays and cuts connections, as a test says.
//!
//! Each request has a connection of its own to the store. A [rule](Proxy::rule) decides the fate of each request. It is
//! asked once for each of them, in the order in which they come.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The fate of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestFate {
    /// It goes to the store, and the answer comes back.
    Pass,
    /// It goes to the store; the proxy drops the answer, and the client gets this status.
    Hide(u16),
    /// It does not reach the store: the client gets this status.
    Refuse(u16),
    /// It waits so long, and passes then.
    Delay(Duration),
    /// It goes to the store; the proxy drops the answer, and the connection ends without one.
    Cut,
    /// The client gets this status at once; the store gets the request after so long.
    Late(u16, Duration),
}

/// The first line of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// `GET`, `PUT`, …
    pub(crate) method: String,
    /// Path and query as the client wrote them.
    pub(crate) target: String,
}

impl Request {
    /// Whether it writes an entry of the log of a Delta table.
    pub(crate) fn commits(&self) -> bool {
        self.method == "PUT"
            && self.target.contains("/_delta_log/")
            && self.target.contains(".json")
    }
}

type Rule = Box<dyn FnMut(&Request) -> RequestFate + Send>;

fn pass_all() -> Rule {
    Box::new(|_: &Request| RequestFate::Pass)
}

/// A proxy on a free port of this machine, until it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    rule: Arc<Mutex<Rule>>,
    disturbed: Arc<Mutex<Vec<(Request, RequestFate)>>>,
}

impl Proxy {
    /// Stands before the store at `endpoint`, such as `http://127.0.0.1:9000`. All passes until a rule is given.
    pub(crate) fn before(endpoint: &str) -> Self {
        let store = endpoint
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let rule = Arc::new(Mutex::new(pass_all()));
        let disturbed = Arc::new(Mutex::new(Vec::new()));
        let (of_rule, of_disturbed) = (Arc::downgrade(&rule), Arc::downgrade(&disturbed));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // The proxy is gone: so is its port.
                let (Some(rule), Some(disturbed)) = (of_rule.upgrade(), of_disturbed.upgrade())
                else {
                    return;
                };
                let store = store.clone();
                if let Ok(client) = client {
                    std::thread::spawn(move || serve(client, &store, &rule, &disturbed));
                }
            }
        });
        Self {
            address,
            rule,
            disturbed,
        }
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on `rule` decides the fate of each request.
    pub(crate) fn rule(&self, rule: impl FnMut(&Request) -> RequestFate + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// From now on all passes.
    pub(crate) fn pass(&self) {
        *self.rule.lock().unwrap() = pass_all();
    }

    /// The requests so far that did not just pass, with their fates.
    pub(crate) fn disturbed(&self) -> Vec<(Request, RequestFate)> {
        self.disturbed.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Lets the thread that waits for clients see that it is over.
        self.rule = Arc::new(Mutex::new(pass_all()));
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut client: TcpStream,
    store: &str,
    rule: &Mutex<Rule>,
    disturbed: &Mutex<Vec<(Request, RequestFate)>>,
) -> Option<()> {
    let (head, body) = read_request(&mut client)?;
    let mut words = head.lines().next()?.split(' ');
    let request = Request {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
    };
    let fate = (rule.lock().unwrap())(&request);
    if fate != RequestFate::Pass {
        disturbed.lock().unwrap().push((request, fate));
    }
    let forward = || ask(store, &head, &body);
    match fate {
        RequestFate::Pass => client.write_all(&forward()?).ok()?,
        RequestFate::Delay(time) => {
            std::thread::sleep(time);
            client.write_all(&forward()?).ok()?;
        }
        RequestFate::Hide(status) => {
            forward()?;
            client.write_all(&refusal(status)).ok()?;
        }
        RequestFate::Refuse(status) => client.write_all(&refusal(status)).ok()?,
        RequestFate::Cut => drop(forward()?),
        RequestFate::Late(status, time) => {
            client.write_all(&refusal(status)).ok()?;
            client.shutdown(Shutdown::Both).ok()?;
            std::thread::sleep(time);
            forward()?;
        }
    }
    client.shutdown(Shutdown::Both).ok()
}

/// Head, without the empty line, and body.
fn read_request(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut part = [0; 16 << 10];
    let end = loop {
        let read = client.read(&mut part).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut body = bytes.split_off(end + 4);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    while body.len() < length.unwrap_or(0) {
        let read = client.read(&mut part).ok().filter(|read| *read > 0)?;
        body.extend_from_slice(&part[..read]);
    }
    Some((head, body))
}

/// The whole answer of the store, which ends with the connection.
fn ask(store: &str, head: &str, body: &[u8]) -> Option<Vec<u8>> {
    let is_connection = |line: &&str| !line.to_ascii_lowercase().starts_with("connection:");
    let mut lines: Vec<&str> = head.lines().filter(is_connection).collect();
    lines.push("connection: close");
    let mut upstream = TcpStream::connect(store).ok()?;
    upstream
        .write_all((lines.join("\r\n") + "\r\n\r\n").as_bytes())
        .ok()?;
    upstream.write_all(body).ok()?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines: Vec<&str> = head.lines().filter(is_connection).collect();
    lines.push("connection: close");
    let mut closing = (lines.join("\r\n") + "\r\n\r\n").into_bytes();
    closing.extend_from_slice(&answer[end + 4..]);
    Some(closing)
}

fn refusal(status: u16) -> Vec<u8> {
    let code = match status {
        403 => "AccessDenied",
        412 => "PreconditionFailed",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said by the proxy</Message></Error>"
    );
    format!(
        "HTTP/1.1 {status} {code}\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
