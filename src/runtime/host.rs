//! Host of statements, below the command line and the server: a session runs those about tables, the jobs of a data directory those
//! about jobs. A statement is run by its effect: what each of the two programs does in its own way, it does as a [`Frontend`].

use std::future::Future;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::planner::{
    JobStatement, ParsedStatement, RunStatement, Statement, StatementClass, WordSpans,
};
use crate::runtime::job_status::RunOptions;
use crate::runtime::statements::Jobs;
use crate::session::rewrite::arguments::Purpose;
use crate::session::{Planned, PlannedStatement, Session, StatementOutcome};
use crate::store::{DataDir, JobStore};

/// The number of attempts for a statement that changes rows, if other writers change the same rows.
const ATTEMPTS: usize = 5;

/// A program that runs statements for a user, such as the command line or a server.
pub(crate) trait Frontend {
    /// The result of a statement that has been run.
    type Done;
    /// A statement while it is run.
    type Run<'r>: Future<Output = Result<Self::Done>>
    where
        Self: 'r;

    /// Refuses a statement that the user may not run.
    ///
    /// # Errors
    ///
    /// [`crate::error::ErrorKind::Permission`], with the right that is missing.
    fn check(&self, parsed: &ParsedStatement) -> Result<()>;

    /// Runs a statement that reads or writes rows, to its end.
    fn rows(&self, parsed: ParsedStatement) -> Self::Run<'_>;

    /// Runs a query whose rows have no end.
    fn endless(&self, parsed: ParsedStatement) -> Self::Run<'_>;

    /// Changes tables, views or jobs.
    fn definition(&self, parsed: ParsedStatement) -> Self::Run<'_>;

    /// Changes the settings of the user's session.
    fn setting(&self, parsed: ParsedStatement) -> Self::Run<'_>;

    /// Ends another statement.
    fn cancel(&self, parsed: ParsedStatement) -> Self::Run<'_>;
}

/// Runs a statement by its effect.
///
/// # Errors
///
/// The right that is missing. The statement's own errors come from what is returned.
pub(crate) fn run<F: Frontend>(frontend: &F, parsed: ParsedStatement) -> Result<F::Run<'_>> {
    frontend.check(&parsed)?;
    if parsed.effect.endless {
        return Ok(frontend.endless(parsed));
    }
    Ok(match parsed.effect.class {
        StatementClass::Query | StatementClass::Report | StatementClass::Update => {
            frontend.rows(parsed)
        }
        StatementClass::Definition => frontend.definition(parsed),
        StatementClass::Setting => frontend.setting(parsed),
        StatementClass::Cancel => frontend.cancel(parsed),
    })
}

/// Runs a statement that reads or writes rows, and again over the newest rows as long as it changes rows that another writer has
/// changed meanwhile.
///
/// # Errors
///
/// Those of `once`: of its last attempt, if each has met another writer.
pub(crate) async fn repeated<T, R>(
    parsed: ParsedStatement,
    once: impl Fn(ParsedStatement) -> R,
) -> Result<T>
where
    R: Future<Output = Result<T>>,
{
    if parsed.effect.changes_rows() {
        for _ in 1..ATTEMPTS {
            match once(parsed.clone()).await {
                Err(error) if error.is_conflict() => {}
                done => return done,
            }
        }
    }
    once(parsed).await
}

/// Runs statements in a session and over the jobs of a data directory.
pub(crate) struct Host(JobsOfHost);

enum JobsOfHost {
    Open(Arc<Jobs>),
    /// Opened by the first statement about jobs: other statements need no folder.
    Closed {
        data_dir: String,
        allows_repeats: bool,
        opened: OnceLock<Arc<Jobs>>,
    },
}

impl Host {
    /// A host of these jobs.
    pub(crate) fn over(jobs: Arc<Jobs>) -> Self {
        Self(JobsOfHost::Open(jobs))
    }

    /// A host of the jobs in a data directory, which the first statement about jobs opens. `allows_repeats`: jobs may deliver at
    /// least once.
    pub(crate) fn of_dir(data_dir: &str, allows_repeats: bool) -> Self {
        Self(JobsOfHost::Closed {
            data_dir: data_dir.to_owned(),
            allows_repeats,
            opened: OnceLock::new(),
        })
    }

    /// The jobs, if they are open.
    pub(crate) fn open_jobs(&self) -> Option<&Jobs> {
        match &self.0 {
            JobsOfHost::Open(jobs) => Some(jobs),
            JobsOfHost::Closed { opened, .. } => opened.get().map(Arc::as_ref),
        }
    }

