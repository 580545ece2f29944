//! Nanoseconds of an IPv4 TCP packet, direct routing, above the floor in the same rounds.

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::{Addr, Family, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::{Memory as _, NewDest, NewService, Rules};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;

use super::{Figure, two_cpus};
use crate::bench::cases::{self, Case, Kind, Path};
use crate::bench::driver::{self, Driver, Plan, Target};
use crate::bench::fill;
use crate::bench::measure::{Effort, TOLERANCE, take_turns};
use crate::bpf::{self, Program, Sizes};
use crate::case::{Engine as _, Nic};
use crate::packets::tcp::{ACK, SYN};

/// Slots of the table: four million connections fill half of it.
pub const SLOTS: u32 = 1 << 23;
/// Connections where something else is varied.
pub const CONNECTIONS: u32 = 65_536;

/// What there is while a packet is measured.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    connections: u32,
    dests: u32,
    services: u32,
    scheduler: Scheduler,
}

/// Where nothing is varied.
pub const USUAL: Scene = Scene { connections: CONNECTIONS, dests: 4, services: 1, scheduler: Scheduler::Rr };

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
                    detail: None,
                });
            }
        }
        if two {
            two_cpus::all(program)?.into_iter().for_each(&mut *show);
        }
        Ok(())
    })
}

/// Packets of so many connections.
pub fn case(connections: u32) -> Case {
    Case { family: Family::V4, proto: Proto::TCP, kind: Kind::Established(Path::Dr, connections) }
}

/// Rules and connections.
pub fn set_up(program: &mut Program, driver: &mut Driver, scene: Scene) -> Result<()> {
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
