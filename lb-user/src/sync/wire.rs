//! Sync messages as IPVS's daemons send them: version 1, which everybody writes since Linux 2.6.39, and version 0.
//!
//! All numbers are big-endian, but for the sequence data of version 0. Layouts are those of the kernel's
//! `net/netfilter/ipvs/ip_vs_sync.c`. What comes in is trusted in nothing: every fault has a name and is counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::addr::{Port, Proto};
use lb_common::sync::flags;

/// Bytes before the records: version 1, version 0.
const HEAD: usize = 8;
const HEAD_V0: usize = 4;
/// Bytes of a record without options: version 1 with IPv4 and IPv6 addresses, version 0.
const RECORD: usize = 36;
const RECORD_V6: usize = 72;
const RECORD_V0: usize = 24;
/// Bytes of sequence data.
const SEQUENCE: usize = 24;
/// Flags that sequence data comes with.
const SEQUENCE_FLAGS: u32 = 0x600;
/// Flags a backup looks at: those of the kernel's mask, and the one it refuses.
const KEPT: u32 = 0x1f87 | flags::ONE_PACKET;
/// Longest data, and longest name, of a persistence engine.
const ENGINE_DATA: usize = 255;
const ENGINE_NAME: usize = 16;
/// Records of a message: their number is a byte.
const MOST: usize = 255;

/// Types of options.
mod option {
    /// Sequence data.
    pub const SEQUENCE: u8 = 1;
    /// Data of a persistence engine.
    pub const ENGINE_DATA: u8 = 2;
    /// Name of one.
    pub const ENGINE_NAME: u8 = 3;
    /// May be passed over where it is not known.
    pub const OPTIONAL: u8 = 0x40;
}

/// What is wrong with a message or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Fault {
    /// Shorter than any message.
    Short,
    /// Not as long as it says.
    Length,
    /// Of other directors: another syncid.
    Syncid,
    /// The message ends within a record. The rest of it is dropped.
    Truncated,
    /// A record of a type or version nobody knows. The rest of the message is dropped.
    Unknown,
    /// Options that cannot be. The rest of the message is dropped.
    Options,
    /// An option nobody knows, and which must not be passed over.
    Mandatory,
    /// A protocol that is not balanced.
    Protocol,
    /// A state the protocol does not have.
    State,
    /// A persistence engine that is not here.
    Engine,
    /// A connection of one packet, or of a client whose port is not known yet.
    Unwanted,
    /// Sequence numbers are shifted, which cannot be done here.
    Shifted,
}

impl Fault {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Short,
        Self::Length,
        Self::Syncid,
        Self::Truncated,
        Self::Unknown,
        Self::Options,
        Self::Mandatory,
        Self::Protocol,
        Self::State,
        Self::Engine,
        Self::Unwanted,
        Self::Shifted,
    ];

    /// As status shows it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Length => "length",
            Self::Syncid => "syncid",
            Self::Truncated => "truncated",
            Self::Unknown => "unknown-record",
            Self::Options => "options",
            Self::Mandatory => "mandatory-option",
            Self::Protocol => "protocol",
            Self::State => "state",
            Self::Engine => "engine",
            Self::Unwanted => "unwanted",
            Self::Shifted => "shifted",
        }
    }

    /// Does it end the message?
    const fn ends_message(self) -> bool {
        matches!(self, Self::Truncated | Self::Unknown | Self::Options)
    }
}

/// A connection or template in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// TCP, UDP or SCTP; 0 for a template of a mark service.
    pub proto: Proto,
    /// [`flags`].
    pub flags: u32,
    /// The protocol's state, or a template's.
    pub state: u16,
    /// The client.
    pub client: (IpAddr, Port),
    /// The virtual end; its address is the mark for a template of a mark service.
    pub virt: (IpAddr, Port),
    /// The server. All three addresses are of one family.
    pub dest: (IpAddr, Port),
    /// The mark its service was found by; 0 = none.
    pub mark: u32,
    /// How long it lasts without a packet, in seconds; 0 = not said.
    pub timeout: u32,
    /// Data of persistence engine `sip`: the Call-ID.
    pub call: Option<Vec<u8>>,
}

/// A message taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its records, as far as they can be used.
    pub records: Vec<Record>,
    /// What is wrong with others.
    pub faults: Vec<Fault>,
}

/// A record's length, and what it says.
type Taken = (usize, Result<Record, Fault>);

/// Takes a message apart. `syncid`: whose messages are wanted; 0 = everybody's.
pub fn read(bytes: &[u8], syncid: u8) -> Result<Message, Fault> {
    let head: &[u8; HEAD_V0] = bytes.first_chunk().ok_or(Fault::Short)?;
    if usize::from(u16::from_be_bytes([head[2], head[3]])) != bytes.len() {
        return Err(Fault::Length);
    }
    if syncid != 0 && head[1] != syncid {
        return Err(Fault::Syncid);
    }
    let mut message = Message::default();
    match bytes.first_chunk::<HEAD>() {
        Some([0, _, _, _, count, 1, 0, 0]) => {
            message.take(*count, &bytes[HEAD..], record, |length| length.next_multiple_of(4));
        }
        _ => message.take(head[0], &bytes[HEAD_V0..], record_v0, |length| length),
    }
    Ok(message)
}

