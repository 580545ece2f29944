//! A dest's counters, connection counts and overload flag.
//!
//! Whoever changes a connection's control word by compare-and-exchange, and only the winner, calls one of these: so
//! the counts equal the entries at any quiet moment. After that, and where its stack has room for it, it calls
//! [`changed`], or after a connection has begun [`began`].

use crate::dest::Dest;
use crate::tables::{Direction, Tables};

/// Counts a packet of `bytes` for dest `number`, unless that has been deleted: IPVS then counts nothing.
#[inline(always)]
pub fn count<T: Tables>(t: &T, number: u32, direction: Direction, bytes: u32) {
    if t.dest(number).is_some_and(Dest::available) {
        t.count(number, direction, bytes);
    }
}

/// A new connection of the dest. IPVS (recent): the overload flag is set when the count becomes exactly `upper`.
#[inline(always)]
pub fn bind(dest: &Dest) {
    let count = dest.total.fetch_add(1).wrapping_add(1);
    if count == dest.upper.load() {
        dest.overloaded.swap(1);
    }
}

/// A connection gone. The flag is cleared when the count falls from the lower threshold to one less.
#[inline(always)]
pub fn unbind(dest: &Dest, was_active: bool, now: u32) {
    if was_active {
        dest.active.fetch_sub(1);
    }
    let before = dest.total.fetch_sub(1);
    if before == lower(dest) {
        dest.overloaded.swap(0);
    }
    if before == 1 {
        dest.idle_since.store(now);
    }
}

/// The lower threshold in force: the given one, or three quarters of the upper, rounded up.
#[inline(always)]
pub fn lower(dest: &Dest) -> u32 {
    match dest.lower.load() {
        0 => {
            let upper = dest.upper.load() as u64;
            ((3 * upper + 3) >> 2) as u32
        }
        given => given,
    }
}

/// A connection became active, or stopped being so.
#[inline(always)]
pub fn set_active(dest: &Dest, active: bool) {
    // A barrier: who reads the count after it has seen the dest in its tree's queue sees it changed.
    dest.active.fetch_add(if active { 1 } else { u32::MAX });
}

/// The dest's counts, or its flag, are no longer what its service's tree has of them, if it has a tree.
#[inline(always)]
pub fn changed<T: Tables>(t: &T, dest: &Dest) {
    let record = dest.record.load();
    if record != 0 {
        t.tree_touch(record);
    }
}

/// As [`changed`], for the counts a new connection has moved.
#[inline(always)]
pub fn began<T: Tables>(t: &T, dest: &Dest) {
    let record = dest.record.load();
    if record != 0 {
        t.tree_play(record);
    }
}
