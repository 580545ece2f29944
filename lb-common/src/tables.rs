//! The tables: the other thing the pass asks of its surroundings.
//!
//! The kernel program implements [`Tables`] over BPF maps, the host engine over ordinary memory. References point
//! into shared memory: what they lead to is cells, and may change under any of them.

use core::ops::ControlFlow;

use crate::addr::{Addr, Family};
use crate::admit::{self, Question};
use crate::cell::{Cell32, Cell64};
use crate::defence;
use crate::dest::{Dest, Hop, SharedHop};
use crate::estimate::{self, Rate};
use crate::forward;
use crate::fragments::{FragKey, HeldKey, Ports, Waiting};
use crate::ip::{Address as _, Ip, filter_bit};
use crate::local::{Other, Peer};
use crate::mark::MarkRule;
use crate::packet::Packet;
use crate::parse::Seen;
use crate::persist;
use crate::pipeline::{Step, Work};
use crate::probe::{Probe, ProbeKey};
use crate::reason::Reason;
use crate::recent::Recent;
use crate::sched::{CacheKey, Cached, tree};
use crate::service::{SchedState, Service, ServiceKey};
use crate::settings::Settings;
use crate::sip::Call;
use crate::siphash::Key;
use crate::table::{self, Birth, Inserted, Insertion, Place, Wanted};

/// The loopback device's number, the same in every namespace: routes asked for from there are those of locally made
/// packets. The kernel answers only while `net.ipv{4,6}.conf.lo.forwarding` is on; attaching switches it on.
pub const LOOPBACK: u32 = 1;

/// Bits of an address's place in the filter: 65,536 bits, 8 KB.
pub const FILTER_BITS: u32 = 16;

/// Layout version of all maps together. A binary never reads maps of another version as its own.
pub const LAYOUT: u32 = 17;

/// The way asked for.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery {
    /// Where to.
    pub to: Addr,
    /// On whose behalf: a source address for policy routing; zero for the balancer's own.
    pub from: Addr,
    /// NIC the packet came in by, or [`LOOPBACK`] for packets the balancer itself sends, as IPVS does to dests.
    pub ingress: u32,
    /// Family of `to`.
    pub family: Family,
    /// Is a source address wanted (tunnels)?
    pub source: bool,
}

/// Which way a packet counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    In,
    /// From the server.
    Out,
}

/// Which template a connection was made through: `controls` map, keyed by [`control_key`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The template's slot.
    pub template: u32,
    /// The generation part of the template's control word then.
    pub identity: u32,
}

impl Control {
    /// Of a connection without a template.
    pub const NONE: Self = Self { template: u32::MAX, identity: 0 };
}

/// The key of a connection's row: its slot and the generation part of its control word. A slot alone would not do: the
/// next connection may take it before the last one's row is gone.
#[inline(always)]
pub const fn control_key(slot: u32, identity: u32) -> u64 {
    slot as u64 | (identity as u64) << 32
}

/// Counters of one dest on one CPU. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets from clients.
    pub inpkts: u64,
    /// Packets from the server.
    pub outpkts: u64,
    /// Bytes from clients, IP header on.
    pub inbytes: u64,
    /// Bytes from the server.
    pub outbytes: u64,
}

impl Counters {
    /// Connections, packets in and out, bytes in and out.
    #[inline(always)]
    pub fn words(&self) -> [u64; 5] {
        [self.conns, self.inpkts, self.outpkts, self.inbytes, self.outbytes]
    }

    /// Sum of both.
    #[inline(always)]
    pub fn plus(self, o: Self) -> Self {
        Self {
            conns: self.conns.wrapping_add(o.conns),
            inpkts: self.inpkts.wrapping_add(o.inpkts),
            outpkts: self.outpkts.wrapping_add(o.outpkts),
            inbytes: self.inbytes.wrapping_add(o.inbytes),
            outbytes: self.outbytes.wrapping_add(o.outbytes),
        }
    }

    /// This less `o`, for counters relative to a snapshot.
    pub fn since(self, o: Self) -> Self {
        Self {
            conns: self.conns.wrapping_sub(o.conns),
            inpkts: self.inpkts.wrapping_sub(o.inpkts),
            outpkts: self.outpkts.wrapping_sub(o.outpkts),
            inbytes: self.inbytes.wrapping_sub(o.inbytes),
            outbytes: self.outbytes.wrapping_sub(o.outbytes),
        }
    }
}

/// The address filter: ahead of everything else.
pub trait Filter {
    /// Which of these bits of it are set? Bit 0 of the answer is for the first one, and so on.
    fn known_each<const N: usize>(&self, bits: [u32; N]) -> u32;
    /// Is this bit of it set?
    #[inline(always)]
    fn known(&self, bit: u32) -> bool {
        self.known_each([bit]) != 0
    }
    /// Which of a packet's addresses are worth a look?
    #[inline(always)]
    fn known_ends<F: Ip>(&self, header: &F::Header) -> Ends {
        let ends = [F::destination(header), F::source(header)];
        Ends(self.known_each(ends.map(|a| filter_bit(F::FAMILY, a.mixed()))))
    }
}

