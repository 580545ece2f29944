//! `cargo xtask build`: set-up, then the binary with the kernel program in it.

use std::path::PathBuf;

use anyhow::Result;

use crate::{command, setup};

/// How to build.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Optimise user space too (the kernel program always is)
    #[arg(long)]
    pub release: bool,
}

/// Build and say where the binary is.
pub fn run(options: &Options) -> Result<()> {
    setup::toolchain()?;
    println!("built {}", lb_user(options)?.display());
    Ok(())
}

/// Build `lb-user` and return its path.
pub fn lb_user(options: &Options) -> Result<PathBuf> {
    let mut cargo = command::cargo(["build", "--package", "lb-user"]);
    // Ours, not the caller's: the path below has to be where cargo puts it.
    cargo.args(["--target-dir", "target"]);
    if options.release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    Ok(command::root().join("target").join(if options.release { "release" } else { "debug" }).join("lb-user"))
}

/// Build a program of the tests crate, optimised, and return its path.
pub fn test_program(name: &str) -> Result<PathBuf> {
    let mut cargo = command::cargo([
        "build",
        "--release",
        "--package",
        "lb-tests",
        "--target-dir",
        "target",
        "--bin",
        name,
    ]);
    command::run(&mut cargo)?;
    Ok(command::root().join("target/release").join(name))
}
