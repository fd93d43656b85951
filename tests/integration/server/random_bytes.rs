//! Noise: bytes that no client sends, to the port of statements and to that of the console. Each connection is answered
//! or closed, and the server goes on.
//!
//! `ANABRANCH_FUZZ=N` sends N times to each port in place of a few hundred, `ANABRANCH_SEED` other bytes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, CommandGetTables, CommandStatementQuery,
    CommandStatementUpdate, ProstMessageExt,
};
use arrow_flight::{Action, FlightData, FlightDescriptor, HandshakeRequest, Ticket};
use prost::Message as _;

use super::TestServer;
use crate::support::{PATIENCE, Random, Workspace};

/// Random bytes; the same for the same seed.
struct Noise {
    random: Random,
}

impl Noise {
    fn byte(&mut self) -> u8 {
        (self.random.next() >> 56) as u8
    }

    /// At most so many bytes.
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.random.below(most + 1);
        (0..length).map(|_| self.byte()).collect()
    }

    /// The same with a few changes: bytes that are others, more or missing, or an end too early.
    fn changed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        for _ in 0..=self.random.below(4) {
            if changed.is_empty() {
                break;
            }
            let at = self.random.below(changed.len());
            match self.random.below(8) {
                0 => changed.truncate(at),
                1 => {
                    changed.remove(at);
                }
                2 => {
                    let more = self.bytes(16);
                    drop(changed.splice(at..at, more));
                }
                3 => changed[at] = 0xff,
                4 => changed[at] ^= 1 << self.random.below(8),
                _ => changed[at] = self.byte(),
            }
        }
        changed
    }
}

/// Sends these bytes, says that there are no more, and waits until the server closes the connection.
fn send(address: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The server may close early without reading all bytes, and its answer is not checked.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    Ok(())
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags][..], &stream[..], payload].concat()
}

/// A call with one message, as the bytes of a connection.
fn call(name: &str, message: &[u8]) -> Vec<u8> {
    let path = format!("/arrow.flight.protocol.FlightService/{name}");
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path.as_str()),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let mut block = Vec::new();
    for (name, value) in headers {
        // A literal with a new name, which no table keeps.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let data = [&[0_u8][..], &length[..], message].concat();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &block),
        frame(0, 1, 1, &data),
    ]
    .concat()
}

/// Calls with their messages.
fn calls() -> Vec<(&'static str, Vec<u8>)> {
    let query = "SELECT 1 AS one".to_owned();
    let select = CommandStatementQuery {
        query: query.clone(),
        ..CommandStatementQuery::default()
    };
    let update = CommandStatementUpdate {
        query: query.clone(),
        ..CommandStatementUpdate::default()
    };
    let prepare = ActionCreatePreparedStatementRequest {
        query,
        transaction_id: None,
    };
    let select = select.as_any().encode_to_vec();
    let tables = CommandGetTables::default().as_any().encode_to_vec();
    let prepare = prepare.as_any().encode_to_vec();
    let put = FlightData {
        flight_descriptor: Some(FlightDescriptor::new_cmd(update.as_any().encode_to_vec())),
        ..FlightData::default()
    };
    let of_select = FlightDescriptor::new_cmd(select.clone()).encode_to_vec();
    let of_tables = FlightDescriptor::new_cmd(tables.clone()).encode_to_vec();
    vec![
        ("GetFlightInfo", of_select.clone()),
        ("GetFlightInfo", of_tables.clone()),
        ("PollFlightInfo", of_select.clone()),
        ("GetSchema", of_select),
        ("DoGet", Ticket::new(select).encode_to_vec()),
        ("DoGet", Ticket::new(tables).encode_to_vec()),
        ("DoPut", put.encode_to_vec()),
        (
            "DoAction",
            Action::new("CreatePreparedStatement", prepare).encode_to_vec(),
        ),
        ("Handshake", HandshakeRequest::default().encode_to_vec()),
    ]
}

/// Requests of the page.
fn requests() -> Vec<Vec<u8>> {
    let posted = |path: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let chunked = "POST /api/query HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n1f\r\n{\"sql\":\"SELECT 1\",\"id\":\"chunks\"}\r\n0\r\n\r\n";
    [
        posted("/api/query", r#"{"sql":"SELECT 1 AS one","id":"a"}"#),
        posted("/api/query/cancel", r#"{"id":"a"}"#),
        posted("/api/login", r#"{"user":"a","password":"b"}"#),
        posted("/api/jobs/%C3%A9/rewind", r#"{"batch":1}"#),
        "GET / HTTP/1.1\r\nHost: localhost\r\nCookie: anabranch_token=a.b.c\r\n\r\n".to_owned(),
        "GET /api/tables/a%2Fb/columns HTTP/1.1\r\nHost: [::1]:1\r\nAuthorization: Bearer a\r\n\r\n"
            .to_owned(),
        chunked.to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

#[test]
fn random_bytes_do_not_crash_the_server() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
    };
    let (rounds, seed) = (number("ANABRANCH_FUZZ", 300), number("ANABRANCH_SEED", 1));
    let work = Workspace::new();
    let mut served = TestServer::start(&work, &["--http", "127.0.0.1:0"]);
    let console = served.console.clone().unwrap();
    let mut noise = Noise {
        random: Random::new(seed),
    };
    let (calls, requests) = (calls(), requests());
    for round in 0..rounds {
        let (name, message) = &calls[noise.random.below(calls.len())];
        let to_flight = match noise.random.below(5) {
            0 => noise.bytes(4_000),
            1 => [call(name, message), noise.bytes(4_000)].concat(),
            2 => call(name, &noise.bytes(200)),
            3 => call(name, &noise.changed(message)),
            _ => noise.changed(&call(name, message)),
        };
        let request = &requests[noise.random.below(requests.len())];
        let to_console = match noise.random.below(4) {
            0 => noise.bytes(4_000),
            1 => [request.clone(), noise.bytes(4_000)].concat(),
            _ => noise.changed(request),
        };
        for (address, bytes) in [(&served.address, to_flight), (&console, to_console)] {
            let sent = send(address, &bytes);
            sent.unwrap_or_else(|error| panic!("round {round} of seed {seed}: {error}: {bytes:?}"));
        }
    }
    assert!(served.process.try_wait().unwrap().is_none(), "seed {seed}");
    let script = r#"
import json, urllib.request
print(rows(connect(), "SELECT 1 AS one"))
body = json.dumps({"sql": "SELECT 1 AS one", "id": "one"}).encode()
request = urllib.request.Request(f"http://{sys.argv[2]}/api/query", body, {"Content-Type": "application/json"})
with urllib.request.urlopen(request) as answer:
    print(json.load(answer)["rows"])
"#;
    assert_eq!(served.python(script, &[&console]), "[(1,)]\n[[1]]\n");
    assert_eq!(served.stop(), Some(0));
}
