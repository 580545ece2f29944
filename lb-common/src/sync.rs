//! Connections of which another director tells: what becomes of one here, by the rules of IPVS's backup.
//!
//! The control side has read the message and looked the dest up; this makes the entry or brings it up to date. It never
//! schedules, and what it makes is not counted as a connection scheduled.

use crate::addr::{Addr, Port, Proto};
use crate::conn::{Entry, bound, ctl, packets, tag};
use crate::dest::{Dest, Method};
use crate::flow::Flow;
use crate::ip::{Address, Ip};
use crate::reason::Reason;
use crate::sip::Call;
use crate::state::udp;
use crate::table::{self, Birth, Hit, Inserted, Insertion, Wanted};
use crate::tables::{Control, Tables};

/// Bits of [`Synced::flags`]: those of a sync message that mean something here, IPVS's own numbers.
pub mod flags {
    /// The method's number.
    pub const METHOD: u32 = 7;
    /// No packet of the server has been seen.
    pub const NO_OUTPUT: u32 = 0x80;
    /// Not counted among the dest's active connections.
    pub const INACTIVE: u32 = 0x100;
    /// The client's port is not known yet.
    pub const NO_CPORT: u32 = 0x800;
    /// A persistence template.
    pub const TEMPLATE: u32 = 0x1000;
    /// A connection of one packet.
    pub const ONE_PACKET: u32 = 0x2000;
}

/// [`Synced::dest`]: the server is not one of ours.
pub const NO_DEST: u32 = u32::MAX;
/// Timeout of a template of which the message does not say it, in seconds.
const TEMPLATE_TIMEOUT: u32 = 180;
/// The longest a template can last, in seconds.
const LONGEST: u32 = 31 * 86_400;
/// The most a connection lasts, in ticks: half of what ages may be.
const MOST_TICKS: u32 = 1 << 30;

/// A connection or template as another director has it. 88 bytes, as in a request to the `lb_control` program.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// The client; masked for a template.
    pub client: Addr,
    /// The virtual address; the mark for a template of a mark service.
    pub vaddr: Addr,
    /// The server's address.
    pub daddr: Addr,
    /// The client's port.
    pub cport: Port,
    /// The virtual port.
    pub vport: Port,
    /// The server's port.
    pub dport: Port,
    /// The protocol; 0 for a template of a mark service.
    pub proto: Proto,
    /// `AF_` number.
    pub family: u8,
    /// The dest's number, or [`NO_DEST`].
    pub dest: u32,
    /// Number of the service the dest was found in.
    pub service: u32,
    /// [`flags`].
    pub flags: u32,
    /// The protocol's state, or a template's.
    pub state: u32,
    /// How long it lasts from now on, in seconds; 0 = as long as its state does here.
    pub timeout: u32,
    /// [`bound`] bits beside dest and method.
    pub how: u32,
    /// 1 for a template of a persistence engine: its [`Call`] follows.
    pub engine: u32,
    /// [`Outcome`], written by whoever takes it in.
    pub outcome: u32,
}

const _: () = assert!(core::mem::size_of::<Synced>() == Synced::SIZE);

/// What became of it.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new entry.
    Made = 1,
    /// The entry was there, and is up to date now.
    Refreshed = 2,
    /// The end of a connection that another one has replaced since.
    Stale = 3,
    /// The server is not, or no longer, the dest it was looked up as: it has to be looked up again.
    NoDest = 4,
    /// No room in the table.
    Full = 5,
    /// Somebody else was at the same bucket.
    Busy = 6,
}

impl Outcome {
    /// By number.
    pub const fn from_number(n: u32) -> Option<Self> {
        Some(match n {
            1 => Self::Made,
            2 => Self::Refreshed,
            3 => Self::Stale,
            4 => Self::NoDest,
            5 => Self::Full,
            6 => Self::Busy,
            _ => return None,
        })
    }
}

impl Synced {
    /// Bytes of one.
    pub const SIZE: usize = 88;
    /// Where [`Synced::outcome`] lies in them.
    pub const OUTCOME: usize = 84;

