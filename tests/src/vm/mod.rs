//! A virtual machine with Debian's own kernel: another kernel than this machine's, with IPVS in it.
//!
//! [`Vm::run`] boots it, runs a shell script with files of the caller's, and brings back what the script said and the
//! files it left in `/out`. Each run is a fresh boot from memory: nothing is installed, no disk, no network card.
//!
//! - [`packages`]: the kernel and ipvsadm, unpacked in `target/vm` by `cargo xtask setup`, never installed here.
//! - [`modules`]: which of the kernel's modules are loaded, in an order that works.
//! - [`cpio`]: the archive the kernel unpacks at boot, `initramfs`.
//! - [`base`]: what is in it: modules, ipvsadm, and this machine's own `ip`, nginx, curl and their libraries.
//! - [`clock`]: how fast the guest's clock goes.
//! - [`load`]: a part of the guest's program: do all our programs load, and at what cost.
//! - [`stack`]: the deepest chain of calls in the compiled programs.
//! - [`systemd`]: this machine's systemd as the guest's first process, for a test that wants one.
//! - [`oracle`]: the same commands and packets for kernel IPVS and for us.

pub mod base;
pub mod clock;
pub mod cpio;
pub mod load;
pub mod modules;
pub mod oracle;
pub mod packages;
pub mod stack;
pub mod systemd;

use crate::need;
use crate::run::{self, LIMIT};
use crate::stale;
use anyhow::{Context, Result, bail};
use cpio::Archive;
use packages::Packages;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// What a script did.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; 143 when it had to be ended.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// What it left in `/out`, by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What the kernel said, for messages.
    pub console: String,
}

impl Outcome {
    /// Of a script that has to succeed.
    pub fn ok(self) -> Result<Self> {
        match self.status {
            0 => Ok(self),
            status => bail!(
                "the script in the virtual machine ended with status {status}\n{}{}",
                self.stdout,
                self.stderr
            ),
        }
    }
}

/// A file for the guest: its path there and where it is here.
pub type FileIn<'a> = (&'a str, &'a Path);

/// A virtual machine, ready to boot.
#[derive(Debug)]
pub struct Vm {
    packages: Packages,
    clock: Clock,
}

/// What the guest's clock goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// The time of day.
    Real,
    /// The instructions it has executed: a nanosecond each.
    Instructions,
}

impl Clock {
    /// Its processors.
    const fn machine(self) -> &'static [&'static str] {
        match self {
            Self::Real => &["-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max"],
            // Nothing that differs from run to run: an idle processor skips to its next timer, the date and the random
            // numbers are given. A string instruction counts as often as it repeats: without ERMS the kernel has it repeat
            // for every eight bytes, not for each.
            Self::Instructions => &[
                "-accel",
                "tcg,thread=single",
                "-smp",
                "1",
                "-cpu",
                "max,-erms",
                "-icount",
                "shift=0,sleep=off",
                "-rtc",
                "base=2026-01-01,clock=vm",
                "-seed",
                "1",
            ],
        }
    }

    /// What the kernel is told of it.
    fn rate(self) -> String {
        match self {
            Self::Real => format!("tsc_early_khz={}", clock::tsc_khz()),
            Self::Instructions => String::new(),
        }
    }
}

/// More than any boot and shutdown, on a busy machine without virtualisation.
const BOOT: Duration = Duration::from_secs(60);

/// The kernel's command line. On a busy host interrupts come late, and the kernel's own checks of its clocks only disturb:
/// the one of the timer would end in a panic. Programs begin at the same address each time: QEMU has to translate them
/// anew otherwise, which is most of what starting one costs.
const COMMAND_LINE: &str =
    "console=ttyS0 loglevel=4 panic=-1 tsc=reliable nowatchdog no_timer_check norandmaps";

impl Vm {
    /// With what set-up has unpacked.
    pub fn new() -> Result<Self> {
        need::program("qemu-system-x86_64")?;
        Ok(Self { packages: Packages::find()?, clock: Clock::Real })
    }

    /// With one processor, whose time-stamp counter counts the instructions it executes (QEMU's `-icount`). Seconds in the
    /// guest are not seconds here: idle ones take no time, busy ones many; limits are kept here alone.
    pub fn counting(self) -> Self {
        Self { clock: Clock::Instructions, ..self }
    }

    /// The kernel's version, as `uname -r` gives it.
    pub fn kernel(&self) -> &str {
        &self.packages.version
    }

