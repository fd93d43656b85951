//! Number and seeds of the random schedules that the simulations of the tests run, and the counts that they print at their end.
//!
//! With `ANABRANCH_SEEDS=<count>` each test runs so many schedules instead of its own number. With `ANABRANCH_SEED=<n>` the
//! tests that make a schedule from a seed run only the schedule of this seed. Proptest makes the schedules of the other tests;
//! it prints a schedule that fails and stores it in `proptest-regressions`. A test in which a fault is planted searches as far
//! as it always does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proptest::prelude::ProptestConfig;
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// The schedules of one test. At the end of the test it prints how many ran, and the rate per minute: `cargo test` shows it
/// with `--nocapture`.
pub(crate) struct Schedules {
    what: String,
    began: Instant,
    ran: AtomicU64,
}

impl Schedules {
    /// A counter at zero. `what` names the schedules.
    pub(crate) fn of(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            began: Instant::now(),
            ran: AtomicU64::new(0),
        }
    }

    /// Counts one more schedule.
    pub(crate) fn count(&self) {
        self.ran.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Schedules {
    fn drop(&mut self) {
        let (ran, took) = (*self.ran.get_mut(), self.began.elapsed().as_secs_f64());
        let minutes = took.max(0.001) / 60.0;
        let a_minute = ran as f64 / minutes;
        say(&format!(
            "{}: {ran} schedules in {took:.1} s, {a_minute:.0} a minute",
            self.what
        ));
    }
}

#[expect(clippy::print_stdout, reason = "the output of a test")]
fn say(line: &str) {
    println!("{line}");
}

/// The number that a variable of the environment holds, if it is set.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{name} is '{text}', and must be a whole number"),
    }
}

/// The seeds of a test: those below `usual` or below `ANABRANCH_SEEDS`, and those of `found`, whose schedules have found a
/// fault of the program before; or `ANABRANCH_SEED` alone.
pub(crate) fn seeds(usual: u64, found: &[u64]) -> Vec<u64> {
    chosen(
        number("ANABRANCH_SEED"),
        number("ANABRANCH_SEEDS").unwrap_or(usual),
        found,
    )
}

fn chosen(one: Option<u64>, count: u64, found: &[u64]) -> Vec<u64> {
    if let Some(one) = one {
        return vec![one];
    }
    assert!(count > 0, "no schedule is to run: nothing would be tested");
    let found = found.iter().copied().filter(|seed| *seed >= count);
    (0..count).chain(found).collect()
}

/// Configuration of proptest for so many cases, or for the number in `ANABRANCH_SEEDS`.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let cases = number("ANABRANCH_SEEDS").map(|count| u32::try_from(count).unwrap());
    let cases = cases.unwrap_or(usual);
    assert!(cases > 0, "no case is to run: nothing would be tested");
    ProptestConfig::with_cases(cases)
}

/// The value that a strategy gives for a seed.
pub(crate) fn sample<S: Strategy>(strategy: &S, seed: u64) -> S::Value {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), random);
    strategy.new_tree(&mut runner).unwrap().current()
}

/// Runs schedules with a planted fault until one finds it: first those of the `known` seeds, then those of the seeds below
/// `enough`. Returns and prints the seed that found it, so that the known ones can be kept up to date.
pub(crate) fn found_by(
    planted: &str,
    known: &[u64],
    enough: u64,
    mut finds: impl FnMut(u64) -> bool,
) -> Option<u64> {
    let schedules = Schedules::of(format!("planted: {planted}"));
    let others = (0..enough).filter(|seed| !known.contains(seed));
    let found = known.iter().copied().chain(others).find(|seed| {
        schedules.count();
        finds(*seed)
    });
    match found {
        Some(seed) if known.contains(&seed) => say(&format!("planted: {planted}: found by {seed}")),
        Some(seed) => say(&format!(
            "planted: {planted}: found by {seed}, which is not among the known {known:?}"
        )),
        None => say(&format!(
            "planted: {planted}: found by none of {known:?} and of the first {enough}"
        )),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_seed_runs_alone_and_known_seeds_run_additionally() {
        assert_eq!(chosen(Some(7), 3, &[9]), [7]);
        assert_eq!(chosen(None, 3, &[9, 1]), [0, 1, 2, 9]);
    }

    #[test]
    fn known_seeds_are_tried_first_and_each_seed_once() {
        let mut tried = Vec::new();
        let found = found_by("a test", &[5, 2], 4, |seed| {
            tried.push(seed);
            seed == 3
        });
        assert_eq!((found, tried), (Some(3), vec![5, 2, 0, 1, 3]));
        assert_eq!(found_by("a test", &[5], 10, |seed| seed >= 5), Some(5));
        assert_eq!(found_by("a test", &[], 4, |_| false), None);
    }

    #[test]
    fn a_seed_gives_the_same_value_again() {
        let strategy = proptest::collection::vec(0..1_000_u64, 20);
        assert_eq!(sample(&strategy, 3), sample(&strategy, 3));
        assert_ne!(sample(&strategy, 3), sample(&strategy, 4));
    }
}
