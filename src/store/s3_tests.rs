//! Credentials that a store is opened with, and clients of buckets.

use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::{PutMode, PutOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::error::ErrorKind;

/// An environment with these variables, and a folder as the user's home.
fn environment(variables: &[(&str, &str)], home: Option<&std::path::Path>) -> S3Environment {
    S3Environment {
        variables: variables
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned()))
            .collect(),
        home: home.map(PathBuf::from),
    }
}

fn options(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn find(given: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<ClientSettings> {
    ClientSettings::find(&options(given), &environment(variables, None))
}

/// Key, secret and session token.
fn keys(settings: Result<ClientSettings>) -> (String, String, Option<String>) {
    match settings.unwrap().source {
        CredentialSource::Keys(found) => (found.key_id, found.secret_key, found.token),
        CredentialSource::Unsigned | CredentialSource::Service | CredentialSource::Machine => {
            panic!("no keys")
        }
    }
}

fn triple(key: &str, secret: &str, token: Option<&str>) -> (String, String, Option<String>) {
    (key.into(), secret.into(), token.map(str::to_owned))
}

const OF_PROCESS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "env key"),
    ("AWS_SECRET_ACCESS_KEY", "env secret"),
    ("AWS_SESSION_TOKEN", "env token"),
];

#[test]
fn key_secret_and_token_come_from_one_source() {
    assert_eq!(
        keys(find(&[("aws_region", "eu-central-1")], &OF_PROCESS)),
        triple("env key", "env secret", Some("env token"))
    );
    let given = [
        ("aws_access_key_id", "key"),
        ("aws_secret_access_key", "secret"),
    ];
    assert_eq!(
        keys(find(&given, &OF_PROCESS)),
        triple("key", "secret", None)
    );
    let token = [given[0], given[1], ("aws_session_token", "token")];
    assert_eq!(
        keys(find(&token, &OF_PROCESS)),
        triple("key", "secret", Some("token"))
    );
    let empty = [given[0], given[1], ("aws_session_token", "")];
    assert_eq!(
        keys(find(&empty, &OF_PROCESS)),
        triple("key", "secret", None)
    );
    for part in [
        &[given[0]][..],
        &[given[1]],
        &[token[2]],
        &[given[0], token[2]],
        &[given[0], ("aws_secret_access_key", "")],
        &[("aws_access_key_id", ""), ("aws_secret_access_key", "")],
    ] {
        let error = find(part, &OF_PROCESS).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{part:?}");
        assert!(error.message().contains("aws.secret_access_key"), "{error}");
        assert!(error.help().is_some());
    }
    let error = find(&[], &OF_PROCESS[..1]).err().unwrap();
    assert!(error.message().contains("AWS_SECRET_ACCESS_KEY"), "{error}");
}

#[test]
fn options_win_over_the_environment() {
    let settings = find(
        &[
            ("aws_endpoint", "http://127.0.0.1:9000/"),
            ("aws_region", "eu-central-1"),
        ],
        &[
            ("AWS_ENDPOINT_URL_S3", "https://elsewhere"),
            ("AWS_REGION", "us-west-2"),
            ("AWS_DEFAULT_REGION", "us-west-1"),
            OF_PROCESS[0],
            OF_PROCESS[1],
        ],
    );
    let settings = settings.unwrap();
    assert_eq!(settings.keys[&Key::Endpoint], "http://127.0.0.1:9000");
    assert!(!settings.keys.contains_key(&Key::S3Endpoint));
    assert_eq!(settings.keys[&Key::Region], "eu-central-1");
    assert_eq!(
        settings.keys[&Key::Client(ClientConfigKey::AllowHttp)],
        "true"
    );
    assert!(
        SECRETS.iter().all(|key| !settings.keys.contains_key(key)),
        "they are with the source"
    );
}

