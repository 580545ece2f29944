//! FTP under NAT: data connections go where their control connection goes (IPVS's ip_vs_ftp).
//!
//! What client and server say on a control connection (virtual port 21) is read. A client's PORT or EPRT makes the entry
//! of the connection its server will begin; a server's 227 or 229, after PASV or EPSV, that of the one the client will
//! begin, from a port nobody knows yet: port 0 in the entry until its first packet comes ([`adopt`]). The control
//! connection does not go before its data connections.
//!
//! A 227 names the server, so the virtual address is put in its place. IPVS changes the segment's length and every
//! sequence number after it; here the words before the address give way or blanks fill up ([`rewrite`]), and the length
//! stays.

mod parse;
mod rewrite;

use crate::addr::{Addr, Port, Proto};
use crate::conn::{Entry, bound, ctl, packets};
use crate::flow::Flow;
use crate::forward;
use crate::ip::{Address, Ip, V4, V6};
use crate::packet::Packet;
use crate::parse::{Fragment, Seen};
use crate::pipeline::{self, Step, Work, Workspace};
use crate::reason::{Reason, Verdict};
use crate::state::{self, tcp::TcpState};
use crate::table::{self, Birth, Hit, Wanted};
use crate::tables::{Control, Tables};
use crate::text::Text;
use crate::wire::Tcp;

use parse::Told;

/// The port of control connections.
pub const CONTROL: Port = Port::new(21);
/// In the word of [`Step::open`]: the client begins a data connection that is waited for.
pub const DATA: u32 = 1 << 31;
const LISTEN: u32 = TcpState::Listen as u32;

/// [`crate::reason::Stage::Ftp`]: a packet of a control connection. In the kernel it is a program of its own, as [`crate::slow`] is.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    let step = space.rest;
    let (slot, from_server) = (step.word(), step.is_from_server());
    let step = if space.family == V4::FAMILY as u32 {
        control::<V4, P, T>(p, t, &mut space.v4, slot, from_server)
    } else {
        control::<V6, P, T>(p, t, &mut space.v6, slot, from_server)
    };
    pipeline::settle(step, space)
}

/// It is read, and goes on.
#[inline(always)]
fn control<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    slot: u32,
    from_server: bool,
) -> Step {
    let how = hear(p, t, work, slot, from_server);
    if how != 0 {
        let reason = expect(t, work, slot, how);
        if reason != 0 {
            return Step(reason as u64);
        }
    }
    if from_server {
        send_reply(p, t, &work.seen, slot)
    } else {
        t.forward_newcomer(p, &work.seen, slot, false)
    }
}

/// Reads what a packet of the control connection in `slot` says. With a data connection to wait for, its key is left in
/// `work.group`, and the [`bound`] bit that tells its server's port is returned; else 0.
///
/// This and the next two are functions of their own, one after the other, for the kernel program's stack.
#[inline(never)]
pub fn hear<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    slot: u32,
    from_server: bool,
) -> u32 {
    let seen = &work.seen;
    let Some(hit) = find(t, seen, slot, from_server) else { return 0 };
    let mode = hit.dest & bound::MODES;
    let established = hit.state() == TcpState::Established as u8;
    if !established || seen.fragment != Fragment::Whole || from_server && mode == 0 {
        return 0;
    }
    let Some(tcp) = p.at::<Tcp>(seen.l4) else { return 0 };
    let Some(text) = Text::behind(seen, (tcp.offset >> 4) as u32 * 4) else { return 0 };
    let mut told = Told::new::<F>(text, seen.l4, if from_server { mode } else { 0 });
    told.read(p, t);
    if from_server { reply(p, t, work, &hit, &told) } else { command(work, &hit, &told) }
}

/// The control connection, if it is still there.
#[inline(always)]
fn find<'a, F: Ip, T: Tables>(t: &'a T, seen: &Seen<F>, slot: u32, from_server: bool) -> Option<Hit<'a, F>> {
    let (client, port) = if from_server { (&seen.dst, seen.dport) } else { (&seen.src, seen.sport) };
    table::hit_at::<F, T>(t, slot)
        .filter(|hit| hit.entry.is_client(client, port, seen.proto) && hit.current())
}

/// PASV and EPSV choose what the server's answer will be; PORT and EPRT say where the server is to come to.
#[inline(always)]
fn command<F: Ip>(work: &mut Work<F>, hit: &Hit<'_, F>, told: &Told) -> u32 {
    if told.mode() != 0 {
        set_mode(hit, told.mode());
        return 0;
    }
    if !told.whole() {
        return 0;
    }
    set_mode(hit, 0);
    let client = if told.extended() { work.seen.src } else { address::<F>(told) };
    let vport = Port::new(hit.entry.vport().host().wrapping_sub(1));
    wait_for(work, hit, client, Port::new(told.port()), vport);
    if hit.dest & bound::KEEP_PORT != 0 { bound::KEEP_PORT } else { bound::DATA_PORT }
}

