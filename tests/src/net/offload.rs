//! What a network card does for the stack, without the ethtool program.

use anyhow::{Context, Result};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `struct ethtool_value`: a command word and its argument.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// ETHTOOL_GTXCSUM and ETHTOOL_STXCSUM
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;
/// ETHTOOL_SGRO
const SET_GRO: u32 = 0x2c;

/// Has the local stack compute whole checksums, rather than leave them to a card that a veth end does not have.
/// A program on the other end then sees finished packets. Segmentation offload goes with it.
pub fn tx_checksum_off(nic: &str) -> Result<()> {
    set_tx_checksum(nic, false)
}

/// Leaves them to the card, or not.
pub fn set_tx_checksum(nic: &str, on: bool) -> Result<()> {
    ethtool(nic, SET_TX_CHECKSUM, u32::from(on))
        .map(drop)
        .with_context(|| format!("cannot turn tx checksum {} on {nic}", if on { "on" } else { "off" }))
}

/// Whether the stack leaves checksums to the card.
pub fn tx_checksum(nic: &str) -> Result<bool> {
    Ok(ethtool(nic, GET_TX_CHECKSUM, 0).with_context(|| format!("cannot read tx checksum of {nic}"))? != 0)
}

/// Joins segments as they arrive; a veth end then takes frames in batches, and those that XDP programs send.
pub fn gro_on(nic: &str) -> Result<()> {
    ethtool(nic, SET_GRO, 1).map(drop).with_context(|| format!("cannot turn GRO on on {nic}"))
}

/// One ethtool command on a card of the caller's network namespace; gives the argument as the kernel leaves it.
fn ethtool(nic: &str, command: u32, data: u32) -> Result<u32> {
    let mut value = EthtoolValue { command, data };
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(nic.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = any_socket()?;
    // SAFETY: request names a card and points to a live EthtoolValue, as SIOCETHTOOL expects.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    match done {
        0 => Ok(value.data),
        _ => Err(io::Error::last_os_error().into()),
    }
}

fn any_socket() -> Result<OwnedFd> {
    // SAFETY: plain call; the descriptor is checked and owned here alone.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    match fd {
        0.. => {
            // SAFETY: see above.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        }
        _ => Err(io::Error::last_os_error()).context("cannot open a socket"),
    }
}
