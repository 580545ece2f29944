//! Checks that take the way of clients' packets to a server (`check_path forwarding`), so that a server which does not have
//! the virtual address, or a tunnel that ends nowhere, is found out.
//!
//! The agent connects an ordinary socket to the server, for the kernel's own routing to find the way, and notes here what
//! it is for. On its way out a packet of that socket is addressed to the virtual address, and wrapped if the server is
//! behind a tunnel: [`send`]. What the server answers comes from the virtual address, which may be one of this machine's
//! own; it gets the server's before the stack sees it: [`process`]. Under NAT there is nothing to do: what a client's packet
//! becomes, and what a socket connected to the server sends, are the same.

use crate::addr::{Addr, Family, Port, Proto};
use crate::cell::Cell32;
use crate::checksum;
use crate::dest::TunType;
use crate::forward::nat;
use crate::forward::tunnel::{self, Inner, Shell};
use crate::ip::{Address, Ip, V4, V6, filter_bit};
use crate::output::Outgoing;
use crate::packet::Packet;
use crate::parse::{self, Fragment, Seen};
use crate::pipeline::{self, Step, Work, Workspace};
use crate::reason::{Reason, Stage, Verdict};
use crate::related;
use crate::tables::{Tables, refresh};

/// A check's socket: what the `probes` map is keyed by. 24 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProbeKey {
    /// Its own address.
    pub addr: Addr,
    /// Its own port.
    pub port: Port,
    /// Protocol.
    pub proto: Proto,
    /// `AF_` number.
    pub family: u8,
    /// Zero.
    pub zero: u32,
}

impl ProbeKey {
    /// Of this socket.
    #[inline(always)]
    pub fn new(family: Family, addr: Addr, port: Port, proto: Proto) -> Self {
        Self { addr, port, proto, family: family as u8, zero: 0 }
    }
}

/// What it is for. 64 bytes. All but `sent` is the agent's, and written before the socket sends anything.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Probe {
    /// The server, which the socket is connected to.
    pub server: Addr,
    /// Whom a client's packets are for.
    pub vip: Addr,
    /// Source of the outer header, under a tunnel.
    pub source: Addr,
    /// 1: the server is behind a tunnel.
    pub tunnelled: u32,
    /// The tunnel, as [`crate::dest::Dest::tunnel`] has it.
    pub tunnel: u32,
    /// 1 as soon as a packet was sent on this way; the packet path's own.
    pub sent: Cell32,
    /// Zero.
    pub zero: u32,
}

#[cfg(not(target_arch = "bpf"))]
impl Probe {
    /// Its length in double words.
    pub const WORDS: usize = 8;

    /// As it lies in the map.
    pub fn words(&self) -> [u64; Self::WORDS] {
        let join = |low: u32, high: u32| {
            u64::from_ne_bytes(core::array::from_fn(|at| {
                let half = if at < 4 { low } else { high };
                half.to_ne_bytes()[at % 4]
            }))
        };
        let halves = |addr: &Addr| {
            let [a, b, c, d] = addr.words();
            [join(a, b), join(c, d)]
        };
        let [[a, b], [c, d], [e, f]] = [&self.server, &self.vip, &self.source].map(halves);
        [a, b, c, d, e, f, join(self.tunnelled, self.tunnel), join(self.sent.load(), self.zero)]
    }

    /// Of such words: was a packet sent?
    pub fn is_sent(words: &[u64; Self::WORDS]) -> bool {
        words[7] != 0
    }
}

const _: () = assert!(size_of::<ProbeKey>() == 24 && size_of::<Probe>() == 64);

/// The bit that stands for an address of this machine's in [`crate::settings::Settings::probers`].
#[inline(always)]
pub fn bit(family: Family, addr: &Addr) -> u32 {
    bit_of(family, u32::from_be(addr.fold()))
}

#[inline(always)]
fn bit_of(family: Family, mixed: u32) -> u32 {
    1 << (filter_bit(family, mixed) & 31)
}

/// May there be checks from this address?
#[inline(always)]
pub(crate) fn may_be_from<F: Ip, T: Tables>(t: &T, addr: &F::Addr) -> bool {
    t.settings().probers.load() & bit_of(F::FAMILY, addr.mixed()) != 0
}

/// Is a client's packet without a connection no client's, but an answer to a check, or a check's that came back?
#[inline(always)]
pub(crate) fn concerns<F: Ip, T: Tables>(t: &T, seen: &Seen<F>) -> bool {
    t.settings().probers.load() != 0 && is_of_check(t, seen)
}

/// A function of its own, for the sake of the stack.
#[inline(never)]
fn is_of_check<F: Ip, T: Tables>(t: &T, seen: &Seen<F>) -> bool {
    may_be_from::<F, T>(t, &seen.dst) && answered(t, seen).is_some()
        || may_be_from::<F, T>(t, &seen.src) && is_lost(t, seen)
}

#[inline(always)]
fn find<'a, F: Ip, T: Tables>(t: &'a T, addr: &F::Addr, port: Port, proto: Proto) -> Option<&'a Probe> {
    t.probe(&ProbeKey::new(F::FAMILY, addr.wide(), port, proto))
}

