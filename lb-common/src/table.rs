//! The connection table: find, advance, insert, remove.
//!
//! A bucket is chosen by a keyed hash of the **client's** address, port and protocol, so that both directions of a
//! translated connection meet in one bucket, and a template with its clients' other templates. Within the bucket
//! other bits of the hash name the way to try first.
//!
//! Who may change what:
//!
//! * **Reading** takes no lock: control word, key, dest, control word again. Another generation or status in the
//!   second reading is a miss.
//! * **A state change** is one compare-and-exchange of the control word from the value read. Only its winner moves
//!   the dest's counts; the loser does nothing, the next packet will.
//! * **Insertion** holds the bucket's lock, looks for the key again (so that two CPUs never make one flow twice),
//!   takes a victim (free, else expired, else the oldest half-open; never an established one), makes it busy under
//!   a new generation, writes it, publishes it live. A bucket with no victim gets a second bucket, while there are
//!   any.
//! * **Removal** is a compare-and-exchange from live to free, a new generation with it. It takes no lock.

use core::ops::ControlFlow;

use crate::account;
use crate::addr::{Port, Proto};
use crate::cell::Cell32;
use crate::conn::{Entry, Life, Ways, bound, ctl, half_open, tag};
use crate::flow::Flow;
use crate::ip::Ip;
use crate::reason::Reason;
use crate::settings::Settings;
use crate::state;
use crate::tables::{Control, Tables, refresh};

/// Slot numbers of second buckets have this bit.
pub const SLOT_OVERFLOW: u32 = 1 << 30;
/// Slot numbers of IPv6 entries have this bit.
pub const SLOT_V6: u32 = 1 << 31;
/// How often a bucket's lock is tried.
const LOCK_TRIES: u32 = 64;
/// Dependants of a template: the low bits of its `packets` word.
const DEPENDANTS: u32 = (1 << 26) - 1;
/// What a template waits after its time, while connections depend on it.
const TEMPLATE_LINGER: u32 = 60;

/// Where a flow lives.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Bucket number.
    pub bucket: u32,
    /// The way to try first.
    pub home: u32,
}

/// The place of a client.
#[inline(always)]
pub fn place<F: Ip, T: Tables>(t: &T, client: &F::Addr, port: Port, proto: Proto) -> Place {
    let hash = F::hash(t.secret(), client, port, proto);
    Place { bucket: hash as u32 & t.bucket_mask::<F>(), home: (hash >> 32) as u32 }
}

/// An entry found, as it was at one moment.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct Hit<'a, F: Ip> {
    /// The entry.
    pub entry: &'a F::Entry,
    /// Its control word.
    pub ctl: u32,
    /// Its [`bound`] word.
    pub dest: u32,
    /// Its number, for side maps.
    pub slot: u32,
}

impl<F: Ip> Clone for Hit<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F: Ip> Copy for Hit<'_, F> {}

impl<'a, F: Ip> Hit<'a, F> {
    /// The protocol's state.
    #[inline(always)]
    pub fn state(&self) -> u8 {
        (self.ctl & ctl::STATE) as u8
    }
    /// The changing part.
    #[inline(always)]
    pub fn life(&self) -> &'a Life {
        self.entry.life()
    }
    /// The dest's number.
    #[inline(always)]
    pub fn dest(&self) -> u32 {
        self.dest & bound::DEST
    }
    /// Is it still the connection it was?
    #[inline(always)]
    pub fn current(&self) -> bool {
        self.life().ctl.load_acquire() & ctl::IDENTITY == self.ctl & ctl::IDENTITY
    }
}

/// Has an entry's time run out? Ages are signed: another CPU may have stored a later tick.
#[inline(always)]
pub fn expired(settings: &Settings, tag_word: u32, ctl_word: u32, last: u32, now: u32) -> bool {
    let age = now.wrapping_sub(last) as i32;
    if tag_word & tag::TEMPLATE != 0 {
        return age >= 0;
    }
    age >= settings.timeout(Proto(tag_word as u8), ctl_word & ctl::STATE).load() as i32
}

/// Is the entry live and in time, and does `wanted` say it is the one?
#[inline(always)]
fn probe<'a, F: Ip, T: Tables>(
    t: &T,
    bucket: &'a F::Bucket,
    way: u32,
    base: u32,
    now: u32,
    wanted: &impl Fn(&F::Entry, u32) -> bool,
) -> Option<Hit<'a, F>> {
    let way = way & (F::Entry::WAYS - 1);
    let entry = bucket.way(way);
    let life = entry.life();
    let ctl_word = life.ctl.load_acquire();
    if !ctl::is_live(ctl_word) {
        return None;
    }
    let dest = life.dest.load();
    if !wanted(entry, dest) {
        return None;
    }
    if expired(t.settings(), entry.tag().load(), ctl_word, life.last.load(), now) {
        return None;
    }
    let hit = Hit { entry, ctl: ctl_word, dest, slot: base + way };
    hit.current().then_some(hit)
}

