//! Fragments. Only the first of a datagram has the ports; it leaves them for the later ones. One that comes before its first
//! is put away until that comes: then all go on.
//!
//! A program in XDP cannot send what it has put away: it has one packet, and cannot make others. It can have copies made of
//! the one it has. So there is a loop, a pair of virtual NICs: a first fragment that others wait for goes once around it.
//! At the far end it is sent back in [`MOST`] + 1 copies; on the way each but the first copy takes one of the waiting ones
//! in its place, or is dropped where none is left. At the near end the balancer runs as on any other NIC.

use crate::addr::{Addr, Family};
use crate::cell::Cell32;
use crate::ip::{Address, Ip};
use crate::packet::Packet;
use crate::parse::{self, Fragment, Seen};
use crate::pipeline::{Step, Workspace};
use crate::reason::{Reason, Verdict};
use crate::tables::Tables;
use crate::wire::Eth;

/// Fragments of one datagram that wait, at the most.
pub const MOST: u32 = 15;
/// Bytes of a frame that waits, at the most. A page has to take it, with what the kernel keeps around it.
pub const LONGEST: u32 = 2048;
/// Seconds a fragment waits, and ports are remembered. Hosts that put datagrams together wait for half a minute; but here it
/// is not known when one is complete, and a sender's identifications come round again.
pub const LIFETIME: u32 = 2;
/// The link-layer address of the loop's near end. Frames are sent there, so that what the balancer lets pass is the stack's.
pub const NEAR_END: [u8; 6] = [0x02, b'l', b'b', 0, 0, 0];

/// Names a datagram in fragments. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragKey {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Its identification, wire order.
    pub id: u32,
    /// Protocol.
    pub proto: u16,
    /// `AF_` number.
    pub family: u16,
}

impl FragKey {
    /// Of a fragment's datagram.
    #[inline(always)]
    pub fn of<F: Ip>(seen: &Seen<F>) -> Self {
        Self {
            src: seen.src.wide(),
            dst: seen.dst.wide(),
            id: seen.id,
            proto: seen.proto.0 as u16,
            family: F::FAMILY as u16,
        }
    }
}

/// What a first fragment leaves for the later ones: `fragments` map. 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source and destination port, see [`Seen::take_ports`].
    pub ports: u32,
    /// When, in ticks.
    pub seen: u32,
}

/// The fragments of a datagram that came before their first: `waiting` map. 16 bytes.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Waiting {
    /// When the first of them came, in ticks.
    since: Cell32,
    /// How many came.
    count: Cell32,
    /// How many copies of the first fragment have asked for one.
    asked: Cell32,
    spare: Cell32,
}

impl Waiting {
    /// None yet.
    pub const fn new() -> Self {
        Self { since: Cell32::new(0), count: Cell32::new(0), asked: Cell32::new(0), spare: Cell32::new(0) }
    }

    /// One more: its number, from 0.
    #[inline(always)]
    pub fn add(&self, now: u32, lifetime: u32) -> u32 {
        // Of an earlier datagram of the same identification.
        if self.asked.load() != 0 || now.wrapping_sub(self.since.load()) > lifetime {
            self.since.store(now);
            self.asked.store(0);
            self.count.store(0);
        }
        self.count.fetch_add(1)
    }

    /// Does any wait?
    #[inline(always)]
    pub fn any(&self, now: u32, lifetime: u32) -> bool {
        self.asked.load() == 0 && self.count.load() != 0 && now.wrapping_sub(self.since.load()) <= lifetime
    }

    /// What a copy of the first fragment has to become: itself (`None`), or the waiting one of this number.
    #[inline(always)]
    pub fn take(&self) -> Option<u32> {
        self.asked.fetch_add(1).checked_sub(1)
    }
}

/// Names a fragment that waits: `held` map. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldKey {
    /// Its datagram.
    pub datagram: FragKey,
    /// Its number among those that wait.
    pub number: u32,
    /// Zero.
    pub spare: u32,
}

/// Exchanges a fragment's ports. `None`: they are in `seen`. Else what is left to do: a later fragment that has none, or a
/// first one that others wait for.
#[inline(always)]
pub(crate) fn join<F: Ip, T: Tables>(t: &T, seen: &mut Seen<F>, ingress: u32) -> Option<Step> {
    match exchange(t, seen) {
        EARLY => Some(Step::early()),
        // Once around the loop is enough.
        AWAITED if ingress != t.settings().loop_ends[0].load() => Some(Step::awaited()),
        _ => None,
    }
}

/// Exchanges ports where fragments come in their order. False: there are none.
#[inline(always)]
pub(crate) fn ported<F: Ip, T: Tables>(t: &T, seen: &mut Seen<F>) -> bool {
    exchange(t, seen) != EARLY
}

const EARLY: u32 = 1;
const AWAITED: u32 = 2;

