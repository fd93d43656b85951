//! Jobs that this process should run and cannot start: a source or sink cannot be opened, or the log cannot be read. They are
//! kept, with the reason why they wait.

use std::sync::Arc;

use crate::core::jobs::heartbeat::is_fresh;
use crate::core::jobs::{Heartbeat, JobHistory, JobPhase};
use crate::error::{Error, Result};
use crate::planner::JobStatement;
use crate::runtime::environment::Environment;
use crate::runtime::job::ReadyJob;
use crate::runtime::job_status::RunOptions;
use crate::runtime::metrics::{JobMetrics, JobState};
use crate::runtime::owner::{now, owner};
use crate::runtime::statements::Jobs;
use crate::session::Session;
use crate::store::JobId;

impl Jobs {
    /// The history of an existing job that no statement of this process has made ready yet; `None` if there is no such job.
    ///
    /// # Errors
    ///
    /// The store does not answer, or the job's log cannot be read.
    pub async fn not_ready(&self, name: &str) -> Result<Option<(JobId, JobHistory)>> {
        if self.ready.lock().await.contains_key(name) {
            return Ok(None);
        }
        let found = self.store.find(name).await?;
        Ok(found.filter(|(_, history)| history.phase != JobPhase::Dropped))
    }

    /// Makes an existing job ready: the one with this id, as in `history`. `statement` is the parsed text of the job, and
    /// `session` has its tables. The log is only read.
    ///
    /// # Errors
    ///
    /// The job cannot be planned, the store does not answer, or a client has dropped or replaced the job meanwhile.
    pub async fn make_ready(
        &self,
        session: &Session,
        statement: JobStatement,
        id: JobId,
        history: &JobHistory,
    ) -> Result<()> {
        let JobStatement::Create {
            explain: false,
            options,
            insert,
            emit,
            ..
        } = statement
        else {
            return Err(Error::internal(
                "the stored statement does not create the job",
            ));
        };
        let (options, query) = self.planned(session, &options, *insert, emit).await?;
        // A statement that drops or replaces the job writes to the log first, and then changes the list of ready jobs. It waits
        // for this lock: so the log that is read here stays valid until the job is in the list.
        let mut ready = self.ready.lock().await;
        if ready.get(&history.name).is_some_and(|job| job.id == id) {
            return Ok(());
        }
        let now = self.store.find(&history.name).await?;
        let is_as_before = now.is_some_and(|(now_id, now)| {
            now_id == id
                && now.text == history.text
                && now.tables == history.tables
                && now.phase != JobPhase::Dropped
        });
        if !is_as_before {
            return Err(Error::unavailable("the job was changed meanwhile"));
        }
        let job = ReadyJob {
            id,
            name: history.name.clone(),
            text: history.text.clone(),
            tables: history.tables.clone(),
            options,
            query: Arc::new(query),
            environment: Environment::real(),
        };
        ready.insert(history.name.clone(), Arc::new(job));
        Ok(())
    }