#[inline(always)]
fn search_bucket<'a, F: Ip, T: Tables>(
    t: &T,
    bucket: &'a F::Bucket,
    home: u32,
    base: u32,
    now: u32,
    wanted: &impl Fn(&F::Entry, u32) -> bool,
) -> Option<Hit<'a, F>> {
    let mut i = 0;
    while i < F::Entry::WAYS {
        if let Some(hit) = probe::<F, T>(t, bucket, home.wrapping_add(i), base, now, wanted) {
            return Some(hit);
        }
        i += 1;
    }
    None
}

#[inline(always)]
fn base<F: Ip>(bucket: u32) -> u32 {
    bucket * F::Entry::WAYS | if F::HEADER_SUM { 0 } else { SLOT_V6 }
}

/// Looks through a place for the entry `wanted` says yes to.
#[inline(always)]
pub fn search<'a, F: Ip, T: Tables>(
    t: &'a T,
    place: Place,
    now: u32,
    wanted: impl Fn(&F::Entry, u32) -> bool,
) -> Option<Hit<'a, F>> {
    let bucket = t.bucket::<F>(place.bucket)?;
    let base = base::<F>(place.bucket);
    if let Some(hit) = search_bucket::<F, T>(t, bucket, place.home, base, now, &wanted) {
        return Some(hit);
    }
    if bucket.way(0).tag().load() & tag::OVERFLOW == 0 {
        return None;
    }
    let second = t.overflow::<F>(place.bucket)?;
    search_bucket::<F, T>(t, second, place.home, base | SLOT_OVERFLOW, now, &wanted)
}

/// The connection (or, with [`tag::TEMPLATE`] in `kind`, the template) of a flow.
#[inline(always)]
pub fn find<'a, F: Ip, T: Tables>(
    t: &'a T,
    place: Place,
    flow: &Flow<F::Addr>,
    kind: u32,
    now: u32,
) -> Option<Hit<'a, F>> {
    let wanted_tag = flow.proto.0 as u32 | kind;
    search::<F, T>(t, place, now, |entry, _| entry.matches(flow, wanted_tag))
}

/// A packet of the connection: next state, direction seen, clock. Counts follow the state.
#[inline(always)]
pub fn advance<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, proto: Proto, state: u8, no_output: u32, now: u32) {
    let life = hit.life();
    let active = if state::active(proto, state) { ctl::ACTIVE } else { 0 };
    let next = hit.ctl & ctl::IDENTITY | state as u32 | active | no_output;
    if next != hit.ctl
        && life.ctl.compare_exchange(hit.ctl, next)
        && (next ^ hit.ctl) & ctl::ACTIVE != 0
        && let Some(dest) = t.dest(hit.dest())
    {
        account::set_active(dest, active != 0);
    }
    refresh(&life.last, now);
}

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

/// The outcome of an insertion. Slots, not references: what is handed between functions of the kernel program must
/// not be a pointer in a union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// Made, in this slot.
    New(u32),
    /// Another CPU was first, in this slot.
    Existing(u32),
}

impl Inserted {
    /// The slot.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        match self {
            Self::New(slot) | Self::Existing(slot) => slot,
        }
    }
}

