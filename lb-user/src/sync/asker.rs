//! When a backup asks for a whole table: of each master it hears for the first time, or again after a silence, and of one it was
//! told of.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::resync::{self, Counts, Options};

/// A master not heard for so long may have been away.
const SILENCE: Duration = Duration::from_secs(30);
/// After a failure, the next try comes no sooner.
const AGAIN: Duration = Duration::from_secs(30);
/// The same, of a master that was named.
const AGAIN_NAMED: Duration = Duration::from_secs(5);
/// Messages that may wait to be taken.
const QUEUE: usize = 64;

/// A backup's side of full resync.
#[derive(Debug)]
pub struct Asker {
    options: Options,
    interface: String,
    counts: Arc<Counts>,
    sender: mpsc::Sender<Vec<u8>>,
    receiver: mpsc::Receiver<Vec<u8>>,
    /// When each master was heard last, and when it was asked in vain.
    masters: HashMap<IpAddr, (Instant, Option<Instant>)>,
    /// Who is being asked, and failures before that.
    asked: Option<(IpAddr, u64)>,
    /// The master that was named has answered.
    satisfied: bool,
}

impl Asker {
    /// That asks by this interface.
    pub fn new(options: Options, interface: String, counts: Arc<Counts>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let masters = HashMap::new();
        Self { options, interface, counts, sender, receiver, masters, asked: None, satisfied: false }
    }

    /// The tables are others now: everybody is asked again.
    pub fn forget(&mut self) {
        self.masters.clear();
        self.satisfied = false;
    }

    /// A master was heard.
    pub fn heard(&mut self, from: SocketAddr) {
        let now = Instant::now();
        let before = self.masters.insert(from.ip(), (now, None));
        let due = match before {
            None => true,
            Some((_, Some(failed))) => now.duration_since(failed) >= AGAIN,
            Some((heard, None)) => now.duration_since(heard) >= SILENCE,
        };
        if let Some((_, failed @ Some(_))) = before
            && !due
        {
            self.masters.insert(from.ip(), (now, failed));
        }
        if due && !self.ask(from) {
            // Somebody else is being asked: at its next message.
            self.masters.remove(&from.ip());
        }
    }

    /// To be called every second: the master that was named is asked until it has answered.
    pub fn second(&mut self) {
        let Some(peer) = self.options.peer.filter(|_| !self.satisfied) else { return };
        let failed = self.masters.get(&peer).and_then(|(_, failed)| *failed);
        if failed.is_none_or(|failed| failed.elapsed() >= AGAIN_NAMED) {
            self.ask((peer, 0).into());
        }
    }

    /// False: one after the other.
    fn ask(&mut self, master: SocketAddr) -> bool {
        if self.asked.is_some() {
            return false;
        }
        self.asked = Some((master.ip(), self.counts.failed.load(Ordering::Relaxed)));
        let (counts, sink) = (Arc::clone(&self.counts), self.sender.clone());
        resync::ask(master, self.interface.clone(), self.options.clone(), counts, sink);
        true
    }

    /// The next message.
    pub async fn next(&mut self) -> Vec<u8> {
        // The sender is ours: there is always one.
        self.receiver.recv().await.unwrap_or_default()
    }

    /// The next message, if there is one already.
    pub fn another(&mut self) -> Option<Vec<u8>> {
        self.receiver.try_recv().ok()
    }

    /// The last message has come.
    pub fn ended(&mut self) {
        let Some((master, failures)) = self.asked.take() else { return };
        let now = Instant::now();
        let failed = self.counts.failed.load(Ordering::Relaxed) != failures;
        self.satisfied |= !failed && self.options.peer == Some(master);
        self.masters.insert(master, (now, failed.then_some(now)));
    }
}
