//! Cases made from a table: every scheduler with every way to weigh dests, and with them, in turn, every kind of traffic,
//! both families and every method. The sweep is their whole product.

use std::fmt::Write;

const SCHEDULERS: [&str; 13] =
    ["rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq", "fo", "ovf", "mh", "lblc", "lblcr"];
const METHODS: [(&str, &str); 3] = [("nat", "-m"), ("dr", "-g"), ("tun", "-i")];

/// How the dests of a service differ.
#[derive(Debug, Clone, Copy)]
enum Weights {
    Equal,
    OneTwoThree,
    AZero,
    Sixteen,
    SixtyFour,
    Big,
    Thresholds,
}

/// What the clients do.
#[derive(Debug, Clone, Copy)]
enum Traffic {
    SynOnly,
    Established,
    Closing,
    Udp,
}

const WEIGHTS: [Weights; 7] = [
    Weights::Equal,
    Weights::OneTwoThree,
    Weights::AZero,
    Weights::Sixteen,
    Weights::SixtyFour,
    Weights::Big,
    Weights::Thresholds,
];

/// Those of the usual run.
const USUAL: usize = 5;
const TRAFFIC: [Traffic; 4] = [Traffic::SynOnly, Traffic::Established, Traffic::Closing, Traffic::Udp];

/// The cases' text: each scheduler with each weighing, the rest in turn.
pub fn usual() -> String {
    let mut text = String::new();
    let mut nth = 0;
    for scheduler in SCHEDULERS {
        let weights =
            [Weights::Equal, Weights::OneTwoThree, Weights::AZero, Weights::Sixteen, Weights::Thresholds];
        for weights in weights.into_iter().take(USUAL) {
            // Steps without a common divisor, so that all pairs are met.
            one(&mut text, scheduler, weights, TRAFFIC[nth % 4], nth / 3 % 2 == 1, METHODS[nth % 3]);
            nth += 1;
        }
    }
    text
}

/// The whole product.
pub fn sweep() -> String {
    let mut text = String::new();
    for scheduler in SCHEDULERS {
        for weights in WEIGHTS {
            for traffic in TRAFFIC {
                for v6 in [false, true] {
                    METHODS
                        .iter()
                        .for_each(|method| one(&mut text, scheduler, weights, traffic, v6, *method));
                }
            }
        }
    }
    text
}

fn one(
    text: &mut String,
    scheduler: &str,
    weights: Weights,
    traffic: Traffic,
    v6: bool,
    (method, option): (&str, &str),
) {
    let family = if v6 { "v6" } else { "v4" };
    let name = format!("{scheduler}-{weights:?}-{traffic:?}-{method}-{family}");
    let udp = matches!(traffic, Traffic::Udp);
    let service = if udp { "-u V:80" } else { "-t V:80" };
    let mut say = |line: &str| _ = writeln!(text, "{line}");
    say(&format!("== {name}"));
    say("! ipvsadm -R");
    say(&format!("| -A {service} -s {scheduler}"));
    let dests = weights.dests();
    for (nth, options) in dests.iter().enumerate() {
        say(&format!("| -a {service} -r S{}:80 {option} {options}", nth + 1));
    }
    let clients = |say: &mut dyn FnMut(&str), nth: u8| traffic.of(say, nth);
    clients(&mut say, 1);
    // A dest goes, is changed, comes back; one is new.
    say(&format!("! ipvsadm -d {service} -r S2:80"));
    clients(&mut say, 2);
    say(&format!("! ipvsadm -e {service} -r S1:80 {option} -w 5"));
    say(&format!("! ipvsadm -a {service} -r S2:80 {option} -w 2"));
    clients(&mut say, 3);
    say(&format!("! ipvsadm -a {service} -r S40:80 {option} -w 3")
        .replace("S40", if dests.len() > 40 { "S63" } else { "S40" }));
    clients(&mut say, 4);
    let other = if scheduler == "wrr" { "wlc" } else { "wrr" };
    say(&format!("! ipvsadm -E {service} -s {other}"));
    clients(&mut say, 5);
    // What the first ones do is still known.
    say(&traffic.again());
}

impl Weights {
    /// Options of each dest.
    fn dests(self) -> Vec<String> {
        let weights = |weights: &[u32]| weights.iter().map(|weight| format!("-w {weight}")).collect();
        match self {
            Self::Equal => weights(&[1, 1, 1]),
            Self::OneTwoThree => weights(&[1, 2, 3]),
            Self::AZero => weights(&[2, 1, 0, 1]),
            Self::Sixteen => weights(&[1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3]),
            Self::SixtyFour => (1..=62).map(|nth| format!("-w {}", nth % 3 + 1)).collect(),
            Self::Big => weights(&[65535, 32768, 1000]),
            Self::Thresholds => vec!["-w 1 -x 2 -y 1".into(), "-w 1 -x 3".into(), "-w 2".into()],
        }
    }
}

impl Traffic {
    fn of(self, say: &mut dyn FnMut(&str), nth: u8) {
        let client =
            format!("C{nth}:{}..{} V:80", 40_000 + u16::from(nth) * 10, 40_005 + u16::from(nth) * 10);
        match self {
            Self::SynOnly => say(&format!("> syn {client}")),
            Self::Established => {
                say(&format!("> syn {client}"));
                say(&format!("< synack {client}"));
                say(&format!("> ack {client}"));
                say(&format!("> data {client}"));
            }
            Self::Closing => {
                say(&format!("> syn {client}"));
                say(&format!("< synack {client}"));
                say(&format!("> ack {client}"));
                // Some end by FIN from the client, some from the server, some by RST.
                let some = |from: u16, to: u16| {
                    let port = 40_000 + u16::from(nth) * 10;
                    format!("C{nth}:{}..{} V:80", port + from, port + to)
                };
                say(&format!("> fin {}", some(0, 1)));
                say(&format!("< fin {}", some(0, 3)));
                say(&format!("> fin {}", some(2, 3)));
                say(&format!("> rst {}", some(4, 4)));
            }
            Self::Udp => {
                say(&format!("> udp {client}"));
                say(&format!("< udp {client}"));
            }
        }
    }

    fn again(self) -> String {
        let kind = match self {
            Self::SynOnly => "syn",
            Self::Established | Self::Closing => "data",
            Self::Udp => "udp",
        };
        format!("> {kind} C1:40010..40015 V:80")
    }
}