/// Makes the entry of a flow, unless it exists. The dest's counts include it afterwards.
#[inline(always)]
pub fn insert<F: Ip, T: Tables>(
    t: &T,
    place: Place,
    flow: &Flow<F::Addr>,
    birth: &Birth,
    now: u32,
) -> Result<Inserted, Reason> {
    let bucket = t.bucket::<F>(place.bucket).ok_or(Reason::Internal)?;
    let lock = bucket.way(0).tag();
    if !take_lock(lock) {
        return Err(Reason::BucketBusy);
    }
    let result = insert_locked::<F, T>(t, bucket, place, flow, birth, now);
    release_lock(lock);
    result
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
fn release_lock(lock: &Cell32) {
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
fn insert_locked<F: Ip, T: Tables>(
    t: &T,
    bucket: &F::Bucket,
    place: Place,
    flow: &Flow<F::Addr>,
    birth: &Birth,
    now: u32,
) -> Result<Inserted, Reason> {
    let kind = birth.tag & tag::TEMPLATE;
    if let Some(hit) = find::<F, T>(t, place, flow, kind, now) {
        return Ok(Inserted::Existing(hit.slot));
    }
    let base = base::<F>(place.bucket);
    if let Some(slot) = claim::<F, T>(t, bucket, place.home, base, flow, birth, now) {
        return Ok(Inserted::New(slot));
    }
    let second = t.overflow_make::<F>(place.bucket).ok_or(Reason::TableFull)?;
    let lock = bucket.way(0).tag();
    lock.store(lock.load() | tag::OVERFLOW);
    claim::<F, T>(t, second, place.home, base | SLOT_OVERFLOW, flow, birth, now)
        .map(Inserted::New)
        .ok_or(Reason::TableFull)
}

/// How good a victim an entry is: higher is better, 0 is none. Free beats expired beats the older half-open.
#[inline(always)]
fn victim_rank(settings: &Settings, tag_word: u32, life: &Life, ctl_word: u32, now: u32) -> u32 {
    if ctl_word & ctl::STATUS == ctl::FREE {
        return u32::MAX;
    }
    if !ctl::is_live(ctl_word) {
        return 0;
    }
    let last = life.last.load();
    if tag_word & tag::TEMPLATE != 0 {
        let free = life.packets.load() & DEPENDANTS == 0 && now.wrapping_sub(last) as i32 >= 0;
        return if free { u32::MAX - 1 } else { 0 };
    }
    if expired(settings, tag_word, ctl_word, last, now) {
        return u32::MAX - 1;
    }
    if !half_open(Proto(tag_word as u8), (ctl_word & ctl::STATE) as u8) {
        return 0;
    }
    // Ages of the living are below 2^31, so they rank below the expired.
    let age = now.wrapping_sub(last) as i32;
    1 + if age < 0 { 0 } else { age as u32 }
}

#[derive(Clone, Copy)]
struct Victim {
    rank: u32,
    way: u32,
    ctl: u32,
}

#[inline(always)]
fn claim<F: Ip, T: Tables>(
    t: &T,
    bucket: &F::Bucket,
    home: u32,
    base: u32,
    flow: &Flow<F::Addr>,
    birth: &Birth,
    now: u32,
) -> Option<u32> {
    let mut best = Victim { rank: 0, way: 0, ctl: 0 };
    let mut i = 0;
    while i < F::Entry::WAYS {
        let way = home.wrapping_add(i) & (F::Entry::WAYS - 1);
        let entry = bucket.way(way);
        let ctl_word = entry.life().ctl.load_acquire();
        let rank = victim_rank(t.settings(), entry.tag().load(), entry.life(), ctl_word, now);
        if rank > best.rank {
            best = Victim { rank, way, ctl: ctl_word };
        }
        i += 1;
    }
    if best.rank == 0 {
        return None;
    }
    let entry = bucket.way(best.way);
    let life = entry.life();
    let slot = base + best.way;
    // Lost only to a packet or the sweep changing this very entry at this moment: the client will try again.
    if !life.ctl.compare_exchange(best.ctl, ctl::reborn(best.ctl, ctl::BUSY)) {
        return None;
    }
    if ctl::is_live(best.ctl) {
        bury::<T>(t, entry.tag().load(), best.ctl, life.dest.load(), slot, now);
    }
    entry.write(flow, birth.tag | flow.proto.0 as u32);
    life.last.store(birth.last);
    life.dest.store(birth.dest);
    life.packets.store(birth.packets);
    count_in(t, birth.tag, birth);
    life.ctl.swap(ctl::reborn(best.ctl, ctl::LIVE | birth.ctl));
    Some(slot)
}

#[inline(always)]
fn count_in<T: Tables>(t: &T, tag_word: u32, birth: &Birth) {
    if birth.dest & bound::NO_DEST != 0 {
        return;
    }
    if let Some(dest) = t.dest(birth.dest & bound::DEST) {
        if tag_word & tag::TEMPLATE != 0 {
            dest.templates.add(1);
        } else {
            account::bind(dest);
            if birth.ctl & ctl::ACTIVE != 0 {
                account::set_active(dest, true);
            }
        }
    }
}

/// Takes an entry out of its dest's counts and off its template. Called by whoever took it from live.
#[inline(always)]
fn bury<T: Tables>(t: &T, tag_word: u32, ctl_word: u32, dest_word: u32, slot: u32, now: u32) {
    if dest_word & bound::NO_DEST == 0
        && let Some(dest) = t.dest(dest_word & bound::DEST)
    {
        if tag_word & tag::TEMPLATE != 0 {
            dest.templates.fetch_sub(1);
        } else {
            account::unbind(dest, ctl_word & ctl::ACTIVE != 0, now);
        }
    }
    if dest_word & bound::CONTROLLED != 0 {
        release_template(t, slot, ctl_word);
    }
}

/// Removes an entry, if it is still what it was. True: this call did it.
#[inline(always)]
pub fn remove<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, now: u32) -> bool {
    let life = hit.life();
    let dest = life.dest.load();
    let tag_word = hit.entry.tag().load();
    if !life.ctl.compare_exchange(hit.ctl, ctl::reborn(hit.ctl, ctl::FREE)) {
        return false;
    }
    bury(t, tag_word, hit.ctl, dest, hit.slot, now);
    true
}

/// Makes a new connection depend on a template.
#[inline(always)]
pub fn depend<F: Ip, T: Tables>(t: &T, conn: &Hit<'_, F>, template: &Hit<'_, F>) -> bool {
    let control = Control {
        template: template.slot,
        identity: template.ctl & ctl::IDENTITY,
        owner: conn.ctl & ctl::IDENTITY,
    };
    template.life().packets.add(1);
    if t.control_put(conn.slot, &control) {
        return true;
    }
    template.life().packets.fetch_sub(1);
    false
}

/// A connection came to life (or, for UDP, was answered): its template is ASSURED from now on.
#[inline(always)]
pub fn assure_template<F: Ip, T: Tables>(t: &T, conn: &Hit<'_, F>) {
    let Some(control) = t.control_get(conn.slot) else { return };
    if control.owner == conn.ctl & ctl::IDENTITY
        && let Some(entry) = entry_at::<F, T>(t, control.template)
    {
        let word = entry.life().ctl.load_acquire();
        if word & ctl::IDENTITY == control.identity && word & ctl::STATE == 0 {
            entry.life().ctl.compare_exchange(word, word | 1);
        }
    }
}

/// A template whose dest is gone serves no new connection; it stays while old ones depend on it.
#[inline(always)]
pub fn orphan_template<F: Ip>(template: &Hit<'_, F>) {
    let cell = template.entry.tag();
    let word = cell.load();
    cell.compare_exchange(word, word | tag::ORPHAN);
}

/// The template a connection was made through.
#[inline(always)]
fn release_template<T: Tables>(t: &T, slot: u32, owner_ctl: u32) {
    let Some(control) = t.control_take(slot) else { return };
    if control.owner != owner_ctl & ctl::IDENTITY {
        return;
    }
    if control.template & SLOT_V6 == 0 {
        drop_dependant::<crate::ip::V4, T>(t, &control);
    } else {
        drop_dependant::<crate::ip::V6, T>(t, &control);
    }
}

#[inline(always)]
fn drop_dependant<F: Ip, T: Tables>(t: &T, control: &Control) {
    if let Some(entry) = entry_at::<F, T>(t, control.template)
        && entry.life().ctl.load_acquire() & ctl::IDENTITY == control.identity
    {
        entry.life().packets.fetch_sub(1);
    }
}

/// The live entry with this slot number.
#[inline(always)]
pub fn hit_at<F: Ip, T: Tables>(t: &T, slot: u32) -> Option<Hit<'_, F>> {
    let entry = entry_at::<F, T>(t, slot)?;
    let ctl_word = entry.life().ctl.load_acquire();
    let hit = Hit { entry, ctl: ctl_word, dest: entry.life().dest.load(), slot };
    (ctl::is_live(ctl_word) && hit.current()).then_some(hit)
}

