//! A case with kernel IPVS: the driver gives the very packets to the kernel's stack (live frames of a test run), which takes
//! them from reception through IPVS to a card that swallows them. Less the same packets under an Ethernet type that nobody
//! listens to, which the stack drops on reception: what a card's driver does, and the packet's memory, is in both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::Proto;
use lb_common::dest::Method;

use super::cases::FLOWS;
use super::counter;
use super::figure::Cost;
use crate::bench::cases::{self, Case, Kind, Path};
use crate::bench::driver::{Driver, Plan, Target};
use crate::bench::measure::{self, Effort};
use crate::case::{self, FAMILIES, Nic};
use crate::net::{Netns, xdp_pass};
use crate::{bpf, run};

/// Real ipvsadm, where the virtual machine has it.
const IPVSADM: &str = "/ipvs/ipvsadm";
/// For experiments: no protocol of the kernel's has it.
const NOBODYS_TYPE: [u8; 2] = [0x88, 0xb5];
/// The card that swallows what leaves.
const SINK: &str = "sink";
/// IPVS sums its counters up every two seconds. The kernel needs no longer to take a namespace down, connections included.
const SETTLED: Duration = Duration::from_millis(2500);
const SYSCTLS: [(&str, &str); 5] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
];

/// Measures a case in a namespace of its own. Every packet has to be counted by IPVS and to leave.
pub fn measure(case: &Case, effort: Effort) -> Result<Cost> {
    let netns = Netns::new("ipvs")?;
    SYSCTLS.iter().try_for_each(|(name, value)| netns.sysctl(name, value))?;
    netns.ip(&cards())?;
    let cost = netns.enter(|| inside(case, effort))??;
    drop(netns);
    thread::sleep(SETTLED);
    Ok(cost)
}

/// Packets come in by one, and leave by one that is as if on the servers' segment.
fn cards() -> String {
    let (front, mac) = (Nic::Front.name(), Nic::Front.mac().map(|byte| format!("{byte:02x}")).join(":"));
    let mut lines = format!(
        "link add {front} address {mac} type veth peer name {front}-peer\n\
         link add {SINK} type dummy\nlink set {SINK} arp on\n\
         link set {front}-peer up\nlink set {front} up\nlink set {SINK} up\n"
    );
    for family in FAMILIES {
        let (vip, own) = (case::vip(family), Nic::Front.host(family, 1));
        let (whole, segment, nodad) = if own.is_ipv4() { (32, 16, "") } else { (128, 64, " nodad") };
        lines += &format!("address add {vip}/{whole} dev {front}{nodad}\n");
        lines += &format!("address add {own}/{segment} dev {SINK}{nodad}\n");
    }
    lines
}

fn inside(case: &Case, effort: Effort) -> Result<Cost> {
    // A veth takes live frames when it has a program.
    xdp_pass::attach(Nic::Front.name())?;
    cases::world(SINK)?;
    ipvsadm(&["-R"], &rules(case))?;
    let mut driver = Driver::new(None, bpf::number(Nic::Front.name()), counter::instructions)?;
    for (mut plan, _) in case.beginning()? {
        driver.run(Target::Stack, &mut plan, FLOWS)?;
    }
    let mut plan = case.measured()?;
    let mut floor_plan = under_nobodys_type(plan);
    driver.run(Target::Stack, &mut floor_plan, effort.packets)?;
    driver.run(Target::Stack, &mut plan, effort.packets)?;
    let before = Counted::read()?;
    let rounds = measure::take_turns(effort.rounds, || {
        let floor = driver.run(Target::Stack, &mut floor_plan, effort.packets)?;
        let raw = driver.run(Target::Stack, &mut plan, effort.packets)?;
        Ok((floor.cost, raw.cost))
    })?;
    let packets = u64::from(effort.rounds) * u64::from(effort.packets);
    Counted::read()?.since(&before).check(case, packets)?;
    Ok(Cost::of(rounds))
}

fn under_nobodys_type(mut plan: Plan) -> Plan {
    plan.head[12..14].copy_from_slice(&NOBODYS_TYPE);
    plan
}

