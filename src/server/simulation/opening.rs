//! Simulation of servers that start while the folders of some tables are missing. These tables stay defined and their
//! names stay taken, and a job over them waits and says why. When the folders are back, the tables are opened and the
//! job starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

use super::{LossyStore, started};
use crate::core::schedules::{Schedules, found_by, seeds};
use crate::server::auth::access::Caller;
use crate::server::engine::Engine;
use crate::server::parse::definition;
use crate::server::waiting_jobs::WaitingJobs;
use crate::store::DataDir;
use crate::store::simulated::{Faults, SimulatedDisk};

/// How many schedules the test runs, unless `ANABRANCH_SEEDS` says another number.
const SEEDS: u64 = 4;
/// A planted fault must be found in one of so many schedules.
const ENOUGH: u64 = 12;
/// How many things happen in each.
const EVENTS: u64 = 60;
/// Tables that are declared, replaced and dropped.
const TABLES: [&str; 3] = ["t0", "t1", "t2"];
/// The tables of the job, which are never dropped.
const OF_JOB: [&str; 2] = ["seen", "kept"];
const JOB: &str = "copy";

/// Faults that are planted in servers, which the simulation must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// The server forgets tables that it cannot open when it starts.
    ForgetsTables,
    /// The server forgets jobs that it cannot begin when it starts.
    ForgetsJobs,
    /// The server does not retry objects that it could not open at its start.
    NeverAgain,
}

struct World {
    planted: Planted,
    lying: Arc<LossyStore>,
    dir: DataDir,
    /// The runtime of jobs. No thread drives it: jobs begin and do nothing.
    resting: Handle,
    places: tempfile::TempDir,
    /// Tables whose folders are away now.
    away: BTreeSet<&'static str>,
    /// By name, which numbers its definition may end with: that of the last statement that was answered, and those of all statements
    /// since then that were answered with an error. `None`: it may not be defined.
    possible: BTreeMap<String, BTreeSet<Option<u64>>>,
}

impl World {
    fn new(seed: u64, planted: Planted, resting: &Handle) -> Self {
        let lying = Arc::new(LossyStore::new(seed));
        let disk = SimulatedDisk::default();
        let world = Self {
            planted,
            dir: disk.seen_with(Arc::clone(&lying) as Arc<dyn Faults>),
            lying,
            resting: resting.clone(),
            places: tempfile::tempdir().unwrap(),
            away: BTreeSet::new(),
            possible: BTreeMap::new(),
        };
        for table in TABLES.iter().chain(&OF_JOB) {
            std::fs::create_dir_all(world.place(table)).unwrap();
        }
        world
    }

    /// The folder of all tables that are ever declared with this name.
    fn place(&self, table: &str) -> PathBuf {
        self.places.path().join(table)
    }

    /// The name of this folder while it is away.
    fn hidden_place(&self, table: &str) -> PathBuf {
        self.places.path().join(format!("{table}.away"))
    }

    /// The folder of a table goes away, like one that is not mounted.
    fn leave(&mut self, table: &'static str) {
        if self.away.insert(table) {
            std::fs::rename(self.place(table), self.hidden_place(table)).unwrap();
        }
    }

    /// All folders are back.
    fn come_back(&mut self) -> Result<(), String> {
        for table in std::mem::take(&mut self.away) {
            let place = self.place(table);
            if place.exists() {
                return Err(format!("{table} was made anew while it was away"));
            }
            std::fs::rename(self.hidden_place(table), place).unwrap();
        }
        Ok(())
    }

    fn table(&self, name: &str, number: u64) -> String {
        let place = self.place(name);
        format!(
            "CREATE OR REPLACE EXTERNAL TABLE {name} (id BIGINT) STORED AS DELTA LOCATION '{}/{number}'",
            place.display()
        )
    }

