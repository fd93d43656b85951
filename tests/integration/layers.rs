//! Imports go down the layers only, and messages of errors are for people.

use std::path::Path;

use crate::support::repository;

/// From the top; a module may name those below it, and itself.
const LAYERS: [&[&str]; 8] = [
    &["cli"],
    &["server", "client"],
    &["runtime"],
    &["session"],
    &["tables", "planner"],
    &["exec"],
    &["state"],
    &["core", "error"],
];

/// Libraries that these modules alone may name.
const OWNED: [(&str, &[&str]); 9] = [
    ("arrow_flight", &["server", "client"]),
    ("axum", &["server/console", "cli/metrics"]),
    ("tonic", &["server", "client"]),
    ("rdkafka", &["tables/kafka"]),
    ("deltalake", &["tables/delta"]),
    ("delta_kernel", &["tables/delta"]),
    ("clap", &["cli"]),
    ("prometheus", &["runtime/metrics", "server/metrics"]),
    ("object_store", &["store"]),
];

fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The modules named in code, comments aside: `crate::module`, and each of `crate::{module::Item, other}`.
fn named_modules(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |code, line| code + line + "\n");
    code.split("crate::")
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(group) => first_names(group),
            None => vec![name_at(rest)],
        })
        .collect()
}

/// The name that `text` begins with.
fn name_at(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The first name of each part of a group of imports; `group` is the text behind its opening brace.
fn first_names(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut part = String::new();
    let mut names = Vec::new();
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name_at(std::mem::take(&mut part).trim_start())),
            _ => {}
        }
        if !(c == ',' && depth == 0) {
            part.push(c);
        }
    }
    names.push(name_at(part.trim_start()));
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn modules_in_groups_are_seen() {
    let text = "use crate::{core::{a, b}, session::Session,\n    cli};\nuse crate::planner::x;";
    assert_eq!(
        named_modules(text),
        ["core", "session", "cli", "planner"].map(str::to_owned)
    );
}

#[test]
fn imports_go_down() {
    let root = repository().join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the source tree was found");
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap().display().to_string();
        let module = relative
            .split('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let Some(own) = layer(&module) else {
            assert!(
                matches!(module.as_str(), "lib" | "main"),
                "{module} stands in no layer"
            );
            continue;
        };
        let text = std::fs::read_to_string(&file).unwrap();
        for named in named_modules(&text) {
            // Siblings of a layer do not know each other.
            if let Some(other) = layer(&named)
                && (other < own || (other == own && named != module && own != LAYERS.len() - 1))
            {
                wrong.push(format!("{relative} names crate::{named}"));
            }
        }
        for (library, owners) in OWNED {
            let names =
                text.contains(&format!("use {library}")) || text.contains(&format!(" {library}::"));
            if names && !owners.iter().any(|owner| relative.starts_with(owner)) {
                wrong.push(format!("{relative} names {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What alone reads messages: of the engine, of deltalake, of librdkafka, and of tonic.
const READERS_OF_MESSAGES: [&str; 4] = [
    "error/engine",
    "tables/delta/error.rs",
    "tables/kafka/client.rs",
    "client/failure.rs",
];

/// Code in one line, in which chains of calls are not broken.
fn in_one_line<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ").replace(" .", ".")
}

/// Where in code of one line a message of an error is compared with words.
fn matched_messages(code: &str) -> Vec<&str> {
    const MESSAGES: [&str; 5] = [
        ".message()",
        ".to_string()",
        ".strip_backtrace()",
        "message",
        "error",
    ];
    const MATCHES: [&str; 14] = [
        ".contains(",
        ".starts_with(",
        ".ends_with(",
        ".split(",
        ".split_once(",
        ".rsplit(",
        ".rsplit_once(",
        ".splitn(",
        ".strip_prefix(",
        ".strip_suffix(",
        ".find(",
        ".rfind(",
        ".matches(",
        " == \"",
    ];
    let mut found = Vec::new();
    for message in MESSAGES {
        for (start, _) in code.match_indices(message) {
            let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
            let is_part = !message.starts_with('.') && code[..start].ends_with(is_word);
            let behind = &code[start + message.len()..];
            if !is_part && MATCHES.iter().any(|matches| behind.starts_with(matches)) {
                let shown = code[start..].char_indices().nth(60);
                let end = shown.map_or(code.len(), |(at, _)| start + at);
                found.push(&code[start..end]);
            }
        }
    }
    found
}

#[test]
fn what_an_error_is_about_is_not_read_in_its_message() {
    let read = [
        "error.message().contains(\"x\")",
        "error\n    .message()\n    .strip_prefix(\"x\")",
        "error.to_string().find(\"x\")",
        "if message.starts_with(X) {",
        "error.message() == \"x\"",
    ];
    for text in read {
        let code = in_one_line(text.lines());
        assert_eq!(matched_messages(&code).len(), 1, "{text}");
    }
    let other = "self.message.find(x); error.message().to_owned(); name.to_string() == other";
    assert!(matched_messages(other).is_empty());

    let root = repository().join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap().display().to_string();
        let is_test = ["_tests.rs", "simulation", "laws"];
        if READERS_OF_MESSAGES
            .iter()
            .any(|reader| relative.starts_with(reader))
            || is_test.iter().any(|part| relative.contains(part))
        {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let product = text.split("mod tests {").next().unwrap_or_default();
        let code = in_one_line(
            product
                .lines()
                .filter(|line| !line.trim_start().starts_with("//")),
        );
        for found in matched_messages(&code) {
            wrong.push(format!("{relative}: {found}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "match the kind and the subjects of an error, which `Error::about` sets: {wrong:#?}"
    );
}

#[test]
fn functions_know_nothing_of_the_program() {
    let manifest = std::fs::read_to_string(repository().join("udfs/Cargo.toml")).unwrap();
    for foreign in ["anabranch =", "rdkafka", "deltalake"] {
        assert!(!manifest.contains(foreign), "udfs depends on {foreign}");
    }
}
