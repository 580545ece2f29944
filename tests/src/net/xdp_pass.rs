//! The smallest XDP program, `return XDP_PASS`, for veth ends whose other end transmits from XDP.
//!
//! It is two instructions, so it is loaded by hand; and attached through rtnetlink rather than a BPF link, so that it
//! stays for as long as the card does, whoever made it.

use anyhow::{Context, Result, bail};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// `r0 = XDP_PASS; exit`
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD, as far as it is used here.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// Attaches the program to `nic` of the caller's network namespace, in native mode.
pub fn attach(nic: &str) -> Result<()> {
    let name = CString::new(nic)?;
    // SAFETY: name is a C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        bail!("no network card {nic}");
    }
    let program = load()?;
    let request = set_link_xdp(index, program.as_raw_fd());
    talk(&request).with_context(|| format!("cannot attach the passing program to {nic}"))
}

fn load() -> Result<OwnedFd> {
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: PASS.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        prog_flags: BPF_F_XDP_HAS_FRAGS,
        ..ProgLoad::default()
    };
    // SAFETY: attr is at least as long as it says and the addresses in it outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<ProgLoad>()) };
    match RawFd::try_from(fd) {
        Ok(fd @ 0..) => {
            // SAFETY: a descriptor the kernel has just given us.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        }
        _ => Err(io::Error::last_os_error()).context("the kernel refuses a program that only passes"),
    }
}

/// RTM_SETLINK with IFLA_XDP { IFLA_XDP_FD, IFLA_XDP_FLAGS = native }, acknowledged.
fn set_link_xdp(index: u32, program: RawFd) -> Vec<u8> {
    const IFLA_XDP_FD: u16 = 1;
    const IFLA_XDP_FLAGS: u16 = 3;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let nested = [
        attribute(IFLA_XDP_FD, &program.to_ne_bytes()),
        attribute(IFLA_XDP_FLAGS, &XDP_FLAGS_DRV_MODE.to_ne_bytes()),
    ]
    .concat();
    let xdp = attribute(libc::IFLA_XDP | libc::NLA_F_NESTED.cast_unsigned() as u16, &nested);
    let mut ifinfo = [0; 16];
    ifinfo[4..8].copy_from_slice(&index.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK).cast_unsigned();
    let length = (16 + ifinfo.len() + xdp.len()) as u32;
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(libc::RTM_SETLINK.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8]); // sequence number and sender: one message, one answer
    message.extend(ifinfo);
    message.extend(xdp);
    message
}

/// A netlink attribute; every value used here is a multiple of four bytes, so none needs padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes()[..], value].concat()
}

/// Sends one request and reads the acknowledgement.
fn talk(request: &[u8]) -> Result<()> {
    // SAFETY: plain call; checked below.
    let fd =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot open a netlink socket");
    }
    // SAFETY: the descriptor is ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut answer = [0_u8; 1024];
    // SAFETY: both buffers are live and as long as stated.
    let got = unsafe {
        match libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) {
            -1 => -1,
            _ => libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0),
        }
    };
    if got < 20 {
        return Err(io::Error::last_os_error()).context("no answer from rtnetlink");
    }
    // struct nlmsgerr: the header is 16 bytes, then the negative error number, 0 for done.
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error).into()),
    }
}
