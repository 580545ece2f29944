//! Taking out what has run out, bucket by bucket.

use super::chain::{SLOT_OVERFLOW, further, runs_over};
use super::insert::release_lock;
use super::template::{held, linger};
use super::{base, expired, hit_at, remove};
use crate::addr::Proto;
use crate::conn::{Entry, Life, Ways, bound, ctl, tag};
use crate::dest::{Dest, status};
use crate::ip::Ip;
use crate::tables::Tables;
use core::ops::ControlFlow;

/// Sweeps one bucket and its further ones: takes out what has expired, keeps templates that are needed. Returns entries
/// left.
#[inline(always)]
pub fn sweep<F: Ip, T: Tables>(t: &T, n: u32, now: u32) -> u32 {
    sweep_for::<F, T, EXPIRED>(t, n, now)
}

/// Why entries are taken out: their time is up.
pub const EXPIRED: u32 = 0;
/// Their dest is deleted.
pub const GONE: u32 = 1;
/// They are datagrams of a dest found dead.
pub const DEAD: u32 = 2;

/// [`sweep`], for what is due because of `WHY`.
#[inline(always)]
fn sweep_for<F: Ip, T: Tables, const WHY: u32>(t: &T, n: u32, now: u32) -> u32 {
    let Some(bucket) = t.bucket::<F>(n) else { return 0 };
    let mut left = sweep_ways::<F, T, WHY>(t, bucket, base::<F>(n), now);
    if runs_over::<F>(bucket)
        && let Some(second) = t.overflow::<F>(further(n, 1))
    {
        let mut more = sweep_further::<F, T, WHY>(t, second, further(n, 1), now);
        if runs_over::<F>(second)
            && let Some(third) = t.overflow::<F>(further(n, 2))
        {
            let most = sweep_further::<F, T, WHY>(t, third, further(n, 2), now);
            if most == 0 {
                drop_further::<F, T>(t, bucket, second, third, further(n, 2));
            }
            more += most;
        }
        if more == 0 {
            drop_further::<F, T>(t, bucket, bucket, second, further(n, 1));
        }
        left += more;
    }
    left
}

#[inline(always)]
fn sweep_further<F: Ip, T: Tables, const WHY: u32>(t: &T, bucket: &F::Bucket, n: u32, now: u32) -> u32 {
    sweep_ways::<F, T, WHY>(t, bucket, base::<F>(n) | SLOT_OVERFLOW, now)
}

#[inline(always)]
fn sweep_ways<F: Ip, T: Tables, const WHY: u32>(t: &T, bucket: &F::Bucket, base: u32, now: u32) -> u32 {
    let mut left = 0;
    let mut way = 0;
    while way < F::Entry::WAYS {
        let entry = bucket.way(way);
        let ctl_word = entry.life().ctl.load_acquire();
        if ctl::is_live(ctl_word) {
            left += sweep_entry::<F, T, WHY>(t, entry, ctl_word, base + way, now);
        } else if ctl_word & ctl::STATUS == ctl::BUSY {
            left += 1;
        }
        way += 1;
    }
    left
}

/// 1 if the entry stays.
#[inline(always)]
fn sweep_entry<F: Ip, T: Tables, const WHY: u32>(
    t: &T,
    entry: &F::Entry,
    ctl_word: u32,
    slot: u32,
    now: u32,
) -> u32 {
    if is_due::<T, WHY>(t, entry.tag().load(), ctl_word, entry.life(), now) {
        t.retire::<F>(slot, WHY)
    } else {
        1
    }
}

#[inline(always)]
fn is_due<T: Tables, const WHY: u32>(t: &T, tag_word: u32, ctl_word: u32, life: &Life, now: u32) -> bool {
    match WHY {
        GONE => belongs_to_none(t, life),
        DEAD => tag_word & (tag::PROTO | tag::TEMPLATE) == Proto::UDP.0 as u32 && belongs_to_dead(t, life),
        _ => expired(t.settings(), tag_word, ctl_word, life.last.load(), now),
    }
}

