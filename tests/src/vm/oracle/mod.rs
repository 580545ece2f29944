//! Kernel IPVS as the oracle.

use anyhow::{Result, bail};
use std::path::Path;

/// Plays cases.
pub fn play(_cases: &Path, _out: &Path) -> Result<String> {
    bail!("not yet")
}
