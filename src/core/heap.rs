//! Heap use of statements: counts what one poll of a statement allocates, and refuses or delays it at a limit (SAFE-1).
//!
//! Memory pools count the memory that operators hold between two batches. They do not count what an operator, a function or an
//! aggregate allocates while it works. The allocator counts that: while a thread polls a statement, it adds up the bytes that
//! the thread allocates, less those that it frees ([`within`]). Steps of a statement compare the sum with a limit ([`check`])
//! and fail above it, so that all of the memory is freed.
//!
//! A step that makes no such check may still need more than the process has left ([`set_room`]). Without memory an allocator
//! can end the process or wait. The thread of a statement waits until other statements have freed memory. [`short`] lists the
//! statements whose threads wait, so that the server can end them.

mod allocator;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

pub use allocator::CountingAllocator;

/// An allocation of at least so many bytes waits for room. Smaller ones do not, because they also happen while locks are held.
const LARGE: usize = 64 << 10;
/// A statement that has allocated less than this in one poll does not fail when the process has no room.
const LITTLE: usize = 64 << 20;
/// The most threads that [`SHORT`] can list as waiting for memory.
const WAITING: usize = 256;
/// Value of [`ROOM`] when the limit of the process is not known.
const UNKNOWN: usize = usize::MAX;

/// Bytes that the process could still allocate at the last measurement.
static ROOM: AtomicUsize = AtomicUsize::new(UNKNOWN);
/// Bytes that large allocations of statements have taken since that measurement, less those freed.
static SINCE: AtomicIsize = AtomicIsize::new(0);
/// The statements whose threads wait for memory; 0 is none.
static SHORT: [AtomicU64; WAITING] = [const { AtomicU64::new(0) }; WAITING];
/// Called on a thread that has to wait for memory.
static WAIT: OnceLock<fn(usize)> = OnceLock::new();

thread_local! {
    static POLL: PollCounters = const {
        PollCounters {
            owner: Cell::new(0),
            taken: Cell::new(0),
            most: Cell::new(0),
        }
    };
    static OWNER: RefCell<Option<Arc<MemoryOwner>>> = const { RefCell::new(None) };
}

/// Counters of a thread for the statement that it polls. The allocator reads them, so no field may allocate or run a
/// destructor.
struct PollCounters {
    /// The number of the statement; 0 if the thread polls none and counts nothing.
    owner: Cell<u64>,
    /// Bytes allocated since the poll began, less those freed.
    taken: Cell<isize>,
    /// The limit of `taken`.
    most: Cell<usize>,
}

/// A statement, as far as its memory is concerned.
#[derive(Debug)]
pub struct MemoryOwner {
    number: u64,
    is_ended: AtomicBool,
}

impl Default for MemoryOwner {
    /// A statement with a new, unique number.
    fn default() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            is_ended: AtomicBool::new(false),
        }
    }
}

impl MemoryOwner {
    /// The number under which [`short`] lists the statement.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Ends the statement, since it was cancelled, ran out of time or lost its client: its next [`check`] fails.
    pub fn end(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
    }
}

/// Why a step of a statement has to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeapRefusal {
    /// The statement was cancelled, ran out of time or lost its client.
    Ended,
    /// It would have allocated more in one poll than its limit.
    TooMuch {
        /// These.
        taken: usize,
        /// As many as it may take.
        most: usize,
    },
    /// It would have taken so many bytes in one go, and the process has no room for them.
    NoRoom {
        /// These.
        taken: usize,
    },
}

/// Wraps a future so that each of its polls counts its allocations and may allocate up to `most` bytes.
pub fn within<F: Future>(
    owner: Arc<MemoryOwner>,
    most: usize,
    work: F,
) -> impl Future<Output = F::Output> {
    let mut work = Box::pin(work);
    poll_fn(move |context| during(&owner, most, || work.as_mut().poll(context)))
}

/// Calls a function and counts its allocations, up to `most` bytes.
pub fn during<T>(owner: &Arc<MemoryOwner>, most: usize, work: impl FnOnce() -> T) -> T {
    let _begun = ActivePoll::new(Arc::clone(owner), most);
    work()
}

/// The statement that this thread counts for and its limit in bytes, so that work on another thread can be counted for it too.
pub fn current() -> Option<(Arc<MemoryOwner>, usize)> {
    let owner = OWNER.with(|owner| owner.borrow().clone())?;
    Some((owner, POLL.with(|poll| poll.most.get())))
}

