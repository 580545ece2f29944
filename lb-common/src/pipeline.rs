//! The pass over a packet, top to bottom. Read this first.
//!
//! ```text
//! process ─ Arrival ─┬─ (ipv6) ─ see ─ receive ─┬─ of a connection: forward::request, forward::reply ─┬─ verdict
//!                    │                          ├─ newcomer: lookup ─ pick ─ open ─ forward ──────────┤
//!                    │                          └─────────────────────────────────────────────────────┴─ slow, fragments, upkeep, probe, ftp
//!                    └─ not ours
//! ```
//!
//! What belongs to a known connection is sent on within the first program, without a call: that costs as much as a dozen
//! instructions where the kernel guards its returns. IPv6, packets without a connection, fragments that wait, and what few packets need are
//! programs of their own ([`Stage`]), reached by a jump: each has its own stack of 512 bytes, and its own share of what
//! the verifier is ready to look at. Their parts are functions one after the other, each telling the next what to do by
//! one word, a [`Step`].

use core::borrow::Borrow;

use crate::account;
use crate::addr::Proto;
use crate::admit::{self, Question};
use crate::conn::{bound, ctl};
use crate::dest::Dest;
use crate::flow::Flow;
use crate::forward::{self, icmp};
use crate::fragments;
use crate::ip::{Address, Ip, V4, V6, filter_bit};
use crate::packet::Packet;
use crate::parse::{self, Fragment, Link, Seen};
use crate::probe;
use crate::reason::{Reason, Stage, Verdict};
use crate::recent::Recent;
use crate::related;
use crate::sip::Call;
use crate::state::{self, sctp::SctpState, tcp::TcpState};
use crate::table::{self, Hit, Place, Wanted};
use crate::tables::{Direction, Ends, Filter, Tables, refresh};
use crate::wire::ethertype;

/// What the pass works on. The kernel program keeps it in per-CPU memory, for the sake of its stack.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Work<F: Ip> {
    /// The packet taken apart.
    pub seen: Seen<F>,
    /// The packet an ICMP error quotes.
    pub quote: Seen<F>,
    /// The ICMP error, while `seen` is the request it is about, which it may start a connection for; or the packet in the
    /// tunnel whose outer header the error quotes.
    pub error: Seen<F>,
    /// What is looked up.
    pub wanted: Wanted<F>,
    /// Where it is, or will be.
    pub place: Place,
    /// What the client's persistence template is found by.
    pub group: Wanted<F>,
    /// Slot of that template.
    pub template: u32,
    /// The call the packet belongs to, if the service has a persistence engine.
    pub call: Call,
}

/// Room for either family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Workspace {
    /// IPv4.
    pub v4: Work<V4>,
    /// IPv6.
    pub v6: Work<V6>,
    /// What the scheduler is asked.
    pub question: Question,
    /// Services found lately.
    pub recent: Recent,
    /// What is left to do for the packet at hand, by [`crate::slow`] or [`crate::upkeep`].
    pub rest: Step,
    /// The packet's family: an `AF_` number.
    pub family: u32,
    /// What [`Stage::Ipv6`] goes on from.
    pub arrival: Arrival,
}

/// A packet that may be ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// Where its IP header begins.
    l3: u32,
    /// Which of its addresses are worth a look.
    ends: Ends,
}

impl Arrival {
    /// Of the packet whose IP header this is, unless it is not ours.
    #[inline(always)]
    fn of<F: Ip>(l3: u32, header: &F::Header, filter: &impl Filter) -> Result<Self, Reason> {
        let ends = filter.known_ends::<F>(header);
        // An ICMP error may come from any router: what it quotes decides.
        if !ends.any() && !related::may_be_icmp::<F>(F::payload(header)?.1) {
            return Err(Reason::NotOurs.late());
        }
        Ok(Self { l3, ends })
    }
}

/// What a stage leaves for the next one: a verdict, or bit 63 with what is to be done.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step(pub u64);

