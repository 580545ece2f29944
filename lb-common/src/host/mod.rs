//! The engine over ordinary memory: the very pass, tables and protocol of the kernel program, for tests and for
//! `lb-user explain`. Several threads may use it at once, as CPUs use the maps.
//!
//! | module | owns |
//! |---|---|
//! | [`frame`] | [`Packet`](crate::packet::Packet) over a vector |
//! | [`tables`] | [`Tables`](crate::tables::Tables) over vectors, with a clock to set and routes to give |
//! | `caches` | what lblc and lblcr remember |
//! | [`rules`] | services and dests, written as the control side writes them, to this memory or to maps |

mod caches;
pub mod frame;
pub mod rules;
pub mod tables;

pub use frame::SliceFrame;
pub use rules::{Memory, Rules};
pub use tables::{HostTables, Sizes};

use crate::defence;
use crate::fragments;
use crate::ftp;
use crate::output;
use crate::pipeline;
use crate::probe;
use crate::reason::{Reason, Stage, Verdict};
use crate::slow;
use crate::tables::Tables;
use crate::upkeep;

/// A key of the connection table where nothing is at stake: the digits of e.
pub const TABLE_KEY: [u8; 32] = [
    0xb7, 0xe1, 0x51, 0x62, 0x8a, 0xed, 0x2a, 0x6a, 0xbf, 0x71, 0x58, 0x80, 0x9c, 0xf4, 0xf3, 0xc7, 0x62,
    0xe7, 0x16, 0x0f, 0x38, 0xb4, 0xda, 0x56, 0xa7, 0x84, 0xd9, 0x04, 0x51, 0x90, 0xcf, 0xef,
];

/// Takes a frame through the pass and counts its reason.
pub fn run(tables: &HostTables, frame: &mut SliceFrame) -> Verdict {
    tables.working(|space| stages(tables, frame, space))
}

fn stages(tables: &HostTables, frame: &mut SliceFrame, space: &mut pipeline::Workspace) -> Verdict {
    let mut verdict =
        pipeline::process::<_, HostTables, _>(frame, tables, || Some(&mut *space), || Some(tables));
    while let Some(stage) = verdict.stage() {
        verdict = match stage {
            Stage::Ipv6 => pipeline::ipv6(frame, tables, space),
            Stage::New => pipeline::newcomer(frame, tables, space),
            Stage::NewIpv6 => pipeline::newcomer_ipv6(frame, tables, space),
            Stage::Slow => slow::process(frame, tables, space),
            Stage::Wait => fragments::process(frame, tables, space),
            Stage::Upkeep => upkeep::process(frame, tables, space),
            Stage::Probe => probe::process(frame, tables, space),
            Stage::Ftp => ftp::process(frame, tables, space),
        };
    }
    tables.count_reason(verdict.counter());
    verdict
}

/// Takes a frame that this machine itself sends through the balancer: [`output`]. Only what is the balancer's
/// business is counted.
pub fn send(tables: &HostTables, frame: &mut SliceFrame) -> Verdict {
    if !output::wanted(tables) {
        return Reason::NotOurs.into();
    }
    let verdict = tables.working(|space| output::process(frame, tables, space));
    if output::counts(verdict) {
        tables.count_reason(verdict.counter());
    }
    verdict
}

/// Sweeps both families' whole tables once, as if that took a second. Returns the entries left.
pub fn sweep(tables: &HostTables) -> u32 {
    use crate::ip::{V4, V6};
    use crate::table::sweep_range;
    let now = tables.now();
    let odds = defence::odds(tables, 256);
    let v4 = sweep_range::<V4, _>(tables, 0, tables.bucket_mask::<V4>() + 1, now, odds);
    let v6 = sweep_range::<V6, _>(tables, 0, tables.bucket_mask::<V6>() + 1, now, odds);
    defence::judge(tables, [v4, v6]);
    Tables::settings(tables).lapse(now);
    v4 + v6
}
