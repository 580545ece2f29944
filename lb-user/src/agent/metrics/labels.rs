//! Labels: services and dests by the words of a listing, servers and checks by the names in the log. A label that does
//! not apply is left out, which to Prometheus is the same as empty.

use super::view::{Check, RealServer, VirtualServer};
use crate::cli::list::method_name;
use crate::control::model::{Dest, Family, Proto, ServiceId};

/// Names and values.
pub type Labels = Vec<(&'static str, String)>;

/// Of what there is only one.
pub const NONE: [(&str, &str); 0] = [];

/// `ipv4`, `ipv6`.
pub fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// `family`, and `address`, `port`, `protocol` or `fwmark`.
pub fn service(id: &ServiceId) -> Labels {
    let mut labels = vec![("family", family(id.family()).to_owned())];
    match id {
        ServiceId::Addr { proto, addr, port } => {
            let proto = match *proto {
                Proto::UDP => "udp",
                Proto::SCTP => "sctp",
                _ => "tcp",
            };
            labels.push(("address", addr.to_string()));
            labels.push(("port", port.host().to_string()));
            labels.push(("protocol", proto.to_owned()));
        }
        ServiceId::Mark { mark, .. } => labels.push(("fwmark", mark.to_string())),
    }
    labels
}

/// The service's, `dest_address`, `dest_port`, and `method` in `ipvsadm -L`'s words.
pub fn dest(service_id: &ServiceId, dest: &Dest) -> Labels {
    let mut labels = service(service_id);
    labels.push(("dest_address", dest.id.addr.to_string()));
    labels.push(("dest_port", dest.id.port.host().to_string()));
    labels.push(("method", method_name(dest.conf.method).to_owned()));
    labels
}

/// `virtual_server`.
pub fn virtual_server(server: &VirtualServer) -> Labels {
    vec![("virtual_server", server.name.clone())]
}

/// `virtual_server`, `real_server`.
pub fn real_server(server: &VirtualServer, rs: &RealServer) -> Labels {
    vec![("virtual_server", server.name.clone()), ("real_server", rs.name.clone())]
}

/// The server's, `check` (its keyword), and `number`, its place among the server's checks.
pub fn check(server: &VirtualServer, rs: &RealServer, number: usize, check: &Check) -> Labels {
    let mut labels = real_server(server, rs);
    labels.push(("check", check.keyword.to_owned()));
    labels.push(("number", (number + 1).to_string()));
    labels
}
