//! Requests from user space to the `lb_control` program: laid out as a packet, because that is what
//! BPF_PROG_TEST_RUN hands to an XDP program.

use crate::wire::Wire;

/// A request: at least as long as an Ethernet header, or the kernel refuses it as a packet. Little-endian.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// [`verb`].
    pub verb: [u8; 4],
    /// First argument.
    pub first: [u8; 4],
    /// Second argument.
    pub second: [u8; 4],
    /// Zero.
    pub spare: [u8; 4],
}

// SAFETY: bytes only.
unsafe impl Wire for Request {}

impl Request {
    /// A request as bytes, padded to what the kernel accepts as a packet.
    pub fn bytes(verb: u32, first: u32, second: u32) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (i, word) in [verb, first, second].into_iter().enumerate() {
            bytes[i * 4..i * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// What is asked.
pub mod verb {
    /// Start the expiry sweep, or let this program take it over.
    pub const START_SWEEP: u32 = 1;
    /// Take out the connections of dests that are gone, in buckets `first`, `first + 1`, … `second` of them, of both
    /// families (expire_nodest_conn).
    pub const EXPIRE_GONE: u32 = 2;
    /// Take in `first` connections of another director, at most [`super::MOST_SYNCED`], which follow the head: each is a
    /// [`crate::sync::Synced`]. One that has a [`crate::sip::Call`] comes alone. What became of each is written into it.
    pub const ADOPT: u32 = 3;
    /// Take out the datagrams' connections of dests found dead, in the same buckets as [`EXPIRE_GONE`].
    pub const EXPIRE_DEAD: u32 = 4;
}

/// Bytes before the first connection of an [`verb::ADOPT`] request.
pub const HEAD: usize = 16;
/// Connections of one such request: what fits the page that a packet may have.
pub const MOST_SYNCED: u32 = 32;

/// What is answered, as the program's verdict.
pub mod status {
    /// Done. (XDP_PASS.)
    pub const DONE: u32 = 2;
    /// Tried, in vain.
    pub const FAILED: u32 = 0;
    /// No such request.
    pub const UNKNOWN: u32 = 1;
    /// Not a request.
    pub const MALFORMED: u32 = 3;
}