/// Takes out an entry that is due because of `why`, if it still is. 1 if it stays.
#[inline(always)]
pub fn retire<F: Ip, T: Tables>(t: &T, slot: u32, why: u32) -> u32 {
    let Some(hit) = hit_at::<F, T>(t, slot) else { return 0 };
    let (tag_word, life, now) = (hit.entry.tag().load(), hit.life(), t.now());
    let due = match why {
        GONE => is_due::<T, GONE>(t, tag_word, hit.ctl, life, now),
        DEAD => is_due::<T, DEAD>(t, tag_word, hit.ctl, life, now),
        _ => is_due::<T, EXPIRED>(t, tag_word, hit.ctl, life, now),
    };
    if !due {
        return 1;
    }
    if held(tag_word, life) {
        if why == EXPIRED {
            linger(t, hit.entry.tag(), hit.ctl, life, now);
        }
        return 1;
    }
    if remove::<F, T>(t, &hit, now) { 0 } else { 1 }
}

/// Gives an empty further bucket back, number `n`, under the `first` one's lock so that nobody is putting something in.
#[inline(always)]
fn drop_further<F: Ip, T: Tables>(t: &T, first: &F::Bucket, before: &F::Bucket, last: &F::Bucket, n: u32) {
    let lock = first.way(0).tag();
    let word = lock.load();
    if word & tag::LOCK != 0 || !lock.compare_exchange(word, word | tag::LOCK) {
        return;
    }
    let mut way = 0;
    let mut used = last.way(0).tag().load() & tag::OVERFLOW;
    while way < F::Entry::WAYS {
        used |= last.way(way).life().ctl.load_acquire() & ctl::STATUS;
        way += 1;
    }
    if used == 0 {
        let flag = before.way(0).tag();
        flag.store(flag.load() & !tag::OVERFLOW);
        t.overflow_drop::<F>(n);
        if let Some(lent) = t.overflow_used::<F>() {
            lent.fetch_sub(1);
        }
    }
    release_lock(lock);
}

/// Has its dest been deleted, and do its connections wait for nothing more?
#[inline(always)]
fn belongs_to_none<T: Tables>(t: &T, life: &Life) -> bool {
    dest_of(t, life).is_some_and(Dest::forsaken)
}

/// Has its dest been found dead?
#[inline(always)]
fn belongs_to_dead<T: Tables>(t: &T, life: &Life) -> bool {
    dest_of(t, life).is_some_and(|dest| dest.status.load() & status::DEAD != 0)
}

#[inline(always)]
fn dest_of<'a, T: Tables>(t: &'a T, life: &Life) -> Option<&'a Dest> {
    let word = life.dest.load();
    if word & bound::NO_DEST == 0 { t.dest(word & bound::DEST) } else { None }
}

/// Takes out what is due because of `WHY`, and with [`GONE`] templates nothing depends on, in buckets `from`, `from + 1`,
/// … `count` of them, as far as there are so many.
#[inline(always)]
pub fn expire<F: Ip, T: Tables, const WHY: u32>(t: &T, from: u32, count: u32, now: u32) {
    let mut acc = (from, now);
    t.repeat(count, &mut acc, |t, (from, now), i| {
        let n = from.wrapping_add(i);
        if n > t.bucket_mask::<F>() {
            return ControlFlow::Break(());
        }
        sweep_for::<F, T, WHY>(t, n, *now);
        ControlFlow::Continue(())
    });
}

/// Sweeps buckets `from`, `from + 1`, … `count` of them, wrapping. In some of them, as likely as `odds`
/// ([`crate::defence::odds`]) says, entries in time are dropped too. Returns entries left.
#[inline(always)]
pub fn sweep_range<F: Ip, T: Tables>(t: &T, from: u32, count: u32, now: u32, odds: u32) -> u32 {
    struct Sweep {
        from: u32,
        now: u32,
        odds: u32,
        left: u32,
    }
    let mut acc = Sweep { from, now, odds, left: 0 };
    t.repeat(count, &mut acc, |t, acc, i| {
        let n = acc.from.wrapping_add(i) & t.bucket_mask::<F>();
        if acc.odds != 0 && t.random() < acc.odds {
            t.thin_out::<F>(n);
        }
        acc.left = acc.left.wrapping_add(sweep::<F, T>(t, n, acc.now));
        ControlFlow::Continue(())
    });
    acc.left
}
