//! Patterns of times: those of chrono, with `%`. A pattern of PostgreSQL or Java is refused, and the error shows the chrono
//! pattern.

use datafusion::common::Result;
use datafusion::logical_expr::ReturnFieldArgs;

use crate::diagnostic::plan_error;

/// Refuses a pattern without a `%`: it would be output literally for every time.
///
/// # Errors
///
/// A pattern without a `%`; the help shows the intended pattern.
pub(super) fn check(function: &str, pattern: &str) -> Result<()> {
    if pattern.contains('%') {
        return Ok(());
    }
    let help = match translated(pattern) {
        Some(meant) => format!("write '{meant}'"),
        None => "patterns are like '%Y-%m-%d %H:%M:%S'".to_owned(),
    };
    Err(plan_error(
        format!("{function}: the pattern '{pattern}' has no %, so it says nothing about the time"),
        None,
        help,
    ))
}

/// Refuses such patterns among the constant arguments of a function, which follow the first argument.
///
/// # Errors
///
/// One of the patterns has no `%`.
pub(super) fn check_constants(function: &str, args: &ReturnFieldArgs) -> Result<()> {
    for pattern in args.scalar_arguments.iter().skip(1).flatten() {
        if let Some(Some(text)) = pattern.try_as_str() {
            check(function, text)?;
        }
    }
    Ok(())
}

/// Whether a pattern shows the century, `%C`.
pub(super) fn has_century(pattern: &str) -> bool {
    let mut rest = pattern;
    while let Some((_, specifier)) = rest.split_once('%') {
        let specifier = specifier.strip_prefix(['-', '_', '0']).unwrap_or(specifier);
        if specifier.starts_with('C') {
            return true;
        }
        // The second character of `%%` does not begin another specifier.
        rest = specifier.strip_prefix('%').unwrap_or(specifier);
    }
    false
}

/// Translates a pattern of PostgreSQL or Java to chrono's; `None` if it has an unknown letter.
fn translated(pattern: &str) -> Option<String> {
    /// Longest first. In PostgreSQL letters are case-insensitive; the letters whose case counts in Java are handled below.
    const PARTS: [(&str, &str); 40] = [
        ("SSSSSS", "%6f"),
        ("SSS", "%3f"),
        ("HH24", "%H"),
        ("HH12", "%I"),
        ("MMMM", "%B"),
        ("EEEE", "%A"),
        ("YYYY", "%Y"),
        ("uuuu", "%Y"),
        ("IYYY", "%G"),
        ("MONTH", "%B"),
        ("MMM", "%b"),
        ("MON", "%b"),
        ("DDD", "%j"),
        ("DAY", "%A"),
        ("EEE", "%a"),
        ("XXX", "%:z"),
        ("xxx", "%:z"),
        ("TZH:TZM", "%:z"),
        ("TZH", "%z"),
        ("TZ", "%Z"),
        ("YY", "%y"),
        ("MM", "%m"),
        ("MI", "%M"),
        ("MS", "%3f"),
        ("US", "%6f"),
        ("DD", "%d"),
        ("DY", "%a"),
        ("HH", "%H"),
        ("SS", "%S"),
        ("IW", "%V"),
        ("WW", "%W"),
        ("AM", "%p"),
        ("PM", "%p"),
        ("EE", "%a"),
        ("E", "%a"),
        ("M", "%-m"),
        ("d", "%-d"),
        ("H", "%-H"),
        ("a", "%p"),
        ("Z", "%z"),
    ];
    let mut out = String::new();
    let mut rest = pattern;
    let mut has_hour = false;
    while let Some(first) = rest.chars().next() {
        if first == '\'' || first == '"' {
            // Quoted text is copied.
            let (quoted, after) = rest[1..].split_once(first)?;
            out.push_str(quoted);
            rest = after;
            continue;
        }
        if !first.is_ascii_alphabetic() {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let found = PARTS.iter().find(|(part, _)| {
            let head = rest.get(..part.len());
            head.is_some_and(|head| match part.len() {
                1 => head == *part,
                _ => head.eq_ignore_ascii_case(part),
            })
        });
        match found {
            Some((part, meant)) => {
                // After an hour, MM and mm are minutes.
                let meant = if *meant == "%m" && has_hour {
                    "%M"
                } else {
                    meant
                };
                has_hour |= matches!(meant, "%H" | "%I" | "%-H");
                out.push_str(meant);
                rest = &rest[part.len()..];
            }
            // As in 2024-01-02T03:04:05.
            None if first == 'T' => {
                out.push('T');
                rest = &rest[1..];
            }
            None => return None,
        }
    }
    out.contains('%').then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_others_are_translated() {
        for (theirs, ours) in [
            ("YYYY-MM-DD", "%Y-%m-%d"),
            ("yyyy-MM-dd", "%Y-%m-%d"),
            ("yyyy-MM-dd HH:mm:ss", "%Y-%m-%d %H:%M:%S"),
            ("YYYY-MM-DD HH24:MI:SS.MS", "%Y-%m-%d %H:%M:%S.%3f"),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "%Y-%m-%dT%H:%M:%S.%3f%:z"),
            ("DD Mon YYYY", "%d %b %Y"),
            ("Day, DD Month", "%A, %d %B"),
            ("hh12:mi am", "%I:%M %p"),
            ("yyyyMMdd", "%Y%m%d"),
        ] {
            assert_eq!(translated(theirs).as_deref(), Some(ours), "{theirs}");
        }
        assert_eq!(translated("what?"), None);
        assert_eq!(translated("2024"), None);
        assert!(check("to_char", "%Y").is_ok());
        let error = check("to_char", "YYYY").unwrap_err();
        assert!(error.to_string().contains("has no %"), "{error}");
    }
}
