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
//!   a new generation, writes it, publishes it live. A bucket with no victim gets a second bucket, and then a third, while
//!   there are any; so does one half full of connections whose others have all begun within the last second, while
//!   there are plenty: a client may need that long to answer.
//! * **Removal** is a compare-and-exchange from live to free, a new generation with it. It takes no lock.

mod chain;
mod insert;
mod search;
mod sweep;
mod template;

use crate::addr::{Port, Proto};
use crate::cell::masked;
use crate::conn::{Entry, Life, Ways, bound, ctl, tag};
use crate::ip::Ip;
use crate::settings::Settings;
use crate::tables::{Tables, control_key, refresh};
use crate::{account, state};
use insert::dest_changed;
use template::release_template;

pub use chain::{FURTHER, MOST_BUCKETS, SLOT_OVERFLOW, further};
pub use insert::{Birth, CROWDED, Inserted, Insertion, NO_SLOT, claim, insert, most_further};
pub use search::{Wanted, search, search_keeping};
pub use sweep::{DEAD, EXPIRED, GONE, expire, retire, sweep, sweep_range};
pub use template::{
    DEPENDANTS, assure_template, orphan_template, renew_template, set_template_timeout, template_bits,
    template_timeout,
};

/// Slot numbers of IPv6 entries have this bit.
pub const SLOT_V6: u32 = 1 << 31;

/// Where a flow lives.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Bucket number.
    pub bucket: u32,
    /// The way to try first.
    pub home: u32,
}

impl Place {
    /// The way to try as the `i`th. The second one shares its line of the cache with the first (IPv4), or lies beside it.
    #[inline(always)]
    fn way<F: Ip>(self, i: u32) -> u32 {
        // The compiler knows that `home` is below eight; the verifier has to see it.
        masked::<7>(self.home ^ i) as u32 & (F::Entry::WAYS - 1)
    }
}

/// The place of a client.
#[inline(always)]
pub fn place<F: Ip, T: Tables>(t: &T, client: &F::Addr, port: Port, proto: Proto) -> Place {
    let hash = F::hash(&t.settings().table_key, client, port, proto);
    // Tables of more than 2^29 buckets there are not.
    Place { bucket: hash & t.bucket_mask::<F>(), home: hash >> 29 }
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

/// The slot number of a bucket's first entry.
#[inline(always)]
pub fn base<F: Ip>(bucket: u32) -> u32 {
    (bucket * F::Entry::WAYS) | if F::HEADER_SUM { 0 } else { SLOT_V6 }
}

/// A packet of the connection: next state, direction seen, clock. Counts follow the state.
#[inline(always)]
pub fn advance<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, proto: Proto, state: u8, no_output: u32, now: u32) {
    let life = hit.life();
    let active = if state::active(proto, state) { ctl::ACTIVE } else { 0 };
    turn(t, hit, hit.ctl & ctl::IDENTITY | state as u32 | active | no_output);
    refresh(&life.last, now);
}

/// Changes a connection's control word to `next`, if it is still what it was, and its dest's counts with it.
#[inline(always)]
pub fn turn<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, next: u32) {
    if next != hit.ctl
        && hit.life().ctl.compare_exchange(hit.ctl, next)
        && (next ^ hit.ctl) & ctl::ACTIVE != 0
        && hit.dest & bound::NO_DEST == 0
        && let Some(dest) = t.dest(hit.dest())
    {
        account::set_active(dest, next & ctl::ACTIVE != 0);
        account::changed(t, dest);
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

/// A later connection gets the packets of this one's client. False: another CPU was at the entry all the time.
#[inline(always)]
pub fn leave_replies<F: Ip>(hit: &Hit<'_, F>) -> bool {
    const TRIES: u32 = 8;
    let cell = hit.entry.tag();
    let mut tries = 0;
    while tries < TRIES {
        let word = cell.load();
        if cell.compare_exchange(word, word | tag::EARLIER) {
            return true;
        }
        tries += 1;
    }
    false
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
