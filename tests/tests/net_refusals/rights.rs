//! Without the right to.

use super::desk::Desk;
use anyhow::{Result, ensure};
use lb_tests::need;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

/// ipvsadm's two lines.
const IPVSADM: &str = "\
Can't initialize ipvs: Permission denied (you must be root)
Are you sure that IP Virtual Server is built in the kernel or as module?
";

/// Refused with ipvsadm's lines and status 2, whatever their words: it never looks at them.
const COMMANDS: [&str; 12] = [
    "ipvsadm",
    "ipvsadm -Ln",
    "ipvsadm -A -t 10.0.0.2:80",
    "ipvsadm -C",
    "ipvsadm -Z",
    "ipvsadm -h",
    "ipvsadm --no-such-word",
    "ipvsadm-save -n",
    "ipvsadm-restore",
    "lb-user ipvsadm -Ln",
    "lb-user -Ln",
    "lb-user -D -t 10.0.0.1:80",
];

const VERBS: [&str; 8] = [
    "lb-user attach v0",
    "lb-user attach nope",
    "lb-user detach",
    "lb-user detach --purge",
    "lb-user status",
    "lb-user status --json",
    "lb-user realserver v0",
    "lb-user realserver --detach",
];

/// What everybody may.
const FREE: [&str; 5] = ["lb-user", "lb-user help", "lb-user -h", "lb-user -v", "lb-user attach --help"];

pub fn not_root() -> Result<()> {
    refused("setpriv --reuid 65534 --regid 65534 --clear-groups", "Permission denied (you must be root)\n")
}

/// As in a container.
pub fn no_capabilities() -> Result<()> {
    let line = "Permission denied (root lacks the capabilities NET_ADMIN and BPF here)\n";
    refused("setpriv --bounding-set -all --inh-caps -all", line)
}

fn refused(without: &str, verb: &str) -> Result<()> {
    need::network()?;
    need::program("setpriv")?;
    let desk = Desk::with_rules()?;
    std::fs::set_permissions(desk.programs(), Permissions::from_mode(0o755))?;
    let before = (desk.rules()?, desk.pinned()?);
    for line in COMMANDS {
        desk.refuses(&format!("{without} {line}"), 2, IPVSADM)?;
    }
    for line in VERBS {
        desk.refuses(&format!("{without} {line}"), 1, verb)?;
    }
    for line in FREE {
        desk.ok(&format!("{without} {line}"))?;
    }
    ensure!((desk.rules()?, desk.pinned()?) == before && !desk.has_program("v0")?);
    Ok(())
}
