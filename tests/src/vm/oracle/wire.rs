//! The far ends of a balancer's cables: packet sockets that send any frame and see every frame.

use crate::net::Netns;
use anyhow::{Context, Result, ensure};
use std::cell::RefCell;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// One end.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    /// Where frames come in: clearing so much anew each time takes an emulated processor longer than all else.
    room: RefCell<Box<[u8]>>,
}

/// No frame is longer.
const LONGEST: usize = 1 << 16;

const IGNORE_OUTGOING: libc::c_int = 23;

impl Wire {
    /// At a card of `netns`.
    pub fn open(netns: &Netns, card: &str) -> Result<Self> {
        netns.enter(|| Self::here(card))?.with_context(|| format!("a packet socket on {card}"))
    }

    fn here(card: &str) -> Result<Self> {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: plain call; checked below.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(all)) };
        ensure!(fd >= 0, io::Error::last_os_error());
        // SAFETY: a descriptor of ours alone.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = CString::new(card)?;
        // SAFETY: an all-zero address is valid; name is a C string.
        let (mut address, index) =
            unsafe { (std::mem::zeroed::<libc::sockaddr_ll>(), libc::if_nametoindex(name.as_ptr())) };
        ensure!(index != 0, "there is no card {card}");
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = index.cast_signed();
        let (yes, room): (libc::c_int, libc::c_int) = (1, 4 << 20);
        // SAFETY: every pointer is to a live value of the size given.
        let done = unsafe {
            let option = |level, name, value: &libc::c_int| {
                let (value, size) = (std::ptr::from_ref(value).cast(), size_of::<libc::c_int>() as u32);
                libc::setsockopt(socket.as_raw_fd(), level, name, value, size)
            };
            let size = size_of::<libc::sockaddr_ll>() as u32;
            option(libc::SOL_PACKET, IGNORE_OUTGOING, &yes)
                + option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &room)
                + libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size)
        };
        ensure!(done == 0, io::Error::last_os_error());
        Ok(Self { socket, room: RefCell::new(vec![0; LONGEST].into()) })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the frame is live and as long as given.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        ensure!(sent == frame.len() as isize, "sending a frame: {}", io::Error::last_os_error());
        Ok(())
    }

    /// The next frame, if one is there.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut room = self.room.borrow_mut();
        // SAFETY: the buffer is live and as long as given.
        let got = unsafe { libc::recv(self.socket.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), 0) };
        room.get(..usize::try_from(got).ok()?).map(<[u8]>::to_vec)
    }
}

/// Waits until one of the two has a frame, at most so many milliseconds.
pub fn wait(wires: [&Wire; 2], milliseconds: i32) {
    let mut waits =
        wires.map(|wire| libc::pollfd { fd: wire.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // SAFETY: two live entries.
    unsafe { libc::poll(waits.as_mut_ptr(), 2, milliseconds) };
}
