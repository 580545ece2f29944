//! `MISC_CHECK`: a script's exit status.

use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::timeout;

use super::machine::Outcome;
use crate::agent::config::model::Misc;
use crate::agent::script;
use crate::agent::verdict::Weight;

/// From the request to end to the order.
const GRACE: Duration = Duration::from_secs(2);

/// The check.
pub struct Prober(Misc);

impl Prober {
    /// With this script.
    pub fn new(check: Misc) -> Self {
        Self(check)
    }

    /// One run.
    pub async fn attempt(&mut self) -> Outcome {
        let mut child = match script::command(&self.0.script).kill_on_drop(true).spawn() {
            Ok(child) => child,
            Err(error) => return Outcome::Local(format!("{}: {error}", self.0.script)),
        };
        match timeout(self.0.timeout, child.wait()).await {
            Ok(Ok(status)) => match status.code() {
                Some(code) => judge(code, self.0.dynamic),
                None => Outcome::Fail(status.to_string()),
            },
            Ok(Err(error)) => Outcome::Local(error.to_string()),
            Err(_) => {
                stop(&mut child).await;
                Outcome::Fail(format!("timed out after {} s", self.0.timeout.as_secs_f32()))
            }
        }
    }
}

/// Asks the script and all it started to end, and makes them.
async fn stop(child: &mut Child) {
    let Some(group) = child.id().map(|id| Pid::from_raw(id.cast_signed())) else { return };
    let _ = killpg(group, Signal::SIGTERM);
    if timeout(GRACE, child.wait()).await.is_err() {
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait().await;
    }
}

fn judge(code: i32, dynamic: bool) -> Outcome {
    match code {
        0 => Outcome::Pass(Weight::Configured),
        2..=255 if dynamic => Outcome::Pass(Weight::Instead((code - 2).unsigned_abs())),
        code => Outcome::Fail(format!("exited with status {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::config::model::Script;

    #[test]
    fn statuses() {
        assert_eq!(judge(0, true), Outcome::Pass(Weight::Configured));
        assert_eq!(judge(12, true), Outcome::Pass(Weight::Instead(10)));
        assert!(matches!(judge(1, true), Outcome::Fail(_)));
        assert!(matches!(judge(12, false), Outcome::Fail(_)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn scripts_run_and_are_stopped() {
        let prober = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            let script = Script { words, user: None, no_new_privs: false };
            Prober::new(Misc { script, timeout: Duration::from_millis(300), dynamic: false })
        };
        assert_eq!(prober(&["/bin/true"]).attempt().await, Outcome::Pass(Weight::Configured));
        assert_eq!(prober(&["/bin/false"]).attempt().await, Outcome::Fail("exited with status 1".to_owned()));
        assert!(matches!(prober(&["/no/such"]).attempt().await, Outcome::Local(_)));
        let started = std::time::Instant::now();
        assert!(matches!(prober(&["/bin/sleep", "30"]).attempt().await, Outcome::Fail(_)));
        assert!(started.elapsed() < GRACE);
    }
}
