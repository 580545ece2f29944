//! Full resync, which IPVS does not have: a backup that comes late, or a director that has been away, gets a master's whole
//! table at once, beside the multicast.
//!
//! The backup connects by TCP to whom it has heard, or was told of. Both ends prove that they know one key and agree on others
//! for the session: Noise's pattern NNpsk0. Then the master sends its connections in messages as [`super::wire`] has them,
//! each in a frame of its own, and an empty frame behind the last one. Nothing that is not authenticated is ever looked at, and
//! nothing comes in by another NIC.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::addr::Proto;
use lb_common::conn::{Entry, ctl, tag};
use lb_common::ip::Ip;
use lb_common::settings::Settings;
use serde_json::{Value, json};
use snow::{Builder, HandshakeState, TransportState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::due;
use super::tables::Tables;
use super::wire::Writer;
use crate::bpf::sync::{Instance, Visitor};
use crate::bpf::syscall;
use crate::control::model::Resync;

/// One side knows the other by the key alone.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Another version of this protocol has another one.
const PROLOGUE: &[u8] = b"lb-user resync 1";
/// How long the other side may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Transfers at a time; who wants more has to wait.
const MOST_SESSIONS: usize = 4;
/// Longest frame, and what sealing adds to a message.
const FRAME: usize = u16::MAX as usize;
const SEAL: usize = 16;
/// Longest message: 255 records of either family.
const MESSAGE: u16 = 18_432 + 8;

/// What both ends have to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// The key.
    key: [u8; 32],
    /// TCP port.
    pub port: u16,
    /// A master to ask from the start.
    pub peer: Option<IpAddr>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("port", &self.port).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Options {
    /// With the key in a file: 64 hexadecimal digits, which only its owner may read.
    pub fn read(asked: &Resync) -> Result<Self> {
        let Resync { key: file, port, peer } = asked;
        let shown = file.display();
        let mode = fs::metadata(file).with_context(|| format!("reading the key {shown}"))?.mode();
        ensure!(mode & 0o077 == 0, "{shown} can be read by others: `chmod 600 {shown}`");
        let text = fs::read_to_string(file).with_context(|| format!("reading the key {shown}"))?;
        let key = key_of(text.trim()).with_context(|| {
            format!("{shown} holds no key of 64 hexadecimal digits: `openssl rand -hex 32` makes one")
        })?;
        Ok(Self { key, port: *port, peer: *peer })
    }

    fn builder(&self) -> Result<Builder<'_>> {
        Ok(Builder::new(PATTERN.parse()?).prologue(PROLOGUE)?.psk(0, &self.key)?)
    }
}

fn key_of(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    // Of the digits, not of signs, which the number's own parser takes too.
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

/// What was transferred, and what was refused.
#[derive(Debug, Default)]
pub struct Counts {
    /// Whole tables sent or received.
    pub whole: AtomicU64,
    /// Sessions that ended before that: another key, a lost connection.
    pub failed: AtomicU64,
    sessions: AtomicUsize,
}

impl Counts {
    /// For the state file.
    pub fn to_json(&self) -> Value {
        json!({
            "resyncs": self.whole.load(Ordering::Relaxed),
            "resyncs_failed": self.failed.load(Ordering::Relaxed),
        })
    }

    fn count(&self, done: &Result<u64>) {
        let counter = if done.is_ok() { &self.whole } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A session over a stream.
struct Session<S> {
    stream: S,
    noise: TransportState,
}

fn send(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u16::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), frame].concat())
}

