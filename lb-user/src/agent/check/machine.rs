//! When a check's result changes a server's state, and when the next attempt is due.

use std::time::Duration;

use crate::agent::config::model::Pace;
use crate::agent::verdict::Weight;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Pass(Weight),
    /// Well so far: more has to pass before the server is up.
    Part,
    /// Not well: why.
    Fail(String),
    /// It could not be made, which says nothing about the server: why.
    Local(String),
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Until the next attempt.
    pub wait: Duration,
    /// The server's state is another now.
    pub changed: bool,
}

/// A check's state.
#[derive(Clone, Debug)]
pub struct Machine {
    pace: Pace,
    /// Does the server pass?
    pub up: bool,
    /// No verdict yet: the first failure counts at once.
    unproven: bool,
    /// Failures since it last passed.
    pub failures: u32,
}

impl Machine {
    /// Before its first attempt. `patient`: even the first verdict takes all attempts.
    pub fn new(pace: &Pace, up: bool, patient: bool) -> Self {
        Self { pace: pace.clone(), up, unproven: !patient, failures: 0 }
    }

    /// Takes in how an attempt ended.
    pub fn feed(&mut self, outcome: &Outcome) -> Step {
        let was_up = self.up;
        let mut wait = self.pace.delay_loop;
        match outcome {
            Outcome::Pass(_) => {
                (self.up, self.unproven, self.failures) = (true, false, 0);
            }
            Outcome::Part | Outcome::Local(_) => {}
            Outcome::Fail(_) if !self.up => self.unproven = false,
            Outcome::Fail(_) => {
                self.failures += 1;
                if self.unproven || self.failures > self.pace.retry {
                    (self.up, self.unproven) = (false, false);
                } else {
                    wait = self.pace.delay_before_retry;
                }
            }
        }
        Step { wait, changed: was_up != self.up }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASS: Outcome = Outcome::Pass(Weight::Configured);

    fn fail() -> Outcome {
        Outcome::Fail("no".to_owned())
    }

    fn pace(retry: u32) -> Pace {
        let seconds = Duration::from_secs;
        Pace {
            delay_loop: seconds(10),
            retry,
            delay_before_retry: seconds(3),
            warmup: seconds(0),
            alpha: false,
        }
    }

    /// For each attempt: seconds until the next, and `!` where the state changed.
    fn run(machine: &mut Machine, outcomes: &[Outcome]) -> String {
        let step = |outcome: &Outcome| {
            let step = machine.feed(outcome);
            format!("{}{}", step.wait.as_secs(), if step.changed { "!" } else { "" })
        };
        outcomes.iter().map(step).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_server_that_is_up_gets_more_attempts() {
        let mut machine = Machine::new(&pace(2), true, false);
        let outcomes = [PASS, fail(), fail(), PASS, fail(), fail(), fail(), fail(), PASS, fail()];
        assert_eq!(run(&mut machine, &outcomes), "10 3 3 10 3 3 10! 10 10! 3");
    }

    #[test]
    fn the_first_failure_of_all_counts_at_once() {
        assert_eq!(run(&mut Machine::new(&pace(2), true, false), &[fail(), fail(), PASS]), "10! 10 10!");
        assert_eq!(run(&mut Machine::new(&pace(1), true, true), &[fail(), fail()]), "3 10!");
        assert_eq!(run(&mut Machine::new(&pace(2), false, false), &[fail(), PASS, fail()]), "10 10! 3");
    }

    #[test]
    fn what_could_not_be_tried_says_nothing() {
        let local = Outcome::Local("no socket".to_owned());
        let mut machine = Machine::new(&pace(0), true, false);
        assert_eq!(
            run(&mut machine, &[local.clone(), PASS, local, fail(), Outcome::Part]),
            "10 10 10 10! 10"
        );
    }
}
