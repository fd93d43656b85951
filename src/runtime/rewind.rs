//! REWIND JOB: sets a job back to an earlier batch.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;

use crate::core::jobs::log::sequence_of;
use crate::core::jobs::{
    BatchVersion, Identity, IdentityMatch, JobHistory, LogEntry, SourceProgress,
};
use crate::error::{Error, Result, Subject};
use crate::runtime::batch::check_readable;
use crate::runtime::failpoint;
use crate::runtime::job::ReadyJob;
use crate::runtime::owner::{STATEMENT, now, owner};
use crate::runtime::source::{JobSource, SourcePoll};
use crate::runtime::source_ends::SourceEnds;
use crate::runtime::statements::Jobs;
use crate::runtime::takeover::{TakenOver, files_in, files_of, take_over};
use crate::session::PlannedStatement;
use crate::store::JobId;

impl Jobs {
    /// Sets a job back to batch `to`: its log, and the rows of its sink.
    ///
    /// # Errors
    ///
    /// The batches cannot be run again or taken back; the sink or the store does not answer.
    pub(super) async fn rewind(&self, name: &str, to: u64) -> Result<PlannedStatement> {
        let (id, history) = self.find(name).await?;
        check_batch(&history, to)?;
        let ready = self.ready.lock().await.get(name).cloned();
        let Some(job) = ready.filter(|job| job.id == id) else {
            return Err(Error::invalid(format!(
                "REWIND JOB {name} needs the job's file: its sink is taken over"
            ))
            .about(Subject::job(name))
            .with_help(format!(
                "run it with the files of the job: anabranch sql -f tables.sql -f job.sql -c 'REWIND JOB {name} TO BATCH {to}'"
            )));
        };
        let me = format!("{STATEMENT}{}", owner());
        let TakenOver {
            mut history,
            mut sink,
            missing,
            identity,
            ..
        } = take_over(&self.store, &job, &me, Some(to)).await?;
        // The job's runner may have committed batches until the takeover.
        check_batch(&history, to)?;
        let mut abandoned = history.clone();
        let entry = LogEntry::Rewound { to, at: now() };
        abandoned.apply(&entry);
        // Rows that a restored sink lacks cannot be removed from it.
        let is_there = |version: &str| {
            missing.is_none_or(|missing| sequence_of(version) <= Some(missing.known))
        };
        let behind = history.batches.iter().filter(|batch| batch.batch > to);
        let behind: BTreeSet<&str> = behind.map(|batch| batch.version.as_str()).collect();
        let read = self.abandoned(id, &abandoned, |version| {
            is_there(version) || behind.contains(version)
        });
        let read = read.await?;
        let there = read.iter().filter(|(name, _)| is_there(name));
        let there: Vec<&BatchVersion> = there.map(|(_, version)| version).collect();
        let files = files_of(there.iter().copied());
        // Rows that were written to an earlier table, which this one has replaced, are not in it.
        let own = files_in(there, identity.as_ref());
        sink.check_revert(&own).await?;
        // A sink in an earlier state has rows again that were removed from it: those of batches that were abandoned before.
        let again: Vec<String> = match missing {
            Some(missing) => history
                .known()
                .filter(|version| sequence_of(version) <= Some(missing.known))
                .filter(|version| {
                    !history
                        .batches
                        .iter()
                        .any(|batch| batch.version == *version)
                })
                .filter(|version| !abandoned.abandoned.iter().any(|one| one == version))
                .map(str::to_owned)
                .collect(),
            None => Vec::new(),
        };
        let again: Vec<BatchVersion> = self.store.versions(id, again).try_collect().await?;
        let again = files_in(&again, identity.as_ref());
        sink.check_revert(&again).await?;
        let behind = read
            .iter()
            .filter(|(name, _)| behind.contains(name.as_str()));
        let behind: Vec<&BatchVersion> = behind.map(|(_, version)| version).collect();
        let stands = match abandoned.last() {
            Some(last) => Some(self.store.version(id, &last.version).await?),
            None => None,
        };
        let published = check_rewind(&job, stands.as_ref(), &behind).await?;
        sink.take_back(&again).await?;
        // From here on the rewind is in the log: the next runner that takes the job over completes it.
        let mut rewound = history.clone();
        if !self.store.append_next(id, &mut rewound, &entry).await? {
            return Err(Error::unavailable(format!(
                "job {name} was taken over by a runner at the same time"
            ))
            .about(Subject::job(name))
            .with_help("run the statement again"));
        }
        failpoint::reach("rewound");
        let batches = history.batches.len() - abandoned.batches.len();
        history = rewound;
        sink.forget_after(stands.as_ref()).await?;
        sink.take_back(&files).await?;
        sink.mark(&history).await?;
        let rows = sink.abandoned_rows(&published);
        Ok(PlannedStatement::Done(format!(
            "job {name} continues from batch {to}; {batches} batches are abandoned, and {rows}"
        )))
    }

