//! Running statements: each has a number, and runs within limits until it ends, is cancelled or takes too long. Its end
//! is logged. Statements run on threads of their own, so that the network always answers.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use datafusion::arrow::array::RecordBatch;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::core::heap;
use crate::core::stack::on_stack;
use crate::error::{Error, ErrorKind, Result};
use crate::server::auth::access::{Caller, share};
use crate::server::counters::StatementCounters;
use crate::server::queries::limits::{Limits, QUERY_LOG};
use crate::server::queries::planning::{LOOK, PlanningSlots};
use crate::server::queries::statement::{
    ClientStatement, StopReason, client_gone, is_ending, is_out_of_memory, too_long,
};

/// Messages that are made before the client asks for them: a result with a slow reader holds no more.
const AHEAD: usize = 4;

/// The running statements.
pub(crate) struct QueryScheduler {
    /// Counts of statements that have ended.
    pub(crate) counts: Arc<StatementCounters>,
    /// Where statements are planned.
    pub(crate) planners: PlanningSlots,
    runtime: Handle,
    limits: Limits,
    turns: Arc<Semaphore>,
    /// Turns of statements without an end.
    subscriptions: Arc<Semaphore>,
    /// KiB of texts that may be parsed at the same time: a parsed text is many times as large.
    reading: Arc<Semaphore>,
    /// Texts that wait to be read.
    unread: AtomicUsize,
    /// Statements that wait for others.
    waiting: AtomicUsize,
    users: Mutex<HashMap<Arc<str>, Arc<UserShare>>>,
    running: Mutex<BTreeMap<String, Arc<ClientStatement>>>,
    /// Statements that were planned: they may be ended before their rows are fetched.
    planned: Mutex<BTreeMap<String, Weak<ClientStatement>>>,
    /// Cancelled when the server is shutting down.
    ending: CancellationToken,
    /// Bytes that a statement may take in one go.
    most: AtomicUsize,
}

/// One user's share of the limits.
#[derive(Debug)]
struct UserShare {
    turns: Arc<Semaphore>,
    subscriptions: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A statement's permit to run.
#[derive(Debug)]
struct StatementPermit {
    _user: Arc<UserShare>,
    _of_user: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl QueryScheduler {
    pub(crate) fn new(
        runtime: Handle,
        limits: Limits,
        counts: Arc<StatementCounters>,
    ) -> Arc<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            counts,
            planners: PlanningSlots::new(processors, limits.planning),
            turns: Arc::new(Semaphore::new(limits.statements)),
            subscriptions: Arc::new(Semaphore::new(limits.subscriptions)),
            reading: Arc::new(Semaphore::new(kibibytes(limits.statement_bytes) as usize)),
            most: AtomicUsize::new(limits.memory.map_or(usize::MAX, allocation_limit)),
            runtime,
            limits,
            unread: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            users: Mutex::default(),
            running: Mutex::default(),
            planned: Mutex::default(),
            ending: CancellationToken::new(),
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Says how much a statement may hold, where its limits leave that to the server.
    pub(crate) fn may_hold(&self, memory: usize) {
        let memory = self.limits.memory.unwrap_or(memory);
        self.most.store(allocation_limit(memory), Ordering::Relaxed);
    }

    /// Bytes that a statement may take in one go.
    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Whether a statement's text is short enough.
    ///
    /// # Errors
    ///
    /// It is not.
    pub(crate) fn check_length(&self, text: &str) -> Result<()> {
        let limit = self.limits.statement_bytes;
        if text.len() <= limit {
            return Ok(());
        }
        let error = Error::new(
            ErrorKind::Exhausted,
            format!(
                "the statement has {} bytes, and the limit is {limit}",
                text.len()
            ),
        );
        Err(error.with_help("bind values as parameters, or load rows with bulk ingest"))
    }

    /// How many statements wait for others.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many subscriptions are read.
    pub(crate) fn open_subscriptions(&self) -> usize {
        self.limits.subscriptions - self.subscriptions.available_permits()
    }

    /// The running statements, the oldest first; also those that have ended and are still being planned.
    pub(crate) fn running(&self) -> Vec<Arc<ClientStatement>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = running.clone();
        drop(running);
        for ending in self.planners.ending() {
            all.entry(ending.id.clone()).or_insert(ending);
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_by_key(|statement| statement.at);
        all
    }

    /// The statement of this id, running or planned.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<ClientStatement>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = || {
            let planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
            planned.get(id)?.upgrade()
        };
        let ending = || {
            let mut ending = self.planners.ending().into_iter();
            ending.find(|statement| statement.id == id)
        };
        running.get(id).cloned().or_else(planned).or_else(ending)
    }

