//! Floods: ten times what the table holds, on a small table.

use anyhow::Result;
use lb_common::addr::Family;
use lb_tests::case::FAMILIES;
use lb_tests::flood::{Flood, Scene};

lb_tests::tests!(
    over_memory,
    syns_over_maps,
    acks_over_maps,
    acks_that_begin_connections_over_maps,
    datagrams_over_maps,
    datagrams_that_are_answered_over_maps,
);

/// 30 % of the slots belong to honest connections.
fn over_memory() -> Result<()> {
    for flood in Flood::ALL {
        for family in FAMILIES {
            let slots = if family == Family::V4 { 2048 } else { 1024 };
            Scene { family, flood, slots, established: slots * 3 / 10, newcomers: 4 }.on_host()?;
        }
    }
    Ok(())
}

/// 20,000 connections before the flood: as many as the small table has to hold, fewer in the four ways of IPv6.
fn over_maps(flood: Flood) -> Result<()> {
    for (family, slots) in FAMILIES.into_iter().zip([1 << 16, 1 << 17]) {
        let outcome = Scene { family, flood, slots, established: 20_000, newcomers: 200 }.on_program()?;
        println!("{family:?} {}: {outcome:?}", flood.name());
    }
    Ok(())
}

fn syns_over_maps() -> Result<()> {
    over_maps(Flood::Syn)
}

fn acks_over_maps() -> Result<()> {
    over_maps(Flood::Ack)
}

fn acks_that_begin_connections_over_maps() -> Result<()> {
    over_maps(Flood::SloppyAck)
}

fn datagrams_over_maps() -> Result<()> {
    over_maps(Flood::Udp)
}

fn datagrams_that_are_answered_over_maps() -> Result<()> {
    over_maps(Flood::AnsweredUdp)
}
