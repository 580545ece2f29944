//! When a connection is told to others: IPVS's rules, for somebody who looks at the table now and then instead of at every
//! packet.
//!
//! IPVS tells of a connection at its third packet, then at every fiftieth (`sync_threshold`), at once when a state begins
//! that ends it, and of a template whenever it is used. Here the first packets are counted, later ones are not: what IPVS
//! does every fiftieth packet happens when an eighth of the timeout has passed, if there were packets. That is never too
//! late for the other side, and less often than IPVS for a busy connection.

use lb_common::addr::Proto;
use lb_common::conn::{ctl, packets};
use lb_common::table::DEPENDANTS;

use crate::control::sysctl::Sysctls;

/// States in which TCP connections are told of: ESTABLISHED, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT.
const TCP: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7;
const TCP_ESTABLISHED: u32 = 1;
/// The same of SCTP: ESTABLISHED, the three of a shutdown, CLOSED.
const SCTP: u32 = 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13;
const SCTP_ESTABLISHED: u32 = 8;
/// Packets are counted up to this.
const COUNTED: u32 = packets::ENOUGH & packets::COUNT;

/// The sysctls that matter, times in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    threshold: u32,
    period: u32,
    refresh: u32,
    retries: u32,
    templates_only: bool,
    hz: u32,
}

/// An entry as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its control word.
    pub ctl: u32,
    /// Its `last` word: tick of the last packet, or of a template's end.
    pub last: u32,
    /// Its `packets` word.
    pub packets: u32,
    /// Its protocol.
    pub proto: Proto,
    /// A template?
    pub template: bool,
    /// Made through a template?
    pub controlled: bool,
    /// How long it lasts without a packet, in ticks.
    pub timeout: u32,
}

/// What was told of an entry. All zero: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its control word then; 0 = nothing was told.
    ctl: u32,
    /// Its `last` word then.
    last: u32,
    /// When it would end then.
    end: u32,
    /// When that was, and how often it was repeated, in the lowest two bits.
    when: u32,
}

/// Are connections in this state told of?
pub fn is_told(proto: Proto, state: u32) -> bool {
    let told = match proto {
        Proto::TCP => TCP,
        Proto::SCTP => SCTP,
        _ => u32::MAX,
    };
    told >> state & 1 != 0
}

impl Rules {
    /// From the sysctls; `hz` ticks are a second.
    pub fn new(all: &Sysctls, hz: u32) -> Self {
        let number = |name: &str| all.get(name).max(0) as u32;
        let [threshold, period] = all.sync_threshold();
        Self {
            threshold,
            period,
            refresh: number("sync_refresh_period").saturating_mul(hz).min(1 << 30),
            retries: number("sync_retries").min(3),
            templates_only: number("sync_persist_mode") != 0,
            hz,
        }
    }

    /// Is it to be told now? If so that is noted.
    pub fn due(&self, look: &Look, told: &mut Told, now: u32) -> bool {
        let known = told.ctl != 0 && (told.ctl ^ look.ctl) & ctl::IDENTITY == 0;
        // Nearly all entries are as they were.
        if known && told.ctl == look.ctl && told.last == look.last {
            return false;
        }
        let old = if known { *told } else { Told::default() };
        let Some(repeated) =
            (if look.template { self.template(look, &old) } else { self.connection(look, &old, now) })
        else {
            return false;
        };
        let end = self.end(look);
        *told = Told { ctl: look.ctl, last: look.last, end, when: now & !3 | repeated };
        true
    }

