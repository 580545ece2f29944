//! The agent without its loop: a configuration, the state of everything in it, and the tables it is kept true in.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::apply::{self, Owned, Wanted};
use super::check::path::Paths;
use super::check::watch::{Report, Watches};
use super::config::model::{CheckSpec, Config, SyncDaemon, VirtualServer};
use super::drains::{DrainFile, Drains};
use super::metrics::view::{self, View};
use super::remember::{Memory, Saved};
use super::verdict::{Event, State};
use super::{fifo, poke, role, script};
use crate::bpf::announce::Announcement;
use crate::cli::save::request_line;
use crate::control::balancer::Balancer;
use crate::control::model::{DestId, OnDown, Role, ServiceId, Timeouts};
use crate::control::request::Request;
use crate::control::store::Store;

/// Which check of which server of which virtual server.
type Users = HashMap<CheckSpec, Vec<(usize, usize, usize)>>;

/// The agent.
pub struct Keeper<S> {
    balancer: Balancer<S>,
    memory: Memory,
    drain_file: DrainFile,
    drains: Drains,
    config: Config,
    states: Vec<State>,
    users: Users,
    /// Virtual servers whose address is elsewhere.
    suspended: Vec<bool>,
    watches: Watches,
    owned: Owned,
    /// What sync daemons were set to, and when.
    roles: Option<(SyncDaemon, Vec<Role>)>,
    roles_at: Option<Instant>,
    unsaved: bool,
}

impl<S: Store> Keeper<S> {
    /// With nothing to do yet. Reports of checks come out at `reports`' other end and have to be given to
    /// [`Keeper::heard`].
    pub fn new(store: S, memory: Memory, paths: Paths, reports: mpsc::UnboundedSender<Report>) -> Self {
        Self {
            balancer: Balancer::new(store),
            drain_file: DrainFile::beside(&memory),
            drains: Drains::default(),
            memory,
            config: Config::default(),
            states: Vec::new(),
            users: Users::new(),
            suspended: Vec::new(),
            watches: Watches::new(paths, reports),
            owned: Owned::default(),
            roles: None,
            roles_at: None,
            unsaved: false,
        }
    }

    /// Begins with this configuration, where an agent before it may have stopped.
    pub fn start(&mut self, config: Config) -> anyhow::Result<()> {
        let saved = self.memory.load()?;
        self.owned = saved.owned.clone();
        if config.globals.flush {
            let services = self.balancer.store().services()?;
            self.owned = std::mem::take(&mut self.owned).with(&Owned::all(&services));
        }
        let init = config.globals.init_notifies;
        self.take(config, &saved)?;
        if init {
            let ups = self.config.servers.iter().zip(&self.states).flat_map(|(server, state)| {
                let up = server.servers.iter().enumerate().filter(|(at, _)| state.is_up(*at));
                up.filter_map(|(_, rs)| rs.notify_up.clone().map(Event::Run))
            });
            let ups: Vec<Event> = ups.collect();
            self.tell(ups);
        }
        Ok(())
    }

