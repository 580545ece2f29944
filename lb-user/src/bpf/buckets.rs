//! The connections' first buckets. Those of IPv4 are there as long as anything has been attached. Those of IPv6 are made when
//! the first service of IPv6 comes: who balances IPv4 only has the memory. `conns6` is a map of one map therefore, which is
//! pinned beside it as `conns6-0`.
//!
//! It is pinned first, then entered, and only then is something published that needs it. Whoever is killed in between
//! leaves a table that the next one enters.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use lb_common::addr::Family;

use super::pins::{self, CONNS6, traffic};
use super::sizes::Sizes;
use super::{create, pieces, syscall};

/// Opens a family's. `None`: they have not been made.
pub fn open(dir: &Path, family: Family) -> Result<Option<MapData>> {
    match family {
        Family::V4 => traffic("conns4")?.open(dir),
        Family::V6 => CONNS6.open_at(&pin(dir)),
    }
}

/// The map for the table of IPv6, of so many buckets, without it. The kernel wants to see one like it.
pub fn outer(buckets: u32) -> io::Result<OwnedFd> {
    let like = CONNS6.of(buckets).create()?;
    syscall::create_of_maps(CONNS6.name, 1, like.as_fd())
}

/// Makes the table of IPv6, unless it is there. Nothing attached: `attach` will.
pub fn make_v6(dir: &Path) -> Result<()> {
    let Some(outer) = traffic(CONNS6.name)?.open(dir)? else { return Ok(()) };
    let entered: Option<u32> =
        syscall::lookup(pins::fd(&outer), &0u32).context("asking for the table of IPv6")?;
    if entered.is_some() {
        return Ok(());
    }
    let table = made(dir).context("making the table of IPv6 connections")?;
    let fd = table.as_fd().as_raw_fd() as u32;
    syscall::update(pins::fd(&outer), &0u32, &fd).context("entering the table of IPv6 connections")
}

/// The table that is pinned, or a new one.
fn made(dir: &Path) -> Result<OwnedFd> {
    let present = || -> Result<Option<OwnedFd>> {
        let Some(map) = open(dir, Family::V6)? else { return Ok(None) };
        Ok(Some(map.fd().as_fd().try_clone_to_owned()?))
    };
    if let Some(table) = present()? {
        return Ok(table);
    }
    let sizes = Sizes::present(dir)?.context("the connection tables are not whole")?;
    sizes.fit_v6()?;
    let table = CONNS6.of(sizes.buckets_v6).create()?;
    match syscall::pin(table.as_fd(), &pin(dir)) {
        // Another command has made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => present()?.context("it is gone again"),
        outcome => outcome.map(|()| table).map_err(Into::into),
    }
}

/// Where the table of IPv6 is pinned.
fn pin(dir: &Path) -> PathBuf {
    pieces::first_pin(dir, &CONNS6)
}

/// Removes the table of IPv6.
pub fn remove_v6(dir: &Path) -> Result<()> {
    create::remove(&pin(dir))
}

/// Bytes of kernel memory that the table of IPv6 takes.
pub fn memory_v6(dir: &Path) -> Result<u64> {
    let Some(table) = open(dir, Family::V6)? else { return Ok(0) };
    Ok(syscall::map_memory(pins::fd(&table))?)
}
