//! Shutdown of a server: running calls may end, within the grace period of the server.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use crate::error::Result;

/// Serves until `told` is done, which tells `serving` to end. Then running answers may end, and the jobs, which `jobs`
/// stops. Calls and jobs that have not ended within `grace` are dropped.
///
/// # Errors
///
/// The errors of `serving`.
pub(crate) async fn serve_until(
    serving: impl Future<Output = Result<()>>,
    told: impl Future<Output = ()>,
    jobs: impl Future<Output = ()>,
    grace: Duration,
) -> Result<()> {
    let mut serving = pin!(serving);
    let failed = tokio::select! {
        ended = &mut serving => Some(ended),
        () = told => None,
    };
    let mut outcome = Ok(());
    let rest = async {
        outcome = match failed {
            Some(ended) => ended,
            None => serving.await,
        };
    };
    let both = async { tokio::join!(rest, jobs) };
    if tokio::time::timeout(grace, both).await.is_err() {
        tracing::warn!(
            "some running work has not ended within {} s: the server ends without it",
            grace.as_secs()
        );
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::error::Error;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn answers_and_jobs_that_do_not_end_are_not_waited_for() {
        // Each ends because of its time alone.
        serve_until(pending(), ready(()), ready(()), SHORT)
            .await
            .unwrap();
        let served = async {
            tokio::task::yield_now().await;
            Ok(())
        };
        serve_until(served, ready(()), pending(), SHORT)
            .await
            .unwrap();
        serve_until(pending(), ready(()), pending(), SHORT)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_server_ends_when_answers_and_jobs_have_ended() {
        let is_told = AtomicBool::new(false);
        let has_stopped = AtomicBool::new(false);
        let serving = async {
            while !is_told.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        let told = async {
            tokio::task::yield_now().await;
            is_told.store(true, Ordering::Relaxed);
        };
        let jobs = async {
            tokio::task::yield_now().await;
            has_stopped.store(true, Ordering::Relaxed);
        };
        serve_until(serving, told, jobs, LONG).await.unwrap();
        assert!(has_stopped.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_server_that_fails_stops_its_jobs_and_says_why() {
        let has_stopped = AtomicBool::new(false);
        let jobs = async { has_stopped.store(true, Ordering::Relaxed) };
        let failed = ready(Err(Error::unavailable("the socket fails")));
        let outcome = serve_until(failed, pending(), jobs, LONG).await;
        assert_eq!(outcome.unwrap_err().message(), "the socket fails");
        assert!(has_stopped.load(Ordering::Relaxed));
    }
}
