//! Several CPUs on few buckets: no flow twice, no packet to another flow's dest, counts that equal the entries, every
//! packet in one counter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::Proto;
use lb_common::dest::Method;
use lb_common::host::rules::{Memory, NewDest, NewService, Rules};
use lb_common::host::{self, HostTables, Sizes, SliceFrame};
use lb_common::reason::{Action, Reason};
use lb_common::sched::Scheduler;
use lb_tests::bpf::{self, Program, test_run};
use lb_tests::case::{FAMILIES, Live, Nic, client, dest, from_client, service, set_up, vip};
use lb_tests::host::{live_of, number, world};
use lb_tests::packets::{Packet, tcp};

lb_tests::tests!(threads_over_memory, threads_over_memory_with_templates, cpus_over_maps);

/// Hosts of TCP's dests and of UDP's.
const HOSTS: [[u8; 2]; 2] = [[11, 12], [13, 21]];
const THREADS: u64 = 4;

fn rules(persistent: bool) -> Vec<(NewService, Vec<NewDest>)> {
    let mut all = Vec::new();
    for family in FAMILIES {
        for (proto, hosts) in [Proto::TCP, Proto::UDP].into_iter().zip(HOSTS) {
            let new = service(family, proto, 80, Scheduler::Rr);
            let new = if persistent { new.persistent(2) } else { new };
            all.push((new, hosts.map(|host| dest(Nic::Back, family, host, 80, Method::Route)).to_vec()));
        }
    }
    all
}

/// Xorshift: each thread its own sequence, the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A packet of one of `flows` flows, and the hosts it may be sent to.
fn packet(dice: &mut Dice, flows: u64) -> ([u8; 2], Vec<u8>) {
    let flow = dice.throw(flows);
    let family = FAMILIES[(flow & 1) as usize];
    let from = (client(family, 1 + (flow >> 2) as u8 % 20), 1000 + (flow >> 1) as u16);
    let to = (vip(family), 80);
    let flags =
        [tcp::SYN, tcp::SYN, tcp::ACK, tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST][dice.throw(6) as usize];
    let packet = match flow >> 1 & 1 {
        0 => Packet::tcp(from, to, flags, b""),
        _ => Packet::udp(from, to, b""),
    };
    (HOSTS[(flow >> 1 & 1) as usize], from_client(packet).bytes())
}

/// What has to hold whenever nobody is at work.
fn consistent<M: Memory>(memory: &M, live: &[Live], dests: u32) -> Result<()> {
    let mut seen = HashMap::new();
    for entry in live {
        let key = (entry.client, entry.virtual_end, entry.proto, entry.template);
        ensure!(seen.insert(key, entry).is_none(), "twice in the table: {entry:?}");
        // Dests are numbered by service: two each, in the order of the rules.
        let v6 = entry.client.0.is_ipv6();
        let of = entry.dest / 2;
        let wanted = u32::from(v6) * 2 + u32::from(entry.proto == 17);
        ensure!(of == wanted, "bound to a dest of another service: {entry:?}");
    }
    for number in 0..dests {
        let slot = memory.dest(number).context("a dest slot")?;
        let of = |wanted: fn(&Live) -> bool| {
            live.iter().filter(|entry| entry.dest == number && wanted(entry)).count() as u32
        };
        let (total, active) = (of(|e| !e.template), of(|e| !e.template && e.active));
        let templates = of(|e| e.template);
        let counted = (slot.total.load(), slot.active.load(), slot.templates.load());
        ensure!(
            counted == (total, active, templates),
            "dest {number} counts {counted:?}, has {:?}",
            (total, active, templates)
        );
    }
    Ok(())
}

/// Sends packets and returns how many. Each goes to one of the dests or has a reason that this can bring about.
fn hammer(tables: &HostTables, seed: u64, packets: u64, flows: u64) -> Result<u64> {
    let mut dice = Dice(seed);
    for _ in 0..packets {
        let (hosts, bytes) = packet(&mut dice, flows);
        let mut frame = SliceFrame::new(&bytes, number(Nic::Front));
        let verdict = host::run(tables, &mut frame);
        let reason = verdict.reason().context("a reason")?;
        match verdict.action() {
            Action::Redirect(_) => {
                ensure!(
                    hosts.contains(&frame.bytes()[5]),
                    "sent to another service's dest: {:?}",
                    frame.bytes()
                );
            }
            Action::Pass | Action::Drop => {
                let fine = [Reason::NoConnection, Reason::TableFull, Reason::BucketBusy, Reason::Internal];
                ensure!(fine.contains(&reason), "{reason:?}");
            }
            Action::Transmit => ensure!(false, "answered: {reason:?}"),
        }
    }
    Ok(packets)
}

