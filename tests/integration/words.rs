//! Words of comments, pages, messages and names: sentences name who acts, messages have the field's terms, and names of types and
//! files say what they are for.

use std::path::{Path, PathBuf};

use crate::support::repository;

/// Words that leave open which actor or thing a sentence means. A sentence names it: the runner, the scan, the user.
const REFUSED: [&str; 8] = [
    "nobody",
    "somebody",
    "someone",
    "anybody",
    "whoever",
    "whatever",
    "whichever",
    "anew",
];

/// What messages do not say, and the term they have in its place.
const TERMS: [(&str, &str); 16] = [
    ("the row around", "the outer row"),
    ("has no place in", "does not fit into"),
    ("cannot be told", "it is unknown whether"),
    ("be told", "be known"),
    ("taken back", "removed"),
    ("does not take '", "does not accept '"),
    ("for ever", "never ends"),
    ("goes on from", "continues from"),
    ("goes on with", "continues with"),
    ("goes on where", "continues where"),
    ("sign of life", "heartbeat"),
    ("at work", "running"),
    ("is about to end", "is shutting down"),
    ("is no number", "invalid number"),
    ("is no size", "invalid size"),
    ("is no length of time", "invalid duration"),
];

/// Names that leave open what a type is, or a file about: a participle without its noun, a pronoun, a bare adverb.
const REFUSED_NAMES: [&str; 44] = [
    "all", "any", "apart", "aside", "asked", "begun", "called", "changed", "done", "fate", "found",
    "given", "gone", "held", "here", "how", "kept", "known", "lie", "look", "looked", "lying",
    "nobody", "others", "ours", "passed", "place", "places", "seen", "silence", "silent", "spoilt",
    "taken", "tells", "theirs", "there", "thing", "told", "unseen", "unwanted", "wanted", "whole",
    "within", "written",
];

/// Comments and pages are looked for in these places.
const PLACES: [&str; 6] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "docs",
    "src",
    "udfs/src",
];

/// The text of each string literal of a file with its line, up to the tests at its end; continued lines are joined.
fn literals(code: &str) -> Vec<(usize, String)> {
    let code = code.split("\nmod tests {").next().unwrap_or(code);
    let text: Vec<char> = code.chars().collect();
    let starts =
        |at: usize, what: &str| text[at..].iter().take(what.len()).copied().eq(what.chars());
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let end = if starts(at, "//") {
            let rest = text[at..].iter().position(|c| *c == '\n');
            rest.map_or(text.len(), |rest| at + rest)
        } else if starts(at, "'\\") {
            let rest = text[at + 3..].iter().position(|c| *c == '\'');
            rest.map_or(text.len(), |rest| at + rest + 4)
        } else if text[at] == '\'' && text.get(at + 2) == Some(&'\'') {
            at + 3
        } else if text[at] == '"' {
            let hashes = text[..at].iter().rev().take_while(|c| **c == '#').count();
            let is_raw = at > hashes && text[at - hashes - 1] == 'r';
            let closing: String = std::iter::once('"')
                .chain((0..hashes).map(|_| '#'))
                .collect();
            let mut end = at + 1;
            while end < text.len() && !starts(end, if is_raw { closing.as_str() } else { "\"" }) {
                end += if text[end] == '\\' && !is_raw { 2 } else { 1 };
            }
            let inner: String = text[at + 1..end.min(text.len())].iter().collect();
            let joined = inner.split("\\\n").enumerate().map(|(n, part)| match n {
                0 => part,
                _ => part.trim_start(),
            });
            found.push((line, joined.collect()));
            end + 1
        } else {
            at + 1
        };
        let end = end.min(text.len());
        line += text[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    found
}

/// What the messages of a file have that they should not, with the term in its place.
fn refused_in_messages(code: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut found = Vec::new();
    for (line, text) in literals(code) {
        if !text.contains(' ') {
            continue;
        }
        let words = refused(&text)
            .into_iter()
            .map(|word| (line, word, "the name of the actor"));
        found.extend(words);
        let terms = TERMS
            .into_iter()
            .filter(|(refused, _)| text.contains(refused));
        found.extend(terms.map(|(refused, term)| (line, refused, term)));
    }
    found
}

/// The refused names of types in a file, and of functions with a refused word in their name, with their lines.
fn refused_names(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (text, line) in code.lines().zip(1..) {
        let words: Vec<&str> = text
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .collect();
        let mut keywords = words.iter().zip(words.iter().skip(1));
        let Some((keyword, name)) = keywords
            .find(|(word, _)| matches!(**word, "struct" | "enum" | "trait" | "type" | "fn"))
        else {
            continue;
        };
        let is_associated = *keyword == "type" && text.starts_with(' ');
        if is_associated || text.trim_start().starts_with("//") || text.contains('"') {
            continue;
        }
        let is_refused = match *keyword {
            "fn" => name.split('_').any(|part| REFUSED.contains(&part)),
            _ => {
                REFUSED_NAMES.contains(&name.to_lowercase().as_str())
                    && name.starts_with(char::is_uppercase)
            }
        };
        if is_refused {
            found.push((line, (*name).to_owned()));
        }
    }
    found
}

/// Whether a file has tests and no messages for users.
fn is_of_tests(file: &Path) -> bool {
    let path = file.display().to_string();
    ["simulation", "_tests.rs", "/laws/", "oracle"]
        .iter()
        .any(|part| path.contains(part))
}

/// The files with one of these extensions at or below `place`.
fn files(place: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    if place.is_dir() {
        for entry in std::fs::read_dir(place).unwrap() {
            files(&entry.unwrap().path(), extensions, found);
        }
    } else if place
        .extension()
        .is_some_and(|of| extensions.iter().any(|extension| of == *extension))
    {
        found.push(place.to_owned());
    }
}

/// The comment of a line of code; `://` is a part of an address, and no comment.
fn comment(line: &str) -> Option<&str> {
    let trimmed = line.trim_start();
    if trimmed.starts_with("/*") || trimmed.starts_with("* ") {
        return Some(trimmed);
    }
    let mut slashes = line.match_indices("//").map(|(at, _)| at);
    let at = slashes.find(|at| !line[..*at].ends_with(':'))?;
    Some(&line[at..])
}

/// The refused words of a text, without its code spans: those quote names and messages.
fn refused(text: &str) -> Vec<&'static str> {
    let prose: String = text.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let words = prose
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .map(str::to_lowercase);
    words
        .filter_map(|word| REFUSED.into_iter().find(|refused| *refused == word))
        .collect()
}