    /// As it lies in memory.
    pub fn bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (ends, words) = bytes.split_at_mut(56);
        for (to, addr) in ends.chunks_exact_mut(16).zip([self.client, self.vaddr, self.daddr]) {
            to.copy_from_slice(&addr.0);
        }
        for (to, port) in ends[48..54].chunks_exact_mut(2).zip([self.cport, self.vport, self.dport]) {
            to.copy_from_slice(&port.wire().to_ne_bytes());
        }
        (ends[54], ends[55]) = (self.proto.0, self.family);
        let all = [self.dest, self.service, self.flags, self.state, self.timeout, self.how, self.engine, 0];
        for (to, word) in words.chunks_exact_mut(4).zip(all) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// A template?
    #[inline(always)]
    pub const fn is_template(&self) -> bool {
        self.flags & flags::TEMPLATE != 0
    }
    /// Does it bypass the dests (cache_bypass)?
    #[inline(always)]
    pub const fn bypasses(&self) -> bool {
        self.flags & flags::METHOD == Method::Bypass as u32
    }
    /// Counted as active?
    #[inline(always)]
    const fn active(&self) -> u32 {
        if self.flags & (flags::INACTIVE | flags::TEMPLATE) == 0 { ctl::ACTIVE } else { 0 }
    }
    /// The state as the table has it.
    #[inline(always)]
    fn state(&self) -> u32 {
        let one = !self.is_template() && self.proto != Proto::TCP && self.proto != Proto::SCTP;
        if one { udp::CONFIRMED as u32 } else { self.state & ctl::STATE }
    }
}

/// Makes the entry, or brings it up to date. `call`: of a template of a persistence engine.
pub fn adopt<F: Ip, T: Tables>(t: &T, synced: &Synced, call: &Call) -> Outcome {
    match prepare::<F, T>(t, synced, call) {
        Ok(new) => {
            let inserted = t.insert::<F>(&new.wanted, new.place, new.birth, new.control);
            made::<F, T>(t, synced, call, inserted)
        }
        Err(outcome) => outcome,
    }
}

/// The first half of [`adopt`]: an entry that is there is brought up to date; else what is to be inserted. The kernel
/// program does the rest when this has left its stack.
#[inline(always)]
pub fn prepare<F: Ip, T: Tables>(t: &T, synced: &Synced, call: &Call) -> Result<Insertion<F>, Outcome> {
    let wanted = wanted::<F, T>(t, synced, call);
    let place = table::place::<F, T>(t, &wanted.flow.client, wanted.flow.cport, wanted.flow.proto);
    if let Some(hit) = table::search::<F, T, false>(t, place, &wanted) {
        if synced.engine != 0 && !t.call_is(hit.key(), call) {
            return Err(Outcome::Full);
        }
        if synced.is_template() {
            return Err(renew(t, &hit, synced, wanted.now));
        }
        if is_same(t, &hit, synced) {
            return Err(refresh(t, &hit, synced, wanted.now));
        }
        // The end of a connection that was replaced already.
        if synced.flags & flags::INACTIVE != 0 {
            return Err(Outcome::Stale);
        }
        table::remove(t, &hit, wanted.now);
    }
    let birth = birth::<F, T>(t, synced, wanted.now).ok_or(Outcome::NoDest)?;
    Ok(Insertion { wanted, birth, place, control: Control::NONE })
}

/// The second half: what the insertion came to.
#[inline(always)]
pub fn made<F: Ip, T: Tables>(t: &T, synced: &Synced, call: &Call, inserted: Inserted) -> Outcome {
    match inserted.slot() {
        Ok(slot) if synced.engine != 0 && inserted.is_new() => note::<F, T>(t, slot, call),
        Ok(_) => Outcome::Made,
        Err(reason) if reason == Reason::TableFull as u32 => Outcome::Full,
        Err(_) => Outcome::Busy,
    }
}

#[inline(always)]
fn wanted<F: Ip, T: Tables>(t: &T, synced: &Synced, call: &Call) -> Wanted<F> {
    let template = if synced.is_template() { tag::TEMPLATE } else { 0 };
    let mut wanted = Wanted {
        flow: Flow {
            client: F::Addr::narrow(&synced.client),
            vaddr: F::Addr::narrow(&synced.vaddr),
            cport: synced.cport,
            vport: synced.vport,
            proto: synced.proto,
        },
        tag: synced.proto.0 as u32 | template,
        now: t.now(),
    };
    if synced.engine != 0 {
        let hash = call.hash(t);
        wanted.flow.client = F::Addr::from_hash(hash);
        wanted.flow.cport = Port::from_wire((hash >> 32) as u16);
        wanted.tag |= tag::ENGINE;
    }
    wanted
}