#[test]
fn the_environment_names_the_endpoint_in_three_ways() {
    let allows_http = Key::Client(ClientConfigKey::AllowHttp);
    for (variables, endpoint, plain) in [
        (&[("AWS_ENDPOINT", "http://a:1")][..], "http://a:1", true),
        (
            &[
                ("AWS_ENDPOINT", "http://a:1"),
                ("AWS_ENDPOINT_URL", "https://b"),
            ],
            "https://b",
            false,
        ),
    ] {
        let settings = find(&[("aws_skip_signature", "true")], variables).unwrap();
        assert_eq!(settings.keys[&Key::Endpoint], endpoint);
        assert_eq!(settings.keys.contains_key(&allows_http), plain);
    }
    let both = [
        ("AWS_ENDPOINT_URL", "https://b"),
        ("AWS_ENDPOINT_URL_S3", "http://c"),
        ("AWS_ALLOW_HTTP", "false"),
    ];
    let settings = find(&[("aws_skip_signature", "true")], &both).unwrap();
    assert_eq!(settings.keys[&Key::S3Endpoint], "http://c");
    assert_eq!(settings.keys[&allows_http], "false", "it was said");
}

#[test]
fn an_endpoint_that_is_no_url_is_named_and_not_shown() {
    for endpoint in [
        "localhost:9000",
        "me:hidden@store",
        "ftp://store",
        "http://",
    ] {
        let error = find(&[("aws_endpoint", endpoint)], &OF_PROCESS)
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("endpoint"), "{error}");
        assert!(!error.with_its_help().contains("hidden"), "{error}");
    }
}

#[test]
fn other_ways_to_credentials_are_taken_in_their_order_or_refused() {
    let is = |variables: &[(&str, &str)]| find(&[], variables).unwrap().source;
    assert!(matches!(is(&[]), CredentialSource::Machine));
    assert!(matches!(
        is(&[("AWS_SKIP_SIGNATURE", "1")]),
        CredentialSource::Unsigned
    ));
    let identity = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
    ];
    assert!(matches!(is(&identity), CredentialSource::Service));
    let uri = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/get");
    assert!(matches!(is(&[uri]), CredentialSource::Service));
    let pod = [
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "http://169.254.170.23/v1",
        ),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/token"),
    ];
    assert!(matches!(is(&pod), CredentialSource::Service));
    for (variables, part) in [
        (&identity[..1], "AWS_ROLE_ARN"),
        (&pod[..1], "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        (
            &[
                ("AWS_IAM_ROLE_ARN", "arn:aws:iam::1:role/r"),
                OF_PROCESS[0],
                OF_PROCESS[1],
            ],
            "AWS_IAM_ROLE_ARN",
        ),
        (
            &[("AWS_EC2_METADATA_DISABLED", "true")],
            "there are no credentials",
        ),
        (&[("AWS_PROFILE", "mine")], "no profile 'mine'"),
    ] {
        let error = find(&[], variables).err().unwrap();
        assert!(error.message().contains(part), "{error}");
        assert!(error.help().is_some(), "{error}");
    }
}

