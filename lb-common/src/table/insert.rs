//! Making an entry: under the bucket's lock, in the place of the best victim.

use super::chain::{FURTHER, SLOT_OVERFLOW, further, runs_over};
use super::search::{Wanted, in_time};
use super::template::{DEPENDANTS, depend, held};
use super::{Place, base, expired, run_out};
use crate::account;
use crate::addr::Proto;
use crate::cell::{Cell32, unknown_zero};
use crate::conn::{Entry, Life, Ways, bound, ctl, half_open, packets, tag};
use crate::ip::Ip;
use crate::reason::Reason;
use crate::settings::Settings;
use crate::tables::{Control, Tables, control_key};

/// How often a bucket's lock is tried.
const LOCK_TRIES: u32 = 64;

/// What a new entry starts as.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Birth {
    /// [`bound`] word.
    pub dest: u32,
    /// Tag beyond the protocol: template bit, timeout.
    pub tag: u32,
    /// State, active and no-output bits.
    pub ctl: u32,
    /// First value of `last`.
    pub last: u32,
    /// First value of `packets`.
    pub packets: u32,
}

/// What [`insert`] is asked for.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Insertion<F: Ip> {
    /// The key, and when.
    pub wanted: Wanted<F>,
    /// What the entry starts as.
    pub birth: Birth,
    /// Where.
    pub place: Place,
    /// The template it is made through, if [`bound::CONTROLLED`] says so.
    pub control: Control,
}

/// The outcome of an insertion, in one word, because that is what a BPF function can return: a slot, with bit 32 set and
/// bit 33 if the entry was there already, or a reason.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted(pub u64);

impl Inserted {
    const SLOT: u64 = 1 << 32;
    const EXISTING: u64 = 1 << 33;
    const BURIED_SHIFT: u32 = 34;

    #[inline(always)]
    const fn existing(slot: u32) -> Self {
        Self(slot as u64 | Self::SLOT | Self::EXISTING)
    }
    #[inline(always)]
    const fn made(slot: u32) -> Self {
        Self(slot as u64 | Self::SLOT)
    }
    #[inline(always)]
    const fn refused(reason: Reason) -> Self {
        Self(reason as u64)
    }
    /// What became of [`claim`].
    #[inline(always)]
    const fn of_claim(claimed: u64) -> Self {
        if claimed & CLAIMED_BY_OTHERS != 0 {
            return Self::existing(claimed as u32);
        }
        Self(claimed & u32::MAX as u64 | Self::SLOT | (claimed >> 32) << Self::BURIED_SHIFT)
    }
    /// While it is on its way: number plus 1 of the dest that lost a connection to this one; 0 = none did.
    #[inline(always)]
    const fn buried(self) -> u32 {
        (self.0 >> Self::BURIED_SHIFT) as u32
    }
    /// Without that.
    #[inline(always)]
    const fn arrived(self) -> Self {
        Self(self.0 & ((1 << Self::BURIED_SHIFT) - 1))
    }
    /// Is there an entry now, and did this call make it?
    #[inline(always)]
    pub const fn is_new(self) -> bool {
        self.0 >> 32 == 1
    }
    /// The slot; without one, the number of the reason.
    #[inline(always)]
    pub const fn slot(self) -> Result<u32, u32> {
        if self.0 & Self::SLOT != 0 { Ok(self.0 as u32) } else { Err(self.0 as u32) }
    }
}

/// Makes the entry of a flow, unless it exists. The dest's counts include it afterwards. `HOPEFUL`: most likely a way is
/// free.
#[inline(always)]
pub fn insert<F: Ip, T: Tables, const HOPEFUL: bool>(t: &T, new: &Insertion<F>) -> Inserted {
    let Some(bucket) = t.bucket::<F>(new.place.bucket) else {
        return Inserted::refused(Reason::Internal);
    };
    let lock = bucket.way(0).tag();
    if !take_lock(lock) {
        return Inserted::refused(Reason::BucketBusy);
    }
    let result = insert_locked::<F, T, HOPEFUL>(t, bucket, new);
    release_lock(lock);
    // Not where the counts are changed: that has no stack left for a call.
    dest_changed(t, result.buried());
    let result = result.arrived();
    if result.is_new()
        && new.birth.dest & bound::NO_DEST == 0
        && let Some(dest) = t.dest(new.birth.dest & bound::DEST)
    {
        account::began(t, dest);
    }
    result
}

