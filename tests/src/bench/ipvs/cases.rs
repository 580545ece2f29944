//! What is measured, and how many times fewer instructions are aimed at.

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
