//! The rules: what IPVS's kernel side checks of a change, in its order. What passes is handed to the [`Store`].

use super::model::{
    DaemonRow, DestConf, DestId, Engine, Method, OnDown, Role, Scheduler, Service, ServiceConf, ServiceId,
    Timeouts, TunType, family_of,
};
use super::refusal::{Refusal, Result};
use super::request::{Request, ServiceAsk};
use super::store::{Head, Store};

/// Slots in mh's table: more dests than that cannot all be in it.
const MH_SLOTS: usize = 4093;

/// The verbs over a store.
#[derive(Debug)]
pub struct Balancer<S> {
    store: S,
}

impl<S: Store> Balancer<S> {
    /// Over these tables.
    pub fn new(store: S) -> Self {
        Self { store }
    }

    /// The tables.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The tables, to change them past the rules.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Makes one change, or refuses it and changes nothing.
    pub fn apply(&mut self, request: &Request) -> Result<()> {
        match request {
            Request::AddService { id, ask } => self.add_service(request, id, ask),
            Request::EditService { id, ask } => self.edit_service(request, id, ask),
            Request::DeleteService { id } => self.delete_service(request, id),
            Request::Clear => self.clear(request),
            Request::AddDest { service, dest, conf } => self.add_dest(request, service, dest, conf),
            Request::EditDest { service, dest, conf } => self.edit_dest(request, service, dest, conf),
            Request::DeleteDest { service, dest } => self.delete_dest(request, service, dest),
            Request::SetFate { service, dest, fate } => self.set_fate(request, service, dest, *fate),
            Request::Zero { service } => self.zero(request, service.as_ref()),
            Request::SetTimeouts(wanted) => self.set_timeouts(request, wanted),
            Request::StartDaemon(daemon) => self.start_daemon(request, daemon),
            Request::StopDaemon { role, .. } => self.stop_daemon(request, *role),
        }
    }

    /// One service with its dests, for a listing.
    pub fn service(&self, id: &ServiceId) -> Result<Service> {
        self.store.service(id)?.ok_or(Refusal::NoSuchService)
    }

    fn add_service(&mut self, request: &Request, id: &ServiceId, ask: &ServiceAsk) -> Result<()> {
        if self.store.head(id)?.is_some() {
            return Err(Refusal::ServiceExists);
        }
        let conf = resolve(ask)?;
        self.supported(request)?;
        self.store.add_service(id, &conf)
    }

    fn edit_service(&mut self, request: &Request, id: &ServiceId, ask: &ServiceAsk) -> Result<()> {
        let head = self.head(id, Refusal::NoSuchService)?;
        let conf = resolve(ask)?;
        fits_table(conf.scheduler, head.dests)?;
        self.supported(request)?;
        self.store.edit_service(id, &conf)
    }

    fn delete_service(&mut self, request: &Request, id: &ServiceId) -> Result<()> {
        self.head(id, Refusal::NoSuchService)?;
        self.supported(request)?;
        self.store.delete_service(id)
    }

    fn clear(&mut self, request: &Request) -> Result<()> {
        self.supported(request)?;
        self.store.clear()
    }

    fn add_dest(
        &mut self,
        request: &Request,
        service: &ServiceId,
        dest: &DestId,
        conf: &DestConf,
    ) -> Result<()> {
        let head = self.head(service, Refusal::ServiceNotDefined)?;
        self.families_fit(service, dest, conf)?;
        values_fit(conf)?;
        if self.store.has_dest(service, dest)? {
            return Err(Refusal::DestExists);
        }
        if !self.store.address_kind(&dest.addr)?.fits_dest() {
            return Err(Refusal::Invalid);
        }
        fits_table(head.conf.scheduler, head.dests + 1)?;
        self.supported(request)?;
        self.store.add_dest(service, dest, conf)
    }

    fn edit_dest(
        &mut self,
        request: &Request,
        service: &ServiceId,
        dest: &DestId,
        conf: &DestConf,
    ) -> Result<()> {
        self.head(service, Refusal::ServiceNotDefined)?;
        self.families_fit(service, dest, conf)?;
        values_fit(conf)?;
        self.known_dest(service, dest)?;
        self.supported(request)?;
        self.store.edit_dest(service, dest, conf)
    }

    fn delete_dest(&mut self, request: &Request, service: &ServiceId, dest: &DestId) -> Result<()> {
        self.head(service, Refusal::ServiceNotDefined)?;
        self.known_dest(service, dest)?;
        self.supported(request)?;
        self.store.delete_dest(service, dest)
    }

