//! From what the tables should hold to the changes that get them there: only to services and dests that are the
//! configuration's, and none to what is right already.

use std::collections::{HashMap, HashSet};

use super::config::model::{Config, VirtualServer, dest_of};
use crate::control::balancer::Balancer;
use crate::control::model::{
    DestConf, DestId, Engine, Method, OnDown, Scheduler, Service, ServiceConf, ServiceId, TunnelConf,
};
use crate::control::refusal::{Refusal, Result};
use crate::control::request::{Request, ServiceAsk};
use crate::control::store::Store;

/// A service as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub id: ServiceId,
    /// How it is set.
    pub ask: ServiceAsk,
    /// Its dests, in the order they are added.
    pub dests: Vec<(DestId, DestConf)>,
    /// What becomes of the connections of those found dead, which may be among the former or not.
    pub dead: HashMap<DestId, OnDown>,
}

/// What is the configuration's: services, and dests in them whether they are in the table now or not. Everything else is
/// somebody else's and left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned(pub HashMap<ServiceId, HashSet<DestId>>);

impl Owned {
    /// What a configuration names.
    pub fn of(config: &Config) -> Self {
        let mut owned = Self::default();
        for server in &config.servers {
            for service in &server.services {
                owned.0.entry(*service).or_default().extend(dests_of(server, service));
            }
        }
        owned
    }

    /// Everything there is.
    pub fn all(services: &[Service]) -> Self {
        let dests = |service: &Service| service.dests.iter().map(|dest| dest.id).collect();
        Self(services.iter().map(|service| (service.id, dests(service))).collect())
    }

    /// Both.
    pub fn with(mut self, other: &Self) -> Self {
        for (service, dests) in &other.0 {
            self.0.entry(*service).or_default().extend(dests);
        }
        self
    }

    fn has(&self, service: &ServiceId, dest: &DestId) -> bool {
        self.0.get(service).is_some_and(|dests| dests.contains(dest))
    }
}

fn dests_of(server: &VirtualServer, service: &ServiceId) -> Vec<DestId> {
    let servers = server.servers.iter().map(|rs| dest_of(service, rs.addr, rs.port, rs.conf.method));
    let sorry = server.sorry.iter().map(|rs| dest_of(service, rs.addr, rs.port, rs.conf.method));
    servers.chain(sorry).collect()
}

/// The changes from `now` to all that is wanted; what is owned and not wanted goes.
pub fn plan(wanted: &[Wanted], owned: &Owned, now: &[Service]) -> Vec<Request> {
    let there: HashMap<ServiceId, &Service> = now.iter().map(|service| (service.id, service)).collect();
    let kept: HashSet<ServiceId> = wanted.iter().map(|wanted| wanted.id).collect();
    let gone = now.iter().filter(|service| !kept.contains(&service.id));
    let mut requests: Vec<Request> = gone.flat_map(|service| removal(service, owned)).collect();
    for wanted in wanted {
        requests.extend(service(wanted, owned, there.get(&wanted.id).copied()));
    }
    requests
}

/// The changes of one service.
pub fn service(wanted: &Wanted, owned: &Owned, now: Option<&Service>) -> Vec<Request> {
    let (id, ask) = (wanted.id, || wanted.ask.clone());
    let mut requests = Vec::new();
    match now {
        None => requests.push(Request::AddService { id, ask: ask() }),
        Some(now) if !is_set(&wanted.ask, &now.conf) => {
            requests.push(Request::EditService { id, ask: ask() })
        }
        Some(_) => {}
    }
    let there: HashMap<DestId, DestConf> =
        now.iter().flat_map(|service| &service.dests).map(|dest| (dest.id, dest.conf)).collect();
    // Before they leave.
    for dest in now.iter().flat_map(|service| &service.dests) {
        let fate = wanted.dead.get(&dest.id).copied();
        if dest.fate != fate && owned.has(&id, &dest.id) {
            requests.push(Request::SetFate { service: id, dest: dest.id, fate });
        }
    }
    for (dest, conf) in &wanted.dests {
        let (dest, conf) = (*dest, *conf);
        match there.get(&dest) {
            None => requests.push(Request::AddDest { service: id, dest, conf }),
            Some(found) if !is_same(found, &conf) => {
                requests.push(Request::EditDest { service: id, dest, conf });
            }
            Some(_) => {}
        }
    }
    // Last, so that there is always somebody to serve.
    let stays: HashSet<DestId> = wanted.dests.iter().map(|(dest, _)| *dest).collect();
    for dest in now.iter().flat_map(|service| &service.dests) {
        if !stays.contains(&dest.id) && owned.has(&id, &dest.id) {
            requests.push(Request::DeleteDest { service: id, dest: dest.id });
        }
    }
    requests
}

/// A service goes with its dests, unless some of them are somebody else's.
fn removal(service: &Service, owned: &Owned) -> Vec<Request> {
    let id = service.id;
    let Some(dests) = owned.0.get(&id) else { return Vec::new() };
    if service.dests.iter().all(|dest| dests.contains(&dest.id)) {
        return vec![Request::DeleteService { id }];
    }
    let ours = service.dests.iter().filter(|dest| dests.contains(&dest.id));
    ours.map(|dest| Request::DeleteDest { service: id, dest: dest.id }).collect()
}

fn is_set(ask: &ServiceAsk, conf: &ServiceConf) -> bool {
    Scheduler::from_name(&ask.scheduler) == Some(conf.scheduler)
        && ask.sched_flags == conf.sched_flags
        && ask.ops == conf.ops
        && ask.persistence == conf.persistence
        && ask.engine.as_deref() == conf.engine.map(Engine::name)
}

/// The same to a packet: without a tunnel its options do not count.
fn is_same(found: &DestConf, wanted: &DestConf) -> bool {
    let plain = |conf: &DestConf| {
        let tunnel = if conf.method == Method::Tunnel { conf.tunnel } else { TunnelConf::default() };
        DestConf { tunnel, ..*conf }
    };
    plain(found) == plain(wanted)
}

/// Makes the changes, many of them at once; what was refused, with the reason.
pub fn carry_out<S: Store>(
    balancer: &mut Balancer<S>,
    requests: &[Request],
) -> Result<Vec<(Request, Refusal)>> {
    let many = requests.len() > 1;
    if many {
        balancer.store_mut().begin()?;
    }
    let mut refused = Vec::new();
    for request in requests {
        if let Err(why) = balancer.apply(request) {
            refused.push((request.clone(), why));
        }
    }
    // After a single one too: refused, it leaves the tables open and locked, and nobody else's command gets through.
    balancer.store_mut().commit()?;
    Ok(refused)
}
