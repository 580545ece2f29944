//! The balancer's nouns: services, dests, connections, timeouts, counters, as people and commands speak of them.
//!
//! Nothing here knows how they are stored. Ports are [`Port`], addresses the standard library's; a family is told
//! by the address itself, and only mark services carry one of their own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

pub use lb_common::addr::{Family, Port, Proto, family_of};
pub use lb_common::dest::{Method, TunType};
pub use lb_common::sched::Scheduler;
use lb_common::service::{ServiceKey, flags};

/// What a service is found by. Cannot be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceId {
    /// By virtual address, port and protocol.
    Addr {
        /// TCP, UDP or SCTP.
        proto: Proto,
        /// The virtual address.
        addr: IpAddr,
        /// The virtual port; 0 catches every port that has no service of its own.
        port: Port,
    },
    /// By firewall mark.
    Mark {
        /// The mark, never 0.
        mark: u32,
        /// Packets of this family only.
        family: Family,
    },
}

impl ServiceId {
    /// The family of the packets it catches.
    pub fn family(&self) -> Family {
        match self {
            Self::Addr { addr, .. } => family_of(addr),
            Self::Mark { family, .. } => *family,
        }
    }
    /// Its protocol; none for mark services.
    pub fn proto(&self) -> Option<Proto> {
        match self {
            Self::Addr { proto, .. } => Some(*proto),
            Self::Mark { .. } => None,
        }
    }
    /// Its port; 0 for mark services.
    pub fn port(&self) -> Port {
        match self {
            Self::Addr { port, .. } => *port,
            Self::Mark { .. } => Port::ZERO,
        }
    }
    /// Its mark; 0 for address services.
    pub fn mark(&self) -> u32 {
        match self {
            Self::Addr { .. } => 0,
            Self::Mark { mark, .. } => *mark,
        }
    }
}

impl From<ServiceId> for ServiceKey {
    fn from(id: ServiceId) -> Self {
        match id {
            ServiceId::Addr { proto, addr, port } => Self::addr(family_of(&addr), proto, addr.into(), port),
            ServiceId::Mark { mark, family } => Self::mark(family, mark),
        }
    }
}

/// The granularity of persistence: which part of a client's address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Netmask {
    /// An IPv4 mask; need not be contiguous.
    V4(Ipv4Addr),
    /// An IPv6 prefix length, 1 to 128.
    V6(u8),
}

impl Netmask {
    /// The whole address.
    pub fn full(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4(Ipv4Addr::BROADCAST),
            Family::V6 => Self::V6(128),
        }
    }
    /// As the packet path keeps it: IPv4 mask in memory order, or the prefix length.
    pub fn word(self) -> u32 {
        match self {
            Self::V4(mask) => u32::from_ne_bytes(mask.octets()),
            Self::V6(prefix) => u32::from(prefix),
        }
    }
    /// The reverse of [`Self::word`].
    pub fn from_word(family: Family, word: u32) -> Self {
        match family {
            Family::V4 => Self::V4(Ipv4Addr::from(word.to_ne_bytes())),
            Family::V6 => Self::V6(u8::try_from(word).unwrap_or(128)),
        }
    }
}

/// Persistence of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// How long a template outlives its last connection, in seconds.
    pub timeout: u32,
    /// The part of the client's address that counts.
    pub netmask: Netmask,
}

/// Persistence engines: what a template is keyed by besides the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// The Call-ID of SIP.
    Sip,
}

impl Engine {
    /// By ipvsadm's name.
    pub fn from_name(name: &str) -> Option<Self> {
        (name == "sip").then_some(Self::Sip)
    }
    /// ipvsadm's name.
    pub fn name(self) -> &'static str {
        "sip"
    }
}

/// What can be edited of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceConf {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// Scheduler flags: [`flags::SCHED1`], [`flags::SCHED2`], [`flags::SCHED3`].
    pub sched_flags: u32,
    /// One-packet scheduling.
    pub ops: bool,
    /// Persistence, if any.
    pub persistence: Option<Persistence>,
    /// Persistence engine. May be set without persistence, as in IPVS; then it has no effect.
    pub engine: Option<Engine>,
}

impl ServiceConf {
    /// All flags in IPVS's bits.
    pub fn flags(&self) -> u32 {
        let ops = if self.ops { flags::OPS } else { 0 };
        let persistent = if self.persistence.is_some() { flags::PERSISTENT } else { 0 };
        self.sched_flags | ops | persistent
    }
}

/// What a dest is found by, inside its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestId {
    /// The real server's address.
    pub addr: IpAddr,
    /// The real server's port.
    pub port: Port,
}

/// Checksum mode of a GUE or GRE tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TunChecksum {
    /// None.
    #[default]
    None = 0,
    /// The tunnel header's own.
    Full = 1,
    /// Remote checksum offload (GUE only).
    Remote = 2,
}

/// How tunnelled packets are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TunnelConf {
    /// Encapsulation.
    pub kind: TunType,
    /// UDP port of GUE.
    pub port: Port,
    /// Checksum mode.
    pub checksum: TunChecksum,
}

