//! The option `'scan.startup'` of CREATE JOB and SUBSCRIBE: its text, its tables, and its errors.

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::TimeUnit;

use crate::core::jobs::startup::by_table;
use crate::core::jobs::{
    NamedOffset, NamedOffsets, SourceStart, StartFault, StartNameFault, Startup,
    parse_named_offsets,
};
use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};
use crate::formats::text::time::{TimestampFormat, TimestampReader, TimestampWriter};
use crate::formats::text::zone::Zone;
use crate::streaming::StreamTable;

/// The option's name.
pub(super) const OPTION: &str = "scan.startup";

/// Values that are words.
static WORDS: [(&str, Startup); 3] = [
    ("earliest", Startup::Earliest),
    ("latest", Startup::Latest),
    ("archive end", Startup::ArchiveEnd),
];

/// All forms of the option, for messages.
const FORMS: &str = "it takes 'earliest', 'latest', 'archive end', a time such as '2025-09-04T10:00:00Z', or offsets as Spark writes them: \
                     '{\"visits\":{\"0\":23,\"1\":-2}}', where -2 is the first record and -1 the end";

/// Reads the value of the option. A time without an offset is UTC, as in SQL.
///
/// # Errors
///
/// A text of none of its forms.
pub(super) fn parse(value: &str) -> Result<Startup> {
    let text = value.trim();
    let words = WORDS.iter();
    if let Some((_, startup)) = words
        .clone()
        .find(|(word, _)| text.eq_ignore_ascii_case(word))
    {
        return Ok(startup.clone());
    }
    if text.starts_with(['{', '[']) {
        return match parse_named_offsets(text) {
            Ok(offsets) => Ok(Startup::Offsets(offsets)),
            Err(error) => Err(invalid(format!(
                "option '{OPTION}' has offsets that are not valid: {error}"
            ))
            .with_help(FORMS)),
        };
    }
    let time = TimestampReader::new(Zone::Utc).read(text, TimeUnit::Microsecond);
    time.map(Startup::Time).ok_or_else(|| {
        let error = invalid(format!("option '{OPTION}' does not accept '{value}'"));
        match closest(text, words.map(|(word, _)| *word)) {
            Some(near) => error.with_help(format!("did you mean '{near}'?")),
            None => error.with_help(FORMS),
        }
    })
}

/// The option for the sources of a job: names of topics are replaced by those of the tables that read them.
///
/// # Errors
///
/// A name that is not that of one source; a form that a source does not have.
pub(super) fn for_sources(
    startup: Startup,
    sources: &BTreeMap<String, StreamTable>,
) -> Result<Startup> {
    let tables = with_topics(sources);
    match startup {
        Startup::Earliest | Startup::Latest => Ok(startup),
        Startup::Time(_) => match tables.iter().find(|(_, topic)| topic.is_none()) {
            None => Ok(startup),
            Some((table, _)) => Err(is_no_topic(table, "a time")),
        },
        Startup::Offsets(offsets) => {
            by_table(offsets, &tables)
                .map(Startup::Offsets)
                .map_err(|fault| match fault {
                    StartNameFault::NoTopic(table) => is_no_topic(&table, "offsets"),
                    fault => name_error(fault, &tables, &format!("'{OPTION}'"))
                        .about(Subject::option(OPTION)),
                })
        }
        Startup::ArchiveEnd => {
            for (name, table) in sources {
                match table {
                    StreamTable::Kafka(table) if table.archive().is_some() => {}
                    StreamTable::Kafka(_) => return Err(has_no_archive(name)),
                    StreamTable::Delta(_) => {
                        return Err(is_no_topic(name, "the end of an archive"));
                    }
                }
            }
            Ok(Startup::ArchiveEnd)
        }
    }
}

