//! What a configuration means: virtual servers, their real servers, and how those are checked, with every default filled
//! in.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::problem::Place;
pub use crate::control::model::OnDown;
use crate::control::model::{
    DestConf, DestId, Family, Method, Netmask, Port, Proto, Resync, ServiceId, TunnelConf, family_of,
};
use crate::control::request::ServiceAsk;

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `global_defs`, as far as it touches balancing.
    pub globals: Globals,
    /// VRRP's instances, which are keepalived's.
    pub instances: HashMap<String, Instance>,
    /// In the order of the file.
    pub servers: Vec<VirtualServer>,
}

/// `global_defs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// `lvs_timeouts`: tcp, tcpfin, udp in seconds; 0 leaves one as it is.
    pub timeouts: Option<[u32; 3]>,
    /// `lvs_flush`: what is there and not configured goes at start.
    pub flush: bool,
    /// `rs_init_notifies`: `notify_up` runs for servers that are up from the start.
    pub init_notifies: bool,
    /// `checker_log_all_failures`.
    pub log_all_failures: bool,
    /// `lvs_sync_daemon`.
    pub sync: Option<SyncDaemon>,
    /// `lvs_notify_fifo` and `notify_fifo`.
    pub fifos: Vec<PathBuf>,
}

/// What matters here of a `vrrp_instance`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// The addresses it moves.
    pub addresses: Vec<IpAddr>,
    /// `virtual_router_id`.
    pub router: Option<u8>,
}

/// `lvs_sync_daemon`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDaemon {
    /// Where it stands.
    pub place: Place,
    /// The NIC.
    pub interface: String,
    /// The VRRP instance whose state decides the role; none: both roles run.
    pub instance: Option<String>,
    /// `id`, or the instance's `virtual_router_id`; none where neither is said.
    pub id: Option<u8>,
    /// `maxlen`; 0: the usual.
    pub maxlen: u16,
    /// UDP `port`.
    pub port: u16,
    /// Multicast `ttl`.
    pub ttl: u8,
    /// Multicast `group`.
    pub group: IpAddr,
    /// Ours: `resync_key`, `resync_port` and `resync_peer`.
    pub resync: Option<Resync>,
}

/// A `virtual_server` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServer {
    /// Where it stands.
    pub place: Place,
    /// As log lines name it: `[192.0.2.1]:tcp:80`, `FWM 5`, `[GROUP]:0`.
    pub name: String,
    /// The services it consists of: one, or those of its group.
    pub services: Vec<ServiceId>,
    /// How each of them is set.
    pub ask: ServiceAsk,
    /// Its servers.
    pub servers: Vec<RealServer>,
    /// What serves when too few of them do.
    pub sorry: Option<Sorry>,
    /// The least sum of weights.
    pub quorum: u32,
    /// How much more brings the quorum back, and how much less loses it.
    pub hysteresis: u32,
    /// Runs when the quorum is gained.
    pub quorum_up: Option<Script>,
    /// Runs when it is lost.
    pub quorum_down: Option<Script>,
    /// On stop, run the scripts for going down.
    pub omega: bool,
    /// Checks pause while none of its addresses is this machine's.
    pub ha_suspend: bool,
    /// Ours: a server that comes up reaches its weight after this time.
    pub slow_start: Duration,
    /// Ours: what becomes of a failed server's connections.
    pub on_down: OnDown,
    /// Ours: its addresses are on this NIC while it has its quorum, for a routing daemon to see.
    pub announce: Option<String>,
}

/// A `sorry_server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sorry {
    /// Its address.
    pub addr: IpAddr,
    /// Its port; `None`: the service's.
    pub port: Option<Port>,
    /// Its method and weight.
    pub conf: DestConf,
    /// Always there, with weight 0 while it is not needed.
    pub inhibit: bool,
}

/// A `real_server` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Where it stands.
    pub place: Place,
    /// As log lines name it: `[10.0.0.2]:tcp:80`.
    pub name: String,
    /// Its address.
    pub addr: IpAddr,
    /// Its port; `None`: the service's.
    pub port: Option<Port>,
    /// Method, weight, thresholds, tunnel.
    pub conf: DestConf,
    /// A failed one stays, with weight 0.
    pub inhibit: bool,
    /// Runs when it comes up.
    pub notify_up: Option<Script>,
    /// Runs when it goes down.
    pub notify_down: Option<Script>,
    /// All of them have to pass.
    pub checks: Vec<Check>,
}

