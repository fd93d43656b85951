//! What a statement orders: a run over a range of a job.

use std::fmt;

use super::asked_range::{AskedRange, OffsetBounds, SelectedRows};
use super::offset_set::OffsetSet;
use super::spec::{EmitRows, LateRows, RunOptions};
use super::time_range::TimeRange;
use crate::core::jobs::NamedOffsets;
use crate::core::jobs::startup::{StartNameFault, by_table, table_of};
use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};

/// A run that a statement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOrder {
    /// The name of the job.
    pub job: String,
    /// The part of the past.
    pub asked: AskedText,
    /// `EMIT ALL` or `EMIT CHANGED`, if the statement says so.
    pub emit: Option<EmitRows>,
    /// `'run_id'`, if the statement gives one.
    pub run_id: Option<String>,
    /// The other options that the statement gives.
    pub options: GivenRunOptions,
}

/// The part of the past that a statement names: the rows that are in each of the ranges that it has, of which there is at least one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AskedText {
    /// `FROM … TO …`: by event time.
    pub time: Option<TimeRange>,
    /// `OFFSETS FROM … TO …`, by the names that the statement gives to tables.
    pub offsets: Option<OffsetBounds>,
    /// `FOR (…)`: the text of the query without the brackets, and the offsets that it gave, by the names that it gives to tables.
    pub rows: Option<SelectedRows>,
}

impl AskedText {
    /// The range with the names of tables, where the statement has those of topics, as Spark writes them. `tables` are the sources of
    /// the job, each with its topic if it has one.
    ///
    /// # Errors
    ///
    /// A name that is not that of one source.
    pub fn by_table(self, tables: &[(&str, Option<&str>)]) -> Result<AskedRange> {
        let named = |offsets: NamedOffsets| {
            by_table(offsets, tables).map_err(|fault| name_error(fault, "OFFSETS", tables))
        };
        let offsets = match self.offsets {
            Some(OffsetBounds { from, to }) => Some(OffsetBounds {
                from: named(from)?,
                to: named(to)?,
            }),
            None => None,
        };
        let rows = match self.rows {
            Some(SelectedRows { query, offsets }) => {
                let ranges = offsets.ranges().map(|(name, partition, range)| {
                    let table = table_of(name.to_owned(), tables)
                        .map_err(|fault| name_error(fault, "FOR", tables))?;
                    Ok((table, partition, range.from..range.to))
                });
                let offsets = OffsetSet::of(ranges.collect::<Result<Vec<_>>>()?);
                Some(SelectedRows { query, offsets })
            }
            None => None,
        };
        Ok(AskedRange {
            time: self.time,
            offsets,
            rows,
        })
    }
}

/// The error for a name in the part of a statement that is not that of one source.
fn name_error(fault: StartNameFault, part: &str, tables: &[(&str, Option<&str>)]) -> Error {
    match fault {
        StartNameFault::Unknown(name) => {
            let error = Error::invalid(format!(
                "{part} names '{name}', and the job reads no table or topic of this name"
            ))
            .about(Subject::text(&name));
            let topics = tables.iter().filter(|(_, topic)| topic.is_some());
            let known: Vec<&str> = topics.map(|(table, _)| *table).collect();
            match closest(&name, known.iter().copied()) {
                Some(near) => error.with_help(format!("did you mean '{near}'?")),
                None if known.is_empty() => error.with_help("it reads no topic"),
                None => error.with_help(format!("it reads {}", known.join(", "))),
            }
        }
        StartNameFault::Ambiguous { topic, tables } => Error::invalid(format!(
            "{part} names topic '{topic}', which several tables read: {}",
            tables.join(", ")
        ))
        .about(Subject::text(&topic))
        .with_help("name the tables in its place"),
        StartNameFault::Twice(table) => Error::invalid(format!(
            "{part} names table '{table}' twice: by its name and by that of its topic"
        ))
        .with_help("name it once"),
        StartNameFault::NoTopic(table) => Error::unsupported(format!(
            "{part} names offsets of '{table}', which is a Delta table and has none"
        ))
        .about(Subject::text(&table))
        .with_help("name the range by event time: FROM … TO …"),
    }
}

/// The options of a statement that were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GivenRunOptions {
    /// `'late'`.
    pub late: Option<LateRows>,
    /// `'withdraw'`.
    pub withdraw: Option<bool>,
    /// `'overwrite'`.
    pub overwrite: Option<bool>,
    /// `'write'`: whether rows are appended to a Delta table.
    pub append: Option<bool>,
    /// `'chunk'`, in microseconds of event time.
    pub chunk: Option<i64>,
    /// `'max_rows_per_second'`.
    pub max_rows_per_second: Option<u64>,
}

