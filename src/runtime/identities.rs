//! What the sources and the sink of a job are now, and whether that is what the job has read and written so far (IDENT-1).

use std::collections::{BTreeMap, BTreeSet};

use crate::core::jobs::{
    BatchVersion, Gaps, Identity, JobHistory, Reported, Sameness, Standing, standing,
};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::batch::Ends;
use crate::runtime::sink::JobSink;
use crate::runtime::source::JobSource;
use crate::streaming::reads_what_it_writes;

/// What the tables of a job are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identities {
    sources: BTreeMap<String, (Identity, Standing)>,
    sink: Option<Identity>,
    /// It is not in a version yet: RESUME JOB … ACCEPTING was said, or the last version is of an earlier release.
    is_to_be_kept: bool,
}

impl Identities {
    /// Asks all sources what they are.
    ///
    /// # Errors
    ///
    /// A source is another one than the job has read, and nobody has accepted that; a source is what the job writes to; a source
    /// does not answer.
    pub(super) async fn ask(
        sources: &BTreeMap<String, JobSource>,
        sink: Option<&Identity>,
        last: Option<&BatchVersion>,
        history: &JobHistory,
    ) -> Result<Self> {
        let mut identities = Self {
            sources: BTreeMap::new(),
            sink: sink.cloned(),
            is_to_be_kept: last
                .is_some_and(|last| !history.accepted.is_empty() || last.identities.is_empty()),
        };
        let mut others = Others::default();
        for (table, source) in sources {
            let now = source.identity().await?;
            if sink.is_some_and(|sink| sink.is_certainly(&now)) {
                return Err(feeds_itself(table, &now));
            }
            let last = last.filter(|last| last.sources.contains_key(table));
            let stored = last.and_then(|last| last.identities.get(table));
            let accepted = last.and_then(|_| history.accepted.get(table));
            let standing = standing(stored, &now, accepted);
            if let (Standing::Other, Some(stored)) = (standing, stored) {
                others.add(table, stored.difference(&now), &now);
            }
            identities.sources.insert(table.clone(), (now, standing));
        }
        others.into_error(Role::Source)?;
        Ok(identities)
    }

    /// A topic does not lose partitions: one that has fewer is another one, whatever its id.
    ///
    /// # Errors
    ///
    /// There is such a topic.
    pub(super) fn check_partitions(&self, last: Option<&BatchVersion>, ends: &Ends) -> Result<()> {
        let mut others = Others::default();
        for (table, (now, _)) in &self.sources {
            if self.is_accepted(table) {
                continue;
            }
            let stored = last.and_then(|last| last.sources.get(table));
            let there: BTreeSet<i32> = match ends.get(table) {
                Some(ends) => ends.iter().map(|ends| ends.partition).collect(),
                None => continue,
            };
            let known = stored.into_iter().flat_map(BTreeMap::keys);
            let gone: Vec<String> = known
                .filter(|partition| !there.contains(partition))
                .map(ToString::to_string)
                .collect();
            // Kafka takes no partition from a topic: a broker that was asked has not heard yet of those that were added.
            if !gone.is_empty() && self.is_same(table) {
                return Err(Error::unavailable(format!(
                    "{now}: the broker that was asked does not know of partition {} yet",
                    gone.join(", ")
                ))
                .about(Subject::table(table)));
            }
            if !gone.is_empty() {
                let difference = format!(
                    "{now} no longer has partition {}, where the job stands: it was made anew",
                    gone.join(", ")
                );
                others.add(table, difference, now);
            }
        }
        others.into_error(Role::Source)
    }

    /// Looks whether the sources still have the records that were read last: all of them when a run begins, later those that may
    /// have others without being another source.
    ///
    /// # Errors
    ///
    /// A source has others in their place; it does not answer.
    pub(super) async fn check_records(
        &self,
        sources: &BTreeMap<String, JobSource>,
        last: Option<&BatchVersion>,
        ends: &Ends,
        skipping: &Gaps,
        begins: bool,
    ) -> Result<()> {
        let mut others = Others::default();
        for (table, source) in sources {
            if !begins && !source.is_to_be_checked() {
                continue;
            }
            let marks = last.and_then(|last| last.marks.get(table));
            let (Some(marks), false) = (marks, self.is_accepted(table)) else {
                continue;
            };
            let mut marks = marks.clone();
            // Where the user knows that the end was cut off, what is there now is read as new.
            for (partition, gap) in skipping.get(table).into_iter().flatten() {
                if last.and_then(|last| last.next_offset(table, *partition)) == Some(gap.start) {
                    marks.remove(partition);
                }
            }
            // What is not there any more tells nothing.
            for ends in ends.get(table).into_iter().flatten() {
                if let Some(mark) = marks.get(&ends.partition)
                    && !source.can_tell(mark.offset, ends)
                {
                    marks.remove(&ends.partition);
                }
            }
            let Some((now, _)) = self.sources.get(table) else {
                continue;
            };
            let differ = source.other_records(&marks).await?;
            if let Some(first) = differ.first() {
                let offset = marks.get(first).map_or(0, |mark| mark.offset);
                let difference = format!(
                    "{now} has another record at offset {offset} of partition {first}, which the job has read: it was made anew, \
                     restored, or cut off and written to again"
                );
                others.add(table, difference, now);
            }
        }
        others.into_error(Role::Source)
    }

