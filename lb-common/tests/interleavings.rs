//! The table's protocol (lock, claim, publish, advance, evict, retire) under many orders of its accesses: before each access
//! to a shared word, shuttle decides which thread goes on.
//!
//! `cargo test -p lb-common --features shuttle --test interleavings`. A failure prints the order that led to it, for
//! `shuttle::replay`. Orders of instructions, not of a weak memory's writes: those are left to
//! `tests/concurrency.rs` of lb-tests, on real processors.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::sync::Arc;

use lb_common::addr::{Port, Proto};
use lb_common::conn::{Bucket4, Entry as _, Ways as _, bound, ctl, packets, tag};
use lb_common::dest::Method;
use lb_common::flow::Flow;
use lb_common::host::{self, HostTables, Sizes};
use lb_common::ip::{A4, V4};
use lb_common::reason::Reason;
use lb_common::state::tcp::TcpState;
use lb_common::table::{
    self, Birth, FURTHER, Inserted, Insertion, Place, Wanted, advance, further, hit_at, insert, remove,
    search, template_bits,
};
use lb_common::tables::{Control, Tables as _};

/// Orders tried, by each way of choosing them. `LB_TESTS_FULL=1` tries a hundred times as many.
const ORDERS: usize = 200;
/// Places where a thread is made to wait, where an order is chosen by few of them.
const DEPTH: usize = 3;

const DESTS: u16 = 2;
const WAYS: u16 = 8;
const PROTO: Proto = Proto::TCP;

/// Runs a scene in many orders.
fn in_many_orders(scene: fn()) {
    let full = std::env::var_os("LB_TESTS_FULL").is_some_and(|full| full == "1");
    let orders = if full { 100 * ORDERS } else { ORDERS };
    shuttle::check_random(scene, orders);
    shuttle::check_pct(scene, orders, DEPTH);
}

/// Runs what several CPUs do at once.
fn at_once<const N: usize>(table: &Arc<HostTables>, cpus: [fn(&HostTables); N]) {
    let threads = cpus.map(|cpu| {
        let table = table.clone();
        shuttle::thread::spawn(move || cpu(&table))
    });
    for thread in threads {
        thread.join().expect("a thread");
    }
}

/// One bucket, and all that it may run over into.
fn table() -> Arc<HostTables> {
    let sizes =
        Sizes { buckets: 1, second: FURTHER, dests: 2, services: 1, lists: 16, controls: 64, caches: 1 };
    Arc::new(HostTables::new(&sizes))
}

/// Flows differ in their clients; each has one dest that is right for it.
fn wanted(t: &HostTables, n: u16) -> Wanted<V4> {
    let flow = Flow {
        client: A4(u32::from(n)),
        vaddr: A4(0xffff),
        cport: Port::new(n),
        vport: Port::new(80),
        proto: PROTO,
    };
    Wanted { flow, tag: u32::from(PROTO.0), now: t.now() }
}

const fn dest_of(n: u16) -> u32 {
    (n % DESTS) as u32
}

fn place_of(t: &HostTables, wanted: &Wanted<V4>) -> Place {
    table::place::<V4, _>(t, &wanted.flow.client, wanted.flow.cport, PROTO)
}

fn make(t: &HostTables, n: u16, state: TcpState, control: Control) -> Inserted {
    let wanted = wanted(t, n);
    let active = if state == TcpState::Established { ctl::ACTIVE } else { 0 };
    let controlled = if control == Control::NONE { 0 } else { bound::CONTROLLED };
    let birth = Birth {
        dest: dest_of(n) | (Method::Route as u32) << bound::METHOD_SHIFT | controlled,
        tag: 0,
        ctl: state as u32 | active,
        last: wanted.now,
        packets: packets::NONE + 1,
    };
    insert::<V4, _, true>(t, &Insertion { wanted, birth, place: place_of(t, &wanted), control })
}

/// A client's SYN.
fn syn(t: &HostTables, n: u16) -> Inserted {
    make(t, n, TcpState::SynRecv, Control::NONE)
}

/// A later packet of a client, if its connection is there: it never finds another's.
fn packet(t: &HostTables, n: u16, state: TcpState) {
    let wanted = wanted(t, n);
    if let Some(hit) = search::<V4, _, false>(t, place_of(t, &wanted), &wanted) {
        assert_eq!(hit.dest(), dest_of(n), "flow {n} was sent to another's dest");
        advance(t, &hit, PROTO, state as u8, 0, wanted.now);
    }
}