/// The check that a packet answers.
#[inline(always)]
fn answered<'a, F: Ip, T: Tables>(t: &'a T, seen: &Seen<F>) -> Option<&'a Probe> {
    let probe = find::<F, T>(t, &seen.dst, seen.dport, seen.proto);
    probe.filter(|probe| F::Addr::narrow(&probe.vip) == seen.src)
}

/// Has the server sent a check's packet on, back to here? Scheduled as a client's, another server would answer it.
#[inline(always)]
fn is_lost<F: Ip, T: Tables>(t: &T, seen: &Seen<F>) -> bool {
    let probe = find::<F, T>(t, &seen.src, seen.sport, seen.proto);
    probe.is_some_and(|probe| F::Addr::narrow(&probe.vip) == seen.dst)
}

/// [`Stage::Probe`]: a packet that would otherwise be of no connection.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    let step = if space.family == Family::V4 as u32 {
        receive::<V4, P, T>(p, t, &space.v4)
    } else {
        receive::<V6, P, T>(p, t, &space.v6)
    };
    pipeline::settle(step, space)
}

#[inline(always)]
fn receive<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &Work<F>) -> Step {
    let seen = &work.seen;
    if related::is_icmp::<F>(seen.proto) {
        return told(p, t, work).into();
    }
    if let Some(probe) = answered(t, seen) {
        let server = F::Addr::narrow(&probe.server);
        return match nat::rewrite(p, seen, nat::Side::Source, &server, seen.sport) {
            Ok(()) => Reason::ProbeAnswered.into(),
            Err(reason) => reason.into(),
        };
    }
    if is_lost(t, seen) {
        Reason::ProbeLost.into()
    } else {
        pipeline::of_server(t, Reason::ReplyUnknown).into()
    }
}

/// An ICMP error about a check's packet is about one to the server, for the socket to hear of it. [`crate::related`] has
/// taken it apart.
#[inline(always)]
fn told<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &Work<F>) -> Reason {
    const CHECK: u32 = 2;
    let (seen, quote) = (&work.seen, &work.quote);
    let whole = quote.fragment == Fragment::Whole && matches!(quote.proto, Proto::TCP | Proto::UDP);
    if !whole || quote.src != seen.dst {
        return Reason::OtherProtocol;
    }
    let probe = find::<F, T>(t, &quote.src, quote.sport, quote.proto);
    let Some(probe) = probe.filter(|probe| F::Addr::narrow(&probe.vip) == quote.dst) else {
        return Reason::OtherProtocol;
    };
    let server = F::Addr::narrow(&probe.server);
    let mut diff = quote.dst.diff(&server, 0);
    let Some(header) = p.at_mut::<F::Header>(quote.l3) else { return Reason::Truncated };
    F::set_destination(header, &server);
    F::adjust(header, diff);
    // From the virtual address, as any answer.
    if seen.src == quote.dst {
        let Some(header) = p.at_mut::<F::Header>(seen.l3) else { return Reason::Truncated };
        F::set_source(header, &server);
        F::adjust(header, diff);
        diff = checksum::add32(diff, diff);
    }
    // ICMP's sum covers the quoted header's, which has taken the difference up. ICMPv6's covers all addresses.
    if !F::HEADER_SUM {
        let Some(check) = p.at_mut::<[u8; 2]>(seen.l4 + CHECK) else { return Reason::Truncated };
        *check = checksum::apply(u16::from_ne_bytes(*check), diff).to_ne_bytes();
    }
    Reason::ProbeAnswered
}

/// A packet from a server, of no connection: an answer to a check?
#[inline(always)]
pub(crate) fn ask<F: Ip, T: Tables>(t: &T, seen: &Seen<F>) -> Option<Step> {
    may_be_from::<F, T>(t, &seen.dst).then(|| Verdict::from(Stage::Probe).into())
}

/// A packet of this machine's own. [`Reason::ProbeSent`]: a check's, which is on its way now. A reason to pass: none, and
/// as it was.
#[inline(never)]
pub fn send<F: Ip, P: Outgoing, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>, l3: u32) -> Step {
    match take(p, t, &mut work.seen, l3) {
        Ok(probe) => match divert(p, t, &work.seen, probe) {
            Ok(()) => Reason::ProbeSent.into(),
            // Half of it is changed.
            Err(_) => Reason::Internal.into(),
        },
        Err(reason) => reason.into(),
    }
}

/// The check that a packet is of.
#[inline(always)]
fn take<'a, F: Ip, P: Outgoing, T: Tables>(
    p: &P,
    t: &'a T,
    seen: &mut Seen<F>,
    l3: u32,
) -> Result<&'a Probe, Reason> {
    let header: &F::Header = p.header(l3)?;
    if !may_be_from::<F, T>(t, &F::source(header)) {
        return Err(Reason::NotOurs);
    }
    *seen = parse::ip::<F, P>(p, l3, header, t.now())?;
    if seen.fragment != Fragment::Whole || !matches!(seen.proto, Proto::TCP | Proto::UDP) {
        return Err(Reason::OtherProtocol);
    }
    parse::transport::<F, P>(p, seen)?;
    let probe = find::<F, T>(t, &seen.src, seen.sport, seen.proto);
    probe.filter(|probe| F::Addr::narrow(&probe.server) == seen.dst).ok_or(Reason::NotOurs)
}

