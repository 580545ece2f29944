//! The schedulers through the whole pass: who gets each of a row of new connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::{Memory as _, NewDest, Rules, know_all};
use lb_common::mark::MarkRule;
use lb_common::pieces::{DESTS, LISTS};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::service::flags;
use lb_tests::bpf;
use lb_tests::case::{
    Engine, FAMILIES, Nic, Outcome, Way, by_mark, client, dest, from_client, service, set_up, vip,
};
use lb_tests::host::Host;
use lb_tests::packets::{Packet, tcp};

lb_tests::tests!(
    reference_sequences,
    weights_change_on_the_way,
    hashes_agree_between_engines,
    an_address_stays_where_it_was,
    a_set_of_servers_grows_and_shrinks,
    many_dests,
    across_the_edge_of_a_piece,
);

/// Hosts by letter: A is the dest added first.
const HOSTS: [u8; 6] = [11, 12, 13, 21, 22, 23];

fn dests(family: Family, weights: &[u32]) -> Vec<NewDest> {
    let with = |(host, weight): (&u8, &u32)| NewDest {
        weight: *weight,
        ..dest(Nic::Back, family, *host, 80, Method::Route)
    };
    HOSTS.iter().zip(weights).map(with).collect()
}

/// A SYN of the `n`th client connection; where it went, as a letter. - is an ICMP error.
fn connect<E: Engine>(engine: &mut E, family: Family, n: u32) -> Result<char> {
    connect_to(engine, family, vip(family), n)
}

fn connect_to<E: Engine>(engine: &mut E, family: Family, to: IpAddr, n: u32) -> Result<char> {
    send(engine, family, to, n, tcp::SYN)
}

/// A packet of the `n`th client connection; where it went, as [`connect`].
fn send<E: Engine>(engine: &mut E, family: Family, to: IpAddr, n: u32, flags: u8) -> Result<char> {
    let from = (client(family, 1 + (n % 200) as u8), 2000 + n as u16);
    let frame = from_client(Packet::tcp(from, (to, 80), flags, b"")).bytes();
    let outcome = engine.run(Nic::Front, &frame)?;
    match outcome.way {
        Way::Transmit => Ok('-'),
        Way::Redirect => {
            let host = outcome.frame[5];
            let at = HOSTS.iter().position(|one| *one == host).context("a host nobody knows")?;
            Ok((b'A' + at as u8) as char)
        }
        other => anyhow::bail!("{other:?}: {:?}", outcome.reason),
    }
}

fn letters<E: Engine>(engine: &mut E, family: Family, from: u32, count: usize) -> Result<String> {
    (0..count as u32).map(|n| connect(engine, family, from + n)).collect()
}

/// ipvs.md 3: dests are asked newest first.
fn sequences() -> Vec<(Scheduler, Vec<u32>, &'static str)> {
    vec![
        (Scheduler::Rr, vec![1, 1, 1], "CBACBACBA"),
        (Scheduler::Rr, vec![1, 0, 5], "CACACA"),
        (Scheduler::Lc, vec![1, 2, 3], "CBACBA"),
        (Scheduler::Wlc, vec![1, 2, 3], "CBACBCCBACBC"),
        (Scheduler::Sed, vec![1, 2, 3], "CBCCBACBCCBA"),
        (Scheduler::Nq, vec![1, 2, 3], "CBACCBCBCCBA"),
        (Scheduler::Wrr, vec![1, 2, 3], "CBACCBCBACCBCBA"),
        (Scheduler::Wrr, vec![4, 2], "BAABAABAA"),
        (Scheduler::Wrr, vec![100, 50, 50], "CBAACBAA"),
        (Scheduler::Wrr, vec![5, 3], "BAAABABABAAABABA"),
        (Scheduler::Fo, vec![1, 3, 2], "BBBB"),
        (Scheduler::Ovf, vec![1, 3, 2], "BBBBCCCAA-"),
        (Scheduler::Lblc, vec![4, 4], "BBBBBAAAAAAA"),
        (Scheduler::Lblcr, vec![2, 2, 2], "CCCBBBAAAABCA"),
        (Scheduler::None, vec![1], "--"),
    ]
}

