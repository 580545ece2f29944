//! The virtual address in the place of the server's, in a 227, at the same length: what follows the address stays where
//! it is, and the words before it give way or are followed by blanks. RFC 959 leaves these words free, and clients look
//! for the numbers (RFC 1123, 4.1.2.6).

use core::ops::ControlFlow;

use super::parse::Told;
use crate::checksum;
use crate::packet::Packet;
use crate::tables::Tables;
use crate::wire::Tcp;

/// Bytes of the longest address with its parenthesis.
const LONGEST: u32 = 16;
/// Bytes of the reply's number and its blank, which stay.
const NUMBER: u32 = 4;

/// At most sixteen bytes, the last one lowest.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Line {
    high: u64,
    low: u64,
    /// How many; a double word, as all of it: see `Addr`.
    len: u64,
}

impl Line {
    #[inline(always)]
    fn new() -> Self {
        Self { high: 0, low: 0, len: 0 }
    }
    #[inline(always)]
    fn push(&mut self, byte: u8) {
        self.high = self.high << 8 | self.low >> 56;
        self.low = self.low << 8 | byte as u64;
        self.len += 1;
    }
    #[inline(always)]
    fn push_number(&mut self, n: u8) {
        if n >= 100 {
            self.push(b'0' + n / 100);
        }
        if n >= 10 {
            self.push(b'0' + n / 10 % 10);
        }
        self.push(b'0' + n % 10);
    }
    /// The `i`th byte from the end.
    #[inline(always)]
    fn byte_before_end(&self, i: u32) -> u8 {
        let half = if i < 8 { self.low } else { self.high };
        (half >> (8 * (i & 7))) as u8
    }
}

/// Puts the virtual address (a word in memory order) into the reply. False: there is no room, and the reply has become a
/// 425, which tells the client that there will be no data connection.
#[inline(never)]
pub fn address<P: Packet, T: Tables>(p: &mut P, t: &T, told: &Told, virtual_address: u32) -> bool {
    let (at, l4) = told.begins();
    let [a, b, c, d] = virtual_address.to_ne_bytes();
    let mut line = Line::new();
    if told.opened() {
        line.push(b'(');
    }
    line.push_number(a);
    line.push(b',');
    line.push_number(b);
    line.push(b',');
    line.push_number(c);
    line.push(b',');
    line.push_number(d);
    let (start, end) = told.place();
    let old = end.wrapping_sub(start);
    if old > LONGEST || end < NUMBER + line.len as u32 {
        let mut refusal = Line::new();
        b"425".iter().for_each(|byte| refusal.push(*byte));
        put(p, t, l4, at + refusal.len as u32, refusal, 0);
        return false;
    }
    put(p, t, l4, at.wrapping_add(end), line, old);
    true
}

#[repr(C, align(8))]
struct Patch<'a, P> {
    p: &'a mut P,
    line: Line,
    /// What the checksum changes by.
    diff: u64,
}

/// Writes a line that ends before `end`, and blanks before it where `old` was longer; the TCP checksum follows.
#[inline(always)]
fn put<P: Packet, T: Tables>(p: &mut P, t: &T, l4: u32, end: u32, line: Line, old: u32) {
    let mut patch = Patch { p, line, diff: 0 };
    t.repeat(LONGEST, &mut patch, |_, patch, i| {
        let new = i < patch.line.len as u32;
        if !new && i >= old {
            return ControlFlow::Break(());
        }
        let byte = if new { patch.line.byte_before_end(i) } else { b' ' };
        let at = end.wrapping_sub(i + 2);
        // Two bytes, of which the second is meant: see `Wire`.
        let Some(pair) = patch.p.at_mut::<[u8; 2]>(at) else { return ControlFlow::Break(()) };
        let odd = at.wrapping_add(1).wrapping_sub(l4) & 1 != 0;
        let share = |byte: u8| u16::from_ne_bytes(if odd { [0, byte] } else { [byte, 0] }) as u32;
        patch.diff = checksum::diff32(patch.diff as u32, share(pair[1]), share(byte)) as u64;
        pair[1] = byte;
        ControlFlow::Continue(())
    });
    let diff = patch.diff as u32;
    if let Some(tcp) = p.at_mut::<Tcp>(l4) {
        tcp.check = checksum::apply(u16::from_ne_bytes(tcp.check), diff).to_ne_bytes();
    }
}
