//! Sockets of checks that take the way of clients' packets, as the packet path is told of them ([`lb_common::probe`]).

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use lb_common::addr::Family;
use lb_common::probe::{self, Probe, ProbeKey};
use lb_common::settings::Settings;
use lb_common::tables::LAYOUT;

use super::memory::Mapped;
use super::pins::{self, RULES, Spec, traffic};
use super::syscall;

/// An instance's, whether anything is attached yet or not.
#[derive(Debug)]
pub struct Probes {
    dir: PathBuf,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    /// Which pin it was opened by: `detach --purge` and `attach` make others.
    pin: u64,
    sockets: MapData,
    settings: Mapped<Settings>,
}

impl Probes {
    /// Of the instance with its pins in `dir`.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir, open: Mutex::new(None) }
    }

    /// There are none yet.
    pub fn forget(&self) {
        // Without tables there is nothing to forget.
        drop(self.with(|open| {
            open.settings()?.probers.store(0);
            Ok(())
        }));
    }

    /// Notes a socket, before it sends anything.
    pub fn note(&self, socket: &ProbeKey, probe: &Probe) -> Result<()> {
        let family = Family::from_number(socket.family).context("a socket without a family")?;
        let bit = probe::bit(family, &socket.addr);
        self.with(|open| {
            syscall::update(pins::fd(&open.sockets), socket, &probe.words()).context("noting a socket")?;
            let probers = &open.settings()?.probers;
            if probers.load() & bit == 0 {
                probers.store(probers.load() | bit);
            }
            Ok(())
        })
    }

    /// Has it sent anything on the way of clients' packets?
    pub fn is_sent(&self, socket: &ProbeKey) -> Result<bool> {
        let found = self
            .with(|open| Ok(syscall::lookup::<_, [u64; Probe::WORDS]>(pins::fd(&open.sockets), socket)?))?;
        Ok(found.is_some_and(|words| Probe::is_sent(&words)))
    }

    fn with<R>(&self, ask: impl FnOnce(&Open) -> Result<R>) -> Result<R> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let spec = traffic("probes")?;
        let pin = std::fs::metadata(self.dir.join(spec.name)).context("nothing is attached")?.ino();
        if open.as_ref().is_none_or(|open| open.pin != pin) {
            *open = Some(Open::new(self, spec, pin)?);
        }
        ask(open.as_ref().context("just opened")?)
    }
}

impl Open {
    fn new(of: &Probes, spec: &Spec, pin: u64) -> Result<Self> {
        let [.., settings] = &RULES;
        let settings: Mapped<Settings> = pins::map(&settings.require(&of.dir)?, 1)?;
        let open = Self { pin, sockets: spec.require(&of.dir)?, settings };
        let layout = open.settings()?.layout.load();
        ensure!(layout == LAYOUT, "the tables have layout {layout}, this program knows {LAYOUT}");
        Ok(open)
    }

    fn settings(&self) -> Result<&Settings> {
        self.settings.get(0).context("the settings map is empty")
    }
}