fn ipvsadm(words: &[&str], input: &str) -> Result<String> {
    run::run_with(Command::new(IPVSADM).args(words), input.as_bytes(), run::LIMIT)?.ok()
}

/// The case's service and dests, as ipvsadm reads them.
fn rules(case: &Case) -> String {
    let service = case.service();
    let proto = if case.proto == Proto::TCP { "-t" } else { "-u" };
    let end = |address: std::net::IpAddr, port| std::net::SocketAddr::new(address, port);
    let vip = end(case::vip(case.family), service.key.port.host());
    let mut lines = format!("-A {proto} {vip} -s {}\n", service.scheduler.name());
    for dest in case.dests() {
        let at = end(dest.addr.to_ip(case.family), dest.port.host());
        let method = match dest.method {
            Method::Nat => "-m",
            Method::Tunnel => "-i",
            _ => "-g",
        };
        _ = writeln!(lines, "-a {proto} {vip} -r {at} {method} -w {}", dest.weight);
    }
    lines
}

/// What went through IPVS, and out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    conns: u64,
    requests: u64,
    replies: u64,
    left: u64,
}

impl Counted {
    fn read() -> Result<Self> {
        thread::sleep(SETTLED);
        let listing = ipvsadm(&["-Ln", "--stats", "--exact"], "")?;
        let (conns, requests, replies) =
            totals(&listing).with_context(|| format!("no totals in:\n{listing}"))?;
        let cards = fs::read_to_string("/proc/thread-self/net/dev")?;
        let left = sent(&cards, SINK).with_context(|| format!("no card {SINK} in:\n{cards}"))?;
        Ok(Self { conns, requests, replies, left })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            conns: self.conns - before.conns,
            requests: self.requests - before.requests,
            replies: self.replies - before.replies,
            left: self.left - before.left,
        }
    }

    fn check(&self, case: &Case, packets: u64) -> Result<()> {
        let reply = matches!(case.kind, Kind::Established(Path::NatReply, _));
        let new = matches!(case.kind, Kind::New(..));
        let expected = Self {
            conns: if new { packets } else { 0 },
            requests: if reply { 0 } else { packets },
            replies: if reply { packets } else { 0 },
            left: packets,
        };
        ensure!(*self == expected, "kernel IPVS counted {self:?} instead of {expected:?}");
        Ok(())
    }
}

/// Connections, packets in and out of the only service: its line begins with the protocol, its address follows.
fn totals(listing: &str) -> Option<(u64, u64, u64)> {
    let line = listing.lines().find(|line| line.starts_with("TCP ") || line.starts_with("UDP "))?;
    let mut numbers = line.split_whitespace().skip(2).map_while(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}

/// Packets a card has sent: the tenth number behind its name.
fn sent(cards: &str, card: &str) -> Option<u64> {
    let lines = cards.lines().filter_map(|line| line.split_once(':'));
    let rows: BTreeMap<&str, &str> = lines.map(|(name, row)| (name.trim(), row)).collect();
    rows.get(card)?.split_whitespace().nth(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        let listing = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  10.9.0.1:80                      1024     3072     1024   258048    86016
  -> 10.1.0.11:8080                   1024     3072     1024   258048    86016
";
        assert_eq!(totals(listing), Some((1024, 3072, 1024)));
        let cards = "  sink: 1 2 3 4 5 6 7 8 9 10 11\nlo: 0 0\n";
        assert_eq!((sent(cards, "sink"), sent(cards, "lo")), (Some(10), None));
    }

    #[test]
    fn rules_are_ipvsadms() {
        let case = Case {
            family: lb_common::addr::Family::V6,
            proto: Proto::UDP,
            kind: Kind::Established(Path::NatReply, FLOWS),
        };
        let rules = rules(&case);
        assert_eq!(rules, "-A -u [fd09::1]:80 -s rr\n-a -u [fd09::1]:80 -r [fd01::b]:8080 -m -w 1\n");
    }
}
