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
use crate::output;
use crate::pipeline;
use crate::reason::{Action, Reason, Verdict};
use crate::slow;
use crate::tables::Tables;

/// Takes a frame through the pass and counts its reason.
pub fn run(tables: &HostTables, frame: &mut SliceFrame) -> Verdict {
    let mut space = pipeline::Workspace::default();
    let mut verdict = pipeline::process(frame, tables, &mut space);
    if verdict == Verdict::LATER {
        verdict = if space.rest.is_of_fragment() {
            fragments::process(frame, tables, &mut space)
        } else {
            slow::process(frame, tables, &mut space)
        };
    }
    tables.count_reason(verdict.counter());
    verdict
}

/// Takes a frame that this machine itself sends through the balancer: [`output`]. Nothing is counted of what is not a reply.
pub fn send(tables: &HostTables, frame: &mut SliceFrame) -> Verdict {
    if !output::wanted(tables) {
        return Reason::NotOurs.into();
    }
    let verdict = output::process(frame, tables, &mut pipeline::Workspace::default());
    if verdict.action() == Action::Drop || verdict.reason() == Some(Reason::Replied) {
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
    v4 + v6
}
