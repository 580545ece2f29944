//! `lb-user drain`: no new connections for a dest, and waiting for the end of those it has.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Pins, say};
use crate::agent::drains::{DrainFile, Member};
use crate::agent::remember::Memory;
use crate::bpf::bpffs;
use crate::cli::list::any_name;
use crate::cli::names::{Names, NoNames, SystemNames};
use crate::cli::save::service_option;
use crate::cli::values::{HostPort, host_port};
use crate::control::balancer::Balancer;
use crate::control::mark;
use crate::control::model::{ConnRow, DestConf, Port, Proto, Service, ServiceId};
use crate::control::request::Request;
use crate::control::store::Store;

/// How often is looked whether connections are left.
const PACE: Duration = Duration::from_millis(250);

/// Take new connections from a real server, and wait for the end of those it has
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// In which service.
    #[command(flatten)]
    pub service: ServiceWords,
    /// The server; without a port: all ports of it. Without a server: list what is drained
    #[arg(value_name = "DEST")]
    pub dest: Option<String>,
    /// Come back when no connection is left
    #[arg(long, requires = "dest")]
    pub wait: bool,
    /// Wait no longer than this, and then fail
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub timeout: Option<u64>,
    /// Bring it back, with the weight it had
    #[arg(long, requires = "dest", conflicts_with = "wait")]
    pub undo: bool,
    /// Where the agent remembers what is its own [default: /run/lb-user/agent-<netns cookie>.json]
    #[arg(long, value_name = "FILE")]
    pub state: Option<std::path::PathBuf>,
    /// Where the tables are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// A service in ipvsadm's words.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(multiple = false)]
pub struct ServiceWords {
    /// A TCP service [default: every service that has the server]
    #[arg(short = 't', long = "tcp-service", value_name = "ADDRESS:PORT")]
    pub tcp: Option<String>,
    /// A UDP service
    #[arg(short = 'u', long = "udp-service", value_name = "ADDRESS:PORT")]
    pub udp: Option<String>,
    /// An SCTP service
    #[arg(long = "sctp-service", value_name = "ADDRESS:PORT")]
    pub sctp: Option<String>,
    /// A service by firewall mark, for both families
    #[arg(short = 'f', long = "fwmark-service", value_name = "MARK", value_parser = mark::mark)]
    pub mark: Option<u32>,
}

/// Which dests are meant.
#[derive(Clone, Debug)]
pub struct Which {
    /// In this service only.
    pub service: Option<Wish>,
    /// The dest; without a port: all of that address.
    pub dest: HostPort,
}

/// A service as it was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// By address.
    Addr(ServiceId),
    /// By mark, whichever family.
    Mark(u32),
}

impl ServiceWords {
    fn read(&self, names: &dyn Names) -> Result<Option<Wish>> {
        let by_address = [(&self.tcp, Proto::TCP), (&self.udp, Proto::UDP), (&self.sctp, Proto::SCTP)];
        for (word, proto) in by_address {
            let Some(word) = word else { continue };
            let Some(HostPort { addr, port }) = host_port(word, proto, names) else {
                bail!("`{word}` is no service: ADDRESS:PORT")
            };
            return Ok(Some(Wish::Addr(ServiceId::Addr { proto, addr, port: port.unwrap_or(Port::ZERO) })));
        }
        Ok(self.mark.map(Wish::Mark))
    }
}

impl Which {
    fn has(&self, (service, dest): &Member) -> bool {
        let in_service = match self.service {
            None => true,
            Some(Wish::Addr(wanted)) => wanted == *service,
            Some(Wish::Mark(mark)) => service.mark() == mark,
        };
        in_service && dest.addr == self.dest.addr && self.dest.port.is_none_or(|port| port == dest.port)
    }
}

