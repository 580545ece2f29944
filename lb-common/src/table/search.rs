//! Finding an entry, by the client's side or the server's.

use super::chain::{FURTHER, SLOT_OVERFLOW, further, runs_over};
use super::template::held;
use super::{Hit, Place, base, expired};
use crate::conn::{Entry, Life, Ways, bound, ctl};
use crate::dest::Method;
use crate::flow::Flow;
use crate::ip::{Address, Ip};
use crate::settings::Settings;
use crate::tables::Tables;

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
    place: Place,
    from: u32,
    wanted: &Wanted<F>,
) -> u64 {
    let mut i = from;
    while i < F::Entry::WAYS {
        let way = place.way::<F>(i);
        let found = probe::<F, T, REPLY>(t, bucket.way(way), wanted);
        if found != 0 {
            return (found as u64) << 32 | way as u64;
        }
        i += 1;
    }
    NOWHERE
}

/// The entry's control word if it is live, in time and the one wanted; else 0. [`hit`] asks whether it is so still.
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
    // What was compared is known: the protocol, and of a packet's connection that it is no template.
    let known = if REPLY { flow.proto.0 as u32 } else { wanted.tag };
    let tag_word = if T::SHORT_CUTS { known } else { entry.tag().load() };
    if in_time(t.settings(), tag_word, life, word, wanted.now) { word } else { 0 }
}

/// Has the entry's time not run out, or do others depend on it?
#[inline(always)]
pub(super) fn in_time(settings: &Settings, tag_word: u32, life: &Life, ctl_word: u32, now: u32) -> bool {
    !expired(settings, tag_word, ctl_word, life.last.load(), now) || held(tag_word, life)
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

/// Looks through a place, further buckets included.
#[inline(always)]
pub fn search<'a, F: Ip, T: Tables, const REPLY: bool>(
    t: &'a T,
    place: Place,
    wanted: &Wanted<F>,
) -> Option<Hit<'a, F>> {
    let bucket = t.bucket::<F>(place.bucket)?;
    at_home::<F, T, REPLY>(t, bucket, place, wanted)
        .or_else(|| elsewhere::<F, T, REPLY>(t, bucket, place, wanted))
}

/// As [`search`], keeping what is wanted in `memory` if it comes to looking further. Nearly always it does not: then all
/// stays in registers.
#[inline(always)]
pub fn search_keeping<'a, F: Ip, T: Tables, const REPLY: bool>(
    t: &'a T,
    place: Place,
    wanted: Wanted<F>,
    memory: &mut Wanted<F>,
) -> Option<Hit<'a, F>> {
    let bucket = t.bucket::<F>(place.bucket)?;
    at_home::<F, T, REPLY>(t, bucket, place, &wanted).or_else(|| {
        *memory = wanted;
        elsewhere::<F, T, REPLY>(t, bucket, place, memory)
    })
}

/// Ways [`at_home`] looks at.
const NEAR: u32 = 2;

/// Is it at home or next to it, where it is nearly always? No call then.
#[inline(always)]
fn at_home<'a, F: Ip, T: Tables, const REPLY: bool>(
    t: &T,
    bucket: &'a F::Bucket,
    place: Place,
    wanted: &Wanted<F>,
) -> Option<Hit<'a, F>> {
    let mut way = place.way::<F>(0);
    let mut found = probe::<F, T, REPLY>(t, bucket.way(way), wanted);
    if found == 0 {
        way = place.way::<F>(1);
        found = probe::<F, T, REPLY>(t, bucket.way(way), wanted);
    }
    if found == 0 {
        return None;
    }
    hit(bucket, (found as u64) << 32 | way as u64, base::<F>(place.bucket))
}

/// Looks through the rest of a place.
#[inline(always)]
fn elsewhere<'a, F: Ip, T: Tables, const REPLY: bool>(
    t: &'a T,
    bucket: &'a F::Bucket,
    place: Place,
    wanted: &Wanted<F>,
) -> Option<Hit<'a, F>> {
    let found = search_bucket::<F, T, REPLY>(t, bucket, place, NEAR, wanted);
    if found != NOWHERE {
        return hit(bucket, found, base::<F>(place.bucket));
    }
    let (mut before, mut nth) = (bucket, 1);
    while nth <= FURTHER && runs_over::<F>(before) {
        let n = further(place.bucket, nth);
        let next = t.overflow::<F>(n)?;
        let found = search_bucket::<F, T, REPLY>(t, next, place, 0, wanted);
        if found != NOWHERE {
            return hit(next, found, base::<F>(n) | SLOT_OVERFLOW);
        }
        (before, nth) = (next, nth + 1);
    }
    None
}

/// The entry found, if it is still the same when its dest has been read: it may have had to make way to another flow.
#[inline(always)]
fn hit<F: Ip>(bucket: &F::Bucket, found: u64, base: u32) -> Option<Hit<'_, F>> {
    let way = found as u32;
    let entry = bucket.way(way);
    let hit = Hit { entry, ctl: (found >> 32) as u32, dest: entry.life().dest.load(), slot: base + way };
    hit.current().then_some(hit)
}
