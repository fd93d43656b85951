//! Sink of a job: takeover, witness, and the write, commit and abort of its batches, for Kafka, Delta tables and subscribers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::sync::mpsc;

use crate::core::jobs::log::sequence_of;
use crate::core::jobs::recovery::BEGINNING;
use crate::core::jobs::{Identity, JobHistory, SourceProgress, Staged};
use crate::error::{Error, Result, Subject};
#[cfg(test)]
use crate::runtime::simulation::{Open, SimulatedSink};
use crate::store::JobId;
use crate::streaming::{BatchPlan, JobSinkTable};
use crate::tables::delta::{Application, DeltaTableHandle, PreparedWrite, RowsUpTo};
use crate::tables::kafka::{KafkaJobSink, PublishedRows, TopicOffset};

/// A sink that this runner owns until another process takes it over.
pub(super) enum JobSink {
    Kafka(KafkaJobSink),
    Delta {
        handle: DeltaTableHandle,
        application: Application,
    },
    /// A subscriber, which stores nothing that could be read later.
    Subscriber(Subscriber),
    #[cfg(test)]
    Simulated(SimulatedSink),
}

/// The client that reads the rows of each batch when it is committed.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    /// The columns of its rows, any of which may be NULL.
    pub(super) schema: SchemaRef,
    pub(super) rows: mpsc::Sender<datafusion::error::Result<RecordBatch>>,
}

impl Subscriber {
    async fn send(&self, batch: &RecordBatch) -> Result<()> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec());
        let batch = batch.map_err(|error| Error::internal(error.to_string()))?;
        let sent = self.rows.send(Ok(batch)).await;
        sent.map_err(|_| Error::internal("nobody reads the rows any more"))
    }
}

/// Rows that the sink has and does not show to readers yet.
pub(super) enum Pending {
    Kafka(PublishedRows),
    Delta(PreparedWrite),
    Subscriber(Vec<RecordBatch>),
    #[cfg(test)]
    Simulated(Open),
}

impl Pending {
    pub(super) fn rows(&self) -> u64 {
        match self {
            Pending::Kafka(published) => published.rows,
            Pending::Delta(prepared) => prepared.rows(),
            Pending::Subscriber(batches) => {
                batches.iter().map(|batch| batch.num_rows() as u64).sum()
            }
            #[cfg(test)]
            Pending::Simulated(open) => open.rows(),
        }
    }

    /// Where the rows are in the partitions of a topic.
    pub(super) fn published(&self) -> BTreeMap<i32, SourceProgress> {
        let Pending::Kafka(published) = self else {
            return BTreeMap::new();
        };
        let of_partition = |(partition, (start, end)): (&i32, &(i64, i64))| {
            let (start, end) = (*start, *end);
            (*partition, SourceProgress { start, end })
        };
        published.offsets.iter().map(of_partition).collect()
    }

    /// Paths of the files that a commit will add.
    pub(super) fn files(&self) -> Vec<String> {
        match self {
            Pending::Kafka(_) | Pending::Subscriber(_) => Vec::new(),
            Pending::Delta(prepared) => prepared.files(),
            #[cfg(test)]
            Pending::Simulated(open) => open.files(),
        }
    }
}

impl JobSink {
    /// Takes the sink over; `sequence` is the number of the takeover's log entry.
    pub(super) async fn take_over(
        table: &JobSinkTable,
        id: JobId,
        sequence: u64,
    ) -> Result<(Self, Option<i64>)> {
        match table {
            JobSinkTable::Kafka(table) => {
                let sink = KafkaJobSink::take_over(Arc::clone(table), &group_of(id)).await?;
                Ok((Self::Kafka(sink), None))
            }
            JobSinkTable::Delta(handle) => {
                let version = i64::try_from(sequence).unwrap_or(i64::MAX);
                let mut application = application_of(id, version);
                // Refreshes the known state of the table first: if it was deleted and created again, the state known of the old
                // one must not be used.
                handle.identity().await?;
                application.checked = handle.take_over(&application.id, version).await?;
                let witness = handle.transaction_version(&application.witness).await?;
                let sink = Self::Delta {
                    handle: handle.clone(),
                    application,
                };
                Ok((sink, witness))
            }
            JobSinkTable::Subscriber => Err(Error::internal("nobody reads the rows")),
        }
    }