fn receive(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

impl<S: Read + Write> Session<S> {
    /// Shakes hands.
    fn open(mut stream: S, mut hands: HandshakeState) -> Result<Self> {
        let mut buffer = vec![0; FRAME];
        while !hands.is_handshake_finished() {
            if hands.is_my_turn() {
                let length = hands.write_message(&[], &mut buffer)?;
                send(&mut stream, &buffer[..length])?;
            } else {
                let frame = receive(&mut stream)?;
                hands.read_message(&frame, &mut buffer).context("the other side has another key")?;
            }
        }
        Ok(Self { stream, noise: hands.into_transport_mode()? })
    }

    fn send(&mut self, message: &[u8]) -> Result<()> {
        let mut sealed = vec![0; message.len() + SEAL];
        let length = self.noise.write_message(message, &mut sealed)?;
        Ok(send(&mut self.stream, &sealed[..length])?)
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        let frame = receive(&mut self.stream)?;
        let mut message = vec![0; frame.len()];
        let length = self.noise.read_message(&frame, &mut message).context("a forged frame")?;
        message.truncate(length);
        Ok(message)
    }
}

fn socket(domain: Domain, interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok(socket)
}

/// A listener on the interface, for both families where there are both.
fn listener(interface: &str, port: u16) -> io::Result<TcpListener> {
    let open = |domain, any: SocketAddr| {
        let socket = socket(domain, interface)?;
        socket.set_reuse_address(true)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.bind(&any.into())?;
        socket.listen(MOST_SESSIONS as i32)?;
        Ok(socket.into())
    };
    open(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|_: io::Error| open(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()))
}

/// What a master offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Where it can be asked.
    pub interface: String,
    /// Of its messages.
    pub syncid: u8,
    /// Where the tables are pinned.
    pub bpffs: Option<PathBuf>,
}

/// Sends the whole table to everybody who asks and knows the key, from threads of its own.
pub fn serve(offer: Offer, options: Options, counts: Arc<Counts>) -> Result<()> {
    let listener = listener(&offer.interface, options.port)
        .with_context(|| format!("cannot listen at TCP port {} of {}", options.port, offer.interface))?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            // Who is one too many is told so by the end of the stream.
            if counts.sessions.fetch_add(1, Ordering::AcqRel) >= MOST_SESSIONS {
                counts.sessions.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let (offer, options, counts) = (offer.clone(), options.clone(), Arc::clone(&counts));
            thread::spawn(move || {
                let who = stream.peer_addr();
                let done = give(stream, &offer, &options);
                counts.count(&done);
                counts.sessions.fetch_sub(1, Ordering::AcqRel);
                match (done, who) {
                    (Ok(records), Ok(who)) => info!("resync: {records} connections sent to {who}"),
                    (Err(why), who) => warn!("resync: {who:?} got nothing, or not all: {why:#}"),
                    _ => {}
                }
            });
        }
    });
    Ok(())
}

/// Sends everything; how many connections that were.
fn give(stream: TcpStream, offer: &Offer, options: &Options) -> Result<u64> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut session = Session::open(stream, options.builder()?.build_responder()?)?;
    let mut tables = Tables::new(offer.bpffs.clone());
    tables.look()?;
    let mut records = 0;
    if let Some(instance) = tables.get() {
        let mut all = Everything {
            instance,
            settings: instance.settings()?,
            now: syscall::ticks()?,
            writer: Writer::new(1, offer.syncid, MESSAGE),
            session: &mut session,
            records: 0,
            failed: None,
        };
        instance.walk(&mut all)?;
        if let Some(last) = all.writer.finish() {
            all.send(&last);
        }
        if let Some(why) = all.failed {
            return Err(why);
        }
        records = all.records;
    }
    session.send(&[])?;
    Ok(records)
}

struct Everything<'a> {
    instance: &'a Instance,
    settings: &'a Settings,
    now: u32,
    writer: Writer,
    session: &'a mut Session<TcpStream>,
    records: u64,
    failed: Option<anyhow::Error>,
}

impl Everything<'_> {
    fn send(&mut self, message: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.session.send(message).err();
        }
    }
}

impl Visitor for Everything<'_> {
    fn entry<F: Ip>(&mut self, entry: &F::Entry, slot: u32) {
        let word = entry.tag().load();
        let (template, proto) = (word & tag::TEMPLATE != 0, Proto(word as u8));
        let state = entry.life().ctl.load() & ctl::STATE;
        if self.failed.is_some() || !template && !due::is_told(proto, state) {
            return;
        }
        let last = entry.life().last.load();
        let Some(mut record) = self.instance.describe::<F>(entry, slot) else { return };
        if !template {
            // An idle connection is nearer to its end than its state says.
            let full = self.settings.timeout(proto, state).load();
            let left = last.wrapping_add(full).wrapping_sub(self.now);
            record.timeout = (left.min(i32::MAX as u32) / self.instance.hz()).max(1);
        }
        self.records += 1;
        if let Some(message) = self.writer.push(&record) {
            self.send(&message);
        }
    }
}

