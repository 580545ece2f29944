//! bpf-linker, built for the LLVM of the BPF compiler and kept in `target/tools`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};

use super::packages::{self, Need};
use crate::{bpf_cargo, command};

const VERSION: &str = "0.13.0";

/// The LLVM versions that version can be built with.
const SUPPORTED: std::ops::RangeInclusive<u32> = 21..=23;

/// The one that Debian packages beside its compiler.
pub const PACKAGED: u32 = 22;

/// True once it has been built.
pub fn present() -> bool {
    command::root().join(bpf_cargo::LINKER).exists()
}

/// True if it can be built for this LLVM here.
pub fn possible(llvm: u32) -> bool {
    SUPPORTED.contains(&llvm) && (prefix(llvm).is_some() || (llvm == PACKAGED && packages::apt()))
}

/// The packages to build it with, where they are Debian's.
pub fn needs(llvm: u32) -> &'static [Need] {
    let debian = llvm == PACKAGED && packages::apt() && env::var_os("LLVM_PREFIX").is_none();
    if debian { packages::LLVM } else { &[] }
}

/// Build it for this LLVM.
pub fn build(llvm: u32) -> Result<()> {
    ensure!(SUPPORTED.contains(&llvm), "bpf-linker {VERSION} does not fit a compiler with LLVM {llvm}");
    let prefix = prefix(llvm).with_context(|| {
        format!("LLVM {llvm} for bpf-linker is missing: install its development files, or set LLVM_PREFIX to its folder")
    })?;
    let tools = command::root().join("target/tools");
    fs::create_dir_all(&tools).with_context(|| format!("creating {}", tools.display()))?;
    let mut install =
        command::cargo(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--quiet"]);
    install.args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"]).arg(&tools);
    command::run(install.env("LLVM_PREFIX", prefix)).context("building bpf-linker")?;
    forget_objects()
}

/// Cargo does not see that the linker is another one and would call its old output fresh.
fn forget_objects() -> Result<()> {
    let folder = command::root().join(bpf_cargo::TARGET_DIR);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Where this LLVM is installed.
fn prefix(llvm: u32) -> Option<PathBuf> {
    let said = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let on_path = [format!("llvm-config-{llvm}"), "llvm-config".to_owned()]
        .into_iter()
        .filter_map(|config| prefix_of(&config));
    said.into_iter().chain([debian]).chain(on_path).find(|prefix| version_at(prefix) == Some(llvm))
}

fn prefix_of(config: &str) -> Option<PathBuf> {
    Some(command::output(Command::new(config).arg("--prefix"))?.trim_end().into())
}

fn version_at(prefix: &Path) -> Option<u32> {
    let version = command::output(Command::new(prefix.join("bin/llvm-config")).arg("--version"))?;
    version.split('.').next()?.parse().ok()
}
