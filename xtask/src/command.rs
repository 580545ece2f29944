//! Starting other programs.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail, ensure};

/// The workspace's folder.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The cargo that started us, in the workspace's folder.
pub fn cargo<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args(arguments);
    cargo
}

/// Show the command, run it with our own output, and demand success.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("+ {line}");
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(())
}

/// As [`run`], for a program of ours that handles Ctrl-C itself: this process ignores it meanwhile, and ends as the program
/// did, which has said why.
pub fn run_to_its_end(command: &mut Command) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted)?;
    let line = line(command);
    eprintln!("+ {line}");
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => process::exit(code),
        None => bail!("`{line}` failed: {status}"),
    }
}

/// What the command prints, or `None` when it cannot be started or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a program is. System programs are found for an ordinary user too, whose path may leave them out.
pub fn find(program: &str) -> Option<PathBuf> {
    let user = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(env::split_paths(&user).chain(["/usr/sbin".into(), "/sbin".into()])).ok()?;
    which::which_in(program, Some(path), root()).ok()
}

/// The command as a person would type it, with the program's folder left out.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