    /// Goes over to another configuration; what is the same in both is not touched.
    pub fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        let saved = Saved { owned: self.owned.clone(), checks: self.watches.remember() };
        self.take(config, &saved)
    }

    fn take(&mut self, config: Config, saved: &Saved) -> anyhow::Result<()> {
        // What can fail comes first: after it there is no way back.
        self.drains = self.drain_file.load()?;
        let (now, times) = (self.balancer.store().services()?, self.balancer.store().timeouts()?);
        let old = std::mem::replace(&mut self.config, config);
        let mut events = left(&old, &self.config);
        let before: HashMap<String, State> =
            old.servers.into_iter().map(|server| server.name).zip(std::mem::take(&mut self.states)).collect();
        self.watch(saved);
        for server in &self.config.servers {
            let verdict =
                |rs: usize, check: usize| self.watches.verdict(&server.servers[rs].checks[check].spec);
            let (state, told) = State::new(server, before.get(&server.name), verdict);
            self.states.push(state);
            events.extend(told);
        }
        self.suspended = vec![false; self.config.servers.len()];
        // Known to be ours before it is there: whoever comes after a crash must find it so.
        let ours = Owned::of(&self.config);
        let all = std::mem::take(&mut self.owned).with(&ours);
        self.write(&Saved { owned: all.clone(), checks: saved.checks.clone() });
        let wanted = wanted(&self.config, &mut self.states, &self.drains, Instant::now());
        let mut requests = Vec::from_iter(timeouts(&self.config, times));
        requests.extend(apply::plan(&wanted, &all, &now));
        self.carry_out(&requests);
        self.owned = ours;
        self.tell(events);
        self.check_marks();
        self.follow_addresses();
        self.follow_role();
        self.save();
        Ok(())
    }

    /// Starts and ends checks.
    fn watch(&mut self, saved: &Saved) {
        self.users.clear();
        let mut specs: HashMap<CheckSpec, bool> = HashMap::new();
        for (at, server) in self.config.servers.iter().enumerate() {
            for (rs_at, rs) in server.servers.iter().enumerate() {
                for (check_at, check) in rs.checks.iter().enumerate() {
                    *specs.entry(check.spec.clone()).or_default() |= check.log_all_failures;
                    self.users.entry(check.spec.clone()).or_default().push((at, rs_at, check_at));
                    if !self.watches.has(&check.spec) {
                        let (rs, vs) = (&rs.name, &server.name);
                        info!(
                            virtual_server = vs,
                            real_server = rs,
                            "Activating healthchecker for service {rs} for VS {vs}"
                        );
                    }
                }
            }
        }
        self.watches.replace(specs, &saved.checks);
    }

    /// A refusal is one line; the others are made all the same.
    fn carry_out(&mut self, requests: &[Request]) {
        for request in requests {
            tracing::debug!("{}", request_line(request));
        }
        match apply::carry_out(&mut self.balancer, requests) {
            Ok(refused) => {
                for (request, why) in refused {
                    error!("IPVS cmd `{}` error: {why}", request_line(&request));
                }
            }
            Err(why) => error!("IPVS cmd error: {why}"),
        }
        self.tell_clients(requests);
    }

    /// Clients of servers found dead that are to be reset may be waiting for an answer.
    fn tell_clients(&self, requests: &[Request]) {
        let dead: Vec<(ServiceId, DestId)> = requests
            .iter()
            .filter_map(|request| match request {
                Request::SetFate { service, dest, fate: Some(OnDown::Reset) } => Some((*service, *dest)),
                _ => None,
            })
            .collect();
        if dead.is_empty() {
            return;
        }
        match self.balancer.store().conns_of(&dead) {
            Ok(conns) => poke::start(conns),
            Err(why) => warn!("clients of a dead server are reset only when they send something: {why}"),
        }
    }

    /// Checks have found something out.
    pub fn heard(&mut self, reports: &[Report]) {
        let (now, mut events, mut changed) = (Instant::now(), Vec::new(), BTreeSet::new());
        for report in reports {
            if !self.watches.take(report) {
                continue;
            }
            self.unsaved = true;
            for &(at, rs, check) in self.users.get(&report.spec).into_iter().flatten() {
                if let Some((server, state)) = self.config.servers.get(at).zip(self.states.get_mut(at)) {
                    events.extend(state.set(server, rs, check, report.verdict, now));
                    changed.insert(at);
                }
            }
        }
        if self.look_at_drains() {
            changed.extend(0..self.states.len());
        }
        self.bring_up_to_date(changed, now);
        self.tell(events);
    }

    /// What time alone changes: weights that rise, addresses that come and go. To be called every second.
    pub fn tick(&mut self) {
        let rising = self.states.iter().enumerate().filter(|(_, state)| state.is_rising()).map(|(at, _)| at);
        let mut due: BTreeSet<usize> = rising.collect();
        if self.look_at_drains() {
            due.extend(0..self.states.len());
        }
        self.bring_up_to_date(due, Instant::now());
        self.follow_addresses();
        self.follow_role();
        if self.unsaved {
            self.save();
        }
    }

    /// Has somebody begun or ended a drain?
    fn look_at_drains(&mut self) -> bool {
        match self.drain_file.load() {
            Ok(found) if found == self.drains => false,
            Ok(found) => {
                self.drains = found;
                true
            }
            Err(error) => {
                warn!("{error:#}");
                false
            }
        }
    }

    fn bring_up_to_date(&mut self, which: BTreeSet<usize>, now: Instant) {
        let mut requests = Vec::new();
        for at in which {
            let Some((server, state)) = self.config.servers.get(at).zip(self.states.get_mut(at)) else {
                continue;
            };
            for mut wanted in state.wanted(server, now) {
                self.drains.hold_back(&mut wanted);
                match self.balancer.store().service(&wanted.id) {
                    Ok(found) => requests.extend(apply::service(&wanted, &self.owned, found.as_ref())),
                    Err(why) => error!("IPVS cmd error: {why}"),
                }
            }
        }
        if !requests.is_empty() {
            self.carry_out(&requests);
        }
    }

    /// `lvs_sync_daemon`: the daemons of this machine's roles run, and no others. One that ended is started again; what cannot
    /// be done is tried now and then.
    fn follow_role(&mut self) {
        /// From one try to the next.
        const AGAIN: Duration = Duration::from_secs(10);
        let daemon = self.config.globals.sync.clone();
        let wanted = daemon.map(|daemon| (daemon, role::wanted(&self.config, &own_addresses())));
        let is_new = self.roles != wanted;
        if !is_new && (wanted.is_none() || self.roles_at.is_some_and(|at| at.elapsed() < AGAIN)) {
            return;
        }
        match self.balancer.store().daemons() {
            Ok(now) => {
                let changes = role::changes(wanted.as_ref(), &now);
                if is_new {
                    let names = wanted.iter().flat_map(|(_, roles)| roles).map(|role| role.name());
                    info!("Sync daemons: {}", names.collect::<Vec<_>>().join(" and "));
                } else if !changes.is_empty() {
                    warn!("Sync daemons are not as they were set up: set up again");
                }
                if is_new || !changes.is_empty() {
                    self.roles_at = Some(Instant::now());
                }
                self.carry_out(&changes);
                self.roles = wanted;
            }
            Err(why) => error!("IPVS cmd error: {why}"),
        }
    }

    /// `ha_suspend`: checks pause where no address is this machine's.
    fn follow_addresses(&mut self) {
        if !self.config.servers.iter().any(|server| server.ha_suspend) {
            return;
        }
        let own = own_addresses();
        let mut changed = false;
        for (server, suspended) in self.config.servers.iter().zip(&mut self.suspended) {
            let here = !server.ha_suspend || server.addresses().any(|addr| own.contains(&addr));
            if *suspended == here {
                *suspended = !here;
                changed = true;
                let verb = if here { "Activating" } else { "Suspending" };
                for rs in server.servers.iter().filter(|rs| !rs.checks.is_empty()) {
                    let (rs, vs) = (&rs.name, &server.name);
                    info!(
                        virtual_server = vs,
                        real_server = rs,
                        "{verb} healthchecker for service {rs} for VS {vs}"
                    );
                }
            }
        }
        if changed {
            for (spec, users) in &self.users {
                let active = users.iter().any(|(at, ..)| self.suspended.get(*at) == Some(&false));
                self.watches.set_active(spec, active);
            }
        }
    }

    /// A mark that nothing gives catches nothing.
    fn check_marks(&self) {
        let marks = self.balancer.store().marks().unwrap_or_default();
        for server in &self.config.servers {
            for mark in server.services.iter().map(ServiceId::mark).filter(|mark| *mark != 0) {
                if !marks.iter().any(|rule| rule.mark == mark) {
                    warn!(
                        "{}: no rule gives mark {mark}: `lb-user mark add --mark {mark} …` makes one",
                        server.name
                    );
                }
            }
        }
    }

    fn save(&mut self) {
        self.write(&Saved { owned: self.owned.clone(), checks: self.watches.remember() });
    }

    /// What cannot be written now is tried again in a second.
    fn write(&mut self, saved: &Saved) {
        let written = self.memory.save(saved);
        self.unsaved = written.is_err();
        if let Err(error) = written {
            warn!("{error:#}");
        }
    }

    /// Writes down what is not yet, before the process ends.
    pub fn rest(&mut self) {
        if self.unsaved {
            self.save();
        }
    }

    /// Takes the services away, as keepalived does when it stops.
    pub fn purge(&mut self) -> anyhow::Result<()> {
        self.config.globals.sync = None;
        self.follow_role();
        let now = self.balancer.store().services()?;
        let requests = apply::plan(&[], &self.owned, &now);
        self.carry_out(&requests);
        for server in &self.config.servers {
            info!(virtual_server = server.name, "Removing Virtual Server {}", server.name);
        }
        let farewells =
            self.config.servers.iter().zip(&self.states).flat_map(|(server, state)| state.farewell(server));
        let farewells: Vec<Event> = farewells.collect();
        self.tell(farewells);
        self.unsaved = false;
        self.memory.forget()
    }

    fn tell(&self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Log { line, virtual_server, real_server } => {
                    info!(virtual_server, real_server, "{line}");
                }
                Event::Run(script) => script::start(script),
                Event::Fifo(line) => fifo::write(&self.config.globals.fifos, &line),
            }
        }
    }

    /// What a scrape shows of the agent. `loading`: what the last reading of the configuration came to.
    pub fn view(&self, loading: view::Loading) -> View {
        let servers = self.config.servers.iter().zip(&self.states);
        let servers = servers.map(|(server, state)| view::VirtualServer {
            name: server.name.clone(),
            quorum_up: state.quorum_up,
            quorum: server.quorum,
            alive_weight: state.alive_weight(server),
            servers: self.view_of(server, state),
        });
        let virtual_servers = view::once(servers, |server| server.name.clone());
        View { virtual_servers, durations: self.watches.durations(), loading }
    }

    fn view_of(&self, server: &VirtualServer, state: &State) -> Vec<view::RealServer> {
        let check = |spec: &CheckSpec| view::Check {
            keyword: spec.probe.keyword(),
            up: self.watches.verdict(spec).up,
            tally: self.watches.tally(spec),
        };
        let servers = server.servers.iter().enumerate().map(|(at, rs)| view::RealServer {
            name: rs.name.clone(),
            up: state.is_up(at),
            weight: state.weight(server, at),
            checks: rs.checks.iter().map(|one| check(&one.spec)).collect(),
        });
        view::once(servers, |rs| rs.name.clone())
    }

    /// Which addresses a routing daemon may tell of: those of which at least one virtual server has somebody to serve.
    /// One that is not told of yet waits until each of its servers has been checked, since until then other
    /// balancers may know better where its connections go: for those the value is false.
    pub fn announcements(&self) -> BTreeMap<Announcement, bool> {
        let servers = self.config.servers.iter().zip(&self.states);
        let serving = servers.filter(|(server, state)| state.has_service(server)).map(|(server, _)| server);
        let of = |server: &VirtualServer| {
            let nic = server.announce.clone();
            let one = |addr| Some(Announcement { addr, nic: nic.clone()? });
            server.addresses().filter_map(one).collect::<Vec<_>>()
        };
        let checked = |addr: IpAddr| {
            let servers = self.config.servers.iter().filter(|server| server.announce.is_some());
            let of_it = servers.filter(|server| server.addresses().any(|own| own == addr));
            let mut checks = of_it.flat_map(|server| &server.servers).flat_map(|rs| &rs.checks);
            checks.all(|check| self.watches.tally(&check.spec).has_begun())
        };
        serving
            .flat_map(of)
            .map(|one| {
                let settled = checked(one.addr);
                (one, settled)
            })
            .collect()
    }

    /// The tables.
    pub fn store(&self) -> &S {
        self.balancer.store()
    }
    /// The tables, to change them behind the agent's back.
    pub fn store_mut(&mut self) -> &mut S {
        self.balancer.store_mut()
    }
}

