//! Table options: reading them with types, and keeping secrets out of sight.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};

/// Options as declared: lower-case keys to values, environment already expanded.
pub type Options = BTreeMap<String, String>;

/// Refuses keys that are in none of the lists; `prefixes` are passed through to a library.
///
/// # Errors
/// The first unknown key, with the closest known one.
pub fn check_names(options: &Options, names: &[&str], prefixes: &[&str]) -> Result<()> {
    for key in options.keys() {
        let known = names.contains(&key.as_str())
            || prefixes
                .iter()
                .any(|prefix| key.starts_with(prefix) && key.len() > prefix.len());
        if !known {
            let error = Error::invalid(format!("unknown option '{key}'"))
                .about(Subject::UnknownOption(key.clone()));
            return Err(match closest(key, names.iter().copied()) {
                Some(near) => error.with_help(format!("did you mean '{near}'?")),
                None => error.with_help(format!("the options are {}", list(names))),
            });
        }
    }
    Ok(())
}

/// The option's value, which is one of a few words.
///
/// # Errors
/// Another word, with the closest known one.
pub fn choice<'a, T: Copy>(
    options: &Options,
    key: &str,
    choices: &'a [(&'a str, T)],
    default: T,
) -> Result<T> {
    let Some(value) = options.get(key) else {
        return Ok(default);
    };
    if let Some((_, choice)) = choices
        .iter()
        .find(|(word, _)| value.eq_ignore_ascii_case(word))
    {
        return Ok(*choice);
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let help = match closest(value, words.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("it takes {}", list(&words)),
    };
    Err(
        Error::invalid(format!("option '{key}' does not accept '{value}'"))
            .about(Subject::option(key))
            .with_help(help),
    )
}

/// A whole number of at least `least`.
///
/// # Errors
/// Anything else.
pub fn integer(options: &Options, key: &str, least: i32) -> Result<Option<i32>> {
    let Some(value) = options.get(key) else {
        return Ok(None);
    };
    match value.trim().parse() {
        Ok(number) if number >= least => Ok(Some(number)),
        _ => Err(
            Error::invalid(format!("option '{key}' does not accept '{value}'"))
                .about(Subject::option(key))
                .with_help(format!("give a whole number of at least {least}")),
        ),
    }
}

/// A duration such as `'10 seconds'`, `'500 ms'` or `'1 minute'`.
///
/// # Errors
/// Text that is not a number and a unit.
pub fn duration(options: &Options, key: &str, default: Duration) -> Result<Duration> {
    let Some(value) = options.get(key) else {
        return Ok(default);
    };
    parse_duration(value).ok_or_else(|| {
        Error::invalid(format!("option '{key}' does not accept '{value}'"))
            .about(Subject::option(key))
            .with_help("give a number and a unit, such as '10 seconds' or '500 milliseconds'")
    })
}

pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..split].parse().ok()?;
    let millis = match text[split..].trim().to_lowercase().as_str() {
        "ms" | "millisecond" | "milliseconds" => 1,
        "s" | "second" | "seconds" => 1_000,
        "m" | "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

/// A size such as `'256 MiB'`.
///
/// # Errors
/// Text that is not a number and a unit.
pub fn bytes(options: &Options, key: &str) -> Result<Option<u64>> {
    let Some(value) = options.get(key) else {
        return Ok(None);
    };
    parse_size(value).map(Some).ok_or_else(|| {
        Error::invalid(format!("option '{key}' does not accept '{value}'"))
            .about(Subject::option(key))
            .with_help("give a number and a unit, such as '256 MiB'")
    })
}

/// Bytes from text such as `512MiB`, `1.5 GiB` or `1000000`; none if it is no size above zero.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return None,
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor)?,
        Err(_) => {
            let number: f64 = number.parse().ok().filter(|number| *number < 1e6)?;
            (number * factor as f64) as u64
        }
    };
    (bytes > 0).then_some(bytes)
}

/// Replaces `${NAME}` by the environment's value.
///
/// # Errors
/// A variable that is not set, or an unclosed brace.
pub fn expand_environment(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let after = &rest[start + 2..];
        let Some(end) = after.find('}') else {
            return Err(
                Error::invalid(format!("'{text}' has a '${{' without its '}}'"))
                    .about(Subject::text(text)),
            );
        };
        let name = &after[..end];
        let value = lookup(name).ok_or_else(|| {
            Error::invalid(format!("environment variable {name} is not set"))
                .with_help(format!("set it before starting: export {name}=…"))
        })?;
        out.push_str(&value);
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("'{word}'"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("10 seconds"), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("10"), None);
        assert_eq!(parse_duration("ten seconds"), None);
    }

    #[test]
    fn the_environment_is_expanded_once() {
        let lookup = |name: &str| (name == "A").then(|| "${B}".to_owned());
        assert_eq!(expand_environment("x${A}y$z", lookup).unwrap(), "x${B}y$z");
        assert!(expand_environment("${C}", lookup).is_err());
        assert!(expand_environment("${A", lookup).is_err());
    }
}