    /// The jobs.
    ///
    /// # Errors
    ///
    /// The data directory cannot be opened.
    fn jobs(&self) -> Result<&Jobs> {
        let (data_dir, allows_repeats, opened) = match &self.0 {
            JobsOfHost::Open(jobs) => return Ok(jobs),
            JobsOfHost::Closed {
                data_dir,
                allows_repeats,
                opened,
            } => (data_dir, *allows_repeats, opened),
        };
        if let Some(jobs) = opened.get() {
            return Ok(jobs);
        }
        let jobs = Jobs::new(JobStore::new(DataDir::open(data_dir)?));
        let jobs = match allows_repeats {
            true => jobs.allowing_repeats(),
            false => jobs,
        };
        Ok(opened.get_or_init(|| Arc::new(jobs)))
    }

    /// Runs a statement; starts it if it returns rows.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(crate) async fn begin(
        &self,
        session: &Session,
        parsed: ParsedStatement,
    ) -> Result<StatementOutcome> {
        self.begin_with(session, parsed, &RunOptions::default())
            .await
    }

    /// The same; a reprocessing run that the statement runs is stopped by `options`, and updates their status.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`].
    pub(crate) async fn begin_with(
        &self,
        session: &Session,
        parsed: ParsedStatement,
        options: &RunOptions,
    ) -> Result<StatementOutcome> {
        match part_of(parsed)? {
            Part::Session(parsed) => session.execute(*parsed).await,
            Part::Jobs { job, text, places } => {
                let begun = async { self.jobs()?.begin(session, *job, &text).await };
                Box::pin(begun).await.map_err(|error| places.locate(error))
            }
            Part::Runs { run, places } => {
                let begun = async {
                    let jobs = self.jobs()?;
                    let ready = jobs.execute_run(session, run, &places, options).await?;
                    session.begin_ready(ready)
                };
                Box::pin(begun).await.map_err(|error| places.locate(error))
            }
        }
    }

    /// Plans a statement that returns rows for this purpose, and does not start it.
    ///
    /// # Errors
    ///
    /// The statement's, with its place; a statement without rows.
    pub(crate) async fn plan(
        &self,
        session: &Session,
        parsed: ParsedStatement,
        purpose: Purpose,
    ) -> Result<Planned> {
        match part_of(parsed)? {
            Part::Session(parsed) => session.plan_for(*parsed, purpose).await,
            Part::Jobs { job, text, places } => {
                let ready = async { self.jobs()?.execute(session, *job, &text).await };
                let planned = Box::pin(ready).await.and_then(PlannedStatement::planned);
                planned.map_err(|error| places.locate(error))
            }
            Part::Runs { run, places } => {
                let options = RunOptions::default();
                let ready = async {
                    let jobs = self.jobs()?;
                    jobs.execute_run(session, run, &places, &options).await
                };
                let planned = Box::pin(ready).await.and_then(PlannedStatement::planned);
                planned.map_err(|error| places.locate(error))
            }
        }
    }
}

/// A statement by the part of the host that runs it.
enum Part {
    /// The session.
    Session(Box<ParsedStatement>),
    /// The jobs.
    Jobs {
        job: Box<JobStatement>,
        text: String,
        places: WordSpans,
    },
    /// The reprocessing runs of the jobs.
    Runs {
        run: RunStatement,
        places: WordSpans,
    },
}

/// Every statement is named, so that a new one does not compile until its part is decided.
///
/// # Errors
///
/// A statement that a server answers by itself.
fn part_of(parsed: ParsedStatement) -> Result<Part> {
    match parsed.statement {
        Statement::Job(job) => Ok(Part::Jobs {
            job,
            text: parsed.text,
            places: parsed.places,
        }),
        Statement::Run(run) => Ok(Part::Runs {
            run,
            places: parsed.places,
        }),
        Statement::ShowQueries | Statement::KillQuery(_) => Err(only_in_a_server(&parsed)),
        Statement::CreateTable(_)
        | Statement::CreateView(_)
        | Statement::ShowTables
        | Statement::Describe(_)
        | Statement::DescribeQuery(_)
        | Statement::Summarize(_)
        | Statement::ShowCreateTable(_)
        | Statement::Optimize { .. }
        | Statement::Vacuum { .. }
        | Statement::History(_)
        | Statement::Sql(_) => Ok(Part::Session(Box::new(parsed))),
    }
}