/// Checks that the statement that this thread polls may go on and allocate `more` bytes. Always succeeds on a thread that polls
/// no statement.
///
/// # Errors
///
/// The reason why the statement has to fail.
pub fn check(more: usize) -> Result<(), HeapRefusal> {
    let (owner, taken, most) =
        POLL.with(|poll| (poll.owner.get(), poll.taken.get(), poll.most.get()));
    if owner == 0 {
        return Ok(());
    }
    let is_ended = OWNER.with(|owner| {
        let owner = owner.borrow();
        let owner = owner.as_ref();
        owner.is_some_and(|owner| owner.is_ended.load(Ordering::Relaxed))
    });
    if is_ended {
        return Err(HeapRefusal::Ended);
    }
    let taken = usize::try_from(taken).unwrap_or(0).saturating_add(more);
    refusal(taken, most, has_room(more)).map_or(Ok(()), Err)
}

/// Whether a statement that would have allocated so many bytes has to fail, and why.
fn refusal(taken: usize, most: usize, has_room: bool) -> Option<HeapRefusal> {
    if taken > most {
        return Some(HeapRefusal::TooMuch { taken, most });
    }
    (!has_room && taken > LITTLE).then_some(HeapRefusal::NoRoom { taken })
}

/// Sets how many bytes the process may allocate from now on.
pub fn set_room(bytes: usize) {
    ROOM.store(bytes, Ordering::Relaxed);
    SINCE.store(0, Ordering::Relaxed);
}

/// Removes the limit of the process, when its free memory is no longer measured.
pub fn forget_room() {
    set_room(UNKNOWN);
}

/// Whether the process has room for so many bytes, as far as that is known.
pub fn has_room(bytes: usize) -> bool {
    let room = ROOM.load(Ordering::Relaxed);
    room == UNKNOWN || fits(bytes, room, SINCE.load(Ordering::Relaxed))
}

/// Whether `bytes` fit when `room` bytes were free at the last measurement and `since` bytes have been taken after it.
fn fits(bytes: usize, room: usize, since: isize) -> bool {
    match usize::try_from(since) {
        Ok(taken) => bytes <= room.saturating_sub(taken),
        Err(_) => bytes <= room.saturating_add(since.unsigned_abs()),
    }
}

/// Sets the function that a statement's thread calls when it needs so many bytes more than are free. It returns when they may
/// be free, and must not unwind. Only the first call has an effect.
pub fn on_shortage(wait: fn(usize)) {
    let _ = WAIT.set(wait);
}

/// The numbers of the statements that have threads which wait for memory.
pub fn short() -> Vec<u64> {
    let waiting = SHORT.iter().map(|place| place.load(Ordering::Relaxed));
    waiting.filter(|number| *number != 0).collect()
}

/// A poll that has begun on this thread; its drop restores the counters of the poll around it.
struct ActivePoll {
    owner: u64,
    taken: isize,
    most: usize,
    before: Option<Arc<MemoryOwner>>,
}

impl ActivePoll {
    fn new(owner: Arc<MemoryOwner>, most: usize) -> Self {
        let number = owner.number;
        let before = OWNER.with(|current| current.replace(Some(owner)));
        POLL.with(|poll| Self {
            owner: poll.owner.replace(number),
            taken: poll.taken.replace(0),
            most: poll.most.replace(most),
            before,
        })
    }
}

impl Drop for ActivePoll {
    fn drop(&mut self) {
        POLL.with(|poll| {
            poll.owner.set(self.owner);
            poll.taken.set(self.taken);
            poll.most.set(self.most);
        });
        drop(OWNER.with(|current| current.replace(self.before.take())));
    }
}

/// The number of the statement that this thread polls; 0 if it polls none.
#[inline]
fn owner() -> u64 {
    POLL.try_with(|poll| poll.owner.get()).unwrap_or(0)
}

