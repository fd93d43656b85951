//! Avro records on a real broker, with their schemas in a registry.

#[path = "../../../src/formats/registry/stub.rs"]
#[expect(dead_code, reason = "the unit tests use all of it")]
mod registry_stub;

use crate::support::{Workspace, topic};
use registry_stub::RegistryStub;

use super::table;

#[test]
fn avro_records_come_back_with_the_schema_they_were_written_with() {
    let registry = RegistryStub::start().with_login("reader", "registry-word");
    let topic = topic("avro");
    let work = Workspace::new();
    let options = format!(
        ", 'topic.partitions' '1', 'format' 'avro', 'avro.registry.url' '{}', \
         'avro.registry.user' 'reader', 'avro.registry.password' 'registry-word'",
        registry.url()
    );
    let before = table(
        "before",
        &topic,
        "id BIGINT NOT NULL, page VARCHAR",
        &options,
    );
    // The same topic a year later: a wider key, a column more, one that is no longer asked for.
    let after = table(
        "after",
        &topic,
        "id BIGINT NOT NULL, at TIMESTAMP, tags ARRAY<VARCHAR>, price DECIMAL(9, 2)",
        &options,
    );
    let bytes = table(
        "bytes",
        &topic,
        "value BINARY, o BIGINT METADATA FROM 'offset'",
        ", 'format' 'raw'",
    );
    let ran = work
        .sql(
            &[],
            &[
                &before,
                &after,
                &bytes,
                "INSERT INTO before VALUES (1, 'home'), (2, NULL)",
                "INSERT INTO after VALUES (3, TIMESTAMP '2025-09-04T10:00:00.5', ['a', NULL], 12.34)",
                "SELECT * FROM before ORDER BY id",
                "SELECT * FROM after ORDER BY id",
                "SELECT value FROM bytes WHERE o < 2 ORDER BY o",
            ],
        )
        .ok();
    assert_eq!(
        ran.out.lines().collect::<Vec<_>>(),
        [
            r#"{"id":1,"page":"home"}"#,
            r#"{"id":2,"page":null}"#,
            r#"{"id":3,"page":null}"#,
            r#"{"id":1,"at":null,"tags":null,"price":null}"#,
            r#"{"id":2,"at":null,"tags":null,"price":null}"#,
            r#"{"id":3,"at":"2025-09-04T10:00:00.500Z","tags":["a",null],"price":12.34}"#,
            // A zero, the schema's number in four bytes, zigzag 1, the branch of the union, the text.
            r#"{"value":"0000000064020208686f6d65"}"#,
            r#"{"value":"00000000640400"}"#,
        ]
    );
    let subject = format!("{topic}-value");
    assert_eq!(registry.versions(&subject).len(), 2);
}

#[test]
fn registry_errors_are_reported() {
    let registry = RegistryStub::start().with_login("reader", "registry-word");
    let topic = topic("avro-refused");
    let work = Workspace::new();
    let options = |password: &str| {
        format!(
            ", 'topic.partitions' '1', 'format' 'avro', 'avro.registry.url' '{}', \
             'avro.registry.user' 'reader', 'avro.registry.password' '{password}'",
            registry.url()
        )
    };
    let right = table("t", &topic, "id BIGINT", &options("registry-word"));
    work.sql(&[], &[&right, "INSERT INTO t VALUES (1)"]).ok();
    let wrong = table("t", &topic, "id BIGINT", &options("guessed-word"));
    for statement in ["SELECT * FROM t", "INSERT INTO t VALUES (2)"] {
        let ran = work.sql(&[], &[&wrong, statement]);
        assert_ne!(ran.code, Some(0));
        assert!(ran.err.contains("refused access"), "{}", ran.err);
        assert!(!ran.err.contains("guessed-word"), "{}", ran.err);
    }
    let count = work
        .sql(&[], &[&right, "SELECT count(id) AS n FROM t"])
        .ok()
        .out;
    assert_eq!(count, "{\"n\":1}\n");
    // Records that were not written with a registry.
    super::produce(&topic, "plain text\n");
    let ran = work.sql(&[], &[&right, "SELECT * FROM t"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains(&format!("{topic}/0@1")), "{}", ran.err);
}
