//! Admission of connections to a listener: a connection that is served has a place until it ends.
//! [`holders`](crate::server::network::connection_shares) decides which connection is closed for another one; this module closes
//! it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Extensions;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::server::auth::access::Caller;
use crate::server::network::connection_shares::{
    Admission, ConnectionHolders, ConnectionNumber, ConnectionOrigin, ShareExceeded,
};

/// The connections of a listener.
#[derive(Debug)]
pub(crate) struct Connections {
    open: Mutex<OpenConnections>,
    /// A connection has ended since this was waited for.
    ended: Notify,
}

#[derive(Debug)]
struct OpenConnections {
    holders: ConnectionHolders,
    /// Tokens that are cancelled when their connection is to be closed.
    closing: HashMap<ConnectionNumber, CancellationToken>,
}

impl Connections {
    /// At most so many at the same time.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::new(OpenConnections {
                holders: ConnectionHolders::new(most),
                closing: HashMap::new(),
            }),
            ended: Notify::new(),
        })
    }

    /// A place for a connection from this address, as soon as there is one. A listener asks for one connection after the other.
    pub(crate) async fn place(self: &Arc<Self>, from: IpAddr) -> ConnectionSlot {
        let from = ConnectionOrigin::of(from);
        loop {
            if let Some(place) = self.try_place(from) {
                return place;
            }
            self.ended.notified().await;
        }
    }

    fn try_place(self: &Arc<Self>, from: ConnectionOrigin) -> Option<ConnectionSlot> {
        let mut open = self.lock();
        match open.holders.arrives(from) {
            Admission::Admitted(number) => {
                let closing = CancellationToken::new();
                open.closing.insert(number, closing.clone());
                let first = FirstCall(Some(Arc::new(CallState {
                    number,
                    connections: Arc::clone(self),
                    is_known: AtomicBool::new(false),
                })));
                Some(ConnectionSlot {
                    number,
                    connections: Arc::clone(self),
                    first,
                    closing,
                })
            }
            Admission::Replaces(number) => {
                if let Some(closing) = open.closing.get(&number) {
                    closing.cancel();
                }
                None
            }
            Admission::Waits => None,
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.lock().holders.open()
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    number: ConnectionNumber,
    connections: Arc<Connections>,
    first: FirstCall,
    closing: CancellationToken,
}

impl ConnectionSlot {
    /// By which calls on the connection say that their user is known.
    pub(crate) fn first_call(&self) -> FirstCall {
        self.first.clone()
    }

    /// Cancelled when the connection is to be closed for another one. The connection of a logged-in user is never
    /// closed so.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.holders.ends(self.number);
        open.closing.remove(&self.number);
        drop(open);
        self.connections.ended.notify_one();
    }
}

/// Whether a known user has called on a connection. The transport gives it to each call; a call without a connection has an empty
/// one.
#[derive(Debug, Clone, Default)]
pub(crate) struct FirstCall(Option<Arc<CallState>>);

#[derive(Debug)]
struct CallState {
    number: ConnectionNumber,
    connections: Arc<Connections>,
    is_known: AtomicBool,
}

impl FirstCall {
    /// That of the connection that a call with these extensions came on.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// A logged-in caller calls on the connection. If it has no holder yet, the caller holds it from now on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exhausted`]: the caller has as many connections as allowed.
    pub(crate) fn identify_caller(&self, caller: &Caller) -> Result<()> {
        let Some(called) = self.0.as_ref().filter(|_| !self.is_known()) else {
            return Ok(());
        };
        let mut open = called.connections.lock();
        let calls = open.holders.calls(called.number, caller.user());
        calls.map_err(|full| has_share(&full))?;
        // A connection that is being closed has no holder any more.
        let is_known = open.holders.is_known(called.number);
        called.is_known.store(is_known, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a known user has called.
    pub(crate) fn is_known(&self) -> bool {
        let called = self.0.as_ref();
        called.is_some_and(|called| called.is_known.load(Ordering::Relaxed))
    }
}

fn has_share(full: &ShareExceeded) -> Error {
    let ShareExceeded { holder, share } = full;
    let error = Error::new(
        ErrorKind::Exhausted,
        format!("{holder} has {share} connections open, which is the limit"),
    );
    error.with_help("close some of them: one connection serves many statements at the same time")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Caller {
        Caller {
            name: name.into(),
            ..Caller::anyone()
        }
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed_before_another_one_enters() {
        let connections = Connections::new(2);
        let from = IpAddr::from([10, 0, 0, 1]);
        let silent = connections.place(from).await;
        let of_ann = connections.place(from).await;
        of_ann.first_call().identify_caller(&user("ann")).unwrap();
        let (waiting, to_close) = (Arc::clone(&connections), silent.closing().clone());
        let next = tokio::spawn(async move { waiting.place(from).await });
        to_close.cancelled().await;
        // It has not ended: files of both would be open.
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(silent);
        let next = next.await.unwrap();
        next.first_call().identify_caller(&user("bob")).unwrap();
        // Users have both: the next one waits until one of them goes.
        let waiting = Arc::clone(&connections);
        let last = tokio::spawn(async move { waiting.place(from).await });
        tokio::task::yield_now().await;
        assert!(!of_ann.closing().is_cancelled() && !next.closing().is_cancelled());
        drop(of_ann);
        assert!(!last.await.unwrap().first_call().is_known());
    }

    #[tokio::test]
    async fn a_user_at_the_connection_limit_gets_an_error() {
        let connections = Connections::new(4);
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(connections.place(IpAddr::from([10, 0, 0, 1])).await);
        }
        let calls = places
            .iter()
            .map(|place| place.first_call().identify_caller(&user("ann")));
        let refused: Vec<Error> = calls.filter_map(Result::err).collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].kind(), ErrorKind::Exhausted);
        assert_eq!(
            refused[0].message(),
            "ann has 3 connections open, which is the limit"
        );
        // A connection that ann holds stays ann's, also when another user calls on it.
        places[0]
            .first_call()
            .identify_caller(&user("bob"))
            .unwrap();
        places[3]
            .first_call()
            .identify_caller(&user("bob"))
            .unwrap();
        assert!(places.iter().all(|place| place.first_call().is_known()));
    }
}
