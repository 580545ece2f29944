//! What is around a balancer: cards, addresses, routes, neighbours. The same for both.

use super::case::{server4, server6};
use crate::packets::Mac;
use std::net::{IpAddr, Ipv4Addr};

/// How many servers there are.
pub const SERVERS: u8 = 64;
/// Two more, the way to which carries only [`NARROW_MTU`] bytes.
pub const NARROW: [u8; 2] = [70, 71];
/// What it carries.
pub const NARROW_MTU: u16 = 1400;

/// The balancer's card towards the clients.
pub const FRONT_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// The balancer's card towards the servers.
pub const BACK_MAC: Mac = [2, 0, 0, 0, 0, 2];
/// The router all clients are behind.
pub const CLIENTS_MAC: Mac = [2, 0, 0, 0, 1, 1];
/// A server that is for no service: see [`super::fence`].
pub const FENCE_SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 250);
/// Its card.
pub const FENCE_MAC: Mac = server_mac(250);

const fn server_mac(nth: u8) -> Mac {
    [2, 0, 0, 0, 9, nth]
}

/// The card of the server with an address: see [`server4`] and [`server6`].
pub const fn server_card(address: IpAddr) -> Mac {
    let nth = match address {
        IpAddr::V4(v4) => v4.octets()[3].wrapping_sub(server4(0).octets()[3]),
        IpAddr::V6(v6) => v6.octets()[15].wrapping_sub(server6(0).octets()[15]),
    };
    server_mac(nth)
}

/// Kernel parameters of a balancer's namespace.
pub const SYSCTLS: [(&str, &str); 12] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.eth0.rp_filter", "0"),
    ("net.ipv4.conf.eth1.rp_filter", "0"),
    // Answers in a virtual address's name may come by.
    ("net.ipv4.conf.eth1.accept_local", "1"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.eth0.send_redirects", "0"),
    // Segments all have the same numbers here, and ip_vs_ftp has connections tracked.
    ("net.netfilter.nf_conntrack_tcp_be_liberal", "1"),
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv4.icmp_msgs_per_sec", "100000"),
    ("net.ipv6.icmp.ratelimit", "0"),
];

/// Addresses, routes and neighbours of a balancer.
pub fn addresses() -> String {
    let mut lines = "\
addr add 198.51.100.1/24 dev eth0
addr add fd00::1/64 dev eth0 nodad
addr add 10.9.0.1/24 dev eth1
addr add fd09::1/64 dev eth1 nodad
"
    .to_owned();
    let clients = colons(CLIENTS_MAC);
    for gateway in ["198.51.100.2", "fd00::2"] {
        lines += &format!("neigh add {gateway} lladdr {clients} dev eth0 nud permanent\n");
    }
    lines += "route add 172.16.0.0/12 via 198.51.100.2\nroute add fd01::/16 via fd00::2\n";
    for nth in (1..=SERVERS).chain(NARROW) {
        let mac = colons(server_mac(nth));
        for address in [IpAddr::from(server4(nth)), server6(nth).into()] {
            lines += &format!("neigh add {address} lladdr {mac} dev eth1 nud permanent\n");
        }
    }
    for nth in NARROW {
        for address in [IpAddr::from(server4(nth)), server6(nth).into()] {
            lines += &format!("route add {address} dev eth1 mtu lock {NARROW_MTU}\n");
        }
    }
    lines + &format!("neigh add {FENCE_SERVER} lladdr {} dev eth1 nud permanent\n", colons(FENCE_MAC))
}

/// As `ip` writes it.
pub fn colons(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
