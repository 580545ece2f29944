//! May this process work on the balancer?

use rustix::thread::{CapabilitySet, capabilities};

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
