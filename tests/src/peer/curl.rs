//! curl as the client.

use crate::net::Netns;
use crate::{run, stale};
use anyhow::{Result, ensure};
use std::fs;
use std::net::{IpAddr, SocketAddr};

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
    ask(client, &[], at, count)
}

/// The same from another of the client's addresses.
pub fn answers_from(client: &Netns, from: IpAddr, at: SocketAddr, count: usize) -> Result<Vec<String>> {
    ask(client, &["--interface", &from.to_string()], at, count)
}

/// One curl for all requests; it stops at the first that fails.
fn ask(client: &Netns, options: &[&str], at: SocketAddr, count: usize) -> Result<Vec<String>> {
    let urls = format!("url = \"{}\"\n", url(at, "/")).repeat(count);
    let mut command = client.command("curl");
    command.args(["-sSf", "--fail-early", "--max-time", "10", "-H", "Connection: close", "-K", "-"]);
    let said = run::run_with(command.args(options), urls.as_bytes(), run::LIMIT)?;
    let answers: Vec<String> = said.ok()?.lines().map(str::to_owned).collect();
    ensure!(answers.len() == count, "{} answers to {count} requests", answers.len());
    Ok(answers)
}

/// The bytes of a file.
pub fn download(client: &Netns, at: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let directory = stale::directory()?;
    let file = directory.path().join("download");
    let mut command = client.command("curl");
    command.args(["-sSf", "--max-time", "30", "-o"]).arg(&file).arg(url(at, path));
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
