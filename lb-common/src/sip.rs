//! Persistence engine `sip`: a template is for a call, which the Call-ID of the message names.
//!
//! The header is found as the kernel's SIP helper finds it, quirks included: header lines are looked for from the second
//! line on and into the body, a name may be folded from its colon and its value, the compact form is `i`. A Call-ID is a
//! word, or two with an @ between them, ends with its line, and has at most 255 bytes.

use core::ops::ControlFlow;

use crate::addr::Addr;
use crate::cell::unknown_zero;
use crate::ip::Ip;
use crate::packet::Packet;
use crate::parse::Seen;
use crate::siphash::State;
use crate::tables::Tables;
use crate::text::Text;

/// Bytes of a Call-ID at the most (the kernel's IP_VS_PEDATA_MAXLEN).
pub const LONGEST: u32 = 255;
/// Words that hold one.
const WORDS: usize = 32;

/// Whom a template of the engine is for: a value of the `calls` map. 280 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The client, masked.
    pub client: Addr,
    /// Length of the Call-ID in bytes.
    pub len: u32,
    /// Zero.
    pub spare: u32,
    /// The Call-ID, first byte in the lowest bits. What follows it means nothing.
    pub words: [u64; WORDS],
}

const _: () = assert!(core::mem::size_of::<Call>() == 280);

impl Call {
    /// Puts one more byte; beyond [`LONGEST`] it is only counted.
    #[inline(always)]
    fn push(&mut self, at: u32, byte: u8) {
        if at >= LONGEST {
            return;
        }
        // The 6.1 verifier forgets the comparison: a mask it does see.
        let word = core::hint::black_box(at >> 3) as usize & (WORDS - 1);
        let shift = (at & 7) * 8;
        let kept = if shift == 0 { 0 } else { self.words[word] };
        self.words[word] = kept | (byte as u64) << shift;
    }

    /// The `i`th word, with zeros behind the Call-ID's end.
    #[inline(always)]
    fn word(&self, i: u32) -> u64 {
        self.words[i as usize & (WORDS - 1)]
    }

    /// Words in use.
    #[inline(always)]
    fn used(&self) -> u32 {
        self.len.div_ceil(8) & (2 * WORDS as u32 - 1)
    }

    /// The Call-ID's bytes.
    pub fn bytes(&self) -> impl Iterator<Item = u8> {
        let len = self.len.min(LONGEST) as usize;
        self.words.into_iter().flat_map(u64::to_le_bytes).take(len)
    }

    /// Of a client (masked) and a Call-ID of at most [`LONGEST`] bytes, as another director tells of it.
    pub fn new(client: Addr, id: &[u8]) -> Option<Self> {
        let len = u32::try_from(id.len()).ok().filter(|len| (1..=LONGEST).contains(len))?;
        let mut call = Self { client, len, ..Self::default() };
        (0..).zip(id).for_each(|(at, byte)| call.push(at, *byte));
        Some(call)
    }

