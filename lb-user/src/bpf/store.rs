//! [`Store`] over the pinned maps.
//!
//! A listing takes the lock for as long as it reads. A change takes it from its first look at the table to its
//! publication, a restore from its first line that changes something to its last.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use lb_common::service::ServiceKey;

use super::change::{self, Change};
use super::create::{self, Undo};
use super::lock::{self, Hold, Lock};
use super::marks::Marks;
use super::pins::Rules;
use super::route::{self, Router};
use super::sizes::RuleSizes;
use super::table::{Reader, Row, Table};
use super::{bpffs, conns, sysctls};
use crate::control::address::AddressKind;
use crate::control::mark::Rule;
use crate::control::model::{
    ConnRow, DaemonRow, DestConf, DestId, OnDown, Role, Service, ServiceConf, ServiceId, Timeouts,
};
use crate::control::refusal::Result;
use crate::control::store::{Head, Store};
use crate::control::sysctl::Sysctls;
use crate::sync::daemon;

/// The tables of this network namespace.
#[derive(Debug)]
pub struct BpfStore {
    dir: PathBuf,
    /// As it was named.
    bpffs: Option<PathBuf>,
    batch: bool,
    open: RefCell<Option<Open>>,
    router: RefCell<Router>,
}

/// The tables while they are being changed. Fields drop in this order: the lock goes last.
#[derive(Debug)]
struct Open {
    change: Change,
    _lock: Lock,
}

impl BpfStore {
    /// Of this network namespace, with pins in `bpffs` or where they usually are. Makes nothing.
    pub fn new(bpffs: Option<&std::path::Path>) -> anyhow::Result<Self> {
        Ok(Self {
            dir: bpffs::instance(bpffs)?,
            bpffs: bpffs.map(std::path::Path::to_owned),
            batch: false,
            open: RefCell::new(None),
            router: RefCell::new(Router::default()),
        })
    }

    /// Looks at the table as it is now, changes that are held back included. `None`: there is none.
    fn look<R>(&self, look: impl FnOnce(&Rules, &Table) -> Result<R>) -> Result<Option<R>> {
        if let Some(open) = &*self.open.borrow() {
            return look(open.change.rules(), open.change.table()).map(Some);
        }
        let Some(_lock) = lock::take(&self.dir, Hold::Shared)? else { return Ok(None) };
        let Some(rules) = Rules::open(&self.dir)? else { return Ok(None) };
        let table = Table::read(&rules)?;
        look(&rules, &table).map(Some)
    }

    /// Looks at the table with the intention to change it: nobody else may, from here on.
    fn look_ahead<R>(&self, look: impl FnOnce(&Change) -> R) -> Result<Option<R>> {
        let mut open = self.open.borrow_mut();
        if open.is_none() {
            let Some(lock) = lock::take(&self.dir, Hold::Alone)? else { return Ok(None) };
            let Some(rules) = Rules::open(&self.dir)? else { return Ok(None) };
            *open = Some(Open { change: Change::open(rules, &self.dir)?, _lock: lock });
        }
        Ok(open.as_ref().map(|open| look(&open.change)))
    }

    /// Makes a change, and publishes it unless more are to come. Makes the tables if there are none.
    fn change(&mut self, change: impl FnOnce(&mut Change) -> Result<()>) -> Result<()> {
        let slot = self.open.get_mut();
        let open = match slot {
            Some(open) => open,
            None => slot.insert(make(&self.dir)?),
        };
        let done = change(&mut open.change);
        if self.batch {
            return done;
        }
        let done = done.and_then(|()| open.change.publish());
        *slot = None;
        done
    }
}

/// Opens the tables, made if need be.
fn make(dir: &std::path::Path) -> Result<Open> {
    let mut undo = Undo::default();
    if !dir.exists() {
        undo.directory(dir);
    }
    let lock = lock::make(dir)?;
    let rules = open_or_make(dir, None, &mut undo)?;
    let change = Change::open(rules, dir)?;
    undo.keep();
    Ok(Open { change, _lock: lock })
}

/// The tables of the rules, made if need be, with room for `dests` if anybody says how many.
pub(super) fn open_or_make(
    dir: &std::path::Path,
    dests: Option<u32>,
    undo: &mut Undo,
) -> anyhow::Result<Rules> {
    let sizes = RuleSizes::choose(dir, dests)?;
    if let Some(rules) = Rules::open(dir)? {
        return Ok(rules);
    }
    create::rules(dir, &sizes, undo)?;
    Rules::open(dir)?.context("the tables just made are gone")
}

impl Store for BpfStore {
    fn services(&self) -> Result<Vec<Service>> {
        let services = self.look(|rules, table| Ok(Reader::new(rules)?.services(table)?))?;
        Ok(services.unwrap_or_default())
    }

    fn service(&self, id: &ServiceId) -> Result<Option<Service>> {
        let key = ServiceKey::from(*id);
        let found = self.look(|rules, table| {
            let Some(row) = table.rows.get(&key) else { return Ok(None) };
            Ok(Some(Reader::new(rules)?.only(row)?))
        })?;
        Ok(found.flatten())
    }