/// A connection that is reset.
fn reset(t: &HostTables, n: u16) {
    let wanted = wanted(t, n);
    if let Some(hit) = search::<V4, _, false>(t, place_of(t, &wanted), &wanted) {
        remove::<V4, _>(t, &hit, wanted.now);
    }
}

/// All ways taken by half-open connections that have had their second to be answered.
fn filled() -> Arc<HostTables> {
    let t = table();
    (1..=WAYS).for_each(|n| assert!(syn(&t, n).is_new()));
    t.pass_time(2);
    t
}

/// Nobody is at work: each flow is there once and with its own dest, dests count what is there, nothing is locked.
fn consistent(t: &HostTables) {
    let (mut flows, mut total, mut active, mut templates) = (HashSet::new(), [0; 2], [0; 2], [0; 2]);
    for entry in t.buckets4().flat_map(|bucket: &Bucket4| &bucket.0) {
        let word = entry.life().ctl.load();
        assert_ne!(word & ctl::STATUS, ctl::BUSY, "busy for ever");
        if !ctl::is_live(word) {
            continue;
        }
        let (flow, dest) = (entry.flow(), entry.life().dest.load() & bound::DEST);
        let template = entry.tag().load() & tag::TEMPLATE != 0;
        assert!(flows.insert((flow.client.0, template)), "twice: {flow:?}");
        assert_eq!(dest, dest_of(flow.client.0 as u16), "of another: {flow:?}");
        let count = if template { &mut templates } else { &mut total };
        count[dest as usize] += 1;
        active[dest as usize] += u32::from(word & ctl::ACTIVE != 0);
    }
    for number in 0..u32::from(DESTS) {
        let dest = t.dest(number).expect("a dest");
        let counted = (dest.total.load(), dest.active.load(), dest.templates.load());
        let nth = number as usize;
        assert_eq!(counted, (total[nth], active[nth], templates[nth]), "counts of dest {number}");
    }
    let mut word = t.bucket::<V4>(0).expect("the bucket").way(0).tag().load();
    let mut lent = 0;
    for nth in 1..=FURTHER {
        let next = t.overflow::<V4>(further(0, nth));
        assert_eq!(word & tag::LOCK, 0, "locked for ever");
        assert_eq!(word & tag::OVERFLOW != 0, next.is_some(), "further bucket {nth}");
        word = next.map_or(0, |bucket| bucket.way(0).tag().load());
        lent += u32::from(next.is_some());
    }
    assert_eq!(word & tag::OVERFLOW, 0, "no more than that");
    assert_eq!(t.overflow_used::<V4>().map_or(0, |used| used.load()), lent, "further buckets counted");
}

/// After a long time nothing is left, and nothing is counted.
fn ends_empty(t: &HostTables) {
    for _ in 0..4 {
        t.pass_time(10_000);
        host::sweep(t);
    }
    assert_eq!(
        t.buckets4().flat_map(|bucket| &bucket.0).filter(|e| ctl::is_live(e.life().ctl.load())).count(),
        0
    );
    assert_eq!(t.controls(), 0, "notes of templates");
    consistent(t);
}

#[test]
fn a_flow_is_never_there_twice() {
    fn cpu(t: &HostTables) {
        let made = syn(t, 1);
        assert!(made.slot().is_ok() || made.slot() == Err(Reason::BucketBusy as u32), "{made:?}");
        packet(t, 1, TcpState::Established);
    }
    in_many_orders(|| {
        let t = table();
        at_once(&t, [cpu, cpu, cpu]);
        assert_eq!(t.buckets4().flat_map(|b| &b.0).filter(|e| ctl::is_live(e.life().ctl.load())).count(), 1);
        consistent(&t);
        ends_empty(&t);
    });
}

#[test]
fn newcomers_take_half_open_places_and_no_packet_goes_astray() {
    in_many_orders(|| {
        let t = filled();
        at_once(
            &t,
            [
                |t| {
                    syn(t, 21);
                    packet(t, 21, TcpState::Established);
                },
                |t| {
                    syn(t, 22);
                    packet(t, 22, TcpState::Established);
                },
                |t| (1..=3).for_each(|n| packet(t, n, TcpState::SynRecv)),
            ],
        );
        consistent(&t);
        ends_empty(&t);
    });
}

