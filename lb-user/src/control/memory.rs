//! A store in ordinary memory, for tests of everything above [`Store`].

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::address::AddressKind;
use super::mark::Rule;
use super::model::{
    ConnRow, DaemonRow, Dest, DestConf, DestId, OnDown, Rates, Role, Service, ServiceConf, ServiceId, Stats,
    Timeouts,
};
use super::refusal::{Refusal, Result};
use super::request::Request;
use super::store::{Head, Store};
use super::sysctl::Sysctls;

/// The tables. What commands cannot set (counters, connections) is public, for tests to set.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    services: BTreeMap<Place, Service>,
    places: HashMap<ServiceId, Place>,
    made: u64,
    timeouts: Timeouts,
    daemons: Vec<DaemonRow>,
    marks: Vec<Rule>,
    sysctls: Sysctls,
    /// What [`Store::conns`] tells.
    pub conns: Vec<ConnRow>,
    /// Addresses whose kind the address alone does not tell.
    pub kinds: HashMap<IpAddr, AddressKind>,
    /// NICs that exist, for daemons.
    pub nics: Vec<String>,
    /// Refuses requests as a packet path would that cannot do everything.
    pub unsupported: Option<fn(&Request) -> Option<String>>,
}

/// Dump order: address services before mark services, older before newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    by_mark: bool,
    serial: u64,
}

impl MemoryStore {
    /// A service, to give it counters.
    pub fn service_mut(&mut self, id: &ServiceId) -> Option<&mut Service> {
        self.services.get_mut(self.places.get(id)?)
    }

    /// A dest, to give it counters and connections.
    pub fn dest_mut(&mut self, service: &ServiceId, dest: &DestId) -> Option<&mut Dest> {
        self.service_mut(service)?.dests.iter_mut().find(|d| d.id == *dest)
    }

    fn get(&self, id: &ServiceId) -> Option<&Service> {
        self.services.get(self.places.get(id)?)
    }

    fn known(&mut self, id: &ServiceId) -> Result<&mut Service> {
        self.service_mut(id).ok_or(Refusal::NoSuchService)
    }
}

impl Store for MemoryStore {
    fn services(&self) -> Result<Vec<Service>> {
        Ok(self.services.values().cloned().collect())
    }

    fn service(&self, id: &ServiceId) -> Result<Option<Service>> {
        Ok(self.get(id).cloned())
    }

    fn head(&self, id: &ServiceId) -> Result<Option<Head>> {
        Ok(self.get(id).map(|s| Head { conf: s.conf, dests: s.dests.len() }))
    }

    fn has_dest(&self, service: &ServiceId, dest: &DestId) -> Result<bool> {
        Ok(self.get(service).is_some_and(|s| s.dests.iter().any(|d| d.id == *dest)))
    }

    fn add_service(&mut self, id: &ServiceId, conf: &ServiceConf) -> Result<()> {
        let place = Place { by_mark: id.mark() != 0, serial: self.made };
        self.made += 1;
        self.places.insert(*id, place);
        let service = Service {
            id: *id,
            conf: *conf,
            stats: Stats::default(),
            rates: Rates::default(),
            dests: Vec::new(),
        };
        self.services.insert(place, service);
        Ok(())
    }

    fn edit_service(&mut self, id: &ServiceId, conf: &ServiceConf) -> Result<()> {
        self.known(id)?.conf = *conf;
        Ok(())
    }

    fn delete_service(&mut self, id: &ServiceId) -> Result<()> {
        if let Some(place) = self.places.remove(id) {
            self.services.remove(&place);
        }
        Ok(())
    }

    fn add_dest(&mut self, service: &ServiceId, dest: &DestId, conf: &DestConf) -> Result<()> {
        let new = Dest {
            id: *dest,
            conf: *conf,
            active: 0,
            inactive: 0,
            persistent: 0,
            stats: Stats::default(),
            rates: Rates::default(),
            fate: None,
        };
        self.known(service)?.dests.insert(0, new);
        Ok(())
    }

