//! `cargo xtask test`: every layer of tests, each with its time, and nothing skipped in silence.
//!
//! The integration tests of `lb-tests` belong to a layer by their name: `net_*` runs real traffic through
//! network namespaces, `vm_*` needs a virtual machine, all others load the program and give it packets.

use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::{build, command, lint, setup};

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Only these layers (default: all)
    layers: Vec<Layer>,
    /// The slow tests too: the oracle's sweep and the whole net layer in the virtual machine
    #[arg(long)]
    full: bool,
    /// Only tests whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only the test whose whole name that is
    #[arg(long, requires = "only")]
    exact: bool,
}

/// A group of tests with the same needs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// Formatting and clippy
    Lint,
    /// Tests of the crates on the host
    Unit,
    /// The loaded program, packet by packet (root)
    Bpf,
    /// Real traffic in network namespaces (root)
    Net,
    /// A virtual machine with another kernel, and kernel IPVS in it to compare with
    Vm,
}

enum Outcome {
    Passed,
    Failed(anyhow::Error),
    Lacks(String),
}

/// Set-up, build, then the layers. A layer that fails does not stop the next one.
pub fn run(options: &Options) -> Result<()> {
    setup::run()?;
    let lb_user = build::lb_user(&build::Options::default())?;
    let only = options.only.iter().cloned().chain(options.exact.then(|| "--exact".to_owned())).collect();
    let test = Test { lb_user, only, full: options.full };
    let mut results = Vec::new();
    for layer in chosen(options) {
        eprintln!("\n== {}", layer.name());
        let start = Instant::now();
        let outcome = test.layer(layer);
        if let Outcome::Failed(error) = &outcome {
            eprintln!("error: {error:#}");
        }
        results.push((layer, outcome, start.elapsed()));
    }
    summary(&results)
}

fn chosen(options: &Options) -> Vec<Layer> {
    let all = [Layer::Lint, Layer::Unit, Layer::Bpf, Layer::Net, Layer::Vm];
    let wanted = |layer: &Layer| match options.layers.as_slice() {
        [] => true,
        named => named.contains(layer),
    };
    all.into_iter().filter(wanted).collect()
}

struct Test {
    lb_user: PathBuf,
    /// Words for the harnesses: which tests.
    only: Vec<String>,
    full: bool,
}

impl Test {
    fn layer(&self, layer: Layer) -> Outcome {
        let done = match layer {
            Layer::Lint => lint::check(),
            Layer::Unit => self.unit(),
            Layer::Vm => self.vm(),
            Layer::Bpf | Layer::Net => match lacks(layer) {
                Ok(Some(what)) => return Outcome::Lacks(what),
                Ok(None) => self.integration(layer),
                Err(error) => Err(error),
            },
        };
        done.map_or_else(Outcome::Failed, |()| Outcome::Passed)
    }

    fn unit(&self) -> Result<()> {
        self.cargo_test(&["--workspace", "--exclude", "lb-ebpf", "--exclude", "lb-tests"], &[])?;
        self.cargo_test(&["--package", "lb-tests", "--lib"], &[])?;
        self.cargo_test(&["--package", "lb-common", "--features", "shuttle", "--test", "interleavings"], &[])
    }

    fn integration(&self, layer: Layer) -> Result<()> {
        let names = names(layer)?;
        let named = names.iter().flat_map(|name| ["--test", name]);
        let what: Vec<&str> = ["--package", "lb-tests"].into_iter().chain(named).collect();
        // A virtual machine takes all processors for itself.
        let threads = if layer == Layer::Vm { "1".to_owned() } else { threads() };
        self.cargo_test(&what, &["--test-threads", &threads])
    }

    /// What is emulated should not be slow as well: the guest gets the optimised program. The net layer's tests go with
    /// it: of the labs one for each method, with `--full` all.
    fn vm(&self) -> Result<()> {
        let lb_user = build::lb_user(&build::Options { release: true })?;
        let suites = if self.full { names(Layer::Net)? } else { vec![LABS.to_owned()] };
        let suites = suites.iter().flat_map(|name| ["--test", name]);
        command::run(command::cargo(["test", "--no-run", "--package", "lb-tests"]).args(suites))?;
        Self { lb_user, only: self.only.clone(), full: self.full }.integration(Layer::Vm)
    }

    fn cargo_test(&self, what: &[&str], how: &[&str]) -> Result<()> {
        let mut cargo = command::cargo(["test", "--no-fail-fast"]);
        cargo.args(what).arg("--").args(how).args(&self.only).env("LB_USER_BIN", &self.lb_user);
        if self.full {
            cargo.env("LB_TESTS_FULL", "1");
        }
        command::run(&mut cargo)
    }
}

/// The net suite of which the virtual machine always runs a part.
const LABS: &str = "net_labs";

/// As an argument, for not every harness reads `RUST_TEST_THREADS`. Each of these tests starts a dozen processes and
/// some check timings: too many at once only disturb each other.
fn threads() -> String {
    let cores = || thread::available_parallelism().map_or(1, |cores| cores.get().min(4)).to_string();
    env::var("RUST_TEST_THREADS").unwrap_or_else(|_| cores())
}

/// What this machine lacks to run the layer, if anything.
fn lacks(layer: Layer) -> Result<Option<String>> {
    if names(layer)?.is_empty() {
        return Ok(Some("tests: there are none in tests/tests yet".to_owned()));
    }
    let root = rustix::process::geteuid().is_root();
    Ok((!root).then(|| format!("root: run `cargo xtask test {}` as root", layer.name())))
}

/// The tests of a layer by name: `tests/NAME.rs`, or `tests/NAME/main.rs`.
fn names(layer: Layer) -> Result<Vec<String>> {
    let folder = command::root().join("tests/tests");
    let entries = fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_test =
            path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        names.extend((is_test && layer_of(&name) == layer).then_some(name));
    }
    names.sort();
    Ok(names)
}

fn layer_of(test: &str) -> Layer {
    match test.split_once('_') {
        Some(("net", _)) => Layer::Net,
        Some(("vm", _)) => Layer::Vm,
        _ => Layer::Bpf,
    }
}

fn summary(results: &[(Layer, Outcome, Duration)]) -> Result<()> {
    let strict = env::var_os("CI").is_some_and(|ci| ci == "true");
    let mut bad = 0;
    println!("\nlayer   time     result");
    for (layer, outcome, took) in results {
        let text = match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed(error) => format!("FAILED: {error:#}"),
            Outcome::Lacks(what) => format!("SKIPPED, lacks {what}"),
        };
        bad += match outcome {
            Outcome::Passed => 0,
            Outcome::Failed(_) => 1,
            Outcome::Lacks(_) => i32::from(strict),
        };
        println!("{:<6} {:>6.1} s   {text}", layer.name(), took.as_secs_f32());
    }
    ensure!(
        bad == 0,
        "{bad} of {} layers failed{}",
        results.len(),
        if strict { " (with CI=true a skip is a failure)" } else { "" }
    );
    Ok(())
}

impl Layer {
    fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Bpf => "bpf",
            Self::Net => "net",
            Self::Vm => "vm",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_belongs_to_the_layer_its_name_says() {
        assert!(layer_of("net_labs") == Layer::Net);
        assert!(layer_of("vm_ipvs") == Layer::Vm);
        assert!(layer_of("forward_nat") == Layer::Bpf);
        assert!(layer_of("network") == Layer::Bpf);
    }
}
