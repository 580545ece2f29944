//! lc, wlc, sed and nq of many dests without a walk over all: a tournament.
//!
//! The dests of the list are the leaves of a binary tree; each inner node holds the better of its two children, so the
//! root is the dest a walk would find. When a connection begins, its dest gets its new cost and plays its matches again
//! upwards, until one ends as before ([`play`]). A dest whose counts change otherwise, or while another CPU is at the tree, is
//! put in the tree's queue, unless it is there already ([`touch`]). A pick empties the queue first, each dest in it playing
//! its matches ([`winner`]). So a pick costs what has changed since the last one, by the logarithm of the number of dests.
//!
//! The tree is a region of the `lists` map, in the place of other schedulers' tables, of `n` dests:
//!
//! | words | what |
//! |---|---|
//! | 0 | [`OPEN`], [`HELD`] by a CPU, or [`CLOSED`] |
//! | 1, 2 | the queue's end, where dests are put in, and its beginning; both only ever grow |
//! | 3, 4 | `n`; places of the queue less 1, a mask |
//! | 5 | the scheduler's number |
//! | 4 + 2k, for k from 1 to 2n - 1 | node k: cost, then weight (upper half) and place in the list. 1 is the root, 2k and 2k + 1 are k's children, n + i is the leaf of place i |
//! | 4n + 4 + 2i | place i's record: dest number and [`QUEUED`], then the distance from word 0 to here |
//! | 6n + 4 + i | the queue: a place plus 1; 0 = nothing yet |
//!
//! Who may change what: the queue's end, [`QUEUED`] and an empty place of the queue belong to whoever puts a dest in; all
//! else to who holds the tree. While one does, another CPU's pick takes the root as it is.
//!
//! A new tree is made with every dest in its queue, and closed: until the dests know their new records the service is
//! walked. Then it is opened. Whoever is killed in between leaves a tree that nobody uses.

use core::ops::ControlFlow;

use super::{BuildDest, Candidate, Scheduler, sed};
use crate::cell::{Cell64, unknown_zero};
use crate::dest::Dest;
use crate::tables::Tables;

/// A service of so many dests, or fewer, is walked: that costs less.
pub const WALKED: usize = 15;

/// Word 0: at rest.
pub const OPEN: u64 = 0;
/// Word 0: a CPU is changing the nodes.
pub const HELD: u64 = 1;
/// Word 0: not in use yet.
pub const CLOSED: u64 = 2;

/// In a record: the dest is in the queue. Dest numbers are smaller.
const QUEUED: u32 = 1 << 31;

/// [`winner`] of a service that has to be walked.
pub const ABSENT: u32 = u32::MAX;

/// Levels of the largest tree: 2^17 dests.
const LEVELS: u32 = 18;

const END: u32 = 1;
const BEGINNING: u32 = 2;
const COUNT: u32 = 3;
const MASK: u32 = 4;
const SCHEDULER: u32 = 5;
const NODES: u32 = 4;

#[inline(always)]
const fn records(n: u32) -> u32 {
    NODES.wrapping_add(n.wrapping_mul(4))
}

#[inline(always)]
const fn queue(n: u32) -> u32 {
    records(n).wrapping_add(n.wrapping_mul(2))
}

/// Words of the tree of so many dests; 0 where there is none.
pub const fn len(scheduler: Scheduler, dests: usize) -> usize {
    let has_one = matches!(
        scheduler,
        Scheduler::Lc | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq | Scheduler::Lblc | Scheduler::Lblcr
    );
    if has_one && dests > WALKED { queue(dests as u32) as usize + dests.next_power_of_two() } else { 0 }
}

/// The record of place `place` in a tree of `n` dests whose word 0 is `base`: what the dest has to know
/// ([`Dest::record`]).
pub const fn record(base: u32, n: u32, place: u32) -> u32 {
    base + records(n) + 2 * place
}

