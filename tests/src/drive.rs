//! The questions every lab asks: who answers, in what order, are large files whole, does it hold for a thousand
//! connections.

use crate::peer::curl;
use crate::topo::Topology;
use anyhow::{Result, ensure};
use std::net::SocketAddr;

/// A service with all of a set-up's servers behind it, as the commands that make it and the rows that list it.
#[derive(Debug)]
pub struct Service {
    /// The virtual address and port.
    pub vip: SocketAddr,
    /// The real servers, in the order they are added.
    pub dests: Vec<SocketAddr>,
    /// ipvsadm's option for the method, and its word for it in listings.
    pub method: (&'static str, &'static str),
    /// The names the servers answer with.
    names: Vec<String>,
}

/// `-g`
pub const DR: (&str, &str) = ("-g", "Route");
/// `-i`
pub const TUN: (&str, &str) = ("-i", "Tunnel");
/// `-m`
pub const NAT: (&str, &str) = ("-m", "Masq");

/// The set-up's HTTP service: for IPv4 and for IPv6.
pub fn services(set: &Topology, method: (&'static str, &'static str)) -> [Service; 2] {
    let [v4, v6] = set.vip(80);
    let dests =
        |family: usize| set.servers.iter().map(|server| server.address.with_port(80)[family]).collect();
    let names = || set.servers.iter().map(|server| server.name()).collect();
    [
        Service { vip: v4, dests: dests(0), method, names: names() },
        Service { vip: v6, dests: dests(1), method, names: names() },
    ]
}

impl Service {
    /// The commands that make it, with weight 1 for all.
    pub fn commands(&self, scheduler: &str) -> String {
        let Self { vip, dests, method: (option, _), .. } = self;
        let add = dests.iter().map(|dest| format!("ipvsadm -a -t {vip} -r {dest} {option}\n"));
        format!("ipvsadm -A -t {vip} -s {scheduler}\n{}", add.collect::<String>())
    }

    /// Forgets all dests but the first few.
    pub fn keep(&mut self, dests: usize) {
        self.dests.truncate(dests);
        self.names.truncate(dests);
    }

    /// Who answers in one round of rr over dests of weight 1 that were all just added: the newest first.
    pub fn round(&self) -> Vec<String> {
        self.names.iter().rev().cloned().collect()
    }

    /// Has curl ask for everything there is and compares all of it. The service is rr and new, or at the beginning of
    /// a round; each part leaves it at the beginning of a round.
    pub fn serves_in_turn(&self, set: &Topology) -> Result<()> {
        answers_in_turn(set, self.vip, &self.round(), 12)?;
        for server in self.round() {
            let got = curl::download(&set.client.netns, self.vip, "/big")?;
            ensure!(got == set.content.big(), "{}: what came from {server} is not what it has", self.vip);
        }
        answers_in_turn(set, self.vip, &self.round(), 1000 - 1000 % self.names.len())
    }
}

/// The given servers answer `count` requests one after the other, again and again.
pub fn answers_in_turn(set: &Topology, at: SocketAddr, round: &[String], count: usize) -> Result<()> {
    let answers = curl::answers(&set.client.netns, at, count)?;
    let expected: Vec<String> = round.iter().cycle().take(count).cloned().collect();
    let differs = answers.iter().zip(&expected).position(|(got, due)| got != due);
    ensure!(
        differs.is_none(),
        "{at}: answer {} differs: {:?} instead of a round of {round:?}",
        differs.unwrap_or_default(),
        &answers[..answers.len().min(24)]
    );
    Ok(())
}
