//! What the kernel knows of the network around: NICs, the way to an address, neighbours.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;
use crate::control::address::AddressKind;
use crate::control::refusal::Refusal;

/// A NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Longest packet in bytes.
    pub mtu: u32,
    /// Switched on?
    pub up: bool,
    /// The machine talking to itself?
    pub loopback: bool,
    /// Does it send Ethernet frames?
    pub ethernet: bool,
    /// A VLAN device: its parent's number, and the VLAN's.
    pub vlan: Option<(u32, u16)>,
    /// What XDP program is on it: the kernel's number of the mode (1 native, 2 generic, 3 offloaded), and the
    /// program's.
    pub xdp: Option<(u8, u32)>,
}

/// All NICs of this namespace.
pub fn nics() -> Result<Vec<Nic>> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = Netlink::open()
        .and_then(|mut netlink| netlink.ask(question, NLM_F_DUMP))
        .context("asking for the NICs")?;
    let nic_of = |answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(nic(&link)),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(nic_of).collect())
}

/// The MTU of a NIC.
pub fn mtu(name: &str) -> Result<u32> {
    let found = nics()?.into_iter().find(|nic| nic.name == name);
    Ok(found.ok_or(Refusal::NoSuchDevice)?.mtu)
}

fn nic(link: &LinkMessage) -> Nic {
    let mut nic = Nic {
        name: String::new(),
        index: link.header.index,
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        vlan: None,
        xdp: None,
    };
    let (mut parent, mut vlan) = (0, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => nic.name.clone_from(name),
            LinkAttribute::Link(index) => parent = *index,
            LinkAttribute::Mtu(mtu) => nic.mtu = *mtu,
            LinkAttribute::LinkInfo(info) => vlan = vlan_id(info),
            LinkAttribute::Xdp(xdp) => nic.xdp = xdp_of(xdp),
            _ => {}
        }
    }
    nic.vlan = vlan.map(|id| (parent, id));
    nic
}

fn vlan_id(info: &[LinkInfo]) -> Option<u16> {
    let is_vlan = info.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Vlan)));
    let id = |info: &LinkInfo| match info {
        LinkInfo::Data(InfoData::Vlan(vlan)) => vlan.iter().find_map(|part| match part {
            InfoVlan::Id(id) => Some(*id),
            _ => None,
        }),
        _ => None,
    };
    info.iter().find_map(id).filter(|_| is_vlan)
}

fn xdp_of(xdp: &[LinkXdp]) -> Option<(u8, u32)> {
    let mode = xdp.iter().find_map(|part| match part {
        LinkXdp::Attached(XdpAttached::None) => None,
        LinkXdp::Attached(XdpAttached::Driver) => Some(1),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(2),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(3),
        LinkXdp::Attached(_) => Some(4),
        _ => None,
    })?;
    let program = xdp.iter().find_map(|part| if let LinkXdp::ProgId(id) = part { Some(*id) } else { None });
    Some((mode, program.unwrap_or(0)))
}

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// What kind of address the routing tables say it is.
    pub kind: AddressKind,
    /// Egress NIC; 0 = there is no route.
    pub egress: u32,
    /// Who to hand packets to: the address itself, or a gateway.
    pub next: IpAddr,
}

/// Asks the kernel, and remembers the answers until [`Router::forget`].
#[derive(Debug, Default)]
pub struct Router {
    netlink: Option<Netlink>,
    ways: HashMap<IpAddr, Way>,
    asked: HashSet<(u32, IpAddr)>,
}

/// How long a command waits for a neighbour to answer.
const PATIENCE: Duration = Duration::from_secs(1);

impl Router {
    fn netlink(&mut self) -> io::Result<&mut Netlink> {
        match &mut self.netlink {
            Some(open) => Ok(open),
            none => Ok(none.insert(Netlink::open()?)),
        }
    }

    /// Answers are good for one change, or many made at once: between them routes and neighbours come and go.
    pub fn forget(&mut self) {
        self.ways.clear();
        self.asked.clear();
    }

    /// The way to an address.
    pub fn way(&mut self, to: &IpAddr) -> Result<Way> {
        if let Some(way) = self.ways.get(to) {
            return Ok(*way);
        }
        let way = self.look_up(to)?;
        self.ways.insert(*to, way);
        Ok(way)
    }

    fn look_up(&mut self, to: &IpAddr) -> Result<Way> {
        let none = Way { kind: AddressKind::of(to), egress: 0, next: *to };
        if !none.kind.fits_dest() && none.kind != AddressKind::LinkLocal {
            return Ok(none);
        }
        let mut question = RouteMessage::default();
        question.header.address_family = family(to);
        question.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
        question.attributes.push(RouteAttribute::Destination((*to).into()));
        let question = RouteNetlinkMessage::GetRoute(question);
        let answers = match self.netlink().and_then(|netlink| netlink.ask(question, 0)) {
            Ok(answers) => answers,
            // No way there (unreachable, prohibited, …) says nothing against the address.
            Err(error) if is_no_route(&error) => return Ok(none),
            Err(error) => return Err(error).with_context(|| format!("asking for the route to {to}")),
        };
        Ok(match answers.first() {
            Some(RouteNetlinkMessage::NewRoute(route)) => Self::read(route, none),
            _ => none,
        })
    }

