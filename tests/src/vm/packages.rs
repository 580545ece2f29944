//! What set-up has unpacked in `target/vm`: one folder for all packages, with the kernel's files and ipvsadm's in it.

use super::target;
use crate::need::Missing;
use anyhow::Result;
use std::fs;
use std::path::PathBuf;

/// The unpacked packages.
#[derive(Debug)]
pub struct Packages {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// Its version, as `uname -r` gives it.
    pub version: String,
    /// Its modules.
    pub modules: PathBuf,
    /// The root that the packages were unpacked into.
    pub root: PathBuf,
}

impl Packages {
    /// Finds them; a missing one says how to get it.
    pub fn find() -> Result<Self> {
        let root = target()?.join("vm/root");
        let missing = || Missing::new("the virtual machine's packages: run `cargo xtask setup`");
        let images = fs::read_dir(root.join("boot")).map_err(|_| missing())?;
        let names = images.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let versions = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned));
        let version = versions.max().ok_or_else(missing)?;
        Ok(Self {
            kernel: root.join(format!("boot/vmlinuz-{version}")),
            modules: root.join(format!("lib/modules/{version}")),
            version,
            root,
        })
    }
}
