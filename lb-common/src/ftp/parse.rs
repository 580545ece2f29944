//! What is said on a control connection: `PASV`, `EPSV`, `PORT h,h,h,h,p,p`, `EPRT |1|host|port|`, and the server's
//! `227 … (h,h,h,h,p,p)` and `229 … (|||port|)`. As IPVS reads it: an address counts at the beginning of a segment only.

use core::ops::ControlFlow;

use crate::cell::unknown_zero;
use crate::conn::bound;
use crate::ip::Ip;
use crate::packet::Packet;
use crate::tables::Tables;
use crate::text::Text;

/// Where the reading is.
mod state {
    /// In the first word.
    pub const WORD: u32 = 0;
    /// Before the mark that an address follows: a blank, or a server's parenthesis.
    pub const BEFORE: u32 = 1;
    /// Behind the mark.
    pub const MARK: u32 = 2;
    /// In numbers with commas.
    pub const NUMBERS: u32 = 3;
    /// In fields between bars.
    pub const FIELDS: u32 = 4;
    /// There was a whole address.
    pub const WHOLE: u32 = 5;
    /// This is no address.
    pub const NONE: u32 = 6;
}

/// What was read.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct Told {
    /// The last eight bytes, in capitals, the last one lowest.
    window: u64,
    /// Numbers so far, a byte for each, the last one lowest.
    numbers: u64,
    state: u32,
    /// Commas, or bars, so far.
    count: u32,
    /// The port between bars.
    port: u32,
    /// The bar in use.
    bar: u32,
    /// Does a parenthesis stand right before the numbers?
    opened: u32,
    /// Where the numbers begin.
    start: u32,
    /// Where their fourth comma is.
    comma: u32,
    /// Mode the client chose: [`bound::MODES`] bits.
    mode: u32,
    /// Of the server: the mode it answers to.
    answers: u32,
    /// The family's number in EPRT, `1` or `2`.
    family: u32,
    extended: u32,
    spare: u32,
    /// The text read.
    text: Text,
    /// Where its TCP header begins.
    l4: u32,
    spare2: u32,
}

const fn word(bytes: &[u8]) -> u64 {
    let (mut word, mut i) = (0, 0);
    while i < bytes.len() {
        word = word << 8 | bytes[i] as u64;
        i += 1;
    }
    word
}

impl Told {
    /// Nothing yet. `l4`: where the TCP header begins; `answers`: the mode a server answers to, 0 for a client.
    #[inline(always)]
    pub fn new<F: Ip>(text: Text, l4: u32, answers: u32) -> Self {
        let zero = unknown_zero();
        Self {
            window: zero as u64,
            numbers: zero as u64,
            state: zero,
            count: zero,
            port: zero,
            bar: zero,
            opened: zero,
            start: zero,
            comma: zero,
            mode: zero,
            answers,
            family: if F::HEADER_SUM { b'1' as u32 } else { b'2' as u32 },
            extended: zero,
            spare: zero,
            text,
            l4,
            spare2: zero,
        }
    }

    /// Reads the text.
    #[inline(always)]
    pub fn read<P: Packet, T: Tables>(&mut self, p: &P, t: &T) {
        let text = self.text;
        text.each(p, t, self, |told, i, byte| {
            told.take(i, byte);
            told.blur(unknown_zero());
            ControlFlow::Continue(())
        });
    }

    /// Changes nothing, but the verifier does not know: it would follow the loop for every combination of values.
    #[inline(always)]
    fn blur(&mut self, zero: u32) {
        self.state |= zero;
        self.count |= zero;
        self.opened |= zero;
        self.mode |= zero;
        self.extended |= zero;
        self.start |= zero;
        self.comma |= zero;
        self.port |= zero;
        self.bar |= zero;
    }

