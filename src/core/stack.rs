//! Room on the stack for functions that recurse as deep as a statement is nested.
//!
//! The parser, the planner and the clone and drop that the compiler generates recurse. The parser's gate bounds the depth; this
//! module gives them enough stack on every thread.

use std::future::{Future, poll_fn};

/// Bytes of stack of the threads that plan and run statements. The system gives a page when it is touched first.
pub const STACK: usize = 64 << 20;
/// A new stack is allocated when less than this is left.
const LEAST: usize = 40 << 20;

/// Calls a function with room for a statement as deep as the gate lets through.
pub fn with_stack<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(LEAST, STACK, work)
}

/// Wraps a future so that each poll has this room.
pub fn on_stack<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let mut work = Box::pin(work);
    poll_fn(move |context| with_stack(|| work.as_mut().poll(context)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deep(levels: usize) -> usize {
        let room = std::hint::black_box([1_u8; 1_024]);
        match levels {
            0 => 0,
            _ => deep(levels - 1) + usize::from(room[levels % 1_024]),
        }
    }

    #[test]
    fn a_small_thread_has_enough_stack() {
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let counted = small.spawn(|| with_stack(|| deep(20_000))).unwrap();
        assert_eq!(counted.join().unwrap(), 20_000);
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let polled = small.spawn(|| futures::executor::block_on(on_stack(async { deep(20_000) })));
        assert_eq!(polled.unwrap().join().unwrap(), 20_000);
    }
}
