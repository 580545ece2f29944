//! What an agent that follows VRRP's roles has beside its own file: keepalived's, and the key of full resync.

use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where the example has them.
const COMMON: &str = "/etc/keepalived/keepalived.conf";
const KEY: &str = "/etc/lb-user-sync.key";

/// Both files.
pub struct SyncFiles(TempDir);

impl SyncFiles {
    /// keepalived's configuration, and a key of 64 times this digit.
    pub fn new(common: &str, digit: &str) -> Result<Self> {
        let files = Self(tempfile::tempdir()?);
        fs::write(files.common(), common)?;
        fs::write(files.key(), digit.repeat(64))?;
        fs::set_permissions(files.key(), fs::Permissions::from_mode(0o600))?;
        Ok(files)
    }

    /// The agent's configuration with these files in the place of the system's.
    pub fn agents(&self, example: &str) -> Result<String> {
        ensure!(example.contains(COMMON) && example.contains(KEY), "the example is another one");
        let named = |text: &str, from: &str, to: PathBuf| text.replace(from, &to.display().to_string());
        Ok(named(&named(example, COMMON, self.common()), KEY, self.key()))
    }

    fn common(&self) -> PathBuf {
        self.path().join("common.conf")
    }

    fn key(&self) -> PathBuf {
        self.path().join("key")
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}
