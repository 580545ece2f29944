//! Connections that servers begin, of services with a persistence engine (IPVS's conn_out; Linux: `ip_vs_new_conn_out`).
//!
//! A datagram that a NAT dest sends from its own address and port, and which answers nothing, begins a connection of the
//! dest's service: it leaves in the service's name, and what the other end answers finds that dest. The call it is about gets
//! its template, to that dest and no other. Under `-o` each such datagram is a connection without an entry.
//!
//! To the tables it is as if the other end had begun: [`Work::quote`] keeps the packet as it is, [`Work::seen`] is what the
//! other end would have sent.

use crate::account;
use crate::addr::{Port, Proto};
use crate::admit::Question;
use crate::cell;
use crate::conn::{Entry, bound};
use crate::forward;
use crate::ip::{Address, Ip};
use crate::packet::Packet;
use crate::parse::Fragment;
use crate::persist;
use crate::pipeline::{self, Step, Work};
use crate::reason::Reason;
use crate::servers;
use crate::service::SIP;
use crate::table::{self, Wanted};
use crate::tables::{Direction, Tables};

/// No dest of a service with a persistence engine has sent the packet.
const NOBODY: u32 = u32::MAX;

/// Sends a server's packet of no connection on in its service's name, if it begins one. Else `step`, as it came.
#[inline(always)]
pub fn begin<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    question: &mut Question,
    step: Step,
) -> Step {
    if t.settings().engines.load() == 0 || !may_begin(p, t, work) {
        return step;
    }
    let number = turn(t, work, question);
    if number == NOBODY {
        return step;
    }
    let called = if question.by_call() { t.call(p, work, question) } else { Step::pick() };
    if called.is(Step::PICK) || called.is(Step::OPEN_TO) {
        persist::insist(t, work, number);
        let opened = make(t, work, question, number);
        if opened.is(Step::REQUEST) || opened.is(Step::BOUND) {
            return send(p, t, work, opened);
        }
    }
    // Without a call or room for it there is no connection, as under IPVS.
    work.seen = work.quote;
    step
}

/// Datagrams only: other protocols begin from ports of their own. And only such as are on their way through: one that ends
/// here, by its TTL or its destination, is the stack's.
#[inline(always)]
fn may_begin<F: Ip, P: Packet, T: Tables>(p: &P, t: &T, work: &Work<F>) -> bool {
    let seen = &work.seen;
    if seen.proto != Proto::UDP || seen.fragment == Fragment::Later {
        return false;
    }
    let Some(header) = p.at::<F::Header>(seen.l3) else { return false };
    F::ttl(header) > 1 && forward::goes_on(p, t, seen)
}

/// Finds the server and its service, and turns the packet around. The dest's number, or [`NOBODY`].
#[inline(never)]
fn turn<F: Ip, T: Tables>(t: &T, work: &mut Work<F>, question: &mut Question) -> u32 {
    let Some(number) = servers::find::<F, T>(t, &work.seen.src, work.seen.sport, work.seen.proto) else {
        return NOBODY;
    };
    let Some(dest) = t.dest(number) else { return NOBODY };
    let key = dest.owner();
    // A mark says neither address nor port, and a service of all ports not which.
    let Some(service) = t.service(&key).filter(|service| service.engine == SIP) else { return NOBODY };
    if key.mark != 0 || key.port.is_zero() || work.seen.sport.is_zero() {
        return NOBODY;
    }
    cell::copy(service, &mut question.service);
    (question.mark, question.port, question.ftp_data) = (0, key.port, 0);
    work.quote = work.seen;
    turn_around(work, F::Addr::narrow(&key.addr), key.port);
    let seen = &work.seen;
    work.place = table::place::<F, T>(t, &seen.src, seen.sport, seen.proto);
    work.wanted = Wanted { flow: seen.flow(), tag: seen.proto.0 as u32, now: seen.now };
    work.template = persist::NO_TEMPLATE;
    number
}

#[inline(always)]
fn turn_around<F: Ip>(work: &mut Work<F>, vaddr: F::Addr, vport: Port) {
    let (packet, turned) = (&work.quote, &mut work.seen);
    (turned.src, turned.sport) = (packet.dst, packet.dport);
    (turned.dst, turned.dport) = (vaddr, vport);
}

/// Makes the connection. Of two servers with one end of a client's, the later one has the client's packets from now on.
#[inline(always)]
fn make<F: Ip, T: Tables>(t: &T, work: &mut Work<F>, question: &Question, number: u32) -> Step {
    if !question.one_packet(work.seen.proto) {
        succeed(t, work);
    }
    t.open(work, question, number)
}

#[inline(never)]
fn succeed<F: Ip, T: Tables>(t: &T, work: &Work<F>) -> bool {
    let earlier = table::search::<F, T, false>(t, work.place, &work.wanted);
    earlier.is_none_or(|earlier| table::leave_replies(&earlier))
}

/// The packet leaves, as an answer would.
#[inline(always)]
fn send<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &Work<F>, opened: Step) -> Step {
    let why = enter(t, work, opened.word(), opened.is(Step::BOUND));
    if why != 0 {
        return Step(why as u64);
    }
    forward::answer(p, t, &work.quote, &work.seen.dst, work.seen.dport)
}

/// Counts it as its server's. 0, or the number of the reason why its connection is gone again.
#[inline(never)]
fn enter<F: Ip, T: Tables>(t: &T, work: &Work<F>, word: u32, bound: bool) -> u32 {
    let packet = &work.quote;
    if bound {
        account::count(t, word & bound::DEST, Direction::Out, packet.len);
        persist::assure(t, work);
        return 0;
    }
    let ours = table::hit_at::<F, T>(t, word)
        .filter(|hit| hit.entry.matches(&work.wanted.flow, work.wanted.tag) && hit.current());
    let Some(hit) = ours else { return Reason::BucketBusy as u32 };
    pipeline::account(t, packet, &hit);
    0
}
