//! An HTTP connection that stays open, for what curl cannot do: ask, wait while something happens to the balancer,
//! and ask again on the same connection.

use crate::net::Netns;
use crate::pace;
use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Past this, an answer does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    server: SocketAddr,
}

impl Connection {
    /// Connects from `client`.
    pub fn open(client: &Netns, server: SocketAddr) -> Result<Self> {
        Self::open_from(client, 0, server, PATIENCE)
    }

    /// The same from a port of the caller's choice, and with the caller's patience. Port 0: one of the kernel's choice.
    pub fn open_from(client: &Netns, port: u16, server: SocketAddr, patience: Duration) -> Result<Self> {
        let patience = pace::limit(patience);
        let socket = client.enter(|| Socket::new(Domain::for_address(server), Type::STREAM, None))??;
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        if port != 0 {
            let taken = || format!("cannot use the client's port {port}");
            socket.bind(&SocketAddr::new(any, port).into()).with_context(taken)?;
        }
        socket
            .connect_timeout(&server.into(), patience)
            .with_context(|| format!("cannot connect to {server}"))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), server })
    }

    /// This end's address and port.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.get_ref().local_addr()?)
    }

    /// Asks for `path` and reads the whole answer.
    pub fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        self.ask(path)?;
        let mut body = Vec::new();
        let length = self.head()?;
        self.stream.by_ref().take(length).read_to_end(&mut body).context("the answer broke off")?;
        ensure!(body.len() as u64 == length, "{} of {length} bytes came", body.len());
        Ok(body)
    }

    /// Who answers `/`.
    pub fn who(&mut self) -> Result<String> {
        Ok(String::from_utf8(self.get("/")?)?.trim_end().to_owned())
    }

    /// Waits, without a word, until the other side ends the connection; gives how it did: the error of a read, or none.
    /// Nothing for this long is an error of ours.
    pub fn ends(&mut self, within: Duration) -> Result<Option<ErrorKind>> {
        self.stream.get_ref().set_read_timeout(Some(within))?;
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => Ok(None),
            Ok(_) => bail!("a byte nobody asked for"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("still open after {within:?}"),
            Err(error) => Ok(Some(error.kind())),
        }
    }

    fn ask(&mut self, path: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.server);
        self.stream.get_mut().write_all(request.as_bytes()).context("cannot send the request")
    }

    /// Reads up to the empty line; gives the length of what follows.
    fn head(&mut self) -> Result<u64> {
        let mut length = None;
        let status = self.line()?;
        ensure!(status.starts_with("HTTP/1.1 200 "), "the answer is `{status}`");
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return length.context("an answer without its length");
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).context("no answer")?;
        ensure!(read > 0, "the server closed the connection");
        Ok(line.trim_end().to_owned())
    }
}