    /// Identity of the topic or table now (IDENT-1); none for a subscriber.
    pub(super) async fn identity(&self) -> Result<Option<Identity>> {
        match self {
            JobSink::Kafka(sink) => sink.identity().await.map(Some),
            JobSink::Delta { handle, .. } => handle.identity().await.map(Some),
            JobSink::Subscriber(_) => Ok(None),
            #[cfg(test)]
            JobSink::Simulated(sink) => sink.identity().await.map(Some),
        }
    }

    /// Whether the sink forgets the witness of a job that commits nothing for days.
    pub(super) fn forgets(&self) -> bool {
        match self {
            JobSink::Kafka(_) => true,
            JobSink::Delta { .. } | JobSink::Subscriber(_) => false,
            #[cfg(test)]
            JobSink::Simulated(sink) => !sink.is_table(),
        }
    }

    /// How long a batch may take; a table sets no limit.
    pub(super) fn timeout(&self) -> Option<std::time::Duration> {
        match self {
            JobSink::Kafka(sink) => Some(sink.timeout()),
            JobSink::Delta { .. } | JobSink::Subscriber(_) => None,
            #[cfg(test)]
            JobSink::Simulated(sink) => sink.timeout(),
        }
    }

    /// The highest version number up to which a table has the rows of the job; `number` is the one that the table stores, which
    /// a RESTORE does not change. `files` are those of the version with this number.
    pub(super) async fn rows_up_to(
        &self,
        number: Option<i64>,
        files: &[String],
    ) -> Result<RowsUpTo> {
        match self {
            JobSink::Delta {
                handle,
                application,
            } => rows_up_to(handle, &application.witness, number, files).await,
            _ => Ok(RowsUpTo::Number(number)),
        }
    }

    /// The version whose rows the sink has.
    pub(super) async fn witness(
        &self,
        of_delta: Option<i64>,
        history: &JobHistory,
        staged: &[Staged],
    ) -> Result<Option<String>> {
        match self {
            JobSink::Kafka(sink) => sink.witness().await,
            JobSink::Delta { .. } | JobSink::Subscriber(_) => {
                Ok(Some(numbered_witness(of_delta, history, staged)))
            }
            #[cfg(test)]
            JobSink::Simulated(sink) if !sink.is_table() => sink.witness().await,
            #[cfg(test)]
            JobSink::Simulated(_) => Ok(Some(numbered_witness(of_delta, history, staged))),
        }
    }

    /// Stores the witness in the sink, so that later takeovers find it.
    pub(super) async fn mark(&self, history: &JobHistory) -> Result<()> {
        let (batch, witness) = match history.last() {
            Some(last) => (last.batch, last.version.as_str()),
            None => (0, BEGINNING),
        };
        match self {
            JobSink::Kafka(sink) => {
                sink.begin().await?;
                sink.commit(&[], batch, witness).await
            }
            // The user has decided which rows the table has. The table stores that decision, since the log drops it with the
            // next batch, which may have no rows.
            JobSink::Delta {
                handle,
                application,
            } if history.assuming.is_some() => {
                let number = sequence_of(witness).and_then(|number| i64::try_from(number).ok());
                handle.mark(application, number.unwrap_or(0)).await
            }
            JobSink::Delta { .. } | JobSink::Subscriber(_) => Ok(()),
            #[cfg(test)]
            JobSink::Simulated(sink) => sink.mark(witness).await,
        }
    }