    /// The mode a client chose, 0 for none.
    #[inline(always)]
    pub fn mode(&self) -> u32 {
        self.mode
    }
    /// Was there an address?
    #[inline(always)]
    pub fn whole(&self) -> bool {
        self.state == state::WHOLE
    }
    /// Was it one between bars, of which only the port counts?
    #[inline(always)]
    pub fn extended(&self) -> bool {
        self.extended != 0
    }
    /// Its port.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        if self.extended() { self.port as u16 } else { self.numbers as u16 }
    }
    /// Its IPv4 address, in memory order.
    #[inline(always)]
    pub fn address(&self) -> u32 {
        ((self.numbers >> 16) as u32).to_be()
    }
    /// Where the text and its TCP header begin.
    #[inline(always)]
    pub fn begins(&self) -> (u32, u32) {
        (self.text.at, self.l4)
    }
    /// Where in the text the address's four numbers begin, a parenthesis included, and where they end.
    #[inline(always)]
    pub fn place(&self) -> (u32, u32) {
        (self.start.wrapping_sub(self.opened), self.comma)
    }
    /// Does a parenthesis stand before them?
    #[inline(always)]
    pub fn opened(&self) -> bool {
        self.opened != 0
    }

    #[inline(always)]
    fn take(&mut self, i: u32, byte: u8) {
        let capital = if byte.is_ascii_lowercase() { byte - 32 } else { byte };
        self.window = self.window << 8 | capital as u64;
        if self.answers == 0 {
            self.choose();
        }
        match self.state {
            state::WORD if i == 3 => self.begin(),
            state::BEFORE if self.is_mark(byte) => self.state = state::MARK,
            state::BEFORE if self.extended == 0 && byte.is_ascii_digit() => self.number(i, byte),
            state::MARK if self.is_mark(byte) => {}
            state::MARK if self.extended == 0 => {
                self.opened = (self.answers != 0) as u32;
                self.number(i, byte);
            }
            state::MARK => self.first_bar(byte),
            state::NUMBERS => self.number(i, byte),
            state::FIELDS => self.field(byte),
            _ => {}
        }
    }

    /// Passive mode, wherever in the segment it is asked for.
    #[inline(always)]
    fn choose(&mut self) {
        const PASV: u64 = word(b"PASV\r\n");
        const EPSV: u64 = word(b"EPSV\r");
        const EPSV_OF: u64 = word(b"EPSV \0\r");
        let last = |bytes: u32| self.window & (u64::MAX >> (64 - 8 * bytes));
        let v4 = self.family == b'1' as u32;
        if v4 && last(6) == PASV {
            self.mode = bound::PASSIVE;
        } else if last(6) >> 8 == EPSV || last(7) == EPSV_OF | (self.family as u64) << 8 {
            self.mode = bound::EXTENDED;
        }
    }

    #[inline(always)]
    fn begin(&mut self) {
        const PORT: u64 = word(b"PORT");
        const EPRT: u64 = word(b"EPRT");
        const PASSIVE: u64 = word(b"227 ");
        const EXTENDED: u64 = word(b"229 ");
        let first = self.window & 0xffff_ffff;
        let v4 = self.family == b'1' as u32;
        let plain = match self.answers {
            bound::PASSIVE => first == PASSIVE,
            0 => first == PORT && v4,
            _ => false,
        };
        let extended = match self.answers {
            bound::EXTENDED => first == EXTENDED,
            0 => first == EPRT,
            _ => false,
        };
        self.extended = extended as u32;
        self.state = if plain || extended { state::BEFORE } else { state::NONE };
    }

    #[inline(always)]
    fn is_mark(&self, byte: u8) -> bool {
        byte == if self.answers == 0 { b' ' } else { b'(' }
    }

    #[inline(always)]
    fn number(&mut self, i: u32, byte: u8) {
        if self.state != state::NUMBERS {
            self.state = state::NUMBERS;
            self.start = i;
        }
        if byte.is_ascii_digit() {
            let grown = (self.numbers as u8).wrapping_mul(10).wrapping_add(byte - b'0');
            self.numbers = self.numbers & !0xff | grown as u64;
        } else if byte == b',' && self.count < 5 {
            self.numbers <<= 8;
            self.count += 1;
            if self.count == 4 {
                self.comma = i;
            }
        } else {
            self.state = if self.count == 5 { state::WHOLE } else { state::NONE };
        }
    }

    #[inline(always)]
    fn first_bar(&mut self, byte: u8) {
        self.bar = byte as u32;
        self.count = 1;
        self.state = if byte.is_ascii_graphic() { state::FIELDS } else { state::NONE };
    }

    /// Between bars: family, host, port. A server leaves the first two empty; a client's host is taken to be itself.
    #[inline(always)]
    fn field(&mut self, byte: u8) {
        let client = self.answers == 0;
        if byte as u32 == self.bar {
            let known = self.count != 1 || !client || self.window >> 8 & 0xff == self.family as u64;
            self.count += 1;
            self.state = match self.count {
                4 if self.port as u16 != 0 => state::WHOLE,
                2 | 3 if known => state::FIELDS,
                _ => state::NONE,
            };
        } else if self.count == 3 && byte.is_ascii_digit() {
            self.port = self.port.wrapping_mul(10).wrapping_add((byte - b'0') as u32);
        } else if self.count == 3 || !client {
            self.state = state::NONE;
        }
    }
}