    fn plans(&self, statement: &Arc<ClientStatement>) {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if planned.len() >= 2 * self.limits.sessions {
            planned.retain(|_, statement| statement.strong_count() > 0);
        }
        planned.insert(statement.id.clone(), Arc::downgrade(statement));
    }

    /// Counts and logs a refusal that came before there was a statement.
    pub(crate) fn refused(&self, caller: &Caller, error: &Error) {
        if error.query().is_some() {
            // It has a line of its own.
            return;
        }
        let kind = error.kind();
        self.counts.ended(kind.name(), None, 0, 0);
        tracing::info!(target: QUERY_LOG, user = &*caller.name, "refused: {kind:?}: {}", error.message());
    }

    /// Counts and logs a statement whose answer was known.
    pub(crate) fn answered(self: &Arc<Self>, statement: &Arc<ClientStatement>, rows: &RecordBatch) {
        let mut running = RunningGuard::new(self, statement);
        statement.count(rows.num_rows(), rows.get_array_memory_size());
        running.end(None);
    }

    /// Does a part of a statement, after which it `goes_on` or has ended, unless it is stopped or its client no longer
    /// waits. When the server is shutting down, the statement has ended: its rows could not be fetched.
    ///
    /// # Errors
    ///
    /// The work's own error; too many other statements; cancelled; too long; the server is shutting down.
    pub(crate) async fn plan<T: Send + 'static>(
        self: &Arc<Self>,
        statement: &Arc<ClientStatement>,
        work: impl Future<Output = Result<T>> + Send + 'static,
        goes_on: impl Fn(&T) -> bool + Send,
    ) -> Result<T> {
        let mut running = RunningGuard::new(self, statement);
        let done = self.unless_ending(self.attempt(statement, work)).await;
        let done = done.map_err(|error| error.of_query(&statement.id));
        match &done {
            Ok(planned) if goes_on(planned) => {
                self.plans(statement);
                running.goes_on = true;
            }
            ended => running.end(ended.as_ref().err()),
        }
        done
    }

    /// Does all of a statement, unless it is stopped or its client no longer waits.
    ///
    /// # Errors
    ///
    /// As [`Self::plan`].
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        statement: &Arc<ClientStatement>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let mut running = RunningGuard::new(self, statement);
        let done = self.attempt(statement, work).await;
        let done = done.map_err(|error| error.of_query(&statement.id));
        running.end(done.as_ref().err());
        done
    }

    /// Parses a text. A long text is parsed on the threads of statements, so that the network answers others meanwhile,
    /// and waits until enough of the texts of others are parsed.
    ///
    /// # Errors
    ///
    /// The error of parsing; too many other statements; too long.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        bytes: usize,
        read: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        /// This many bytes are read in less time than it takes to hand them over and back.
        const SHORT: usize = 8 << 10;
        if bytes <= SHORT {
            return read();
        }
        let room = self.room(bytes);
        let room = match self.limits.timeout {
            Some(timeout) => match tokio::time::timeout(timeout, room).await {
                Ok(room) => room?,
                Err(_) => return Err(too_long(timeout)),
            },
            None => room.await?,
        };
        self.aside(async move {
            // The text keeps its room until it has been parsed, also when its client no longer waits.
            let _room = room;
            read()
        })
        .await
    }

    /// Room for reading a text of so many bytes.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        // The largest text has room when it is alone.
        let needed = kibibytes(bytes.min(self.limits.statement_bytes));
        if let Ok(room) = Arc::clone(&self.reading).try_acquire_many_owned(needed) {
            return Ok(room);
        }
        let before = self.unread.fetch_add(1, Ordering::Relaxed);
        let _waits = QueueGuard(&self.unread);
        if before >= self.limits.queue {
            let most = self.limits.queue;
            let full = format!("{most} long statements wait to be parsed");
            return Err(Error::new(ErrorKind::Exhausted, full).with_help("try again later"));
        }
        let room = Arc::clone(&self.reading).acquire_many_owned(needed).await;
        room.map_err(|error| Error::internal(error.to_string()))
    }

    /// Does something small of the server's own that neither waits nor is listed.
    ///
    /// # Errors
    ///
    /// The work's own error.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = AbortOnDropHandle::new(self.runtime.spawn(on_stack(work)));
        task.await
            .unwrap_or_else(|error| Err(Error::internal(error.to_string())))
    }

    /// Does something small within the limits of statements: it has its turn and its time, and is neither listed nor logged.
    ///
    /// # Errors
    ///
    /// As [`Self::plan`].
    pub(crate) async fn unlisted<T: Send + 'static>(
        &self,
        statement: &Arc<ClientStatement>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.unless_ending(self.attempt(statement, work)).await
    }

    /// Waits for a plan, but not once the server is shutting down: a plan that is being made checks for the end only
    /// when it is done.
    async fn unless_ending<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.ending.cancelled() => Err(is_ending()),
        }
    }

    async fn attempt<T: Send + 'static>(
        &self,
        statement: &Arc<ClientStatement>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let _waits = WaiterGuard::new(statement);
        let done = async {
            let _turn = self.turn(statement).await?;
            let owner = Arc::clone(&statement.owner);
            self.aside(heap::within(owner, self.most(), work)).await
        };
        tokio::select! {
            done = done => done,
            why = statement.stopped() => Err(why),
        }
    }

    /// Does work to its end whether or not a client waits for it: half of it would be worse. It counts the memory as
    /// other statements do, so a statement whose plan asks for more memory than there is waits alone; then its client
    /// receives the error.
    ///
    /// # Errors
    ///
    /// As [`Self::run`], but for its end.
    pub(crate) async fn finish<T: Send + 'static>(
        self: &Arc<Self>,
        statement: &Arc<ClientStatement>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (to_its_end, of) = (Arc::clone(self), Arc::clone(statement));
        let task = self.runtime.spawn(async move {
            let mut running = RunningGuard::new(&to_its_end, &of);
            let _waits = WaiterGuard::new(&of);
            let _turn = to_its_end.turn(&of).await?;
            let owner = Arc::clone(&of.owner);
            let work = heap::within(owner, to_its_end.most(), work);
            let done = on_stack(work).await.map_err(|error| match error.kind() {
                // A step says only that its statement was ended.
                ErrorKind::Cancelled => of.stop_error().unwrap_or(error),
                _ => error,
            });
            running.end(done.as_ref().err());
            done.map_err(|error| error.of_query(&of.id))
        });
        tokio::select! {
            biased;
            done = task => done.unwrap_or_else(|error| Err(Error::internal(error.to_string()))),
            () = statement.is_short.cancelled() => {
                Err(is_short_of_memory().of_query(&statement.id))
            }
        }
    }

    /// The items of a statement's stream, made ahead of its reader; no more are made when the reader has gone. `idle`
    /// is sent whenever there was no other item for long.
    pub(crate) fn stream<T: Clone + Send + Sync + 'static>(
        self: &Arc<Self>,
        statement: Arc<ClientStatement>,
        items: impl Future<Output = Result<BoxStream<'static, Result<T>>>> + Send + 'static,
        idle: Option<T>,
    ) -> BoxStream<'static, Result<T>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let waits = WaiterGuard::new(&statement);
        let (work, of) = (Arc::clone(self), Arc::clone(&statement));
        let keep_alive = self.limits.keep_alive;
        let task = self.runtime.spawn(async move {
            let mut running = RunningGuard::new(&work, &statement);
            let owner = Arc::clone(&statement.owner);
            let made = heap::within(owner, work.most(), async {
                let _turn = match statement.is_endless() {
                    true => work.subscription(&statement)?,
                    false => work.turn(&statement).await?,
                };
                let mut items = items.await?;
                let mut has_begun = false;
                loop {
                    let next = match (&idle, has_begun) {
                        (Some(idle), true) => {
                            match tokio::time::timeout(keep_alive, items.next()).await {
                                Ok(next) => next,
                                Err(_) => Some(Ok(idle.clone())),
                            }
                        }
                        _ => items.next().await,
                    };
                    has_begun = true;
                    match next {
                        None => return Ok(()),
                        Some(item) => {
                            if sender.send(Ok(item?)).await.is_err() {
                                return Err(client_gone());
                            }
                        }
                    }
                }
            });
            let ended = tokio::select! {
                ended = made => ended,
                why = statement.stopped() => Err(why),
                () = sender.closed() => Err(client_gone()),
            };
            running.end(ended.as_ref().err());
            drop(running);
            if let Err(error) = ended {
                let _ = sender.send(Err(error.of_query(&statement.id))).await;
            }
        });
        let reading = Some((receiver, AbortOnDropHandle::new(task), waits, of));
        let received = futures::stream::unfold(reading, |reading| async {
            let (mut receiver, task, waits, of) = reading?;
            tokio::select! {
                biased;
                next = receiver.recv() => {
                    let next = next?;
                    Some((next, Some((receiver, task, waits, of))))
                }
                () = of.is_short.cancelled() => {
                    Some((Err(is_out_of_memory().of_query(&of.id)), None))
                }
            }
        });
        received.boxed()
    }

    /// Ends the newest running statement that was not cancelled yet; gives its id.
    pub(crate) fn end_newest(&self) -> Option<String> {
        let newest = self
            .running()
            .into_iter()
            .rev()
            .find(|statement| !statement.has_ended())?;
        newest.stop(StopReason::Memory);
        Some(newest.id.clone())
    }

    /// Whether all running statements have a thread that waits for memory: the memory that they hold may never become
    /// free.
    pub(crate) fn is_at_rest(&self) -> bool {
        let running = self.running();
        let mut running = running.iter();
        running.all(|statement| statement.is_short.is_cancelled())
    }

    /// Ends a statement that has a thread which waits for memory; gives its id if that is new.
    pub(crate) fn end_waiting_for_memory(&self, number: u64) -> Option<String> {
        let mut running = self.running().into_iter();
        let found = running.find(|statement| statement.owner.number() == number)?;
        if found.is_short.is_cancelled() {
            return None;
        }
        found.stop(StopReason::Memory);
        found.is_short.cancel();
        Some(found.id.clone())
    }

    fn subscription(&self, statement: &ClientStatement) -> Result<StatementPermit> {
        let user = self.user(&statement.user);
        let of_user = Arc::clone(&user.subscriptions).try_acquire_owned();
        let of_all = Arc::clone(&self.subscriptions).try_acquire_owned();
        let (whose, most) = match of_user.is_ok() {
            true => (String::new(), self.limits.subscriptions),
            false => (
                format!(" of {}", statement.user),
                share(&statement.user, self.limits.subscriptions),
            ),
        };
        match (of_user, of_all) {
            (Ok(of_user), Ok(of_all)) => Ok(StatementPermit {
                _user: user,
                _of_user: of_user,
                _of_all: of_all,
            }),
            _ => Err(Error::new(
                ErrorKind::Exhausted,
                format!("{most} subscriptions{whose} are open"),
            )
            .with_help("end one of them: SHOW QUERIES lists them")),
        }
    }

    /// The user's share of the limits.
    fn user(&self, name: &Arc<str>) -> Arc<UserShare> {
        /// Users without statements are forgotten when there are more.
        const KNOWN: usize = 1_000;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= KNOWN && !users.contains_key(name) {
            users.retain(|_, user| Arc::strong_count(user) > 1);
        }
        let new = || {
            let of = |all: usize| Arc::new(Semaphore::new(share(name, all)));
            Arc::new(UserShare {
                turns: of(self.limits.statements),
                subscriptions: of(self.limits.subscriptions),
                waiting: AtomicUsize::new(0),
            })
        };
        Arc::clone(users.entry(Arc::clone(name)).or_insert_with(new))
    }

    /// The server is about to end: statements without an end have ended, and those that are being planned.
    pub(crate) fn drain(&self) {
        self.ending.cancel();
        for statement in self.running() {
            if statement.is_endless() {
                statement.stop(StopReason::Server);
            }
        }
    }

    async fn turn(&self, statement: &ClientStatement) -> Result<StatementPermit> {
        let user = self.user(&statement.user);
        let of_user = Arc::clone(&user.turns).try_acquire_owned().ok();
        let of_all = match of_user {
            Some(_) => Arc::clone(&self.turns).try_acquire_owned().ok(),
            // Other users do not queue behind the statements of one user with a full share.
            None => None,
        };
        if let (Some(of_user), Some(of_all)) = (of_user, of_all) {
            return Ok(StatementPermit {
                _user: user,
                _of_user: of_user,
                _of_all: of_all,
            });
        }
        let _waits = self.queued()?;
        let _waits_of_user = user.queued(&statement.user, &self.limits)?;
        statement.is_waiting.store(true, Ordering::Relaxed);
        let _is_waiting = WaitingState(statement);
        let internal = |error: tokio::sync::AcquireError| Error::internal(error.to_string());
        let of_user = Arc::clone(&user.turns).acquire_owned().await;
        let of_user = of_user.map_err(internal)?;
        let of_all = Arc::clone(&self.turns).acquire_owned().await;
        Ok(StatementPermit {
            _of_user: of_user,
            _of_all: of_all.map_err(internal)?,
            _user: Arc::clone(&user),
        })
    }

    /// A place in the queue.
    fn queued(&self) -> Result<QueueGuard<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = QueueGuard(&self.waiting);
        match before >= self.limits.queue {
            true => Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "{} statements are running and {} wait",
                    self.limits.statements, self.limits.queue
                ),
            )
            .with_help("try again later")),
            false => Ok(waits),
        }
    }
}