/// Which of a packet's addresses are worth a look: one word, asked again and again on its way.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends(u32);

impl Ends {
    /// Is one of them?
    #[inline(always)]
    pub const fn any(self) -> bool {
        self.0 != 0
    }
    /// Is the destination?
    #[inline(always)]
    pub const fn to(self) -> bool {
        self.0 & 1 != 0
    }
    /// Is the source?
    #[inline(always)]
    pub const fn from(self) -> bool {
        self.0 & 2 != 0
    }
}

/// Maps, clock, randomness and routes.
pub trait Tables: Filter {
    /// Are these the tables of a program that most packets are done with? Short cuts are taken there; elsewhere they would only be
    /// more for the kernel's verifier to follow.
    const SHORT_CUTS: bool = true;
    /// The clock: ticks, [`Settings::hz`] a second, wrapping.
    fn now(&self) -> u32;
    /// The monotonic clock in seconds.
    fn seconds(&self) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// The settings.
    fn settings(&self) -> &Settings;
    /// The secret of keyed hashes.
    fn secret(&self) -> Key;

    /// The service with this key.
    fn service(&self, key: &ServiceKey) -> Option<&Service>;
    /// A mark rule.
    fn mark_rule(&self, at: u32) -> Option<&MarkRule>;
    /// A service's scheduler memory.
    fn sched(&self, service: u32) -> Option<&SchedState>;
    /// A word of the lists: dest numbers, scheduler tables, trees.
    fn list_cell(&self, at: u32) -> Option<&Cell64>;
    /// The number in a word of the lists.
    #[inline(always)]
    fn list(&self, at: u32) -> Option<u32> {
        Some(self.list_cell(at)?.load() as u32)
    }
    /// A dest slot.
    fn dest(&self, dest: u32) -> Option<&Dest>;
    /// What lblc or lblcr remembers of an address.
    fn cached(&self, key: &CacheKey) -> Option<&Cached>;
    /// Makes an empty entry, in the place of the one there is. When all are taken, one not used lately makes room; its
    /// memory may be lent to another address under a reader, who then finds or leaves a dest that was good for that one.
    fn cache_make(&self, key: &CacheKey) -> Option<&Cached>;

    /// Number of buckets less one, a mask.
    fn bucket_mask<F: Ip>(&self) -> u32;
    /// A bucket.
    fn bucket<F: Ip>(&self, n: u32) -> Option<&F::Bucket>;
    /// A bucket that another ran over into, by its number ([`table::further`]).
    fn overflow<F: Ip>(&self, n: u32) -> Option<&F::Bucket>;
    /// Makes such a bucket, empty, or finds it. `None`: no more of them.
    fn overflow_make<F: Ip>(&self, n: u32) -> Option<&F::Bucket>;
    /// Gives such a bucket back.
    fn overflow_drop<F: Ip>(&self, n: u32);
    /// How many further buckets are in use; whoever makes or drops one counts it.
    fn overflow_used<F: Ip>(&self) -> Option<&Cell32>;
    /// Notes which template a connection depends on. False: no room.
    fn control_put(&self, key: u64, control: &Control) -> bool;
    /// The note.
    fn control_get(&self, key: u64) -> Option<Control>;
    /// Takes the note back out.
    fn control_take(&self, key: u64) -> Option<Control>;
    /// Notes whose call a template is for. False: no room.
    fn call_put(&self, key: u64, call: &Call) -> bool;
    /// Is the template for this call? Yes while nothing is noted yet: its key has the hash of it.
    fn call_is(&self, key: u64, call: &Call) -> bool;
    /// Takes the note back out.
    fn call_drop(&self, key: u64);
    /// What a socket on the balancer itself takes its peer for, or what it really is.
    fn local_peer(&self, peer: &Peer) -> Option<Other>;
    /// Remembers the ports of a first fragment.
    fn fragment_put(&self, key: &FragKey, ports: &Ports);
    /// The ports of a fragment's datagram.
    fn fragment_get(&self, key: &FragKey) -> Option<Ports>;
    /// Asks about the fragments that wait for their first. `None`: none ever did, or the map has lost them.
    fn waiting<R>(&self, key: &FragKey, ask: impl FnOnce(&Waiting) -> R) -> Option<R>;
    /// Makes room to count them.
    fn waiting_make(&self, key: &FragKey);
    /// Puts a copy of the frame away, of [`crate::fragments::LONGEST`] bytes at the most. False: it cannot be.
    fn hold<P: Packet>(&self, p: &P, key: &HeldKey) -> bool;
    /// Throws it away. False: it is gone.
    fn unhold(&self, key: &HeldKey) -> bool;

    /// What is known of a check's socket.
    fn probe(&self, key: &ProbeKey) -> Option<&Probe>;