/// The error of a process without a list of running statements.
fn only_in_a_server(parsed: &ParsedStatement) -> Error {
    let error = Error::unsupported("only a server keeps a list of queries");
    let error = error.with_help("send it to `anabranch serve`");
    parsed.places.locate(error)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{Ready as Now, ready};

    use super::*;
    use crate::error::ErrorKind;
    use crate::planner::{Script, parse_statement};
    use crate::session::SessionOptions;

    fn parsed(sql: &str) -> ParsedStatement {
        parse_statement(&Script::new("t", sql).split().unwrap().remove(0)).unwrap()
    }

    /// Says by which way a statement is run.
    struct Ways {
        may_run: bool,
    }

    impl Frontend for Ways {
        type Done = &'static str;
        type Run<'r> = Now<Result<&'static str>>;

        fn check(&self, _: &ParsedStatement) -> Result<()> {
            match self.may_run {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Permission, "refused")),
            }
        }

        fn rows(&self, _: ParsedStatement) -> Self::Run<'_> {
            ready(Ok("rows"))
        }

        fn endless(&self, _: ParsedStatement) -> Self::Run<'_> {
            ready(Ok("endless"))
        }

        fn definition(&self, _: ParsedStatement) -> Self::Run<'_> {
            ready(Ok("definition"))
        }

        fn setting(&self, _: ParsedStatement) -> Self::Run<'_> {
            ready(Ok("setting"))
        }

        fn cancel(&self, _: ParsedStatement) -> Self::Run<'_> {
            ready(Ok("cancel"))
        }
    }

    #[tokio::test]
    async fn a_statement_is_run_by_its_effect() {
        for (sql, way) in [
            ("SELECT 1", "rows"),
            ("SHOW JOBS", "rows"),
            ("SHOW QUERIES", "rows"),
            ("OPTIMIZE t", "rows"),
            ("INSERT INTO t SELECT 1", "rows"),
            ("DELETE FROM t", "rows"),
            ("SUBSCRIBE SELECT 1", "endless"),
            ("CREATE VIEW v AS SELECT 1", "definition"),
            ("PAUSE JOB j", "definition"),
            ("PLAN REPROCESS JOB j FOR (SELECT 1)", "rows"),
            ("REPROCESS JOB j FOR (SELECT 1)", "rows"),
            ("APPLY RUN 'r'", "rows"),
            ("ABORT RUN 'r'", "definition"),
            ("SHOW RUNS", "rows"),
            ("DROP TABLE t", "definition"),
            ("SET TIME ZONE 'UTC'", "setting"),
            ("KILL QUERY 'a'", "cancel"),
        ] {
            let frontend = Ways { may_run: true };
            let run = super::run(&frontend, parsed(sql)).unwrap();
            assert_eq!(run.await.unwrap(), way, "{sql}");
            let refused = super::run(&Ways { may_run: false }, parsed(sql));
            assert_eq!(
                refused.err().map(|error| error.kind()),
                Some(ErrorKind::Permission),
                "{sql}"
            );
        }
    }

    #[tokio::test]
    async fn only_conflicts_of_changes_are_tried_again() {
        let conflict: fn() -> Error = || Error::invalid("another writer").mark_conflict();
        let of_row: fn() -> Error = || Error::invalid("a row");
        for (sql, failures, error, attempts, is_done) in [
            ("DELETE FROM t", 0, conflict, 1, true),
            ("DELETE FROM t", 4, conflict, 5, true),
            ("DELETE FROM t", 5, conflict, 5, false),
            ("UPDATE t SET a = 1", 5, conflict, 5, false),
            ("INSERT INTO t SELECT 1", 1, conflict, 1, false),
            ("SELECT 1", 1, conflict, 1, false),
            ("DELETE FROM t", 1, of_row, 1, false),
        ] {
            let made = Cell::new(0);
            let once = |_: ParsedStatement| {
                made.set(made.get() + 1);
                ready(match made.get() <= failures {
                    true => Err(error()),
                    false => Ok(()),
                })
            };
            let done = repeated(parsed(sql), once).await;
            assert_eq!(made.get(), attempts, "{sql}");
            assert_eq!(done.is_ok(), is_done, "{sql}");
        }
    }

    #[tokio::test]
    async fn other_statements_than_those_about_jobs_need_no_folder() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let host = Host::of_dir(&data_dir.display().to_string(), false);
        let done = host.begin(&session, parsed("SHOW TABLES")).await.unwrap();
        assert!(matches!(done, StatementOutcome::Rows(_)));
        assert!(host.open_jobs().is_none());
        assert!(!data_dir.exists());
        host.plan(&session, parsed("SHOW JOBS"), Purpose::Run)
            .await
            .unwrap();
        assert!(host.open_jobs().is_some());
        for sql in ["SHOW QUERIES", "KILL QUERY 'a'"] {
            let error = host.begin(&session, parsed(sql)).await.err().unwrap();
            assert_eq!(error.message(), "only a server keeps a list of queries");
            assert!(error.span().is_some(), "{sql}");
        }
    }
}
