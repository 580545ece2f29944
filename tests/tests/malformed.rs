//! Frames that are not what they seem: cut short anywhere, lengths that cannot be, any bytes at all. Nothing may panic,
//! nothing is read past the end, and both engines say the same.

use anyhow::{Result, ensure};
use lb_common::addr::{Family, Port, Proto};
use lb_common::dest::{Method, TunType};
use lb_common::host::rules::{NewDest, NewService, Rules};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_tests::bpf::{self, Program};
use lb_tests::case::{
    Case, Engine, FAMILIES, Nic, Outcome, Way, client, dest, from_client, from_host, hex, run_all, service,
    set_up, vip,
};
use lb_tests::host::Host;
use lb_tests::packets::{Body, Frame, Packet, Part, tcp};
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config, TestCaseError, TestRunner};

lb_tests::tests!(
    impossible_lengths,
    cut_at_every_byte,
    every_byte_changed,
    changed_at_random,
    any_bytes_at_all,
);

/// The kernel takes no shorter frame for a test.
const SHORTEST: usize = 14;

/// Services of all methods on ports of their own.
fn rules() -> Vec<(NewService, Vec<NewDest>)> {
    let mut all = Vec::new();
    for family in FAMILIES {
        for proto in [Proto::TCP, Proto::UDP] {
            for (port, to) in [(80, 80), (81, 8080), (82, 82), (83, 83), (84, 84)] {
                let method = match port {
                    80 => Method::Route,
                    81 => Method::Nat,
                    _ => Method::Tunnel,
                };
                let mut one = dest(Nic::Back, family, 11, to, method);
                one.tunnel = match port {
                    83 => (TunType::Gue, 1, Port::new(6080)),
                    84 => (TunType::Gre, 1, Port::ZERO),
                    _ => one.tunnel,
                };
                all.push((service(family, proto, port, Scheduler::Rr), vec![one]));
            }
        }
    }
    all
}

/// One good frame of each kind.
fn seeds() -> Vec<(Nic, Frame)> {
    let mut all = Vec::new();
    for family in FAMILIES {
        let us = (client(family, 7), 1025);
        for port in 80..=84 {
            let to = (vip(family), port);
            all.push((Nic::Front, from_client(Packet::tcp(us, to, tcp::SYN, b"hello"))));
            all.push((Nic::Front, from_client(Packet::udp(us, to, b"hello!")).tagged(&[5])));
        }
        let to = (vip(family), 81);
        let bare = Packet::new(us.0, to.0, Body::Udp(9, 81, b"bare".to_vec(), false));
        all.push((Nic::Front, from_client(bare).tagged(&[5, 6])));
        let part = Packet::udp(us, to, &[1; 50]).with(|p| p.part = Some(Part { from: 0, to: Some(32) }));
        all.push((Nic::Front, from_client(part)));
        let dying = Packet::udp(us, to, &[1; 50]).with(|p| p.ttl = 1);
        all.push((Nic::Front, from_client(dying)));
        let shaped = Packet::tcp(us, to, tcp::SYN, b"x").with(|p| match family {
            Family::V4 => p.options = vec![1; 12],
            Family::V6 => p.extensions = vec![(0, vec![1, 4, 0, 0, 0, 0]), (60, vec![1, 4, 0, 0, 0, 0])],
        });
        all.push((Nic::Front, from_client(shaped)));
        let reply = Packet::tcp((Nic::Back.host(family, 11), 8080), us, tcp::SYN | tcp::ACK, b"yes");
        all.push((Nic::Back, from_host(Nic::Back, 11, reply)));
    }
    all
}

/// Both engines under the same rules.
struct Pair<'a> {
    host: Host,
    program: Option<&'a mut Program>,
    runs: u32,
}

/// Packets until the tables are emptied: a full one may give another entry up on an engine whose clock has gone on.
const FRESH: u32 = 60;

impl<'a> Pair<'a> {
    fn new(program: Option<&'a mut Program>) -> Result<Self> {
        let mut pair = Self { host: Host::new(), program, runs: 0 };
        pair.reset()?;
        Ok(pair)
    }

    fn reset(&mut self) -> Result<()> {
        self.host.reset()?;
        set_up(&mut Rules::new(), self.host.memory(), &rules());
        if let Some(program) = &mut self.program {
            program.reset()?;
            set_up(&mut Rules::new(), program.memory(), &rules());
        }
        Ok(())
    }

    /// What the host makes of it, which has to be what the program makes of it.
    fn run(&mut self, nic: Nic, frame: &[u8]) -> Result<Outcome> {
        self.runs += 1;
        if self.runs.is_multiple_of(FRESH) {
            self.reset()?;
        }
        let ours = self.host.run(nic, frame)?;
        if ours.way == Way::Pass {
            ensure!(ours.frame == frame, "passed, but changed: {}", hex(frame));
        }
        if frame.len() < SHORTEST {
            return Ok(ours);
        }
        let Some(program) = &mut self.program else { return Ok(ours) };
        let theirs = program.run(nic, frame)?;
        let same = (theirs.way, theirs.reason) == (ours.way, ours.reason);
        ensure!(
            same,
            "{:?} {:?} on the host, {:?} {:?} in the kernel: {}",
            ours.way,
            ours.reason,
            theirs.way,
            theirs.reason,
            hex(frame)
        );
        // Identifications of outer headers are random.
        let comparable = ours.way != Way::Drop && ours.reason != Reason::IcmpSent && !is_tunnel(&ours);
        ensure!(
            !comparable || ours.frame == theirs.frame,
            "from {}\nhost   {}\nkernel {}",
            hex(frame),
            hex(&ours.frame),
            hex(&theirs.frame)
        );
        Ok(ours)
    }
}

