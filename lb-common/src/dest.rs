//! Dests: the real servers, one slot each in the `dests` map.

use crate::addr::{Addr, Port, Proto};
use crate::cell::{Cell32, Cell64};
use crate::conn::bound;
use crate::service::ServiceKey;

/// How packets reach a dest. IPVS's numbers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Address and port translation (`-m`, Masq).
    Nat = 0,
    /// The dest is this machine (`Local`).
    Local = 1,
    /// Encapsulation (`-i`, Tunnel).
    Tunnel = 2,
    /// Direct routing: new MAC addresses (`-g`, Route).
    Route = 3,
    /// To the packet's own destination (cache_bypass).
    Bypass = 4,
}

impl Method {
    /// From IPVS's number.
    #[inline(always)]
    pub const fn from_number(n: u32) -> Self {
        match n {
            0 => Self::Nat,
            1 => Self::Local,
            2 => Self::Tunnel,
            3 => Self::Route,
            _ => Self::Bypass,
        }
    }
}

/// Encapsulation of a tunnel dest. IPVS's numbers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunType {
    /// IP in IP.
    #[default]
    Ipip = 0,
    /// Generic UDP encapsulation.
    Gue = 1,
    /// GRE.
    Gre = 2,
}

/// Flag bits of [`Dest::status`], written by the control side.
pub mod status {
    /// The slot is in use: by a dest, or by a deleted one that connections still name.
    pub const USED: u32 = 1;
    /// The dest is in its service's list. Without it: deleted, its connections dropped silently.
    pub const AVAILABLE: u32 = 2;
    /// The address is one of this machine's.
    pub const LOCAL: u32 = 4;
    /// Found dead, and not back yet. What becomes of its connections, the next two say; without them they are left.
    pub const DEAD: u32 = 8;
    /// Its connections are scheduled anew, each with its next packet.
    pub const MOVE: u32 = 16;
    /// Its connections are reset, each with its next packet; datagrams are scheduled anew.
    pub const RESET: u32 = 32;
    /// What finding it dead has set.
    pub const FATE: u32 = DEAD | MOVE | RESET;
}

/// The way to a dest or a client: link addresses, egress and what the path carries.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// The frame's first twelve bytes, words in memory order: next hop's MAC address, then the egress NIC's.
    pub macs: [u32; 3],
    /// Egress NIC.
    pub ifindex: u32,
    /// Route MTU; 0 = not known.
    pub mtu: u32,
    /// VLAN tag (host order) to put on at `ifindex`; 0 = none of its own.
    pub vlan: u32,
}

/// What the kernel knows of the way to an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The next step there.
    pub hop: Hop,
    /// Source address the route selects, for tunnels.
    pub source: Addr,
}

impl Hop {
    /// Packs the two MAC addresses.
    pub const fn pack(next: [u8; 6], own: [u8; 6]) -> [u32; 3] {
        [
            u32::from_ne_bytes([next[0], next[1], next[2], next[3]]),
            u32::from_ne_bytes([next[4], next[5], own[0], own[1]]),
            u32::from_ne_bytes([own[2], own[3], own[4], own[5]]),
        ]
    }
    /// The twelve bytes.
    #[inline(always)]
    pub const fn mac_bytes(&self) -> [u8; 12] {
        let (a, b, c) = (self.macs[0].to_ne_bytes(), self.macs[1].to_ne_bytes(), self.macs[2].to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3]]
    }
}

/// A hop in shared memory, guarded by a sequence number: odd while somebody writes. 56 bytes.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct SharedHop {
    /// Even: stable. 0: never written.
    pub seq: Cell32,
    /// When it was last asked of the kernel, in ticks.
    pub asked: Cell32,
    /// Two of [`Route`]'s words in each: MACs and egress, MTU and VLAN, source.
    words: [Cell64; 5],
    /// Path MTU learnt from an ICMP error (low half; 0 = none), and when it ends, in seconds of the monotonic clock.
    path: Cell64,
}

const fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// Of two MTUs, of which 0 is one not known.
#[inline(always)]
const fn lesser(a: u32, b: u32) -> u32 {
    if a != 0 && (a < b || b == 0) { a } else { b }
}

impl SharedHop {
    /// The hop, if there is one and nobody is writing it.
    #[inline(always)]
    pub fn read(&self) -> Option<Hop> {
        let seq = self.seq.load_acquire();
        if seq == 0 || seq & 1 != 0 {
            return None;
        }
        let [a, b, c] = [&self.words[0], &self.words[1], &self.words[2]].map(Cell64::load);
        let high = |word: u64| (word >> 32) as u32;
        let hop = Hop { macs: [a as u32, high(a), b as u32], ifindex: high(b), mtu: c as u32, vlan: high(c) };
        (self.seq.load_acquire() == seq).then_some(hop)
    }

