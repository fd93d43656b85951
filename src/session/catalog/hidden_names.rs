//! Hidden names of tables: at a version or time, of the rows and changes of a statement that changes rows, and of the coverage of a
//! topic by its archive.

use crate::tables::delta::TimeTravel;

/// The hidden name of a table at a version or time, as `rewrite` writes it.
pub(crate) fn time_travel_name(table: &str, travel: TimeTravel) -> String {
    match travel {
        TimeTravel::Latest => table.to_owned(),
        TimeTravel::Version(version) => format!("{table}@version={version}"),
        TimeTravel::Timestamp(micros) => format!("{table}@timestamp={micros}"),
    }
}

/// The hidden name of a table's rows with their positions.
pub(crate) fn rows_name(table: &str) -> String {
    format!("{table}@rows")
}

/// The hidden name of the target for changes of a table's rows.
pub(crate) fn changes_name(table: &str) -> String {
    format!("{table}@changes")
}

/// The table behind such a name.
pub(crate) fn table_of_change(name: &str) -> Option<&str> {
    let table = name.strip_suffix("@rows");
    table.or_else(|| name.strip_suffix("@changes"))
}

/// The hidden name of the coverage of a table by its archive.
pub(crate) fn coverage_name(table: &str) -> String {
    format!("{table}@archive_coverage")
}

/// The table behind such a name.
pub(crate) fn table_of_coverage(name: &str) -> Option<&str> {
    name.strip_suffix("@archive_coverage")
}

/// The table behind a name, and its version or time.
pub(crate) fn split_time_travel(name: &str) -> (&str, TimeTravel) {
    if let Some((table, version)) = name.rsplit_once("@version=")
        && let Ok(version) = version.parse()
    {
        return (table, TimeTravel::Version(version));
    }
    if let Some((table, micros)) = name.rsplit_once("@timestamp=")
        && let Ok(micros) = micros.parse()
    {
        return (table, TimeTravel::Timestamp(micros));
    }
    (name, TimeTravel::Latest)
}
