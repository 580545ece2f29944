//! The loop for fragments that come before their first: a pair of virtual NICs of the balancer's own, made by `attach` and
//! gone with the last `detach`. `lb_common::fragments` says what it is for.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::xdp::DevMap;
use aya::programs::Xdp;
use lb_common::fragments::{MOST, NEAR_END};
use lb_common::settings::Settings;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Message;
use rtnetlink::{LinkUnspec, LinkVeth};

use super::attach::{NATIVE, program, replace_pin};
use super::netlink::Netlink;
use super::publish::put_nic;
use super::route::{Nic, nics};
use super::{create, pins, syscall};

/// The loop's ends, near and far.
const ENDS: [End; 2] = [
    End { nic: "lbfrag0", pin: "loop-near", program: "lb" },
    End { nic: "lbfrag1", pin: "loop-far", program: "lb_copies" },
];

struct End {
    nic: &'static str,
    /// The link that holds the program there.
    pin: &'static str,
    program: &'static str,
}

/// What the copies become themselves by.
const COPY: &str = "lb_copy";
/// Frames any NIC may bring.
const MTU: u32 = 9216;

/// Is this NIC one of the loop's ends?
pub fn is_end(nic: &Nic) -> bool {
    ENDS.iter().any(|end| end.nic == nic.name)
}

/// Makes the loop, or gives the one there is to the loaded programs.
pub fn attach(dir: &Path, ebpf: &mut Ebpf, settings: &Settings) -> Result<()> {
    let numbers = make().context("making the NICs of their loop")?;
    give_copies(ebpf, numbers[1])?;
    let egress = pins::traffic("egress")?.require(dir)?;
    for (end, number) in ENDS.iter().zip(numbers) {
        put_on(dir, end, program(ebpf, end.program)?, number)
            .with_context(|| format!("{}: the program cannot be attached", end.nic))?;
        put_nic(&egress, number)?;
    }
    settings.loop_ends.iter().zip(numbers).for_each(|(cell, number)| cell.store(number));
    Ok(())
}

/// Takes it down.
pub fn detach(dir: &Path, settings: Option<&Settings>) -> Result<()> {
    if let Some(settings) = settings {
        settings.loop_ends.iter().for_each(|cell| cell.store(0));
    }
    ENDS.iter().try_for_each(|end| create::remove(&dir.join(end.pin)))?;
    let Some(near) = nics()?.into_iter().find(|nic| nic.name == ENDS[0].nic) else { return Ok(()) };
    // The other end goes with it.
    let gone = Message::DelLink(LinkUnspec::new_with_index(near.index).build());
    Netlink::open()?.ask(gone, NLM_F_ACK).map(drop).with_context(|| format!("removing {}", near.name))
}

/// The numbers of the two NICs, which are up afterwards.
fn make() -> Result<[u32; 2]> {
    let mut netlink = Netlink::open()?;
    let pair = Message::NewLink(LinkVeth::new(ENDS[0].nic, ENDS[1].nic).build());
    match netlink.ask(pair, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error.into()),
        _ => {}
    }
    let nics = nics()?;
    let mut numbers = [0; 2];
    for (i, end) in ENDS.iter().enumerate() {
        let nic = nics.iter().find(|nic| nic.name == end.nic).with_context(|| format!("no {}", end.nic))?;
        quieten(end.nic);
        let mut wanted = LinkUnspec::new_with_index(nic.index).mtu(MTU);
        if i == 0 {
            wanted = wanted.address(NEAR_END.to_vec());
        }
        netlink.ask(Message::SetLink(wanted.up().build()), NLM_F_ACK)?;
        numbers[i] = nic.index;
    }
    Ok(numbers)
}

/// No addresses of its own, and no opinion on where packets should have come in.
fn quieten(nic: &str) {
    // A kernel without the family has no such file.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{nic}/addr_gen_mode"), "1");
    let _ = fs::write(format!("/proc/sys/net/ipv4/conf/{nic}/rp_filter"), "0");
}

/// Every place of the map of copies: back by the far end, through the program that makes them what they have to be.
fn give_copies(ebpf: &mut Ebpf, far: u32) -> Result<()> {
    let mut copies = DevMap::try_from(ebpf.take_map("copies").context("the program has no map copies")?)?;
    let copy: &Xdp = ebpf.program(COPY).with_context(|| format!("there is no program {COPY}"))?.try_into()?;
    let copy = copy.fd()?;
    (0..=MOST)
        .try_for_each(|place| copies.set(place, far, Some(copy), 0))
        .context("filling the map of copies")
}

/// Puts a program on an end, in the place of an earlier one.
fn put_on(dir: &Path, end: &End, program: BorrowedFd<'_>, nic: u32) -> Result<()> {
    let path = dir.join(end.pin);
    let old = match syscall::open_pin(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    if let Some(link) = &old
        && syscall::xdp_link(link.as_fd()).is_ok_and(|(_, index)| index == nic)
    {
        return Ok(syscall::update_link(link.as_fd(), program)?);
    }
    let link = syscall::create_link(program, nic, NATIVE)?;
    replace_pin(link.as_fd(), &path)
}
