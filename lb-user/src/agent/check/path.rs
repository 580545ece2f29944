//! `check_path forwarding`: sockets whose packets reach the server as a client's would. What becomes of their packets is
//! [`lb_common::probe`]'s.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use lb_common::addr::{Addr, Port, Proto, family_of};
use lb_common::probe::{Probe, ProbeKey};
use socket2::{Protocol, Socket, Type};

use super::net::{self, Trouble};
use crate::agent::config::model::{Target, Via};
use crate::bpf::probes::Probes;

/// With every header of a tunnel and TCP's own options, such a segment fits the least MTU of IPv6.
const TUNNELLED_MSS: u32 = 1100;

/// Where such sockets are made.
#[derive(Clone, Debug, Default)]
pub struct Paths(Option<Arc<Probes>>);

/// What a socket's way is.
#[derive(Debug)]
pub struct Way(Option<(Arc<Probes>, ProbeKey)>);

impl Paths {
    /// By the tables with these pins. An agent before this one may have left something.
    pub fn of(pins: PathBuf) -> Self {
        let probes = Probes::at(pins);
        probes.forget();
        Self(Some(Arc::new(probes)))
    }

    /// A socket for `target`, still to be connected to it.
    pub fn socket(&self, target: &Target, kind: Type) -> Result<(Socket, Way), Trouble> {
        let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
        let straight = || {
            let socket = net::socket(target, kind, Some(protocol)).map_err(|error| net::local(&error))?;
            Ok((socket, Way(None)))
        };
        let Some((via, probes)) = target.via.as_ref().zip(self.0.as_ref()) else { return straight() };
        let source = source_to(target)?;
        // A server on this machine is reached as any service here is.
        if source == target.to.ip() {
            return straight();
        }
        let from = target.from.map(|from| from.ip()).filter(|ip| !ip.is_unspecified()).unwrap_or(source);
        if from == via.vip {
            let to = target.to.ip();
            return Err(Trouble::Local(format!(
                "packets to {to} would come from the virtual address, which is the server's own as well; bindto names another"
            )));
        }
        let unbound = Target { from: None, ..target.clone() };
        let socket = net::socket(&unbound, kind, Some(protocol)).map_err(|error| net::local(&error))?;
        // A port of its own, which nobody shares as long as the server may still say something to it.
        let bound = socket.bind(&SocketAddr::new(from, 0).into()).and_then(|()| {
            if kind == Type::STREAM && via.tunnel.is_some() {
                socket.set_tcp_mss(TUNNELLED_MSS)?;
            }
            socket.local_addr()
        });
        let port = bound.map_err(|error| net::local(&error))?.as_socket().map_or(0, |own| own.port());
        let proto = if kind == Type::STREAM { Proto::TCP } else { Proto::UDP };
        let key = ProbeKey::new(family_of(&from), Addr::from(from), Port::new(port), proto);
        let noted = probes.note(&key, &probe(target.to.ip(), via, source));
        noted.map_err(|why| Trouble::Local(format!("check_path forwarding: {why:#}")))?;
        Ok((socket, Way(Some((Arc::clone(probes), key)))))
    }
}

impl Way {
    /// Has the server really been reached on it? An answer to packets that went straight is none.
    pub fn confirm(&self) -> Result<(), Trouble> {
        let Some((probes, key)) = &self.0 else { return Ok(()) };
        match probes.is_sent(key) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Trouble::Local(
                "check_path forwarding: its packets leave by a NIC that the balancer is not attached to"
                    .to_owned(),
            )),
            Err(why) => Err(Trouble::Local(format!("check_path forwarding: {why:#}"))),
        }
    }
}

/// The address packets to the server come from, by the kernel's routing: that of outer headers too.
fn source_to(target: &Target) -> Result<IpAddr, Trouble> {
    let unbound = Target { from: None, ..target.clone() };
    let asked = net::socket(&unbound, Type::DGRAM, Some(Protocol::UDP)).and_then(|socket| {
        socket.connect(&target.to.into())?;
        socket.local_addr()
    });
    let own = asked.map_err(|error| net::whose(&error))?;
    own.as_socket()
        .map(|own| own.ip())
        .ok_or_else(|| Trouble::Local("a socket without an address".to_owned()))
}

fn probe(server: IpAddr, via: &Via, source: IpAddr) -> Probe {
    let tunnel = via.tunnel.map_or(0, |tunnel| {
        let [a, b] = tunnel.port.wire().to_ne_bytes();
        u32::from_ne_bytes([tunnel.kind as u8, tunnel.checksum as u8, a, b])
    });
    Probe {
        server: Addr::from(server),
        vip: Addr::from(via.vip),
        source: Addr::from(source),
        tunnelled: u32::from(via.tunnel.is_some()),
        tunnel,
        ..Probe::default()
    }
}
