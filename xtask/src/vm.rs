//! The virtual machine's packages: Debian's stock 6.1 kernel, real ipvsadm, busybox.
//!
//! They are downloaded with apt and unpacked in `target/vm/root`, never installed: this machine keeps its kernel, and the
//! name `ipvsadm` stays ours. Which versions they are is for apt to say.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command;

/// Beside the kernel itself, which is found by what this one depends on.
const KERNEL: &str = "linux-image-cloud-amd64";
const OTHERS: [&str; 5] = ["ipvsadm", "libnl-3-200", "libnl-genl-3-200", "libpopt0", "busybox-static"];

/// Written last, so that an interrupted download is begun again.
const DONE: &str = "target/vm/packages";

/// Get and unpack them, unless that has been done.
pub fn provide() -> Result<()> {
    let root = command::root();
    if root.join(DONE).is_file() {
        return Ok(());
    }
    ensure!(
        command::find("apt-get").is_some() && command::find("dpkg-deb").is_some(),
        "the virtual machine is made of Debian's packages: it needs apt-get and dpkg-deb"
    );
    let (packages, unpacked) = (root.join("target/vm/deb"), root.join("target/vm/root"));
    for folder in [&packages, &unpacked] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let names = names().or_else(|_| {
        // A bare machine has no package lists yet.
        command::run(Command::new("apt-get").args(["--quiet", "--quiet", "update"]))?;
        names()
    })?;
    let missing: Vec<&String> = names.iter().filter(|name| file_of(&packages, name).is_none()).collect();
    if !missing.is_empty() {
        let mut download = Command::new("apt-get");
        download.current_dir(&packages).args(["--quiet", "--quiet", "download"]).args(missing);
        command::run(&mut download).context("downloading packages for the virtual machine")?;
    }
    for name in &names {
        let file = file_of(&packages, name).with_context(|| format!("no package file of {name}"))?;
        command::run(Command::new("dpkg-deb").arg("--extract").arg(file).arg(&unpacked))?;
    }
    fs::write(root.join(DONE), names.join("\n")).with_context(|| format!("writing {DONE}"))
}

fn names() -> Result<Vec<String>> {
    let mut show = Command::new("apt-cache");
    let told = command::output(show.args(["depends", "--important", KERNEL])).unwrap_or_default();
    let kernel = dependency(&told).with_context(|| format!("apt knows no {KERNEL}"))?;
    Ok([kernel].into_iter().chain(OTHERS.map(str::to_owned)).collect())
}

/// The kernel package of a version, out of what apt says that the one without a version depends on.
fn dependency(told: &str) -> Option<String> {
    let words = told.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    words.map(str::to_owned).find(|name| name.starts_with("linux-image-"))
}

fn file_of(folder: &Path, package: &str) -> Option<std::path::PathBuf> {
    let files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.into_iter().find(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix(package).is_some_and(|rest| rest.starts_with('_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_one_depended_on() {
        let told = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n";
        assert_eq!(dependency(told).as_deref(), Some("linux-image-6.1.0-9-cloud-amd64"));
        assert_eq!(dependency("linux-image-cloud-amd64\n"), None);
    }
}
