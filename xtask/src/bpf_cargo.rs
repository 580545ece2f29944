//! How to start the BPF toolchain's cargo. Shared with `lb-user/build.rs`, which compiles this same file, so only std and
//! anyhow here. Compiler flags and the linker's path are in `.cargo/config.toml`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// Where set-up notes the toolchain it chose: its folder on the first line, its LLVM's major version on the second.
pub const RECORD: &str = "target/tools/bpf-toolchain";

/// The linker that set-up built for that LLVM.
pub const LINKER: &str = "target/tools/bin/bpf-linker";

/// A target folder of its own: cargo holds a lock on the usual one while a build script runs. Shared by all profiles, so
/// that `core` is compiled once.
pub const TARGET_DIR: &str = "target/bpf";

/// Variables by which an outer cargo, rustup or clippy would impose its own compiler or flags on the inner one.
const OUTER: [&str; 7] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTUP_TOOLCHAIN",
    "CLIPPY_ARGS",
];

/// `program` (cargo, cargo-clippy) from the chosen toolchain, ready to be given its arguments.
pub fn command(root: &Path, program: &str) -> Result<Command> {
    let bin = sysroot(root)?.join("bin");
    let mut command = Command::new(bin.join(program));
    for name in OUTER {
        command.env_remove(name);
    }
    command
        .current_dir(root)
        .env("CARGO", bin.join("cargo"))
        .env("RUSTC", bin.join("rustc"))
        // `core` has to be compiled for BPF, which a stable compiler only does when told that it may.
        .env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

/// What to compile and where to, for any verb of cargo.
pub fn arguments(target: &str) -> [&OsStr; 9] {
    [
        "--package",
        "lb-ebpf",
        "--release",
        "--target",
        target,
        "-Zbuild-std=core",
        "--target-dir",
        TARGET_DIR,
        "--bins",
    ]
    .map(OsStr::new)
}

fn sysroot(root: &Path) -> Result<PathBuf> {
    let record = root.join(RECORD);
    let text = fs::read_to_string(&record).with_context(|| {
        format!("no BPF toolchain chosen yet ({RECORD} is missing): run `cargo xtask setup`")
    })?;
    let first = text.lines().next().filter(|line| !line.is_empty());
    Ok(first.with_context(|| format!("{RECORD} is empty: remove it and run `cargo xtask setup`"))?.into())
}
