//! The defences on the loaded program, with its own sweep and the kernel's clock: drop_entry, and the automatic modes, which
//! watch how much room is left in the table.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::Rules;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::settings::Settings;
use lb_tests::bpf::{self, Program, Sizes};
use lb_tests::case::{Engine, FAMILIES, Live, Nic, client, dest, from_client, service, set_up, vip};
use lb_tests::packets::tcp::{ACK, SYN};
use lb_tests::packets::{Frame, Packet};
use lb_tests::run;

lb_tests::tests!(
    drop_entry_takes_half_open_ones,
    a_round_counts_each_entry_once,
    the_automatic_modes_watch_the_room,
);

/// Longer than a round of the sweep, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(20);

fn segment(family: Family, sport: u16, flags: u8) -> Frame {
    from_client(Packet::tcp((client(family, 7), sport), (vip(family), 80), flags, b""))
}

fn datagram(family: Family, sport: u16) -> Frame {
    from_client(Packet::udp((client(family, 7), sport), (vip(family), 80), b"hello"))
}

/// One service of each family, with a server.
fn serve(program: &mut Program, proto: Proto) -> Result<()> {
    program.reset()?;
    let rules = FAMILIES.map(|family| {
        let server = dest(Nic::Back, family, 11, 80, Method::Route);
        (service(family, proto, 80, Scheduler::Rr), vec![server])
    });
    set_up(&mut Rules::new(), program.memory(), &rules);
    Ok(())
}

fn settings(program: &Program) -> &Settings {
    use lb_common::host::Memory as _;
    program.memory().settings()
}

fn forwarded(program: &mut Program, frame: &Frame) -> Result<()> {
    let got = program.run(Nic::Front, &frame.bytes())?;
    ensure!(got.reason == Reason::Forwarded, "{:?} instead of forwarded", got.reason);
    Ok(())
}

fn of(live: &[Live], family: Family) -> usize {
    live.iter().filter(|entry| entry.client.0.is_ipv4() == (family == Family::V4)).count()
}

/// drop_entry = 3. IPVS looks through a 32nd of its buckets each second and drops what is half-open there: of 300 such
/// connections 180 are left after 16 seconds, give or take nine. Established ones stay, all of them.
fn drop_entry_takes_half_open_ones() -> Result<()> {
    const HALF_OPEN: u16 = 300;
    const ESTABLISHED: u16 = 100;
    let sizes = Sizes { buckets: [1024; 2], second: 64, ..Sizes::CASE };
    bpf::with_sizes(&sizes, |program| {
        serve(program, Proto::TCP)?;
        for family in FAMILIES {
            for sport in 0..HALF_OPEN + ESTABLISHED {
                forwarded(program, &segment(family, 1024 + sport, SYN))?;
                if sport >= HALF_OPEN {
                    forwarded(program, &segment(family, 1024 + sport, ACK))?;
                }
            }
        }
        program.start_sweep()?;
        std::thread::sleep(Duration::from_secs(2));
        let all = usize::from(HALF_OPEN + ESTABLISHED);
        let live = program.live()?;
        ensure!(FAMILIES.iter().all(|family| of(&live, *family) == all), "dropped without being asked to");
        settings(program).drop_entry.store(3);
        settings(program).dropping.store(1);
        let since = Instant::now();
        std::thread::sleep(Duration::from_secs(16));
        let (live, seconds) = (program.live()?, since.elapsed().as_secs_f64());
        let wanted = f64::from(HALF_OPEN) * (31.0_f64 / 32.0).powf(seconds);
        for family in FAMILIES {
            let of_family = live.iter().filter(|entry| entry.client.0.is_ipv4() == (family == Family::V4));
            let (half, whole): (Vec<&Live>, Vec<&Live>) =
                of_family.partition(|entry| entry.client.1 < 1024 + HALF_OPEN);
            ensure!(whole.len() == usize::from(ESTABLISHED), "{} established ones are left", whole.len());
            let left = half.len() as f64;
            // Five standard deviations; half or twice the rate would leave 233 or 107.
            ensure!((left - wanted).abs() < 45.0, "{family:?}: {left} of {wanted:.0} after {seconds:.1} s");
        }
        settings(program).dropping.store(0);
        std::thread::sleep(Duration::from_secs(1));
        let stopped = program.live()?.len();
        std::thread::sleep(Duration::from_secs(4));
        ensure!(program.live()?.len() == stopped, "it goes on");
        Ok(())
    })
}