    /// `Some`: tell of it, for the so-manieth time without news.
    fn connection(&self, look: &Look, old: &Told, now: u32) -> Option<u32> {
        // Without packets of its own it is known from others.
        let count = look.packets & packets::COUNT;
        if count == 0 && look.packets & packets::DEPENDANTS == 0 || self.templates_only && look.controlled {
            return None;
        }
        let state = look.ctl & ctl::STATE;
        if !is_told(look.proto, state) {
            return None;
        }
        let established = match look.proto {
            Proto::TCP => TCP_ESTABLISHED,
            Proto::SCTP => SCTP_ESTABLISHED,
            _ => state,
        };
        let changed = old.ctl == 0 || old.ctl & ctl::STATE != state;
        if changed && state != established {
            return Some(0);
        }
        if old.ctl == 0 {
            return self.first(count).then_some(0);
        }
        if self.refresh > 0 {
            return self.refreshed(look, old, now);
        }
        let moved = self.end(look).wrapping_sub(old.end) as i32;
        (self.period > 0 && moved.unsigned_abs() >= look.timeout / 8).then_some(0)
    }

    /// Has it had as many packets as a connection has to have before others are told?
    fn first(&self, count: u32) -> bool {
        match (self.threshold, self.period) {
            // No packet's number is zero, but every period's end.
            (0, 0) => self.refresh > 0,
            (0, period) => count >= period.min(COUNTED),
            (_, 0) if self.refresh > 0 => true,
            (threshold, _) => count >= threshold.min(COUNTED),
        }
    }

    /// The rule of `sync_refresh_period` and `sync_retries`.
    fn refreshed(&self, look: &Look, old: &Told, now: u32) -> Option<u32> {
        let moved = (self.end(look).wrapping_sub(old.end) as i32).unsigned_abs();
        if moved >= self.refresh.min((look.timeout / 2).max(10 * self.hz)) {
            return Some(0);
        }
        let repeated = old.when & 3;
        let since = now.wrapping_sub(old.when & !3);
        (repeated < self.retries && since >= self.refresh / 8).then_some(repeated + 1)
    }

    fn template(&self, look: &Look, old: &Told) -> Option<u32> {
        // Without connections of its own it is known from others.
        if look.packets & DEPENDANTS == 0 {
            return None;
        }
        if old.ctl == 0 || old.ctl & ctl::STATE != look.ctl & ctl::STATE {
            return Some(0);
        }
        let least =
            if self.refresh > 0 { self.refresh.min((look.timeout / 2).max(10 * self.hz)) } else { self.hz };
        let moved = (look.last.wrapping_sub(old.end) as i32).unsigned_abs();
        (moved >= least).then_some(0)
    }