/// Does it have its ports afterwards? [`EARLY`]: no. [`AWAITED`]: yes, and now the others can have them too.
#[inline(never)]
fn exchange<F: Ip, T: Tables>(t: &T, seen: &mut Seen<F>) -> u32 {
    let key = FragKey::of(seen);
    let lifetime = t.settings().ticks(LIFETIME);
    if seen.fragment == Fragment::First {
        let ports = seen.sport.wire() as u32 | (seen.dport.wire() as u32) << 16;
        t.fragment_put(&key, &Ports { ports, seen: seen.now });
        let awaited = t.waiting(&key, |waiting| waiting.any(seen.now, lifetime));
        return if awaited == Some(true) { AWAITED } else { 0 };
    }
    match fresh(t, &key, seen.now, lifetime) {
        Some(ports) => {
            seen.take_ports(ports);
            0
        }
        None => EARLY,
    }
}

/// The ports, unless they are an earlier datagram's of the same identification.
#[inline(always)]
fn fresh<T: Tables>(t: &T, key: &FragKey, now: u32, lifetime: u32) -> Option<u32> {
    t.fragment_get(key).filter(|left| now.wrapping_sub(left.seen) <= lifetime).map(|left| left.ports)
}

/// [`crate::reason::Stage::Wait`]: does what the other stages left to do for a fragment.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    if space.family == Family::V4 as u32 {
        finish(p, t, &space.v4.seen, space.rest)
    } else {
        finish(p, t, &space.v6.seen, space.rest)
    }
}

#[inline(always)]
fn finish<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>, rest: Step) -> Verdict {
    let [near, far] = &t.settings().loop_ends;
    // Tags are left to those who come in order: the loop's end is in no VLAN.
    if near.load() == 0 || seen.l3 != size_of::<Eth>() as u32 || !readdress(p) {
        return Reason::FragmentUnknown.into();
    }
    if rest.is(Step::AWAITED) {
        return Verdict::sent(Reason::FragmentAwaited, near.load(), 0);
    }
    // The loop brings nothing that has no ports, but for what the maps have lost meanwhile.
    if p.ingress() == near.load() {
        return Reason::FragmentUnknown.into();
    }
    let lifetime = t.settings().ticks(LIFETIME);
    let key = HeldKey { datagram: FragKey::of(seen), number: number(t, seen, lifetime), spare: 0 };
    if key.number >= MOST || p.has(LONGEST + 1) || !t.hold(p, &key) {
        return Reason::FragmentUnknown.into();
    }
    // Either the first fragment, on another CPU, finds that this one waits, or this one finds its ports.
    if fresh(t, &key.datagram, seen.now, lifetime).is_some() && t.unhold(&key) {
        return Verdict::sent(Reason::FragmentBack, far.load(), 0);
    }
    Reason::FragmentHeld.into()
}

/// Sends the frame to the loop's near end, should that pass it up.
#[inline(always)]
fn readdress<P: Packet>(p: &mut P) -> bool {
    let Some(eth) = p.at_mut::<Eth>(0) else { return false };
    eth.dst = NEAR_END;
    true
}

/// The number of one that begins to wait.
#[inline(always)]
fn number<F: Ip, T: Tables>(t: &T, seen: &Seen<F>, lifetime: u32) -> u32 {
    let key = FragKey::of(seen);
    let add = |waiting: &Waiting| waiting.add(seen.now, lifetime);
    if let Some(number) = t.waiting(&key, add) {
        return number;
    }
    t.waiting_make(&key);
    t.waiting(&key, add).unwrap_or(MOST)
}

/// What a copy of a first fragment has to become, on its way around the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// What it is.
    Itself,
    /// A fragment that waits.
    Held(HeldKey),
    /// Nothing: none is left.
    Nothing,
}

/// Asks for a copy of a first fragment. `seen`: room to take it apart.
#[inline(always)]
pub fn turn<F: Ip, P: Packet, T: Tables>(p: &P, t: &T, l3: u32, seen: &mut Seen<F>) -> Turn {
    let Some(Ok(taken)) = p.at(l3).map(|header| parse::ip::<F, P>(p, l3, header, t.now())) else {
        return Turn::Nothing;
    };
    *seen = taken;
    let datagram = FragKey::of(seen);
    match t.waiting(&datagram, Waiting::take) {
        Some(None) => Turn::Itself,
        Some(Some(number)) => Turn::Held(HeldKey { datagram, number, spare: 0 }),
        None => Turn::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_copy_is_the_first_fragment() {
        let waiting = Waiting::new();
        assert!(!waiting.any(100, 30));
        assert_eq!([waiting.add(100, 30), waiting.add(130, 30)], [0, 1]);
        assert!(waiting.any(130, 30) && !waiting.any(131, 30));
        assert_eq!([waiting.take(), waiting.take(), waiting.take()], [None, Some(0), Some(1)]);
        // They are gone: the first fragment goes on.
        assert!(!waiting.any(130, 30));
        // Another datagram of that identification.
        assert_eq!(waiting.add(131, 30), 0);
        assert_eq!(waiting.add(162, 30), 0, "the other one is too old");
    }
}