impl UserShare {
    /// A place among the statements of this user that wait.
    fn queued(&self, name: &str, limits: &Limits) -> Result<QueueGuard<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = QueueGuard(&self.waiting);
        let most = share(name, limits.queue);
        match before >= most {
            true => Err(Error::new(
                ErrorKind::Exhausted,
                format!("{most} statements of {name} wait for others"),
            )
            .with_help("try again later")),
            false => Ok(waits),
        }
    }
}

/// Bytes that a statement with so much memory may allocate in one go: operators copy the memory they hold, and batches
/// are in transit.
fn allocation_limit(memory: usize) -> usize {
    const ON_THEIR_WAY: usize = 256 << 20;
    memory.saturating_mul(2).saturating_add(ON_THEIR_WAY)
}

/// The same of one that is done to its end, if there is memory for it later.
fn is_short_of_memory() -> Error {
    let ended = "the server ran out of memory: the statement was ended";
    Error::new(ErrorKind::Exhausted, ended)
        .with_help("define less at once; SHOW TABLES and SHOW JOBS show whether it was created")
}

/// At least one, and no more than can be counted.
fn kibibytes(bytes: usize) -> u32 {
    let most = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
    let within = bytes
        .div_ceil(1 << 10)
        .clamp(1, most.min(Semaphore::MAX_PERMITS));
    u32::try_from(within).unwrap_or(u32::MAX)
}