/// Writes a new tree: closed, everything in the queue.
pub fn build(scheduler: Scheduler, dests: &[BuildDest], words: &mut [u32]) {
    let n = dests.len() as u32;
    let places = dests.len().next_power_of_two() as u32;
    words.fill(0);
    let mut put = |at: u32, word: u32| {
        if let Some(cell) = words.get_mut(at as usize) {
            *cell = word;
        }
    };
    put(0, CLOSED as u32);
    put(END, n);
    put(COUNT, n);
    put(MASK, places - 1);
    put(SCHEDULER, scheduler as u32);
    for (dest, place) in dests.iter().zip(0..n) {
        let at = records(n) + 2 * place;
        put(at, dest.dest | QUEUED);
        put(at + 1, at);
        put(queue(n) + place, place + 1);
    }
}

/// The dest's connections, or its overload flag, have changed. `record`: [`Dest::record`], not 0.
#[inline(always)]
pub fn touch<T: Tables>(t: &T, record: u32) {
    let Some(cell) = t.list_cell(record) else { return };
    let word = cell.load();
    if word as u32 & QUEUED != 0 || !cell.compare_exchange(word, word | QUEUED as u64) {
        return;
    }
    let Some(distance) = t.list_cell(record.wrapping_add(1)) else { return };
    let distance = distance.load() as u32;
    let tree = Tree { t, base: record.wrapping_sub(distance) };
    let (n, mask) = (tree.word(COUNT) as u32, tree.word(MASK) as u32);
    let Some(end) = tree.cell(END) else { return };
    let at = end.fetch_add(1) as u32 & mask;
    if let Some(free) = tree.cell(queue(n).wrapping_add(at)) {
        free.swap((distance.wrapping_sub(records(n)) / 2 + 1) as u64);
    }
}

/// As [`touch`], after a connection has begun: if nobody else is at the tree, the dest plays its matches at once. That costs
/// less than queueing for the next pick, which then may find nothing to do.
#[inline(always)]
pub fn play<T: Tables>(t: &T, record: u32) {
    let (Some(cell), Some(distance)) = (t.list_cell(record), t.list_cell(record.wrapping_add(1))) else {
        return;
    };
    let word = cell.load() as u32;
    if word & QUEUED != 0 {
        return;
    }
    let distance = distance.load() as u32;
    let tree = Tree { t, base: record.wrapping_sub(distance) };
    let Some(lock) = tree.cell(0) else { return };
    if !lock.compare_exchange(OPEN, HELD) {
        return touch(t, record);
    }
    let n = tree.word(COUNT) as u32;
    let place = distance.wrapping_sub(records(n)) / 2;
    tree.cost(n, place, word, tree.word(SCHEDULER) as u32);
    climb(t, tree.base, n.wrapping_add(place));
    lock.swap(OPEN);
}

/// The dest a new connection goes to: its number plus 1, 0 if there is none; [`ABSENT`] while the tree is closed, or open
/// and nobody has played its matches yet.
/// `base`: its word 0.
#[inline(always)]
pub fn winner<T: Tables>(t: &T, base: u32) -> u32 {
    let tree = Tree { t, base };
    let Some(lock) = tree.cell(0) else { return ABSENT };
    if lock.load_acquire() == CLOSED {
        return ABSENT;
    }
    if tree.word(END) != tree.word(BEGINNING) && lock.compare_exchange(OPEN, HELD) {
        tree.catch_up();
        lock.swap(OPEN);
    }
    // The cost first: who plays the match writes it first.
    let cost = tree.cell(node_at(1)).map_or(0, Cell64::load_acquire);
    let root = tree.word(node_at(1).wrapping_add(1));
    if root >> 32 == 0 {
        // What lost to everything costs 1. A root of nothing has not been played yet: another CPU has the new tree.
        return if cost == 0 { ABSENT } else { 0 };
    }
    let record = records(tree.word(COUNT) as u32).wrapping_add((root as u32).wrapping_mul(2));
    (tree.word(record) as u32 & !QUEUED).wrapping_add(1)
}

