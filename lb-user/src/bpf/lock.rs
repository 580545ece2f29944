//! One command at a time: a lock on the instance's directory. Listings share it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The lock, until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// How it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// With other readers.
    Shared,
    /// Alone.
    Alone,
}

/// Waits for the lock. `None`: there is no instance.
pub fn take(dir: &Path, hold: Hold) -> Result<Option<Lock>> {
    let fail = || format!("locking {}", dir.display());
    loop {
        let file = match File::open(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(fail)?,
        };
        match hold {
            Hold::Shared => file.lock_shared().with_context(fail)?,
            Hold::Alone => file.lock().with_context(fail)?,
        }
        // Purged while we waited?
        let held = file.metadata().with_context(fail)?.ino();
        if fs::metadata(dir).is_ok_and(|now| now.ino() == held) {
            return Ok(Some(Lock { _file: file }));
        }
    }
}

/// Makes the instance's directory if it is missing, and locks it.
pub fn make(dir: &Path) -> Result<Lock> {
    loop {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        if let Some(lock) = take(dir, Hold::Alone)? {
            return Ok(lock);
        }
    }
}