impl Step {
    const OPEN: u64 = 1 << 63;
    const KIND: u64 = Self::OPEN | 31 << 58;
    pub(crate) const RELATED: u64 = Self::OPEN;
    pub(crate) const REQUEST: u64 = Self::OPEN | 1 << 58;
    pub(crate) const ADMIT: u64 = Self::OPEN | 2 << 58;
    pub(crate) const ANSWER: u64 = Self::OPEN | 3 << 58;
    pub(crate) const PICK: u64 = Self::OPEN | 4 << 58;
    pub(crate) const OPEN_TO: u64 = Self::OPEN | 5 << 58;
    pub(crate) const BOUND: u64 = Self::OPEN | 6 << 58;
    pub(crate) const CALL: u64 = Self::OPEN | 7 << 58;
    pub(crate) const LEAVE: u64 = Self::OPEN | 8 << 58;
    pub(crate) const BYPASS: u64 = Self::OPEN | 9 << 58;
    pub(crate) const TO_SERVER: u64 = Self::OPEN | 10 << 58;
    pub(crate) const FTP: u64 = Self::OPEN | 11 << 58;
    const FROM_SERVER: u64 = 1 << 32;
    pub(crate) const LOCAL: u64 = Self::OPEN | 12 << 58;
    const EARLY: u64 = Self::OPEN | 13 << 58;
    pub(crate) const AWAITED: u64 = Self::OPEN | 14 << 58;
    pub(crate) const ORPHAN: u64 = Self::OPEN | 15 << 58;
    pub(crate) const UNEXPECTED: u64 = Self::OPEN | 16 << 58;

    /// An ICMP packet, perhaps about a connection.
    #[inline(always)]
    pub const fn related() -> Self {
        Self(Self::RELATED)
    }
    /// A client's packet of the new connection in this slot is to be counted and forwarded.
    #[inline(always)]
    pub const fn request(slot: u32) -> Self {
        Self(Self::REQUEST | slot as u64)
    }
    /// A client's packet is to be forwarded by this [`bound`] word: that of the connection just made, which it is counted
    /// for, or of none.
    #[inline(always)]
    pub const fn bound(bound: u32) -> Self {
        Self(Self::BOUND | bound as u64)
    }
    /// A client's packet has no connection.
    #[inline(always)]
    pub const fn admit() -> Self {
        Self(Self::ADMIT)
    }
    /// The scheduler is to be asked.
    #[inline(always)]
    pub const fn pick() -> Self {
        Self(Self::PICK)
    }
    /// Is the scheduler to be asked?
    #[inline(always)]
    pub const fn is_pick(self) -> bool {
        self.is(Self::PICK)
    }
    /// The call a client's packet belongs to decides.
    #[inline(always)]
    pub const fn call() -> Self {
        Self(Self::CALL)
    }
    /// A packet of the FTP control connection in this slot is to be read and forwarded.
    #[inline(always)]
    pub const fn ftp(slot: u32, from_server: bool) -> Self {
        Self(Self::FTP | slot as u64 | if from_server { Self::FROM_SERVER } else { 0 })
    }
    #[inline(always)]
    pub(crate) const fn is_from_server(self) -> bool {
        self.0 & Self::FROM_SERVER != 0
    }
    /// A connection to this dest is to be made.
    #[inline(always)]
    pub const fn open(dest: u32) -> Self {
        Self(Self::OPEN_TO | dest as u64)
    }
    /// The dest a connection is to be made to, if that is the step.
    #[inline(always)]
    pub const fn opened(self) -> Option<u32> {
        if self.is(Self::OPEN_TO) { Some(self.word()) } else { None }
    }
    /// There is no dest.
    #[inline(always)]
    pub const fn leave() -> Self {
        Self(Self::LEAVE)
    }
    /// The packet goes to its own destination.
    #[inline(always)]
    pub const fn bypass() -> Self {
        Self(Self::BYPASS)
    }
    /// A client's packet is for a NAT dest on this machine, by this [`bound`] word.
    #[inline(always)]
    pub const fn local(bound: u32) -> Self {
        Self(Self::LOCAL | bound as u64)
    }
    /// A later fragment has come before its first.
    #[inline(always)]
    pub const fn early() -> Self {
        Self(Self::EARLY)
    }
    /// A first fragment has come that others wait for.
    #[inline(always)]
    pub const fn awaited() -> Self {
        Self(Self::AWAITED)
    }
    /// The connection in this slot has lost its dest.
    #[inline(always)]
    pub const fn orphan(slot: u32) -> Self {
        Self(Self::ORPHAN | slot as u64)
    }
    /// Whose is what is left to do?
    #[inline(always)]
    const fn rest(self) -> Stage {
        if self.is(Self::EARLY) || self.is(Self::AWAITED) {
            Stage::Wait
        } else if self.is(Self::ORPHAN) {
            Stage::Upkeep
        } else if self.is(Self::FTP) {
            Stage::Ftp
        } else {
            Stage::Slow
        }
    }
    /// The sender is a server, and is to be told in the balancer's own name.
    #[inline(always)]
    pub const fn to_server(error: icmp::Error) -> Self {
        Self(Self::TO_SERVER | error.word())
    }
    /// A server's packet of no connection, to end for this reason if nobody cares.
    #[inline(always)]
    pub const fn unexpected(reason: Reason) -> Self {
        Self(Self::UNEXPECTED | reason as u64)
    }
    /// The sender is to be told.
    #[inline(always)]
    pub const fn answer(error: icmp::Error) -> Self {
        Self(Self::ANSWER | error.word())
    }
    /// Is there something left to do?
    #[inline(always)]
    pub(crate) const fn is_open(self) -> bool {
        self.0 & Self::OPEN != 0
    }
    #[inline(always)]
    pub(crate) const fn is(self, kind: u64) -> bool {
        self.0 & Self::KIND == kind
    }
    /// Slot, dest or [`bound`] word.
    #[inline(always)]
    pub(crate) const fn word(self) -> u32 {
        self.0 as u32
    }
    /// What the sender is to be told.
    #[inline(always)]
    pub(crate) const fn error(self) -> icmp::Error {
        icmp::Error::from_word(self.0 & !Self::KIND)
    }
}