fn run_sequences<E: Engine>(engine: &mut E, begin: fn() -> Rules) -> Result<()> {
    for family in FAMILIES {
        for (scheduler, weights, wanted) in sequences() {
            engine.reset()?;
            let new = service(family, Proto::TCP, 80, scheduler);
            set_up(&mut begin(), engine.memory(), &[(new, dests(family, &weights))]);
            let got = letters(engine, family, 0, wanted.len())?;
            ensure!(
                got == wanted,
                "{} {family:?} {scheduler:?} {weights:?}: {got} instead of {wanted}",
                E::NAME
            );
        }
    }
    Ok(())
}

fn reference_sequences() -> Result<()> {
    run_sequences(&mut Host::new(), Rules::new)?;
    bpf::with(|program| run_sequences(program, Rules::new))
}

fn run_changes<E: Engine>(engine: &mut E) -> Result<String> {
    let family = Family::V4;
    engine.reset()?;
    let mut rules = Rules::new();
    let new = service(family, Proto::TCP, 80, Scheduler::Wrr);
    set_up(&mut rules, engine.memory(), &[(new, dests(family, &[1, 2, 3]))]);
    let mut all = letters(engine, family, 0, 4)?;
    rules.set_weight(engine.memory(), 2, 0);
    all += &letters(engine, family, 10, 6)?;
    rules.delete_dest(engine.memory(), 1);
    all += &letters(engine, family, 20, 3)?;
    rules.set_weight(engine.memory(), 0, 0);
    all += &letters(engine, family, 30, 2)?;
    rules.set_weight(engine.memory(), 2, 1);
    rules.add_dest(engine.memory(), 0, &dests(family, &[1, 2])[1]);
    all += &letters(engine, family, 40, 6)?;
    Ok(all)
}

fn weights_change_on_the_way() -> Result<()> {
    let host = run_changes(&mut Host::new())?;
    let tail = &host[10..15];
    ensure!(tail == "AAA--", "with one dest left, then none: {host}");
    ensure!(!host[4..10].contains('C'), "a dest without weight got something: {host}");
    bpf::with(|program| {
        let got = run_changes(program)?;
        ensure!(got == host, "{got} on the loaded program, {host} on the host engine");
        Ok(())
    })
}

fn run_hashes<E: Engine>(engine: &mut E, begin: fn() -> Rules) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for family in FAMILIES {
        for (scheduler, bits) in [
            (Scheduler::Sh, 0),
            (Scheduler::Sh, flags::SCHED2),
            (Scheduler::Sh, flags::SCHED1 | flags::SCHED2),
            (Scheduler::Dh, 0),
            (Scheduler::Mh, 0),
            (Scheduler::Mh, flags::SCHED1 | flags::SCHED2),
        ] {
            engine.reset()?;
            let mut new = service(family, Proto::TCP, 80, scheduler);
            new.flags = bits;
            let mut rules = begin();
            let second = rules.dests() + 1;
            set_up(&mut rules, engine.memory(), &[(new, dests(family, &[1, 2, 3, 1]))]);
            let before = letters(engine, family, 0, 40)?;
            rules.set_weight(engine.memory(), second, 0);
            all.push(before + &letters(engine, family, 100, 20)?);
        }
    }
    Ok(all)
}

/// The tables themselves are tested against the kernel's in lb-common; here, that the pass asks them alike.
fn hashes_agree_between_engines() -> Result<()> {
    let host = run_hashes(&mut Host::new(), Rules::new)?;
    ensure!(
        host[0].contains('A') && host[0].contains('B') && host[0].contains('C'),
        "all dests: {}",
        host[0]
    );
    bpf::with(|program| {
        let got = run_hashes(program, Rules::new)?;
        ensure!(got == host, "{got:?} on the loaded program, {host:?} on the host engine");
        Ok(())
    })
}

/// One of many addresses that are given one mark, as in front of caches.
fn site(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 1, number).into(),
        // All of one sum: told apart by the whole address only.
        Family::V6 => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, number.into(), 0, number.into()).into(),
    }
}

/// A service for all sites.
fn sites<E: Engine>(
    engine: &mut E,
    family: Family,
    scheduler: Scheduler,
    weights: &[u32],
) -> Result<(Rules, u32)> {
    const MARK: u32 = 7;
    engine.reset()?;
    // Connections outlive all the days of a test.
    (0..16).for_each(|state| engine.memory().settings().set_timeout(Proto::TCP, state, u32::MAX));
    let mut rules = Rules::new();
    let service = rules.add_service(engine.memory(), &by_mark(family, MARK, scheduler));
    dests(family, weights).iter().for_each(|dest| {
        rules.add_dest(engine.memory(), service, dest);
    });
    know_all(engine.memory());
    let all = MarkRule { mark: MARK, dport_to: u16::MAX, family: family as u8, ..MarkRule::default() };
    engine.set_marks(&[all])?;
    Ok((rules, service))
}

