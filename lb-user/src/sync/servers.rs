//! Whose connection a message tells of: its server, looked up among the services as IPVS's backup does.

use std::collections::HashMap;
use std::net::IpAddr;

use lb_common::addr::{Addr, Port, Proto, family_of};
use lb_common::conn::bound;
use lb_common::dest::Method;
use lb_common::service::ServiceKey;
use lb_common::sync::{NO_DEST, Synced, flags};

use super::wire::Record;
use crate::bpf::sync::{Pool, Server};

const FTP: Port = Port::new(21);
const FTP_DATA: u16 = 20;

/// Services and their servers, as they were a moment ago.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers(pub HashMap<ServiceKey, Pool>);

impl Servers {
    /// The connection as the tables take it over. [`Synced::dest`] is [`NO_DEST`] if its server is not here.
    pub fn resolve(&self, record: &Record) -> Synced {
        let found = self.pool(record).and_then(|(port, pool)| {
            let (number, how) = pick(pool, port, record)?;
            Some((pool.service, number, how))
        });
        let (service, dest, how) = found.unwrap_or((0, NO_DEST, 0));
        Synced {
            client: record.client.0.into(),
            vaddr: record.virt.0.into(),
            daddr: record.dest.0.into(),
            cport: record.client.1,
            vport: record.virt.1,
            dport: record.dest.1,
            proto: record.proto,
            family: family_of(&record.client.0) as u8,
            dest,
            service,
            flags: record.flags,
            state: u32::from(record.state),
            timeout: record.timeout,
            how,
            engine: u32::from(record.call.is_some()),
            outcome: 0,
        }
    }

    /// The service, in IPVS's order (mark, exact, the FTP rule, port 0), and the port of its key.
    fn pool(&self, record: &Record) -> Option<(Port, &Pool)> {
        let family = family_of(&record.client.0);
        if record.mark != 0
            && let Some(pool) = self.0.get(&ServiceKey::mark(family, record.mark))
        {
            return Some((Port::ZERO, pool));
        }
        let at = |port: Port| {
            let key = ServiceKey::addr(family, record.proto, record.virt.0.into(), port);
            self.0.get(&key).map(|pool| (port, pool))
        };
        let port = record.virt.1;
        let ftp = record.proto == Proto::TCP && (port.host() == FTP_DATA || port.host() >= 1024);
        at(port).or_else(|| if ftp { at(FTP) } else { None }).or_else(|| at(Port::ZERO))
    }
}

/// The server's number, and how the connection uses it.
fn pick(pool: &Pool, key: Port, record: &Record) -> Option<(u32, u32)> {
    let (addr, port): (IpAddr, Port) = record.dest;
    let servers = pool.servers.get(&Addr::from(addr))?;
    let by_port = |wanted: Port| servers.iter().find(|server| server.port == wanted);
    // Of a service by mark, unless servers are reached by translation, the one without a port comes first.
    let nat = record.flags & flags::METHOD == Method::Nat as u32;
    let ports = if record.mark != 0 && !nat { [Port::ZERO, port] } else { [port, Port::ZERO] };
    if let Some(server) = ports.into_iter().find_map(by_port) {
        return Some((server.number, how(server, record)));
    }
    // What IPVS would leave without a server: connections that keep their own port or, with FTP, the one below.
    let template = record.flags & flags::TEMPLATE != 0;
    let server = servers.first()?;
    if template && port.is_zero() {
        return Some((server.number, 0));
    }
    if port == record.virt.1 {
        return Some((server.number, bound::KEEP_PORT));
    }
    let data = key == FTP && server.port.host().checked_sub(1) == Some(port.host());
    data.then_some((server.number, bound::DATA_PORT))
}

