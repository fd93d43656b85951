//! Pool of sessions for queries: forks of the session that holds all definitions. A session that has done its work
//! serves the next query, as long as no definition has changed since.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::error::Result;
use crate::session::{ForkOptions, Session};

/// The session of definitions and its forks.
pub(crate) struct SessionPool {
    /// Only definitions run here, one at a time.
    whole: Session,
    defining: tokio::sync::Mutex<()>,
    /// Queries are forked from this session, as it was after the last definition. So they do not wait for the next
    /// definition, nor see half of it.
    defined: RwLock<Arc<Session>>,
    spare: Mutex<Vec<Session>>,
    most: usize,
}

/// The session of definitions, held by one statement at a time. Its changes become visible to queries when this is
/// dropped.
pub(crate) struct DefinitionGuard<'f> {
    pub(crate) session: &'f Session,
    forks: &'f SessionPool,
    _defining: tokio::sync::MutexGuard<'f, ()>,
}

impl Drop for DefinitionGuard<'_> {
    fn drop(&mut self) {
        self.forks.publish();
    }
}

impl SessionPool {
    /// Forks of `whole`, of which at most so many are kept that have nothing to do.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(crate) fn try_new(whole: Session, most: usize) -> Result<Self> {
        Ok(Self {
            defined: RwLock::new(Arc::new(whole.fork(&ForkOptions::default())?)),
            whole,
            defining: tokio::sync::Mutex::default(),
            spare: Mutex::default(),
            most,
        })
    }

    /// The session itself, when no other definition uses it.
    pub(crate) async fn exclusive(&self) -> DefinitionGuard<'_> {
        DefinitionGuard {
            _defining: self.defining.lock().await,
            session: &self.whole,
            forks: self,
        }
    }

    /// A fork with the tables of now.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(crate) fn fork(&self, options: &ForkOptions) -> Result<Session> {
        let defined = self.defined();
        let mut spare = self.spare();
        let found = spare
            .iter()
            .rposition(|session| session.can_serve(&defined) && session.is_fork_with(options));
        match found {
            Some(found) => Ok(spare.swap_remove(found)),
            None => {
                drop(spare);
                defined.fork(options)
            }
        }
    }

    /// Takes a fork back whose plans have all been read. A fork with a task that still runs is dropped.
    pub(crate) fn return_fork(&self, session: Session) {
        if self.most == 0 || !session.is_at_rest() || !session.can_serve(&self.defined()) {
            return;
        }
        session.end_statement();
        let mut spare = self.spare();
        if spare.len() >= self.most {
            // Sessions with settings that no other client uses must not keep all places.
            spare.remove(0);
        }
        spare.push(session);
    }

    fn publish(&self) {
        let defined = match self.whole.fork(&ForkOptions::default()) {
            Ok(defined) => Arc::new(defined),
            Err(error) => {
                tracing::error!(%error, "the last definition is not visible yet");
                return;
            }
        };
        self.spare().retain(|session| session.can_serve(&defined));
        *self.defined.write().unwrap_or_else(PoisonError::into_inner) = defined;
    }

    /// All as it was after the last definition.
    pub(crate) fn defined(&self) -> Arc<Session> {
        let defined = self.defined.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&defined)
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Session>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::util::pretty::pretty_format_batches;

    use super::*;
    use crate::server::parse::definition;
    use crate::session::SessionOptions;

    async fn run(session: &Session, sql: &str) -> String {
        let batches = session.collect(definition(sql).unwrap()).await;
        match batches {
            Ok(batches) => pretty_format_batches(&batches).unwrap().to_string(),
            Err(error) => error.message().to_owned(),
        }
    }

    fn forks(most: usize) -> SessionPool {
        let whole = Session::try_new(&SessionOptions::default()).unwrap();
        SessionPool::try_new(whole, most).unwrap()
    }

    fn spare(forks: &SessionPool) -> usize {
        forks.spare().len()
    }

    #[tokio::test]
    async fn a_fork_is_reused_until_a_definition_changes() {
        let (forks, any) = (forks(2), ForkOptions::default());
        let define = async |sql: &str| run(forks.exclusive().await.session, sql).await;
        define("CREATE VIEW one AS SELECT 1 AS n").await;
        for _ in 0..3 {
            let session = forks.fork(&any).unwrap();
            assert_eq!(spare(&forks), 0);
            assert!(run(&session, "SELECT n FROM one").await.contains("| 1 |"));
            forks.return_fork(session);
            assert_eq!(spare(&forks), 1);
        }
        let before = forks.fork(&any).unwrap();
        forks.return_fork(forks.fork(&any).unwrap());
        define("CREATE OR REPLACE VIEW one AS SELECT 2 AS n").await;
        let after = forks.fork(&any).unwrap();
        assert!(run(&after, "SELECT n FROM one").await.contains("| 2 |"));
        assert!(run(&before, "SELECT n FROM one").await.contains("| 1 |"));
        forks.return_fork(before);
        assert_eq!(spare(&forks), 0);
        define("DROP VIEW one").await;
        let gone = forks.fork(&any).unwrap();
        assert!(run(&gone, "SELECT n FROM one").await.contains("no table"));
        forks.return_fork(gone);
        assert_eq!(spare(&forks), 1);
    }

    #[tokio::test]
    async fn no_state_of_a_statement_leaks_through_a_reused_fork() {
        let (forks, any) = (forks(2), ForkOptions::default());
        for sql in [
            "SET datafusion.execution.batch_size = 7",
            "CREATE TABLE mine AS SELECT 7 AS n",
        ] {
            let session = forks.fork(&any).unwrap();
            run(&session, sql).await;
            session.warn("something".to_owned());
            forks.return_fork(session);
            assert_eq!(spare(&forks), 0, "{sql}");
        }
        let session = forks.fork(&any).unwrap();
        session.warn("something".to_owned());
        forks.return_fork(session);
        assert_eq!(forks.fork(&any).unwrap().take_warnings(), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn forks_are_reused_only_for_equal_rights() {
        let forks = forks(2);
        let limited = ForkOptions {
            may_name: Some(Arc::new(|_, name| name == "mine")),
            ..ForkOptions::default()
        };
        forks.return_fork(forks.fork(&limited).unwrap());
        assert_eq!(spare(&forks), 0);
        forks.return_fork(forks.fork(&ForkOptions::default()).unwrap());
        let session = forks.fork(&limited).unwrap();
        assert_eq!(spare(&forks), 1);
        let zoned = ForkOptions {
            time_zone: Some("Europe/Paris".to_owned()),
            ..ForkOptions::default()
        };
        let zone = "SHOW datafusion.execution.time_zone";
        for _ in 0..2 {
            let session = forks.fork(&zoned).unwrap();
            run(&session, "SELECT 1").await;
            forks.return_fork(session);
            assert_eq!(spare(&forks), 2);
        }
        let session_of_zone = forks.fork(&zoned).unwrap();
        assert!(run(&session_of_zone, zone).await.contains("Europe/Paris"));
        let plain = forks.fork(&ForkOptions::default()).unwrap();
        assert!(!run(&plain, zone).await.contains("Europe/Paris"));
        drop(session);
    }

    #[tokio::test]
    async fn recently_used_idle_forks_are_kept() {
        let (forks, any) = (forks(2), ForkOptions::default());
        let three = [0, 1, 2].map(|_| forks.fork(&any).unwrap());
        three
            .into_iter()
            .for_each(|session| forks.return_fork(session));
        assert_eq!(spare(&forks), 2);
        let session = forks.fork(&any).unwrap();
        let query = definition("SELECT * FROM generate_series(1, 100000)").unwrap();
        let running = session.plan(query).await.unwrap();
        forks.return_fork(session);
        assert_eq!(spare(&forks), 1);
        drop(running);
    }

    #[tokio::test]
    async fn queries_see_definitions_completely_or_not_at_all() {
        let (forks, any) = (forks(2), ForkOptions::default());
        forks.return_fork(forks.fork(&any).unwrap());
        let whole = forks.exclusive().await;
        run(whole.session, "CREATE TABLE t AS SELECT 1 AS n").await;
        let names = |forks: &SessionPool| forks.fork(&any).unwrap().table_names();
        assert_eq!(names(&forks), [] as [&str; 0]);
        drop(whole);
        assert_eq!(names(&forks), ["t"]);
        assert_eq!(spare(&forks), 0);
    }

    #[tokio::test]
    async fn each_statement_has_its_own_time() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let first = run(&session, "SELECT now()").await;
        assert_ne!(first, run(&session, "SELECT now()").await);
        let both = "SELECT now() = now() AS same";
        assert!(run(&session, both).await.contains("true"));
        run(&session, "SET datafusion.execution.batch_size = 7").await;
        let size = "SHOW datafusion.execution.batch_size";
        assert!(run(&session, size).await.contains("| 7 "));
        run(&session, "SET datafusion.execution.batch_size = 9").await;
        assert!(run(&session, size).await.contains("| 9 "));
    }
}