/// Gives places in topics the names of the tables that read these. `said` is the part of the statement that names them.
///
/// # Errors
///
/// A name that is not that of one source.
pub(super) fn named_by_table(
    places: NamedOffsets,
    sources: &BTreeMap<String, StreamTable>,
    said: &str,
) -> Result<NamedOffsets> {
    let tables = with_topics(sources);
    by_table(places, &tables).map_err(|fault| name_error(fault, &tables, said))
}

/// The tables of a job, each with its topic if it has one.
fn with_topics(sources: &BTreeMap<String, StreamTable>) -> Vec<(&str, Option<&str>)> {
    let tables = sources.iter();
    tables
        .map(|(name, table)| (name.as_str(), topic_of(table)))
        .collect()
}

/// The error for a job that cannot begin at the offsets of its option.
pub(super) fn cannot_begin(table: &str, topic: &str, fault: &StartFault) -> Error {
    let (message, help) = match fault {
        StartFault::NoSuchPartitions(partitions) => (
            format!(
                "{}, which '{OPTION}' names",
                listed("does not have", partitions)
            ),
            "name the partitions that it has".to_owned(),
        ),
        StartFault::NotNamed(partitions) => (
            format!(
                "{}, and '{OPTION}' does not say where to begin there",
                listed("has", partitions)
            ),
            "name every partition that the topic has: -2 is its first record, -1 its end; those that are added later are read from \
             their first record"
                .to_owned(),
        ),
        StartFault::OutOfRange {
            partition,
            offset,
            low,
            end,
        } => (
            match offset < low {
                true => format!(
                    "partition {partition} begins with offset {low}, and '{OPTION}' says {offset}: the records before {low} are gone"
                ),
                false => format!(
                    "partition {partition} ends before offset {end}, and '{OPTION}' says {offset}"
                ),
            },
            format!("it takes offsets from {low} to {end}, -2 for the first record, -1 for the end"),
        ),
        StartFault::InGap {
            partition,
            offset,
            next,
        } => (
            format!(
                "neither partition {partition} nor its archive has offset {offset}, which '{OPTION}' says: the next one is {next}"
            ),
            format!("it takes {next}, or an offset before the gap"),
        ),
        StartFault::NoTimestamps { partition } => (
            format!(
                "of partition {partition}, the archive alone has the first records, and it has no timestamps by which '{OPTION}' could find one"
            ),
            "begin at offsets or with 'earliest', or declare the table with 'archive.timestamp'".to_owned(),
        ),
        StartFault::NotThePast(why) => (
            format!("the archive is not its past: {why}"),
            "the topic was deleted and created again, or the archive is that of another one".to_owned(),
        ),
        StartFault::BehindTransaction {
            partition,
            offset,
            high,
        } => {
            return Error::unavailable(format!(
                "{table}: a transaction is open at offset {high} of partition {partition} of topic '{topic}', before offset {offset}, \
                 where '{OPTION}' begins"
            ))
            .about(Subject::option(OPTION));
        }
    };
    invalid(format!("{table}: topic '{topic}': {message}")).with_help(format!(
        "{help}; a job that has read nothing takes another '{OPTION}' by CREATE OR REPLACE JOB; then RESUME JOB"
    ))
}

/// Where a job begins in a table, for people.
pub(super) fn described(startup: &Startup, table: &str) -> String {
    let Some(start) = startup.of(table) else {
        return "as the table is declared".to_owned();
    };
    match (start, startup) {
        (SourceStart::Offsets(partitions), _) => {
            let starts = partitions.iter().map(|(partition, start)| match start {
                NamedOffset::First => format!("partition {partition} at its first record"),
                NamedOffset::End => format!("partition {partition} at its end"),
                NamedOffset::At(offset) => format!("partition {partition} at offset {offset}"),
            });
            starts.collect::<Vec<_>>().join(", ")
        }
        (_, Startup::Time(micros)) => {
            let mut time = Vec::new();
            let format = TimestampFormat::Iso;
            TimestampWriter::new(format, Zone::Utc).write(
                *micros,
                TimeUnit::Microsecond,
                &mut time,
            );
            format!(
                "each partition at its first record of {} or later, or at its end",
                String::from_utf8_lossy(&time)
            )
        }
        (SourceStart::ArchiveEnd, _) => {
            "each partition behind the last record that the archive has of it".to_owned()
        }
        (SourceStart::End, _) => "at the end".to_owned(),
        (SourceStart::First | SourceStart::Time(_), _) => "at the first record".to_owned(),
    }
}

