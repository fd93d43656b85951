//! `'archive'` and the options `'archive.…'` of a Kafka table: which Delta table keeps its past, and what was said of that table's
//! columns.
//!
//! Only what was typed; which columns that gives is decided with the Delta table at hand (`tables::archive`).

use crate::error::{Error, Result, Subject};
use crate::formats::text::zone::Zone;
use crate::tables::kafka::metadata_key::MetadataKey;
use crate::tables::options::{self, Options};

/// The options about an archive's columns, all of which need `'archive'`: each metadata key has one.
const COLUMN_OPTIONS: [(MetadataKey, &str); 8] = [
    (MetadataKey::Topic, "archive.topic"),
    (MetadataKey::Partition, "archive.partition"),
    (MetadataKey::Offset, "archive.offset"),
    (MetadataKey::Timestamp, "archive.timestamp"),
    (MetadataKey::TimestampType, "archive.timestamp_type"),
    (MetadataKey::Key, "archive.key"),
    (MetadataKey::Value, "archive.value"),
    (MetadataKey::Headers, "archive.headers"),
];

const EVENT_TIME: &str = "archive.event_time";
const ZONE: &str = "archive.timezone";
const GAPS: &str = "archive.gaps";

/// The word that switches an option off.
const NONE: &str = "none";

/// The name of the option about the archive's column of a metadata key.
pub(crate) fn option_of(key: MetadataKey) -> &'static str {
    let mut options = COLUMN_OPTIONS.iter();
    let found = options.find(|(of, _)| *of == key);
    found.map_or("archive", |(_, name)| *name)
}

/// Which column of an archive gives a part of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveColumn {
    /// The column of this name.
    Named(String),
    /// None: archived records have NULL there.
    None,
}

/// By which columns of an archive a range of event time is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveEventTime {
    /// By the column that is named as the table's event time column, if there is one of the same type.
    Unsaid,
    /// By none: all files are read.
    None,
    /// By these columns: one that is the event time, or several that together follow from it, from the year on.
    Columns(Vec<String>),
}

/// The archive of a Kafka table, as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOptions {
    table: String,
    columns: Vec<(MetadataKey, ArchiveColumn)>,
    event_time: ArchiveEventTime,
    zone: Option<Zone>,
    accepts_gaps: bool,
}

impl ArchiveOptions {
    /// What the options of a table say of its archive; `None`: it has none.
    ///
    /// # Errors
    ///
    /// An option about an archive of a table that names none, a name that is empty, `'none'` for a column that is needed, a time
    /// zone that does not exist.
    pub(crate) fn from_options(options: &Options) -> Result<Option<Self>> {
        let Some(table) = options.get("archive") else {
            let of_archive = options.keys().find(|key| key.starts_with("archive."));
            return match of_archive {
                None => Ok(None),
                Some(option) => Err(Error::invalid(format!(
                    "option '{option}' is about an archive, and the table names none"
                ))
                .about(Subject::UnknownOption(option.clone()))
                .with_help(
                    "name the Delta table that keeps the topic's past: 'archive' 'visits_raw'",
                )),
            };
        };
        check_name("archive", table)?;
        let mut columns = Vec::new();
        for (key, option) in COLUMN_OPTIONS {
            let Some(value) = options.get(option) else {
                continue;
            };
            check_name(option, value)?;
            let column = match value.eq_ignore_ascii_case(NONE) {
                false => ArchiveColumn::Named(value.clone()),
                true if matches!(key, MetadataKey::Partition | MetadataKey::Offset) => {
                    return Err(Error::invalid(format!(
                        "option '{option}' does not accept 'none': an archive is read by partition and offset"
                    ))
                    .about(Subject::option(option))
                    .with_help("name the column that has it"));
                }
                true => ArchiveColumn::None,
            };
            columns.push((key, column));
        }
        let event_time = match options.get(EVENT_TIME) {
            None => ArchiveEventTime::Unsaid,
            Some(value) if value.trim().eq_ignore_ascii_case(NONE) => ArchiveEventTime::None,
            Some(value) => {
                let names: Vec<String> = value
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect();
                for name in &names {
                    check_name(EVENT_TIME, name)?;
                }
                ArchiveEventTime::Columns(names)
            }
        };
        let zone = options.get(ZONE).map(|zone| {
            Zone::find(zone).ok_or_else(|| {
                Error::invalid(format!("option '{ZONE}' does not accept '{zone}'"))
                    .about(Subject::option(ZONE))
                    .with_help("use UTC, an offset like +02:00, or an IANA name like Europe/Paris")
            })
        });
        Ok(Some(Self {
            table: table.clone(),
            columns,
            event_time,
            zone: zone.transpose()?,
            accepts_gaps: options::choice(
                options,
                GAPS,
                &[("stop", false), ("accept", true)],
                false,
            )?,
        }))
    }

