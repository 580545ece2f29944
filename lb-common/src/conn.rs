//! Connections as they lie in memory: control word, entry, bucket.
//!
//! A bucket is 256 bytes: eight IPv4 entries of 32 bytes or four IPv6 entries of 64. The key words of an entry mean
//! something only while its control word says "live"; see [`crate::table`] for who may change what.

use crate::addr::{Port, Proto};
use crate::cell::Cell32;
use crate::flow::Flow;
use crate::ip::{A4, A6};

/// Bits of [`Life::ctl`]: state (0-3), status (4-5), active (6), no-output (7), generation (8-31).
pub mod ctl {
    /// The protocol's state.
    pub const STATE: u32 = 0xf;
    /// Status field.
    pub const STATUS: u32 = 3 << 4;
    /// Free: the key means nothing.
    pub const FREE: u32 = 0;
    /// Being written by whoever made it busy.
    pub const BUSY: u32 = 1 << 4;
    /// A connection.
    pub const LIVE: u32 = 2 << 4;
    /// Counted among its dest's active connections.
    pub const ACTIVE: u32 = 1 << 6;
    /// No packet from the server has been seen (IPVS's NOOUTPUT): the state machine goes by the client alone.
    pub const NO_OUTPUT: u32 = 1 << 7;
    /// One step of the generation.
    pub const GENERATION: u32 = 1 << 8;
    /// The part that says "still the same connection".
    pub const IDENTITY: u32 = !(STATE | ACTIVE | NO_OUTPUT);

    /// The next generation of an entry, in another status.
    #[inline(always)]
    pub const fn reborn(ctl: u32, status_and_rest: u32) -> u32 {
        ((ctl & !0xff).wrapping_add(GENERATION)) | status_and_rest
    }
    /// Is it a connection?
    #[inline(always)]
    pub const fn is_live(ctl: u32) -> bool {
        ctl & STATUS == LIVE
    }
}

/// Bits of [`Life::dest`]: the dest's number and how this connection uses it.
pub mod bound {
    /// The dest's number.
    pub const DEST: u32 = 0x000f_ffff;
    /// The forwarding method, copied when the connection was made.
    pub const METHOD_SHIFT: u32 = 20;
    /// The dest is addressed on the packet's own port, not on the dest's.
    pub const KEEP_PORT: u32 = 1 << 23;
    /// Made through a template: `controls` says which.
    pub const CONTROLLED: u32 = 1 << 24;
    /// Has no dest of ours (cache_bypass).
    pub const NO_DEST: u32 = 1 << 25;
    /// Not of an entry: of a packet that goes without one.
    pub const NO_ENTRY: u32 = 1 << 26;

    /// Of FTP under NAT, where what is said is read.
    pub const FTP: u32 = 1 << 27;
    /// The dest is addressed on the port below its own: an active FTP data connection.
    pub const DATA_PORT: u32 = 1 << 28;
    /// FTP: the client has asked for passive mode.
    pub const PASSIVE: u32 = 1 << 29;
    /// FTP: the client has asked for extended passive mode.
    pub const EXTENDED: u32 = 1 << 30;
    /// FTP: what the client has asked for.
    pub const MODES: u32 = PASSIVE | EXTENDED;
    /// What most packets of connections ask about in one: these go another way.
    pub const ASIDE: u32 = NO_DEST | FTP;
    /// The client is a socket on the balancer itself that was given the dest: nothing is translated.
    pub const OWN: u32 = 1 << 31;
    /// Replies of such a connection, or of another method than NAT, stay as they are.
    pub const UNTRANSLATED: u32 = 7 << METHOD_SHIFT | OWN;
    /// The dest's number and the method.
    pub const WHERE: u32 = DEST | 7 << METHOD_SHIFT;

