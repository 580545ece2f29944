//! Which compiler makes the kernel program.
//!
//! BPF has no ready-made `core`, so the compiler has to come with its library's source (rust-src), and its LLVM must be
//! one that bpf-linker can be built with. In order of preference:
//!
//! 1. `LB_BPF_TOOLCHAIN`: a rustup toolchain by name, or the folder of one;
//! 2. rustup's nightly, if it has rust-src;
//! 3. Debian's packages, which live in /usr.
//!
//! The choice is noted in `target/tools/bpf-toolchain` and kept until that file goes or `LB_BPF_TOOLCHAIN` says otherwise:
//! a plain `cargo build` reads it there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use super::linker;
use crate::{bpf_cargo, command};

const OVERRIDE: &str = "LB_BPF_TOOLCHAIN";

/// The sysroot of Debian's toolchain.
const DEBIAN: &str = "/usr";

/// For whoever has to get one by hand.
pub const HINT: &str = "\
The kernel program needs a Rust compiler with rust-src, and the LLVM it was made with. Ways to get them:
  Debian  apt-get install rustc-web cargo-web rust-web-src rust-web-clippy llvm-22-dev g++ libzstd-dev zlib1g-dev
  rustup  rustup toolchain install nightly --component rust-src,clippy, and LLVM's development files of its version
  other   LB_BPF_TOOLCHAIN=NAME (a rustup toolchain, or the folder of one) and LLVM_PREFIX=FOLDER";

/// A compiler with its library's source.
pub struct Toolchain {
    sysroot: PathBuf,
    /// Major version of its LLVM.
    pub llvm: u32,
}

/// What an earlier set-up chose, if it still stands and nobody asks for another.
pub fn recorded() -> Option<Toolchain> {
    let text = fs::read_to_string(command::root().join(bpf_cargo::RECORD)).ok()?;
    let (sysroot, llvm) = text.trim_end().split_once('\n')?;
    let toolchain = Toolchain::at(Path::new(sysroot))?;
    // An upgrade may have brought another LLVM, for which the linker does not do.
    let same = toolchain.llvm.to_string() == llvm;
    let wanted = env::var(OVERRIDE).ok().map(|name| folder(&name));
    let asked = wanted.is_none_or(|wanted| wanted.as_deref() == Some(sysroot.as_ref()));
    (same && asked).then_some(toolchain)
}

/// The first of the order above that is there; `None` when Debian's has to be installed.
pub fn find() -> Result<Option<Toolchain>> {
    if let Ok(name) = env::var(OVERRIDE) {
        return overridden(&name).map(Some);
    }
    let nightly = folder("nightly").and_then(|folder| Toolchain::at(&folder));
    let usable = nightly.filter(|nightly| linker::possible(nightly.llvm));
    Ok(usable.or_else(|| Toolchain::debian().ok()))
}

fn overridden(name: &str) -> Result<Toolchain> {
    let Some(folder) = folder(name) else {
        bail!("{OVERRIDE}={name}: neither a rustup toolchain nor a folder\n{HINT}")
    };
    let toolchain = Toolchain::at(&folder);
    toolchain.with_context(|| {
        format!("{OVERRIDE}={name}: {} has no compiler with rust-src\n{HINT}", folder.display())
    })
}

/// The folder of a toolchain given by name or by folder.
fn folder(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') {
        return Some(name.into());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["run", name, "rustc", "--print", "sysroot"]).env("RUSTUP_AUTO_INSTALL", "0");
    let sysroot = command::output(&mut rustup)?;
    Some(sysroot.trim_end().into())
}

impl Toolchain {
    /// Debian's.
    pub fn debian() -> Result<Self> {
        Self::at(Path::new(DEBIAN)).with_context(|| format!("no compiler with rust-src in {DEBIAN}\n{HINT}"))
    }

    /// The toolchain in this folder, if it is one and has rust-src.
    fn at(sysroot: &Path) -> Option<Self> {
        let source = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
        if !source.exists() || !sysroot.join("bin/cargo").exists() {
            return None;
        }
        let about = command::output(Command::new(sysroot.join("bin/rustc")).arg("-vV"))?;
        Some(Self { sysroot: sysroot.to_owned(), llvm: llvm_major(&about)? })
    }

    /// Note the choice where builds look for it.
    pub fn record(&self) -> Result<()> {
        let record = command::root().join(bpf_cargo::RECORD);
        let text = format!("{}\n{}\n", self.sysroot.display(), self.llvm);
        fs::write(&record, text).with_context(|| format!("writing {}", record.display()))?;
        eprintln!("BPF toolchain: {} (LLVM {})", self.sysroot.display(), self.llvm);
        Ok(())
    }
}

fn llvm_major(about: &str) -> Option<u32> {
    let version = about.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_is_read_from_its_version() {
        let about = "rustc 1.96.0\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(about), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0"), None);
    }

    #[test]
    fn a_folder_without_a_compiler_is_no_toolchain() {
        assert!(Toolchain::at(Path::new("/nonexistent")).is_none());
        assert!(Toolchain::at(Path::new("/etc")).is_none());
    }
}
