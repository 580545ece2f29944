//! What the kernel knows of the network around: NICs, the way to an address, neighbours.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::netlink::{Netlink, Question, attributes, flag, half, kind, word};
use crate::control::address::AddressKind;

/// A NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
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
    let question = Question::new(kind::GET_LINK, flag::DUMP, &[0; 16]);
    let answers =
        Netlink::open().and_then(|mut netlink| netlink.ask(&question)).context("asking for the NICs")?;
    Ok(answers.iter().map(|answer| nic(answer)).collect())
}

fn nic(answer: &[u8]) -> Nic {
    const ARPHRD_ETHER: u16 = 1;
    const IFF_UP: u32 = 1;
    const IFF_LOOPBACK: u32 = 8;
    let all = attributes(answer.get(16..).unwrap_or_default());
    let flags = word(answer, 8);
    let name = all.get(&3).copied().unwrap_or_default();
    Nic {
        name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
        index: word(answer, 4),
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        ethernet: half(answer, 2) == ARPHRD_ETHER,
        vlan: all.get(&18).and_then(|info| {
            let info = attributes(info);
            let is_vlan = info.get(&1).is_some_and(|kind| kind.starts_with(b"vlan\0") || *kind == b"vlan");
            let id = half(attributes(info.get(&2)?).get(&1)?, 0);
            is_vlan.then(|| (all.get(&5).map_or(0, |parent| word(parent, 0)), id))
        }),
        xdp: all.get(&43).and_then(|xdp| {
            let xdp = attributes(xdp);
            let mode = *xdp.get(&2)?.first()?;
            (mode != 0).then(|| (mode, xdp.get(&4).map_or(0, |id| word(id, 0))))
        }),
    }
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

/// Asks the kernel, and remembers the answers for as long as a command runs.
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
        const DST: u16 = 1;
        let none = Way { kind: AddressKind::of(to), egress: 0, next: *to };
        if !none.kind.fits_dest() && none.kind != AddressKind::LinkLocal {
            return Ok(none);
        }
        let (family, bytes) = octets(to);
        let mut fixed = [0u8; 12];
        (fixed[0], fixed[1]) = (family, (bytes.len() * 8) as u8);
        let question = Question::new(kind::GET_ROUTE, 0, &fixed).attribute(DST, &bytes);
        let answers = match self.netlink().and_then(|netlink| netlink.ask(&question)) {
            Ok(answers) => answers,
            // No way there (unreachable, prohibited, …) says nothing against the address.
            Err(error) if is_no_route(&error) => return Ok(none),
            Err(error) => return Err(error).with_context(|| format!("asking for the route to {to}")),
        };
        Ok(answers.first().map_or(none, |answer| Self::read(answer, none)))
    }

    fn read(answer: &[u8], none: Way) -> Way {
        const LOCAL: u8 = 2;
        const BROADCAST: u8 = 3;
        const ANYCAST: u8 = 4;
        const MULTICAST: u8 = 5;
        const OIF: u16 = 4;
        const GATEWAY: u16 = 5;
        const VIA: u16 = 18;
        let all = attributes(answer.get(12..).unwrap_or_default());
        let kind = match answer.get(7) {
            Some(&LOCAL) => AddressKind::Local,
            Some(&(BROADCAST | ANYCAST)) => AddressKind::Broadcast,
            Some(&MULTICAST) => AddressKind::Multicast,
            _ => none.kind,
        };
        let gateway = all.get(&GATEWAY).copied().and_then(address);
        let via = all.get(&VIA).and_then(|via| address(via.get(2..)?));
        Way {
            kind,
            egress: all.get(&OIF).map_or(0, |oif| word(oif, 0)),
            next: gateway.or(via).unwrap_or(none.next),
        }
    }

    /// Has the kernel find out the link address of a next hop, and keep it fresh from now on, with nobody running.
    pub fn resolve(&mut self, way: &Way) {
        const DST: u16 = 1;
        const FLAGS_EXT: u16 = 15;
        const USE: u8 = 1;
        const MANAGED: u32 = 1;
        if way.egress == 0 || way.kind == AddressKind::Local || !self.asked.insert((way.egress, way.next)) {
            return;
        }
        // The kernel would take "use this one" as leave to forget that an administrator has set it for good.
        if self.neighbour_state(way).is_ok_and(|state| state & SET_BY_HAND != 0) {
            return;
        }
        let flags = flag::ACK | flag::CREATE | flag::REPLACE;
        let (_, bytes) = octets(&way.next);
        let managed = Question::new(kind::NEW_NEIGH, flags, &neighbour(way, USE))
            .attribute(DST, &bytes)
            .attribute(FLAGS_EXT, &MANAGED.to_ne_bytes());
        let plain = Question::new(kind::NEW_NEIGH, flags, &neighbour(way, USE)).attribute(DST, &bytes);
        let Ok(netlink) = self.netlink() else { return };
        // Not an error: kernels before 5.16 know no such thing, and a full neighbour table may have room later. Packets
        // then have their own way to ask.
        let _ = netlink.ask(&managed).or_else(|_| netlink.ask(&plain));
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

    /// The kernel's bits for what it knows of a next hop, 0 if nothing.
    fn neighbour_state(&mut self, way: &Way) -> io::Result<u16> {
        const DST: u16 = 1;
        let question =
            Question::new(kind::GET_NEIGH, 0, &neighbour(way, 0)).attribute(DST, &octets(&way.next).1);
        let answers = self.netlink()?.ask(&question)?;
        Ok(answers.first().map_or(0, |neighbour| half(neighbour, 8)))
    }
}

/// A neighbour's states PERMANENT and NOARP.
const SET_BY_HAND: u16 = 0x80 | 0x40;

fn neighbour(way: &Way, flags: u8) -> [u8; 12] {
    let mut fixed = [0u8; 12];
    fixed[0] = octets(&way.next).0;
    fixed[4..8].copy_from_slice(&way.egress.to_ne_bytes());
    fixed[10] = flags;
    fixed
}

fn is_no_route(error: &io::Error) -> bool {
    let codes =
        [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::EAGAIN, libc::ENODEV];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Family and bytes.
fn octets(addr: &IpAddr) -> (u8, Vec<u8>) {
    match addr {
        IpAddr::V4(a) => (libc::AF_INET as u8, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6 as u8, a.octets().to_vec()),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|b| Ipv4Addr::from(b).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|b| Ipv6Addr::from(b).into())).ok()
}