impl Message {
    /// Takes `count` records; `next` says where the one after a record of some length begins.
    fn take(
        &mut self,
        count: u8,
        mut bytes: &[u8],
        one: fn(&[u8]) -> Result<Taken, Fault>,
        next: fn(usize) -> usize,
    ) {
        for _ in 0..count {
            let (length, record) = match one(bytes) {
                Ok(taken) => taken,
                Err(fault) => return self.faults.push(fault),
            };
            match record {
                Ok(record) => self.records.push(record),
                Err(fault) => {
                    self.faults.push(fault);
                    if fault.ends_message() {
                        return;
                    }
                }
            }
            bytes = bytes.get(next(length)..).unwrap_or_default();
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn address(bytes: &[u8], at: usize, v6: bool) -> IpAddr {
    if !v6 {
        return Ipv4Addr::from(u32_at(bytes, at)).into();
    }
    let octets = bytes.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok());
    Ipv6Addr::from(octets.unwrap_or_default()).into()
}

/// A record of version 1: its length, and what it says.
fn record(bytes: &[u8]) -> Result<Taken, Fault> {
    if bytes.len() < RECORD {
        return Err(Fault::Truncated);
    }
    let sizes = u16_at(bytes, 2);
    let length = usize::from(sizes & 0xfff);
    let whole = bytes.get(..length).ok_or(Fault::Truncated)?;
    if sizes >> 12 != 0 || bytes[0] & !1 != 0 {
        return Err(Fault::Unknown);
    }
    let v6 = bytes[0] == 1;
    let options = whole.get(if v6 { RECORD_V6 } else { RECORD }..).ok_or(Fault::Truncated)?;
    let width = if v6 { 16 } else { 4 };
    let end = |n: usize, port: usize| (address(bytes, 24 + n * width, v6), Port::new(u16_at(bytes, port)));
    let plain = Record {
        proto: Proto(bytes[1]),
        flags: u32_at(bytes, 4) & KEPT,
        state: u16_at(bytes, 8),
        client: end(0, 10),
        virt: end(1, 12),
        dest: end(2, 14),
        mark: u32_at(bytes, 16),
        timeout: u32_at(bytes, 20),
        call: None,
    };
    Ok((length, with_options(plain, options).and_then(usable)))
}

/// Options of a record, each at most once.
fn with_options(mut record: Record, mut options: &[u8]) -> Result<Record, Fault> {
    let (mut shifted, mut data, mut name) = (None, None, None);
    while !options.is_empty() {
        let [kind, length, rest @ ..] = options else { return Err(Fault::Options) };
        let length = usize::from(*length);
        let value = rest.get(..length).filter(|_| length != 0).ok_or(Fault::Options)?;
        let twice = match kind & !option::OPTIONAL {
            option::SEQUENCE if length == SEQUENCE => shifted.replace(is_shifted(value)).is_some(),
            option::ENGINE_DATA if length <= ENGINE_DATA => data.replace(value).is_some(),
            option::ENGINE_NAME if length <= ENGINE_NAME => name.replace(value).is_some(),
            option::SEQUENCE | option::ENGINE_DATA | option::ENGINE_NAME => true,
            _ if kind & option::OPTIONAL != 0 => false,
            _ => return Err(Fault::Mandatory),
        };
        if twice {
            return Err(Fault::Options);
        }
        options = rest.get(length..).unwrap_or_default();
    }
    if shifted == Some(true) {
        return Err(Fault::Shifted);
    }
    record.call = match (data, name) {
        (None, None) => None,
        (Some(data), Some(b"sip")) if record.flags & flags::TEMPLATE != 0 => Some(data.to_vec()),
        // Connections carry it too; only their templates are found by it.
        (Some(_), Some(b"sip")) => None,
        _ => return Err(Fault::Engine),
    };
    Ok(record)
}

/// Is either direction's difference, or the one before it, not zero?
fn is_shifted(sequence: &[u8]) -> bool {
    [4, 8, 16, 20].iter().any(|at| u32_at(sequence, *at) != 0)
}

/// A record of version 0.
fn record_v0(bytes: &[u8]) -> Result<Taken, Fault> {
    let head = bytes.get(..RECORD_V0).ok_or(Fault::Truncated)?;
    let all = u32::from(u16_at(head, 20));
    let length = RECORD_V0 + if all & SEQUENCE_FLAGS != 0 { SEQUENCE } else { 0 };
    let sequence = bytes.get(RECORD_V0..length).ok_or(Fault::Truncated)?;
    let end = |port: usize, at: usize| (address(head, at, false), Port::new(u16_at(head, port)));
    let record = Record {
        proto: Proto(head[1]),
        flags: all & KEPT,
        state: u16_at(head, 22),
        client: end(2, 8),
        virt: end(4, 12),
        dest: end(6, 16),
        mark: 0,
        timeout: 0,
        call: None,
    };
    // In the sender's byte order: zero is zero in any.
    let shifted = !sequence.is_empty() && is_shifted(sequence);
    Ok((length, if shifted { Err(Fault::Shifted) } else { usable(record) }))
}

/// States of a protocol that is balanced.
fn states(proto: Proto) -> Option<u16> {
    match proto {
        Proto::TCP => Some(11),
        Proto::UDP => Some(1),
        Proto::SCTP => Some(14),
        _ => None,
    }
}

fn usable(record: Record) -> Result<Record, Fault> {
    let template = record.flags & flags::TEMPLATE != 0;
    let known = if template { 2 } else { states(record.proto).ok_or(Fault::Protocol)? };
    if record.state >= known {
        return Err(Fault::State);
    }
    // Such connections are over with their packet, or wait for one that says the port.
    if record.flags & (flags::ONE_PACKET | flags::NO_CPORT) != 0 {
        return Err(Fault::Unwanted);
    }
    Ok(record)
}

/// Puts records into messages.
#[derive(Debug)]
pub struct Writer {
    version: u8,
    syncid: u8,
    most: usize,
    bytes: Vec<u8>,
    count: usize,
}

impl Writer {
    /// Of this version (0 or 1), for messages of at most so many bytes.
    pub fn new(version: u8, syncid: u8, maxlen: u16) -> Self {
        Self { version, syncid, most: usize::from(maxlen), bytes: Vec::new(), count: 0 }
    }

    /// Adds a record. The message before it, if it does not fit there any more. What version 0 has no words for (IPv6)
    /// is left out.
    pub fn push(&mut self, record: &Record) -> Option<Vec<u8>> {
        let encoded = if self.version == 0 { encode_v0(record)? } else { encode(record) };
        let padded = self.bytes.len().next_multiple_of(4);
        let full = self.count == MOST || self.count > 0 && padded + encoded.len() > self.most;
        let finished = if full { self.finish() } else { None };
        if self.count == 0 {
            self.bytes = vec![0; if self.version == 0 { HEAD_V0 } else { HEAD }];
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.extend(encoded);
        self.count += 1;
        finished
    }

    /// The message begun, if there is one.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        (self.count > 0).then(|| self.take())
    }

    /// A message without records: who is there says so.
    pub fn empty(&self) -> Vec<u8> {
        Self::new(1, self.syncid, 0).take()
    }

    fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() {
            bytes = vec![0; HEAD];
        }
        let (size, count) = ((bytes.len() as u16).to_be_bytes(), self.count as u8);
        let head: [u8; HEAD] = [0, self.syncid, size[0], size[1], count, 1, 0, 0];
        match self.version {
            0 => bytes[..HEAD_V0].copy_from_slice(&[count, self.syncid, size[0], size[1]]),
            _ => bytes[..HEAD].copy_from_slice(&head),
        }
        self.count = 0;
        bytes
    }
}

fn ports(record: &Record) -> [u8; 6] {
    let [a, b, c] = [record.client.1, record.virt.1, record.dest.1].map(|port| port.host().to_be_bytes());
    [a[0], a[1], b[0], b[1], c[0], c[1]]
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let v6 = record.client.0.is_ipv6();
    let mut bytes = vec![u8::from(v6), record.proto.0, 0, 0];
    bytes.extend(record.flags.to_be_bytes());
    bytes.extend(record.state.to_be_bytes());
    bytes.extend(ports(record));
    bytes.extend(record.mark.to_be_bytes());
    bytes.extend(record.timeout.to_be_bytes());
    for (addr, _) in [record.client, record.virt, record.dest] {
        bytes.extend(octets(addr));
    }
    if let Some(call) = record.call.as_ref().filter(|call| (1..=ENGINE_DATA).contains(&call.len())) {
        bytes.extend([option::ENGINE_DATA, call.len() as u8]);
        bytes.extend(call);
        bytes.extend([option::ENGINE_NAME, 3]);
        bytes.extend(b"sip");
    }
    let length = (bytes.len() as u16).to_be_bytes();
    bytes[2..4].copy_from_slice(&length);
    bytes
}

/// `None`: version 0 has no words for it.
fn encode_v0(record: &Record) -> Option<Vec<u8>> {
    if record.client.0.is_ipv6() {
        return None;
    }
    let mut bytes = vec![0, record.proto.0];
    bytes.extend(ports(record));
    for (addr, _) in [record.client, record.virt, record.dest] {
        bytes.extend(octets(addr));
    }
    // Where these flags are, sequence data has to follow.
    bytes.extend(((record.flags & !SEQUENCE_FLAGS) as u16).to_be_bytes());
    bytes.extend(record.state.to_be_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests;
