//! Identities of a job's sources and sink, compared with those that the job has read and written so far (IDENT-1).

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;

use crate::core::jobs::{
    BatchVersion, Gaps, Identity, IdentityMatch, IdentityStatus, JobHistory, ReportedChange,
    identity_status,
};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::sink::JobSink;
use crate::runtime::source::{JobSources, SourcePlans};
use crate::streaming::reads_own_sink;

/// Present identities of a job's tables, and how they relate to the stored ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identities {
    sources: BTreeMap<String, (Identity, IdentityStatus)>,
    sink: Option<Identity>,
    /// No version stores them yet: the user has resumed the job with ACCEPTING, or the last version is of an earlier release.
    is_to_be_kept: bool,
}

impl Identities {
    /// Asks all sources for their identities.
    ///
    /// # Errors
    ///
    /// A source has another identity and the user has not accepted it; a source is also the job's sink; a source does not
    /// answer.
    pub(super) async fn ask(
        sources: &JobSources,
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
        let mut others = ChangedTables::default();
        for (table, source) in sources {
            let now = source.identity().await?;
            if sink.is_some_and(|sink| sink.is_certainly(&now)) {
                return Err(reads_own_rows(table, &now));
            }
            let last = last.filter(|last| last.sources.contains_key(table));
            let stored = last.and_then(|last| last.identities.get(table));
            let accepted = last.and_then(|_| history.accepted.get(table));
            let standing = identity_status(stored, &now, accepted);
            if let (IdentityStatus::Other, Some(stored)) = (standing, stored) {
                others.add(table, stored.difference(&now), &now);
            }
            identities.sources.insert(table.clone(), (now, standing));
        }
        others.into_error(TableRole::Source)?;
        Ok(identities)
    }

    /// Checks that no source has fewer partitions than before: a topic never loses partitions, so it would be another one,
    /// even with the same id.
    ///
    /// # Errors
    ///
    /// A topic has fewer partitions.
    pub(super) fn check_partitions(
        &self,
        last: Option<&BatchVersion>,
        plans: &SourcePlans,
    ) -> Result<()> {
        let mut others = ChangedTables::default();
        for (table, (now, _)) in &self.sources {
            if self.is_accepted(table) {
                continue;
            }
            let stored = last.and_then(|last| last.sources.get(table));
            let there: BTreeSet<i32> = match plans.get(table) {
                Some(plan) => plan.ends.iter().map(|ends| ends.partition).collect(),
                None => continue,
            };
            let known = stored.into_iter().flat_map(BTreeMap::keys);
            let gone: Vec<String> = known
                .filter(|partition| !there.contains(partition))
                .map(ToString::to_string)
                .collect();
            // A topic loses no partition: this broker does not have the newest metadata yet.
            if !gone.is_empty() && self.is_same(table) {
                return Err(Error::unavailable(format!(
                    "{now}: the broker that was asked does not know of partition {} yet",
                    gone.join(", ")
                ))
                .about(Subject::table(table)));
            }
            if !gone.is_empty() {
                let difference = format!(
                    "{now} no longer has partition {}, where the job stands: it was recreated",
                    gone.join(", ")
                );
                others.add(table, difference, now);
            }
        }
        others.into_error(TableRole::Source)
    }

