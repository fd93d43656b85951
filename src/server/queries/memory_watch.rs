//! Memory watch: ends statements before the system ends the whole process for its memory (SAFE-1).
//!
//! Operators hold memory within pools, functions make their results within the budget of their statement, and each
//! single allocation of either is counted (`core::heap`). Memory beside that, such as rows between two operators, is
//! seen here in the memory of the whole process. A statement that asks for more than the machine has waits on its own
//! thread, and is ended.

#![expect(
    clippy::disallowed_methods,
    reason = "the watcher of memory runs beside statements, in real time; a thread without memory can only wait"
)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::runtime::{JoinSetTracer, set_join_set_tracer};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::task::AbortOnDropHandle;

use crate::core::heap;
use crate::server::queries::scheduler::QueryScheduler;

/// The time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(50);
/// While no statement runs, the watch measures the free memory only every so many looks.
const SELDOM: u32 = 20;
/// After a statement was told to end, the watch looks this many times before it ends another: the memory needs time to
/// be freed.
const PATIENCE: u32 = 10;
/// The least memory that the process may hold beside the memory of its statements: code, caches, copies.
const BESIDE: usize = 2 << 30;
/// The same, beyond the memory held when no statement ran: jobs keep their state.
const BEYOND: usize = 1 << 30;

/// Ends the newest statement, one after the other, as long as the process holds more than it may; and each that waits for memory.
pub(crate) fn watch(work: Arc<QueryScheduler>, limit: usize) -> AbortOnDropHandle<()> {
    heap::on_shortage(wait);
    // One server of a process is enough to say so.
    let _ = set_join_set_tracer(&IN_ITS_NAME);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let _unwatched = WatchGuard;
        let mut at_rest = 0;
        let (mut patience, mut looks) = (0, 0_u32);
        loop {
            tokio::time::sleep(LOOK).await;
            let is_at_rest = work.is_at_rest();
            looks = looks.wrapping_add(1);
            if !is_at_rest || looks.is_multiple_of(SELDOM) {
                heap::set_room(room().unwrap_or(usize::MAX));
            }
            for ended in heap::short()
                .into_iter()
                .filter_map(|of| work.end_waiting_for_memory(of))
            {
                tracing::warn!(
                    query = ended,
                    "a statement needs more memory than is available: it is ended, and its thread waits for memory"
                );
            }
            let Some(held) = resident() else {
                continue;
            };
            if is_at_rest {
                at_rest = held;
                continue;
            }
            patience -= u32::from(patience > 0);
            let most = most(limit, at_rest);
            if held <= most || patience > 0 {
                continue;
            }
            if let Some(ended) = work.end_newest() {
                patience = PATIENCE;
                tracing::warn!(
                    query = ended,
                    held,
                    most,
                    "the process holds too much memory: a statement is ended"
                );
            }
        }
    }))
}

/// Clears the room when the watch ends: a value that is no longer updated would be wrong.
struct WatchGuard;

impl Drop for WatchGuard {
    fn drop(&mut self) {
        heap::forget_room();
    }
}

/// Blocks the thread of a statement that has no room for so many bytes.
fn wait(bytes: usize) {
    aside(|| {
        loop {
            std::thread::sleep(LOOK);
            if heap::has_room(bytes) {
                break;
            }
        }
    });
}

/// Waits, while the other tasks of this thread go on with another one. Where it is no thread of tasks, it just waits.
fn aside(wait: impl Fn()) {
    let waited = catch_unwind(AssertUnwindSafe(|| tokio::task::block_in_place(&wait)));
    if waited.is_err() {
        wait();
    }
}

/// Work that a statement does on other tasks counts as work of that statement.
struct AttributedTask;

static IN_ITS_NAME: AttributedTask = AttributedTask;

impl JoinSetTracer for AttributedTask {
    fn trace_future(
        &self,
        task: BoxFuture<'static, Box<dyn Any + Send>>,
    ) -> BoxFuture<'static, Box<dyn Any + Send>> {
        match heap::current() {
            Some((owner, most)) => heap::within(owner, most, task).boxed(),
            None => task,
        }
    }

    fn trace_block(
        &self,
        work: Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>,
    ) -> Box<dyn FnOnce() -> Box<dyn Any + Send> + Send> {
        match heap::current() {
            Some((owner, most)) => Box::new(move || heap::during(&owner, most, work)),
            None => work,
        }
    }
}

/// Bytes that the process may hold; `at_rest` are the bytes that it held when no statement ran.
fn most(limit: usize, at_rest: usize) -> usize {
    limit.saturating_add(BESIDE.max(at_rest.saturating_add(BEYOND)))
}

/// Bytes that the process holds; none where the system does not say.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    bytes_of(&status, "VmRSS:")
}

/// Bytes that statements may take of the free memory of the machine, of the control group that limits this process, or
/// of its own address space (`ulimit -v`); none where the system gives no number.
fn room() -> Option<usize> {
    let machine = std::fs::read_to_string("/proc/meminfo");
    let machine = machine.ok().and_then(|said| left_by_machine(&said));
    [machine, group(), addresses()].into_iter().flatten().min()
}

/// The free address space of this process, if it is limited.
fn addresses() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    left_by_limits(&limits, &status)
}

