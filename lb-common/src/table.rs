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
use crate::conn::{Entry, Life, Ways, bound, ctl, half_open, packets, tag};
use crate::dest::Method;
use crate::flow::Flow;
use crate::ip::{Address, Ip};
use crate::reason::Reason;
use crate::settings::Settings;
use crate::state;
use crate::tables::{Control, Tables, control_key, refresh};

/// Slot numbers of second buckets have this bit.
pub const SLOT_OVERFLOW: u32 = 1 << 30;
/// Slot numbers of IPv6 entries have this bit.
pub const SLOT_V6: u32 = 1 << 31;
/// How often a bucket's lock is tried.
const LOCK_TRIES: u32 = 64;
/// How often a dependant is taken off by exchange before it is done by subtraction.
const DEPENDANT_TRIES: u32 = 8;
/// Dependants of a template: the low bits of its `packets` word.
pub const DEPENDANTS: u32 = (1 << 26) - 1;
/// What a template waits after its time, while connections depend on it.
const TEMPLATE_LINGER: u32 = 60;

/// Where a flow lives.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
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
    /// The key of its row in side maps.
    #[inline(always)]
    pub fn key(&self) -> u64 {
        control_key(self.slot, self.ctl & ctl::IDENTITY)
    }
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
    if tag_word & tag::TEMPLATE != 0 {
        return run_out(last, now);
    }
    let age = now.wrapping_sub(last) as i32;
    age >= settings.timeout(Proto(tag_word as u8), ctl_word & ctl::STATE).load() as i32
}

/// Has the time of a template that ends at `end` run out? That may lie 31 days ahead, more than half of the clock's
/// round: three quarters of it count as future.
#[inline(always)]
pub const fn run_out(end: u32, now: u32) -> bool {
    now.wrapping_sub(end) < 1 << 30
}

/// What is looked for: a flow seen from the client. `REPLY` searches take its virtual end as the source of a reply: the
/// virtual address and port, or under NAT the dest's.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<F: Ip> {
    /// The flow.
    pub flow: Flow<F::Addr>,
    /// [`tag::KEY`] bits: protocol, template or not.
    pub tag: u32,
    /// The clock.
    pub now: u32,
}

/// Found nothing.
const NOWHERE: u64 = u64::MAX;

/// The way of the entry wanted, with its control word in the upper half; or [`NOWHERE`].
///
/// A function of its own in the kernel program: inlined wherever something is looked up, its spills would need more
/// stack than a chain of BPF functions may have together (512 bytes).
#[inline(never)]
fn search_bucket<F: Ip, T: Tables, const REPLY: bool>(
    t: &T,
    bucket: &F::Bucket,
    home: u32,
    wanted: &Wanted<F>,
) -> u64 {
    let mut i = 0;
    while i < F::Entry::WAYS {
        let way = home.wrapping_add(i) & (F::Entry::WAYS - 1);
        let found = probe::<F, T, REPLY>(t, bucket.way(way), wanted);
        if found != 0 {
            return (found as u64) << 32 | way as u64;
        }
        i += 1;
    }
    NOWHERE
}

/// The entry's control word if it is live, in time and the one wanted; else 0.
#[inline(always)]
fn probe<F: Ip, T: Tables, const REPLY: bool>(t: &T, entry: &F::Entry, wanted: &Wanted<F>) -> u32 {
    let life = entry.life();
    let word = life.ctl.load_acquire();
    if !ctl::is_live(word) {
        return 0;
    }
    let flow = &wanted.flow;
    let same = if REPLY {
        entry.is_client(&flow.client, flow.cport, flow.proto) && is_source::<F, T>(t, entry, flow)
    } else {
        entry.matches(flow, wanted.tag)
    };
    if !same {
        return 0;
    }
    let tag_word = entry.tag().load();
    let in_time =
        !expired(t.settings(), tag_word, word, life.last.load(), wanted.now) || held(tag_word, life);
    if in_time && life.ctl.load_acquire() & ctl::IDENTITY == word & ctl::IDENTITY { word } else { 0 }
}

/// Do connections depend on this template or FTP control connection? Its time does not end before theirs.
#[inline(always)]
fn held(tag_word: u32, life: &Life) -> bool {
    life.packets.load() & dependants(tag_word).1 != 0
}

