//! The instance a daemon works on, found again after another `attach` or `detach --purge`.

use std::path::PathBuf;

use anyhow::Result;

use crate::bpf::bpffs;
use crate::bpf::sync::Instance;
use crate::control::sysctl::Sysctls;

/// Whichever instance this network namespace has at the moment.
#[derive(Debug)]
pub struct Tables {
    bpffs: Option<PathBuf>,
    instance: Option<Instance>,
    /// Opened so many times: who remembers slots has to forget them.
    pub openings: u64,
}

impl Tables {
    /// With pins in `bpffs`, or where they usually are.
    pub fn new(bpffs: Option<PathBuf>) -> Self {
        Self { bpffs, instance: None, openings: 0 }
    }

    /// Looks whether the tables are still those that are open. To be called every second.
    pub fn look(&mut self) -> Result<()> {
        if self.instance.as_ref().is_some_and(Instance::is_current) {
            return Ok(());
        }
        self.instance = None;
        self.instance = Instance::open(&bpffs::instance(self.bpffs.as_deref())?)?;
        self.openings += 1;
        Ok(())
    }

    /// The tables, if something is attached.
    pub fn get(&self) -> Option<&Instance> {
        self.instance.as_ref()
    }

    /// The sysctls; the defaults while there are no tables.
    pub fn sysctls(&self) -> Sysctls {
        self.get().and_then(|instance| instance.sysctls().ok()).unwrap_or_default()
    }
}
