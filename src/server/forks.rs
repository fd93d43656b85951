//! Sessions of queries: forks of the one in which everything is defined. One that has done its work serves the next query, as
//! long as nothing was defined since.

use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::session::{ForkOptions, Session};

/// The session of definitions and its forks.
pub(super) struct Forks {
    /// Only definitions run here.
    whole: Session,
    /// One definition at a time; queries do not wait for it.
    defining: tokio::sync::Mutex<()>,
    spare: Mutex<Vec<Session>>,
    most: usize,
}

/// The session of definitions, held by one of them.
pub(super) struct Whole<'f> {
    pub(super) session: &'f Session,
    _defining: tokio::sync::MutexGuard<'f, ()>,
}

impl Forks {
    /// Forks of `whole`, of which at most so many are kept that have nothing to do.
    pub(super) fn new(whole: Session, most: usize) -> Self {
        Self {
            whole,
            defining: tokio::sync::Mutex::default(),
            spare: Mutex::default(),
            most,
        }
    }

    /// The session itself, when no other definition is at work.
    pub(super) async fn whole(&self) -> Whole<'_> {
        Whole {
            _defining: self.defining.lock().await,
            session: &self.whole,
        }
    }

    /// A fork with the tables of now.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn fork(&self, options: &ForkOptions) -> Result<Session> {
        self.take(options)
            .map_or_else(|| self.whole.fork(options), Ok)
    }

    fn take(&self, options: &ForkOptions) -> Option<Session> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spare
            .iter()
            .rposition(|session| session.can_serve(&self.whole) && session.is_fork_with(options))?;
        Some(spare.swap_remove(found))
    }

    /// Takes a fork back whose plans have all been read, so that nothing of them is at work any more.
    pub(super) fn give_back(&self, session: Session) {
        session.end_statement();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        // What was defined since has left others of no use.
        spare.retain(|session| session.can_serve(&self.whole));
        if spare.len() < self.most && session.can_serve(&self.whole) {
            spare.push(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::util::pretty::pretty_format_batches;

    use super::*;
    use crate::server::engine::definition;
    use crate::session::SessionOptions;

    async fn run(session: &Session, sql: &str) -> String {
        let batches = session.collect(definition(sql).unwrap()).await;
        match batches {
            Ok(batches) => pretty_format_batches(&batches).unwrap().to_string(),
            Err(error) => error.message().to_owned(),
        }
    }

    fn forks(most: usize) -> Forks {
        Forks::new(Session::try_new(&SessionOptions::default()).unwrap(), most)
    }

    fn spare(forks: &Forks) -> usize {
        forks.spare.lock().unwrap().len()
    }

    #[tokio::test]
    async fn a_fork_serves_again_until_something_is_defined() {
        let (forks, any) = (forks(2), ForkOptions::default());
        let define = async |sql: &str| run(forks.whole().await.session, sql).await;
        define("CREATE VIEW one AS SELECT 1 AS n").await;
        for _ in 0..3 {
            let session = forks.fork(&any).unwrap();
            assert_eq!(spare(&forks), 0);
            assert!(run(&session, "SELECT n FROM one").await.contains("| 1 |"));
            forks.give_back(session);
            assert_eq!(spare(&forks), 1);
        }
        let before = forks.fork(&any).unwrap();
        forks.give_back(forks.fork(&any).unwrap());
        define("CREATE OR REPLACE VIEW one AS SELECT 2 AS n").await;
        let after = forks.fork(&any).unwrap();
        assert!(run(&after, "SELECT n FROM one").await.contains("| 2 |"));
        assert!(run(&before, "SELECT n FROM one").await.contains("| 1 |"));
        forks.give_back(before);
        assert_eq!(spare(&forks), 0);
        define("DROP VIEW one").await;
        let gone = forks.fork(&any).unwrap();
        assert!(run(&gone, "SELECT n FROM one").await.contains("no table"));
        forks.give_back(gone);
        assert_eq!(spare(&forks), 1);
    }

    #[tokio::test]
    async fn what_a_statement_leaves_in_a_fork_nobody_meets() {
        let (forks, any) = (forks(2), ForkOptions::default());
        for sql in [
            "PREPARE p AS SELECT 7 AS n",
            "SET datafusion.execution.batch_size = 7",
            "CREATE TABLE mine AS SELECT 7 AS n",
        ] {
            let session = forks.fork(&any).unwrap();
            run(&session, sql).await;
            session.warn("something".to_owned());
            forks.give_back(session);
            assert_eq!(spare(&forks), 0, "{sql}");
        }
        let session = forks.fork(&any).unwrap();
        session.warn("something".to_owned());
        forks.give_back(session);
        assert_eq!(forks.fork(&any).unwrap().take_warnings(), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn forks_are_told_apart_by_what_they_may() {
        let forks = forks(2);
        let limited = ForkOptions {
            may_name: Some(Arc::new(|_, name| name == "mine")),
            ..ForkOptions::default()
        };
        forks.give_back(forks.fork(&limited).unwrap());
        assert_eq!(spare(&forks), 0);
        forks.give_back(forks.fork(&ForkOptions::default()).unwrap());
        let session = forks.fork(&limited).unwrap();
        assert_eq!(spare(&forks), 1);
        let zoned = ForkOptions {
            time_zone: Some("Europe/Paris".to_owned()),
            ..ForkOptions::default()
        };
        let zone = "SHOW datafusion.execution.time_zone";
        for _ in 0..2 {
            let session = forks.fork(&zoned).unwrap();
            assert!(run(&session, zone).await.contains("Europe/Paris"));
            forks.give_back(session);
            assert_eq!(spare(&forks), 2);
        }
        let plain = forks.fork(&ForkOptions::default()).unwrap();
        assert!(!run(&plain, zone).await.contains("Europe/Paris"));
        // Full: it is dropped.
        forks.give_back(forks.fork(&ForkOptions::default()).unwrap());
        forks.give_back(plain);
        assert_eq!(spare(&forks), 2);
        drop(session);
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
