//! The order of listings.
//!
//! ipvsadm compares every key as a signed 32-bit difference, so addresses 2^31 or more apart come out the wrong way
//! round and the relation is not transitive: what a listing looks like then depends on the C library's sort, which
//! is a top-down merge sort. Scripts compare such listings byte for byte, so here is that very sort. (The standard
//! library's may panic on a relation like this.)

use std::net::IpAddr;

use lb_common::addr::Addr;

use crate::control::model::{Dest, Family, Proto, Service, ServiceId, family_of};

/// Services by mark, family, protocol, address, port; each one's dests by address and port.
pub fn sort(services: &mut Vec<Service>) {
    merge_sort(services, compare_services);
    for service in services {
        merge_sort(&mut service.dests, compare_dests);
    }
}

/// Stable, top-down, split at the middle, the left one first unless it is greater.
fn merge_sort<T>(items: &mut Vec<T>, compare: fn(&T, &T) -> i32) {
    if items.len() < 2 {
        return;
    }
    let mut right = items.split_off(items.len() / 2);
    merge_sort(items, compare);
    merge_sort(&mut right, compare);
    *items = merge(std::mem::take(items), right, compare);
}

fn merge<T>(left: Vec<T>, right: Vec<T>, compare: fn(&T, &T) -> i32) -> Vec<T> {
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        let from = if compare(l, r) <= 0 { &mut left } else { &mut right };
        merged.extend(from.next());
    }
    merged.extend(left);
    merged.extend(right);
    merged
}

fn compare_services(a: &Service, b: &Service) -> i32 {
    first_difference([
        difference(a.id.mark(), b.id.mark()),
        a.id.family() as i32 - b.id.family() as i32,
        i32::from(proto_number(&a.id)) - i32::from(proto_number(&b.id)),
        compare_addresses(&address(&a.id), &address(&b.id)),
        i32::from(a.id.port().host()) - i32::from(b.id.port().host()),
    ])
}

fn compare_dests(a: &Dest, b: &Dest) -> i32 {
    first_difference([
        compare_addresses(&a.id.addr, &b.id.addr),
        i32::from(a.id.port.host()) - i32::from(b.id.port.host()),
    ])
}

/// Word by word, as many words as the first one's family has.
fn compare_addresses(a: &IpAddr, b: &IpAddr) -> i32 {
    let words = |ip: &IpAddr| Addr::from(*ip).words().map(u32::from_be);
    let (a_words, b_words) = (words(a), words(b));
    let count = if family_of(a) == Family::V6 { 4 } else { 1 };
    first_difference(a_words.iter().zip(&b_words).take(count).map(|(a, b)| difference(*a, *b)))
}

fn difference(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

fn first_difference(keys: impl IntoIterator<Item = i32>) -> i32 {
    keys.into_iter().find(|key| *key != 0).unwrap_or(0)
}

/// Mark services are stored as TCP.
fn proto_number(id: &ServiceId) -> u8 {
    id.proto().unwrap_or(Proto::TCP).0
}

fn address(id: &ServiceId) -> IpAddr {
    match id {
        ServiceId::Addr { addr, .. } => *addr,
        ServiceId::Mark { .. } => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::model::{Port, Rates, Scheduler, ServiceConf, Stats};

    fn service(id: ServiceId) -> Service {
        let conf = ServiceConf {
            scheduler: Scheduler::Rr,
            sched_flags: 0,
            ops: false,
            persistence: None,
            engine: None,
        };
        Service { id, conf, stats: Stats::default(), rates: Rates::default(), dests: Vec::new() }
    }

    fn tcp(addr: &str) -> ServiceId {
        ServiceId::Addr { proto: Proto::TCP, addr: addr.parse().unwrap(), port: Port::new(80) }
    }

    fn sorted(ids: &[ServiceId]) -> Vec<ServiceId> {
        let mut services: Vec<Service> = ids.iter().map(|id| service(*id)).collect();
        sort(&mut services);
        services.iter().map(|s| s.id).collect()
    }

    /// The sample order of a real run: far-apart addresses flip.
    #[test]
    fn differences_wrap() {
        let order = ["172.16.0.1", "192.168.0.1", "200.1.1.1", "1.1.1.1", "10.0.0.1"].map(tcp);
        assert_eq!(sorted(&order), order);
        let mut added = order;
        added.sort_by_key(|id| id.port().host());
        added.reverse();
        assert_eq!(sorted(&[tcp("10.0.0.1"), tcp("192.168.0.1")]), [tcp("192.168.0.1"), tcp("10.0.0.1")]);
        assert_eq!(sorted(&[tcp("10.0.0.1"), tcp("1.1.1.1")]), [tcp("1.1.1.1"), tcp("10.0.0.1")]);
    }

    #[test]
    fn keys_in_turn() {
        let at = |proto, addr: &str, port| ServiceId::Addr {
            proto,
            addr: addr.parse().unwrap(),
            port: Port::new(port),
        };
        let order = [
            at(Proto::TCP, "10.0.0.2", 80),
            at(Proto::TCP, "10.0.0.2", 443),
            at(Proto::TCP, "10.0.0.3", 1),
            at(Proto::UDP, "10.0.0.1", 53),
            at(Proto::SCTP, "10.0.0.1", 5),
            at(Proto::TCP, "2001:db8::1", 80),
            at(Proto::TCP, "2001:db8::2", 80),
            at(Proto::UDP, "2001:db8::1", 80),
            ServiceId::Mark { mark: 1, family: Family::V6 },
            ServiceId::Mark { mark: 5, family: Family::V4 },
            ServiceId::Mark { mark: 5, family: Family::V6 },
        ];
        for turn in 0..order.len() {
            let mut shuffled = order;
            shuffled.rotate_left(turn);
            assert_eq!(sorted(&shuffled), order, "rotated by {turn}");
        }
    }
}
