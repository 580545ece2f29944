//! Loading every program of the object, whatever its kind is named, and what the verifier had to do for it.

use anyhow::{Context, Result, bail, ensure};
use aya::EbpfLoader;
use aya::programs::Program;
use std::fmt::Write;

/// Loads them all; gives a line for each: its name and how many instructions the verifier followed.
pub fn all() -> Result<String> {
    let mut ebpf = EbpfLoader::new().load(lb_user::program::PROGRAM).context("loading the object")?;
    let mut lines = String::new();
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::Xdp(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            _ => bail!("{name} is of a kind this test does not know"),
        };
        loaded.with_context(|| format!("the kernel refuses {name}"))?;
        let count = program.info()?.verified_instruction_count();
        writeln!(lines, "{name} {}", count.context("this kernel does not say what it verified")?)?;
    }
    ensure!(!lines.is_empty(), "there is no program in the object");
    Ok(lines)
}