    // No bit means two things: joined they are as many as added up.
    const _: () = {
        let flags = [KEEP_PORT, CONTROLLED, NO_DEST, NO_ENTRY, FTP, DATA_PORT, PASSIVE, EXTENDED, OWN];
        let (mut joined, mut sum, mut i) = (WHERE, WHERE as u64, 0);
        while i < flags.len() {
            joined |= flags[i];
            sum += flags[i] as u64;
            i += 1;
        }
        assert!(joined as u64 == sum);
    };

    /// The method of a bound connection.
    #[inline(always)]
    pub const fn method(word: u32) -> u32 {
        (word >> METHOD_SHIFT) & 7
    }
}

/// Values of [`Life::packets`] of connections.
pub mod packets {
    /// None yet. Not 0, so that a connection's count is never taken for that of a template in the same place.
    pub const NONE: u32 = 1 << 31;
    /// More than this are not counted: what asks (drop_entry) wants to know of few. The hot line stays clean.
    pub const ENOUGH: u32 = NONE | 16;
    /// The count.
    pub const COUNT: u32 = 0xff;
    /// One FTP data connection that depends on this connection. Nobody counts its packets then.
    pub const DEPENDANT: u32 = 1 << 8;
    /// All of them.
    pub const DEPENDANTS: u32 = 0x7fff_ff00;
}

/// Bits of an entry's tag word. Protocol in the low byte; the bucket's own bits live in its first entry's tag.
pub mod tag {
    /// The protocol.
    pub const PROTO: u32 = 0xff;
    /// First entry of a first bucket only: it and its further ones are locked for insertion.
    pub const LOCK: u32 = 1 << 8;
    /// First entry only: the bucket runs over into a further one, in the overflow table.
    pub const OVERFLOW: u32 = 1 << 9;
    /// A persistence template, not a connection.
    pub const TEMPLATE: u32 = 1 << 10;
    /// A template that no new connection may use: its dest is gone.
    pub const ORPHAN: u32 = 1 << 11;
    /// A template of a persistence engine: client and client port are a hash, `calls` says of whom.
    pub const ENGINE: u32 = 1 << 12;
    /// A connection of which a later one, of another server, has the client's packets: only replies find it.
    pub const EARLIER: u32 = 1 << 13;
    /// What belongs to the bucket.
    pub const BUCKET: u32 = LOCK | OVERFLOW;
    /// What belongs to the key.
    pub const KEY: u32 = PROTO | TEMPLATE | ORPHAN | ENGINE | EARLIER;
    /// What belongs to it for replies.
    pub const REPLY_KEY: u32 = KEY & !EARLIER;
    /// Where a template keeps the low part of its timeout.
    pub const TIMEOUT_SHIFT: u32 = 16;
}

/// The part of an entry that changes with packets.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Life {
    /// [`ctl`] bits; changed only by compare-and-exchange.
    pub ctl: Cell32,
    /// Connections: tick of the last packet. Templates: tick at which it runs out.
    pub last: Cell32,
    /// [`bound`] bits.
    pub dest: Cell32,
    /// Connections: [`packets`] from the client. Templates: connections that depend on it (26 bits) and the high part
    /// of the timeout.
    pub packets: Cell32,
}

/// An entry of the table, whichever family.
pub trait Entry<A>: core::fmt::Debug {
    /// Entries in a bucket: a power of two.
    const WAYS: u32;
    /// Is this its key? `tag` as in [`tag::KEY`].
    fn matches(&self, flow: &Flow<A>, tag: u32) -> bool;
    /// Is this its client, port and protocol (a connection's, not a template's)?
    fn is_client(&self, client: &A, port: Port, proto: Proto) -> bool;
    /// Is this its virtual address and port?
    fn is_service(&self, vaddr: &A, vport: Port) -> bool;
    /// Its virtual address.
    fn vaddr(&self) -> A;
    /// Its virtual port.
    fn vport(&self) -> Port;
    /// The key. Meaningful only if the control word was live, and the same, before and after.
    fn flow(&self) -> Flow<A>;
    /// Writes the key; the caller owns the entry. The bucket's bits in the tag stay.
    fn write(&self, flow: &Flow<A>, tag: u32);
    /// The tag word.
    fn tag(&self) -> &Cell32;
    /// The changing part.
    fn life(&self) -> &Life;
}

