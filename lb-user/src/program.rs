//! The kernel program's object, as the build script compiled it.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{MapData, ProgramArray};
use aya::programs::Xdp;
use lb_common::reason::Stage;

/// An ELF object; empty if this was built with `LB_SKIP_BPF=1`.
pub static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

/// The object that benchmarks drive the program with. No part of the product: only `lb-tests` uses it.
pub static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-bench"));

/// The programs that `lb` ends in, by their places in the map `stages`.
const STAGES: [(&str, Stage); 8] = [
    ("lb_slow", Stage::Slow),
    ("lb_new", Stage::New),
    ("lb_new6", Stage::NewIpv6),
    ("lb_ipv6", Stage::Ipv6),
    ("lb_wait", Stage::Wait),
    ("lb_upkeep", Stage::Upkeep),
    ("lb_probe", Stage::Probe),
    ("lb_ftp", Stage::Ftp),
];

/// Loads the balancer's programs and puts those that `lb` ends in into their map. It has to stay open, or pinned, as long
/// as `lb` runs: the kernel empties it otherwise.
pub fn load_stages(
    ebpf: &mut Ebpf,
    load: impl Fn(&mut Ebpf, &str) -> Result<()>,
) -> Result<ProgramArray<MapData>> {
    for name in STAGES.into_iter().map(|(name, _)| name).chain(["lb"]) {
        load(ebpf, name)?;
    }
    let map = ebpf.take_map("stages").context("the program has no map stages")?;
    let mut stages = ProgramArray::try_from(map)?;
    for (name, stage) in STAGES {
        let program: &Xdp = ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?;
        stages.set(stage as u32, program.fd()?, 0).with_context(|| format!("making {name} a stage of lb"))?;
    }
    Ok(stages)
}
