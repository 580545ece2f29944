//! `announce`: virtual addresses that a routing daemon tells its neighbours of, as long as there is somebody to serve.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use tracing::{info, warn};

use crate::bpf::announce::{self, Announcement, Announcements};

/// What routers need to send clients elsewhere, while what they still send here is forwarded.
pub const GRACE: Duration = Duration::from_secs(3);

/// Keeps the machine's addresses to what the virtual servers say.
#[derive(Debug)]
pub struct Announcer {
    pins: PathBuf,
    way: Option<Announcements>,
    trouble: Option<String>,
    /// There may be addresses to take away.
    busy: bool,
}

impl Announcer {
    /// For the instance with these pins. An agent before this one may have left addresses.
    pub fn new(pins: PathBuf) -> Self {
        Self { pins, way: None, trouble: None, busy: true }
    }

    /// Has these addresses and no other, unless the balancer is being taken out; one with `false` stays if it is there, and
    /// is not put there. To be called whenever something may have changed, and every second; what goes wrong is told once.
    pub fn follow(&mut self, wanted: BTreeMap<Announcement, bool>) {
        let wanted = if announce::is_withdrawn(&self.pins) { BTreeMap::new() } else { wanted };
        if wanted.is_empty() && !self.busy {
            return;
        }
        match self.set(&wanted) {
            Ok(said) => {
                said.iter().for_each(|line| info!("{line}"));
                self.trouble = None;
                self.busy = !wanted.is_empty();
            }
            Err(error) => {
                let trouble = format!("{error:#}");
                if self.trouble.as_ref() != Some(&trouble) {
                    warn!("{trouble}");
                }
                self.trouble = Some(trouble);
            }
        }
    }

    /// Takes all away for good, and waits until routers have heard.
    pub fn leave(&mut self) {
        let before = self.busy;
        self.busy = true;
        self.follow(BTreeMap::new());
        if before {
            thread::sleep(GRACE);
        }
    }

    fn set(&mut self, wanted: &BTreeMap<Announcement, bool>) -> Result<Vec<String>> {
        let way = match &mut self.way {
            Some(way) => way,
            none => none.insert(Announcements::open()?),
        };
        way.set(wanted)
    }
}
