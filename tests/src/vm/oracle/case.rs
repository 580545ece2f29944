//! The language of the cases. A case begins with `== NAME`; a name that ends in `v6` makes it one of IPv6. Each line is a
//! step:
//!
//! ```text
//! ! ipvsadm -A -t V:80 -s rr         a command; following lines `| …` are its standard input
//! ! sysctl sloppy_tcp=1              one of net.ipv4.vs; the case's end puts the default back
//! ! narrow C1                        the way to this client carries 1400 bytes
//! ! mark M1 V tcp 80-90              packets to there, of that protocol and port if they are given, get this mark
//! > syn C1:40000 V:80 [OPTION...]    the client sends: see shot.rs for what
//! > syn C1:40000..40007 V:80         the same from several ports
//! < synack C1:40000 V:80             the server that got the client's last packet answers
//! ~ 2.5                              time passes
//! % 3                                what `--rate` shows after each of the next three steps of the estimators: see beat.rs
//! ! master on                        a master tells others of connections; `off`: no longer
//! ?                                whom it has told of since the last one; `? count`: and how often
//! ^                                what follows reaches the other balancer (connection sync)
//! - counters                         packets and bytes of this case are not compared
//! # …                                a comment
//! ```
//!
//! `V` and `W` are virtual addresses, `S1`, `S2`, … servers, `R1`, `R2`, … the same in the other family, `C1`, `C2`, …
//! clients; with a port they are written as ipvsadm wants them; in a text they stand as `<C1>`, or for FTP as `<C1,>`. `M1` to `M7` are marks. Every case has addresses and marks
//! of its own, so that none sees another's connections. Options of packets: `ttl=N`, `tos=N`, `len=N` (of the data), `text=T` (the data; `_` is a blank, `\r`, `\n`, `\t` as usual),
//! `df`, `frag=N` (cut, so many bytes each), `backwards` (the last fragment first), `through` (an answer that passes the balancer although it is not
//! translated), `from=S1:80` (no answer: that server begins, from that port), `outer` (an ICMP error about a tunnel's outer packet, to the
//! balancer, IPv4), `here` (a datagram of a socket on the balancer itself, whose address `B` is). ICMP errors quote the last packet
//! that came the other way.

use anyhow::{Context, Result, bail};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What it is called, for filters.
    pub name: String,
    /// Its steps, addresses put in.
    pub lines: Vec<String>,
    /// Which one it is of all: its addresses follow from it.
    pub number: u16,
}

/// A step of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Words of a command, and its standard input.
    Command(Vec<String>, String),
    /// A packet, from the client or in answer to one.
    Packet(Shot),
    /// Milliseconds.
    Pause(u64),
    /// Steps of the estimators.
    Beats(u32),
    /// What the master has told; how often, too?
    Told(bool),
    /// The rest is the other balancer's.
    Moves,
}

/// A packet to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shot {
    /// From the server.
    pub answer: bool,
    /// Which packet.
    pub kind: String,
    /// The client's end.
    pub client: SocketAddr,
    /// The virtual end.
    pub service: SocketAddr,
    /// `ttl=1` and the like.
    pub options: Vec<String>,
}

impl Shot {
    /// Does it have this option?
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| given == option)
    }

    /// What stands after `name=`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// The number there.
    pub fn number<N: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
        &self,
        name: &str,
    ) -> Result<Option<N>> {
        let found = self.value(name);
        found.map(|value| value.parse().with_context(|| format!("{name}={value}"))).transpose()
    }
}

/// Cases as written in a file; `first` is the number of the first one.
pub fn parse(text: &str, first: u16) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("== ") {
            let number = first + u16::try_from(cases.len())?;
            cases.push(Case { name: name.to_owned(), lines: Vec::new(), number });
            continue;
        }
        let case = cases.last_mut().with_context(|| format!("`{line}` stands before any case"))?;
        case.lines.push(line.to_owned());
    }
    for case in &mut cases {
        let (v6, number) = (case.name.ends_with("v6"), case.number);
        case.lines.iter_mut().for_each(|line| *line = with_addresses(line, v6, number));
        case.steps().with_context(|| format!("the case {}", case.name))?;
    }
    Ok(cases)
}

