//! Handles of the server between two calls of a client: started queries until they are fetched, prepared statements
//! until they are closed. Each has a name that cannot be guessed, and is forgotten when its client does not ask for it
//! for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::server::auth::access::share;

/// Bytes of all things of one kind.
const MOST_BYTES: usize = 1 << 30;

/// Things of one kind by name.
pub(crate) struct HandleRegistry<T> {
    most: usize,
    idle: Duration,
    all: Mutex<RegistryState<T>>,
}

struct RegistryState<T> {
    things: HashMap<String, RegistryEntry<T>>,
    /// How many each owner has, and of how many bytes.
    of_owners: HashMap<Arc<str>, (usize, usize)>,
    bytes: usize,
}

struct RegistryEntry<T> {
    owner: Arc<str>,
    bytes: usize,
    used: Instant,
    /// The client has fetched its result: the entry may be evicted to make room.
    is_done: bool,
    thing: T,
}

impl<T: Clone> HandleRegistry<T> {
    /// A registry of at most `most` entries; an entry that no call asks for is forgotten after `idle`.
    pub(crate) fn new(most: usize, idle: Duration) -> Self {
        let all = RegistryState {
            things: HashMap::new(),
            of_owners: HashMap::new(),
            bytes: 0,
        };
        Self {
            most,
            idle,
            all: Mutex::new(all),
        }
    }

