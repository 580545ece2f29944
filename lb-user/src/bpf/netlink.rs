//! rtnetlink, as much as is needed: one question, its answers, attributes.

use std::collections::HashMap;
use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Message types.
pub mod kind {
    /// A NIC, in answers.
    pub const NEW_LINK: u16 = 16;
    /// Ask for NICs.
    pub const GET_LINK: u16 = 18;
    /// Ask for a route.
    pub const GET_ROUTE: u16 = 26;
    /// Make or change a neighbour.
    pub const NEW_NEIGH: u16 = 28;
    /// Ask for a neighbour.
    pub const GET_NEIGH: u16 = 30;
}

/// Message flags.
pub mod flag {
    /// All of them.
    pub const DUMP: u16 = 0x300;
    /// Say whether it worked.
    pub const ACK: u16 = 4;
    /// Replace what is there.
    pub const REPLACE: u16 = 0x100;
    /// Make it if it is not.
    pub const CREATE: u16 = 0x400;
}

const REQUEST: u16 = 1;
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A question being put together.
#[derive(Debug)]
pub struct Question {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Question {
    /// With the fixed part.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags, body: fixed.to_vec() }
    }

    /// Adds an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn bytes(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.extend(((HEADER + self.body.len()) as u32).to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | REQUEST).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.body);
        bytes
    }
}

/// An answer without its header.
pub type Answer = Vec<u8>;

/// The socket.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, and collects the answers.
    pub fn ask(&mut self, question: &Question) -> io::Result<Vec<Answer>> {
        self.sequence += 1;
        self.socket.send(&question.bytes(self.sequence), 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if self.collect(&datagram, question.flags, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// True: that was all.
    fn collect(&self, datagram: &[u8], flags: u16, answers: &mut Vec<Answer>) -> io::Result<bool> {
        let mut rest = datagram;
        while rest.len() >= HEADER {
            let length = (word(rest, 0) as usize).clamp(HEADER, rest.len());
            let (kind, sequence) = (half(rest, 4), word(rest, 8));
            let body = &rest[HEADER..length];
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if sequence != self.sequence {
                continue;
            }
            match kind {
                DONE => return Ok(true),
                ERROR => {
                    return match word(body, 0) as i32 {
                        0 => Ok(true),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => answers.push(body.to_vec()),
            }
            if flags & (flag::DUMP | flag::ACK) == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A word of an answer; 0 beyond its end.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Half a word.
pub fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// Attributes by number.
pub fn attributes(mut bytes: &[u8]) -> HashMap<u16, &[u8]> {
    let mut all = HashMap::new();
    while bytes.len() >= 4 {
        let length = (half(bytes, 0) as usize).clamp(4, bytes.len());
        // The upper bits tell nesting and byte order.
        all.insert(half(bytes, 2) & 0x3fff, &bytes[4..length]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}
