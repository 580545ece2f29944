//! Names that tell who made a thing, and the removal of what killed runs left behind.
//!
//! Namespaces and temporary directories are called `lbt-PID-…`. When the process of that number is gone, nobody will
//! take them down any more.

use crate::run;
use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

const PREFIX: &str = "lbt-";

/// A name nobody else has; `role` is its readable end.
pub fn fresh_name(role: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}-{role}", own_prefix(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A temporary directory that goes when dropped, or with the next run.
pub fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix(&own_prefix()).tempdir()?)
}

fn own_prefix() -> String {
    format!("{PREFIX}{}-", process::id())
}

/// Removes what killed runs left, once in this process. Another process may be doing the same, so nothing in here
/// is an error.
pub fn sweep() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        stale_in(Path::new("/run/netns")).iter().for_each(|name| remove_netns(name));
        for name in stale_in(&env::temp_dir()) {
            drop(fs::remove_dir_all(env::temp_dir().join(name)));
        }
    });
}

fn stale_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| maker_is_gone(name)).collect()
}

fn maker_is_gone(name: &str) -> bool {
    let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    let maker = maker.and_then(|pid| pid.parse::<u32>().ok());
    maker.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The servers in it are the killed run's as well.
fn remove_netns(name: &str) {
    let listed = run::run(Command::new("ip").args(["netns", "pids", name]));
    let pids = listed.map(|said| said.stdout).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    drop(run::run(Command::new("ip").args(["netns", "del", name])));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_things_of_dead_makers_are_stale() {
        assert!(!maker_is_gone(&fresh_name("client")));
        assert!(maker_is_gone("lbt-4194305-0-client"));
        assert!(!maker_is_gone("somebody-elses"));
        assert!(!maker_is_gone("lbt-x-0-client"));
    }
}
