//! The sysctls of IPVS, `net.ipv4.vs.*`: names, defaults, ranges, and what becomes of each here.

use super::refusal::{Refusal, Result};

/// What they are called before the name.
pub const PREFIX: &str = "net.ipv4.vs.";

/// Whether a value does anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// As in IPVS.
    Same,
    /// Nothing, for this reason.
    Nothing(&'static str),
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name without the prefix.
    pub name: &'static str,
    /// Its value when nobody has set it.
    pub default: i32,
    range: (i32, i32),
    /// What it does.
    pub effect: Effect,
}

const ANY: (i32, i32) = (i32::MIN, i32::MAX);
const MODES: (i32, i32) = (0, 3);

const fn same(name: &'static str, default: i32) -> Sysctl {
    Sysctl { name, default, range: ANY, effect: Effect::Same }
}
const fn other(name: &'static str, default: i32, range: (i32, i32), effect: Effect) -> Sysctl {
    Sysctl { name, default, range, effect }
}

/// All, in the order of a listing. Their places are those of their values in the pinned settings: one more in between
/// needs another layout version.
pub const ALL: [Sysctl; 29] = [
    same("am_droprate", 10),
    same("amemthresh", 1024),
    same("backup_only", 0),
    same("cache_bypass", 0),
    same("conn_reuse_mode", 1),
    other("conntrack", 0, ANY, Effect::Nothing("XDP runs before netfilter, so nothing is tracked")),
    other("drop_entry", 0, MODES, Effect::Same),
    other("drop_packet", 0, MODES, Effect::Same),
    same("expire_nodest_conn", 0),
    same("expire_quiescent_template", 0),
    other("ignore_tunneled", 0, ANY, Effect::Nothing("tunnelled packets never enter the balancer twice")),
    same("lblc_expiration", 86_400),
    same("lblcr_expiration", 86_400),
    same("nat_icmp_send", 0),
    same("pmtu_disc", 1),
    same("run_estimation", 1),
    same("schedule_icmp", 0),
    other("secure_tcp", 0, MODES, Effect::Same),
    same("sloppy_sctp", 0),
    same("sloppy_tcp", 0),
    other("snat_reroute", 1, ANY, Effect::Nothing("replies are always routed as locally sent packets are")),
    same("sync_persist_mode", 0),
    other("sync_ports", 1, (1, i32::MAX), Effect::Same),
    other("sync_qlen_max", QLEN, (0, i32::MAX), Effect::Same),
    same("sync_refresh_period", 0),
    other("sync_retries", 0, (0, 3), Effect::Same),
    same("sync_sock_size", 0),
    same("sync_threshold", 3),
    other("sync_version", 1, (0, 1), Effect::Same),
];

/// What IPVS works out from the memory of the machine; this is that of one with 4 GiB.
const QLEN: i32 = 32_768;
/// The second value of sync_threshold: the period.
const PERIOD: i32 = 50;
/// Words that hold values: one each, and the period.
pub const WORDS: usize = ALL.len() + 1;

/// The values. `None`: never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// By place, then the period of sync_threshold.
    pub given: [Option<i32>; WORDS],
}

impl Default for Sysctls {
    fn default() -> Self {
        Self { given: [None; WORDS] }
    }
}

/// Where a sysctl stands, by its name with or without the prefix; slashes will do for dots, as with sysctl(8).
pub fn find(name: &str) -> Result<usize> {
    let dotted = name.replace('/', ".");
    let bare = dotted.strip_prefix(PREFIX).unwrap_or(&dotted);
    ALL.iter().position(|one| one.name == bare).ok_or_else(|| {
        Refusal::Failed(format!("{name}: no such sysctl (`lb-user sysctl` lists those there are)"))
    })
}

impl Sysctls {
    /// One value.
    pub fn get(&self, name: &str) -> i32 {
        find(name).map_or(0, |at| self.at(at))
    }

    fn at(&self, at: usize) -> i32 {
        self.given[at].unwrap_or_else(|| ALL.get(at).map_or(PERIOD, |one| one.default))
    }

    /// Both values of sync_threshold: threshold and period.
    pub fn sync_threshold(&self) -> [u32; 2] {
        let threshold = self.get("sync_threshold");
        [threshold, self.at(ALL.len())].map(|value| value.max(0) as u32)
    }

    /// As it is listed and set: two values for sync_threshold.
    pub fn text(&self, at: usize) -> String {
        match ALL[at].name {
            "sync_threshold" => format!("{}\t{}", self.at(at), self.at(ALL.len())),
            _ => self.at(at).to_string(),
        }
    }