fn how(server: &Server, record: &Record) -> u32 {
    if record.flags & flags::TEMPLATE != 0 {
        return 0;
    }
    let keep = if server.port.is_zero() { bound::KEEP_PORT } else { 0 };
    let ftp = server.nat && record.proto == Proto::TCP && record.virt.1 == FTP;
    keep | if ftp { bound::FTP } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use lb_common::addr::Family;

    use super::*;

    fn end(text: &str) -> (IpAddr, Port) {
        let socket: SocketAddr = text.parse().unwrap_or_else(|_| panic!("{text}"));
        (socket.ip(), Port::new(socket.port()))
    }

    fn record(virt: &str, dest: &str) -> Record {
        Record {
            proto: Proto::TCP,
            flags: 0,
            state: 1,
            client: end("192.0.2.1:5000"),
            virt: end(virt),
            dest: end(dest),
            mark: 0,
            timeout: 900,
            call: None,
        }
    }

    /// A service's dests get numbers from 10 times its own on.
    fn pool(service: u32, dests: &[&str]) -> Pool {
        let mut pool = Pool { service, ..Pool::default() };
        for (number, dest) in (service * 10..).zip(dests) {
            let (addr, port) = end(dest);
            let server = Server { number, port, nat: true };
            pool.servers.entry(addr.into()).or_default().push(server);
        }
        pool
    }

    fn servers() -> Servers {
        let key =
            |port| ServiceKey::addr(Family::V4, Proto::TCP, end("10.0.0.1:0").0.into(), Port::new(port));
        Servers(HashMap::from([
            (key(80), pool(1, &["10.1.0.1:8080", "10.1.0.1:8081", "10.1.0.2:80"])),
            (key(21), pool(2, &["10.1.0.1:21"])),
            (key(0), pool(3, &["10.1.0.1:0"])),
            (ServiceKey::mark(Family::V4, 5), pool(4, &["10.1.0.1:8080", "10.1.0.2:0"])),
        ]))
    }

    fn found(record: &Record) -> (u32, u32, u32) {
        let synced = servers().resolve(record);
        (synced.service, synced.dest, synced.how)
    }

    #[test]
    fn address_services() {
        let all = [
            (("10.0.0.1:80", "10.1.0.1:8080"), (1, 10, 0)),
            (("10.0.0.1:80", "10.1.0.1:8081"), (1, 11, 0)),
            (("10.0.0.1:80", "10.1.0.9:80"), (0, NO_DEST, 0)),
            (("10.0.0.1:80", "10.1.0.2:81"), (0, NO_DEST, 0)),
            (("10.0.0.2:80", "10.1.0.1:8080"), (0, NO_DEST, 0)),
            // Port 0 takes all others.
            (("10.0.0.1:443", "10.1.0.1:443"), (3, 30, bound::KEEP_PORT)),
        ];
        for ((virt, dest), expected) in all {
            assert_eq!(found(&record(virt, dest)), expected, "{virt} {dest}");
        }
    }

    #[test]
    fn ftp() {
        assert_eq!(found(&record("10.0.0.1:21", "10.1.0.1:21")), (2, 20, bound::FTP));
        assert_eq!(found(&record("10.0.0.1:20", "10.1.0.1:20")), (2, 20, bound::KEEP_PORT));
        assert_eq!(found(&record("10.0.0.1:40000", "10.1.0.1:40000")), (2, 20, bound::KEEP_PORT));
        assert_eq!(found(&record("10.0.0.1:30020", "10.1.0.1:20")), (2, 20, bound::DATA_PORT));
    }

    #[test]
    fn marks() {
        let by_mark = |dest, flags| Record { mark: 5, flags, ..record("10.0.0.1:80", dest) };
        // Servers of a service by mark are those of that service, whatever the address.
        assert_eq!(found(&by_mark("10.1.0.1:8080", 0)), (4, 40, 0));
        assert_eq!(found(&by_mark("10.1.0.2:80", 3)), (4, 41, bound::KEEP_PORT));
        assert_eq!(found(&by_mark("10.1.0.1:80", 0)), (4, 40, bound::KEEP_PORT));
        let template =
            Record { proto: Proto::IP, ..by_mark("10.1.0.2:0", flags::TEMPLATE | flags::INACTIVE | 3) };
        assert_eq!(found(&Record { virt: end("0.0.0.5:0"), ..template.clone() }), (4, 41, 0));
        let other = Record { dest: end("10.1.0.1:0"), ..template };
        assert_eq!(found(&other), (4, 40, 0));
        // One that is not here: as if there were no mark.
        assert_eq!(found(&Record { mark: 6, ..record("10.0.0.1:80", "10.1.0.2:80") }), (1, 12, 0));
    }
}