    /// Checks that the sources still have the records that were read last: all sources when a run begins, later only those
    /// whose records may change while the identity stays.
    ///
    /// # Errors
    ///
    /// A source has other records in their place; it does not answer.
    pub(super) async fn check_records(
        &self,
        sources: &JobSources,
        last: Option<&BatchVersion>,
        plans: &SourcePlans,
        skipping: &Gaps,
        begins: bool,
    ) -> Result<()> {
        let mut others = ChangedTables::default();
        for (table, source) in sources {
            let plan = plans.get(table);
            if !begins && !plan.is_some_and(|plan| plan.checks_marks) {
                continue;
            }
            let marks = last.and_then(|last| last.marks.get(table));
            let (Some(marks), false) = (marks, self.is_accepted(table)) else {
                continue;
            };
            let mut marks = marks.clone();
            // If the user accepts that the end was cut off, records after it are read as new.
            for (partition, gap) in skipping.get(table).into_iter().flatten() {
                if last.and_then(|last| last.next_offset(table, *partition)) == Some(gap.start) {
                    marks.remove(partition);
                }
            }
            // Records that the source no longer has cannot be compared.
            for ends in plan.into_iter().flat_map(|plan| &plan.ends) {
                if let Some(mark) = marks.get(&ends.partition)
                    && !source.still_has_record(mark.offset, ends)
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
                    "{now} has another record at offset {offset} of partition {first}, which the job has read: it was recreated, \
                     restored, or truncated and written to again"
                );
                others.add(table, difference, now);
            }
        }
        others.into_error(TableRole::Source)
    }

    /// Asks for the identities again after a batch was read and written: whether its records came from these sources, and its
    /// rows go to this sink.
    ///
    /// # Errors
    ///
    /// An identity has changed, which the next look reports; a source or the sink does not answer.
    pub(super) async fn check_again(&self, sources: &JobSources, sink: &dyn JobSink) -> Result<()> {
        let of_sources = sources.iter().map(|(table, source)| async move {
            let Some((before, _)) = self.sources.get(table) else {
                return Ok(());
            };
            let now = source.identity().await?;
            match before.compare(&now) {
                IdentityMatch::Other => Err(changed(table, &before.difference(&now))),
                _ => Ok(()),
            }
        });
        let of_sink = async {
            let Some(before) = &self.sink else {
                return Ok(());
            };
            match sink.identity().await? {
                Some(now) if before.compare(&now) == IdentityMatch::Other => {
                    Err(changed("the sink", &before.difference(&now)))
                }
                _ => Ok(()),
            }
        };
        // The batch waits for the answers.
        tokio::try_join!(try_join_all(of_sources), of_sink)?;
        Ok(())
    }

    /// Whether the user has accepted the other identity of a table.
    pub(super) fn is_accepted(&self, table: &str) -> bool {
        matches!(
            self.of(table),
            Some(IdentityStatus::New | IdentityStatus::Moved)
        )
    }

    /// Whether the user has accepted a table as a new one.
    pub(super) fn is_new(&self, table: &str) -> bool {
        self.of(table) == Some(IdentityStatus::New)
    }

    /// Whether a table is certainly the one that was read.
    pub(super) fn is_same(&self, table: &str) -> bool {
        self.of(table) == Some(IdentityStatus::Same)
    }

    /// Tables that are new ones, so that the stored event time of their partitions no longer applies.
    pub(super) fn new_tables(&self) -> impl Iterator<Item = &str> {
        let tables = self.sources.iter();
        tables
            .filter(|(_, (_, standing))| *standing == IdentityStatus::New)
            .map(|(table, _)| table.as_str())
    }

    /// Whether a version has to store them, even if there are no records to read.
    pub(super) fn must_be_stored(&self) -> bool {
        self.is_to_be_kept
    }

    /// Identity of each source.
    pub(super) fn sources(&self) -> BTreeMap<String, Identity> {
        let sources = self.sources.iter();
        sources
            .map(|(table, (identity, _))| (table.clone(), identity.clone()))
            .collect()
    }

    /// Identity of the sink.
    pub(super) fn sink(&self) -> Option<Identity> {
        self.sink.clone()
    }

    fn of(&self, table: &str) -> Option<IdentityStatus> {
        self.sources.get(table).map(|(_, standing)| *standing)
    }
}

/// Compares the present identity of the sink with the one that the job has written to.
///
/// # Errors
///
/// The sink has another identity, and the user has not accepted it.
pub(super) fn check_sink(
    table: &str,
    now: &Identity,
    last: Option<&BatchVersion>,
    history: &JobHistory,
) -> Result<IdentityStatus> {
    let stored = last.and_then(|last| last.sink.as_ref());
    let standing = identity_status(stored, now, history.accepted.get(table));
    if let (IdentityStatus::Other, Some(stored)) = (standing, stored) {
        let mut others = ChangedTables::default();
        others.add(table, stored.difference(now), now);
        others.into_error(TableRole::Sink)?;
    }
    Ok(standing)
}

/// Error for a job that would read its own rows for ever. If the statement reaches the brokers by different addresses, only
/// their answer shows this.
fn reads_own_rows(table: &str, now: &Identity) -> Error {
    reads_own_sink(now, table)
        .with_help("change its sink with CREATE OR REPLACE JOB; then RESUME JOB")
}

fn changed(table: &str, difference: &str) -> Error {
    Error::unavailable(format!(
        "{table} was replaced while a batch was run, which is not committed: {difference}"
    ))
    .about(Subject::table(table))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TableRole {
    Source,
    Sink,
}

/// Tables whose identity has changed.
#[derive(Debug, Default)]
struct ChangedTables {
    report: ReportedChange,
    differences: Vec<String>,
}

impl ChangedTables {
    fn add(&mut self, table: &str, difference: String, now: &Identity) {
        self.report.others.insert(table.to_owned(), now.clone());
        self.differences.push(format!("{table}: {difference}"));
    }

    fn into_error(self, role: TableRole) -> Result<()> {
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
            TableRole::Source => format!(
                "RESUME JOB … ACCEPTING {new} reads it as a new source, from where 'scan.startup' says; RESUME JOB … ACCEPTING \
                 {moved} continues at the same offsets, if it holds the same records; or restore the previous one and RESUME JOB"
            ),
            TableRole::Sink => format!(
                "RESUME JOB … ACCEPTING {new} continues with the next batch, and rows of earlier ones are not in it; RESUME JOB … \
                 ACCEPTING {moved} does so if it holds the rows that were written; DROP JOB and CREATE JOB fill it from the \
                 beginning; or restore the previous one and RESUME JOB"
            ),
        };
        let what = match role {
            TableRole::Source => "a source of the job was replaced by another one",
            TableRole::Sink => "the sink of the job was replaced by another one",
        };
        let message = format!("{what}: {}", self.differences.join("; "));
        let tables = self.report.others.keys().map(Subject::table);
        Err(tables
            .fold(Error::new(ErrorKind::Data, message), Error::about)
            .with_help(help)
            .with_report(self.report))
    }
}
