//! The tests of real traffic in namespaces, on the other kernel: with its veth, its routes, and real tunnel devices on the
//! real servers.
//!
//! Everybody runs the first lab of each method, fragments out of their order, the tunnels that only the guest's kernel has
//! devices for, and its SCTP: these are in this very program, which the guest runs as well. `LB_TESTS_FULL=1` adds the
//! suites of the net layer as a whole.

mod sctp;
mod tunnels;

use anyhow::{Context, Result, ensure};
use lb_tests::harness::{self, Case};
use lb_tests::need::Missing;
use lb_tests::vm::{self, Vm};
use lb_tests::{lab, pace};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// Says that this is the guest.
const GUEST: &str = "LB_TESTS_GUEST";

/// Where the guest has the product's examples.
const EXAMPLES: &str = "/examples";

/// An emulated processor is ten to twenty times as slow.
const SLOWNESS: u32 = 15;

const SAMPLE: [Case; 2] = [("sample", sample), ("no_suite_is_forgotten", no_suite_is_forgotten)];
const SUITES: [Case; 10] = [
    ("harness", || whole("net_harness")),
    ("labs", || whole("net_labs")),
    ("lifecycle", || whole("net_lifecycle")),
    ("services", || whole("net_services")),
    ("refusals", || whole("net_refusals")),
    ("agent", || whole("net_agent")),
    ("upkeep", || whole("net_upkeep")),
    ("failover", || whole("net_failover")),
    ("checks", || whole("net_checks")),
    ("sync", || whole("net_sync")),
];

fn main() -> ExitCode {
    let said = |variable| env::var_os(variable).is_some_and(|value| value == "1");
    match (said(GUEST), said("LB_TESTS_FULL")) {
        (true, _) => harness::run(&[&tunnels::CASES[..], &sctp::CASES].concat()),
        (false, false) => harness::run(&SAMPLE),
        (false, true) => harness::run(&[&SAMPLE[..], &SUITES].concat()),
    }
}

fn sample() -> Result<()> {
    in_guest(
        &[("net_labs", "first_lab"), ("net_services", "fragments_wait"), ("vm_net", "")],
        Duration::from_secs(900),
    )
}

/// A suite that is new in the net layer comes here too.
fn no_suite_is_forgotten() -> Result<()> {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"))? {
        let name = entry?.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        if let Some(suite) = name.strip_prefix("net_") {
            ensure!(SUITES.iter().any(|(known, _)| *known == suite), "{name} does not run here");
        }
    }
    Ok(())
}

fn whole(suite: &str) -> Result<()> {
    in_guest(&[(suite, "")], Duration::from_secs(3600))
}

/// Runs suites in one boot, of each the tests whose name contains the second word.
fn in_guest(suites: &[(&str, &str)], limit: Duration) -> Result<()> {
    let vm = Vm::new()?;
    let program = vm::stripped(&lab::program()?)?;
    let programs =
        suites.iter().map(|(suite, _)| Ok((format!("suites/{suite}"), vm::stripped(&newest(suite)?)?)));
    let programs = programs.collect::<Result<Vec<_>>>()?;
    let mut files: Vec<vm::FileIn<'_>> = vec![("usr/bin/lb-user", &program)];
    files.extend(programs.iter().map(|(there, here)| (there.as_str(), here.as_path())));
    let examples = lab::examples()?.into_iter().map(|file| (format!("{EXAMPLES}/{}", name(&file)), file));
    let examples: Vec<(String, PathBuf)> = examples.collect();
    files.extend(examples.iter().map(|(there, here)| (there.as_str(), here.as_path())));
    let outcome = vm.run(&script(suites), &files, limit)?;
    ensure!(outcome.status == 0, "on {}:\n{}", vm.kernel(), outcome.stdout);
    let results: Vec<&str> =
        outcome.stdout.lines().filter(|line| line.starts_with("test result: ok")).collect();
    let ran = results.len() == suites.len() && !results.iter().any(|result| result.contains("ok. 0 passed"));
    ensure!(ran, "a suite without tests:\n{}", outcome.stdout);
    results.iter().for_each(|result| println!("{result}"));
    Ok(())
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// In every namespace the kernel makes its tunnel devices by itself, as it does on a machine in a lab.
fn script(suites: &[(&str, &str)]) -> String {
    let mut script = format!(
        "export CI=true {GUEST}=1 LB_USER_BIN=/usr/bin/lb-user {}={SLOWNESS} {}={EXAMPLES}
         echo 0 > /proc/sys/net/core/fb_tunnels_only_for_init_net\n",
        pace::VARIABLE,
        lab::EXAMPLES
    );
    for (suite, part) in suites {
        // Whoever waits can read on the console how far it is.
        _ = writeln!(
            script,
            "(/suites/{suite} --test-threads 2 {part} 2>&1 || touch /failed) | tee /dev/console"
        );
    }
    script + "[ ! -e /failed ]\n"
}

/// The suite's program, which cargo has put beside this one; the newest, for it never removes old ones.
fn newest(suite: &str) -> Result<PathBuf> {
    let here = env::current_exe()?;
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(here.parent().context("this program is in a folder")?)? {
        let path = entry?.path();
        let name = name(&path);
        let hash = name.strip_prefix(suite).and_then(|rest| rest.strip_prefix('-'));
        if hash.is_some_and(|hash| !hash.contains('.')) {
            found.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    let newest = found.into_iter().max();
    let missing =
        || Missing::new(format!("the tests {suite}: cargo test --no-run -p lb-tests --test {suite}"));
    Ok(newest.ok_or_else(missing)?.1)
}
