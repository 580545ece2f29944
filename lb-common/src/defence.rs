//! What IPVS does where memory runs low: drop entries at random (drop_entry), drop every n-th newcomer (drop_packet), be
//! stricter about TCP (secure_tcp). There a timer looks at the machine's free memory each second. Here memory for
//! connections is set aside beforehand, so what is looked at is how much of that is left, at the end of each round of the
//! sweep.

use core::ops::ControlFlow;

use crate::addr::Proto;
use crate::cell::Cell32;
use crate::conn::{Entry, Life, ctl, packets, tag};
use crate::ip::{Ip, V4, V6};
use crate::settings::Settings;
use crate::state::{sctp::SctpState, tcp::TcpState};
use crate::table::{self, DEPENDANTS, FURTHER, SLOT_OVERFLOW, further};
use crate::tables::Tables;

/// The defence goes on whatever the memory.
pub const ALWAYS: u32 = 3;
/// Goes on when memory is low.
const WAITING: u32 = 1;
/// Is on, because memory is low.
const ALERT: u32 = 2;

/// Bytes of a bucket that count as its connections' memory: a table is meant to be half full at the most.
const ROOM: u64 = 128;
const PAGE: u64 = 4096;

/// Adapts the automatic modes to what is left of the tables' memory. `live`: entries in each.
#[inline(always)]
pub fn judge<T: Tables>(t: &T, live: [u32; 2]) {
    let settings = t.settings();
    let modes = [&settings.drop_entry, &settings.drop_packet, &settings.secure_tcp_mode];
    if !modes.iter().any(|mode| is_automatic(mode)) {
        return;
    }
    let v4 = shortage(settings, t.bucket_mask::<V4>(), live[0] as u64 * 32);
    let v6 = shortage(settings, t.bucket_mask::<V6>(), live[1] as u64 * 64);
    let rate = if v4 != 0 && (v6 == 0 || v4 < v6) { v4 } else { v6 };
    let low = (rate != 0) as u32;
    if adapt(&settings.drop_entry, low) {
        settings.dropping.store(low);
    }
    if adapt(&settings.drop_packet, low) {
        settings.drop_rate.store(rate);
        settings.drop_counter.store(rate);
    }
    if adapt(&settings.secure_tcp_mode, low) {
        settings.secure_tcp.store(low);
    }
}

#[inline(always)]
fn is_automatic(mode: &Cell32) -> bool {
    matches!(mode.load(), WAITING | ALERT)
}

/// 0 while there is enough; else the rate at which newcomers are to be dropped, lower the less is left. IPVS's formula, on
/// amemthresh pages or an eighth of the table, whichever is less.
#[inline(always)]
fn shortage(settings: &Settings, mask: u32, used: u64) -> u32 {
    let whole = (mask as u64 + 1) * ROOM;
    let asked = settings.amemthresh.load() as i32;
    let asked = if asked < 0 { 0 } else { asked as u64 * PAGE };
    let threshold = if asked < whole / 8 { asked } else { whole / 8 };
    let left = whole.saturating_sub(used);
    match threshold.checked_div(threshold.saturating_sub(left)) {
        Some(rate) => rate as u32,
        None => 0,
    }
}

/// An automatic mode shows in its value what it does. False: it is none.
#[inline(always)]
fn adapt(mode: &Cell32, low: u32) -> bool {
    if !is_automatic(mode) {
        return false;
    }
    let next = if low != 0 { ALERT } else { WAITING };
    if mode.load() != next {
        mode.store(next);
    }
    true
}

/// How likely a bucket is to be looked through for entries to drop when the sweep comes by: a number random ones have to
/// be below, 0 while nothing is dropped. IPVS looks through a 32nd of its buckets each second. `ticks`: of the sweep's
/// timer in a round, of which there are 250 a second.
#[inline(always)]
pub fn odds<T: Tables>(t: &T, ticks: u32) -> u32 {
    const ONE_TICK: u64 = (1 << 32) / (250 * 32);
    if t.settings().dropping.load() == 0 {
        return 0;
    }
    let odds = ticks as u64 * ONE_TICK;
    if odds > u32::MAX as u64 { u32::MAX } else { odds as u32 }
}

/// Drops what is to be dropped of a bucket and its further ones.
#[inline(always)]
pub fn thin_out<F: Ip, T: Tables>(t: &T, bucket: u32) {
    let mut n = bucket;
    t.repeat((1 + FURTHER) * F::Entry::WAYS, &mut n, |t, n, i| {
        let base = match i / F::Entry::WAYS {
            0 => table::base::<F>(*n),
            nth => table::base::<F>(further(*n, nth)) | SLOT_OVERFLOW,
        };
        let slot = base | i & (F::Entry::WAYS - 1);
        if let Some(hit) = table::hit_at::<F, T>(t, slot) {
            let now = t.now();
            if drops(t, hit.entry.tag().load(), hit.ctl, hit.life(), now) {
                table::remove(t, &hit, now);
            }
        }
        ControlFlow::Continue(())
    });
}

