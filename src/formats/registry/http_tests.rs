//! The client against a stub of the REST paths.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::formats::registry::stub::RegistryStub;

fn client(url: &str, user: Option<&str>, password: Option<&str>) -> HttpSchemaRegistry {
    HttpSchemaRegistry::try_new(&HttpRegistryOptions {
        url: url.to_owned(),
        user: user.map(str::to_owned),
        password: password.map(str::to_owned),
        ca: None,
        timeout: Some(Duration::from_millis(300)),
    })
    .unwrap()
}

#[test]
fn registry_answers_are_cached() {
    let stub = RegistryStub::start().with_schema(7, "\"string\"");
    let client = client(&format!("{}/", stub.url()), None, None);
    for _ in 0..3 {
        assert_eq!(client.schema_by_id(7).unwrap(), "\"string\"");
        assert_eq!(client.register("visits value/1", "\"int\"").unwrap(), 101);
    }
    assert_eq!(
        stub.requests(),
        [
            "GET /schemas/ids/7",
            "POST /subjects/visits%20value%2F1/versions"
        ]
    );
}

#[test]
fn missing_schemas_are_not_cached() {
    let stub = RegistryStub::start();
    let client = client(&stub.url(), None, None);
    let error = client.schema_by_id(8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error
            .message()
            .starts_with("schema id 8 is not in the schema registry"),
        "{error}"
    );
    let stub = stub.with_schema(8, "\"int\"");
    assert_eq!(client.schema_by_id(8).unwrap(), "\"int\"");
    drop(stub);
}

#[test]
fn http_statuses_map_to_error_kinds() {
    let stub = RegistryStub::start()
        .with_answer(1, 500, r#"{"error_code":50001,"message":"out of order"}"#)
        .with_answer(2, 200, r#"{"schema":"x","schemaType":"PROTOBUF"}"#)
        .with_answer(3, 200, r#"{"schema":"x","references":[{"name":"y"}]}"#)
        .with_answer(4, 200, "no json")
        .with_answer(5, 403, "{}")
        .with_answer(6, 429, "{}");
    let client = client(&stub.url(), None, None);
    for (id, kind, said) in [
        (
            1,
            ErrorKind::Unavailable,
            "answered 500 for schema id 1: out of order",
        ),
        (2, ErrorKind::Data, "schema id 2 is a PROTOBUF schema"),
        (
            3,
            ErrorKind::Unsupported,
            "schema id 3 refers to other schemas",
        ),
        (
            4,
            ErrorKind::Unavailable,
            "gave an invalid answer for schema id 4",
        ),
        (5, ErrorKind::Permission, "refused access to schema id 5"),
        (6, ErrorKind::Unavailable, "answered 429"),
    ] {
        let error = client.schema_by_id(id).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(said), "{error}");
    }
    let error = client.register("incompatible", "\"int\"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error
            .message()
            .contains("incompatible with an earlier schema"),
        "{error}"
    );
}

#[test]
fn a_slow_or_unreachable_registry_is_unavailable() {
    let stub = RegistryStub::start()
        .with_schema(1, "x")
        .with_delay(Duration::from_secs(5));
    let slow = client(&stub.url(), None, None);
    let error = slow.schema_by_id(1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.message().ends_with("did not answer in time"),
        "{error}"
    );
    let url = stub.url();
    drop(stub);
    let error = client(&url, None, None).schema_by_id(1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("did not answer: "), "{error}");
}

#[test]
fn credentials_are_sent_and_never_shown() {
    let stub = RegistryStub::start()
        .with_schema(1, "x")
        .with_login("ann", "s3cret!");
    let in_url = stub.url().replace("http://", "http://ann:s3cret%21@");
    let given = client(&stub.url(), Some("ann"), Some("s3cret!"));
    assert_eq!(given.schema_by_id(1).unwrap(), "x");
    let wrong = client(&stub.url(), Some("ann"), Some("s3cret?"));
    let error = wrong.schema_by_id(1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.help().unwrap().contains("avro.registry.password"));
    let shown = format!("{given:?} {wrong:?} {error:?} {error}");
    assert!(
        !shown.contains("s3cret") && !shown.contains("ann"),
        "{shown}"
    );
    let options = HttpRegistryOptions {
        url: in_url,
        ..HttpRegistryOptions::default()
    };
    let from_url = HttpSchemaRegistry::try_new(&options).unwrap();
    let shown = format!("{options:?} {from_url:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_login_in_the_url_is_decoded() {
    let stub = RegistryStub::start()
        .with_schema(1, "x")
        .with_login("a@b", "p:w%");
    let url = stub.url().replace("http://", "http://a%40b:p%3Aw%25@");
    assert_eq!(client(&url, None, None).schema_by_id(1).unwrap(), "x");
}

#[test]
fn options_are_checked() {
    for url in ["", "registry:8081", "ftp://host/", "http://"] {
        let options = HttpRegistryOptions {
            url: url.to_owned(),
            ..HttpRegistryOptions::default()
        };
        let error = HttpSchemaRegistry::try_new(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    for ca in ["/does/not/exist.pem", file.path().to_str().unwrap()] {
        let options = HttpRegistryOptions {
            url: "https://host".to_owned(),
            ca: Some(ca.to_owned()),
            ..HttpRegistryOptions::default()
        };
        let error = HttpSchemaRegistry::try_new(&options).unwrap_err();
        assert!(error.message().contains("avro.registry.ca"), "{error}");
    }
}

#[tokio::test]
async fn the_registry_can_be_called_within_a_tokio_runtime() {
    let stub = RegistryStub::start().with_schema(1, "x");
    assert_eq!(
        client(&stub.url(), None, None).schema_by_id(1).unwrap(),
        "x"
    );
}

#[test]
fn all_requests_share_one_thread() {
    let on_thread = || wait(async { std::thread::current().id() }).unwrap();
    let first = on_thread();
    assert_ne!(first, std::thread::current().id());
    std::thread::scope(|threads| {
        let asked: Vec<_> = (0..8).map(|_| threads.spawn(on_thread)).collect();
        for asked in asked {
            assert_eq!(asked.join().unwrap(), first);
        }
    });
    // The worker of another runtime waits as well.
    let other = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert_eq!(other.block_on(async { on_thread() }), first);
}

#[test]
fn a_request_that_panics_fails_alone() {
    let error = wait(async {
        assert!(std::hint::black_box(false), "this request panics");
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    wait(async {}).unwrap();
}

/// The request is answered by a task of the same thread.
#[test]
fn safe_1_a_task_that_waits_for_a_request_holds_up_no_other() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let (answer, answered) = tokio::sync::oneshot::channel();
    let request = async move {
        // The other task has its turn before that.
        let answered = tokio::time::timeout(Duration::from_secs(60), answered);
        answered.await.unwrap()
    };
    let waits = runtime.spawn(async { wait(request) });
    let other = runtime.spawn(async move { answer.send(7) });
    assert_eq!(runtime.block_on(waits).unwrap().unwrap(), Ok(7));
    runtime.block_on(other).unwrap().unwrap();
}