/// The entry with this slot number.
#[inline(always)]
pub fn entry_at<F: Ip, T: Tables>(t: &T, slot: u32) -> Option<&F::Entry> {
    let n = slot & !(SLOT_V6 | SLOT_OVERFLOW);
    let bucket = n / F::Entry::WAYS;
    let found = if slot & SLOT_OVERFLOW == 0 { t.bucket::<F>(bucket) } else { t.overflow::<F>(bucket) }?;
    Some(found.way(n))
}

/// A template's timeout in seconds.
#[inline(always)]
pub fn template_timeout(tag_word: u32, packets: u32) -> u32 {
    tag_word >> tag::TIMEOUT_SHIFT | packets >> 26 << 16
}

/// Tag and `packets` bits that hold a template's timeout (at most 31 days: 22 bits of seconds).
#[inline(always)]
pub fn template_bits(seconds: u32) -> (u32, u32) {
    (tag::TEMPLATE | seconds << tag::TIMEOUT_SHIFT, seconds >> 16 << 26)
}

/// A template is used by a new connection: its time starts again.
#[inline(always)]
pub fn renew_template<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, now: u32) {
    let life = hit.life();
    let seconds = template_timeout(hit.entry.tag().load(), life.packets.load());
    life.last.store(now.wrapping_add(t.settings().ticks(seconds)));
}

