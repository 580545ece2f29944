//! keepalived's VRRP in a namespace: `keepalived -P`.

use super::Daemon;
use crate::net::Netns;
use anyhow::Result;
use std::fs;

/// Starts it with this configuration; `id` is what `@id` lines are compared with.
pub fn start(host: &Netns, config: &str, id: &str) -> Result<Daemon> {
    Daemon::start(host, "keepalived", |command, directory| {
        let file = directory.join("keepalived.conf");
        fs::write(&file, config)?;
        command.args(["--vrrp", "--dont-fork", "--log-console", "--log-detail", "--config-id", id]);
        command.arg("--use-file").arg(file);
        for (option, name) in [("--pid", "pid"), ("--vrrp_pid", "vrrp"), ("--checkers_pid", "checkers")] {
            command.arg(option).arg(directory.join(name));
        }
        Ok(())
    })
}