    fn read(route: &RouteMessage, none: Way) -> Way {
        let mut way = none;
        way.kind = match route.header.kind {
            RouteType::Local => AddressKind::Local,
            RouteType::Broadcast | RouteType::Anycast => AddressKind::Broadcast,
            RouteType::Multicast => AddressKind::Multicast,
            _ => none.kind,
        };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => way.egress = *index,
                RouteAttribute::Gateway(RouteAddress::Inet(addr))
                | RouteAttribute::Via(RouteVia::Inet(addr)) => {
                    way.next = (*addr).into();
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(addr))
                | RouteAttribute::Via(RouteVia::Inet6(addr)) => {
                    way.next = (*addr).into();
                }
                _ => {}
            }
        }
        way
    }

    /// Has the kernel find out the link address of a next hop, and keep it fresh from now on, with nobody running.
    pub fn resolve(&mut self, way: &Way) {
        if !self.is_to_be_asked(way) {
            return;
        }
        let mut managed = in_use(way);
        managed.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        // Not an error: kernels before 5.16 know no such thing, and a full neighbour table may have room later. Packets
        // then have their own way to ask.
        let _ = self.put(managed).or_else(|_| self.put(in_use(way)));
    }

    /// Has the kernel find out the link address of a next hop, once.
    pub fn ask(&mut self, way: &Way) {
        if self.is_to_be_asked(way) {
            // A full neighbour table may have room later.
            let _ = self.put(in_use(way));
        }
    }

    fn is_to_be_asked(&mut self, way: &Way) -> bool {
        way.egress != 0
            && way.kind != AddressKind::Local
            && self.asked.insert((way.egress, way.next))
            // The kernel would take "use this one" as leave to forget that an administrator has set it for good.
            && self.neighbour_state(way).map_or(true, |state| state & SET_BY_HAND == 0)
    }

    fn put(&mut self, neighbour: NeighbourMessage) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.netlink()?.ask(RouteNetlinkMessage::NewNeighbour(neighbour), flags).map(drop)
    }

    /// Waits until the next hop has answered, for a second at the most.
    pub fn wait(&mut self, way: &Way) {
        if way.egress == 0 || way.kind == AddressKind::Local {
            return;
        }
        let start = Instant::now();
        while !self.is_resolved(way) && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_resolved(&mut self, way: &Way) -> bool {
        const VALID: u16 = 0xde;
        // An error is what NICs without neighbours, tunnels say: nothing to wait for.
        self.neighbour_state(way).map_or(true, |state| state & VALID != 0)
    }

    /// Neighbours that do not answer, by NIC and address.
    pub fn silent(&mut self) -> Result<HashSet<(u32, IpAddr)>> {
        let mut silent = HashSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = NeighbourMessage::default();
            question.header.family = family;
            let question = RouteNetlinkMessage::GetNeighbour(question);
            let answers = self.netlink().and_then(|netlink| netlink.ask(question, NLM_F_DUMP));
            for answer in answers.context("asking for the neighbours")? {
                let RouteNetlinkMessage::NewNeighbour(found) = answer else { continue };
                if u16::from(found.header.state) & SILENT != 0 {
                    silent.extend(destination(&found).map(|addr| (found.header.ifindex, addr)));
                }
            }
        }
        Ok(silent)
    }

    /// The kernel's bits for what it knows of a next hop, 0 if nothing.
    fn neighbour_state(&mut self, way: &Way) -> io::Result<u16> {
        let question = RouteNetlinkMessage::GetNeighbour(neighbour(way));
        let answers = self.netlink()?.ask(question, 0)?;
        Ok(match answers.first() {
            Some(RouteNetlinkMessage::NewNeighbour(found)) => found.header.state.into(),
            _ => 0,
        })
    }
}

/// A neighbour's states PERMANENT and NOARP.
const SET_BY_HAND: u16 = 0x80 | 0x40;
/// FAILED and INCOMPLETE: a neighbour that is kept up goes from one to the other while it does not answer.
const SILENT: u16 = 0x20 | 0x01;

/// Whom a message is about.
pub fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)) => Some((*addr).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(addr)) => Some((*addr).into()),
        _ => None,
    })
}

fn neighbour(way: &Way) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(&way.next);
    message.header.ifindex = way.egress;
    let addr = match way.next {
        IpAddr::V4(addr) => NeighbourAddress::Inet(addr),
        IpAddr::V6(addr) => NeighbourAddress::Inet6(addr),
    };
    message.attributes.push(NeighbourAttribute::Destination(addr));
    message
}

/// The same, about to be sent something.
fn in_use(way: &Way) -> NeighbourMessage {
    let mut message = neighbour(way);
    message.header.flags = NeighbourFlags::Use;
    message
}

fn is_no_route(error: &io::Error) -> bool {
    let codes =
        [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::EAGAIN, libc::ENODEV];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn family(addr: &IpAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