impl From<Verdict> for Step {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self(verdict.word())
    }
}

impl From<Reason> for Step {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Verdict::from(reason).into()
    }
}

impl From<Result<Step, Reason>> for Step {
    #[inline(always)]
    fn from(result: Result<Step, Reason>) -> Self {
        match result {
            Ok(step) => step,
            Err(reason) => reason.into(),
        }
    }
}

/// Takes a frame through the balancer, as far as a verdict or another [`Stage`]. What is not ours, most of what some NICs
/// see, the filter tells; only then memory to work in and the tables are looked for.
#[inline(always)]
pub fn process<'a, P: Packet, T: Tables, B: Borrow<T>>(
    p: &mut P,
    filter: &impl Filter,
    space: impl FnOnce() -> Option<&'a mut Workspace>,
    tables: impl FnOnce() -> Option<B>,
) -> Verdict {
    let verdict = match parse::link(p) {
        Ok(Link { kind: ethertype::IPV4, l3 }) => ipv4(p, l3, filter, space, tables),
        Ok(Link { kind: ethertype::IPV6, l3 }) => go_to_ipv6(p, l3, filter, space),
        Ok(_) => Err(Reason::NotIp.late()),
        Err(reason) => Err(reason),
    };
    verdict.unwrap_or_else(Verdict::from)
}

#[inline(always)]
fn ipv4<'a, P: Packet, T: Tables, B: Borrow<T>>(
    p: &mut P,
    l3: u32,
    filter: &impl Filter,
    space: impl FnOnce() -> Option<&'a mut Workspace>,
    tables: impl FnOnce() -> Option<B>,
) -> Result<Verdict, Reason> {
    let header = p.header(l3)?;
    let arrival = Arrival::of::<V4>(l3, header, filter)?;
    let missing = || Reason::Internal.late();
    let (space, tables) = (space().ok_or_else(missing)?, tables().ok_or_else(missing)?);
    space.family = V4::FAMILY as u32;
    let (t, work) = (tables.borrow(), &mut space.v4);
    let step = match see::<V4, P, T>(p, t, work, arrival, header)? {
        Some(step) => step,
        None => receive(p, t, work, arrival.ends)?,
    };
    Ok(settle(step, space))
}

#[inline(always)]
fn go_to_ipv6<'a, P: Packet>(
    p: &P,
    l3: u32,
    filter: &impl Filter,
    space: impl FnOnce() -> Option<&'a mut Workspace>,
) -> Result<Verdict, Reason> {
    let arrival = Arrival::of::<V6>(l3, p.header(l3)?, filter)?;
    let space = space().ok_or_else(|| Reason::Internal.late())?;
    (space.family, space.arrival) = (V6::FAMILY as u32, arrival);
    Ok(Stage::Ipv6.into())
}