fn topic_of(table: &StreamTable) -> Option<&str> {
    match table {
        StreamTable::Kafka(table) => Some(table.topic()),
        StreamTable::Delta(_) => None,
    }
}

fn has_no_archive(table: &str) -> Error {
    invalid(format!(
        "'{OPTION}' 'archive end' is for topics with an archive, and table {table} names none"
    ))
    .with_help("declare it with 'archive' and the name of the Delta table that has its records")
}

/// The error for a name in `said`, a part of the statement.
fn name_error(fault: StartNameFault, tables: &[(&str, Option<&str>)], said: &str) -> Error {
    match fault {
        StartNameFault::Unknown(name) => {
            let error = Error::invalid(format!(
                "{said} names {name}, and the job reads no table or topic of this name"
            ));
            let topics = tables.iter().filter(|(_, topic)| topic.is_some());
            let known: Vec<&str> = topics.map(|(table, _)| *table).collect();
            match closest(&name, known.iter().copied()) {
                Some(near) => error.with_help(format!("did you mean {near}?")),
                None if known.is_empty() => error.with_help("it reads no topic"),
                None => error.with_help(format!("it reads {}", known.join(", "))),
            }
        }
        StartNameFault::Ambiguous { topic, tables } => Error::invalid(format!(
            "{said} names topic '{topic}', which several tables read: {}",
            tables.join(", ")
        ))
        .with_help("name the tables in its place"),
        StartNameFault::Twice(table) => Error::invalid(format!(
            "{said} names table {table} twice: by its name and by that of its topic"
        ))
        .with_help("name it once"),
        StartNameFault::NoTopic(table) => Error::unsupported(format!(
            "{said} names {table}, which is a Delta table: its rows have no offsets"
        ))
        .with_help("name a range of event time"),
    }
}

fn is_no_topic(table: &str, form: &str) -> Error {
    Error::unsupported(format!(
        "'{OPTION}' gives {form} for topics, and {table} is a Delta table"
    ))
    .about(Subject::option(OPTION))
    .with_help("a Delta table begins with 'earliest' or 'latest', also by its own declaration")
}

fn invalid(message: String) -> Error {
    Error::invalid(message).about(Subject::option(OPTION))
}

