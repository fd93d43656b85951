//! Imports go down the layers only, and within a room in one direction. Messages of errors are for people.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::repository;

/// From the top; a module may name those below it, and itself.
const LAYERS: [&[&str]; 10] = [
    &["cli"],
    &["server", "client"],
    &["runtime"],
    &["streaming"],
    &["session"],
    &["state"],
    &["tables", "planner"],
    &["formats"],
    &["store"],
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
    (
        "prometheus",
        &["runtime/metrics", "server/counters", "server/metrics"],
    ),
    ("object_store", &["store"]),
];

/// Files that may import each other, relative to `src`, and why. All other imports within a room go in one direction: what two files
/// need of each other stands in a third.
const CIRCLES: [(&[&str], &str); 4] = [
    (
        &["core/heap.rs", "core/heap/allocator.rs"],
        "two halves: the allocator counts for the owners that the heap keeps",
    ),
    (
        &["state/compare.rs", "state/index.rs"],
        "two halves: the index orders keys as they are compared",
    ),
    (
        &["state/slices.rs", "state/step.rs"],
        "two halves: a step is taken slice by slice",
    ),
    (
        &["tables/kafka/publisher.rs", "tables/kafka/sink.rs"],
        "two halves: the sink publishes what the publisher acknowledges",
    ),
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
fn grouped_imports_are_found() {
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
    "client/errors.rs",
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
fn error_messages_are_not_parsed_for_their_subject() {
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

/// The files of the runtime that may tell products apart: those that implement or open sources and sinks, and those of statements,
/// which check options and show them to users.
const KNOW_PRODUCTS: [&str; 6] = [
    "sources/",
    "sinks/",
    "describe.rs",
    "options.rs",
    "startup.rs",
    "statements.rs",
];

/// How product code names a kind of table.
const PRODUCTS: [&str; 4] = [
    "tables::kafka",
    "tables::delta",
    "StreamTable::",
    "JobSinkTable::",
];

/// The first line of each item under `#[cfg(test)]` that is no module.
fn arms_for_tests(text: &str) -> Vec<&str> {
    let mut arms = Vec::new();
    let mut is_marked = false;
    for line in text.lines().map(str::trim) {
        if line == "#[cfg(test)]" {
            is_marked = true;
        } else if is_marked && !line.starts_with("#[") {
            is_marked = false;
            let item = line.strip_prefix("pub").unwrap_or(line);
            let item = item.rsplit(") ").next().unwrap_or(item).trim_start();
            if !item.starts_with("mod ") {
                arms.push(line);
            }
        }
    }
    arms
}

#[test]
fn the_runner_knows_no_products_and_no_tests() {
    let planted = "#[cfg(test)]\nSimulated(Sink),\n#[cfg(test)]\n#[path = \"a\"]\nmod tests;\n#[cfg(test)]\nmod b {}";
    assert_eq!(arms_for_tests(planted), ["Simulated(Sink),"]);
    let root = repository().join("src/runtime");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut knowing) = (Vec::new(), 0);
    for file in files {
        let relative = file.strip_prefix(&root).unwrap().display().to_string();
        if relative.contains("simulation") || relative.ends_with("_tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for arm in arms_for_tests(&text) {
            wrong.push(format!("{relative} has code for tests: {arm}"));
        }
        let code = without_test_modules(&without_comments_and_texts(&text));
        for product in PRODUCTS.iter().filter(|product| code.contains(**product)) {
            match KNOW_PRODUCTS.iter().any(|file| relative.starts_with(file)) {
                true => knowing += 1,
                false => wrong.push(format!("{relative} names {product}")),
            }
        }
    }
    assert!(knowing > 5, "the sources and sinks were found");
    assert!(
        wrong.is_empty(),
        "add a method to a trait of src/runtime/source.rs or sink.rs: {wrong:#?}"
    );
}

#[test]
fn the_function_crate_does_not_import_the_program() {
    let manifest = std::fs::read_to_string(repository().join("udfs/Cargo.toml")).unwrap();
    for foreign in ["anabranch =", "rdkafka", "deltalake"] {
        assert!(!manifest.contains(foreign), "udfs depends on {foreign}");
    }
}

/// Which files a file imports, by their paths relative to `src`.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// The imports between files of product code, each file given by its path and its text.
fn imports(files: &[(String, String)]) -> Imports {
    let modules: BTreeMap<Vec<&str>, &str> = files
        .iter()
        .map(|(file, _)| (module_of(file), file.as_str()))
        .collect();
    files
        .iter()
        .filter(|(file, _)| !is_of_tests(file))
        .map(|(file, text)| {
            let own = module_of(file);
            let code = without_test_modules(&without_comments_and_texts(text));
            let imported = named_paths(&code)
                .iter()
                .filter_map(|path| file_of(path, &own, &modules))
                .filter(|other| other != file && !is_of_tests(other))
                .map(str::to_owned)
                .collect();
            (file.clone(), imported)
        })
        .collect()
}

/// Files that only tests have.
fn is_of_tests(file: &str) -> bool {
    file.ends_with("_tests.rs")
        || file.ends_with("/mock.rs")
        || file.contains("simulation")
        || file.contains("/laws/")
}

/// The module that a file is, as the names from the crate down to it.
fn module_of(file: &str) -> Vec<&str> {
    let mut names: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    if names.last() == Some(&"mod") || names == ["lib"] {
        names.pop();
    }
    names
}

/// The file that holds what `path` names in the module `own`; none if it is of another crate. `super` is the parent of the file, also
/// in a module within it.
fn file_of<'m>(
    path: &str,
    own: &[&str],
    modules: &BTreeMap<Vec<&str>, &'m str>,
) -> Option<&'m str> {
    let names: Vec<&str> = path.split("::").filter(|name| !name.is_empty()).collect();
    let above = names.iter().take_while(|name| **name == "super").count();
    let (base, rest) = match *names.first()? {
        "crate" => (&own[..0], &names[1..]),
        "self" => (own, &names[1..]),
        "super" => (&own[..own.len().saturating_sub(above)], &names[above..]),
        child if modules.contains_key(&[own, &[child]].concat()) => (own, &names[..]),
        _ => return None,
    };
    let mut module = [base, rest].concat();
    while !module.is_empty() {
        if let Some(file) = modules.get(&module).copied() {
            return Some(file);
        }
        module.pop();
    }
    None
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The code with a space for each comment, text and character.
fn without_comments_and_texts(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_in_word = code.ends_with(is_of_word);
        match comment(rest)
            .or_else(|| raw_text(rest).filter(|_| !is_in_word))
            .or_else(|| quoted(rest))
        {
            Some(length) => {
                code.push(' ');
                rest = &rest[length..];
            }
            None => {
                code.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    code
}

/// The length of the comment that `text` begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let inside = text.strip_prefix("/*")?;
    let mut depth = 1;
    let mut at = 0;
    while depth > 0 {
        let next = inside[at..]
            .find("/*")
            .map_or(inside.len(), |next| at + next);
        let end = inside[at..].find("*/").map_or(inside.len(), |end| at + end);
        if next == end {
            return Some(text.len());
        }
        depth += if next < end { 1 } else { -1 };
        at = next.min(end) + 2;
    }
    Some(2 + at)
}

/// The length of the raw text that `text` begins with: `r"…"`, `br#"…"#` and their like.
fn raw_text(text: &str) -> Option<usize> {
    let raw = text
        .strip_prefix(['b', 'c'])
        .unwrap_or(text)
        .strip_prefix('r')?;
    let opened = raw.trim_start_matches('#');
    let hashes = &raw[..raw.len() - opened.len()];
    let inside = opened.strip_prefix('"')?;
    let end = format!("\"{hashes}");
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(text.len() - inside.len() + length)
}

/// The length of the text or the character that `text` begins with; a lifetime is none.
fn quoted(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inside = &text[1..];
    let first = inside.chars().next()?;
    if quote == '\'' && first != '\\' && !inside[first.len_utf8()..].starts_with('\'') {
        return None;
    }
    let mut is_escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return Some(at + 2),
            _ => {}
        }
    }
    Some(text.len())
}