    /// Boots, runs `script` with busybox's shell, and takes everything down. Past `limit` the script is ended, and the
    /// outcome has what it said until then; when even that fails, the error has the end of the console.
    pub fn run(&self, script: &str, files: &[FileIn<'_>], limit: Duration) -> Result<Outcome> {
        let directory = stale::directory()?;
        let initrd = directory.path().join("initrd");
        let base = base::cached(&self.packages)?;
        fs::copy(&base, &initrd).with_context(|| format!("copying {}", base.display()))?;
        self.add(&initrd, script, files, limit)?;
        let console = self.boot(directory.path(), &initrd, limit)?;
        unpack(directory.path(), console)
    }

    /// A second archive behind the first: the kernel unpacks both.
    fn add(&self, initrd: &Path, script: &str, files: &[FileIn<'_>], limit: Duration) -> Result<()> {
        let mut archive = Archive::append(initrd)?;
        archive.file("script", 0o755, script.as_bytes())?;
        // Where the guest's seconds are others, only the host's limit holds.
        let seconds = if self.clock == Clock::Real { limit.as_secs() } else { u64::from(u32::MAX) };
        archive.file("limit", 0o644, seconds.to_string().as_bytes())?;
        for (path, here) in files {
            archive.copy(path.trim_start_matches('/'), here)?;
        }
        archive.end()
    }

    fn boot(&self, directory: &Path, initrd: &Path, limit: Duration) -> Result<String> {
        let console = directory.join("console");
        let file = File::create(&console)?;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(self.clock.machine()).args(["-m", "3G", "-nic", "none"]);
        qemu.args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]).arg("-kernel");
        qemu.arg(&self.packages.kernel).arg("-initrd").arg(initrd);
        qemu.arg("-append").arg(format!("{COMMAND_LINE} {}", self.clock.rate()));
        qemu.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=out,name=out"]);
        qemu.arg("-chardev").arg(format!("file,id=out,path={}", directory.join("out.tar").display()));
        qemu.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut child = run::die_with_us(&mut qemu).spawn().context("cannot start qemu-system-x86_64")?;
        let deadline = Instant::now() + limit + BOOT;
        let ended = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let said = String::from_utf8_lossy(&fs::read(&console)?).into_owned();
        match ended {
            Some(status) if status.success() => Ok(said),
            Some(status) => bail!("qemu ended with {status}; the console's end:\n{}", tail(&said)),
            None => bail!(
                "the virtual machine did not end within {} s; the console's end:\n{}",
                (limit + BOOT).as_secs(),
                tail(&said)
            ),
        }
    }
}

/// The last lines of a console.
fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Reads what the guest wrote as a tar archive.
fn unpack(directory: &Path, console: String) -> Result<Outcome> {
    let out = directory.join("out");
    fs::create_dir(&out)?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(directory.join("out.tar")).arg("-C").arg(&out);
    let told = run::run_with(&mut tar, b"", LIMIT)?.ok();
    told.with_context(|| {
        format!("nothing came out of the virtual machine; its console:\n{}", tail(&console))
    })?;
    let mut files = BTreeMap::new();
    collect(&out, "", &mut files)?;
    let mut text = |name: &str| -> Result<String> {
        let bytes = files.remove(name);
        let bytes = bytes.with_context(|| format!("no {name} came out; the console:\n{}", tail(&console)))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stdout, stderr) = (text(".stdout")?, text(".stderr")?);
    let status = text(".status")?.trim().parse().context("the script's status")?;
    Ok(Outcome { status, stdout, stderr, files, console })
}

fn collect(directory: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => collect(&entry.path(), &format!("{name}/"), files)?,
            false => drop(files.insert(name, fs::read(entry.path())?)),
        }
    }
    Ok(())
}

/// The workspace's target folder, where `cargo xtask setup` has put the packages.
pub fn target() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(workspace.context("this crate is a member of a workspace")?.join("target"))
}

/// How long a copy that nobody asks for is kept: longer than any test runs.
const KEPT: Duration = Duration::from_secs(3600);

/// A copy of a program without its debug information, which is most of it: made once, gone when it has not been asked for in a
/// while.
pub fn stripped(program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
    let stamp = cpio::stamp(program)?;
    let folder = target()?.join("vm/stripped");
    fs::create_dir_all(&folder)?;
    let copy = folder.join(format!("{name}-{stamp:016x}"));
    if copy.is_file() {
        File::open(&copy)?.set_modified(SystemTime::now())?;
    } else {
        let fresh = tempfile::NamedTempFile::new_in(&folder)?;
        run::run(Command::new("strip").arg("-g").arg("-o").arg(fresh.path()).arg(program))?.ok()?;
        fresh.persist(&copy)?;
        forget(&folder, KEPT)?;
    }
    Ok(copy)
}

/// Removes files that have not been written or asked for in so long.
fn forget(folder: &Path, kept: Duration) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let age = entry.metadata().ok().and_then(|file| file.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age > kept) {
            // Somebody else may be at it too.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[test]
    fn only_what_is_old_is_forgotten() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        File::create(&old)?.set_modified(SystemTime::now() - Duration::from_secs(120))?;
        File::create(&new)?;
        forget(folder.path(), Duration::from_secs(60))?;
        ensure!(!old.exists() && new.exists());
        Ok(())
    }
}