/// What a configuration wants of the tables.
pub fn wanted(config: &Config, states: &mut [State], drains: &Drains, now: Instant) -> Vec<Wanted> {
    let servers = config.servers.iter().zip(states);
    let mut all: Vec<Wanted> = servers.flat_map(|(server, state)| state.wanted(server, now)).collect();
    all.iter_mut().for_each(|wanted| drains.hold_back(wanted));
    all
}

/// `lvs_timeouts`, where they are not in force.
pub fn timeouts(config: &Config, now: Timeouts) -> Option<Request> {
    let [tcp, tcp_fin, udp] = config.globals.timeouts?;
    let or = |wanted: u32, now: u32| if wanted == 0 { now } else { wanted };
    let wanted = Timeouts { tcp: or(tcp, now.tcp), tcp_fin: or(tcp_fin, now.tcp_fin), udp: or(udp, now.udp) };
    (wanted != now).then_some(Request::SetTimeouts(wanted))
}

/// What is said of virtual and real servers that another configuration does not have any more.
fn left(old: &Config, new: &Config) -> Vec<Event> {
    let mut events = Vec::new();
    for server in &old.servers {
        let Some(stays) = new.servers.iter().find(|other| other.name == server.name) else {
            events.push(Event::about(server, format!("Removing Virtual Server {}", server.name)));
            continue;
        };
        let gone = server.servers.iter().filter(|rs| stays.servers.iter().all(|other| other.name != rs.name));
        events.extend(
            gone.map(|rs| Event::about_one(server, rs, format!("service {} no longer exist", rs.name))),
        );
    }
    events
}

/// This machine's addresses as they are now.
fn own_addresses() -> HashSet<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|found| found.address);
    let ip = |found: nix::sys::socket::SockaddrStorage| {
        let v4 = found.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| found.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    addresses.filter_map(ip).collect()
}