/// Does it. Status 1 when connections are left at the end of the time.
pub fn run(args: &Args) -> Result<ExitCode> {
    let names = SystemNames::default();
    let pins = bpffs::instance(args.pins.wanted().as_deref())?;
    let file = DrainFile::beside(&Memory::of(&pins, args.state.as_deref()));
    let Some(word) = &args.dest else {
        say(&listed(&file)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    let Some(dest) = host_port(word, Proto::TCP, &names) else {
        bail!("`{word}` is no server: ADDRESS or ADDRESS:PORT")
    };
    let which = Which { service: args.service.read(&names)?, dest };
    let mut balancer = Balancer::new(super::open_store_at(&args.pins)?);
    if args.undo {
        say(&undo(&mut balancer, &file, &which)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let members = drain(&mut balancer, &file, &which)?;
    say(&left_lines(balancer.store(), &members)?)?;
    if args.wait {
        wait(balancer.store(), &members, args.timeout.map(Duration::from_secs))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is drained, and how to end it.
fn listed(file: &DrainFile) -> Result<Vec<String>> {
    let drains = file.load()?;
    let mut lines: Vec<String> =
        drains.0.iter().map(|(member, weight)| format!("{}: had weight {weight}", named(member))).collect();
    lines.sort();
    Ok(lines)
}

/// Sets the weights to 0 and marks the dests as drained, so that an agent leaves them so. Marked first: an agent that looks
/// in between would undo the rest.
pub fn drain<S: Store>(balancer: &mut Balancer<S>, file: &DrainFile, which: &Which) -> Result<Vec<Member>> {
    let found = members(&balancer.store().services()?, which);
    if found.is_empty() {
        bail!(
            "no such destination in {}",
            if which.service.is_some() { "that service" } else { "any service" }
        );
    }
    let old = file.change(|drains| {
        let old = drains.clone();
        for (member, conf) in &found {
            // Drained a second time, it still comes back with the weight it had before the first.
            drains.0.entry(*member).or_insert(conf.weight);
        }
        Ok(old)
    })?;
    let weights = found.iter().map(|(member, conf)| (*member, DestConf { weight: 0, ..*conf }));
    if let Err(error) = set(balancer, weights) {
        file.change(|drains| {
            drains
                .0
                .retain(|member, _| old.0.contains_key(member) || found.iter().all(|(one, _)| one != member));
            Ok(())
        })?;
        return Err(error);
    }
    Ok(found.into_iter().map(|(member, _)| member).collect())
}

/// Takes the marks away and gives the weights back, where the weight still is 0. An agent gives its dests what their checks
/// say within a second.
pub fn undo<S: Store>(balancer: &mut Balancer<S>, file: &DrainFile, which: &Which) -> Result<Vec<String>> {
    let ended = file.change(|drains| {
        let ended: Vec<(Member, u32)> = drains
            .0
            .iter()
            .filter(|(member, _)| which.has(member))
            .map(|(one, weight)| (*one, *weight))
            .collect();
        if ended.is_empty() {
            bail!("it is not being drained (`lb-user drain` lists what is)");
        }
        drains.0.retain(|member, _| !which.has(member));
        Ok(ended)
    })?;
    let now = members(&balancer.store().services()?, which);
    let back = now.iter().filter(|(_, conf)| conf.weight == 0).filter_map(|(member, conf)| {
        let (_, weight) = ended.iter().find(|(one, _)| one == member)?;
        Some((*member, DestConf { weight: *weight, ..*conf }))
    });
    set(balancer, back)?;
    Ok(ended.iter().map(|(member, weight)| format!("{}: weight {weight}", named(member))).collect())
}

fn members(services: &[Service], which: &Which) -> Vec<(Member, DestConf)> {
    let all = services
        .iter()
        .flat_map(|service| service.dests.iter().map(|dest| ((service.id, dest.id), dest.conf)));
    all.filter(|(member, _)| which.has(member)).collect()
}

fn set<S: Store>(balancer: &mut Balancer<S>, confs: impl Iterator<Item = (Member, DestConf)>) -> Result<()> {
    for ((service, dest), conf) in confs {
        balancer.apply(&Request::EditDest { service, dest, conf })?;
    }
    Ok(())
}

/// What a dest still has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Connections in an active state.
    pub active: usize,
    /// The other connections.
    pub inactive: usize,
    /// Persistence templates: clients that come back to it, unless expire_quiescent_template is set.
    pub persistent: usize,
}

/// What is left of one. Connections outlive a dest that was deleted; then they are counted one by one.
pub fn left(store: &impl Store, (service, dest): &Member) -> Result<Left> {
    let found = store.service(service)?.and_then(|found| found.dests.into_iter().find(|one| one.id == *dest));
    if let Some(found) = found {
        let [active, inactive, persistent] =
            [found.active, found.inactive, found.persistent].map(|count| count as usize);
        return Ok(Left { active, inactive, persistent });
    }
    let of_service = |conn: &ConnRow| match service {
        ServiceId::Addr { proto, addr, port } => {
            conn.proto == *proto && conn.virt.addr == *addr && (port.is_zero() || conn.virt.port == *port)
        }
        ServiceId::Mark { .. } => true,
    };
    let of_dest =
        |conn: &ConnRow| conn.dest.addr == dest.addr && (dest.port.is_zero() || conn.dest.port == dest.port);
    let rows = store.conns()?;
    let mine = rows.iter().filter(|conn| !conn.client.port.is_zero() && of_service(conn) && of_dest(conn));
    Ok(Left { inactive: mine.count(), ..Left::default() })
}

fn left_lines(store: &impl Store, members: &[Member]) -> Result<Vec<String>> {
    let line = |member: &Member| {
        let Left { active, inactive, persistent } = left(store, member)?;
        Ok(format!(
            "{}: {active} active and {inactive} inactive connections, {persistent} persistent clients left",
            named(member)
        ))
    };
    members.iter().map(line).collect()
}

/// Until no connection is left, or the time is over.
pub fn wait(store: &impl Store, members: &[Member], limit: Option<Duration>) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut connections = 0;
        for member in members {
            let left = left(store, member)?;
            connections += left.active + left.inactive;
        }
        if connections == 0 {
            return Ok(());
        }
        if let Some(limit) = limit.filter(|limit| started.elapsed() >= *limit) {
            bail!("connections left after {} s: {connections}; it stays drained", limit.as_secs());
        }
        thread::sleep(PACE);
    }
}

/// `-t 10.0.0.1:80 -r 10.1.0.2:8080`
fn named((service, dest): &Member) -> String {
    let server = any_name(&dest.addr, dest.port, None, true, &NoNames);
    format!("{} -r {server}", service_option(service, true, &NoNames))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::memory::MemoryStore;
    use crate::control::model::{DestId, Method, TunnelConf};
    use crate::control::request::ServiceAsk;
    use std::path::Path;

    const SERVERS: [&str; 2] = ["10.1.0.1", "10.1.0.2"];

    fn which(service: Option<&str>, dest: &str) -> Which {
        let words = ServiceWords { tcp: service.map(str::to_owned), ..ServiceWords::default() };
        Which { service: words.read(&NoNames).unwrap(), dest: host_port(dest, Proto::TCP, &NoNames).unwrap() }
    }

    /// Two services on ports 80 and 81, each with both servers, weights 1 and 2.
    fn balancer() -> Balancer<MemoryStore> {
        let mut store = MemoryStore::default();
        for port in [80, 81] {
            let id = ServiceId::Addr {
                proto: Proto::TCP,
                addr: "10.0.0.1".parse().unwrap(),
                port: Port::new(port),
            };
            let ask = ServiceAsk {
                scheduler: "rr".to_owned(),
                sched_flags: 0,
                ops: false,
                persistence: None,
                engine: None,
            };
            let mut balancer = Balancer::new(store);
            balancer.apply(&Request::AddService { id, ask }).unwrap();
            for (server, weight) in SERVERS.into_iter().zip(1..) {
                let dest = DestId { addr: server.parse().unwrap(), port: Port::new(port) };
                let conf = DestConf {
                    method: Method::Route,
                    weight,
                    upper: 0,
                    lower: 0,
                    tunnel: TunnelConf::default(),
                };
                balancer.apply(&Request::AddDest { service: id, dest, conf }).unwrap();
            }
            store = std::mem::take(balancer.store_mut());
        }
        Balancer::new(store)
    }

    /// Weights of the first server's and the second one's dests, by service.
    fn weights(balancer: &Balancer<MemoryStore>) -> Vec<[u32; 2]> {
        let weight = |service: &Service, server: &str| {
            let dest = service.dests.iter().find(|dest| dest.id.addr.to_string() == server);
            dest.map_or(u32::MAX, |dest| dest.conf.weight)
        };
        let services = balancer.store().services().unwrap();
        services.iter().map(|service| SERVERS.map(|server| weight(service, server))).collect()
    }

    fn file(dir: &tempfile::TempDir) -> DrainFile {
        DrainFile::beside(&Memory::of(Path::new("/x/7"), Some(&dir.path().join("a.json"))))
    }

    #[test]
    fn one_service_or_all_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut balancer, file) = (balancer(), file(&dir));
        let one = which(Some("10.0.0.1:81"), "10.1.0.2");
        assert_eq!(drain(&mut balancer, &file, &one).unwrap().len(), 1);
        assert_eq!(weights(&balancer), [[1, 2], [1, 0]]);
        let all = which(None, "10.1.0.2");
        assert_eq!(drain(&mut balancer, &file, &all).unwrap().len(), 2);
        assert_eq!(weights(&balancer), [[1, 0], [1, 0]]);
        assert_eq!(
            listed(&file).unwrap(),
            ["-t 10.0.0.1:80 -r 10.1.0.2:80: had weight 2", "-t 10.0.0.1:81 -r 10.1.0.2:81: had weight 2"]
        );
        undo(&mut balancer, &file, &which(None, "10.1.0.2:80")).unwrap();
        assert_eq!(weights(&balancer), [[1, 2], [1, 0]]);
        undo(&mut balancer, &file, &all).unwrap();
        assert_eq!(weights(&balancer), [[1, 2], [1, 2]]);
        assert!(undo(&mut balancer, &file, &all).is_err());
        assert!(listed(&file).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_there_is_told_and_not_marked() {
        let dir = tempfile::tempdir().unwrap();
        let (mut balancer, file) = (balancer(), file(&dir));
        for (service, dest) in [
            (None, "10.1.0.3"),
            (None, "10.1.0.1:82"),
            (Some("10.0.0.1:82"), "10.1.0.1"),
            (Some("10.0.0.1:80"), "10.1.0.1:81"),
        ] {
            assert!(drain(&mut balancer, &file, &which(service, dest)).is_err(), "{service:?} {dest}");
        }
        assert_eq!(weights(&balancer), [[1, 2], [1, 2]]);
        assert!(listed(&file).unwrap().is_empty());
    }

    #[test]
    fn a_weight_set_by_hand_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (mut balancer, file) = (balancer(), file(&dir));
        let all = which(None, "10.1.0.1:80");
        let (service, dest) = drain(&mut balancer, &file, &all).unwrap()[0];
        balancer.store_mut().dest_mut(&service, &dest).unwrap().conf.weight = 9;
        undo(&mut balancer, &file, &all).unwrap();
        assert_eq!(weights(&balancer), [[9, 2], [1, 2]]);
    }

    #[test]
    fn waits_for_the_last_connection() {
        let dir = tempfile::tempdir().unwrap();
        let (mut balancer, file) = (balancer(), file(&dir));
        let members = drain(&mut balancer, &file, &which(None, "10.1.0.1")).unwrap();
        let (service, dest) = members[1];
        balancer.store_mut().dest_mut(&service, &dest).unwrap().inactive = 3;
        let told = wait(balancer.store(), &members, Some(Duration::ZERO)).unwrap_err().to_string();
        assert!(told.starts_with("connections left after 0 s: 3;"), "{told}");
        balancer.store_mut().dest_mut(&service, &dest).unwrap().inactive = 0;
        wait(balancer.store(), &members, Some(Duration::ZERO)).unwrap();
    }
}