/// The server says where it waits for the client.
#[inline(always)]
fn reply<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    hit: &Hit<'_, F>,
    told: &Told,
) -> u32 {
    // Another machine's address cannot be reached through this connection's dest.
    if !told.whole() || !told.extended() && address::<F>(told) != work.seen.src {
        return 0;
    }
    set_mode(hit, 0);
    let virtual_address = hit.entry.vaddr().wide().words()[0];
    if !told.extended() && !rewrite::address(p, t, told, virtual_address) {
        return 0;
    }
    // Nobody looks for a connection that is waited for, unless there may be one.
    let limit = t.settings().timeout(Proto::TCP, LISTEN).load();
    t.settings().awaited_until.hold(work.seen.now, limit);
    let client = work.seen.dst;
    wait_for(work, hit, client, Port::ZERO, Port::new(told.port()));
    bound::KEEP_PORT
}

#[inline(always)]
fn address<F: Ip>(told: &Told) -> F::Addr {
    F::Addr::narrow(&Addr::from_words([told.address(), 0, 0, 0]))
}

#[inline(always)]
fn set_mode<F: Ip>(hit: &Hit<'_, F>, mode: u32) {
    let word = hit.dest & !bound::MODES | mode;
    if word != hit.dest {
        hit.life().dest.compare_exchange(hit.dest, word);
    }
}

#[inline(always)]
fn wait_for<F: Ip>(work: &mut Work<F>, hit: &Hit<'_, F>, client: F::Addr, cport: Port, vport: Port) {
    let group = &mut work.group;
    group.flow.client = client;
    group.flow.vaddr = hit.entry.vaddr();
    group.flow.cport = cport;
    group.flow.vport = vport;
    group.flow.proto = Proto::TCP;
    group.tag = Proto::TCP.0 as u32;
    group.now = work.seen.now;
}

/// Makes the entry of the data connection that [`hear`] heard of, in state LISTEN, or puts it back there. 0, or the
/// number of the reason why there is none: then the packet may not go on.
#[inline(never)]
pub fn expect<F: Ip, T: Tables>(t: &T, work: &Work<F>, slot: u32, how: u32) -> u32 {
    let Some(hit) = table::hit_at::<F, T>(t, slot) else { return Reason::BucketBusy as u32 };
    let (flow, now) = (&work.group.flow, work.group.now);
    let birth = Birth {
        dest: hit.dest & bound::WHERE | bound::CONTROLLED | how,
        tag: 0,
        ctl: LISTEN,
        last: now,
        packets: packets::NONE,
    };
    let place = table::place::<F, T>(t, &flow.client, flow.cport, flow.proto);
    let control = Control { template: hit.slot, identity: hit.ctl & ctl::IDENTITY };
    let data = match t.insert(&work.group, place, birth, control).slot() {
        Ok(data) => data,
        Err(reason) => return reason,
    };
    if let Some(data) = table::hit_at::<F, T>(t, data) {
        table::advance(t, &data, Proto::TCP, LISTEN as u8, 0, now);
    }
    0
}

/// Sends a server's packet of the control connection on.
#[inline(never)]
pub fn send_reply<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>, slot: u32) -> Step {
    let Some(hit) = find(t, seen, slot, true) else { return Reason::BucketBusy.into() };
    match forward::way_back(p, t, seen, &hit) {
        Ok(hop) => forward::reply(p, seen, &hit, &hop).into(),
        Err(reason) => reason.into(),
    }
}

/// A packet without a connection: does it begin one that is waited for? Its slot is kept for [`adopt`].
#[inline(always)]
pub fn awaited<F: Ip, T: Tables>(t: &T, work: &mut Work<F>) -> Option<Step> {
    let seen = &work.seen;
    if seen.proto != Proto::TCP || !t.settings().awaited_until.holds(seen.now) {
        return None;
    }
    work.group = Wanted { flow: Flow { cport: Port::ZERO, ..seen.flow() }, ..work.wanted };
    let place = table::place::<F, T>(t, &seen.src, Port::ZERO, seen.proto);
    let hit = table::search::<F, T, false>(t, place, &work.group)?;
    work.template = hit.slot;
    Some(Step::open(DATA))
}

/// The client's data connection has a port now: its entry takes the place of the one without.
#[inline(always)]
pub fn adopt<F: Ip, T: Tables>(t: &T, work: &Work<F>) -> Step {
    let seen = &work.seen;
    let Some(hit) = table::hit_at::<F, T>(t, work.template)
        .filter(|hit| hit.entry.matches(&work.group.flow, work.group.tag) && hit.current())
    else {
        return Reason::BucketBusy.into();
    };
    if !t.dest(hit.dest()).is_some_and(|dest| dest.available()) {
        return Reason::DestGone.into();
    }
    let control = t.control_get(hit.key());
    let secure = t.settings().secure_tcp.load() != 0;
    let state = state::next(seen.proto, secure, LISTEN as u8, state::Direction::Input, seen.event);
    let active = if state::active(seen.proto, state) { ctl::ACTIVE } else { 0 };
    let birth = Birth {
        dest: if control.is_some() { hit.dest } else { hit.dest & !bound::CONTROLLED },
        tag: 0,
        ctl: state as u32 | active,
        last: seen.now,
        packets: packets::NONE,
    };
    let control = control.unwrap_or(Control::NONE);
    let inserted = t.insert(&work.wanted, work.place, birth, control);
    table::remove(t, &hit, seen.now);
    match inserted.slot() {
        Ok(slot) => Step::request(slot),
        Err(reason) => Step(reason as u64),
    }
}