    /// Sets one, or keeps the old value. On success, what there is to say about it.
    pub fn set(&mut self, at: usize, text: &str) -> Result<Option<String>> {
        let one = &ALL[at];
        let invalid = |range: &str| {
            let name = one.name;
            Refusal::Failed(format!("setting key \"{PREFIX}{name}\": Invalid argument ({text}; {range})"))
        };
        let numbers: Option<Vec<i32>> = text.split_whitespace().map(number).collect();
        match (one.name, numbers.as_deref()) {
            ("sync_threshold", Some(&[threshold, period])) => {
                if threshold < 0 || period < 0 || (period > 0 && threshold >= period) {
                    return Err(invalid("the threshold has to be below the period"));
                }
                (self.given[at], self.given[ALL.len()]) = (Some(threshold), Some(period));
            }
            ("sync_threshold", _) => return Err(invalid("two numbers are wanted: threshold and period")),
            ("sync_ports", Some(&[ports])) if ports.count_ones() != 1 || ports < 0 => {
                return Err(invalid("a power of two is wanted"));
            }
            (_, Some(&[value])) if (one.range.0..=one.range.1).contains(&value) => {
                self.given[at] = Some(value);
            }
            _ if one.range == ANY => return Err(invalid("a number is wanted")),
            _ => return Err(invalid(&format!("{} to {} are possible", one.range.0, one.range.1))),
        }
        Ok(self.remark(at))
    }

    /// What somebody who has set it should know.
    fn remark(&self, at: usize) -> Option<String> {
        let one = &ALL[at];
        if self.at(at) == one.default {
            return None;
        }
        let accepted = |why: &str| Some(format!("{PREFIX}{}: accepted, has no effect: {why}", one.name));
        match one.effect {
            Effect::Same => None,
            Effect::Nothing(why) => accepted(why),
        }
    }

    /// Those that are not as they were at first, as `NAME=VALUE`.
    pub fn changed(&self) -> Vec<String> {
        let first = Self::default();
        let different = |at: &usize| self.text(*at) != first.text(*at);
        (0..ALL.len())
            .filter(different)
            .map(|at| format!("{}={}", ALL[at].name, self.text(at).replace('\t', " ")))
            .collect()
    }

    /// One new connection in so many is dropped; 0 = none.
    pub fn drop_rate(&self) -> u32 {
        // IPVS counts down to below one: what is less drops everything too.
        if self.get("drop_packet") == 3 { self.get("am_droprate").max(1) as u32 } else { 0 }
    }
}

/// As the kernel reads them: decimal, octal after 0, hexadecimal after 0x.
fn number(word: &str) -> Option<i32> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1i64, digits),
        None => (1, word),
    };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => i64::from_str_radix(hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
        None => digits.parse::<u32>().map(i64::from),
    };
    i32::try_from(sign.checked_mul(value.ok().filter(|value| *value >= 0)?)?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

    use super::*;

    fn set(all: &mut Sysctls, name: &str, value: &str) -> Result<Option<String>> {
        all.set(find(name)?, value)
    }

    #[test]
    fn sorted_and_named_once() {
        assert!(ALL.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn values_out_of_range_change_nothing() {
        let mut all = Sysctls::default();
        for (name, value) in [
            ("drop_packet", "4"),
            ("drop_entry", "-1"),
            ("secure_tcp", "x"),
            ("sync_version", "2"),
            ("sync_ports", "3"),
            ("sync_ports", "0"),
            ("sync_retries", "4"),
            ("sync_threshold", "3"),
            ("sync_threshold", "5 5"),
            ("conn_reuse_mode", ""),
            ("conn_reuse_mode", "1 2"),
            ("conn_reuse_mode", "2147483648"),
        ] {
            let refused = set(&mut all, name, value).unwrap_err().to_string();
            assert!(refused.contains("Invalid argument"), "{refused}");
            assert_eq!(all, Sysctls::default(), "{name}={value}");
        }
        assert!(find("conn_reuse").is_err());
    }

    #[test]
    fn values() {
        let mut all = Sysctls::default();
        assert_eq!(set(&mut all, "net/ipv4/vs/conn_reuse_mode", "0x2"), Ok(None));
        assert_eq!(all.get("conn_reuse_mode"), 2);
        assert_eq!(set(&mut all, "sync_threshold", "0 0"), Ok(None));
        assert!(set(&mut all, "conntrack", "1").unwrap().is_some());
        assert_eq!(all.changed(), ["conn_reuse_mode=2", "conntrack=1", "sync_threshold=0 0"]);
    }

    #[test]
    fn dropping() {
        let mut all = Sysctls::default();
        assert_eq!(set(&mut all, "net.ipv4.vs.drop_packet", "1"), Ok(None));
        assert_eq!(all.drop_rate(), 0, "memory may be low or not");
        assert_eq!(set(&mut all, "drop_packet", "3"), Ok(None));
        assert_eq!(all.drop_rate(), 10);
        set(&mut all, "am_droprate", "0").unwrap();
        assert_eq!(all.drop_rate(), 1);
    }
}
