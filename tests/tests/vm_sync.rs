//! Kernel IPVS tells us of its connections, and we tell it of ours: see `lb_tests::vm::oracle::sync`.

use anyhow::{Result, ensure};
use lb_tests::lab;
use lb_tests::vm::{self, Vm};
use std::path::Path;
use std::time::Duration;

lb_tests::tests! { connections_go_on_at_the_other }

fn connections_go_on_at_the_other() -> Result<()> {
    let vm = Vm::new()?;
    let guest = vm::stripped(Path::new(env!("CARGO_BIN_EXE_lb-guest")))?;
    let program = vm::stripped(&lab::program()?)?;
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/vm/oracle/cases/sync.txt");
    let script = "\
for name in ipvsadm ipvsadm-save ipvsadm-restore; do ln -s lb-user /ours/$name; done
exec lb-guest sync /cases";
    let files: [vm::FileIn<'_>; 3] =
        [("usr/bin/lb-guest", &guest), ("ours/lb-user", &program), ("cases", &cases)];
    let outcome = vm.run(script, &files, Duration::from_secs(600))?.ok()?;
    println!("{}", outcome.stdout);
    let passed = outcome.stdout.lines().filter(|line| line.ends_with(" ok")).count();
    ensure!(passed > 50, "only {passed} cases were played:\n{}", outcome.stdout);
    Ok(())
}