/// [`Stage::Ipv6`]: an IPv6 packet that is ours.
#[inline(always)]
pub fn ipv6<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    go_on_with_ipv6(p, t, space).unwrap_or_else(Verdict::from)
}

#[inline(always)]
fn go_on_with_ipv6<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Result<Verdict, Reason> {
    let (arrival, work) = (space.arrival, &mut space.v6);
    let step = match see::<V6, P, T>(p, t, work, arrival, p.header(arrival.l3)?)? {
        Some(step) => step,
        None => receive(p, t, work, arrival.ends)?,
    };
    Ok(settle(step, space))
}

/// [`Stage::New`]: a client's packet without a connection. The service, the dest, the entry, and on its way.
#[inline(always)]
pub fn newcomer<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    let step = stages::<V4, P, T>(p, t, &mut space.v4, &mut space.question, &mut space.recent);
    settle(step, space)
}

/// [`Stage::NewIpv6`]: the same for an IPv6 packet.
#[inline(always)]
pub fn newcomer_ipv6<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    let step = stages::<V6, P, T>(p, t, &mut space.v6, &mut space.question, &mut space.recent);
    settle(step, space)
}

/// The verdict, or what is left to do.
#[inline(always)]
pub(crate) fn settle(step: Step, space: &mut Workspace) -> Verdict {
    if !step.is_open() {
        return Verdict::from_word(step.0);
    }
    if step.is(Step::ADMIT) {
        return if space.family == V4::FAMILY as u32 { Stage::New.into() } else { Stage::NewIpv6.into() };
    }
    space.rest = step;
    step.rest().into()
}

#[inline(always)]
fn stages<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    question: &mut Question,
    recent: &mut Recent,
) -> Step {
    if probe::concerns(t, &work.seen) {
        return Verdict::from(Stage::Probe).into();
    }
    let step = t.lookup(work, question, recent);
    // A known address need not be a service's, nor the balancer's at all.
    if step == Reason::NoService.into() && t.known(filter_bit(F::FAMILY, work.seen.src.mixed())) {
        return of_server(t, Reason::NoService).into();
    }
    schedule(p, t, work, question, step)
}

/// From what the service says to the packet on its way: the dest, the entry.
#[inline(always)]
pub(crate) fn schedule<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    question: &Question,
    mut step: Step,
) -> Step {
    if step.is(Step::PICK) {
        step = t.pick(question);
    }
    if step.is(Step::OPEN_TO) {
        step = t.open(work, question, step.word() | admit::AT_HAND);
    }
    if step.is(Step::REQUEST) || step.is(Step::BOUND) {
        return t.forward_newcomer(p, &work.seen, step.word(), step.is(Step::BOUND));
    }
    step
}

/// Takes one IP packet apart that may be ours. A step: it goes on elsewhere.
#[inline(always)]
fn see<F: Ip, P: Packet, T: Tables>(
    p: &P,
    t: &T,
    work: &mut Work<F>,
    arrival: Arrival,
    header: &F::Header,
) -> Result<Option<Step>, Reason> {
    if t.settings().services(F::FAMILY) == 0 {
        return Err(Reason::FamilyIdle.late());
    }
    let mut seen = parse::ip::<F, P>(p, arrival.l3, header, t.now())?;
    if related::is_icmp::<F>(seen.proto) {
        work.seen = seen;
        return Ok(Some(Step::related()));
    }
    if !arrival.ends.any() {
        return Err(Reason::NotOurs.late());
    }
    parse::transport::<F, P>(p, &mut seen)?;
    // In memory from here on, where the kernel's verifier does not tell one kind of packet from another.
    work.seen = seen;
    Ok(if seen.fragment == Fragment::Whole { None } else { fragments::join(t, &mut work.seen, p.ingress()) })
}

/// From whom, of which connection? A packet of a known connection is sent on at once.
#[inline(always)]
fn receive<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    ends: Ends,
) -> Result<Step, Reason> {
    if ends.from()
        && let Some(hit) = find_reply(t, &work.seen, &mut work.wanted)
    {
        return reply(p, t, &work.seen, &hit);
    }
    if ends.to() {
        return if stands_by(t, work.seen.now) { Err(Reason::BackupOnly) } else { request(p, t, work) };
    }
    if let Some(step) = probe::ask(t, &work.seen) {
        return Ok(step);
    }
    of_server(t, Reason::ReplyUnknown)
}

