//! The schedulers: which dest gets a new connection.
//!
//! Each is one file with a `pick`, and where IPVS keeps a table, a `build`. Decisions equal the kernel's for the
//! same sequence of packets: same dest order (newest first), same cursors, same hashes and tie-breaks.
//!
//! `pick` runs in the kernel program, over [`View`]: it may not allocate, and walks dests only through
//! [`View::walk`]. `build` runs in the control side, which writes the table next to the dest list; [`control`] has
//! everything that side needs.
//!
//! Whatever a walk gathers is plain numbers that start initialised, 0 or "number plus 1" where others would write
//! `Option`: it lies on the stack of a `bpf_loop`, and older verifiers refuse to read a payload not yet written. It is
//! aligned to 8 bytes and begins with the numbers that start as 0. The compiler joins neighbouring stores of constants
//! to 8-byte ones from the first of them on, and the verifier accepts those on the stack only if they are aligned.

pub mod cache;
pub mod control;
mod cursor;
pub mod dh;
pub mod fo;
pub mod hash;
pub mod lblc;
pub mod lblcr;
pub mod lc;
pub mod mh;
#[cfg(test)]
mod model;
pub mod nq;
pub mod ovf;
pub mod rr;
pub mod sed;
pub mod sh;
pub mod tree;
pub mod twos;
pub mod wlc;
pub mod wrr;

use core::ops::ControlFlow;

pub use self::cache::{CacheKey, Cached};
pub use self::control::{BuildDest, Memory, TooManyDests, build, on_change, table_len};

use crate::cell::unknown_zero;
use crate::dest::Dest;
use crate::service::{SchedState, Service};

/// The schedulers, in the order of ipvsadm's help.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// Round robin.
    Rr = 0,
    /// Weighted round robin.
    Wrr = 1,
    /// Least connections.
    Lc = 2,
    /// Weighted least connections.
    Wlc = 3,
    /// Locality-based least connections.
    Lblc = 4,
    /// Locality-based least connections with replication.
    Lblcr = 5,
    /// Destination hashing.
    Dh = 6,
    /// Source hashing.
    Sh = 7,
    /// Shortest expected delay.
    Sed = 8,
    /// Never queue.
    Nq = 9,
    /// Weighted failover.
    Fo = 10,
    /// Weighted overflow.
    Ovf = 11,
    /// Maglev hashing.
    Mh = 12,
    /// Power of two choices.
    Twos = 13,
    /// `none`: no scheduler; every new connection finds no dest.
    None = 14,
}

/// Every scheduler with its name.
pub const NAMES: [(Scheduler, &str); 15] = [
    (Scheduler::Rr, "rr"),
    (Scheduler::Wrr, "wrr"),
    (Scheduler::Lc, "lc"),
    (Scheduler::Wlc, "wlc"),
    (Scheduler::Lblc, "lblc"),
    (Scheduler::Lblcr, "lblcr"),
    (Scheduler::Dh, "dh"),
    (Scheduler::Sh, "sh"),
    (Scheduler::Sed, "sed"),
    (Scheduler::Nq, "nq"),
    (Scheduler::Fo, "fo"),
    (Scheduler::Ovf, "ovf"),
    (Scheduler::Mh, "mh"),
    (Scheduler::Twos, "twos"),
    (Scheduler::None, "none"),
];

impl Scheduler {
    /// By ipvsadm's name.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(s, _)| *s)
    }
    /// ipvsadm's name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(s, _)| *s == self).map_or("none", |(_, n)| n)
    }
    /// By number, as [`Service::scheduler`] holds it.
    pub fn from_number(n: u8) -> Option<Self> {
        NAMES.iter().find(|(s, _)| *s as u8 == n).map(|(s, _)| *s)
    }
}

/// One dest as a scheduler sees it, read at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The dest's number (its slot).
    pub dest: u32,
    /// Weight, never negative.
    pub weight: u32,
    /// Connections in an active state.
    pub active: u32,
    /// All connections.
    pub total: u32,
    /// Overloaded by its thresholds?
    pub overloaded: bool,
    /// In its service's list? Tables (sh, mh) and caches (lblc) can name one that is not.
    pub available: bool,
}

impl Candidate {
    /// A dest now.
    #[inline(always)]
    pub fn of(number: u32, dest: &Dest) -> Self {
        Self {
            dest: number,
            weight: dest.weight.load(),
            active: dest.active.load(),
            total: dest.total.load(),
            overloaded: dest.overloaded.load() != 0,
            available: dest.available(),
        }
    }
    /// May it get a connection at all?
    #[inline(always)]
    pub fn eligible(&self) -> bool {
        !self.overloaded && self.weight > 0
    }
    /// As tables name it: the number plus 1, so that 0 is left for "none".
    #[inline(always)]
    pub fn word(&self) -> u32 {
        self.dest.wrapping_add(1)
    }
    /// IPVS's load: an active connection weighs 256 inactive ones (the recent rule, 256 A + T).
    #[inline(always)]
    pub fn load(&self) -> u64 {
        ((self.active as u64) << 8) + self.total as u64
    }
}

