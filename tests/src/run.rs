//! Commands with a time limit.

use crate::pace;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Long enough for anything a test waits for on a busy machine with two processors. Like all limits given here, it is
/// stretched on a slow machine (see [`pace`]).
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a command said, and its exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The command, for messages.
    pub command: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit status, or 128 and the signal, as a shell gives it.
    pub status: i32,
}

impl Said {
    /// Standard output of a command that has to succeed.
    pub fn ok(self) -> Result<String> {
        if self.status != 0 {
            bail!("`{}` ended with status {}: {}{}", self.command, self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// Runs a command to its end, at most [`LIMIT`] long.
pub fn run(command: &mut Command) -> Result<Said> {
    run_with(command, b"", LIMIT)
}

/// Runs a command to its end with `input` on its standard input. Past `limit` it is killed with everything it started,
/// and that is an error.
pub fn run_with(command: &mut Command, input: &[u8], limit: Duration) -> Result<Said> {
    let shown = show(command);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        die_with_us(pipes.process_group(0)).spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let stdin = child.stdin.take().map(|pipe| feed(pipe, input.to_vec()));
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let limit = pace::limit(limit);
    let status = wait(&mut child, limit)?;
    let Some(status) = status else {
        bail!("`{shown}` did not end within {} s", limit.as_secs());
    };
    stdin.map(JoinHandle::join);
    Ok(Said { command: shown, stdout: text(stdout), stderr: text(stderr), status: code(status) })
}

/// Makes the kernel kill the child when the thread that starts it ends, so that a killed test leaves no server behind.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is async-signal-safe and touches nothing but the child's own attribute.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    }
}

/// Asks again every 20 ms until `ready` gives a value; an error after `limit`.
pub fn until<T>(limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let limit = pace::limit(limit);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", limit.as_secs_f32());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The status, or nothing when the child had to be killed.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(2));
    }
    killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL)?;
    child.wait()?;
    Ok(None)
}

fn feed(mut pipe: impl Write + Send + 'static, input: Vec<u8>) -> JoinHandle<()> {
    // A command that does not read all of its input is no error of ours.
    thread::spawn(move || drop(pipe.write_all(&input)))
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        bytes
    })
}

fn text(drained: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = drained.and_then(|thread| thread.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_kept_apart() -> Result<()> {
        let said = run_with(&mut sh("cat; echo wrong >&2; exit 3"), b"given", LIMIT)?;
        assert_eq!((said.stdout.as_str(), said.stderr.as_str(), said.status), ("given", "wrong\n", 3));
        assert!(said.ok().is_err());
        Ok(())
    }

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let started = Instant::now();
        assert!(run_with(&mut sh("sleep 30 & wait"), b"", Duration::from_millis(100)).is_err());
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
