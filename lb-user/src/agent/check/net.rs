//! Sockets as a check wants them: bound, marked, on a NIC of its own; and whose fault an error is.

use std::io;
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::machine::Outcome;
use super::path::{Paths, Way};
use crate::agent::config::model::Target;

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// The server's fault.
    Server(String),
    /// Ours.
    Local(String),
}

impl From<Trouble> for Outcome {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Server(why) => Self::Fail(why),
            Trouble::Local(why) => Self::Local(why),
        }
    }
}

/// Errors of connect(2) that say something about the server.
const SERVERS: [i32; 8] = [
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::ECONNREFUSED,
    libc::EHOSTDOWN,
    libc::ENETDOWN,
    libc::ECONNRESET,
    libc::ECONNABORTED,
    libc::ETIMEDOUT,
];

/// Whose fault an error is.
pub fn whose(error: &io::Error) -> Trouble {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(code) if !SERVERS.contains(&code) => Trouble::Local(text),
        _ => Trouble::Server(text),
    }
}

/// There is no socket.
pub fn local(error: &io::Error) -> Trouble {
    Trouble::Local(format!("no socket: {error}"))
}

/// A socket before it is connected.
pub fn socket(target: &Target, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target.to), kind.nonblocking(), protocol)?;
    if let Some(interface) = &target.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if target.mark != 0 {
        socket.set_mark(target.mark)?;
    }
    if let Some(from) = target.from {
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    Ok(socket)
}

/// A connection.
pub async fn connect(target: &Target, paths: &Paths) -> Result<TcpStream, Trouble> {
    let (socket, way) = paths.socket(target, Type::STREAM)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    match timeout(target.timeout, socket.connect(target.to)).await {
        Ok(Ok(stream)) => way.confirm().map(|()| stream),
        Ok(Err(error)) => Err(whose(&error)),
        Err(_) => Err(late(target.timeout)),
    }
}

/// A datagram socket that is told about unreachable ports, and its way, to be confirmed when all went well.
pub fn datagrams(target: &Target, paths: &Paths) -> Result<(UdpSocket, Way), Trouble> {
    let (socket, way) = paths.socket(target, Type::DGRAM)?;
    let connected = socket.connect(&target.to.into()).and_then(|()| UdpSocket::from_std(socket.into()));
    connected.map(|socket| (socket, way)).map_err(|error| whose(&error))
}

/// It took too long.
pub fn late(limit: Duration) -> Trouble {
    Trouble::Server(format!("no answer within {} s", limit.as_secs_f32()))
}

/// With the time limit of a wait.
pub async fn within<T>(limit: Duration, waits: impl Future<Output = io::Result<T>>) -> Result<T, Trouble> {
    match timeout(limit, waits).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Trouble::Server(error.to_string())),
        Err(_) => Err(late(limit)),
    }
}

/// As log lines name it.
pub fn name(target: &Target, proto: &str) -> String {
    let (to, name) = (target.to, |ip| format!("[{ip}]:{proto}:{}", target.to.port()));
    match &target.via {
        None => name(to.ip()),
        Some(via) => format!("{} as {}", name(to.ip()), name(via.vip)),
    }
}