/// The dest of a service that an address and port of the configuration means.
pub fn dest_of(service: &ServiceId, addr: IpAddr, port: Option<Port>, method: Method) -> DestId {
    let own = port.unwrap_or(Port::ZERO);
    let port = match service {
        // Nothing translates ports under these two.
        ServiceId::Addr { port, .. } if method != Method::Nat => *port,
        ServiceId::Mark { .. } if method != Method::Nat => Port::ZERO,
        ServiceId::Addr { port, .. } if own.is_zero() => *port,
        _ => own,
    };
    DestId { addr, port }
}

/// One check of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Where it stands.
    pub place: Place,
    /// What is done, how often, and what it takes to change one's mind: checks with the same are one.
    pub spec: CheckSpec,
    /// Every failed attempt is worth a line.
    pub log_all_failures: bool,
}

/// A check without its place: equal ones are carried out once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckSpec {
    /// What is done.
    pub probe: Probe,
    /// When, and how often.
    pub pace: Pace,
}

/// When a check is repeated, and what its result is worth.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pace {
    /// Between two checks.
    pub delay_loop: Duration,
    /// How many more attempts a server gets that is up.
    pub retry: u32,
    /// Before each of them.
    pub delay_before_retry: Duration,
    /// The first check comes a random part of this after the start.
    pub warmup: Duration,
    /// Down until the first success.
    pub alpha: bool,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// Connects.
    Tcp(Target),
    /// Asks for pages.
    Http(Http),
    /// Says hello.
    Smtp(Smtp),
    /// Asks for a name.
    Dns(Dns),
    /// Sends a datagram.
    Udp(Udp),
    /// Sends an echo request.
    Ping(Target),
    /// Looks at a number in a file.
    File(FileCheck),
    /// Runs a script.
    Misc(Misc),
}

impl Probe {
    /// The keyword.
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "TCP_CHECK",
            Self::Http(http) if http.tls.is_some() => "SSL_GET",
            Self::Http(_) => "HTTP_GET",
            Self::Smtp(_) => "SMTP_CHECK",
            Self::Dns(_) => "DNS_CHECK",
            Self::Udp(_) => "UDP_CHECK",
            Self::Ping(_) => "PING_CHECK",
            Self::File(_) => "FILE_CHECK",
            Self::Misc(_) => "MISC_CHECK",
        }
    }

    /// Whom it talks to as a client does. An echo request is none of a client's packets.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Tcp(target) => Some(target),
            Self::Http(http) => Some(&http.target),
            Self::Smtp(smtp) => Some(&smtp.target),
            Self::Dns(dns) => Some(&dns.target),
            Self::Udp(udp) => Some(&udp.target),
            Self::Ping(_) | Self::File(_) | Self::Misc(_) => None,
        }
    }

    /// The same, to change it.
    pub fn target_mut(&mut self) -> Option<&mut Target> {
        match self {
            Self::Tcp(target) => Some(target),
            Self::Http(http) => Some(&mut http.target),
            Self::Smtp(smtp) => Some(&mut smtp.target),
            Self::Dns(dns) => Some(&mut dns.target),
            Self::Udp(udp) => Some(&mut udp.target),
            Self::Ping(_) | Self::File(_) | Self::Misc(_) => None,
        }
    }
}

/// Whom a check talks to, and from where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Address and port.
    pub to: SocketAddr,
    /// Own address and port, if they matter.
    pub from: Option<SocketAddr>,
    /// NIC to leave by.
    pub interface: Option<String>,
    /// Mark of the packets, for policy routing; 0: none.
    pub mark: u32,
    /// For the connection, and for each wait after it.
    pub timeout: Duration,
    /// Ours: packets take the way of clients' packets to the server.
    pub via: Option<Via>,
}

impl Target {
    /// Whom the server is to take itself for.
    pub fn whom(&self) -> SocketAddr {
        SocketAddr::new(self.via.as_ref().map_or(self.to.ip(), |via| via.vip), self.to.port())
    }
}

/// The way of clients' packets to a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    /// Whom they are for.
    pub vip: IpAddr,
    /// The tunnel they go through, unless they are routed directly.
    pub tunnel: Option<TunnelConf>,
}