    fn head(&self, id: &ServiceId) -> Result<Option<Head>> {
        let head = |row: &Row| Head { conf: row.conf(), dests: row.list.len() };
        Ok(self.look_ahead(|change| change.row(id).map(head))?.flatten())
    }

    fn has_dest(&self, service: &ServiceId, dest: &DestId) -> Result<bool> {
        Ok(self.look_ahead(|change| change.has_dest(service, dest))?.unwrap_or(false))
    }

    fn add_service(&mut self, id: &ServiceId, conf: &ServiceConf) -> Result<()> {
        self.change(|change| change.add_service(id, conf))
    }

    fn edit_service(&mut self, id: &ServiceId, conf: &ServiceConf) -> Result<()> {
        self.change(|change| change.edit_service(id, conf))
    }

    fn delete_service(&mut self, id: &ServiceId) -> Result<()> {
        self.change(|change| change.delete_service(id))
    }

    fn add_dest(&mut self, service: &ServiceId, dest: &DestId, conf: &DestConf) -> Result<()> {
        let way = change::prepare(self.router.get_mut(), &dest.addr, !self.batch)?;
        self.change(|change| change.add_dest(service, dest, conf, &way))
    }

    fn edit_dest(&mut self, service: &ServiceId, dest: &DestId, conf: &DestConf) -> Result<()> {
        self.change(|change| change.edit_dest(service, dest, conf))
    }

    fn set_fate(&mut self, service: &ServiceId, dest: &DestId, fate: Option<OnDown>) -> Result<()> {
        self.change(|change| change.set_fate(service, dest, fate))
    }

    fn delete_dest(&mut self, service: &ServiceId, dest: &DestId) -> Result<()> {
        self.change(|change| change.delete_dest(service, dest))
    }

    fn clear(&mut self) -> Result<()> {
        if self.look_ahead(|_| ())?.is_none() {
            return Ok(());
        }
        self.change(Change::clear)
    }

    fn zero(&mut self, service: Option<&ServiceId>) -> Result<()> {
        if self.look_ahead(|_| ())?.is_none() {
            return Ok(());
        }
        self.change(|change| change.zero(service))
    }

    fn timeouts(&self) -> Result<Timeouts> {
        let given = self.look(|rules, _| {
            let [tcp, tcp_fin, udp] = rules.settings()?.given.each_ref().map(|cell| cell.load());
            Ok(Timeouts { tcp, tcp_fin, udp })
        })?;
        Ok(given.unwrap_or_default())
    }

    fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<()> {
        self.change(|change| {
            let settings = change.rules().settings()?;
            settings.set_timeouts(timeouts.tcp, timeouts.tcp_fin, timeouts.udp);
            Ok(())
        })
    }

    fn conns(&self) -> Result<Vec<ConnRow>> {
        Ok(self.look(|rules, _| Ok(conns::rows(&self.dir, rules)?))?.unwrap_or_default())
    }

    fn conns_of(&self, dests: &[(ServiceId, DestId)]) -> Result<Vec<ConnRow>> {
        Ok(self.look(|rules, _| Ok(conns::rows_of(&self.dir, rules, dests)?))?.unwrap_or_default())
    }

    fn daemons(&self) -> Result<Vec<DaemonRow>> {
        Ok(daemon::all()?.into_iter().map(|running| running.daemon).collect())
    }

    fn mtu(&self, interface: &str) -> Result<u32> {
        Ok(route::mtu(interface)?)
    }

    fn start_daemon(&mut self, row: &DaemonRow) -> Result<()> {
        daemon::start(&daemon::Options { daemon: row.clone(), bpffs: self.bpffs.clone() })
    }

    fn stop_daemon(&mut self, role: Role) -> Result<()> {
        daemon::stop(role)
    }

    fn marks(&self) -> Result<Vec<Rule>> {
        if let Some(open) = &*self.open.borrow() {
            return Ok(open.change.marks().rules.clone());
        }
        Ok(self.look(|rules, _| Ok(Marks::read(rules)?.rules))?.unwrap_or_default())
    }

    fn change_marks(&mut self, change: &mut dyn FnMut(&mut Vec<Rule>) -> Result<()>) -> Result<()> {
        self.change(|open| open.change_marks(change))
    }

    fn sysctls(&self) -> Result<Sysctls> {
        Ok(self.look(|rules, _| Ok(sysctls::read(rules.settings()?)))?.unwrap_or_default())
    }

    fn change_sysctls(&mut self, change: &mut dyn FnMut(&mut Sysctls) -> Result<()>) -> Result<()> {
        self.change(|open| {
            let settings = open.rules().settings()?;
            let mut all = sysctls::read(settings);
            change(&mut all)?;
            sysctls::write(settings, &all);
            Ok(())
        })
    }

    fn address_kind(&self, addr: &IpAddr) -> Result<AddressKind> {
        let mut router = self.router.borrow_mut();
        // The first that is asked for a change; what follows may rely on the answer.
        if !self.batch {
            router.forget();
        }
        Ok(router.way(addr)?.kind)
    }

    fn begin(&mut self) -> Result<()> {
        self.batch = true;
        self.router.get_mut().forget();
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.batch = false;
        match self.open.get_mut().take() {
            Some(mut open) => open.change.publish(),
            None => Ok(()),
        }
    }
}
