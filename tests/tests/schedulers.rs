//! The schedulers through the whole pass: who gets each of a row of new connections.

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::{NewDest, Rules};
use lb_common::sched::Scheduler;
use lb_common::service::flags;
use lb_tests::bpf;
use lb_tests::case::{Engine, FAMILIES, Nic, Way, client, dest, from_client, service, set_up, vip};
use lb_tests::host::Host;
use lb_tests::packets::{Packet, tcp};

lb_tests::tests!(reference_sequences, weights_change_on_the_way, hashes_agree_between_engines);

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
    let from = (client(family, 1 + (n % 200) as u8), 2000 + n as u16);
    let frame = from_client(Packet::tcp(from, (vip(family), 80), tcp::SYN, b"")).bytes();
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
        (Scheduler::None, vec![1], "--"),
    ]
}

fn run_sequences<E: Engine>(engine: &mut E) -> Result<()> {
    for family in FAMILIES {
        for (scheduler, weights, wanted) in sequences() {
            engine.reset()?;
            let new = service(family, Proto::TCP, 80, scheduler);
            set_up(&mut Rules::new(), engine.memory(), &[(new, dests(family, &weights))]);
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
    run_sequences(&mut Host::new())?;
    bpf::with(run_sequences)
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

fn run_hashes<E: Engine>(engine: &mut E) -> Result<Vec<String>> {
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
            let mut rules = Rules::new();
            set_up(&mut rules, engine.memory(), &[(new, dests(family, &[1, 2, 3, 1]))]);
            let before = letters(engine, family, 0, 40)?;
            rules.set_weight(engine.memory(), 1, 0);
            all.push(before + &letters(engine, family, 100, 20)?);
        }
    }
    Ok(all)
}

/// The tables themselves are tested against the kernel's in lb-common; here, that the pass asks them alike.
fn hashes_agree_between_engines() -> Result<()> {
    let host = run_hashes(&mut Host::new())?;
    ensure!(
        host[0].contains('A') && host[0].contains('B') && host[0].contains('C'),
        "all dests: {}",
        host[0]
    );
    bpf::with(|program| {
        let got = run_hashes(program)?;
        ensure!(got == host, "{got:?} on the loaded program, {host:?} on the host engine");
        Ok(())
    })
}
