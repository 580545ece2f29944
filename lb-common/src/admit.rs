//! A packet without a connection, in three stages: which service is it for and may it start a connection
//! ([`lookup`]), which dest gets it ([`pick`]), make the entry ([`open`]).

use core::ops::ControlFlow;

use crate::addr::{Addr, Port, Proto};
use crate::conn::{bound, ctl, packets};
use crate::dest::{Dest, Method};
use crate::ftp;
use crate::ip::{Address, Ip};
use crate::mark;
use crate::parse::{Fragment, Seen};
use crate::persist;
use crate::pipeline::{Step, Work};
use crate::reason::Reason;
use crate::recent::Recent;
use crate::sched::{self, Ask, CacheKey, Cached, Candidate, Scheduler, View, tree};
use crate::service::{SIP, SchedState, Service, ServiceKey, flags};
use crate::state;
use crate::table::{Birth, Inserted};
use crate::tables::{Control, Tables};
use crate::wire::tcp_flags;

/// What a scheduler is asked: for which service, about which packet. Kept between the stages.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Question {
    /// The service, as it was when the packet found it.
    pub service: Service,
    /// The packet.
    pub ask: Ask,
    /// Its destination address, whole.
    pub destination: Addr,
    /// The hash of the packet's call, if the service has a persistence engine.
    pub call: u64,
    /// The mark the service was found by; 0 for address services.
    pub mark: u32,
    /// The port of the key the service was found by: 0 for one that takes all ports.
    pub port: Port,
    /// 1 if a service on port 21 takes a packet to another port.
    pub ftp_data: u16,
}

impl Question {
    /// Do connections go through templates?
    #[inline(always)]
    pub const fn persistent(&self) -> bool {
        self.service.flags & flags::PERSISTENT != 0
    }
    /// Are templates for calls rather than clients?
    #[inline(always)]
    pub const fn by_call(&self) -> bool {
        self.persistent() && self.service.engine == SIP
    }
    /// Without a dest, what becomes of a packet that a service on port 21 takes besides those to port 21: it passes.
    #[inline(always)]
    pub fn left(&self) -> Option<Reason> {
        (self.ftp_data != 0).then_some(Reason::NoConnection)
    }
    /// Is each packet scheduled by itself? (`-o`, UDP only.)
    #[inline(always)]
    pub fn one_packet(&self, proto: Proto) -> bool {
        self.service.flags & flags::OPS != 0 && proto == Proto::UDP
    }
}

/// Finds the service and writes the question. Leads to [`pick`], or for a client with a template straight to
/// [`open`].
#[inline(always)]
pub fn lookup<F: Ip, T: Tables>(
    t: &T,
    work: &mut Work<F>,
    question: &mut Question,
    recent: &mut Recent,
) -> Step {
    if let Some(step) = ftp::awaited(t, work) {
        return step;
    }
    let seen = &work.seen;
    let Some(port) = service(t, seen, question, recent) else { return Reason::NoService.into() };
    // Source port 20 is a server's FTP data connection to a client; IPVS never balances it.
    if !opens(t, seen) || seen.proto == Proto::TCP && seen.sport == Port::new(20) {
        return Reason::NoConnection.into();
    }
    // A non-persistent service serves its own port only; a packet to another one came by the FTP rule.
    if !question.persistent() && question.mark == 0 && port != seen.dport {
        return Reason::NoConnection.into();
    }
    if to_drop(t) {
        return Reason::Limited.into();
    }
    question.port = port;
    question.ftp_data = (port == Port::new(21) && port != seen.dport) as u16;
    question.destination = seen.dst.wide();
    question.ask = Ask {
        source: u32::from_be(seen.src.mixed()),
        destination: u32::from_be(seen.dst.mixed()),
        source_port: seen.sport.host() as u32,
    };
    if question.persistent() { persist::lookup(t, work, question) } else { Step::pick() }
}

/// May the packet start a connection? The sloppy_* sysctls let any packet do so but a reset, which never may.
#[inline(always)]
fn opens<F: Ip, T: Tables>(t: &T, seen: &Seen<F>) -> bool {
    let resets = match seen.proto {
        Proto::TCP => seen.event == state::tcp::event(tcp_flags::RST),
        Proto::SCTP => seen.event == state::sctp::event(state::sctp::chunk::ABORT, None),
        _ => false,
    };
    // A later fragment says nothing of what its datagram is.
    seen.fragment != Fragment::Later && !resets && (seen.opens || t.settings().is_sloppy(seen.proto))
}

/// The drop_packet defence: of the packets that would start a connection every n-th is dropped.
#[inline(always)]
fn to_drop<T: Tables>(t: &T) -> bool {
    let settings = t.settings();
    let rate = settings.drop_rate.load();
    if rate == 0 {
        return false;
    }
    let left = settings.drop_counter.load() as i32;
    let drops = left <= 1;
    // Another CPU counting at the same moment may be lost: the rate is meant, not the single packet.
    settings.drop_counter.store(if drops { rate } else { (left - 1) as u32 });
    drops
}