/// An IPv4 entry.
#[repr(C)]
#[derive(Debug)]
pub struct Entry4 {
    client: Cell32,
    ports: Cell32,
    vaddr: Cell32,
    tag: Cell32,
    life: Life,
}

/// An IPv6 entry.
#[repr(C)]
#[derive(Debug)]
pub struct Entry6 {
    client: [Cell32; 4],
    ports: Cell32,
    tag: Cell32,
    vaddr: [Cell32; 4],
    life: Life,
    spare: [Cell32; 2],
}

/// A bucket: as many entries as fit 256 bytes.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Bucket<E, const WAYS: usize>(pub [E; WAYS]);

impl Life {
    const fn new() -> Self {
        Self { ctl: Cell32::new(0), last: Cell32::new(0), dest: Cell32::new(0), packets: Cell32::new(0) }
    }
}

impl Entry4 {
    const fn new() -> Self {
        Self {
            client: Cell32::new(0),
            ports: Cell32::new(0),
            vaddr: Cell32::new(0),
            tag: Cell32::new(0),
            life: Life::new(),
        }
    }
}

impl Entry6 {
    const fn new() -> Self {
        Self {
            client: [const { Cell32::new(0) }; 4],
            ports: Cell32::new(0),
            tag: Cell32::new(0),
            vaddr: [const { Cell32::new(0) }; 4],
            life: Life::new(),
            spare: [const { Cell32::new(0) }; 2],
        }
    }
}

impl Bucket4 {
    /// With all entries free.
    pub const fn new() -> Self {
        Self([const { Entry4::new() }; 8])
    }
}

impl Bucket6 {
    /// With all entries free.
    pub const fn new() -> Self {
        Self([const { Entry6::new() }; 4])
    }
}

impl Default for Bucket4 {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Bucket6 {
    fn default() -> Self {
        Self::new()
    }
}

/// A bucket's entries by number.
pub trait Ways<E> {
    /// The entry at `i`, taken modulo the number of ways.
    fn way(&self, i: u32) -> &E;
}

impl<E, const WAYS: usize> Ways<E> for Bucket<E, WAYS> {
    #[inline(always)]
    fn way(&self, i: u32) -> &E {
        const { assert!(WAYS.is_power_of_two()) };
        &self.0[i as usize & (WAYS - 1)]
    }
}

/// Eight IPv4 entries.
pub type Bucket4 = Bucket<Entry4, 8>;
/// Four IPv6 entries.
pub type Bucket6 = Bucket<Entry6, 4>;

const _: () = assert!(core::mem::size_of::<Bucket4>() == 256 && core::mem::size_of::<Bucket6>() == 256);

#[inline(always)]
fn split(ports: u32) -> (Port, Port) {
    (Port::from_wire(ports as u16), Port::from_wire((ports >> 16) as u16))
}

impl Entry<A4> for Entry4 {
    const WAYS: u32 = 8;

