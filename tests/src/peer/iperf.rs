//! iperf3: much traffic on one connection.

use crate::net::Netns;
use crate::{pace, run};
use anyhow::{Context, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

/// iperf3's own port.
pub const PORT: u16 = 5201;

/// Which way the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client: through the balancer in every method.
    Upload,
    /// From the server: through the balancer for NAT only.
    Download,
}

/// A running server.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts one in `host` and waits until it listens.
    pub fn start(host: &Netns) -> Result<Self> {
        let mut command = host.command("iperf3");
        command.arg("-s").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(run::die_with_us(&mut command).spawn().context("cannot start iperf3")?);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let connects = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        run::until(Duration::from_secs(10), "iperf3 listening", || {
            host.enter(connects).is_ok_and(|listens| listens).then_some(())
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Sends for a second; an error when the transfer breaks. Gives iperf3's own summary.
pub fn transfer(client: &Netns, server: IpAddr, direction: Direction) -> Result<String> {
    let mut command = client.command("iperf3");
    let patience = pace::limit(Duration::from_secs(5)).as_millis().to_string();
    command.args(["-t", "1", "-f", "m", "--connect-timeout", &patience, "-c", &server.to_string()]);
    if direction == Direction::Download {
        command.arg("-R");
    }
    run::run_with(&mut command, b"", Duration::from_secs(20))?.ok()
}