    /// The source address packets from here to there have. Read beside [`SharedHop::read`], it may be one route newer:
    /// as good a source as the other.
    #[inline(always)]
    pub fn source(&self) -> Addr {
        let (a, b) = (self.words[3].load(), self.words[4].load());
        Addr::from_words([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32])
    }

    /// Writes the way if it differs, unless somebody else is at it.
    #[inline(always)]
    pub fn write(&self, route: &Route) {
        let (hop, source) = (&route.hop, route.source.words());
        let mtu = lesser(self.path.load() as u32, hop.mtu);
        let words = [
            join(hop.macs[0], hop.macs[1]),
            join(hop.macs[2], hop.ifindex),
            join(mtu, hop.vlan),
            join(source[0], source[1]),
            join(source[2], source[3]),
        ];
        let seq = self.seq.load();
        let changes = |i: usize| self.words[i].load() != words[i];
        if seq != 0 && !(changes(0) || changes(1) || changes(2) || changes(3) || changes(4)) {
            return;
        }
        if seq & 1 != 0 || !self.seq.compare_exchange(seq, seq.wrapping_add(1)) {
            return;
        }
        self.words[0].store(words[0]);
        self.words[1].store(words[1]);
        self.words[2].store(words[2]);
        self.words[3].store(words[3]);
        self.words[4].store(words[4]);
        // Never back to 0, which means "never written".
        let next = seq.wrapping_add(2);
        self.seq.swap(if next == 0 { 2 } else { next });
    }

    /// Remembers what a router on the way says it carries, until `end` (seconds). It counts from the next
    /// [`SharedHop::write`] on, which `asked`, a time long enough ago, brings about.
    #[inline(always)]
    pub fn learn(&self, path: u32, end: u32, asked: u32) {
        self.path.store(join(path, end));
        self.asked.store(asked);
    }

    /// What the way carries as far as is known, whether in force yet or not; 0 = not known.
    #[inline(always)]
    pub fn carries(&self) -> u32 {
        lesser(self.path.load() as u32, self.read().map_or(0, |hop| hop.mtu))
    }

    /// Makes it all older, for tests.
    #[cfg(any(test, feature = "host"))]
    pub fn age(&self, seconds: u32, ticks: u32) {
        let path = self.path.load();
        self.path.store(join(path as u32, ((path >> 32) as u32).saturating_sub(seconds)));
        self.asked.store(self.asked.load().wrapping_sub(ticks));
    }

    /// Forgets the path MTU if its time is up.
    #[inline(always)]
    pub fn expire(&self, seconds: u32) {
        let path = self.path.load();
        if path != 0 && seconds >= (path >> 32) as u32 {
            self.forget_path();
        }
    }

    /// Forgets the path MTU.
    #[inline(always)]
    pub fn forget_path(&self) {
        self.path.store(0);
    }

    /// Forgets the hop: the next packet asks the kernel.
    pub fn forget(&self) {
        self.seq.swap(0);
    }
}

/// A dest slot. 192 bytes; the first line is all that a packet of a direct-routed connection reads besides the hop.
///
/// `addr`, `port`, `family` are set before the slot is published in a list and never change while it is used. The
/// counts belong to the packet path, everything else to the control side.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Dest {
    /// [`status`] bits.
    pub status: Cell32,
    /// Number of the owning service ([`crate::service::Service::slot`]).
    pub service: Cell32,
    /// The way there.
    pub hop: SharedHop,
    // The second line from here on.
    /// The address, words in memory order.
    pub addr: [Cell32; 4],
    /// Port (low half, wire order), family (third byte), method for new connections (fourth byte).
    pub port_family_method: Cell32,
    /// Weight (signed, never negative).
    pub weight: Cell32,
    /// mh: the last weight that was not zero.
    pub last_weight: Cell32,
    /// Upper threshold; 0 = none.
    pub upper: Cell32,
    /// Lower threshold as given; 0 = automatic.
    pub lower: Cell32,
    /// Tunnel: type (first byte), flags (second byte: 1 checksum, 2 remote checksum), port (upper half, wire order).
    pub tunnel: Cell32,
    /// Egress NIC the control side found, for use where the kernel's forwarding is off; 0 = unknown.
    pub egress: Cell32,
    /// When it was deleted, in seconds of the monotonic clock; 0 = it was not.
    pub deleted: Cell32,
    /// Connections in an active state.
    pub active: Cell32,
    /// All connections, templates not counted. InActConn is `total - active`.
    pub total: Cell32,
    /// Persistence templates.
    pub templates: Cell32,
    /// 1 while overloaded (thresholds).
    pub overloaded: Cell32,
    /// When `total` last fell to 0, in ticks.
    pub idle_since: Cell32,
    /// Its record in its service's tree, a word of `lists` ([`crate::sched::tree`]); 0 = there is none.
    pub record: Cell32,
    /// The service's protocol (first byte), 1 for one by mark (second byte), and virtual port (upper half, wire order).
    pub virtual_port: Cell32,
    /// The key of the service it belongs or belonged to, as it lies in memory.
    owner: [Cell32; 6],
    /// The control side's own.
    pub spare: [Cell32; 6],
    /// The greater, the later it was added to its service.
    pub born: Cell32,
}