/// What modes go by and `status` shows: in a table whose last slice of a round is shorter than the others too, each entry
/// counts once.
fn a_round_counts_each_entry_once() -> Result<()> {
    const CONNECTIONS: u16 = 20_000;
    let sizes = Sizes { buckets: [1 << 18; 2], second: 1 << 12, ..Sizes::CASE };
    bpf::with_sizes(&sizes, |program| {
        serve(program, Proto::TCP)?;
        for family in FAMILIES {
            (0..CONNECTIONS).try_for_each(|sport| forwarded(program, &segment(family, 1024 + sport, SYN)))?;
        }
        program.start_sweep()?;
        let all = [u32::from(CONNECTIONS); 2];
        run::until(PATIENCE, "a round that finds each connection once", || {
            program.maps().found_live().is_ok_and(|found| found == all).then_some(())
        })
    })
}

/// Modes as they stand, and what is in force: dropping entries, the rate newcomers are dropped at, strictness.
type State = ([u32; 3], [u32; 3]);

fn state(program: &Program) -> State {
    let s = settings(program);
    let modes = [&s.drop_entry, &s.drop_packet, &s.secure_tcp_mode].map(|cell| cell.load());
    (modes, [&s.dropping, &s.drop_rate, &s.secure_tcp].map(|cell| cell.load()))
}

fn becomes(program: &Program, wanted: State) -> Result<()> {
    let mut last = ([0; 3], [0; 3]);
    let seen = run::until(PATIENCE, "the modes to change", || {
        last = state(program);
        (last == wanted).then_some(())
    });
    seen.map_err(|_| anyhow::anyhow!("{last:?} instead of {wanted:?}"))
}

/// 64 buckets count as room for 256 IPv4 connections, 128 of IPv6; the last eighth is short. With half of that gone every
/// second newcomer is dropped, until connections end.
fn the_automatic_modes_watch_the_room() -> Result<()> {
    let sizes = Sizes { buckets: [64; 2], second: 64, ..Sizes::CASE };
    for (family, room) in [(Family::V4, 256_u16), (Family::V6, 128)] {
        bpf::with_sizes(&sizes, |program| {
            serve(program, Proto::UDP)?;
            let s = settings(program);
            [&s.drop_entry, &s.drop_packet, &s.secure_tcp_mode].iter().for_each(|mode| mode.store(1));
            program.start_sweep()?;
            let open = |program: &mut Program, sports: std::ops::Range<u16>| {
                // Two packets: such a one makes way for nobody.
                sports.into_iter().try_for_each(|sport| {
                    forwarded(program, &datagram(family, 1024 + sport))?;
                    forwarded(program, &datagram(family, 1024 + sport))
                })
            };
            let (enough, short) = (room - room / 8, room - room / 16);
            open(program, 0..enough)?;
            std::thread::sleep(Duration::from_secs(3));
            ensure!(state(program) == ([1; 3], [0; 3]), "on already: {:?}", state(program));
            open(program, enough..short)?;
            becomes(program, ([2; 3], [1, 2, 1]))?;
            let limited = (0..20).map(|n| program.run(Nic::Front, &datagram(family, 30_000 + n).bytes()));
            let limited: Vec<Reason> = limited.map(|got| Ok(got?.reason)).collect::<Result<_>>()?;
            let count = limited.iter().filter(|reason| **reason == Reason::Limited).count();
            // Ten more have come in: meanwhile the rate may have gone up.
            ensure!(count >= 10, "{count} of twenty newcomers are dropped: {limited:?}");
            ensure!(of(&program.live()?, family) >= usize::from(short), "old ones have gone");
            // All of them end.
            program.pass_time(400);
            becomes(program, ([1; 3], [0; 3]))?;
            open(program, 40_000..40_010)
        })
        .map_err(|error| error.context(format!("{family:?}")))?;
    }
    Ok(())
}