/// The refused words of a file with their lines: of a page all text outside of blocks of code, of code the comments.
fn refused_in(text: &str, is_page: bool) -> Vec<(usize, &'static str)> {
    let mut is_code = false;
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let checked = match is_page {
            true if line.trim_start().starts_with("```") => {
                is_code = !is_code;
                None
            }
            true => (!is_code).then_some(line),
            false => comment(line),
        };
        let words = checked.map(refused).unwrap_or_default();
        found.extend(words.into_iter().map(|word| (number, word)));
    }
    found
}

#[test]
fn refused_words_are_found() {
    let code = "// Nobody reads it.\nlet a = \"kafka://anybody\"; // as `whoever` wrote it, anew\n/// Somebody's\nanew();\n";
    assert_eq!(
        refused_in(code, false),
        [(1, "nobody"), (2, "anew"), (3, "somebody")]
    );
    let page = "Whatever\n```sql\nSELECT someone\n```\nis `anew`, whichever\n";
    assert_eq!(refused_in(page, true), [(1, "whatever"), (5, "whichever")]);
}

#[test]
fn comments_and_pages_use_no_refused_words() {
    let root = repository();
    let mut found = Vec::new();
    for place in PLACES {
        files(&root.join(place), &["js", "md", "rs"], &mut found);
    }
    assert!(found.len() > 100, "the comments were found");
    let mut wrong = Vec::new();
    for file in found {
        let relative = file.strip_prefix(root).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let is_page = relative
            .extension()
            .is_some_and(|extension| extension == "md");
        for (line, word) in refused_in(&text, is_page) {
            wrong.push(format!(
                "{}:{line}: say who or what is meant in place of '{word}'",
                relative.display()
            ));
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn refused_words_of_messages_and_names_are_found() {
    let code = r##"
fn a() { b("nobody reads \
    it"); c('"', r#"it is "cannot be told""#); } // "anew it is"
struct Told<'a>(&'a str);
fn whoever_reads() {}
mod tests { const D: &str = "somebody has it"; }
"##;
    let found: Vec<_> = refused_in_messages(code)
        .into_iter()
        .map(|(line, word, _)| (line, word))
        .collect();
    assert_eq!(
        found,
        [(2, "nobody"), (3, "cannot be told"), (3, "be told")]
    );
    let names: Vec<_> = refused_names(code)
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    assert_eq!(names, ["Told", "whoever_reads"]);
}

#[test]
fn messages_have_the_terms_of_the_field() {
    let root = repository();
    let mut found = Vec::new();
    for place in ["src", "udfs/src"] {
        files(&root.join(place), &["rs"], &mut found);
    }
    assert!(found.len() > 100, "the sources were found");
    let mut wrong = Vec::new();
    for file in found {
        let relative = file.strip_prefix(root).unwrap();
        if is_of_tests(relative) {
            continue;
        }
        for (line, said, term) in refused_in_messages(&std::fs::read_to_string(&file).unwrap()) {
            wrong.push(format!(
                "{}:{line}: a message has '{said}': say '{term}' in its place",
                relative.display()
            ));
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn names_say_what_types_and_files_are() {
    let root = repository();
    let mut found = Vec::new();
    for place in ["src", "udfs", "tests"] {
        files(&root.join(place), &["rs"], &mut found);
    }
    let mut wrong = Vec::new();
    for file in found {
        let relative = file.strip_prefix(root).unwrap();
        if relative.ends_with("words.rs") {
            continue;
        }
        let stem = relative.file_stem().unwrap().to_string_lossy();
        if REFUSED_NAMES.contains(&&*stem) {
            wrong.push(format!("{}: name it by what it owns", relative.display()));
        }
        for (line, name) in refused_names(&std::fs::read_to_string(&file).unwrap()) {
            wrong.push(format!(
                "{}:{line}: name {name} by what it is",
                relative.display()
            ));
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
