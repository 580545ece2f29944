//! The guest's files: everything that does not change from run to run, in an archive made once.

use super::cpio::{Archive, stamp};
use super::packages::Packages;
use super::{modules, target};
use crate::need;
use crate::run;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// This machine's programs that the guest gets, where they are there. Everything else is busybox's. Its shell would
/// prefer its own `ip` to the one on the path, so the shell is this machine's too.
const PROGRAMS: &[&str] = &[
    "sh",
    "ip",
    "ss",
    "tc",
    "nginx",
    "curl",
    "iperf3",
    "ping",
    "sysctl",
    "ifconfig",
    "nsenter",
    "socat",
    "vsftpd",
    "unshare",
    "setpriv",
    "mount",
    "umount",
    "keepalived",
    "bird",
];

/// Of this machine's /etc.
const ETC: [&str; 6] = ["passwd", "group", "nsswitch.conf", "protocols", "services", "host.conf"];

/// The first process. Results go out by a port of virtio's, as a tar archive.
const INIT: &str = include_str!("init.sh");

/// Tests run side by side; one of them makes the archive, and old ones are removed while nobody writes.
static MAKING: Mutex<()> = Mutex::new(());

/// The archive, from the cache when nothing in it has changed.
pub fn cached(packages: &Packages) -> Result<PathBuf> {
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let contents = Contents::gather(packages)?;
    let folder = target()?.join("vm/initramfs");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{:016x}.cpio", contents.key()?));
    if !file.is_file() {
        for old in fs::read_dir(&folder)?.flatten() {
            drop(fs::remove_file(old.path()));
        }
        let fresh = tempfile::NamedTempFile::new_in(&folder)?;
        contents.write(fresh.path())?;
        fresh.persist(&file)?;
    }
    Ok(file)
}

/// Which files, by the path they have there.
struct Contents {
    files: Vec<(String, PathBuf)>,
    modules: Vec<String>,
}

impl Contents {
    fn gather(packages: &Packages) -> Result<Self> {
        let mut files = Vec::new();
        let mut names = Vec::new();
        for module in modules::in_order(&packages.modules)? {
            let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((format!("modules/{name}"), module));
            names.push(name);
        }
        let busybox = packages.root.join("bin/busybox");
        files.push(("usr/bin/busybox".to_owned(), busybox));
        let ipvsadm = packages.root.join("sbin/ipvsadm");
        let libraries = packages.root.join("usr/lib/x86_64-linux-gnu");
        let mut needed = libraries_of(&ipvsadm, &libraries)?;
        files.push(("ipvs/ipvsadm".to_owned(), ipvsadm));
        for program in PROGRAMS {
            // What is missing here is missing there, and the test that needs it says so.
            let Ok(named) = need::program(program) else { continue };
            let program = named.canonicalize()?;
            needed.extend(libraries_of(&program, &libraries)?);
            files.push((inside(&named), program));
        }
        // Programs of this workspace need what this test needs.
        needed.extend(libraries_of(&std::env::current_exe()?, &libraries)?);
        files.extend(needed.into_iter().map(|(path, here)| (inside(&path), here)));
        files.extend(ETC.map(|name| (format!("etc/{name}"), PathBuf::from("/etc").join(name))));
        files.retain(|(_, here)| here.exists());
        Ok(Self { files, modules: names })
    }

    fn key(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        INIT.hash(&mut hasher);
        for (path, here) in &self.files {
            (path, stamp(here)?).hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    fn write(&self, file: &Path) -> Result<()> {
        let mut archive = Archive::create(file)?;
        for folder in [
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
            "dev",
            "proc",
            "sys",
            "tmp",
            "run",
            "out",
            "var/log",
            "root",
            "mnt",
            "etc/sysctl.d",
        ] {
            archive.directory(folder)?;
        }
        for merged in ["bin", "sbin", "lib", "lib64"] {
            archive.link(merged, Path::new(&format!("usr/{merged}")))?;
        }
        archive.file("init", 0o755, INIT.as_bytes())?;
        archive.file("modules/order", 0o644, (self.modules.join("\n") + "\n").as_bytes())?;
        archive.file("etc/sysctl.conf", 0o644, b"")?;
        for (path, here) in &self.files {
            if !archive.has(path) {
                archive.copy(path, here)?;
            }
        }
        archive.end()
    }
}

/// The path of a file in a system where /bin, /sbin and /lib are links into /usr.
pub fn inside(path: &Path) -> String {
    let path = path.to_string_lossy();
    let path = path.trim_start_matches('/');
    match ["bin/", "sbin/", "lib/", "lib64/"].iter().any(|top| path.starts_with(top)) {
        true => format!("usr/{path}"),
        false => path.to_owned(),
    }
}

/// The libraries a program of this machine's needs: the path it finds each by, and where it is.
pub fn libraries_of(program: &Path, also_in: &Path) -> Result<BTreeSet<(PathBuf, PathBuf)>> {
    let mut ldd = Command::new("ldd");
    let said = run::run(ldd.arg(program).env("LD_LIBRARY_PATH", also_in))?;
    let mut found = BTreeSet::new();
    for word in said.stdout.split_whitespace().filter(|word| word.starts_with('/')) {
        let here = PathBuf::from(word);
        let name = here.file_name().context("a library has a name")?;
        // A package's own library goes where the system's are.
        let there = match here.starts_with(also_in) {
            true => Path::new("/usr/lib/x86_64-linux-gnu").join(name),
            false => here.clone(),
        };
        found.insert((there, here));
    }
    Ok(found)
}
