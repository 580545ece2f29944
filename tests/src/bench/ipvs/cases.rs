//! What is measured, how many times fewer instructions are aimed at, and how many there may be.

use lb_common::addr::{Family, Proto};
use lb_common::sched::{NAMES, Scheduler};

use crate::bench::cases::{Case, Kind, Path};
use crate::case::FAMILIES;

/// Flows of established connections: few for IPVS's hash table of 4,096 places, so that its lists are short.
pub const FLOWS: u32 = 1024;
/// Dests that new connections are scheduled to.
const DESTS: [u32; 3] = [4, 64, 256];
/// Not in Debian's 6.1, and `none` sends nothing on.
const NOT_THERE: [Scheduler; 2] = [Scheduler::Twos, Scheduler::None];

/// All of them.
pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    for family in FAMILIES {
        for proto in [Proto::UDP, Proto::TCP] {
            for path in [Path::Dr, Path::NatIn, Path::NatReply, Path::Ipip] {
                all.push(Case { family, proto, kind: Kind::Established(path, FLOWS) });
            }
        }
    }
    let new =
        |family, proto, scheduler, dests| Case { family, proto, kind: Kind::New(Path::Dr, scheduler, dests) };
    for proto in [Proto::UDP, Proto::TCP] {
        all.push(new(Family::V6, proto, Scheduler::Rr, 4));
        for (scheduler, _) in NAMES.iter().filter(|(scheduler, _)| !NOT_THERE.contains(scheduler)) {
            all.extend(DESTS.map(|dests| new(Family::V4, proto, *scheduler, dests)));
        }
    }
    all
}

/// How many times fewer instructions than kernel IPVS's are aimed at.
pub const fn aim(case: &Case) -> f64 {
    match case.kind {
        Kind::Established(Path::Ipip | Path::Gue, _) => 20.0,
        Kind::Established(..) => 12.0,
        // Comparing 256 dests is most of it, for both.
        Kind::New(_, Scheduler::Lc, 256) => 5.0,
        _ => 8.0,
    }
}

/// How many instructions a packet may take with our balancer: those it took when this was written, and some five in a hundred. Another
/// question asked of every packet does not pass unnoticed so.
pub fn most(case: &Case) -> Option<f64> {
    Some(match (case.kind, case.family) {
        (Kind::Established(Path::Dr, _), Family::V4) => 580.0,
        (Kind::Established(Path::NatIn, _), Family::V4) => 710.0,
        (Kind::Established(Path::NatReply, _), Family::V4) => 770.0,
        (Kind::Established(Path::Ipip, _), Family::V4) => 755.0,
        (Kind::Established(Path::Dr, _), Family::V6) => 745.0,
        (Kind::Established(Path::NatIn, _), Family::V6) => 925.0,
        (Kind::Established(Path::NatReply, _), Family::V6) => 1010.0,
        (Kind::Established(Path::Ipip, _), Family::V6) => 885.0,
        (Kind::New(_, Scheduler::Rr, 4), Family::V4) => 1600.0,
        (Kind::New(_, Scheduler::Rr, 4), Family::V6) => 2050.0,
        _ => return None,
    })
}
