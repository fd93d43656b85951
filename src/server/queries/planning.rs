//! Planning threads: the part of a statement that keeps a processor busy without a pause (SAFE-1).
//!
//! As many plans are made at the same time as there are processors, each on a thread that does nothing else meanwhile,
//! so that other work goes on beside them. A plan whose statement has ended, or that takes longer than allowed, is
//! cancelled and ends soon ([`CancelFlag`]). A plan that goes on all the same gives its place to others: its thread is
//! lost until the plan ends, and its statement stays listed as long. When a few threads are lost, new plans are
//! refused.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, Result};
use crate::server::queries::statement::ClientStatement;
use crate::session::{CancelFlag, with_cancel_flag};

/// Threads that may be lost to plans that do not end.
const LOST: usize = 8;
/// How often plans are checked. A cancelled plan has as long to end.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// How often a statement that waits for a place checks whether it is to be refused.
const WAITS: Duration = Duration::from_secs(1);
/// A text of so few bytes is planned in less time than it takes to hand the other tasks of its thread over.
const SHORT: usize = 64;

/// The places where plans are made.
pub(crate) struct PlanningSlots {
    places: Arc<Semaphore>,
    /// How long a plan may be made without a pause.
    limit: Duration,
    /// Plans that are being made, by number.
    at_work: Mutex<BTreeMap<u64, PlanningTask>>,
    next: AtomicU64,
}

/// A plan that is being made, on a thread of its own.
struct PlanningTask {
    statement: Arc<ClientStatement>,
    unwanted: CancelFlag,
    since: Instant,
    /// Nothing once others have its place.
    place: Option<OwnedSemaphorePermit>,
}

impl PlanningSlots {
    /// Places for so many plans, each of which may take so long.
    pub(crate) fn new(places: usize, limit: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places.max(1))),
            limit,
            at_work: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Makes the plan of a statement, or does work that includes planning. While the work waits for something else it
    /// has no place.
    ///
    /// # Errors
    ///
    /// The work's own error; too many plans that do not end; it took too long.
    pub(crate) async fn plan<T>(
        &self,
        statement: &Arc<ClientStatement>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let unwanted = CancelFlag::default();
        let mut work = Box::pin(with_cancel_flag(unwanted.clone(), work));
        let mut has_begun = false;
        loop {
            let place = self.place(has_begun).await?;
            has_begun = true;
            let turn = PlanningTurn::new(self, statement, &unwanted, place);
            let is_short = statement.text.len() <= SHORT;
            let polled = poll_fn(|context| {
                Poll::Ready(match is_short {
                    true => work.as_mut().poll(context),
                    false => block_in_place(|| work.as_mut().poll(context)),
                })
            })
            .await;
            drop(turn);
            match polled {
                Poll::Ready(Err(error))
                    if unwanted.is_set() && error.kind() == ErrorKind::Cancelled =>
                {
                    return Err(statement.stop_error().unwrap_or(error));
                }
                Poll::Ready(done) => return done,
                Poll::Pending => woken().await,
            }
        }
    }

    /// The statements that have ended while their plans are still being made.
    pub(crate) fn ending(&self) -> Vec<Arc<ClientStatement>> {
        let at_work = self.at_work();
        let ending = at_work.values().filter(|of| of.unwanted.is_set());
        ending.map(|of| Arc::clone(&of.statement)).collect()
    }

    /// Cancels plans that are not wanted any more, and takes the places of cancelled plans that go on.
    pub(crate) fn look(&self) {
        let mut at_work = self.at_work();
        let mut lost = at_work.values().filter(|of| of.place.is_none()).count();
        for planning in at_work.values_mut() {
            if planning.unwanted.is_set() {
                if lost < LOST && planning.place.take().is_some() {
                    lost += 1;
                    tracing::warn!(
                        query = planning.statement.id,
                        user = &*planning.statement.user,
                        text = planning.statement.text,
                        "a statement has ended, and its planning goes on: the planning thread is lost until it ends"
                    );
                }
                continue;
            }
            let statement = &planning.statement;
            let limit = statement.timeout().unwrap_or(self.limit).min(self.limit);
            if planning.since.elapsed() > limit {
                statement.stop_planning(limit);
            }
            if statement.has_ended() {
                planning.unwanted.set();
                statement.ends();
            }
        }
    }

    /// A place. Work that has begun waits for it as long as it takes: half a definition would be worse.
    async fn place(&self, has_begun: bool) -> Result<OwnedSemaphorePermit> {
        let refuse_if_lost = || match has_begun {
            true => Ok(()),
            false => self.refuse_if_lost(),
        };
        refuse_if_lost()?;
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let mut place = Box::pin(Arc::clone(&self.places).acquire_owned());
        loop {
            match tokio::time::timeout(WAITS, place.as_mut()).await {
                Ok(had) => return had.map_err(|error| Error::internal(error.to_string())),
                Err(_) => refuse_if_lost()?,
            }
        }
    }

    fn refuse_if_lost(&self) -> Result<()> {
        let at_work = self.at_work();
        let lost = at_work.values().filter(|of| of.place.is_none()).count();
        match lost < LOST {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Exhausted,
                format!("{lost} statements that have ended are still being planned"),
            )
            .with_help("SHOW QUERIES lists them as ENDING; if they do not end, the server has to be started again")),
        }
    }

    fn at_work(&self) -> MutexGuard<'_, BTreeMap<u64, PlanningTask>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A plan is being made as long as this exists.
