//! Blocking calls of the client, each on a thread of its own: a thread pool could be full of queries and keep a job
//! waiting.

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Runs a blocking call of the client away from the executor's threads.
///
/// # Errors
///
/// The errors of the call.
#[expect(
    clippy::disallowed_methods,
    reason = "librdkafka's calls block, and have threads of their own"
)]
pub(crate) async fn on_own_thread<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (answer, answered) = oneshot::channel();
    let run = move || {
        // The caller may no longer wait: then the answer is dropped.
        let _ = answer.send(call());
    };
    std::thread::Builder::new()
        .name("kafka-call".into())
        .spawn(run)
        .map_err(|error| {
            Error::unavailable(format!(
                "a thread for a call to Kafka cannot be started: {error}"
            ))
        })?;
    answered
        .await
        .unwrap_or_else(|_| Err(Error::internal("a call to Kafka failed")))
}

/// Ends a client on a thread of its own: the binding looks only each tenth of a second whether it has ended.
#[expect(clippy::disallowed_methods, reason = "ending a client blocks")]
pub(crate) fn end_apart<T: Send + 'static>(client: T) {
    let end = move || drop(client);
    // Without a thread the closure is dropped here, and the client ends with it.
    let _ = std::thread::Builder::new()
        .name("kafka-end".into())
        .spawn(end);
}