    /// As it lies in memory.
    pub fn plain(&self) -> [u8; 280] {
        let mut bytes = [0; 280];
        let (head, words) = bytes.split_at_mut(24);
        head[..16].copy_from_slice(&self.client.0);
        head[16..20].copy_from_slice(&self.len.to_ne_bytes());
        for (to, word) in words.chunks_exact_mut(8).zip(self.words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Are both the same call of the same client?
    #[inline(always)]
    pub fn same<T: Tables>(&self, t: &T, other: &Self) -> bool {
        let differ = |a: [u32; 4], b: [u32; 4]| (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
        if self.len != other.len || differ(self.client.words(), other.client.words()) != 0 {
            return false;
        }
        let mut differences = unknown_zero();
        t.repeat(self.used(), &mut differences, |_, differences, i| {
            let word = self.word(i) ^ other.word(i);
            *differences |= word as u32 | (word >> 32) as u32;
            ControlFlow::Continue(())
        });
        differences == 0
    }

    /// A keyed hash of all of it.
    #[inline(always)]
    pub fn hash<T: Tables>(&self, t: &T) -> u64 {
        let client = self.client.words();
        let two = |low: u32, high: u32| low as u64 | (high as u64) << 32;
        let mut state = State::new(t.secret());
        state.absorb(two(client[0], client[1]));
        state.absorb(two(client[2], client[3]));
        t.repeat(self.used(), &mut state, |_, state, i| {
            state.absorb(self.word(i));
            ControlFlow::Continue(())
        });
        state.absorb(self.len as u64);
        state.finish()
    }
}

/// Where in the message the search is.
mod state {
    /// Looking for the end of a line.
    pub const TEXT: u32 = 0;
    /// Behind a carriage return.
    pub const RETURN: u32 = 1;
    /// At the beginning of a line.
    pub const LINE: u32 = 2;
    /// Behind so many letters of the header's name more.
    pub const NAME: u32 = 3;
    /// Behind the compact name.
    pub const COMPACT: u32 = 10;
    /// Between name and colon, [`FOLD`] states included.
    pub const COLON: u32 = 12;
    /// Between colon and value, [`FOLD`] states included.
    pub const VALUE: u32 = 16;
    /// Added to the last two: behind a carriage return; behind a line's end; behind what folds it.
    pub const FOLD: [u32; 3] = [1, 2, 3];
    /// In the Call-ID.
    pub const WORD: u32 = 20;
    /// Behind its @.
    pub const AT: u32 = 21;
    /// In its second word.
    pub const DOMAIN: u32 = 22;
    /// Found.
    pub const FOUND: u32 = 23;
    /// There is none that counts.
    pub const NONE: u32 = 24;
}

/// The header's name, in lower case, first letter lowest: no memory the verifier would want the bounds of.
const NAME: u64 = u64::from_le_bytes(*b"call-id\0");
/// Its letters.
const LETTERS: u32 = 7;

#[repr(C, align(8))]
struct Search<'a> {
    call: &'a mut Call,
    state: u32,
    /// Bytes of the value so far.
    len: u32,
    /// Where the value begins.
    start: u32,
    /// Lines that end before this are not looked at: the kernel skips ahead after a header without a value.
    from: u32,
}

/// Reads the Call-ID of the message in a UDP packet. False: it has none that counts.
#[inline(always)]
pub fn call_id<F: Ip, P: Packet, T: Tables>(p: &P, t: &T, seen: &Seen<F>, call: &mut Call) -> bool {
    const UDP: u32 = 8;
    let Some(text) = Text::behind(seen, UDP) else { return false };
    let zero = unknown_zero();
    let mut search = Search { call, state: zero, len: zero, start: zero, from: zero };
    text.each(p, t, &mut search, |search, i, byte| {
        search.take(i, byte);
        // Newer verifiers follow the loop turn by turn while they learn something: here, until every state has been
        // reached from every other. What they do not know of the state they need not follow.
        search.state |= unknown_zero();
        search.len |= unknown_zero();
        search.from |= unknown_zero();
        if search.state >= state::FOUND { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    search.call.len = search.len;
    search.state == state::FOUND && search.len <= LONGEST
}

impl Search<'_> {
    #[inline(always)]
    fn take(&mut self, i: u32, byte: u8) {
        match self.state {
            state::TEXT => self.text(i, byte),
            // A line feed belongs to the return before it.
            state::RETURN if byte == b'\n' => self.state = state::LINE,
            state::RETURN | state::LINE => self.line(byte),
            state::COMPACT if !is_letter(byte) => self.blank(i, byte, state::COLON),
            state::COMPACT => self.text(i, byte),
            state::NAME..state::COMPACT => self.name(i, byte),
            state::COLON..state::VALUE => self.blank(i, byte, state::COLON),
            state::VALUE..state::WORD => self.blank(i, byte, state::VALUE),
            _ => self.value(i, byte),
        }
    }

    #[inline(always)]
    fn text(&mut self, i: u32, byte: u8) {
        self.state = match byte {
            _ if i < self.from => state::TEXT,
            b'\r' => state::RETURN,
            b'\n' => state::LINE,
            _ => state::TEXT,
        };
    }

    #[inline(always)]
    fn line(&mut self, byte: u8) {
        self.state = match byte | 0x20 {
            b'c' => state::NAME,
            b'i' => state::COMPACT,
            // Whatever it is, a line's end too, the search goes on behind it.
            _ => state::TEXT,
        };
    }

    /// A letter of the name; its first has been there.
    #[inline(always)]
    fn name(&mut self, i: u32, byte: u8) {
        let known = self.state.wrapping_sub(state::NAME).wrapping_add(1) & 7;
        if lower(byte) != (NAME >> (8 * known)) as u8 {
            return self.text(i, byte);
        }
        self.state = if known + 1 == LETTERS { state::COLON } else { self.state.wrapping_add(1) };
    }

    /// Blanks before the colon or before the value, among them at most one line's end.
    #[inline(always)]
    fn blank(&mut self, i: u32, byte: u8, before: u32) {
        let [behind_return, behind_end, folded] = state::FOLD;
        // The compact name's state is none of these: it counts as the first blank's.
        let place = self.state.saturating_sub(before);
        let end = place == behind_end || place == behind_return && byte != b'\n';
        self.state = match byte {
            b' ' if place == 0 => before,
            b'\r' if place == 0 => before + behind_return,
            b'\n' if place == 0 || place == behind_return => before + behind_end,
            b' ' | b'\t' if place != 0 => before + folded,
            // The next line does not go on with this header.
            _ if end => state::NONE,
            b':' if before == state::COLON => state::VALUE,
            _ if before == state::COLON => state::NONE,
            _ => return self.begin(i, byte),
        };
    }

    /// The value's first byte.
    #[inline(always)]
    fn begin(&mut self, i: u32, byte: u8) {
        self.start = i;
        self.len = 0;
        if !is_word(byte) {
            return self.search_on(i, byte);
        }
        self.push(byte, state::WORD);
    }

    #[inline(always)]
    fn value(&mut self, i: u32, byte: u8) {
        match (self.state, byte) {
            (state::WORD, b'@') => self.push(byte, state::AT),
            (state::WORD, byte) if is_word(byte) => self.push(byte, state::WORD),
            (_, byte) if is_word(byte) => self.push(byte, state::DOMAIN),
            (state::AT, _) => self.search_on(i, byte),
            (_, b'\r' | b'\n') => self.state = state::FOUND,
            _ => self.state = state::NONE,
        }
    }

    #[inline(always)]
    fn push(&mut self, byte: u8, next: u32) {
        self.call.push(self.len, byte);
        self.len = self.len.wrapping_add(1);
        self.state = next;
    }

    /// A header without a value: the search goes on, as far ahead as the kernel's.
    #[inline(always)]
    fn search_on(&mut self, i: u32, byte: u8) {
        self.from = self.from.wrapping_add(self.start);
        self.text(i, byte);
    }
}

#[inline(always)]
const fn lower(byte: u8) -> u8 {
    if byte.is_ascii_uppercase() { byte | 0x20 } else { byte }
}

/// The kernel's characters are Latin-1.
#[inline(always)]
const fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte >= 0xc0 && byte != 0xd7 && byte != 0xf7
}

/// May the byte stand in a word of a Call-ID?
#[inline(always)]
const fn is_word(byte: u8) -> bool {
    is_letter(byte)
        || matches!(byte, b'0'..=b'9' | b'!' | b'"' | b'%' | b'\'' | b'('..=b'+' | b'-'..=b'/' | b':')
        || matches!(byte, b'<' | b'>' | b'?' | b'['..=b'`' | b'{' | b'}' | b'~') && byte != b'^'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostTables, Sizes, SliceFrame};
    use crate::ip::V4;
    use std::string::String;
    use std::vec;

    /// The Call-ID found in a message.
    fn found(message: &str) -> Option<String> {
        found_in(message.as_bytes())
    }

    fn found_in(message: &[u8]) -> Option<String> {
        const HEADERS: usize = 14 + 20 + 8;
        let mut frame = vec![0; HEADERS];
        frame.extend_from_slice(message);
        let len = frame.len() as u32 - 14;
        let seen = Seen::<V4> { l3: 14, l4: 34, len, ..Seen::default() };
        let mut call = Call::default();
        let tables = HostTables::new(&Sizes::default());
        call_id(&SliceFrame::new(&frame, 1), &tables, &seen, &mut call)
            .then(|| call.bytes().map(char::from).collect())
    }

    #[test]
    fn the_header_is_found() {
        let is = |message: &str, id: &str| assert_eq!(found(message).as_deref(), Some(id), "{message:?}");
        is(
            "INVITE sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: a84b4c76e66710@pc33.example\r\nCSeq: 1\r\n\r\n",
            "a84b4c76e66710@pc33.example",
        );
        is("INVITE x\r\ni: short@h\r\n", "short@h");
        is("INVITE x\ncall-id:none\n", "none");
        is("INVITE x\rCALL-ID   :  word\r", "word");
        is("INVITE x\r\nCall-ID \r\n\t : \r\n  folded@x\r\n", "folded@x");
        // The body is searched too, and lines that only begin alike are not it.
        is("INVITE x\r\nCall-I: 1\r\nCallee: c\r\nind: 2\r\nci: 3\r\n\r\nv=0\r\ni: body\r\n", "body");
        // A header without a value is passed over.
        is("INVITE x\r\nCall-ID: @h\r\ni: a\r\n", "a");
        is("INVITE x\r\nCall-ID: a@\r\ni: b\r\n", "b");
        is("X\r\ni: !\"%'()*+-./0:<>?[\\]_`{}~\r\n", "!\"%'()*+-./0:<>?[\\]_`{}~");
    }

    #[test]
    fn what_does_not_count() {
        let none = |message: &str| assert_eq!(found(message), None, "{message:?}");
        none("");
        none("Call-ID: first-line\r\n");
        none("X\r\n Call-ID: continuation\r\n");
        none("X\r\nCall-ID: at-the-end");
        none("X\r\nCall-ID: two words\r\n");
        none("X\r\nCall-ID: a@b@c\r\n");
        none("X\r\nCall-ID x: 1\r\n");
        none("X\r\nCall-ID\r\n: not-folded\r\n");
        none("X\r\nCall-ID:\r\nnot-folded\r\n");
        none("X\r\nCall-ID:\ttab\r\n");
        none("X\r\nCall-ID: a,b\r\n");
        // One character of an empty line's successor is lost, as in the kernel.
        none("X\n\ni: a\n");
    }

    #[test]
    fn the_longest_has_255_bytes() {
        let message = |len: usize| std::format!("X\r\ni: {}\r\n", "a".repeat(len));
        assert_eq!(found(&message(255)).map(|id| id.len()), Some(255));
        assert_eq!(found(&message(256)), None);
        assert_eq!(found(&message(2000)), None);
    }

    #[test]
    fn letters_are_latin_1() {
        assert!(found_in(b"X\r\ni: \xe4\xd6\r\n").is_some());
        assert!(found_in(b"X\r\ni: \xd7\r\n").is_none());
        // The compact name ends where no letter follows.
        assert!(found_in(b"X\r\ni\xe4: a\r\n").is_none());
    }

    #[test]
    fn calls_differ_in_client_length_and_any_byte() {
        let tables = HostTables::new(&Sizes::default());
        let mut call = Call { len: 17, ..Call::default() };
        (0..17).for_each(|i| call.push(i, b'a' + i as u8));
        let mut same = call;
        same.words[3] = 77;
        assert!(call.same(&tables, &same) && call.hash(&tables) == same.hash(&tables));
        let others = [
            Call { client: Addr::from_words([0, 0, 0, 1]), ..call },
            Call { len: 16, ..call },
            Call {
                words: {
                    let mut words = call.words;
                    words[2] ^= 1;
                    words
                },
                ..call
            },
        ];
        for other in others {
            assert!(!call.same(&tables, &other) && call.hash(&tables) != other.hash(&tables));
        }
    }
}
