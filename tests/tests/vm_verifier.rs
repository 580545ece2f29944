//! Debian's 6.1 kernel takes our programs.

use anyhow::{Result, ensure};
use lb_tests::vm::{self, Vm, stack};
use std::path::Path;
use std::time::Duration;

lb_tests::tests! { every_program_loads, the_deepest_chain_of_calls_fits, a_script_that_hangs_is_ended }

fn every_program_loads() -> Result<()> {
    let vm = Vm::new()?;
    let guest = vm::stripped(Path::new(env!("CARGO_BIN_EXE_lb-guest")))?;
    let script = "cat /out/.uptime >&2; exec lb-guest load";
    let outcome = vm.run(script, &[("usr/bin/lb-guest", &guest)], Duration::from_secs(180))?.ok()?;
    println!("verified on {}:\n{}", vm.kernel(), outcome.stdout);
    ensure!(outcome.stdout.lines().any(|line| line.starts_with("lb ")), "no program lb: {outcome:?}");
    Ok(())
}

fn the_deepest_chain_of_calls_fits() -> Result<()> {
    let chain = stack::deepest(lb_user::program::PROGRAM)?;
    println!("deepest chain: {} of {} bytes\n{:#?}", chain.total, stack::LIMIT, chain.functions);
    ensure!(chain.total > 0 && chain.functions.len() > 1, "no chain was found");
    ensure!(chain.total <= stack::LIMIT, "{chain:#?}");
    Ok(())
}

/// Nothing may hang for good, and what was said until then comes out.
fn a_script_that_hangs_is_ended() -> Result<()> {
    let vm = Vm::new()?;
    let outcome =
        vm.run("echo begun; mkdir -p /out/a; echo x > /out/a/b; sleep 1000", &[], Duration::from_secs(2))?;
    ensure!(outcome.status == 143 && outcome.stdout == "begun\n", "{outcome:?}");
    ensure!(outcome.files.get("a/b").is_some_and(|text| text == b"x\n"), "{outcome:?}");
    Ok(())
}