/// The word where a node begins.
#[inline(always)]
const fn node_at(k: u32) -> u32 {
    NODES.wrapping_add(k.wrapping_mul(2))
}

/// A dest at its match: cost, and weight (upper half) with place. What cannot be picked has weight 0 and costs 1: that
/// loses to everything.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Node {
    cost: u64,
    weight_place: u64,
}

impl Node {
    /// Of a dest, as its scheduler sees it.
    #[inline(always)]
    fn of(dest: &Dest, place: u32, scheduler: u32) -> Self {
        let c = Candidate::of(0, dest);
        let (cost, weight) = if !c.eligible() {
            (1, 0)
        } else if scheduler == Scheduler::Lc as u32 {
            (c.load(), 1)
        } else if scheduler == Scheduler::Nq as u32 && c.active == 0 {
            // As good as anything can be, so that the first idle one wins, however light.
            (0, c.weight)
        } else if scheduler == Scheduler::Sed as u32 || scheduler == Scheduler::Nq as u32 {
            (sed::delay(&c), c.weight)
        } else {
            (c.load(), c.weight)
        };
        Self { cost, weight_place: (weight as u64) << 32 | place as u64 }
    }

    /// Does it win against `other`? A tie is the earlier place's, as in a walk.
    #[inline(always)]
    fn beats(&self, other: &Self) -> bool {
        let ours = self.cost.wrapping_mul(other.weight_place >> 32);
        let theirs = other.cost.wrapping_mul(self.weight_place >> 32);
        ours < theirs || ours == theirs && (self.weight_place as u32) < (other.weight_place as u32)
    }
}

struct Tree<'a, T: Tables> {
    t: &'a T,
    base: u32,
}

/// A pick on its way through the queue.
#[repr(C, align(8))]
struct Drain {
    /// Where in the queue it is: only ever grows.
    at: u32,
    base: u32,
    n: u32,
    mask: u32,
    scheduler: u32,
    /// So many have changed that all matches are played anew.
    all: u32,
}