    /// The abandoned versions that are wanted, by name; each is read once.
    async fn abandoned(
        &self,
        id: JobId,
        history: &JobHistory,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, BatchVersion)>> {
        let names = history.abandoned.iter().filter(|name| is_wanted(name));
        let names: Vec<String> = names.cloned().collect();
        let versions: Vec<BatchVersion> =
            self.store.versions(id, names.clone()).try_collect().await?;
        Ok(names.into_iter().zip(versions).collect())
    }
}

/// Checks that the batches behind `stands`, which have these versions, can be run again; returns the ranges of their rows in the
/// sink's topic. Without `stands` they are all batches of the job.
async fn check_rewind(
    job: &ReadyJob,
    stands: Option<&BatchVersion>,
    versions: &[&BatchVersion],
) -> Result<BTreeMap<i32, SourceProgress>> {
    let mut published: BTreeMap<i32, SourceProgress> = BTreeMap::new();
    for version in versions {
        for (partition, at) in &version.published {
            let all = published.entry(*partition).or_insert(*at);
            all.start = all.start.min(at.start);
            all.end = all.end.max(at.end);
        }
    }
    if let (Some(first), Some(newest)) = (versions.first(), versions.last()) {
        let mut ends = SourceEnds::new();
        let tables = &job.environment.tables;
        for (table, source) in tables.sources(&job.query, None)? {
            check_same_source(&table, &*source, &first.identities).await?;
            let look = SourcePoll {
                table: &table,
                last: stands,
                max_rows: 1,
                skipping: None,
                began_at: None,
                is_replacement: false,
            };
            let plan = source.plan(look).await?;
            // A stream of files begins with all files that the table has at that time.
            if stands.is_some() || plan.chosen.is_none() {
                ends.insert(table, plan.ends);
            }
        }
        check_readable(first, newest, &ends)?;
    }
    Ok(published)
}

/// Checks that the present source is the one that the batches have read, so that they can be run again.
async fn check_same_source(
    table: &str,
    source: &dyn JobSource,
    identities: &BTreeMap<String, Identity>,
) -> Result<()> {
    let Some(read) = identities.get(table) else {
        return Ok(());
    };
    let now = source.identity().await?;
    if read.compare(&now) != IdentityMatch::Other {
        return Ok(());
    }
    Err(Error::data(format!(
        "{table}: the batches have read another source: {}",
        read.difference(&now)
    ))
    .about(Subject::table(table))
    .with_help(
        "they cannot be run again; REWIND to a later batch, or DROP JOB and CREATE JOB to begin with what is there",
    ))
}

/// Checks the target of a rewind: a batch that the job still has, or its beginning while all batches are kept.
fn check_batch(history: &JobHistory, to: u64) -> Result<()> {
    let (name, oldest) = (&history.name, history.oldest());
    let newest = history.last().map_or(0, |last| last.batch);
    if (oldest..=newest).contains(&to) {
        return Ok(());
    }
    if to < oldest {
        let gone = format!(
            "job {name} no longer has batch {to}; the oldest it can go back to is {oldest}"
        );
        return Err(Error::not_found(gone).about(Subject::job(name)).with_help(
            "the options 'retention.versions' and 'retention.age' of CREATE JOB say how many are kept; \
             to start over, DROP JOB and CREATE JOB, or reprocess from an archive",
        ));
    }
    Err(Error::not_found(format!(
        "job {name} has no batch {to}; it has {} to {newest}",
        oldest.max(1)
    ))
    .about(Subject::job(name)))
}
