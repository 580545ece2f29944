//! What user space asks to be done to the tables that only programs write. A request is a "packet" handed to
//! `lb_control` by BPF_PROG_TEST_RUN; the verdict is the answer. Why something did not work is told through aya-log:
//! here, where nobody is in a hurry, and nowhere in the way of a packet.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::error;
use lb_common::ip::{V4, V6};
use lb_common::packet::Bytes;
use lb_common::request::{self, Request};
use lb_common::table;
use lb_common::tables::Tables as _;

use crate::adopt;
use crate::frame::Frame;
use crate::kernel::Kernel;
use crate::sweep;

/// Carries out the request in the packet.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let Some(request) = Frame::new(ctx).at::<Request>(0).copied() else { return request::status::MALFORMED };
    match u32::from_le_bytes(request.verb) {
        request::verb::START_SWEEP => match sweep::start() {
            0 => request::status::DONE,
            code => {
                error!(ctx, "the expiry timer cannot be set: error {}", code);
                request::status::FAILED
            }
        },
        request::verb::EXPIRE_GONE => expire::<{ table::GONE }>(&request),
        request::verb::EXPIRE_DEAD => expire::<{ table::DEAD }>(&request),
        request::verb::ADOPT => adopt::all(ctx, u32::from_le_bytes(request.first)),
        verb => {
            error!(ctx, "this program knows no request {}", verb);
            request::status::UNKNOWN
        }
    }
}

/// Takes connections out of the buckets named.
#[inline(always)]
fn expire<const WHY: u32>(request: &Request) -> u32 {
    let (from, count) = (u32::from_le_bytes(request.first), u32::from_le_bytes(request.second));
    let Some(kernel) = Kernel::detached() else { return request::status::FAILED };
    table::expire::<V4, Kernel, WHY>(&kernel, from, count, kernel.now());
    table::expire::<V6, Kernel, WHY>(&kernel, from, count, kernel.now());
    request::status::DONE
}