#[inline(always)]
fn divert<F: Ip, P: Outgoing, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    probe: &Probe,
) -> Result<(), Reason> {
    p.set_destination(seen, &F::Addr::narrow(&probe.vip))?;
    if probe.tunnelled != 0 {
        wrap(p, t, seen, probe)?;
    }
    refresh(&probe.sent, 1);
    Ok(())
}

/// Puts the outer header in front, of the same family, and the tunnel's own behind it: as [`tunnel::send`] does it.
#[inline(always)]
fn wrap<F: Ip, P: Outgoing, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    probe: &Probe,
) -> Result<(), Reason> {
    let [kind, flags, a, b] = probe.tunnel.to_ne_bytes();
    let shell = Shell::new((kind, flags, Port::from_wire(u16::from_ne_bytes([a, b]))));
    let hash = tunnel::flow_hash(seen);
    let header: &F::Header = p.header(seen.l3)?;
    let inner = Inner::of::<F, T>(t, header, seen.len).behind(&shell);
    let sum = if shell.summed { inner_sum::<F, P>(p, seen, &F::Addr::narrow(&probe.vip))? } else { 0 };
    p.make_room::<F>(seen.l3, &shell_of(&shell))?;
    let (source, server) = (probe.source, probe.server);
    let proto = shell.proto(F::INSIDE);
    match F::FAMILY {
        Family::V4 => {
            let [source, server] = [source.words()[0], server.words()[0]];
            p.put(seen.l3, &Even(tunnel::header_v4(t, &inner, proto, source, server)).0)?;
        }
        Family::V6 => p.put(seen.l3, &Even(tunnel::header_v6(&inner, proto, source, server)).0)?,
    }
    let at = seen.l3 + F::HEADER;
    match shell.kind {
        k if k == TunType::Gue as u8 => {
            let [a, b, c, d, e, f, _, _, head @ ..] = tunnel::gue_head::<F>(hash, shell.port, inner.len);
            let (ports, head) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes(head));
            let len = u16::from_ne_bytes([e, f]);
            let check = if shell.summed {
                let pseudo = tunnel::gue_pseudo(&source, &server, inner.len);
                let words = checksum::add32(checksum::add32(ports, head), len as u32);
                nat::nonzero(!checksum::fold(checksum::add32(checksum::add32(sum, pseudo), words)))
            } else {
                0
            };
            p.put_word(at, ports)?;
            p.put_word(at + 4, pair(len, check))?;
            p.put_word(at + 8, head)
        }
        k if k == TunType::Gre as u8 => {
            let head = u32::from_ne_bytes(tunnel::gre_head::<F>(shell.summed));
            p.put_word(at, head)?;
            if !shell.summed {
                return Ok(());
            }
            p.put_word(at + 4, pair(!checksum::fold(checksum::add32(sum, head)), 0))
        }
        _ => Ok(()),
    }
}

/// A header on the stack, where the kernel's verifier wants to see its words at even places.
#[repr(C, align(8))]
struct Even<T>(T);

/// Two half words one after the other, in memory order.
#[inline(always)]
fn pair(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// What the kernel has to be told of a tunnel's own headers.
#[inline(always)]
fn shell_of(shell: &Shell) -> Room {
    Room {
        shell: shell.len(),
        udp: shell.kind == TunType::Gue as u8,
        gre: shell.kind == TunType::Gre as u8,
        summed: shell.summed,
    }
}

/// Room in front of a packet: an outer header, and this behind it.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// So many bytes.
    pub shell: u32,
    /// They begin with a UDP header.
    pub udp: bool,
    /// With a GRE header.
    pub gre: bool,
    /// They have a checksum over all that follows.
    pub summed: bool,
}

/// The sum over a whole inner packet, whose own checksum may be left to the hardware. A good one makes segment and pseudo
/// header sum to nothing, so the segment's is known without a look at it; and so is that of an IPv4 header.
#[inline(always)]
fn inner_sum<F: Ip, P: Outgoing>(p: &P, seen: &Seen<F>, vip: &F::Addr) -> Result<u32, Reason> {
    let addresses = checksum::add32(seen.src.sum(), vip.sum());
    let segment = (seen.l3 + seen.len).saturating_sub(seen.l4);
    let sum = !checksum::fold(checksum::add32(addresses, nat::pseudo(seen.proto, segment))) as u32;
    if F::HEADER_SUM {
        return Ok(sum);
    }
    let head: &[u8; 8] = p.header(seen.l3)?;
    let words = [[head[0], head[1], head[2], head[3]], [head[4], head[5], head[6], head[7]]];
    let words = words.map(u32::from_ne_bytes);
    Ok(checksum::add32(sum, checksum::add32(addresses, checksum::add32(words[0], words[1]))))
}