    /// The name of the Delta table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What was said of the archive's column for a metadata key.
    pub fn column(&self, key: MetadataKey) -> Option<&ArchiveColumn> {
        let mut columns = self.columns.iter();
        columns.find(|(of, _)| *of == key).map(|(_, column)| column)
    }

    /// By which columns ranges of event time are looked up.
    pub fn event_time(&self) -> &ArchiveEventTime {
        &self.event_time
    }

    /// Whether a job takes offsets that are missing between rows of the archive for control records and compacted ones, also where no
    /// job has recorded that it has read them.
    pub fn accepts_gaps(&self) -> bool {
        self.accepts_gaps
    }

    /// The zone in which the columns follow from the event time, if one was named.
    pub(crate) fn zone(&self) -> Option<Zone> {
        self.zone
    }
}

fn check_name(option: &str, name: &str) -> Result<()> {
    match name.trim().is_empty() {
        false => Ok(()),
        true => Err(Error::invalid(format!("option '{option}' has no name"))
            .about(Subject::option(option))
            .with_help("leave the option out, or name a column or table")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Option<ArchiveOptions>> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ArchiveOptions::from_options(&options.collect())
    }

    #[test]
    fn options_say_which_columns_there_are() {
        assert_eq!(read(&[("format", "json")]).unwrap(), None);
        let plain = read(&[("archive", "visits_raw")]).unwrap().unwrap();
        assert_eq!(plain.table(), "visits_raw");
        assert_eq!(plain.event_time(), &ArchiveEventTime::Unsaid);
        assert_eq!(plain.column(MetadataKey::Offset), None);
        let said = read(&[
            ("archive", "visits_raw"),
            ("archive.offset", "o"),
            ("archive.key", "NONE"),
            ("archive.event_time", "year, month , day"),
            ("archive.timezone", "Europe/Paris"),
        ]);
        let said = said.unwrap().unwrap();
        let offset = ArchiveColumn::Named("o".to_owned());
        assert_eq!(said.column(MetadataKey::Offset), Some(&offset));
        assert_eq!(said.column(MetadataKey::Key), Some(&ArchiveColumn::None));
        let parts = ["year", "month", "day"].map(str::to_owned).to_vec();
        assert_eq!(said.event_time(), &ArchiveEventTime::Columns(parts));
        assert!(said.zone().is_some());
        let off = read(&[("archive", "a"), ("archive.event_time", "None")]);
        assert_eq!(off.unwrap().unwrap().event_time(), &ArchiveEventTime::None);
        assert!(!plain.accepts_gaps());
        let gaps = read(&[("archive", "a"), ("archive.gaps", "accept")]);
        assert!(gaps.unwrap().unwrap().accepts_gaps());
    }

    #[test]
    fn options_that_say_nothing_are_refused() {
        for (options, said) in [
            (vec![("archive.offset", "o")], "names none"),
            (vec![("archive", " ")], "'archive' has no name"),
            (
                vec![("archive", "a"), ("archive.partition", "none")],
                "does not accept 'none'",
            ),
            (
                vec![("archive", "a"), ("archive.event_time", "year,,day")],
                "'archive.event_time' has no name",
            ),
            (
                vec![("archive", "a"), ("archive.timezone", "Mars")],
                "does not accept 'Mars'",
            ),
        ] {
            let error = read(&options).expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
