//! What the control side does for schedulers when a service's dests change: their tables, cursors and figures.

use super::{Scheduler, dh, mh, rr, sh, tree, wrr};
use crate::addr::{Addr, Port};

/// A dest of a service's list, as tables are built from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildDest {
    /// The dest's number.
    pub dest: u32,
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// Its weight.
    pub weight: u32,
    /// The weight it was added with, or the last one since that was not 0 (for mh).
    pub last_weight: u32,
}

impl BuildDest {
    /// As tables name it.
    pub(super) const fn word(&self) -> u32 {
        self.dest + 1
    }
}

/// What a scheduler goes on from after a change: [`crate::service::SchedState::cursor`] and the figures of wrr in
/// [`crate::service::Service`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The cursor.
    pub cursor: u64,
    /// Greatest common divisor of the positive weights; at least 1.
    pub gcd: u32,
    /// Highest weight less (`gcd` - 1).
    pub max_weight: u32,
}

/// More dests than an mh table has slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyDests;

/// Words of the scheduler's table for so many dests; 0 if it has none.
pub const fn table_len(scheduler: Scheduler, dests: usize) -> usize {
    match scheduler {
        Scheduler::Dh => dh::SLOTS,
        Scheduler::Sh => sh::SLOTS,
        Scheduler::Mh => mh::SLOTS,
        _ => tree::len(scheduler, dests),
    }
}

/// Fills `table`, of [`table_len`] words, from the dest list (newest first). Word = dest number plus 1, 0 = empty; trees
/// have words of their own, see [`tree`].
///
/// To be called after every add, delete and edit. IPVS does not rebuild dh on an edit: there it changes nothing.
/// On [`TooManyDests`] the table is untouched. IPVS then refuses to create the service or to change its scheduler, but
/// not to add the dest that is one too many: it keeps the old table.
pub fn build(scheduler: Scheduler, dests: &[BuildDest], table: &mut [u32]) -> Result<(), TooManyDests> {
    match scheduler {
        Scheduler::Dh => dh::build(dests, table),
        Scheduler::Sh => sh::build(dests, table),
        Scheduler::Mh => return mh::build(dests, table),
        _ if !table.is_empty() => tree::build(scheduler, dests, table),
        _ => {}
    }
    Ok(())
}

/// The scheduler's memory after one dest was added, deleted or edited. `old` and `new`: the lists before and after,
/// newest first; `cursor`: the one before.
///
/// Call it for every single change, also when several are written in one go: wrr's level depends on each list it has
/// seen on the way. A new service, or one that gets another scheduler, starts with no `old` and cursor 0. An edit of
/// the service that keeps the scheduler keeps its memory as it is.
pub fn on_change(scheduler: Scheduler, old: &[u32], new: &[BuildDest], cursor: u64) -> Memory {
    match scheduler {
        Scheduler::Rr => Memory { cursor: rr::carry(old, new, cursor), gcd: 1, max_weight: 0 },
        Scheduler::Wrr => wrr::remember(new, cursor),
        _ => Memory { cursor: 0, gcd: 1, max_weight: 0 },
    }
}

/// Greatest common divisor; that of 0 and a number is the number.
pub(super) const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