/// What can be edited of a dest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestConf {
    /// How packets reach it.
    pub method: Method,
    /// Capacity relative to the others; 0 takes no new connections.
    pub weight: u32,
    /// Connections at which it is overloaded; 0 = never.
    pub upper: u32,
    /// Connections below which it is so no longer; 0 = three quarters of `upper`.
    pub lower: u32,
    /// The tunnel; used with [`Method::Tunnel`].
    pub tunnel: TunnelConf,
}

/// What has passed, since the beginning or the last `-Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets from clients.
    pub inpkts: u64,
    /// Packets from dests.
    pub outpkts: u64,
    /// Bytes from clients.
    pub inbytes: u64,
    /// Bytes from dests.
    pub outbytes: u64,
}

/// What passes, per second, as IPVS estimates it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Connections.
    pub cps: u64,
    /// Packets from clients.
    pub inpps: u64,
    /// Packets from dests.
    pub outpps: u64,
    /// Bytes from clients.
    pub inbps: u64,
    /// Bytes from dests.
    pub outbps: u64,
}

/// A service as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it is found by.
    pub id: ServiceId,
    /// How it is set.
    pub conf: ServiceConf,
    /// Its counters.
    pub stats: Stats,
    /// Its rates.
    pub rates: Rates,
    /// Its dests, newest first.
    pub dests: Vec<Dest>,
}

/// A dest as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dest {
    /// What it is found by.
    pub id: DestId,
    /// How it is set.
    pub conf: DestConf,
    /// Connections in an active state.
    pub active: u32,
    /// The other connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Its counters.
    pub stats: Stats,
    /// Its rates.
    pub rates: Rates,
    /// What becomes of its connections, since it was found dead; `None`: it was not.
    pub fate: Option<OnDown>,
}

/// What becomes of the connections of a dest found dead. Its datagrams' are dropped in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnDown {
    /// As IPVS and its sysctls have it.
    #[default]
    Leave,
    /// They are scheduled anew with their next packet.
    Move,
    /// Their clients are told.
    Reset,
}

impl OnDown {
    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Move => "move",
            Self::Reset => "reset",
        }
    }
    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Leave, Self::Move, Self::Reset].into_iter().find(|which| which.name() == name)
    }
}

/// Connection timeouts in seconds, `--set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP.
    pub tcp: u32,
    /// TCP after a FIN.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { tcp: 900, tcp_fin: 120, udp: 300 }
    }
}

/// An address and a port of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: Port,
}

/// A connection or template as `-Lc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnRow {
    /// Protocol; [`Proto::IP`] for templates of mark services.
    pub proto: Proto,
    /// Whole seconds to live.
    pub expires: u64,
    /// The state's name, as IPVS prints it.
    pub state: &'static str,
    /// Client (masked, port 0, for templates).
    pub client: End,
    /// Virtual address; the mark, for templates of mark services.
    pub virt: End,
    /// Dest; the family may differ from the client's.
    pub dest: End,
    /// Engine and its data (the Call-ID), if the template carries them.
    pub engine: Option<(Engine, String)>,
}

/// Which half of connection synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sends.
    Master,
    /// Receives.
    Backup,
}

impl Role {
    /// By ipvsadm's word.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "master" => Some(Self::Master),
            "backup" => Some(Self::Backup),
            _ => None,
        }
    }
    /// ipvsadm's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Backup => "backup",
        }
    }
}

/// A sync daemon: running, or wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonRow {
    /// Sender or receiver.
    pub role: Role,
    /// NIC of the multicast group.
    pub interface: String,
    /// Which senders a receiver listens to; 0 = all.
    pub syncid: u8,
    /// Longest message in bytes; 0 where nobody has said.
    pub maxlen: u16,
    /// Multicast group.
    pub group: IpAddr,
    /// UDP port.
    pub port: Port,
    /// Multicast TTL.
    pub ttl: u8,
    /// Full resync beside the multicast, which ipvsadm knows nothing of.
    pub resync: Option<Resync>,
}

/// Full resync, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resync {
    /// The file with the key.
    pub key: PathBuf,
    /// TCP port.
    pub port: u16,
    /// A master for a backup to ask from the start.
    pub peer: Option<IpAddr>,
}

impl Resync {
    /// The usual TCP port.
    pub const PORT: u16 = 8849;
}

impl DaemonRow {
    /// With the length of messages that IPVS settles for on a NIC of this MTU.
    pub fn resolved(self, mtu: u32) -> Self {
        const USUAL: u32 = 1500;
        let headers = if self.group.is_ipv4() { 20 + 8 } else { 40 + 8 };
        let (frame, least) = match self.role {
            Role::Master => (USUAL, 1),
            Role::Backup => (mtu.clamp(USUAL, u16::MAX.into()), 1024),
        };
        let most = u32::from(u16::MAX) - headers;
        let length = if self.maxlen == 0 { frame - headers } else { self.maxlen.into() };
        // No more than a u16 holds.
        Self { maxlen: length.clamp(least, most) as u16, ..self }
    }
}