    /// Counts a packet of `bytes`.
    fn count(&self, dest: u32, direction: Direction, bytes: u32);
    /// Counts a connection scheduled.
    fn count_conn(&self, dest: u32);
    /// A dest's counters, those of all CPUs together.
    fn counters(&self, dest: u32) -> Counters;
    /// An estimator, by its place: see [`crate::estimate`].
    fn rate(&self, place: u32) -> Option<&Rate>;
    /// Asks the kernel for a way and writes it to `into`.
    fn route(&self, query: &RouteQuery, into: &SharedHop) -> Result<(), Reason>;
    /// The way to a client, remembered for about a second. `from`: on behalf of which address; `ingress`: as in
    /// [`RouteQuery`].
    fn route_to_client<F: Ip>(&self, to: &F::Addr, from: &F::Addr, ingress: u32) -> Result<Hop, Reason>;

    /// [`admit::lookup`], which may have gone on to [`admit::pick`]. These are functions of their own in the kernel program,
    /// each verified once.
    fn lookup<F: Ip>(&self, work: &mut Work<F>, question: &mut Question, recent: &mut Recent) -> Step
    where
        Self: Sized,
    {
        admit::lookup(self, work, question, recent)
    }
    /// [`persist::by_call`].
    fn call<F: Ip, P: Packet>(&self, p: &P, work: &mut Work<F>, question: &mut Question) -> Step
    where
        Self: Sized,
    {
        persist::by_call(p, self, work, question)
    }
    /// [`admit::pick`].
    fn pick(&self, question: &Question) -> Step
    where
        Self: Sized,
    {
        admit::pick(self, question)
    }
    /// [`admit::open`].
    fn open<F: Ip>(&self, work: &mut Work<F>, question: &Question, dest: u32) -> Step
    where
        Self: Sized,
    {
        admit::open(self, work, question, dest)
    }
    /// [`forward::newcomer`].
    fn forward_newcomer<F: Ip, P: Packet>(&self, p: &mut P, seen: &Seen<F>, word: u32, is_bound: bool) -> Step
    where
        Self: Sized,
    {
        forward::newcomer(p, self, seen, word, is_bound)
    }
    /// [`table::bury`].
    fn bury(&self, tag: u32, ctl: u32, dest: u32, slot: u32, now: u32) -> u32
    where
        Self: Sized,
    {
        table::bury(self, tag, ctl, dest, slot, now)
    }
    /// [`table::claim`].
    fn claim<F: Ip>(&self, new: &Insertion<F>, nth: u32, least: u32) -> u64
    where
        Self: Sized,
    {
        table::claim(self, new, nth, least)
    }
    /// [`table::insert`].
    fn insert<F: Ip>(&self, wanted: &Wanted<F>, place: Place, birth: Birth, control: Control) -> Inserted
    where
        Self: Sized,
    {
        table::insert::<_, _, false>(self, &Insertion { wanted: *wanted, birth, place, control })
    }

    /// [`Tables::insert`] where most newcomers go through.
    #[inline(always)]
    fn insert_newcomer<F: Ip>(
        &self,
        wanted: &Wanted<F>,
        place: Place,
        birth: Birth,
        control: Control,
    ) -> Inserted
    where
        Self: Sized,
    {
        table::insert::<_, _, true>(self, &Insertion { wanted: *wanted, birth, place, control })
    }

    /// [`table::retire`].
    fn retire<F: Ip>(&self, slot: u32, why: u32) -> u32
    where
        Self: Sized,
    {
        table::retire::<F, Self>(self, slot, why)
    }
    /// [`estimate::dest`].
    fn estimate_dest(&self, number: u32, seconds: u32)
    where
        Self: Sized,
    {
        estimate::dest(self, number, seconds);
    }
    /// [`defence::thin_out`].
    fn thin_out<F: Ip>(&self, bucket: u32)
    where
        Self: Sized,
    {
        defence::thin_out::<F, Self>(self, bucket);
    }
    /// [`tree::winner`].
    fn tree_winner(&self, base: u32) -> u32
    where
        Self: Sized,
    {
        tree::winner(self, base)
    }
    /// [`tree::climb`].
    fn tree_climb(&self, base: u32, leaf: u32)
    where
        Self: Sized,
    {
        tree::climb(self, base, leaf);
    }
    /// [`tree::play`].
    fn tree_play(&self, record: u32)
    where
        Self: Sized,
    {
        tree::play(self, record);
    }
    /// [`tree::touch`].
    fn tree_touch(&self, record: u32)
    where
        Self: Sized,
    {
        tree::touch(self, record);
    }

    /// Runs `step` for 0, 1, … until it breaks or `count` is reached.
    fn repeat<A>(&self, count: u32, acc: &mut A, step: impl Fn(&Self, &mut A, u32) -> ControlFlow<()>);
}

/// Sets a cell only if that changes it: a line that stays clean is not sent between CPUs.
#[inline(always)]
pub fn refresh(cell: &Cell32, value: u32) {
    if cell.load() != value {
        cell.store(value);
    }
}