    fn edit_dest(&mut self, service: &ServiceId, dest: &DestId, conf: &DestConf) -> Result<()> {
        let found = self.dest_mut(service, dest).ok_or(Refusal::NoSuchDest)?;
        found.conf = *conf;
        found.fate = found.fate.filter(|_| conf.weight == 0);
        Ok(())
    }

    fn set_fate(&mut self, service: &ServiceId, dest: &DestId, fate: Option<OnDown>) -> Result<()> {
        self.dest_mut(service, dest).ok_or(Refusal::NoSuchDest)?.fate = fate;
        Ok(())
    }

    fn delete_dest(&mut self, service: &ServiceId, dest: &DestId) -> Result<()> {
        self.known(service)?.dests.retain(|d| d.id != *dest);
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.services.clear();
        self.places.clear();
        Ok(())
    }

    fn zero(&mut self, service: Option<&ServiceId>) -> Result<()> {
        match service {
            Some(id) => forget_counters(self.known(id)?),
            None => self.services.values_mut().for_each(forget_counters),
        }
        Ok(())
    }

    fn timeouts(&self) -> Result<Timeouts> {
        Ok(self.timeouts)
    }

    fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<()> {
        self.timeouts = *timeouts;
        Ok(())
    }

    fn conns(&self) -> Result<Vec<ConnRow>> {
        Ok(self.conns.clone())
    }

    fn conns_of(&self, dests: &[(ServiceId, DestId)]) -> Result<Vec<ConnRow>> {
        let is_of = |row: &&ConnRow| {
            let end = DestId { addr: row.dest.addr, port: row.dest.port };
            let virt = ServiceId::Addr { proto: row.proto, addr: row.virt.addr, port: row.virt.port };
            dests.contains(&(virt, end))
        };
        Ok(self.conns.iter().filter(is_of).cloned().collect())
    }

    fn daemons(&self) -> Result<Vec<DaemonRow>> {
        Ok(self.daemons.clone())
    }

    fn start_daemon(&mut self, daemon: &DaemonRow) -> Result<()> {
        if !self.nics.contains(&daemon.interface) {
            return Err(Refusal::NoSuchDevice);
        }
        if self.daemons.iter().any(|d| d.role == daemon.role) {
            return Err(Refusal::DaemonRuns);
        }
        self.daemons.push(daemon.clone());
        Ok(())
    }

    fn stop_daemon(&mut self, role: Role) -> Result<()> {
        self.daemons.retain(|d| d.role != role);
        Ok(())
    }

    fn marks(&self) -> Result<Vec<Rule>> {
        Ok(self.marks.clone())
    }

    fn change_marks(&mut self, change: &mut dyn FnMut(&mut Vec<Rule>) -> Result<()>) -> Result<()> {
        let mut marks = self.marks.clone();
        change(&mut marks)?;
        self.marks = marks;
        Ok(())
    }

    fn sysctls(&self) -> Result<Sysctls> {
        Ok(self.sysctls)
    }

    fn change_sysctls(&mut self, change: &mut dyn FnMut(&mut Sysctls) -> Result<()>) -> Result<()> {
        let mut sysctls = self.sysctls;
        change(&mut sysctls)?;
        self.sysctls = sysctls;
        Ok(())
    }

    fn address_kind(&self, addr: &IpAddr) -> Result<AddressKind> {
        Ok(self.kinds.get(addr).copied().unwrap_or_else(|| AddressKind::of(addr)))
    }

    fn unsupported(&self, request: &Request) -> Option<String> {
        self.unsupported.and_then(|refuses| refuses(request))
    }
}

fn forget_counters(service: &mut Service) {
    service.stats = Stats::default();
    service.rates = Rates::default();
    for dest in &mut service.dests {
        dest.stats = Stats::default();
        dest.rates = Rates::default();
    }
}
