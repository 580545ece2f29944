//! Instances of network namespaces that are gone. Their pins would keep tables and sweep alive until the machine
//! restarts; `attach` clears them away.
//!
//! One goes only if it had been attached, every NIC it was attached to is gone, and no process and no name in
//! `/run/netns` has a namespace of its number any more: rules are never lost to a NIC that was merely replaced.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::attach::{LINK, REALSERVER, links};
use super::lock::{self, Hold};
use super::{create, syscall};

/// Clears the dead among the instances beside `own`. What does not work is left for another time.
pub fn reap(own: &Path) {
    let Some(entries) = own.parent().and_then(|all| fs::read_dir(all).ok()) else { return };
    let dead: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| dir != own && all_gone(dir))
        .collect();
    if dead.is_empty() {
        return;
    }
    let Some(alive) = alive() else { return };
    for dir in dead {
        let cookie = dir.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
        if cookie.is_some_and(|cookie| !alive.contains(&cookie)) {
            clear(&dir);
        }
    }
}

/// Was it attached, and to nothing that still exists?
fn all_gone(dir: &Path) -> bool {
    let (Ok(links), Ok(more)) = (links(dir, LINK), links(dir, REALSERVER)) else { return false };
    let gone = |link: &OwnedFd| syscall::xdp_link(link.as_fd()).is_ok_and(|(_, nic)| nic == 0);
    (links.len() + more.len() > 0) && links.values().chain(more.values()).all(gone)
}

fn clear(dir: &Path) {
    let Ok(Some(_lock)) = lock::take(dir, Hold::Alone) else { return };
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.for_each(|file| drop(create::remove(&file.path())));
    let _ = fs::remove_dir(dir);
}

/// The numbers of all network namespaces that a process is in or that have a name. A thread of its own looks, because
/// it has to enter them.
fn alive() -> Option<BTreeSet<u64>> {
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path().join("ns/net"));
    let mut seen = HashSet::new();
    let files: Vec<File> = named
        .chain(processes)
        .filter_map(|path| File::open(path).ok())
        .filter(|file| file.metadata().is_ok_and(|data| seen.insert((data.dev(), data.ino()))))
        .collect();
    thread::spawn(move || {
        let enter = |file: &File| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
            syscall::netns_cookie().ok()
        };
        files.iter().map(enter).collect::<Option<BTreeSet<u64>>>()
    })
    .join()
    .ok()
    .flatten()
}