/// Is this entry one to drop? Half-open ones are, and long idle ones of few packets now and then; templates unless a
/// connection of theirs ever came to life, or one still lives.
#[inline(always)]
fn drops<T: Tables>(t: &T, tag_word: u32, ctl_word: u32, life: &Life, now: u32) -> bool {
    const SYN_RECV: u8 = TcpState::SynRecv as u8;
    const SYNACK: u8 = TcpState::SynAck as u8;
    const ESTABLISHED: u8 = TcpState::Established as u8;
    const INIT1: u8 = SctpState::Init1 as u8;
    const INIT: u8 = SctpState::Init as u8;
    const ASSOCIATED: u8 = SctpState::Established as u8;
    let count = life.packets.load();
    if tag_word & tag::TEMPLATE != 0 {
        return count & DEPENDANTS == 0 && ctl_word & ctl::STATE == 0;
    }
    match (Proto(tag_word as u8), (ctl_word & ctl::STATE) as u8) {
        (Proto::TCP, SYN_RECV | SYNACK) | (Proto::SCTP, INIT1 | INIT) => true,
        (Proto::TCP, ESTABLISHED) | (Proto::SCTP, ASSOCIATED) => is_idle(t, life, count, now),
        (Proto::TCP | Proto::SCTP, _) => false,
        _ => is_idle(t, life, count, now),
    }
}

/// Silent for a minute after one to eight packets from the client: then one in as many. (IPVS counts, here it is chance.)
#[inline(always)]
fn is_idle<T: Tables>(t: &T, life: &Life, count: u32, now: u32) -> bool {
    let age = now.wrapping_sub(life.last.load()) as i32;
    let seen = count.wrapping_sub(packets::NONE);
    age >= t.settings().ticks(60) as i32
        && matches!(seen, 1..=8)
        && (t.random() as u64 * seen as u64) >> 32 == 0
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::host::{HostTables, Sizes};

    /// 64 buckets: 8 KiB, of which the last is short. Entries of 32 bytes.
    fn judged(live: u32, modes: [u32; 3]) -> ([u32; 3], [u32; 3]) {
        let tables = HostTables::new(&Sizes::default());
        let s = tables.settings();
        s.drop_entry.store(modes[0]);
        s.drop_packet.store(modes[1]);
        s.secure_tcp_mode.store(modes[2]);
        judge(&tables, [live, 0]);
        let modes = [s.drop_entry.load(), s.drop_packet.load(), s.secure_tcp_mode.load()];
        (modes, [s.dropping.load(), s.drop_rate.load(), s.secure_tcp.load()])
    }

    #[test]
    fn automatic_modes_follow_the_room_left() {
        assert_eq!(judged(224, [1; 3]), ([1; 3], [0; 3]), "a whole eighth is left");
        assert_eq!(judged(225, [1; 3]), ([2; 3], [1, 32, 1]), "a 32nd of it is missing");
        assert_eq!(judged(240, [2; 3]), ([2; 3], [1, 2, 1]));
        assert_eq!(judged(256, [1; 3]), ([2; 3], [1, 1, 1]), "nothing is left");
        assert_eq!(judged(400, [1; 3]), ([2; 3], [1, 1, 1]));
        assert_eq!(judged(0, [2; 3]), ([1; 3], [0; 3]));
    }

    #[test]
    fn the_other_modes_are_left_alone() {
        assert_eq!(judged(256, [0, 3, 0]), ([0, 3, 0], [0; 3]));
        assert_eq!(judged(256, [0, 0, 1]), ([0, 0, 2], [0, 0, 1]));
    }

    #[test]
    fn amemthresh_is_in_pages() {
        let tables = HostTables::new(&Sizes { buckets: 4096, ..Sizes::default() });
        let s = tables.settings();
        s.drop_entry.store(1);
        s.amemthresh.store(1);
        // 512 KiB, 16,384 entries, of which the last 128 are a page.
        for (live, low) in [(16_256, 0), (16_257, 1)] {
            judge(&tables, [live, 0]);
            assert_eq!(s.dropping.load(), low, "{live}");
        }
    }

    #[test]
    fn who_is_dropped() {
        const NONE: u32 = packets::NONE;
        let tables = HostTables::new(&Sizes::default());
        let life = Life::default();
        let minute = tables.settings().ticks(60);
        let is = |proto: Proto, more: u32, state: u32, count: u32, age: u32| {
            life.packets.store(count);
            life.last.store(1000);
            (0..64).filter(|_| drops(&tables, u32::from(proto.0) | more, state, &life, 1000 + age)).count()
        };
        assert_eq!(is(Proto::TCP, 0, 3, NONE + 1, 0), 64);
        assert_eq!(is(Proto::TCP, 0, 10, NONE + 9, 0), 64);
        assert_eq!(is(Proto::TCP, 0, 4, NONE + 1, minute), 0);
        assert_eq!(is(Proto::TCP, 0, 1, NONE + 1, minute - 1), 0);
        assert_eq!(is(Proto::TCP, 0, 1, NONE + 1, minute), 64);
        assert_eq!(is(Proto::TCP, 0, 1, NONE + 9, minute), 0);
        assert!((1..40).contains(&is(Proto::UDP, 0, 1, NONE + 4, minute)));
        assert_eq!(is(Proto::SCTP, 0, 2, NONE + 1, 0), 64);
        assert_eq!(is(Proto::SCTP, 0, 5, NONE + 1, minute), 0);
        assert_eq!(is(Proto::TCP, tag::TEMPLATE, 0, 0, 0), 64);
        assert_eq!(is(Proto::TCP, tag::TEMPLATE, 0, 1, 0), 0, "a connection depends on it");
        assert_eq!(is(Proto::TCP, tag::TEMPLATE, 1, 0, 0), 0, "assured");
    }
}
