//! The tests of real traffic in namespaces, on the other kernel: with its veth, its routes, and real tunnel devices on the
//! real servers.

use anyhow::{Context, Result, ensure};
use lb_tests::lab;
use lb_tests::need::Missing;
use lb_tests::vm::{self, Vm};
use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

lb_tests::tests! { labs, lifecycle }

fn labs() -> Result<()> {
    all_of("net_labs")
}

fn lifecycle() -> Result<()> {
    all_of("net_lifecycle")
}

fn all_of(suite: &str) -> Result<()> {
    let vm = Vm::new()?;
    let (tests, program) = (vm::stripped(&newest(suite)?)?, vm::stripped(&lab::program()?)?);
    let script = "CI=true LB_USER_BIN=/usr/bin/lb-user exec /tests --test-threads 2 2>&1";
    let files = [("tests", tests.as_path()), ("usr/bin/lb-user", program.as_path())];
    let outcome = vm.run(script, &files, Duration::from_secs(900))?;
    ensure!(outcome.status == 0, "on {}:\n{}", vm.kernel(), outcome.stdout);
    println!("{}", outcome.stdout.lines().last().unwrap_or_default());
    Ok(())
}

/// The suite's program, which cargo has put beside this one; the newest, for it never removes old ones.
fn newest(suite: &str) -> Result<PathBuf> {
    let here = env::current_exe()?;
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(here.parent().context("this program is in a folder")?)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
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