/// The code without its modules under `#[cfg(test)]`.
fn without_test_modules(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        rest = &item[module_length(item).unwrap_or(0)..];
    }
    kept + rest
}

/// The length of the module that `item` begins with, after its attributes, if its code stands there.
fn module_length(item: &str) -> Option<usize> {
    let mut rest = item.trim_start();
    while rest.starts_with("#[") {
        rest = rest[bracketed(rest)..].trim_start();
    }
    if let Some(after) = rest.strip_prefix("pub") {
        let seen_by = if after.starts_with('(') {
            bracketed(after)
        } else {
            0
        };
        rest = after[seen_by..].trim_start();
    }
    let name = rest.strip_prefix("mod ")?;
    let body = name.trim_start_matches(is_of_word).trim_start();
    let is_here = body.starts_with('{');
    is_here.then(|| item.len() - body.len() + bracketed(body))
}

/// The length of `code` up to the bracket that closes the first one in it.
fn bracketed(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 1 => return at + 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// The paths that code imports, and those that it names where they are used. Of `use crate::a::{b::C, d}` also `crate::a` is one.
fn named_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut others = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let (before, import) = rest.split_at(at);
        let import = &import["use ".len()..];
        others.push_str(before);
        if before.ends_with(is_of_word) {
            others.push_str("use ");
            rest = import;
            continue;
        }
        let (tree, after) = import.split_once(';').unwrap_or((import, ""));
        flatten("", tree, &mut paths);
        rest = after;
    }
    others.push_str(rest);
    // Who may see an item is no import.
    let others = others
        .replace("(in crate::", "(in ")
        .replace("(in super::", "(in ");
    let words = others.split(|c: char| !is_of_word(c) && c != ':');
    let is_path = |word: &&str| {
        let roots = ["crate::", "super::", "self::"];
        roots.iter().any(|root| word.starts_with(root))
    };
    paths.extend(words.filter(is_path).map(str::to_owned));
    paths
}

