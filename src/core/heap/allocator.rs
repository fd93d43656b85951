//! Global allocator that counts the allocations of statements and passes each call to an inner allocator.
#![expect(
    unsafe_code,
    reason = "an allocator is unsafe by its interface: each call is handed on as it came, and memory is not touched"
)]

use std::alloc::{GlobalAlloc, Layout};

use crate::core::heap::{LARGE, count, has_room, owner, wait};

/// Counts what statements allocate. Allocations outside statements go to the inner allocator at once.
#[derive(Debug)]
pub struct CountingAllocator<A>(A);

impl<A> CountingAllocator<A> {
    /// Wraps the allocator that does the work.
    pub const fn new(inner: A) -> Self {
        Self(inner)
    }
}

// SAFETY: every pointer comes from the inner allocator, by the layout that was asked for, and goes back to it by the same. The
// code around these calls only reads and writes numbers, or waits. It does not unwind, and its own allocations arrive here as
// those of no statement.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the rules of `alloc`.
        taken(layout.size(), 0, || unsafe { self.0.alloc(layout) })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the rules of `alloc_zeroed`.
        taken(layout.size(), 0, || unsafe { self.0.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the rules of `realloc`. If it fails, the memory is unchanged, and the call may be repeated.
        taken(new_size, layout.size(), || unsafe {
            self.0.realloc(memory, layout, new_size)
        })
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if owner() != 0 {
            count(layout.size(), false);
        }
        // SAFETY: the caller keeps the rules of `dealloc`.
        unsafe { self.0.dealloc(memory, layout) }
    }
}

/// Allocates `size` bytes in the place of `old` ones; the thread of a statement waits until there is room for them.
fn taken(size: usize, old: usize, take: impl Fn() -> *mut u8) -> *mut u8 {
    let of = owner();
    if of == 0 {
        return take();
    }
    let more = size.saturating_sub(old);
    while more >= LARGE && !has_room(more) && wait(of, more) {}
    let mut given = take();
    while given.is_null() && wait(of, more) {
        given = take();
    }
    if !given.is_null() {
        match size >= old {
            true => count(more, true),
            false => count(old - size, false),
        }
    }
    given
}