fn is_tunnel(outcome: &Outcome) -> bool {
    let own = [[10, 2, 0, 1], [0xfd, 2, 0, 0]];
    let at = |from: usize| outcome.frame.get(from..from + 4);
    own.iter().any(|own| at(26) == Some(own) || at(22) == Some(own))
}

/// On the host alone, then on both.
fn on_both(body: impl Fn(&mut Pair<'_>) -> Result<()> + Sync) -> Result<()> {
    body(&mut Pair::new(None)?)?;
    bpf::with(|program| body(&mut Pair::new(Some(program))?))
}

fn impossible_lengths() -> Result<()> {
    let v4 = |change: fn(&mut Vec<u8>)| {
        let mut bytes =
            from_client(Packet::udp((client(Family::V4, 7), 1), (vip(Family::V4), 80), b"x")).bytes();
        change(&mut bytes);
        bytes
    };
    let v6 = |change: fn(&mut Vec<u8>)| {
        let mut bytes =
            from_client(Packet::udp((client(Family::V6, 7), 1), (vip(Family::V6), 80), b"x")).bytes();
        change(&mut bytes);
        bytes
    };
    let frames = [
        ("IPv4 longer than its frame", v4(|b| b[17] += 1), Reason::Malformed),
        ("IPv4 of no length", v4(|b| b[16..18].fill(0)), Reason::Malformed),
        ("IPv4 shorter than its header", v4(|b| b[17] = 19), Reason::Malformed),
        ("IPv4 without room for UDP", v4(|b| b[17] = 27), Reason::Truncated),
        ("IPv4 header of 4 words", v4(|b| b[14] = 0x44), Reason::Malformed),
        ("IPv4 header of no words", v4(|b| b[14] = 0x40), Reason::Malformed),
        ("IPv4 header beyond the packet", v4(|b| b[14] = 0x4f), Reason::Malformed),
        ("IPv4 that says 6", v4(|b| b[14] = 0x65), Reason::Malformed),
        ("IPv6 longer than its frame", v6(|b| b[19] += 1), Reason::Malformed),
        ("IPv6 without room for UDP", v6(|b| b[19] = 7), Reason::Truncated),
    ];
    let mut cases = Vec::new();
    for (title, bytes, reason) in frames {
        let mut case = Case::new(title, rules()[0].0, &rules()[0].1);
        case.rules = rules();
        cases.push(case.step(lb_tests::case::Step::Send(
            Nic::Front,
            bytes,
            lb_tests::case::Expect::Passes(reason),
        )));
    }
    run_all(&cases)
}

fn cut_at_every_byte() -> Result<()> {
    on_both(|pair| {
        for (nic, frame) in seeds() {
            let bytes = frame.bytes();
            for length in 0..bytes.len() {
                let outcome = pair.run(nic, &bytes[..length])?;
                // The IP header says there is more.
                ensure!(outcome.way == Way::Pass, "{length} of {}: {:?}", hex(&bytes), outcome.reason);
            }
        }
        Ok(())
    })
}

fn every_byte_changed() -> Result<()> {
    on_both(|pair| {
        for (nic, frame) in seeds() {
            pair.reset()?;
            let bytes = frame.bytes();
            for at in 0..bytes.len().min(90) {
                for value in [0, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(0x10)] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    pair.run(nic, &changed)?;
                }
            }
        }
        Ok(())
    })
}

fn check<S: Strategy>(cases: u32, strategy: &S, body: impl Fn(S::Value) -> Result<()>) -> Result<()> {
    // The tables remember, so that a smaller case would meet other tables than the one that failed.
    let config = Config { cases, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config)
        .run(strategy, |value| body(value).map_err(|error| TestCaseError::fail(format!("{error:#}"))));
    checked.map_err(|error| anyhow::anyhow!("{error}"))
}

fn changed_at_random() -> Result<()> {
    on_both(|pair| {
        let seeds = seeds();
        let changes = proptest::collection::vec((0..120_usize, any::<u8>()), 1..6);
        let what = (0..seeds.len(), changes, 0..40_usize);
        let pair = std::cell::RefCell::new(pair);
        check(3000, &what, |(seed, changes, cut)| {
            let (nic, frame) = &seeds[seed];
            let mut bytes = frame.bytes();
            bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(30)));
            for (at, value) in changes {
                let len = bytes.len();
                bytes[at % len] = value;
            }
            pair.borrow_mut().run(*nic, &bytes).map(drop)
        })
    })
}

fn any_bytes_at_all() -> Result<()> {
    on_both(|pair| {
        let pair = std::cell::RefCell::new(pair);
        let what = (proptest::collection::vec(any::<u8>(), 0..200), any::<bool>());
        check(2000, &what, |(mut bytes, v6)| {
            // Nearly all would end at the EtherType otherwise.
            if let Some(head) = bytes.first_chunk_mut::<14>() {
                head[0] &= 0xfe;
                (head[12], head[13]) = if v6 { (0x86, 0xdd) } else { (8, 0) };
            }
            pair.borrow_mut().run(Nic::Front, &bytes).map(drop)
        })
    })
}
