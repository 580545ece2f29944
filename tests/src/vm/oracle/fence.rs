//! When has everything come out that a packet led to? A packet that is for no service is sent behind it, takes the plain
//! way through the balancer, and is waited for.

use super::show;
use super::wire::{self, Wire};
use super::world::{BACK_MAC, CLIENTS_MAC, FENCE_MAC, FENCE_SERVER, FRONT_MAC};
use crate::packets::{Frame, Packet};
use anyhow::{Result, ensure};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const FENCE_CLIENT: Ipv4Addr = Ipv4Addr::new(172, 31, 255, 1);
const FENCE_PORT: u16 = 9;

/// The packet.
pub fn packet(answer: bool, number: u32) -> Frame {
    let (client, server) = ((FENCE_CLIENT.into(), FENCE_PORT), (FENCE_SERVER.into(), FENCE_PORT));
    let data = number.to_be_bytes();
    match answer {
        false => Frame::new(CLIENTS_MAC, FRONT_MAC, Packet::udp(client, server, &data)),
        true => Frame::new(FENCE_MAC, BACK_MAC, Packet::udp(server, client, &data)),
    }
}

fn number_of(frame: &[u8]) -> Option<u32> {
    let is_fence = frame.get(14 + 9) == Some(&17)
        && frame.get(34..38) == Some(&[0, FENCE_PORT as u8, 0, FENCE_PORT as u8])
        && frame.get(12..14) == Some(&[8, 0]);
    let number = frame.get(42..46).filter(|_| is_fence)?;
    Some(u32::from_be_bytes([number[0], number[1], number[2], number[3]]))
}

/// How long a fence may take; on an emulated and busy machine. It is lost only when the balancer's host is.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that comes out until the fence does, and what straggles behind it; true for the far end.
pub fn collect(near: &Wire, far: &Wire, number: u32) -> Result<Vec<(bool, Vec<u8>)>> {
    let mut seen = Vec::new();
    let mut passed = false;
    let deadline = Instant::now() + PATIENCE;
    while !passed {
        ensure!(
            Instant::now() < deadline,
            "a packet that is for no service did not come through the balancer"
        );
        wire::wait([near, far], 500);
        drain(near, far, number, &mut seen, &mut passed);
    }
    wire::wait([near, far], 1);
    drain(near, far, number, &mut seen, &mut passed);
    Ok(seen)
}

fn drain(near: &Wire, far: &Wire, number: u32, seen: &mut Vec<(bool, Vec<u8>)>, passed: &mut bool) {
    for (is_far, wire) in [(false, near), (true, far)] {
        while let Some(frame) = wire.receive() {
            match number_of(&frame) {
                Some(got) => *passed |= got == number,
                None if show::chatter(&frame) => {}
                None => seen.push((is_far, frame)),
            }
        }
    }
}