    /// Reports that a job cannot be started here and why: in its heartbeat, for `SHOW JOBS` of any process, and in the status
    /// and metrics of this process.
    ///
    /// # Errors
    ///
    /// The store does not answer, or the job's log cannot be read; status and metrics of this process are updated all the same.
    pub async fn report_waiting(
        &self,
        name: &str,
        reason: &str,
        options: &RunOptions,
    ) -> Result<()> {
        let metrics = JobMetrics::try_new(options.metrics.as_ref(), name)?;
        let found = self.store.find(name).await;
        let state = match found.as_ref().map(Option::as_ref) {
            Ok(None) => None,
            Ok(Some((_, history))) => match &history.phase {
                JobPhase::Active => Some(JobState::Waiting),
                JobPhase::Paused(None) => Some(JobState::Paused),
                JobPhase::Paused(Some(_)) => Some(JobState::Failed),
                JobPhase::Dropped => None,
            },
            Err(_) => Some(JobState::Waiting),
        };
        metrics.state(state);
        let waiting = (state == Some(JobState::Waiting)).then(|| reason.to_owned());
        let beat = Heartbeat {
            owner: owner(),
            waiting: waiting.clone(),
            opening: true,
            backlog: None,
            at: now(),
        };
        let is_waiting = waiting.is_some();
        options
            .statuses
            .update(name, |status| status.waiting = waiting);
        let Some((id, history)) = found? else {
            return Ok(());
        };
        // Another process may run the job: its heartbeat has more information.
        let last = self.store.heartbeat(id).await?;
        let is_run = last.is_some_and(|last| {
            !last.opening && is_fresh(&last, beat.at) && history.owner.as_ref() == Some(&last.owner)
        });
        match is_waiting && !is_run {
            true => self.store.put_heartbeat(id, &beat).await,
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::LogEntry;
    use crate::error::ErrorKind;
    use crate::planner::{Parameters, Script, Statement, parse_statement};
    use crate::runtime::takeover::append_to;
    use crate::session::SessionOptions;
    use crate::store::{DataDir, JobStore};

    const TABLES: &str = "
        CREATE EXTERNAL TABLE numbers (v BIGINT) STORED AS KAFKA LOCATION 'numbers'
          OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
        CREATE EXTERNAL TABLE copied (v BIGINT) STORED AS KAFKA LOCATION 'copied'
          OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1')";
    const JOB: &str = "CREATE JOB j AS INSERT INTO copied SELECT v FROM numbers";

    async fn session() -> Session {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        for raw in Script::new("tables", TABLES).split().unwrap() {
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            session.execute(parsed).await.unwrap();
        }
        session
    }

    fn statement(text: &str) -> JobStatement {
        let raw = Script::new("job", text).split().unwrap().remove(0);
        match parse_statement(&raw).unwrap().statement {
            Statement::Job(job) => *job,
            _ => panic!("no statement about jobs"),
        }
    }

    async fn run(jobs: &Jobs, session: &Session, text: &str) -> Result<()> {
        let done = jobs.execute(session, statement(text), text).await;
        done.map(drop)
    }

    /// A process that has just started, with the job that it would make ready.
    async fn started(store: &JobStore) -> (Jobs, JobId, JobHistory) {
        let jobs = Jobs::new(store.clone());
        let (id, history) = jobs.not_ready("j").await.unwrap().unwrap();
        (jobs, id, history)
    }

    #[tokio::test]
    async fn a_client_change_during_opening_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = JobStore::new(DataDir::open(&dir.path().display().to_string()).unwrap());
        let session = session().await;
        let client = Jobs::new(store.clone());
        run(&client, &session, JOB).await.unwrap();

        let refused = async |(jobs, id, history): &(Jobs, JobId, JobHistory)| {
            let done = jobs.make_ready(&session, statement(&history.text), *id, history);
            let error = done.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert_eq!(jobs.ready_names().await, [] as [&str; 0]);
        };
        let dropped = started(&store).await;
        run(&client, &session, "DROP JOB j").await.unwrap();
        refused(&dropped).await;
        assert!(store.find("j").await.unwrap().is_none());
        // Another job of the same name and text.
        run(&client, &session, JOB).await.unwrap();
        refused(&dropped).await;

        let replaced = started(&store).await;
        let other = "CREATE OR REPLACE JOB j AS INSERT INTO copied SELECT v + 1 FROM numbers";
        run(&client, &session, other).await.unwrap();
        refused(&replaced).await;
        let (id, history) = store.find("j").await.unwrap().unwrap();
        assert_eq!(history.text, other);

        // The job as it is now is made ready, and its log does not change.
        let (jobs, _, _) = replaced;
        let made = jobs.make_ready(&session, statement(other), id, &history);
        made.await.unwrap();
        assert_eq!(jobs.ready_names().await, ["j"]);
        assert_eq!(store.history(id).await.unwrap().next, history.next);
    }

    #[tokio::test]
    async fn a_name_is_free_after_an_interrupted_drop() {
        let dir = tempfile::tempdir().unwrap();
        let store = JobStore::new(DataDir::open(&dir.path().display().to_string()).unwrap());
        let session = session().await;
        run(&Jobs::new(store.clone()), &session, JOB).await.unwrap();
        let (jobs, first, history) = started(&store).await;
        let dropped = LogEntry::Dropped { at: now() };
        append_to(&store, first, history.clone(), &dropped)
            .await
            .unwrap();
        let made = jobs.make_ready(&session, statement(JOB), first, &history);
        assert_eq!(made.await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(jobs.ready_names().await, [] as [&str; 0]);
        run(&jobs, &session, JOB).await.unwrap();
        let (second, history) = store.find("j").await.unwrap().unwrap();
        assert!(second != first && history.phase == JobPhase::Active);
        assert_eq!(jobs.ready_names().await, ["j"]);
    }
}
