//! Marks: services by mark take packets that rules of our own mark. (XDP runs before netfilter, so there are no others.)
//!
//! The first rule that matches gives its mark, as the first matching `MARK` rule of a chain that then returns would. The
//! rules lie in the `marks` map, in one of two halves; [`crate::settings::Settings::mark_rules`] says which, and how
//! many, in one word, so that a packet sees the old list or the new one.

use core::ops::ControlFlow;

use crate::addr::Addr;
use crate::ip::{Address, Ip};
use crate::parse::Seen;
use crate::tables::Tables;

/// Rules at the most.
pub const MOST: u32 = 1024;

/// One rule. 88 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkRule {
    /// Destination, host bits zero.
    pub dst: Addr,
    /// Its mask.
    pub dst_mask: Addr,
    /// Source, host bits zero.
    pub src: Addr,
    /// Its mask.
    pub src_mask: Addr,
    /// The mark given; never 0.
    pub mark: u32,
    /// First destination port, host order.
    pub dport_from: u16,
    /// Last destination port, host order.
    pub dport_to: u16,
    /// `AF_` number.
    pub family: u8,
    /// Transport protocol; 0 = any.
    pub proto: u8,
    /// Zero.
    pub spare: [u8; 14],
}

const _: () = assert!(core::mem::size_of::<MarkRule>() == 88);

/// The word in the settings: which half, how many.
pub const fn word(half: u32, count: u32) -> u32 {
    half << 31 | count
}

#[inline(always)]
fn covers(value: &Addr, mask: &Addr, addr: &Addr) -> bool {
    let (v, m, a) = (value.words(), mask.words(), addr.words());
    (a[0] & m[0]) ^ v[0] | (a[1] & m[1]) ^ v[1] | (a[2] & m[2]) ^ v[2] | (a[3] & m[3]) ^ v[3] == 0
}

impl MarkRule {
    /// Does the rule apply to this packet?
    #[inline(always)]
    fn matches<F: Ip>(&self, seen: &Seen<F>) -> bool {
        let port = seen.dport.host();
        self.family == F::FAMILY as u8
            && (self.proto == 0 || self.proto == seen.proto.0)
            && port >= self.dport_from
            && port <= self.dport_to
            && covers(&self.dst, &self.dst_mask, &seen.dst.wide())
            && covers(&self.src, &self.src_mask, &seen.src.wide())
    }
}

#[repr(C, align(8))]
struct Walk<'a, F: Ip> {
    seen: &'a Seen<F>,
    first: u32,
    mark: u32,
}

/// The packet's mark; 0 = none.
#[inline(always)]
pub fn of<F: Ip, T: Tables>(t: &T, seen: &Seen<F>) -> u32 {
    let rules = t.settings().mark_rules.load();
    let count = rules & (MOST * 2 - 1);
    let mut walk = Walk { seen, first: (rules >> 31) * MOST, mark: 0 };
    t.repeat(count, &mut walk, |t, walk, i| match t.mark_rule(walk.first.wrapping_add(i)) {
        Some(rule) if rule.matches(walk.seen) => {
            walk.mark = rule.mark;
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    walk.mark
}