/// One dependant and all of them, in the `packets` word of a template or a connection.
#[inline(always)]
const fn dependants(tag_word: u32) -> (u32, u32) {
    if tag_word & tag::TEMPLATE != 0 { (1, DEPENDANTS) } else { (packets::DEPENDANT, packets::DEPENDANTS) }
}

/// Does the virtual end of `flow` name where this connection's replies come from: the dest under NAT, else the virtual
/// address?
#[inline(always)]
fn is_source<F: Ip, T: Tables>(t: &T, entry: &F::Entry, flow: &Flow<F::Addr>) -> bool {
    let word = entry.life().dest.load();
    if bound::method(word) != Method::Nat as u32 {
        return entry.is_service(&flow.vaddr, flow.vport);
    }
    let Some(dest) = t.dest(word & bound::DEST) else { return false };
    let port = dest.port_of(word, entry.vport());
    port == flow.vport && F::Addr::narrow(&dest.address()) == flow.vaddr
}

/// The slot number of a bucket's first entry.
#[inline(always)]
pub fn base<F: Ip>(bucket: u32) -> u32 {
    (bucket * F::Entry::WAYS) | if F::HEADER_SUM { 0 } else { SLOT_V6 }
}

/// Looks through a place, second bucket included.
#[inline(always)]
pub fn search<'a, F: Ip, T: Tables, const REPLY: bool>(
    t: &'a T,
    place: Place,
    wanted: &Wanted<F>,
) -> Option<Hit<'a, F>> {
    let bucket = t.bucket::<F>(place.bucket)?;
    // Nearly always it is the first: no call then.
    let way = place.home & (F::Entry::WAYS - 1);
    let first = probe::<F, T, REPLY>(t, bucket.way(way), wanted);
    if first != 0 {
        return Some(hit(bucket, (first as u64) << 32 | way as u64, base::<F>(place.bucket)));
    }
    let found = search_bucket::<F, T, REPLY>(t, bucket, place.home.wrapping_add(1), wanted);
    if found != NOWHERE {
        return Some(hit(bucket, found, base::<F>(place.bucket)));
    }
    if bucket.way(0).tag().load() & tag::OVERFLOW == 0 {
        return None;
    }
    let second = t.overflow::<F>(place.bucket)?;
    let found = search_bucket::<F, T, REPLY>(t, second, place.home, wanted);
    (found != NOWHERE).then(|| hit(second, found, base::<F>(place.bucket) | SLOT_OVERFLOW))
}

