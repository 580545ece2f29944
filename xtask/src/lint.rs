//! `cargo xtask lint`: formatting, and clippy without a single warning, for every crate.

use anyhow::{Context as _, Result};

use crate::{bpf_cargo, command, setup};

/// Set-up, then the checks.
pub fn run() -> Result<()> {
    setup::toolchain()?;
    check()
}

/// The checks alone. All of them run even if the first fails, so that one run shows everything.
pub fn check() -> Result<()> {
    let checks = [format(), host(), bpf()];
    checks.into_iter().collect()
}

fn format() -> Result<()> {
    command::run(&mut command::cargo(["fmt", "--all", "--check"]))
}

fn host() -> Result<()> {
    let clippy = ["clippy", "--workspace", "--exclude", "lb-ebpf", "--all-targets", "--", "-D", "warnings"];
    command::run(&mut command::cargo(clippy))?;
    let shuttle =
        ["clippy", "--package", "lb-common", "--features", "shuttle", "--tests", "--", "-D", "warnings"];
    command::run(&mut command::cargo(shuttle))
}

/// The kernel program is linted for its own target, by the clippy that belongs to its compiler.
fn bpf() -> Result<()> {
    let mut clippy = bpf_cargo::command(command::root(), "cargo-clippy")?;
    clippy.arg("clippy").args(bpf_cargo::arguments("bpfel-unknown-none")).args(["--", "-D", "warnings"]);
    command::run(&mut clippy).context(
        "clippy for the kernel program (if it is missing: `apt-get install rust-web-clippy` for Debian's toolchain, \
         `rustup component add clippy` for rustup's)",
    )
}
