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
    if script.no_new_privs {
        confine(&mut command);
    }
    command
}

/// Neither set-user-ID programs nor file capabilities will give it or what it starts any right.
#[expect(
    unsafe_code,
    reason = "std has no word for it, and asks for care in what runs between fork and exec"
)]
fn confine(command: &mut Command) {
    // SAFETY: one system call without memory; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(|| Ok(rustix::thread::set_no_new_privs(true)?)) };
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