#[inline(always)]
fn hit<F: Ip>(bucket: &F::Bucket, found: u64, base: u32) -> Hit<'_, F> {
    let way = found as u32;
    let entry = bucket.way(way);
    Hit { entry, ctl: (found >> 32) as u32, dest: entry.life().dest.load(), slot: base + way }
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
        && hit.dest & bound::NO_DEST == 0
        && let Some(dest) = t.dest(hit.dest())
    {
        account::set_active(dest, active != 0);
        account::changed(t, dest);
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
    const fn refused(reason: Reason) -> Self {
        Self(reason as u64)
    }
    /// What became of [`claim`].
    #[inline(always)]
    const fn of_claim(claimed: u64) -> Self {
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

/// Makes the entry of a flow, unless it exists. The dest's counts include it afterwards.
#[inline(always)]
pub fn insert<F: Ip, T: Tables>(t: &T, new: &Insertion<F>) -> Inserted {
    let Some(bucket) = t.bucket::<F>(new.place.bucket) else {
        return Inserted::refused(Reason::Internal);
    };
    let lock = bucket.way(0).tag();
    if !take_lock(lock) {
        return Inserted::refused(Reason::BucketBusy);
    }
    let result = insert_locked::<F, T>(t, bucket, new);
    release_lock(lock);
    // Not where the counts are changed: that has no stack left for a call.
    dest_changed(t, result.buried());
    let result = result.arrived();
    if result.is_new() && new.birth.dest & bound::NO_DEST == 0 {
        dest_changed(t, (new.birth.dest & bound::DEST).wrapping_add(1));
    }
    result
}

/// [`account::changed`] of the dest with this number plus 1; 0 = none.
#[inline(always)]
fn dest_changed<T: Tables>(t: &T, word: u32) {
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
fn insert_locked<F: Ip, T: Tables>(t: &T, bucket: &F::Bucket, new: &Insertion<F>) -> Inserted {
    let wanted = &new.wanted;
    if let Some(hit) = search::<F, T, false>(t, new.place, wanted) {
        return Inserted::existing(hit.slot);
    }
    // The flow's last entry, run out but not swept yet, goes first: a flow is never in the table twice.
    if bucket.way(0).tag().load() & tag::OVERFLOW != 0 {
        let claimed = t.claim(new, true, RANK_SAME);
        if claimed != NO_SLOT {
            return Inserted::of_claim(claimed);
        }
    }
    let claimed = t.claim(new, false, 1);
    if claimed != NO_SLOT {
        return Inserted::of_claim(claimed);
    }
    if t.overflow_make::<F>(new.place.bucket).is_none() {
        return Inserted::refused(Reason::TableFull);
    }
    let lock = bucket.way(0).tag();
    lock.store(lock.load() | tag::OVERFLOW);
    match t.claim(new, true, 1) {
        NO_SLOT => Inserted::refused(Reason::TableFull),
        claimed => Inserted::of_claim(claimed),
    }
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

/// No entry could be had.
pub const NO_SLOT: u64 = u64::MAX;

/// Takes the best victim of rank `least` or better in the place's bucket, or its second one, and makes it the new entry.
/// Returns its slot, with what [`bury`] returned in the upper half, or [`NO_SLOT`].
#[inline(always)]
pub fn claim<F: Ip, T: Tables>(t: &T, new: &Insertion<F>, second: bool, least: u32) -> u64 {
    let n = new.place.bucket;
    let (found, over) = if second { (t.overflow::<F>(n), SLOT_OVERFLOW) } else { (t.bucket::<F>(n), 0) };
    let Some(bucket) = found else { return NO_SLOT };
    let base = base::<F>(n) | over;
    let now = new.wanted.now;
    let mut best = Victim { rank: 0, way: 0, ctl: 0 };
    let mut i = 0;
    while i < F::Entry::WAYS {
        let way = new.place.home.wrapping_add(i) & (F::Entry::WAYS - 1);
        let entry = bucket.way(way);
        let ctl_word = entry.life().ctl.load_acquire();
        // The search before has found nothing in time, so this one has run out.
        let same = ctl::is_live(ctl_word) && entry.matches(&new.wanted.flow, new.wanted.tag);
        let rank = if same {
            RANK_SAME
        } else {
            victim_rank(t.settings(), entry.tag().load(), entry.life(), ctl_word, now)
        };
        if rank > best.rank {
            best = Victim { rank, way, ctl: ctl_word };
        }
        // None is better than a free one.
        i = if rank == u32::MAX { F::Entry::WAYS } else { i + 1 };
    }
    if best.rank < least {
        return NO_SLOT;
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
    entry.write(&new.wanted.flow, new.birth.tag | new.wanted.flow.proto.0 as u32);
    life.last.store(new.birth.last);
    life.dest.store(tied::<F, T>(t, slot, ctl::reborn(best.ctl, ctl::LIVE), new));
    life.packets.store(new.birth.packets);
    count_in(t, &new.birth);
    life.ctl.swap(ctl::reborn(best.ctl, ctl::LIVE | new.birth.ctl));
    slot as u64 | (buried as u64) << 32
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

/// Takes an entry out of its dest's counts and off its template. Called by whoever took it from live. Returns the dest
/// whose connections are fewer now, number plus 1, for [`dest_changed`]; 0 = none.
#[inline(always)]
pub fn bury<T: Tables>(t: &T, tag_word: u32, ctl_word: u32, dest_word: u32, slot: u32, now: u32) -> u32 {
    let mut fewer = 0;
    if dest_word & bound::NO_DEST == 0
        && let Some(dest) = t.dest(dest_word & bound::DEST)
    {
        if tag_word & tag::TEMPLATE != 0 {
            dest.templates.fetch_sub(1);
        } else {
            account::unbind(dest, ctl_word & ctl::ACTIVE != 0, now);
            fewer = (dest_word & bound::DEST).wrapping_add(1);
        }
    }
    if dest_word & bound::CONTROLLED != 0 {
        release_template(t, slot, ctl_word);
    }
    if tag_word & tag::ENGINE != 0 {
        t.call_drop(control_key(slot, ctl_word & ctl::IDENTITY));
    }
    fewer
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
    let fewer = t.bury(tag_word, hit.ctl, dest, hit.slot, now);
    dest_changed(t, fewer);
    true
}

/// Makes a new connection depend on its template, if that is still there.
#[inline(always)]
fn depend<F: Ip, T: Tables>(t: &T, key: u64, control: &Control) -> bool {
    let Some(template) = entry_at::<F, T>(t, control.template) else { return false };
    let life = template.life();
    life.packets.fetch_add(dependants(template.tag().load()).0);
    if life.ctl.load_acquire() & ctl::IDENTITY == control.identity && t.control_put(key, control) {
        return true;
    }
    take_dependant(template.tag().load(), life);
    false
}

/// One dependant less, but never below none: a count that was added to as the template went may be gone with it.
#[inline(always)]
fn take_dependant(tag_word: u32, life: &Life) {
    let (one, all) = dependants(tag_word);
    let mut tries = 0;
    while tries < DEPENDANT_TRIES {
        let word = life.packets.load();
        if word & all == 0 || life.packets.compare_exchange(word, word.wrapping_sub(one)) {
            return;
        }
        tries += 1;
    }
    life.packets.fetch_sub(one);
}

/// A connection came to life (or, for UDP, was answered): its template is ASSURED from now on.
#[inline(always)]
pub fn assure_template<F: Ip, T: Tables>(t: &T, conn: &Hit<'_, F>) {
    let Some(control) = t.control_get(conn.key()) else { return };
    if let Some(entry) = entry_at::<F, T>(t, control.template) {
        let word = entry.life().ctl.load_acquire();
        let template = entry.tag().load() & tag::TEMPLATE != 0;
        if template && word & ctl::IDENTITY == control.identity && word & ctl::STATE == 0 {
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
    let Some(control) = t.control_take(control_key(slot, owner_ctl & ctl::IDENTITY)) else { return };
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
        take_dependant(entry.tag().load(), entry.life());
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
    if !hit.current() {
        return;
    }
    if run_out(life.last.load(), now) {
        // Its time was up, and the sweep has not been by yet.
        return linger(t, hit.entry.tag(), hit.ctl, life, now);
    }
    life.last.store(now.wrapping_add(t.settings().ticks(seconds)));
}

/// Sweeps one bucket and its second: takes out what has expired, keeps templates that are needed. Returns entries
/// left.
#[inline(always)]
pub fn sweep<F: Ip, T: Tables>(t: &T, n: u32, now: u32) -> u32 {
    sweep_for::<F, T, false>(t, n, now)
}

/// [`sweep`]; `GONE`: not for what has expired, but for what belongs to a dest that is gone.
#[inline(always)]
fn sweep_for<F: Ip, T: Tables, const GONE: bool>(t: &T, n: u32, now: u32) -> u32 {
    let Some(bucket) = t.bucket::<F>(n) else { return 0 };
    let mut left = sweep_ways::<F, T, GONE>(t, bucket, base::<F>(n), now);
    if bucket.way(0).tag().load() & tag::OVERFLOW != 0
        && let Some(second) = t.overflow::<F>(n)
    {
        let more = sweep_ways::<F, T, GONE>(t, second, base::<F>(n) | SLOT_OVERFLOW, now);
        if more == 0 {
            drop_second::<F, T>(t, bucket, second, n);
        }
        left += more;
    }
    left
}

#[inline(always)]
fn sweep_ways<F: Ip, T: Tables, const GONE: bool>(t: &T, bucket: &F::Bucket, base: u32, now: u32) -> u32 {
    let mut left = 0;
    let mut way = 0;
    while way < F::Entry::WAYS {
        let entry = bucket.way(way);
        let ctl_word = entry.life().ctl.load_acquire();
        if ctl::is_live(ctl_word) {
            left += sweep_entry::<F, T, GONE>(t, entry, ctl_word, base + way, now);
        } else if ctl_word & ctl::STATUS == ctl::BUSY {
            left += 1;
        }
        way += 1;
    }
    left
}

/// 1 if the entry stays.
#[inline(always)]
fn sweep_entry<F: Ip, T: Tables, const GONE: bool>(
    t: &T,
    entry: &F::Entry,
    ctl_word: u32,
    slot: u32,
    now: u32,
) -> u32 {
    if is_due::<T, GONE>(t, entry.tag().load(), ctl_word, entry.life(), now) {
        t.retire::<F>(slot, GONE as u32)
    } else {
        1
    }
}

#[inline(always)]
fn is_due<T: Tables, const GONE: bool>(t: &T, tag_word: u32, ctl_word: u32, life: &Life, now: u32) -> bool {
    if GONE {
        belongs_to_none(t, life)
    } else {
        expired(t.settings(), tag_word, ctl_word, life.last.load(), now)
    }
}

/// Takes out an entry whose time is up or, if `gone` is not 0, whose dest is gone, if that is still so. 1 if it stays.
#[inline(always)]
pub fn retire<F: Ip, T: Tables>(t: &T, slot: u32, gone: u32) -> u32 {
    let Some(hit) = hit_at::<F, T>(t, slot) else { return 0 };
    let (tag_word, life, now) = (hit.entry.tag().load(), hit.life(), t.now());
    let due = if gone != 0 {
        is_due::<T, true>(t, tag_word, hit.ctl, life, now)
    } else {
        is_due::<T, false>(t, tag_word, hit.ctl, life, now)
    };
    if !due {
        return 1;
    }
    if held(tag_word, life) {
        if gone == 0 {
            linger(t, hit.entry.tag(), hit.ctl, life, now);
        }
        return 1;
    }
    if remove::<F, T>(t, &hit, now) { 0 } else { 1 }
}

/// A template or FTP control connection whose time is up while connections depend on it: 60 seconds more, and for the
/// template from now on always 60.
#[inline(always)]
fn linger<T: Tables>(t: &T, tag_cell: &Cell32, ctl_word: u32, life: &Life, now: u32) {
    let (tag_bits, _) = template_bits(TEMPLATE_LINGER);
    let word = tag_cell.load();
    if word & tag::TEMPLATE == 0 {
        let more = now.wrapping_add(t.settings().ticks(TEMPLATE_LINGER));
        let timeout = t.settings().timeout(Proto(word as u8), ctl_word & ctl::STATE).load();
        return life.last.store(more.wrapping_sub(timeout));
    }
    let low = (1 << tag::TIMEOUT_SHIFT) - 1;
    // What stands here may have made way to a connection, whose words are none of ours.
    if word & tag::TEMPLATE == 0 || !tag_cell.compare_exchange(word, word & low | tag_bits) {
        return;
    }
    let packets = life.packets.load();
    if packets & packets::NONE == 0 {
        life.packets.compare_exchange(packets, packets & DEPENDANTS);
    }
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

/// Has its dest been deleted?
#[inline(always)]
fn belongs_to_none<T: Tables>(t: &T, life: &Life) -> bool {
    let word = life.dest.load();
    word & bound::NO_DEST == 0 && t.dest(word & bound::DEST).is_some_and(|dest| !dest.available())
}

/// Takes out the connections of dests that are gone, and templates nothing depends on, in buckets `from`, `from + 1`, …
/// `count` of them, as far as there are so many.
#[inline(always)]
pub fn expire_gone<F: Ip, T: Tables>(t: &T, from: u32, count: u32, now: u32) {
    let mut acc = (from, now);
    t.repeat(count, &mut acc, |t, (from, now), i| {
        let n = from.wrapping_add(i);
        if n > t.bucket_mask::<F>() {
            return ControlFlow::Break(());
        }
        sweep_for::<F, T, true>(t, n, *now);
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

#[cfg(test)]
mod tests {
    use super::run_out;

    #[test]
    fn the_longest_persistence_lies_ahead_on_the_finest_clock() {
        let month = 31 * 86_400 * 1000;
        for now in [0, 5, u32::MAX - 1000] {
            let end = now.wrapping_add(month);
            assert!(!run_out(end, now) && !run_out(end, end.wrapping_sub(1)));
            assert!(run_out(end, end) && run_out(end, end.wrapping_add(86_400 * 1000)));
        }
    }
}