impl<'a, T: Tables> Tree<'a, T> {
    #[inline(always)]
    fn cell(&self, at: u32) -> Option<&'a Cell64> {
        self.t.list_cell(self.base.wrapping_add(at))
    }
    /// 0 where there is no such word, which cannot be.
    #[inline(always)]
    fn word(&self, at: u32) -> u64 {
        self.cell(at).map_or(0, Cell64::load)
    }
    #[inline(always)]
    fn set(&self, at: u32, word: u64) {
        if let Some(cell) = self.cell(at) {
            cell.store(word);
        }
    }
    #[inline(always)]
    fn node(&self, k: u32) -> Node {
        let at = node_at(k);
        Node { cost: self.word(at), weight_place: self.word(at.wrapping_add(1)) }
    }
    #[inline(always)]
    fn set_node(&self, k: u32, node: Node) {
        let at = node_at(k);
        self.set(at, node.cost);
        self.set(at.wrapping_add(1), node.weight_place);
    }

    /// Empties the queue.
    #[inline(always)]
    fn catch_up(&self) {
        let from = self.word(BEGINNING);
        let waiting = self.word(END).wrapping_sub(from) as u32;
        let scheduler = self.word(SCHEDULER) as u32;
        let (n, mask) = (self.word(COUNT) as u32, self.word(MASK) as u32);
        let all = unknown_zero() + (waiting > n / 4) as u32;
        let mut drain =
            Drain { at: unknown_zero().wrapping_add(from as u32), base: self.base, n, mask, scheduler, all };
        self.t.repeat(waiting, &mut drain, |t, drain, _| {
            let tree = Tree { t, base: drain.base };
            let place = tree.pop(drain);
            if place == 0 {
                // Somebody has taken a place in the queue and not written it yet: next time.
                return ControlFlow::Break(());
            }
            drain.at = drain.at.wrapping_add(1);
            tree.renew(drain.n, place - 1, drain.scheduler);
            if drain.all == 0 {
                t.tree_climb(drain.base, drain.n.wrapping_add(place - 1));
            }
            ControlFlow::Continue(())
        });
        let popped = drain.at.wrapping_sub(from as u32);
        self.set(BEGINNING, from.wrapping_add(popped as u64));
        if all != 0 {
            self.replay(n);
        }
    }

    /// The next place in the queue plus 1; 0 if it is not written yet.
    #[inline(always)]
    fn pop(&self, drain: &Drain) -> u32 {
        let at = drain.at & drain.mask;
        let Some(cell) = self.cell(queue(drain.n).wrapping_add(at)) else { return 0 };
        let place = cell.load_acquire() as u32;
        if place == 0 || place > drain.n {
            return 0;
        }
        cell.store(0);
        place
    }

    /// Reads a dest's cost anew. From here on a change puts it in the queue again.
    #[inline(always)]
    fn renew(&self, n: u32, place: u32, scheduler: u32) {
        let Some(record) = self.cell(records(n).wrapping_add(place.wrapping_mul(2))) else { return };
        let number = record.load() as u32 & !QUEUED;
        record.swap(number as u64);
        self.cost(n, place, number, scheduler);
    }

    /// The leaf of dest `number`, as it is now.
    #[inline(always)]
    fn cost(&self, n: u32, place: u32, number: u32, scheduler: u32) {
        if let Some(dest) = self.t.dest(number) {
            self.set_node(n.wrapping_add(place), Node::of(dest, place, scheduler));
        }
    }

    /// The match at an inner node. False if it ends as before.
    #[inline(always)]
    fn play(&self, k: u32) -> bool {
        let (left, right) = (self.node(k.wrapping_mul(2)), self.node(k.wrapping_mul(2).wrapping_add(1)));
        self.won_by(k, if right.beats(&left) { right } else { left })
    }

    /// Notes who has won the match at a node. False: the same as before. Another place needs no comparing of costs.
    #[inline(always)]
    fn won_by(&self, k: u32, best: Node) -> bool {
        let at = node_at(k);
        if self.word(at.wrapping_add(1)) == best.weight_place && self.word(at) == best.cost {
            return false;
        }
        self.set_node(k, best);
        true
    }

    /// All matches, from the leaves up.
    #[inline(always)]
    fn replay(&self, n: u32) {
        let mut last = (self.base, n);
        self.t.repeat(n.wrapping_sub(1), &mut last, |t, (base, n), i| {
            Tree { t, base: *base }.play(n.wrapping_sub(1).wrapping_sub(i));
            ControlFlow::Continue(())
        });
    }
}