/// Does the entry lead to the server the message names?
#[inline(always)]
fn is_same<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, synced: &Synced) -> bool {
    if hit.dest & bound::NO_DEST != 0 || synced.bypasses() {
        return hit.dest & bound::NO_DEST != 0 && synced.bypasses();
    }
    let Some(dest) = t.dest(hit.dest()) else { return false };
    let port = dest.port_of(hit.dest, synced.vport);
    port == synced.dport && F::Addr::narrow(&dest.address()) == F::Addr::narrow(&synced.daddr)
}

/// A connection that is there: state, activity and clock are the message's. The count of its own packets starts anew: what
/// another director tells of is not told on.
#[inline(always)]
fn refresh<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, synced: &Synced, now: u32) -> Outcome {
    let kept = hit.ctl & (ctl::IDENTITY | ctl::NO_OUTPUT);
    table::turn(t, hit, kept | synced.state() | synced.active());
    let life = hit.life();
    life.last.store(last(t, synced, now));
    let word = life.packets.load();
    if word & packets::NONE != 0 {
        life.packets.compare_exchange(word, word & !packets::COUNT);
    }
    Outcome::Refreshed
}

/// A template that is there keeps its dest.
#[inline(always)]
fn renew<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, synced: &Synced, now: u32) -> Outcome {
    hit.life().ctl.compare_exchange(hit.ctl, hit.ctl & !ctl::STATE | synced.state());
    table::set_template_timeout(t, hit.entry.tag(), hit.life(), lasts(synced), now);
    Outcome::Refreshed
}

/// How long a template lasts, in seconds.
#[inline(always)]
fn lasts(synced: &Synced) -> u32 {
    match synced.timeout {
        0 => TEMPLATE_TIMEOUT,
        given if given > LONGEST => LONGEST,
        given => given,
    }
}

/// A connection's `last`: entries remember when the last packet came, and how long they last follows from their state.
#[inline(always)]
fn last<T: Tables>(t: &T, synced: &Synced, now: u32) -> u32 {
    let full = t.settings().timeout(synced.proto, synced.state()).load();
    let hz = t.settings().hz.load() as u64;
    let given = synced.timeout as u64 * hz;
    let ticks = match synced.timeout {
        0 => full,
        _ if given > MOST_TICKS as u64 => MOST_TICKS,
        _ => given as u32,
    };
    now.wrapping_sub(full).wrapping_add(ticks)
}

/// `None`: the server is not, or no longer, one of ours.
#[inline(always)]
fn birth<F: Ip, T: Tables>(t: &T, synced: &Synced, now: u32) -> Option<Birth> {
    let word = dest_word::<F, T>(t, synced)?;
    let nat = bound::method(word) == Method::Nat as u32 || word & bound::NO_DEST != 0;
    if synced.is_template() {
        let seconds = lasts(synced);
        let (bits, packets) = table::template_bits(seconds);
        let tag = bits | if synced.engine != 0 { tag::ENGINE } else { 0 };
        let last = now.wrapping_add(t.settings().ticks(seconds));
        return Some(Birth { dest: word, tag, ctl: synced.state(), last, packets });
    }
    Some(Birth {
        dest: word,
        tag: 0,
        ctl: synced.state() | synced.active() | if nat { 0 } else { ctl::NO_OUTPUT },
        last: last(t, synced, now),
        packets: packets::NONE,
    })
}

/// The [`bound`] word: the method is the dest's own, not the message's.
#[inline(always)]
fn dest_word<F: Ip, T: Tables>(t: &T, synced: &Synced) -> Option<u32> {
    if synced.bypasses() {
        // Without a service of the family no packet is looked at, and there may be no table.
        return (t.settings().services(F::FAMILY) != 0)
            .then_some(bound::NO_DEST | (Method::Bypass as u32) << bound::METHOD_SHIFT);
    }
    let dest = t.dest(synced.dest)?;
    if !named(dest, synced) {
        return None;
    }
    Some(synced.dest | (dest.method() as u32) << bound::METHOD_SHIFT | synced.how)
}

/// Is the slot still the dest that was looked up?
#[inline(always)]
fn named(dest: &Dest, synced: &Synced) -> bool {
    let (a, b) = (dest.address().words(), synced.daddr.words());
    let differ = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
    dest.available() && dest.service.load() == synced.service && differ == 0
}

/// Notes whose call a new template is for; without room for that the template goes again.
#[inline(always)]
fn note<F: Ip, T: Tables>(t: &T, slot: u32, call: &Call) -> Outcome {
    let Some(template) = table::hit_at::<F, T>(t, slot) else { return Outcome::Busy };
    if t.call_put(template.key(), call) {
        return Outcome::Made;
    }
    table::remove(t, &template, t.now());
    Outcome::Full
}
