//! `cargo xtask setup`: find or install what building and testing need.
//!
//! Every other verb does its part of this first. When everything is there it takes a moment and prints nothing.

mod linker;
mod packages;
mod toolchain;

use anyhow::{Result, anyhow};
use packages::Need;
use toolchain::Toolchain;

use crate::vm;

/// Everything: the programs the tests start, the BPF toolchain, its linker, the virtual machine's packages.
pub fn run() -> Result<()> {
    provide(packages::TESTS)?;
    vm::provide()
}

/// What the benchmark with real servers needs.
pub fn bench() -> Result<()> {
    provide(&[packages::TESTS, packages::BENCH].concat())
}

/// Only what compiling needs.
pub fn toolchain() -> Result<()> {
    provide(&[])
}

/// All packages are asked for in one go, so that a person who must install them by hand is told once.
fn provide(programs: &[Need]) -> Result<()> {
    if toolchain::recorded().is_some() && linker::present() {
        return packages::provide(programs);
    }
    let found = toolchain::find()?;
    let compiler = if found.is_some() { &[] } else { packages::TOOLCHAIN };
    let libraries = linker::needs(found.as_ref().map_or(linker::PACKAGED, |toolchain| toolchain.llvm));
    let provided = packages::provide(&[programs, compiler, libraries].concat());
    // Without Debian's packages there are other ways to a compiler.
    provided
        .map_err(|error| if packages::apt() { error } else { anyhow!("{error:#}\n{}", toolchain::HINT) })?;
    let toolchain = found.map_or_else(Toolchain::debian, Ok)?;
    linker::build(toolchain.llvm)?;
    toolchain.record()
}
