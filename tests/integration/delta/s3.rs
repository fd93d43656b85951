//! Tables in an S3-compatible store.
//!
//! Without `S3_ENDPOINT` a test runs itself again under `docker/with-s3`.

use std::collections::BTreeMap;
use std::time::Instant;

use anabranch::error::ErrorKind;
use anabranch::tables::delta::{OptimizeSpec, VacuumSpec};

use super::*;

pub(super) struct BucketStore {
    pub(super) endpoint: String,
    pub(super) bucket: String,
}

/// The store of the environment; `None` after the test has run, and passed, in an environment with one.
pub(super) fn store(test: &str) -> Option<BucketStore> {
    let (endpoint, bucket) = crate::support::s3(test)?;
    Some(BucketStore { endpoint, bucket })
}

impl BucketStore {
    pub(super) fn spec(&self, path: &str) -> DeltaSpec {
        let options = [
            ("aws.endpoint", self.endpoint.as_str()),
            ("AWS_REGION", "us-east-1"),
            (
                "aws.access_key_id",
                &std::env::var("AWS_ACCESS_KEY_ID").unwrap(),
            ),
            (
                "AWS_SECRET_ACCESS_KEY",
                &std::env::var("AWS_SECRET_ACCESS_KEY").unwrap(),
            ),
        ];
        let options: BTreeMap<_, _> = options
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let location = format!("s3://{}/{path}", self.bucket);
        DeltaSpec {
            location,
            options,
            ..archive(Path::new(""))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_a_bucket_is_like_any_other() {
    let Some(store) = store("delta::s3::a_table_in_a_bucket_is_like_any_other") else {
        return;
    };
    let spec = || {
        let mut spec = store.spec("lake/some archive/");
        let zero = (
            "delta.deletedFileRetentionDuration".to_owned(),
            "0 hours".to_owned(),
        );
        spec.options.extend([zero]);
        spec
    };
    let handle = DeltaTableHandle::create_or_open(spec()).await.unwrap();
    let other = DeltaTableHandle::create_or_open(spec()).await.unwrap();
    assert_eq!(other.version().await.unwrap(), 0);

    // One winner per version, from any of the handles.
    let writes = (0..6_i64).map(|i| {
        let handle = if i % 2 == 0 {
            handle.clone()
        } else {
            other.clone()
        };
        tokio::spawn(async move {
            insert(
                &handle,
                RECORD,
                vec![records(i * 2, &[Some(DAY + i * HOUR), None])],
            )
            .await
            .unwrap()
        })
    });
    for write in writes.collect::<Vec<_>>() {
        assert_eq!(write.await.unwrap(), 2);
    }
    let reopened = DeltaTableHandle::create_or_open(DeltaSpec {
        columns: None,
        ..spec()
    })
    .await
    .unwrap();
    assert_eq!(reopened.version().await.unwrap(), 6);
    assert_eq!(
        number(&reopened, "SELECT count(DISTINCT \"offset\") FROM t").await,
        12
    );
    assert_eq!(
        scanned(&reopened, "SELECT * FROM t WHERE hour = 3").await,
        (1, 1)
    );

    let error = run(
        &session(&handle).await,
        "INSERT INTO t (value, partition) SELECT 'x', 10 / (5000 - i) FROM (SELECT value AS i FROM generate_series(1, 9000))",
    )
    .await
    .unwrap_err();
    assert!(
        error.message().to_lowercase().contains("divide by zero"),
        "{error}"
    );
    assert_eq!(handle.version().await.unwrap(), 6);

    handle
        .optimize(&OptimizeSpec::default(), None)
        .await
        .unwrap();
    let vacuumed = handle
        .vacuum(&VacuumSpec {
            retain_hours: Some(0),
            dry_run: false,
        })
        .await
        .unwrap();
    assert_eq!(
        vacuumed.num_rows(),
        6,
        "six files of the partition without a time became one"
    );
    assert_eq!(number(&reopened, "SELECT count(*) FROM t").await, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_create_the_same_table_in_a_bucket_both_get_it() {
    let Some(store) = store("delta::s3::two_that_create_the_same_table_in_a_bucket_both_get_it")
    else {
        return;
    };
    for round in 0..5 {
        let create = || {
            tokio::spawn(DeltaTableHandle::create_or_open(
                store.spec(&format!("twice/{round}")),
            ))
        };
        let (left, right) = (create(), create());
        let (left, right) = (left.await.unwrap().unwrap(), right.await.unwrap().unwrap());
        assert_eq!(
            (
                left.version().await.unwrap(),
                right.version().await.unwrap()
            ),
            (0, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_differs_from_an_unreachable_store() {
    let name = "delta::s3::a_missing_bucket_differs_from_an_unreachable_store";
    let Some(store) = store(name) else { return };
    let missing = DeltaSpec {
        location: "s3://no-such-bucket/t".into(),
        ..store.spec("")
    };
    let error = DeltaTableHandle::create_or_open(missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    let mut silent = store.spec("t");
    // Port 9 discards, if anything is there at all.
    silent
        .options
        .insert("aws.endpoint".into(), "http://127.0.0.1:9".into());
    let start = Instant::now();
    let error = DeltaTableHandle::create_or_open(silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!error.message().contains("anabranch-secret"), "{error}");
    assert!(
        start.elapsed() < crate::support::AT_ONCE,
        "gave up after {:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_store_options_are_refused_before_any_request() {
    let key = ("aws.access_key_id", "key");
    let secret = ("aws.secret_access_key", "anabranch-secret");
    for (options, part) in [
        (
            &[key][..],
            "'aws.access_key_id' and 'aws.secret_access_key'",
        ),
        (
            &[("aws.session_token", "anabranch-secret")],
            "'aws.session_token' only with both",
        ),
        (
            &[key, secret, ("aws.endpoint", "127.0.0.1:9000")],
            "http:// or https://",
        ),
        (&[key, secret, ("aws.conditional_put", "maybe")], "maybe"),
        (
            &[("aws.profile", "no such profile")],
            "there is no profile 'no such profile'",
        ),
    ] {
        let options = options.iter().copied();
        let options: BTreeMap<_, _> = options
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        for location in ["s3://bucket/t", "s3a://bucket/t"] {
            let spec = DeltaSpec {
                location: location.into(),
                options: options.clone(),
                ..archive(Path::new(""))
            };
            let error = DeltaTableHandle::create_or_open(spec).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.message().contains(location), "{error}");
            assert!(error.message().contains(part), "{error}");
            assert!(error.help().is_some(), "{error}");
            assert!(!error.message().contains("anabranch-secret"), "{error}");
        }
    }
}
