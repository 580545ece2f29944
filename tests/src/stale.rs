//! Names that tell who made a thing, and the removal of what killed runs left behind.
//!
//! Namespaces and temporary directories are called `lbt-PID-…`. When the process of that number is gone, nobody will
//! take them down any more.

use crate::{lab, run};
use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Command};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
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

/// Says that Ctrl-C has come: with which signal.
const INTERRUPTED: &str = "LB_TESTS_INTERRUPTED";

/// From here on Ctrl-C ends this process, and takes what it has made along: for work that nobody can stop half way. The
/// process becomes its program anew, so that none of its threads goes on making things meanwhile.
pub fn go_with_ctrl_c() -> Result<()> {
    if let Some(signal) = env::var(INTERRUPTED).ok().and_then(|signal| signal.parse::<i32>().ok()) {
        take_down_own();
        process::exit(128 + signal);
    }
    let program = env::current_exe()?;
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let error = Command::new(program)
                .args(env::args_os().skip(1))
                .env(INTERRUPTED, signal.to_string())
                .exec();
            eprintln!("what was made is left to the next run: {error}");
            process::exit(128 + signal);
        }
    });
    Ok(())
}

fn take_down_own() {
    let own = |name: &str| name.starts_with(&own_prefix());
    let program = lab::program();
    for name in named_in(Path::new("/run/netns"), own) {
        if let Ok(program) = &program {
            let purge = ["netns", "exec", &name, &program.to_string_lossy(), "detach", "--purge"];
            drop(run::run(Command::new("ip").args(purge)));
        }
        remove_netns(&name);
    }
    for name in named_in(&env::temp_dir(), own) {
        drop(fs::remove_dir_all(env::temp_dir().join(name)));
    }
}

fn stale_in(directory: &Path) -> Vec<String> {
    named_in(directory, maker_is_gone)
}

fn named_in(directory: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| wanted(name)).collect()
}

fn maker_is_gone(name: &str) -> bool {
    let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    let maker = maker.and_then(|pid| pid.parse::<u32>().ok());
    // One that has ended and that nobody has asked about has no program any more.
    let program = |pid: u32| fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe"));
    maker.is_some_and(|pid| program(pid).is_err_and(|error| error.kind() == ErrorKind::NotFound))
}

/// The servers in it are its maker's as well.
fn remove_netns(name: &str) {
    let listed = run::run(Command::new("ip").args(["netns", "pids", name]));
    let pids = listed.map(|said| said.stdout).unwrap_or_default();
    let own = process::id().cast_signed();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != own) {
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

    #[test]
    fn who_has_ended_is_gone() {
        let mut ended = Command::new("true").spawn().unwrap();
        let name = format!("lbt-{}-0-client", ended.id());
        // Not waited for: its number is still taken.
        let gone =
            run::until(std::time::Duration::from_secs(10), "its end", || maker_is_gone(&name).then_some(()));
        ended.wait().unwrap();
        gone.unwrap();
    }
}