struct QueueGuard<'a>(&'a AtomicUsize);

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a client that waits for the statement, or a definition that runs to its end without one.
pub(crate) struct WaiterGuard(Arc<ClientStatement>);

impl WaiterGuard {
    pub(crate) fn new(statement: &Arc<ClientStatement>) -> Self {
        statement.waited_for.fetch_add(1, Ordering::Relaxed);
        statement.is_ending.store(false, Ordering::Relaxed);
        Self(Arc::clone(statement))
    }
}

impl Drop for WaiterGuard {
    fn drop(&mut self) {
        self.0.waited_for.fetch_sub(1, Ordering::Relaxed);
    }
}

struct WaitingState<'a>(&'a ClientStatement);

impl Drop for WaitingState<'_> {
    fn drop(&mut self) {
        self.0.is_waiting.store(false, Ordering::Relaxed);
    }
}

/// A statement in the list; when this is dropped it is taken off the list and logged.
struct RunningGuard {
    work: Arc<QueryScheduler>,
    statement: Arc<ClientStatement>,
    since: Instant,
    /// Its rows are fetched later: this is not its end.
    goes_on: bool,
    /// How it ended, in a word and with the message; `None`: its client no longer waited.
    outcome: Option<(&'static str, String)>,
}

impl RunningGuard {
    fn new(work: &Arc<QueryScheduler>, statement: &Arc<ClientStatement>) -> Self {
        let mut running = work.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(statement.id.clone(), Arc::clone(statement));
        Self {
            work: Arc::clone(work),
            statement: Arc::clone(statement),
            since: Instant::now(),
            goes_on: false,
            outcome: None,
        }
    }

