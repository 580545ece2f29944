//! Running what the configuration names, as the user it names.

use std::process::Stdio;

use tokio::process::Command;
use tracing::{info, warn};

use super::config::model::Script;

/// The command, in a process group of its own, with nothing on its standard input and output.
pub fn command(script: &Script) -> Command {
    let (program, arguments) =
        script.words.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let mut command = Command::new(program);
    command.args(arguments).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some((uid, gid)) = script.user.filter(|_| nix::unistd::geteuid().is_root()) {
        // With another user the supplementary groups go as well.
        command.uid(uid).gid(gid);
    }
    command
}

/// Starts it and does not wait; how it ended is said if it was not well.
pub fn start(script: Script) {
    let child = command(&script).spawn();
    tokio::spawn(async move {
        match child {
            Ok(mut child) => match child.wait().await {
                Ok(status) if status.success() => {}
                Ok(status) => info!("script `{script}` ended with {status}"),
                Err(error) => warn!("script `{script}`: {error}"),
            },
            Err(error) => warn!("script `{script}` cannot be started: {error}"),
        }
    });
}
