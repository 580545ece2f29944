//! The programs in the kernel: thin adapters around the pass in `lb-common`.
//!
//! | program | what it is |
//! |---|---|
//! | `lb` | the balancer, on every NIC it is attached to |
//! | `lb_slow` | what few packets need; `lb` ends in it |
//! | `lb_wait` | puts fragments away that came before their first; another end of `lb` |
//! | `lb_copies`, `lb_copy` | the loop that fetches them when the first comes |
//! | `lb_output` | translates replies of dests on the balancer itself, where they leave by a NIC |
//! | `lb_control` | what user space asks to be done to the tables, through BPF_PROG_TEST_RUN |
//! | `lb_realserver` | takes tunnel headers off, for real servers without a tunnel device |
//! | `lb_connect4`, … | give clients on the balancer itself a server |
//! | `lb_pass` | lets everything pass: a veth peer needs some program for XDP_TX to reach it |
#![no_std]
#![no_main]

mod control;
mod fragments;
mod frame;
mod kernel;
mod local;
mod maps;
mod output;
mod realserver;
mod sweep;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::reason::{Action, Reason, Verdict};
use lb_common::{pipeline, slow};

use crate::frame::Frame;
use crate::kernel::Kernel;

/// The balancer.
#[xdp(frags)]
fn lb(ctx: XdpContext) -> u32 {
    let Some(scratch) = kernel::scratch() else { return xdp_action::XDP_ABORTED };
    let verdict = pipeline::process(&mut Frame::new(&ctx), &Kernel::new(ctx.ctx), &mut scratch.work);
    if verdict == Verdict::LATER {
        let stage = if scratch.work.rest.is_of_fragment() { maps::WAIT } else { maps::SLOW };
        // SAFETY: it comes back only where the program is missing.
        unsafe { maps::STAGES.tail_call(&ctx, stage) };
        return end(Reason::Internal.into());
    }
    end(verdict)
}

/// What few packets need: the scratch memory says what.
#[xdp(frags)]
fn lb_slow(ctx: XdpContext) -> u32 {
    let Some(scratch) = kernel::scratch() else { return xdp_action::XDP_ABORTED };
    end(slow::process(&mut Frame::new(&ctx), &Kernel::new(ctx.ctx), &mut scratch.work))
}

/// Counts the verdict and carries it out.
#[inline(always)]
fn end(verdict: Verdict) -> u32 {
    maps::count(verdict.counter());
    match verdict.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Transmit => xdp_action::XDP_TX,
        Action::Redirect(ifindex) => kernel::redirect(ifindex),
    }
}

/// Everything passes.
#[xdp(frags)]
fn lb_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Takes tunnel headers off.
#[xdp(frags)]
fn lb_realserver(ctx: XdpContext) -> u32 {
    realserver::decapsulate(&mut Frame::new(&ctx));
    xdp_action::XDP_PASS
}

/// Carries out a request of user space. The verdict is the answer's status.
#[xdp]
fn lb_control(ctx: XdpContext) -> u32 {
    control::run(&ctx)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the verifier reads: GPL-only helpers need a licence compatible with the kernel's.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
