//! A UDP echo server that says who it is, and its client.

use crate::net::Netns;
use crate::pace;
use anyhow::{Context, Result, bail};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Answers every datagram with `NAME: ` and the same bytes.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Listens on each of the addresses by itself rather than on all of the host's: so the answer to a datagram for
    /// the VIP comes from the VIP.
    pub fn start(host: &Netns, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let mut echo = Self { stop: Arc::default(), threads: Vec::new() };
        for address in addresses {
            let socket = host.enter(|| UdpSocket::bind(address))?;
            let socket = socket.with_context(|| format!("{name}: cannot listen on {address}"))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            let (stop, name) = (Arc::clone(&echo.stop), name.to_owned());
            echo.threads.push(thread::spawn(move || serve(&socket, &name, &stop)));
        }
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn serve(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut datagram = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut datagram) else { continue };
        let answer = [name.as_bytes(), b": ", &datagram[..length]].concat();
        // A client that is gone already is no error of the server's.
        drop(socket.send_to(&answer, client));
    }
}

/// Who answers a datagram sent from a new port.
pub fn ask(client: &Netns, server: SocketAddr) -> Result<String> {
    Asker::new(client, server)?.ask()
}

/// A client that keeps its port.
#[derive(Debug)]
pub struct Asker {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Asker {
    /// A new port of the client's.
    pub fn new(client: &Netns, server: SocketAddr) -> Result<Self> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => [0; 4].into(),
            SocketAddr::V6(_) => [0_u16; 8].into(),
        };
        let socket = client.enter(|| UdpSocket::bind((any, 0)))??;
        socket.set_read_timeout(Some(pace::limit(Duration::from_secs(3))))?;
        // Connected, the socket takes answers from the VIP only.
        socket.connect(server).with_context(|| format!("no way to {server}"))?;
        Ok(Self { socket, server })
    }

    /// Who answers. The datagram is sent once: a lost one is a failure here.
    pub fn ask(&self) -> Result<String> {
        const WORDS: &str = "who are you?";
        self.socket.send(WORDS.as_bytes())?;
        let mut answer = [0; 2048];
        let length = match self.socket.recv(&mut answer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("no answer from {}", self.server),
            Err(error) => return Err(error).with_context(|| format!("asking {}", self.server)),
        };
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        match answer.strip_suffix(WORDS).and_then(|answer| answer.strip_suffix(": ")) {
            Some(name) => Ok(name.to_owned()),
            None => bail!("{} answered `{answer}`", self.server),
        }
    }
}
