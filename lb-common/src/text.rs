//! Payloads read as text, a byte at a time: the loop that protocols with lines and words share.

use core::ops::ControlFlow;

use crate::ip::Ip;
use crate::packet::Packet;
use crate::parse::Seen;
use crate::tables::Tables;

/// A stretch of a packet's payload.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// Where it begins, from the frame's first byte. Something precedes it.
    pub at: u32,
    /// How long it is.
    pub len: u32,
}

impl Text {
    /// The payload behind a transport header of `header` bytes. `None`: there is none.
    #[inline(always)]
    pub fn behind<F: Ip>(seen: &Seen<F>, header: u32) -> Option<Self> {
        let at = seen.l4 + header;
        let end = seen.l3 + seen.len;
        (at < end).then(|| Self { at, len: end.wrapping_sub(at) })
    }

    /// Hands its bytes to `step`, with their places in it, until that breaks or no byte is left that can be read.
    #[inline(always)]
    pub fn each<P: Packet, T: Tables, A>(
        &self,
        p: &P,
        t: &T,
        acc: &mut A,
        step: impl Fn(&mut A, u32, u8) -> ControlFlow<()>,
    ) {
        let before = self.at.wrapping_sub(1);
        t.repeat(self.len, acc, |_, acc, i| {
            // Two bytes, of which the second is meant: see `Wire`.
            match p.at::<[u8; 2]>(before.wrapping_add(i)) {
                Some(pair) => step(acc, i, pair[1]),
                None => ControlFlow::Break(()),
            }
        });
    }
}
