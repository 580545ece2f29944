//! Mark rules in their map: two halves, of which a word in the settings puts one in force.
//!
//! Behind the rules in force stand those that were taken out while connections of mark services lived: packets of those
//! connections still have to be looked at, as the kernel's IPVS looks for a connection before it looks at the mark.

use anyhow::{Context as _, Result};
use lb_common::addr::{Addr, Family};
use lb_common::mark::{MOST, MarkRule, word};

use super::pins::{self, Rules};
use super::syscall;
use crate::control::mark::{Net, Rule};

/// Host bits of a destination whose addresses are noted one by one. Wider ones make every address worth a look.
const SINGLY: u8 = 12;

/// The rules, in force and not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// In force, the first that matches first.
    pub rules: Vec<Rule>,
    /// Taken out, newest first.
    pub gone: Vec<Rule>,
}

fn parts(word: u32) -> (u32, u32) {
    (word >> 31, word & (2 * MOST - 1))
}

impl Marks {
    /// Reads them.
    pub fn read(maps: &Rules) -> Result<Self> {
        let (half, count) = parts(maps.settings()?.mark_rules.load());
        let read = |at: u32| -> Result<Option<Rule>> {
            let cell: Option<MarkRule> = syscall::lookup(pins::fd(&maps.marks), &(half * MOST + at))
                .context("reading the mark rules")?;
            Ok(cell.as_ref().and_then(Rule::from_cell))
        };
        let mut marks = Self::default();
        for at in 0..count.min(MOST) {
            marks.rules.extend(read(at)?);
        }
        for at in count..MOST {
            let Some(rule) = read(at)? else { break };
            marks.gone.push(rule);
        }
        Ok(marks)
    }

    /// Replaces the rules; those that are no longer among them are remembered.
    pub fn replace(&mut self, rules: Vec<Rule>) {
        let mut gone: Vec<Rule> =
            self.rules.iter().chain(&self.gone).filter(|rule| !rules.contains(rule)).copied().collect();
        gone.truncate((MOST as usize).saturating_sub(rules.len()));
        (self.rules, self.gone) = (rules, gone);
    }

    /// Writes them where nobody reads, and puts them in force.
    pub fn write(&self, maps: &Rules) -> Result<()> {
        let settings = maps.settings()?;
        let half = 1 - parts(settings.mark_rules.load()).0;
        let cells: Vec<MarkRule> = self.rules.iter().chain(&self.gone).map(Rule::cell).collect();
        let end = cells.len() < MOST as usize;
        let cells: Vec<MarkRule> = cells.into_iter().chain(end.then(MarkRule::default)).collect();
        let keys: Vec<u32> = (0..cells.len() as u32).map(|at| half * MOST + at).collect();
        // Packets may still be walking the half that was in force before the last change.
        syscall::wait_for_readers()?;
        syscall::update_many(pins::fd(&maps.marks), &keys, &cells).context("writing the mark rules")?;
        settings.mark_rules.store(word(half, self.rules.len() as u32));
        Ok(())
    }

    /// Tells every destination that packets with one of the marks can have. False: too many to tell.
    pub fn destinations(
        &self,
        wanted: &dyn Fn(Family, u32) -> bool,
        tell: &mut dyn FnMut(Family, Addr),
    ) -> bool {
        let nets = self.rules.iter().chain(&self.gone);
        let mut nets = nets.filter(|rule| wanted(rule.dst.family(), rule.mark)).map(|rule| rule.dst);
        nets.all(|net| each(&net, tell))
    }
}

fn each(net: &Net, tell: &mut dyn FnMut(Family, Addr)) -> bool {
    if net.host_bits() > SINGLY {
        return false;
    }
    let first = Addr::from(net.addr).0;
    let family = net.family();
    let last = match family {
        Family::V4 => 2,
        Family::V6 => 14,
    };
    let start = u16::from_be_bytes([first[last], first[last + 1]]);
    for host in 0..1u16 << net.host_bits() {
        let mut addr = first;
        addr[last..last + 2].copy_from_slice(&(start | host).to_be_bytes());
        tell(family, Addr(addr));
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

    use super::*;
    use std::net::IpAddr;

    fn rule(mark: u32, dst: &str) -> Rule {
        Rule::to(mark, dst.parse().unwrap())
    }

    fn told(marks: &Marks, wanted: u32) -> Option<Vec<IpAddr>> {
        let mut all = Vec::new();
        let few =
            marks.destinations(&|_, mark| mark == wanted, &mut |family, addr| all.push(addr.to_ip(family)));
        few.then_some(all)
    }

    #[test]
    fn addresses_of_nets() {
        let rules = vec![rule(1, "10.0.255.254/31"), rule(1, "fd00::fffe/127"), rule(2, "10.0.0.0/19")];
        let marks = Marks { rules, gone: Vec::new() };
        let expected: Vec<IpAddr> = ["10.0.255.254", "10.0.255.255", "fd00::fffe", "fd00::ffff"]
            .iter()
            .map(|addr| addr.parse().unwrap())
            .collect();
        assert_eq!(told(&marks, 1), Some(expected));
        assert_eq!(told(&marks, 2), None);
        assert_eq!(told(&marks, 3), Some(Vec::new()));
        let marks = Marks { rules: vec![rule(1, "10.0.16.0/20")], gone: Vec::new() };
        assert_eq!(
            told(&marks, 1).map(|all| (all.len(), all[4095])),
            Some((4096, "10.0.31.255".parse().unwrap()))
        );
    }

    #[test]
    fn what_is_taken_out_is_remembered() {
        let mut marks = Marks::default();
        marks.replace(vec![rule(1, "10.0.0.1"), rule(2, "10.0.0.2")]);
        marks.replace(vec![rule(2, "10.0.0.2")]);
        assert_eq!(marks.gone, [rule(1, "10.0.0.1")]);
        marks.replace(vec![rule(1, "10.0.0.1")]);
        assert_eq!(marks.gone, [rule(2, "10.0.0.2")]);
        marks.replace((0..MOST).map(|n| rule(n + 10, "10.0.0.3")).collect());
        assert_eq!(marks.gone, []);
    }
}