    /// A server that has restored its definitions, with the fault that is planted.
    async fn start(&self) -> Engine {
        let mut engine = started(&self.dir, &self.resting).await;
        match self.planted {
            Planted::ForgetsTables => {
                let whole = engine.forks.exclusive().await;
                for (name, _) in whole.session.unopened() {
                    let forgets = definition(&format!("DROP TABLE {name}")).unwrap();
                    whole.session.execute(forgets).await.unwrap();
                }
            }
            Planted::ForgetsJobs => engine.waiting = WaitingJobs::default(),
            Planted::Nothing | Planted::NeverAgain => {}
        }
        engine
    }

    /// The first server, which has defined the job and its tables.
    async fn begin(&mut self) -> Engine {
        let server = self.start().await;
        let asked = server.asked(Caller::anyone());
        let [seen, kept] = OF_JOB;
        for statement in [
            format!("{} OPTIONS ('scan.mode' 'stream')", self.table(seen, 0)),
            self.table(kept, 0),
            format!("CREATE JOB {JOB} AS INSERT INTO {kept} SELECT id FROM {seen}"),
        ] {
            let parsed = definition(&statement).unwrap();
            server
                .define(&asked, parsed, BTreeMap::new())
                .await
                .unwrap();
        }
        for table in OF_JOB {
            let found = BTreeSet::from([Some(0)]);
            self.possible.insert(table.to_owned(), found);
        }
        server
    }

    /// Defines or drops a table whose folder is there, or a view over it.
    async fn define(&mut self, server: &Engine, event: u64) {
        let table = TABLES[self.index(TABLES.len())];
        let (is_view, drops) = (self.lying.below(3) == 0, self.lying.below(5) == 0);
        if self.away.contains(table) {
            return;
        }
        let view = table.replace('t', "v");
        let (name, statement) = match (is_view, drops) {
            (false, false) => (table, self.table(table, event)),
            (false, true) => (table, format!("DROP TABLE IF EXISTS {table}")),
            (true, false) => {
                let query = format!("SELECT id FROM {table} WHERE id < {event}");
                (
                    view.as_str(),
                    format!("CREATE OR REPLACE VIEW {view} AS {query}"),
                )
            }
            (true, true) => (view.as_str(), format!("DROP VIEW IF EXISTS {view}")),
        };
        let asked = server.asked(Caller::anyone());
        let parsed = definition(&statement).unwrap();
        let done = server.define(&asked, parsed, BTreeMap::new()).await;
        let possible = self
            .possible
            .entry(name.to_owned())
            .or_insert_with(|| BTreeSet::from([None]));
        if done.is_ok() {
            possible.clear();
        }
        possible.insert((!drops).then_some(event));
    }

    fn index(&self, length: usize) -> usize {
        let end = u64::try_from(length).unwrap();
        usize::try_from(self.lying.below(end)).unwrap()
    }

    /// A server that starts now, and whose store does not fail, has all definitions, also of tables that it cannot open.
    async fn check_start(&self) -> Result<(), String> {
        let server = self.start().await;
        let asked = server.asked(Caller::anyone());
        let unopened = unopened(&server);
        for (name, possible) in &self.possible {
            let found = found(&server, name);
            if !possible.contains(&found) {
                return Err(format!("{name} is {found:?} of {possible:?}"));
            }
            let is_away = found.is_some() && self.away.contains(name.as_str());
            if is_away != unopened.contains(name) {
                return Err(format!("{name} is away: {is_away}; not open: {unopened:?}"));
            }
            if is_away {
                let other = definition(&format!("CREATE VIEW {name} AS SELECT 1")).unwrap();
                let taken = server.define(&asked, other, BTreeMap::new()).await;
                if taken.is_ok() {
                    return Err(format!("{name} gave way to another one"));
                }
            }
        }
        self.check_job(&server).await
    }

    /// Now that all folders are back, a server that has run all the while opens the tables that were not open, and begins the job.
    async fn check_again(&self, server: &Engine) -> Result<(), String> {
        if self.planted != Planted::NeverAgain {
            server.try_again().await;
        }
        let left = unopened(server);
        if !left.is_empty() {
            return Err(format!("still not open: {left:?}"));
        }
        self.check_job(server).await
    }