    /// Asks again: whether what was read is of these sources, and what is written goes to this sink.
    ///
    /// # Errors
    ///
    /// Something is another one by now, which the next look tells; it does not answer.
    pub(super) async fn check_again(
        &self,
        sources: &BTreeMap<String, JobSource>,
        sink: &JobSink,
    ) -> Result<()> {
        for (table, source) in sources {
            if let Some((before, _)) = self.sources.get(table) {
                let now = source.identity().await?;
                if before.compare(&now) == Sameness::Other {
                    return Err(changed(table, &before.difference(&now)));
                }
            }
        }
        if let (Some(before), Some(now)) = (&self.sink, sink.identity().await?)
            && before.compare(&now) == Sameness::Other
        {
            return Err(changed("the sink", &before.difference(&now)));
        }
        Ok(())
    }

    /// Whether the user has said of a table that is another one how to go on.
    pub(super) fn is_accepted(&self, table: &str) -> bool {
        matches!(self.of(table), Some(Standing::New | Standing::Moved))
    }

    /// Whether the user has said of a table that it is a new one.
    pub(super) fn is_new(&self, table: &str) -> bool {
        self.of(table) == Some(Standing::New)
    }

    /// Whether it is certain that a table is the one that was read.
    pub(super) fn is_same(&self, table: &str) -> bool {
        self.of(table) == Some(Standing::Same)
    }

    /// Tables that are new ones, so that what is known of their partitions' time is void.
    pub(super) fn new_tables(&self) -> impl Iterator<Item = &str> {
        let tables = self.sources.iter();
        tables
            .filter(|(_, (_, standing))| *standing == Standing::New)
            .map(|(table, _)| table.as_str())
    }

    /// Whether a version has to say it, although there may be nothing to read.
    pub(super) fn is_to_be_kept(&self) -> bool {
        self.is_to_be_kept
    }

    /// What each source is.
    pub(super) fn sources(&self) -> BTreeMap<String, Identity> {
        let sources = self.sources.iter();
        sources
            .map(|(table, (identity, _))| (table.clone(), identity.clone()))
            .collect()
    }

    /// What the sink is.
    pub(super) fn sink(&self) -> Option<Identity> {
        self.sink.clone()
    }

    fn of(&self, table: &str) -> Option<Standing> {
        self.sources.get(table).map(|(_, standing)| *standing)
    }
}

/// Decides what the sink is to a job.
///
/// # Errors
///
/// It is another one than the job has written to, and nobody has accepted that.
pub(super) fn check_sink(
    table: &str,
    now: &Identity,
    last: Option<&BatchVersion>,
    history: &JobHistory,
) -> Result<Standing> {
    let stored = last.and_then(|last| last.sink.as_ref());
    let standing = standing(stored, now, history.accepted.get(table));
    if let (Standing::Other, Some(stored)) = (standing, stored) {
        let mut others = Others::default();
        others.add(table, stored.difference(now), now);
        others.into_error(Role::Sink)?;
    }
    Ok(standing)
}

/// A job would read its own rows for ever. Where the statement calls the brokers by other addresses, only they tell.
fn feeds_itself(table: &str, now: &Identity) -> Error {
    reads_what_it_writes(now, table)
        .with_help("let it write to another one, with CREATE OR REPLACE JOB; then RESUME JOB")
}

fn changed(table: &str, difference: &str) -> Error {
    Error::unavailable(format!(
        "{table} was replaced while a batch was run, which is not committed: {difference}"
    ))
    .about(Subject::table(table))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Source,
    Sink,
}

/// Tables that are others than they were.
#[derive(Debug, Default)]
struct Others {
    report: Reported,
    differences: Vec<String>,
}

impl Others {
    fn add(&mut self, table: &str, difference: String, now: &Identity) {
        self.report.others.insert(table.to_owned(), now.clone());
        self.differences.push(format!("{table}: {difference}"));
    }

    fn into_error(self, role: Role) -> Result<()> {
        if self.differences.is_empty() {
            return Ok(());
        }
        let list = |how: &str| {
            let tables = self.report.others.keys();
            let tables: Vec<String> = tables.map(|table| format!("{how} {table}")).collect();
            tables.join(", ")
        };
        let (new, moved) = (list("NEW"), list("MOVED"));
        let help = match role {
            Role::Source => format!(
                "RESUME JOB … ACCEPTING {new} reads it as a new source, from where 'scan.startup' says; RESUME JOB … ACCEPTING \
                 {moved} goes on at the same offsets, if it holds the same records; or put back what was there and RESUME JOB"
            ),
            Role::Sink => format!(
                "RESUME JOB … ACCEPTING {new} goes on with the next batch, and rows of earlier ones are not in it; RESUME JOB … \
                 ACCEPTING {moved} does so if it holds the rows that were written; DROP JOB and CREATE JOB fill it from the \
                 beginning; or put back what was there and RESUME JOB"
            ),
        };
        let what = match role {
            Role::Source => "a source of the job is another one",
            Role::Sink => "the sink of the job is another one",
        };
        let message = format!("{what}: {}", self.differences.join("; "));
        let tables = self.report.others.keys().map(Subject::table);
        Err(tables
            .fold(Error::new(ErrorKind::Data, message), Error::about)
            .with_help(help)
            .with_report(self.report))
    }
}