/// Each path of a tree of imports, as `a::{b, c::d}` is `a::b` and `a::c::d`.
fn flatten(above: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let path = tree.split_once(" as ").map_or(tree, |(path, _)| path);
        if !path.is_empty() {
            paths.push(format!("{above}{path}"));
        }
        return;
    };
    let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
    if above.is_empty() && head.trim_end_matches("::").contains("::") {
        paths.push(head.to_owned());
    }
    let above = format!("{above}{head}");
    let mut depth = 0;
    let parts = group.split(|c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    for part in parts {
        flatten(&above, part, paths);
    }
}

/// The groups of files that import each other, directly or over others.
fn circles(imports: &Imports) -> BTreeSet<BTreeSet<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = imports
        .keys()
        .map(|file| (file.as_str(), reached_from(file, imports)))
        .collect();
    let mut circles = BTreeSet::new();
    for (file, found) in &reached {
        let others = found.iter().copied();
        let circle: BTreeSet<&str> = others
            .filter(|other| reached[other].contains(file))
            .collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    circles
}

/// The files that one imports, directly or over others.
fn reached_from<'i>(file: &str, imports: &'i Imports) -> BTreeSet<&'i str> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = vec![file];
    while let Some(file) = next.pop() {
        for imported in imports.get(file).into_iter().flatten() {
            if found.insert(imported.as_str()) {
                next.push(imported);
            }
        }
    }
    found
}

