//! Safety of the login: which callers come in, and the use of tokens that others have found.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::TestServer;
use super::rights::{hash_of, users};
use crate::support::{Workspace, python};

#[test]
fn no_call_succeeds_without_a_login() {
    let work = Workspace::new();
    let token = work.anabranch(&["token"]).ok().out;
    let mut lines = token.lines();
    let token = lines.next().unwrap().strip_prefix("token: ").unwrap();
    let hash = lines.next().unwrap().strip_prefix("hash:  ").unwrap();
    let password = hash_of(&work, "geheim");
    let users = format!(
        "[users.ann]\npassword = '{password}'\nrole = 'admin'\n[users.robot]\ntokens = ['{hash}']\nrole = 'read'\n"
    );
    let served = TestServer::start(&work, &["--users", work.file("users.toml", &users)]);
    let said = served.python(
        r#"
def ask(**given):
    with connect(**given) as db:
        return rows(db, "SELECT 1")
import base64
def header(value):
    return {"adbc.flight.sql.authorization_header": value}
basic = "Basic " + base64.b64encode(b"ann:geheim").decode()
token = sys.argv[2]
for given in [{}, {"user": "ann", "password": "geheim"}, {"user": "ann", "password": "Geheim"}, {"user": "ann", "password": ""},
    {"user": "bob", "password": "geheim"}, {"user": "robot", "password": ""}, {"token": token}, {"token": token[:-1]}, {"token": ""},
    header(basic), header("Basic !"), header("Digest x"), header("Bearer"), header(basic[:-4])]:
    print({key: value.replace(token, "TOKEN").replace(token[:-1], "TOKE") for key, value in given.items()}, "|", refused(lambda: ask(**given)))
"#,
        &[token],
    );
    insta::assert_snapshot!(said);
    let log = served.log.lock().unwrap().clone();
    assert!(!log.contains("geheim") && !log.contains(token), "{log}");
}

/// Calls that the server does not know are refused as well.
#[test]
fn every_call_requires_a_login() {
    use arrow_flight::flight_service_client::FlightServiceClient;
    use arrow_flight::{
        Action, Criteria, Empty, FlightData, FlightDescriptor, HandshakeRequest, Ticket,
    };
    use tonic::Code;

    let work = Workspace::new();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    let url = format!("http://{}", served.address);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = tonic::transport::Endpoint::new(url)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client = FlightServiceClient::new(channel.clone());
        let none = || futures::stream::iter(Vec::<FlightData>::new());
        let shaken = futures::stream::iter(Vec::<HandshakeRequest>::new());
        let codes = [
            client.handshake(shaken).await.err(),
            client.list_flights(Criteria::default()).await.err(),
            client
                .get_flight_info(FlightDescriptor::default())
                .await
                .err(),
            client
                .poll_flight_info(FlightDescriptor::default())
                .await
                .err(),
            client.get_schema(FlightDescriptor::default()).await.err(),
            client.do_get(Ticket::default()).await.err(),
            client.do_put(none()).await.err(),
            client.do_exchange(none()).await.err(),
            client.do_action(Action::default()).await.err(),
            client.list_actions(Empty {}).await.err(),
        ];
        for (call, status) in codes.into_iter().enumerate() {
            assert_eq!(status.unwrap().code(), Code::Unauthenticated, "call {call}");
        }
        let mut any = tonic::client::Grpc::new(channel);
        for path in [
            "/arrow.flight.protocol.FlightService/New",
            "/some.Service/Call",
        ] {
            any.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<Empty, Empty>::default();
            let path = http::uri::PathAndQuery::from_static(path);
            let asked = any.unary(tonic::Request::new(Empty {}), path, codec).await;
            assert_eq!(asked.unwrap_err().code(), Code::Unauthenticated);
        }
        let mut health = tonic_health::pb::health_client::HealthClient::new(
            tonic::transport::Endpoint::new(format!("http://{}", served.address))
                .unwrap()
                .connect()
                .await
                .unwrap(),
        );
        let is_well = health
            .check(tonic_health::pb::HealthCheckRequest::default())
            .await;
        assert_eq!(is_well.unwrap().into_inner().status, 1);
    });
}