/// [`account::changed`] of the dest with this number plus 1; 0 = none.
#[inline(always)]
pub(super) fn dest_changed<T: Tables>(t: &T, word: u32) {
    if let Some(number) = word.checked_sub(1)
        && let Some(dest) = t.dest(number)
    {
        account::changed(t, dest);
    }
}

#[inline(always)]
fn take_lock(lock: &Cell32) -> bool {
    let mut tries = 0;
    while tries < LOCK_TRIES {
        let word = lock.load();
        if word & tag::LOCK == 0 && lock.compare_exchange(word, word | tag::LOCK) {
            return true;
        }
        tries += 1;
    }
    false
}

#[inline(always)]
pub(super) fn release_lock(lock: &Cell32) {
    // Only the holder writes the word while it is locked, but for template timeouts, which exchange it.
    let mut tries = 0;
    while tries < LOCK_TRIES {
        let word = lock.load();
        if lock.compare_exchange(word, word & !tag::LOCK) {
            return;
        }
        tries += 1;
    }
}

#[inline(always)]
fn insert_locked<F: Ip, T: Tables, const HOPEFUL: bool>(
    t: &T,
    bucket: &F::Bucket,
    new: &Insertion<F>,
) -> Inserted {
    let spilled = runs_over::<F>(bucket);
    if HOPEFUL
        && !spilled
        && let Some(slot) = take_free::<F, T>(t, bucket, new)
    {
        return Inserted::made(slot);
    }
    if spilled {
        // Has the flow an entry? Its last one, run out but not swept yet, goes first: a flow is never in the table twice.
        let claimed = claim_from(t, new, 0, RANK_SAME);
        if claimed < CROWDED {
            return Inserted::of_claim(claimed);
        }
    }
    // Who has only just begun is spared while there is room elsewhere.
    let grown = rank_of_age(t.settings().ticks(1));
    let claimed = t.claim(new, 0, grown);
    if claimed < CROWDED {
        return Inserted::of_claim(claimed);
    }
    if spilled || claimed == CROWDED && spill::<F, T>(t, bucket, new.place.bucket, 1, true) {
        let claimed = claim_from(t, new, 1, grown);
        if claimed < CROWDED {
            return Inserted::of_claim(claimed);
        }
    }
    let claimed = t.claim(new, 0, 1);
    if claimed < CROWDED {
        return Inserted::of_claim(claimed);
    }
    if !spill::<F, T>(t, bucket, new.place.bucket, 1, false) {
        return Inserted::refused(Reason::TableFull);
    }
    let claimed = claim_from(t, new, 1, 1);
    if claimed < CROWDED {
        return Inserted::of_claim(claimed);
    }
    let Some(second) = t.overflow::<F>(further(new.place.bucket, 1)) else {
        return Inserted::refused(Reason::Internal);
    };
    if !spill::<F, T>(t, second, new.place.bucket, 2, false) {
        return Inserted::refused(Reason::TableFull);
    }
    match t.claim(new, 2, 1) {
        claimed if claimed < CROWDED => Inserted::of_claim(claimed),
        _ => Inserted::refused(Reason::TableFull),
    }
}

/// [`claim`] in the place's buckets from the `nth` on, as many as there are.
#[inline(always)]
fn claim_from<F: Ip, T: Tables>(t: &T, new: &Insertion<F>, mut nth: u32, least: u32) -> u64 {
    let mut claimed = NO_SLOT;
    while nth <= FURTHER && claimed >= CROWDED {
        claimed = t.claim(new, nth, least);
        nth += 1;
    }
    claimed
}

/// Further buckets for a table of so many first ones. What a bucket of many ways rarely needs, one of few needs more often.
pub const fn most_further<F: Ip>(buckets: u32) -> u32 {
    const LEAST: u32 = 64;
    let most = buckets / F::Entry::WAYS;
    if most < LEAST { LEAST } else { most }
}

