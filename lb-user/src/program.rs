//! The kernel program's object, as the build script compiled it, and how its programs are loaded.

use std::collections::BTreeMap;
use std::iter;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use aya::Ebpf;
use aya::maps::{MapData, ProgramArray};
use aya::programs::{Program, ProgramError, Xdp};
use lb_common::reason::Stage;

/// An ELF object; empty if this was built with `LB_SKIP_BPF=1`.
pub static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

/// The object that benchmarks drive the program with. No part of the product: only `lb-tests` uses it.
pub static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-bench"));

/// The programs that `lb` ends in, by their places in the map `stages`. The two that the verifier takes longest for come
/// first: they are loaded in this order.
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

/// Loads the balancer's programs and these `others`, and puts those that `lb` ends in into their map. It has to stay open, or
/// pinned, as long as `lb` runs: the kernel empties it otherwise.
pub fn load_stages(ebpf: &mut Ebpf, others: &[&str]) -> Result<ProgramArray<MapData>> {
    let names: Vec<&str> =
        STAGES.iter().map(|(name, _)| name).chain(["lb"].iter()).chain(others).copied().collect();
    load(ebpf, &names)?;
    let map = ebpf.take_map("stages").context("the program has no map stages")?;
    let mut stages = ProgramArray::try_from(map)?;
    for (name, stage) in STAGES {
        let program: &Xdp = ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?;
        stages.set(stage as u32, program.fd()?, 0).with_context(|| format!("making {name} a stage of lb"))?;
    }
    Ok(stages)
}

/// Programs loaded at a time, at the most: the verifier takes memory for each, 40 MB for some, and with so many the longest
/// one decides.
const AT_A_TIME: usize = 4;

/// Loads the programs with these names, several at a time where there are processors: the kernel's verifier takes a second
/// for some, and follows each in the thread that asks.
pub fn load(ebpf: &mut Ebpf, names: &[&str]) -> Result<()> {
    let mut programs: BTreeMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let wanted = names
        .iter()
        .map(|name| programs.remove_entry(name).with_context(|| format!("there is no program {name}")))
        .collect::<Result<Vec<_>>>()?;
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(AT_A_TIME).min(wanted.len());
    let waiting = Mutex::new(wanted.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        let work = || iter::from_fn(next).try_for_each(|(name, program)| load_one(name, program));
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn load_one(name: &str, program: &mut Program) -> Result<()> {
    let loaded = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        other => bail!("{name} is of a kind that is not used here: {:?}", other.prog_type()),
    };
    loaded.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
            anyhow!("the kernel refuses the program {name}: {io_error}\n  {last}")
        }
        other => Error::from(other).context(format!("loading the program {name}")),
    })
}
