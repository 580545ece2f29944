//! The multicast group of the sync daemons: sockets bound to one interface, from which alone they hear and send.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::bpf::syscall;
use crate::control::model::DaemonRow;

/// Socket buffers, in bytes, where sync_sock_size says nothing: the most the system gives without being asked twice.
const BUFFER: usize = 4 << 20;

fn socket(daemon: &DaemonRow) -> io::Result<Socket> {
    let domain = if daemon.group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(daemon.interface.as_bytes()))?;
    Ok(socket)
}

/// The group's address at the `n`th of its ports.
fn place(daemon: &DaemonRow, n: u16) -> Result<(SocketAddr, u32)> {
    let index = if_nametoindex(daemon.interface.as_str()).context("asking for the interface")?;
    let port = daemon.port.host().checked_add(n).context("no port is left for sync_ports")?;
    let addr = match daemon.group {
        IpAddr::V4(v4) => SocketAddr::from((v4, port)),
        // A group of the link needs to know which.
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, index).into(),
    };
    Ok((addr, index))
}

/// A socket that sends to the group's `n`th port. `size`: sync_sock_size, 0 = the usual.
pub fn sender(daemon: &DaemonRow, n: u16, size: u32) -> Result<Socket> {
    let (to, index) = place(daemon, n)?;
    let open = || -> io::Result<Socket> {
        let socket = socket(daemon)?;
        if to.is_ipv4() {
            // The device it is bound to is also where it sends.
            socket.set_multicast_ttl_v4(daemon.ttl.into())?;
            socket.set_multicast_loop_v4(false)?;
            syscall::no_path_mtu(socket.as_fd())?;
        } else {
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_hops_v6(daemon.ttl.into())?;
            socket.set_multicast_loop_v6(false)?;
        }
        // As much as there may be: it may be less.
        let _ = socket.set_send_buffer_size(buffer(size));
        socket.connect(&to.into())?;
        Ok(socket)
    };
    open().with_context(|| format!("cannot send to {to} by {}", daemon.interface))
}

/// A socket that hears what is sent to the group's `n`th port, on the interface and nowhere else.
pub fn receiver(daemon: &DaemonRow, n: u16, size: u32) -> Result<Socket> {
    let (at, index) = place(daemon, n)?;
    let open = || -> io::Result<Socket> {
        let socket = socket(daemon)?;
        socket.set_reuse_address(true)?;
        let _ = socket.set_recv_buffer_size(buffer(size));
        match daemon.group {
            IpAddr::V4(group) => {
                socket.bind(&at.into())?;
                socket.set_multicast_all_v4(false)?;
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
            }
            IpAddr::V6(group) => join_v6(&socket, at, &group, index)?,
        }
        Ok(socket)
    };
    open().with_context(|| format!("cannot listen at {at} on {}", daemon.interface))
}

fn join_v6(socket: &Socket, at: SocketAddr, group: &Ipv6Addr, index: u32) -> io::Result<()> {
    socket.set_only_v6(true)?;
    socket.bind(&at.into())?;
    socket.set_multicast_all_v6(false)?;
    socket.join_multicast_v6(group, index)
}

fn buffer(size: u32) -> usize {
    if size == 0 { BUFFER } else { size as usize }
}
