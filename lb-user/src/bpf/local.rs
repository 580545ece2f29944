//! Clients on the balancer itself: hooks on the root of the cgroup hierarchy, for sockets of this network namespace.
//!
//! They are a courtesy beside the NICs: where the machine has no cgroup hierarchy of the second version, `attach` says
//! so and goes on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};

use super::{bpffs, create};

/// Links are pinned by this and the hook's name.
pub const PREFIX: &str = "local-";
/// What is not yet in its place.
const FRESH: &str = "new:";

/// The hooks: each a program `lb_NAME`.
const HOOKS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// The names of the hooks' programs.
pub fn programs() -> [String; HOOKS.len()] {
    HOOKS.map(name)
}

fn name(hook: &str) -> String {
    format!("lb_{hook}")
}

fn program<'a>(ebpf: &'a mut Ebpf, hook: &str) -> Result<&'a mut CgroupSockAddr> {
    let name = name(hook);
    Ok(ebpf.program_mut(&name).with_context(|| format!("there is no program {name}"))?.try_into()?)
}

/// Hooks in. An earlier program's hooks go once the new ones are there: a socket that meets both is translated once, for
/// the second no longer sees a service's address.
pub fn attach(dir: &Path, ebpf: &mut Ebpf) -> Result<()> {
    let root = cgroup().context("no cgroup hierarchy of version 2 is mounted")?;
    let cgroup = File::open(&root).with_context(|| format!("opening {}", root.display()))?;
    HOOKS.iter().try_for_each(|hook| {
        hook_in(dir, ebpf, hook, &cgroup).with_context(|| format!("hooking into {hook}"))
    })
}

fn hook_in(dir: &Path, ebpf: &mut Ebpf, hook: &str, cgroup: &File) -> Result<()> {
    let program = program(ebpf, hook)?;
    // Links to a cgroup always stand beside others; to say so is an error.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    let (fresh, place) = (dir.join(format!("{FRESH}{PREFIX}{hook}")), dir.join(format!("{PREFIX}{hook}")));
    create::remove(&fresh)?;
    link.pin(&fresh).with_context(|| format!("pinning {}", fresh.display()))?;
    fs::rename(&fresh, &place).with_context(|| format!("pinning {}", place.display()))
}

/// Takes the hooks off.
pub fn detach(dir: &Path) -> Result<()> {
    HOOKS.iter().try_for_each(|hook| create::remove(&dir.join(format!("{PREFIX}{hook}"))))
}

/// The root of the hierarchy, wherever it can be seen: `ip netns exec` hides it as it hides the BPF file system.
fn cgroup() -> Option<PathBuf> {
    const MAGIC: u32 = 0x6367_7270;
    let is_v2 = |dir: &Path| rustix::fs::statfs(dir).is_ok_and(|found| found.f_type as u32 == MAGIC);
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter().find_map(|usual| bpffs::visible(usual, is_v2))
}