    #[inline(always)]
    fn matches(&self, flow: &Flow<A4>, tag: u32) -> bool {
        self.client.load() == flow.client.0
            && self.ports.load() == flow.ports()
            && self.vaddr.load() == flow.vaddr.0
            && self.tag.load() & tag::KEY == tag
    }
    #[inline(always)]
    fn is_client(&self, client: &A4, port: Port, proto: Proto) -> bool {
        self.client.load() == client.0
            && self.ports.load() as u16 == port.wire()
            && self.tag.load() & tag::REPLY_KEY == proto.0 as u32
    }
    #[inline(always)]
    fn is_service(&self, vaddr: &A4, vport: Port) -> bool {
        self.vaddr.load() == vaddr.0 && self.vport() == vport
    }
    #[inline(always)]
    fn vaddr(&self) -> A4 {
        A4(self.vaddr.load())
    }
    #[inline(always)]
    fn vport(&self) -> Port {
        split(self.ports.load()).1
    }
    #[inline(always)]
    fn flow(&self) -> Flow<A4> {
        let (cport, vport) = split(self.ports.load());
        let proto = Proto(self.tag.load() as u8);
        Flow { client: A4(self.client.load()), vaddr: A4(self.vaddr.load()), cport, vport, proto }
    }
    #[inline(always)]
    fn write(&self, flow: &Flow<A4>, tag: u32) {
        self.client.store(flow.client.0);
        self.ports.store(flow.ports());
        self.vaddr.store(flow.vaddr.0);
        self.tag.store(self.tag.load() & tag::BUCKET | tag);
    }
    #[inline(always)]
    fn tag(&self) -> &Cell32 {
        &self.tag
    }
    #[inline(always)]
    fn life(&self) -> &Life {
        &self.life
    }
}

#[inline(always)]
fn same(cells: &[Cell32; 4], a: &A6) -> bool {
    let d = |i: usize| cells[i].load() ^ a.0[i];
    d(0) | d(1) | d(2) | d(3) == 0
}

#[inline(always)]
fn read(cells: &[Cell32; 4]) -> A6 {
    A6([cells[0].load(), cells[1].load(), cells[2].load(), cells[3].load()])
}

#[inline(always)]
fn put(cells: &[Cell32; 4], a: &A6) {
    cells[0].store(a.0[0]);
    cells[1].store(a.0[1]);
    cells[2].store(a.0[2]);
    cells[3].store(a.0[3]);
}

impl Entry<A6> for Entry6 {
    const WAYS: u32 = 4;

    #[inline(always)]
    fn matches(&self, flow: &Flow<A6>, tag: u32) -> bool {
        self.ports.load() == flow.ports()
            && self.tag.load() & tag::KEY == tag
            && same(&self.client, &flow.client)
            && same(&self.vaddr, &flow.vaddr)
    }
    #[inline(always)]
    fn is_client(&self, client: &A6, port: Port, proto: Proto) -> bool {
        self.ports.load() as u16 == port.wire()
            && self.tag.load() & tag::REPLY_KEY == proto.0 as u32
            && same(&self.client, client)
    }
    #[inline(always)]
    fn is_service(&self, vaddr: &A6, vport: Port) -> bool {
        same(&self.vaddr, vaddr) && self.vport() == vport
    }
    #[inline(always)]
    fn vaddr(&self) -> A6 {
        read(&self.vaddr)
    }
    #[inline(always)]
    fn vport(&self) -> Port {
        split(self.ports.load()).1
    }
    #[inline(always)]
    fn flow(&self) -> Flow<A6> {
        let (cport, vport) = split(self.ports.load());
        Flow {
            client: read(&self.client),
            vaddr: read(&self.vaddr),
            cport,
            vport,
            proto: Proto(self.tag.load() as u8),
        }
    }
    #[inline(always)]
    fn write(&self, flow: &Flow<A6>, tag: u32) {
        put(&self.client, &flow.client);
        put(&self.vaddr, &flow.vaddr);
        self.ports.store(flow.ports());
        self.tag.store(self.tag.load() & tag::BUCKET | tag);
    }
    #[inline(always)]
    fn tag(&self) -> &Cell32 {
        &self.tag
    }
    #[inline(always)]
    fn life(&self) -> &Life {
        &self.life
    }
}

/// Could a packet nobody asked for have made this? Such entries give way when a bucket is full.
#[inline(always)]
pub fn half_open(proto: Proto, state: u8) -> bool {
    match proto {
        // NONE, SYN_SENT, SYN_RECV, SYNACK.
        Proto::TCP => matches!(state, 0 | 2 | 3 | 10),
        // NONE, INIT1, INIT.
        Proto::SCTP => state <= 2,
        _ => state != crate::state::udp::CONFIRMED,
    }
}
