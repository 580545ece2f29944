//! A BPF file system of one's own: a map that the loader is to take over has to be pinned in one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// It is gone when this is.
#[derive(Debug)]
pub struct OwnBpffs(TempDir);

impl OwnBpffs {
    /// A new one, empty.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir().context("making a directory")?;
        let nothing: Option<&Path> = None;
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), nothing)
            .context("mounting a BPF file system")?;
        Ok(Self(dir))
    }

    /// A place in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for OwnBpffs {
    fn drop(&mut self) {
        // What cannot be taken off stays until the machine goes down; a test has nothing to add to that.
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}
