//! A seeded generator of page visits in sessions: the data of the demo and of the benchmarks.
//!
//! Time is cut into slots of half an hour; a user is active in about one slot of eight, and visits
//! only then. Visits come in order of time, give or take a few seconds, as they do in a log.

use crate::core::random::Random;

const SLOT_MICROS: i64 = 30 * 60 * 1_000_000;
const JITTER_MICROS: u64 = 5_000_000;
const BROWSERS: [&str; 5] = ["Firefox", "Chrome", "Safari", "Edge", "Opera"];

/// What to generate.
#[derive(Debug, Clone, Copy)]
pub struct VisitPlan {
    /// Same seed, same visits.
    pub seed: u64,
    /// How many users there are.
    pub users: u32,
    /// How many visits.
    pub visits: u64,
    /// The first possible event time, in microseconds since the epoch.
    pub start: i64,
    /// Half hours of event time.
    pub slots: u32,
}

/// One visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// Counts from 1.
    pub number: u64,
    /// From 1 to the number of users.
    pub user_id: u32,
    /// Microseconds since the epoch.
    pub event_time: i64,
    /// The page's number.
    pub page: u32,
    /// The browser's name.
    pub browser: &'static str,
}

/// Iterator over the visits of a plan.
#[derive(Debug)]
pub struct Visits {
    plan: VisitPlan,
    random: Random,
    active: Vec<u32>,
    active_slot: Option<u32>,
    next: u64,
}

impl Visits {
    /// The visits of `plan`.
    pub fn new(plan: VisitPlan) -> Self {
        Self {
            plan,
            random: Random::new(plan.seed),
            active: Vec::new(),
            active_slot: None,
            next: 0,
        }
    }

    fn enter(&mut self, slot: u32) {
        if self.active_slot == Some(slot) {
            return;
        }
        self.active_slot = Some(slot);
        let seed = self.plan.seed;
        let is_active = |user: &u32| {
            let mut random = Random::new(seed ^ (u64::from(*user) << 32) ^ u64::from(slot));
            random.next().is_multiple_of(8)
        };
        self.active = (1..=self.plan.users).filter(is_active).collect();
        if self.active.is_empty() {
            self.active.push(1);
        }
    }
}

impl Iterator for Visits {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        let VisitPlan {
            visits,
            slots,
            start,
            ..
        } = self.plan;
        if self.next >= visits {
            return None;
        }
        let span = i128::from(slots) * i128::from(SLOT_MICROS);
        let at = i64::try_from(i128::from(self.next) * span / i128::from(visits)).ok()?;
        let slot = u32::try_from(at / SLOT_MICROS).ok()?;
        self.enter(slot);
        self.next += 1;
        let user = self.random.next() as usize % self.active.len();
        // The jitter stays within the slot, so that sessions keep their shape.
        let slot_end = (i64::from(slot) + 1) * SLOT_MICROS - 1;
        let jitter = (self.random.next() % JITTER_MICROS) as i64;
        Some(Visit {
            number: self.next,
            user_id: self.active[user],
            event_time: start + (at + jitter).min(slot_end),
            page: (self.random.next() % 20) as u32,
            browser: BROWSERS[self.random.next() as usize % BROWSERS.len()],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: VisitPlan = VisitPlan {
        seed: 7,
        users: 100,
        visits: 5_000,
        start: 1_000_000_000,
        slots: 4,
    };

    #[test]
    fn the_same_seed_gives_the_same_visits() {
        assert!(Visits::new(PLAN).eq(Visits::new(PLAN)));
        assert!(!Visits::new(PLAN).eq(Visits::new(VisitPlan { seed: 8, ..PLAN })));
    }

    #[test]
    fn visits_stay_in_their_range_and_nearly_in_order() {
        let visits: Vec<Visit> = Visits::new(PLAN).collect();
        assert_eq!(visits.len(), 5_000);
        let end = PLAN.start + 4 * SLOT_MICROS;
        assert!(
            visits
                .iter()
                .all(|visit| (PLAN.start..end).contains(&visit.event_time))
        );
        assert!(
            visits
                .iter()
                .all(|visit| (1..=100).contains(&visit.user_id))
        );
        let steps = visits
            .windows(2)
            .map(|pair| pair[0].event_time - pair[1].event_time);
        assert!(steps.max().unwrap() < JITTER_MICROS as i64);
    }
}
