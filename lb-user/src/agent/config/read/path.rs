//! `check_path`: which way checks go.

use std::net::SocketAddr;

use super::Reader;
use super::server::Way;
use crate::agent::config::model::{Check, Target, Via};
use crate::agent::config::tree::Statement;
use crate::control::model::{Method, ServiceId, family_of};

impl Reader<'_> {
    /// True: along the forwarding path.
    pub(super) fn check_path(&mut self, line: &Statement) -> bool {
        let known = |word: &str| match word {
            "forwarding" => Some(true),
            "direct" => Some(false),
            _ => None,
        };
        self.value(line, "direct or forwarding", known).unwrap_or(false)
    }

    /// A server's check as a client would make it: one for each virtual address, to the same port. `to`: the server's own
    /// address. Under NAT a straight one is that already.
    pub(super) fn along_path(
        &mut self,
        check: Check,
        to: &SocketAddr,
        way: Way,
        services: &[ServiceId],
    ) -> Vec<Check> {
        let Some(target) = check.spec.probe.target().filter(|_| way.method != Method::Nat).cloned() else {
            return vec![check];
        };
        let keyword = check.spec.probe.keyword();
        let whom = if target.to.ip() == to.ip() { addresses(services) } else { vec![target.to] };
        let vips: Vec<_> = whom
            .into_iter()
            .map(|vip| vip.ip())
            .filter(|vip| family_of(vip) == family_of(&to.ip()))
            .collect();
        if vips.is_empty() {
            let why = if services.iter().any(|service| service.mark() != 0) {
                "a mark has no address that clients ask: connect_ip has to name it"
            } else {
                "not yet through a tunnel to a server of another family"
            };
            self.problems.warn(&check.place, format!("{keyword} goes straight to the server: {why}"));
            return vec![check];
        }
        if target.from.is_some_and(|from| from.port() != 0) {
            self.problems.warn(
                &check.place,
                format!("{keyword}: bind_port does not go with check_path forwarding; passed over"),
            );
        }
        let tunnel = (way.method == Method::Tunnel).then_some(way.tunnel);
        let one = |vip| {
            let mut check = check.clone();
            let to = SocketAddr::new(to.ip(), target.to.port());
            if let Some(place) = check.spec.probe.target_mut() {
                *place = Target { to, via: Some(Via { vip, tunnel }), ..target.clone() };
            }
            check
        };
        vips.into_iter().map(one).collect()
    }
}

/// The addresses of services, once each.
fn addresses(services: &[ServiceId]) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for service in services {
        if let ServiceId::Addr { addr, .. } = service
            && !all.iter().any(|known| known.ip() == *addr)
        {
            all.push(SocketAddr::new(*addr, 0));
        }
    }
    all
}