/// What a scheduler asks of the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// [`crate::addr::Addr::fold`] of the client's address.
    pub source: u32,
    /// [`crate::addr::Addr::fold`] of the packet's destination.
    pub destination: u32,
    /// The client's port, host order, for TCP, UDP and SCTP; else 0.
    pub source_port: u32,
}

/// One service's dests and memory, as schedulers see them. The kernel program and the host engine implement it.
pub trait View {
    /// The service's entry.
    fn service(&self) -> &Service;
    /// What the scheduler remembers.
    fn state(&self) -> &SchedState;
    /// The candidate at place `at` of the dest list (0 = newest). `None` beyond the end.
    fn candidate(&self, at: u32) -> Option<Candidate>;
    /// Word `at` of the scheduler's table: a dest number plus 1, or 0 for an empty slot. `None` beyond the end.
    fn table(&self, at: u32) -> Option<u32>;
    /// lc, wlc, sed, nq: the dest's number plus 1 that the service's tree names, 0 if it names none; [`tree::ABSENT`]
    /// where there is no tree: then the list is walked.
    #[inline(always)]
    fn tree(&self) -> u32 {
        tree::ABSENT
    }
    /// The candidate with this number, in the list or not.
    fn dest(&self, dest: u32) -> Option<Candidate>;
    /// A random number.
    fn random(&self) -> u32;
    /// lblc, lblcr: what this service remembers of the packet's destination address. A view without a cache makes
    /// wlc of both.
    #[inline(always)]
    fn cached(&self) -> Option<&Cached> {
        None
    }
    /// lblc, lblcr: makes that entry for one dest (its number plus 1), as [`Cached::begin`] does, or nothing where there
    /// is no room.
    #[inline(always)]
    fn remember(&self, word: u32) {
        let _ = word;
    }
    /// lblc, lblcr: a clock in seconds.
    #[inline(always)]
    fn seconds(&self) -> u32 {
        0
    }
    /// lblcr: seconds after which a set that has not changed loses a member (`lblcr_expiration`).
    #[inline(always)]
    fn set_expiration(&self) -> u32 {
        86_400
    }
    /// Runs `step` for 0, 1, … `count - 1` until it breaks. All loops go through here: a plain loop over dests is
    /// too much for the verifier, this becomes one `bpf_loop`.
    fn walk<A>(&self, count: u32, acc: &mut A, step: impl Fn(&Self, &mut A, u32) -> ControlFlow<()>);
}

/// The dest for a new connection: its number. `None`: no dest available.
#[inline(always)]
pub fn pick<V: View>(view: &V, ask: &Ask) -> Option<u32> {
    match view.service().scheduler {
        n if n == Scheduler::Rr as u8 => rr::pick(view),
        n if n == Scheduler::Wrr as u8 => wrr::pick(view),
        n if n == Scheduler::Lc as u8 => lc::pick(view),
        n if n == Scheduler::Wlc as u8 => wlc::pick(view),
        n if n == Scheduler::Lblc as u8 => lblc::pick(view),
        n if n == Scheduler::Lblcr as u8 => lblcr::pick(view),
        n if n == Scheduler::Dh as u8 => dh::pick(view, ask),
        n if n == Scheduler::Sh as u8 => sh::pick(view, ask),
        n if n == Scheduler::Sed as u8 => sed::pick(view),
        n if n == Scheduler::Nq as u8 => nq::pick(view),
        n if n == Scheduler::Fo as u8 => fo::pick(view),
        n if n == Scheduler::Ovf as u8 => ovf::pick(view),
        n if n == Scheduler::Mh as u8 => mh::pick(view, ask),
        n if n == Scheduler::Twos as u8 => twos::pick(view),
        _ => None,
    }
}

/// The best candidate so far of a walk over all.
#[repr(C)]
#[derive(Clone, Copy)]
struct Best {
    cost: u64,
    weight: u32,
    /// The dest plus 1; 0 = no candidate yet.
    word: u32,
}

impl Best {
    /// No candidate yet: see [`unknown_zero`].
    #[inline(always)]
    fn none() -> Self {
        let zero = unknown_zero();
        Self { cost: zero as u64, weight: zero, word: zero }
    }

    /// The candidate `better` than all before it, among those that `cost` gives a figure. Ties stay with the earlier
    /// dest: `better` is asked of a later one and has to be strict.
    #[inline(always)]
    fn of<V: View>(
        view: &V,
        cost: impl Fn(&Candidate) -> Option<u64> + Copy,
        better: impl Fn(&Best, &Best) -> bool + Copy,
    ) -> Option<u32> {
        let mut best = Self::none();
        view.walk(view.service().dests, &mut best, move |view, best, at| {
            if let Some(c) = view.candidate(at)
                && let Some(cost) = cost(&c)
            {
                let new = Self { cost, weight: c.weight, word: c.word() };
                if best.word == 0 || better(&new, best) {
                    *best = new;
                }
            }
            ControlFlow::Continue(())
        });
        best.word.checked_sub(1)
    }