    /// Keeps a thing of about so many bytes; gives its name, or nothing if there are too many, of all or of its owner.
    #[expect(
        clippy::disallowed_methods,
        reason = "the name of a result cannot be guessed"
    )]
    pub(crate) fn put(
        &self,
        thing: T,
        owner: &Arc<str>,
        bytes: usize,
        now: Instant,
    ) -> Option<String> {
        // An entry that is larger than the limit of all is kept if there is no other large one.
        let bytes = bytes.min(share(owner, MOST_BYTES) / 2);
        let name = uuid::Uuid::new_v4().simple().to_string();
        // Dropped after the lock is free: thousands of entries may go at once.
        let mut gone = Vec::new();
        let mut all = self.all();
        if !self.has_room(&all, owner, bytes) {
            gone.extend(all.retain(|held| now.duration_since(held.used) < self.idle));
        }
        if !self.has_room(&all, owner, bytes) {
            gone.extend(all.forget_done(|held| held.owner == *owner));
        }
        // Results that other users have fetched are evicted only if the whole registry is full: they free nothing of
        // this user's share.
        let is_full = all.things.len() >= self.most || all.bytes.saturating_add(bytes) > MOST_BYTES;
        if is_full {
            gone.extend(all.forget_done(|_| true));
        }
        if !self.has_room(&all, owner, bytes) {
            return None;
        }
        let held = RegistryEntry {
            owner: Arc::clone(owner),
            bytes,
            used: now,
            is_done: false,
            thing,
        };
        all.insert(name.clone(), held);
        Some(name)
    }

    fn has_room(&self, all: &RegistryState<T>, owner: &Arc<str>, bytes: usize) -> bool {
        let (own, own_bytes) = all.of_owners.get(owner).copied().unwrap_or_default();
        all.things.len() < self.most
            && own < share(owner, self.most)
            && all.bytes.saturating_add(bytes) <= MOST_BYTES
            && own_bytes.saturating_add(bytes) <= share(owner, MOST_BYTES)
    }

    /// The thing of a name.
    pub(crate) fn get(&self, name: &[u8], now: Instant) -> Option<T> {
        let name = std::str::from_utf8(name).ok()?;
        let mut all = self.all();
        let held = all.things.get_mut(name)?;
        if now.duration_since(held.used) >= self.idle {
            all.remove(name);
            return None;
        }
        held.used = now;
        Some(held.thing.clone())
    }

    /// Marks an entry as fetched. The client may fetch it again as long as there is room.
    pub(crate) fn done(&self, name: &[u8]) {
        let mut all = self.all();
        let name = std::str::from_utf8(name);
        if let Some(held) = name.ok().and_then(|name| all.things.get_mut(name)) {
            held.is_done = true;
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all().things.len()
    }

    /// Forgets a thing; whether it was there.
    pub(crate) fn remove(&self, name: &[u8]) -> bool {
        let mut all = self.all();
        std::str::from_utf8(name).is_ok_and(|name| all.remove(name))
    }

    fn all(&self) -> MutexGuard<'_, RegistryState<T>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> RegistryState<T> {
    fn insert(&mut self, name: String, held: RegistryEntry<T>) {
        let of_owner = self.of_owners.entry(Arc::clone(&held.owner)).or_default();
        *of_owner = (of_owner.0 + 1, of_owner.1 + held.bytes);
        self.bytes += held.bytes;
        self.things.insert(name, held);
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(held) = self.things.remove(name) else {
            return false;
        };
        self.forget(&held.owner, held.bytes);
        true
    }

    /// Counts a thing no more.
    fn forget(&mut self, owner: &Arc<str>, bytes: usize) {
        self.bytes -= bytes;
        if let Some(of_owner) = self.of_owners.get_mut(owner) {
            *of_owner = (of_owner.0 - 1, of_owner.1 - bytes);
            if of_owner.0 == 0 {
                self.of_owners.remove(owner);
            }
        }
    }

    /// Gives the entries that are not kept.
    fn retain(&mut self, is_kept: impl Fn(&RegistryEntry<T>) -> bool) -> Vec<RegistryEntry<T>> {
        let taken = self.things.extract_if(|_, held| !is_kept(held));
        let gone: Vec<RegistryEntry<T>> = taken.map(|(_, held)| held).collect();
        for held in &gone {
            self.forget(&held.owner, held.bytes);
        }
        gone
    }

    /// Evicts the older half of the fetched entries at once, so that a full registry does not search for the oldest
    /// entry at every call; gives them.
    fn forget_done(&mut self, of: impl Fn(&RegistryEntry<T>) -> bool) -> Vec<RegistryEntry<T>> {
        let is_done = |held: &RegistryEntry<T>| held.is_done && of(held);
        let mut done: Vec<Instant> = self
            .things
            .values()
            .filter(|held| is_done(held))
            .map(|held| held.used)
            .collect();
        if done.is_empty() {
            return Vec::new();
        }
        let middle = done.len() / 2;
        let (_, newest, _) = done.select_nth_unstable(middle);
        let newest = *newest;
        self.retain(|held| !is_done(held) || held.used > newest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn anyone() -> Arc<str> {
        "anyone".into()
    }

    #[test]
    fn unused_handles_expire() {
        let held = HandleRegistry::new(100, IDLE);
        let now = Instant::now();
        let name = held.put(7, &anyone(), 1, now).unwrap();
        let later = now + IDLE / 2;
        assert_eq!(held.get(name.as_bytes(), later), Some(7));
        assert_eq!(held.get(name.as_bytes(), later + IDLE / 2), Some(7));
        assert_eq!(held.get(name.as_bytes(), later + IDLE * 2), None);
        assert_eq!(held.get(b"another", now), None);
        assert_eq!(held.get(&[0xff], now), None);
    }

    #[test]
    fn the_number_of_handles_is_limited() {
        let held = HandleRegistry::new(100, IDLE);
        let now = Instant::now();
        for number in 0..100 {
            assert!(held.put(number, &anyone(), 1, now).is_some());
        }
        assert_eq!(held.put(0, &anyone(), 1, now), None);
        assert!(held.put(0, &anyone(), 1, now + IDLE).is_some());
        let name = held.put(1, &anyone(), 1, now + IDLE).unwrap();
        assert!(held.remove(name.as_bytes()));
        assert!(!held.remove(name.as_bytes()));
    }

    #[test]
    fn fetched_results_are_dropped_for_new_ones() {
        let held = HandleRegistry::new(100, IDLE);
        let now = Instant::now();
        let waits = held.put(0, &anyone(), 1, now).unwrap();
        let mut last = String::new();
        for number in 1..10_000 {
            let later = now + Duration::from_micros(number);
            let name = held.put(number, &anyone(), 1, later).unwrap();
            assert_eq!(held.get(name.as_bytes(), later), Some(number));
            held.done(name.as_bytes());
            last = name;
        }
        assert_eq!(held.get(waits.as_bytes(), now), Some(0));
        assert_eq!(held.get(last.as_bytes(), now), Some(9_999));
    }

    /// Notes whether the registry that had it is locked when it is dropped.
    struct Watched {
        registry: Weak<HandleRegistry<Arc<Watched>>>,
        was_locked: Arc<AtomicBool>,
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            if let Some(registry) = self.registry.upgrade() {
                let is_locked = registry.all.try_lock().is_err();
                self.was_locked.fetch_or(is_locked, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn forgotten_things_are_dropped_when_the_lock_is_free() {
        let held = Arc::new(HandleRegistry::new(2, IDLE));
        let was_locked = Arc::new(AtomicBool::new(false));
        let watched = || {
            Arc::new(Watched {
                registry: Arc::downgrade(&held),
                was_locked: Arc::clone(&was_locked),
            })
        };
        let now = Instant::now();
        let put = |at: Instant| held.put(watched(), &anyone(), 1, at).unwrap();
        put(now);
        let fetched = put(now);
        held.done(fetched.as_bytes());
        put(now);
        assert!(held.get(fetched.as_bytes(), now).is_none());
        put(now + IDLE);
        assert_eq!(held.count(), 1);
        assert!(!was_locked.load(Ordering::Relaxed));
    }

    #[test]
    fn one_owner_cannot_take_all_handles() {
        let held = HandleRegistry::new(100, IDLE);
        let now = Instant::now();
        let owner = |name: &str| -> Arc<str> { name.into() };
        let kept = (0..100).filter(|number| held.put(*number, &owner("ann"), 1, now).is_some());
        assert_eq!(kept.count(), 75);
        let kept = (0..100).filter(|number| held.put(*number, &owner("bob"), 1, now).is_some());
        assert_eq!(kept.count(), 25);
        assert_eq!(held.put(0, &owner("ann"), 1, now), None);
        assert!(held.put(0, &owner("ann"), 1, now + IDLE).is_some());
        assert_eq!(held.count(), 1);
    }

    #[test]
    fn handles_are_limited_by_bytes_too() {
        let held = HandleRegistry::new(100, IDLE);
        let now = Instant::now();
        let large = MOST_BYTES / 4;
        let names: Vec<_> = (0..4)
            .map(|number| held.put(number, &anyone(), large, now).unwrap())
            .collect();
        assert_eq!(held.put(4, &anyone(), large, now), None);
        assert_eq!(held.put(4, &anyone(), 1, now), None);
        held.done(names[0].as_bytes());
        assert!(held.put(4, &anyone(), large, now).is_some());
        assert_eq!(held.get(names[0].as_bytes(), now), None);
        for name in &names[1..] {
            assert!(held.remove(name.as_bytes()));
        }
        // Larger than all may be: it is kept, and others too.
        assert!(held.put(5, &anyone(), usize::MAX, now).is_some());
        assert!(held.put(6, &anyone(), 1, now).is_some());
    }
}
