//! Lasting refusals of a broker: the statement fails at once, and says what helps.

use super::table;
use crate::support::{Workspace, kafka, topic};
use crate::topics::create_topic_with;

/// A topic with a setting.
pub(crate) fn topic_with(name: &str, setting: (&str, &str)) -> String {
    let topic = topic(name);
    create_topic_with(&kafka(), &topic, 1, &[setting]);
    topic
}

/// The statement fails with these words, and not because something did not answer.
#[track_caller]
fn refused(create: &str, insert: &str, expected: &[&str]) {
    let ran = Workspace::new().sql(&[], &[create, insert]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for words in expected {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
}

#[test]
fn a_record_without_a_key_in_a_compacted_topic() {
    let topic = topic_with("compacted", ("cleanup.policy", "compact"));
    let columns = "v BIGINT, k VARCHAR METADATA FROM 'key'";
    for delivery in ["transactional", "idempotent"] {
        let options = format!(", 'delivery' '{delivery}'");
        let create = table("t", &topic, columns, &options);
        // The other record of the batch is refused with it: the error is about the record without a key.
        refused(
            &create,
            "INSERT INTO t (v, k) VALUES (1, 'a'), (2, NULL)",
            &["refuses a record", "PRIMARY KEY"],
        );
    }
    let create = table("t", &topic, columns, "");
    refused(
        &create,
        "INSERT INTO t (v, k) VALUES (2, NULL)",
        &["refuses a record that has no key"],
    );
    // The topic takes others.
    let work = Workspace::new();
    work.sql(&[], &[&create, "INSERT INTO t (v, k) VALUES (3, 'c')"])
        .ok();
}

#[test]
fn a_record_of_a_time_that_the_topic_does_not_take() {
    let topic = topic_with("far", ("message.timestamp.after.max.ms", "60000"));
    let columns = "v BIGINT, ts TIMESTAMP METADATA FROM 'timestamp'";
    for delivery in ["transactional", "idempotent"] {
        let create = table("t", &topic, columns, &format!(", 'delivery' '{delivery}'"));
        let far = "(1, TIMESTAMP '2200-01-01T00:00:00')";
        // Alone, and with others in one request, where the client has no name for the fault.
        for rows in [far.to_owned(), [far; 5].join(", ")] {
            refused(
                &create,
                &format!("INSERT INTO t (v, ts) VALUES {rows}"),
                &[
                    "the time of a record is further from the clock",
                    "message.timestamp.after.max.ms",
                ],
            );
        }
    }
    // The error names the time, not a missing key. In a compacted topic, which requires keys, it names the key, not the
    // time.
    let far = topic_with("far-before", ("message.timestamp.before.max.ms", "60000"));
    let create = table("t", &far, columns, "");
    let old = ["(1, TIMESTAMP '2001-01-01T00:00:00')"; 3].join(", ");
    refused(
        &create,
        &format!("INSERT INTO t (v, ts) VALUES {old}"),
        &["the time of a record is further from the clock"],
    );
    let compacted = topic_with("far-compacted", ("cleanup.policy", "compact"));
    let create = table("t", &compacted, columns, "");
    refused(
        &create,
        &format!("INSERT INTO t (v, ts) VALUES {old}"),
        &["refuses a record that has no key"],
    );
}

#[test]
fn a_topic_that_cannot_be_created() {
    let insert = "INSERT INTO t (v) VALUES (1)";
    let more = ", 'topic.partitions' '1', 'topic.replication_factor' '3'";
    let create = table("t", &topic("replicas"), "v BIGINT", more);
    let expected = ["could not be created", "'topic.replication_factor'"];
    refused(&create, insert, &expected);

    let create = table("t", "..", "v BIGINT", ", 'topic.partitions' '1'");
    refused(
        &create,
        insert,
        &["topic '..'", "a topic's name has letters"],
    );
}

#[test]
fn a_transaction_that_may_take_longer_than_the_broker_allows() {
    let options =
        ", 'topic.partitions' '1', 'delivery' 'transactional', 'transaction.timeout' '1 day'";
    let create = table("t", &topic("timeout"), "v BIGINT", options);
    let insert = "INSERT INTO t (v) VALUES (1)";
    let expected = ["lower 'transaction.timeout'", "transaction.max.timeout.ms"];
    refused(&create, insert, &expected);
}

#[test]
fn conflicting_client_settings() {
    let options = ", 'kafka.fetch.max.bytes' '600'";
    let create = table("t", &topic("together"), "v BIGINT", options);
    refused(&create, "SELECT * FROM t", &["'kafka.fetch.max.bytes'"]);
}