/// A packet from a known address, of no connection and for no service: may it begin a connection, or is it to be answered?
/// (See [`crate::conn_out`], and sysctl nat_icmp_send.)
#[inline(always)]
pub(crate) fn of_server<T: Tables>(t: &T, reason: Reason) -> Result<Step, Reason> {
    let settings = t.settings();
    let cares = settings.nat_icmp_send.load() != 0 || settings.engines.load() != 0;
    if cares { Ok(Step::unexpected(reason)) } else { Err(reason) }
}

/// Are clients' packets left to another balancer (backup_only)?
#[inline(always)]
fn stands_by<T: Tables>(t: &T, now: u32) -> bool {
    t.settings().standby_until.holds(now)
}

/// A packet from a client.
#[inline(always)]
fn request<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>) -> Result<Step, Reason> {
    let seen = &work.seen;
    let place = table::place::<F, T>(t, &seen.src, seen.sport, seen.proto);
    let wanted = Wanted { flow: seen.flow(), tag: seen.proto.0 as u32, now: seen.now };
    if let Some(hit) = table::search_keeping::<F, T, false>(t, place, wanted, &mut work.wanted)
        && !reusable(t, &hit, seen)
    {
        return match follow(t, seen, &hit)? {
            Some(dest) if hit.dest & bound::ASIDE == 0 => forward::request(p, t, seen, &hit, dest),
            Some(_) if hit.dest & bound::NO_DEST != 0 => Ok(Step::bypass()),
            Some(_) => Ok(Step::ftp(hit.slot, false)),
            None => {
                (work.place, work.wanted) = (place, wanted);
                Ok(Step::orphan(hit.slot))
            }
        };
    }
    (work.place, work.wanted) = (place, wanted);
    Ok(Step::admit())
}

/// A packet of a known connection: its dest must still be there; the state machine moves.
#[inline(always)]
fn follow<'a, F: Ip, T: Tables>(
    t: &'a T,
    seen: &Seen<F>,
    hit: &Hit<'_, F>,
) -> Result<Option<&'a Dest>, Reason> {
    let dest = t.dest(hit.dest()).ok_or_else(|| Reason::Internal.late())?;
    // A connection that bypasses the dests has none.
    if !dest.available() && hit.dest & bound::NO_DEST == 0 {
        return Ok(None);
    }
    let no_output = hit.ctl & ctl::NO_OUTPUT;
    let direction = if no_output != 0 { state::Direction::InputOnly } else { state::Direction::Input };
    step(t, seen, hit, direction, no_output);
    Ok(Some(dest))
}

/// Takes a connection out of the table, if it is still what it was.
#[inline(never)]
pub(crate) fn end<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, now: u32) -> bool {
    table::remove(t, hit, now)
}

/// Moves the state machine, and with it the connection's clock and its dest's counts.
#[inline(always)]
pub(crate) fn step<F: Ip, T: Tables>(
    t: &T,
    seen: &Seen<F>,
    hit: &Hit<'_, F>,
    direction: state::Direction,
    no_output: u32,
) {
    if T::SHORT_CUTS && rests(seen, hit, direction, no_output) {
        return refresh(&hit.life().last, seen.now);
    }
    // A later fragment has no flags to go by.
    let next = if seen.fragment == Fragment::Later {
        hit.state()
    } else {
        state::next(seen.proto, t.settings().secure_tcp.load() != 0, hit.state(), direction, seen.event)
    };
    table::advance(t, hit, seen.proto, next, no_output, seen.now);
    if hit.dest & bound::CONTROLLED != 0 && assures(seen.proto, hit.state(), next, direction) {
        table::assure_template(t, &{ *hit });
    }
}

/// Does the packet change nothing but the connection's clock? Most packets of a connection do not: nothing else is asked then,
/// neither which tables are in force nor whether there is a template.
#[inline(always)]
fn rests<F: Ip>(seen: &Seen<F>, hit: &Hit<'_, F>, direction: state::Direction, no_output: u32) -> bool {
    let state = hit.state();
    state::rests(seen.proto, state, seen.event)
        && hit.ctl & ctl::NO_OUTPUT == no_output
        && !(hit.dest & bound::CONTROLLED != 0 && assures(seen.proto, state, state, direction))
}