    fn set_fate(
        &mut self,
        request: &Request,
        service: &ServiceId,
        dest: &DestId,
        fate: Option<OnDown>,
    ) -> Result<()> {
        self.head(service, Refusal::ServiceNotDefined)?;
        self.known_dest(service, dest)?;
        self.supported(request)?;
        self.store.set_fate(service, dest, fate)
    }

    fn zero(&mut self, request: &Request, service: Option<&ServiceId>) -> Result<()> {
        let service = service.filter(|id| !is_anything(id));
        if let Some(id) = service {
            self.head(id, Refusal::NoSuchService)?;
        }
        self.supported(request)?;
        self.store.zero(service)
    }

    fn set_timeouts(&mut self, request: &Request, wanted: &Timeouts) -> Result<()> {
        let now = self.store.timeouts()?;
        let or = |wanted: u32, now: u32| if wanted == 0 { now } else { wanted };
        let merged = Timeouts {
            tcp: or(wanted.tcp, now.tcp),
            tcp_fin: or(wanted.tcp_fin, now.tcp_fin),
            udp: or(wanted.udp, now.udp),
        };
        self.supported(request)?;
        self.store.set_timeouts(&merged)
    }

    /// Sync messages carry one family per connection: daemons and mixed dests exclude each other.
    fn start_daemon(&mut self, request: &Request, daemon: &DaemonRow) -> Result<()> {
        self.supported(request)?;
        if self.store.services()?.iter().any(has_mixed_dests) {
            return Err(Refusal::Invalid);
        }
        let daemon = daemon.clone().resolved(self.store.mtu(&daemon.interface)?);
        self.store.start_daemon(&daemon)
    }

    fn stop_daemon(&mut self, request: &Request, role: Role) -> Result<()> {
        self.supported(request)?;
        if !self.store.daemons()?.iter().any(|daemon| daemon.role == role) {
            return Err(Refusal::NoDaemon);
        }
        self.store.stop_daemon(role)
    }

    fn head(&self, id: &ServiceId, otherwise: Refusal) -> Result<Head> {
        self.store.head(id)?.ok_or(otherwise)
    }

    fn known_dest(&self, service: &ServiceId, dest: &DestId) -> Result<()> {
        if self.store.has_dest(service, dest)? { Ok(()) } else { Err(Refusal::NoSuchDest) }
    }

    /// A dest of the other family can only be tunnelled to.
    fn families_fit(&self, service: &ServiceId, dest: &DestId, conf: &DestConf) -> Result<()> {
        if service.family() == family_of(&dest.addr) {
            return Ok(());
        }
        if conf.method != Method::Tunnel || !self.store.daemons()?.is_empty() {
            return Err(Refusal::Invalid);
        }
        Ok(())
    }

    fn supported(&self, request: &Request) -> Result<()> {
        self.store.unsupported(request).map_or(Ok(()), |what| Err(Refusal::Unsupported(what)))
    }
}

/// Names become values.
fn resolve(ask: &ServiceAsk) -> Result<ServiceConf> {
    let scheduler = Scheduler::from_name(&ask.scheduler).ok_or(Refusal::SchedulerNotFound)?;
    let engine = match &ask.engine {
        Some(name) => Some(Engine::from_name(name).ok_or(Refusal::SchedulerNotFound)?),
        None => None,
    };
    Ok(ServiceConf {
        scheduler,
        sched_flags: ask.sched_flags,
        ops: ask.ops,
        persistence: ask.persistence,
        engine,
    })
}

fn values_fit(conf: &DestConf) -> Result<()> {
    if conf.weight > i32::MAX as u32 || conf.lower > conf.upper {
        return Err(Refusal::OutOfRange);
    }
    if conf.upper > i32::MAX as u32 {
        return Err(Refusal::Invalid);
    }
    if conf.tunnel.kind == TunType::Gue && conf.tunnel.port.is_zero() {
        return Err(Refusal::Invalid);
    }
    Ok(())
}

fn fits_table(scheduler: Scheduler, dests: usize) -> Result<()> {
    if scheduler == Scheduler::Mh && dests > MH_SLOTS { Err(Refusal::Invalid) } else { Ok(()) }
}

fn has_mixed_dests(service: &Service) -> bool {
    service.dests.iter().any(|dest| family_of(&dest.id.addr) != service.id.family())
}

/// `-Z` of an address service that names nothing (`0.0.0.0:0`) means all of them.
fn is_anything(id: &ServiceId) -> bool {
    matches!(id, ServiceId::Addr { addr, port, .. } if addr.is_unspecified() && port.is_zero())
}