/// Gives `bucket` of the locked place `n` its `nth` further one, or sees that it has it. `spare`: only while there are
/// plenty; the last quarter is for buckets full of connections that do not give way.
#[inline(always)]
fn spill<F: Ip, T: Tables>(t: &T, bucket: &F::Bucket, n: u32, nth: u32, spare: bool) -> bool {
    if runs_over::<F>(bucket) {
        return true;
    }
    let flag = bucket.way(0).tag();
    let most = most_further::<F>(t.bucket_mask::<F>().wrapping_add(1));
    let Some(used) = t.overflow_used::<F>() else { return false };
    if spare && used.load() >= most - most / 4 || t.overflow_make::<F>(further(n, nth)).is_none() {
        return false;
    }
    used.add(1);
    flag.store(flag.load() | tag::OVERFLOW);
    true
}

/// The rank of the flow's own last entry.
const RANK_SAME: u32 = u32::MAX;

/// How good a victim an entry is: higher is better, 0 is none. Free beats expired beats the older half-open.
#[inline(always)]
fn victim_rank(settings: &Settings, tag_word: u32, life: &Life, ctl_word: u32, now: u32) -> u32 {
    if ctl_word & ctl::STATUS == ctl::FREE {
        return RANK_SAME - 1;
    }
    if !ctl::is_live(ctl_word) {
        return 0;
    }
    let last = life.last.load();
    if tag_word & tag::TEMPLATE != 0 {
        let free = life.packets.load() & DEPENDANTS == 0 && run_out(last, now);
        return if free { RANK_SAME - 2 } else { 0 };
    }
    if expired(settings, tag_word, ctl_word, last, now) {
        return if held(tag_word, life) { 0 } else { RANK_SAME - 2 };
    }
    let proto = Proto(tag_word as u8);
    let yields =
        half_open(proto, (ctl_word & ctl::STATE) as u8) || settings.is_sloppy(proto) && heard_once(life);
    if !yields {
        return 0;
    }
    let age = now.wrapping_sub(last) as i32;
    rank_of_age(if age < 0 { 0 } else { age as u32 })
}

/// The rank of a half-open entry. Ages of the living are below 2^31, so they rank below the expired.
#[inline(always)]
const fn rank_of_age(age: u32) -> u32 {
    age.wrapping_add(1)
}

/// Has its client sent one packet and no more? Where any packet may begin a connection, whatever state it has put it in,
/// this is what is left to tell those by that a flood has made.
#[inline(always)]
fn heard_once(life: &Life) -> bool {
    life.packets.load() == packets::NONE + 1
}

#[derive(Clone, Copy)]
struct Victim {
    rank: u32,
    way: u32,
    ctl: u32,
}

/// No entry could be had.
pub const NO_SLOT: u64 = u64::MAX;
/// The same, and half the bucket or more does not give way. Every claim that found or made an entry is below.
pub const CROWDED: u64 = u64::MAX - 1;
/// The flow has its entry already: with this bit, its slot.
const CLAIMED_BY_OTHERS: u64 = 1 << 63;

/// Takes the best victim of rank `least` or better in the place's bucket (`nth` 0), or in its `nth` further one if there is
/// that, and makes it the new entry. Returns its slot, with what [`bury`] returned in the upper half; or that of the entry
/// the flow has there, with [`CLAIMED_BY_OTHERS`]; or [`NO_SLOT`] or [`CROWDED`].
#[inline(always)]
pub fn claim<F: Ip, T: Tables>(t: &T, new: &Insertion<F>, nth: u32, least: u32) -> u64 {
    let first = new.place.bucket;
    let (found, base) = if nth == 0 {
        (t.bucket::<F>(first), base::<F>(first))
    } else {
        let n = further(first, nth);
        (t.overflow::<F>(n), base::<F>(n) | SLOT_OVERFLOW)
    };
    let Some(bucket) = found else { return NO_SLOT };
    let now = new.wanted.now;
    let mut best = Victim { rank: 0, way: 0, ctl: 0 };
    // Unknown, or the verifier would follow every count on its own.
    let mut firm = unknown_zero();
    let mut i = 0;
    while i < F::Entry::WAYS {
        let way = new.place.way::<F>(i);
        let entry = bucket.way(way);
        let ctl_word = entry.life().ctl.load_acquire();
        let same = ctl::is_live(ctl_word) && entry.matches(&new.wanted.flow, new.wanted.tag);
        let rank = if same {
            if in_time(t.settings(), entry.tag().load(), entry.life(), ctl_word, now) {
                return (base + way) as u64 | CLAIMED_BY_OTHERS;
            }
            RANK_SAME
        } else {
            victim_rank(t.settings(), entry.tag().load(), entry.life(), ctl_word, now)
        };
        if rank > best.rank {
            best = Victim { rank, way, ctl: ctl_word };
        }
        firm = firm.wrapping_add((rank == 0) as u32);
        // None is better than a free one.
        i = if rank == u32::MAX { F::Entry::WAYS } else { i + 1 };
    }
    if best.rank < least {
        return if firm >= F::Entry::WAYS / 2 { CROWDED } else { NO_SLOT };
    }
    let entry = bucket.way(best.way);
    let life = entry.life();
    let slot = base + best.way;
    // Lost only to a packet or the sweep changing this very entry at this moment: the client will try again.
    if !life.ctl.compare_exchange(best.ctl, ctl::reborn(best.ctl, ctl::BUSY)) {
        return NO_SLOT;
    }
    let buried = if ctl::is_live(best.ctl) {
        t.bury(entry.tag().load(), best.ctl, life.dest.load(), slot, now)
    } else {
        0
    };
    let dest = tied::<F, T>(t, slot, ctl::reborn(best.ctl, ctl::LIVE), new);
    publish::<F, T>(t, entry, ctl::reborn(best.ctl, ctl::LIVE), dest, new);
    slot as u64 | (buried as u64) << 32
}