impl Case {
    /// Its virtual addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        ['V', 'W'].map(|letter| address(letter, 0, self.name.ends_with("v6"), self.number))
    }

    /// Are its packets and bytes compared?
    pub fn counted(&self) -> bool {
        !self.lines.iter().any(|line| line == "- counters")
    }

    /// Is a line of a listing about a service of this case, or a connection to one? Those name a virtual address or a mark;
    /// a mark's templates have it as address.
    pub fn owns(&self, line: &str) -> bool {
        let addresses = self.addresses();
        let mark = |mark: u32| mark / MARKS == u32::from(self.number);
        let mut by_mark = false;
        line.split_whitespace().any(|word| {
            let is_mark = by_mark && word.parse().is_ok_and(mark);
            by_mark = matches!(word, "FWM" | "-f");
            let end = word.rsplit_once(':').map(|(address, _)| address.trim_matches(['[', ']']).parse());
            is_mark
                || match end {
                    Some(Ok(IpAddr::V4(v4))) => addresses.contains(&v4.into()) || mark(v4.to_bits()),
                    Some(Ok(IpAddr::V6(v6))) => {
                        let (high, rest) = ((v6.to_bits() >> 96) as u32, v6.to_bits() << 32);
                        addresses.contains(&v6.into()) || rest == 0 && mark(high)
                    }
                    _ => false,
                }
        })
    }

    /// As it was, for the guest.
    pub fn text(&self) -> String {
        format!("== {}\n{}\n", self.name, self.lines.join("\n"))
    }

    /// Its steps, each with the text it came from.
    pub fn steps(&self) -> Result<Vec<(String, Step)>> {
        let mut steps: Vec<(String, Step)> = Vec::new();
        for line in self.lines.iter().filter(|line| *line != "- counters") {
            let (sign, rest) = line.split_once(' ').unwrap_or((line, ""));
            let found = match sign {
                "!" => {
                    vec![Step::Command(rest.split_whitespace().map(str::to_owned).collect(), String::new())]
                }
                "|" => match steps.last_mut() {
                    Some((_, Step::Command(_, input))) => {
                        input.push_str(rest);
                        input.push('\n');
                        continue;
                    }
                    _ => bail!("`{line}` follows no command"),
                },
                ">" | "<" => shots(sign == "<", rest).with_context(|| format!("`{line}`"))?,
                "^" => vec![Step::Moves],
                "?" => vec![Step::Told(rest.trim() == "count")],
                "%" => vec![Step::Beats(rest.trim().parse()?)],
                "~" => vec![Step::Pause((rest.trim().parse::<f64>()? * 1000.0) as u64)],
                _ => bail!("`{line}` is no step"),
            };
            let several = found.len() > 1;
            for step in found {
                let text = match &step {
                    Step::Packet(shot) if several => format!("{line} ({})", shot.client),
                    _ => line.clone(),
                };
                steps.push((text, step));
            }
        }
        Ok(steps)
    }
}

/// Names of packets' options.
const OPTIONS: [&str; 11] =
    ["ttl", "tos", "len", "text", "df", "frag", "backwards", "through", "from", "here", "outer"];

fn shots(answer: bool, rest: &str) -> Result<Vec<Step>> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [kind, client, service, options @ ..] = words.as_slice() else {
        bail!("a packet has a kind, a client and a service")
    };
    let (client, last) = match client.split_once("..") {
        Some((client, last)) => (client.parse::<SocketAddr>()?, last.parse()?),
        None => (client.parse()?, 0),
    };
    let service: SocketAddr = service.parse().context("the service")?;
    let known = |option: &&str| OPTIONS.contains(&option.split('=').next().unwrap_or_default());
    if let Some(unknown) = options.iter().find(|option| !known(option)) {
        bail!("packets have no {unknown}");
    }
    let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    let ports = client.port()..=last.max(client.port());
    let shot = |port| {
        let client = SocketAddr::new(client.ip(), port);
        Step::Packet(Shot { answer, kind: (*kind).to_owned(), client, service, options: options.clone() })
    };
    Ok(ports.map(shot).collect())
}

