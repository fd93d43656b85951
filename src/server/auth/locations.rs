//! Locations where users other than administrators may have tables, and the locations that are refused to them: the
//! data directory, and the tables that they may not name.

use std::path::{Component, Path, PathBuf};

use datafusion::sql::parser::{CreateExternalTable, Statement as SqlStatement};

use crate::error::{Error, ErrorKind, Result, Subject};
use crate::planner::{CreateTable, Statement, TableKind, TableOption};
use crate::server::auth::errors::refused;
use crate::session::TableLocation;

/// The places of a server.
#[derive(Debug, Default)]
pub(crate) struct AllowedLocations {
    /// At or below one of them a table must be.
    pub(crate) roots: Vec<String>,
    /// Where the server keeps its own things.
    pub(crate) data_dir: Option<String>,
}

impl AllowedLocations {
    /// Refuses a table at a place where the caller may have none. `own` are the places of the caller, if they are fewer
    /// than those of the server.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`], with the place.
    pub(crate) fn check(&self, statement: &Statement, own: Option<&[String]>) -> Result<()> {
        match statement {
            Statement::CreateTable(table) => self.check_table(table, own),
            Statement::Sql(sql) => match sql.as_ref() {
                SqlStatement::CreateExternalTable(table) => self.check_files(table, own),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn is_within(&self, text: &str, own: Option<&[String]>) -> Result<()> {
        is_within(text, &self.roots)?;
        if let Some(own) = own {
            is_within(text, own)?;
        }
        let place = ResolvedLocation::of_location(text);
        let data_dir = self.data_dir.as_deref().and_then(ResolvedLocation::of);
        match place.zip(data_dir) {
            Some((place, data_dir)) if place.overlaps(&data_dir) => {
                Err(refused(format!("'{text}' is within the server's own data"))
                    .about(Subject::location(text)))
            }
            _ => Ok(()),
        }
    }

    /// A table's place must be below a root, and its options must not reach elsewhere: not to other stores or registries,
    /// and not to files of the server.
    fn check_table(&self, table: &CreateTable, own: Option<&[String]>) -> Result<()> {
        let place = match table.kind {
            TableKind::Delta => self.is_within(&table.location.value, own),
            TableKind::Kafka => brokers(table).and_then(|brokers| {
                brokers
                    .iter()
                    .try_for_each(|broker| self.is_within(&format!("kafka://{broker}"), own))
            }),
        };
        place.map_err(|error| error.at(table.location.span))?;
        for option in &table.options {
            if !is_harmless(option) {
                return Err(
                    refused(format!("option '{}' is for administrators", option.key))
                        .at(option.key_span),
                );
            }
        }
        Ok(())
    }

    /// A table over files, as [`Self::check_table`].
    fn check_files(&self, table: &CreateExternalTable, own: Option<&[String]>) -> Result<()> {
        let mut options = table.options.iter();
        if let Some((key, _)) = options.find(|(key, _)| !key.starts_with("format.")) {
            return Err(refused(format!("option '{key}' is for administrators"))
                .about(Subject::option(key)));
        }
        let mut locations = table.locations.iter();
        locations.try_for_each(|location| self.is_within(location, own))
    }
}

/// Refuses a table at the location, or of the topic, of a table that the caller may not name: `hidden` are the places
/// of such tables.
///
/// # Errors
///
/// [`ErrorKind::Permission`]; it does not name the other table.
pub(crate) fn check_hidden(statement: &Statement, hidden: &[TableLocation]) -> Result<()> {
    let check = |place: TableLocation| match is_hidden(&place, hidden) {
        true => {
            let (TableLocation::Files(text) | TableLocation::Topic(text)) = place;
            Err(refused(format!(
                "'{text}' is the location of a table that you may not use"
            ))
            .about(Subject::location(text)))
        }
        false => Ok(()),
    };
    match statement {
        Statement::CreateTable(table) => {
            let text = table.location.value.clone();
            let checked = check(match table.kind {
                TableKind::Delta => TableLocation::Files(text),
                TableKind::Kafka => TableLocation::Topic(text),
            });
            checked.map_err(|error| error.at(table.location.span))
        }
        Statement::Sql(sql) => match sql.as_ref() {
            SqlStatement::CreateExternalTable(table) => table
                .locations
                .iter()
                .try_for_each(|location| check(TableLocation::Files(location.clone()))),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether a place is that of a hidden table, or below or above it. A place that cannot be resolved counts as one.
pub(crate) fn is_hidden(place: &TableLocation, hidden: &[TableLocation]) -> bool {
    match place {
        // The same topic has many names for its brokers.
        TableLocation::Topic(_) => hidden.contains(place),
        TableLocation::Files(text) => {
            let Some(place) = ResolvedLocation::of_location(text) else {
                return true;
            };
            hidden.iter().any(|hidden| match hidden {
                TableLocation::Files(other) => {
                    ResolvedLocation::of(other).is_none_or(|other| other.overlaps(&place))
                }
                TableLocation::Topic(_) => false,
            })
        }
    }
}

/// Whether a table, declared by a caller with limited tables, lies at the location of another table that `table_filter`
/// leaves out: the table was declared before the other one, or before the other one was hidden. `places_of` gives the
/// locations of the tables of some names.
pub(crate) fn is_closed(
    name: &str,
    places_of: impl Fn(&dyn Fn(&str) -> bool) -> Vec<TableLocation>,
    may_name: impl Fn(&str) -> bool,
) -> bool {
    let own = places_of(&|other: &str| other == name);
    let hidden = places_of(&|other: &str| other != name && !may_name(other));
    own.iter().any(|place| is_hidden(place, &hidden))
}

fn brokers(table: &CreateTable) -> Result<Vec<&str>> {
    let is_brokers = |option: &&TableOption| {
        let key = option.key.to_lowercase();
        key == "kafka.bootstrap.servers" || key == "bootstrap.servers"
    };
    let brokers = table.options.iter().find(is_brokers);
    let brokers = brokers.ok_or_else(|| {
        refused(
            "the table does not name its brokers, and the server's own are for administrators"
                .to_owned(),
        )
    })?;
    Ok(brokers.value.value.split(',').map(str::trim).collect())
}

/// Whether an option stays within the table: no environment of the server, no other address, no file.
fn is_harmless(option: &TableOption) -> bool {
    const OF_KAFKA: [&str; 7] = [
        "kafka.bootstrap.servers",
        "kafka.isolation.level",
        "kafka.security.protocol",
        "kafka.sasl.mechanism",
        "kafka.sasl.mechanisms",
        "kafka.sasl.password",
        "kafka.sasl.username",
    ];
    let key = option.key.to_lowercase();
    let is_known = match key.as_str() {
        _ if key.starts_with("kafka.") => OF_KAFKA.contains(&key.as_str()),
        _ if key.starts_with("aws.") => false,
        _ => !key.ends_with("url"),
    };
    is_known && !option.value.value.contains("${")
}

/// Whether a place is one of the roots or below it, however it is written.
fn is_within(place: &str, roots: &[String]) -> Result<()> {
    let outside = || {
        let error = Error::new(
            ErrorKind::Permission,
            format!("'{place}' is not an allowed location for tables"),
        )
        .about(Subject::location(place));
        match roots.is_empty() {
            true => {
                error.with_help("the server allows none: only administrators can create tables")
            }
            false => error.with_help(format!("tables may be below {}", roots.join(", "))),
        }
    };
    if place.contains("${") {
        return Err(refused(
            "the server's environment is for administrators".to_owned(),
        ));
    }
    // A text that is decoded once more on its way to the files names another place than the one checked here.
    if place.contains(['%', '\\']) || place.chars().any(char::is_control) {
        return Err(refused(format!(
            "'{place}' has characters that only administrators may use in locations"
        ))
        .about(Subject::location(place)));
    }
    let place = ResolvedLocation::of_location(place).ok_or_else(outside)?;
    match roots
        .iter()
        .filter_map(|root| ResolvedLocation::of(root))
        .any(|root| place.is_below(&root))
    {
        true => Ok(()),
        false => Err(outside()),
    }
}

/// A place without `.` and `..`, and where it is a folder of this machine, without links.
#[derive(Debug, PartialEq, Eq)]
enum ResolvedLocation {
    Folder(PathBuf),
    /// Scheme, host with port, segments of the path.
    Url(String, String, Vec<String>),
}

/// A location up to the folder in which a pattern of file names begins: `lake/a*/x.parquet` may be any file of `lake`.
fn before_pattern(location: &str) -> &str {
    const PATTERN: [char; 3] = ['*', '?', '['];
    // The host of a URL may have brackets.
    let path = match location.find("://").map(|at| at + "://".len()) {
        Some(host) => location[host..]
            .find('/')
            .map_or(location.len(), |at| host + at),
        None => 0,
    };
    let Some(pattern) = location[path..].find(PATTERN).map(|at| path + at) else {
        return location;
    };
    match location[..pattern].rfind('/') {
        Some(0) => "/",
        Some(folder) => &location[..folder],
        None => ".",
    }
}

impl ResolvedLocation {
    /// The place of a location that a user declares: it may have a pattern.
    fn of_location(text: &str) -> Option<Self> {
        Self::of(before_pattern(text))
    }

    fn of(text: &str) -> Option<Self> {
        match url::Url::parse(text) {
            Ok(url) if url.scheme() == "file" => {
                Some(Self::Folder(real(&url.to_file_path().ok()?)?))
            }
            Ok(url) => {
                let port = url
                    .port()
                    .map_or_else(String::new, |port| format!(":{port}"));
                let host = format!("{}{port}", url.host_str().unwrap_or_default());
                let segments = url.path().split('/').filter(|segment| !segment.is_empty());
                let segments: Vec<String> = segments.map(str::to_owned).collect();
                let climbs = segments.iter().any(|segment| {
                    let segment = segment
                        .to_lowercase()
                        .replace("%2e", ".")
                        .replace("%2f", "/");
                    segment == ".." || segment.contains('/')
                });
                let scheme = match url.scheme() {
                    "s3a" => "s3",
                    other => other,
                };
                (!climbs).then(|| Self::Url(scheme.to_owned(), host, segments))
            }
            Err(_) => Some(Self::Folder(real(Path::new(text))?)),
        }
    }

    /// Whether one of the two is the other, or below it.
    fn overlaps(&self, other: &Self) -> bool {
        self.is_below(other) || other.is_below(self)
    }

    fn is_below(&self, root: &Self) -> bool {
        match (self, root) {
            (Self::Folder(place), Self::Folder(root)) => place.starts_with(root),
            (Self::Url(scheme, host, path), Self::Url(of, at, root)) => {
                scheme == of && host == at && path.starts_with(root)
            }
            _ => false,
        }
    }
}

/// The path from the root of the file system, its links followed as far as it exists. It must not climb where it does not.
fn real(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut known = path.as_path();
    let mut rest = Vec::new();
    loop {
        if let Ok(mut real) = known.canonicalize() {
            real.extend(rest.into_iter().rev());
            return Some(real);
        }
        match known.components().next_back()? {
            Component::Normal(name) => rest.push(name),
            _ => return None,
        }
        known = known.parent()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{ParsedStatement, Script, parse_statement};

    fn parsed(sql: &str) -> ParsedStatement {
        parse_statement(&Script::new("t", sql).split().unwrap().remove(0)).unwrap()
    }

    fn places(roots: &[String]) -> AllowedLocations {
        AllowedLocations {
            roots: roots.to_vec(),
            data_dir: None,
        }
    }

    #[test]
    fn tables_of_others_than_administrators_are_below_the_roots() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("lake");
        std::fs::create_dir(&at).unwrap();
        let outside = folder.path().join("private");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, at.join("link")).unwrap();
        let lake = at.display().to_string();
        let roots = [
            lake.clone(),
            "s3://bucket/lake".to_owned(),
            "kafka://broker:9092".to_owned(),
        ];
        let delta = |place: &str| {
            format!("CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION '{place}'")
        };
        let files_at =
            |place: &str| format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{place}'");
        let kafka = |options: &str| {
            format!(
                "CREATE EXTERNAL TABLE t (a INT) STORED AS KAFKA LOCATION 't' OPTIONS ('format' 'json'{options})"
            )
        };
        for (sql, may) in [
            (delta(&format!("{lake}/a")), true),
            (delta(&format!("{lake}/a/../b")), false),
            (delta(&format!("{lake}/../private")), false),
            (delta(&format!("{lake}/link/a")), false),
            (delta(&format!("file://{lake}/a")), true),
            (delta(&format!("file://{lake}/%2e%2e/private")), false),
            (delta(&format!("{lake}er")), false),
            (delta("/etc"), false),
            (files_at(&format!("{lake}/a/*.csv")), true),
            (files_at(&format!("{lake}/*/x.csv")), true),
            (files_at(&format!("{lake}*/x.csv")), false),
            (files_at(&format!("{lake}/link/*.csv")), false),
            (files_at("*/x.csv"), false),
            (files_at("/*/x.csv"), false),
            (files_at("s3://bucket/*/x.csv"), false),
            (delta("relative"), false),
            (delta("s3://bucket/lake/a"), true),
            (delta("s3://bucket/lake"), true),
            (delta("s3://bucket/lakes"), false),
            (delta("s3://bucket/lake/../other"), false),
            (delta("s3://bucket/lake/%2E%2e/other"), false),
            (delta("s3://other/lake/a"), false),
            (delta(&format!("{lake}/${{HOME}}")), false),
            (kafka(", 'kafka.bootstrap.servers' 'broker:9092'"), true),
            (kafka(", 'kafka.bootstrap.servers' 'broker:9093'"), false),
            (
                kafka(", 'kafka.bootstrap.servers' 'broker:9092,evil:9092'"),
                false,
            ),
            (kafka(", 'kafka.bootstrap.servers' '${KAFKA}'"), false),
            (kafka(""), false),
            (
                kafka(
                    ", 'kafka.bootstrap.servers' 'broker:9092', 'kafka.plugin.library.paths' '/x.so'",
                ),
                false,
            ),
            (
                kafka(", 'kafka.bootstrap.servers' 'broker:9092', 'avro.registry.url' 'http://x'"),
                false,
            ),
            (
                kafka(
                    ", 'kafka.bootstrap.servers' 'broker:9092', 'kafka.sasl.password' '${SECRET}'",
                ),
                false,
            ),
            (
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
                false,
            ),
        ] {
            let statement = parsed(&sql);
            let checked = places(&roots).check(&statement.statement, None);
            assert_eq!(checked.is_ok(), may, "{sql}: {checked:?}");
            assert!(
                places(&[]).check(&statement.statement, None).is_err(),
                "{sql}"
            );
        }
    }

    fn delta(place: &str) -> ParsedStatement {
        parsed(&format!(
            "CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION '{place}'"
        ))
    }

    fn files(of: &str, place: &str) -> ParsedStatement {
        parsed(&format!(
            "CREATE EXTERNAL TABLE t STORED AS {of} LOCATION '{place}'"
        ))
    }

    #[test]
    fn the_data_directory_is_reserved_for_any_roots() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display().to_string();
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("catalog")).unwrap();
        std::os::unix::fs::symlink(&data, folder.path().join("link")).unwrap();
        let places = AllowedLocations {
            roots: vec![at.clone()],
            data_dir: Some(data.display().to_string()),
        };
        for place in [
            "/data",
            "/data/",
            "//data/catalog",
            "/data/jobs",
            "/data/tables/x",
            "/link/tables",
            "",
            "/",
        ] {
            let place = format!("{at}{place}");
            assert!(
                places.check(&delta(&place).statement, None).is_err(),
                "{place}"
            );
            assert!(
                places.check(&files("CSV", &place).statement, None).is_err(),
                "{place}"
            );
        }
        for place in ["/database", "/other/data"] {
            let place = format!("{at}{place}");
            assert!(
                places.check(&delta(&place).statement, None).is_ok(),
                "{place}"
            );
        }
    }

    #[test]
    fn a_user_may_have_fewer_places_than_the_server() {
        let places = places(&["s3://bucket/lake".to_owned(), "kafka://b:9092".to_owned()]);
        let own = [
            "s3://bucket/lake/ann".to_owned(),
            "s3://other/ann".to_owned(),
        ];
        for (place, may) in [
            ("s3://bucket/lake/ann/t", true),
            ("s3://bucket/lake/bob/t", false),
            ("s3://other/ann/t", false),
        ] {
            let checked = places.check(&delta(place).statement, Some(&own));
            assert_eq!(checked.is_ok(), may, "{place}");
        }
    }

    #[test]
    fn the_place_of_a_hidden_table_is_hidden_in_every_spelling() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display().to_string();
        let secret = folder.path().join("lake/secret");
        std::fs::create_dir_all(secret.join("_delta_log")).unwrap();
        std::os::unix::fs::symlink(&secret, folder.path().join("lake/link")).unwrap();
        let hidden = [
            TableLocation::Files(format!("file://{}/", secret.display())),
            TableLocation::Files("s3://bucket/lake/secret/".to_owned()),
            TableLocation::Topic("secrets".to_owned()),
        ];
        for place in [
            format!("{at}/lake/secret"),
            format!("{at}/lake/secret/"),
            format!("{at}/lake//secret"),
            format!("{at}/lake/./secret"),
            format!("{at}/lake/link"),
            format!("{at}/lake/link/part=1"),
            format!("file://{at}/lake/secret"),
            format!("file://{at}/lake/link/"),
            format!("{at}/lake/secret/_delta_log"),
            format!("{at}/lake"),
            format!("{at}/lake/secret/part-0.parquet"),
            format!("{at}/lake/[s]ecret/*.parquet"),
            format!("{at}/lake/s?cret/x.parquet"),
            format!("{at}/lake/secret/*.parquet"),
            format!("{at}/lake/secret*"),
            format!("{at}/lake/*/*.parquet"),
            format!("{at}/*/secret/x.parquet"),
            format!("file://{at}/lake/[s]ecret/x.parquet"),
            "/*/x.parquet".to_owned(),
            "s3://bucket/lake/s*/x.parquet".to_owned(),
            "s3://bucket/lake/secret".to_owned(),
            "s3://bucket/lake//secret/x.csv".to_owned(),
            "s3://bucket/lake/".to_owned(),
            "s3a://bucket/lake/secret".to_owned(),
            "S3://bucket/lake/secret".to_owned(),
        ] {
            for statement in [
                delta(&place),
                files("PARQUET", &place),
                files("CSV", &place),
            ] {
                assert!(
                    check_hidden(&statement.statement, &hidden).is_err(),
                    "{place}"
                );
            }
        }
        for place in [
            format!("{at}/lake/open"),
            format!("{at}/lake/open/*.parquet"),
            "s3://bucket/lake/secrets".to_owned(),
        ] {
            assert!(
                check_hidden(&delta(&place).statement, &hidden).is_ok(),
                "{place}"
            );
        }
        let topic = |topic: &str| {
            parsed(&format!(
                "CREATE EXTERNAL TABLE t (a INT) STORED AS KAFKA LOCATION '{topic}' OPTIONS ('format' 'raw')"
            ))
        };
        assert!(check_hidden(&topic("secrets").statement, &hidden).is_err());
        assert!(check_hidden(&topic("others").statement, &hidden).is_ok());
    }

    #[test]
    fn tables_declared_before_a_hidden_table_are_closed() {
        let files = |place: &str| TableLocation::Files(place.to_owned());
        let named = |name: &str, place| (name.to_owned(), place);
        let all = [
            named("open_first", files("s3://bucket/lake/secret/")),
            named("open_above", files("s3://bucket/lake")),
            named("open_other", files("s3://bucket/other")),
            named("open_topic", TableLocation::Topic("secrets".to_owned())),
            named("theirs", files("s3://bucket/theirs")),
            named("secret", files("s3a://bucket/lake/secret")),
            named("secrets", TableLocation::Topic("secrets".to_owned())),
        ];
        let places_of = |is_wanted: &dyn Fn(&str) -> bool| -> Vec<TableLocation> {
            let wanted = all.iter().filter(|(name, _)| is_wanted(name));
            wanted.map(|(_, place)| place.clone()).collect()
        };
        let closed = |declared: &[&str], hidden: &[&str]| {
            let may_name = |other: &str| !hidden.contains(&other);
            let mut closed: Vec<String> = declared.iter().map(ToString::to_string).collect();
            closed.retain(|name| is_closed(name, places_of, may_name));
            closed.sort();
            closed
        };
        let mine = ["open_first", "open_above", "open_other", "open_topic"];
        let hidden = ["secret", "secrets", "theirs"];
        assert_eq!(
            closed(&mine, &hidden),
            ["open_above", "open_first", "open_topic"]
        );
        // An administrator who declares a table there may grant it.
        assert_eq!(closed(&["open_other"], &hidden), [] as [&str; 0]);
        // A user who may name the other table reads no more than that.
        assert_eq!(closed(&mine, &["theirs"]), [] as [&str; 0]);
        // A table that is hidden itself, below a view, is not closed by its own place.
        assert_eq!(closed(&["theirs"], &hidden), [] as [&str; 0]);
    }
}
