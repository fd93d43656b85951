//! The files of the page: one table of all of them, compiled into the program.

/// A file that is sent as it is.
#[derive(Debug)]
pub(super) struct Asset {
    /// Its path below `/assets/`.
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// Files of the folder `assets`, by their content type.
macro_rules! assets {
    ($($content_type:ident: [$($name:literal),+ $(,)?])+) => {
        &[$($(Asset {
            name: $name,
            content_type: $content_type,
            text: include_str!(concat!("assets/", $name)),
        }),+),+]
    };
}

/// The page itself, at the path `/`.
pub(super) static INDEX: Asset = Asset {
    name: "index.html",
    content_type: HTML,
    text: include_str!("assets/index.html"),
};

/// The files that the page loads.
pub(super) static ASSETS: &[Asset] = assets! {
    CSS: ["style.css"]
    SVG: ["icon.svg"]
    TEXT: ["vendor/codemirror.licence.txt"]
    SCRIPT: [
        "app.js",
        "chart/bars.js",
        "chart/frame.js",
        "chart/line.js",
        "chart/plot.js",
        "jobs/job-actions.js",
        "jobs/job-batches.js",
        "jobs/job-facts.js",
        "jobs/job-view.js",
        "jobs/jobs-view.js",
        "jobs/rewind-question.js",
        "page/badge.js",
        "page/connection.js",
        "page/dialog.js",
        "page/dom.js",
        "page/items.js",
        "page/lazy-part.js",
        "page/login.js",
        "page/notices.js",
        "page/result-table.js",
        "page/statement-run.js",
        "page/storage.js",
        "page/view.js",
        "pure/answers.js",
        "pure/batches.js",
        "pure/cell.js",
        "pure/changes.js",
        "pure/completion.js",
        "pure/eased.js",
        "pure/format.js",
        "pure/history.js",
        "pure/instants.js",
        "pure/job-state.js",
        "pure/lanes.js",
        "pure/lines.js",
        "pure/newest.js",
        "pure/place.js",
        "pure/points.js",
        "pure/rates.js",
        "pure/refresh-loop.js",
        "pure/reprocess.js",
        "pure/result.js",
        "pure/rewind.js",
        "pure/route.js",
        "pure/runs.js",
        "pure/scale.js",
        "pure/sql-tokens.js",
        "pure/sql-words.js",
        "pure/statement.js",
        "pure/time-range.js",
        "pure/timeline.js",
        "pure/wire.js",
        "query/complete.js",
        "query/error-view.js",
        "query/history-list.js",
        "query/live-result.js",
        "query/query-view.js",
        "query/result-chart.js",
        "query/result-view.js",
        "query/sql-language.js",
        "query/statement-editor.js",
        "query/wrong-mark.js",
        "runs/job-history.js",
        "runs/order-form.js",
        "runs/reprocess-view.js",
        "runs/run-actions.js",
        "runs/run-changes.js",
        "runs/run-view.js",
        "runs/run-work.js",
        "runs/runs-view.js",
        "runs/time-axis.js",
        "server/api.js",
        "server/jobs-feed.js",
        "server/names.js",
        "server/runs-feed.js",
        "tables/table-details.js",
        "tables/tables-view.js",
        "vendor/codemirror.js",
    ]
};

/// The file at a path below `/assets/`.
pub(super) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/console/assets")
    }

    /// The paths of all files below a folder, but for types and notes, which are for people who change the page.
    fn files(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_str().unwrap();
            if path.is_dir() {
                files(&path, found);
            } else if !name.ends_with(".d.ts") && !name.ends_with(".md") {
                let name = path.strip_prefix(folder()).unwrap();
                let parts: Vec<&str> = name.iter().map(|part| part.to_str().unwrap()).collect();
                found.insert(parts.join("/"));
            }
        }
    }

    /// The path that an import of a module names, below `/assets/`.
    fn resolve(module: &str, import: &str) -> String {
        let mut parts: Vec<&str> = module.split('/').collect();
        parts.pop();
        for part in import.split('/') {
            match part {
                "." => {}
                ".." => assert!(parts.pop().is_some(), "{module} imports {import}"),
                name => parts.push(name),
            }
        }
        parts.join("/")
    }

    /// The modules that a script imports, as it names them. A long list of names ends with a line of its own.
    fn imports(script: &str) -> impl Iterator<Item = &str> {
        script.lines().filter_map(|line| {
            let rest = line.strip_prefix("import ").or(line.strip_prefix("} "))?;
            let (_, rest) = rest.split_once("from \"")?;
            rest.split_once('"').map(|(name, _)| name)
        })
    }

    #[test]
    fn every_file_is_served() {
        let mut found = BTreeSet::new();
        files(&folder(), &mut found);
        assert!(found.remove(INDEX.name), "{found:?}");
        let served: BTreeSet<String> = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        assert_eq!(served, found);
        assert_eq!(served.len(), ASSETS.len(), "each file once");
    }

    #[test]
    fn the_content_type_is_that_of_the_name() {
        for asset in ASSETS {
            let content_type = match asset.name.rsplit_once('.') {
                Some((_, "css")) => CSS,
                Some((_, "js")) => SCRIPT,
                Some((_, "svg")) => SVG,
                Some((_, "txt")) => TEXT,
                _ => panic!("{} has no known content type", asset.name),
            };
            assert_eq!(asset.content_type, content_type, "{}", asset.name);
        }
    }

    #[test]
    fn every_import_is_served() {
        let mut reached = BTreeSet::new();
        let mut open = vec!["app.js".to_owned()];
        while let Some(name) = open.pop() {
            let asset = find(&name).unwrap_or_else(|| panic!("{name} is imported and not served"));
            if reached.insert(name) {
                open.extend(imports(asset.text).map(|import| resolve(asset.name, import)));
            }
        }
        let scripts = ASSETS.iter().filter(|asset| asset.content_type == SCRIPT);
        let unused: Vec<&str> = scripts
            .map(|asset| asset.name)
            .filter(|name| !reached.contains(*name))
            .collect();
        assert_eq!(unused, [] as [&str; 0], "served and not imported");
    }

    #[test]
    fn files_that_the_page_references_are_served() {
        let named: Vec<&str> = INDEX
            .text
            .split("\"/assets/")
            .skip(1)
            .filter_map(|rest| rest.split_once('"'))
            .map(|(name, _)| name)
            .collect();
        assert!(named.contains(&"app.js") && named.contains(&"style.css"));
        for name in named {
            assert!(find(name).is_some(), "{name}");
        }
    }
}
