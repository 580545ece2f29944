//! Instructions are counted in the virtual machine: the loop of known length counts as long as it is, kernel IPVS gets and
//! sends every packet, and one measurement is like the next. (Loading our program there takes longer than a test may: see
//! `cargo xtask bench ipvs`.)

use anyhow::{Result, ensure};
use lb_tests::vm::{self, Vm};
use std::path::Path;
use std::time::Duration;

lb_tests::tests! { kernel_ipvs_costs_the_same_twice }

fn kernel_ipvs_costs_the_same_twice() -> Result<()> {
    let vm = Vm::new()?.counting();
    let guest = vm::stripped(Path::new(env!("CARGO_BIN_EXE_lb-guest")))?;
    let files = [("usr/bin/lb-guest", &*guest)];
    let limit = Duration::from_secs(180);
    let said = vm.run("exec lb-guest kernel-ipvs 'v4 tcp nat-reply'", &files, limit)?.ok()?.stdout;
    println!("{said}");
    let costs: Vec<f64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [first, second] = costs[..] else { anyhow::bail!("two figures were wanted: {said}") };
    ensure!(first > 1000.0, "a packet cannot be that cheap: {first}");
    ensure!((first / second - 1.0).abs() < 0.02, "{first} and {second}");
    Ok(())
}