    /// Checks that the files of abandoned batches can be removed from the table.
    pub(super) async fn check_take_back(&self, files: &[String]) -> Result<()> {
        let JobSink::Delta { handle, .. } = self else {
            return Ok(());
        };
        if !files.is_empty() && handle.is_append_only().await? {
            return Err(Error::invalid(format!(
                "Delta table '{}' is append-only: the rows of {} files cannot be taken back",
                handle.location(),
                files.len()
            ))
            .about(Subject::location(handle.location()))
            .with_help("'delta.appendOnly' 'false' allows it; a new job with a new table goes on from any offset"));
        }
        // Files that a RESTORE or a DELETE has removed need not be removed again.
        let Some(file) = handle.rewritten_file(files).await? else {
            return Ok(());
        };
        Err(Error::invalid(format!(
            "Delta table '{}': files to be taken back are no longer in it, and {} was rewritten in version {}",
            handle.location(),
            file.path,
            file.version
        ))
        .about(Subject::location(handle.location()))
        .with_help("OPTIMIZE or a DELETE has rewritten it, and other rows with it: the batches cannot be abandoned"))
    }

    /// Removes the files of abandoned batches from a Delta table. A topic keeps its published rows.
    pub(super) async fn take_back(&self, files: &[String]) -> Result<()> {
        match self {
            JobSink::Kafka(_) | JobSink::Subscriber(_) => Ok(()),
            JobSink::Delta {
                handle,
                application,
            } => handle.remove_files(files, application).await,
            #[cfg(test)]
            JobSink::Simulated(sink) => sink.take_back(files).await,
        }
    }

    /// Writes the rows of a batch to the sink, which does not show them yet. Withdrawn rows become tombstones in a topic.
    pub(super) async fn write(
        &self,
        withdrawn: Option<&RecordBatch>,
        batch: &BatchPlan,
    ) -> Result<Pending> {
        use datafusion::physical_plan::{collect, execute_stream};
        let (plan, context) = (
            std::sync::Arc::clone(&batch.plan),
            std::sync::Arc::clone(&batch.context),
        );
        Ok(match self {
            JobSink::Kafka(sink) => Pending::Kafka(
                sink.write(withdrawn, execute_stream(plan, context)?)
                    .await?,
            ),
            JobSink::Delta { handle, .. } => Pending::Delta(handle.prepare(plan, context).await?),
            JobSink::Subscriber(_) => Pending::Subscriber(collect(plan, context).await?),
            #[cfg(test)]
            JobSink::Simulated(sink) => Pending::Simulated(sink.write(withdrawn, batch).await?),
        })
    }

    /// Computes and encodes the rows of a batch as for a write, but writes nothing that stays.
    pub(super) async fn rehearse(&self, batch: &BatchPlan) -> Result<()> {
        use datafusion::physical_plan::execute_stream;
        let (plan, context) = (Arc::clone(&batch.plan), Arc::clone(&batch.context));
        match self {
            JobSink::Kafka(sink) => sink.rehearse(execute_stream(plan, context)?).await,
            _ => {
                let pending = self.write(None, batch).await?;
                self.abort(Some(pending)).await;
                Ok(())
            }
        }
    }

    /// Makes the rows visible together with the witness.
    pub(super) async fn commit(
        &mut self,
        pending: Pending,
        offsets: &[TopicOffset],
        batch: u64,
        sequence: u64,
        witness: &str,
    ) -> Result<()> {
        match (self, pending) {
            (JobSink::Kafka(sink), _) => sink.commit(offsets, batch, witness).await,
            // A batch without rows cannot be doubled, so it needs no commit.
            (JobSink::Delta { .. }, Pending::Delta(prepared)) if prepared.rows() == 0 => Ok(()),
            (
                JobSink::Delta {
                    handle,
                    application,
                },
                Pending::Delta(prepared),
            ) => {
                application.version = i64::try_from(sequence).unwrap_or(i64::MAX);
                let commit = handle.commit_prepared(prepared, application).await?;
                application.owned = application.version;
                application.checked = commit.version;
                Ok(())
            }
            (JobSink::Subscriber(subscriber), Pending::Subscriber(batches)) => {
                for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
                    subscriber.send(batch).await?;
                }
                Ok(())
            }
            (JobSink::Delta { .. } | JobSink::Subscriber(_), _) => Ok(()),
            #[cfg(test)]
            (JobSink::Simulated(sink), Pending::Simulated(open)) => {
                sink.commit(open, witness).await
            }
            #[cfg(test)]
            (JobSink::Simulated(_), _) => Ok(()),
        }
    }

    /// Aborts uncommitted rows.
    pub(super) async fn abort(&self, pending: Option<Pending>) {
        match (self, pending) {
            (JobSink::Kafka(sink), _) => {
                if let Err(error) = sink.abort().await {
                    tracing::debug!(%error, "the transaction was not aborted; the broker does it");
                }
            }
            (JobSink::Delta { .. }, Some(Pending::Delta(prepared))) => prepared.discard().await,
            (JobSink::Delta { .. } | JobSink::Subscriber(_), _) => {}
            #[cfg(test)]
            (JobSink::Simulated(_), _) => {}
        }
    }

    /// Aborts them without waiting for the broker or the store: for a batch that was dropped half-way.
    pub(super) fn abandon(&self, pending: Option<Pending>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        match (self, pending) {
            (JobSink::Kafka(sink), _) => sink.abandon(),
            (JobSink::Delta { .. }, Some(Pending::Delta(prepared))) => {
                runtime.spawn(prepared.discard());
            }
            (JobSink::Delta { .. } | JobSink::Subscriber(_), _) => {}
            #[cfg(test)]
            (JobSink::Simulated(_), _) => {}
        }
    }
}