fn left_by_limits(limits: &str, status: &str) -> Option<usize> {
    let mut lines = limits.lines();
    let limit = lines.find_map(|line| line.strip_prefix("Max address space"))?;
    let most: usize = limit.split_whitespace().next()?.parse().ok()?;
    let held = bytes_of(status, "VmSize:")?;
    let left = most.saturating_sub(held);
    Some(left.saturating_sub(for_others(most)))
}

/// The free memory of the machine, less the part reserved for other processes.
fn left_by_machine(machine: &str) -> Option<usize> {
    let total = bytes_of(machine, "MemTotal:")?;
    let available = bytes_of(machine, "MemAvailable:")?;
    let swap = bytes_of(machine, "SwapFree:").unwrap_or(0);
    let left = available.saturating_add(swap);
    Some(left.saturating_sub(for_others(total)))
}

/// The same of the control group of this process, if that has a limit.
fn group() -> Option<usize> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let of = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let read = |name: &str| {
        let place = format!("/sys/fs/cgroup{}/{name}", of.trim_end_matches('/'));
        std::fs::read_to_string(place).ok()
    };
    let (most, held) = (read("memory.max")?, read("memory.current")?);
    left_by_group(&most, &held, &read("memory.stat").unwrap_or_default())
}

/// The free memory of a control group; pages of files that it can drop count as free.
fn left_by_group(most: &str, held: &str, statistics: &str) -> Option<usize> {
    let most: usize = most.trim().parse().ok()?;
    let held: usize = held.trim().parse().ok()?;
    let mut lines = statistics.lines();
    let files = lines.find_map(|line| line.strip_prefix("inactive_file "));
    let files: usize = files.and_then(|of| of.trim().parse().ok()).unwrap_or(0);
    let left = most.saturating_sub(held.saturating_sub(files));
    Some(left.saturating_sub(for_others(most)))
}

/// The part of so much memory that statements leave to jobs, the network and the system.
fn for_others(total: usize) -> usize {
    (total / 16).clamp(128 << 20, 1 << 30)
}

/// The number that the system gives in KiB, behind a name.
fn bytes_of(said: &str, name: &str) -> Option<usize> {
    let line = said.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_process_limit_adds_a_margin_to_the_memory_limit() {
        assert!(resident().unwrap() > 1 << 20);
        assert_eq!(most(100 << 20, 50 << 20), (100 << 20) + BESIDE);
        assert_eq!(most(16 << 30, 10 << 30), (26 << 30) + BEYOND);
        assert_eq!(most(usize::MAX, 1), usize::MAX);
    }

    #[test]
    fn room_is_limited_by_machine_and_cgroup() {
        assert!(room().is_some());
        let said =
            "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\nSwapFree: 1024 kB\n";
        assert_eq!(left_by_machine(said), Some(4_096 * MIB + MIB - 1_024 * MIB));
        let few = "MemTotal: 1048576 kB\nMemAvailable: 65536 kB\n";
        assert_eq!(left_by_machine(few), Some(0));
        assert_eq!(left_by_machine("MemTotal: 1 kB\n"), None);
        let of = |most: &str, held: usize, statistics: &str| {
            left_by_group(most, &held.to_string(), statistics)
        };
        assert_eq!(of("max\n", MIB, ""), None);
        let gib = "1073741824\n";
        assert_eq!(of(gib, 512 * MIB, ""), Some(384 * MIB));
        let files = format!("anon 7\ninactive_file {}\n", 100 * MIB);
        assert_eq!(of(gib, 512 * MIB, &files), Some(484 * MIB));
        assert_eq!(of(gib, 2_048 * MIB, ""), Some(0));
        let limits = |most: &str| {
            format!("Limit Soft Hard Units\nMax address space         {most}   unlimited   bytes\n")
        };
        let status = "VmPeak: 9 kB\nVmSize:  524288 kB\n";
        assert_eq!(left_by_limits(&limits("unlimited"), status), None);
        assert_eq!(
            left_by_limits(&limits("1073741824"), status),
            Some(384 * MIB)
        );
    }

    #[tokio::test]
    async fn tasks_of_a_statement_are_attributed_to_it() {
        let _ = set_join_set_tracer(&IN_ITS_NAME);
        let spawned = || async {
            let mut tasks = datafusion::common::runtime::JoinSet::new();
            tasks.spawn(async { heap::current().map(|(owner, most)| (owner.number(), most)) });
            tasks.spawn_blocking(|| heap::current().map(|(owner, most)| (owner.number(), most)));
            let first = tasks.join_next().await.unwrap().unwrap();
            let second = tasks.join_next().await.unwrap().unwrap();
            assert_eq!(first, second);
            first
        };
        assert_eq!(spawned().await, None);
        let owner = Arc::new(heap::MemoryOwner::default());
        let number = owner.number();
        let found = heap::within(owner, 7 * MIB, spawned()).await;
        assert_eq!(found, Some((number, 7 * MIB)));
    }

    /// There is one thread: it waits, and the next task has another one all the same.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_thread_that_waits_for_memory_leaves_its_work_to_another() {
        let (may_end, ends) = std::sync::mpsc::channel::<()>();
        let waits = tokio::spawn(async move {
            aside(|| {
                let _ = ends.recv();
            });
        });
        assert_eq!(tokio::spawn(async { 7 }).await.unwrap(), 7);
        let _ = may_end.send(());
        waits.await.unwrap();
    }
}
