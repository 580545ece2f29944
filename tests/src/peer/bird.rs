//! BIRD in a namespace: a routing daemon that tells its neighbours what its machine has.

use super::Daemon;
use crate::net::Netns;
use anyhow::Result;
use std::fs;

/// Starts it with this configuration, in the foreground.
pub fn start(host: &Netns, config: &str) -> Result<Daemon> {
    Daemon::start(host, "bird", |command, directory| {
        let file = directory.join("bird.conf");
        fs::write(&file, config)?;
        command.arg("-f").arg("-c").arg(file).arg("-s").arg(directory.join("ctl"));
        command.arg("-P").arg(directory.join("pid"));
        Ok(())
    })
}
