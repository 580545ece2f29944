//! The agent's unit as it is shipped, under a systemd that is the first process of the virtual machine: started, reloaded,
//! restarted, killed and stopped while connections go through the balancer.
//!
//! The guest runs this very program as well: what happens there is in [`unit`].

mod unit;

use anyhow::{Result, ensure};
use lb_tests::vm::systemd::Systemd;
use lb_tests::vm::{self, Vm};
use lb_tests::{harness, lab, pace};
use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Says that this is the guest.
const GUEST: &str = "LB_TESTS_GUEST";

/// Where the unit says that the program is.
const PROGRAM: &str = "/usr/local/sbin/lb-user";

/// Set for the slow part too: half a minute until the watchdog finds an agent that hangs.
const FULL: &str = "LB_TESTS_FULL";

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value == "1")
}

fn main() -> ExitCode {
    match is_set(GUEST) {
        true => harness::run(&unit::CASES),
        false => harness::run(&[("no_connection_is_lost", no_connection_is_lost)]),
    }
}

fn no_connection_is_lost() -> Result<()> {
    let vm = Vm::new()?;
    let systemd = Systemd::here()?;
    let program = vm::stripped(&lab::program()?)?;
    let this = vm::stripped(&env::current_exe()?)?;
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/lb-user-agent.service");
    let mut files: Vec<vm::FileIn<'_>> = vec![
        (PROGRAM, &program),
        ("usr/bin/vm_systemd", &this),
        ("etc/systemd/system/lb-user-agent.service", &unit),
    ];
    files.extend(systemd.files());
    let script = format!(
        "export CI=true {GUEST}=1 LB_USER_BIN={PROGRAM} {}=8 {FULL}={}
exec vm_systemd --nocapture",
        pace::VARIABLE,
        u8::from(is_set(FULL))
    );
    let outcome = vm.run(&script, &files, Duration::from_secs(400))?;
    ensure!(
        outcome.status == 0,
        "on {}:\n{}{}\n{}",
        vm.kernel(),
        outcome.stdout,
        outcome.stderr,
        outcome.console
    );
    println!("{}", outcome.stdout);
    Ok(())
}