/// The highest version number up to which a table has the rows of a job: see [`JobSink::rows_up_to`].
pub(super) async fn rows_up_to(
    handle: &DeltaTableHandle,
    witness: &str,
    number: Option<i64>,
    files: &[String],
) -> Result<RowsUpTo> {
    // If the table has the last files, it has those before them too: no rows follow a RESTORE that the job was not aware of.
    let has_last = !files.is_empty() && handle.missing_files(files).await?.is_empty();
    match number {
        Some(_) if !has_last => handle.rows_up_to(witness).await,
        number => Ok(RowsUpTo::Number(number)),
    }
}

/// The transactional id of a job, which is also the name of its group.
pub(super) fn group_of(id: JobId) -> String {
    format!("anabranch-{id}")
}

/// The application of a job in a Delta log, with this number as its owner.
pub(super) fn application_of(id: JobId, version: i64) -> Application {
    Application {
        id: format!("anabranch/{id}"),
        owned: version,
        version,
        witness: format!("anabranch/{id}/rows"),
        checked: 0,
    }
}

/// The witness of a table, which stores only a number: the one that the names of versions begin with. A batch without rows
/// stores none. So without a number no batch with rows was committed, and the batches that the log names had no rows.
pub(super) fn numbered_witness(
    number: Option<i64>,
    history: &JobHistory,
    staged: &[Staged],
) -> String {
    let Some(number) = number else {
        let last = history.last().map(|last| last.version.as_str());
        return last.unwrap_or(BEGINNING).to_owned();
    };
    let by_number: HashMap<i64, &str> = staged
        .iter()
        .map(|staged| staged.name.as_str())
        .chain(history.known())
        .filter_map(|name| Some((name.split('-').next()?.parse().ok()?, name)))
        .collect();
    by_number
        .get(&number)
        .map_or_else(|| format!("{number:010}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::recovery::recover;
    use crate::core::jobs::{Decision, Entry};

    #[test]
    fn exact_2_a_table_that_was_given_no_rows_yet_has_what_the_log_says() {
        let created = Entry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let committed = Entry::Committed {
            batch: 1,
            version: "0000000002-a".into(),
            at: 0,
        };
        let history = JobHistory::of(&[created, committed]).unwrap();
        let staged = [Staged {
            name: "0000000003-b".into(),
            batch: 2,
            parent: Some("0000000002-a".into()),
        }];
        // The first batch had no rows; the runner died before it committed the second.
        let witness = numbered_witness(None, &history, &staged);
        assert_eq!(
            recover(&history, false, Some(&witness), &staged),
            Decision::GoOn
        );
        // It died after the commit.
        let witness = numbered_witness(Some(3), &history, &staged);
        let expected = Decision::AppendCommitted {
            batch: 2,
            version: "0000000003-b".into(),
        };
        assert_eq!(recover(&history, false, Some(&witness), &staged), expected);
    }
}
