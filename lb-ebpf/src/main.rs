//! The programs in the kernel: thin adapters around the pass in `lb-common`.
//!
//! | program | what it is |
//! |---|---|
//! | `lb` | the balancer, on every NIC it is attached to |
//! | `lb_ipv6` | IPv6 packets; `lb` goes on in it |
//! | `lb_new`, `lb_new6` | packets without a connection, IPv4 and IPv6 |
//! | `lb_slow` | what few packets need |
//! | `lb_wait` | puts fragments away that came before their first |
//! | `lb_copies`, `lb_copy` | the loop that fetches them when the first comes |
//! | `lb_upkeep` | packets of connections whose dest is deleted or dead |
//! | `lb_probe` | answers to checks that take the way of clients' packets |
//! | `lb_ftp` | packets of FTP control connections |
//! | `lb_output` | where packets leave by a NIC: translates replies of dests on the balancer itself, counts requests of clients on it, sends such checks on their way |
//! | `lb_control` | what user space asks to be done to the tables, through BPF_PROG_TEST_RUN |
//! | `lb_realserver` | takes tunnel headers off, for real servers without a tunnel device |
//! | `lb_connect4`, … | give clients on the balancer itself a server |
//! | `lb_pass` | lets everything pass: a veth peer needs some program for XDP_TX to reach it |
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "is_val_statically_known")]

mod adopt;
mod control;
mod fragments;
mod frame;
mod functions;
mod kernel;
mod local;
mod maps;
mod output;
mod realserver;
mod routes;
mod scratch;
mod sweep;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::pipeline::Workspace;
use lb_common::reason::{Action, Reason, Stage, Verdict};
use lb_common::{ftp, pipeline, probe, slow, upkeep};

use crate::frame::Frame;
use crate::kernel::{AddressFilter, At, ESTABLISHED, NEWCOMERS, PACKETS};

/// The balancer.
#[xdp(frags)]
#[inline(always)]
fn lb(ctx: XdpContext) -> u32 {
    let space = || scratch::scratch().map(|scratch| &mut scratch.work);
    let tables = || At::<ESTABLISHED>::new(ctx.ctx);
    go_on(
        &ctx,
        pipeline::process::<_, At<ESTABLISHED>, _>(&mut Frame::new(&ctx), &AddressFilter, space, tables),
    )
}

/// IPv6 packets.
#[xdp(frags)]
#[inline(always)]
fn lb_ipv6(ctx: XdpContext) -> u32 {
    let Some((kernel, space)) = begin::<ESTABLISHED>(&ctx) else { return xdp_action::XDP_ABORTED };
    // Not by `run`: the compiler would make a function of it, and a call costs as much as a dozen instructions.
    go_on(&ctx, pipeline::ipv6(&mut Frame::new(&ctx), &kernel, space))
}

/// Packets without a connection.
#[xdp(frags)]
#[inline(always)]
fn lb_new(ctx: XdpContext) -> u32 {
    let Some((kernel, space)) = begin::<NEWCOMERS>(&ctx) else { return xdp_action::XDP_ABORTED };
    // As `lb_ipv6`.
    go_on(&ctx, pipeline::newcomer(&mut Frame::new(&ctx), &kernel, space))
}

/// The same, IPv6.
#[xdp(frags)]
#[inline(always)]
fn lb_new6(ctx: XdpContext) -> u32 {
    run::<PACKETS>(&ctx, pipeline::newcomer_ipv6)
}

/// What few packets need.
#[xdp(frags)]
#[inline(always)]
fn lb_slow(ctx: XdpContext) -> u32 {
    run::<PACKETS>(&ctx, slow::process)
}

/// Packets of connections whose dest is deleted or dead.
#[xdp(frags)]
#[inline(always)]
fn lb_upkeep(ctx: XdpContext) -> u32 {
    run::<PACKETS>(&ctx, upkeep::process)
}

/// Packets of checks.
#[xdp(frags)]
#[inline(always)]
fn lb_probe(ctx: XdpContext) -> u32 {
    run::<PACKETS>(&ctx, probe::process)
}

/// Packets of FTP control connections.
#[xdp(frags)]
#[inline(always)]
fn lb_ftp(ctx: XdpContext) -> u32 {
    run::<PACKETS>(&ctx, ftp::process)
}

/// A stage of the pass: its verdict is counted and carried out, or the next one goes on with what is in the scratch
/// memory.
#[inline(always)]
fn run<const DESK: u32>(
    ctx: &XdpContext,
    stage: impl FnOnce(&mut Frame, &At<DESK>, &mut Workspace) -> Verdict,
) -> u32 {
    let Some((kernel, space)) = begin(ctx) else { return xdp_action::XDP_ABORTED };
    go_on(ctx, stage(&mut Frame::new(ctx), &kernel, space))
}

/// The tables, and what the pass works on.
#[inline(always)]
fn begin<const DESK: u32>(ctx: &XdpContext) -> Option<(At<DESK>, &'static mut Workspace)> {
    Some((At::new(ctx.ctx)?, &mut scratch::scratch()?.work))
}

#[inline(always)]
fn go_on(ctx: &XdpContext, verdict: Verdict) -> u32 {
    match verdict.stage() {
        None => end(verdict),
        // Each its own jump: one for all would be an indirect one, which costs more.
        Some(Stage::Ipv6) => jump::<{ Stage::Ipv6 as u32 }>(ctx),
        Some(Stage::New) => jump::<{ Stage::New as u32 }>(ctx),
        Some(Stage::NewIpv6) => jump::<{ Stage::NewIpv6 as u32 }>(ctx),
        Some(Stage::Slow) => jump::<{ Stage::Slow as u32 }>(ctx),
        Some(Stage::Wait) => jump::<{ Stage::Wait as u32 }>(ctx),
        Some(Stage::Upkeep) => jump::<{ Stage::Upkeep as u32 }>(ctx),
        Some(Stage::Probe) => jump::<{ Stage::Probe as u32 }>(ctx),
        Some(Stage::Ftp) => jump::<{ Stage::Ftp as u32 }>(ctx),
    }
}

/// Ends in another program.
#[inline(always)]
fn jump<const STAGE: u32>(ctx: &XdpContext) -> u32 {
    // SAFETY: it comes back only where the program is missing.
    unsafe { maps::STAGES.tail_call(ctx, STAGE) };
    end(Reason::Internal.into())
}

/// Counts the verdict and carries it out.
#[inline(always)]
fn end(verdict: Verdict) -> u32 {
    maps::count(verdict.counter());
    match verdict.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Transmit => xdp_action::XDP_TX,
        Action::Redirect(ifindex) => routes::redirect(ifindex),
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