/// Sweeps one bucket and its second: takes out what has expired, keeps templates that are needed. Returns entries
/// left.
#[inline(always)]
pub fn sweep<F: Ip, T: Tables>(t: &T, n: u32, now: u32) -> u32 {
    let Some(bucket) = t.bucket::<F>(n) else { return 0 };
    let mut left = sweep_ways::<F, T>(t, bucket, base::<F>(n), now);
    if bucket.way(0).tag().load() & tag::OVERFLOW != 0
        && let Some(second) = t.overflow::<F>(n)
    {
        let more = sweep_ways::<F, T>(t, second, base::<F>(n) | SLOT_OVERFLOW, now);
        if more == 0 {
            drop_second::<F, T>(t, bucket, second, n);
        }
        left += more;
    }
    left
}

#[inline(always)]
fn sweep_ways<F: Ip, T: Tables>(t: &T, bucket: &F::Bucket, base: u32, now: u32) -> u32 {
    let mut left = 0;
    let mut way = 0;
    while way < F::Entry::WAYS {
        let entry = bucket.way(way);
        let ctl_word = entry.life().ctl.load_acquire();
        if ctl::is_live(ctl_word) {
            left += sweep_entry::<F, T>(t, entry, ctl_word, base + way, now);
        } else if ctl_word & ctl::STATUS == ctl::BUSY {
            left += 1;
        }
        way += 1;
    }
    left
}

/// 1 if the entry stays.
#[inline(always)]
fn sweep_entry<F: Ip, T: Tables>(t: &T, entry: &F::Entry, ctl_word: u32, slot: u32, now: u32) -> u32 {
    let life = entry.life();
    let tag_word = entry.tag().load();
    if !expired(t.settings(), tag_word, ctl_word, life.last.load(), now) {
        return 1;
    }
    if tag_word & tag::TEMPLATE != 0 && life.packets.load() & DEPENDANTS != 0 {
        linger(t, entry.tag(), life, now);
        return 1;
    }
    let hit = Hit::<F> { entry, ctl: ctl_word, dest: 0, slot };
    if remove::<F, T>(t, &hit, now) { 0 } else { 1 }
}

/// A template whose time is up while connections depend on it: 60 seconds more, and from now on always 60.
#[inline(always)]
fn linger<T: Tables>(t: &T, tag_cell: &Cell32, life: &Life, now: u32) {
    let (tag_bits, _) = template_bits(TEMPLATE_LINGER);
    let word = tag_cell.load();
    let low = (1 << tag::TIMEOUT_SHIFT) - 1;
    tag_cell.compare_exchange(word, word & low | tag_bits);
    let packets = life.packets.load();
    life.packets.compare_exchange(packets, packets & DEPENDANTS);
    life.last.store(now.wrapping_add(t.settings().ticks(TEMPLATE_LINGER)));
}

/// Gives an empty second bucket back, under the lock so that nobody is putting something in.
#[inline(always)]
fn drop_second<F: Ip, T: Tables>(t: &T, bucket: &F::Bucket, second: &F::Bucket, n: u32) {
    let lock = bucket.way(0).tag();
    let word = lock.load();
    if word & tag::LOCK != 0 || !lock.compare_exchange(word, word | tag::LOCK) {
        return;
    }
    let mut way = 0;
    let mut used = 0;
    while way < F::Entry::WAYS {
        used |= second.way(way).life().ctl.load_acquire() & ctl::STATUS;
        way += 1;
    }
    if used == 0 {
        lock.store(lock.load() & !tag::OVERFLOW);
        t.overflow_drop::<F>(n);
    }
    release_lock(lock);
}

/// Sweeps buckets `from`, `from + 1`, … `count` of them, wrapping. Returns entries left in them.
#[inline(always)]
pub fn sweep_range<F: Ip, T: Tables>(t: &T, from: u32, count: u32, now: u32) -> u32 {
    struct Sweep {
        from: u32,
        now: u32,
        left: u32,
    }
    let mut acc = Sweep { from, now, left: 0 };
    t.repeat(count, &mut acc, |t, acc, i| {
        let n = acc.from.wrapping_add(i) & t.bucket_mask::<F>();
        acc.left = acc.left.wrapping_add(sweep::<F, T>(t, n, acc.now));
        ControlFlow::Continue(())
    });
    acc.left
}
