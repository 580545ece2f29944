//! Headers as they stand on the wire.
//!
//! The header types are network-types'; all are byte arrays inside, so they need no alignment and have no padding,
//! and a [`Wire`] reference may point anywhere into a packet. [`crate::packet::Packet`] hands them out after its
//! one bounds check.

pub use network_types::icmp::{Icmpv4Hdr, Icmpv6Hdr};
pub use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
pub use network_types::udp::UdpHdr;

/// A type that may be laid over any bytes of a packet.
///
/// Two bytes at least: a check for one byte becomes `at < end`, from which the kernel's verifier learns nothing.
///
/// # Safety
/// Every bit pattern is a value, alignment is 1, and there is no padding.
pub unsafe trait Wire: Copy {}

macro_rules! wire {
    ($($t:ty),* $(,)?) => {
        $(
            // SAFETY: byte arrays and bytes only (the assertion checks alignment).
            unsafe impl Wire for $t {}
            const _: () = assert!(core::mem::align_of::<$t>() == 1);
        )*
    };
}
wire!(
    Ipv4Hdr, Ipv6Hdr, UdpHdr, Icmpv4Hdr, Icmpv6Hdr, Eth, Vlan, Ports, Tcp, Frag6, [u8; 2], [u8; 4], [u8; 8]
);
wire!([u8; 12], [u8; 16], [u8; 20], [u8; 32]);

/// Ethernet header. (network-types' has a two-byte field that wants alignment.)
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Eth {
    /// Destination MAC.
    pub dst: [u8; 6],
    /// Source MAC.
    pub src: [u8; 6],
    /// EtherType, big-endian.
    pub kind: [u8; 2],
}

/// What follows an Ethernet header's MACs when a tag stands there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Vlan {
    /// Priority and VLAN number, big-endian.
    pub tci: [u8; 2],
    /// The EtherType after the tag, big-endian.
    pub kind: [u8; 2],
}

/// The first four bytes of TCP, UDP and SCTP.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Source port, big-endian.
    pub src: [u8; 2],
    /// Destination port, big-endian.
    pub dst: [u8; 2],
}

/// TCP header. (network-types keeps the flags in a bit field behind one call per flag; the state machine wants
/// them as one byte.)
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Ports.
    pub ports: Ports,
    /// Sequence number.
    pub seq: [u8; 4],
    /// Acknowledgement number.
    pub ack: [u8; 4],
    /// Header length in words, in the upper four bits.
    pub offset: u8,
    /// Flags: FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub flags: u8,
    /// Window.
    pub window: [u8; 2],
    /// Checksum.
    pub check: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

/// IPv6 fragment header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Frag6 {
    /// Next header.
    pub next: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of 8 in the upper 13 bits, "more" in the lowest, big-endian.
    pub offset: [u8; 2],
    /// Identification.
    pub id: [u8; 4],
}

/// EtherTypes, host order.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Customer VLAN tag.
    pub const VLAN: u16 = 0x8100;
    /// Service VLAN tag.
    pub const QINQ: u16 = 0x88a8;
}

/// TCP flag bits.
pub mod tcp_flags {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// ACK.
    pub const ACK: u8 = 16;
}
