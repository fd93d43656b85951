//! What the server holds between two calls of a client: begun queries until they are fetched, prepared statements until
//! they are closed. Each has a name that cannot be guessed, and is forgotten when nobody asks for long.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Things of one kind by name.
pub(super) struct Held<T> {
    most: usize,
    idle: Duration,
    things: Mutex<HashMap<String, Thing<T>>>,
}

struct Thing<T> {
    used: Instant,
    /// The client has had what it came for: it may be forgotten for others.
    is_done: bool,
    thing: T,
}

impl<T: Clone> Held<T> {
    /// Of which there are at most so many; one that nobody asks for is forgotten after `idle`.
    pub(super) fn new(most: usize, idle: Duration) -> Self {
        Self {
            most,
            idle,
            things: Mutex::default(),
        }
    }

    /// Keeps a thing; gives its name, or nothing if there are too many.
    pub(super) fn put(&self, thing: T, now: Instant) -> Option<String> {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        if things.len() >= self.most {
            let is_kept = |held: &Thing<T>| now.duration_since(held.used) < self.idle;
            things.retain(|_, held| is_kept(held));
        }
        if things.len() >= self.most {
            // Half of those that are done at once: a full house does not look for the oldest at every call.
            let mut done: Vec<Instant> = things
                .values()
                .filter(|held| held.is_done)
                .map(|held| held.used)
                .collect();
            let middle = done.len() / 2;
            if !done.is_empty() {
                let (_, newest, _) = done.select_nth_unstable(middle);
                let newest = *newest;
                things.retain(|_, held| !held.is_done || held.used > newest);
            }
        }
        if things.len() >= self.most {
            return None;
        }
        let name = uuid::Uuid::new_v4().simple().to_string();
        let held = Thing {
            used: now,
            is_done: false,
            thing,
        };
        things.insert(name.clone(), held);
        Some(name)
    }

    /// The thing of a name.
    pub(super) fn get(&self, name: &[u8], now: Instant) -> Option<T> {
        let name = std::str::from_utf8(name).ok()?;
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        let held = things.get_mut(name)?;
        if now.duration_since(held.used) >= self.idle {
            things.remove(name);
            return None;
        }
        held.used = now;
        Some(held.thing.clone())
    }

    /// The client has had what it came for; it may come again as long as there is room.
    pub(super) fn done(&self, name: &[u8]) {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        let name = std::str::from_utf8(name);
        if let Some(held) = name.ok().and_then(|name| things.get_mut(name)) {
            held.is_done = true;
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        let things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        things.len()
    }

    /// Forgets a thing; whether it was there.
    pub(super) fn remove(&self, name: &[u8]) -> bool {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        std::str::from_utf8(name).is_ok_and(|name| things.remove(name).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let held = Held::new(100, IDLE);
        let now = Instant::now();
        let name = held.put(7, now).unwrap();
        let later = now + IDLE / 2;
        assert_eq!(held.get(name.as_bytes(), later), Some(7));
        assert_eq!(held.get(name.as_bytes(), later + IDLE / 2), Some(7));
        assert_eq!(held.get(name.as_bytes(), later + IDLE * 2), None);
        assert_eq!(held.get(b"another", now), None);
        assert_eq!(held.get(&[0xff], now), None);
    }

    #[test]
    fn there_is_an_end_to_what_is_held() {
        let held = Held::new(100, IDLE);
        let now = Instant::now();
        for number in 0..100 {
            assert!(held.put(number, now).is_some());
        }
        assert_eq!(held.put(0, now), None);
        assert!(held.put(0, now + IDLE).is_some());
        let name = held.put(1, now + IDLE).unwrap();
        assert!(held.remove(name.as_bytes()));
        assert!(!held.remove(name.as_bytes()));
    }

    #[test]
    fn what_was_fetched_makes_room() {
        let held = Held::new(100, IDLE);
        let now = Instant::now();
        let waits = held.put(0, now).unwrap();
        let mut last = String::new();
        for number in 1..10_000 {
            let later = now + Duration::from_micros(number);
            let name = held.put(number, later).unwrap();
            assert_eq!(held.get(name.as_bytes(), later), Some(number));
            held.done(name.as_bytes());
            last = name;
        }
        assert_eq!(held.get(waits.as_bytes(), now), Some(0));
        assert_eq!(held.get(last.as_bytes(), now), Some(9_999));
    }
}