/// Adds bytes to the count of this thread's statement when they are allocated, subtracts them when they are freed.
#[inline]
fn count(bytes: usize, is_taken: bool) {
    let bytes = isize::try_from(bytes).unwrap_or(isize::MAX);
    let bytes = if is_taken { bytes } else { -bytes };
    let _ = POLL.try_with(|poll| {
        poll.taken.set(poll.taken.get().wrapping_add(bytes));
    });
    if bytes.unsigned_abs() >= LARGE {
        SINCE.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Waits for memory on behalf of this statement; false if no function for that was set.
fn wait(owner: u64, bytes: usize) -> bool {
    let Some(wait) = WAIT.get() else {
        return false;
    };
    let _known = WaitingThread::new(owner);
    //     The allocations of the wait itself are not counted for the statement and do not wait.
    let _ = POLL.try_with(|poll| poll.owner.set(0));
    wait(bytes);
    let _ = POLL.try_with(|poll| poll.owner.set(owner));
    true
}

/// Lists a waiting thread in [`SHORT`] while it lives, if a place is free.
struct WaitingThread(Option<&'static AtomicU64>);

impl WaitingThread {
    fn new(owner: u64) -> Self {
        let mut places = SHORT.iter();
        Self(places.find(|place| {
            let free = place.compare_exchange(0, owner, Ordering::Relaxed, Ordering::Relaxed);
            free.is_ok()
        }))
    }
}

impl Drop for WaitingThread {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll as Polled;

    use super::*;

    const MIB: usize = 1 << 20;

    /// Memory that is taken and looks as if it were used.
    fn taken(bytes: usize) -> Vec<u8> {
        std::hint::black_box(vec![1; bytes])
    }

    #[test]
    fn allocations_of_a_poll_are_counted_and_frees_are_not() {
        let owner = Arc::new(MemoryOwner::default());
        assert_eq!(check(usize::MAX), Ok(()), "no statement is polled");
        let held = during(&owner, 10 * MIB, || {
            for _ in 0..10 {
                drop(taken(8 * MIB));
                assert_eq!(check(0), Ok(()));
            }
            let held = taken(8 * MIB);
            assert_eq!(check(0), Ok(()));
            let refused = check(3 * MIB);
            assert!(
                matches!(refused, Err(HeapRefusal::TooMuch { .. })),
                "{refused:?}"
            );
            held
        });
        // Each poll starts its count at zero, and a poll within another one has a count of its own.
        during(&owner, 10 * MIB, || {
            assert_eq!(check(9 * MIB), Ok(()));
            let more = during(&owner, 20 * MIB, || {
                assert_eq!(check(19 * MIB), Ok(()));
                taken(5 * MIB)
            });
            assert_eq!(check(9 * MIB), Ok(()));
            drop(more);
        });
        drop(held);
        assert!(current().is_none());
    }

    #[test]
    fn growing_vectors_are_counted_once() {
        let owner = Arc::new(MemoryOwner::default());
        during(&owner, 20 * MIB, || {
            let mut grown = Vec::new();
            while grown.len() < 8 * MIB {
                grown.extend_from_slice(std::hint::black_box(&[1_u8; 1_000]));
            }
            assert_eq!(check(0), Ok(()));
            grown.shrink_to_fit();
            assert_eq!(check(11 * MIB), Ok(()));
            assert!(check(13 * MIB).is_err());
        });
    }

    #[test]
    fn a_future_is_counted_poll_by_poll_on_any_thread() {
        let owner = Arc::new(MemoryOwner::default());
        let mut polls = 0;
        let work = poll_fn(move |context| {
            polls += 1;
            assert_eq!(current().map(|(_, most)| most), Some(10 * MIB));
            assert_eq!(check(9 * MIB), Ok(()));
            // It is kept, and the next poll may take as much.
            std::mem::forget(taken(8 * MIB));
            context.waker().wake_by_ref();
            match polls {
                3 => Polled::Ready(check(9 * MIB)),
                _ => Polled::Pending,
            }
        });
        let work = within(Arc::clone(&owner), 10 * MIB, work);
        let thread = std::thread::spawn(move || futures::executor::block_on(work));
        assert!(thread.join().unwrap().is_err());
    }

    #[test]
    fn a_statement_that_has_ended_fails_at_its_next_step() {
        let owner = Arc::new(MemoryOwner::default());
        during(&owner, MIB, || {
            assert_eq!(check(0), Ok(()));
            owner.end();
            assert_eq!(check(0), Err(HeapRefusal::Ended));
        });
        assert_ne!(owner.number(), MemoryOwner::default().number());
    }

    #[test]
    fn small_statements_continue_without_free_memory() {
        let most = 1_000 * MIB;
        assert_eq!(refusal(10 * MIB, most, false), None);
        assert_eq!(refusal(100 * MIB, most, true), None);
        let taken = 100 * MIB;
        assert_eq!(
            refusal(taken, most, false),
            Some(HeapRefusal::NoRoom { taken })
        );
        let taken = most + 1;
        let refused = Some(HeapRefusal::TooMuch { taken, most });
        assert_eq!(refusal(taken, most, true), refused);
    }

    #[test]
    fn room_is_the_remaining_memory_minus_later_allocations() {
        assert!(fits(10, 10, 0));
        assert!(!fits(11, 10, 0));
        assert!(!fits(1, 10, 10));
        assert!(!fits(1, 10, isize::MAX));
        assert!(fits(0, 10, 20));
        // More was given back than taken.
        assert!(fits(15, 10, -5));
        assert!(fits(usize::MAX, usize::MAX, isize::MIN));
    }

    #[test]
    fn statements_with_waiting_threads_are_listed() {
        let number = MemoryOwner::default().number();
        let first = WaitingThread::new(number);
        let second = WaitingThread::new(number);
        assert_eq!(short().iter().filter(|of| **of == number).count(), 2);
        drop((first, second));
        assert!(!short().contains(&number));
    }
}