#[test]
fn handles_of_one_user_are_useless_to_another() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    let said = python(
        r#"
import sys, pyarrow.flight as flight
def text(field, value):
    value = value.encode() if isinstance(value, str) else value
    return bytes([field << 3 | 2]) + varint(len(value)) + value
def varint(n):
    out = b""
    while True:
        out += bytes([n & 127 | (128 if n > 127 else 0)])
        n >>= 7
        if not n:
            return out
def wrapped(name, message):
    return text(1, "type.googleapis.com/arrow.flight.protocol.sql." + name) + text(2, message)
def query(sql):
    return flight.FlightDescriptor.for_command(wrapped("CommandStatementQuery", text(1, sql)))
def login(name):
    client = flight.connect("grpc://" + sys.argv[1])
    pair = client.authenticate_basic_token(name, name + "-pw")
    return client, flight.FlightCallOptions(headers=[pair]), pair
def attempt(what, do):
    try:
        print(what, "|", do())
    except Exception as error:
        print(what, "|", type(error).__name__, str(error).split(";")[0].split(". ")[0])
admin, as_admin, token = login("admin")
reader, as_reader, _ = login("reader")
ticket = admin.get_flight_info(query("SELECT 42 AS secret"), as_admin).endpoints[0].ticket
attempt("its own", lambda: admin.do_get(ticket, as_admin).read_all().to_pylist())
attempt("another's", lambda: reader.do_get(ticket, as_reader).read_all().to_pylist())
body = wrapped("ActionCreatePreparedStatementRequest", text(1, "SELECT 43 AS secret"))
made = next(iter(admin.do_action(flight.Action("CreatePreparedStatement", body), as_admin))).body.to_pybytes()
handle = made[made.index(b"\x0a\x20") + 2:][:32]
prepared = flight.FlightDescriptor.for_command(wrapped("CommandPreparedStatementQuery", text(1, handle)))
attempt("its own", lambda: admin.do_get(admin.get_flight_info(prepared, as_admin).endpoints[0].ticket, as_admin).read_all().to_pylist())
attempt("another's", lambda: reader.get_flight_info(prepared, as_reader))
close = flight.Action("ClosePreparedStatement", wrapped("ActionClosePreparedStatementRequest", text(1, handle)))
attempt("closed by another", lambda: list(reader.do_action(close, as_reader)))
attempt("still there", lambda: admin.get_flight_info(prepared, as_admin).schema.names)
info = admin.get_flight_info(query("SELECT 44 AS secret"), as_admin)
cancel = flight.Action("CancelFlightInfo", text(1, info.serialize()))
attempt("cancelled by another", lambda: next(iter(reader.do_action(cancel, as_reader))).body.to_pybytes())
attempt("still there", lambda: admin.do_get(info.endpoints[0].ticket, as_admin).read_all().to_pylist())
name, value = token
head, claims, signature = value.decode().split(" ")[1].split(".")
import base64, json
forged = json.loads(base64.urlsafe_b64decode(claims + "=="))
def with_claims(head, claims, signature):
    claims = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return flight.FlightCallOptions(headers=[(name, f"Bearer {head}.{claims}.{signature}".encode())])
none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
for what, options in [
    ("another user", with_claims(head, {**forged, "sub": "reader"}, signature)),
    ("longer", with_claims(head, {**forged, "exp": forged["exp"] + 1}, signature)),
    ("unsigned", with_claims(none, forged, "")),
    ("signed by nothing", with_claims(head, forged, "")),
    ("altered", flight.FlightCallOptions(headers=[(name, value[:-2] + (b"AA" if value[-2:] != b"AA" else b"BB"))])),
]:
    attempt(what, lambda: admin.get_flight_info(query("SELECT 1"), options).schema.names)
"#,
        &[&served.address],
    );
    insta::assert_snapshot!(said);
}