/// The version of a request, and whether it asks the server to close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HttpProtocol {
    /// `1.0`
    #[default]
    V10,
    /// `1.0C`
    V10Close,
    /// `1.1`
    V11,
}

/// `HTTP_GET`, `SSL_GET`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http {
    /// Whom.
    pub target: Target,
    /// At least one.
    pub urls: Vec<Url>,
    /// Of the requests.
    pub protocol: HttpProtocol,
    /// One good page brings the server back, not all of them.
    pub fast_recovery: bool,
    /// With TLS.
    pub tls: Option<Tls>,
}

/// TLS of `SSL_GET`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// SNI is sent.
    pub sni: bool,
    /// This one, not the virtual host's.
    pub sni_name: Option<String>,
    /// Ours: the certificate has to be good.
    pub verify: bool,
    /// Authorities to believe, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// With the slash.
    pub path: String,
    /// MD5 of the body.
    pub digest: Option<[u8; 16]>,
    /// Ranges of good status codes, both ends included.
    pub status: Vec<(u16, u16)>,
    /// What the Host header says.
    pub virtualhost: Option<String>,
    /// The body has to match, or must not.
    pub regex: Option<Regex>,
}

/// An expression, already known to be one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Regex {
    /// With its options inside.
    pub pattern: String,
    /// A match is a failure.
    pub no_match: bool,
    /// A match has to begin here or later, and before.
    pub offsets: (usize, Option<usize>),
}

/// `SMTP_CHECK`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Smtp {
    /// Whom.
    pub target: Target,
    /// Who we say we are.
    pub helo: String,
}

/// `DNS_CHECK`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dns {
    /// Whom.
    pub target: Target,
    /// The record's type, by name in capitals.
    pub kind: String,
    /// The name asked for.
    pub name: String,
}

/// `UDP_CHECK`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Udp {
    /// Whom.
    pub target: Target,
    /// What is sent.
    pub payload: Vec<u8>,
    /// An answer has to come.
    pub reply: Option<Reply>,
}

/// The answer wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    /// Values and masks of its first bytes; none: anything.
    pub pattern: Vec<(u8, u8)>,
    /// Shortest and longest.
    pub length: (usize, usize),
}

/// `FILE_CHECK`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileCheck {
    /// The file with a number in it.
    pub file: PathBuf,
    /// What the number is multiplied with; 0: anything but 0 means down.
    pub weight: i32,
}

/// `MISC_CHECK`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Misc {
    /// What runs, and as whom.
    pub script: Script,
    /// How long it may take.
    pub timeout: Duration,
    /// Its exit status is a weight.
    pub dynamic: bool,
}

/// A script and whom it runs as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Script {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// User and group, unless our own.
    pub user: Option<(u32, u32)>,
    /// No program gives it more rights.
    pub no_new_privs: bool,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

/// As log lines name an address: `[192.0.2.1]:tcp:80`.
pub fn named(addr: IpAddr, proto: Option<Proto>, port: Port) -> String {
    let proto = match proto {
        Some(Proto::UDP) => "udp",
        Some(Proto::SCTP) => "sctp",
        Some(_) => "tcp",
        None => "none",
    };
    format!("[{addr}]:{proto}:{}", port.host())
}

impl VirtualServer {
    /// How this one of its services is set: a net mask is of one family only.
    pub fn ask_for(&self, service: &ServiceId) -> ServiceAsk {
        let mut ask = self.ask.clone();
        if let Some(persistence) = &mut ask.persistence {
            let fits = match persistence.netmask {
                Netmask::V4(_) => service.family() == Family::V4,
                Netmask::V6(_) => service.family() == Family::V6,
            };
            if !fits {
                persistence.netmask = Netmask::full(service.family());
            }
        }
        ask
    }
    /// The family of its services, where they have one.
    pub fn family(&self) -> Option<Family> {
        self.services.first().map(ServiceId::family)
    }
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.services.iter().filter_map(|service| match service {
            ServiceId::Addr { addr, .. } => Some(*addr),
            ServiceId::Mark { .. } => None,
        })
    }
    /// Can this server be one of the service's? Others can only be tunnelled to.
    pub fn takes(service: &ServiceId, addr: &IpAddr, method: Method) -> bool {
        method == Method::Tunnel || service.family() == family_of(addr)
    }
}