    /// A smaller cost per weight, compared by cross-multiplication as IPVS does.
    #[inline(always)]
    fn cheaper_per_weight(&self, old: &Self) -> bool {
        old.cost.wrapping_mul(self.weight as u64) > self.cost.wrapping_mul(old.weight as u64)
    }
}

/// What the tree says, or a walk where there is none.
#[inline(always)]
fn by_tree<V: View>(view: &V, walk: impl FnOnce(&V) -> Option<u32>) -> Option<u32> {
    match view.tree() {
        tree::ABSENT => walk(view),
        word => word.checked_sub(1),
    }
}

/// The dest a table names at `at`, if there is one. A service may have no table yet.
#[inline(always)]
fn at_table<V: View>(view: &V, at: u32) -> Option<Candidate> {
    if at >= view.service().table_len {
        return None;
    }
    view.dest(view.table(at)?.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::model::Model;
    use super::*;
    use rstest::rstest;

    /// The reference sequences: dests added in order A, B, C; every connection stays active.
    #[rstest]
    #[case(Scheduler::Rr, &[1, 1, 1], "CBACBA")]
    #[case(Scheduler::Lc, &[1, 2, 3], "CBACBA")]
    #[case(Scheduler::Wlc, &[1, 2, 3], "CBACBCCBACBC")]
    #[case(Scheduler::Sed, &[1, 2, 3], "CBCCBACBCCBA")]
    #[case(Scheduler::Nq, &[1, 2, 3], "CBACCBCBCCBA")]
    #[case(Scheduler::Wrr, &[1, 2, 3], "CBACCBCBACCBCBA")]
    #[case(Scheduler::Wrr, &[4, 2], "BAABAABAA")]
    #[case(Scheduler::Wrr, &[100, 50, 50], "CBAACBAA")]
    #[case(Scheduler::Wrr, &[5, 3], "BAAABABABAAABABA")]
    #[case(Scheduler::Fo, &[1, 3, 3], "CCCC")]
    #[case(Scheduler::Ovf, &[1, 2, 1], "BBBCCAA--")]
    #[case(Scheduler::None, &[1, 1], "--")]
    fn sequences(#[case] scheduler: Scheduler, #[case] weights: &[u32], #[case] expected: &str) {
        assert_eq!(Model::with(scheduler, 0, weights).letters(expected.len()), expected);
    }

    const LIST: [Scheduler; 8] = [
        Scheduler::Rr,
        Scheduler::Wrr,
        Scheduler::Lc,
        Scheduler::Wlc,
        Scheduler::Sed,
        Scheduler::Nq,
        Scheduler::Fo,
        Scheduler::Ovf,
    ];

    #[test]
    fn weight_0_and_overload_get_nothing() {
        for scheduler in LIST {
            let mut model = Model::with(scheduler, 0, &[100, 100, 100]);
            model.edit(2, 0);
            model.dests[1].overloaded = true;
            assert_eq!(model.letters(3), "AAA", "{scheduler:?}");
            model.dests[0].overloaded = true;
            assert_eq!(model.letters(2), "--", "{scheduler:?}");
            model.dests[1].overloaded = false;
            assert_eq!(model.letters(3), "BBB", "{scheduler:?}");
            model.edit(1, 0);
            model.dests[0].overloaded = false;
            assert_eq!(model.letters(2), "AA", "{scheduler:?}");
            model.edit(0, 0);
            assert_eq!(model.letters(2), "--", "{scheduler:?}");
            let mut empty = Model::new(scheduler, 0);
            assert_eq!(empty.letters(2), "--", "{scheduler:?}");
        }
    }

    #[test]
    fn deleted_and_added_again() {
        for scheduler in LIST {
            let mut model = Model::with(scheduler, 0, &[9, 9]);
            model.delete(1);
            assert_eq!(model.letters(1), "A", "{scheduler:?}");
            model.delete(0);
            assert_eq!(model.letters(1), "-", "{scheduler:?}");
            model.add_again(0, 9);
            model.add_again(1, 9);
            // B is the newest now, and idle; rr's cursor is the head, as all dests were gone.
            assert_eq!(model.letters(1), "B", "{scheduler:?}");
        }
    }

    #[test]
    fn names() {
        for (scheduler, name) in NAMES {
            assert_eq!(Scheduler::from_name(name), Some(scheduler));
            assert_eq!(Scheduler::from_number(scheduler as u8), Some(scheduler));
            assert_eq!(scheduler.name(), name);
        }
        assert_eq!(Scheduler::from_name("wlcx"), None);
    }
}