fn over_memory(persistent: bool, buckets: u32) -> Result<()> {
    let tables = world(&Sizes { buckets, second: 1, ..Sizes::default() });
    set_up(&mut Rules::new(), &tables, &rules(persistent));
    let done = AtomicBool::new(false);
    for round in 0..6 {
        done.store(false, Ordering::Relaxed);
        let before = tables.packets();
        let sent = thread::scope(|scope| -> Result<u64> {
            let sweeper = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    tables.pass_time(1);
                    host::sweep(&tables);
                }
            });
            let tables = &tables;
            let threads: Vec<_> = (1..=THREADS)
                .map(|n| {
                    scope.spawn(move || hammer(tables, n * 0x9E37_79B9 + round, 15_000, 40 + 20 * round))
                })
                .collect();
            let sent = threads.into_iter().map(joined).sum::<Result<u64>>();
            done.store(true, Ordering::Relaxed);
            joined(sweeper);
            sent
        })?;
        host::sweep(&tables);
        ensure!(tables.packets() - before == sent, "{sent} packets, {} counted", tables.packets() - before);
        consistent(&tables, &live_of(&tables), 8)
            .with_context(|| format!("round {round}, {buckets} buckets"))?;
    }
    // When all time is over, nothing is left, and nothing is counted.
    for _ in 0..3 {
        tables.pass_time(1000);
        host::sweep(&tables);
    }
    ensure!(live_of(&tables).is_empty(), "left: {:?}", live_of(&tables));
    ensure!(tables.controls() == 0, "{} notes of templates are left", tables.controls());
    consistent(&tables, &[], 8)
}

fn threads_over_memory() -> Result<()> {
    [1, 2, 8].into_iter().try_for_each(|buckets| over_memory(false, buckets))
}

fn threads_over_memory_with_templates() -> Result<()> {
    [1, 4, 16].into_iter().try_for_each(|buckets| over_memory(true, buckets))
}

/// A panic goes on where the thread was started.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// How long the CPUs hammer the loaded program.
const LONG: Duration = Duration::from_secs(3);

fn hammer_program(program: &Program, cpu: usize, flows: u64) -> Result<u64> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).context("pinning a thread")?;
    let (lb, card) = (program.lb()?, program.card(Nic::Front));
    let mut dice = Dice(cpu as u64 * 77 + 5);
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < LONG {
        let (hosts, bytes) = packet(&mut dice, flows);
        let (verdict, frame) = test_run(lb, card, &bytes)?;
        sent += 1;
        match verdict {
            4 => ensure!(hosts.contains(&frame[5]), "sent to another service's dest"),
            1 | 2 => {}
            other => anyhow::bail!("verdict {other}"),
        }
    }
    Ok(sent)
}

fn cpus_over_maps() -> Result<()> {
    bpf::with(|program| {
        use lb_tests::case::Engine as _;
        for persistent in [false, true] {
            program.reset()?;
            set_up(&mut Rules::new(), program.memory(), &rules(persistent));
            // Everything is over in no time, so that the sweep has something to do.
            for (proto, states) in [(Proto::TCP, 11), (Proto::UDP, 2)] {
                (0..states).for_each(|state| program.memory().settings().timeout(proto, state).store(20));
            }
            program.start_sweep()?;
            let before: u64 = program.maps().reasons()?.iter().sum();
            let cpus = thread::available_parallelism()?.get().min(2);
            let program = &*program;
            let sent = thread::scope(|scope| -> Result<u64> {
                let threads: Vec<_> =
                    (0..cpus).map(|cpu| scope.spawn(move || hammer_program(program, cpu, 400))).collect();
                threads.into_iter().map(joined).sum()
            })?;
            let after: u64 = program.maps().reasons()?.iter().sum();
            ensure!(after - before == sent, "{sent} packets, {} counted", after - before);
            hold_still(program);
            consistent(program.memory(), &program.live()?, 8)
                .with_context(|| format!("templates: {persistent}"))?;
        }
        Ok(())
    })
}

/// Makes all connections immortal and lets a running sweep finish its tick, so that the table can be read.
fn hold_still(program: &Program) {
    use lb_tests::case::Engine as _;
    for proto in [Proto::TCP, Proto::UDP] {
        (0..16).for_each(|state| program.memory().settings().timeout(proto, state).store(i32::MAX as u32));
    }
    thread::sleep(Duration::from_millis(50));
}