    fn end(&self, look: &Look) -> u32 {
        if look.template { look.last } else { look.last.wrapping_add(look.timeout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::sysctl::find;

    const HZ: u32 = 250;
    const GENERATION: u32 = 7 << 8 | ctl::LIVE;

    fn rules(set: &[(&str, &str)]) -> Rules {
        let mut all = Sysctls::default();
        for (name, value) in set {
            assert!(find(name).and_then(|at| all.set(at, value)).is_ok(), "{name}");
        }
        Rules::new(&all, HZ)
    }

    /// An established connection after so many packets.
    fn tcp(count: u32, second: u32) -> Look {
        Look {
            ctl: GENERATION | ctl::ACTIVE | TCP_ESTABLISHED,
            last: 1000 + second * HZ,
            packets: packets::NONE | count,
            proto: Proto::TCP,
            template: false,
            controlled: false,
            timeout: 900 * HZ,
        }
    }

    fn in_state(look: Look, state: u32) -> Look {
        Look { ctl: GENERATION | state, timeout: 120 * HZ, ..look }
    }

    /// At which of these looks it is told.
    fn told(rules: Rules, looks: &[Look]) -> Vec<usize> {
        let mut told = Told::default();
        let due = |(at, look): (usize, &Look)| rules.due(look, &mut told, look.last).then_some(at);
        looks.iter().enumerate().filter_map(due).collect()
    }

    #[test]
    fn by_default_from_the_third_packet_on() {
        let looks = [tcp(0, 0), tcp(1, 1), tcp(2, 2), tcp(3, 3), tcp(3, 3), tcp(9, 100), tcp(COUNTED, 120)];
        assert_eq!(told(rules(&[]), &looks), [3, 6]);
        // A busy one in the same place, under another generation.
        let other = Look { ctl: looks[6].ctl + ctl::GENERATION, ..tcp(3, 121) };
        assert_eq!(told(rules(&[]), &[tcp(COUNTED, 120), other]), [0, 1]);
    }

    #[test]
    fn the_end_is_told_at_once() {
        for (state, is) in [
            (0, false),
            (2, false),
            (3, false),
            (4, true),
            (5, true),
            (6, true),
            (7, true),
            (8, false),
            (10, false),
        ] {
            assert_eq!(!told(rules(&[]), &[in_state(tcp(1, 0), state)]).is_empty(), is, "{state}");
        }
        let looks = [tcp(3, 0), in_state(tcp(4, 0), 4), in_state(tcp(5, 0), 4), in_state(tcp(6, 1), 5)];
        assert_eq!(told(rules(&[]), &looks), [0, 1, 3]);
        assert_eq!(told(rules(&[("sync_threshold", "0 0")]), &looks), [1, 3]);
        let sctp = |state| Look { proto: Proto::SCTP, ..in_state(tcp(1, 0), state) };
        for (state, is) in [(7, false), (9, true), (11, true), (12, false), (13, true)] {
            assert_eq!(!told(rules(&[]), &[sctp(state)]).is_empty(), is, "SCTP {state}");
        }
    }

    #[test]
    fn thresholds() {
        let looks =
            [tcp(1, 0), tcp(4, 1), tcp(5, 2), tcp(COUNTED - 1, 3), tcp(COUNTED, 4), tcp(COUNTED, 500)];
        assert_eq!(told(rules(&[("sync_threshold", "5 50")]), &looks), [2, 5]);
        // A fiftieth packet is not counted any more: the last one that is stands for it.
        assert_eq!(told(rules(&[("sync_threshold", "0 50")]), &looks), [4, 5]);
        // Once, and never again.
        assert_eq!(told(rules(&[("sync_threshold", "5 0")]), &looks), [2]);
        // No more are counted.
        assert_eq!(told(rules(&[("sync_threshold", "100 1000")]), &looks), [4, 5]);
    }

    #[test]
    fn refreshing() {
        let each = |seconds: &[u32]| seconds.iter().map(|second| tcp(COUNTED, *second)).collect::<Vec<_>>();
        let period = rules(&[("sync_refresh_period", "10"), ("sync_threshold", "0 0")]);
        assert_eq!(told(period, &each(&[0, 4, 9, 10, 14, 19, 20])), [0, 3, 6]);
        // Half of the timeout, but not less than ten seconds.
        let long = rules(&[("sync_refresh_period", "1000")]);
        assert_eq!(told(long, &each(&[0, 400, 449, 450])), [0, 3]);
        let retries = rules(&[("sync_refresh_period", "8"), ("sync_retries", "3")]);
        assert_eq!(told(retries, &each(&[0, 0, 1, 2, 3, 4, 10, 11])), [0, 2, 3, 4, 7]);
    }

    #[test]
    fn udp_and_templates() {
        let udp = |count, second| Look {
            proto: Proto::UDP,
            ctl: GENERATION | 1,
            timeout: 300 * HZ,
            ..tcp(count, second)
        };
        assert_eq!(told(rules(&[]), &[udp(1, 0), udp(3, 1), udp(9, 2), udp(9, 40)]), [1, 3]);
        let template = |dependants, end, state| Look {
            template: true,
            ctl: GENERATION | state,
            packets: dependants,
            ..tcp(0, end)
        };
        let looks =
            [template(0, 0, 0), template(1, 0, 0), template(2, 0, 1), template(3, 5, 1), template(0, 9, 1)];
        assert_eq!(told(rules(&[]), &looks), [1, 2, 3]);
        assert_eq!(told(rules(&[("sync_refresh_period", "60")]), &looks), [1, 2]);
    }

    #[test]
    fn under_a_template() {
        let look = Look { controlled: true, ..tcp(3, 0) };
        assert_eq!(told(rules(&[("sync_persist_mode", "1")]), &[look]), Vec::<usize>::new());
        assert_eq!(told(rules(&[]), &[look]), [0]);
    }
}
