//! Pages: their links lead to files and headings that are there, and the programs that they show are those that tests run.

use std::path::{Path, PathBuf};

use crate::support::repository;

/// Where pages are.
const FOLDERS: [&str; 5] = ["", "docker", "docs", "docs/adr", "proto"];

fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        let files = std::fs::read_dir(repository().join(folder)).unwrap();
        let files = files.map(|file| file.unwrap().path());
        found.extend(files.filter(|file| file.extension().is_some_and(|of| of == "md")));
    }
    found
}

/// The lines outside of blocks of code, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut is_code = false;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            found.push((number, line));
        }
    }
    found
}

/// Where the links of a line lead. What stands in code spans is no link.
fn targets(line: &str) -> Vec<String> {
    let line = line.split('`').step_by(2).collect::<String>();
    let behind = line.split("](").skip(1);
    let targets = behind.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
    targets.filter(|target| !target.contains(' ')).collect()
}

/// The anchors of the headings of a page.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).into_iter().filter_map(|(_, line)| {
        line.trim_start_matches('#')
            .strip_prefix(' ')
            .filter(|_| line.starts_with('#'))
    });
    let anchor = |heading: &str| {
        let lower = heading.to_lowercase();
        let kept = lower
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c })
            .collect::<String>()
    };
    headings.map(anchor).collect()
}

/// The links of a page that lead nowhere, with their lines.
fn broken_links(page: &Path, text: &str) -> Vec<(usize, String)> {
    let leads_somewhere = |target: &str| {
        if target.contains("://") {
            return true;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let file = match file {
            "" => page.to_owned(),
            file => page.parent().unwrap().join(file),
        };
        if anchor.is_empty() || file.extension().is_none_or(|of| of != "md") {
            return file.exists();
        }
        let text = match file == page {
            true => Ok(text.to_owned()),
            false => std::fs::read_to_string(&file),
        };
        text.is_ok_and(|text| anchors(&text).iter().any(|known| known == anchor))
    };
    let mut broken = Vec::new();
    for (number, line) in prose(text) {
        let targets = targets(line).into_iter();
        broken.extend(
            targets
                .filter(|target| !leads_somewhere(target))
                .map(|target| (number, target)),
        );
    }
    broken
}

#[test]
fn broken_links_are_found() {
    let text = "# One `word` more\n[a](#one-word-more) [b](README.md) [c](#two)\n```\n[d](d.md)\n```\n`[e](e.md)` [f](f.md)\n\
                [g](https://g.invalid/g.md) [h](README.md#start) [i](README.md#end)\n";
    let broken = broken_links(&repository().join("page.md"), text);
    let expected = [(2, "#two"), (6, "f.md"), (7, "README.md#end")];
    assert_eq!(
        broken,
        expected.map(|(line, target)| (line, target.to_owned()))
    );
}

#[test]
fn links_of_pages_lead_to_files_and_headings() {
    let pages = pages();
    assert!(pages.len() > 40, "{pages:?}");
    let mut broken = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        let name = page
            .strip_prefix(repository())
            .unwrap()
            .display()
            .to_string();
        let found = broken_links(&page, &text).into_iter();
        broken.extend(found.map(|(line, target)| format!("{name}:{line}: {target}")));
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The integration tests of jobs run them as they are in their files.
#[test]
fn pages_show_the_programs_that_are_tested() {
    let read = |file: &str| std::fs::read_to_string(repository().join(file)).unwrap();
    let page = read("docs/reprocessing.md");
    for (language, file) in [
        ("python", "tests/python/newest_rows.py"),
        ("java", "tests/jvm/NewestRows.java"),
    ] {
        let block = format!("```{language}\n{}```\n", read(file));
        assert!(page.contains(&block), "the page lacks {file} as it is");
    }
}
