//! What lblc and lblcr remember, over ordinary memory: a fixed number of entries, the least recently used of which makes
//! room when all are taken.

use std::boxed::Box;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::sched::{CacheKey, Cached};

/// The entries of all services' caches.
#[derive(Debug)]
pub struct Caches {
    pool: Box<[Cached]>,
    by_key: Mutex<HashMap<CacheKey, usize>>,
}

impl Caches {
    /// Room for so many addresses.
    pub fn new(count: u32) -> Self {
        Self { pool: (0..count).map(|_| Cached::new()).collect(), by_key: Mutex::default() }
    }

    /// An address's entry.
    pub fn get(&self, key: &CacheKey) -> Option<&Cached> {
        let by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        self.pool.get(*by_key.get(key)?)
    }

    /// An empty entry for an address, in the place of the one it may have.
    pub fn make(&self, key: &CacheKey) -> Option<&Cached> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match by_key.get(key) {
            Some(at) => *at,
            None if by_key.len() < self.pool.len() => by_key.len(),
            None => {
                let used = |at: usize| self.pool.get(at).map_or(0, |entry| entry.used.load());
                let (oldest, at) =
                    by_key.iter().map(|(key, at)| (*key, *at)).min_by_key(|(_, at)| used(*at))?;
                by_key.remove(&oldest);
                at
            }
        };
        by_key.insert(*key, at);
        let entry = self.pool.get(at)?;
        entry.set.iter().for_each(|word| word.store(0));
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::Caches;
    use crate::addr::Addr;
    use crate::sched::CacheKey;

    #[test]
    fn the_least_recently_used_makes_room() {
        let caches = Caches::new(2);
        let key = |host| CacheKey { cache: 1, addr: Addr::v4([10, 0, 0, host]) };
        for (host, seconds) in [(1, 5), (2, 4), (3, 6)] {
            caches.make(&key(host)).unwrap().begin(u32::from(host), seconds);
        }
        assert!(caches.get(&key(2)).is_none());
        assert_eq!(caches.get(&key(1)).unwrap().set[0].load(), 1);
        assert_eq!(caches.get(&key(3)).unwrap().set[0].load(), 3);
        assert_eq!(caches.make(&key(3)).unwrap().set[0].load(), 0, "made anew, it is empty");
    }
}