#[test]
fn who_is_established_at_the_last_moment_stays_or_was_gone_before() {
    in_many_orders(|| {
        let t = filled();
        at_once(
            &t,
            [
                |t| (1..=4).for_each(|n| packet(t, n, TcpState::Established)),
                |t| (5..=8).for_each(|n| packet(t, n, TcpState::Established)),
                |t| (21..=22).for_each(|n| _ = syn(t, n)),
            ],
        );
        consistent(&t);
        ends_empty(&t);
    });
}

#[test]
fn packets_resets_and_the_sweep_agree_on_who_has_gone() {
    in_many_orders(|| {
        let t = table();
        (1..=3).for_each(|n| {
            _ = make(&t, n, TcpState::Established, Control::NONE);
        });
        t.pass_time(900 - 1);
        at_once(
            &t,
            [
                |t| {
                    packet(t, 1, TcpState::CloseWait);
                    reset(t, 2);
                },
                |t| {
                    reset(t, 2);
                    syn(t, 3);
                },
                |t| {
                    t.pass_time(1);
                    host::sweep(t);
                },
            ],
        );
        consistent(&t);
        ends_empty(&t);
    });
}

#[test]
fn a_second_bucket_is_lent_and_given_back() {
    in_many_orders(|| {
        let t = table();
        (1..=WAYS).for_each(|n| {
            _ = make(&t, n, TcpState::Established, Control::NONE);
        });
        assert!(syn(&t, 9).is_new());
        at_once(
            &t,
            [
                |t| reset(t, 9),
                |t| {
                    _ = syn(t, 10);
                    packet(t, 10, TcpState::Established);
                },
                |t| {
                    _ = host::sweep(t);
                },
            ],
        );
        consistent(&t);
        ends_empty(&t);
    });
}

#[test]
fn a_third_bucket_is_lent_and_given_back_before_the_second() {
    in_many_orders(|| {
        let t = table();
        (1..=2 * WAYS).for_each(|n| {
            _ = make(&t, n, TcpState::Established, Control::NONE);
        });
        assert!(syn(&t, 17).is_new());
        // Both further ones may go, and the first has room: who is at it may keep the one from going, and not the other.
        (8..=17).for_each(|n| reset(&t, n));
        at_once(
            &t,
            [
                |t| {
                    for n in 18..=20 {
                        _ = syn(t, n);
                        reset(t, n);
                    }
                },
                |t| {
                    _ = host::sweep(t);
                },
            ],
        );
        consistent(&t);
        ends_empty(&t);
    });
}

#[test]
fn a_template_outlives_its_connections() {
    const TEMPLATE: u16 = 100;
    fn template(t: &HostTables) -> Control {
        let mut wanted = wanted(t, TEMPLATE);
        wanted.tag |= tag::TEMPLATE;
        let (timeout, high) = template_bits(10);
        let birth = Birth {
            dest: dest_of(TEMPLATE) | (Method::Route as u32) << bound::METHOD_SHIFT,
            tag: timeout,
            ctl: 0,
            last: wanted.now.wrapping_add(t.settings().ticks(10)),
            packets: high,
        };
        let place = place_of(t, &wanted);
        let made = insert::<V4, _, true>(t, &Insertion { wanted, birth, place, control: Control::NONE });
        let slot = made.slot().expect("a template");
        let hit = hit_at::<V4, _>(t, slot).expect("the template");
        Control { template: slot, identity: hit.ctl & ctl::IDENTITY }
    }
    /// Through whatever template is in the first slot it looks in.
    fn through(t: &HostTables, n: u16) {
        let mut key = wanted(t, TEMPLATE);
        key.tag |= tag::TEMPLATE;
        if let Some(hit) = search::<V4, _, false>(t, place_of(t, &key), &key) {
            let control = Control { template: hit.slot, identity: hit.ctl & ctl::IDENTITY };
            _ = make(t, n, TcpState::SynRecv, control);
        }
    }
    in_many_orders(|| {
        let t = table();
        let control = template(&t);
        _ = make(&t, 1, TcpState::SynRecv, control);
        t.pass_time(9);
        at_once(
            &t,
            [
                |t| {
                    through(t, 2);
                    reset(t, 1);
                },
                |t| {
                    through(t, 4);
                    reset(t, 4);
                },
                |t| {
                    t.pass_time(1);
                    host::sweep(t);
                },
            ],
        );
        consistent(&t);
        ends_empty(&t);
    });
}