/// The service a packet is for, in IPVS's order: mark, exact, the FTP rule, port 0. Returns the port of its key.
#[inline(always)]
fn service<F: Ip, T: Tables>(
    t: &T,
    seen: &Seen<F>,
    question: &mut Question,
    recent: &mut Recent,
) -> Option<Port> {
    const FTP: Port = Port::new(21);
    const FTP_DATA: u16 = 20;
    let settings = t.settings();
    // A service by mark beats those by address.
    question.mark = 0;
    if settings.marks.load() != 0 {
        let mark = mark::of(t, seen);
        if mark != 0 && recent.service(t, &ServiceKey::mark(F::FAMILY, mark), &mut question.service) {
            question.mark = mark;
            return Some(Port::ZERO);
        }
    }
    let mut key = ServiceKey::addr(F::FAMILY, seen.proto, seen.dst.wide(), seen.dport);
    if recent.service(t, &key, &mut question.service) {
        return Some(key.port);
    }
    let port = seen.dport.host();
    if seen.proto == Proto::TCP && settings.ftp.load() != 0 && (port == FTP_DATA || port >= 1024) {
        key.port = FTP;
        if recent.service(t, &key, &mut question.service) {
            return Some(key.port);
        }
    }
    if settings.port0.load() == 0 {
        return None;
    }
    key.port = Port::ZERO;
    recent.service(t, &key, &mut question.service).then_some(key.port)
}

/// Asks the scheduler.
#[inline(always)]
pub fn pick<T: Tables>(t: &T, question: &Question) -> Step {
    let service = &question.service;
    let Some(state) = t.sched(service.slot) else { return Reason::Internal.into() };
    match sched::pick(
        &ServiceView { tables: t, service, state, destination: &question.destination },
        &question.ask,
    ) {
        Some(dest) => Step::open(dest),
        None => Step::leave(),
    }
}

/// Of what [`open`] is told: the packet at hand is the client's, and about to be forwarded. Its connection begins with it
/// counted, and where it goes need not be read from there again.
pub const AT_HAND: u32 = 1 << 30;

/// Makes the connection to dest `number`, for a persistent service through the client's template and to its dest.
#[inline(always)]
pub fn open<F: Ip, T: Tables>(t: &T, work: &mut Work<F>, question: &Question, number: u32) -> Step {
    let (at_hand, number) = (number & AT_HAND != 0, number & !AT_HAND);
    if number & ftp::DATA != 0 {
        return ftp::adopt(t, work);
    }
    let (mut number, mut control) = (number, Control::NONE);
    if question.persistent() {
        match persist::tie(t, work, question, number) {
            Ok(tied) => (number, control) = tied,
            Err(reason) => return Step(reason as u64),
        }
    }
    // Under persistence the packet's own port is kept, but for a packet to the service's port.
    let keep_port = question.persistent() && work.seen.dport != question.port;
    if question.one_packet(work.seen.proto) {
        t.count_conn(number);
        return stray(t, work, number, keep_port);
    }
    let Some(dest) = t.dest(number) else { return Reason::Internal.into() };
    let mut birth = birth(t, &work.seen, number, dest, keep_port || dest.port().is_zero());
    if control.template != Control::NONE.template {
        birth.dest |= bound::CONTROLLED;
    }
    if at_hand {
        birth.packets += 1;
    }
    let inserted = t.insert_newcomer(&work.wanted, work.place, birth, control);
    if inserted.is_new() {
        t.count_conn(number);
        if at_hand {
            return Step::bound(birth.dest);
        }
    }
    match inserted.slot() {
        Ok(slot) => Step::request(slot),
        Err(reason) if reason == Reason::TableFull as u32 => without_entry(t, work, question, number),
        Err(reason) => Step(reason as u64),
    }
}

/// The packet goes to dest `number` and leaves no entry.
#[inline(always)]
fn stray<F: Ip, T: Tables>(t: &T, work: &Work<F>, number: u32, keep_port: bool) -> Step {
    let Some(dest) = t.dest(number) else { return Reason::Internal.into() };
    let birth = birth(t, &work.seen, number, dest, keep_port || dest.port().is_zero());
    Step::bound(birth.dest | bound::NO_ENTRY)
}

/// No room for the entry. A scheduler that decides by the packet alone will decide the same for the next one, so the
/// packet may go all the same, unless its replies need translating, or the next one would not be scheduled at all.
#[inline(always)]
fn without_entry<F: Ip, T: Tables>(t: &T, work: &Work<F>, question: &Question, number: u32) -> Step {
    const HASHES: [u8; 3] = [Scheduler::Sh as u8, Scheduler::Dh as u8, Scheduler::Mh as u8];
    let Some(dest) = t.dest(number) else { return Reason::Internal.into() };
    let hashed = HASHES.contains(&question.service.scheduler) && !question.persistent();
    if !hashed || !t.settings().is_sloppy(work.seen.proto) || dest.method() == Method::Nat as u8 {
        return Reason::TableFull.into();
    }
    stray(t, work, number, false)
}

