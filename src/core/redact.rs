//! Redaction of secrets: the options that hold them, and the text that replaces them.

/// Replaces a secret.
pub const HIDDEN: &str = "***";

/// True for options whose values are never shown.
pub fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 9] = [
        "password",
        "passwd",
        "secret",
        "token",
        "credential",
        "sasl.jaas",
        "ssl.key",
        "access_key",
        "oauthbearer.config",
    ];
    let key = key.to_lowercase();
    // The id of an access key is a name, not a secret.
    !key.ends_with("access_key_id") && WORDS.iter().any(|word| key.contains(word))
}

/// Whether a text is only a reference `${NAME}`: it names the place of a secret and does not contain it.
pub fn names_a_variable(text: &str) -> bool {
    let name = text
        .strip_prefix("${")
        .and_then(|text| text.strip_suffix('}'));
    name.is_some_and(|name| !name.is_empty() && !name.contains(['$', '{', '}']))
}

/// A URL without the user and password before its host; any other text as it is.
pub fn without_user_info(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://{HIDDEN}{}", &rest[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_name() {
        assert!(is_secret("kafka.sasl.password"));
        assert!(is_secret("aws.secret_access_key"));
        assert!(is_secret("kafka.ssl.key.pem"));
        assert!(!is_secret("aws.access_key_id"));
        assert!(names_a_variable("${PASSWORD}"));
        assert!(
            !names_a_variable("${A}b${C}")
                && !names_a_variable("a${B}")
                && !names_a_variable("${}")
        );
        assert!(!is_secret("kafka.bootstrap.servers"));
    }

    #[test]
    fn urls_lose_their_user() {
        assert_eq!(
            without_user_info("http://me:p@w@h:1/x@y"),
            "http://***@h:1/x@y"
        );
        assert_eq!(without_user_info("https://h/x@y"), "https://h/x@y");
        assert_eq!(without_user_info("a@b"), "a@b");
    }
}
