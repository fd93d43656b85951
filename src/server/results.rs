//! What the server holds between two calls of a client: begun queries until they are fetched, prepared statements until
//! they are closed. Each has a name that cannot be guessed, and is forgotten when nobody asks for long.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After so long without a call the client is taken to be gone.
const FORGOTTEN: Duration = Duration::from_secs(3_600);
/// Of one kind at the same time.
const MOST: usize = 10_000;

/// Things of one kind by name.
pub(super) struct Held<T> {
    things: Mutex<HashMap<String, (Instant, T)>>,
}

impl<T: Clone> Held<T> {
    pub(super) fn new() -> Self {
        Self {
            things: Mutex::default(),
        }
    }

    /// Keeps a thing; gives its name, or nothing if there are too many.
    pub(super) fn put(&self, thing: T, now: Instant) -> Option<String> {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        if things.len() >= MOST {
            things.retain(|_, (used, _)| now.duration_since(*used) < FORGOTTEN);
        }
        if things.len() >= MOST {
            return None;
        }
        let name = uuid::Uuid::new_v4().simple().to_string();
        things.insert(name.clone(), (now, thing));
        Some(name)
    }

    /// The thing of a name.
    pub(super) fn get(&self, name: &[u8], now: Instant) -> Option<T> {
        let name = std::str::from_utf8(name).ok()?;
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        let (used, thing) = things.get_mut(name)?;
        if now.duration_since(*used) >= FORGOTTEN {
            things.remove(name);
            return None;
        }
        *used = now;
        Some(thing.clone())
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

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let held = Held::new();
        let now = Instant::now();
        let name = held.put(7, now).unwrap();
        let later = now + FORGOTTEN / 2;
        assert_eq!(held.get(name.as_bytes(), later), Some(7));
        assert_eq!(held.get(name.as_bytes(), later + FORGOTTEN / 2), Some(7));
        assert_eq!(held.get(name.as_bytes(), later + FORGOTTEN * 2), None);
        assert_eq!(held.get(b"another", now), None);
        assert_eq!(held.get(&[0xff], now), None);
    }

    #[test]
    fn there_is_an_end_to_what_is_held() {
        let held = Held::new();
        let now = Instant::now();
        for number in 0..MOST {
            assert!(held.put(number, now).is_some());
        }
        assert_eq!(held.put(0, now), None);
        assert!(held.put(0, now + FORGOTTEN).is_some());
        let name = held.put(1, now + FORGOTTEN).unwrap();
        assert!(held.remove(name.as_bytes()));
        assert!(!held.remove(name.as_bytes()));
    }
}
