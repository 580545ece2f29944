//! The kernel's modules: which ones, and in which order. There is no `depmod` here: every module says itself what it
//! needs, in its `.modinfo` section.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What the guest loads, with all they need.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "veth",
    "bridge",
    "dummy",
    "macvlan",
    "tun",
    "ipip",
    "ip6_tunnel",
    "sit",
    "ip_gre",
    "ip6_gre",
    "fou",
    "fou6",
    "sctp",
    "nf_conntrack",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_lc",
    "ip_vs_wlc",
    "ip_vs_lblc",
    "ip_vs_lblcr",
    "ip_vs_dh",
    "ip_vs_sh",
    "ip_vs_sed",
    "ip_vs_nq",
    "ip_vs_fo",
    "ip_vs_ovf",
    "ip_vs_mh",
    "ip_vs_pe_sip",
    "ip_vs_ftp",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "cls_flower",
    "act_skbedit",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "udp_tunnel",
];

/// Files of the wanted modules and all they need, in the order to load them in.
pub fn in_order(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = BTreeMap::new();
    find(folder, &mut all)?;
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in WANTED {
        visit(name, &all, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn visit(
    name: &str,
    all: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    // One that is built in has no file.
    let Some(file) = all.get(name) else { return Ok(()) };
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    for needed in depends(&bytes) {
        visit(&needed, all, seen, order)?;
    }
    order.push(file.clone());
    Ok(())
}

/// The names after `depends=`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list).into_owned();
    list.split(',').filter(|name| !name.is_empty()).map(plain).collect()
}

fn find(folder: &Path, all: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, all)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            all.insert(plain(&path.file_stem().unwrap_or_default().to_string_lossy()), path);
        }
    }
    Ok(())
}

/// File names have either sign, needs only one.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_read_out_of_the_module() {
        assert_eq!(
            depends(b"license=GPL\0depends=nf-conntrack,libcrc32c\0x=1"),
            ["nf_conntrack", "libcrc32c"]
        );
        assert!(depends(b"license=GPL\0depends=\0x=1").is_empty());
        assert!(depends(b"").is_empty());
    }
}