/// Makes the entry of a connection that bypasses the dests; its slot. IPVS calls it NOOUTPUT only where there is a dest.
#[inline(always)]
pub fn bypass<F: Ip, T: Tables>(t: &T, work: &Work<F>) -> Inserted {
    let seen = &work.seen;
    let secure = t.settings().secure_tcp.load() != 0;
    let state = state::first(seen.proto, secure, state::Direction::Input, seen.event);
    let birth = Birth {
        dest: bound::NO_DEST | (Method::Bypass as u32) << bound::METHOD_SHIFT,
        tag: 0,
        ctl: state as u32,
        last: seen.now,
        packets: packets::NONE,
    };
    t.insert(&work.wanted, work.place, birth, Control::NONE)
}

/// What the entry of a connection starts as. `keep_port`: the dest is addressed on the packet's own port.
#[inline(always)]
pub(crate) fn birth<F: Ip, T: Tables>(
    t: &T,
    seen: &Seen<F>,
    number: u32,
    dest: &Dest,
    keep_port: bool,
) -> Birth {
    let method = dest.method() as u32;
    let nat = method == Method::Nat as u32;
    let direction = if nat { state::Direction::Input } else { state::Direction::InputOnly };
    let secure = t.settings().secure_tcp.load() != 0;
    let state = state::first(seen.proto, secure, direction, seen.event);
    let active = if state::active(seen.proto, state) { ctl::ACTIVE } else { 0 };
    let ftp = nat && seen.proto == Proto::TCP && seen.dport == ftp::CONTROL;
    let how = if keep_port { bound::KEEP_PORT } else { 0 } | if ftp { bound::FTP } else { 0 };
    Birth {
        dest: number | method << bound::METHOD_SHIFT | how,
        tag: 0,
        ctl: state as u32 | active | if nat { 0 } else { ctl::NO_OUTPUT },
        last: seen.now,
        packets: packets::NONE,
    }
}

/// A service as schedulers see it.
struct ServiceView<'a, T: Tables> {
    tables: &'a T,
    service: &'a Service,
    state: &'a SchedState,
    destination: &'a Addr,
}

impl<T: Tables> ServiceView<'_, T> {
    #[inline(always)]
    fn cache_key(&self) -> CacheKey {
        CacheKey { cache: self.service.cache as u64, addr: *self.destination }
    }
}

impl<T: Tables> View for ServiceView<'_, T> {
    #[inline(always)]
    fn service(&self) -> &Service {
        self.service
    }
    #[inline(always)]
    fn state(&self) -> &SchedState {
        self.state
    }
    #[inline(always)]
    fn candidate(&self, at: u32) -> Option<Candidate> {
        if at >= self.service.dests {
            return None;
        }
        self.dest(self.tables.list(self.service.list.wrapping_add(at))?)
    }
    #[inline(always)]
    fn table(&self, at: u32) -> Option<u32> {
        if at >= self.service.table_len {
            return None;
        }
        self.tables.list(self.service.table.wrapping_add(at))
    }
    #[inline(always)]
    fn tree(&self) -> u32 {
        if self.service.table_len == 0 {
            return tree::ABSENT;
        }
        self.tables.tree_winner(self.service.table)
    }
    #[inline(always)]
    fn dest(&self, number: u32) -> Option<Candidate> {
        let dest = self.tables.dest(number)?;
        let candidate = Candidate::of(number, dest);
        // A cache may name a slot that has become another service's.
        let ours = dest.service.load() == self.service.slot;
        Some(Candidate { available: candidate.available && ours, ..candidate })
    }
    #[inline(always)]
    fn random(&self) -> u32 {
        self.tables.random()
    }
    #[inline(always)]
    fn cached(&self) -> Option<&Cached> {
        let settings = self.tables.settings();
        let expiration = if self.service.scheduler == Scheduler::Lblc as u8 {
            settings.lblc_expiration.load()
        } else {
            settings.lblcr_expiration.load()
        };
        let entry = self.tables.cached(&self.cache_key())?;
        let dropped = entry.dropped(self.service.cache_born, self.seconds(), expiration);
        if dropped { None } else { Some(entry) }
    }
    #[inline(always)]
    fn remember(&self, word: u32) {
        if let Some(entry) = self.tables.cache_make(&self.cache_key()) {
            entry.begin(word, self.seconds());
        }
    }
    #[inline(always)]
    fn seconds(&self) -> u32 {
        self.tables.seconds()
    }
    #[inline(always)]
    fn set_expiration(&self) -> u32 {
        self.tables.settings().lblcr_expiration.load()
    }
    #[inline(always)]
    fn walk<A>(&self, count: u32, acc: &mut A, step: impl Fn(&Self, &mut A, u32) -> ControlFlow<()>) {
        self.tables.repeat(count, acc, |_, acc, i| step(self, acc, i));
    }
}