/// The matches from leaf `k` up, as far as they end differently.
#[inline(always)]
pub fn climb<T: Tables>(t: &T, base: u32, k: u32) {
    let tree = Tree { t, base };
    let (mut at, mut best) = (k, tree.node(k));
    let mut level = 0;
    while level < LEVELS {
        if at <= 1 {
            return;
        }
        let other = tree.node(at ^ 1);
        if other.beats(&best) {
            best = other;
        }
        at >>= 1;
        if !tree.won_by(at, best) {
            return;
        }
        level += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account;
    use crate::addr::{Addr, Family, Port, Proto};
    use crate::dest::Method;
    use crate::host::rules::{Memory, NewDest, NewService};
    use crate::host::{HostTables, Rules, Sizes};
    use crate::sched::{Ask, View};
    use crate::service::{SchedState, Service, ServiceKey};
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::vec::Vec;

    const VIP: Addr = Addr::v4([10, 9, 0, 1]);
    const TREES: [Scheduler; 4] = [Scheduler::Lc, Scheduler::Wlc, Scheduler::Sed, Scheduler::Nq];

    struct World {
        tables: HostTables,
        rules: Rules,
    }

    /// The service of a world, with its tree or without.
    struct Seen<'a> {
        tables: &'a HostTables,
        service: Service,
        walks: bool,
    }

    fn new_dest(host: u32, weight: u32) -> NewDest {
        let [_, _, high, low] = host.to_be_bytes();
        let dest = NewDest::new(Family::V4, Addr::v4([10, 2, high, low]), 80, Method::Route);
        NewDest { weight, ..dest }
    }

    impl World {
        fn new(scheduler: Scheduler, dests: u32, weight: impl Fn(u32) -> u32) -> Self {
            let tables = HostTables::new(&Sizes { dests: 512, lists: 1 << 18, ..Sizes::default() });
            let mut rules = Rules::new();
            rules.add_service(&tables, &NewService::new(Family::V4, Proto::TCP, VIP, 80, scheduler));
            let new: Vec<NewDest> = (0..dests).map(|host| new_dest(host, weight(host))).collect();
            rules.add_dests(&tables, 0, &new);
            Self { tables, rules }
        }
        fn see(&self, walks: bool) -> Seen<'_> {
            let key = ServiceKey::addr(Family::V4, Proto::TCP, VIP, Port::new(80));
            Seen { tables: &self.tables, service: *self.tables.service(&key).unwrap(), walks }
        }
        fn pick(&self) -> Option<u32> {
            super::super::pick(&self.see(false), &Ask::default())
        }
        fn walk(&self) -> Option<u32> {
            super::super::pick(&self.see(true), &Ask::default())
        }
        fn dest(&self, number: u32) -> &Dest {
            Memory::dest(&self.tables, number).unwrap()
        }
        fn bind(&self, number: u32, active: bool) {
            let dest = self.dest(number);
            account::bind(dest);
            if active {
                account::set_active(dest, true);
            }
            account::began(&self.tables, dest);
        }
        fn unbind(&self, number: u32, active: bool) {
            account::unbind(self.dest(number), active, 0);
            account::changed(&self.tables, self.dest(number));
        }
    }

    impl View for Seen<'_> {
        fn service(&self) -> &Service {
            &self.service
        }
        fn state(&self) -> &SchedState {
            Memory::sched(self.tables, 0).unwrap()
        }
        fn candidate(&self, at: u32) -> Option<Candidate> {
            self.dest(Tables::list(self.tables, self.service.list + at)?)
        }
        fn table(&self, _: u32) -> Option<u32> {
            None
        }
        fn tree(&self) -> u32 {
            if self.walks {
                return ABSENT;
            }
            assert!(self.service.table_len != 0, "there is a tree");
            let lock = Memory::list(self.tables, self.service.table).unwrap();
            assert!(lock.load() != CLOSED, "it is open");
            winner(self.tables, self.service.table)
        }
        fn dest(&self, dest: u32) -> Option<Candidate> {
            Some(Candidate::of(dest, Memory::dest(self.tables, dest)?))
        }
        fn random(&self) -> u32 {
            0
        }
        fn walk<A>(&self, count: u32, acc: &mut A, step: impl Fn(&Self, &mut A, u32) -> ControlFlow<()>) {
            for i in 0..count {
                if step(self, acc, i).is_break() {
                    return;
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        /// Picks follow each other, each becoming a connection.
        Connect(u32, bool),
        /// Several connections of any dests end, active ones first.
        End(Vec<usize>),
        /// A connection of a dest is no longer active.
        Calm(usize),
        Weigh(usize, u32),
        Limit(usize, u32),
        Add(u32),
        Delete(usize),
        Revive,
    }

    fn act() -> impl Strategy<Value = Act> {
        let dest = || 0..400_usize;
        prop_oneof![
            8 => (1..20_u32, any::<bool>()).prop_map(|(n, active)| Act::Connect(n, active)),
            4 => prop::collection::vec(dest(), 1..80).prop_map(Act::End),
            3 => dest().prop_map(Act::Calm),
            2 => (dest(), 0..4_u32).prop_map(|(dest, weight)| Act::Weigh(dest, weight)),
            2 => (dest(), 0..4_u32).prop_map(|(dest, upper)| Act::Limit(dest, upper)),
            1 => (0..5_u32).prop_map(Act::Add),
            1 => dest().prop_map(Act::Delete),
            1 => Just(Act::Revive),
        ]
    }

    /// Takes a step; the numbers of all dests ever made are below `made`.
    fn take(world: &mut World, act: &Act, made: &mut u32, gone: &mut Vec<u32>) {
        let nth = |at: &usize, made: u32| (*at as u32) % made;
        match act {
            Act::Connect(count, active) => {
                for _ in 0..*count {
                    let wanted = world.walk();
                    assert_eq!(world.pick(), wanted);
                    wanted.into_iter().for_each(|number| world.bind(number, *active));
                }
            }
            Act::End(dests) => dests.iter().map(|at| nth(at, *made)).for_each(|number| {
                let dest = world.dest(number);
                if dest.total.load() > 0 {
                    world.unbind(number, dest.active.load() > 0);
                }
            }),
            Act::Calm(at) => {
                let dest = world.dest(nth(at, *made));
                if dest.active.load() > 0 {
                    account::set_active(dest, false);
                    account::changed(&world.tables, dest);
                }
            }
            Act::Weigh(at, weight) => {
                let number = nth(at, *made);
                if !gone.contains(&number) {
                    world.rules.set_weight(&world.tables, number, *weight);
                }
            }
            Act::Limit(at, upper) => {
                // As the control side does it: published with the service.
                let number = nth(at, *made);
                if !gone.contains(&number) {
                    let dest = world.dest(number);
                    dest.upper.store(*upper);
                    dest.overloaded.store(u32::from(*upper != 0 && dest.total.load() >= *upper));
                    let weight = dest.weight.load();
                    world.rules.set_weight(&world.tables, number, weight);
                }
            }
            Act::Add(weight) => {
                let number = world.rules.add_dest(&world.tables, 0, &new_dest(*made, *weight));
                assert_eq!(number, *made);
                *made += 1;
            }
            Act::Delete(at) => {
                let number = nth(at, *made);
                // Enough stay for a tree.
                if !gone.contains(&number) && *made as usize - gone.len() > WALKED + 1 {
                    world.rules.delete_dest(&world.tables, number);
                    gone.push(number);
                }
            }
            Act::Revive => {
                if let Some(number) = gone.pop() {
                    world.rules.add_dest(&world.tables, 0, &new_dest(number, 2));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn equals_the_walk(
            dests in WALKED as u32 + 1..140,
            weights in prop::collection::vec(0..4_u32, 140),
            acts in prop::collection::vec(act(), 1..40),
        ) {
            for scheduler in TREES {
                let mut world = World::new(scheduler, dests, |n| weights[n as usize]);
                let (mut made, mut gone) = (dests, Vec::new());
                for act in &acts {
                    take(&mut world, act, &mut made, &mut gone);
                    prop_assert_eq!(world.pick(), world.walk(), "{:?} after {:?}", scheduler, act);
                }
            }
        }
    }

    #[test]
    fn a_few_dests_have_no_tree() {
        assert_eq!(len(Scheduler::Wlc, WALKED), 0);
        assert_eq!(len(Scheduler::Rr, 1000), 0);
        assert_eq!(len(Scheduler::Wlc, 49), 6 * 49 + 4 + 64);
        let world = World::new(Scheduler::Wlc, WALKED as u32, |_| 1);
        assert_eq!((world.dest(3).record.load(), world.see(false).service.table_len), (0, 0));
    }

    #[test]
    fn a_closed_tree_is_walked() {
        let world = World::new(Scheduler::Wlc, 50, |_| 1);
        let service = world.see(false).service;
        Memory::list(&world.tables, service.table).unwrap().store(CLOSED);
        assert_eq!(winner(&world.tables, service.table), ABSENT);
    }

    #[test]
    fn a_held_tree_says_what_it_knew() {
        let world = World::new(Scheduler::Wlc, 50, |_| 1);
        let lock = Memory::list(&world.tables, world.see(false).service.table).unwrap();
        assert_eq!(world.pick(), Some(49));
        lock.store(HELD);
        world.bind(49, true);
        assert_eq!(world.pick(), Some(49));
        lock.store(OPEN);
        assert_eq!(world.pick(), Some(48));
    }

    #[test]
    fn a_connection_that_begins_leaves_nothing_for_the_next_pick() {
        for scheduler in TREES {
            let world = World::new(scheduler, 50, |_| 1);
            assert_eq!(world.pick(), Some(49));
            world.bind(49, true);
            let tree = Tree { t: &world.tables, base: world.see(false).service.table };
            assert_eq!(tree.word(END), tree.word(BEGINNING));
            assert_eq!((tree.word(0), world.pick()), (OPEN, Some(48)));
        }
    }

    #[test]
    fn a_new_tree_that_another_cpu_holds_is_walked() {
        for scheduler in TREES {
            let world = World::new(scheduler, 50, |_| 1);
            let service = world.see(false).service;
            let lock = Memory::list(&world.tables, service.table).unwrap();
            lock.store(HELD);
            assert_eq!(winner(&world.tables, service.table), ABSENT);
            assert!(world.pick().is_some());
            lock.store(OPEN);
            assert_ne!(winner(&world.tables, service.table), ABSENT);
        }
    }

    #[test]
    fn a_tree_without_any_dest_to_pick_says_so() {
        for scheduler in TREES {
            let world = World::new(scheduler, 50, |_| 0);
            let service = world.see(false).service;
            assert_eq!(winner(&world.tables, service.table), 0);
        }
    }

    /// Connections come and go on several CPUs at once, while another one edits: nothing is lost, so that in the end
    /// the tree knows what a walk finds.
    #[test]
    fn no_change_is_lost_between_cpus() {
        for (scheduler, seed) in TREES.into_iter().zip(1_u32..) {
            let mut world = World::new(scheduler, 100, |n| 1 + n % 3);
            for round in 0..20 {
                let done = AtomicBool::new(false);
                thread::scope(|scope| {
                    let workers: Vec<_> = (0..3_u32)
                        .map(|cpu| {
                            let world = &world;
                            scope.spawn(move || work(world, seed * 1000 + round * 10 + cpu))
                        })
                        .collect();
                    scope.spawn(|| {
                        while !done.load(Ordering::Relaxed) {
                            world.pick();
                        }
                    });
                    let all = workers.into_iter().all(|worker| worker.join().is_ok());
                    done.store(true, Ordering::Relaxed);
                    assert!(all);
                });
                assert_eq!(world.pick(), world.walk(), "{scheduler:?}");
                let weight = world.dest(round).weight.load();
                world.rules.set_weight(&world.tables, round, weight % 3 + 1);
                assert_eq!(world.pick(), world.walk(), "{scheduler:?}");
            }
            // Every count that went up came down again.
            assert!((0..100).all(|n| world.dest(n).total.load() == 0 && world.dest(n).active.load() == 0));
        }
    }

    /// Makes connections, and ends them all in some order.
    fn work(world: &World, seed: u32) {
        let mut held = Vec::new();
        let mut dice = seed;
        for _ in 0..400 {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if dice >> 31 == 0 || held.is_empty() {
                let number = world.pick().unwrap();
                world.bind(number, dice >> 30 & 1 == 0);
                held.push((number, dice >> 30 & 1 == 0));
            } else {
                let (number, active) = held.swap_remove(dice as usize % held.len());
                world.unbind(number, active);
            }
        }
        held.into_iter().for_each(|(number, active)| world.unbind(number, active));
    }
}
