//! Pages a second, and how long a page takes, as `wrk` sees it: from one nginx directly, and through each method.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Effort;
use crate::bench::measure::median;
use crate::lab::Lab;
use crate::topo::{self, Plan, Topology};

/// Connections that `wrk` has open at a time.
const CONNECTIONS: u32 = 32;

/// The server's port without a balancer. Another one: under NAT an answer from the dest's own port to a client's port that a
/// connection has just had is that connection's.
const DIRECT: u16 = 8080;

/// How the server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `-g`
    Dr,
    /// `-i`
    Tunnel,
    /// `-m`
    Nat,
}

impl Method {
    const ALL: [Self; 3] = [Self::Dr, Self::Tunnel, Self::Nat];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Tunnel => "ipip",
            Self::Nat => "nat",
        }
    }

    const fn option(self) -> &'static str {
        match self {
            Self::Dr => "-g",
            Self::Tunnel => "-i",
            Self::Nat => "-m",
        }
    }

    fn topology(self) -> Result<Topology> {
        let vip = if self == Self::Dr { "10.92.0.9" } else { "10.92.9.9" };
        let plan = Plan { ports: vec![80, DIRECT], ..Plan::new(vip, &["10.92.0.11"])? };
        match self {
            Self::Dr => topo::dr(&plan),
            Self::Tunnel => topo::tun(&plan),
            Self::Nat => topo::nat(&plan),
        }
    }
}

/// What `wrk` said; medians of the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Pages {
    /// In a second.
    pub rate: f64,
    /// Milliseconds that half of them take at most.
    pub p50: f64,
    /// Milliseconds that all but a hundredth take at most.
    pub p99: f64,
}

/// A method beside the same wiring without a balancer in the way.
#[derive(Debug, Clone)]
pub struct Figure {
    /// How the server is reached.
    pub method: Method,
    /// A new connection for each page.
    pub close: bool,
    /// From the server's own address.
    pub direct: Pages,
    /// From the virtual address.
    pub through: Pages,
}

impl Figure {
    /// What is measured.
    pub fn name(&self) -> String {
        format!("{}, {}", self.method.name(), if self.close { "a connection each" } else { "kept alive" })
    }

    /// Pages a second, of those without a balancer.
    pub fn ratio(&self) -> f64 {
        self.through.rate / self.direct.rate
    }

    /// A line of a table.
    pub fn line(&self) -> String {
        let Self { direct, through, .. } = self;
        format!(
            "{:<24} {:>9.0} {:>7.2} {:>7.2} {:>9.0} {:>7.2} {:>7.2} {:>7.3}",
            self.name(),
            direct.rate,
            direct.p50,
            direct.p99,
            through.rate,
            through.p50,
            through.p99,
            self.ratio()
        )
    }

    pub(super) fn json(&self) -> Value {
        let pages = |pages: &Pages| {
            let hundredth = |ms: f64| (ms * 100.0).round() / 100.0;
            json!({
                "pages_per_second": pages.rate.round(),
                "p50_ms": hundredth(pages.p50), "p99_ms": hundredth(pages.p99),
            })
        };
        json!({
            "case": format!("http {}", self.name()),
            "direct": pages(&self.direct), "through": pages(&self.through),
            "ratio": (self.ratio() * 1000.0).round() / 1000.0,
        })
    }
}

/// The table's first line.
pub const HEADING: &str =
    "pages                    direct/s     p50     p99 through/s     p50     p99   ratio";

/// Measures everything, one wiring after the other; in each, direct and balanced take turns.
pub fn all(effort: Effort, mut show: impl FnMut(&Figure)) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for method in Method::ALL {
        let topology = method.topology()?;
        let lab = Lab::at(&topology.balancer.netns)?;
        let vip = topology.vip.v4;
        let server = topology.servers.first().context("no server")?.address.v4;
        let cards = if method == Method::Nat { "eth0 eth1" } else { "eth0" };
        lab.ok(&format!("lb-user attach {cards}"))?;
        let option = method.option();
        lab.quiet(&format!("ipvsadm -A -t {vip}:80 -s rr\nipvsadm -a -t {vip}:80 -r {server}:80 {option}"))?;
        for close in [false, true] {
            let ask = |address: std::net::Ipv4Addr, port: u16| {
                pages(&topology, &format!("http://{address}:{port}/"), close, effort.seconds)
            };
            let rounds = (0..effort.rounds).map(|_| Ok((ask(server, DIRECT)?, ask(vip, 80)?)));
            let (direct, through): (Vec<_>, Vec<_>) = rounds.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            let figure = Figure { method, close, direct: middle(&direct), through: middle(&through) };
            show(&figure);
            figures.push(figure);
        }
    }
    Ok(figures)
}

fn middle(pages: &[Pages]) -> Pages {
    let of = |part: fn(&Pages) -> f64| median(pages.iter().map(part).collect());
    Pages { rate: of(|pages| pages.rate), p50: of(|pages| pages.p50), p99: of(|pages| pages.p99) }
}

fn pages(topology: &Topology, url: &str, close: bool, seconds: u32) -> Result<Pages> {
    let (connections, seconds) = (CONNECTIONS.to_string(), seconds.to_string());
    let mut words = vec!["wrk", "-t1", "-c", &connections, "-d", &seconds, "--latency"];
    if close {
        words.extend(["-H", "Connection: close"]);
    }
    words.push(url);
    let said = topology.client.netns.run(&words)?.ok()?;
    read(&said).with_context(|| format!("wrk said\n{said}"))
}

/// What `wrk --latency` prints.
fn read(said: &str) -> Result<Pages> {
    anyhow::ensure!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "not every page was what was asked for"
    );
    let after = |start: &str| {
        said.lines().find_map(|line| line.trim().strip_prefix(start)).map(str::trim).context(start.to_owned())
    };
    Ok(Pages {
        rate: after("Requests/sec:")?.parse().context("pages a second")?,
        p50: milliseconds(after("50%")?)?,
        p99: milliseconds(after("99%")?)?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0)];
    let read = |(unit, worth): (&str, f64)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * worth);
    units.into_iter().find_map(read).with_context(|| format!("`{text}` is no time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 1s test @ http://127.0.0.1/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.02ms  190.83us   4.44ms   85.88%
    Req/Sec    31.20k     1.71k   33.26k    81.82%
  Latency Distribution
     50%    0.98ms
     75%    1.07ms
     90%    1.21ms
     99%    1.80s 
  34115 requests in 1.10s, 5.63MB read
Requests/sec:  31019.35
Transfer/sec:      5.12MB
";

    #[test]
    fn what_wrk_says_is_read() -> Result<()> {
        let pages = read(SAID)?;
        assert!((pages.rate - 31019.35).abs() < 1e-9);
        assert!((pages.p50 - 0.98).abs() < 1e-9 && (pages.p99 - 1800.0).abs() < 1e-9, "{pages:?}");
        assert!((milliseconds("250.00us")? - 0.25).abs() < 1e-9);
        assert!(milliseconds("fast").is_err());
        Ok(())
    }

    #[test]
    fn pages_that_failed_are_no_pages() {
        assert!(read(&format!("{SAID}  Socket errors: connect 0, read 3, write 0, timeout 0\n")).is_err());
    }
}