/// "has partition 3", "has partitions 3, 4".
fn listed(verb: &str, partitions: &[i32]) -> String {
    let plural = if partitions.len() > 1 { "s" } else { "" };
    let numbers: Vec<String> = partitions.iter().map(i32::to_string).collect();
    format!("it {verb} partition{plural} {}", numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::NamedOffsets;

    fn offsets(of: &[(&str, &[(i32, NamedOffset)])]) -> Startup {
        let tables = of.iter().map(|(table, starts)| {
            let starts = starts.iter().copied().collect();
            ((*table).to_owned(), starts)
        });
        Startup::Offsets(tables.collect::<NamedOffsets>())
    }

    #[test]
    fn every_form_is_read() {
        let at_ten = 1_756_980_000_000_000;
        for (text, expected) in [
            ("earliest", Startup::Earliest),
            (" Latest ", Startup::Latest),
            ("Archive End", Startup::ArchiveEnd),
            ("2025-09-04T10:00:00Z", Startup::Time(at_ten)),
            ("2025-09-04 12:00:00+02:00", Startup::Time(at_ten)),
            // Without an offset it is UTC.
            ("2025-09-04 10:00:00", Startup::Time(at_ten)),
            ("2025-09-04T10:00:00.000001", Startup::Time(at_ten + 1)),
            (
                r#"{"visits":{"0":23,"1":-2,"2":-1}}"#,
                offsets(&[(
                    "visits",
                    &[
                        (0, NamedOffset::At(23)),
                        (1, NamedOffset::First),
                        (2, NamedOffset::End),
                    ],
                )]),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn other_values_are_refused_with_the_forms() {
        for (text, message, help) in [
            ("latst", "does not accept 'latst'", "did you mean 'latest'?"),
            (
                "yesterday",
                "does not accept 'yesterday'",
                "it takes 'earliest', 'latest', 'archive end', a time",
            ),
            ("", "does not accept ''", "it takes"),
            ("5", "does not accept '5'", "it takes"),
            ("2025-09-31", "does not accept '2025-09-31'", "it takes"),
            ("2025-09-04T10", "does not accept", "it takes"),
            (
                "{\"t\":{\"0\":-3}}",
                "integer `-3`",
                "-2 is the first record",
            ),
            (
                "{\"t\":{\"0\":1,\"0\":1}}",
                "partition 0 is named twice",
                "it takes",
            ),
            ("[1]", "expected offsets by table and partition", "it takes"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message().contains(message), "{text}: {error}");
            let said = error.with_its_help();
            assert!(said.contains(help), "{text}: {said}");
            assert!(
                error.subjects().contains(&Subject::option(OPTION)),
                "{text}"
            );
        }
    }

    #[test]
    fn faults_say_what_is_there() {
        let partition = 1;
        for (fault, expected) in [
            (
                StartFault::NoSuchPartitions(vec![3, 4]),
                "t: topic 'visits': it does not have partitions 3, 4, which 'scan.startup' names",
            ),
            (
                StartFault::NotNamed(vec![2]),
                "t: topic 'visits': it has partition 2, and 'scan.startup' does not say where to begin there",
            ),
            (
                StartFault::OutOfRange {
                    partition,
                    offset: 3,
                    low: 5,
                    end: 9,
                },
                "partition 1 begins with offset 5, and 'scan.startup' says 3: the records before 5 are gone",
            ),
            (
                StartFault::OutOfRange {
                    partition,
                    offset: 10,
                    low: 5,
                    end: 9,
                },
                "partition 1 ends before offset 9, and 'scan.startup' says 10",
            ),
            (
                StartFault::InGap {
                    partition,
                    offset: 6,
                    next: 8,
                },
                "neither partition 1 nor its archive has offset 6, which 'scan.startup' says: the next one is 8",
            ),
            (
                StartFault::NoTimestamps { partition },
                "it has no timestamps by which 'scan.startup' could find one",
            ),
        ] {
            let error = cannot_begin("t", "visits", &fault);
            assert!(error.message().contains(expected), "{error}");
            assert!(!error.may_pass());
            let said = error.with_its_help();
            assert!(said.contains("CREATE OR REPLACE JOB"), "{said}");
            assert!(said.contains("another 'scan.startup'"), "{said}");
        }
        let waits = StartFault::BehindTransaction {
            partition,
            offset: 8,
            high: 6,
        };
        let error = cannot_begin("t", "visits", &waits);
        assert!(error.may_pass(), "{error}");
    }

    #[test]
    fn a_start_is_described_for_each_table() {
        let startup = offsets(&[(
            "t",
            &[
                (0, NamedOffset::At(23)),
                (1, NamedOffset::First),
                (2, NamedOffset::End),
            ],
        )]);
        assert_eq!(
            described(&startup, "t"),
            "partition 0 at offset 23, partition 1 at its first record, partition 2 at its end"
        );
        assert_eq!(described(&startup, "u"), "as the table is declared");
        assert_eq!(described(&Startup::Latest, "u"), "at the end");
        assert_eq!(described(&Startup::Earliest, "u"), "at the first record");
        assert_eq!(
            described(&parse("2025-09-04T12:00:00+02:00").unwrap(), "u"),
            "each partition at its first record of 2025-09-04T10:00:00.000Z or later, or at its end"
        );
    }
}