struct PlanningTurn<'p> {
    planners: &'p PlanningSlots,
    number: u64,
}

impl<'p> PlanningTurn<'p> {
    fn new(
        planners: &'p PlanningSlots,
        statement: &Arc<ClientStatement>,
        unwanted: &CancelFlag,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let number = planners.next.fetch_add(1, Ordering::Relaxed);
        let planning = PlanningTask {
            statement: Arc::clone(statement),
            unwanted: unwanted.clone(),
            since: Instant::now(),
            place: Some(place),
        };
        planners.at_work().insert(number, planning);
        Self { planners, number }
    }
}

impl Drop for PlanningTurn<'_> {
    fn drop(&mut self) {
        self.planners.at_work().remove(&self.number);
    }
}

/// Does long work while another thread takes over the other tasks of this one.
fn block_in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Completes when this task is woken.
async fn woken() {
    let mut is_first = true;
    poll_fn(|_| match std::mem::take(&mut is_first) {
        true => Poll::Pending,
        false => Poll::Ready(()),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::auth::access::Caller;
    use crate::server::counters::StatementCounters;
    use crate::server::queries::limits::Limits;
    use crate::server::queries::scheduler::{QueryScheduler, WaiterGuard};
    use crate::server::queries::statement::TimeLimit;

    /// A statement with a long text.
    fn statement() -> Arc<ClientStatement> {
        let text = format!("SELECT {}", "1 + ".repeat(100));
        ClientStatement::new(&Caller::anyone(), &text, 0, TimeLimit::Any)
    }

    /// A plan that checks for cancellation only when the test tells it to.
    fn stuck() -> (
        std::sync::mpsc::Sender<()>,
        impl Future<Output = Result<()>> + Send,
    ) {
        let (may_end, ends) = std::sync::mpsc::channel::<()>();
        let plan = async move {
            let _ = ends.recv();
            Err(Error::new(ErrorKind::Cancelled, "ended"))
        };
        (may_end, plan)
    }

    fn planned<T: Send + 'static>(
        planners: &Arc<PlanningSlots>,
        statement: &Arc<ClientStatement>,
        plan: impl Future<Output = Result<T>> + Send + 'static,
    ) -> tokio::task::JoinHandle<Result<T>> {
        let (planners, of) = (Arc::clone(planners), Arc::clone(statement));
        tokio::spawn(async move { planners.plan(&of, plan).await })
    }

    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_endless_plan_frees_its_slot_for_others() {
        let planners = Arc::new(PlanningSlots::new(1, Duration::from_secs(3_600)));
        let (first, second) = (statement(), statement());
        let waits = WaiterGuard::new(&first);
        let _waits = WaiterGuard::new(&second);
        let (may_end, plan) = stuck();
        let task = planned(&planners, &first, plan);
        until(|| !planners.at_work().is_empty()).await;
        let other = planned(&planners, &second, async { Ok(7) });
        planners.look();
        assert_eq!(planners.ending().len(), 0);
        // Its client goes away.
        drop(waits);
        planners.look();
        assert_eq!(first.state(), "ENDING");
        planners.look();
        assert_eq!(other.await.unwrap().unwrap(), 7);
        assert_eq!(planners.ending()[0].id, first.id);
        may_end.send(()).unwrap();
        task.await.unwrap().unwrap_err();
        assert_eq!(planners.ending().len(), 0);
        assert_eq!(planners.places.available_permits(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lost_planning_threads_are_limited() {
        let planners = Arc::new(PlanningSlots::new(1, Duration::from_secs(3_600)));
        let mut all = Vec::new();
        for lost in 0..LOST {
            let of = statement();
            let waits = WaiterGuard::new(&of);
            let (may_end, plan) = stuck();
            let task = planned(&planners, &of, plan);
            until(|| planners.at_work().len() > lost).await;
            drop(waits);
            planners.look();
            planners.look();
            all.push((may_end, task));
        }
        let refused = planners.plan(&statement(), async { Ok(7) }).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
        assert_eq!(
            refused.message(),
            "8 statements that have ended are still being planned"
        );
        for (may_end, task) in all {
            may_end.send(()).unwrap();
            task.await.unwrap().unwrap_err();
        }
        let planned = planners.plan(&statement(), async { Ok(7) }).await;
        assert_eq!(planned.unwrap(), 7);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn planning_has_a_time_limit() {
        let planners = Arc::new(PlanningSlots::new(1, Duration::ZERO));
        let of = statement();
        let _waits = WaiterGuard::new(&of);
        let (may_end, plan) = stuck();
        let task = planned(&planners, &of, plan);
        until(|| !planners.at_work().is_empty()).await;
        until(|| {
            planners.look();
            of.has_ended()
        })
        .await;
        may_end.send(()).unwrap();
        let told = task.await.unwrap().unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Timeout);
        assert!(told.message().starts_with("planning the statement took"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn waiting_plans_hold_no_slot() {
        let planners = Arc::new(PlanningSlots::new(1, Duration::from_secs(3_600)));
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let first = planned(&planners, &statement(), async move {
            let _ = told.await;
            Ok(1)
        });
        until(|| planners.next.load(Ordering::Relaxed) > 0).await;
        let second = planned(&planners, &statement(), async { Ok(2) });
        assert_eq!(second.await.unwrap().unwrap(), 2);
        tell.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn statements_in_planning_are_listed_and_can_be_killed() {
        let counts = Arc::new(StatementCounters::try_new().unwrap());
        let work = QueryScheduler::new(Handle::current(), Limits::default(), counts);
        let of = statement();
        let (may_end, plan) = stuck();
        let (for_run, for_plan, planned) = (Arc::clone(&work), Arc::clone(&work), Arc::clone(&of));
        let run = tokio::spawn(async move {
            let plan = async move { for_plan.planners.plan(&planned, plan).await };
            let statement = Arc::clone(&of);
            for_run.run(&statement, plan).await
        });
        until(|| !work.planners.at_work().is_empty()).await;
        let listed = work.running();
        assert_eq!(listed[0].state(), "RUNNING");
        run.abort();
        let _ = run.await;
        work.planners.look();
        let listed = work.running();
        assert_eq!((listed.len(), listed[0].state()), (1, "ENDING"));
        assert!(work.find(&listed[0].id).is_some());
        may_end.send(()).unwrap();
        until(|| work.running().is_empty()).await;
    }
}