/// What nearly every newcomer meets: its flow has no entry, and a way is free. `None`: [`claim`] has to see. A free entry's
/// control word changes under the lock only, and who reads it beside it finds no connection: it need not be busy first.
#[inline(always)]
fn take_free<F: Ip, T: Tables>(t: &T, bucket: &F::Bucket, new: &Insertion<F>) -> Option<u32> {
    if new.birth.dest & bound::CONTROLLED != 0 {
        return None;
    }
    let mut free = F::Entry::WAYS;
    let mut i = 0;
    while i < F::Entry::WAYS {
        let entry = bucket.way(new.place.way::<F>(i));
        let ctl_word = entry.life().ctl.load_acquire();
        if ctl_word & ctl::STATUS == ctl::FREE {
            if free == F::Entry::WAYS {
                free = i;
            }
        } else if entry.matches(&new.wanted.flow, new.wanted.tag) {
            return None;
        }
        i += 1;
    }
    if free == F::Entry::WAYS {
        return None;
    }
    let way = new.place.way::<F>(free);
    let entry = bucket.way(way);
    publish::<F, T>(t, entry, ctl::reborn(entry.life().ctl.load(), ctl::LIVE), new.birth.dest, new);
    Some(base::<F>(new.place.bucket) + way)
}

/// Writes an entry nobody else can have, and shows it to all under its new control word, `ctl_word` but for state and flags.
#[inline(always)]
fn publish<F: Ip, T: Tables>(t: &T, entry: &F::Entry, ctl_word: u32, dest: u32, new: &Insertion<F>) {
    let life = entry.life();
    entry.write(&new.wanted.flow, new.birth.tag | new.wanted.flow.proto.0 as u32);
    life.last.store(new.birth.last);
    life.dest.store(dest);
    life.packets.store(new.birth.packets);
    count_in(t, &new.birth);
    life.ctl.swap(ctl_word | new.birth.ctl);
}

/// A new entry's [`bound`] word. Its template is told before the entry is published: nobody can take it out, and itself
/// off its template, before it is on.
#[inline(always)]
fn tied<F: Ip, T: Tables>(t: &T, slot: u32, ctl_word: u32, new: &Insertion<F>) -> u32 {
    let word = new.birth.dest;
    if word & bound::CONTROLLED == 0
        || depend::<F, T>(t, control_key(slot, ctl_word & ctl::IDENTITY), &new.control)
    {
        return word;
    }
    word & !bound::CONTROLLED
}

#[inline(always)]
fn count_in<T: Tables>(t: &T, birth: &Birth) {
    if birth.dest & bound::NO_DEST != 0 {
        return;
    }
    if let Some(dest) = t.dest(birth.dest & bound::DEST) {
        if birth.tag & tag::TEMPLATE != 0 {
            dest.templates.add(1);
        } else {
            account::bind(dest);
            if birth.ctl & ctl::ACTIVE != 0 {
                account::set_active(dest, true);
            }
        }
    }
}