impl RunOrder {
    /// The options of the run. `emit` is that of a statement without EMIT: what is changed where the sink has a key, all rows
    /// otherwise.
    pub fn options(&self, emit: EmitRows) -> RunOptions {
        self.options.with_emit(self.emit.unwrap_or(emit))
    }
}

impl GivenRunOptions {
    /// All options, with the default of each that was not given.
    pub fn with_emit(&self, emit: EmitRows) -> RunOptions {
        RunOptions {
            emit,
            late: self.late.unwrap_or_default(),
            withdraw: self.withdraw.unwrap_or(false),
            overwrite: self.overwrite.unwrap_or(false),
            append: self.append.unwrap_or(false),
            chunk: self.chunk,
            max_rows_per_second: self.max_rows_per_second,
        }
    }
}

impl fmt::Display for EmitRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EmitRows::All => "ALL",
            EmitRows::Changed => "CHANGED",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::NamedOffset;
    use crate::error::ErrorKind;

    #[test]
    fn options_that_are_not_given_have_their_defaults() {
        let order = RunOrder {
            job: "j".into(),
            asked: AskedText::default(),
            emit: None,
            run_id: None,
            options: GivenRunOptions {
                late: Some(LateRows::Exclude),
                chunk: Some(5),
                ..GivenRunOptions::default()
            },
        };
        let options = RunOptions {
            emit: EmitRows::Changed,
            late: LateRows::Exclude,
            withdraw: false,
            overwrite: false,
            append: false,
            chunk: Some(5),
            max_rows_per_second: None,
        };
        assert_eq!(order.options(EmitRows::Changed), options);
        let all = RunOrder {
            emit: Some(EmitRows::All),
            ..order
        };
        assert_eq!(all.options(EmitRows::Changed).emit, EmitRows::All);
    }

    const TABLES: [(&str, Option<&str>); 4] = [
        ("visits", Some("raw")),
        ("clicks", Some("events")),
        ("views", Some("events")),
        ("files", None),
    ];

    fn offsets(table: &str, at: i64) -> NamedOffsets {
        [(table.to_owned(), [(0, NamedOffset::At(at))].into())].into()
    }

    fn asked(offset_table: &str, row_tables: &[&str]) -> AskedText {
        let rows = row_tables.iter().zip(0..);
        AskedText {
            time: None,
            offsets: Some(OffsetBounds {
                from: offsets(offset_table, 3),
                to: offsets(offset_table, 9),
            }),
            rows: Some(SelectedRows {
                query: "q".to_owned(),
                offsets: OffsetSet::of(
                    rows.map(|(table, at)| ((*table).to_owned(), 0, at..at + 1)),
                ),
            }),
        }
    }

    #[test]
    fn a_topic_stands_for_its_table() {
        let range = asked("raw", &["raw", "visits", "views"])
            .by_table(&TABLES)
            .unwrap();
        let bounds = range.offsets.unwrap();
        assert_eq!(bounds.from, offsets("visits", 3));
        assert_eq!(bounds.to, offsets("visits", 9));
        // Rows that are named by table and by topic are rows of one table.
        let rows = range.rows.unwrap().offsets;
        assert_eq!(rows.to_string(), "views 0: 2 to 3, visits 0: 0 to 2");
    }

    #[test]
    fn other_names_are_refused() {
        for (offset_table, row_table, message, help) in [
            (
                "visit",
                "visits",
                "OFFSETS names 'visit'",
                "did you mean 'visits'?",
            ),
            (
                "visits",
                "orders",
                "FOR names 'orders'",
                "it reads visits, clicks, views",
            ),
            (
                "events",
                "visits",
                "OFFSETS names topic 'events', which several",
                "name the tables",
            ),
            (
                "visits",
                "events",
                "FOR names topic 'events', which several",
                "name the tables",
            ),
            (
                "files",
                "visits",
                "OFFSETS names offsets of 'files'",
                "FROM … TO …",
            ),
            (
                "visits",
                "files",
                "FOR names offsets of 'files'",
                "FROM … TO …",
            ),
        ] {
            let error = asked(offset_table, &[row_table])
                .by_table(&TABLES)
                .unwrap_err();
            assert!(error.message().starts_with(message), "{error}");
            let found = error.help().unwrap_or_default();
            assert!(found.contains(help), "{found}");
        }
        let mut twice = asked("visits", &[]);
        if let Some(bounds) = &mut twice.offsets {
            bounds.from.extend(offsets("raw", 1));
        }
        let error = twice.by_table(&TABLES).unwrap_err();
        assert!(error.message().contains("'visits' twice"), "{error}");
        let error = asked("visits", &[]).by_table(&[]).unwrap_err();
        assert_eq!(
            (error.kind(), error.help()),
            (ErrorKind::Invalid, Some("it reads no topic"))
        );
    }
}
