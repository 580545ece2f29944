//! Compiles the kernel program (`lb-ebpf`) and leaves the object as `OUT_DIR/lb-ebpf`, for
//! `include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"))`; and beside it `lb-bench`, the benchmarks' own.
//!
//! The BPF toolchain and its linker are those that `cargo xtask setup` chose. The program is always optimised, whatever
//! profile `lb-user` itself is built with: the verifier refuses it otherwise. `LB_SKIP_BPF=1` skips all this and leaves an
//! empty object: enough for host-only work (check, clippy, unit tests) on a machine without the toolchain.

#[path = "../xtask/src/bpf_cargo.rs"]
mod bpf_cargo;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

const SKIP: &str = "LB_SKIP_BPF";
/// What lb-ebpf is compiled to.
const OBJECTS: [&str; 2] = ["lb-ebpf", "lb-bench"];

fn main() -> ExitCode {
    // Returned from main, the error would come with a backtrace after the compiler's own words.
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    println!("cargo::rerun-if-env-changed={SKIP}");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    if env::var_os(SKIP).is_some_and(|value| value == "1") {
        println!("cargo::warning={SKIP}=1: built without the kernel program, so nothing can be attached");
        return OBJECTS.iter().try_for_each(|name| {
            fs::write(out.join(name), []).with_context(|| format!("writing {name} in {}", out.display()))
        });
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("lb-user has no parent folder")?;
    rerun_when_sources_change(root);
    compile(root, &out)
}

/// Everything the object is made from. Cargo walks folders, so new files count too.
fn rerun_when_sources_change(root: &Path) {
    for source in [
        "lb-ebpf/src",
        "lb-ebpf/Cargo.toml",
        "lb-common/src",
        "lb-common/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
        ".cargo/config.toml",
        bpf_cargo::RECORD,
        bpf_cargo::LINKER,
    ] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
}

fn compile(root: &Path, out: &Path) -> Result<()> {
    if !root.join(bpf_cargo::LINKER).exists() {
        bail!("no BPF linker yet: run `cargo xtask setup` once, or set {SKIP}=1 for host-only work");
    }
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN").context("CARGO_CFG_TARGET_ENDIAN is not set")?;
    let target = if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;

    let mut cargo = bpf_cargo::command(root, "cargo")?;
    cargo.args(["build", "--quiet"]).args(bpf_cargo::arguments(target));
    cargo.env("AYA_BPF_TARGET_ARCH", arch);
    let status = cargo.status().with_context(|| format!("starting {cargo:?}"))?;
    ensure!(status.success(), "compiling the kernel program failed, see the errors above");

    let built = root.join(bpf_cargo::TARGET_DIR).join(target).join("release");
    for name in OBJECTS {
        fs::copy(built.join(name), out.join(name))
            .with_context(|| format!("copying {name} from {} to {}", built.display(), out.display()))?;
    }
    Ok(())
}