/// Where new connections to these sites go.
fn visit<E: Engine>(engine: &mut E, family: Family, from: u32, numbers: &[u8]) -> Result<String> {
    let visits = numbers.iter().zip(from..);
    visits.map(|(number, n)| connect_to(engine, family, site(family, *number), n)).collect()
}

fn same_sites(what: &str, is: &str, wanted: &str) -> Result<()> {
    ensure!(is == wanted, "{what}: {is} instead of {wanted}");
    Ok(())
}

/// So that no half-open connection has to make room for another.
const ROOMY: bpf::Sizes = bpf::Sizes { buckets: [64; 2], ..bpf::Sizes::CASE };

const DAY: u32 = 86_400;
const HALF_HOUR: u32 = 1800;

fn run_lblc<E: Engine>(engine: &mut E) -> Result<()> {
    for family in FAMILIES {
        let (mut rules, service) = sites(engine, family, Scheduler::Lblc, &[100, 100, 100])?;
        let mut next = 0;
        let mut go = |engine: &mut E, what: &str, numbers: &[u8], wanted: &str| -> Result<()> {
            let what = format!("{}, {family:?}, {what}", E::NAME);
            let got = visit(engine, family, next, numbers)?;
            next += numbers.len() as u32;
            same_sites(&what, &got, wanted)
        };
        go(engine, "the newest, then whoever has least", &[1, 2, 3], "CBA")?;
        go(engine, "each stays", &[1, 1, 1, 2, 3, 3, 1], "CCCBAAC")?;
        rules.set_weight(engine.memory(), 2, 0);
        go(engine, "C is quiesced: the first of the least loaded", &[1, 1, 2], "BBB")?;
        rules.set_weight(engine.memory(), 2, 100);
        go(engine, "it has moved", &[1, 3], "BA")?;
        rules.delete_dest(engine.memory(), 1);
        go(engine, "B is gone: A has less, then both have as much", &[2, 1], "AC")?;
        rules.add_dest(engine.memory(), service, &dests(family, &[1, 100])[1]);
        go(engine, "and not called back", &[2, 1, 3], "ACA")?;
        engine.pass_time(DAY - 10);
        go(engine, "just not a day", &[1], "C")?;
        engine.pass_time(DAY - 10);
        go(engine, "used meanwhile", &[1], "C")?;
        engine.pass_time(HALF_HOUR + 20);
        // A has 7 connections, B 6, C 9.
        go(engine, "the other was idle for a day at a check", &[3, 1], "BC")?;
        engine.memory().settings().lblc_expiration.store(60);
        engine.pass_time(HALF_HOUR + 60);
        go(engine, "a shorter time", &[1], "B")?;
    }
    Ok(())
}

fn an_address_stays_where_it_was() -> Result<()> {
    run_lblc(&mut Host::new())?;
    bpf::with_sizes(&ROOMY, run_lblc)
}

fn run_lblcr<E: Engine>(engine: &mut E) -> Result<()> {
    for family in FAMILIES {
        let (mut rules, _) = sites(engine, family, Scheduler::Lblcr, &[2, 2, 2])?;
        let mut next = 0;
        let mut go = |engine: &mut E, what: &str, numbers: &[u8], wanted: &str| -> Result<()> {
            let what = format!("{}, {family:?}, {what}", E::NAME);
            let got = visit(engine, family, next, numbers)?;
            next += numbers.len() as u32;
            same_sites(&what, &got, wanted)
        };
        go(engine, "the set grows by those half idle", &[1; 9], "CCCBBBAAA")?;
        go(engine, "another site finds none that is", &[2, 2], "CC")?;
        go(engine, "the least loaded of the set, its newest first", &[1, 1, 1], "ABA")?;
        rules.set_weight(engine.memory(), 0, 0);
        go(engine, "one of the set is quiesced", &[1, 1], "BB")?;
        rules.set_weight(engine.memory(), 0, 2);
        engine.memory().settings().lblcr_expiration.store(5 * HALF_HOUR);
        engine.pass_time(4 * HALF_HOUR);
        // A and C have 5 connections, B 6.
        go(engine, "not yet", &[1], "A")?;
        engine.pass_time(HALF_HOUR + 10);
        // The least loaded is C; the first of the most loaded, A, leaves the set.
        go(engine, "the set shrinks", &[1, 1, 1, 1, 1, 1], "CBCBCB")?;
        engine.pass_time(5 * HALF_HOUR + 10);
        go(engine, "the site nobody asked for is forgotten", &[2], "A")?;
    }
    Ok(())
}

