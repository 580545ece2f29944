//! This machine's systemd for the guest: with these files aboard it is the first process there, with a journal, and the
//! test's script is one of its units. Of its own units only those that others are ordered by.

use super::base;
use crate::need;
use crate::stale;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What systemd runs and what people run.
const PROGRAMS: [&str; 4] = ["systemctl", "journalctl", "systemd-analyze", "systemd-run"];
const DAEMONS: [&str; 2] = ["systemd", "systemd-journald"];
/// Where both are.
const FOLDER: &str = "/usr/lib/systemd";
const UNITS: [&str; 16] = [
    "basic.target",
    "local-fs.target",
    "multi-user.target",
    "network.target",
    "network-online.target",
    "paths.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "swap.target",
    "sysinit.target",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "timers.target",
    "umount.target",
];

/// The guest comes up to the script and a journal.
const DEFAULT: &str = "\
[Unit]
Requires=basic.target script.service
After=basic.target
";

/// The second half of the guest's `init`, which powers off when it is done.
const SCRIPT: &str = "\
[Unit]
Requires=systemd-journald.service
After=systemd-journald.service
[Service]
ExecStart=/init
";

/// The files, and the folder that some of them are in until this is dropped.
#[derive(Debug)]
pub struct Systemd {
    made: TempDir,
    files: Vec<(String, PathBuf)>,
}

impl Systemd {
    /// As installed here.
    pub fn here() -> Result<Self> {
        let mut programs = PROGRAMS.iter().map(|name| need::program(name)).collect::<Result<Vec<_>, _>>()?;
        programs.extend(DAEMONS.map(|name| Path::new(FOLDER).join(name)));
        let mut this = Self { made: stale::directory()?, files: Vec::new() };
        for program in programs {
            let libraries = base::libraries_of(&program, &this.made.path().join("none"))?;
            this.files.extend(libraries.into_iter().map(|(there, here)| (base::inside(&there), here)));
            this.files.push((base::inside(&program), program));
        }
        for unit in UNITS.map(|name| Path::new(FOLDER).join("system").join(name)) {
            this.files.push((base::inside(&unit), unit));
        }
        this.make("default.target", DEFAULT)?;
        this.make("script.service", SCRIPT)?;
        this.files.sort();
        this.files.dedup();
        Ok(this)
    }

    fn make(&mut self, unit: &str, text: &str) -> Result<()> {
        let here = self.made.path().join(unit);
        fs::write(&here, text)?;
        self.files.push((format!("etc/systemd/system/{unit}"), here));
        Ok(())
    }

    /// For [`super::Vm::run`].
    pub fn files(&self) -> impl Iterator<Item = super::FileIn<'_>> {
        self.files.iter().map(|(there, here)| (there.as_str(), here.as_path()))
    }
}
