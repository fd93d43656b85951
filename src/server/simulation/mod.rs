//! Simulation of two servers that define and drop views in the same data directory, over a store that loses and repeats
//! writes, and loses answers. The servers die and start again. A definition that was answered exists after the start; one that
//! was answered with an error exists whole, or not at all.

mod opening;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::runtime::Handle;

use crate::core::schedules::{Schedules, seeds};
use crate::runtime::Jobs;
use crate::runtime::host::Host;
use crate::server::auth::access::Caller;
use crate::server::auth::locations::AllowedLocations;
use crate::server::counters::StatementCounters;
use crate::server::engine::Engine;
use crate::server::flight::sessions::Sessions;
use crate::server::parse::definition;
use crate::server::queries::limits::Limits;
use crate::server::queries::scheduler::QueryScheduler;
use crate::server::queries::session_pool::SessionPool;
use crate::server::running_jobs::RunningJobs;
use crate::server::waiting_jobs::WaitingJobs;
use crate::session::{ForkOptions, Session, SessionOptions};
use crate::store::simulated::{CallFate, DelayedWrite, Faults, SimulatedDisk};
use crate::store::{CatalogStore, DataDir, JobStore};

/// How many schedules the test runs, unless `ANABRANCH_SEEDS` says another number.
const SEEDS: u64 = 8;
/// How many things happen in each: so many that the list of definitions is made shorter meanwhile.
const EVENTS: u64 = 260;

/// The session that the sessions of all servers are forked from; it never gets a definition. All functions are
/// registered in it once, and not at each start of a server.
static EMPTY: LazyLock<Session> =
    LazyLock::new(|| Session::try_new(&SessionOptions::default()).unwrap());

struct LossyStore(Mutex<State>);

struct State {
    random: u64,
    /// How many of a thousand calls fail.
    rate: u64,
    later: Vec<DelayedWrite>,
}

impl std::fmt::Debug for LossyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lying")
    }
}

impl LossyStore {
    fn new(seed: u64) -> Self {
        Self(Mutex::new(State {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            rate: 0,
            later: Vec::new(),
        }))
    }

    fn below(&self, end: u64) -> u64 {
        let mut state = self.0.lock().unwrap();
        state.random ^= state.random << 13;
        state.random ^= state.random >> 7;
        state.random ^= state.random << 17;
        state.random % end
    }

    fn rate(&self, rate: u64) {
        self.0.lock().unwrap().rate = rate;
    }

    /// Does the newest of the writes that were to be done later.
    fn catch_up(&self) {
        let later = self.0.lock().unwrap().later.pop();
        if let Some(later) = later {
            later();
        }
    }
}

impl Faults for LossyStore {
    fn step(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }

    fn fate(&self, _: &str, writes: bool) -> CallFate {
        let rate = self.0.lock().unwrap().rate;
        if self.below(1_000) >= rate {
            return CallFate::Done;
        }
        // The store never writes a part of an object.
        match (writes, self.below(4)) {
            (false, _) | (true, 0) => CallFate::Refused,
            (true, 1) => CallFate::AnswerLost,
            (true, 2) => CallFate::Repeated,
            (true, _) => CallFate::Late,
        }
    }

    fn later(&self, later: DelayedWrite) {
        self.0.lock().unwrap().later.push(later);
    }
}

/// A server that has restored its definitions, and runs its jobs on `runtime`. If the store fails meanwhile, another server is
/// started, until one has restored all.
async fn started(dir: &DataDir, runtime: &Handle) -> Engine {
    loop {
        let jobs = Arc::new(Jobs::new(JobStore::new(dir.clone())));
        let session = EMPTY.fork(&ForkOptions::default()).unwrap();
        let limits = Limits::default();
        let counts = Arc::new(StatementCounters::try_new().unwrap());
        let engine = Engine {
            forks: SessionPool::try_new(session, 4).unwrap(),
            store: CatalogStore::new(dir.clone()),
            running: RunningJobs::new(Arc::clone(&jobs), None, runtime.clone()),
            host: Host::over(Arc::clone(&jobs)),
            jobs,
            sessions: Sessions::new(limits.sessions, limits.idle),
            work: QueryScheduler::new(Handle::current(), limits, counts),
            places: AllowedLocations {
                roots: Vec::new(),
                data_dir: None,
            },
            waiting: WaitingJobs::default(),
        };
        if engine.restore(&JobStore::new(dir.clone())).await.is_ok() {
            return engine;
        }
    }
}

/// The number that the view of this name gives; `None` if there is no such view.
fn found(engine: &Engine, name: &str) -> Option<u64> {
    let defined = engine.forks.defined();
    let text = defined.definition(name).ok()?;
    let number = text.rsplit(' ').next().unwrap();
    Some(number.parse().unwrap())
}

async fn run(seed: u64) {
    const NAMES: u64 = 6;
    let lying = Arc::new(LossyStore::new(seed));
    let disk = SimulatedDisk::default();
    let dir = disk.seen_with(Arc::clone(&lying) as Arc<dyn Faults>);
    let runtime = Handle::current();
    let mut servers = [started(&dir, &runtime).await, started(&dir, &runtime).await];
    let asked = servers[0].asked(Caller::anyone());
    // By view, which numbers it may give: that of the last statement that was answered, and those of all statements since then that
    // were answered with an error.
    let mut possible: BTreeMap<String, BTreeSet<Option<u64>>> = BTreeMap::new();
    let mut answered = 0;
    for event in 0..EVENTS {
        lying.rate(if seed.is_multiple_of(2) { 60 } else { 15 });
        let which = usize::try_from(lying.below(2)).unwrap();
        let name = format!("v{}", lying.below(NAMES));
        if lying.below(25) == 0 {
            servers[which] = started(&dir, &runtime).await;
            lying.rate(0);
            let server = started(&dir, &runtime).await;
            for (name, possible) in &possible {
                let found = found(&server, name);
                assert!(
                    possible.contains(&found),
                    "ANABRANCH_SEED={seed}, event {event}: {name} is {found:?} of {possible:?}"
                );
            }
            continue;
        }
        if lying.below(10) == 0 {
            lying.catch_up();
            continue;
        }
        let value = (lying.below(4) > 0).then_some(event);
        let statement = match value {
            Some(value) => format!("CREATE OR REPLACE VIEW {name} AS SELECT {value}"),
            None => format!("DROP VIEW IF EXISTS {name}"),
        };
        let parsed = definition(&statement).unwrap();
        let done = servers[which].define(&asked, parsed, BTreeMap::new()).await;
        let possible = possible
            .entry(name)
            .or_insert_with(|| BTreeSet::from([None]));
        if done.is_ok() {
            answered += 1;
            possible.clear();
        }
        possible.insert(value);
    }
    assert!(
        answered > EVENTS / 2,
        "ANABRANCH_SEED={seed}: {answered} statements were answered"
    );
    lying.rate(0);
    let list = CatalogStore::new(dir.clone()).all().await.unwrap();
    assert!(
        list.entries.len() < 160,
        "ANABRANCH_SEED={seed}: {} entries are read",
        list.entries.len()
    );
}

#[tokio::test]
async fn definitions_survive_a_crash_or_returned_an_error() {
    let schedules = Schedules::of("definitions of servers");
    for seed in seeds(SEEDS, &[]) {
        schedules.count();
        run(seed).await;
    }
}
