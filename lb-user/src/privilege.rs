//! May this process work on the balancer? And what of it does the agent keep?

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What the agent needs while it runs, and for what. Whoever has it do more adds a line here, and the same in
/// `dist/lb-user-agent.service`.
pub const AGENT: [(CapabilitySet, &str); 8] = [
    (CapabilitySet::BPF, "opening and changing the tables"),
    (CapabilitySet::PERFMON, "tables it makes are as fast as attach's: else the kernel masks every access"),
    (
        CapabilitySet::NET_ADMIN,
        "neighbours, the packet path's clock, the group of PING_CHECK's sockets, fwmark",
    ),
    (CapabilitySet::NET_RAW, "bind_if; ping in scripts, which has it as a file capability"),
    (CapabilitySet::NET_BIND_SERVICE, "bind_port below 1024"),
    (CapabilitySet::SETUID, "scripts run as another user"),
    (CapabilitySet::SETGID, "and in that user's group alone"),
    (CapabilitySet::KILL, "ending such scripts when their time is over"),
];

/// Root, with what root normally has: a container may have kept it from us.
pub fn have() -> bool {
    is_root() && (may(CapabilitySet::SYS_ADMIN) || may(CapabilitySet::BPF)) && may(CapabilitySet::NET_ADMIN)
}

/// Why not, for people.
pub fn lack() -> String {
    if is_root() {
        "Permission denied (root lacks the capabilities NET_ADMIN and BPF here)".to_owned()
    } else {
        "Permission denied (you must be root)".to_owned()
    }
}

fn may(what: CapabilitySet) -> bool {
    // Where they cannot be asked for, the kernel will say what is wrong.
    capabilities(None).map_or(true, |sets| sets.effective.contains(what))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives up everything that is not in [`AGENT`], for good: in all five sets of this thread, hence of the threads and
/// programs started after it. Threads that run already keep theirs.
pub fn keep_the_agents() -> Result<()> {
    let kept = kept(capabilities(None).context("asking for this process's capabilities")?.permitted);
    // This takes SETPCAP, which goes with the rest.
    for capability in bounding()?.into_iter().filter(|one| !kept.contains(*one)) {
        remove_capability_from_bounding_set(capability).with_context(|| refused(capability))?;
    }
    clear_ambient_capability_set().context("giving up ambient capabilities")?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("giving up capabilities")
}

fn refused(capability: CapabilitySet) -> String {
    let name = capability.iter_names().next().map_or("that is new", |(name, _)| name);
    format!("giving up the capability {name}, which takes SETPCAP (or start the agent without {name})")
}

/// Of what there is. A kernel or a container without BPF has it as part of SYS_ADMIN.
fn kept(permitted: CapabilitySet) -> CapabilitySet {
    let mut wanted = AGENT.iter().fold(CapabilitySet::empty(), |all, (one, _)| all | *one);
    if !permitted.contains(CapabilitySet::BPF) {
        wanted |= CapabilitySet::SYS_ADMIN;
    }
    wanted & permitted
}

/// What programs started from here could get at the most, one by one.
fn bounding() -> Result<Vec<CapabilitySet>> {
    let mut all = Vec::new();
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => all.push(capability),
            Ok(false) => {}
            // There are no more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error).context("asking for the bounding set"),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const UNIT: &str = include_str!("../../dist/lb-user-agent.service");

    #[test]
    fn nothing_else_is_kept() {
        let kept_of_all = kept(CapabilitySet::from_bits_retain(u64::MAX));
        assert_eq!(kept_of_all.bits(), 0xc0_0000_34e0);
        assert_eq!(kept(CapabilitySet::SYS_ADMIN | CapabilitySet::CHOWN), CapabilitySet::SYS_ADMIN);
        assert_eq!(kept(CapabilitySet::KILL | CapabilitySet::BPF), CapabilitySet::KILL | CapabilitySet::BPF);
    }

    #[test]
    fn systemd_grants_the_same() {
        let line = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        let granted: BTreeSet<String> = line.split(' ').map(str::to_owned).collect();
        let names = AGENT.iter().flat_map(|(one, _)| one.iter_names());
        assert_eq!(granted, names.map(|(name, _)| format!("CAP_{name}")).collect());
    }
}
