//! curl as the client.

use crate::net::Netns;
use crate::{pace, run, stale};
use anyhow::{Result, ensure};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

/// The URL of `path` at an address, IPv6 in brackets, port 80 left out as a person would.
pub fn url(at: SocketAddr, path: &str) -> String {
    match at {
        SocketAddr::V4(v4) if v4.port() == 80 => format!("http://{}{path}", v4.ip()),
        SocketAddr::V6(v6) if v6.port() == 80 => format!("http://[{}]{path}", v6.ip()),
        _ => format!("http://{at}{path}"),
    }
}

/// Who answered each of `count` requests for `/`, one after the other, a new connection for each.
pub fn answers(client: &Netns, at: SocketAddr, count: usize) -> Result<Vec<String>> {
    ask(client, "", at, count)
}

/// The same from another of the client's addresses.
pub fn answers_from(client: &Netns, from: IpAddr, at: SocketAddr, count: usize) -> Result<Vec<String>> {
    ask(client, &format!("interface = {from}\n"), at, count)
}

/// One curl for all requests; it stops at the first that fails.
///
/// Each has a port of its own. Left to itself the client's kernel begins somewhere else every ten seconds and comes upon
/// ports that it has just used; to the balancer such a connection is the old one, which keeps its server.
fn ask(client: &Netns, options: &str, at: SocketAddr, count: usize) -> Result<Vec<String>> {
    let request = |port| {
        let (url, patience) = (url(at, "/"), pace::seconds(10));
        format!(
            "url = \"{url}\"\nfail\nmax-time = {patience}\nheader = \"Connection: close\"\nlocal-port = {port}\n{options}"
        )
    };
    let requests: Vec<String> = (0..count).map(|_| request(next_port())).collect();
    let mut command = client.command("curl");
    command.args(["-sS", "--fail-early", "-K", "-"]);
    let said = run::run_with(&mut command, requests.join("next\n").as_bytes(), run::LIMIT)?;
    let answers: Vec<String> = said.ok()?.lines().map(str::to_owned).collect();
    ensure!(answers.len() == count, "{} answers to {count} requests", answers.len());
    Ok(answers)
}

/// Below those the kernel gives by itself, round and round.
fn next_port() -> u16 {
    const FIRST: u16 = 1024;
    const PORTS: u16 = 32768 - FIRST;
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let next = |count| Some((count + 1) % PORTS);
    let count = COUNT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
    FIRST + count
}

/// The bytes of a file.
pub fn download(client: &Netns, at: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let directory = stale::directory()?;
    let file = directory.path().join("download");
    let mut command = client.command("curl");
    command.args(["-sSf", "--max-time", &pace::seconds(30), "-o"]).arg(&file).arg(url(at, path));
    run::run(&mut command)?.ok()?;
    Ok(fs::read(file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_written_as_a_person_would() -> Result<()> {
        assert_eq!(url("10.0.1.1:80".parse()?, "/"), "http://10.0.1.1/");
        assert_eq!(url("[fd00::1]:80".parse()?, "/big"), "http://[fd00::1]/big");
        assert_eq!(url("[fd00::1]:81".parse()?, ""), "http://[fd00::1]:81");
        Ok(())
    }
}
