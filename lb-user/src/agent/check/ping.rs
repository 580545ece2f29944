//! `PING_CHECK`: an echo request through the kernel's own sockets for them.

use std::fs;
use std::io::{self, ErrorKind};

use socket2::{Protocol, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::machine::Outcome;
use super::net::{self, Trouble};
use crate::agent::config::model::Target;
use crate::agent::verdict::Weight;

/// Who may have such sockets; by default nobody.
const GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
/// ICMP's and ICMPv6's numbers of request and reply.
const V4: (u8, u8) = (8, 0);
const V6: (u8, u8) = (128, 129);

/// The check. Its socket stays open between attempts.
pub struct Prober {
    target: Target,
    socket: Option<UdpSocket>,
    sequence: u16,
}

impl Prober {
    /// Of this server.
    pub fn new(target: Target) -> Self {
        Self { target, socket: None, sequence: 0 }
    }

    /// One request.
    pub async fn attempt(&mut self) -> Outcome {
        self.sequence = self.sequence.wrapping_add(1);
        let socket = match self.socket.take().map_or_else(|| open(&self.target), Ok) {
            Ok(socket) => socket,
            Err(error) => return Outcome::Local(format!("no socket: {error}")),
        };
        match echo(&socket, &self.target, self.sequence).await {
            Ok(()) => {
                self.socket = Some(socket);
                Outcome::Pass(Weight::Configured)
            }
            Err(trouble) => trouble.into(),
        }
    }
}

fn open(target: &Target) -> io::Result<UdpSocket> {
    let protocol = if target.to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let make = || net::socket(&Target { mark: 0, ..target.clone() }, Type::DGRAM, Some(protocol));
    let socket = match make() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            fs::write(GROUPS, "0 2147483647")?;
            make()?
        }
        made => made?,
    };
    // No port: the kernel puts the identifier there.
    let mut to = target.to;
    to.set_port(0);
    socket.connect(&to.into())?;
    UdpSocket::from_std(socket.into())
}

async fn echo(socket: &UdpSocket, target: &Target, sequence: u16) -> Result<(), Trouble> {
    let (request, reply) = if target.to.is_ipv4() { V4 } else { V6 };
    let [high, low] = sequence.to_be_bytes();
    // Checksum and identifier are the kernel's to fill in.
    let packet = [request, 0, 0, 0, 0, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
    let deadline = Instant::now() + target.timeout;
    let server = |error: io::Error| Trouble::Server(error.to_string());
    socket.send(&packet).await.map_err(server)?;
    let mut answer = [0; 512];
    loop {
        let received = timeout_at(deadline, socket.recv(&mut answer)).await;
        let length = received.map_err(|_| net::late(target.timeout))?.map_err(server)?;
        if length >= 8 && answer[0] == reply && answer[6..8] == [high, low] {
            return Ok(());
        }
    }
}