    fn end(&mut self, failed: Option<&Error>) {
        self.outcome = Some(match failed {
            None => ("done", "done".to_owned()),
            Some(error) => {
                let said = format!("{:?}: {}", error.kind(), error.message());
                (error.kind().name(), said)
            }
        });
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        let statement = &self.statement;
        let mut running = self
            .work
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.remove(&statement.id);
        drop(running);
        let since = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let spent = statement.spent.fetch_add(since, Ordering::Relaxed) + since;
        if self.goes_on {
            return;
        }
        let (rows, bytes) = statement.counted();
        let (ended, outcome) = match &self.outcome {
            Some((ended, outcome)) => (*ended, outcome.as_str()),
            None => ("left", "abandoned by its client"),
        };
        let seconds = (!statement.is_endless()).then_some(spent as f64 / 1e6);
        self.work.counts.ended(ended, seconds, rows, bytes);
        tracing::info!(
            target: QUERY_LOG,
            query = statement.id,
            user = &*statement.user,
            milliseconds = spent / 1_000,
            rows,
            bytes,
            outcome,
            text = statement.text,
        );
    }
}

/// Watches plans that are being made.
#[expect(
    clippy::disallowed_methods,
    reason = "the watcher of plans runs beside them, in real time"
)]
pub(crate) fn watch(work: Arc<QueryScheduler>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            work.planners.look();
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use futures::TryStreamExt as _;

    use super::*;
    use crate::server::queries::statement::TimeLimit;

    fn work(limits: Limits) -> Arc<QueryScheduler> {
        let counts = Arc::new(StatementCounters::try_new().unwrap());
        QueryScheduler::new(Handle::current(), limits, counts)
    }

    fn statement(timeout: Option<Duration>) -> Arc<ClientStatement> {
        let time = timeout.map_or(TimeLimit::Any, TimeLimit::AtMost);
        ClientStatement::new(&Caller::anyone(), "SELECT 1", 0, time)
    }

    #[tokio::test]
    async fn statements_queue_up_to_the_limit() {
        let limits = Limits {
            statements: 1,
            queue: 1,
            ..Limits::default()
        };
        let work = work(limits);
        let all = [statement(None), statement(None), statement(None)];
        let begin = |statement: &Arc<ClientStatement>| {
            let (work, statement) = (Arc::clone(&work), Arc::clone(statement));
            tokio::spawn(async move {
                let forever = std::future::pending::<Result<()>>();
                work.run(&statement, forever).await
            })
        };
        let first = begin(&all[0]);
        while work.turns.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let second = begin(&all[1]);
        while all[1].state() != "WAITING" {
            tokio::task::yield_now().await;
        }
        let refused = begin(&all[2]).await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
        assert_eq!(refused.query(), Some(&*all[2].id));
        assert_eq!(work.running().len(), 2);
        all[0].cancel("somebody");
        let ended = first.await.unwrap().unwrap_err();
        assert_eq!(ended.message(), "the statement was cancelled by somebody");
        while all[1].state() != "RUNNING" {
            tokio::task::yield_now().await;
        }
        assert!(work.find(&all[0].id).is_none());
        // Its client goes away.
        second.abort();
        let _ = second.await;
        assert!(work.running().is_empty());
        assert_eq!(work.run(&all[2], async { Ok(7) }).await.unwrap(), 7);
    }

    fn of_user(name: &str) -> Arc<ClientStatement> {
        let caller = Caller {
            name: name.into(),
            ..Caller::anyone()
        };
        ClientStatement::new(&caller, "SELECT 1", 0, TimeLimit::Any)
    }

    #[tokio::test]
    async fn one_user_cannot_take_all_statement_slots() {
        let limits = Limits {
            statements: 4,
            queue: 4,
            subscriptions: 4,
            ..Limits::default()
        };
        let work = work(limits);
        let begin = |statement: &Arc<ClientStatement>| {
            let (work, statement) = (Arc::clone(&work), Arc::clone(statement));
            tokio::spawn(async move {
                let forever = std::future::pending::<Result<()>>();
                work.run(&statement, forever).await
            })
        };
        let busy: Vec<_> = (0..6).map(|_| of_user("ann")).collect();
        let mut runs: Vec<_> = busy.iter().map(&begin).collect();
        while busy.iter().filter(|of| of.state() == "WAITING").count() < 3 {
            tokio::task::yield_now().await;
        }
        let refused = begin(&of_user("ann")).await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
        assert_eq!(refused.message(), "3 statements of ann wait for others");
        // Others do not wait for those of this user that do.
        let other = of_user("bob");
        assert_eq!(work.run(&other, async { Ok(7) }).await.unwrap(), 7);
        let first = runs.remove(0);
        busy[0].cancel("ann");
        assert!(first.await.unwrap().is_err());
        while busy.iter().filter(|of| of.state() == "WAITING").count() > 2 {
            tokio::task::yield_now().await;
        }
        let open: Vec<_> = (0..4).map(|_| work.subscription(&of_user("ann"))).collect();
        let said = open[3].as_ref().unwrap_err().message().to_owned();
        assert_eq!(said, "3 subscriptions of ann are open");
        let last = work.subscription(&other).unwrap();
        let said = work.subscription(&other).unwrap_err().message().to_owned();
        assert_eq!(said, "4 subscriptions are open");
        drop((open, last));
        assert!(work.subscription(&other).is_ok());
    }

    #[tokio::test]
    async fn long_texts_are_parsed_one_at_a_time() {
        let work = work(Limits {
            statement_bytes: 100 << 10,
            queue: 1,
            ..Limits::default()
        });
        let (at_work, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let read = |bytes: usize| {
            let (work, at_work, most) =
                (Arc::clone(&work), Arc::clone(&at_work), Arc::clone(&most));
            async move {
                let read = move || {
                    let now = at_work.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(50));
                    at_work.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                };
                work.read(bytes, read).await
            }
        };
        let room = work.room(60 << 10).await.unwrap();
        // A text that finds room does not wait.
        read(20 << 10).await.unwrap();
        let waits = tokio::spawn(read(60 << 10));
        while work.unread.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        // One more than may wait is refused.
        let refused = read(90 << 10).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
        drop(room);
        waits.await.unwrap().unwrap();
        // A text that is longer than allowed has room when it is alone.
        tokio::try_join!(read(1 << 30), read(1 << 30)).unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 1);
        let hurried = self::work(Limits {
            statement_bytes: 100 << 10,
            timeout: Some(Duration::from_millis(20)),
            ..Limits::default()
        });
        let _room = hurried.room(1 << 30).await.unwrap();
        let late = hurried.read(60 << 10, || Ok(())).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout);
    }

    #[tokio::test]
    async fn a_stream_is_prefetched_within_a_limit() {
        let work = work(Limits {
            keep_alive: Duration::from_millis(20),
            ..Limits::default()
        });
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let items = futures::stream::iter(0..1_000).map(move |number| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(number)
        });
        let stream = work.stream(statement(None), async { Ok(items.boxed()) }, None);
        let mut stream = stream;
        assert_eq!(stream.try_next().await.unwrap(), Some(0));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(made.load(Ordering::Relaxed) < 10);
        drop(stream);
        while !work.running().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Nothing but a first item: then it says that it is still there.
        let quiet = || futures::stream::iter([Ok(1)]).chain(futures::stream::pending());
        let stream = work.stream(
            statement(None),
            async move { Ok(quiet().boxed()) },
            Some(-1),
        );
        let given: Vec<Result<i32>> = stream.take(2).collect().await;
        assert_eq!(given[0].as_ref().unwrap(), &1);
        assert_eq!(given[1].as_ref().unwrap(), &-1);
        // Until its time is over.
        let limited = statement(Some(Duration::from_millis(200)));
        let stream = work.stream(limited, async move { Ok(quiet().boxed()) }, Some(-1));
        let given: Vec<Result<i32>> = stream.collect().await;
        let last = given.last().unwrap().as_ref().unwrap_err();
        assert_eq!(last.kind(), ErrorKind::Timeout);
    }

    #[tokio::test]
    async fn the_newest_statements_end_first_if_memory_is_short() {
        let work = work(Limits::default());
        let at = |at: i64| ClientStatement::new(&Caller::anyone(), "SELECT 1", at, TimeLimit::Any);
        let all = [at(1), at(3), at(2)];
        let runs: Vec<_> = all
            .iter()
            .map(|statement| {
                let (work, statement) = (Arc::clone(&work), Arc::clone(statement));
                tokio::spawn(async move {
                    work.run(&statement, std::future::pending::<Result<()>>())
                        .await
                })
            })
            .collect();
        while work.running().len() < 3 {
            tokio::task::yield_now().await;
        }
        let ended: Vec<String> = std::iter::from_fn(|| work.end_newest()).collect();
        assert_eq!(ended, [1, 2, 0].map(|at| all[at].id.clone()));
        for run in runs {
            assert_eq!(run.await.unwrap().unwrap_err().kind(), ErrorKind::Exhausted);
        }
        assert_eq!(work.end_newest(), None);
    }

    /// Its thread waits for memory: it can neither give a row nor say that it has ended.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn readers_of_a_statement_that_waits_for_memory_get_an_error() {
        let work = work(Limits::default());
        let (may_end, ends) = std::sync::mpsc::channel::<()>();
        let of = statement(None);
        let rows = futures::stream::once(async move {
            let _ = ends.recv();
            Ok(7)
        });
        let mut stream = work.stream(Arc::clone(&of), async { Ok(rows.boxed()) }, None);
        let read = tokio::spawn(async move {
            let told = stream.try_next().await;
            (told, stream.try_next().await)
        });
        while work.running().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(work.end_waiting_for_memory(of.owner.number() + 1), None);
        assert_eq!(
            work.end_waiting_for_memory(of.owner.number()),
            Some(of.id.clone())
        );
        assert_eq!(work.end_waiting_for_memory(of.owner.number()), None);
        let (told, rest) = read.await.unwrap();
        assert_eq!(told.unwrap_err().kind(), ErrorKind::Exhausted);
        assert_eq!(rest.unwrap(), None);
        assert!(work.is_at_rest() && !work.running().is_empty());
        let _ = may_end.send(());
    }

    #[tokio::test]
    async fn large_allocations_are_attributed_to_their_statement() {
        let counted = |limits: Limits| async move {
            let work = work(limits);
            let of = statement(None);
            let most = || heap::current().map(|(owner, most)| (owner.number(), most));
            let run = work.run(&of, async move { Ok(most()) }).await.unwrap();
            let rows = futures::stream::once(async move { Ok(most()) });
            let mut stream = work.stream(Arc::clone(&of), async { Ok(rows.boxed()) }, None);
            assert_eq!(stream.try_next().await.unwrap(), Some(run));
            let (number, most) = run.unwrap();
            assert_eq!(number, of.owner.number());
            assert!(heap::current().is_none());
            most
        };
        assert_eq!(counted(Limits::default()).await, usize::MAX);
        let limited = Limits {
            memory: Some(100 << 20),
            ..Limits::default()
        };
        assert_eq!(counted(limited).await, 456 << 20);
    }

    #[tokio::test]
    async fn large_allocations_are_attributed_to_their_definition() {
        let work = work(Limits {
            memory: Some(100 << 20),
            ..Limits::default()
        });
        let of = statement(None);
        let counts = async {
            tokio::task::yield_now().await;
            Ok(heap::current().map(|(owner, most)| (owner.number(), most)))
        };
        let counted = work.finish(&of, counts).await.unwrap();
        assert_eq!(counted, Some((of.owner.number(), 456 << 20)));
        // It is ended where it checks, like a statement that takes too much memory, and says why.
        let (of, ended) = (statement(None), statement(None));
        let relieved = Arc::clone(&work);
        let planned = |of: &Arc<ClientStatement>| {
            let id = of.id.clone();
            async move {
                assert_eq!(relieved.end_newest(), Some(id));
                heap::check(0)
                    .map_err(|_| Error::new(ErrorKind::Cancelled, "the statement was ended"))
            }
        };
        let told = work.finish(&ended, planned(&ended)).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Exhausted, "{told}");
        assert_eq!(told.query(), Some(&*ended.id));
        assert_eq!(work.finish(&of, async { Ok(7) }).await.unwrap(), 7);
    }

    /// Its thread waits for memory: it can neither be ended nor say so. Later it comes to its end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn clients_of_a_definition_that_waits_for_memory_get_an_error() {
        let work = work(Limits::default());
        let (may_end, ends) = std::sync::mpsc::channel::<()>();
        let of = statement(None);
        let (by, defined) = (Arc::clone(&work), Arc::clone(&of));
        let told = tokio::spawn(async move {
            let waits = async move {
                let _ = ends.recv();
                Ok(())
            };
            by.finish(&defined, waits).await
        });
        while work.running().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            work.end_waiting_for_memory(of.owner.number()),
            Some(of.id.clone())
        );
        let told = told.await.unwrap().unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Exhausted);
        assert_eq!(told.query(), Some(&*of.id));
        assert!(work.is_at_rest() && !work.running().is_empty());
        let _ = may_end.send(());
        while !work.running().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A thread that plans is busy until it has a plan: its client gets an error, and the shutdown does not wait for
    /// the statement.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn plans_end_when_the_server_shuts_down() {
        let work = work(Limits::default());
        let (may_end, ends) = std::sync::mpsc::channel::<()>();
        let planning = async move {
            let _ = ends.recv();
            Ok(())
        };
        let (of_plan, of_rest) = (Arc::clone(&work), Arc::clone(&work));
        let planned =
            tokio::spawn(async move { of_plan.plan(&statement(None), planning, |_| true).await });
        let columns = tokio::spawn(async move {
            let forever = std::future::pending::<Result<()>>();
            of_rest.unlisted(&statement(None), forever).await
        });
        while work.running().is_empty() {
            tokio::task::yield_now().await;
        }
        work.drain();
        for ended in [planned.await, columns.await] {
            let told = ended.unwrap().unwrap_err();
            assert_eq!(told.kind(), ErrorKind::Unavailable);
            assert_eq!(told.message(), "the server is shutting down");
        }
        assert!(work.running().is_empty());
        // A statement that has started may run to its end.
        assert_eq!(
            work.run(&statement(None), async { Ok(7) }).await.unwrap(),
            7
        );
        let _ = may_end.send(());
    }

    #[tokio::test]
    async fn a_definition_completes_without_a_waiting_client() {
        let work = work(Limits::default());
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let of = statement(None);
        let (may_end, ends) = tokio::sync::oneshot::channel::<()>();
        let defined = work.finish(&of, async move {
            let _ = ends.await;
            told.store(true, Ordering::Relaxed);
            Ok(())
        });
        let left = tokio::time::timeout(Duration::from_millis(5), defined).await;
        assert!(left.is_err());
        let _ = may_end.send(());
        while !done.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