fn a_set_of_servers_grows_and_shrinks() -> Result<()> {
    run_lblcr(&mut Host::new())?;
    bpf::with_sizes(&ROOMY, run_lblcr)
}

/// Enough for a tree.
const MANY: u32 = 60;

/// The many dests of a service, newest first, and the kernel's rule over them.
struct Crowd<'a, E: Engine> {
    engine: &'a mut E,
    rules: Rules,
    scheduler: Scheduler,
    family: Family,
    list: Vec<u32>,
    /// Connections made.
    made: u32,
}

/// Dest `number`: told apart by its port.
fn one_of_many(family: Family, number: u32, weight: u32) -> NewDest {
    let host = HOSTS[number as usize % HOSTS.len()];
    NewDest { weight, ..dest(Nic::Back, family, host, 1000 + number as u16, Method::Nat) }
}

impl<'a, E: Engine> Crowd<'a, E> {
    fn new(engine: &'a mut E, family: Family, scheduler: Scheduler, mut rules: Rules) -> Result<Self> {
        engine.reset()?;
        let service = rules.add_service(engine.memory(), &service(family, Proto::TCP, 80, scheduler));
        let new: Vec<NewDest> = (0..MANY).map(|n| one_of_many(family, n, n % 4)).collect();
        rules.add_dests(engine.memory(), service, &new);
        Ok(Self { engine, rules, scheduler, family, list: (0..MANY).rev().collect(), made: 0 })
    }

    /// Whom a walk over the list finds, by the counts as they are.
    fn expected(&self) -> Option<u32> {
        let memory = self.engine.memory();
        let mut best: Option<(u32, u64, u64)> = None;
        for number in &self.list {
            let slot = memory.dest(*number)?;
            let (active, weight) = (u64::from(slot.active.load()), u64::from(slot.weight.load()));
            if weight == 0 || slot.overloaded.load() != 0 {
                continue;
            }
            let load = 256 * active + u64::from(slot.total.load());
            let (cost, weight) = match self.scheduler {
                Scheduler::Nq if active == 0 => return Some(*number),
                Scheduler::Sed | Scheduler::Nq => (active + 1, weight),
                Scheduler::Lc => (load, 1),
                _ => (load, weight),
            };
            if best.is_none_or(|(_, least, of)| least * weight > cost * of) {
                best = Some((*number, cost, weight));
            }
        }
        best.map(|(number, ..)| number)
    }

    /// So many new connections.
    fn connect(&mut self, count: u32, what: &str) -> Result<()> {
        for _ in 0..count {
            let wanted = self.expected();
            let got = self.open()?;
            self.made += 1;
            ensure!(
                got == wanted,
                "{}, {:?} {:?}, {what}, connection {}: {got:?} instead of {wanted:?}",
                E::NAME,
                self.family,
                self.scheduler,
                self.made
            );
        }
        Ok(())
    }

    fn send(&mut self, n: u32, flags: u8) -> Result<Outcome> {
        let from = (client(self.family, 1 + (n % 200) as u8), 2000 + n as u16);
        let frame = from_client(Packet::tcp(from, (vip(self.family), 80), flags, b"")).bytes();
        self.engine.run(Nic::Front, &frame)
    }

    /// A connection ends; one that had to make room for another is gone already.
    fn close(&mut self, n: u32) -> Result<()> {
        let outcome = self.send(n, tcp::RST)?;
        ensure!([Reason::Forwarded, Reason::NoConnection].contains(&outcome.reason), "{:?}", outcome.reason);
        Ok(())
    }

    /// A new connection; the dest it went to. `None`: told that there is none.
    fn open(&mut self) -> Result<Option<u32>> {
        let outcome = self.send(self.made, tcp::SYN)?;
        if outcome.way == Way::Transmit {
            return Ok(None);
        }
        let at = if self.family == Family::V4 { 14 + 20 + 2 } else { 14 + 40 + 2 };
        let port = u16::from_be_bytes([outcome.frame[at], outcome.frame[at + 1]]);
        ensure!(outcome.way == Way::Redirect && port >= 1000, "{:?}: {:?}", outcome.way, outcome.reason);
        Ok(Some(u32::from(port) - 1000))
    }

