//! `cargo xtask bench`: what the balancer costs.
//!
//! Like the demo, the measuring is done by a program of `lb-tests` (`lb-bench`), started from here once set-up is done.

use std::path::{self, Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{build, command, setup};

/// What to measure.
#[derive(clap::Subcommand)]
pub enum What {
    /// Nanoseconds of a packet in the loaded program, above a program that does nothing but send (root)
    Packet {
        #[command(flatten)]
        options: Options,
        /// The object of another build (its target/bpf/bpfel-unknown-none/release/lb-ebpf) of the same map layout, to be
        /// compared with in the same rounds
        #[arg(long, value_name = "FILE")]
        beside: Option<PathBuf>,
    },
    /// Processor time of the agent while it checks a thousand servers every second (root)
    Agent(Options),
    /// Frames a second through cards in namespaces, and HTTP pages a second through each method (root)
    Wire(Options),
    /// Packets, commands, the sweep and memory as connections, dests and services grow (root)
    Scale(Options),
    /// Floods of ten times the table's size beside 20,000 connections (root)
    Flood(Options),
    /// Instructions of a packet, ours and kernel IPVS's side by side, counted in a virtual machine
    Ipvs(Options),
}

/// How to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Few rounds: a first look
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this
    #[arg(long, value_name = "FILTER")]
    case: Option<String>,
}

/// Where results go, in the workspace's folder.
const RESULTS: &str = "target/bench";

/// Set-up, build, measure.
pub fn run(what: &What) -> Result<()> {
    let (mut bench, options) = match what {
        What::Packet { options, beside } => (packet(beside.as_ref())?, options),
        What::Agent(options) => (shipped("agent")?, options),
        What::Wire(options) => (wire()?, options),
        What::Scale(options) => (shipped("scale")?, options),
        What::Flood(options) => (loaded("flood")?, options),
        What::Ipvs(options) => (ipvs()?, options),
    };
    bench.current_dir(command::root()).args(["--out", RESULTS]);
    bench.args(options.quick.then_some("--quick"));
    bench.args(options.case.iter().flat_map(|filter| ["--case", filter]));
    // Ctrl-C goes to the whole foreground group: the benchmark takes its namespaces down, and we wait for it.
    command::run_to_its_end(&mut bench)
}

fn packet(beside: Option<&PathBuf>) -> Result<Command> {
    // It is started in another folder.
    let beside = beside.map(path::absolute).transpose().context("the object of the other build")?;
    if let Some(object) = &beside {
        ensure!(object.is_file(), "{}: no such file", object.display());
    }
    let mut bench = loaded("packet")?;
    bench.args(beside.iter().flat_map(|object| [Path::new("--beside"), object]));
    Ok(bench)
}

fn loaded(verb: &str) -> Result<Command> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the benchmark loads programs for the kernel: run it as root"
    );
    setup::toolchain()?;
    bench(verb)
}

/// The product itself, optimised as it is shipped.
fn shipped(verb: &str) -> Result<Command> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark makes namespaces: run it as root");
    setup::toolchain()?;
    let program = build::lb_user(&build::Options { release: true })?;
    let mut bench = bench(verb)?;
    bench.env("LB_USER_BIN", program);
    Ok(bench)
}

fn wire() -> Result<Command> {
    setup::bench()?;
    shipped("wire")
}

/// No need of root: the virtual machine has its own.
fn ipvs() -> Result<Command> {
    setup::run()?;
    let guest = build::test_program("lb-guest")?;
    let mut bench = bench("ipvs")?;
    bench.arg("--guest").arg(guest);
    Ok(bench)
}

fn bench(verb: &str) -> Result<Command> {
    let mut bench = Command::new(build::test_program("lb-bench")?);
    bench.arg(verb);
    Ok(bench)
}
