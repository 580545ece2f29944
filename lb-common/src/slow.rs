//! What few packets need, apart from the pass that all go through: ICMP errors, and the answers the balancer gives itself.
//! In the kernel it is a program of its own, reached by a tail call: with its own stack, and its own share of what the
//! verifier is ready to look at.

use crate::addr::Family;
use crate::forward::icmp;
use crate::ip::{Ip, V4, V6};
use crate::packet::Packet;
use crate::pipeline::{Step, Work, Workspace};
use crate::reason::Verdict;
use crate::related;
use crate::tables::Tables;

/// Does what [`crate::pipeline::process`] left to do.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    if space.family == Family::V4 as u32 {
        finish::<V4, P, T>(p, t, &mut space.v4, space.rest)
    } else {
        finish::<V6, P, T>(p, t, &mut space.v6, space.rest)
    }
}

#[inline(always)]
fn finish<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>, rest: Step) -> Verdict {
    let mut step = rest;
    if step.is(Step::RELATED) {
        step = related::forward(p, t, work);
    }
    if step.is(Step::ANSWER) {
        return icmp::answer(p, t, &work.seen, icmp::Error::from_word(step.word()));
    }
    Verdict::from_word(step.0)
}