    fn act(mut self) -> Result<()> {
        self.connect(90, "at first")?;
        for n in (0..60).step_by(3) {
            self.close(n)?;
        }
        self.connect(20, "some are closed")?;
        for (number, weight) in [(3, 0), (4, 3), (59, 0), (58, 9)] {
            self.rules.set_weight(self.engine.memory(), number, weight);
        }
        self.connect(20, "other weights")?;
        for number in [57, 0, 30] {
            self.rules.delete_dest(self.engine.memory(), number);
            self.list.retain(|other| *other != number);
        }
        self.connect(10, "three are gone")?;
        self.rules.add_dest(self.engine.memory(), 0, &one_of_many(self.family, 30, 2));
        self.list.insert(0, 30);
        self.connect(10, "one is back")?;
        let limited = NewDest { thresholds: (2, 1), ..one_of_many(self.family, MANY, 5) };
        self.rules.add_dest(self.engine.memory(), 0, &limited);
        self.list.insert(0, MANY);
        self.connect(20, "one has a limit")?;
        // The closed ones run out; the limit is lifted by the sweep that takes them out.
        self.close(self.made - 20)?;
        self.close(self.made - 19)?;
        self.engine.pass_time(12);
        self.engine.sweep()?;
        self.connect(20, "some have run out")
    }
}

fn run_many<E: Engine>(engine: &mut E, begin: fn() -> Rules) -> Result<()> {
    for family in FAMILIES {
        for scheduler in [Scheduler::Lc, Scheduler::Wlc, Scheduler::Sed, Scheduler::Nq] {
            Crowd::new(engine, family, scheduler, begin())?.act()?;
        }
    }
    Ok(())
}

/// What a tree says is what a walk over all finds, however counts and lists change.
fn many_dests() -> Result<()> {
    run_many(&mut Host::new(), Rules::new)?;
    bpf::with(|program| run_many(program, Rules::new))
}

/// Two words and one dest are in the first pieces, the rest in the second ones.
fn at_an_edge() -> Rules {
    Rules::beginning_at(LISTS.len - 2, DESTS.len - 1)
}

/// Of each scheduler's table, or tree, a part is in either piece.
fn in_the_table() -> Rules {
    Rules::beginning_at(LISTS.len - 100, 0)
}

/// Lists, tables, trees, dests and counters go on over the edge of a piece as if it were none.
fn run_edges<E: Engine>(engine: &mut E) -> Result<Vec<String>> {
    run_sequences(engine, at_an_edge)?;
    engine.reset()?;
    let new = service(Family::V4, Proto::TCP, 80, Scheduler::Rr);
    set_up(&mut at_an_edge(), engine.memory(), &[(new, dests(Family::V4, &[1, 1, 1]))]);
    let numbers = [DESTS.len - 1, DESTS.len, DESTS.len + 1];
    let counted = |engine: &E| -> Result<Vec<(u64, u64)>> {
        let of = |number: &u32| engine.counters(*number).map(|all| (all.conns, all.inpkts));
        numbers.iter().map(of).collect()
    };
    let before = counted(engine)?;
    let made = letters(engine, Family::V4, 0, 9)?;
    let went: String =
        (0..9).map(|n| send(engine, Family::V4, vip(Family::V4), n, tcp::ACK)).collect::<Result<_>>()?;
    ensure!(went == made, "{}: connections made with {made} went on with {went}", E::NAME);
    let after: Vec<_> = before.iter().map(|(conns, packets)| (conns + 3, packets + 6)).collect();
    ensure!(counted(engine)? == after, "{}: {:?} after {before:?}", E::NAME, counted(engine)?);
    run_many(engine, in_the_table)?;
    run_hashes(engine, in_the_table)
}

fn across_the_edge_of_a_piece() -> Result<()> {
    let (dests, lists) = (DESTS.len + 64, LISTS.len + (1 << 17));
    let mut host = Host::with_sizes(lb_common::host::Sizes { dests, lists, ..Default::default() });
    let wanted = run_edges(&mut host)?;
    ensure!(wanted == run_hashes(&mut host, Rules::new)?, "the edge changes who gets connections");
    bpf::with_sizes(&bpf::Sizes { dests, lists, ..bpf::Sizes::CASE }, |program| {
        let got = run_edges(program)?;
        ensure!(got == wanted, "{got:?} on the loaded program, {wanted:?} on the host engine");
        Ok(())
    })
}