/// Asks a master for everything, from a thread of its own; messages arrive at `sink`, and an empty one behind the last.
pub fn ask(
    master: SocketAddr,
    interface: String,
    options: Options,
    counts: Arc<Counts>,
    sink: mpsc::Sender<Vec<u8>>,
) {
    thread::spawn(move || {
        let done = take(master, &interface, &options, &sink);
        counts.count(&done);
        match done {
            Ok(messages) => info!("resync: {messages} messages from {master}"),
            Err(why) => warn!("resync with {master}: {why:#}"),
        }
        // Whoever is not there any more needs no end.
        let _ = sink.blocking_send(Vec::new());
    });
}

fn take(
    mut master: SocketAddr,
    interface: &str,
    options: &Options,
    sink: &mpsc::Sender<Vec<u8>>,
) -> Result<u64> {
    master.set_port(options.port);
    let socket = socket(Domain::for_address(master), interface)?;
    socket.connect_timeout(&master.into(), PATIENCE).context("connecting")?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut session = Session::open(stream, options.builder()?.build_initiator()?)?;
    let mut messages = 0;
    loop {
        let message = session.receive()?;
        if message.is_empty() {
            return Ok(messages);
        }
        messages += 1;
        if sink.blocking_send(message).is_err() {
            bail!("the daemon ends");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use super::*;

    fn options(key: u8) -> Options {
        Options { key: [key; 32], port: Resync::PORT, peer: None }
    }

    fn asked(key: &Path) -> Resync {
        Resync { key: key.to_owned(), port: Resync::PORT, peer: None }
    }

    /// Both ends, as far as they get.
    fn sessions(ours: u8, theirs: u8) -> (Result<Session<UnixStream>>, Result<Session<UnixStream>>) {
        let (a, b) = UnixStream::pair().unwrap();
        for stream in [&a, &b] {
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        }
        thread::scope(|scope| {
            let other = scope.spawn(|| Session::open(b, options(theirs).builder()?.build_responder()?));
            let mine = options(ours).builder().unwrap().build_initiator().unwrap();
            (Session::open(a, mine), other.join().unwrap())
        })
    }

    #[test]
    fn who_knows_the_key_is_understood() {
        let (backup, master) = sessions(7, 7);
        let (mut backup, mut master) = (backup.unwrap(), master.unwrap());
        for message in [&b"one"[..], &[9; 20_000], &[]] {
            master.send(message).unwrap();
            assert_eq!(backup.receive().unwrap(), message);
        }
    }

    #[test]
    fn who_does_not_is_refused() {
        let (backup, master) = sessions(7, 8);
        assert!(master.is_err_and(|why| format!("{why:#}").contains("another key")));
        assert!(backup.is_err());
    }

    #[test]
    fn a_changed_frame_is_refused() {
        let (backup, master) = sessions(7, 7);
        let (mut backup, mut master) = (backup.unwrap(), master.unwrap());
        let mut sealed = vec![0; 3 + SEAL];
        let length = master.noise.write_message(b"abc", &mut sealed).unwrap();
        sealed[1] ^= 1;
        send(&mut master.stream, &sealed[..length]).unwrap();
        assert!(backup.receive().is_err());
    }

    #[test]
    fn keys() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let read = |text: &str, mode: u32| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            Options::read(&asked(&file)).map(|options| options.key).map_err(|why| format!("{why:#}"))
        };
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(read(&format!("{text}\n"), 0o600).unwrap()[..3], [0x01, 0x23, 0x45]);
        assert!(read(&text, 0o640).unwrap_err().contains("chmod 600"));
        assert!(read(&text[1..], 0o600).unwrap_err().contains("openssl rand -hex 32"));
        assert!(read(&format!("{}+0", &text[2..]), 0o600).is_err());
        assert!(Options::read(&asked(&folder.path().join("no"))).is_err());
    }
}
