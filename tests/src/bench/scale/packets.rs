//! Nanoseconds of an IPv4 TCP packet, direct routing, above the floor in the same rounds.

use std::sync::Barrier;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::{Addr, Family, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::{Memory as _, NewDest, NewService, Rules};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;

use super::Figure;
use crate::bench::cases::{self, Case, Kind, Path};
use crate::bench::driver::{self, Driver, Plan, Target};
use crate::bench::fill;
use crate::bench::measure::{Effort, TOLERANCE, median, take_turns};
use crate::bpf::{self, Program, Sizes};
use crate::case::{Engine as _, Nic};
use crate::packets::tcp::{ACK, SYN};

/// Slots of the table: four million connections fill half of it.
const SLOTS: u32 = 1 << 23;
/// Connections where something else is varied.
const CONNECTIONS: u32 = 65_536;

/// What there is while a packet is measured.
#[derive(Debug, Clone, Copy)]
struct Scene {
    connections: u32,
    dests: u32,
    services: u32,
    scheduler: Scheduler,
}

const USUAL: Scene = Scene { connections: CONNECTIONS, dests: 4, services: 1, scheduler: Scheduler::Rr };

/// Measures everything and shows each figure as soon as it is there.
pub fn all(effort: Effort, filter: &str, show: &mut (dyn FnMut(Figure) + Send)) -> Result<()> {
    let mut points = Vec::new();
    for connections in [1_000, 16_384, 262_144, 1_000_000, 4_000_000] {
        points.push(("connections", connections, Scene { connections, ..USUAL }));
    }
    for dests in [1, 16, 64, 256, 1024] {
        points.push(("dests, rr", dests, Scene { dests, ..USUAL }));
        points.push(("dests, wlc", dests, Scene { dests, scheduler: Scheduler::Wlc, ..USUAL }));
    }
    for services in [1, 100, 1_000, 10_000] {
        points.push(("services", services, Scene { services, ..USUAL }));
    }
    points.retain(|(axis, ..)| axis.contains(filter));
    let two = "two CPUs".contains(filter);
    if points.is_empty() && !two {
        return Ok(());
    }
    let sizes = Sizes {
        buckets: [SLOTS / 8, 64],
        second: SLOTS / 64,
        dests: 16_384,
        services: 16_384,
        lists: 1 << 20,
    };
    bpf::with_sizes(&sizes, |program| {
        cases::world(Nic::Front.name())?;
        for (axis, size, scene) in points {
            // The thread that measures stays on one CPU.
            let figures = one(program, scene, effort).with_context(|| format!("{size} {axis}"))?;
            for (kind, value) in figures {
                show(Figure {
                    name: format!("{kind}, by {axis}"),
                    size: Some(size),
                    value,
                    unit: "ns",
                    most: None,
                });
            }
        }
        if two {
            for (name, value) in two_cpus(program, effort)? {
                show(Figure { name, size: None, value, unit: "times one CPU", most: None });
            }
        }
        Ok(())
    })
}

fn case(connections: u32) -> Case {
    Case { family: Family::V4, proto: Proto::TCP, kind: Kind::Established(Path::Dr, connections) }
}

/// Rules and connections.
fn set_up(program: &mut Program, driver: &mut Driver, scene: Scene) -> Result<()> {
    program.reset()?;
    let maps = program.maps();
    maps.settings().set_defaults(lb_user::bpf::clock::hz());
    maps.settings().secret.iter().zip(1..).for_each(|(cell, word)| cell.store(word));
    let mut rules = Rules::new();
    let of = case(scene.connections);
    let service = rules.add_service(maps, &NewService { scheduler: scene.scheduler, ..of.service() });
    let dests: Vec<NewDest> = (1..=scene.dests)
        .map(|number| NewDest::new(Family::V4, cases::server(Family::V4, number), 8080, Method::Route))
        .collect();
    rules.add_dests(maps, service, &dests);
    for other in 1..scene.services {
        let [_, a, b, c] = other.to_be_bytes();
        let new = NewService::new(Family::V4, Proto::TCP, Addr::v4([172, 16 + a, b, c]), 80, Scheduler::Rr);
        let number = rules.add_service(maps, &new);
        rules.add_dests(maps, number, &dests[..1]);
    }
    fill::establish(&of, scene.connections, program, driver)
}

/// Nanoseconds of a packet of a connection, and of one that makes a connection.
fn one(program: &mut Program, scene: Scene, effort: Effort) -> Result<[(&'static str, f64); 2]> {
    driver::pin()?;
    let mut driver = Driver::new(Some(program.lb()?), program.card(Nic::Front), driver::thread_time)?;
    set_up(program, &mut driver, scene)?;
    let of = case(scene.connections);
    let known = measure(program, &mut driver, of.request(ACK)?.random(scene.connections), effort)?;
    let fresh = Effort { packets: effort.packets.min(SLOTS / 4 / (effort.rounds + 1)), ..effort };
    let new = measure(program, &mut driver, of.request(SYN)?.starting(scene.connections), fresh)?;
    Ok([("established", known), ("new", new)])
}

fn measure(program: &Program, driver: &mut Driver, mut plan: Plan, effort: Effort) -> Result<f64> {
    let (mut floor_plan, packets) = (plan, effort.packets);
    driver.run(Target::Lb, &mut plan, packets)?;
    let before = program.maps().reasons()?[Reason::Forwarded as usize];
    let rounds = take_turns(effort.rounds, || {
        let floor = driver.run(Target::Floor, &mut floor_plan, packets)?;
        Ok((floor.cost, driver.run(Target::Lb, &mut plan, packets)?.cost))
    })?;
    let forwarded = program.maps().reasons()?[Reason::Forwarded as usize] - before;
    let sent = u64::from(packets) * u64::from(effort.rounds);
    ensure!(forwarded as f64 >= sent as f64 * (1.0 - TOLERANCE), "{forwarded} of {sent} packets went on");
    Ok(rounds.raw - rounds.floor)
}

/// What two CPUs carry, both at work, as a multiple of what one of them carries alone: of the trivial program, of packets
/// of connections, of new ones. Each has flows of its own, as NICs spread them, and is measured in its own time: what else
/// the machine does takes time from both, but makes them no slower. Lines written by both would.
fn two_cpus(program: &mut Program, effort: Effort) -> Result<Vec<(String, f64)>> {
    ensure!(driver::cpus()?.len() > 1, "there is one CPU only");
    driver::pin_to(0)?;
    let new = || Driver::new(Some(program.lb()?), program.card(Nic::Front), driver::thread_time);
    let mut drivers = [new()?, new()?];
    set_up(program, &mut drivers[0], USUAL)?;
    let of = case(CONNECTIONS);
    let (known, fresh) = (of.request(ACK)?, of.request(SYN)?);
    let packets = effort.packets.min(CONNECTIONS / 2);
    let mut next = CONNECTIONS;
    let mut own_flows = |target: Target, plan: Plan, begins: bool| {
        let mut plans = || {
            let from = if begins { next } else { 0 };
            next += if begins { 2 * packets } else { 0 };
            [plan.starting(from), plan.starting(from + packets)]
        };
        let mut ratios = Vec::new();
        for _ in 0..effort.rounds {
            let alone = in_turn(&mut drivers, target, plans(), packets)?;
            let both = together(&mut drivers, target, plans(), packets)?;
            let carried = |costs: [f64; 2]| 1.0 / costs[0] + 1.0 / costs[1];
            ratios.push(carried(both) / carried(alone) * 2.0);
        }
        Ok::<f64, anyhow::Error>(median(ratios))
    };
    Ok(vec![
        ("two CPUs, floor".to_owned(), own_flows(Target::Floor, known, false)?),
        ("two CPUs, established".to_owned(), own_flows(Target::Lb, known, false)?),
        ("two CPUs, new".to_owned(), own_flows(Target::Lb, fresh, true)?),
    ])
}

/// What a packet costs each CPU while the other one has nothing to do with it.
fn in_turn(drivers: &mut [Driver; 2], target: Target, plans: [Plan; 2], packets: u32) -> Result<[f64; 2]> {
    let [first, second] = drivers;
    let [mut one, mut two] = plans;
    driver::pin_to(0)?;
    let first = first.run(target, &mut one, packets)?.cost;
    driver::pin_to(1)?;
    Ok([first, second.run(target, &mut two, packets)?.cost])
}

/// What it costs while both are at it.
fn together(drivers: &mut [Driver; 2], target: Target, plans: [Plan; 2], packets: u32) -> Result<[f64; 2]> {
    let start = Barrier::new(2);
    let run = |cpu: usize, driver: &mut Driver, mut plan: Plan| -> Result<f64> {
        let pinned = driver::pin_to(cpu);
        start.wait();
        pinned?;
        Ok(driver.run(target, &mut plan, packets)?.cost)
    };
    let [first, second] = drivers;
    let [one, two] = plans;
    thread::scope(|scope| {
        let second = scope.spawn(|| run(1, second, two));
        let first = run(0, first, one);
        // A panic goes on where the thread was started.
        let second = second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok([first?, second?])
    })
}
