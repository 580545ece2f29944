//! Packets of connections whose dest is deleted, or was found dead by the agent. In the kernel it is a program of its own, as
//! [`crate::slow`] is.

use crate::addr::{Family, Proto};
use crate::dest::status;
use crate::forward::reset;
use crate::ip::{Ip, V4, V6};
use crate::packet::Packet;
use crate::pipeline::{self, Step, Work, Workspace};
use crate::reason::{Reason, Verdict};
use crate::state::{sctp::SctpState, tcp::TcpState};
use crate::table::{self, Hit};
use crate::tables::Tables;

/// [`crate::reason::Stage::Upkeep`].
#[inline(always)]
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    let slot = space.rest.word();
    let step = if space.family == Family::V4 as u32 {
        without_dest::<V4, P, T>(p, t, &mut space.v4, slot)
    } else {
        without_dest::<V6, P, T>(p, t, &mut space.v6, slot)
    };
    pipeline::settle(step, space)
}

/// The connection takes no more packets. Or it ends, and the packet counts as one without any: under expire_nodest_conn, or
/// because the dest's fate says so, in which case it may begin another whatever it is. Or the client is told.
#[inline(always)]
fn without_dest<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>, slot: u32) -> Step {
    let step = judge(t, work, slot);
    if step.is(Step::ORPHAN) { tell(p, t, work, slot).into() } else { step }
}

/// What becomes of it: [`Step::admit`], or the step as it came if the client is to be told.
#[inline(never)]
fn judge<F: Ip, T: Tables>(t: &T, work: &mut Work<F>, slot: u32) -> Step {
    let seen = &mut work.seen;
    let Some(hit) = table::hit_at::<F, T>(t, slot) else { return Reason::DestGone.into() };
    let fate = t.dest(hit.dest()).map_or(0, |dest| dest.status.load()) & (status::MOVE | status::RESET);
    if fate & status::RESET != 0 && !seen.opens {
        return Step::orphan(slot);
    }
    let ends = fate != 0 || t.settings().expire_nodest_conn.load() != 0;
    if !ends || !pipeline::end(t, &hit, seen.now) {
        return Reason::DestGone.into();
    }
    seen.opens |= fate != 0;
    Step::admit()
}

/// The client is told that its connection has ended. It stays for a while, as one that was reset does: what the client has
/// sent in the meantime is answered too.
#[inline(never)]
fn tell<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>, slot: u32) -> Verdict {
    let verdict = reset::answer(p, t, &work.seen);
    if verdict.counter() == Reason::ResetSent as u32
        && let Some(hit) = table::hit_at::<F, T>(t, slot)
    {
        close(t, &hit, work.seen.proto, work.seen.now);
    }
    verdict
}

#[inline(always)]
fn close<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, proto: Proto, now: u32) {
    let closed = if proto == Proto::SCTP { SctpState::Closed as u8 } else { TcpState::Close as u8 };
    table::advance(t, hit, proto, closed, 0, now);
}
