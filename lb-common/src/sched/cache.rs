//! What lblc and lblcr remember of a destination address: where its traffic went before.
//!
//! All services' caches are one map. Each has a number of its own, drawn anew with the service and with every change of
//! its scheduler ([`crate::service::Service::cache`]): what an old one holds is never found again, and goes when the map
//! needs the room.

use core::ops::ControlFlow;

use super::{Candidate, View};
use crate::addr::Addr;
use crate::cell::Cell32;

/// Members of a set. IPVS has no limit; here an insertion beyond it takes the newest member's place. A set grows by
/// one only when all its members have more connections than their weight while some other dest is half idle.
pub const SET: usize = 16;

/// Seconds between the checks of a cache that drop idle entries: IPVS's timer runs once a minute, and every thirtieth run
/// is one.
pub const CHECK: u32 = 1800;

/// The key of the `caches` map. 24 bytes, no padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// [`crate::service::Service::cache`].
    pub cache: u64,
    /// The destination address.
    pub addr: Addr,
}

/// One address's entry in a service's cache. 72 bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Cached {
    /// When it was last used, in [`View::seconds`]: idle entries are dropped.
    pub used: Cell32,
    /// When the set last changed.
    pub changed: Cell32,
    /// The dests plus 1, oldest first, then zeros. lblc has one only.
    pub set: [Cell32; SET],
}

const _: () = assert!(core::mem::size_of::<CacheKey>() == 24 && core::mem::size_of::<Cached>() == 72);

impl Cached {
    /// No dest yet.
    pub const fn new() -> Self {
        Self { used: Cell32::new(0), changed: Cell32::new(0), set: [const { Cell32::new(0) }; SET] }
    }

    /// An empty entry becomes one of this dest (its number plus 1).
    #[inline(always)]
    pub fn begin(&self, word: u32, seconds: u32) {
        self.used.store(seconds);
        self.changed.store(seconds);
        self.set[0].store(word);
    }

    /// Has a check of the cache (made at `born`) found it idle for `expiration` seconds? IPVS drops it there and then;
    /// here whoever looks for it does, so nobody has to walk through the map.
    #[inline(always)]
    pub fn dropped(&self, born: u32, now: u32, expiration: u32) -> bool {
        let age = now.wrapping_sub(born);
        if age < CHECK {
            return false;
        }
        let last_check = now.wrapping_sub(age % CHECK);
        last_check.wrapping_sub(self.used.load()) as i32 >= expiration as i32
    }

    /// Place `at` of the set, counted from its last, so that a walk meets the newest first: IPVS inserts at the head of
    /// a list, and ties stay there.
    #[inline(always)]
    pub(super) fn newest(&self, at: u32) -> &Cell32 {
        self.oldest((SET as u32 - 1).wrapping_sub(at))
    }

    /// Place `at` of the set, counted from its first.
    #[inline(always)]
    pub(super) fn oldest(&self, at: u32) -> &Cell32 {
        &self.set[at as usize % SET]
    }
}

/// A cached dest that should not get more: above its weight while some dest of the service is below half of its own.
#[inline(always)]
pub fn loaded<V: View>(view: &V, c: &Candidate) -> bool {
    if c.active <= c.weight {
        return false;
    }
    let mut idle = 0u32;
    view.walk(view.service().dests, &mut idle, |view, idle, at| match view.candidate(at) {
        Some(c) if (c.active as u64) * 2 < c.weight as u64 => {
            *idle = 1;
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    idle != 0
}

#[cfg(test)]
mod tests {
    use super::{CHECK, Cached};

    #[test]
    fn idle_entries_go_at_the_half_hour() {
        let entry = Cached::new();
        entry.begin(1, 5000);
        let dropped = |now, expiration| entry.dropped(5000 - 2 * CHECK - 100, now, expiration);
        // Checks are at 100 seconds before it, 1700 after it, 3500, …
        assert!(!dropped(5000 + 1699, 0));
        assert!(dropped(5000 + 1700, 0));
        assert!(dropped(5000 + 1700, 1700));
        assert!(!dropped(5000 + 1700, 1701));
        assert!(!dropped(5000 + 3499, 1701));
        assert!(dropped(5000 + 3500, 1701));
        // A negative one is none at all.
        assert!(dropped(5000 + 1700, -3_i32 as u32));
        // The first check is half an hour after the cache was made.
        assert!(!entry.dropped(5000, 5000 + CHECK - 1, 0));
        assert!(entry.dropped(5000, 5000 + CHECK, 0));
    }
}