impl Dest {
    /// The address.
    #[inline(always)]
    pub fn address(&self) -> Addr {
        let a = &self.addr;
        Addr::from_words([a[0].load(), a[1].load(), a[2].load(), a[3].load()])
    }
    /// The port; 0 for dests of mark or port-0 services that keep the packet's.
    #[inline(always)]
    pub fn port(&self) -> Port {
        let b = self.port_family_method.load().to_ne_bytes();
        Port::from_wire(u16::from_ne_bytes([b[0], b[1]]))
    }
    /// The port of a connection bound to it by this [`bound`] word, whose virtual port is `vport`.
    #[inline(always)]
    pub fn port_of(&self, word: u32, vport: Port) -> Port {
        if word & bound::KEEP_PORT != 0 {
            return vport;
        }
        let port = self.port();
        if word & bound::DATA_PORT != 0 { Port::new(port.host().wrapping_sub(1)) } else { port }
    }
    /// `AF_` number of the address.
    #[inline(always)]
    pub fn family(&self) -> u8 {
        self.port_family_method.load().to_ne_bytes()[2]
    }
    /// The method of new connections.
    #[inline(always)]
    pub fn method(&self) -> u8 {
        self.port_family_method.load().to_ne_bytes()[3]
    }
    /// Port, family and method in their word.
    pub const fn pack(port: Port, family: u8, method: u8) -> u32 {
        let p = port.wire().to_ne_bytes();
        u32::from_ne_bytes([p[0], p[1], family, method])
    }
    /// The tunnel's type number, flags and port.
    #[inline(always)]
    pub fn tunnel(&self) -> (u8, u8, Port) {
        let b = self.tunnel.load().to_ne_bytes();
        (b[0], b[1], Port::from_wire(u16::from_ne_bytes([b[2], b[3]])))
    }
    /// The key of the service it belongs or belonged to.
    #[inline(always)]
    pub fn owner(&self) -> ServiceKey {
        let word = |i: usize| self.owner[i].load();
        let last = word(5).to_ne_bytes();
        ServiceKey {
            addr: Addr::from_words([word(0), word(1), word(2), word(3)]),
            mark: word(4),
            port: Port::from_wire(u16::from_ne_bytes([last[0], last[1]])),
            proto: Proto(last[2]),
            family: last[3],
        }
    }
    /// Makes it one of the service with this key.
    pub fn set_owner(&self, key: &ServiceKey) {
        let [a, b, c, d] = key.addr.words();
        let port = key.port.wire().to_ne_bytes();
        let last = u32::from_ne_bytes([port[0], port[1], key.proto.0, key.family]);
        self.owner.iter().zip([a, b, c, d, key.mark, last]).for_each(|(cell, word)| cell.store(word));
        let by_mark = u8::from(key.mark != 0);
        self.virtual_port.store(u32::from_ne_bytes([key.proto.0, by_mark, port[0], port[1]]));
    }
    /// Does its service take packets of this protocol? A mark takes all.
    #[inline(always)]
    pub fn serves(&self, proto: Proto) -> bool {
        let b = self.virtual_port.load().to_ne_bytes();
        b[0] == proto.0 || b[1] != 0
    }
    /// Is it in its service's list?
    #[inline(always)]
    pub fn listed(&self) -> bool {
        self.status.load() & status::AVAILABLE != 0
    }
    /// Do its connections go on? Not if it is deleted, nor if it was found dead and they are to end.
    #[inline(always)]
    pub fn available(&self) -> bool {
        self.status.load() & (status::AVAILABLE | status::MOVE | status::RESET) == status::AVAILABLE
    }
    /// Is it deleted, and nothing said of its connections?
    #[inline(always)]
    pub fn forsaken(&self) -> bool {
        self.status.load() & (status::AVAILABLE | status::MOVE | status::RESET) == 0
    }
}

const _: () = assert!(core::mem::size_of::<Dest>() == 192);
