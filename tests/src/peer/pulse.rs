//! Datagrams at a steady pace, to see for how long nothing comes through. Unlike a TCP connection, which sends again when
//! its own clock says so, this shows a gap as long as it is, and each packet that was lost.

use crate::net::Netns;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// From one datagram to the next: what gaps are measured to.
const PERIOD: Duration = Duration::from_millis(2);
/// What has not come back after this is lost.
const GRACE: Duration = Duration::from_secs(2);

/// Numbered datagrams from one socket to an [`Echo`](super::Echo).
#[derive(Debug)]
pub struct Pulse {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    socket: UdpSocket,
    stop: AtomicBool,
    began: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    next: u64,
    missing: BTreeSet<u64>,
    last_sent: Instant,
    last_answer: Instant,
    beat: Beat,
}

/// What became of the datagrams since the last [`Pulse::look`].
#[derive(Debug, Default, Clone, Copy)]
pub struct Beat {
    /// So many were sent.
    pub sent: u64,
    /// And not answered.
    pub lost: u64,
    /// The longest time from one answer to the next.
    pub silence: Duration,
    /// The slowest answer's time.
    pub slowest: Duration,
    /// The longest time from one datagram to the next: as much of the silence may be the sender's own.
    pub pause: Duration,
}

impl fmt::Display for Beat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, lost, silence, slowest, pause } = self;
        let [silence, slowest, pause] = [silence, slowest, pause].map(|time| time.as_secs_f64() * 1e3);
        write!(
            f,
            "{lost} of {sent} datagrams lost; longest gap {silence:.0} ms, slowest answer {slowest:.1} ms \
             (the sender's own longest pause {pause:.0} ms)"
        )
    }
}

impl Pulse {
    /// Begins to send from `client`.
    pub fn start(client: &Netns, server: SocketAddr) -> Result<Self> {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = client.enter(|| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(server).map(|()| socket)
        })?;
        let socket = socket.with_context(|| format!("a socket towards {server}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let began = Instant::now();
        let seen = Seen {
            next: 0,
            missing: BTreeSet::new(),
            last_sent: began,
            last_answer: began,
            beat: Beat::default(),
        };
        let shared = Arc::new(Shared { socket, stop: AtomicBool::new(false), began, seen: Mutex::new(seen) });
        let (sender, receiver) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![thread::spawn(move || sender.send()), thread::spawn(move || receiver.receive())];
        Ok(Self { shared, threads })
    }

    /// What became of those sent until now; begins anew.
    pub fn look(&self) -> Beat {
        let sent = self.sent();
        wait_for(&[(self, sent)]);
        self.close(sent)
    }

    /// The same of several, all at the same moment.
    pub fn look_at<const N: usize>(pulses: &[Self; N]) -> [Beat; N] {
        let marks = pulses.each_ref().map(|pulse| (pulse, pulse.sent()));
        wait_for(&marks);
        marks.map(|(pulse, sent)| pulse.close(sent))
    }

    fn sent(&self) -> u64 {
        self.shared.seen().next
    }

    fn waits(&self, sent: u64) -> bool {
        self.shared.seen().missing.first().is_some_and(|first| *first < sent)
    }

    fn close(&self, sent: u64) -> Beat {
        let mut seen = self.shared.seen();
        let later = seen.missing.split_off(&sent);
        let lost = std::mem::replace(&mut seen.missing, later).len() as u64;
        let open = seen.last_answer.elapsed();
        let beat = std::mem::take(&mut seen.beat);
        Beat { lost, silence: beat.silence.max(open), ..beat }
    }
}

/// Until all that were sent before have been answered, or will not be.
fn wait_for(marks: &[(&Pulse, u64)]) {
    let asked = Instant::now();
    while asked.elapsed() < GRACE && marks.iter().any(|(pulse, sent)| pulse.waits(*sent)) {
        thread::sleep(PERIOD);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.seen().sends();
            let since = self.began.elapsed().as_nanos() as u64;
            // What the machine has no way for counts as lost.
            drop(self.socket.send(&[number.to_be_bytes(), since.to_be_bytes()].concat()));
            thread::sleep(PERIOD);
        }
    }

    fn receive(&self) {
        let mut answer = [0; 256];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(length) = self.socket.recv(&mut answer) else { continue };
            // The server's name comes first.
            let Some((_, [number, since])) = answer[..length].split_last_chunk().map(halves) else {
                continue;
            };
            self.seen().answered(number, self.began.elapsed().saturating_sub(Duration::from_nanos(since)));
        }
    }
}

/// The two numbers of a datagram.
fn halves<'a>((name, numbers): (&'a [u8], &[u8; 16])) -> (&'a [u8], [u64; 2]) {
    let both = u128::from_be_bytes(*numbers);
    (name, [(both >> 64) as u64, both as u64])
}

impl Seen {
    /// The number of the datagram that is sent now.
    fn sends(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.missing.insert(number);
        self.beat.sent += 1;
        self.beat.pause = self.beat.pause.max(self.last_sent.elapsed());
        self.last_sent = Instant::now();
        number
    }

    fn answered(&mut self, number: u64, after: Duration) {
        if self.missing.remove(&number) {
            self.beat.slowest = self.beat.slowest.max(after);
            self.beat.silence = self.beat.silence.max(self.last_answer.elapsed());
            self.last_answer = Instant::now();
        }
    }
}