    /// Checks that the job runs, or waits with a reason.
    async fn check_job(&self, server: &Engine) -> Result<(), String> {
        let is_away = OF_JOB.iter().any(|table| self.away.contains(table));
        let is_begun = server.jobs.ready_names().await.contains(&JOB.to_owned());
        let waits = server.waiting.names().contains(&JOB.to_owned());
        if (is_begun, waits) != (!is_away, is_away) {
            return Err(format!(
                "the job's tables are away: {is_away}; it is begun: {is_begun}; it waits: {waits}"
            ));
        }
        let status = server.statuses().remove(JOB);
        let reason = status.and_then(|status| status.waiting);
        match reason {
            _ if !is_away => Ok(()),
            Some(reason) if reason.contains("cannot be opened") => Ok(()),
            reason => Err(format!("the job waits because of {reason:?}")),
        }
    }
}

/// The number that the definition of this name ends with; `None` if the name is not defined.
fn found(engine: &Engine, name: &str) -> Option<u64> {
    let text = engine.forks.defined().definition(name).ok()?;
    let mut numbers = text.rsplit(|c: char| !c.is_ascii_digit());
    numbers.find(|number| !number.is_empty())?.parse().ok()
}

fn unopened(engine: &Engine) -> BTreeSet<String> {
    let unopened = engine.forks.defined().unopened().into_iter();
    unopened.map(|(name, _)| name).collect()
}

async fn run(seed: u64, planted: Planted, resting: &Handle) -> Result<(), String> {
    let mut world = World::new(seed, planted, resting);
    let first = world.begin().await;
    let mut servers = [first, world.start().await];
    for event in 1..=EVENTS {
        world.lying.rate(30);
        let which = world.index(servers.len());
        let outcome = match world.lying.below(12) {
            0 | 1 => {
                let tables: Vec<&'static str> = TABLES.into_iter().chain(OF_JOB).collect();
                world.leave(tables[world.index(tables.len())]);
                Ok(())
            }
            2 => {
                servers[which] = world.start().await;
                world.lying.rate(0);
                world.check_start().await
            }
            3 => {
                world.come_back()?;
                world.lying.rate(0);
                let [first, second] = &servers;
                match world.check_again(first).await {
                    Ok(()) => world.check_again(second).await,
                    failed => failed,
                }
            }
            4 => {
                world.lying.catch_up();
                Ok(())
            }
            _ => {
                world.define(&servers[which], event).await;
                Ok(())
            }
        };
        outcome.map_err(|fault| format!("event {event}: {fault}"))?;
    }
    Ok(())
}

/// The runtimes of schedules: the one of jobs never runs, the other one does the work.
struct Runtimes {
    resting: Runtime,
    working: Runtime,
}

impl Runtimes {
    fn new() -> Self {
        let mut working = Builder::new_multi_thread();
        Self {
            resting: Builder::new_current_thread().build().unwrap(),
            working: working.worker_threads(2).enable_all().build().unwrap(),
        }
    }

    /// Runs the schedule of a seed; gives the violation, if there is one.
    fn run(&self, seed: u64, planted: Planted) -> Option<String> {
        let run = run(seed, planted, self.resting.handle());
        let fault = self.working.block_on(run).err()?;
        Some(format!("ANABRANCH_SEED={seed} runs it again: {fault}"))
    }
}

#[test]
fn tables_not_opened_at_start_are_kept_and_retried() {
    let runtimes = Runtimes::new();
    let schedules = Schedules::of("starts of servers");
    for seed in seeds(SEEDS, &[]) {
        schedules.count();
        assert_eq!(runtimes.run(seed, Planted::Nothing), None);
    }
}

#[test]
fn planted_faults_are_found() {
    let runtimes = Runtimes::new();
    let known: [(Planted, &[u64]); 3] = [
        (Planted::ForgetsTables, &[]),
        (Planted::ForgetsJobs, &[]),
        (Planted::NeverAgain, &[]),
    ];
    for (planted, known) in known {
        let found = found_by(&format!("{planted:?}"), known, ENOUGH, |seed| {
            runtimes.run(seed, planted).is_some()
        });
        assert!(found.is_some(), "{planted:?} is not found");
    }
}