/// `ca.pem`, and certificates and keys of `server` and `client` that it has signed.
fn certificates(work: &Workspace) {
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut of_authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = of_authority.self_signed(&authority).unwrap();
    work.file("ca.pem", &root.pem());
    let issuer = rcgen::Issuer::new(of_authority, authority);
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = rcgen::CertificateParams::new(names).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(work.path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(work.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn the_network_is_closed_without_tls_and_logins() {
    let work = Workspace::new();
    certificates(&work);
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key"];
    let script = r#"
import os
folder = sys.argv[2]
read = lambda name: open(os.path.join(folder, name)).read()
root = {"adbc.flight.sql.client_option.tls_root_certs": read("ca.pem")}
own = {"adbc.flight.sql.client_option.mtls_cert_chain": read("client.pem"), "adbc.flight.sql.client_option.mtls_private_key": read("client.key")}
def ask(url, **given):
    with connect(url=url + sys.argv[1], **given) as db:
        return rows(db, "SELECT 1")
for what, url, given in [("plain", "grpc://", {}), ("of nobody", "grpc+tls://", {}), ("known", "grpc+tls://", root), ("both", "grpc+tls://", root | own)]:
    print(what, "|", refused(lambda: ask(url, **given))[:30])
"#;
    let folder = work.dir.path().display().to_string();
    let served = TestServer::start(&work, &tls);
    insta::assert_snapshot!("tls", served.python(script, &[&folder]));
    drop(served);
    let mutual = [&tls[..], &["--tls-client-ca", "ca.pem"]].concat();
    let served = TestServer::start(&work, &mutual);
    insta::assert_snapshot!("mutual_tls", served.python(script, &[&folder]));
    drop(served);
    let refused = |arguments: &[&str]| {
        let all = [&["serve", "--listen", "127.0.0.1:0"][..], arguments].concat();
        let ran = work.anabranch(&all);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        ran.err
    };
    let said = [
        refused(&["--tls-cert", "nowhere.pem", "--tls-key", "server.key"]),
        refused(&["--tls-cert", "server.pem"]),
        refused(&["--tls-cert", "server.key", "--tls-key", "server.pem"]),
        refused(&["--users", "nowhere.toml"]),
        refused(&[
            "--users",
            work.file("broken.toml", "[users.ann]\nrole = 'boss'\n"),
        ]),
        refused(&["--jwt-jwks", work.file("keys.json", "{}")]),
        refused(&["--statement-timeout", "soon"]),
        refused(&["--max-statements", "0"]),
    ];
    insta::assert_snapshot!(said.join("--\n"));
}

#[test]
fn our_own_client_logs_in() {
    let work = Workspace::new();
    certificates(&work);
    let token = work.anabranch(&["token"]).ok().out;
    let part = |name: &str| {
        let line = token.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let robot = format!(
        "\n[users.robot]\ntokens = ['{}']\nrole = 'read'\n",
        part("hash:")
    );
    let file = users(&work);
    work.append(file, &robot);
    let arguments = [
        "--users",
        file,
        "--tls-cert",
        "server.pem",
        "--tls-key",
        "server.key",
        "--tls-client-ca",
        "ca.pem",
    ];
    let served = TestServer::start(&work, &arguments);
    let ask = |variables: &[(&str, &str)], sql: &str| {
        let mut command = work.command();
        command
            .args(["sql", "-c", sql])
            .envs(variables.iter().copied());
        command.env("ANABRANCH_URL", format!("grpc+tls://{}", served.address));
        crate::support::ProgramOutput::of(&mut command)
    };
    let tls = [
        ("ANABRANCH_TLS_CA", "ca.pem"),
        ("ANABRANCH_TLS_CERT", "client.pem"),
        ("ANABRANCH_TLS_KEY", "client.key"),
    ];
    let as_user = |name: &'static str, password: &'static str| {
        [
            &tls[..],
            &[("ANABRANCH_USER", name), ("ANABRANCH_PASSWORD", password)],
        ]
        .concat()
    };
    assert_eq!(
        ask(&as_user("reader", "reader-pw"), "SELECT 1 AS one")
            .ok()
            .out,
        "one\n1\n"
    );
    let by_token = part("token:");
    let by_token = [&tls[..], &[("ANABRANCH_TOKEN", by_token.as_str())]].concat();
    assert_eq!(ask(&by_token, "SELECT 2 AS two").ok().out, "two\n2\n");
    let zone = ask(
        &as_user("writer", "writer-pw"),
        "SET TIME ZONE 'Asia/Tokyo'; SHOW datafusion.execution.time_zone",
    );
    assert!(zone.ok().out.contains("Asia/Tokyo"));
    for (variables, code, said) in [
        (as_user("reader", "wrong"), 2, "the password is wrong"),
        (tls.to_vec(), 2, "a login is required"),
        (as_user("reader", "reader-pw")[2..].to_vec(), 2, ""),
    ] {
        let ran = ask(&variables, "SELECT 1");
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.err.contains(said), "{ran:?}");
    }
    let refused = ask(&as_user("reader", "reader-pw"), "CREATE VIEW v AS SELECT 1");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused
            .err
            .contains("reader has the role read, and this statement needs write")
    );
}

/// The cookie of a login is for the page alone: no script reads it, no other site sends it, and where the page comes over TLS it
/// goes over TLS only. Where it does not, a browser would not send such a cookie at all.
#[test]
fn the_console_cookie_is_valid_for_its_page_only() {
    let work = Workspace::new();
    certificates(&work);
    let common = ["--users", users(&work), "--http", "127.0.0.1:0"];
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key"];
    let script = r#"
import json, ssl, urllib.request
unchecked = ssl.create_default_context()
unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
def ask(path, body=None, cookie=""):
    headers = {"Content-Type": "application/json", "Cookie": cookie}
    request = urllib.request.Request(sys.argv[2] + path, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, context=unchecked) as answer:
        return json.load(answer), answer.headers.get_all("Set-Cookie") or []
def flags(cookies):
    [cookie] = cookies
    value, *rest = cookie.split("; ")
    name, value = value.split("=", 1)
    return name, value != "", sorted(rest)
_, cookies = ask("/api/login", {"user": "reader", "password": "reader-pw"})
print(*flags(cookies))
about, others = ask("/api/about", cookie=cookies[0].split("; ")[0])
print(about["user"], others)
print(*flags(ask("/api/logout", {}, cookies[0].split("; ")[0])[1]))
"#;
    for (arguments, scheme, secure) in [
        (&[][..], "http", ""),
        (&["--http-behind-tls"][..], "http", ", 'Secure'"),
        (&tls[..], "https", ", 'Secure'"),
    ] {
        let served = TestServer::start(&work, &[&common[..], arguments].concat());
        let page = format!("{scheme}://{}", served.console.as_deref().unwrap());
        let said = served.python(script, &[&page]);
        let expected = format!(
            "anabranch_token True ['HttpOnly', 'Path=/api', 'SameSite=Strict'{secure}]\n\
             reader []\n\
             anabranch_token False ['HttpOnly', 'Max-Age=0', 'Path=/api', 'SameSite=Strict'{secure}]\n"
        );
        assert_eq!(said, expected, "{arguments:?}");
    }
}

/// The public half of a key of an issuer, as a set of keys has it, and a token that the key has signed.
fn key_and_token(id: &str) -> (Value, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let point = key.public_key_raw();
    let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let public = json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id,
        "x": part(&point[1..33]), "y": part(&point[33..65]),
    });
    let header = jsonwebtoken::Header {
        kid: Some(id.to_owned()),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
    };
    let soon = jsonwebtoken::get_current_timestamp() + 3_600;
    let claims = json!({"sub": id, "role": "read", "exp": soon});
    let key = jsonwebtoken::EncodingKey::from_ec_der(&key.serialize_der());
    (
        public,
        jsonwebtoken::encode(&header, &claims, &key).unwrap(),
    )
}