#[test]
fn keys_of_a_profile_are_read_and_other_profiles_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".aws");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(
        folder.join("credentials"),
        "# of the tests\n[default]\naws_access_key_id = first\naws_secret_access_key = one ; a comment\n\n\
         [ lake ]\nAWS_ACCESS_KEY_ID=second\naws_secret_access_key=two=\naws_session_token = token\n\
         [half]\naws_access_key_id = third\n",
    )
    .unwrap();
    std::fs::write(
        folder.join("config"),
        "[default]\nregion = us-west-2\ns3 =\n  aws_access_key_id = nested\n[profile signed]\nsso_session = company\n\
         [profile role]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = default\n\
         [profile plain]\naws_access_key_id = fourth\naws_secret_access_key = four\n[lake]\nrole_arn = of no profile\n",
    )
    .unwrap();
    let find = |given: &[(&str, &str)], variables: &[(&str, &str)]| {
        ClientSettings::find(&options(given), &environment(variables, Some(home.path())))
    };
    assert_eq!(keys(find(&[], &[])), triple("first", "one", None));
    assert_eq!(
        keys(find(&[], &[("AWS_PROFILE", "lake")])),
        triple("second", "two=", Some("token"))
    );
    assert_eq!(
        keys(find(&[("aws_profile", "plain")], &OF_PROCESS)),
        triple("fourth", "four", None),
        "an option wins over variables"
    );
    assert_eq!(
        keys(find(
            &[],
            &[("AWS_PROFILE", "lake"), OF_PROCESS[0], OF_PROCESS[1]]
        )),
        triple("env key", "env secret", None),
        "keys win over a profile"
    );
    for (name, part) in [
        ("signed", "sso_session"),
        ("role", "role_arn"),
        ("half", "aws_secret_access_key"),
        ("none", "no profile 'none'"),
    ] {
        let error = find(&[("aws_profile", name)], &OF_PROCESS).err().unwrap();
        assert!(error.message().contains("aws.profile"), "{error}");
        assert!(error.message().contains(part), "{error}");
        assert!(!error.with_its_help().contains("third"), "{error}");
        assert!(error.help().is_some(), "{error}");
    }
    // A default profile that uses single sign-on is not skipped.
    std::fs::write(folder.join("config"), "[default]\nsso_session = company\n").unwrap();
    let error = find(&[], &[]).err().unwrap();
    assert!(error.message().contains("sso_session"), "{error}");
    let other = folder.join("other").display().to_string();
    let elsewhere = [
        ("AWS_CONFIG_FILE", other.as_str()),
        ("AWS_SHARED_CREDENTIALS_FILE", other.as_str()),
    ];
    assert!(matches!(
        find(&[], &elsewhere).unwrap().source,
        CredentialSource::Machine
    ));
}

#[test]
fn a_bucket_is_opened_with_the_path_below_it() {
    for (url, root) in [
        ("s3://bucket/a/b", "a/b"),
        ("s3a://bucket/some%20archive/", "some archive"),
        ("https://bucket.s3.eu-central-1.amazonaws.com/a", "a"),
    ] {
        let url = Url::parse(url).unwrap();
        assert!(is_s3(&url));
        let given = options(&[
            ("aws_access_key_id", "key"),
            ("aws_secret_access_key", "secret"),
        ]);
        let (store, path) = open_s3(&url, &given).unwrap();
        assert_eq!(path.as_ref(), root);
        assert!(store.to_string().contains("bucket"), "{store}");
    }
    for url in ["gs://bucket/a", "memory:///a", "https://example.com/a"] {
        assert!(!is_s3(&Url::parse(url).unwrap()));
    }
    let wrong = options(&[
        ("aws_access_key_id", "key"),
        ("aws_secret_access_key", "secret"),
        ("aws_conditional_put", "maybe"),
    ]);
    let error = open_s3(&Url::parse("s3://bucket").unwrap(), &wrong)
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("maybe"), "{error}");
}

/// EXACT-1: an entry of a log is sent once, also when the store fails.
#[tokio::test]
async fn exact_1_a_client_that_sends_once_repeats_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let failing = tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = vec![0; 64 * 1024];
            let _ = connection.read(&mut request).await;
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = connection.write_all(answer.as_bytes()).await;
        }
    });
    let given = options(&[
        ("aws_access_key_id", "key"),
        ("aws_secret_access_key", "secret"),
        ("aws_region", "us-east-1"),
        ("aws_endpoint", &endpoint),
    ]);
    let bucket = Bucket::open(&Url::parse("s3://bucket/a").unwrap(), &given).unwrap();
    let name = bucket.path.clone().join("1");
    let put = PutOptions::from(PutMode::Create);
    let put = bucket.once.put_opts(&name, "x".into(), put).await;
    assert!(put.is_err());
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    failing.abort();
}