/// `V:80` and the like become addresses.
fn with_addresses(line: &str, v6: bool, number: u16) -> String {
    let words = line.split(' ').map(|word| match word.split_once('=') {
        Some(("from", end)) => format!("from={}", with_address(end, v6, number)),
        Some(("text", text)) => format!("text={}", named_in(text, v6, number)),
        _ => with_address(word, v6, number),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Addresses in a text: `<C1>`, or as FTP has them, `<C1,>`.
fn named_in(text: &str, v6: bool, number: u16) -> String {
    let Some((before, (name, after))) =
        text.split_once('<').and_then(|(before, rest)| Some((before, rest.split_once('>')?)))
    else {
        return text.to_owned();
    };
    let address = match name.strip_suffix(',') {
        Some(name) => with_address(name, v6, number).replace('.', ","),
        None => with_address(name, v6, number),
    };
    format!("{before}{address}{}", named_in(after, v6, number))
}

fn with_address(word: &str, v6: bool, number: u16) -> String {
    let (name, port) = word.split_once(':').map_or((word, None), |(name, port)| (name, Some(port)));
    let mut letters = name.chars();
    let letter = letters.next().filter(|letter| "VWSRCMB".contains(*letter));
    let nth = letters.as_str();
    let alone = matches!(letter, Some('V' | 'W' | 'B')) && nth.is_empty();
    let Some(letter) = letter.filter(|_| alone || nth.parse::<u8>().is_ok()) else {
        return word.to_owned();
    };
    if letter == 'M' {
        return (u32::from(number) * MARKS + nth.parse().unwrap_or(0)).to_string();
    }
    let address = address(letter, nth.parse().unwrap_or(0), v6, number);
    match (port, address) {
        (None, address) => address.to_string(),
        (Some(port), IpAddr::V4(v4)) => format!("{v4}:{port}"),
        (Some(port), IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
    }
}

/// How many marks a case may have.
const MARKS: u32 = 8;

fn address(letter: char, nth: u8, v6: bool, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    let nth16 = u16::from(nth);
    match (letter, v6) {
        ('V', false) => Ipv4Addr::new(10, 100, high, low).into(),
        ('W', false) => Ipv4Addr::new(10, 101, high, low).into(),
        ('C', false) => Ipv4Addr::new(172, 16 + high, low, nth).into(),
        ('B', false) => BALANCER4.into(),
        ('B', true) => BALANCER6.into(),
        ('R', false) | ('S', true) => server6(nth).into(),
        ('R', true) | (_, false) => server4(nth).into(),
        ('V', true) => Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, number + 1).into(),
        ('W', true) => Ipv6Addr::new(0xfd21, 0, 0, 0, 0, 0, 0, number + 1).into(),
        ('C', true) => Ipv6Addr::new(0xfd01, 0, number, 0, 0, 0, 0, nth16).into(),
        (_, true) => server6(nth).into(),
    }
}

/// The balancer's address towards the servers.
const BALANCER4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The same in the other family.
const BALANCER6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);

/// A server's address.
pub const fn server4(nth: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, 10 + nth)
}

/// A server's address.
pub const fn server6(nth: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x10 + nth as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_with_its_addresses() -> Result<()> {
        let cases = parse(
            "== a\n! ipvsadm -A -t V:80\n| x\n> syn C1:7..8 V:80 ttl=1\n== b-v6\n~ 0.5\n! x S2 S2:1",
            3,
        )?;
        assert_eq!(cases[0].lines[0], "! ipvsadm -A -t 10.100.0.3:80");
        let steps = cases[0].steps()?;
        assert!(matches!(&steps[0].1, Step::Command(words, input) if words.len() == 4 && input == "x\n"));
        assert!(
            matches!(&steps[2].1, Step::Packet(shot) if shot.client.port() == 8 && shot.options == ["ttl=1"])
        );
        assert_eq!(cases[1].steps()?[0].1, Step::Pause(500));
        assert_eq!(cases[1].lines[1], "! x fd09::12 [fd09::12]:1");
        Ok(())
    }

    #[test]
    fn a_line_of_a_listing_belongs_to_its_case() -> Result<()> {
        let cases = parse("== a\n! mark M1 V\n== a-v6\n! mark M2 V", 3)?;
        let [v4, v6] = [0, 1].map(|nth| &cases[nth]);
        assert_eq!(
            (v4.lines[0].as_str(), v6.lines[0].as_str()),
            ("! mark 25 10.100.0.3", "! mark 34 fd20::5")
        );
        for line in [
            "TCP  10.100.0.3:80 rr",
            "FWM  25 rr",
            "-A -f 25 -s rr",
            "IP * NONE 172.16.0.1:0 0.0.0.25:0 10.9.0.11:0",
        ] {
            assert!(v4.owns(line) && !v6.owns(line), "{line}");
        }
        for line in
            ["UDP  [fd20::5]:53 rr", "FWM  34 IPv6 rr", "IP * NONE [fd01::1]:0 [0:22::]:0 [fd09::11]:0"]
        {
            assert!(v6.owns(line) && !v4.owns(line), "{line}");
        }
        assert!(
            !v4.owns("TCP  10.100.0.30:80 rr")
                && !v4.owns("FWM  250 rr")
                && !v4.owns("  -> 10.9.0.11:25 Masq 25")
        );
        Ok(())
    }

    #[test]
    fn what_is_no_step_is_refused() {
        assert!(parse("> syn C1:1 V:1", 0).is_err());
        assert!(parse("== a\n| x", 0).is_err());
        assert!(parse("== a\n> syn C1:1", 0).is_err());
        assert!(parse("== a\n> syn C1:1 V:1 ttl=1", 0).is_ok());
        assert!(parse("== a\n> syn C1:1 V:1 tll=1", 0).is_err());
    }
}
