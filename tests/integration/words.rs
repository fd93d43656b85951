//! Words of comments and pages: sentences name who acts, and leave out words that name no actor or thing.

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

/// Comments and pages are looked for in these places.
const PLACES: [&str; 6] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "docs",
    "src",
    "udfs/src",
];

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