/// Does this step make the connection's template ASSURED? Reaching ESTABLISHED does, for UDP the first answer.
#[inline(always)]
fn assures(proto: Proto, from: u8, to: u8, direction: state::Direction) -> bool {
    match proto {
        Proto::TCP => from != to && to == TcpState::Established as u8,
        Proto::SCTP => from != to && to == SctpState::Established as u8,
        _ => direction == state::Direction::Output,
    }
}

/// A new-connection packet on an old connection: may it start afresh? (IPVS's conn_reuse_mode and
/// expire_nodest_conn.) If so the old entry goes.
#[inline(always)]
pub(crate) fn reusable<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, seen: &Seen<F>) -> bool {
    // A copy: the hit itself need not be in memory.
    let copy = |hit: &Hit<'_, F>| begins_afresh(t, hit, seen.proto) && end(t, hit, seen.now);
    seen.opens && seen.proto != Proto::UDP && copy(&{ *hit })
}

#[inline(never)]
fn begins_afresh<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, proto: Proto) -> bool {
    const FIN_WAIT: u8 = TcpState::FinWait as u8;
    const TIME_WAIT: u8 = TcpState::TimeWait as u8;
    const CLOSE: u8 = TcpState::Close as u8;
    const CLOSED: u8 = SctpState::Closed as u8;
    let settings = t.settings();
    let mode = settings.conn_reuse_mode.load();
    let weightless = settings.expire_nodest_conn.load() != 0
        && hit.dest & bound::NO_DEST == 0
        && t.dest(hit.dest()).is_some_and(|d| d.weight.load() == 0);
    let finished = match (proto, hit.state()) {
        (Proto::TCP, TIME_WAIT | CLOSE) | (Proto::SCTP, CLOSED) => mode != 0,
        (Proto::TCP, FIN_WAIT) => mode & 2 != 0 && hit.ctl & ctl::NO_OUTPUT != 0,
        _ => false,
    };
    weightless || finished && hit.dest & bound::CONTROLLED == 0
}

/// The connection a packet from a known address is a reply of.
#[inline(always)]
pub(crate) fn find_reply<'a, F: Ip, T: Tables>(
    t: &'a T,
    seen: &Seen<F>,
    memory: &mut Wanted<F>,
) -> Option<Hit<'a, F>> {
    let place = table::place::<F, T>(t, &seen.dst, seen.dport, seen.proto);
    let flow =
        Flow { client: seen.dst, vaddr: seen.src, cport: seen.dport, vport: seen.sport, proto: seen.proto };
    let wanted = Wanted { flow, tag: seen.proto.0 as u32, now: seen.now };
    table::search_keeping::<F, T, true>(t, place, wanted, memory)
}

/// A packet from a server. One whose TTL ends here, or that is longer than the way to its client carries, never gets as far
/// as IPVS: the stack answers it. What is not translated passes, and the stack sees for itself; the other is told here.
#[inline(always)]
fn reply<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    hit: &Hit<'_, F>,
) -> Result<Step, Reason> {
    let header: &F::Header = p.header(seen.l3)?;
    let (untranslated, own) = (hit.dest & bound::UNTRANSLATED != 0, hit.dest & bound::OWN != 0);
    if F::ttl(header) <= 1 && !(untranslated && own) {
        return Err(Reason::TtlPassed.late());
    }
    if untranslated {
        account(t, seen, hit);
        return Err(if own { Reason::LocalClient } else { Reason::ReplyDirect });
    }
    let hop = forward::way_back(p, t, seen, hit)?;
    if forward::too_long(p, seen, &hop) {
        forward::refuses_fragments::<F, P>(p, seen)?;
        return Ok(Step::to_server(icmp::Error::too_big(hop.mtu)));
    }
    account(t, seen, hit);
    if hit.dest & bound::FTP != 0 {
        return Ok(Step::ftp(hit.slot, true));
    }
    forward::reply(p, seen, hit, &hop)
}

/// Counts a server's packet and moves its connection.
#[inline(always)]
pub(crate) fn account<F: Ip, T: Tables>(t: &T, seen: &Seen<F>, hit: &Hit<'_, F>) {
    if hit.dest & bound::NO_DEST == 0 {
        account::count(t, hit.dest(), Direction::Out, seen.len);
    }
    step(t, seen, hit, state::Direction::Output, 0);
}
