//! Where the pins are: `<bpffs>/lb-user/<netns cookie>/`, found also from inside `ip netns exec`, which hides
//! `/sys/fs/bpf` behind a fresh `/sys`.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};

use super::syscall;

const USUAL: &str = "/sys/fs/bpf";
/// How far up to look for a process that sees a BPF file system.
const ANCESTORS: usize = 64;

/// The directory of this network namespace's instance, which need not exist yet.
pub fn instance(wanted: Option<&Path>) -> Result<PathBuf> {
    let cookie =
        syscall::netns_cookie().context("the kernel does not number network namespaces (Linux 5.14 does)")?;
    Ok(root(wanted)?.join("lb-user").join(cookie.to_string()))
}

/// The BPF file system, reachable until this is dropped also by a process that gives up its capabilities.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    _open: Option<OwnedFd>,
}

impl Root {
    /// The `wanted` one, else the usual one.
    pub fn of(wanted: Option<&Path>) -> Result<Self> {
        let path = root(wanted)?;
        // Through /proc/PID/root only those may go that can do all which that process can.
        if !path.starts_with("/proc") {
            return Ok(Self { path, _open: None });
        }
        // Sync daemons inherit it with the path. To scripts of other users it is of no use: the directory is root's alone.
        let open = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { path: PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())), _open: Some(open) })
    }

    /// A path to it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The BPF file system.
fn root(wanted: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = wanted {
        ensure!(dir.is_dir(), "{}: no such directory", dir.display());
        ensure!(
            is_bpffs(dir),
            "{} is not a BPF file system: mount one there with `mount -t bpf bpf {0}`",
            dir.display()
        );
        return Ok(dir.to_owned());
    }
    if let Some(found) = seen() {
        return Ok(found);
    }
    mount_usual()?;
    seen().context("a BPF file system was mounted on /sys/fs/bpf, but cannot be seen there")
}

/// A path as it is where the BPF file system is mounted, for people.
pub fn outside(path: &Path) -> PathBuf {
    let mut parts = path.components();
    let hidden =
        path.starts_with("/proc") && parts.by_ref().nth(3).is_some_and(|root| root.as_os_str() == "root");
    if hidden { Path::new("/").join(parts.as_path()) } else { path.to_owned() }
}

/// The one we see ourselves, else the one the first process sees, else that of the nearest ancestor with one.
fn seen() -> Option<PathBuf> {
    visible(USUAL, is_bpffs)
}

/// The directory of this name, if it `fits`: our own, else the first process's, else that of the nearest ancestor that has
/// one.
pub fn visible(usual: &str, fits: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let own = PathBuf::from(usual);
    if fits(&own) {
        return Some(own);
    }
    let through = |pid: u32| Some(PathBuf::from(format!("/proc/{pid}/root{usual}"))).filter(|dir| fits(dir));
    through(1).or_else(|| {
        std::iter::successors(Some(std::process::id()), |pid| parent(*pid)).take(ANCESTORS).find_map(through)
    })
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and brackets, but ends with the last bracket.
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(1)?.parse().ok().filter(|pid| *pid != 0)
}

fn is_bpffs(dir: &Path) -> bool {
    const MAGIC: u32 = 0xcafe_4a11;
    rustix::fs::statfs(dir).is_ok_and(|found| found.f_type as u32 == MAGIC)
}

/// Mounts one where everybody expects it: for all, not just for whoever `ip netns exec` started.
fn mount_usual() -> Result<()> {
    if outermost().is_some_and(mount_in) {
        return Ok(());
    }
    if !Path::new(USUAL).is_dir() {
        bail!(
            "{USUAL} does not exist: mount sysfs on /sys, or name a BPF file system with --bpffs or $LB_USER_BPFFS"
        );
    }
    mount("bpf", USUAL, "bpf", MountFlags::empty(), c"mode=0700")
        .with_context(|| format!("no BPF file system is mounted, and mounting one on {USUAL} failed"))
}

/// The first process, or the furthest ancestor, whose mounts are not ours but may be entered.
fn outermost() -> Option<u32> {
    let mounts = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let own = mounts(std::process::id())?;
    let ancestors: Vec<u32> =
        std::iter::successors(Some(std::process::id()), |pid| parent(*pid)).take(ANCESTORS).collect();
    let furthest = ancestors.iter().rev().copied();
    let (pid, found) = std::iter::once(1).chain(furthest).find_map(|pid| Some((pid, mounts(pid)?)))?;
    (found != own).then_some(pid)
}

fn mount_in(pid: u32) -> bool {
    let pid = pid.to_string();
    Command::new("nsenter")
        .args(["--target", &pid, "--mount", "mount", "-t", "bpf", "-o", "mode=0700", "bpf", USUAL])
        .status()
        .is_ok_and(|status| status.success())
}
