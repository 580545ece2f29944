//! Loading every program of the object, whatever its kind is named, and what the verifier had to do for it.

use anyhow::{Context, Result, bail, ensure};
use aya::EbpfLoader;
use aya::programs::Program;
use std::fmt::Write;

/// Loads them all; gives a line for each: its name and how many instructions the verifier followed.
pub fn all() -> Result<String> {
    // Sizes as of a table for a quarter of a million connections: the verifier goes by them.
    let (mask_v4, mask_v6) = (65_535_u32, 16_383_u32);
    let mut ebpf = EbpfLoader::new()
        .override_global("BUCKET_MASK_V4", &mask_v4, true)
        .override_global("BUCKET_MASK_V6", &mask_v6, true)
        .map_max_entries("conns4", mask_v4 + 1)
        .map_max_entries("overflow4", 4096)
        .map_max_entries("overflow6", 1024)
        .map_max_entries("controls", 65_536)
        .map_max_entries("calls", 65_536)
        .load(lb_user::program::PROGRAM)
        .context("loading the object")?;
    let mut lines = String::new();
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::Xdp(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => bail!("{name} is of a kind this test does not know"),
        };
        loaded.with_context(|| format!("the kernel refuses {name}"))?;
        let count = program.info()?.verified_instruction_count();
        writeln!(lines, "{name} {}", count.context("this kernel does not say what it verified")?)?;
    }
    ensure!(!lines.is_empty(), "there is no program in the object");
    Ok(lines)
}