#[test]
fn only_paths_in_code_are_found() {
    let text = r##"
        //! use crate::of_comment;
        use super::{self as above, a::{B, C as D}, e}; /* use crate::of /* a nested */ comment; */
        pub(in crate::seen) use f::G; use crate::r::{s::T, u::{V, W}};
        fn h<'a>(of: &'a crate::i::J<super::K>) -> char {
            let texts = ("crate::of_text", r#"a "crate::of_raw_text""#, '"', '\'', b"\"crate::of_bytes");
            self::l::<M>(texts); reuse crate::n;
            'x'
        }
        #[cfg(test)]
        use crate::o;
        #[cfg(test)]
        #[expect(clippy::unwrap_used, reason = "}")]
        pub(crate) mod tests { use crate::of_tests; fn f() { { } } }
        fn last() -> crate::p::Q {}
    "##;
    let code = without_test_modules(&without_comments_and_texts(text));
    let mut paths = named_paths(&code);
    paths.sort();
    let expected = [
        "crate::i::J",
        "crate::n",
        "crate::o",
        "crate::p::Q",
        "crate::r::",
        "crate::r::s::T",
        "crate::r::u::V",
        "crate::r::u::W",
        "f::G",
        "self::l::",
        "super::K",
        "super::a::B",
        "super::a::C",
        "super::e",
        "super::self",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn files_that_import_each_other_are_found() {
    let file = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
    let files = [
        ("lib.rs", "pub mod room; pub mod other;"),
        (
            "room/mod.rs",
            "mod a; mod b; mod c; pub use a::A; pub use b::B;",
        ),
        ("room/a.rs", "use super::b::B; pub struct A;"),
        ("room/b.rs", "pub struct B { c: crate::room::c::C }"),
        ("room/c.rs", "use super::a; pub struct C;"),
        ("other.rs", "use crate::room::{A, B}; mod inner;"),
        ("other/inner.rs", "use std::fmt;"),
    ];
    let found = imports(&files.iter().map(file).collect::<Vec<_>>());
    assert_eq!(
        found["room/mod.rs"],
        BTreeSet::from(["room/a.rs", "room/b.rs"].map(str::to_owned))
    );
    assert_eq!(
        found["other.rs"],
        BTreeSet::from(["room/mod.rs".to_owned()])
    );
    let circle = ["room/a.rs", "room/b.rs", "room/c.rs"];
    assert_eq!(circles(&found), BTreeSet::from([BTreeSet::from(circle)]));
    // What is taken from the room as a whole is taken from all of its files.
    let mut files = files;
    files[2].1 = "use super::B; pub struct A;";
    let found = imports(&files.iter().map(file).collect::<Vec<_>>());
    let circle = ["room/a.rs", "room/b.rs", "room/c.rs", "room/mod.rs"];
    assert_eq!(circles(&found), BTreeSet::from([BTreeSet::from(circle)]));
}

#[test]
fn files_of_a_room_import_in_one_direction() {
    let root = repository().join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 20, "the source tree was found");
    let files: Vec<(String, String)> = paths
        .iter()
        .map(|path| {
            let file = path.strip_prefix(&root).unwrap().display().to_string();
            (file, std::fs::read_to_string(path).unwrap())
        })
        .filter(|(file, _)| file != "main.rs")
        .collect();
    let imports = imports(&files);
    let circles = circles(&imports);
    let mut wrong = Vec::new();
    for circle in &circles {
        let is_allowed = CIRCLES
            .iter()
            .any(|(files, _)| circle.iter().all(|file| files.contains(file)));
        if is_allowed {
            continue;
        }
        for file in circle {
            let imported = imports[*file].iter().map(String::as_str);
            let imported: Vec<&str> = imported.filter(|other| circle.contains(other)).collect();
            wrong.push(format!(
                "{file} is in a circle: it imports {}",
                imported.join(", ")
            ));
        }
    }
    for (files, reason) in CIRCLES {
        for file in files {
            if !circles.iter().any(|circle| circle.contains(file)) {
                wrong.push(format!(
                    "{file} is in no circle any more: take it out of the list ({reason})"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