/// An issuer takes a new key, and gives an old one up: the server need not be told.
#[test]
fn new_keys_of_an_issuer_are_taken_from_its_file() {
    let work = Workspace::new();
    let [(old, by_old), (new, by_new)] = ["old", "new"].map(key_and_token);
    let keys = work.path("keys.json").display().to_string();
    std::fs::write(&keys, json!({"keys": [old]}).to_string()).unwrap();
    let served = TestServer::start(&work, &["--jwt-jwks", &keys]);
    let script = r#"
import os
keys, old, new, both, last = sys.argv[2:]
def write(text):
    open(keys + ".new", "w").write(text)
    os.replace(keys + ".new", keys)
def ask(token):
    def answer():
        with connect(token=token) as db:
            return rows(db, "SELECT 1")
    return refused(answer)
def has(part):
    return lambda answer: part in answer
UNKNOWN, DONE = "an unknown key", "done: [(1,)]"
print(ask(old), UNKNOWN in ask(new))
write(both)
until(lambda: ask(new), has(DONE))
print(ask(old))
write(last)
until(lambda: ask(old), has(UNKNOWN))
print(ask(new))
"#;
    let both = json!({"keys": [old, new]}).to_string();
    let last = json!({"keys": [new]}).to_string();
    let arguments = [keys.as_str(), &by_old, &by_new, &both, &last];
    assert_eq!(
        served.python(script, &arguments),
        "done: [(1,)] True\ndone: [(1,)]\ndone: [(1,)]\n"
    );
}
